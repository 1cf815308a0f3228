# SPDX-License-Identifier: LGPL-2.1-or-later
"""P1, P2, P3, P9: one frozen disk full of data, read from begin to end and at random.

P1 compares a raw frozen layer, read through the mount, with the same file read directly. P2, P3 and P9 compare a
frozen qcow2 layer with the same file exported by qemu-storage-daemon and by nbdfuse over qemu-nbd. Every run of every
contender has a new mount, so nobody reads what an earlier run left in the cache of the mount; the image itself is in
the page cache for all. What the mount's own cache gives besides is told as information.
"""

import os

import images
from mounts import nbd_fuse, storage_daemon
from readers import random_direct, same_as_image, sequential
from report import interleave

KEYS = ("P1", "P2", "P3", "P9")


def measure(context):
    with context.workspace.folder("dense") as folder:
        raw = os.path.join(folder, "base.raw")
        images.dense_raw(raw, context.sizes.dense)
        if context.wants("P1"):
            measure_raw(context, folder, raw)
        if context.wants("P2", "P3", "P9"):
            with context.workspace.folder("dense-qcow2") as other:
                image = os.path.join(other, "base.qcow2")
                images.convert(raw, image)
                os.unlink(raw)
                measure_qcow2(context, other, image)


def measure_raw(context, folder, raw):
    """P1. With root and Linux 6.9 the kernel reads the file itself (FUSE passthrough)."""
    images.overlay(os.path.join(folder, "disk.qcow2"), raw, "raw")

    def mount(block="1M"):
        with context.vmsnapfs.export(folder, "disk") as path:
            return sequential(path, block)

    ours, file = interleave(context.sizes.rounds, "B/s", {"mount": mount, "the file itself": lambda: sequential(raw)},
                            lambda: context.warm(raw))
    context.report.ratio("P1", ours, file)
    context.report.inform("P1", "reads of 10 KiB, as tar: mount / file", mount("10K") / sequential(raw, "10K"), "")


def measure_qcow2(context, folder, image):
    images.overlay(os.path.join(folder, "disk.qcow2"), image)
    with context.vmsnapfs.export(folder, "disk") as path:
        same_as_image(image, path)
    if context.wants("P2", "P9"):
        measure_sequential(context, folder, image)
        inform_of_caches(context, folder)
    if context.wants("P3"):
        measure_random(context, folder, image)


def measure_sequential(context, folder, image):
    """P2 and P9, in one go."""

    def run(export, *arguments):
        with export(*arguments) as path:
            return sequential(path)

    peers = {"P2": ("qemu-storage-daemon", lambda: run(storage_daemon, context.workspace, image)),
             "P9": ("nbdfuse over qemu-nbd", lambda: run(nbd_fuse, context.workspace, image))}
    wanted = {key: peer for key, peer in peers.items() if context.wants(key)}
    ours, *others = interleave(context.sizes.rounds, "B/s", {
        "ours": lambda: run(context.vmsnapfs.export, folder, "disk"), **dict(wanted.values())},
        lambda: context.warm(image))
    for key, peer in zip(wanted, others):
        context.report.ratio(key, ours, peer)


def inform_of_caches(context, folder):
    """Reads again and again through one mount: with what the kernel kept of the mount, and without it."""
    with context.vmsnapfs.export(folder, "disk") as path:
        context.report.inform("P2", "ours, first read of a mount", sequential(path), "B/s")
        context.report.inform("P2", "ours, again, from the mount's cache", sequential(path), "B/s")
        forget_mount(path)
        context.report.inform("P2", "ours, again, that cache dropped", sequential(path), "B/s")
        forget_mount(path)
        context.report.inform("P2", "ours, reads of 10 KiB, as tar", sequential(path, "10K"), "B/s")


def forget_mount(path):
    """Drops what the kernel has cached of a file in a mount; the image below stays cached."""
    file = os.open(path, os.O_RDONLY)
    os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(file)


def measure_random(context, folder, image):
    """P3. O_DIRECT passes by the mount's cache, so this is the daemon alone, for both."""

    def run(export, *arguments):
        with export(*arguments) as path:
            return random_direct(path, context.sizes.random_seconds)

    ours, daemon = interleave(context.sizes.rounds, "/s", {
        "ours": lambda: run(context.vmsnapfs.export, folder, "disk"),
        "qemu-storage-daemon": lambda: run(storage_daemon, context.workspace, image)}, lambda: context.warm(image))
    context.report.ratio("P3", ours, daemon)
