# SPDX-License-Identifier: LGPL-2.1-or-later
"""Going back to snapshots where a QEMU is ended or started for it: disks, states, refusals, and the way back after failures."""

import errno
import json
import os

import administer
import checks
import domains
from administer import command_of, command_refused
from checks import equal, need
from mounted import wait_for
from running import Running
from test_power import QEMU, Guest, Watched, events, power, redefine, state, wait_state
from test_running_crashes import EXPECTED, need_points

KINDS = {
    "internal": "disk=vda:internal disk=vdb:internal",
    "external": "disk=vda:external disk=vdb:external",
    "mixed": "disk=vda:internal disk=vdb:external",
}


def back(mount, name, words="1"):
    return command_of(mount, "web1", name, "revert", words)


def went_back(mount, name):
    """The present is as the snapshot is."""
    for target in mount.targets:
        mount.wanted[target] = bytearray(mount.frozen_bytes[name][target])
    equal(domains.current(mount), name)


def is_now(mount, wanted):
    """What gives space back has an image open for a moment, which looks like a QEMU of somebody's."""
    if wanted == "shutoff":
        wait_state(mount, wanted)
    equal(state(mount), wanted)


def redefine_launch(mount, changed):
    """Another launch, and waits until it counts."""
    with open(os.path.join(mount.source, "web1.json"), encoding="utf-8") as file:
        launch = json.load(file)["launch"]
    uuid = f"00000000-0000-4000-8000-{len(launch):012}"
    redefine(mount, launch=changed(launch), uuid=uuid)
    wait_for(lambda: uuid in mount.text("web1", "domain.json"), "the new definition")


def no_leftovers(mount):
    names = [name for name in os.listdir(mount.source) if name.startswith(".vmsnapfs-")]
    names += [name for name in os.listdir(os.path.join(mount.source, ".vmsnapfs", "domains")) if name.endswith(".restart")]
    equal(names, [])


def test_states():
    """From each state to each: of snapshots of running, paused and inactive domains, of all kinds"""
    need(QEMU)
    for kind, disks in KINDS.items():
        with Running() as mount:
            mount.start()
            mount.guest_writes(40)
            mount.take("ran disk-only " + disks)
            mount.guest_writes(41)
            power(mount, "pause")
            mount.take("stood disk-only " + disks)
            mount.guest_writes(42)
            mount.off()
            mount.take("off disk-only " + disks)
            for turn, (name, words, wanted) in enumerate(
                (
                    ("ran", "1", "running"),
                    ("ran", "paused", "paused"),
                    ("stood", "", "paused"),
                    ("stood", "running", "running"),
                    ("off", "running", "running"),
                    ("ran", "shutoff", "shutoff"),
                    ("ran", "1", "running"),
                    ("off", "1", "shutoff"),
                    ("stood", "1", "paused"),
                )
            ):
                processes = mount.processes()
                back(mount, name, words)
                is_now(mount, wanted)
                went_back(mount, name)
                equal(len(mount.processes()), 0 if wanted == "shutoff" else 1)
                assert not set(processes) & set(mount.processes()), "the same QEMU"
                no_leftovers(mount)
                if wanted != "shutoff":
                    mount.guest_reads()
                    mount.guest_writes(50 + turn, at=65536)
                mount.check(is_running=wanted != "shutoff")
            assert not any("crashed" in line for line in events(mount)), events(mount)


def goes_on_where_it_was(mount, before, check=True):
    """The same disks, and the guest reads what it wrote, and writes on."""
    wait_state(mount, before)
    mount.guest_reads()
    mount.guest_writes(111, at=3 * 65536)
    no_leftovers(mount)
    if check:
        mount.check()


def test_refused():
    """What can be refused is refused before anything is done, and the guest runs on in its QEMU"""
    need(QEMU)
    with Running() as mount:
        mount.start()
        mount.guest_writes(40)
        mount.take("one disk-only disk=vda:external disk=vdb:internal")
        mount.guest_writes(41)
        (pid,) = mount.processes()
        command_refused(errno.EINVAL, mount, "web1", "snapshots/one/revert", "running paused")
        redefine_launch(mount, lambda launch: [*launch, "-m", "32"])
        command_refused(errno.EINVAL, mount, "web1", "snapshots/one/revert", "1", ["launch", "force"])
        mount.take("two disk-only disk=vda:external disk=vdb:internal")
        command_refused(errno.EBUSY, mount, "web1", "snapshots/two/delete", "discard-force", ["active"])
        equal(mount.processes(), [pid])
        mount.check()
        back(mount, "one", "force")
        went_back(mount, "one")
        command_refused(errno.EBUSY, mount, "web1", "snapshots/two/delete", "merge-force", ["active"])
        wait_state(mount, "running")
        mount.check()


def test_of_others():
    """A QEMU that others run is not ended: stop it first; then its disks go back, and nothing is started"""
    need(QEMU)
    with Watched() as mount:
        domains.create(mount, "one disk=vda:internal")
        with Guest(mount.qmp, disk=mount.disk) as guest:
            wait_for(lambda: "state: running" in events(mount), "the connection")
            domains.create(mount, "two disk-only disk=vda:internal")
            for words in ("1", "shutoff", "running", "force"):
                command_refused(errno.EOPNOTSUPP, mount, "web1", "snapshots/one/revert", words)
            equal(state(mount), "running")
            guest.command("quit")
            guest.process.wait()
        wait_state(mount, "shutoff")
        command_refused(errno.EOPNOTSUPP, mount, "web1", "snapshots/two/revert", "1", ["shutoff"])
        back(mount, "one")
        back(mount, "two", "shutoff")
        equal(domains.current(mount), "two")


def test_start_from():
    """power start NAME runs the domain from a snapshot, and plain start from where it is"""
    need(QEMU)
    with Running() as mount:
        mount.start()
        mount.guest_writes(40)
        mount.take("one disk-only disk=vda:external disk=vdb:internal")
        mount.guest_writes(41)
        command_refused(errno.EBUSY, mount, "web1", "power", "start one", ["running already"])
        mount.off()
        power(mount, "start one")
        equal(state(mount), "running")
        went_back(mount, "one")
        mount.guest_writes(42)
        mount.check()
        mount.off()
        power(mount, "start")
        mount.guest_reads()
        mount.check()


def test_guard():
    """The present of a running domain is kept first; where going back is refused, nothing of that stays"""
    need(QEMU)
    with Running() as mount:
        mount.start()
        mount.guest_writes(40)
        mount.take("one disk-only disk=vda:external disk=vdb:internal")
        mount.guest_writes(41)
        present = {target: bytes(content) for target, content in mount.wanted.items()}
        back(mount, "one", "guard paused")
        equal(state(mount), "paused")
        went_back(mount, "one")
        (guard,) = set(mount.snapshots("web1")) - {"one"}
        mount.frozen_bytes[guard] = present
        mount.check()


def test_new_one_does_not_start():
    """A QEMU that does not start on the old disks: the domain goes on where it was, also where it was paused or shut off"""
    need(QEMU)
    with Running() as mount:
        flag = os.path.join(mount.room, "fails")
        script = f'[ ! -e {flag} ] || case "$*" in *incoming*) ;; *) echo "no more of these" >&2; exit 3; esac; exec "$@"'
        redefine_launch(mount, lambda launch: ["sh", "-c", script, "sh", *launch])
        mount.start()
        mount.guest_writes(40)
        for disks in KINDS.values():
            mount.take("one disk-only " + disks)
            mount.guest_writes(41)
            for before in ("running", "paused"):
                if before == "paused":
                    power(mount, "pause")
                with open(flag, "w", encoding="ascii"):
                    command_refused(errno.EIO, mount, "web1", "snapshots/one/revert", "1", ["no more of these"])
                os.unlink(flag)
                goes_on_where_it_was(mount, before)
            mount.off()
            with open(flag, "w", encoding="ascii"):
                command_refused(errno.EIO, mount, "web1", "snapshots/one/revert", "1", ["no more of these"])
            os.unlink(flag)
            is_now(mount, "shutoff")
            no_leftovers(mount)
            mount.check(is_running=False)
            os.rmdir(administer.snapshot_path(mount, "web1", "one"))
            del mount.frozen_bytes["one"]
            power(mount, "start")


# ---- With memory ----

MEMORIES = {
    "inside": "memory=internal disk=vda:internal disk=vdb:internal",
    "inside, one disk outside": "memory=internal disk=vda:internal disk=vdb:external",
    "outside, disks inside": "memory=external disk=vda:internal disk=vdb:internal",
    "outside": "memory=external disk=vda:external disk=vdb:external",
    "gzip": "memory=external compress=gzip disk=vda:external disk=vdb:internal",
    "zstd": "memory=external compress=zstd live disk=vda:external disk=vdb:external",
}


def test_memory():
    """Memory comes back with its disks, from wherever it was saved, into each state"""
    need(QEMU)
    for what, words in MEMORIES.items():
        with Running() as mount:
            mount.start()
            mount.guest_writes(40)
            mount.take("one " + words)
            mount.guest_writes(41)
            for state_wanted, asked in (("running", "1"), ("paused", "paused"), ("running", "running"), ("shutoff", "shutoff"), ("running", "")):
                back(mount, "one", asked)
                is_now(mount, state_wanted)
                went_back(mount, "one")
                no_leftovers(mount)
                if state_wanted != "shutoff":
                    equal(loaded(mount), True, what)
                    mount.guest_reads()
                    mount.guest_writes(42, at=65536)
                mount.check(is_running=state_wanted != "shutoff")


def loaded(mount):
    """Did its QEMU get memory? It was told to wait for that, or told so by a job."""
    (pid,) = mount.processes()
    with open(f"/proc/{pid}/cmdline", "rb") as file:
        words = file.read().split(b"\0")
    return b"-incoming" in words or b"-S" in words


def test_memory_that_is_damaged():
    """A file that was cut off, changed, or is another machine's: the guest goes on where it was, and last_error says why"""
    need(QEMU)
    with Running() as mount:
        mount.start()
        mount.guest_writes(40)
        for compression in ("none", "gzip"):
            mount.take(f"one memory=external compress={compression} disk=vda:external disk=vdb:internal")
            mount.guest_writes(41)
            path = domains.document(mount, "one")["memory_file"]
            before = os.stat(path)
            with open(path, "r+b") as file:
                file.seek(before.st_size // 2)
                file.write(b"\xff" * 4096)
            command_refused(errno.EIO, mount, "web1", "snapshots/one/revert", "1", ["changed by someone else"])
            os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
            command_refused((errno.EIO, errno.EINVAL), mount, "web1", "snapshots/one/revert", "1", ["the memory can't be loaded"])
            goes_on_where_it_was(mount, "running")
            os.rmdir(administer.snapshot_path(mount, "web1", "one"))
            del mount.frozen_bytes["one"]


def test_another_machine():
    """A machine that changed since its memory was saved: only with force, and then it is the one that was saved"""
    need(QEMU)
    with Running() as mount:
        mount.start()
        mount.guest_writes(40)
        mount.take("one memory=external disk=vda:external disk=vdb:internal")
        mount.off()
        redefine_launch(mount, lambda launch: [*launch, "-m", "32"])
        command_refused(errno.EINVAL, mount, "web1", "snapshots/one/revert", "1", ["definition", "force"])
        back(mount, "one", "force")
        went_back(mount, "one")
        is_now(mount, "running")
        mount.check()


def test_memory_without_disks():
    """Memory alone comes back only with force"""
    need(QEMU)
    with Running() as mount:
        mount.start()
        mount.guest_writes(40)
        domains.create(mount, "one memory=external disk=vda:no disk=vdb:no")
        mount.frozen_bytes["one"] = {}
        command_refused(errno.EINVAL, mount, "web1", "snapshots/one/revert", "1", ["force"])
        back(mount, "one", "force")
        is_now(mount, "running")
        mount.guest_reads()
        mount.check()


# ---- Killed ----

POINTS = ("saving", "saved", "ended", "journaled", "published", "launched", "committing", "committed", "continued", "finishing")
OWN_POINTS = ("saving", "saved", "ended", "pointed", "applied", "launched", "loaded", "noted", "continued")
DONE = ("committed", "noted", "continued", "finishing")


def killed(point, kind, fate, before, words, wanted):
    """The daemon at a point of going back, and its QEMU with it or not; then the next daemon settles it."""
    taken = KINDS.get(kind) or MEMORIES[kind]
    number = 1 if point in OWN_POINTS and not (point == "saving" and "memory=external" in taken) else 2  # the first is the snapshot's
    with Running(expected=[*EXPECTED, r"stays shut off"], environment={"VMSNAPFS_TEST_CRASH": f"{point}:{number}"}) as mount:
        mount.start()
        mount.guest_writes(40)
        mount.take("one " + taken if kind in MEMORIES else "one disk-only " + taken)
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
        wait_for(lambda: mount.process.poll() is not None, f"the daemon to come to its end at {point}")
        mount.kill()
        if fate == "is killed" and mount.processes():
            mount.kill_guest()
        mount.mount_again()
        is_done = point in DONE
        if is_done:
            went_back(mount, "one")
        follows = wanted if is_done else before
        if fate == "is killed" and point in ("saving", "noted", "finishing") or (point == "continued" and kind in MEMORIES and fate == "is killed"):  # there was no memory yet, or all was done
            follows = "crashed"
        wait_for(lambda: state(mount) == follows or (follows == "crashed" and state(mount) == "shutoff"), f"{follows}; it is {state(mount)}")
        wait_for(lambda: not os.path.exists(os.path.join(mount.source, ".vmsnapfs", "domains", "1.restart")), "all to be done")
        equal(domains.current(mount), "one")
        no_leftovers(mount)
        is_running = follows in ("running", "paused")
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


def kill_all(kinds, fates, befores):
    need(QEMU)
    need_points()
    wrong = []
    for kind in kinds:
        for point in POINTS + (("pointed", "applied") if "internal" in KINDS.get(kind, MEMORIES.get(kind)) else ()) + (("loaded", "noted") if kind in MEMORIES else ()):
            for fate in fates:
                for before, words, wanted in befores:
                    if before == "shutoff" and point in ("saving", "saved", "ended"):
                        continue
                    try:
                        killed(point, kind, fate, before, words, wanted)
                    except AssertionError as error:
                        wrong.append(f"{point}, {kind}, the QEMU {fate}, {before}, {words}: {error}")
                        print("    " + wrong[-1], flush=True)
    assert not wrong, f"{len(wrong)} wrong"


def test_killed():
    """Killed at each step, the QEMU stays or not: the old state or the new one, with its guest as it was or is to be"""
    kill_all(("mixed",), ("stays", "is killed"), (("running", "1", "running"),))


def test_killed_otherwise():
    """The same from and to other states"""
    kill_all(("mixed",), ("stays",), (("paused", "running", "running"), ("shutoff", "paused", "paused")))


def test_killed_with_memory():
    """The same where memory is brought back: what has run with it never gets it again"""
    kill_all(("outside, disks inside", "inside, one disk outside"), ("stays", "is killed"), (("running", "1", "running"),))


if __name__ == "__main__":
    checks.main(globals())
