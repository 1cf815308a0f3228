# SPDX-License-Identifier: LGPL-2.1-or-later
"""P18: taking snapshots of domains that run.

Two disks, disk-only, external, all at once: mkdir as a process, until the prompt is back, against virsh as a process,
each on a domain of its own with the same devices. Neither has a guest in it but the firmware: what a guest does then is
another matter. Each snapshot makes both chains longer by one layer.
"""

import itertools
import json
import os

import images
from administration import set_defaults, snapshot_path
from libvirt import libvirt
from machine import MIB
from readers import timed
from report import interleave
from session import command

KEYS = ("P18",)
DISKS = 2
DISK = 64 * MIB
MEMORY = 64  # MiB
TIMES = 4    # as many rounds of commands that take some milliseconds


def make_disks(folder, name):
    paths = [os.path.join(folder, f"{name}-{number}.qcow2") for number in range(DISKS)]
    for path in paths:
        images.create(path, DISK)
    return paths


def define(folder, paths):
    targets = [f"vd{'ab'[number]}" for number in range(DISKS)]
    launch = ["qemu-system-x86_64", "-accel", "tcg", "-nodefaults", "-no-user-config", "-display", "none", "-M", "pc", "-m", str(MEMORY)]
    for target in targets:
        launch += ["-device", f"virtio-blk-pci,drive={target}"]
    disks = [{"target": target, "source": os.path.basename(path), "format": "qcow2"} for target, path in zip(targets, paths)]
    with open(os.path.join(folder, "ours.json"), "w", encoding="utf-8") as file:
        json.dump({"name": "ours", "disks": disks, "launch": launch}, file)


def power(mount, word):
    with open(os.path.join(mount.point, "ours", "power"), "w", encoding="ascii") as file:
        file.write(word)


def measure(context):
    with context.workspace.folder("running") as folder, libvirt(context) as peer:
        define(folder, make_disks(folder, "ours"))
        theirs = make_disks(peer.folder, "theirs")
        for path in theirs:
            command("chmod", "a+rw", path)
        peer.start("theirs", theirs, MEMORY)
        numbers = itertools.count()
        with context.vmsnapfs.mounted(folder) as mount:
            set_defaults(mount, "ours", "external", DISKS)
            power(mount, "start")
            try:
                contenders = {
                    "mkdir": lambda: timed("mkdir", snapshot_path(mount, "ours", f"s{next(numbers)}")),
                    "virsh": lambda: peer.timed("snapshot-create-as", "theirs", f"s{next(numbers)}", "--disk-only", "--atomic"),
                }
                context.report.ratio("P18", *interleave(TIMES * context.sizes.rounds, "s", contenders))
            finally:
                power(mount, "destroy")
