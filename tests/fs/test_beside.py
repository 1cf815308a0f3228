# SPDX-License-Identifier: LGPL-2.1-or-later
"""A mount that only reads, beside the one that administers the same source: what it lists, what its readers get, and
that it takes nothing from the other one. VMSNAPFS_SEED in the environment repeats a run."""

import collections
import contextlib
import errno
import fcntl
import os
import struct
import threading
import time

import checks
import domains
from administer import command, command_of, frozen_bytes, guest_write, jobs, snapshot_path, wait_idle
from checks import equal, fails_with, need
from domains import SIZE, create, take
from mounted import Mounted, wait_for
from running import Running, attempt_any
from test_power import QEMU, Guest, Launched, Monitor, Watched, power, state, wait_state

GONE = (errno.ENOENT, errno.ESTALE)
ALL = "disk=vda:external disk=vdb:external"
FORMATS = ("qcow2", "raw")
F_OFD_GETLK, F_OFD_SETLK = 36, 37
READ_BYTE, CHANGE_BYTE = 300, 301


def follower(mount, expected=(r"was deleted",), **options):
    """Who opens by a name that the other mount has just deleted is told so, also in the log."""
    return Mounted(source=mount.source, options="ro", expected=expected, **options)


def fill(mount, value):
    """Both disks are full of a byte."""
    for target in ("vda", "vdb"):
        guest_write(mount, "web1", target, f"{value} 0 {SIZE}")


def filled(value):
    return bytes([value]) * SIZE


def shows(mount, *names):
    wait_for(lambda: mount.snapshots("web1") == sorted(names), lambda: f"{names} to be listed, and not {mount.snapshots('web1')}")


def three(mount):
    """Snapshots a, b and c; full of 1, 2 and 3; the present of 4."""
    for value, name in enumerate("abc", 1):
        fill(mount, value)
        create(mount, f"{name} {ALL}")
    fill(mount, 4)


def byte_lock(file, number, command_=F_OFD_SETLK, kind=fcntl.F_RDLCK):
    """A lock of the open file, as in layer_lock.h; the kind that fcntl answers with."""
    flock = struct.pack("hhqqi4x", kind, os.SEEK_SET, number, 1, 0)
    return struct.unpack("hhqqi4x", fcntl.fcntl(file, command_, flock))[0]


def test_lists():
    """What is taken, renamed, described and deleted in one is so in the other soon, with the same inode numbers"""
    with Mounted(domains.web1) as mount, follower(mount) as second:
        take(mount, "a")
        shows(second, "a")
        take(mount, "b")
        os.rename(snapshot_path(mount, "web1", "a"), snapshot_path(mount, "web1", "first"))
        shows(second, "b", "first")
        wait_for(lambda: domains.parents(second) == {"first": None, "b": "first"}, "the tree")
        command_of(mount, "web1", "b", "description", "words")
        wait_for(lambda: second.text("web1", "snapshots", "b", "description") == "words\n", "the description")
        for parts in (("web1",), ("web1", "snapshots", "first"), ("web1", "snapshots", "b")):
            equal(os.stat(second.path(*parts)).st_ino, os.stat(mount.path(*parts)).st_ino, str(parts))
        os.rmdir(snapshot_path(mount, "web1", "first"))
        shows(second, "b")
        wait_idle(mount)
        os.rmdir(snapshot_path(mount, "web1", "b"))
        shows(second)
        wait_idle(mount)


def test_store_that_comes():
    """A store that is made after the mount that only reads is followed, too, and so is the next mount that writes it"""
    with Mounted(domains.web1, options="ro") as second:
        with Mounted(source=second.source) as mount:
            take(mount, "a")
            shows(second, "a")
            wait_for(lambda: os.stat(second.path("web1")).st_ino == os.stat(mount.path("web1")).st_ino, "the inode number")
            domains.write(mount, 9)
            os.rmdir(snapshot_path(mount, "web1", "a"))
            shows(second)
            wait_idle(mount)
        with Mounted(source=second.source) as mount:
            take(mount, "b")
            shows(second, "b")


def test_deleted_while_read():
    """An open frozen disk keeps its bytes when its snapshot is deleted elsewhere, and is merged when it was closed"""
    with Mounted(lambda source: domains.web1(source, formats=FORMATS)) as mount, follower(mount) as second:
        three(mount)
        shows(second, "a", "b", "c")
        with contextlib.ExitStack() as stack:
            handles = {target: stack.enter_context(open(second.frozen("web1", "a", target), "rb", buffering=0)) for target in ("vda", "vdb")}
            os.rmdir(snapshot_path(mount, "web1", "a"))
            for _ in range(8):
                for target, handle in handles.items():
                    handle.seek(0)
                    os.posix_fadvise(handle.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
                    equal(set(handle.read(SIZE)), {1}, target)
                    with contextlib.suppress(FileNotFoundError):
                        equal(frozen_bytes(second, "web1", "a", target)[:1], b"\1", target)
                    equal(frozen_bytes(second, "web1", "b", target), filled(2), target)
                time.sleep(0.2)
            shows(second, "b", "c")
            wait_for(lambda: any("another mount" in status for status in jobs(mount, "web1").values()), "something to wait for the other mount")
            fill(mount, 5)  # nobody who writes is kept from it
        wait_idle(mount)
        names = [os.path.basename(path) for path in mount.text("web1", "disks", "vdb", "layers").split()]
        equal(len(names), 3, str(names))
        for name, value in (("b", 2), ("c", 3)):
            for target in ("vda", "vdb"):
                equal(frozen_bytes(second, "web1", name, target), filled(value), f"{name} {target}")


def test_reader_and_step():
    """Who opens a disk waits until what another mount does to its images is over; that waits for who reads"""
    with Mounted(lambda source: domains.web1(source, formats=FORMATS)) as mount, follower(mount) as second:
        three(mount)
        shows(second, "a", "b", "c")
        path = os.path.join(mount.source, "web1-b.img")
        with open(path, "rb") as image:
            byte_lock(image, CHANGE_BYTE)
            found = []
            reader = threading.Thread(target=lambda: found.append(frozen_bytes(second, "web1", "b", "vdb")))
            reader.start()
            wait_for(lambda: byte_lock(image, READ_BYTE, F_OFD_GETLK, fcntl.F_WRLCK) != fcntl.F_UNLCK, "the reader's lock")
            time.sleep(0.5)
            equal(found, [], "it did not wait")
            byte_lock(image, CHANGE_BYTE, kind=fcntl.F_UNLCK)
            reader.join()
            equal(found, [filled(2)])
        with open(path, "rb") as image:
            byte_lock(image, READ_BYTE)
            os.rmdir(snapshot_path(mount, "web1", "a"))
            wait_for(lambda: "waiting" in str(jobs(mount, "web1")), "the merge to wait")
            time.sleep(1)
            with open(path, "rb") as raw:
                equal(raw.read(), filled(1), "it was merged into")
        wait_idle(mount)
        with open(path, "rb") as raw:
            equal(raw.read(), filled(2), "the merge")


def test_another_content_under_the_name():
    """A parent that takes over its child's content: who has it open keeps what he has, and others get the new one"""
    with Mounted(lambda source: domains.web1(source, formats=FORMATS)) as mount, follower(mount, expected=["as it was before"]) as second:
        three(mount)
        shows(second, "a", "b", "c")
        with open(second.frozen("web1", "a", "vdb"), "rb", buffering=0) as handle:
            equal(set(handle.read(SIZE)), {1})
            command_of(mount, "web1", "b", "delete", "merge")
            shows(second, "a", "c")
            for _ in range(5):
                handle.seek(0)
                os.posix_fadvise(handle.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
                equal(set(handle.read(SIZE)), {1})
                fails_with(errno.EBUSY, open, second.frozen("web1", "a", "vdb"), "rb")
                equal(frozen_bytes(second, "web1", "a", "vda"), filled(2))
        wait_for(lambda: attempt_any(frozen_bytes, second, "web1", "a", "vdb"), "the daemon to hear that it was closed")
        equal(frozen_bytes(second, "web1", "a", "vdb"), filled(2))
        wait_idle(mount)
        equal(frozen_bytes(second, "web1", "a", "vdb"), filled(2))


class Reader(threading.Thread):
    """Reads at random places of snapshots, whose names begin with the byte that they are full of."""

    def __init__(self, mount, chance, holds):
        super().__init__()
        self.mount, self.chance, self.holds = mount, chance, holds
        self.stopped = threading.Event()
        self.counts, self.wrong = collections.Counter(), []

    def look(self, name, target):
        with open(self.mount.frozen("web1", name, target), "rb", buffering=0) as handle:
            for _ in range(self.chance.randrange(1, 40) if self.holds else 1):
                handle.seek(self.chance.randrange(0, SIZE - 65536))
                found = set(handle.read(65536))
                os.posix_fadvise(handle.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
                self.counts["reads"] += 1
                if found != {int(name.split("-")[0])}:
                    self.wrong.append((name, target, found))
                if self.holds:
                    time.sleep(0.01)

    def run(self):
        while not self.stopped.is_set():
            names = self.mount.snapshots("web1")
            if not names:
                time.sleep(0.01)
                continue
            try:
                self.look(self.chance.choice(names), self.chance.choice(("vda", "vdb")))
            except OSError as error:
                self.counts[errno.errorcode[error.errno]] += 1
                if error.errno not in GONE:
                    self.wrong.append(error)


def change_at_random(mount, chance, turn, fill_):
    names = mount.snapshots("web1")
    if len(names) < 2 or (len(names) < 6 and chance.random() < 0.5):
        value = turn % 250 + 1
        fill_(value)
        kind = chance.choice(("external", "external", "internal"))
        create(mount, f"{value}-{turn} disk-only disk=vda:{kind} disk=vdb:external")
        fill_(255)
    elif chance.random() < 0.2:
        name = chance.choice(names)
        os.rename(snapshot_path(mount, "web1", name), snapshot_path(mount, "web1", name + "r"))
    else:
        os.rmdir(snapshot_path(mount, "web1", chance.choice(names)))


def read_beside(mount, second, turns, fill_):
    chance = checks.seed()
    readers = [Reader(second, checks.random.Random(chance.random()), number != 0) for number in range(3)]
    for reader in readers:
        reader.start()
    try:
        for turn in range(turns):
            change_at_random(mount, chance, turn, fill_)
            time.sleep(chance.choice((0, 0, 0.1, 1)))
    finally:
        for reader in readers:
            reader.stopped.set()
        for reader in readers:
            reader.join()
    print(f"    {dict(sum((reader.counts for reader in readers), collections.Counter()))}")
    wrong = [each for reader in readers for each in reader.wrong]
    assert not wrong, wrong[:5]
    assert all(reader.counts["reads"] for reader in readers), "nothing was read"
    shows(second, *mount.snapshots("web1"))
    for name in mount.snapshots("web1"):
        for target in ("vda", "vdb"):
            equal(frozen_bytes(second, "web1", name, target), filled(int(name.split("-")[0])), f"{name} {target}")


def test_readers_beside_changes():
    """Snapshots that are taken, renamed, deleted and merged meanwhile never read as anything but themselves"""
    expected = [r"deleted|is gone|No such file|is not there|stands on"]
    with Mounted(lambda source: domains.web1(source, formats=FORMATS)) as mount:
        with follower(mount, expected=expected) as second:
            read_beside(mount, second, 60, lambda value: fill(mount, value))


def test_readers_beside_a_guest():
    """The same, while the domain runs and its QEMU merges"""
    need(QEMU)
    expected = [r"deleted|is gone|No such file|is not there|stands on"]
    with Running(FORMATS) as mount:
        mount.start()

        def fill_(value):
            mount.rest()
            monitor = Monitor(mount.monitor())
            for target in ("vda", "vdb"):
                said = monitor.command(
                    "human-monitor-command", command_line=f'qemu-io -d /machine/peripheral/d-{target}/virtio-backend "write -P {value} 0 {SIZE}"'
                )
                assert "rror" not in said, said
            monitor.close()

        with follower(mount, expected=expected) as second:
            read_beside(mount, second, 40, fill_)


def test_takes_no_monitor():
    """A QEMU's monitor is left to the mount that administers it, whichever was first; so is the second one of a launch"""
    need(QEMU)
    mount = Watched()
    with Guest(mount.qmp, disk=mount.disk), follower(mount) as second:
        wait_state(second, "running")
        mount.mount()
        take(mount, "a")
        power(mount, "pause")
        wait_state(mount, "paused")
        equal(state(second), "running")
        fails_with(errno.EROFS, command, second, "web1", "power", "resume")
        shows(second, "a")
        power(mount, "resume")
        equal(frozen_bytes(second, "web1", "a")[:1], b"\1")
        mount.unmount()
    with Launched() as mount:
        power(mount, "start")
        with follower(mount) as second:
            wait_state(second, "running")
            monitor = Monitor(mount.monitor())
            equal(monitor.command("query-status")["status"], "running")
            monitor.close()
            power(mount, "destroy")
            wait_state(second, "shutoff")


if __name__ == "__main__":
    checks.main(globals())
