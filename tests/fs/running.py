# SPDX-License-Identifier: LGPL-2.1-or-later
"""A domain that runs in a QEMU without an operating system, what its guest writes, and what must be on its disks."""

import contextlib
import json
import os
import select
import signal
import subprocess
import time

import administer
import domains
from administer import command_refused
from checks import equal
from mounted import run, wait_for
from test_power import BARE, Launched, Monitor, events, power, wait_state

PAGE = 64 * 1024
ALL = "disk=vda:{0} disk=vdb:{0}"


class Running(Launched):
    """Domain web1 with a disk for each format; `wanted` has the bytes that each must hold."""

    def __init__(self, formats=("qcow2", "qcow2"), *, launch=BARE, more=(), presets=None, agent=None, iothreads=False, **options):
        self.targets = ["vd" + "abcdef"[i] for i in range(len(formats))]
        devices = []
        for target in self.targets:
            if iothreads:
                devices += ["-object", f"iothread,id=t-{target}"]
            thread = f",iothread=t-{target}" if iothreads else ""
            devices += ["-device", f"virtio-blk-pci,drive={target},id=d-{target}{thread}"]
        definition = {"formats": formats, "presets": presets}
        super().__init__(launch=launch, more=[*devices, *more], definition=definition, **options)
        if agent:
            path = os.path.join(self.source, "web1.json")
            with open(path, encoding="utf-8") as file:
                content = json.load(file)
            content["agent"] = os.path.join(self.room, agent)
            with open(path, "w", encoding="utf-8") as file:
                json.dump(content, file)
        self.elsewhere = self._directory("elsewhere")
        self.options = f"allow={self.elsewhere}"
        self.wanted = {}
        self.frozen_bytes = {}

    def start(self):
        power(self, "start")
        wait_state(self, "running")
        if not self.wanted:
            self.wanted = {target: bytearray(administer_bytes(self, target)) for target in self.targets}

    def mount_again(self, **environment):
        """After the daemon was killed, or ended itself."""
        subprocess.run(["umount", "--lazy", self.mountpoint], check=False)
        self.environment = environment
        self.mount()

    @contextlib.contextmanager
    def own(self):
        """The second monitor."""
        monitor = Monitor(self.monitor())
        try:
            yield monitor
        finally:
            monitor.close()

    def human(self, line):
        with self.own() as monitor:
            return monitor.command("human-monitor-command", command_line=line)

    def io(self, target, command):
        equal(self.human(f'qemu-io -d /machine/peripheral/d-{target}/virtio-backend "{command}"'), "", command)

    def guest_writes(self, value, targets=None, at=0):
        for target in targets or self.targets:
            self.io(target, f"write -P {value} {at} {PAGE}")
            if self.wanted:
                self.wanted[target][at : at + PAGE] = bytes([value]) * PAGE

    def guest_reads(self):
        """The guest finds what it wrote, through the chain that its QEMU has open; what differs is told in the log of that."""
        for target in self.targets:
            for at in range(0, 8 * PAGE, PAGE):
                (value,) = set(self.wanted[target][at : at + 4096])
                self.io(target, f"read -q -P {value} {at} 4k")
        with open(os.path.join(os.path.dirname(self.monitor()), "log"), encoding="utf-8", errors="replace") as file:
            assert "verification failed" not in file.read(), "the guest reads other bytes than it wrote"

    def users_overlay(self, name, base, image_format="qcow2"):
        """An overlay outside of the source, where it is not taken for what another program has switched to."""
        path, base = os.path.join(self.elsewhere, name), os.path.join(self.source, base)
        run("qemu-img", "create", "-q", "-f", "qcow2", "-u", "-b", base, "-F", image_format, path, str(domains.SIZE))
        return path

    def flush(self):
        for target in self.targets:
            self.io(target, "flush")

    def take(self, words, disks=None):
        """A snapshot that must succeed; remembers what its disks are to hold."""
        domains.create(self, words)
        self.remember(words.split()[0], disks)

    def remember(self, name, disks=None):
        self.frozen_bytes[name] = {target: bytes(self.wanted[target]) for target in disks or self.targets}

    def opened(self):
        """The file that each disk of the QEMU stands on, as that tells."""
        with self.own() as monitor:
            blocks = {block["qdev"]: block["inserted"] for block in monitor.command("query-block")}
            found = {target: blocks[f"/machine/peripheral/d-{target}/virtio-backend"] for target in self.targets}
            return {target: bottom_name(one["file"]) or file_below(monitor, one["node-name"]) for target, one in found.items()}

    def is_opened_as_told(self, told):
        told[:] = [self.opened(), {target: administer.source(self, "web1", target)[0] for target in self.targets}]
        return told[0] == told[1]

    def check(self, is_running=True):
        """What is active, frozen, and in the images is right."""
        for name, disks in self.frozen_bytes.items():
            for target, content in disks.items():
                same(administer.frozen_bytes(self, "web1", name, target), content, f"{name}/{target}")
        equal(sorted(self.snapshots("web1")), sorted(self.frozen_bytes))
        if is_running:
            # A disk may be moving to the layer below.
            told = []
            wait_for(lambda: self.is_opened_as_told(told), lambda: f"QEMU to have open what is told: {told}")
            self.flush()
        for target in self.targets:
            same(administer_bytes(self, target), self.wanted[target], f"present of {target}")
        if not is_running:
            for path in administer.images(self.source):
                administer.check_image(path, leaks_allowed=True)

    def rest(self):
        """Until nothing is done in the background, but for what waits. HMP's qemu-io keeps all of QEMU waiting, and must not
        meet a disk that is about to go on in another layer, whose requests wait for what QEMU is told next."""
        looks = 0
        while looks < 5:
            time.sleep(0.03)
            is_busy = any(not status.startswith("waiting") for status in administer.jobs(self, "web1").values())
            looks = 0 if is_busy else looks + 1

    def off(self):
        power(self, "destroy")

    def kill_guest(self):
        (pid,) = self.processes()
        os.kill(pid, signal.SIGKILL)
        wait_for(lambda: is_ended(pid), "the end of a killed QEMU")
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, os.WNOHANG)


def is_ended(pid):
    """With all its threads, one of which may have to wait for storage when the first is a zombie already."""
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([handle], [], [], 0)[0])
    finally:
        os.close(handle)


def is_held_open(mount):
    """Files without a name that some QEMU of this source has open: their space is not free."""
    found = []
    for pid in mount.processes():
        for entry in os.listdir(f"/proc/{pid}/fd"):
            with contextlib.suppress(FileNotFoundError):
                target = os.readlink(f"/proc/{pid}/fd/{entry}")
                if target.startswith(mount.source) and target.endswith("(deleted)"):
                    found.append(target)
    return found


def bottom_name(name):
    """QEMU gives a chain that names its nodes as json:…; None: that is cut off, as it is long."""
    if not name.startswith("json:"):
        return name
    if name.endswith("..."):
        return None
    options = json.loads(name[5:])
    while "filename" not in options:
        options = options["file"]
    return options["filename"]


def file_below(monitor, name):
    """Of the node of a format."""
    graph = monitor.command("x-debug-query-block-graph")
    numbers = {node["name"]: node["id"] for node in graph["nodes"]}
    (below,) = (edge["child"] for edge in graph["edges"] if edge["parent"] == numbers[name] and edge["name"] == "file")
    files = {node["node-name"]: node["file"] for node in monitor.command("query-named-block-nodes", flat=True)}
    return next(files[name] for name, number in numbers.items() if number == below)


def administer_bytes(mount, target):
    """What is on the disk that `source` names, though a QEMU may have it open; one that merges lets nobody read."""
    raw = os.path.join(mount.room, "present.raw")

    def words(_):
        path, image_format = administer.source(mount, "web1", target)
        return ["qemu-img", "convert", "-U", "-f", image_format, "-O", "raw", path, raw]

    result = administer.run_unlocked([f"reading {target}"], words)
    assert result.returncode == 0, result.stderr
    with open(raw, "rb") as file:
        return file.read()


def same(found, wanted, what):
    if found != wanted:
        at = next((i for i in range(min(len(found), len(wanted))) if found[i] != wanted[i]), -1)
        raise AssertionError(f"{what}: other bytes from {at} on: {found[at : at + 1]!r} where {bytes(wanted[at : at + 1])!r} is right")


class Unchanged:
    """What is refused changes nothing: tree, active files, files and tags; the QEMU stays on its files and runs on."""

    def __init__(self, mount):
        self.mount = mount

    def picture(self):
        mount = self.mount
        return (
            domains.parents(mount),
            domains.current(mount),
            is_paused(mount),
            mount.opened(),
            {target: administer.layers(mount, "web1", target) for target in mount.targets},
            administer.names_beside(mount),
            {path: administer.tags(path) for path in administer.images(mount.source)},
        )

    def __enter__(self):
        self.before = self.picture()

    def __exit__(self, kind, *_):
        if not kind:
            for found, wanted in zip(self.picture(), self.before):
                equal(found, wanted, "what was refused has changed something")


def is_paused(mount):
    """As its QEMU says at this moment. (QEMU 10 calls one whose memory was saved so until it runs again.)"""
    with mount.own() as monitor:
        return monitor.command("query-status")["status"] in ("paused", "postmigrate")


def refused(code, mount, words, *said):
    with Unchanged(mount):
        command_refused(code, mount, "web1", "create", words, words=said)


def attempt_any(function, *arguments):
    with contextlib.suppress(OSError):
        function(*arguments)
        return True
    return False


def wait_connected(mount):
    """Until its QEMU is found; before, images' locks alone say that it runs."""
    wait_for(lambda: "state: running" in events(mount), "the connection")
