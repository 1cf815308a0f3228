# SPDX-License-Identifier: LGPL-2.1-or-later
"""A daemon that is killed while a domain goes back to a snapshot, with the QEMU or without: it is where it was, or where it was to go."""

import contextlib
import errno
import os

import administer
import checks
import domains
from checks import equal, need
from mounted import MountFailed, wait_for
from running import Running
from test_power import QEMU, power, state
from test_running_crashes import EXPECTED, need_points
from test_running_revert import KINDS, MEMORIES, back, no_leftovers, went_back

POINTS = ("saving", "saved", "ended", "journaled", "published", "launched", "committing", "committed", "continued", "finishing")
OWN_POINTS = ("saving", "saved", "ended", "pointed", "applied", "launched", "loaded", "noted", "continued")
DONE = ("committed", "noted", "continued", "finishing")


def number_of(point, taken):
    """At which passing of the point it is that of going back: some are the snapshot's, too."""
    is_snapshots_too = point not in OWN_POINTS or (point == "saving" and "memory=external" in taken)
    return 2 if is_snapshots_too else 1


def follows(point, taken, fate, before, wanted):
    """What the domain does when the next daemon has settled it."""
    if fate == "is killed":
        has_no_memory_yet = point == "saving"
        may_have_run = point in ("noted", "finishing") or (point == "continued" and "memory=" in taken)
        if has_no_memory_yet or may_have_run:
            return ("crashed", "shutoff")
    return (wanted,) if point in DONE else (before,)


def killed(point, taken, fate="stays", before="running", words="1", wanted="running", again=()):
    """The daemon at a point of going back, and its QEMU with it or not; the next daemon settles it, after those that are
    killed at the points `again`."""
    crash = f"{point}:{number_of(point, taken)}"
    with Running(expected=[*EXPECTED, r"stays shut off"], environment={"VMSNAPFS_TEST_CRASH": crash}) as mount:
        mount.start()
        mount.guest_writes(40)
        mount.take("one " + taken)
        mount.guest_writes(41)
        mount.flush()
        if before == "paused":
            power(mount, "pause")
        if before == "shutoff":
            mount.off()
        try:
            back(mount, "one", words)
        except OSError as error:
            assert error.errno in (errno.ENOTCONN, errno.ECONNABORTED, errno.EIO), error
        dies(mount, point)
        if fate == "is killed" and mount.processes():
            mount.kill_guest()
        for next_point in again:
            with contextlib.suppress(MountFailed):
                mount.mount_again(VMSNAPFS_TEST_CRASH=f"{next_point}:1")
            if mount.process:
                dies(mount, next_point)
        mount.mount_again()
        if point in DONE:
            went_back(mount, "one")
        judge(mount, follows(point, taken, fate, before, wanted))


def dies(mount, point):
    wait_for(lambda: mount.process.poll() is not None, f"the daemon to come to its end at {point}")
    mount.kill()


def judge(mount, states):
    wait_for(lambda: state(mount) in states, f"{states}; it is {state(mount)}")
    wait_for(lambda: not os.path.exists(os.path.join(mount.source, ".vmsnapfs", "domains", "1.restart")), "all to be done")
    equal(domains.current(mount), "one")
    no_leftovers(mount)
    is_running = "running" in states or "paused" in states
    if is_running:
        equal(len(mount.processes()), 1)
        mount.guest_reads()
        mount.guest_writes(99, at=3 * 65536)
    else:
        administer.wait_idle(mount)
    mount.check(is_running)
    if not is_running:
        power(mount, "start")
        mount.guest_reads()
    mount.take("two disk-only")
    mount.guest_writes(98, at=2 * 65536)
    mount.check()
    mount.off()
    administer.wait_idle(mount)
    mount.check(is_running=False)


def points_of(taken, before, wanted):
    points = [point for point in POINTS if before != "shutoff" or point not in ("saving", "saved", "ended")]
    points = [point for point in points if wanted != "shutoff" or point != "launched"]
    points += ["pointed", "applied"] if ":internal" in taken else []
    return points + (["loaded", "noted"] if "memory=" in taken else [])


def kill_all(taken, fates, befores):
    need(QEMU)
    need_points()
    wrong = []
    for before, words, wanted in befores:
        for point in points_of(taken, before, wanted):
            for fate in fates:
                try:
                    killed(point, taken, fate, before, words, wanted)
                except AssertionError as error:
                    wrong.append(f"{point}, {taken}, the QEMU {fate}, {before}, {words}: {error}")
                    print("    " + wrong[-1], flush=True)
    assert not wrong, f"{len(wrong)} wrong"


DISKS = "disk-only " + KINDS["mixed"]
FATES = ("stays", "is killed")


def test_killed():
    """Killed at each step, the QEMU stays or not: the old state or the new one, with its guest as it was or is to be"""
    kill_all(DISKS, FATES, (("running", "1", "running"),))


def test_killed_otherwise():
    """The same from and to other states"""
    kill_all(DISKS, FATES[:1], (("paused", "running", "running"), ("shutoff", "paused", "paused"), ("running", "shutoff", "shutoff")))


def test_killed_with_memory():
    """The same where memory is brought back: what has run with it never gets it again"""
    for name in ("outside, disks inside", "inside, one disk outside"):
        kill_all(MEMORIES[name], FATES, (("running", "1", "running"),))


def test_killed_again():
    """Killed again while the next daemon has the domain go on, the one after does"""
    need(QEMU)
    need_points()
    for point, again in (
        ("ended", ("relaunched",)),
        ("applied", ("undone", "reloaded")),
        ("launched", ("undone", "relaunched", "reloaded")),
        ("loaded", ("reloaded", "noted")),
        ("committed", ("noted",)),
    ):
        killed(point, MEMORIES["outside, disks inside"], again=again)


if __name__ == "__main__":
    checks.main(globals())
