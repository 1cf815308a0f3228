# SPDX-License-Identifier: LGPL-2.1-or-later
"""A daemon that is killed while it begins to copy a disk, moves to the copy, or lets go of it, with its QEMU or without."""

import errno
import os

import administer
import checks
import domains
from checks import equal, need
from mounted import wait_for
from running import PAGE, Running
from test_mirror import abort, copy, copy_jobs, pivot, wait_ready
from test_power import QEMU, wait_state
from test_running_crashes import EXPECTED, need_points

POINTS = {
    "copy": ("mirror-noted", "published", "mirror-opened", "mirror-started"),
    "pivot": ("mirror-pivots", "mirror-stopped", "mirror-moved", "committing", "mirror-committed", "mirror-resumed"),
    "abort": ("mirror-ends", "mirror-detached"),
    "drop": ("mirror-dropped",),
    "create": ("made", "journaled", "published", "opened", "taken", "mirror-opened", "mirror-started", "committing", "committed"),
}
FATES = ("stays", "is killed")


def begin(mount, kind, path):
    """What comes before the daemon that is to be killed is there."""
    if kind in ("pivot", "abort"):
        copy(mount, path + (" shallow" if "shallow" in mount.words else ""))
        wait_ready(mount)
    if kind == "drop":
        for page in range(4, 28):
            mount.guest_writes(100 + page, at=page * PAGE)
        copy(mount, path + " bandwidth=64K")


def do(mount, kind, path):
    try:
        if kind == "copy":
            copy(mount, path + (" shallow" if "shallow" in mount.words else ""))
        elif kind == "pivot":
            pivot(mount)
        elif kind == "create":
            domains.create(mount, f"two disk-only disk=vda:external mirror=vda:{path}")
        else:
            abort(mount)
    except OSError as error:
        assert error.errno in (errno.ENOTCONN, errno.ECONNABORTED, errno.EIO), error


def dies(mount, kind, point, path):
    """The daemon that has the point is another one than that which began: points are counted from its start."""
    mount.kill()
    mount.mount_again(VMSNAPFS_TEST_CRASH=f"{point}:1")
    wait_state(mount, "running")
    if kind in ("pivot", "abort"):
        wait_ready(mount)
    elif kind == "drop":
        wait_for(lambda: copy_jobs(mount), "the copy")
    do(mount, kind, path)
    wait_for(lambda: mount.process.poll() is not None, f"the daemon to come to its end at {point}")
    mount.kill()


def settled(mount):
    """Nothing is half done: what is being copied has a job that is ready."""
    found = copy_jobs(mount)
    is_copied = "is being copied" in mount.text("web1", "disks", "vda", "copy")
    return found["vda"][1] == "ready" if found else not is_copied


def crash(kind, point, fate, words=""):
    with Running(("qcow2",), expected=(*EXPECTED, r"goes on where it was")) as mount:
        mount.words = words
        path = os.path.join(mount.source, "copy.qcow2")
        mount.start()
        mount.guest_writes(41)
        mount.take("one disk-only disk=vda:external")
        mount.guest_writes(42, at=PAGE)
        begin(mount, kind, path)
        mount.guest_writes(43, at=2 * PAGE)
        mount.flush()
        dies(mount, kind, point, path)
        with mount.own() as monitor:
            is_stopped = monitor.command("query-status")["status"] == "paused"
        if not is_stopped:
            mount.guest_writes(44, at=3 * PAGE)
            mount.flush()
        if fate == "is killed":
            mount.kill_guest()
        mount.mount_again()
        judge(mount, kind, fate, path)
        equal([name for name in os.listdir(mount.source) if name.startswith(".vmsnapfs-")], [])


def judge(mount, kind, fate, path):
    wait_for(lambda: settled(mount), "what was begun to be settled")
    if "two" in mount.snapshots("web1"):
        mount.frozen_bytes["two"] = {"vda": two_holds(mount)}
    if fate == "is killed":
        assert not copy_jobs(mount), copy_jobs(mount)
        mount.check(is_running=False)
        mount.start()
    wait_state(mount, "running")
    mount.check()
    active = administer.source(mount, "web1")[0]
    if copy_jobs(mount):
        pivot(mount)
        equal(administer.source(mount, "web1")[0], path)
    elif active != path and os.path.exists(path):
        equal((kind, fate), ("abort", "stays"), f"{path} is left")
        administer.check_image(path)
        os.unlink(path)
    mount.guest_writes(45, at=PAGE)
    mount.check()
    mount.take("later disk-only disk=vda:external")
    mount.guest_writes(46, at=PAGE)
    mount.off()
    mount.check(is_running=False)


def two_holds(mount):
    """The snapshot was taken before the guest wrote its last, if it did."""
    content = bytearray(mount.wanted["vda"])
    found = administer.frozen_bytes(mount, "web1", "two", "vda")
    if found[3 * PAGE] != 44:
        content[3 * PAGE : 4 * PAGE] = found[3 * PAGE : 4 * PAGE]
    return bytes(content)


def crashes(kind, words=""):
    need(QEMU)
    need_points()
    wrong = []
    for point in POINTS[kind]:
        for fate in FATES:
            try:
                crash(kind, point, fate, words)
            except (AssertionError, OSError) as error:
                wrong.append(f"{kind} {words} killed at {point}, the QEMU {fate}: {error}")
                print("    " + wrong[-1], flush=True)
    assert not wrong, f"{len(wrong)} wrong"


def test_crashes_of_copy():
    """Killed while a copy is begun: it is there, or nothing of it"""
    crashes("copy")
    crashes("copy", "shallow")


def test_crashes_of_pivot():
    """Killed on the way to a copy: the domain goes on where it was or in the copy, with everything"""
    crashes("pivot")
    crashes("pivot", "shallow")


def test_crashes_of_abort():
    """Killed while a copy is let go of: it is whole, or gone"""
    crashes("abort")
    crashes("drop")


def test_crashes_of_create():
    """Killed while a snapshot with a mirror is taken"""
    crashes("create")


if __name__ == "__main__":
    checks.main(globals())
