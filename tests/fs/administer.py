# SPDX-License-Identifier: LGPL-2.1-or-later
"""What tests of administration do with a mounted domain: commands, their refusals, waiting, and looking at every byte."""

import contextlib
import errno
import json
import os
import subprocess
import tempfile
import time

from checks import fails_with
from mounted import LOOK, run, wait_for

FINISHED = ("done", "failed")
LOCK_WORDS = ("lock", "in use")
QUIET = 0.3  # seconds without any job: between two steps of giving space back there may be none for a moment


def errno_name(code):
    """As the documents call it: Linux has one number for two names here."""
    return "EOPNOTSUPP" if code == errno.EOPNOTSUPP else errno.errorcode.get(code, str(code))


def command(mount, domain, control, text="", flags=os.O_RDWR):
    """Writes a command to a control file of a domain; returns what reading the same open file says then."""
    handle = os.open(mount.path(domain, control), flags)
    try:
        os.write(handle, os.fsencode(text) + b"\n")
        return os.pread(handle, 1 << 16, 0).decode()
    finally:
        os.close(handle)


def command_of(mount, domain, snapshot, verb, text=""):
    """The same for a control file of a snapshot."""
    return command(mount, domain, f"snapshots/{snapshot}/{verb}", text)


def snapshot_path(mount, domain, name):
    return mount.path(domain, "snapshots", name)


def newest_error(mount, domain):
    """The first line of last_error."""
    return (mount.text(domain, "last_error").splitlines() or [""])[0]


def refused(code, mount, domain, function, *arguments, words=()):
    """The call fails with that errno (or one of them), and last_error tells of it: this process, the errno, and all of
    `words`. Returns the line."""
    found = fails_with(code, function, *arguments)
    line = newest_error(mount, domain)
    assert f"pid {os.getpid()}: " in line, f"last_error does not tell of {function.__name__}{arguments[2:]}: {line!r}"
    assert f"({errno_name(found)})" in line, f"last_error has another errno than {errno_name(found)}: {line!r}"
    for word in words:
        assert word in line, f"{word!r} is not in last_error: {line!r}"
    return line


def command_refused(code, mount, domain, control, text="", words=()):
    """A write to a control file is refused; the open file gives the same reason as last_error. Returns the reason."""
    handle = os.open(mount.path(domain, control), os.O_RDWR)
    try:
        line = refused(code, mount, domain, os.write, handle, os.fsencode(text) + b"\n", words=words)
        said = os.pread(handle, 1 << 16, 0).decode()
    finally:
        os.close(handle)
    for word in words:
        assert word in said, f"{word!r} is not in what {control} says: {said!r}"
    assert len(said.strip()) > 10, f"{control} says nothing: {said!r}"
    return line


def jobs(mount, domain):
    """{number: status} of what waits or runs."""
    found = {}
    with contextlib.suppress(FileNotFoundError):
        for number in os.listdir(mount.path(domain, "jobs")):
            with contextlib.suppress(FileNotFoundError):
                found[number] = mount.text(domain, "jobs", number, "status").strip()
    return {number: status for number, status in found.items() if not status.startswith(FINISHED)}


class Quiet:
    """Tells when nothing has been going on for a while: so many seconds, and so many looks, for which a slow machine needs
    longer."""

    def __init__(self, seconds=QUIET):
        self.seconds = seconds
        self.since, self.looks = time.monotonic(), 0

    def look(self, is_busy):
        if is_busy:
            self.since, self.looks = time.monotonic(), 0
        self.looks += 1
        return self.looks > self.seconds / LOOK and time.monotonic() > self.since + self.seconds


def wait_idle(mount, domain=None):
    """Until no work is left in the background, of a domain or of all."""
    names = [domain] if domain else [name for name in os.listdir(mount.mountpoint) if not name.startswith(".")]
    quiet = Quiet()

    def is_quiet():
        mount.text(".vmsnapfs", "stats")  # the kernel answers the rest from its cache
        return quiet.look(any(jobs(mount, name) for name in names))

    wait_for(is_quiet, f"the jobs of {names}: {[jobs(mount, name) for name in names]}")


def source(mount, domain, target="vda"):
    """(path, format) of the image that is active now."""
    while True:  # two files, and the disk may go on in another image in between
        path, image_format = (mount.text(domain, "disks", target, name).rstrip("\n") for name in ("source", "format"))
        if mount.text(domain, "disks", target, "source").rstrip("\n") == path:
            return path, image_format


def layers(mount, domain, target="vda"):
    return mount.text(domain, "disks", target, "layers").splitlines()


def run_unlocked(words, again=lambda words: words):
    """A command on an image, repeated while background work holds the image (a merge holds its lock for a moment), or
    has just put another one in its place."""
    told = []

    def attempt():
        now = again(words)
        result = subprocess.run(now, capture_output=True, text=True, errors="replace", stdin=subprocess.DEVNULL)
        told[:] = [result]
        replaced = "No such file" in result.stderr and again(words) != now
        return result.returncode == 0 or not (replaced or any(word in result.stderr for word in LOCK_WORDS))

    wait_for(attempt, " ".join(words))
    return told[0]


def guest_write(mount, domain, target, *commands):
    """As a guest would: qemu-io on the file that disks/TARGET/source names, looked up anew for each attempt."""

    def words(_):
        path, image_format = source(mount, domain, target)
        arguments = []
        for each in commands:
            arguments += ["-c", "write -q -P " + each if each[0].isdigit() else each]
        return ["qemu-io", "-d", "unmap", "-f", image_format, *arguments, path]

    result = run_unlocked([f"a write to {domain} {target}"], words)
    assert result.returncode == 0 and "rror" not in result.stdout, f"{commands}: {result.stdout}{result.stderr}"


def active_bytes(mount, domain, target="vda"):
    """What a guest would find on the disk now, as qemu-img reads it."""
    with tempfile.NamedTemporaryFile(dir=mount.room) as file:

        def words(_):
            path, image_format = source(mount, domain, target)
            return ["qemu-img", "convert", "-f", image_format, "-O", "raw", path, file.name]

        result = run_unlocked([f"reading {domain} {target}"], words)
        assert result.returncode == 0, result.stderr
        with open(file.name, "rb") as raw:
            return raw.read()


def frozen_bytes(mount, domain, snapshot, target="vda"):
    """Every byte of a frozen disk, none of it out of the kernel's cache."""
    with open(mount.frozen(domain, snapshot, target), "rb", buffering=0) as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        data = bytearray()
        while chunk := file.read(1 << 20):
            data += chunk
        return bytes(data)


def images(directory):
    """Paths of the files beside the store that are qcow2 images."""
    found = []
    for entry in os.scandir(directory):
        if entry.is_file(follow_symlinks=False):
            with contextlib.suppress(FileNotFoundError), open(entry.path, "rb") as file:  # merged away meanwhile
                if file.read(4) == b"QFI\xfb":
                    found.append(entry.path)
    return sorted(found)


def check_image(path, leaks_allowed=False):
    """qemu-img check finds nothing. An image that background work takes away meanwhile is none."""
    result = run_unlocked(["qemu-img", "check", "-f", "qcow2", path])
    if result.returncode == 0 or not os.path.exists(path) or (leaks_allowed and result.returncode == 3):
        return
    raise AssertionError(f"qemu-img check {path}: status {result.returncode}: {result.stdout}{result.stderr}")


def information(path):
    """What qemu-img info says, as a dictionary."""
    return json.loads(run("qemu-img", "info", "-U", "--output=json", path))


def tags(path):
    """Tags of the internal snapshots of an image."""
    return [each["name"] for each in information(path).get("snapshots", [])]


def names_beside(mount):
    """Names of all files in the source, but the store."""
    return sorted(name for name in os.listdir(mount.source) if name != ".vmsnapfs")
