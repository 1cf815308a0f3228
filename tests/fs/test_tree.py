# SPDX-License-Identifier: LGPL-2.1-or-later
"""The tree as a reader sees it: names, links, order, attributes, and what stays the same over a remount."""

import json
import os
import re
import stat
import time

import checks
import make
from checks import equal, fails_with
from mounted import Mounted, run, wait_for

DOMAIN = {"create", "current", "defaults", "disks", "domain.json", "events", "jobs", "last_error", "latest", "power", "snapshots", "state",
          "tree", "tree.txt"}  # fmt: skip
SNAPSHOT = {"children", "clone", "consistency", "created", "delete", "description", "disks", "missing", "protected", "revert",
            "snapshot.json", "snapshot.xml", "state", "unique_bytes"}  # fmt: skip
DISK = {"abort", "copy", "format", "layers", "persistent", "pivot", "size", "snapshot", "source"}
CHANGING = {"log", "stats", "unique_bytes"}  # files whose text differs from one read to the next
MODES = {"create": 0o600, "defaults": 0o600, "power": 0o600, "revert": 0o600, "delete": 0o600, "clone": 0o600,
         "description": 0o600, "protected": 0o600, "copy": 0o600, "pivot": 0o600, "abort": 0o600}  # fmt: skip


def two_disks(source):
    """web1 with two disks, snapshots clean (both) and partial (vda alone), and db, an image with an overlay."""
    for name in ("vda.qcow2", "vdb.qcow2"):
        path = make.image(source, name)
        make.write(path, "1 0 64k", "2 1M 128k")
        make.snapshot(path, "clean")
    make.write(os.path.join(source, "vda.qcow2"), "3 64k 64k")
    make.snapshot(os.path.join(source, "vda.qcow2"), "partial")
    make.definition(source, "web1", uuid="7a4c1b1e-0000-4000-8000-00000000abcd",
                    disks=[make.disk("vda.qcow2"), make.disk("vdb.qcow2", "vdb", snapshot="external", persistent=False)])  # fmt: skip
    base = make.image(source, "db.qcow2", "5M")
    make.write(base, "9 0 1M")
    make.overlay(base, "db.snap1")


def walk(mount):
    """{path: stat} of everything below the mount."""
    found = {}
    for directory, directories, files in os.walk(mount.mountpoint):
        for name in directories + files:
            path = os.path.join(directory, name)
            found[os.path.relpath(path, mount.mountpoint)] = os.lstat(path)
    return found


def test_names():
    """Every directory has the entries of the contract, and no others"""
    with Mounted() as mount:
        equal(os.listdir(mount.mountpoint), [".vmsnapfs"])
    with Mounted(two_disks) as mount:
        equal(set(os.listdir(mount.mountpoint)), {".vmsnapfs", "db", "web1"})
        equal(set(os.listdir(mount.path(".vmsnapfs"))), {"help", "log", "stats", "version"})
        equal(set(os.listdir(mount.path("web1"))) | {"current"}, DOMAIN)
        equal(set(os.listdir(mount.path("web1", "disks"))), {"vda", "vdb"})
        equal(set(os.listdir(mount.path("web1", "disks", "vdb"))), DISK)
        equal(mount.snapshots("web1"), ["clean", "partial"])
        equal(set(os.listdir(mount.path("web1", "snapshots", "clean"))) - {"parent"}, SNAPSHOT)
        equal(set(os.listdir(mount.path("web1", "snapshots", "clean", "disks"))), {"vda.raw", "vdb.raw"})
        equal(set(os.listdir(mount.path("web1", "snapshots", "partial", "disks"))), {"vda.raw"})
        equal(mount.text("web1", "snapshots", "partial", "missing"), "vdb\n")
        equal(mount.snapshots("db"), ["snap1"])
        for missing in ("nothing", "web1/nothing", "web1/snapshots/none", "web1/snapshots/clean/disks/vdz.raw", "web1/tree/none"):
            fails_with(2, os.stat, mount.path(missing))
        fails_with(20, os.stat, mount.path("web1/state/x"))


def test_order():
    """Plain files come before directories, and .order first in snapshots/, with the names by age"""
    with Mounted(two_disks) as mount:
        for directory, _, _ in os.walk(mount.mountpoint):
            kinds = [entry.is_dir(follow_symlinks=False) for entry in os.scandir(directory) if entry.name != ".vmsnapfs"]
            equal(kinds, sorted(kinds), directory)
        equal(os.listdir(mount.path("web1", "snapshots"))[0], ".order")
        equal(mount.text("web1", "snapshots", ".order"), "clean\npartial\n")


def test_texts():
    """One-value files hold their value and a newline, documents are JSON, and all say the same"""
    with Mounted(two_disks) as mount:
        for path, wanted in {
            "web1/state": "shutoff", "web1/disks/vda/format": "qcow2", "web1/disks/vda/size": str(8 * make.MIB),
            "web1/disks/vdb/persistent": "0", "web1/disks/vda/source": os.path.join(mount.source, "vda.qcow2"),
            "web1/disks/vdb/snapshot": "external", "db/disks/vda/source": os.path.join(mount.source, "db.snap1"),
            "web1/snapshots/clean/consistency": "crash", "web1/snapshots/clean/protected": "0", "db/snapshots/snap1/protected": "1",
        }.items():  # fmt: skip
            found = mount.text(path)
            assert found in (wanted + "\n", {"0": "no\n", "1": "yes\n"}.get(wanted)), f"{path}: {found!r}"
        layers = mount.text("db", "disks", "vda", "layers").split()
        equal([os.path.basename(path) for path in layers], ["db.snap1", "db.qcow2"])
        created = mount.text("web1", "snapshots", "clean", "created")
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z\n", created), created
        document = json.loads(mount.text("web1", "snapshots", "clean", "snapshot.json"))
        equal((document["name"], document["created"] + "\n", document["domain"]), ("clean", created, "web1"))
        equal([one["target"] for one in document["disks"]], ["vda", "vdb"])
        domain = json.loads(mount.text("web1", "domain.json"))
        equal((domain["name"], domain["uuid"], domain["snapshots"]), ("web1", "7a4c1b1e-0000-4000-8000-00000000abcd", ["clean", "partial"]))
        drawn = mount.text("web1", "tree.txt")
        assert drawn.startswith("web1\n") and "clean" in drawn and "partial" in drawn, drawn
        assert re.fullmatch(r"\d+\.\d+\.\d+\n", mount.text(".vmsnapfs", "version"))
        assert "vmsnapfs" in mount.text(".vmsnapfs", "help")


def test_attributes():
    """Lengths are exact; types, modes, owners, times and block sizes are those of the contract"""
    with Mounted(two_disks) as mount:
        for path, status in walk(mount).items():
            name = os.path.basename(path)
            if stat.S_ISDIR(status.st_mode):
                equal(stat.S_IMODE(status.st_mode), 0o755, path)
            elif stat.S_ISREG(status.st_mode) and not name.endswith(".raw"):
                equal(stat.S_IMODE(status.st_mode), MODES.get(name, 0o444), path)
                content = mount.read(path)
                if name not in ("log", "stats"):
                    equal(len(content), status.st_size, path)
            elif stat.S_ISLNK(status.st_mode):
                equal(len(os.readlink(mount.path(path))), status.st_size, path)
            equal((status.st_uid, status.st_gid), (os.getuid(), os.getgid()), path)
        created = mount.text("web1", "snapshots", "clean", "created").strip()
        seconds, fraction = created.rstrip("Z").split(".")
        nanoseconds = int(time.mktime(time.strptime(seconds + " UTC", "%Y-%m-%dT%H:%M:%S %Z")) - time.timezone) * 10**9 + int(fraction)
        frozen = os.stat(mount.frozen("web1", "clean"))
        equal((frozen.st_size, stat.S_IMODE(frozen.st_mode), frozen.st_blksize), (8 * make.MIB, 0o400, make.MIB))
        equal((frozen.st_mtime_ns, frozen.st_atime_ns, frozen.st_ctime_ns), (nanoseconds,) * 3)
        ours, below = os.statvfs(mount.mountpoint), os.statvfs(mount.source)
        equal(ours.f_blocks * ours.f_frsize, below.f_blocks * below.f_frsize, "statfs")


def test_blocks():
    """st_blocks comes to what the chain holds once it is counted, before that to a little less than the length"""
    mount = Mounted(two_disks)
    make.snapshot(make.image(mount.source, "empty.qcow2"), "nothing")
    with mount:
        disk = mount.frozen("web1", "clean")
        first = os.stat(disk).st_blocks
        assert 0 < first < 8 * make.MIB // 512, first
        for path, kib in ((disk, 192), (mount.frozen("web1", "partial"), 256), (mount.frozen("db", "snap1"), 1024), (mount.frozen("empty", "nothing"), 0)):
            wait_for(lambda: os.stat(path).st_blocks == kib * 2, f"{path} to have {kib} KiB, has {os.stat(path).st_blocks // 2}")


def test_unique_bytes():
    """unique_bytes is what the image file gives back when the snapshot is deleted"""
    mount = Mounted()
    path = make.image(mount.source, "vm.qcow2", "16M")
    for number, commands in enumerate((["1 0 4M"], ["2 1M 1M", "3 8M 256k"], ["write -c -P 4 12M 1M"], [], ["5 0 2M", "write -zu 8M 128k"])):
        if commands:
            make.write(path, *commands)
        make.snapshot(path, f"s{number}")
    make.write(path, "6 0 1M")
    with mount:
        for number in range(5):
            found = int(mount.text("vm", "snapshots", f"s{number}", "unique_bytes"))
            copy = os.path.join(mount.room, "copy.qcow2")
            run("cp", "--sparse=always", path, copy)
            before = os.stat(copy).st_blocks
            make.delete_snapshot(copy, f"s{number}")
            freed = (before - os.stat(copy).st_blocks) * 512
            tables = 4 * 65536  # L1, L2 and what QEMU needs for the new snapshot table
            assert abs(found - freed) <= tables, f"s{number}: {found}, and deleting it frees {freed}"
            os.unlink(copy)


def test_links():
    """latest, current, parent, children/ and tree/ lead to the right directories"""
    with Mounted(two_disks) as mount:
        equal(os.readlink(mount.path("web1", "latest")), "snapshots/partial")
        equal(os.readlink(mount.path("db", "current")), "snapshots/snap1")
        for snapshot in ("clean", "partial"):
            nested = mount.path("web1", "tree", snapshot, "@")
            assert os.path.samefile(nested, mount.path("web1", "snapshots", snapshot)), nested
            equal(os.listdir(mount.path("web1", "snapshots", snapshot, "children")), [])
        assert not os.path.lexists(mount.path("empty", "latest"))
        for path, status in walk(mount).items():
            assert not stat.S_ISLNK(status.st_mode) or os.path.exists(mount.path(path)), f"{path} leads nowhere"


def test_inode_numbers():
    """Inode numbers are unique, and the same after remounts, in a remount with ro too, and by readdir"""
    with Mounted(two_disks) as mount:
        before = {path: status.st_ino for path, status in walk(mount).items()}
        equal(len(set(before.values())), len(before), "inode numbers")
        for entry in os.scandir(mount.path("web1")):
            equal(entry.inode(), before["web1/" + entry.name], entry.name)
        for options in ("", "ro", ""):
            mount.remount(options)
            equal({path: status.st_ino for path, status in walk(mount).items()}, before, f"inode numbers with -o {options}")
        mount.unmount()
        make.snapshot(os.path.join(mount.source, "vda.qcow2"), "newer")
        make.image(mount.source, "another.qcow2")
        mount.mount()
        after = {path: status.st_ino for path, status in walk(mount).items()}
        equal({path: after[path] for path in before if path in after}, {path: before[path] for path in before if path in after})
        equal(len(set(after.values())), len(after), "inode numbers with what was added")


def test_options():
    """uid, gid and modes are as the options say"""
    checks.need_root()
    with Mounted(two_disks, options="uid=12,gid=34,dir-mode=0750,disk-mode=0440,control-mode=0660,allow_other") as mount:
        for path, status in walk(mount).items():
            equal((status.st_uid, status.st_gid), (12, 34), path)
        modes = [stat.S_IMODE(os.stat(mount.path("web1", path)).st_mode) for path in ("snapshots", "snapshots/clean/disks/vda.raw", "power")]
        equal(modes, [0o750, 0o440, 0o660])


def test_odd_names():
    """Tags that are no file names are %-encoded, equal ones get ~ and their id, and each leads to its own bytes"""
    tags = ["x/y", ".hidden", "-dash", "ünï→tag", "2", "same", "same", "%41", "a b", "tab\there", "b" * 200]
    mount = Mounted()
    path = make.image(mount.source, "odd.qcow2", "1M")
    for number, tag in enumerate(tags):
        make.write(path, f"{number + 1} 0 64k")
        make.snapshot(path, tag)
    with mount:
        names = mount.text("odd", "snapshots", ".order").splitlines()
        equal(sorted(names), mount.snapshots("odd"))
        equal(len(names), len(tags))
        for number, (tag, name) in enumerate(zip(tags, names)):
            with open(mount.frozen("odd", name), "rb") as file:
                equal(file.read(4), bytes([number + 1]) * 4, name)
            legal = re.fullmatch(r"[^/.\-\x00-\x1f][^/\x00-\x1f]*", tag) and tags.count(tag) == 1
            assert name == tag if legal else name != tag or tag == "same", f"{tag!r} is called {name!r}"
        assert "x%2Fy" in names and any(name.startswith("same~") for name in names), names


if __name__ == "__main__":
    checks.main(globals())
