# SPDX-License-Identifier: LGPL-2.1-or-later
"""Taking snapshots of domains that are not running: what each option means, and what is refused."""

import errno
import itertools
import json
import os
import re
import struct
from xml.etree import ElementTree

import administer
import checks
import domains
import make
from administer import command_refused, refused
from checks import equal
from domains import Unchanged, create, kinds, take
from mounted import Mounted, new_room, run, wait_for

EVERY_MEMORY = ("", "memory=no")
EVERY_ONLY = ("", "disk-only")


def two_disks(source):
    domains.web1(source, formats=("qcow2", "raw"))


def test_rows_that_work():
    """K2, inactive: disks as their default, internal, external; with and without memory=no and disk-only"""
    rows = (
        ("", {"vda": "internal", "vdb": "external"}),
        ("disk=vda:internal", {"vda": "internal", "vdb": "external"}),
        ("disk=vda:external", {"vda": "external", "vdb": "external"}),
        ("disk=vda:external disk=vdb:external", {"vda": "external", "vdb": "external"}),
        ("disk=vda:no", {"vdb": "external"}),
        ("disk=vdb:no", {"vda": "internal"}),
        ("disk=vda:internal disk=vdb:no", {"vda": "internal"}),
        ("quiesce=require", {"vda": "internal", "vdb": "external"}),
    )
    for disks, wanted in rows:
        for memory, only in itertools.product(EVERY_MEMORY, EVERY_ONLY):
            with Mounted(two_disks) as mount:
                words = f"one {memory} {disks} {only}"
                create(mount, words)
                equal(kinds(mount, "one"), wanted, words)
                told = domains.document(mount, "one")
                equal(told["missing"], sorted({"vda", "vdb"} - set(wanted)), words)
                equal((told["memory_bytes"], told["state"], told["consistency"]), (None, "shutoff", "clean"), words)
                for target, value in (("vda", 1), ("vdb", 2)):
                    if target in wanted:
                        equal(domains.frozen_byte(mount, "one", target=target), value, words)


def test_rows_that_are_refused():
    """K2, inactive: nothing to snapshot, no memory to save: EINVAL, and nothing has changed"""
    with Mounted(two_disks) as mount, Unchanged(mount):
        for memory, only in itertools.product(EVERY_MEMORY, EVERY_ONLY):
            command_refused(errno.EINVAL, mount, "web1", "create", f"one {memory} disk=vda:no disk=vdb:no {only}", ["nothing to snapshot"])
        for memory, disks, only in itertools.product(("internal", "external"), ("", "disk=vda:no disk=vdb:no", "disk=vda:internal", "disk=vda:external"), EVERY_ONLY):
            command_refused(errno.EINVAL, mount, "web1", "create", f"one memory={memory} {disks} {only}", ["memory"])


def test_wrong_words():
    """Whatever is not understood: EINVAL, ENOENT or ENAMETOOLONG, and a sentence that says what would be right"""
    tries = (
        ("one surprise", errno.EINVAL, "surprise"),
        ("one disk=vda", errno.EINVAL, "disk="),
        ("one disk=vda:maybe", errno.EINVAL, "maybe"),
        ("one disk=vda:internal disk=vda:external", errno.EINVAL, "vda"),
        ("one disk=vda:internal:/tmp/x", errno.EINVAL, "path"),
        ("one disk=vda:external:relative", errno.EINVAL, "absolute"),
        ("one memory=maybe", errno.EINVAL, "memory"),
        ("one memory-file=/tmp/x", errno.EINVAL, "memory"),
        ("one compress=lzma", errno.EINVAL, "compress"),
        ("one quiesce=perhaps", errno.EINVAL, "quiesce"),
        ("one disk-only disk-only", errno.EINVAL, "twice"),
        (".one", errno.EINVAL, "dot"),
        ("-one", errno.EINVAL, "hyphen"),
        ("one/two", errno.EINVAL, "slash"),
        ('"one', errno.EINVAL, "quot"),
        ("n" * 256, errno.ENAMETOOLONG, "255"),
        ("one disk=vdz:internal", errno.ENOENT, "vdz"),
        ("one reuse-external disk=vda:internal disk=vdb:no", errno.EINVAL, "reuse-external"),
    )
    with Mounted(two_disks) as mount, Unchanged(mount):
        for words, code, word in tries:
            command_refused(code, mount, "web1", "create", words, [word])


def test_names():
    """A name that is taken: EEXIST; any legal one works"""
    with Mounted(domains.web1) as mount:
        take(mount, "one")
        refused(errno.EEXIST, mount, "web1", create, mount, "one", words=["one"])
        checks.fails_with(errno.EEXIST, take, mount, "one")
        names = ["with blank", "Ünïcödé", "1", "%41", "a.qcow2", "x" * 255, "'quotes\"", "back\\slash", "~", "live", "#"]
        for name in names:
            take(mount, name)
        equal(mount.snapshots("web1"), sorted([*names, "one"]))
        mount.remount()
        equal(mount.snapshots("web1"), sorted([*names, "one"]))


def test_quoted_names():
    """In `create`, a name with blanks, or one that is an option, stands in quotes"""
    with Mounted(domains.web1) as mount:
        create(mount, '"two words" disk-only')
        create(mount, '"live"')
        create(mount, '"a \\"b\\" \\\\ c" description="line one\nline two"')
        equal(mount.snapshots("web1"), sorted(["two words", "live", 'a "b" \\ c']))
        equal(mount.text("web1", "snapshots", 'a "b" \\ c', "description"), "line one\nline two\n")


def test_made_up_names():
    """Without a name one is made up, also twice within a second; parent is the current snapshot, no description"""
    with Mounted(domains.web1) as mount:
        take(mount, "first")
        for _ in range(3):
            before = set(mount.snapshots("web1"))
            parent = domains.current(mount)
            create(mount, "disk-only")
            (name,) = set(mount.snapshots("web1")) - before
            assert re.search(r"20\d\d", name), f"{name} does not look like a time"
            equal(domains.parents(mount)[name], parent)
            equal(mount.text("web1", "snapshots", name, "description"), "")


def test_presets():
    """A disk's preset counts where nothing else is said, and an option overrides it"""
    presets = ("external", "internal", "no", None)
    with Mounted(lambda source: domains.web1(source, formats=("qcow2",) * 4, presets=presets)) as mount:
        take(mount, "bare")
        equal(kinds(mount, "bare"), {"vda": "external", "vdb": "internal", "vdd": "internal"})
        equal(mount.text("web1", "snapshots", "bare", "missing").split(), ["vdc"])
        create(mount, "other disk=vda:internal disk=vdb:external disk=vdc:external disk=vdd:no")
        equal(kinds(mount, "other"), {"vda": "internal", "vdb": "external", "vdc": "external"})
    with Mounted(lambda source: domains.web1(source, formats=("raw",), presets=("internal",))) as mount, Unchanged(mount):
        refused(errno.EOPNOTSUPP, mount, "web1", take, mount, "one", words=["qcow2"])
    with Mounted(lambda source: domains.web1(source, presets=("no",))) as mount, Unchanged(mount):
        refused(errno.EINVAL, mount, "web1", take, mount, "one", words=["nothing to snapshot"])


def test_defaults():
    """What mkdir does stands in `defaults`, one option a line; it can be rewritten, and is kept"""
    with Mounted(two_disks) as mount:
        equal(mount.text("web1", "defaults"), "disk-only\nquiesce=try\n")
        administer.command(mount, "web1", "defaults", "disk-only\ndisk=vdb:no\ndisk=vda:external", os.O_RDWR | os.O_TRUNC)
        equal(set(mount.text("web1", "defaults").split()), {"disk-only", "disk=vdb:no", "disk=vda:external"})
        take(mount, "one")
        equal(kinds(mount, "one"), {"vda": "external"})
        for words in ("name disk-only", "memory-file=/tmp/x memory=external", "disk=vda:external:/tmp/x", "surprise", "reuse-external"):
            command_refused(errno.EINVAL, mount, "web1", "defaults", words)
        mount.remount()
        equal(set(mount.text("web1", "defaults").split()), {"disk-only", "disk=vdb:no", "disk=vda:external"})
        take(mount, "two")
        equal(kinds(mount, "two"), {"vda": "external"})


def test_tags():
    """The tag in the image is the name where that is free and no number, else with ~ and a serial"""

    def prepare(source):
        domains.web1(source)
        make.snapshot(os.path.join(source, "web1.qcow2"), "theirs")

    with Mounted(prepare) as mount:
        image = os.path.join(mount.source, "web1.qcow2")
        take(mount, "plain")
        os.rename(administer.snapshot_path(mount, "web1", "theirs"), administer.snapshot_path(mount, "web1", "moved"))
        for name in ("12", "theirs", "z" * 255):
            take(mount, name)
        equal(sorted(mount.snapshots("web1")), sorted(["plain", "moved", "12", "theirs", "z" * 255]))
        found = administer.tags(image)
        assert "plain" in found and found.count("theirs") == 1, found
        assert not any(tag.isdigit() for tag in found), f"{found}: QEMU would take one for an id"
        equal(len(set(found)), 5, "tags are not unique")
        assert any(re.fullmatch(r"12~\d+", tag) for tag in found) and any(re.fullmatch(r"theirs~\d+", tag) for tag in found), found


def test_overlay_names():
    """An overlay is called web1.NAME, beside its layer; where that is taken, odd or has a meaning, with ~ and a serial"""
    with Mounted(domains.web1) as mount:
        with open(os.path.join(mount.source, "web1.taken"), "w", encoding="utf-8") as file:
            file.write("somebody's")
        wanted = (("upgrade", r"web1\.upgrade"), ("taken", r"web1\.taken~\d+"), ("qcow2", r"web1\.qcow2~\d+"), ("a.json", r"web1\.a\.json~\d+"),
                  ("two words", r"web1\..*~\d+"), ("é" * 120, r"web1\..*~\d+"))  # fmt: skip
        for name, pattern in wanted:
            create(mount, f'"{name}" disk=vda:external')
            path, image_format = administer.source(mount, "web1")
            equal((os.path.dirname(path), image_format), (mount.source, "qcow2"))
            base = os.path.basename(path)
            assert re.fullmatch(pattern, base), f"the overlay of {name} is called {base}"
            assert re.fullmatch(r"[A-Za-z0-9._~-]{1,230}", base), base
            equal(os.path.dirname(administer.information(path)["full-backing-filename"]), mount.source)
        with open(os.path.join(mount.source, "web1.taken"), encoding="utf-8") as file:
            equal(file.read(), "somebody's")


def test_attributes_of_overlays():
    """Owner, group, mode, ACL and security attributes are those of the layer below"""
    checks.need_root()
    entries = ((1, 6, -1), (2, 4, 4321), (4, 4, -1), (16, 6, -1), (32, 0, -1))  # linux/posix_acl_xattr.h
    acl = struct.pack("<I", 2) + b"".join(struct.pack("<HHi", *entry) for entry in entries)
    with domains.small_file_system(64) as directory:
        domains.web1(directory)
        image = os.path.join(directory, "web1.qcow2")
        os.chown(image, 1234, 2345)
        os.chmod(image, 0o660)
        os.setxattr(image, "system.posix_acl_access", acl)
        os.setxattr(image, "security.selinux", b"system_u:object_r:svirt_image_t:s0\0")
        with Mounted(source=directory) as mount:
            create(mount, "one disk=vda:external")
            overlay = administer.source(mount, "web1")[0]
            assert overlay != image
            for path in (image, overlay):
                status = os.stat(path)
                equal((status.st_uid, status.st_gid, oct(status.st_mode & 0o7777)), (1234, 2345, "0o660"), path)
                equal(os.getxattr(path, "system.posix_acl_access"), acl, path)
                equal(os.getxattr(path, "security.selinux"), b"system_u:object_r:svirt_image_t:s0\0", path)


def test_no_copy_on_write():
    """On btrfs, overlays and copies of an image without copy-on-write are without it, too"""
    checks.need("mkfs.btrfs", "chattr", "lsattr")
    checks.need_root()
    with domains.small_file_system(256, ("mkfs.btrfs", "-q")) as directory:
        domains.web1(directory, formats=("qcow2", "raw"))
        plain = [os.path.join(directory, name) for name in ("web1.qcow2", "web1-b.img")]
        for path in plain:
            data = os.path.join(directory, ".copy")
            os.rename(path, data)
            with open(path, "xb"):
                run("chattr", "+C", path)
            run("cp", "--reflink=never", data, path)
            os.unlink(data)
        with Mounted(source=directory) as mount:
            create(mount, "one disk=vda:external disk=vdb:external")
            administer.command_of(mount, "web1", "one", "clone", "copy full")
            made = sorted(set(administer.images(directory)) - set(plain))
            equal(len(made), 4)
            for path in made:
                assert "C" in run("lsattr", path).split()[0], f"{path} is copied on write"


def test_own_paths():
    """A path that the user gave is used; a file that is there already: EEXIST, and it stays as it was"""
    with Mounted(domains.web1) as mount:
        mine = os.path.join(mount.source, "mine.overlay")
        create(mount, f"one disk=vda:external:{mine}")
        equal(administer.source(mount, "web1")[0], mine)
        theirs = os.path.join(mount.source, "theirs")
        with open(theirs, "w", encoding="utf-8") as file:
            file.write("theirs")
        with Unchanged(mount):
            command_refused(errno.EEXIST, mount, "web1", "create", f"two disk=vda:external:{theirs}", ["theirs"])
            command_refused(errno.ENOENT, mount, "web1", "create", f"two disk=vda:external:{mount.source}/nowhere/x", ["nowhere"])
            command_refused(errno.EPERM, mount, "web1", "create", f"two disk=vda:external:{mount.room}/outside", ["allow="])
        with open(theirs, encoding="utf-8") as file:
            equal(file.read(), "theirs")


def test_reuse_external():
    """O2: an overlay that is there is used as it is, and is never unlinked; one that does not fit is refused"""
    allowed = new_room()  # not in the source, where it would be taken for what somebody has switched to
    with Mounted(domains.web1, options=f"allow={allowed}") as mount:
        image = os.path.join(mount.source, "web1.qcow2")
        mine = os.path.join(allowed, "mine")
        run("qemu-img", "create", "-q", "-f", "qcow2", "-b", image, "-F", "qcow2", mine)
        inode = os.stat(mine).st_ino
        other = make.image(allowed, "other", str(domains.SIZE))
        with Unchanged(mount):
            command_refused(errno.EINVAL, mount, "web1", "create", "one disk=vda:external reuse-external", ["reuse-external"])
            command_refused(errno.ENOENT, mount, "web1", "create", f"one disk=vda:external:{mine}2 reuse-external", ["mine2"])
            command_refused(errno.EINVAL, mount, "web1", "create", f"one disk=vda:external:{other} reuse-external", ["other"])
        create(mount, f"one disk=vda:external:{mine} reuse-external")
        equal(administer.source(mount, "web1")[0], mine)
        equal(os.stat(mine).st_ino, inode)
        domains.write(mount, 7)
        equal((domains.frozen_byte(mount, "one"), domains.byte(mount)), (1, 7))
        os.rmdir(administer.snapshot_path(mount, "web1", "one"))
        administer.wait_idle(mount)
        equal(domains.byte(mount), 7)
        equal(os.stat(mine).st_ino, inode, "a file of the user's")


def test_reuse_of_what_was_seen():
    """O2: an overlay that lay beside the image for long, and was taken for another program's snapshot until it is asked for"""
    targets = ("vda", "vdb")
    with Mounted(lambda source: domains.web1(source, formats=("qcow2", "qcow2"))) as mount:
        create(mount, "first disk=vda:internal disk=vdb:external")
        for number in (1, 2):
            overlays = []
            for target in targets:
                overlays.append(os.path.join(mount.source, f"web1.{target}-{number}"))
                run("qemu-img", "create", "-q", "-f", "qcow2", "-b", administer.source(mount, "web1", target)[0], "-F", "qcow2", overlays[-1])
            wait_for(lambda: [administer.source(mount, "web1", target)[0] for target in targets] == overlays, "the overlays to be seen")
            parts = " ".join(f"disk={target}:external:{path}" for target, path in zip(targets, overlays))
            create(mount, f"second{number} {parts} reuse-external")
            equal([administer.source(mount, "web1", target)[0] for target in targets], overlays)
            domains.write(mount, 7 + number)
        equal(domains.parents(mount), {"first": None, "second1": "first", "second2": "second1"})
        mount.remount()
        equal(domains.parents(mount), {"first": None, "second1": "first", "second2": "second1"})
        equal((domains.frozen_byte(mount, "second1"), domains.frozen_byte(mount, "second2"), domains.byte(mount)), (1, 8, 9))
        for name in ("first", "second1", "second2"):
            os.rmdir(administer.snapshot_path(mount, "web1", name))
        administer.wait_idle(mount)
        equal(domains.byte(mount), 9)
        assert all(os.path.exists(path) for path in overlays), "files of the user's"


def laid_on(mount, name, target="vda"):
    """An overlay beside the images, on what is active."""
    return make.overlay(administer.source(mount, "web1", target)[0], name)


def original(mount):
    """Which file the store knows to be where web1 began."""
    for entry in os.scandir(os.path.join(mount.source, ".vmsnapfs", "domains")):
        with open(entry.path, encoding="utf-8") as file:
            state = json.load(file)
        if state["name"] == "web1":
            return state["disks"][0].get("original")
    raise AssertionError("the store does not know web1")


def test_reuse_before_the_first_change():
    """O2: seen or not, by a path that goes through a link, with an ending that made it a domain: it is used, and all is as if
    it had lain elsewhere"""
    for name, wait in (("over", False), ("over", True), ("over.qcow2", True)):
        with Mounted(domains.web1) as mount:
            mine = laid_on(mount, name)
            if wait:
                wait_for(lambda: mount.snapshots("web1") or "over" in os.listdir(mount.mountpoint), "the overlay to be seen")
            link = os.path.join(mount.room, "link")
            os.symlink(mount.source, link)
            mount.expected.append("is active, and yet it is the backing file")  # until then, with an ending of its own
            create(mount, f"one disk=vda:external:{link}/{name} reuse-external")
            equal(sorted(os.listdir(mount.mountpoint)), [".vmsnapfs", "web1"])
            equal(administer.source(mount, "web1")[0], mine)
            domains.write(mount, 7)
            mount.remount()
            equal((mount.snapshots("web1"), administer.source(mount, "web1")[0]), (["one"], mine))
            equal((domains.frozen_byte(mount, "one"), domains.byte(mount)), (1, 7))
            create(mount, f"two disk=vda:external:{link}/more")
            domains.write(mount, 8)
            for each in ("one", "two"):
                os.rmdir(administer.snapshot_path(mount, "web1", each))
            administer.wait_idle(mount)
            equal(domains.byte(mount), 8)
            equal(administer.layers(mount, "web1"), [os.path.join(mount.source, each) for each in ("more", name, "web1.qcow2")])
            equal(original(mount), "web1.qcow2", "what may be written to: nothing but the overlay stood on it")


def test_reuse_refused():
    """O2: an overlay that is in use, that something stands on, or that is a domain's, is refused, and all stays as it was shown"""
    with Mounted(domains.web1) as mount:
        mount.expected.append("is active, and yet it is the backing file")
        mine = laid_on(mount, "over")
        wait_for(lambda: mount.snapshots("web1") == ["web1"], "the overlay to be seen")
        words = f"one disk=vda:external:{mine} reuse-external"
        found = administer.snapshot_path(mount, "web1", "web1")
        serial = os.stat(found).st_ino
        with Unchanged(mount):
            with domains.Holder(mount, mine):
                command_refused(errno.EBUSY, mount, "web1", "create", words, ["qemu-nbd"])
            with open(mount.frozen("web1", "web1"), "rb"):
                command_refused(errno.EBUSY, mount, "web1", "create", words, ["is open"])
            os.mkdir(os.path.join(mount.source, "below"))
            above = os.path.join(mount.source, "below", "above")
            run("qemu-img", "create", "-q", "-f", "qcow2", "-b", mine, "-F", "qcow2", above)
            command_refused(errno.EBUSY, mount, "web1", "create", words, ["above"])
            os.unlink(above)
            os.rmdir(os.path.dirname(above))
            equal(os.stat(found).st_ino, serial)
        with open(os.path.join(found, "description"), "w", encoding="utf-8") as file:
            file.write("mine now")
        with Unchanged(mount):
            command_refused(errno.EINVAL, mount, "web1", "create", words, ["active"])
        equal(os.stat(found).st_ino, serial)
        other = laid_on(mount, "other.qcow2")
        wait_for(lambda: "other" in os.listdir(mount.mountpoint), "the domain of the overlay")
        below = mount.snapshots("other")[0]
        os.rename(administer.snapshot_path(mount, "other", below), administer.snapshot_path(mount, "other", "mine"))
        with Unchanged(mount):
            command_refused(errno.EPERM, mount, "web1", "create", f"one disk=vda:external:{other} reuse-external", ["other"])


def test_atomic():
    """O1: of three disks one fails: no disk has a snapshot, and nothing is left"""
    with Mounted(lambda source: domains.web1(source, formats=("qcow2", "raw", "qcow2"))) as mount:
        there = make.filled(os.path.join(mount.source, "there"), 10)
        with Unchanged(mount):
            for kind in ("internal", "external"):
                command_refused(errno.EEXIST, mount, "web1", "create", f"one disk=vda:{kind} disk=vdc:external:{there}")
                command_refused(errno.ENOENT, mount, "web1", "create", f"one disk=vda:{kind} disk=vdc:external:{mount.source}/nowhere/c")
        create(mount, "one")
        equal(kinds(mount, "one"), {"vda": "internal", "vdb": "external", "vdc": "internal"})


def test_mixed():
    """X8: internal, write, revert, external, write, revert, internal again: every state stays"""
    with Mounted(domains.web1) as mount:
        states = {}
        for number in range(12):
            domains.write(mount, number + 10, at=4096 * (number % 3))
            name = f"s{number}"
            create(mount, f"{name} disk=vda:{'external' if number % 4 in (1, 2) else 'internal'}")
            states[name] = administer.active_bytes(mount, "web1")
            if number % 3 == 2:
                back = f"s{number // 2}"
                administer.command_of(mount, "web1", back, "revert", "1")
                equal(administer.active_bytes(mount, "web1"), states[back], back)
            for each, wanted in states.items():
                assert administer.frozen_bytes(mount, "web1", each) == wanted, f"{each} after {name}"
        for path in administer.images(mount.source):
            administer.check_image(path)


def test_nobody_follows():
    """Without `follows`, what would switch files is EPERM and explains; internal snapshots work"""
    for prepare in (domains.implicit, lambda source: domains.web1(source, follows=False)):
        with Mounted(prepare) as mount:
            with Unchanged(mount):
                command_refused(errno.EPERM, mount, "web1", "create", "one disk=vda:external", ["follows", "disks/TARGET/source"])
            take(mount, "one")
            equal(kinds(mount, "one"), {"vda": "internal"})
            domains.write(mount, 9)
            administer.command_of(mount, "web1", "one", "revert", "1")
            equal(domains.byte(mount), 1)
    with Mounted(lambda source: domains.web1(source, follows=False, formats=("raw",))) as mount, Unchanged(mount):
        refused(errno.EPERM, mount, "web1", take, mount, "one", words=["follows"])


def test_definition_is_the_users():
    """vmsnapfs never rewrites a definition, and its external snapshot is found again by the next mount"""
    with Mounted(domains.web1) as mount:
        with open(os.path.join(mount.source, "web1.json"), "rb") as file:
            before = file.read()
        create(mount, "one disk=vda:external")
        domains.write(mount, 5)
        source = administer.source(mount, "web1")
        mount.remount()
        equal(administer.source(mount, "web1"), source)
        equal((domains.current(mount), domains.frozen_byte(mount, "one"), domains.byte(mount)), ("one", 1, 5))
        with open(os.path.join(mount.source, "web1.json"), "rb") as file:
            equal(file.read(), before)


def test_inner_snapshots_work_with_qemu_img():
    """What was taken inside an image is what qemu-img knows under its tag"""
    with Mounted(domains.web1) as mount:
        take(mount, "one")
        domains.write(mount, 8)
        raw = os.path.join(mount.room, "raw")
        image = os.path.join(mount.source, "web1.qcow2")
        run("qemu-img", "convert", "-f", "qcow2", "-l", "snapshot.name=one", "-O", "raw", image, raw)
        with open(raw, "rb") as file:
            equal(file.read(), administer.frozen_bytes(mount, "web1", "one"))


def xml(inside, name="one"):
    return f"<domainsnapshot><name>{name}</name>{inside}</domainsnapshot>"


def close_of(mount, text):
    """Writes lines of xl, which must be taken; what they ask for is done, or refused, when the file is closed."""
    handle = os.open(mount.path("web1", "create"), os.O_WRONLY)
    try:
        os.write(handle, text.encode())
    finally:
        os.close(handle)


def test_documents_mean_what_words_mean():
    """K4, X3: XML and lines of xl take the snapshot that words take, and are refused like them"""
    works = (
        (xml(""), "name = 'one'\n", {"vda": "internal", "vdb": "external"}),
        (xml("<memory snapshot='no'/><disks/>"), "name = 'one'; memory = 'no'", {"vda": "internal", "vdb": "external"}),
        (xml("<disks><disk name='vda' snapshot='external'/></disks>"), "name = 'one'\ndisks = [',qcow2,vda']\n", {"vda": "external", "vdb": "external"}),
        (xml("<disks><disk name='vdb' snapshot='no'/></disks>"), None, {"vda": "internal"}),
    )
    for of_xml, of_xl, wanted in works:
        for text in filter(None, (of_xml, of_xl)):
            with Mounted(two_disks) as mount:
                close_of(mount, text)
                equal(kinds(mount, "one"), wanted, text)
    refusals = (
        (errno.EINVAL, "nothing to snapshot", xml("<disks><disk name='vda' snapshot='no'/><disk name='vdb' snapshot='no'/></disks>"), None),
        (errno.EINVAL, "memory", xml("<memory snapshot='internal'/>"), "name = 'one'; memory = 'internal'"),
        (errno.EINVAL, "memory", xml("<memory snapshot='external' file='/tmp/x'/>"), "name = 'one'; memory_path = '/tmp/x'"),
        (errno.EINVAL, "external", xml("<memory file='/tmp/x'/>"), "memory = 'no'; memory_path = '/tmp/x'"),
        (errno.ENOENT, "vdz", xml("<disks><disk name='vdz'/></disks>"), "disks = [',,vdz']\n"),
        (errno.EOPNOTSUPP, "qcow2", xml("<disks><disk name='vdb' snapshot='internal'/></disks>"), "disks = [',,vdb']\n"),
        (errno.EPERM, "allow=", xml("<disks><disk name='vda'><source file='/tmp/x'/></disk></disks>"), "disks = ['/tmp/x,qcow2,vda']\n"),
        (errno.EINVAL, "hyphen", xml("", "-one"), "name = '-one'\n"),
    )
    with Mounted(two_disks) as mount, Unchanged(mount):
        for code, word, of_xml, of_xl in refusals:
            for text in filter(None, (of_xml, of_xl)):
                refused(code, mount, "web1", close_of, mount, text, words=[word])
        refused(errno.EINVAL, mount, "web1", close_of, mount, "{\"memory_file\": \"/tmp/x\"}", words=["external"])


def test_documents_name_files():
    """Paths in documents are those of new overlays; later lines of xl count, as if they were added to its command"""
    with Mounted(two_disks) as mount:
        first, second = (os.path.join(mount.source, name) for name in ("first, <it's> & no.1", "second"))
        escaped = first.replace("&", "&amp;").replace("<", "&lt;").replace("'", "&apos;")
        close_of(mount, xml(f"<description>\n a &lt; b\n</description><disks><disk name='vda'><driver type='qcow2'/><source file='{escaped}'/></disk></disks>"))
        equal(administer.source(mount, "web1"), (first, "qcow2"))
        equal(mount.text("web1", "snapshots", "one", "description"), "\n a < b\n\n")
        domains.write(mount, 7)
        close_of(mount, f"name = 'x'\ndisks = ['{second},qcow2,vda', # the first\n ',,vdb',\n]\n" + "name = \"two\"\ndisks = ['" + second + ",qcow2,vda']\n")
        equal(administer.source(mount, "web1"), (second, "qcow2"))
        equal(domains.parents(mount), {"one": None, "two": "one"})
        equal((domains.frozen_byte(mount, "one"), domains.frozen_byte(mount, "two")), (1, 7))


def test_snapshot_xml():
    """K4: snapshot.xml is what libvirt calls it, always has <memory>, and takes the same snapshot again when it is written"""
    with Mounted(lambda source: domains.web1(source, formats=("qcow2", "raw", "qcow2"))) as mount:
        create(mount, "first disk=vdb:no disk=vdc:no")
        create(mount, "\"a <b> & 'c'\" disk=vdc:no description=\"1 < 2\n\"")
        name = "a <b> & 'c'"
        found = kinds(mount, name)
        document = mount.text("web1", "snapshots", name, "snapshot.xml")
        equal(os.stat(mount.path("web1", "snapshots", name, "snapshot.xml")).st_size, len(document.encode()))
        root = ElementTree.fromstring(document)
        equal(root.tag, "domainsnapshot")
        equal((root.findtext("name"), root.findtext("description"), root.findtext("parent/name")), (name, "1 < 2\n", "first"))
        equal((root.find("memory").attrib, root.findtext("state")), ({"snapshot": "no"}, "shutoff"))
        equal({disk.get("name"): disk.get("snapshot") for disk in root.findall("disks/disk")}, {"vda": "internal", "vdb": "external", "vdc": "no"})
        refused(errno.EEXIST, mount, "web1", close_of, mount, document)
        os.rmdir(administer.snapshot_path(mount, "web1", name))
        administer.wait_idle(mount)
        close_of(mount, document)
        equal(kinds(mount, name), found)
        equal(mount.text("web1", "snapshots", name, "description"), "1 < 2\n\n")
        again = ElementTree.fromstring(mount.text("web1", "snapshots", name, "snapshot.xml"))
        for path in ("name", "description", "parent/name", "state"):
            equal(again.findtext(path), root.findtext(path))
        os.rename(administer.snapshot_path(mount, "web1", name), administer.snapshot_path(mount, "web1", "renamed"))
        equal(ElementTree.fromstring(mount.text("web1", "snapshots", "renamed", "snapshot.xml")).findtext("name"), "renamed")


if __name__ == "__main__":
    checks.main(globals())
