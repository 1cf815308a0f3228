# SPDX-License-Identifier: LGPL-2.1-or-later
"""Snapshots of domains that run: what is taken, refused, undone; mixed with those of stopped ones."""

import contextlib
import errno
import os
import signal
import time

import administer
import checks
import domains
import make
from administer import command_refused
from checks import equal, fails_with, need
from faults import Fault, Faults
from mounted import run, wait_for
from running import ALL, Running, Unchanged, attempt_any, bottom_name, is_paused, refused, wait_connected
from test_power import QEMU, Guest, Monitor, Watched, power, state, wait_state


def take_and_write(mount, name, words, kinds, value):
    """A snapshot by one row of the table; its disks are frozen, and the guest writes on."""
    included = [target for target, kind in kinds.items() if kind]
    mount.guest_writes(value)
    mount.take(f"{name} {words}", included)
    equal(domains.kinds(mount, name), {target: kind for target, kind in kinds.items() if kind}, words)
    document = domains.document(mount, name)
    equal(document["state"], "running")
    equal(mount.text("web1", "snapshots", name, "consistency").strip(), "crash")
    mount.guest_writes(value + 1, at=value * 4096)
    mount.check()


def test_rows_without_memory():
    """Each row of the table for active domains that saves no memory, over and over on each other's results"""
    need(QEMU)
    rows = (
        ("disk-only", "ii"),
        ("memory=no", "ii"),
        ("disk-only memory=no", "ii"),
        ("disk-only " + ALL.format("external"), "ee"),
        ("memory=no " + ALL.format("external"), "ee"),
        ("disk-only " + ALL.format("internal"), "ii"),
        ("memory=no " + ALL.format("internal"), "ii"),
        ("disk-only memory=no " + ALL.format("internal"), "ii"),
        ("disk-only disk=vda:no", "-i"),
        ("disk-only disk=vda:external disk=vdb:no", "e-"),
        ("memory=no disk=vda:internal disk=vdb:external", "ie"),
        ("disk-only disk=vda:external disk=vdb:internal", "ei"),
    )
    words_of = {"i": "internal", "e": "external", "-": None}
    with Running() as mount:
        mount.start()
        for number, (words, kinds) in enumerate(rows):
            by_target = {target: words_of[letter] for target, letter in zip(mount.targets, kinds)}
            take_and_write(mount, f"s{number}", words, by_target, 2 * number + 10)
        equal(domains.parents(mount), {f"s{i}": f"s{i - 1}" if i else None for i in range(len(rows))})
        mount.off()
        mount.check(is_running=False)


def test_refused_rows():
    """Rows that make no sense, and what can't be, are refused and change nothing"""
    need(QEMU)
    with Running() as mount:
        mount.start()
        refused(errno.EINVAL, mount, "one disk-only " + ALL.format("no"), "nothing")
        refused(errno.EINVAL, mount, "one memory=no " + ALL.format("no"), "nothing")
        refused(errno.EINVAL, mount, "one disk-only memory=internal", "contradict")
        refused(errno.EINVAL, mount, "one disk-only memory=external", "contradict")
        refused(errno.EINVAL, mount, "one memory=internal " + ALL.format("no"))
        refused(errno.EINVAL, mount, "one memory=internal " + ALL.format("external"))
        refused(errno.EINVAL, mount, "one disk-only live")
        refused(errno.ENOENT, mount, "one disk-only disk=vdz:internal")
        refused(errno.EOPNOTSUPP, mount, "one disk-only quiesce=require", "agent")
        mount.take("one disk-only")
        refused(errno.EEXIST, mount, "one disk-only")
        mount.check()


def test_mkdir_names_presets():
    """mkdir of a running domain, a made-up name, a name that is no tag, presets that differ, a raw disk, a description"""
    need(QEMU)
    with Running(("qcow2", "raw", "qcow2"), presets=(None, None, "external")) as mount:
        mount.start()
        kinds = {"vda": "internal", "vdb": "external", "vdc": "external"}
        mount.guest_writes(20)
        for name in ("one", "17", "ein Schnappschuß"):
            domains.take(mount, name)
            mount.remember(name)
            # an overlay is qcow2, so what was raw at first has internal snapshots from then on
            equal(domains.kinds(mount, name)["vda"], "internal")
            equal(domains.kinds(mount, name)["vdc"], "external")
            if name == "one":
                equal(domains.kinds(mount, name), kinds)
            mount.guest_writes(len(name) + 30, at=4096)
        before = set(mount.snapshots("web1"))
        domains.create(mount, 'disk-only description="made up"')
        (made,) = set(mount.snapshots("web1")) - before
        mount.remember(made)
        equal(mount.text("web1", "snapshots", made, "description").strip(), "made up")
        mount.guest_writes(40)
        mount.check()
        mount.off()
        mount.check(is_running=False)


def test_paused():
    """A paused domain has its snapshots and stays paused; `paused` leaves one that runs paused"""
    need(QEMU)
    with Running() as mount:
        mount.start()
        power(mount, "pause")
        mount.guest_writes(9)
        mount.take("one disk-only disk=vda:external")
        equal(state(mount), "paused")
        equal(domains.document(mount, "one")["state"], "paused")
        mount.guest_writes(10)
        mount.check()
        power(mount, "resume")
        mount.guest_writes(11)
        mount.take("two disk-only paused " + ALL.format("external"))
        wait_state(mount, "paused")
        equal(domains.document(mount, "two")["state"], "running")
        mount.check()
        power(mount, "resume")
        wait_state(mount, "running")


def test_failed_pause_is_taken_back():
    """Where a snapshot with `paused` fails in QEMU, the domain runs on"""
    need(QEMU)
    with Running() as mount:
        mount.start()
        with mount.own() as monitor:
            # a job on the disk bars it from snapshots
            monitor.command("blockdev-add", **{"driver": "null-co", "node-name": "null", "size": domains.SIZE, "read-zeroes": True})
            monitor.command("blockdev-mirror", **{"job-id": "m", "device": "vda", "target": "null", "sync": "full", "speed": 1})
        with Unchanged(mount):
            fails_with((errno.EBUSY, errno.EINVAL, errno.EIO), domains.create, mount, "one disk-only paused " + ALL.format("external"))
            equal(is_paused(mount), False)


def test_all_disks_or_none():
    """An overlay's path that is taken, or in no directory, or not allowed: nothing happens, and the next works"""
    need(QEMU)
    with Running() as mount:
        mount.start()
        taken, good = os.path.join(mount.source, "taken"), os.path.join(mount.source, "good")
        with open(taken, "w", encoding="ascii") as file:
            file.write("a user's")
        first = f"disk=vda:external:{good}"
        refused(errno.EEXIST, mount, f"one disk-only {first} disk=vdb:external:{taken}", "there already")
        refused(errno.ENOENT, mount, f"one disk-only {first} disk=vdb:external:{mount.source}/none/x")
        refused(errno.EPERM, mount, f"one disk-only {first} disk=vdb:external:{mount.room}/x", "allow")
        mount.guest_writes(30)
        mount.take(f"one disk-only {first} disk=vdb:external")
        equal(mount.opened()["vda"], good)
        mount.guest_writes(31)
        mount.check()
        with open(taken, encoding="ascii") as file:
            equal(file.read(), "a user's")


def opened_by_qemu(mount):
    """Block nodes by the files that they have open, and the files of the source by their descriptors."""
    with mount.own() as monitor:
        nodes = monitor.command("query-named-block-nodes", flat=True)
    (pid,) = mount.processes()
    files = []
    for entry in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(FileNotFoundError):
            files.append(os.readlink(f"/proc/{pid}/fd/{entry}"))
    return sorted((node["drv"], bottom_name(node["file"])) for node in nodes), sorted(path for path in files if path.startswith(mount.source))


def test_nothing_stays_open():
    """After many snapshots that were deleted again, its QEMU has no node and no descriptor more than before"""
    need(QEMU)
    with Running(("qcow2", "raw")) as mount:
        mount.start()
        before = opened_by_qemu(mount)
        for number in range(20):
            mount.rest()
            mount.guest_writes(number + 1, at=number % 4 * 4096)
            mount.take(f"s{number} disk-only " + ALL.format("external"))
            if number % 3:
                os.rmdir(administer.snapshot_path(mount, "web1", f"s{number}"))
                del mount.frozen_bytes[f"s{number}"]
        for name in list(mount.frozen_bytes):
            os.rmdir(administer.snapshot_path(mount, "web1", name))
            del mount.frozen_bytes[name]
        administer.wait_idle(mount)
        mount.check()
        equal(opened_by_qemu(mount), before)


def test_undone_in_its_qemu():
    """An overlay that can't be opened, or not be put on top, leaves no node, no descriptor and no file behind"""
    need(QEMU)
    faults = Faults()
    with Running(("qcow2", "qcow2"), environment=faults.environment(), expected=(r"monitor", r"error", r"does not answer")) as mount:
        mount.start()
        for command, number, words in (
            ("blockdev-add", 1, ALL.format("external")),
            ("blockdev-add", 2, ALL.format("external")),
            ("transaction", 1, ALL.format("external")),
            ("transaction", 1, "disk=vda:external disk=vdb:internal"),
            ("blockdev-snapshot", 1, "disk=vda:external disk=vdb:no"),
            ("blockdev-snapshot-internal-sync", 1, "disk=vda:internal disk=vdb:no"),
        ):
            before = opened_by_qemu(mount), administer.names_beside(mount)
            faults.watch(mount.source)
            faults.arm(Fault("monitor", "error", only=command), number)
            command_refused(errno.ENOSPC, mount, "web1", "create", f"one disk-only {words}")
            assert faults.disarm(), f"{command}, number {number}, was not met"
            equal((opened_by_qemu(mount), administer.names_beside(mount)), before, f"{command} {number}")
        before = opened_by_qemu(mount), administer.names_beside(mount)
        for number in (1, 2):
            faults.arm(Fault("monitor", "carried out, silent", only="blockdev-add"), number)
            command_refused(errno.ETIMEDOUT, mount, "web1", "create", "one disk-only " + ALL.format("external"))
            assert faults.disarm(), f"blockdev-add, number {number}, was not met"
            wait_for(lambda: (opened_by_qemu(mount), administer.names_beside(mount)) == before, lambda: f"{opened_by_qemu(mount)} to be {before}")
        wait_state(mount, "running")
        mount.take("one disk-only " + ALL.format("external"))
        mount.guest_writes(31)
        mount.check()


def test_reused_overlay():
    """An overlay that a user made is used as it is; one that stands on something else is refused"""
    need(QEMU)
    with Running() as mount:
        mount.start()
        make.filled(os.path.join(mount.source, "third.img"), domains.SIZE)
        mine = mount.users_overlay("mine", "web1.qcow2")
        wrong = mount.users_overlay("wrong", "third.img", "raw")
        refused(errno.EINVAL, mount, f"one disk-only reuse-external disk=vda:external:{wrong} disk=vdb:no", "can't be reused")
        mount.take(f"one disk-only reuse-external disk=vda:external:{mine} disk=vdb:no", ["vda"])
        equal(mount.opened()["vda"], mine)
        mount.guest_writes(3)
        mount.check()
        mount.take("two disk-only")
        mount.guest_writes(4)
        mount.check()


def test_overlay_made_ready():
    """An overlay that is laid on the file to which its QEMU writes is nobody's until it is asked for, or the QEMU moves over"""
    need(QEMU)
    with Running() as mount:
        mount.start()
        for number, name in enumerate(("web1.mine", "other")):
            base = administer.source(mount, "web1", "vda")[0]
            mine = mount.users_overlay(os.path.join(mount.source, name), base)
            time.sleep(2.5)  # until a look would have taken it for active
            equal((administer.source(mount, "web1", "vda")[0], len(mount.snapshots("web1"))), (base, 2 * number))
            mount.take(f"between{number} disk-only disk=vda:no disk=vdb:internal", ["vdb"])
            mount.guest_writes(10 + number)
            mount.take(f"one{number} disk-only reuse-external disk=vda:external:{mine} disk=vdb:no", ["vda"])
            equal(mount.opened()["vda"], mine)
            mount.guest_writes(20 + number)
            mount.check()
        base = administer.source(mount, "web1", "vda")[0]
        theirs = mount.users_overlay(os.path.join(mount.source, "web1.theirs"), base)
        time.sleep(2.5)
        equal(administer.source(mount, "web1", "vda")[0], base)
        mount.remember("theirs", ["vda"])
        with mount.own() as monitor:  # as virsh does
            file = {"driver": "file", "filename": theirs}
            monitor.command("blockdev-add", driver="qcow2", node_name="theirs", backing=None, file=file)
            (node,) = [block["inserted"]["node-name"] for block in monitor.command("query-block") if "d-vda/" in block["qdev"]]
            monitor.command("blockdev-snapshot", node=node, overlay="theirs")
        wait_for(lambda: administer.source(mount, "web1", "vda")[0] == theirs, "what another program has moved over to")
        mount.guest_writes(30)
        mount.check()


def test_stopped_and_running():
    """Snapshots of the stopped and the running domain on each other; after destroy and start it runs where source says"""
    need(QEMU)
    with Running(("qcow2", "raw")) as mount:
        for turn in range(3):
            mount.start()
            mount.guest_writes(50 + turn)
            mount.take(f"r{turn} disk-only " + ALL.format("external"))
            mount.guest_writes(60 + turn, at=8192)
            mount.take(f"i{turn} disk-only " + ALL.format("internal"))
            mount.guest_writes(70 + turn, at=16384)
            mount.check()
            mount.off()
            mount.check(is_running=False)
            mount.take(f"s{turn}" + (" disk=vda:external" if turn % 2 else ""))
            mount.check(is_running=False)
        equal(len(domains.parents(mount)), 9)
        equal(sum(parent is None for parent in domains.parents(mount).values()), 1)
        mount.start()
        mount.check()


def attempt(function, *arguments):
    try:
        function(*arguments)
    except OSError as error:
        assert error.errno in (errno.EBUSY, errno.EOPNOTSUPP), f"{arguments}: {error}"
        return False
    return True


def delete_one(mount, name):
    os.rmdir(administer.snapshot_path(mount, "web1", name))


def test_deleting_while_it_runs():
    """Snapshots that are deleted while the domain runs are gone or still there; once it is off all goes home"""
    need(QEMU)
    for kind in ("external", "internal"):
        with Running() as mount:
            mount.start()
            names = [f"{kind[0]}{i}" for i in range(4)]
            for number, name in enumerate(names):
                mount.guest_writes(20 + number)
                mount.take(f"{name} disk-only " + ALL.format(kind))
                mount.guest_writes(30 + number, at=65536 * (number + 1))
            for name in (names[2], names[0], names[3]):
                if attempt(delete_one, mount, name):
                    del mount.frozen_bytes[name]
                mount.rest()
                mount.check()
            # what waits must not disturb the guest, nor snapshots
            mount.guest_reads()
            mount.guest_writes(77, at=5 * 65536)
            mount.take("more disk-only")
            mount.check()
            mount.off()
            mount.check(is_running=False)
            for name in list(mount.frozen_bytes):
                delete_one(mount, name)
                del mount.frozen_bytes[name]
            for target, name in (("vda", "web1.qcow2"), ("vdb", "web1-b.qcow2")):
                domains.home(mount, target=target, name=name)
            equal(administer.names_beside(mount), ["web1-b.qcow2", "web1.json", "web1.qcow2"])
            mount.check(is_running=False)
            for path in administer.images(mount.source):
                equal(administer.tags(path), [])


def test_merging_while_it_runs():
    """delete merge, discard and children of a running domain never change what the guest sees"""
    need(QEMU)
    for kind in ("external", "internal"):
        for verb in ("merge", "merge-force", "discard", "discard-force", "children", "children-only"):
            with Running() as mount:
                mount.start()
                for number, name in enumerate(("a", "b", "c")):
                    mount.guest_writes(20 + number)
                    mount.take(f"{name} disk-only " + ALL.format(kind))
                    mount.guest_writes(30 + number, at=65536)
                code = None
                try:
                    administer.command_of(mount, "web1", "b", "delete", verb)
                except OSError as error:
                    code = error.errno
                assert code in (None, errno.EBUSY, errno.ENOTEMPTY, errno.EOPNOTSUPP), (verb, code)
                there = set(mount.snapshots("web1"))
                if code:
                    equal(there, {"a", "b", "c"}, verb)
                elif verb.startswith("merge"):
                    mount.frozen_bytes["a"] = mount.frozen_bytes["b"]
                mount.frozen_bytes = {name: content for name, content in mount.frozen_bytes.items() if name in there}
                mount.rest()
                mount.check()
                mount.rest()  # who reads stops merges, which then go on
                mount.guest_reads()
                mount.rest()
                mount.guest_writes(99, at=2 * 65536)
                mount.check()
                mount.off()
                administer.wait_idle(mount)
                mount.check(is_running=False)


# ---- Refused because of what its QEMU does ----


def test_migrating():
    """While it is migrated no snapshot is taken; once that was cancelled, one is"""
    need(QEMU)
    with Running() as mount:
        mount.start()
        for number in range(20):  # what QEMU says while it is asked is heard, too
            with mount.own() as monitor:
                monitor.command("migrate-set-capabilities", capabilities=[{"capability": "pause-before-switchover", "state": True}])
                monitor.command("migrate", uri="exec:cat >/dev/null")
                wait_state(mount, "migrating")
                if number == 0:
                    command_refused(errno.EBUSY, mount, "web1", "create", "one disk-only", words=["migrated"])
                    fails_with(errno.EBUSY, domains.take, mount, "one")
                wait_for(lambda: monitor.command("query-migrate")["status"] == "pre-switchover", "the memory")
                monitor.command("migrate_cancel")
            wait_state(mount, "running")
        equal(mount.snapshots("web1"), [])
        mount.take("one disk-only")
        mount.check()


def test_shutting_down():
    """While it is off, and its QEMU is still there, no snapshot is taken"""
    need(QEMU)
    with Running(more=("-no-shutdown",)) as mount:
        mount.start()

        def is_off():
            with contextlib.suppress(OSError, ValueError):
                mount.human("o /w 0x604 0x2000")
            return state(mount) == "shutting-down"

        wait_for(is_off, "the guest to be off")
        command_refused(errno.EBUSY, mount, "web1", "create", "one disk-only", words=["shutting down"])
        equal(mount.snapshots("web1"), [])


def test_silent():
    """A QEMU that does not answer: ETIMEDOUT, nothing is there; once it goes on, snapshots work, and all is right"""
    need(QEMU)
    for words in (ALL.format("external"), ALL.format("internal")):
        mount = Running(expected=[r"does not answer", r"could not be undone", r"not undone yet", r"may have, and its result"])
        with mount:
            mount.start()
            mount.guest_writes(33)
            (pid,) = mount.processes()
            os.kill(pid, signal.SIGSTOP)
            try:
                command_refused(errno.ETIMEDOUT, mount, "web1", "create", "one disk-only " + words)
                os.listdir(mount.path("web1", "snapshots"))
            finally:
                os.kill(pid, signal.SIGCONT)
            wait_state(mount, "running")
            settle(mount, "one")
            mount.guest_writes(34)
            mount.take("two disk-only")
            mount.guest_writes(35)
            mount.check()


def settle(mount, name):
    """Until a further snapshot can be taken; what was left open by then is there whole, or not at all."""

    def works():
        try:
            domains.create(mount, "after disk-only")
        except OSError as error:
            assert error.errno in (errno.ETIMEDOUT, errno.EBUSY, errno.EIO, errno.ECONNRESET), error
            return False
        return True

    wait_for(works, "a snapshot after a silent QEMU")
    mount.remember("after")
    assert name not in mount.snapshots("web1"), "it was told as failed, and is there"


def test_another_client_has_the_monitor():
    """While another client has the only monitor that we know, snapshots are refused in bounded time"""
    need(QEMU)
    mount = Watched(expected=[r"does not answer"])
    with Guest(mount.qmp, disk=mount.disk):
        other = Monitor(mount.qmp)
        with mount:
            fails_with((errno.ETIMEDOUT, errno.EBUSY), domains.take, mount, "one")
            equal(mount.snapshots("web1"), [])
            equal(administer.tags(mount.disk), [])
            other.close()
            wait_state(mount, "running")
            wait_for(lambda: attempt_any(domains.take, mount, "one"), "a snapshot")
            equal(mount.snapshots("web1"), ["one"])
            equal(administer.tags(mount.disk), ["one"])


def test_another_image():
    """A QEMU that was started on another image than ours is left alone"""
    need(QEMU)
    with Watched() as mount:
        other = make.image(mount.room, "other.qcow2", str(domains.SIZE))
        with Guest(mount.qmp, disk=other):
            wait_connected(mount)
            for words in ("one disk-only", "one disk-only disk=vda:external"):
                command_refused(errno.EOPNOTSUPP, mount, "web1", "create", words, words=["another"])
            equal(mount.snapshots("web1"), [])
            equal(administer.names_beside(mount), ["web1.json", "web1.qcow2"])
            equal(administer.tags(mount.disk), [])
            equal(administer.tags(other), [])


def replace_by_copy(mount, path):
    """By another file with everything that a file system keeps of one; returns where the old one is now. The name is never
    without a file."""
    aside = os.path.join(mount.elsewhere, os.path.basename(path) + ".aside")
    run("cp", "--preserve=all", path, aside + ".new")
    os.link(path, aside)
    os.rename(aside + ".new", path)
    return aside


def test_replaced_while_it_runs():
    """An active image that is replaced while a QEMU has the old one open: neither is frozen or copied, until it is brought back"""
    need(QEMU)
    with Running(("qcow2", "raw")) as mount:
        mount.start()
        mount.guest_writes(1)
        mount.take("one disk-only " + ALL.format("external"))
        mount.guest_writes(2)
        mount.flush()
        path, _ = administer.source(mount, "web1", "vda")
        aside = replace_by_copy(mount, path)
        names = administer.names_beside(mount)
        for words in ("two disk-only disk=vda:external", "two disk-only disk=vda:internal", "two disk-only", "two memory=external", "two memory=external disk=vda:no disk=vdb:external"):
            command_refused(errno.EOPNOTSUPP, mount, "web1", "create", words, words=["replaced"])
        command_refused(errno.EOPNOTSUPP, mount, "web1", "disks/vda/copy", os.path.join(mount.elsewhere, "x.qcow2"), words=["replaced"])
        command_refused(errno.EOPNOTSUPP, mount, "web1", "snapshots/one/revert", "running", words=["replaced"])
        equal(mount.snapshots("web1"), ["one"])
        equal(administer.names_beside(mount), names)
        mount.take("three disk-only disk=vda:no disk=vdb:external", ["vdb"])
        os.rename(aside, path)
        mount.guest_writes(3)
        mount.take("four disk-only " + ALL.format("external"))
        mount.guest_writes(4)
        mount.check()
        mount.off()
        mount.check(is_running=False)


def test_replaced_below_while_it_runs():
    """A frozen layer that is replaced while a QEMU has the old one open: nothing is merged there before it has ended"""
    need(QEMU)
    with Running() as mount:
        mount.start()
        for number, name in enumerate(("one", "two", "three")):
            mount.guest_writes(number + 1)
            mount.take(f"{name} disk-only " + ALL.format("external"))
        mount.guest_writes(4)
        layers = administer.layers(mount, "web1", "vda")
        for path in layers[1:]:
            os.unlink(replace_by_copy(mount, path))
        os.rmdir(mount.path("web1", "snapshots", "two"))
        del mount.frozen_bytes["two"]
        wait_for(lambda: any(status.startswith("waiting") and "replaced" in status for status in administer.jobs(mount, "web1").values()), "what waits")
        mount.check()
        mount.off()
        administer.wait_idle(mount)
        mount.check(is_running=False)
        mount.start()
        mount.guest_writes(5)
        mount.check()


def test_followed():
    """A QEMU that others run, on a chain that they opened by its file names, switches to our overlay"""
    need(QEMU)
    with Watched() as mount, Guest(mount.qmp, disk=mount.disk) as guest:
        wait_connected(mount)
        device = "/machine/peripheral-anon/device[0]/virtio-backend"
        equal(guest.command("human-monitor-command", command_line=f'qemu-io -d {device} "write -P 5 0 64k"'), "")
        domains.create(mount, "one disk-only disk=vda:external")
        (block,) = [block for block in guest.command("query-block") if "inserted" in block]
        equal(block["inserted"]["file"], administer.source(mount, "web1")[0])
        equal(domains.frozen_byte(mount, "one"), 5)


def test_opened_by_drive():
    """A QEMU that others started with -drive, whose nodes have made-up names, on qcow2 and raw disks"""
    need(QEMU)
    for image_format, words in (("qcow2", "disk=vda:internal"), ("qcow2", "disk=vda:external"), ("raw", "")):
        mount = Watched()
        domains.web1(mount.source, qmp=mount.qmp, formats=(image_format,))
        if image_format == "raw":
            os.unlink(mount.disk)
        path = os.path.join(mount.source, "web1.img" if image_format == "raw" else "web1.qcow2")
        with mount, Guest(mount.qmp, "-drive", f"file={path},format={image_format},if=none,id=d", "-device", "virtio-blk-pci,drive=d") as guest:
            wait_connected(mount)
            for number in (1, 2, 3):
                equal(guest.command("human-monitor-command", command_line=f'qemu-io d "write -q -P {number + 5} 0 64k"'), "")
                domains.create(mount, f"s{number} disk-only {words}")
                (block,) = [block for block in guest.command("query-block") if "inserted" in block]
                equal(bottom_name(block["inserted"]["file"]), administer.source(mount, "web1")[0])
            equal(guest.command("human-monitor-command", command_line='qemu-io d "write -q -P 99 0 64k"'), "")
            for number in (1, 2, 3):
                equal(domains.frozen_byte(mount, f"s{number}"), number + 5)


def test_discarded_at_the_end():
    """A QEMU with snapshot=on writes to no image of ours: refused"""
    need(QEMU)
    with Watched() as mount, Guest(mount.qmp, "-drive", f"file={mount.disk},format=qcow2,if=none,id=d,snapshot=on", "-device", "virtio-blk-pci,drive=d"):
        wait_connected(mount)
        for words in ("one disk-only", "one disk-only disk=vda:external"):
            command_refused(errno.EOPNOTSUPP, mount, "web1", "create", words, words=["another"])
        equal(administer.names_beside(mount), ["web1.json", "web1.qcow2"])
        equal(administer.tags(mount.disk), [])


def test_who_follows():
    """Where nobody would start the domain on another file, an external snapshot is refused, an internal one taken"""
    need(QEMU)
    mount = Watched()
    domains.web1(mount.source, qmp=mount.qmp, follows=False)
    with mount, Guest(mount.qmp, disk=mount.disk):
        wait_connected(mount)
        command_refused(errno.EPERM, mount, "web1", "create", "one disk-only disk=vda:external", words=["follows"])
        domains.take(mount, "one")
        equal(administer.tags(mount.disk), ["one"])


def test_iothreads():
    """Disks that are served by threads of their own"""
    need(QEMU)
    with Running(iothreads=True) as mount:
        mount.start()
        for number, words in enumerate((ALL.format("external"), ALL.format("internal"), "disk=vda:internal disk=vdb:external")):
            mount.guest_writes(20 + number)
            mount.take(f"s{number} disk-only {words}")
            mount.guest_writes(30 + number, at=65536)
            mount.check()
        mount.guest_reads()
        with mount.own() as monitor:
            monitor.command("blockdev-add", **{"driver": "null-co", "node-name": "null", "size": domains.SIZE, "read-zeroes": True})
            monitor.command("blockdev-mirror", **{"job-id": "m", "device": administer_node(monitor, "vda"), "target": "null", "sync": "full", "speed": 1})
        with Unchanged(mount):
            fails_with((errno.EBUSY, errno.EINVAL, errno.EIO), domains.create, mount, "one disk-only " + ALL.format("external"))
        with mount.own() as monitor:
            monitor.command("block-job-cancel", device="m", force=True)
            wait_for(lambda: not monitor.command("query-jobs"), "the end of the job")
        mount.take("more disk-only " + ALL.format("external"))
        mount.check()


def administer_node(monitor, target):
    """The node that a disk's device is on."""
    (block,) = [block for block in monitor.command("query-block") if block["qdev"] == f"/machine/peripheral/d-{target}/virtio-backend"]
    return block["inserted"]["node-name"]


def test_deep_chain():
    """Many overlays, made while it runs; it starts again on them, and has one more"""
    need(QEMU)
    with Running(("qcow2",)) as mount:
        mount.start()
        for number in range(80):
            mount.guest_writes(number + 1, at=number % 60 * 65536)
            mount.take(f"s{number} disk-only disk=vda:external")
        mount.off()
        mount.check(is_running=False)
        mount.start()
        mount.guest_writes(111)
        mount.take("more disk-only disk=vda:external")
        mount.guest_writes(112)
        mount.check()


if __name__ == "__main__":
    checks.main(globals())
