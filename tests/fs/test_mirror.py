# SPDX-License-Identifier: LGPL-2.1-or-later
"""Disks of running domains that are copied into other files: kept in step, moved to, let go of, dropped."""

import contextlib
import errno
import json
import os
import signal
import subprocess

import administer
import checks
import domains
import make
from administer import command, command_refused
from checks import equal, need
from mounted import run, wait_for
from running import PAGE, Running, Unchanged, same
from test_power import QEMU, Guest, Watched, events, power, redefine, state, wait_state

SLOW = "bandwidth=64K"
EXPECTED = (r"its QEMU ended", r"ended while nobody looked", r"ended by signal", r"ended without being asked", r"does not answer")


def copy(mount, words, target="vda"):
    return command(mount, "web1", f"disks/{target}/copy", words)


def pivot(mount, target="vda"):
    return command(mount, "web1", f"disks/{target}/pivot", "1")


def abort(mount, target="vda"):
    return command(mount, "web1", f"disks/{target}/abort", "1")


def refused(code, mount, control, words, *said, target="vda"):
    with Unchanged(mount):
        command_refused(code, mount, "web1", f"disks/{target}/{control}", words, words=said)


def copy_jobs(mount):
    """{target: (number, status, progress)}"""
    found = {}
    for number in administer.jobs(mount, "web1"):
        with contextlib.suppress(FileNotFoundError):
            what = mount.text("web1", "jobs", number, "what").split()
            if what[:2] == ["copy", "disk"]:
                status, progress = (mount.text("web1", "jobs", number, name).strip() for name in ("status", "progress"))
                found[what[2]] = (number, status, int(progress))
    return found


def wait_ready(mount, target="vda"):
    wait_for(lambda: copy_jobs(mount).get(target, ("", ""))[1] == "ready", f"the copy of {target}: {copy_jobs(mount)}")
    equal(copy_jobs(mount)[target][2], 100)


def content_of(path, image_format):
    out = path + ".checked"
    try:
        run("qemu-img", "convert", "-U", "-f", image_format, "-O", "raw", path, out)
        with open(out, "rb") as file:
            return file.read()
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(out)


def fill(mount, target="vda", pages=24):
    """So much that a slow copy takes its time."""
    for page in range(4, 4 + pages):
        mount.guest_writes(100 + page, [target], at=page * PAGE)


def nodes(mount):
    with mount.own() as monitor:
        return {node["node-name"] for node in monitor.command("query-named-block-nodes", flat=True)}


def no_trace(mount, path):
    """Nothing of a copy is left but what is expected of its file."""
    wait_for(lambda: not copy_jobs(mount), f"the end of the copy: {copy_jobs(mount)}")
    assert not os.path.exists(path), path
    assert "not being copied" in mount.text("web1", "disks", "vda", "copy")
    if state(mount) == "running":
        assert not any(name.startswith("vm") for name in nodes(mount)), nodes(mount)


def test_clone_in_a_copy():
    """The overlay that was made for a clone goes when the clone goes on in a copy, and nobody needs it; what it lay on stays"""
    need(QEMU)
    with Running(("qcow2",)) as mount:
        mount.start()
        mount.guest_writes(21)
        mount.take("one disk-only disk=vda:external")
        mount.guest_writes(22)
        administer.command_of(mount, "web1", "one", "clone", "two")
        mount.off()
        first = administer.source(mount, "two")[0]
        with open(os.path.join(mount.source, "web1.json"), encoding="utf-8") as file:
            launch = json.load(file)["launch"]
        definition = os.path.join(mount.source, "two.json")
        with open(definition, encoding="utf-8") as file:
            content = json.load(file)
        with open(definition + ".new", "w", encoding="utf-8") as file:
            json.dump({**content, "launch": launch}, file)
        os.rename(definition + ".new", definition)
        wait_for(lambda: can_start(mount, "two"), "the new definition")
        wait_for(lambda: mount.text("two", "state").strip() == "running", "the clone to run")
        domains.create(mount, "inner disk-only disk=vda:internal", "two")
        target = os.path.join(mount.source, "moved.qcow2")
        command(mount, "two", "disks/vda/copy", target)
        wait_for(lambda: "ready" in administer.jobs(mount, "two").values(), "the copy")
        command(mount, "two", "disks/vda/pivot", "1")
        equal(administer.source(mount, "two")[0], target)
        administer.wait_idle(mount)
        assert os.path.exists(first), "a snapshot needs it"
        same(administer.frozen_bytes(mount, "two", "inner"), mount.frozen_bytes["one"]["vda"], "what the snapshot of the clone holds")
        os.rmdir(administer.snapshot_path(mount, "two", "inner"))
        administer.wait_idle(mount)
        wait_for(lambda: not os.path.exists(first), "the first file, which nobody needs, to be given back")
        for _ in range(2):
            equal(json.loads(mount.text("two", "domain.json"))["problem"] or "", "")
            same(administer.frozen_bytes(mount, "web1", "one"), mount.frozen_bytes["one"]["vda"], "what it lay on")
            command(mount, "two", "power", "destroy")
            administer.wait_idle(mount)
            same(administer.active_bytes(mount, "two"), mount.frozen_bytes["one"]["vda"], "the clone's present")
            mount.remount()
            equal(administer.source(mount, "two")[0], target)
            domains.create(mount, "again disk=vda:external", "two")
            os.rmdir(administer.snapshot_path(mount, "two", "again"))
            administer.wait_idle(mount)
            equal(administer.layers(mount, "two"), [target])
            command(mount, "two", "power", "start")
            wait_for(lambda: mount.text("two", "state").strip() == "running", "the clone to run")
        command(mount, "two", "power", "destroy")


def can_start(mount, domain):
    with contextlib.suppress(OSError):
        command(mount, domain, "power", "start")
        return True
    return False


def test_copy_and_pivot():
    """A whole copy, qcow2 to raw and raw to qcow2, in the source and elsewhere: the domain goes on in it, and starts from it"""
    need(QEMU)
    with Running(("qcow2", "raw")) as mount:
        mount.start()
        for page in range(8):
            mount.guest_writes(21, at=page * PAGE)
        mount.take("one disk-only disk=vda:internal disk=vdb:external")
        mount.guest_writes(22, at=PAGE)
        raw, qcow2 = os.path.join(mount.elsewhere, "vda.raw"), os.path.join(mount.source, "moved.qcow2")
        said = copy(mount, f"{raw} raw bandwidth=200M")
        assert raw in said and "jobs/" in said, said
        copy(mount, f"{qcow2} format=qcow2", "vdb")
        for target in mount.targets:
            wait_ready(mount, target)
            mount.guest_writes(23, [target], at=2 * PAGE)
        assert "moved" not in os.listdir(mount.mountpoint), "a copy is taken for a domain"
        assert raw in mount.text("web1", "disks", "vda", "copy")
        frozen_by_overlay = administer.source(mount, "web1", "vdb")[0]
        pivot(mount)
        pivot(mount, "vdb")
        equal(administer.source(mount, "web1"), (raw, "raw"))
        equal(administer.source(mount, "web1", "vdb"), (qcow2, "qcow2"))
        equal(administer.layers(mount, "web1"), [raw])
        equal(state(mount), "running")
        mount.guest_writes(24, at=3 * PAGE)
        mount.guest_reads()
        mount.check()
        assert not any(name.startswith("vda") for name in nodes(mount)), "what was left is still open"
        assert f"disk vda goes on in {raw}" in events(mount)
        mount.kill()
        mount.mount_again()
        equal(administer.source(mount, "web1"), (raw, "raw"))
        wait_state(mount, "running")
        mount.check()
        mount.take("two disk-only")
        mount.guest_writes(25, at=4 * PAGE)
        mount.check()
        mount.off()
        mount.check(is_running=False)
        mount.start()
        mount.guest_reads()
        mount.off()
        assert os.path.exists(os.path.join(mount.source, "web1.qcow2")), "a user's file is gone"
        for name in ("two", "one"):
            os.rmdir(administer.snapshot_path(mount, "web1", name))
            del mount.frozen_bytes[name]
        wait_for(lambda: not os.path.exists(frozen_by_overlay), "the overlay that nobody needs")
        administer.wait_idle(mount, "web1")
        equal(administer.source(mount, "web1"), (raw, "raw"))
        mount.check(is_running=False)


def test_shallow():
    """The top layer alone, beside what it lies on: pivot and a next snapshot; base= says the same"""
    need(QEMU)
    for iothreads in (False, True):
        shallow(iothreads)


def shallow(iothreads):
    with Running(("qcow2",), iothreads=iothreads) as mount:
        mount.start()
        mount.guest_writes(21)
        mount.take("one disk-only disk=vda:external")
        base = os.path.join(mount.source, "web1.qcow2")
        mount.guest_writes(22, at=PAGE)
        path = os.path.join(mount.elsewhere, "top")
        copy(mount, f"{path} base={base}")
        wait_ready(mount)
        mount.io("vda", f"write -P 23 {2 * PAGE + 512} 1k")
        mount.wanted["vda"][2 * PAGE + 512 : 2 * PAGE + 1536] = bytes([23]) * 1024
        old = administer.source(mount, "web1")[0]
        pivot(mount)
        equal(administer.layers(mount, "web1"), [path, base])
        mount.check()
        equal(administer.information(path)["backing-filename"], base)
        wait_for(lambda: not os.path.exists(old), "the end of the layer that was left")
        mount.take("two disk-only disk=vda:external")
        mount.guest_writes(24, at=3 * PAGE)
        refused(errno.EOPNOTSUPP, mount, "copy", f"{path}.more base={base}", "nothing between")
        copy(mount, f"{path}.more shallow")
        wait_ready(mount)
        abort(mount)
        equal(administer.information(path + ".more")["backing-filename"], path)
        same(content_of(path + ".more", "qcow2"), mount.wanted["vda"], "the copy")
        mount.check()
        mount.off()
        mount.check(is_running=False)


def test_abort():
    """In step, a copy that is let go of is the disk at that instant; before that it is removed, also by its job's cancel"""
    need(QEMU)
    with Running() as mount:
        mount.start()
        mount.guest_writes(31)
        path = os.path.join(mount.elsewhere, "copy.qcow2")
        copy(mount, path)
        wait_ready(mount)
        mount.guest_writes(32, at=PAGE)
        before = bytes(mount.wanted["vda"])
        said = abort(mount)
        assert "at this instant" in said, said
        mount.guest_writes(33, at=PAGE)
        same(content_of(path, "qcow2"), before, "the copy")
        administer.check_image(path)
        os.unlink(path)
        no_trace(mount, path)
        fill(mount)
        copy(mount, f"{path} {SLOW}")
        wait_for(lambda: copy_jobs(mount)["vda"][2] > 0, "some progress")
        equal(copy_jobs(mount)["vda"][1], "copying")
        command_refused(errno.EBUSY, mount, "web1", "disks/vda/pivot", "1", words=("not in step",))
        said = abort(mount)
        assert "removed" in said, said
        no_trace(mount, path)
        copy(mount, f"{path} {SLOW}")
        with open(mount.path("web1", "jobs", copy_jobs(mount)["vda"][0], "cancel"), "w", encoding="ascii") as file:
            file.write("1\n")
        no_trace(mount, path)
        assert any(line.startswith(f"the copy {path} is dropped") for line in events(mount)), events(mount)
        statuses = [mount.text("web1", "jobs", number, "status").strip() for number in os.listdir(mount.path("web1", "jobs"))]
        assert "failed: it was cancelled" in statuses, statuses
        mount.check()


def test_refusals():
    """What can't be copied, or done meanwhile, is refused with the reason, and nothing is touched"""
    need(QEMU)
    with Running() as mount:
        path = os.path.join(mount.elsewhere, "copy.qcow2")
        command_refused(errno.EOPNOTSUPP, mount, "web1", "disks/vda/copy", path, words=("clone",))
        assert not os.path.exists(path)
        mount.start()
        refused(errno.EPERM, mount, "copy", f"{os.path.join(mount.source, 'web1-b.qcow2')} reuse", "image of web1")
        mount.take("one disk-only")
        with open(path, "w", encoding="ascii") as file:
            file.write("a user's")
        refused(errno.EEXIST, mount, "copy", path, "reuse")
        refused(errno.EINVAL, mount, "copy", f"{path} reuse", "no sound qcow2")
        refused(errno.EPERM, mount, "copy", os.path.join(mount.room, "copy.qcow2"), "allow=")
        refused(errno.ENOENT, mount, "copy", os.path.join(mount.elsewhere, "no", "copy.qcow2"))
        refused(errno.EINVAL, mount, "copy", os.path.join(mount.source, "copy.qcow2") + " raw", ".raw or .img")
        refused(errno.EINVAL, mount, "copy", f"{path} base=/nothing", "layers")
        refused(errno.EINVAL, mount, "copy", "relative.qcow2", "absolute path")
        refused(errno.ENOENT, mount, "pivot", "1", "not being copied")
        refused(errno.ENOENT, mount, "abort", "1", "not being copied")
        os.unlink(path)
        copy(mount, path)
        wait_ready(mount)
        for control, words in (
            ("create", "two disk-only"), ("create", "two disk-only disk=vda:external disk=vdb:no"), ("disks/vda/copy", path + "2"),
            ("disks/vdb/copy", path + " reuse"), ("snapshots/one/delete", "merge"), ("snapshots/one/revert", "shutoff"),
        ):  # fmt: skip
            command_refused(errno.EBUSY, mount, "web1", control, words, words=("copy", "vda") if "vdb/" not in control else ())
        mount.take("other disk-only disk=vda:no disk=vdb:external", ["vdb"])
        os.rmdir(administer.snapshot_path(mount, "web1", "one"))
        del mount.frozen_bytes["one"]
        mount.guest_writes(44, at=2 * PAGE)
        mount.check()
        pivot(mount)
        mount.check()


def test_reuse():
    """A file that is there is written over, whatever it held, and never unlinked"""
    need(QEMU)
    with Running(("qcow2", "raw")) as mount:
        mount.start()
        qcow2, raw = os.path.join(mount.source, "prepared.qcow2"), os.path.join(mount.elsewhere, "prepared.raw")
        make.write(make.image(mount.source, "prepared.qcow2", str(domains.SIZE)), "99 1M 1M")
        with open(raw, "wb") as file:
            file.write(b"z" * domains.SIZE)
        short = os.path.join(mount.elsewhere, "short.qcow2")
        run("qemu-img", "create", "-q", "-f", "qcow2", short, "1M")
        refused(errno.EINVAL, mount, "copy", f"{short} reuse", "bytes")
        copy(mount, f"{qcow2} reuse")
        copy(mount, f"{raw} reuse", "vdb")
        for target in mount.targets:
            wait_ready(mount, target)
        mount.guest_writes(51)
        abort(mount, "vdb")
        same(content_of(raw, "raw"), mount.wanted["vdb"], "the copy")
        pivot(mount)
        mount.guest_writes(52)
        mount.check()
        fill(mount, "vdb")
        copy(mount, f"{raw} reuse {SLOW}", "vdb")
        abort(mount, "vdb")
        assert os.path.exists(raw), "a user's file is gone"
        mount.off()
        mount.check(is_running=False)
        equal(administer.source(mount, "web1")[0], qcow2)


def test_ends():
    """A domain that ends, or is killed, or a target that is full: the copy goes, and is told of; nothing is lost"""
    need(QEMU)
    with Running(("qcow2",), expected=EXPECTED) as mount:
        path = os.path.join(mount.elsewhere, "copy.qcow2")
        for end in (mount.off, mount.kill_guest):
            mount.start()
            copy(mount, path)
            wait_ready(mount)
            mount.guest_writes(61)
            mount.flush()
            end()
            wait_state(mount, "shutoff" if end == mount.off else "crashed")
            no_trace(mount, path)
            assert any(line.startswith(f"the copy {path} is dropped") for line in events(mount)), events(mount)
            mount.check(is_running=False)
        mount.start()
        small = os.path.join(mount.elsewhere, "small")
        os.mkdir(small)
        run("mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", small)
        try:
            path = os.path.join(small, "copy.raw")
            copy(mount, f"{path} raw")
            wait_ready(mount)
            for page in range(20):
                mount.guest_writes(70 + page, at=page * PAGE)
            no_trace(mount, path)
            assert any("No space left" in line for line in events(mount)), events(mount)
            mount.guest_reads()
            mount.check()
            command_refused(errno.ENOSPC, mount, "web1", "disks/vda/copy", f"{path}", words=("room",))
            no_trace(mount, path)
        finally:
            subprocess.run(["umount", "--lazy", small], check=False)


def test_a_qemu_of_others():
    """A QEMU that others run makes a copy, too; it goes on in it only if whoever starts it learns of that"""
    need(QEMU)
    with Watched() as mount:
        redefine(mount, follows=None)
        path = os.path.join(mount.source, "copy.qcow2")
        with Guest(mount.qmp, disk=mount.disk):
            wait_state(mount, "running")
            wait_for(lambda: "state: running" in events(mount), "the event")
            copy(mount, path)
            wait_ready(mount)
            command_refused(errno.EPERM, mount, "web1", "disks/vda/pivot", "1", words=("follows",))
            equal(administer.source(mount, "web1")[0], mount.disk)
            abort(mount)
        run("qemu-img", "compare", path, mount.disk)
        os.unlink(path)
        redefine(mount, qmp=None, follows=None)
        with Guest(os.path.join(mount.room, "unknown"), disk=mount.disk):
            wait_state(mount, "running")
            wait_for(lambda: "qmp" not in mount.text("web1", "power").split("neither")[0], "the definition")
            command_refused(errno.EOPNOTSUPP, mount, "web1", "disks/vda/copy", path, words=("neither launch nor qmp",))
        assert not os.path.exists(path)


def answers(mount):
    with contextlib.suppress(TimeoutError):
        return "goes on" in pivot(mount)
    return False


def test_silent():
    """A QEMU that does not answer: nothing is done to its copy, and when it answers again it goes on"""
    need(QEMU)
    with Running(("qcow2",), expected=EXPECTED) as mount:
        mount.start()
        path = os.path.join(mount.elsewhere, "copy.qcow2")
        copy(mount, path)
        wait_ready(mount)
        (pid,) = mount.processes()
        os.kill(pid, signal.SIGSTOP)
        try:
            command_refused(errno.ETIMEDOUT, mount, "web1", "disks/vda/pivot", "1")
        finally:
            os.kill(pid, signal.SIGCONT)
        assert os.path.exists(path)
        wait_for(lambda: answers(mount), "the QEMU to be heard again")
        equal(administer.source(mount, "web1")[0], path)
        mount.guest_writes(71)
        mount.check()


def test_remount():
    """A daemon that ends, or is killed, leaves copies to the next: they are found, and can be moved to or let go of"""
    need(QEMU)
    with Running() as mount:
        mount.start()
        paths = {target: os.path.join(mount.source, f"{target}-copy.qcow2") for target in mount.targets}
        for target in mount.targets:
            copy(mount, paths[target], target)
            wait_ready(mount, target)
        run("umount", mount.mountpoint)
        equal(mount.process.wait(), 0)
        mount.mount_again()
        mount.guest_writes(81)
        for target in mount.targets:
            wait_ready(mount, target)
        mount.kill()
        mount.guest_writes(82)
        mount.mount_again()
        for target in mount.targets:
            wait_ready(mount, target)
        pivot(mount)
        said = abort(mount, "vdb")
        assert "at this instant" in said, said
        same(content_of(paths["vdb"], "qcow2"), mount.wanted["vdb"], "the copy")
        mount.guest_writes(83)
        mount.check()


def test_mirror_of_a_snapshot():
    """create with mirror=: from the same instant on everything goes into a second overlay, too; pivot, abort, a plain end"""
    need(QEMU)
    with Running() as mount:
        command_refused(errno.EOPNOTSUPP, mount, "web1", "create", f"zero disk=vda:external mirror=vda:{mount.elsewhere}/no", words=("not running",))
        mount.start()
        mount.guest_writes(91)
        paths = {target: os.path.join(mount.elsewhere, f"{target}.mirror") for target in mount.targets}
        with open(paths["vdb"], "w", encoding="ascii") as file:
            file.write("a user's")
        mirrors = " ".join(f"disk={target}:external mirror={target}:{path}" for target, path in paths.items())
        with Unchanged(mount):
            command_refused(errno.EEXIST, mount, "web1", "create", f"one disk-only {mirrors}", words=(paths["vdb"],))
            assert not os.path.exists(paths["vda"])
        os.unlink(paths["vdb"])
        mount.take(f"one disk-only {mirrors}")
        equal(state(mount), "running")
        mount.guest_writes(92, at=PAGE)
        for target in mount.targets:
            wait_ready(mount, target)
        mount.guest_writes(93, at=PAGE + 4096)
        frozen = administer.layers(mount, "web1")[1]
        mount.check()
        pivot(mount)
        abort(mount, "vdb")
        equal(administer.layers(mount, "web1"), [paths["vda"], frozen])
        same(content_of(paths["vdb"], "qcow2"), mount.wanted["vdb"], "the mirror")
        mount.guest_writes(94, at=2 * PAGE)
        mount.check()
        other = os.path.join(mount.elsewhere, "other")
        mount.take(f"two disk-only paused disk=vda:external disk=vdb:internal mirror=vda:{other}")
        wait_state(mount, "paused")
        wait_ready(mount)
        power(mount, "resume")
        mount.guest_writes(95)
        mount.flush()
        mount.off()
        assert not os.path.exists(other)
        mount.check(is_running=False)
        mount.start()
        mount.guest_writes(96)
        reused = mount.users_overlay("reused", os.path.basename(administer.source(mount, "web1", "vdb")[0]))
        over = mount.users_overlay("over", os.path.basename(administer.source(mount, "web1", "vdb")[0]))
        mount.take(f"three disk-only reuse-external disk=vda:no disk=vdb:external:{over} mirror=vdb:{reused}", ["vdb"])
        wait_ready(mount, "vdb")
        mount.guest_writes(97, at=3 * PAGE)
        pivot(mount, "vdb")
        equal(administer.source(mount, "web1", "vdb")[0], reused)
        mount.check()


if __name__ == "__main__":
    checks.main(globals())
