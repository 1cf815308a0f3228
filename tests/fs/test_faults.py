# SPDX-License-Identifier: LGPL-2.1-or-later
"""Full disks, images in use, damaged state: what can't be done is refused or undone, and nothing is lost."""

import errno
import os
import shutil
import signal
import subprocess
import time

import administer
import checks
import domains
import make
from administer import command_of, command_refused, refused, snapshot_path
from checks import equal
from domains import Unchanged, byte, create, frozen_byte, take, write
from mounted import HOPELESS, Mounted, children, wait_for

DAMAGED = r"state|store|damaged|can't be (read|used)|read-only"


def test_image_in_use():
    """Any other process that has the image open for writing: EBUSY, naming it; afterwards it works"""
    with Mounted(lambda source: domains.web1(source, formats=("qcow2", "raw", "qcow2"))) as mount:
        create(mount, "one disk=vda:internal disk=vdb:external disk=vdc:internal")
        for target in ("vda", "vdb", "vdc"):
            path, image_format = administer.source(mount, "web1", target)
            with domains.Holder(mount, path, image_format) as holder:
                before = administer.names_beside(mount)
                for words in ("two", "two disk=vda:external disk=vdb:external disk=vdc:external", f"two disk={target}:internal"):
                    line = command_refused(errno.EBUSY, mount, "web1", "create", words, [str(holder.pid)])
                    assert "qemu-nbd" in line, f"it is not named: {line}"
                refused(errno.EBUSY, mount, "web1", take, mount, "two")
                command_refused(errno.EBUSY, mount, "web1", "snapshots/one/revert", "1", [str(holder.pid)])
                equal((mount.snapshots("web1"), administer.names_beside(mount)), (["one"], before))
            take(mount, "two")
            command_of(mount, "web1", "two", "delete", "1")
            administer.wait_idle(mount)


def test_disk_that_is_left_out_may_be_in_use():
    """A disk that the snapshot leaves out is nobody's business"""
    with Mounted(lambda source: domains.web1(source, formats=("qcow2", "qcow2"))) as mount:
        path, _ = administer.source(mount, "web1", "vdb")
        with domains.Holder(mount, path):
            equal(mount.text("web1", "state"), "running\n")


def test_no_room():
    """ENOSPC is found before anything is touched; what must be merged to free space waits, and goes on when there is room"""
    with domains.small_file_system(96) as directory:
        domains.web1(directory, formats=("qcow2", "raw", "qcow2"))
        with Mounted(source=directory, expected=[r"room|space|ENOSPC"]) as mount:
            for name, value in (("one", 11), ("two", 12)):
                create(mount, f"{name} disk=vda:external disk=vdb:external disk=vdc:internal")
                write(mount, value, at=65536)
            before = {name: administer.frozen_bytes(mount, "web1", name, "vda") for name in ("one", "two")}
            filler = domains.fill(directory)
            with Unchanged(mount):
                for words in ("three", "three disk=vda:external disk=vdb:external disk=vdc:external"):
                    command_refused(errno.ENOSPC, mount, "web1", "create", words)
                command_refused(errno.ENOSPC, mount, "web1", "snapshots/one/clone", "web2 full", ["room"])
                command_refused(errno.ENOSPC, mount, "web1", "snapshots/one/revert", "1")
            os.unlink(filler)
            create(mount, "three")
            filler = domains.fill(directory)
            for name in ("three", "one"):
                os.rmdir(snapshot_path(mount, "web1", name))
            equal(mount.snapshots("web1"), ["two"])
            assert administer.frozen_bytes(mount, "web1", "two", "vda") == before["two"]
            equal(byte(mount, at=65536), 12)
            os.unlink(filler)
            os.rmdir(snapshot_path(mount, "web1", "two"))
            for target, name in (("vda", "web1.qcow2"), ("vdb", "web1-b.img"), ("vdc", "web1-c.qcow2")):
                wait_for(lambda target=target: len(administer.layers(mount, "web1", target)) == 1, "the merges that waited for room")
                domains.home(mount, target=target, name=name)
            equal(byte(mount, at=65536), 12)


def state_files(mount):
    """The store's files of domains."""
    found = []
    for where, _, names in os.walk(os.path.join(mount.source, ".vmsnapfs")):
        for name in names:
            path = os.path.join(where, name)
            with open(path, "rb") as file:
                if b"upgrade" in file.read():
                    found.append(path)
    return found


def test_damaged_state():
    """A half-written or damaged state file: the domain is only read, with the reason, and nothing is lost"""
    damages = (
        ("half", lambda data: data[: len(data) // 2]),
        ("empty", lambda data: b""),
        ("zeros", lambda data: bytes(len(data))),
        ("other text", lambda data: b"something else\n"),
    )
    for what, damage in damages:
        with Mounted(domains.web1, expected=[DAMAGED]) as mount:
            create(mount, "upgrade disk=vda:internal")
            write(mount, 2)
            create(mount, "friday disk=vda:external")
            write(mount, 3)
            whole = {}
            mount.unmount()
            files = state_files(mount)
            assert files, "no file of the store knows the snapshot's name"
            for path in files:
                with open(path, "rb") as file:
                    whole[path] = file.read()
                with open(path, "wb") as file:
                    file.write(damage(whole[path]))
            images = {path: make.convert(path, os.path.join(mount.room, "raw")) for path in administer.images(mount.source)}
            mount.mount()
            problem = mount.text("web1", "domain.json")
            assert '"problem": null' not in problem, f"{what}: no reason is told"
            equal(administer.source(mount, "web1")[0], "", "it may be frozen")
            refused((errno.EROFS, errno.EIO), mount, "web1", take, mount, "more")
            for name in mount.snapshots("web1"):
                refused((errno.EROFS, errno.EIO, errno.EPERM), mount, "web1", os.rmdir, snapshot_path(mount, "web1", name))
            mount.unmount()
            for path, data in images.items():
                assert make.convert(path, os.path.join(mount.room, "raw")) == data, f"{what}: {path} was changed"
            for path, data in whole.items():
                with open(path, "rb") as file:
                    assert file.read() == damage(data), f"{what}: the damaged file was overwritten"
                with open(path, "wb") as file:
                    file.write(data)
            mount.mount()
            equal(domains.parents(mount), {"upgrade": None, "friday": "upgrade"}, what)
            equal((frozen_byte(mount, "upgrade"), frozen_byte(mount, "friday"), byte(mount)), (1, 2, 3), what)
            take(mount, "more")


def test_lost_store():
    """Without the store, images stay as they are, and what stands in them is seen"""
    with Mounted(lambda source: domains.web1(source, follows=False)) as mount:
        take(mount, "one")
        write(mount, 2)
        mount.unmount()
        shutil.rmtree(os.path.join(mount.source, ".vmsnapfs"))
        mount.mount()
        equal((mount.snapshots("web1"), frozen_byte(mount, "one"), byte(mount)), (["one"], 1, 2))


def test_changed_by_someone_else():
    """A frozen layer that somebody wrote to is EIO to read and to go back to, and is never written again"""
    with Mounted(domains.web1, expected=[r"changed by someone else"]) as mount:
        domains.chain(mount, ("one", "two"))
        image = os.path.join(mount.source, "web1.qcow2")
        make.write(image, "99 0 4k")
        with open(image, "rb") as file:
            before = file.read()

        def read():
            with open(mount.frozen("web1", "one"), "rb") as file:
                file.read(4096)

        wait_for(lambda: fails(read), "the change to be noticed")
        checks.fails_with(errno.EIO, read)
        command_refused(errno.EIO, mount, "web1", "snapshots/one/revert", "1", ["someone else"])
        for name in ("one", "two"):
            os.rmdir(snapshot_path(mount, "web1", name))
        administer.wait_idle(mount)
        equal(byte(mount), 3)
        with open(image, "rb") as file:
            assert file.read() == before, "it was written"


def fails(function):
    try:
        function()
    except OSError:
        return True
    return False


def helpers(mount):
    """Processes that the daemon started."""
    return children(mount.process.pid)


def test_helpers_that_die():
    """A storage daemon that is killed at any time: the operation is undone or done, reported, and the next one works"""
    random = checks.seed()
    with Mounted(lambda source: domains.web1(source, formats=("qcow2", "qcow2")), expected=[r".*"]) as mount:
        failures = 0
        for number in range(30):
            name = f"s{number}"
            words = f"{name} disk=vda:{random.choice(('internal', 'external'))} disk=vdb:{random.choice(('internal', 'external'))}"
            before = (mount.snapshots("web1"), administer.names_beside(mount))
            writer = subprocess.Popen(["sh", "-c", 'echo "$1" >"$0"', mount.path("web1", "create"), words], stderr=subprocess.DEVNULL)
            time.sleep(random.random() * 0.03)
            for pid in helpers(mount):
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass
            status = writer.wait()
            there = name in mount.snapshots("web1")
            equal(there, status == 0, f"{name}: status {status}")
            if not there:
                failures += 1
                equal((mount.snapshots("web1"), administer.names_beside(mount)), before, "what was undone has left something")
            write(mount, number + 1)
        print(f"    {failures} of 30 failed")
        take(mount, "last")
        for path in administer.images(mount.source):
            administer.check_image(path, leaks_allowed=True)


def test_end_in_the_middle():
    """Ended by a signal in the middle of an operation: it is undone or finished, soon, and answered"""
    for number in (signal.SIGTERM, signal.SIGINT):

        def prepare(source):
            make.filled(os.path.join(source, "big.img"), 400 * make.MIB)
            make.definition(source, "web1", disks=[make.disk("big.img", image_format="raw")], follows=True)

        with Mounted(prepare) as mount:
            create(mount, "one disk=vda:external")
            writer = subprocess.Popen(["sh", "-c", 'echo "web2 full" >"$0"', mount.path("web1", "snapshots", "one", "clone")], stderr=subprocess.DEVNULL)
            wait_for(lambda: administer.jobs(mount, "web1") or writer.poll() is not None, "the copy")
            mount.process.send_signal(number)
            begin = time.monotonic()
            status = mount.process.wait()
            assert time.monotonic() < begin + HOPELESS, "it took long"
            mount.process = None
            done = writer.wait() == 0
            equal(status, 0)
            mount.mount()
            equal("web2" in os.listdir(mount.mountpoint), done)
            equal(bool([name for name in administer.names_beside(mount) if "web2" in name]), done)
            equal(mount.snapshots("web1"), ["one"])


def test_source_read_only():
    """Where the source can't be written administration is EROFS"""
    with domains.small_file_system(64) as directory:
        domains.web1(directory)
        subprocess.run(["mount", "-o", "remount,ro", directory], check=True)
        with Mounted(source=directory) as mount:
            checks.fails_with(errno.EROFS, take, mount, "one")
            checks.fails_with(errno.EROFS, create, mount, "one")


if __name__ == "__main__":
    checks.main(globals())
