# SPDX-License-Identifier: LGPL-2.1-or-later
"""P16, P17 and P19: what a guest that writes notices of its snapshots being taken, and of their being read.

The same guest on the same devices, once started by power and once by virsh, both with TCG. P16: the longest time between
two of its completed writes around a disk-only external snapshot of two disks. P17: the same, and the time of the whole
command, with memory: live in a file with external disks, and inside the images. P19: how much it writes while a frozen
disk is read at full speed, against qemu-img reading that snapshot's bytes.
"""

import contextlib
import itertools
import json
import os
import subprocess

import images
import writing_guest
from administration import snapshot_path
from libvirt import libvirt
from machine import GIB, MIB
from report import Series
from running import power
from session import BenchError, command, end_child

KEYS = ("P16", "P17.live.time", "P17.live.pause", "P17.inside.time", "P17.inside.pause", "P19")
DISK = 64 * MIB
MEMORY = 64  # MiB
READING_SECONDS = 6

WAYS = {
    "P16": ("disk-only disk=vda:external disk=vdb:external", ("--disk-only", "--atomic")),
    "P17.live": ("memory=external live disk=vda:external disk=vdb:external", None),
    "P17.inside": ("memory=internal", ()),
}


def make_disks(context, folder, name, size=DISK):
    paths = [os.path.join(folder, f"{name}-{number}.qcow2") for number in range(2)]
    for path in paths:
        images.create(path, size)
    writing_guest.install(paths[0], context.workspace)
    return paths


def define(folder, paths):
    targets = ("vda", "vdb")
    launch = ["qemu-system-x86_64", "-accel", "tcg", "-nodefaults", "-no-user-config", "-display", "none", "-M", "pc", "-m", str(MEMORY)]
    launch += ["-chardev", f"socket,id=line,server=on,wait=off,path={folder}/serial", "-serial", "chardev:line"]
    for number, target in enumerate(targets):
        launch += ["-device", f"virtio-blk-pci,drive={target},bootindex={number + 1}"]
    disks = [{"target": target, "source": os.path.basename(path), "format": "qcow2"} for target, path in zip(targets, paths)]
    with open(os.path.join(folder, "ours.json"), "w", encoding="utf-8") as file:
        json.dump({"name": "ours", "disks": disks, "launch": launch}, file)


@contextlib.contextmanager
def ours(context, size=DISK, before=lambda mount: None):
    """(mount, what the guest writes) of a domain that power has started."""
    with context.workspace.folder("writers") as folder:
        define(folder, make_disks(context, folder, "ours", size))
        with context.vmsnapfs.mounted(folder) as mount:
            before(mount)
            power(mount, "start")
            try:
                with writing_guest.writes(f"{folder}/serial") as writes:
                    yield mount, writes
            finally:
                power(mount, "destroy")


@contextlib.contextmanager
def theirs(context):
    with libvirt(context) as peer:
        paths = make_disks(context, peer.folder, "theirs")
        for path in paths:
            command("chmod", "a+rw", path)
        peer.start("theirs", paths, MEMORY, serial=f"{peer.folder}/serial")
        with writing_guest.writes(f"{peer.folder}/serial") as writes:
            yield peer, writes


def create(mount, words):
    with open(os.path.join(mount.point, "ours", "create"), "w", encoding="utf-8") as file:
        file.write(words)


def measure_way(context, key, numbers):
    """Interleaved pairs of (time, pause), in rounds."""
    words, options = WAYS[key]
    found = {"ours": [], "virsh": []}
    with ours(context) as (mount, our_writes), theirs(context) as (peer, their_writes):

        def take():
            create(mount, f"s{next(numbers)} {words}")

        def virsh():
            name = f"s{next(numbers)}"
            chosen = options if options is not None else ("--live", "--memspec", f"file={peer.folder}/{name}.mem,snapshot=external",
                                                          "--diskspec", "vda,snapshot=external", "--diskspec", "vdb,snapshot=external")
            peer.timed("snapshot-create-as", "theirs", name, *chosen)

        # A guest that is not looked at stands still, and takes no cpu from the other.
        for number in range(2 * context.sizes.rounds + 1):
            peer.virsh("suspend", "theirs")
            our_result = our_writes.around(take)
            peer.virsh("resume", "theirs")
            power(mount, "pause")
            their_result = their_writes.around(virsh)
            power(mount, "resume")
            if number:
                found["ours"].append(our_result)
                found["virsh"].append(their_result)
    return found


def report_way(context, key, found):
    times, pauses = ([Series(name, "s", [result[at] for result in found[name]]) for name in ("ours", "virsh")] for at in range(2))
    if key == "P16":
        context.report.ratio("P16", *pauses)
    else:
        context.report.ratio(f"{key}.time", *times)
        context.report.ratio(f"{key}.pause", *pauses)


@contextlib.contextmanager
def reading(words):
    """A reader that begins anew as often as it comes to its end."""
    script = 'while "$@" >/dev/null 2>&1; do :; done'
    child = subprocess.Popen(["sh", "-c", script, "reader", *words], stdin=subprocess.DEVNULL, start_new_session=True)
    try:
        yield
        if child.poll() is not None:
            raise BenchError(f"{' '.join(words)} fails")
    finally:
        os.killpg(child.pid, 15)
        end_child(child)


def measure_reading(context):
    """The second disk has a dense first half; the guest writes to its first 30 MiB."""
    size = min(context.sizes.dense, GIB)
    found = {"mount": [], "qemu-img convert -U": []}
    with context.workspace.folder("readers") as folder:
        paths = make_disks(context, folder, "ours", size)
        os.unlink(paths[1])
        images.dense_raw(os.path.join(folder, "dense.raw"), size)
        images.convert(os.path.join(folder, "dense.raw"), paths[1], "-O", "qcow2")
        os.unlink(os.path.join(folder, "dense.raw"))
        define(folder, paths)
        with context.vmsnapfs.mounted(folder) as mount:
            power(mount, "start")
            try:
                with writing_guest.writes(f"{folder}/serial") as writes:
                    create(mount, "s disk-only disk=vda:external disk=vdb:external")
                    context.warm(paths[1])
                    frozen = os.path.join(snapshot_path(mount, "ours", "s"), "disks", "vdb.raw")
                    readers = {
                        "mount": ["dd", f"if={frozen}", "of=/dev/null", "bs=1M", "iflag=nocache"],
                        "qemu-img convert -U": ["qemu-img", "convert", "-n", "-U", "-f", "qcow2", paths[1], "--target-image-opts", f"driver=null-co,size={size}"],
                    }
                    alone = writes.rate(READING_SECONDS if context.sizes.rounds > 2 else 2)
                    for number in range(context.sizes.rounds):
                        order = list(readers) if number % 2 else list(reversed(readers))
                        for name in order:
                            with reading(readers[name]):
                                found[name].append(writes.rate(READING_SECONDS if context.sizes.rounds > 2 else 2))
            finally:
                power(mount, "destroy")
    context.report.ratio("P19", *(Series(name, "/s", values) for name, values in found.items()))
    context.report.inform("P19", "writes with nobody reading", alone, "/s")


def measure(context):
    numbers = itertools.count()
    for key in WAYS:
        wanted = [known for known in KEYS if known == key or known.startswith(key + ".")]
        if context.wants(*wanted):
            report_way(context, key, measure_way(context, key, numbers))
    if context.wants("P19"):
        measure_reading(context)
