# SPDX-License-Identifier: LGPL-2.1-or-later
"""Domains that run: their state as their QEMU tells it, starting them, and what is written to power."""

import contextlib
import errno
import json
import os
import signal
import socket
import subprocess
import time

import checks
import domains
from administer import command, command_refused
from checks import equal, need
from mounted import Mounted, new_room, run, wait_for

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
        with contextlib.suppress(BrokenPipeError):
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


def redefine(mount, **changes):
    """Puts another definition of web1 in the place of the one that is there, at once; None takes a key out."""
    path = os.path.join(mount.source, "web1.json")
    with open(path, encoding="utf-8") as file:
        content = {**json.load(file), **changes}
    with open(path + ".new", "w", encoding="utf-8") as file:
        json.dump({key: value for key, value in content.items() if value is not None}, file)
    os.rename(path + ".new", path)


def wait_state(mount, wanted, domain="web1"):
    wait_for(lambda: state(mount, domain) == wanted, f"{domain} to be {wanted}, it is {state(mount, domain)}")


def switches_off(mount, monitor, wanted):
    """Does what ACPI's S5 does, which works once the firmware has set it up; true when `state` has seen it."""
    with contextlib.suppress(OSError, ValueError):
        monitor.command("human-monitor-command", command_line="o /w 0x604 0x2000")
    return state(mount) == wanted


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
            wait_for(lambda: guest.command("query-status")["status"] == "postmigrate", "the end of the migration for QEMU, too")
            guest.command("cont")
            wait_state(mount, "running")
            guest.command("quit")
            guest.process.wait()
            wait_state(mount, "shutoff")

        def states():
            return [line for line in events(mount) if line.startswith("state: ")]

        wait_for(lambda: states()[-1] == "state: shutoff", "the event")
        assert not any("crashed" in line for line in states()), states()


def test_paused_from_the_start():
    """A QEMU that waits for its first instruction is paused, also for a mount that comes later"""
    need(QEMU)
    mount = Watched()
    with Guest(mount.qmp, "-S"), mount:
        wait_state(mount, "paused")


def test_a_guest_that_is_off():
    """A guest that switched itself off while its QEMU stays is shutting down"""
    need(QEMU)
    with Watched() as mount, Guest(mount.qmp, "-no-shutdown") as guest:
        wait_state(mount, "running")
        wait_for(lambda: switches_off(mount, guest, "shutting-down"), "the guest to be off")


def test_killed():
    """A QEMU that is killed leaves a crashed domain, at once; one that comes anew runs"""
    need(QEMU)
    with Watched() as mount:
        with Guest(mount.qmp, disk=mount.disk) as guest:
            wait_for(lambda: "state: running" in events(mount), "the connection")
            guest.kill()
            wait_state(mount, "crashed")
        wait_for(lambda: any(line.startswith("state: crashed") for line in events(mount)), lambda: f"the event: {events(mount)}")
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
        redefine(mount, qmp=None)
        wait_state(mount, "shutoff")
        Monitor(mount.qmp).close()
        redefine(mount, qmp=mount.qmp)
        wait_state(mount, "paused")
        guest.command("quit")
        wait_state(mount, "shutoff")


# ---- Started and stopped here ----


class Launched(Mounted):
    """Domain web1, whose definition has `launch`; whatever still runs at the end is killed."""

    def __init__(self, *, launch=BARE, more=("-device", "virtio-blk-pci,drive=vda"), definition=None, **options):
        super().__init__(**options)
        domains.web1(self.source, launch=[*launch, *more], **(definition or {}))
        self.disk = os.path.join(self.source, "web1.qcow2")

    def processes(self):
        """Process ids of the QEMUs that have something of this source open."""
        found = []
        for pid in filter(str.isdigit, os.listdir("/proc")):
            with contextlib.suppress(OSError), open(f"/proc/{pid}/cmdline", "rb") as file:
                words = file.read().split(b"\0")
                if words[0].endswith(QEMU.encode()) and any(self.source.encode() in word for word in words[1:]):
                    found.append(int(pid))
        return found

    def monitor(self):
        """The path of the second monitor of the one that runs."""
        (pid,) = self.processes()
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            (path,) = [word.split(b"path=")[1] for word in file.read().split(b"\0") if b"monitor-2" in word]
        return path.decode()

    def __exit__(self, *reason):
        try:
            if self.process and self.processes():
                power(self, "destroy")
            for pid in self.processes():
                os.kill(pid, signal.SIGKILL)
        finally:
            super().__exit__(*reason)


def power(mount, words):
    return command(mount, "web1", "power", words)


def refused(code, mount, words, *said):
    return command_refused(code, mount, "web1", "power", words, words=said)


def test_launched():
    """start, pause, resume, reset, shutdown and destroy of a domain that is launched; each refusal says why"""
    need(QEMU)
    with Launched() as mount:
        equal(state(mount), "shutoff")
        for words in ("shutdown", "destroy", "pause", "resume", "reset"):
            refused(errno.EINVAL, mount, words, "not running")
        refused(errno.EINVAL, mount, "begin", "shutdown")
        refused(errno.EINVAL, mount, "pause now", "too many")
        refused(errno.ENOENT, mount, "start clean", "no snapshot clean")
        equal(power(mount, "start"), "started\n")
        equal(state(mount), "running")
        equal(len(mount.processes()), 1)
        refused(errno.EBUSY, mount, "start", "running")
        refused(errno.EINVAL, mount, "resume", "running")
        power(mount, "pause")
        equal(state(mount), "paused")
        refused(errno.EINVAL, mount, "pause", "paused")
        refused(errno.EBUSY, mount, "start", "paused")
        power(mount, "resume")
        equal(state(mount), "running")
        power(mount, "reset")
        assert "guest" in power(mount, "shutdown")
        wait_for(lambda: any("asked to shut down" in line for line in events(mount)), "the event")
        equal(state(mount), "running")  # it has no system that would listen
        os.mkdir(mount.path("web1", "snapshots", "live"))
        power(mount, "destroy")
        equal(state(mount), "shutoff")
        equal(mount.processes(), [])
        os.mkdir(mount.path("web1", "snapshots", "one"))
        for line in ("state: running", "state: paused", "state: shutoff", "was reset", "started"):
            assert line in events(mount), (line, events(mount))
        assert "Last: " in mount.text("web1", "power")


def test_what_is_started():
    """The chain that is active is spelled out: overlays made here, their formats, a raw disk below"""
    need(QEMU)
    devices = ("-device", "virtio-blk-pci,drive=vda,id=d0", "-device", "virtio-blk-pci,drive=vdb")
    mount = Launched(more=devices)
    domains.web1(mount.source, formats=("qcow2", "raw"), launch=[*BARE, *devices])
    with mount:
        for name in ("one", "two"):
            command(mount, "web1", "create", f"{name} disk=vda:external disk=vdb:external")
        active = {target: mount.text("web1", "disks", target, "layers").splitlines() for target in ("vda", "vdb")}
        power(mount, "start")
        monitor = Monitor(mount.monitor())
        nodes = {node["node-name"]: node for node in monitor.command("query-named-block-nodes", flat=True)}
        for target, layers in active.items():
            equal(len(layers), 3)
            for depth, path in enumerate(layers):
                name = target if depth == 0 else f"{target}-{depth}"
                equal(nodes[name + "-file"]["file"], path)
                equal(nodes[name]["drv"], "raw" if path.endswith(".img") else "qcow2")
                equal(nodes[name]["ro"], depth > 0)
        said = monitor.command("human-monitor-command", command_line='qemu-io -d /machine/peripheral/d0/virtio-backend "write -P 77 0 64k"')
        equal(said, "")
        monitor.close()
        power(mount, "destroy")
        equal(domains.byte(mount), 77)
        equal(domains.frozen_byte(mount, "two"), 1)


def test_guests_outlive_the_daemon():
    """A daemon that is killed, or unmounted, leaves the guest running; the next one finds it, and ends it"""
    need(QEMU)
    with Launched() as mount:
        power(mount, "start")
        (pid,) = mount.processes()
        mount.kill()
        subprocess.run(["umount", "--lazy", mount.mountpoint], check=True)
        mount.mount()
        wait_for(lambda: "state: running" in events(mount), "the guest to be found")
        refused(errno.EBUSY, mount, "start", "running")
        power(mount, "pause")
        mount.remount()
        wait_state(mount, "paused")
        equal(mount.processes(), [pid])
        power(mount, "destroy")
        equal(mount.processes(), [])
        equal(state(mount), "shutoff")
        power(mount, "start")
        assert mount.processes() not in ([], [pid])


def test_ended_while_nobody_looked():
    """A guest that was killed while no daemon ran has crashed; its number, when it is another's, is left alone"""
    need(QEMU)
    with Launched() as mount:
        power(mount, "start")
        (pid,) = mount.processes()
        mount.kill()
        subprocess.run(["umount", "--lazy", mount.mountpoint], check=True)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        mount.expected.append("ended while nobody looked")
        mount.mount()
        equal(state(mount), "crashed")
        refused(errno.EINVAL, mount, "destroy", "not running")
        power(mount, "start")
        equal(state(mount), "running")


def test_domain_that_went():
    """A guest whose domain goes while it runs goes on; what it leaves is cleared away by a later mount"""
    need(QEMU)
    with Launched() as mount:
        power(mount, "start")
        room = os.path.dirname(mount.monitor())
        definition = os.path.join(mount.source, "web1.json")
        os.rename(definition, definition + ".away")
        wait_for(lambda: not os.path.exists(mount.path("web1", "domain.json")) or '"definition": null' in mount.text("web1", "domain.json"), "the domain to go")
        (pid,) = mount.processes()
        mount.kill()
        subprocess.run(["umount", "--lazy", mount.mountpoint], check=True)
        mount.mount()
        os.rename(definition + ".away", definition)
        wait_for(lambda: "state: running" in events(mount), "the guest to be found again")
        equal(mount.processes(), [pid])
        os.rename(definition, definition + ".away")
        wait_for(lambda: '"definition": null' in mount.text("web1", "domain.json"), "the domain to go")
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        assert os.path.exists(room)
        mount.remount()
        assert not os.path.exists(room)


def test_number_of_another_process():
    """What has the number of a guest that ended, and was started at another time, is not taken for it"""
    need(QEMU)
    with Launched() as mount:
        power(mount, "start")
        record = os.path.join(os.path.dirname(mount.monitor()), "record")
        (pid,) = mount.processes()
        mount.kill()
        subprocess.run(["umount", "--lazy", mount.mountpoint], check=True)
        with open(record, encoding="ascii") as file:
            text = file.read()
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        with subprocess.Popen(["sleep", "1000"]) as other:
            with open(record, "w", encoding="ascii") as file:
                file.write(text.replace(f"pid {pid}\n", f"pid {other.pid}\n"))
            mount.mount()
            equal(state(mount), "crashed")
            refused(errno.EINVAL, mount, "destroy", "not running")
            equal(other.poll(), None)
            other.kill()


def test_killed_guest_of_ours():
    """A guest that is killed has crashed at once, and why stands in power; it can be started again"""
    need(QEMU)
    with Launched(expected=[r"ended by signal 9"]) as mount:
        power(mount, "start")
        for _ in range(3):
            (pid,) = mount.processes()
            os.kill(pid, signal.SIGKILL)
            wait_state(mount, "crashed")
            assert "signal 9" in mount.text("web1", "power"), mount.text("web1", "power")
            wait_for(lambda: any("signal 9" in line for line in events(mount)), "the event")
            name = f"after-{pid}"
            os.mkdir(mount.path("web1", "snapshots", name))
            equal(mount.text("web1", "snapshots", name, "consistency"), "crash\n")
            power(mount, "start")
            equal(state(mount), "running")
            assert "signal 9" not in mount.text("web1", "power")


def test_guest_that_ends_itself():
    """A guest that switches itself off is shut off, and no crash"""
    need(QEMU)
    with Launched() as mount:
        power(mount, "start")
        monitor = Monitor(mount.monitor())
        wait_for(lambda: switches_off(mount, monitor, "shutoff"), "the guest to be off")
        monitor.close()
        assert "Problem" not in mount.text("web1", "power")


def test_launch_that_fails():
    """What QEMU says before it ends is the reason, with its errno, and the next start works"""
    need(QEMU)
    for launch, more, code, word in (
        ([*BARE], ("-device", "no-such-device,drive=vda"), (errno.EIO, errno.ENOENT, errno.EINVAL, errno.EOPNOTSUPP), "no-such-device"),
        (["/nonexistent/qemu"], (), errno.ENOENT, "/nonexistent/qemu"),
        (["false"], (), errno.EIO, "status 1"),
        (["sh", "-c", "printf 'one\ntwo\033[1m\n' >&2; exit 3"], (), errno.EIO, "two"),
        ([*BARE], ("-daemonize",), errno.EINVAL, "-daemonize"),
    ):
        with Launched(launch=launch, more=more) as mount:
            line = refused(code, mount, "start", word)
            assert "\033" not in line
            equal(state(mount), "shutoff")
            redefine(mount, launch=[*BARE, "-device", "virtio-blk-pci,drive=vda"])
            wait_for(lambda: "started" in try_start(mount), "the right definition")
            power(mount, "destroy")


def try_start(mount):
    try:
        return power(mount, "start")
    except OSError as error:
        return str(error)


def test_a_program_that_never_answers():
    """A start that waits for a program that is no QEMU is given up when it is interrupted, or its job is cancelled"""
    with Launched(launch=["sh", "-c", "exec sleep 1000"], more=()) as mount:
        writer = subprocess.Popen(["sh", "-c", f"echo start > '{mount.path('web1', 'power')}'"], stderr=subprocess.PIPE, text=True)
        wait_for(lambda: os.listdir(mount.path("web1", "jobs")), "the job")
        (job,) = os.listdir(mount.path("web1", "jobs"))
        assert "start" in mount.text("web1", "jobs", job, "what")
        time.sleep(0.3)  # so that mostly the program runs
        os.listdir(mount.path("web1"))
        with open(mount.path("web1", "jobs", job, "cancel"), "w", encoding="ascii") as file:
            file.write("1")
        writer.communicate()
        assert writer.returncode != 0
        assert "it was cancelled" in mount.text("web1", "last_error")
        equal(state(mount), "shutoff")


def test_a_guest_that_has_opened_nothing_yet():
    """A QEMU of ours that lives is never shown as shut off: not while it starts, nor right after another daemon has found it"""
    need(QEMU)
    mount = Launched(expected=[r"does not answer"])
    gate = os.path.join(mount.room, "gate")
    waits = f"while [ -d '{mount.room}' ] && ! [ -e '{gate}' ]; do sleep 0.1; done; exec \"$0\" \"$@\""
    redefine(mount, launch=["sh", "-c", waits, *BARE, "-device", "virtio-blk-pci,drive=vda"])
    with mount:
        writer = subprocess.Popen(["sh", "-c", f"echo start > '{mount.path('web1', 'power')}'"], stderr=subprocess.DEVNULL)
        wait_state(mount, "running")
        for _ in range(3):
            mount.kill()
            writer.wait()
            subprocess.run(["umount", "--lazy", mount.mountpoint], check=True)
            mount.mount()
            for _ in range(20):
                equal(state(mount), "running")
        refused(errno.EBUSY, mount, "start")
        with open(gate, "w", encoding="ascii"):
            pass
        wait_for(lambda: "state: running" in events(mount), "its answer")
        power(mount, "destroy")
        equal(state(mount), "shutoff")


def test_again_and_again():
    """A start right after an end, from one process without a pause, never finds the one before"""
    need(QEMU)
    with Launched() as mount:
        for _ in range(15):
            handle = os.open(mount.path("web1", "power"), os.O_WRONLY)
            os.write(handle, b"start\n")
            os.write(handle, b"destroy\n")
            os.close(handle)
        equal(state(mount), "shutoff")


def test_images_in_use():
    """A domain whose image somebody else has open is not started: EBUSY, and who that is"""
    need(QEMU)
    with Launched() as mount:
        with Guest(os.path.join(mount.room, "other"), "-S", disk=mount.disk):
            refused(errno.EBUSY, mount, "start", "qemu-system-x86_64 (process")
        power(mount, "start")


def test_start_and_snapshots_at_once():
    """Starting and taking snapshots of one domain at once: one after the other, and the domain is whole"""
    need(QEMU)
    with Launched() as mount:
        for turn in range(5):
            commands = [f"mkdir '{mount.path('web1', 'snapshots', f's{turn}')}'", f"echo start > '{mount.path('web1', 'power')}'"]
            processes = [subprocess.Popen(["sh", "-c", words], stderr=subprocess.DEVNULL) for words in commands]
            results = [process.wait() for process in processes]
            equal(results[1], 0)
            equal(state(mount), "running")
            power(mount, "destroy")
            equal(results[0] == 0, f"s{turn}" in mount.snapshots("web1"))
        run("qemu-img", "check", "-q", mount.disk)


def test_stopped_qemu():
    """A QEMU of ours that hangs: power waits for a while and says so, everything else goes on, destroy ends it"""
    need(QEMU)
    with Launched(expected=[r"does not answer"]) as mount:
        power(mount, "start")
        (pid,) = mount.processes()
        os.kill(pid, signal.SIGSTOP)
        refused(errno.ETIMEDOUT, mount, "pause", "was not answered")
        wait_for(lambda: any("does not answer" in line for line in events(mount)), "the event")
        equal(state(mount), "running")  # as its locks tell
        refused(errno.ETIMEDOUT, mount, "pause")
        refused(errno.EBUSY, mount, "start")
        power(mount, "destroy")
        equal(state(mount), "shutoff")
        equal(mount.processes(), [])


def test_who_may():
    """power is for the user who mounted and root, whatever the modes say; a definition that is not trusted starts nothing"""
    checks.need_root()
    need("setpriv", QEMU)
    with Launched(options="allow_other,control-mode=0666", expected=[r"not trusted"]) as mount:
        as_user = ["setpriv", "--reuid=12345", "--regid=12345", "--clear-groups", "sh", "-c"]
        result = subprocess.run([*as_user, f"echo start > '{mount.path('web1', 'power')}'"], capture_output=True, text=True)
        assert result.returncode != 0
        assert "who mounted" in mount.text("web1", "last_error") and "EPERM" in mount.text("web1", "last_error")
        os.chmod(os.path.join(mount.source, "web1.json"), 0o666)
        wait_for(lambda: "not trusted" in mount.text("web1", "domain.json"), "the distrust")
        refused(errno.EOPNOTSUPP, mount, "start", "trusted")
        equal(mount.processes(), [])


def test_qmp_beside_launch():
    """Where the definition names the monitor as well, a launched QEMU has one there; one that others start is attached to"""
    need(QEMU)
    room = new_room()
    with Launched(definition={"qmp": os.path.join(room, "qmp")}) as mount:
        power(mount, "start")
        monitor = Monitor(os.path.join(room, "qmp"))
        equal(monitor.command("query-status")["status"], "running")
        monitor.close()
        power(mount, "destroy")
        with Guest(os.path.join(room, "qmp"), "-S", disk=mount.disk):
            wait_state(mount, "paused")
            refused(errno.EBUSY, mount, "start", "paused")
            power(mount, "resume")
            equal(state(mount), "running")
            power(mount, "destroy")
            equal(state(mount), "shutoff")
        power(mount, "start")


if __name__ == "__main__":
    checks.main(globals())
