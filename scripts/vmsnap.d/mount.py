# SPDX-License-Identifier: LGPL-2.1-or-later
"""The mount and what stands in it: found, read, and written to, with the whole reason where something is refused."""

import contextlib
import errno
import json
import os
import re

import progress

TYPES = ("fuse.vmsnapfs", "vmsnapfs")
TEXT_MAX = 1 << 20
FINISHED = ("done", "failed")


class Refused(Exception):
    """Something can't be done; the text is for people, and says why."""


def unescape(field):
    """A path as /proc writes it: blanks and backslashes are octal there."""
    return re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), field)


def mounts():
    """Mount points of vmsnapfs, the oldest first."""
    found = []
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as table:
        for line in table:
            before, _, after = line.rstrip("\n").partition(" - ")
            if after.split(" ")[0] in TYPES:
                found.append(unescape(before.split(" ")[4]))
    return found


def find_mount(given):
    """The mount that is meant: `given`, or the only one there is."""
    there = mounts()
    if given is not None:
        wanted = os.path.realpath(given)
        if wanted not in there:
            raise Refused(f"{given} is not a mount of vmsnapfs" + (f"; these are: {', '.join(there)}" if there else ""))
        return Mount(wanted)
    if not there:
        raise Refused("nothing is mounted by vmsnapfs; mount it first: vmsnapfs SOURCE MOUNTPOINT")
    if len(there) > 1:
        raise Refused(f"there are several mounts; say which with -m: {', '.join(there)}")
    return Mount(there[0])


def read_text(*parts):
    """A small file, without the line end at its end; undecodable bytes survive a round trip."""
    with open(os.path.join(*parts), encoding="utf-8", errors="surrogateescape") as file:
        return file.read(TEXT_MAX).removesuffix("\n")


def link_name(*parts):
    """The last part of where a link leads; None where there is none."""
    try:
        return os.path.basename(os.readlink(os.path.join(*parts)))
    except FileNotFoundError:
        return None


def directory_names(*parts):
    """Names in a directory, sorted; none where it is not there."""
    try:
        return sorted(name for name in os.listdir(os.path.join(*parts)) if not name.startswith("."))
    except FileNotFoundError:
        return []


class Mount:
    def __init__(self, path):
        self.path = path

    def domains(self, names=()):
        """The domains of that name, or all of them."""
        return [self.domain(name) for name in names or directory_names(self.path)]

    def domain(self, name):
        if "/" in name or name.startswith(".") or not os.path.isdir(os.path.join(self.path, name)):
            there = ", ".join(directory_names(self.path))
            raise Refused(f"there is no domain {name} in {self.path}; there are: {there or 'none'}")
        return Domain(self, name)


class Domain:
    def __init__(self, mount, name):
        self.mount, self.name = mount, name
        self.path = os.path.join(mount.path, name)

    def text(self, *parts):
        return read_text(self.path, *parts)

    def document(self):
        return json.loads(self.text("domain.json"))

    def state(self):
        return self.text("state")

    def snapshot_names(self):
        """The oldest first."""
        return [name for name in self.text("snapshots", ".order").split("\n") if name]

    def snapshot_path(self, name):
        path = os.path.join(self.path, "snapshots", name)
        if "/" in name or name.startswith(".") or not os.path.isdir(path):
            raise Refused(f"domain {self.name} has no snapshot {name}; {self._has()}")
        return path

    def _has(self):
        names = self.snapshot_names()
        return f"it has: {', '.join(names)}" if names else "it has none"

    def snapshot(self, name):
        """What snapshot.json says."""
        return json.loads(read_text(self.snapshot_path(name), "snapshot.json"))

    def current(self):
        return link_name(self.path, "current")

    def targets(self):
        return directory_names(self.path, "disks")

    def target_path(self, target):
        if "/" in target or target not in self.targets():
            raise Refused(f"domain {self.name} has no disk {target}; it has: {', '.join(self.targets())}")
        return os.path.join(self.path, "disks", target)

    def jobs(self):
        """What runs or waits, by number: dictionaries with number, what, status and percent."""
        found = []
        for number in sorted(filter(str.isdigit, directory_names(self.path, "jobs")), key=int):
            with contextlib.suppress(FileNotFoundError, OSError):  # it may end while we look
                status = self.text("jobs", number, "status")
                found.append(
                    {
                        "number": int(number),
                        "what": self.text("jobs", number, "what"),
                        "status": status,
                        "percent": leading_number(self.text("jobs", number, "progress")),
                    }
                )
        return found

    def unfinished_jobs(self):
        return [job for job in self.jobs() if not job["status"].startswith(FINISHED)]

    def last_error(self):
        """The newest failure of this process, without time and pid; empty where there is none."""
        for line in self.text("last_error").split("\n"):
            match = re.match(rf"\S+ pid {os.getpid()}: (.*)", line)
            if match:
                return match[1]
        return ""

    def write(self, control, words):
        """Writes a command to a control file, relative to the domain's directory. Returns what reading the file says
        then. Refused with the whole reason."""
        with progress.of_jobs(self):
            with self.refusals(control):
                handle = os.open(os.path.join(self.path, control), os.O_RDWR)
            try:
                try:
                    os.write(handle, os.fsencode(words + "\n"))
                except OSError as error:
                    raise Refused(self._reason(error, os.path.basename(control), answer(handle))) from None
                return answer(handle)
            finally:
                os.close(handle)

    @contextlib.contextmanager
    def refusals(self, what):
        """Turns an OSError of a call in the domain's directory into Refused, with what last_error knows of it."""
        try:
            yield
        except OSError as error:
            raise Refused(self._reason(error, what)) from None

    def make_snapshot(self, name):
        """mkdir: as `defaults` says."""
        path = os.path.join(self.path, "snapshots", name)
        if os.path.isdir(path):  # the kernel would refuse it, and nobody would tell why
            raise Refused(f"{self.name}: create: there is a snapshot {name} already")
        with progress.of_jobs(self), self.refusals("create"):
            os.mkdir(path)

    def _reason(self, error, what, text=""):
        """The text of the control file, else that of last_error, else that of the errno."""
        with contextlib.suppress(OSError):
            text = text or self.last_error()
        if error.errno == errno.ENOTCONN:
            text = "vmsnapfs has ended; mount it again"
        return f"{self.name}: {what}: {text or error.strerror}"


def answer(handle):
    """What an open control file says after a write."""
    try:
        return os.pread(handle, TEXT_MAX, 0).decode(errors="surrogateescape").strip()
    except OSError:
        return ""


def leading_number(text):
    match = re.match(r"\d+", text)
    return int(match[0]) if match else 0


def quoted(word):
    """A word as control files read it: in quotes where it needs them."""
    return '"' + word.replace("\\", "\\\\").replace('"', '\\"') + '"'
