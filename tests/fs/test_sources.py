# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a source is made of: definitions, implicit domains, which files may be followed, and what comes and goes."""

import errno
import json
import os
import shutil
import socket
import tempfile

import checks
import make
from checks import equal, fails_with
from mounted import Mounted, MountFailed, new_room, run, wait_for


def domains(mount):
    return sorted(set(os.listdir(mount.mountpoint)) - {".vmsnapfs"})


def with_snapshot(path, tag="clean"):
    make.write(path, "1 0 64k")
    make.snapshot(path, tag)
    return path


def test_definitions():
    """A definition's names, disks and files are what the tree shows"""
    mount = Mounted()
    for name in ("a.qcow2", "b.qcow2"):
        with_snapshot(make.image(mount.source, name))
    make.filled(os.path.join(mount.source, "data.img"), 4096)
    make.definition(mount.source, "web", disks=[make.disk("a.qcow2"), make.disk("data.img", "vdb", "raw")])
    make.definition(mount.source, "file", name="called", disks=[make.disk(os.path.join(mount.source, "b.qcow2"), "hda", snapshot="no")])
    with mount:
        equal(domains(mount), ["called", "web"])
        equal(mount.text("web", "disks", "vdb", "format"), "raw\n")
        equal(mount.text("web", "disks", "vdb", "source"), os.path.join(mount.source, "data.img") + "\n")
        equal(mount.text("web", "snapshots", "clean", "missing"), "vdb\n")
        equal(os.listdir(mount.path("called", "snapshots", "clean", "disks")), ["hda.raw"])


def test_bad_definitions():
    """A definition that can't be read leaves its domain out, says why, and stops nothing else"""
    good = {"disks": [make.disk("a.qcow2")]}
    bad = {
        "broken": "{",
        "list": "[]",
        "empty": "",
        "misspelt": json.dumps({**good, "diskz": []}),
        "noformat": json.dumps({"disks": [{"target": "vda", "source": "a.data"}]}),
        "wrongformat": json.dumps({"disks": [make.disk("a.qcow2", image_format="floppy")]}),
        "twice": json.dumps({"disks": [make.disk("a.qcow2"), make.disk("a.qcow2")]}),
        "number": json.dumps({**good, "name": 7}),
        "slash": json.dumps({**good, "name": "a/b"}),
        "uuid": json.dumps({**good, "uuid": "nonsense"}),
        "deep": "[" * 100000 + "]" * 100000,
        "long": json.dumps({**good, "name": "n" * 256}),
        "huge": " " * (2 << 20) + json.dumps(good),
    }
    mount = Mounted(expected=[r"\.json"])
    with_snapshot(make.image(mount.source, "other.qcow2"))
    for name, text in bad.items():
        with open(os.path.join(mount.source, name + ".json"), "w", encoding="utf-8") as file:
            file.write(text)
    os.mkfifo(os.path.join(mount.source, "fifo.json"))
    os.mkdir(os.path.join(mount.source, "directory.json"))
    with mount:
        equal(domains(mount), ["other"])
        log = mount.service_log()
        for name in bad:
            assert f"{name}.json" in log, f"no word about {name}.json in the log"
        assert "diskz" in log, "the misspelt key is not named"
        with open(os.path.join(mount.source, "broken.json"), "w", encoding="utf-8") as file:
            file.write(json.dumps({"disks": [make.disk("other.qcow2")]}))
        wait_for(lambda: domains(mount) == ["broken"], "the mended definition")


def test_implicit_domains():
    """A qcow2 image is a domain, unless a definition names it or another image stands on it"""
    mount = Mounted()
    source = mount.source
    for name in ("alone", "named", "base"):
        with_snapshot(make.image(source, name + ".qcow2"))
    make.definition(source, "defined", disks=[make.disk("named.qcow2")])
    make.overlay(os.path.join(source, "base.qcow2"), "base.snap1")
    make.overlay(os.path.join(source, "base.snap1"), "base.snap2")
    golden = with_snapshot(make.image(source, "golden.qcow2"))
    make.overlay(golden, "vm.qcow2")
    for other in ("readme.txt", "disk.raw", "disk.img", "data.bin"):
        make.filled(os.path.join(source, other), 1024)
    os.mkdir(os.path.join(source, "below"))
    make.image(os.path.join(source, "below"), "deeper.qcow2")
    os.mkdir(os.path.join(source, "directory.qcow2"))
    with mount:
        equal(domains(mount), ["alone", "base", "defined", "vm"])
        equal(mount.text("base", "disks", "vda", "source"), os.path.join(source, "base.snap2") + "\n")
        equal(mount.snapshots("base"), ["clean", "snap1", "snap2"])
        equal(mount.text("base", "snapshots", ".order").split()[-2:], ["snap1", "snap2"])
        equal(mount.text("vm", "disks", "vda", "source"), os.path.join(source, "vm.qcow2") + "\n")


def test_backing_format():
    """A backing file of which nothing tells the format is read with -o backing-format= alone"""
    mount = Mounted(expected=[r"backing-format="])
    base = make.filled(os.path.join(mount.source, "base.data"), 1 << 20)
    top = make.overlay(base, "vm.qcow2", backing_format="raw")
    import images

    assert images.forget_backing_format(top)
    make.snapshot(top, "clean")
    with mount:
        assert "backing-format=" in mount.service_log(), "the log does not name the option"
        if "vm" in domains(mount) and "clean" in mount.snapshots("vm"):
            fails_with((errno.EINVAL, errno.EPERM, errno.EIO, errno.EOPNOTSUPP), mount.read, mount.frozen("vm", "clean"))
        mount.remount("backing-format=raw")
        with open(base, "rb") as file:
            equal(mount.read(mount.frozen("vm", "clean")), file.read())


def test_outside_files():
    """Files outside the source are followed with allow=, or where a trusted definition names them, else refused"""
    with tempfile.TemporaryDirectory() as outside:
        base = make.image(outside, "base.qcow2")
        make.write(base, "7 0 1M")
        secret = with_snapshot(make.image(outside, "secret.qcow2"), "s")
        mount = Mounted(expected=[r"allow="])
        top = make.overlay(base, os.path.join(mount.source, "vm.qcow2"), told=base)
        make.snapshot(top, "clean")
        os.symlink(secret, os.path.join(mount.source, "link.qcow2"))
        link = make.overlay(secret, os.path.join(mount.source, "through.qcow2"), told="link.qcow2")
        make.snapshot(link, "clean")
        with mount:
            assert "allow=" in mount.service_log(), "the log does not name the option"
            for name in ("vm", "through"):
                if "clean" in mount.snapshots(name):
                    fails_with(errno.EPERM, mount.read, mount.frozen(name, "clean"))
            assert "link" not in domains(mount) or not mount.snapshots("link"), "a symbolic link out of the source was followed"
            mount.remount("allow=" + outside)
            equal(mount.read(mount.frozen("vm", "clean"))[: 1 << 20], bytes([7]) * (1 << 20))
            mount.unmount()
            mount.options = ""
            make.definition(mount.source, "trusted", disks=[make.disk(secret)])
            mount.mount()
            equal(mount.read(mount.frozen("trusted", "s"))[:65536], bytes([1]) * 65536)


def test_untrusted_definitions():
    """A definition that others can write to names no file outside the source, nor does one of another user"""
    checks.need_root()
    with tempfile.TemporaryDirectory() as outside:
        secret = with_snapshot(make.image(outside, "secret.qcow2"), "s")
        mount = Mounted(expected=[r"allow=|trust|others|secret"])
        inside = with_snapshot(make.image(mount.source, "inside.qcow2"))
        for name in ("group", "others", "owner"):
            make.definition(mount.source, name, disks=[make.disk(secret)])
        make.definition(mount.source, "harmless", disks=[make.disk(inside)])
        os.chmod(os.path.join(mount.source, "group.json"), 0o664)
        os.chmod(os.path.join(mount.source, "others.json"), 0o646)
        os.chmod(os.path.join(mount.source, "harmless.json"), 0o666)
        os.chown(os.path.join(mount.source, "owner.json"), 12345, 12345)
        with mount:
            for name in ("group", "others", "owner"):
                equal(mount.snapshots(name), [], name)
            equal(mount.read(mount.frozen("harmless", "clean"))[:1], b"\1")
            mount.unmount()
            os.chmod(os.path.join(mount.source, "group.json"), 0o644)
            mount.mount()
            equal(mount.snapshots("group"), ["s"])


def test_read_only_source():
    """A source that can't be written is shown, with numbers that stay, and nothing is written"""
    checks.need_root()
    mount = Mounted()
    with_snapshot(make.image(mount.source, "vm.qcow2"))
    run("mount", "--bind", mount.source, mount.source)
    run("mount", "-o", "remount,bind,ro", mount.source)
    try:
        with mount:
            equal(mount.read(mount.frozen("vm", "clean"))[:1], b"\1")
            number = os.stat(mount.frozen("vm", "clean")).st_ino
            fails_with(errno.EROFS, os.mkdir, mount.path("vm", "snapshots", "new"))
            mount.remount()
            equal(os.stat(mount.frozen("vm", "clean")).st_ino, number)
            assert not os.path.exists(os.path.join(mount.source, ".vmsnapfs"))
            mount.unmount()
    finally:
        run("umount", mount.source)


def test_full_source():
    """A source on a file system without room for the store is shown all the same; with room again it has one"""
    checks.need_root()
    mount = Mounted(expected=["the store is not used", "identity: No space left"])
    run("mount", "-t", "tmpfs", "-o", "size=16M", "none", mount.source)
    try:
        path = make.image(mount.source, "vm.qcow2")
        make.write(path, "7 0 1M")
        make.snapshot(path, "clean")
        with open(os.path.join(mount.source, "fill"), "wb", buffering=0) as file:
            try:
                while True:
                    file.write(bytes(4096))
            except OSError as error:
                equal(error.errno, errno.ENOSPC)
        with mount:
            equal(mount.read(mount.frozen("vm", "clean"))[: make.MIB], bytes([7]) * make.MIB)
            fails_with(errno.EROFS, os.mkdir, mount.path("vm", "snapshots", "new"))
            mount.unmount()
            os.unlink(os.path.join(mount.source, "fill"))
            mount.mount()
            os.mkdir(mount.path("vm", "snapshots", "new"))
            equal(mount.snapshots("vm"), ["clean", "new"])
            assert os.path.exists(os.path.join(mount.source, ".vmsnapfs", "version"))
    finally:
        run("umount", mount.source)


def test_ro_writes_nothing():
    """With -o ro the source stays as it was, to the last byte and time"""
    mount = Mounted(options="ro")
    with_snapshot(make.image(mount.source, "vm.qcow2"))
    before = {name: os.lstat(os.path.join(mount.source, name)) for name in [".", *os.listdir(mount.source)]}
    with mount:
        mount.read(mount.frozen("vm", "clean"))
        after = {name: os.lstat(os.path.join(mount.source, name)) for name in [".", *os.listdir(mount.source)]}
        equal({name: (s.st_mtime_ns, s.st_size) for name, s in after.items()}, {name: (s.st_mtime_ns, s.st_size) for name, s in before.items()})


def test_one_writable_mount():
    """A second writable mount fails and names host and pid of the first; ro ones are as many as one likes"""
    with Mounted() as first:
        with_snapshot(make.image(first.source, "vm.qcow2"))
        try:
            with Mounted(source=first.source):
                raise AssertionError("the second mount succeeded")
        except MountFailed as failure:
            equal(failure.status, 32)
            equal(len(failure.said.strip().splitlines()), 1, failure.said)
            assert socket.gethostname() in failure.said and str(first.process.pid) in failure.said, failure.said
        with Mounted(source=first.source, options="ro") as second, Mounted(source=first.source, options="ro") as third:
            wait_for(lambda: domains(first) == ["vm"], "the domain")
            equal((domains(second), domains(third)), (["vm"], ["vm"]))
            first_number = os.stat(first.path("vm")).st_ino
            assert first_number, "no inode number"


def test_newer_store():
    """A store of a newer version is read and left alone"""
    mount = Mounted(expected=[r"version|newer"])
    with_snapshot(make.image(mount.source, "vm.qcow2"))
    with mount:
        mount.unmount()
        version = os.path.join(mount.source, ".vmsnapfs", "version")
        with open(version, "w", encoding="ascii") as file:
            file.write("2\n")
        mount.mount()
        equal(mount.read(mount.frozen("vm", "clean"))[:1], b"\1")
        fails_with(errno.EROFS, os.mkdir, mount.path("vm", "snapshots", "new"))
        with open(version, encoding="ascii") as file:
            equal(file.read(), "2\n")


def test_store_of_someone_else():
    """A store that others can write to is not used, and the mount says so"""
    mount = Mounted()
    make.image(mount.source, "vm.qcow2")
    os.mkdir(os.path.join(mount.source, ".vmsnapfs"))
    os.chmod(os.path.join(mount.source, ".vmsnapfs"), 0o777)
    try:
        with mount:
            raise AssertionError("mounted with a store that anyone can write to")
    except MountFailed as failure:
        assert ".vmsnapfs" in failure.said, failure.said


def test_mount_point_inside_the_source():
    """The mount point may lie in the source"""
    mount = Mounted(expected=[r"new\.qcow2: (is too short for a|is no) qcow2 image"])  # seen while qemu-img makes it
    with_snapshot(make.image(mount.source, "vm.qcow2"))
    mount.mountpoint = os.path.join(mount.source, "mnt")
    os.mkdir(mount.mountpoint)
    with mount:
        equal(mount.read(mount.frozen("vm", "clean"))[:1], b"\1")
        make.image(mount.source, "new.qcow2")
        wait_for(lambda: domains(mount) == ["new", "vm"], "the new image")


def test_names_with_odd_characters():
    """A source and images with spaces, commas, backslashes and UTF-8 in their names"""
    source = os.path.join(new_room(), "a, b\\c ünï'\"%s")
    os.mkdir(source)
    with_snapshot(make.image(source, "my vm, the first.qcow2"))
    with Mounted(source=source) as mount:
        equal(mount.read(mount.frozen("my vm, the first", "clean"))[:1], b"\1")


def test_coming_and_going():
    """Images, definitions, snapshots and overlays that come and go are noticed without a remount"""
    half_written = r"vm\.(qcow2|snap1): (is too short for a|is no) qcow2 image"  # seen while qemu-img makes it
    with Mounted(expected=[half_written]) as mount:
        vm = make.image(mount.source, "vm.qcow2")
        wait_for(lambda: domains(mount) == ["vm"], "the image")
        with_snapshot(vm, "one")
        wait_for(lambda: mount.snapshots("vm") == ["one"], "the snapshot")
        assert "one" in mount.text("vm", "tree.txt")
        with open(mount.frozen("vm", "one"), "rb") as reader:
            equal(reader.read(1), b"\1")
            make.snapshot(vm, "two")
            wait_for(lambda: mount.snapshots("vm") == ["one", "two"], "the second snapshot")
            equal(os.readlink(mount.path("vm", "latest")), "snapshots/two")
            make.delete_snapshot(vm, "two")
            wait_for(lambda: mount.snapshots("vm") == ["one"], "the second snapshot to go")
            reader.seek(0)
            equal(reader.read(1), b"\1")
        fails_with(errno.ENOENT, os.stat, mount.frozen("vm", "two"))
        top = make.overlay(vm, "vm.snap1")
        wait_for(lambda: mount.snapshots("vm") == ["one", "snap1"], "the overlay")
        os.unlink(top)
        wait_for(lambda: mount.snapshots("vm") == ["one"], "the overlay to go")
        make.definition(mount.source, "defined", disks=[make.disk("vm.qcow2")])
        wait_for(lambda: domains(mount) == ["defined"], "the definition")
        os.unlink(os.path.join(mount.source, "defined.json"))
        wait_for(lambda: domains(mount) == ["vm"], "the definition to go")
        os.rename(vm, os.path.join(mount.source, "other.qcow2"))
        wait_for(lambda: domains(mount) == ["other"], "the image to be renamed")
        os.unlink(os.path.join(mount.source, "other.qcow2"))
        wait_for(lambda: domains(mount) == [], "the image to go")
        fails_with(errno.ENOENT, os.stat, mount.path("vm"))


def test_many_domains():
    """A hundred images at once, and a listing of all while they change"""
    mount = Mounted()
    first = with_snapshot(make.image(mount.source, "vm000.qcow2", "1M"))
    for number in range(1, 100):
        shutil.copy(first, os.path.join(mount.source, f"vm{number:03}.qcow2"))
    with mount:
        names = [f"vm{number:03}" for number in range(100)]
        equal(domains(mount), names)
        for number in range(0, 100, 2):
            os.unlink(os.path.join(mount.source, f"vm{number:03}.qcow2"))
            assert set(names[1::2]) <= set(domains(mount)), "a domain that stayed was left out of a listing"
        wait_for(lambda: domains(mount) == names[1::2], "half of them to go")


if __name__ == "__main__":
    checks.main(globals())
