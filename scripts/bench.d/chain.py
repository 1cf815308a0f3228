# SPDX-License-Identifier: LGPL-2.1-or-later
"""P4: a disk whose data lies in 64 overlays, against the same data in one image, and against qemu-storage-daemon.

The disk is cut into pieces of 1 to 16 clusters, dealt out to the overlays at random, as a guest that writes files
between daily snapshots leaves it. What it costs if every single cluster lies elsewhere is told as information.
"""

import os

import images
from mounts import storage_daemon
from readers import same_as_image, sequential
from report import interleave

KEYS = ("P4.depth", "P4.peer")
LONGEST = 16  # clusters of 64 KiB


def measure(context):
    def report(ours, flat, daemon):
        context.report.ratio("P4.depth", ours, flat)
        context.report.ratio("P4.peer", ours, daemon)

    def inform(ours, flat, daemon):
        context.report.inform("P4", "every cluster in another layer: through the chain / through one",
                              ours.median / flat.median, "")
        context.report.inform("P4", "every cluster in another layer: ours / qemu-storage-daemon",
                              ours.median / daemon.median, "")

    measure_chain(context, LONGEST, context.sizes.rounds, report)
    measure_chain(context, 1, 1, inform)


def measure_chain(context, longest, rounds, tell):
    """Makes a chain with pieces of up to `longest` clusters and reads it in the three ways."""
    with context.workspace.folder("chain") as deep, context.workspace.folder("flat") as flat:
        top, domain = images.chain(deep, context.sizes.chain, context.sizes.chain_depth, longest)
        single = os.path.join(flat, "base.qcow2")
        images.convert(top, single)
        images.overlay(os.path.join(flat, "disk.qcow2"), single)
        snapshot = f"*{os.path.basename(top).removesuffix('.qcow2')}*"
        files = [*images.paths(deep), single]
        with context.vmsnapfs.export(deep, domain, snapshot) as path:
            same_as_image(top, path)

        def run(export, *arguments):
            with export(*arguments) as path:
                return sequential(path)

        tell(*interleave(rounds, "B/s", {
            f"ours, {context.sizes.chain_depth} overlays": lambda: run(context.vmsnapfs.export, deep, domain, snapshot),
            "ours, one image": lambda: run(context.vmsnapfs.export, flat, "disk"),
            "qemu-storage-daemon": lambda: run(storage_daemon, context.workspace, top)},
            lambda: context.warm(*files)))
