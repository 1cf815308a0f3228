# SPDX-License-Identifier: LGPL-2.1-or-later
"""Going back to snapshots where a QEMU is ended or started for it: disks, states, refusals, and the way back after failures."""

import contextlib
import errno
import json
import os
import signal
import subprocess
import time

import administer
import checks
import domains
from administer import command_of, command_refused
from checks import equal, need
from mounted import wait_for
from running import ALL, Running, is_ended
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


def leftovers(mount):
    names = [name for name in os.listdir(mount.source) if name.startswith(".vmsnapfs-")]
    return names + [name for name in os.listdir(os.path.join(mount.source, ".vmsnapfs", "domains")) if name.endswith(".restart")]


def no_leftovers(mount):
    """Soon: where a domain could not go on at once, that is tried again."""
    wait_for(lambda: not leftovers(mount), lambda: f"the end of {leftovers(mount)}")


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


def test_guard_and_crashes():
    """Killed between the guard and going back, or in the middle of that, the guard goes again and the guest goes on"""
    need(QEMU)
    for point in ("committed:1", "saved:1", "launched:1", "committing:2"):
        need_points()
        with Running(expected=EXPECTED) as mount:
            mount.start()
            mount.guest_writes(40)
            mount.take("one disk-only disk=vda:external disk=vdb:internal")
            mount.guest_writes(41)
            mount.kill()
            mount.mount_again(VMSNAPFS_TEST_CRASH=point)
            wait_state(mount, "running")
            try:
                back(mount, "one", "guard paused")
            except OSError as error:
                assert error.errno in (errno.ENOTCONN, errno.ECONNABORTED, errno.EIO), error
            wait_for(lambda: mount.process.poll() is not None, "the daemon to come to its end")
            mount.kill()
            mount.mount_again()
            wait_state(mount, "running")
            wait_for(lambda: mount.snapshots("web1") == ["one"], "the end of the guard")
            equal((domains.current(mount), domains.parents(mount)), ("one", {"one": None}), point)
            administer.wait_idle(mount)
            mount.guest_reads()
            mount.check()
            no_leftovers(mount)


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


def test_crashed():
    """A guest that panicked has nothing to go on with, and goes back all the same"""
    need(QEMU)
    with Running(more=("-device", "pvpanic", "-action", "panic=pause")) as mount:
        mount.start()
        mount.guest_writes(40)
        mount.take("one disk-only disk=vda:external disk=vdb:internal")
        mount.guest_writes(41)
        mount.human("o /b 0x505 1")
        wait_state(mount, "crashed")
        back(mount, "one")
        equal(state(mount), "running")
        went_back(mount, "one")
        mount.check()


def test_no_room_for_its_memory():
    """Where what it would go on with can't be put aside, nothing is done; with force it goes back without"""
    checks.need_root()
    need(QEMU, "mkfs.ext4")
    with domains.small_file_system(40) as directory, Running(source=directory, expected=[r"could not be put aside"]) as mount:
        mount.start()
        mount.guest_writes(40)
        mount.take("one disk-only disk=vda:external disk=vdb:internal")
        mount.guest_writes(41)
        (pid,) = mount.processes()
        command_refused(errno.ENOSPC, mount, "web1", "snapshots/one/revert", "1", ["memory"])
        equal(mount.processes(), [pid])
        goes_on_where_it_was(mount, "running")
        back(mount, "one", "force")
        is_now(mount, "running")
        went_back(mount, "one")
        no_leftovers(mount)
        mount.check()


def test_cancelled():
    """Cancelled while the new QEMU starts, the guest goes on where it was"""
    need(QEMU)
    with Running() as mount:
        flag = os.path.join(mount.room, "waits")
        script = f'case "$*" in *incoming*) ;; *) while [ -e {flag} ]; do :; done; esac; exec "$@"'
        redefine_launch(mount, lambda launch: ["sh", "-c", script, "sh", *launch])
        mount.start()
        mount.guest_writes(40)
        mount.take("one disk-only disk=vda:external disk=vdb:internal")
        mount.guest_writes(41)
        with open(flag, "w", encoding="ascii"):
            path = mount.path("web1", "snapshots", "one", "revert")
            with subprocess.Popen(["sh", "-c", f"echo 1 > '{path}'"], stderr=subprocess.PIPE) as writer:
                wait_for(lambda: events(mount)[-1] == "state: shutoff", "the end of its QEMU")
                for job in os.listdir(mount.path("web1", "jobs")):
                    with open(mount.path("web1", "jobs", job, "cancel"), "w", encoding="ascii") as file:
                        file.write("1")
                writer.communicate()
                assert writer.returncode != 0
        os.unlink(flag)
        goes_on_where_it_was(mount, "running")


def test_who_may():
    """What ends or starts a QEMU is for the user who mounted and root, whatever the modes say"""
    checks.need_root()
    need("setpriv", QEMU)
    with Running() as mount:
        mount.remount(mount.options + ",allow_other,control-mode=0666")
        mount.start()
        mount.guest_writes(40)
        mount.take("one disk-only disk=vda:external disk=vdb:internal")
        as_user = ["setpriv", "--reuid=12345", "--regid=12345", "--clear-groups", "sh", "-c"]
        words = f"echo %s > '{mount.path('web1', 'snapshots', 'one', 'revert')}'"
        assert subprocess.run([*as_user, words % "1"], stderr=subprocess.DEVNULL).returncode != 0
        assert "who mounted" in mount.text("web1", "last_error") and "EPERM" in mount.text("web1", "last_error")
        goes_on_where_it_was(mount, "running")
        mount.off()
        assert subprocess.run([*as_user, words % "running"], stderr=subprocess.DEVNULL).returncode != 0
        subprocess.run([*as_user, words % "shutoff"], check=True)


def test_killed_qemu():
    """A QEMU that is killed at any moment of going back: a whole state, old or new, and the domain starts again"""
    need(QEMU)
    chance = checks.seed()
    for _ in range(6):
        with Running(expected=[r"ended", r"stays shut off", r"could not be"]) as mount:
            mount.start()
            mount.guest_writes(40)
            mount.take("one " + chance.choice([*MEMORIES.values()]))
            mount.guest_writes(41)
            mount.flush()
            path = mount.path("web1", "snapshots", "one", "revert")
            with subprocess.Popen(["sh", "-c", f"echo 1 > '{path}'"], stderr=subprocess.DEVNULL) as writer:
                time.sleep(chance.random() * 0.5)
                killed = mount.processes()
                for pid in killed:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
                done = writer.wait() == 0
            wait_for(lambda: all(is_ended(pid) for pid in killed), "the end of what was killed")
            if done:
                went_back(mount, "one")
            no_leftovers(mount)
            if not mount.processes():
                wait_for(lambda: state(mount) in ("crashed", "shutoff"), "its end to be seen")
                administer.wait_idle(mount)
                mount.check(is_running=False)
                power(mount, "start")
            mount.guest_reads()
            mount.check()


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


def test_memory_of_a_paused_guest():
    """A paused guest is saved more than once, and goes back and forth, without having been resumed"""
    need(QEMU)
    with Running() as mount:
        mount.start()
        power(mount, "pause")
        kinds = ("memory=external " + ALL.format("external"), "memory=external " + ALL.format("internal"), "memory=internal")
        for number, words in enumerate(kinds):
            mount.guest_writes(50 + number)
            mount.take(f"s{number} {words}")
            is_now(mount, "paused")
        for number in (0, 2, 1):
            mount.guest_writes(60 + number)
            back(mount, f"s{number}")
            is_now(mount, "paused")
            went_back(mount, f"s{number}")
            equal(loaded(mount), True)
            mount.guest_reads()
            mount.guest_writes(70 + number)
            mount.take(f"t{number} {kinds[number]}")
            mount.check()
        power(mount, "resume")
        is_now(mount, "running")
        mount.check()
        no_leftovers(mount)


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
        command_refused(errno.EINVAL, mount, "web1", "power", "start one", ["definition", "force", "revert"])
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


def test_killed_somewhere():
    """A daemon that is killed at some steps; test_running_revert_crashes.py tries all of them"""
    need(QEMU)
    from test_running_revert_crashes import DISKS, killed  # pylint: disable=import-outside-toplevel,cyclic-import

    killed("saved", DISKS)
    killed("applied", DISKS, "is killed")
    killed("launched", MEMORIES["outside, disks inside"])
    killed("committed", MEMORIES["inside"], "is killed")


if __name__ == "__main__":
    checks.main(globals())
