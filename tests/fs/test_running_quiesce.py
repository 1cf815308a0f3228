# SPDX-License-Identifier: LGPL-2.1-or-later
"""Snapshots of domains that run with their file systems frozen: agents that work, fail and say nothing, and what is thawed."""

import contextlib
import errno
import os
import signal
import threading

import administer
import checks
import domains
from administer import command_refused
from agent import agent_of
from checks import equal, fails_with, need
from mounted import wait_for
from running import ALL, Running, Unchanged, attempt_any, is_paused
from test_power import QEMU, events, power, wait_state

HAS_POINTS = bool(os.environ.get("VMSNAPFS_TEST_CRASH_POINTS"))


def consistency(mount, name):
    return mount.text("web1", "snapshots", name, "consistency").strip()


def test_quiesced():
    """With an agent its file systems are frozen before and thawed after, for mkdir, require, and paused"""
    need(QEMU)
    with Running(agent="qga") as mount, agent_of(mount, is_paused=lambda: is_paused(mount)) as agent:
        mount.start()
        for name, words in (("one", None), ("two", "quiesce=require " + ALL.format("external")), ("three", "quiesce=try paused"), ("four", "")):
            agent.heard.clear()
            mount.guest_writes(len(name))
            if words is None:
                domains.take(mount, name)
                mount.remember(name)
            elif not words:
                mount.take(f"{name} disk-only")
            else:
                mount.take(f"{name} disk-only {words}")
            told = [each for each in agent.heard if each in ("guest-fsfreeze-freeze", "guest-fsfreeze-thaw")]
            if words == "":
                equal(told, [])
                equal(consistency(mount, name), "crash")
                continue
            equal(told, ["guest-fsfreeze-freeze", "guest-fsfreeze-thaw"], name)
            equal(consistency(mount, name), "quiesced")
            equal(agent.is_frozen, False)
            if name == "three":
                wait_state(mount, "paused")
                command_refused(errno.EOPNOTSUPP, mount, "web1", "create", "five disk-only quiesce=require", words=["paused"])
                power(mount, "resume")
                wait_state(mount, "running")
        mount.check()


def test_agents_that_fail():
    """An agent that is not there, refuses, or says nothing: require fails, and changes nothing; try goes without"""
    need(QEMU)
    ways = (
        None,
        {"refuses": ("guest-fsfreeze-freeze",)},
        {"ignores": ("guest-fsfreeze-freeze",)},
        {"ignores": ("guest-sync-delimited",)},
    )
    with Running(agent="qga") as mount:
        mount.start()
        for number, how in enumerate(ways):
            with agent_of(mount, **how) if how else contextlib.nullcontext() as agent:
                with Unchanged(mount):
                    with contextlib.suppress(OSError):
                        domains.create(mount, f"r{number} disk-only quiesce=require " + ALL.format("external"))
                        raise AssertionError(f"succeeded with {how}")
                mount.guest_writes(number + 10)
                mount.take(f"t{number} disk-only quiesce=try " + ALL.format("external"))
                equal(consistency(mount, f"t{number}"), "crash")
                mount.check()
                if agent:
                    equal(agent.is_frozen, False)


def test_frozen_by_somebody_else():
    """File systems that somebody else froze are not thawed by us"""
    need(QEMU)
    with Running(agent="qga") as mount, agent_of(mount) as agent:
        mount.start()
        agent.is_frozen = True
        with Unchanged(mount):
            fails_with(errno.EBUSY, domains.create, mount, "one disk-only quiesce=require")
        equal(agent.is_frozen, True)


def test_thawed_where_the_snapshot_fails():
    """Where QEMU refuses the transaction, what was frozen is thawed"""
    need(QEMU)
    with Running(agent="qga") as mount, agent_of(mount) as agent:
        mount.start()
        with mount.own() as monitor:
            monitor.command("blockdev-add", **{"driver": "null-co", "node-name": "null", "size": domains.SIZE, "read-zeroes": True})
            monitor.command("blockdev-mirror", **{"job-id": "m", "device": "vda", "target": "null", "sync": "full", "speed": 1})
        with Unchanged(mount):
            fails_with((errno.EBUSY, errno.EINVAL, errno.EIO), domains.create, mount, "one disk-only quiesce=require " + ALL.format("external"))
        assert "guest-fsfreeze-freeze" in agent.heard, agent.heard
        equal(agent.is_frozen, False)


def test_silent_at_the_instant():
    """A QEMU that stops answering before the transaction, and carries it out later: the snapshot is there whole, or not"""
    need(QEMU)
    for words in (ALL.format("external"), ALL.format("internal"), "disk=vda:internal disk=vdb:external"):
        mount = Running(agent="qga", expected=[r"does not answer", r"could not be undone", r"not (undone|concluded) yet", r"may have, and its result"])

        def stop_it():
            os.kill(mount.processes()[0], signal.SIGSTOP)

        with mount, agent_of(mount, when_frozen=stop_it) as agent:
            mount.start()
            mount.guest_writes(33)
            names = administer.names_beside(mount)
            present = {target: bytes(content) for target, content in mount.wanted.items()}
            (pid,) = mount.processes()
            try:
                command_refused(errno.ETIMEDOUT, mount, "web1", "create", "one disk-only quiesce=require " + words)
                equal(agent.is_frozen, False)
                os.listdir(mount.path("web1", "snapshots"))
            finally:
                os.kill(pid, signal.SIGCONT)
            agent.when_frozen = None
            wait_state(mount, "running")
            mount.guest_writes(34)
            attempts = []

            def works():
                with contextlib.suppress(OSError):
                    domains.create(mount, "after disk-only")
                    return True
                attempts.append(administer.newest_error(mount, "web1"))
                return False

            wait_for(works, "a snapshot after a silent QEMU")
            mount.remember("after")
            if "one" in mount.snapshots("web1"):
                mount.frozen_bytes["one"] = present
            elif "external" not in words:
                equal(administer.names_beside(mount), names)
            print(f"    {words}: {'taken' if 'one' in mount.frozen_bytes else 'not taken'}, {len(attempts)} refused", flush=True)
            mount.guest_writes(35)
            mount.check()
            mount.off()
            mount.check(is_running=False)


def test_cancelled_too_late():
    """A job that is cancelled when QEMU has switched the files can't be undone any more: the snapshot is there"""
    need(QEMU)
    with Running(agent="qga") as mount:

        def cancel():
            for number in administer.jobs(mount, "web1"):
                with contextlib.suppress(OSError), open(mount.path("web1", "jobs", number, "cancel"), "w", encoding="ascii") as file:
                    file.write("1\n")

        with agent_of(mount, when_thawed=cancel) as agent:
            mount.start()
            mount.guest_writes(4)
            mount.take("one disk-only quiesce=require " + ALL.format("external"))
            assert "guest-fsfreeze-thaw" in agent.heard
            mount.guest_writes(5)
            mount.check()
            mount.take("two disk-only " + ALL.format("external"))
            mount.guest_writes(6)
            mount.check()


def test_ended_while_it_freezes():
    """A daemon that is to end while the agent is waited for ends soon, has taken the snapshot or not, and leaves nothing frozen"""
    need(QEMU)
    with Running(agent="qga") as mount, agent_of(mount, ignores=("guest-fsfreeze-freeze",)) as agent:
        mount.start()
        thread = threading.Thread(target=attempt_any, args=(domains.create, mount, "one disk-only quiesce=try " + ALL.format("external")))
        thread.start()
        wait_for(lambda: "guest-fsfreeze-freeze" in agent.heard, "the freeze")
        mount.process.terminate()
        thread.join()
        equal(mount.process.wait(), 0)
        mount.process = None
        assert "guest-fsfreeze-thaw" in agent.heard, agent.heard
        agent.ignores = ()
        mount.mount_again()
        if mount.snapshots("web1"):
            mount.remember("one")
        wait_state(mount, "running")
        mount.take("two disk-only " + ALL.format("external"))
        mount.guest_writes(4)
        mount.check()


def test_interrupted_while_it_freezes():
    """A job that is cancelled while the agent is waited for leaves nothing, and nothing frozen"""
    need(QEMU)
    with Running(agent="qga") as mount, agent_of(mount, ignores=("guest-fsfreeze-freeze",)) as agent:
        mount.start()
        with Unchanged(mount):
            found = []

            def create():
                try:
                    domains.create(mount, "one disk-only quiesce=try " + ALL.format("external"))
                    found.append(None)
                except OSError as error:
                    found.append(error.errno)

            thread = threading.Thread(target=create)
            thread.start()
            wait_for(lambda: "guest-fsfreeze-freeze" in agent.heard, "the freeze")
            for number in administer.jobs(mount, "web1"):
                with open(mount.path("web1", "jobs", number, "cancel"), "w", encoding="ascii") as file:
                    file.write("1\n")
            thread.join()
            equal(found, [errno.ECANCELED])
            equal(mount.snapshots("web1"), [])
        agent.ignores = ()
        mount.take("two disk-only")
        mount.check()


FREEZE, THAW = "guest-fsfreeze-freeze", "guest-fsfreeze-thaw"
OWED = r"may still be frozen"


def owed(mount):
    """The events that tell of a thaw that is owed, and of its end."""
    return [line for line in events(mount) if line.startswith(("its file systems ", "its QEMU has ended, so"))]


def owed_file(mount):
    directory = os.path.join(mount.source, ".vmsnapfs", "domains")
    return [name for name in os.listdir(directory) if name.endswith(".thaw")]


def test_thawed_though_the_connection_breaks():
    """A freeze whose answer does not come, or is none, with the connection lost: thawed at once over a new one"""
    need(QEMU)
    with Running(agent="qga") as mount:
        mount.start()
        for how in ({"breaks": (FREEZE,)}, {"floods": (FREEZE,)}):
            with agent_of(mount, **how) as agent:
                with Unchanged(mount):
                    fails_with((errno.EIO, errno.ECONNRESET), domains.create, mount, "one disk-only quiesce=require")
                equal((agent.heard.count(FREEZE), agent.heard.count(THAW), agent.is_frozen), (1, 1, False), how)
        equal(owed(mount), [])
        equal(owed_file(mount), [])


def test_thawed_when_the_agent_answers_again():
    """A thaw that fails, whichever way, is tried again until the agent answers, and told of once"""
    need(QEMU)
    with Running(agent="qga", expected=[OWED]) as mount:
        mount.start()
        for number, how in enumerate(({"breaks": (THAW,)}, {"refuses": (THAW,)}, {"ignores": (THAW,)}, {"breaks": (FREEZE, THAW)})):
            with agent_of(mount, **how) as agent:
                told = len(owed(mount))
                mount.guest_writes(number + 1)
                mount.take(f"s{number} disk-only quiesce=try " + ALL.format("external"))
                equal(agent.is_frozen, True, how)
                if number != 2:
                    wait_for(lambda heard=agent.heard: heard.count(THAW) >= 4, "a thaw that is tried again")
                equal(owed_file(mount), [f"{serial_of(mount)}.thaw"])
                command_refused(errno.ETIMEDOUT if number == 2 else errno.EIO, mount, "web1", "create", "t disk-only quiesce=require", words=["earlier snapshot"])
                agent.breaks = agent.refuses = agent.ignores = ()
                wait_for(lambda agent=agent: not agent.is_frozen, "the thaw")
                wait_for(lambda told=told: len(owed(mount)) == told + 2, "the events of it")
                wait_for(lambda: not owed_file(mount), "the file of what was owed to go")
                mount.take(f"u{number} disk-only quiesce=require")
                equal(agent.is_frozen, False)
        mount.check()


def serial_of(mount):
    (name,) = [name for name in os.listdir(os.path.join(mount.source, ".vmsnapfs", "domains")) if name.endswith(".json")]
    return name.split(".")[0]


def test_thawed_by_the_next_mount():
    """A daemon that is ended, or killed, while a thaw is owed, or between the freeze and the thaw: the next one goes on with it"""
    need(QEMU)
    points = [None, signal.SIGTERM, signal.SIGKILL] if HAS_POINTS else [signal.SIGTERM, signal.SIGKILL]
    with Running(agent="qga", expected=[OWED]) as mount:
        mount.start()
        for number, how in enumerate(points):
            with agent_of(mount, refuses=(THAW,)) as agent:
                if how:
                    mount.take(f"s{number} disk-only quiesce=try")
                    mount.process.send_signal(how)
                    mount.process.wait()
                else:
                    mount.process.terminate()
                    mount.process.wait()
                    mount.mount_again(VMSNAPFS_TEST_CRASH="frozen:1")
                    attempt_any(domains.create, mount, f"s{number} disk-only quiesce=try")
                    wait_for(lambda: mount.process.poll() is not None, "the daemon to come to its end")
                mount.kill()
                equal(agent.is_frozen, True, how)
                mount.mount_again()
                heard = agent.heard.count(THAW)
                wait_for(lambda agent=agent, heard=heard: agent.heard.count(THAW) > heard, "a thaw that is tried again")
                wait_for(lambda: any("may still be frozen" in line for line in events(mount)), "the event")
                equal(agent.is_frozen, True)
                agent.refuses = ()
                wait_for(lambda agent=agent: not agent.is_frozen, "the thaw")
                wait_for(lambda: any("are thawed" in line for line in events(mount)), "the event")
                wait_for(lambda: not owed_file(mount), "the file of what was owed to go")
        wait_state(mount, "running")
        mount.take("last disk-only")
        mount.check()


def test_another_qemu_is_not_thawed():
    """What is owed ends with the QEMU: what somebody freezes in the next one stays frozen"""
    need(QEMU)
    for is_mounted in (True, False):
        with Running(agent="qga", expected=[OWED]) as mount, agent_of(mount, refuses=(THAW,)) as agent:
            mount.start()
            mount.take("one disk-only quiesce=try")
            equal((agent.is_frozen, len(owed_file(mount))), (True, 1))
            if not is_mounted:
                mount.process.kill()
                mount.process.wait()
                mount.kill()
                mount.kill_guest()
                mount.expected += [r"ended while nobody looked", r"its QEMU ended"]
                mount.mount_again()
            else:
                mount.off()
            mount.start()
            agent.is_frozen, agent.refuses = True, ()
            agent.heard.clear()
            wait_for(lambda: not owed_file(mount), "the end of what is owed")
            fails_with(errno.EBUSY, domains.create, mount, "two disk-only quiesce=require")
            equal(agent.is_frozen, True)
            equal(agent.heard.count(THAW), 0)
            mount.check()


if __name__ == "__main__":
    checks.main(globals())
