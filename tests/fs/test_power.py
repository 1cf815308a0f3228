# SPDX-License-Identifier: LGPL-2.1-or-later
"""Domains that run: their state as their QEMU tells it, starting them, and what is written to power."""

import contextlib
import json
import os
import socket
import subprocess
import time

import checks
import domains
from checks import equal, need
from mounted import Mounted, wait_for

QEMU = "qemu-system-x86_64"
BARE = [QEMU, "-accel", "tcg", "-nodefaults", "-no-user-config", "-display", "none", "-M", "pc", "-m", "16"]


class Monitor:
    """A client of a QMP monitor, as libvirt or a person would be."""

    def __init__(self, path):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.connect(path)
        self.stream = self.socket.makefile("rw", encoding="utf-8")
        json.loads(self.stream.readline())
        self.command("qmp_capabilities")

    def command(self, execute, **arguments):
        json.dump({"execute": execute, "arguments": {key.replace("_", "-"): value for key, value in arguments.items()}}, self.stream)
        self.stream.write("\n")
        self.stream.flush()
        while True:
            reply = json.loads(self.stream.readline())
            assert "error" not in reply, reply
            if "return" in reply:
                return reply["return"]

    def close(self):
        self.stream.close()
        self.socket.close()


class Guest:
    """A QEMU that others run: its monitor for us at `path`, and another one for the test."""

    def __init__(self, path, *more, disk=None):
        self.path, self.own = path, path + ".own"
        command = [*BARE, *more]
        if disk:
            node = {"driver": "qcow2", "node-name": "someones", "file": {"driver": "file", "filename": disk}}
            command += ["-blockdev", json.dumps(node), "-device", "virtio-blk-pci,drive=someones"]
        for name, where in (("a", self.path), ("b", self.own)):
            command += ["-chardev", f"socket,id={name},path={where},server=on,wait=off", "-mon", f"chardev={name},mode=control"]
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
        self.monitor = None
        wait_for(self.connects, "QEMU's monitor")

    def connects(self):
        with contextlib.suppress(OSError):
            self.monitor = Monitor(self.own)
        return self.monitor

    def command(self, execute, **arguments):
        return self.monitor.command(execute, **arguments)

    def kill(self):
        self.process.kill()
        self.process.wait()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.monitor.close()
        self.kill()


def state(mount, domain="web1"):
    return mount.text(domain, "state").strip()


def wait_state(mount, wanted, domain="web1"):
    wait_for(lambda: state(mount, domain) == wanted, f"{domain} to be {wanted}, it is {state(mount, domain)}")


def events(mount, domain="web1"):
    """The events of a domain, without their times."""
    return [line.split(" ", 1)[1] for line in mount.text(domain, "events").splitlines()]


class Watched(Mounted):
    """Domain web1, whose definition names the monitor `qmp`, a path in the test's room."""

    def __init__(self, **options):
        super().__init__(**options)
        self.qmp = os.path.join(self.room, "qmp")
        domains.web1(self.source, qmp=self.qmp)
        self.disk = os.path.join(self.source, "web1.qcow2")


def test_state_of_a_qemu_of_others():
    """state follows what a QEMU says that others run: it comes, is paused, goes on, is migrated, powered off, goes"""
    need(QEMU)
    with Watched() as mount:
        equal(state(mount), "shutoff")
        with Guest(mount.qmp, disk=mount.disk) as guest:
            wait_state(mount, "running")
            wait_for(lambda: "state: running" in events(mount), "the event")
            for _ in range(5):
                guest.command("stop")
                wait_state(mount, "paused")
                guest.command("cont")
                wait_state(mount, "running")
            guest.command("system_reset")
            wait_for(lambda: "was reset" in events(mount), "the reset")
            equal(state(mount), "running")
            guest.command("migrate-set-capabilities", capabilities=[{"capability": "pause-before-switchover", "state": True}])
            guest.command("migrate", uri=f"exec:cat >{mount.room}/memory")
            wait_state(mount, "migrating")
            wait_for(lambda: guest.command("query-migrate")["status"] == "pre-switchover", "the memory")
            equal(state(mount), "migrating")
            guest.command("migrate-continue", state="pre-switchover")
            wait_state(mount, "paused")
            guest.command("cont")
            wait_state(mount, "running")
            guest.command("quit")
            guest.process.wait()
            wait_state(mount, "shutoff")
        lines = [line for line in events(mount) if line.startswith("state: ")]
        equal(lines[-2:], ["state: shutting-down", "state: shutoff"])


def test_paused_from_the_start():
    """A QEMU that waits for its first instruction is paused, also for a mount that comes later"""
    need(QEMU)
    mount = Watched()
    with Guest(mount.qmp, "-S"), mount:
        wait_state(mount, "paused")


def test_a_guest_that_is_off():
    """A guest that switched itself off while its QEMU stays is shutting down"""
    need(QEMU)
    with Watched() as mount, Guest(mount.qmp, "-no-shutdown", "-device", "isa-debug-exit") as guest:
        wait_state(mount, "running")
        guest.command("human-monitor-command", command_line="o /w 0x604 0x2000")  # as ACPI's S5 does
        wait_state(mount, "shutting-down")


def test_killed():
    """A QEMU that is killed leaves a crashed domain, at once; one that comes anew runs"""
    need(QEMU)
    with Watched() as mount:
        with Guest(mount.qmp, disk=mount.disk) as guest:
            wait_for(lambda: "state: running" in events(mount), "the connection")
            guest.kill()
            wait_state(mount, "crashed")
        assert any(line.startswith("state: crashed") for line in events(mount)), events(mount)
        with Guest(mount.qmp, disk=mount.disk):
            wait_state(mount, "running")


def test_panicked():
    """A guest that panicked is crashed while its QEMU holds it"""
    need(QEMU)
    with Watched() as mount, Guest(mount.qmp, "-device", "pvpanic", "-action", "panic=pause") as guest:
        wait_state(mount, "running")
        guest.command("human-monitor-command", command_line="o /b 0x505 1")
        wait_state(mount, "crashed")
        assert "its guest panicked" in events(mount)
        guest.command("system_reset")
        guest.command("cont")
        wait_state(mount, "running")


def took(function, *arguments):
    begin = time.monotonic()
    function(*arguments)
    return time.monotonic() - begin


@contextlib.contextmanager
def listening(path):
    """A socket that takes connections and says nothing."""
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path)
        server.listen()
        yield server


def test_a_silent_monitor():
    """A socket that takes connections and says nothing holds up nobody: mounting, listing, reading, the end"""
    mount = Watched(expected=[r"does not answer"])
    with listening(mount.qmp), mount:
        equal(state(mount), "shutoff")
        os.listdir(mount.path("web1"))
        mount.text("web1", "power")
        wait_for(lambda: any("does not answer" in line for line in events(mount)), "the event")
        assert "does not answer" in mount.service_log()
        equal(state(mount), "shutoff")
        mount.remount()
        os.mkdir(mount.path("web1", "snapshots", "one"))


def test_another_client():
    """While another client has the monitor, the state is what the images' locks tell; then it is QEMU's again"""
    need(QEMU)
    mount = Watched(expected=[r"does not answer"])
    with Guest(mount.qmp, "-S", disk=mount.disk):
        other = Monitor(mount.qmp)
        with mount:
            wait_for(lambda: any("another client" in line for line in events(mount)), "the event")
            equal(state(mount), "running")
            other.close()
            wait_state(mount, "paused")


def test_definition_that_is_not_trusted():
    """A definition that others can write to leads to no connection"""
    mount = Watched(expected=[r"not trusted"])
    os.chmod(os.path.join(mount.source, "web1.json"), 0o666)
    with listening(mount.qmp) as server, mount:
        server.settimeout(3)
        with contextlib.suppress(TimeoutError):
            server.accept()
            raise AssertionError("somebody connected")
        assert "not trusted" in mount.text("web1", "domain.json")


def test_the_monitor_is_named_later():
    """A definition that is changed while the domain runs leads to its monitor, or away from it"""
    need(QEMU)
    with Watched() as mount, Guest(mount.qmp, "-S") as guest:
        wait_state(mount, "paused")
        definition = os.path.join(mount.source, "web1.json")
        with open(definition, encoding="utf-8") as file:
            content = json.load(file)
        del content["qmp"]
        domains.make.definition(mount.source, "web1", **content)
        wait_state(mount, "shutoff")
        Monitor(mount.qmp).close()
        domains.make.definition(mount.source, "web1", **content, qmp=mount.qmp)
        wait_state(mount, "paused")
        guest.command("quit")
        wait_state(mount, "shutoff")


if __name__ == "__main__":
    checks.main(globals())
