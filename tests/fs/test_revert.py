# SPDX-License-Identifier: LGPL-2.1-or-later
"""Going back to snapshots of domains that are not running."""

import errno
import os

import administer
import checks
import domains
import make
from administer import command_of, command_refused
from checks import equal
from domains import Unchanged, byte, create, frozen_byte, take, write
from mounted import Mounted, run, wait_for
from test_running_crashes import need_points


def dies(mount, function, *arguments):
    """The daemon comes to the point of its environment in this call, and is mounted again without one."""
    try:
        function(*arguments)
    except OSError as error:
        assert error.errno in (errno.ENOTCONN, errno.ECONNABORTED, errno.EIO), error
    wait_for(lambda: mount.process.poll() is not None, "the daemon to come to its end")
    mount.kill()
    run("umount", "--lazy", mount.mountpoint)
    mount.wait_for_orphans()
    mount.environment = {}
    mount.mount()


def test_words():
    """Nothing, 1 and shutoff go back; the snapshot stays, is current, and can be gone back to again and again"""
    for kind in ("internal", "external"):
        with Mounted(domains.web1) as mount:
            domains.chain(mount, ("one", "two"), kind)
            for words in ("1", "", "shutoff", "1\n"):
                command_of(mount, "web1", "one", "revert", words)
                equal((byte(mount), domains.current(mount)), (1, "one"), f"{kind} {words!r}")
                write(mount, 77)
                equal((byte(mount), frozen_byte(mount, "one"), frozen_byte(mount, "two")), (77, 1, 2), f"{kind} {words!r}")
            command_of(mount, "web1", "two", "revert")
            take(mount, "three")
            equal(domains.parents(mount), {"one": None, "two": "one", "three": "two"})


def test_wrong_words():
    """What is not understood is EINVAL and changes nothing"""
    with Mounted(domains.web1) as mount:
        take(mount, "one")
        with Unchanged(mount):
            for words in ("backwards", "running paused", "1 shutoff", "guard guard"):
                command_refused(errno.EINVAL, mount, "web1", "snapshots/one/revert", words)


def test_nothing_is_written_nothing_happens():
    """Opening and closing, also with O_TRUNC, goes nowhere"""
    with Mounted(domains.web1) as mount:
        take(mount, "one")
        write(mount, 5)
        os.close(os.open(mount.path("web1", "snapshots", "one", "revert"), os.O_WRONLY | os.O_TRUNC))
        equal(byte(mount), 5)


def test_running_needs_launch():
    """To running or paused: this domain is started by somebody else; the text says what can be done"""
    with Mounted(domains.web1) as mount:
        take(mount, "one")
        with Unchanged(mount):
            for words in ("running", "paused"):
                command_refused(errno.EOPNOTSUPP, mount, "web1", "snapshots/one/revert", words, ["shutoff"])


def test_guard():
    """`guard` keeps the present in a snapshot first"""
    for kind in ("internal", "external"):
        with Mounted(domains.web1) as mount:
            domains.chain(mount, ("one", "two"), kind)
            command_of(mount, "web1", "one", "revert", "guard")
            (guard,) = set(mount.snapshots("web1")) - {"one", "two"}
            equal((byte(mount), domains.current(mount)), (1, "one"))
            equal((frozen_byte(mount, guard), domains.parents(mount)[guard]), (3, "two"))
            command_of(mount, "web1", guard, "revert", "shutoff")
            equal(byte(mount), 3)


def test_guard_and_crashes():
    """A daemon that is killed anywhere in a revert with `guard`: either both have happened, or neither, and again it works"""
    need_points()
    for kind in ("internal", "external"):
        for point, happened in (("journaled:1", False), ("committed:1", False), ("journaled:2", False), ("committing:2", False), ("committed:2", True)):
            with Mounted(domains.web1) as mount:
                domains.chain(mount, ("one", "two"), kind)
                if kind == "external":
                    create(mount, "three disk=vda:external")
                before = domains.parents(mount), domains.current(mount)
                with open(mount.path("web1", "defaults"), "w", encoding="utf-8") as file:
                    file.write(f"disk=vda:{kind}\n")
                mount.unmount()
                mount.environment = {"VMSNAPFS_TEST_CRASH": point}
                mount.mount()
                dies(mount, command_of, mount, "web1", "one", "revert", "guard")
                administer.wait_idle(mount)
                guards = set(mount.snapshots("web1")) - set(before[0])
                what = f"{kind}, killed at {point}"
                equal(len(guards), int(happened), what)
                if not happened:
                    equal((domains.parents(mount), domains.current(mount), byte(mount)), (*before, 3), what)
                    command_of(mount, "web1", "one", "revert", "guard")
                    guards = set(mount.snapshots("web1")) - set(before[0])
                (guard,) = guards
                mount.remount()
                equal((domains.current(mount), byte(mount), frozen_byte(mount, guard)), ("one", 1, 3), what)


def test_guard_that_is_refused():
    """Where the guard can't be taken nothing is gone back"""
    with Mounted(lambda source: domains.web1(source, follows=False, formats=("qcow2", "raw"))) as mount:
        create(mount, "one disk=vdb:no")
        write(mount, 5)
        with Unchanged(mount):
            command_refused(errno.EPERM, mount, "web1", "snapshots/one/revert", "guard", ["follows"])


def test_disks_left_out():
    """A disk that the snapshot left out keeps its content, and the result names it"""
    with Mounted(lambda source: domains.web1(source, formats=("qcow2", "qcow2"))) as mount:
        create(mount, "one disk=vdb:no")
        write(mount, 8)
        write(mount, 9, target="vdb")
        said = command_of(mount, "web1", "one", "revert", "1")
        equal((byte(mount), byte(mount, target="vdb")), (1, 9))
        assert "vdb" in said, f"the result does not name the disk that was kept: {said!r}"
        assert "vdb" in mount.text("web1", "snapshots", "one", "revert"), "reading the file later does not tell the last result"


def test_disks_added_and_removed():
    """A disk that was added since keeps its content; one that was removed since needs `force`"""
    with Mounted(lambda source: domains.web1(source, formats=("qcow2", "qcow2"))) as mount:
        create(mount, "one disk=vda:external disk=vdb:external")
        write(mount, 8)
        added = make.write(make.image(mount.source, "added.qcow2", str(domains.SIZE)), "4 0 64k")
        assert added is None
        disks = [make.disk("web1.qcow2"), make.disk("added.qcow2", "vdc")]
        make.definition(mount.source, "web1", disks=disks, follows=True)
        wait_for(lambda: os.listdir(mount.path("web1", "disks")) == ["vda", "vdc"], "the new definition")
        with Unchanged(mount):
            command_refused(errno.EINVAL, mount, "web1", "snapshots/one/revert", "1", ["force"])
        said = command_of(mount, "web1", "one", "revert", "force")
        equal((byte(mount), byte(mount, target="vdc")), (1, 4))
        assert "vdc" in said, said


def test_virtual_size():
    """A disk that grew is as long as it was again"""
    with Mounted(domains.web1) as mount:
        create(mount, "inner disk=vda:internal")
        create(mount, "outer disk=vda:external")
        path, _ = administer.source(mount, "web1")
        administer.run_unlocked(["qemu-img", "resize", "-q", "-f", "qcow2", path, str(2 * domains.SIZE)])
        wait_for(lambda: int(mount.text("web1", "disks", "vda", "size")) == 2 * domains.SIZE, "the new size")
        take(mount, "grown")
        equal(len(administer.frozen_bytes(mount, "web1", "grown")), 2 * domains.SIZE)
        for name, size in (("inner", 1), ("grown", 2), ("outer", 1)):
            command_of(mount, "web1", name, "revert", "1")
            equal(len(administer.active_bytes(mount, "web1")), size * domains.SIZE, name)
            equal(int(mount.text("web1", "disks", "vda", "size")), size * domains.SIZE, name)


def test_of_other_tools():
    """Snapshots by qemu-img, and overlays as virsh makes them, are gone back to like ours"""

    def prepare(source):
        domains.web1(source)
        image = os.path.join(source, "web1.qcow2")
        make.snapshot(image, "inner")
        make.write(image, "2 0 64k")
        overlay = make.overlay(image, "web1.snap1")
        make.write(overlay, "3 0 64k")
        make.definition(source, "web1", disks=[make.disk("web1.snap1")], follows=True)

    with Mounted(prepare) as mount:
        equal(mount.snapshots("web1"), ["inner", "snap1"])
        for name, value in (("inner", 1), ("snap1", 2), ("inner", 1)):
            command_of(mount, "web1", name, "revert", "guard")
            equal((byte(mount), domains.current(mount)), (value, name))
            write(mount, 50)
        equal((frozen_byte(mount, "inner"), frozen_byte(mount, "snap1")), (1, 2))
        equal(sorted(map(lambda name: frozen_byte(mount, name), mount.snapshots("web1"))), [1, 2, 3, 50, 50])


def test_survives():
    """After a remount the domain is where it was gone back to"""
    for kind in ("internal", "external"):
        with Mounted(domains.web1) as mount:
            domains.chain(mount, ("one", "two"), kind)
            command_of(mount, "web1", "one", "revert", "1")
            source = administer.source(mount, "web1")
            mount.remount()
            equal((administer.source(mount, "web1"), byte(mount), domains.current(mount)), (source, 1, "one"), kind)
            equal((frozen_byte(mount, "one"), frozen_byte(mount, "two")), (1, 2), kind)


if __name__ == "__main__":
    checks.main(globals())
