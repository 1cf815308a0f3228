# SPDX-License-Identifier: LGPL-2.1-or-later
"""P5: compressed qcow2 images, as qemu-img convert -c makes them, against qemu-storage-daemon.

The data is what disks hold (programs, libraries, texts, some zeros), since how fast a compressor is undone depends on
it; how far it was compressed stands in the report.
"""

import os

import images
from mounts import storage_daemon
from readers import same_as_image, sequential
from report import interleave

KINDS = ("zlib", "zstd")
KEYS = tuple(f"P5.{kind}" for kind in KINDS)


def measure(context):
    with context.workspace.folder("compressed") as folder:
        raw = os.path.join(folder, "data.raw")
        images.realistic_raw(raw, context.sizes.compressed)
        for kind in KINDS:
            if context.wants(f"P5.{kind}"):
                measure_kind(context, raw, kind)


def measure_kind(context, raw, kind):
    with context.workspace.folder(kind) as folder:
        image = os.path.join(folder, "base.qcow2")
        images.convert(raw, image, "-c", "-o", f"compression_type={kind}")
        images.overlay(os.path.join(folder, "disk.qcow2"), image)

        def run(export, *arguments):
            with export(*arguments) as path:
                return sequential(path)

        with context.vmsnapfs.export(folder, "disk") as path:
            same_as_image(image, path)
        context.report.ratio(f"P5.{kind}", *interleave(context.sizes.rounds, "B/s", {
            "ours": lambda: run(context.vmsnapfs.export, folder, "disk"),
            "qemu-storage-daemon": lambda: run(storage_daemon, context.workspace, image)},
            lambda: context.warm(image)))
        factor = os.path.getsize(raw) / os.path.getsize(image)
        context.report.inform(f"P5.{kind}", "size before / after compressing", factor, "")
