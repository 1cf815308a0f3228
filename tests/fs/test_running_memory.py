# SPDX-License-Identifier: LGPL-2.1-or-later
"""Snapshots of running domains with their memory: where it lies, what it holds, and what becomes of its file."""

import errno
import gzip
import os
import shutil
import subprocess
from xml.etree import ElementTree

import administer
import checks
import domains
from administer import command_of
from checks import equal, fails_with, need
from mounted import wait_for
from running import ALL, Running, Unchanged, is_paused, refused
from test_power import QEMU, power, state, wait_state
from test_running_crashes import EXPECTED, create_and_die, need_points

MAGIC = b"QEVM"  # QEMU's include/migration/vmstate: QEMU_VM_FILE_MAGIC

KINDS = {"i": "internal", "e": "external", "-": None}


def memory_path(mount, name):
    return mount.path("web1", "snapshots", name, "memory")


def unpacked(mount, name):
    """What `memory` holds, decompressed."""
    with open(memory_path(mount, name), "rb") as file:
        data = file.read()
    document = domains.document(mount, name)
    with open(document["memory_file"], "rb") as file:
        equal(file.read(), data, "`memory` is the file as it lies on disk")
    equal(document["memory_bytes"], len(data))
    equal(os.stat(memory_path(mount, name)).st_size, len(data))
    match document["memory_compression"]:
        case "gzip":
            return gzip.decompress(data)
        case "zstd":
            return subprocess.run(["zstd", "-dcq"], input=data, capture_output=True, check=True).stdout
        case "none":
            return data
    raise AssertionError(document)


def take(mount, words, memory, kinds, seen="running"):
    """A snapshot whose parts lie where they should, after which the guest does what it did."""
    name = words.split()[0]
    by_target = {target: KINDS[letter] for target, letter in zip(mount.targets, kinds)}
    domains.create(mount, words)
    mount.frozen_bytes[name] = {target: bytes(mount.wanted[target]) for target, kind in by_target.items() if kind}
    document = domains.document(mount, name)
    equal(document["memory"], memory, words)
    equal(domains.kinds(mount, name), {target: kind for target, kind in by_target.items() if kind}, words)
    equal((document["state"], document["consistency"]), (seen, "checkpoint"), words)
    equal(os.path.exists(memory_path(mount, name)), memory == "external")
    if memory == "external":
        equal(unpacked(mount, name)[:4], MAGIC)
        equal(os.stat(memory_path(mount, name)).st_mode & 0o777, 0o400)
        equal(os.stat(document["memory_file"]).st_mode & 0o777, 0o600)
    if memory == "internal":
        assert document["memory_bytes"] > 0


def test_rows_with_memory():
    """Each row of the table for active domains that saves memory, on each other's results"""
    need(QEMU, "zstd")
    rows = (
        ("", "internal", "ii"),
        (ALL.format("no"), "external", "--"),
        (ALL.format("external"), "external", "ee"),
        (ALL.format("internal"), "internal", "ii"),
        ("memory=internal", "internal", "ii"),
        ("memory=internal " + ALL.format("internal"), "internal", "ii"),
        ("memory=external", "external", "ii"),
        ("memory=external " + ALL.format("no"), "external", "--"),
        ("memory=external " + ALL.format("internal"), "external", "ii"),
        ("memory=external " + ALL.format("external"), "external", "ee"),
        ("disk=vda:internal disk=vdb:external", "external", "ie"),
        ("memory=internal disk=vda:internal disk=vdb:external", "internal", "ie"),
        ("memory=external live compress=gzip", "external", "ii"),
        ("memory=external compress=zstd " + ALL.format("external"), "external", "ee"),
    )
    with Running() as mount:
        mount.start()
        for number, (words, memory, kinds) in enumerate(rows):
            mount.guest_writes(2 * number + 10)
            take(mount, f"s{number} {words}", memory, kinds)
            equal(state(mount), "running")
            equal(is_paused(mount), False)
            mount.guest_writes(2 * number + 11, at=4096 * number)
            mount.guest_reads()
            print(f"    {words or 'nothing said'}: memory {memory}, disks {kinds}")
        mount.check()
        equal(domains.parents(mount), {f"s{i}": f"s{i - 1}" if i else None for i in range(len(rows))})
        mount.off()
        mount.check(is_running=False)
        mount.remount()
        mount.check(is_running=False)


def test_raw_disk_goes_outside():
    """Where a disk can hold no internal snapshot, memory and disks go outside when nothing is said"""
    need(QEMU)
    with Running(("qcow2", "raw")) as mount:
        mount.start()
        mount.guest_writes(5)
        take(mount, "one", "external", "ee")
        mount.guest_writes(6)
        mount.check()


def test_xml():
    """K4: a document without <memory> means internal for a domain with memory, its file is where it says, and snapshot.xml tells"""
    need(QEMU)
    with Running() as mount:
        mount.start()
        path = os.path.join(mount.source, "a & b.save")
        for name, inside, attributes, kinds in (
            ("omitted", "", {"snapshot": "internal"}, "ii"),
            ("no", "<memory snapshot='no'/>", {"snapshot": "no"}, "ii"),
            ("file", "<memory snapshot='external' file='%s'/>" % path.replace("&", "&amp;"), {"snapshot": "external", "file": path}, "ii"),
            ("outside", "<disks><disk name='vda' snapshot='external'/><disk name='vdb' snapshot='external'/></disks>", {"snapshot": "external"}, "ee"),
        ):
            text = f"<domainsnapshot><name>{name}</name>{inside}</domainsnapshot>"
            domains.create(mount, text)
            mount.remember(name)
            document = domains.document(mount, name)
            equal((document["memory"], document["memory_file"] is not None), (attributes["snapshot"], attributes["snapshot"] == "external"))
            equal("".join(disk["kind"][0] for disk in document["disks"]), kinds)
            written = mount.text("web1", "snapshots", name, "snapshot.xml")
            root = ElementTree.fromstring(written)
            equal(root.find("memory").attrib, {**attributes, **({"file": document["memory_file"]} if document["memory_file"] else {})})
            equal(root.findtext("state"), "running" if document["memory"] != "no" else "disk-snapshot")
            mount.guest_writes(7)
        os.rmdir(mount.path("web1", "snapshots", "file"))
        wait_for(lambda: not os.path.exists(path), "the memory's file to be removed")
        domains.create(mount, f"<domainsnapshot><name>file</name><memory snapshot='external' file='{path.replace('&', '&amp;')}'/></domainsnapshot>")
        mount.remember("file")
        assert os.path.exists(path)
        refused(errno.EINVAL, mount, f"<domainsnapshot><memory snapshot='internal' file='{path}2'/></domainsnapshot>".replace("&", "&amp;"), "external")
        mount.check()


def test_refused():
    """What makes no sense with memory is refused with a sentence, and changes nothing"""
    need(QEMU)
    with Running() as mount:
        mount.start()
        taken = os.path.join(mount.source, "taken.save")
        with open(taken, "w", encoding="ascii") as file:
            file.write("a user's")
        refused(errno.EINVAL, mount, "one disk-only memory=internal", "contradict")
        refused(errno.EINVAL, mount, "one disk-only memory=external", "contradict")
        refused(errno.EINVAL, mount, "one memory=internal " + ALL.format("no"), "internal disk")
        refused(errno.EINVAL, mount, "one memory=internal " + ALL.format("external"), "internal disk")
        refused(errno.EOPNOTSUPP, mount, "one memory=internal live")
        refused(errno.EOPNOTSUPP, mount, "one memory=internal compress=gzip")
        refused(errno.EEXIST, mount, f"one memory-file={taken} memory=external", "there already")
        refused(errno.ENOENT, mount, f"one memory-file={mount.source}/none/x memory=external")
        refused(errno.EPERM, mount, f"one memory-file={mount.room}/x memory=external", "allow")
        refused(errno.EINVAL, mount, f"one memory-file={mount.source}/x.qcow2 memory=external", "something else")
        refused(errno.EINVAL, mount, "one memory=external quiesce=require")
        with open(taken, encoding="ascii") as file:
            equal(file.read(), "a user's")
        mount.off()
        refused_off = fails_with(errno.EINVAL, domains.create, mount, "one memory=external")
        equal(refused_off, errno.EINVAL)


def test_named_file_paused_guest():
    """A file of the user's choice; a paused guest stays paused, one that is to be paused is, and goes on when told to"""
    need(QEMU)
    with Running() as mount:
        mount.start()
        mine = os.path.join(mount.source, "mine.save")
        power(mount, "pause")
        mount.guest_writes(7)
        take(mount, f"one memory=external memory-file={mine} " + ALL.format("external"), "external", "ee", seen="paused")
        equal(domains.document(mount, "one")["memory_file"], mine)
        equal(state(mount), "paused")
        power(mount, "resume")
        for number, words in enumerate(("memory=external live paused", "memory=internal paused", "paused")):
            mount.guest_writes(8 + number)
            take(mount, f"p{number} {words}", "internal" if "live" not in words else "external", "ii")
            wait_state(mount, "paused")
            power(mount, "resume")
            wait_state(mount, "running")
        mount.guest_writes(20)
        mount.check()


def test_its_file_goes_with_it():
    """Deleting the snapshot removes the file; not what somebody else has put there; an open one is busy"""
    need(QEMU)
    with Running() as mount:
        mount.start()
        mine = os.path.join(mount.source, "mine.save")
        for name, words in (("one", ""), ("two", f"memory-file={mine}"), ("three", ""), ("four", ALL.format("no"))):
            take(mount, f"{name} memory=external {words}", "external", "--" if name == "four" else "ii")
        paths = {name: domains.document(mount, name)["memory_file"] for name in ("one", "two", "three", "four")}
        mount.off()
        mount.expected += [r"three.mem: changed by someone else", r"three.mem is not the memory"]
        with open(memory_path(mount, "one"), "rb"):
            fails_with(errno.EBUSY, os.rmdir, mount.path("web1", "snapshots", "one"))
        os.unlink(memory_path(mount, "one"))  # as rm -r does: it does nothing
        for name in ("one", "four"):
            os.rmdir(mount.path("web1", "snapshots", name))
            wait_for(lambda: not os.path.exists(paths[name]), f"the memory of {name} is removed")
        shutil.copy(paths["three"], mount.room + "/copy")
        os.replace(mount.room + "/copy", paths["three"])
        fails_with(errno.EIO, open, memory_path(mount, "three"), "rb")
        os.rmdir(mount.path("web1", "snapshots", "three"))
        os.rmdir(mount.path("web1", "snapshots", "two"))
        wait_for(lambda: not os.path.exists(mine), "the named file is removed")
        administer.wait_idle(mount)
        equal(os.path.exists(paths["three"]), True)
        del mount.frozen_bytes["one"], mount.frozen_bytes["two"], mount.frozen_bytes["three"], mount.frozen_bytes["four"]
        mount.check(is_running=False)


def test_merged_into_its_parent():
    """A parent that takes over a snapshot's state has its memory too, and its own is removed"""
    need(QEMU)
    with Running() as mount:
        mount.start()
        take(mount, "one memory=external " + ALL.format("external"), "external", "ee")
        mount.guest_writes(9)
        take(mount, "two memory=external compress=gzip " + ALL.format("external"), "external", "ee")
        old = domains.document(mount, "one")["memory_file"]
        new = domains.document(mount, "two")["memory_file"]
        saved = unpacked(mount, "two")
        mount.off()
        command_of(mount, "web1", "two", "delete", "merge-force")
        mount.frozen_bytes["one"] = mount.frozen_bytes.pop("two")
        equal(domains.document(mount, "one")["memory_file"], new)
        equal(unpacked(mount, "one"), saved)
        wait_for(lambda: not os.path.exists(old), "the parent's memory is removed")
        mount.remount()
        equal(unpacked(mount, "one"), saved)
        mount.check(is_running=False)


def test_full_disk():
    """No room for the memory: known before, or found in the middle, all is as it was"""
    need(QEMU)
    with Running() as mount:
        small = os.path.join(mount.elsewhere, "small")
        os.mkdir(small)
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=160m", "none", small], check=True)
        try:
            mount.start()
            with mount.own() as monitor:
                bytes_of = monitor.command("query-memory-size-summary")["base-memory"]
            refused(errno.ENOSPC, mount, f"one memory=external memory-file={small}/m") if bytes_of > 160 << 20 else None
            with open(small + "/fill", "wb") as file:
                os.posix_fallocate(file.fileno(), 0, (160 << 20) - (100 << 10))
            with Unchanged(mount):
                fails_with(errno.ENOSPC, domains.create, mount, f"one memory=external memory-file={small}/m")
            for kind in ("gzip", "zstd"):
                with Unchanged(mount):
                    fails_with(errno.ENOSPC, domains.create, mount, f"one memory=external compress={kind} memory-file={small}/m")
            equal(os.listdir(small), ["fill"])
            os.unlink(small + "/fill")
            wait_state(mount, "running")
            mount.guest_writes(3)
            mount.check()
        finally:
            subprocess.run(["umount", "--lazy", small], check=True)


CRASHES = {
    "memory=external " + ALL.format("internal"): "ii",
    "memory=external " + ALL.format("external"): "ee",
    "memory=external compress=zstd disk=vda:external disk=vdb:internal": "ei",
    "memory=external live " + ALL.format("no"): "--",
    "memory=external paused " + ALL.format("external"): "ee",
    "memory=internal": "ii",
    "memory=internal disk=vda:internal disk=vdb:external": "ie",
    "disk-only paused " + ALL.format("external"): "ee",
}
OUTSIDE = ("made", "journaled", "saving", "copied", "taken", "memory-saved", "resumed", "memory-whole", "memory-published", "committing", "committed", "finishing")
INSIDE = ("journaled", "stopped", "memory-saved", "taken", "committing", "committed", "finishing")


def points_of(words):
    if words.startswith("memory=internal"):
        return [point for point in INSIDE if point not in ("stopped", "taken") or "external" in words]
    if words.startswith("disk-only"):
        return ("journaled", "taken", "committing")
    return [point for point in OUTSIDE if point != "taken" or ":no" not in words]


def crash(words, kinds, point, is_killed):
    """Killed there: afterwards the guest does what it did, and the snapshot is whole, or of its disks alone, or not there."""
    expected = (*EXPECTED, r"one of web1 has no memory")
    with Running(expected=expected, environment={"VMSNAPFS_TEST_CRASH": f"{point}:1"}) as mount:
        mount.start()
        mount.guest_writes(40)
        mount.flush()
        present = {target: bytes(mount.wanted[target]) for target, letter in zip(mount.targets, kinds) if letter != "-"}
        before = set(os.listdir(mount.source))
        create_and_die(mount, "one " + words)
        if is_killed:
            mount.kill_guest()
        mount.mount_again()
        what = f"{words}, {point}, {'killed' if is_killed else 'goes on'}"
        is_there = "one" in mount.snapshots("web1")
        if point in ("committed", "finishing"):
            equal(is_there, True, what)
        if is_there:
            document = domains.document(mount, "one")
            mount.frozen_bytes["one"] = present
            equal(set(domains.kinds(mount, "one").values()), {KINDS[letter] for letter in kinds} - {None}, what)
            if point in ("memory-published", "committed", "finishing"):
                equal(document["memory"], "internal" if "memory=internal" in words else "external", what)
            equal(document["consistency"], "crash" if document["memory"] == "no" else "checkpoint", what)
            if document["memory"] == "external":
                equal(unpacked(mount, "one")[:4], MAGIC)
        else:
            equal(set(os.listdir(mount.source)) - {"web1.json"}, before - {"web1.json"}, what)
        memories = [name for name in os.listdir(mount.source) if ".mem" in name or name.startswith(".vmsnapfs-")]
        equal(len(memories), is_there and document["memory"] == "external", f"{what}: {memories}")
        if is_killed:
            wait_for(lambda: state(mount) in ("crashed", "shutoff"), "the end of the QEMU")
            mount.check(is_running=False)
            mount.start()
        elif is_there and "paused" in words:
            equal(is_paused(mount), True, what)
            power(mount, "resume")
        wait_state(mount, "running")
        equal(is_paused(mount), False, what)
        mount.guest_writes(41)
        mount.guest_reads()
        mount.check()
        take(mount, "two memory=external live " + ALL.format("external"), "external", "ee")
        mount.guest_writes(42)
        mount.check()
        return is_there, document["memory"] if is_there else None


def test_crashes():
    """The daemon killed at every step of saving memory, its QEMU with it or not"""
    need(QEMU, "zstd")
    need_points()
    chance = checks.seed()
    rounds = [(words, kinds, point, killed) for words, kinds in CRASHES.items() for point in points_of(words) for killed in (False, True)]
    some = None if os.environ.get("VMSNAPFS_ROUNDS") else 24
    for words, kinds, point, killed in rounds if not some else chance.sample(rounds, some):
        print(f"    {words}, {point}, {'killed' if killed else 'goes on'}: {crash(words, kinds, point, killed)}", flush=True)


if __name__ == "__main__":
    checks.main(globals())
