# SPDX-License-Identifier: LGPL-2.1-or-later
"""A mount of vmsnapfs for the length of a `with`: its source, its log, and the proof that nothing stays behind.

The daemon runs in the foreground, its standard error in a file. What it said is judged at the end: a line of level
error or warning that the test did not expect fails it, and so does any word of a sanitizer.
"""

import atexit
import contextlib
import ctypes
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time

PROGRAM = os.environ.get("VMSNAPFS", "vmsnapfs")
SUSPICIOUS = re.compile(r"Sanitizer|runtime error:|[Aa]ssert|double free|corrupt(ed|ion) ")
PR_SET_CHILD_SUBREAPER = 36
LOOK = 0.02  # seconds between two looks at something that has to come
DYING = 10  # seconds in which a process that was killed ends
HOPELESS = 300  # seconds after which it is not coming, however slow the machine

# Whatever a daemon leaves running becomes our child, and can be found.
ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def run(*command, **options):
    """A command that must succeed; its output as text."""
    result = subprocess.run(command, capture_output=True, text=True, errors="replace", stdin=subprocess.DEVNULL, **options)
    if result.returncode != 0:
        raise AssertionError(f"{' '.join(command)}: status {result.returncode}: {result.stderr.strip()}")
    return result.stdout


def children(process="self"):
    """Process ids of the children of a process; of ours, with those that others left to us."""
    found = set()
    for task in os.listdir(f"/proc/{process}/task"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # a thread that has ended
            with open(f"/proc/{process}/task/{task}/children", encoding="ascii") as file:
                found.update(map(int, file.read().split()))
    return found


def is_mounted(path):
    with open("/proc/self/mounts", encoding="utf-8", errors="surrogateescape") as file:
        return any(line.split(" ")[1] == path.replace(" ", "\\040") for line in file)


def wait_for(condition, what):
    """Waits until condition() is true; gives up only when nobody would wait any longer. `what` may be a function that says it then."""
    begin = time.monotonic()
    while not condition():
        if time.monotonic() > begin + HOPELESS:
            raise AssertionError(f"after {HOPELESS} s still waiting: {what() if callable(what) else what}")
        time.sleep(LOOK)


rooms = []  # directories that hold a source and a mount point


def new_room():
    """A directory for one mount; whatever is still there or mounted when the program ends is cleared away."""
    room = tempfile.mkdtemp(prefix="vmsnapfs-test-")
    os.chmod(room, 0o755)
    rooms.append(room)
    return room


@atexit.register
def clear_rooms():
    for room in rooms:
        with open("/proc/self/mounts", encoding="utf-8", errors="surrogateescape") as file:
            mounts = [line.split(" ")[1].replace("\\040", " ") for line in file]
        for path in mounts:
            if path.startswith(room + "/"):
                subprocess.run(["umount", "--lazy", path], check=False)
        shutil.rmtree(room, ignore_errors=True)


class MountFailed(Exception):
    """vmsnapfs ended instead of mounting: its status and what it said."""

    def __init__(self, status, said):
        super().__init__(f"status {status}: {said.strip()}")
        self.status = status
        self.said = said


class Mounted:
    """Mounts `source` (by default a new directory, which prepare(source) fills) on a directory of its own.

    `expected` are regular expressions of warnings and errors that the log may have.
    """

    def __init__(self, prepare=None, *, source=None, options="", expected=(), mountpoint=None, command_prefix=(), environment=()):
        self.room = new_room()
        self.source = source or self._directory("source")
        self.mountpoint = mountpoint or self._directory("mnt")
        self.temporary = self._directory("tmp")
        self.options = options
        self.expected = list(expected)
        self.command_prefix = list(command_prefix)
        self.environment = dict(environment)
        self.process = None
        self._log_path = os.path.join(self.room, "log")
        if prepare:
            prepare(self.source)

    def _directory(self, name):
        path = os.path.join(self.room, name)
        os.mkdir(path)
        return path

    def mount(self):
        """Mounts; MountFailed if vmsnapfs ends instead."""
        self._children_before = children()
        command = [*self.command_prefix, PROGRAM, "-f"]
        if self.options:
            command += ["-o", self.options]
        with open(self._log_path, "ab") as log:
            begin = log.tell()
            self.process = subprocess.Popen(
                [*command, self.source, self.mountpoint],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, "TMPDIR": self.temporary, **self.environment},
                cwd="/",
            )
        wait_for(lambda: "info: ready" in self.log()[begin:] or self.process.poll() is not None, "the mount")
        if self.process.poll() is not None:
            status = self.process.returncode
            self.process = None
            raise MountFailed(status, self.log()[begin:])
        return self

    def unmount(self):
        """Unmounts, and checks that the daemon ended well and that nothing stayed behind."""
        if is_mounted(self.mountpoint):
            result = subprocess.run(["umount", self.mountpoint], capture_output=True, text=True)
            if result.returncode != 0:
                holders = subprocess.run(["fuser", "-vm", self.mountpoint], capture_output=True, text=True)
                self.kill()
                raise AssertionError(f"umount: {result.stderr.strip()} {holders.stdout} {holders.stderr}")
        status = self.process.wait()
        self.process = None
        assert status == 0, f"the daemon ended with {status}: {self.log()[-3000:]}"
        assert not is_mounted(self.mountpoint), "still mounted"
        left = reap(children() - self._children_before, DYING)
        assert not left, f"left processes behind: {[process_name(pid) for pid in left]}"
        assert not os.listdir(self.temporary), f"left files behind: {os.listdir(self.temporary)}"

    def kill(self):
        """Kills the daemon as a crash would; the mount stays, dead."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        self.process = None

    def wait_for_orphans(self):
        """Until what others left to us since the mount has ended: helpers of a killed daemon, a shell's own children."""

        def left():
            return children() - self._children_before - ({self.process.pid} if self.process else set())

        def gone():
            for pid in left():
                os.waitpid(pid, os.WNOHANG)
            return not left()

        wait_for(gone, "the end of processes that others left to us")

    def remount(self, options=None):
        self.unmount()
        if options is not None:
            self.options = options
        return self.mount()

    def log(self):
        with open(self._log_path, encoding="utf-8", errors="replace") as file:
            return file.read()

    def judge_log(self):
        for line in self.log().splitlines():
            serious = re.match(r"vmsnapfs: (error|warning): ", line) or SUSPICIOUS.search(line)
            if serious and not any(re.search(pattern, line) for pattern in self.expected):
                at = self.log().index(line)
                raise AssertionError(f"suspicious in the log: {self.log()[at : at + 3000]}")

    def __enter__(self):
        return self.mount()

    def __exit__(self, kind, value, trace):
        try:
            if self.process:
                self.unmount()
            if not kind:
                self.judge_log()
            elif kind is not SystemExit:
                print("    log: " + self.log()[-3000:].replace("\n", "\n    "))
        finally:
            subprocess.run(["umount", "--lazy", self.mountpoint], capture_output=True, check=False)
            shutil.rmtree(self.room, ignore_errors=True)

    def path(self, *parts):
        return os.path.join(self.mountpoint, *parts)

    def read(self, *parts):
        with open(self.path(*parts), "rb") as file:
            return file.read()

    def text(self, *parts):
        return self.read(*parts).decode()

    def frozen(self, domain, snapshot, target="vda"):
        """The path of a frozen disk."""
        return self.path(domain, "snapshots", snapshot, "disks", target + ".raw")

    def snapshots(self, domain):
        """The snapshots of a domain, or none where the domain is not there (yet)."""
        try:
            return sorted(name for name in os.listdir(self.path(domain, "snapshots")) if not name.startswith("."))
        except FileNotFoundError:
            return []

    def service_log(self):
        return self.text(".vmsnapfs", "log")


def reap(pids, seconds=0):
    """Takes leave of those of them that have ended, or are about to: their memory is gone, or, within those seconds, they
    were killed and go. Returns the others."""
    end = time.monotonic() + seconds
    left = set(pids)
    while True:
        for pid in set(left):
            with contextlib.suppress(ChildProcessError):
                if os.waitpid(pid, os.WNOHANG) == (0, 0):
                    continue
            left.discard(pid)
        if not any(process_name(pid) == f"{pid}: " for pid in left) and (not left or time.monotonic() > end):
            return left
        time.sleep(0.01)


def process_name(pid):
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            return f"{pid}: " + file.read().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return str(pid)
