# SPDX-License-Identifier: LGPL-2.1-or-later
"""Space that is given back under running guests: in all orders, over several domains, and whoever dies meanwhile.

What stands for the guest, HMP's qemu-io, is a command that QEMU does nothing else beside. While a disk changes over to
another layer its requests wait for what QEMU is told next, so nothing is written then: a real guest's requests just wait
(tests/guest).
"""

import contextlib
import itertools
import json
import os
import signal
import time

import administer
import checks
import domains
import make
from administer import snapshot_path, wait_idle
from checks import Skip, equal, need
from domains import lock_mark, locks
from mounted import run, wait_for
from running import PAGE, Running, administer_bytes, bottom_name, is_ended, is_held_open, same, wait_connected
from test_beside import READ_BYTE, byte_lock
from test_power import BARE, QEMU, Guest, Monitor, Watched, power, state, wait_state

HAS_POINTS = bool(os.environ.get("VMSNAPFS_TEST_CRASH_POINTS"))
EXTERNAL = "disk-only disk=vda:external disk=vdb:external"
INTERNAL = "disk-only disk=vda:internal disk=vdb:internal"
JOB = "vmsnapfs-merge"
WRITE_LOCK = 101  # the byte of an image that QEMU locks while it may write (block/file-posix.c)
BIG = 64 * make.MIB
LOST = (r"its QEMU ended", r"ended while nobody looked", r"ended by signal", r"ended without being asked", r"does not answer", r"merge.*could not be (undone|concluded)")


def delete(mount, name):
    os.rmdir(snapshot_path(mount, "web1", name))
    mount.frozen_bytes.pop(name, None)


def check_headers(mount):
    """Each image says of what it stands on which format that has, and stands on something that is there."""
    for path in administer.images(mount.source):
        told = json.loads(run("qemu-img", "info", "-U", "--output=json", path))
        if "full-backing-filename" in told:
            wanted = "raw" if told["full-backing-filename"].endswith(".img") else "qcow2"
            equal(told.get("backing-filename-format"), wanted, path)
            assert os.path.exists(told["full-backing-filename"]), told


def is_home(mount):
    """Nothing is left but the first files, on which the guest runs."""
    wait_idle(mount)
    equal(administer.names_beside(mount), mount.names_before)
    equal(is_held_open(mount), [])
    mount.check()


def checked(mount):
    wait_idle(mount)
    mount.check()
    check_headers(mount)
    equal(is_held_open(mount), [])


def started(mount):
    mount.start()
    mount.names_before = administer.names_beside(mount)


def ended(mount):
    """Off, all is checked, leaks too."""
    mount.off()
    mount.check(is_running=False)
    for path in administer.images(mount.source):
        administer.check_image(path)


def test_chains_in_all_orders():
    """Three external snapshots of a running guest, deleted in each order: what is deleted is gone, the rest is right"""
    need(QEMU)
    with Running(("qcow2", "raw")) as mount:
        started(mount)
        for turn, order in enumerate(itertools.permutations("abc")):
            for number, name in enumerate("abc"):
                mount.guest_writes(10 + 10 * turn + number, at=number * PAGE)
                mount.take(f"{name} {EXTERNAL}")
            mount.guest_writes(90 + turn, at=3 * PAGE)
            for number, name in enumerate(order):
                delete(mount, name)
                checked(mount)
                mount.guest_writes(100 + 10 * turn + number, at=(4 + number) * PAGE)
                mount.check()
                equal(len(administer.layers(mount, "web1")), 3 - number)
            is_home(mount)
        ended(mount)


def test_several_at_once():
    """All three are deleted at once: the guest is back in its first files, and nothing is lost"""
    need(QEMU)
    with Running() as mount:
        started(mount)
        for turn in range(3):
            for number, name in enumerate("abc"):
                mount.guest_writes(10 + 10 * turn + number, at=number * PAGE)
                mount.take(f"{name} {EXTERNAL}")
            for name in "bca":
                delete(mount, name)
            is_home(mount)
            mount.guest_reads()
            mount.guest_writes(60 + turn, at=5 * PAGE)
        ended(mount)


def test_internal_and_mixed():
    """Internal snapshots are dropped from the image that the guest writes to; beside external ones, in both orders"""
    need(QEMU)
    kinds = (INTERNAL, "disk-only disk=vda:internal disk=vdb:external", EXTERNAL)
    with Running() as mount:
        started(mount)
        for order in itertools.permutations("abc"):
            for number, name in enumerate("abc"):
                mount.guest_writes(20 + number, at=number * PAGE)
                mount.take(f"{name} {kinds[number]}")
            for name in order:
                delete(mount, name)
                mount.rest()
                mount.guest_writes(30, at=5 * PAGE)
                mount.check()
            # Where an image that was frozen has them, they wait until it is not open.
            mount.off()
            wait_idle(mount)
            mount.check(is_running=False)
            equal(administer.names_beside(mount), mount.names_before)
            for path in administer.images(mount.source):
                equal(administer.tags(path), [])
            mount.start()
        for name in "abc":
            mount.take(f"{name} {INTERNAL}")
            mount.guest_writes(40)
        for name in "bca":
            delete(mount, name)
            checked(mount)
        for path in administer.images(mount.source):
            equal(administer.tags(path), [])
        ended(mount)


def test_opened_by_drive():
    """A QEMU that others started with -drive, whose nodes have made-up names: it merges, and comes back to the first file"""
    need(QEMU)
    for image_format in ("qcow2", "raw"):
        mount = Watched()
        os.unlink(mount.disk)
        domains.web1(mount.source, qmp=mount.qmp, formats=(image_format,))
        path = os.path.join(mount.source, "web1.img" if image_format == "raw" else "web1.qcow2")
        before = administer.names_beside(mount)
        drive = f"file={path},format={image_format},if=none,id=d"
        with mount, Guest(mount.qmp, "-drive", drive, "-device", "virtio-blk-pci,drive=d") as guest:

            def write(value):
                equal(guest.command("human-monitor-command", command_line=f'qemu-io d "write -q -P {value} 0 64k"'), "")

            wait_connected(mount)
            for number in range(3):
                write(number + 5)
                domains.create(mount, f"s{number} disk-only disk=vda:external")
            write(99)
            for number in (1, 0, 2):
                os.rmdir(snapshot_path(mount, "web1", f"s{number}"))
                wait_idle(mount)
                for other in mount.snapshots("web1"):
                    equal(domains.frozen_byte(mount, other), int(other[1:]) + 5)
                (block,) = [block for block in guest.command("query-block") if "inserted" in block]
                equal(bottom_name(block["inserted"]["file"]), administer.source(mount, "web1")[0])
            equal(administer.names_beside(mount), before)
            guest.command("quit")
            wait_state(mount, "shutoff")
            equal(domains.byte(mount), 99)


# ---- Several domains ----


class Two(Running):
    """web1 with one disk, and web2, a clone that has a launch of its own; `second` has the bytes of its disk."""

    def all_processes(self):
        return super().processes()

    def processes(self):
        """Those of web1: only web2 has a file of that name."""
        return [pid for pid in self.all_processes() if b"web2" not in words_of(pid)]

    def __exit__(self, *reason):
        for pid in set(self.all_processes()) - set(self.processes()):
            kill(pid)
        super().__exit__(*reason)

    def clone(self, snapshot):
        administer.command_of(self, "web1", snapshot, "clone", "web2")
        self.second = bytearray(self.frozen_bytes[snapshot]["vda"])
        path = os.path.join(self.source, "web2.json")
        with open(path, encoding="utf-8") as file:
            content = json.load(file)
        content["launch"] = [*BARE, "-device", "virtio-blk-pci,drive=vda,id=d-vda"]
        with open(path + ".new", "w", encoding="utf-8") as file:
            json.dump(content, file)
        os.rename(path + ".new", path)

    def start_second(self):
        def attempt():
            with contextlib.suppress(OSError):
                administer.command(self, "web2", "power", "start")
            return state(self, "web2") == "running"

        wait_for(attempt, "web2 to run")

    def end_second(self):
        administer.command(self, "web2", "power", "destroy")
        wait_state(self, "shutoff", "web2")

    def second_io(self, command):
        (pid,) = set(self.all_processes()) - set(self.processes())
        (path,) = [word.split(b"path=")[1].decode() for word in words_of(pid).split(b"\0") if b"monitor-2" in word]
        with contextlib.closing(Monitor(path)) as monitor:
            line = f'qemu-io -d /machine/peripheral/d-vda/virtio-backend "{command}"'
            equal(monitor.command("human-monitor-command", command_line=line), "", command)

    def second_writes(self, value, at=0):
        self.second_io(f"write -P {value} {at} {PAGE}")
        self.second_io("flush")
        self.second[at : at + PAGE] = bytes([value]) * PAGE

    def check_second(self):
        raw = os.path.join(self.room, "second.raw")

        def words(_):
            path, image_format = administer.source(self, "web2")
            return ["qemu-img", "convert", "-U", "-f", image_format, "-O", "raw", path, raw]

        result = administer.run_unlocked(["reading web2"], words)
        assert result.returncode == 0, result.stderr
        with open(raw, "rb") as file:
            same(file.read(), self.second, "present of web2")


def words_of(pid):
    with contextlib.suppress(OSError), open(f"/proc/{pid}/cmdline", "rb") as file:
        return file.read()
    return b""


def kill(pid):
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    wait_for(lambda: is_ended(pid), "the end of a killed QEMU")
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)


def check_two(mount, first_runs):
    if first_runs:
        mount.check()
    for name, disks in mount.frozen_bytes.items():
        same(administer.frozen_bytes(mount, "web1", name), disks["vda"], name)
    same(administer_bytes(mount, "vda"), mount.wanted["vda"], "present of web1")
    mount.check_second()
    check_headers(mount)


def reasons(mount):
    found = []
    for number in administer.jobs(mount, "web1"):
        with contextlib.suppress(OSError):
            found.append(mount.text("web1", "jobs", number, "status"))
    return found


def two_domains(order, first_runs, second_runs):
    """web1.qcow2 (a) - web1.a (b) - web1.b (c) - web1.c, and on web1.b, the clone of c."""
    with Two(("qcow2",)) as mount:
        mount.start()
        for number, name in enumerate("abc"):
            mount.guest_writes(10 + number, at=number * PAGE)
            mount.take(f"{name} disk-only disk=vda:external")
        mount.guest_writes(20, at=3 * PAGE)
        mount.clone("c")
        mount.start_second()
        mount.second_writes(30, at=4 * PAGE)
        if not first_runs:
            mount.off()
        if not second_runs:
            mount.end_second()
        for number, name in enumerate(order):
            delete(mount, name)
            mount.rest()
            if first_runs:
                mount.guest_writes(40 + number, at=5 * PAGE)
            if second_runs:
                mount.second_writes(50 + number, at=5 * PAGE)
            check_two(mount, first_runs)
        if first_runs and second_runs:
            # What both read through stays as it is.
            equal(len(administer.layers(mount, "web1")), 4, order)
            wait_for(lambda: any("run on it" in line for line in reasons(mount)), "what waits")
            mount.end_second()
            second_runs = False
        wait_idle(mount)
        check_two(mount, first_runs)
        equal(is_held_open(mount), [])
        # Two that only both need are one; the first file of web1 is not made web2's.
        equal([len(administer.layers(mount, name)) for name in ("web1", "web2")], [3, 3], order)
        if not second_runs:
            mount.start_second()
        if not first_runs:
            mount.start()
        mount.guest_writes(60, at=6 * PAGE)
        mount.second_writes(61, at=6 * PAGE)
        check_two(mount, True)
        mount.off()
        mount.end_second()
        check_two(mount, False)
        for path in administer.images(mount.source):
            administer.check_image(path)


def test_two_domains():
    """Layers that a clone reads through, one domain running or both, whatever is deleted first: both keep their bytes"""
    need(QEMU)
    for first_runs, second_runs, orders in ((True, True, ("bac", "cba")), (True, False, ("abc", "bac")), (False, True, ("cba",))):
        for order in orders:
            two_domains(order, first_runs, second_runs)


# ---- Merges that take their time ----


class Missed(Exception):
    """A merge was over before it could be slowed down."""


def again(body, *arguments):
    """Does it with another merge where that was missed: a fast one takes some milliseconds."""
    for _ in range(30):
        try:
            return body(*arguments)
        except Missed:
            print("    a merge was over too soon; once more", flush=True)
    raise AssertionError("no merge could be slowed down")


class Slow:
    """A merge of the layer that `name` froze is under way in the QEMU, and would take long; or Missed."""

    def __init__(self, mount, name="b"):
        self.mount = mount
        layers = len(administer.layers(mount, "web1"))
        with mount.own() as monitor:
            delete(mount, name)
            while not slow_down(monitor):  # without a pause, or it would be over before
                if len(administer.layers(mount, "web1")) < layers:
                    raise Missed
            left = [job["total-progress"] - job["current-progress"] for job in monitor.command("query-jobs")]
            if not left or left[0] < BIG // 4:
                raise Missed

    def jobs(self):
        with self.mount.own() as monitor:
            return monitor.command("query-jobs")


def slow_down(monitor):
    for job in monitor.command("query-jobs"):
        if job["id"] == JOB and job["status"] == "running":
            with contextlib.suppress(AssertionError):
                monitor.command("block-job-set-speed", device=JOB, speed=1 << 20)
                return True
    return False


@contextlib.contextmanager
def big_disk(**options):
    size = domains.SIZE
    domains.SIZE = 2 * BIG
    try:
        with Running(("qcow2",), **options) as mount:
            started(mount)
            yield mount
    finally:
        domains.SIZE = size


def fill(mount, value):
    """Half of a big disk."""
    for at in range(0, BIG, 8 * make.MIB):
        mount.io("vda", f"write -q -P {value} {at} 8M")
    mount.wanted["vda"][0:BIG] = bytes([value]) * BIG


@contextlib.contextmanager
def big_chain(**options):
    """Snapshots a, b and c; to delete b or c has a layer merged that takes a while, for c the active one."""
    with big_disk(**options) as mount:
        mount.take("a disk-only disk=vda:external")
        for layer in (1, 2, 3):
            fill(mount, layer)
            if layer < 3:
                mount.take("-bc"[layer] + " disk-only disk=vda:external")
        mount.guest_writes(77)
        yield mount


def makes_way():
    with big_chain() as mount:
        Slow(mount)
        (number,) = administer.jobs(mount, "web1")
        assert "merging" in mount.text("web1", "jobs", number, "what"), mount.text("web1", "jobs", number, "what")
        wait_for(lambda: int(mount.text("web1", "jobs", number, "progress").strip().rstrip("%")) > 0, "progress")
        equal(state(mount), "running")
        same(administer.frozen_bytes(mount, "web1", "a"), mount.frozen_bytes["a"]["vda"], "a, while it is merged")
        assert number in administer.jobs(mount, "web1"), "a reader waited for a merge"
        mount.take("d disk-only disk=vda:external")
        mount.guest_writes(78)
        wait_idle(mount)
        said = mount.text("web1", "events").splitlines()
        (taken,), (merged,) = ([at for at, line in enumerate(said) if word in line] for word in ("created snapshot d", "done: merging"))
        assert taken < merged, f"the request waited for the merge: {said}"
        mount.check()
        equal(len(administer.layers(mount, "web1")), 4)
        ended(mount)


def test_makes_way():
    """A merge in a QEMU shows its progress, stops for a reader and for a request, and is done afterwards"""
    need(QEMU)
    again(makes_way)


def pause_is_seen():
    with big_chain() as mount:
        Slow(mount)
        with mount.own() as monitor:
            monitor.command("stop")
        wait_state(mount, "paused")
        with mount.own() as monitor:
            monitor.command("cont")
        wait_state(mount, "running")


def test_pause_is_seen():
    """What the guest does while a merge has its monitor is told all the same"""
    need(QEMU)
    again(pause_is_seen)


def qemu_killed_in_a_merge(name):
    with big_chain(expected=LOST) as mount:
        mount.flush()
        Slow(mount, name)
        mount.kill_guest()
        wait_idle(mount)
        mount.check(is_running=False)
        equal(len(administer.layers(mount, "web1")), 3)
        mount.start()
        mount.guest_writes(79)
        mount.check()
        ended(mount)


def test_qemu_killed_in_a_merge():
    """A QEMU that is killed while it merges: nothing is lost, and it is merged once more"""
    need(QEMU)
    for name in "bc":
        again(qemu_killed_in_a_merge, name)


def daemon_killed_in_a_merge(name):
    with big_chain(expected=LOST) as mount:
        slow = Slow(mount, name)
        mount.kill()
        equal([job["id"] for job in slow.jobs()], [JOB])
        mount.guest_writes(80)
        mount.mount_again()
        mount.take("d disk-only disk=vda:external")
        wait_idle(mount)
        equal(slow.jobs(), [])
        mount.check()
        equal(len(administer.layers(mount, "web1")), 4)
        ended(mount)


def test_daemon_killed_in_a_merge():
    """A daemon that is killed while a QEMU merges: the next one ends the job, and merges"""
    need(QEMU)
    for name in "bc":
        again(daemon_killed_in_a_merge, name)


# ---- Killed at each step ----

POINTS = ("touched", "copied", "merged", "renamed", "unlinked", "reclaimed", "made", "journaled", "held", "kept", "pivoted", "finishing")
HELD = ("held", "kept")  # the guest's requests wait


def crash(point, order, fate, at):
    """Killed when it gives back what was deleted in this order. False: it did not come by."""
    with Running(("qcow2", "raw"), expected=LOST) as mount:
        started(mount)
        for number, name in enumerate("abc"):
            mount.guest_writes(10 + number, at=number * PAGE)
            mount.take(f"{name} {EXTERNAL}")
        mount.guest_writes(90, at=3 * PAGE)
        mount.flush()
        mount.kill()
        mount.mount_again(VMSNAPFS_TEST_CRASH=f"{point}:{at}")
        wait_state(mount, "running")
        with contextlib.suppress(OSError):
            for name in order:
                # No rmdir, for which the kernel would hold a directory that a notification may be waiting for.
                administer.command_of(mount, "web1", name, "delete")
                mount.frozen_bytes.pop(name)
        if not comes_to_its_end(mount):
            return False
        mount.kill()
        if fate == "writes" and point not in HELD:
            mount.guest_writes(91, at=4 * PAGE)
            mount.flush()
        if fate == "killed":
            mount.kill_guest()
        mount.mount_again()
        for name in order:
            mount.frozen_bytes.pop(name, None)
            if name in mount.snapshots("web1"):
                os.rmdir(snapshot_path(mount, "web1", name))
        wait_idle(mount)
        if fate == "killed":
            mount.check(is_running=False)
            mount.start()
        mount.guest_writes(92, at=5 * PAGE)
        checked(mount)
        for name in mount.snapshots("web1"):
            delete(mount, name)
        is_home(mount)
        mount.off()
        mount.check(is_running=False)
        return True


def comes_to_its_end(mount):
    """Is the daemon killed before there is nothing left to do?"""
    quiet, is_busy = administer.Quiet(1), True
    while mount.process.poll() is None and not quiet.look(is_busy):
        with contextlib.suppress(OSError):
            is_busy = bool(administer.jobs(mount, "web1"))
        time.sleep(0.02)
    return mount.process.poll() is not None


def test_killed_at_each_step():
    """Killed anywhere while space is given back under a guest, that runs on or is killed, too"""
    need(QEMU)
    if not HAS_POINTS:
        raise Skip("VMSNAPFS_TEST_CRASH_POINTS is not set: not a build for tests")
    for number, point in enumerate(POINTS):
        crash(point, "abc", ("writes", "killed")[number % 2], 1)


def is_written(path):
    """Does any QEMU hold the lock of one who writes to the image?"""
    mark = lock_mark(path)
    ranges = [line.split()[6:8] for line in locks().splitlines() if mark in line]
    return any(int(first) <= WRITE_LOCK and (last == "EOF" or int(last) >= WRITE_LOCK) for first, last in ranges)


def begin_merge(mount, chain):
    """The job that has the guest's disk move into the layer below, as a daemon that was killed leaves it behind."""
    with mount.own() as monitor:
        nodes = {node["file"]: node["node-name"] for node in monitor.command("query-named-block-nodes", flat=True) if node["drv"] == "qcow2"}
        monitor.command("block-commit", job_id=JOB, device=nodes[chain[0]], base_node=nodes[chain[1]], speed=16 << 20, auto_finalize=False, auto_dismiss=False)
        wait_for(lambda: monitor.command("query-jobs")[0]["current-progress"] > 4 * make.MIB, "some of it to be copied")


def test_killed_and_held_up():
    """A daemon that is killed while the guest's disk moves to the layer below, which the next one may not merge yet: what the QEMU
    writes out of its memory later changes no frozen layer"""
    need(QEMU)
    if not HAS_POINTS:
        raise Skip("VMSNAPFS_TEST_CRASH_POINTS is not set: not a build for tests")
    with big_disk() as mount:
        mount.take("a disk-only disk=vda:external")
        fill(mount, 1)
        mount.kill()
        mount.mount_again(VMSNAPFS_TEST_CRASH="touched:1")
        wait_state(mount, "running")
        chain = administer.layers(mount, "web1")
        with contextlib.suppress(OSError):
            administer.command_of(mount, "web1", "a", "delete")
        del mount.frozen_bytes["a"]
        assert comes_to_its_end(mount), "nothing was to be merged"
        mount.kill()
        with open(chain[1], "rb") as reader:
            byte_lock(reader, READ_BYTE)  # as another mount's that has it open
            begin_merge(mount, chain)
            mount.mount_again()
            wait_state(mount, "running")
            wait_for(lambda: any("another mount" in status for status in administer.jobs(mount, "web1").values()), "the merge to wait")
            power(mount, "pause")
            power(mount, "resume")
            mount.guest_writes(78)
            mount.take("d disk-only disk=vda:external")
            mount.check()
        wait_idle(mount)
        mount.check()
        equal(len(administer.layers(mount, "web1")), 2)
        ended(mount)


def on_template(mount):
    """Both disks stand on one image, by a name that is relative to theirs."""
    template = os.path.join(mount.elsewhere, "template.qcow2")
    run("qemu-img", "create", "-q", "-f", "qcow2", template, str(domains.SIZE))
    run("qemu-io", "-f", "qcow2", "-c", f"write -P 7 0 {domains.SIZE}", template)
    for target in mount.targets:
        path = administer.source(mount, "web1", target)[0]
        name = os.path.relpath(template, os.path.dirname(path))
        run("qemu-img", "create", "-q", "-f", "qcow2", "-b", name, "-F", "qcow2", path)
    wait_for(lambda: mount.snapshots("web1") == ["template"], "the template to be seen")
    mount.frozen_bytes["template"] = {target: bytes([7]) * domains.SIZE for target in mount.targets}


def given_up(mount, turns):
    """Merges that make way for a snapshot, later in each turn."""
    mount.start()
    mount.guest_writes(40)
    for turn in range(turns):
        mount.take("one " + EXTERNAL)
        mount.guest_writes(41)
        delete(mount, "one")
        time.sleep(turn * 0.001)
        mount.take("two " + EXTERNAL)
        wait_idle(mount)
        for target in mount.targets:
            active, _ = administer.source(mount, "web1", target)
            written = [path for path in administer.layers(mount, "web1", target) if is_written(path)]
            equal(written, [active], f"{turn}: {target}: open for writing")
        # Pausing writes out what the QEMU has in memory of every image.
        power(mount, "pause")
        power(mount, "resume")
        mount.check()
        delete(mount, "two")
        wait_idle(mount)
    mount.check()


def test_given_up_merge_lets_go():
    """A merge that makes way for a snapshot leaves no frozen layer open for writing, on which no other QEMU could start"""
    need(QEMU)
    with Running(formats=("qcow2", "raw")) as mount:
        given_up(mount, 12)


def test_given_up_on_a_template():
    """The same where both disks stand on one template, whose name in them is relative, so that QEMU's names of nodes are long"""
    need(QEMU)
    with Running() as mount:
        on_template(mount)
        given_up(mount, 8)


def test_a_long_chain_on_a_template():
    """A chain of which QEMU cuts off the names, as they have all that is below: it is told by what its nodes stand on"""
    need(QEMU)
    with Running() as mount:
        on_template(mount)
        mount.start()
        for number in range(36):
            mount.guest_writes(number + 1, at=number % 8 * PAGE)
            mount.take(f"s{number} {EXTERNAL}")
        with mount.own() as monitor:
            names = [node["file"] for node in monitor.command("query-named-block-nodes", flat=True)]
        assert any(name.endswith("...") for name in names), "QEMU tells all names"
        mount.check()
        for number in (0, 20, 35):  # into what the guest began with, into another, and the one that is written to
            delete(mount, f"s{number}")
        checked(mount)
        equal({target: len(administer.layers(mount, "web1", target)) for target in mount.targets}, {"vda": 35, "vdb": 35})
        ended(mount)


if __name__ == "__main__":
    checks.main(globals())
