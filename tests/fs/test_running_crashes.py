# SPDX-License-Identifier: LGPL-2.1-or-later
"""A daemon that is killed while it takes a snapshot of a running domain, with its QEMU or without: all or nothing."""

import contextlib
import errno
import os
import signal
import threading
import time

import administer
import checks
import domains
from agent import agent_of
from checks import Skip, equal, need
from mounted import run, wait_for
from running import Running, bottom_name, is_held_open
from test_power import QEMU, Guest, Watched, events, state, wait_state

HAS_POINTS = bool(os.environ.get("VMSNAPFS_TEST_CRASH_POINTS"))
POINTS = ("made", "journaled", "published", "opened", "taken", "committing", "committed", "finishing")
HAPPENED = ("taken", "committing", "committed", "finishing")  # where an overlay is in use by then
DONE = ("committed", "finishing")
KINDS = {
    "internal": "disk=vda:internal disk=vdb:internal",
    "external": "disk=vda:external disk=vdb:external",
    "mixed": "disk=vda:internal disk=vdb:external",
    "mixed the other way": "disk=vda:external disk=vdb:internal",
}
# What happens to the QEMU before the next start; which disks its guest writes to before that.
FATES = {
    "stays": (),
    "stays and writes": ("vda", "vdb"),
    "is killed": None,
    "writes to vda and is killed": ("vda",),
    "writes to vdb and is killed": ("vdb",),
    "writes to both and is killed": ("vda", "vdb"),
}
EXPECTED = (r"its QEMU ended", r"ended while nobody looked", r"ended by signal", r"ended without being asked", r"does not answer", r"may still be frozen")


def need_points():
    if not HAS_POINTS:
        raise Skip("VMSNAPFS_TEST_CRASH_POINTS is not set: not a build for tests")


def create_and_die(mount, words):
    try:
        domains.create(mount, words)
    except OSError as error:
        assert error.errno in (errno.ENOTCONN, errno.ECONNABORTED, errno.EIO), error
    wait_for(lambda: mount.process.poll() is not None, "the daemon to come to its end")
    mount.kill()


def meet(mount, fate):
    for number, target in enumerate(FATES[fate] or ()):
        mount.guest_writes(90 + number, [target], at=2 * 65536)
        mount.io(target, "flush")
    if "killed" in fate:
        mount.kill_guest()


def judge(mount, fate, present, taken, must_be=None):
    """After the next start: `present` has what was on the disks at the instant of the snapshot."""
    is_there = "one" in mount.snapshots("web1")
    if must_be is not None:
        equal(is_there, must_be, "the snapshot")
    if is_there:
        mount.frozen_bytes["one"] = present
        equal(set(domains.kinds(mount, "one").values()), taken)
    equal(set(mount.snapshots("web1")) - {"one", "zero"}, set())
    if "killed" in fate:
        mount.check(is_running=False)
        mount.start()
    else:
        wait_state(mount, "running")
    mount.check()
    if not is_there:
        for path in administer.images(mount.source):
            assert not any(tag.startswith("one") for tag in administer.tags(path)), path
        equal(administer.names_beside(mount), mount.names_before)
        equal(is_held_open(mount), [], "what was undone is open in its QEMU")
    mount.guest_reads()
    mount.guest_writes(111, at=3 * 65536)
    mount.take("later disk-only disk=vda:external disk=vdb:internal")
    mount.guest_writes(112, at=3 * 65536)
    mount.check()
    mount.off()
    mount.check(is_running=False)
    parents = domains.parents(mount)
    below = "zero" if "zero" in parents else None
    if is_there:
        equal((parents["one"], parents["later"]), (below, "one"))
        equal(mount.text("web1", "snapshots", "one", "description").strip(), "told before")
        equal(domains.document(mount, "one")["state"], "running")
    else:
        equal(parents["later"], below)
    if fate in ("stays", "writes to both and is killed"):
        go_home(mount)


def go_home(mount):
    """Whatever was made can be given back: nothing is left but the first files."""
    for name in mount.snapshots("web1"):
        os.rmdir(administer.snapshot_path(mount, "web1", name))
    mount.frozen_bytes = {}
    for target, name in (("vda", "web1.qcow2"), ("vdb", "web1-b.qcow2")):
        domains.home(mount, target=target, name=name)
    equal(administer.names_beside(mount), ["web1-b.qcow2", "web1.json", "web1.qcow2"])
    mount.check(is_running=False)


def crash(point, kind, fate):
    with Running(("qcow2", "qcow2"), expected=EXPECTED) as mount:
        mount.environment = {"VMSNAPFS_TEST_CRASH": f"{point}:2"}
        mount.remount()
        mount.start()
        mount.guest_writes(40)
        mount.take("zero disk-only " + ("disk=vda:external disk=vdb:external" if "external" in kind else "disk=vda:internal disk=vdb:internal"))
        mount.names_before = administer.names_beside(mount)
        mount.guest_writes(41)
        mount.flush()  # or a killed QEMU takes it along
        present = {target: bytes(content) for target, content in mount.wanted.items()}
        create_and_die(mount, 'one disk-only description="told before" ' + KINDS[kind])
        meet(mount, fate)
        mount.mount_again()
        must_be = True if point in DONE else False if point not in HAPPENED else None
        if point in HAPPENED and kind != "internal" and "killed" not in fate:
            must_be = True
        judge(mount, fate, present, set(word.split(":")[1] for word in KINDS[kind].split()), must_be)


def crashes(kind):
    need(QEMU)
    need_points()
    wrong = []
    for point in POINTS:
        for fate in FATES:
            try:
                crash(point, kind, fate)
            except AssertionError as error:
                wrong.append(f"{point}, {kind}, the QEMU {fate}: {error}")
                print("    " + wrong[-1], flush=True)
    assert not wrong, f"{len(wrong)} wrong"


def test_crashes_internal():
    """Killed anywhere in an internal snapshot of a running domain, whatever becomes of the QEMU"""
    crashes("internal")


def test_crashes_external():
    """Killed anywhere in an external snapshot of a running domain, whatever becomes of the QEMU"""
    crashes("external")


def test_crashes_mixed():
    """Killed anywhere in a mixed snapshot of a running domain, whatever becomes of the QEMU"""
    crashes("mixed")


def test_crashes_mixed_the_other_way():
    """The same where the first disk is external"""
    crashes("mixed the other way")


def test_killed_while_frozen():
    """A daemon that is killed while the guest's file systems are frozen: the next one thaws them"""
    need(QEMU)
    need_points()
    for words in KINDS.values():
        with Running(agent="qga", expected=EXPECTED, environment={"VMSNAPFS_TEST_CRASH": "frozen:1"}) as mount, agent_of(mount) as agent:
            mount.start()
            mount.guest_writes(40)
            create_and_die(mount, "one disk-only quiesce=require " + words)
            equal(agent.is_frozen, True)
            mount.mount_again()
            equal(agent.is_frozen, False)
            wait_state(mount, "running")
            equal(mount.snapshots("web1"), [])
            mount.check()
            mount.take("two disk-only quiesce=require " + words)
            mount.guest_writes(41)
            mount.check()


def test_killed_while_it_is_settled():
    """Killed again while the next start undoes or completes, the one after does"""
    need(QEMU)
    need_points()
    for words in KINDS.values():
        for first, second in (("opened", "undone"), ("taken", "undone"), ("taken", "finishing"), ("opened", "finishing")):
            with Running(expected=EXPECTED, environment={"VMSNAPFS_TEST_CRASH": f"{first}:1"}) as mount:
                mount.start()
                mount.names_before = administer.names_beside(mount)
                mount.guest_writes(40)
                present = {target: bytes(content) for target, content in mount.wanted.items()}
                create_and_die(mount, 'one disk-only description="told before" ' + words)
                meet(mount, "stays and writes")
                with contextlib.suppress(Exception):
                    mount.mount_again(VMSNAPFS_TEST_CRASH=f"{second}:1")
                if mount.process:
                    mount.kill()
                mount.mount_again()
                judge(mount, "stays", present, set(word.split(":")[1] for word in words.split()))


def test_crashes_with_a_qemu_of_others():
    """The QEMU that others run is asked by the monitor that the definition names, and answers for itself"""
    need(QEMU)
    need_points()
    for point in POINTS:
        mount = Watched(expected=EXPECTED, environment={"VMSNAPFS_TEST_CRASH": f"{point}:1"})
        with Guest(mount.qmp, disk=mount.disk) as guest, mount:
            wait_for(lambda: "state: running" in events(mount), "the connection")
            device = "/machine/peripheral-anon/device[0]/virtio-backend"
            equal(guest.command("human-monitor-command", command_line=f'qemu-io -d {device} "write -q -P 5 0 64k"'), "")
            create_and_die(mount, "one disk-only disk=vda:external")
            equal(guest.command("human-monitor-command", command_line=f'qemu-io -d {device} "write -q -P 6 0 64k"'), "")
            run("umount", "--lazy", mount.mountpoint)
            mount.environment = {}
            mount.mount()
            equal(mount.snapshots("web1"), ["one"] if point in HAPPENED else [], point)
            wait_for(lambda: "state: running" in events(mount), "the connection")
            domains.create(mount, "two disk-only disk=vda:external")
            (block,) = [block for block in guest.command("query-block") if "inserted" in block]
            equal(bottom_name(block["inserted"]["file"]), administer.source(mount, "web1")[0], point)
            equal(domains.frozen_byte(mount, "two"), 6)
            if point in HAPPENED:
                equal(domains.frozen_byte(mount, "one"), 5)


def starts(mount):
    try:
        mount.start()
    except OSError as error:  # it is not known yet that the silent one has ended
        assert error.errno == errno.ETIMEDOUT, error
        return False
    return True


def test_silent_at_the_next_start():
    """A QEMU that does not answer when the next daemon starts: that mounts, changes nothing, and settles it later"""
    need(QEMU)
    need_points()
    for words in KINDS.values():
        for point, end in (("taken", "goes on"), ("opened", "goes on"), ("taken", "is killed")):
            expected = [*EXPECTED, r"can't be settled", r"not (undone|concluded) yet"]
            with Running(expected=expected, environment={"VMSNAPFS_TEST_CRASH": f"{point}:1"}) as mount:
                mount.start()
                mount.names_before = administer.names_beside(mount)
                mount.guest_writes(40)
                present = {target: bytes(content) for target, content in mount.wanted.items()}
                mount.flush()
                create_and_die(mount, "one disk-only " + words)
                mount.guest_writes(41, ["vdb"], at=2 * 65536)
                mount.flush()
                (pid,) = mount.processes()
                os.kill(pid, signal.SIGSTOP)
                try:
                    mount.mount_again()
                    os.listdir(mount.path("web1", "snapshots"))
                    assert expect_any(mount, "two disk-only " + words), "done, though its QEMU does not answer"
                finally:
                    if end == "is killed":
                        os.kill(pid, signal.SIGKILL)
                    os.kill(pid, signal.SIGCONT)
                if end == "is killed":
                    wait_for(lambda: state(mount) in ("crashed", "shutoff"), "the end of the QEMU")
                    with contextlib.suppress(ChildProcessError):
                        os.waitpid(pid, 0)
                    wait_for(lambda: starts(mount), "the start, which must not be before it is settled")
                wait_state(mount, "running")
                wait_for(lambda: expect_any(mount, "two disk-only " + words) is None, "a snapshot")
                mount.remember("two")
                if "one" in mount.snapshots("web1"):
                    mount.frozen_bytes["one"] = present
                elif point == "taken":  # an overlay that was in use and not written to has nothing to lose
                    assert ("vdb:external" if end == "is killed" else "external") not in words, f"{words}, {end}: not there"
                mount.check()
                mount.guest_reads()
                mount.off()
                mount.check(is_running=False)


def test_crashes_with_a_users_overlay():
    """An overlay that a user made is never removed, and the snapshot is there whole, or not"""
    need(QEMU)
    need_points()
    for point in ("journaled", "opened", "taken", "committing", "finishing"):
        for fate in FATES:
            with Running(expected=EXPECTED, environment={"VMSNAPFS_TEST_CRASH": f"{point}:1"}) as mount:
                mount.start()
                mount.guest_writes(41)
                mount.flush()
                mine = mount.users_overlay("mine", "web1.qcow2")
                present = {target: bytes(content) for target, content in mount.wanted.items()}
                create_and_die(mount, f"one disk-only reuse-external disk=vda:external:{mine} disk=vdb:internal")
                meet(mount, fate)
                mount.mount_again()
                assert os.path.exists(mine), (point, fate)
                is_there = "one" in mount.snapshots("web1")
                if not is_there:
                    assert point not in HAPPENED or fate in ("is killed", "writes to vdb and is killed"), (point, fate)
                equal(administer.source(mount, "web1")[0], mine if is_there else mount.disk)
                if is_there:
                    mount.frozen_bytes["one"] = present
                if "killed" in fate:
                    mount.check(is_running=False)
                    mount.start()
                wait_state(mount, "running")
                if not is_there:  # no QEMU has it open
                    mount.take(f"one disk-only reuse-external disk=vda:external:{mine} disk=vdb:internal")
                mount.take("two disk-only")
                mount.guest_writes(55)
                mount.check()


def expect_any(mount, words):
    """errno, or None where it succeeded."""
    try:
        domains.create(mount, words)
    except OSError as error:
        return error.errno
    return None


def test_qemu_killed_at_random():
    """A QEMU that is killed at any moment of a create: the snapshot is whole or not there, and the domain starts again"""
    need(QEMU)
    chance = checks.seed()
    expected = [*EXPECTED, r"could not be undone", r"may have, and its result", r"not undone yet", r"may have leaks"]
    for number in range(int(os.environ.get("VMSNAPFS_ROUNDS") or 12)):
        words = chance.choice(list(KINDS.values()))
        with Running(expected=expected) as mount:
            mount.start()
            mount.guest_writes(40)
            mount.take("zero disk-only " + chance.choice(list(KINDS.values())))
            mount.guest_writes(41)
            present = {target: bytes(content) for target, content in mount.wanted.items()}
            mount.flush()
            mount.names_before = administer.names_beside(mount)
            (pid,) = mount.processes()
            codes = []
            thread = threading.Thread(target=lambda: codes.append(expect_any(mount, "one disk-only " + words)))
            thread.start()
            time.sleep(chance.random() * chance.choice((0.01, 0.05, 0.2)))
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            thread.join()
            wait_for(lambda: state(mount) in ("crashed", "shutoff"), "the end of the QEMU")
            administer.wait_idle(mount)
            # what could not be told at once is, before the next change
            mount.start()
            is_there = "one" in mount.snapshots("web1")
            assert is_there or codes[0] is not None, "told as taken, and not there"
            if is_there:
                mount.frozen_bytes["one"] = present
            print(f"    round {number}: {words}: {'taken' if is_there else 'not taken'}, errno {codes[0]}", flush=True)
            mount.check()
            mount.guest_writes(60)
            mount.take("later disk-only " + words)
            mount.guest_writes(61)
            mount.check()
            mount.off()
            administer.wait_idle(mount)
            mount.check(is_running=False)


def test_daemon_killed_at_random():
    """A daemon that is killed at random moments under a loop of creates and writes: what was told as taken is there"""
    need(QEMU)
    chance = checks.seed()
    with Running(expected=EXPECTED) as mount:
        mount.start()
        number = 0
        for _ in range(int(os.environ.get("VMSNAPFS_ROUNDS") or 12)):
            for _ in range(chance.randrange(3)):
                number += 1
                mount.guest_writes(number % 200 + 1, at=(number % 50) * 65536)
                mount.take(f"s{number} disk-only " + chance.choice(list(KINDS.values())))
            number += 1
            mount.guest_writes(number % 200 + 1, at=(number % 50) * 65536)
            present = {target: bytes(content) for target, content in mount.wanted.items()}
            words, codes, name = chance.choice(list(KINDS.values())), [], f"s{number}"
            thread = threading.Thread(target=lambda: codes.append(expect_any(mount, f"{name} disk-only {words}")))
            thread.start()
            time.sleep(chance.random() * chance.choice((0.02, 0.06, 0.12)))
            mount.kill()
            thread.join()
            if chance.random() < 0.5:
                mount.guest_writes(number % 200 + 2, [chance.choice(mount.targets)], at=(number % 50) * 65536)
            killed = chance.random() < 0.3
            mount.flush()
            if killed:
                mount.kill_guest()
            mount.mount_again()
            if name in mount.snapshots("web1"):
                mount.frozen_bytes[name] = present
            else:
                assert codes[0] is not None, f"{name} was told as taken, and is not there"
            if killed:
                mount.check(is_running=False)
                mount.start()
            wait_state(mount, "running")
            mount.check()
        mount.off()
        mount.check(is_running=False)


if __name__ == "__main__":
    checks.main(globals())
