# SPDX-License-Identifier: LGPL-2.1-or-later
"""Going back to snapshots of a guest that runs: it compares its memory with its disks, so that it says if they don't fit."""

import errno
import os

from guest import assert_one_instant
from checks import main  # found where guest has looked

import checks
from administer import command_of  # pylint: disable=wrong-import-order
from mounted import wait_for
from test_snapshots import Running, TARGETS

ROUNDS = 5
KINDS = ("internal", "external")


def memory_words(random):
    memory = random.choice(("internal", "external", "external live", "external compress=gzip"))
    kinds = ["internal", "internal"] if memory == "internal" else [random.choice(KINDS) for _ in TARGETS]
    return f"memory={memory} " + " ".join(f"disk={target}:{kind}" for target, kind in zip(TARGETS, kinds))


def back(mount, name, words="1"):
    command_of(mount, "web1", name, "revert", words)


def is_state(mount, wanted):
    wait_for(lambda: mount.text("web1", "state").strip() == wanted, f"the guest to be {wanted}")


def test_there_and_back():
    """Back and forth between snapshots with memory: the guest counts on from each, and finds on its disks what it remembers"""
    random = checks.seed()
    with Running() as mount:
        mount.serial.wait_compared()
        counts = {}
        for number in range(ROUNDS):
            name = f"s{number}"
            mount.create(f"{name} " + memory_words(random))
            points = mount.points(name)
            assert_one_instant(points)
            counts[name] = points[0].count
            mount.goes_on()
            to = random.choice(sorted(counts))
            words = random.choice(("1", "running", "paused", "guard"))
            mount.serial.forget()
            back(mount, to, words)
            if words == "paused":
                is_state(mount, "paused")
                mount.power("resume")
            is_state(mount, "running")
            mount.goes_on()
            mount.serial.assert_went_on(counts[to])
            for other in counts:
                assert_one_instant(mount.points(other))


def test_failures_and_back():
    """Where going back fails after its QEMU has ended, the guest goes on in the middle of what it did"""
    with Running() as mount:
        mount.serial.wait_compared()
        mount.create("one memory=external disk=vda:internal disk=vdb:external")
        path = os.path.join(mount.source, "web1.one.mem")
        times = os.stat(path)
        with open(path, "r+b") as file:
            file.seek(times.st_size // 2)
            file.write(b"\xff" * 65536)
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
        for _ in range(3):
            mount.goes_on()
            before = mount.serial.counts()[-1]
            try:
                back(mount, "one")
                raise AssertionError("damaged memory was brought back")
            except OSError as error:
                assert error.errno in (errno.EIO, errno.EINVAL), error
            is_state(mount, "running")
            mount.goes_on()
            assert mount.serial.counts()[-1] > before


def test_killed_and_back():
    """A daemon that is killed in the middle: the guest goes on where it was, or where it was to go, with the disks of then"""
    for point in ("saved:1", "applied:1", "loaded:1", "committed:2", "noted:1"):
        with Running(environment={"VMSNAPFS_TEST_CRASH": point}) as mount:
            mount.serial.wait_compared()
            mount.create("one memory=external disk=vda:internal disk=vdb:external")
            mount.goes_on()
            mount.expected.append("interrupted|journal|storage daemon")
            try:
                back(mount, "one")
            except OSError as error:
                assert error.errno in (errno.ENOTCONN, errno.ECONNABORTED), error
            mount.process.wait()
            mount.end_daemon()
            mount.serial.forget()
            mount.begin_daemon()
            mount.goes_on()


if __name__ == "__main__":
    main(globals())
