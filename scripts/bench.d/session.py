# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a run makes and must take away again: a scratch folder, processes, mounts, a memory cgroup.

Everything is a context manager, so that failure and Ctrl-C undo it in the opposite order. Signals become the
exception Interrupted, once: while it is being cleaned up, further ones are ignored. Processes are ended by their pid
and only if this run started them.
"""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time

END_SECONDS = 15  # how long a process gets to end by itself, and an unmount to stop being busy


class BenchError(Exception):
    """Something that stops one measurement; the text says what and what can be done."""


class Interrupted(Exception):
    """A signal asked the run to end."""


def catch_signals():
    """Turns the first SIGINT, SIGTERM or SIGHUP into Interrupted."""

    def interrupt(number, _frame):
        for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(each, signal.SIG_IGN)
        raise Interrupted(signal.Signals(number).name)

    for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(each, interrupt)


class Workspace:
    """The scratch folder of the run, gone at the end unless `keep`."""

    def __init__(self, parent, keep):
        self.keep = keep
        self.path = tempfile.mkdtemp(prefix="vmsnapfs-bench-", dir=parent)
        self.log = os.path.join(self.path, "peers.log")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.keep:
            print(f"kept: {self.path}", file=sys.stderr)
        else:
            remove_tree(self.path)

    @contextlib.contextmanager
    def folder(self, name):
        """A folder for one data set, which goes as soon as it was measured: the next one needs the room."""
        path = tempfile.mkdtemp(prefix=f"{name}-", dir=self.path)
        try:
            yield path
        finally:
            if not self.keep:
                remove_tree(path)


def remove_tree(path):
    """Removes a folder, but never reaches into a mount that could not be taken away."""
    left = [point for point in mount_points() if point.startswith(path + "/")]
    if left:
        print(f"still mounted, so {path} stays: {' '.join(left)}", file=sys.stderr)
        return
    shutil.rmtree(path, ignore_errors=True)


def command(*words, **options):
    """Runs a command that must succeed and returns what it wrote; its errors become the text of a BenchError."""
    try:
        done = subprocess.run(words, check=True, capture_output=True, text=True, **options)
    except FileNotFoundError:
        raise BenchError(f"{words[0]} is not installed (scripts/install-deps)") from None
    except subprocess.CalledProcessError as error:
        raise BenchError(f"{' '.join(words)}: {(error.stderr or error.stdout or '').strip()}") from None
    return done.stdout


@contextlib.contextmanager
def process(words, log, **options):
    """A process in the background, in a session of its own so that Ctrl-C leaves its end to us."""
    try:
        with open(log, "ab") as output:
            child = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                                     start_new_session=True, **options)
    except FileNotFoundError:
        raise BenchError(f"{words[0]} is not installed (scripts/install-deps)") from None
    try:
        yield child
    finally:
        end_child(child)


def end_child(child):
    """Ends a child politely, then by force, and reaps it."""
    if child.poll() is None:
        child.terminate()
    try:
        child.wait(END_SECONDS)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


def mount_points():
    """All mount points of this mount namespace, the newest last."""
    with open("/proc/self/mountinfo", "rb") as table:
        return [os.fsdecode(unescape(line.split(b" ")[4])) for line in table]


def unescape(field):
    """A path as /proc writes it: blanks and backslashes are octal there."""
    return re.sub(rb"\\([0-7]{3})", lambda octal: bytes([int(octal.group(1), 8)]), field)


def is_mounted(path):
    return path in mount_points()


def wait_mounted(path, child, log):
    """Waits until `path` is a mount point that answers stat. The child's death is the only way to fail."""
    while not is_mounted(path):
        if child.poll() is not None:
            raise BenchError(f"{child.args[0]} ended: {last_line(log)}")
        time.sleep(0.002)
    os.stat(path)


def last_line(log):
    with open(log, encoding="utf-8", errors="replace") as lines:
        return (lines.read().strip().splitlines() or ["no message"])[-1]


def unmount(path):
    """Unmounts, waiting for the last reader; lazily if somebody stays, so that nothing is left in the way."""
    words = ["umount", path] if os.geteuid() == 0 else ["fusermount3", "-u", path]
    deadline = time.monotonic() + END_SECONDS
    while is_mounted(path):
        if subprocess.run(words, capture_output=True).returncode == 0:
            continue
        if time.monotonic() > deadline:
            print(f"{path} stays busy: unmounting lazily", file=sys.stderr)
            words = words[:1] + (["-l"] if words[0] == "umount" else ["-u", "-z"]) + [path]
        time.sleep(0.02)


def pids_naming(path):
    """The processes that have `path` as a word of their command line: how a daemon that forked is found again."""
    wanted = os.fsencode(path)
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            with open(f"/proc/{name}/cmdline", "rb") as words:
                if wanted in words.read().split(b"\0"):
                    found.append(int(name))
    return found


def end_pids(path, pids):
    """Waits for daemons to end by themselves; kills what is left, having said so."""
    deadline = time.monotonic() + END_SECONDS
    while (left := [pid for pid in pids_naming(path) if pid in pids]) and time.monotonic() < deadline:
        time.sleep(0.01)
    for pid in left:
        print(f"pid {pid} did not end after its mount was taken away: killed", file=sys.stderr)
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
