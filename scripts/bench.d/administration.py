# SPDX-License-Identifier: LGPL-2.1-or-later
"""P10 to P15: taking and deleting snapshots of domains that are not running.

Each figure is the time of one command until the prompt is back, mkdir or rmdir as a process, against qemu-img doing
the same by itself to images that are copies of ours. What a command made is taken away again before the next one,
untimed, so that no run finds longer tables than another. A mount is used for many commands, as in life; the first
round, in which it may start helpers, is not counted.

P15 is a process that reads 4 KiB at random places of a frozen disk of the same domain with O_DIRECT, so that each read
comes to us: how long the slowest of a thousand takes while nothing else goes on, and while snapshots are taken and
deleted without pause.
"""

import contextlib
import json
import os
import subprocess
import sys
import time

import images
from machine import MIB
from readers import timed
from report import Series, interleave
from session import BenchError, command

KEYS = ("P10", "P11", "P12", "P13", "P14", "P15")
DISK = 256 * MIB  # data of a disk of P10 to P12
DISKS = 4
SHORT = 10  # times as many rounds of commands that take some milliseconds
PATIENCE = 600  # seconds for the work in the background
QUIET = 0.3  # seconds without any job
READER = os.path.join(os.path.dirname(os.path.abspath(__file__)), "latency.py")


def measure(context):
    if context.wants("P10", "P11", "P12"):
        measure_taking(context)
    if context.wants("P13"):
        measure_deleting(context)
    if context.wants("P14"):
        measure_many(context)
    if context.wants("P15"):
        measure_reader(context)


def make_domain(folder, name, disks, data=DISK):
    """A domain with so many qcow2 disks, full of what can't be compressed, and a definition. Returns the images."""
    first = os.path.join(folder, f"{name}-0.qcow2")
    images.create(first, max(4 * data, MIB))
    if data:
        images.write_pieces(first, [(offset, MIB, 1 + offset // MIB % 255) for offset in range(0, data, MIB)])
    paths = [first]
    for number in range(1, disks):
        paths.append(os.path.join(folder, f"{name}-{number}.qcow2"))
        command("cp", "--sparse=always", first, paths[-1])
    described = [{"target": f"vd{'abcdefgh'[number]}", "source": os.path.basename(path), "format": "qcow2"} for number, path in enumerate(paths)]
    with open(os.path.join(folder, f"{name}.json"), "w", encoding="utf-8") as file:
        json.dump({"name": name, "disks": described, "follows": True}, file)
    return paths


def set_defaults(mount, domain, kind, disks):
    """From now on mkdir takes snapshots of that kind."""
    with open(os.path.join(mount.point, domain, "defaults"), "w", encoding="ascii") as file:
        file.write("disk-only\n" + "".join(f"disk=vd{'abcdefgh'[number]}:{kind}\n" for number in range(disks)))


def snapshot_path(mount, domain, name):
    return os.path.join(mount.point, domain, "snapshots", name)


def wait_idle(mount, domain):
    """Until nothing is done in the background for the domain; between two steps of it there may be no job for a moment."""
    deadline = time.monotonic() + PATIENCE
    quiet_since = time.monotonic()
    while time.monotonic() < quiet_since + QUIET:
        if any(is_unfinished(mount, domain, number) for number in os.listdir(os.path.join(mount.point, domain, "jobs"))):
            quiet_since = time.monotonic()
        if time.monotonic() > deadline:
            raise BenchError(f"the jobs of {domain} did not end")
        time.sleep(0.005)


def is_unfinished(mount, domain, number):
    with contextlib.suppress(OSError):
        with open(os.path.join(mount.point, domain, "jobs", number, "status"), encoding="utf-8") as file:
            return not file.read().startswith(("done", "failed"))
    return False


def taker(mount, domain):
    """A function that times one mkdir, and takes the snapshot away again."""

    def take():
        path = snapshot_path(mount, domain, "measured")
        seconds = timed("mkdir", path)
        os.rmdir(path)
        wait_idle(mount, domain)
        return seconds

    return take


def inside_by_qemu_img(paths):
    """A function that times qemu-img snapshot -c on each, one after the other."""

    def take():
        seconds = sum(timed("qemu-img", "snapshot", "-c", "measured", path) for path in paths)
        for path in paths:
            command("qemu-img", "snapshot", "-d", "measured", path)
        return seconds

    return take


def overlays_by_qemu_img(paths):
    """A function that times qemu-img create -b on each, one after the other."""

    def take():
        seconds = sum(timed("qemu-img", "create", "-q", "-f", "qcow2", "-b", path, "-F", "qcow2", path + ".new") for path in paths)
        for path in paths:
            os.unlink(path + ".new")
        return seconds

    return take


def measure_taking(context):
    with context.workspace.folder("taken") as ours, context.workspace.folder("by-qemu-img") as theirs:
        one = make_domain(ours, "one", 1)
        make_domain(ours, "four", DISKS)
        copies = make_domain(theirs, "copy", DISKS)
        with context.vmsnapfs.mounted(ours) as mount:
            for key, domain, kind, peer, count in (
                ("P10", "one", "internal", inside_by_qemu_img(copies[:1]), 1),
                ("P11", "four", "internal", inside_by_qemu_img(copies), DISKS),
                ("P12", "four", "external", overlays_by_qemu_img(copies), DISKS),
            ):
                if not context.wants(key):
                    continue
                set_defaults(mount, domain, kind, count)
                context.report.ratio(key, *interleave(SHORT * context.sizes.rounds, "s", {"mkdir": taker(mount, domain), "qemu-img": peer}, lambda: context.warm(*one)))


def measure_deleting(context):
    """P13: the layer that is merged is written anew for each run, since merging uses it up."""

    def ours():
        with context.workspace.folder("chain") as folder:
            make_domain(folder, "chain", 1, data=0)
            grow(os.path.join(folder, "chain-0.qcow2"), context.sizes.chain_layer)
            with context.vmsnapfs.mounted(folder) as mount:
                set_defaults(mount, "chain", "external", 1)
                os.mkdir(snapshot_path(mount, "chain", "lowest"))
                with open(os.path.join(mount.point, "chain", "disks", "vda", "source"), encoding="utf-8") as file:
                    write_layer(file.read().rstrip("\n"), context.sizes.chain_layer)
                os.mkdir(snapshot_path(mount, "chain", "next"))
                seconds = timed("rmdir", snapshot_path(mount, "chain", "lowest"))
                wait_idle(mount, "chain")
                return seconds

    def theirs():
        with context.workspace.folder("commit") as folder:
            base, layer = os.path.join(folder, "base.qcow2"), os.path.join(folder, "layer.qcow2")
            images.create(base, context.sizes.chain_layer)
            images.overlay(layer, base)
            write_layer(layer, context.sizes.chain_layer)
            return timed("qemu-img", "commit", "-q", "-f", "qcow2", layer)

    rounds = min(3, context.sizes.rounds)
    context.report.ratio("P13", *interleave(rounds, "s", {"rmdir": ours, "qemu-img commit": theirs}))


def grow(path, size):
    command("qemu-img", "resize", "-q", "-f", "qcow2", path, str(size))


def write_layer(path, size):
    images.write_pieces(path, [(offset, MIB, 1 + offset // MIB % 255) for offset in range(0, size, MIB)])


def measure_many(context):
    sizes = context.sizes
    with context.workspace.folder("many") as many, context.workspace.folder("few") as few:
        images.many_domains(many, sizes.domains, sizes.snapshots)
        images.many_domains(few, 1, 10)
        for folder in (many, few):
            make_domain(folder, "probe", 1, data=MIB)
        with context.vmsnapfs.mounted(many) as mount_many, context.vmsnapfs.mounted(few) as mount_few:
            contenders = {}
            for name, mount in ((f"{sizes.domains * sizes.snapshots} snapshots", mount_many), ("10 snapshots", mount_few)):
                set_defaults(mount, "probe", "external", 1)
                contenders[name] = taker(mount, "probe")
            context.report.ratio("P14", *interleave(SHORT * sizes.rounds, "s", contenders))


def measure_reader(context):
    with context.workspace.folder("read") as folder:
        make_domain(folder, "one", 1)
        with context.vmsnapfs.mounted(folder) as mount:
            set_defaults(mount, "one", "external", 1)
            os.mkdir(snapshot_path(mount, "one", "kept"))
            disk = os.path.join(snapshot_path(mount, "one", "kept"), "disks", "vda.raw")
            calm, busy = [], []
            operations = 0
            for _ in range(min(3, context.sizes.rounds)):
                calm.append(read_beside(disk, context.sizes.reading_seconds, lambda: time.sleep(0.05)))
                before = operations

                def administer():
                    nonlocal operations
                    operations += administer_once(mount, "one", operations)

                busy.append(read_beside(disk, context.sizes.reading_seconds, administer))
                if operations == before:
                    raise BenchError("no operation ended while the reader ran")
            context.report.inform("P15", "commands beside the reader", operations, "")
            context.report.ratio("P15", Series("beside administration", "s", busy), Series("alone", "s", calm))


def administer_once(mount, domain, number):
    """An external snapshot, an internal one, going back, and both deleted; returns how many commands that was."""
    kinds = ("external", "internal")
    for kind in kinds:
        with open(os.path.join(mount.point, domain, "create"), "w", encoding="ascii") as file:
            file.write(f"{kind}-{number} disk=vda:{kind}\n")
    with open(os.path.join(snapshot_path(mount, domain, f"external-{number}"), "revert"), "w", encoding="ascii") as file:
        file.write("1\n")
    for kind in kinds:
        os.rmdir(snapshot_path(mount, domain, f"{kind}-{number}"))
    return 5


def read_beside(disk, seconds, work):
    """The 99.9th percentile of the reader's times, in seconds, with `work` called again and again beside it."""
    with subprocess.Popen([sys.executable, READER, disk, str(seconds)], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True) as reader:
        while reader.poll() is None:
            work()
        said = reader.stdout.read()
    if reader.returncode:
        raise BenchError(f"the reader of {disk} failed")
    return float(said)
