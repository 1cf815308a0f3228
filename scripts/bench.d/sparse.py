# SPDX-License-Identifier: LGPL-2.1-or-later
"""P6: cp and tar of a huge, nearly empty disk, against a small full one that holds as much.

Both are frozen qcow2 layers in our mount, with the same amount of data: in 1,024 pieces of 1 MiB all over 1 TiB, and
in one piece. A reader that is told where the holes are needs about as long for both; one that has to look at the
zeros needs minutes. cp writes to memory (tmpfs), where there is one with room, so that the disk's speed has no part
in it. tar writes into a pipe. 64 KiB pieces, and plain files of the same shape on the file system of the data, are
reported without a target.
"""

import os
import shutil

import images
from machine import GIB, MIB
from readers import copy_sparse, same_as_image, tar_sparse
from report import interleave
from session import BenchError

KEYS = ("P6.cp", "P6.tar")
MEMORY = "/dev/shm"


def measure(context):
    with context.workspace.folder("sparse") as folder:
        make(context, folder)
        check(context, folder)
        if context.wants("P6.cp"):
            target = copy_target(context)
            tell(context, folder, "P6.cp", lambda path: copy_sparse(path, target))
        if context.wants("P6.tar"):
            tell(context, folder, "P6.tar", tar_sparse)


def make(context, folder):
    """Three domains with the same amount of data: dense, scattered, and scattered in 64 KiB pieces."""
    sizes = context.sizes
    for name, virtual, pieces in (
            ("dense", sizes.pieces * MIB, [(index * MIB, MIB, 0x5A) for index in range(sizes.pieces)]),
            ("scattered", sizes.huge, images.scattered(sizes.huge, sizes.pieces, MIB)),
            ("fine", sizes.huge, images.scattered(sizes.huge, sizes.pieces * 16, 65536))):
        layer = os.path.join(folder, f"{name}-layer.qcow2")
        images.create(layer, virtual)
        images.write_pieces(layer, pieces)
        images.overlay(os.path.join(folder, f"{name}.qcow2"), layer)


def check(context, folder):
    """The content is right, and a copy is as long as the disk and holds no more than its data."""
    with context.vmsnapfs.export(folder, "scattered") as path:
        same_as_image(os.path.join(folder, "scattered-layer.qcow2"), path)
        if os.stat(path).st_size != context.sizes.huge:
            raise BenchError(f"{path} has not the length of its disk")


def copy_target(context):
    """Where cp writes to: memory, if there is room for the data twice, else beside the images."""
    room = shutil.disk_usage(MEMORY).free if os.access(MEMORY, os.W_OK) else 0
    folder = MEMORY if room > 2 * context.sizes.pieces * MIB + GIB else context.workspace.path
    return os.path.join(folder, f"{os.path.basename(context.workspace.path)}.copy")


def tell(context, folder, key, read):
    def run(domain):
        with context.vmsnapfs.export(folder, domain) as path:
            return read(path)

    dense, scattered, fine = interleave(context.sizes.rounds, "s", {
        domain: lambda domain=domain: run(domain) for domain in ("dense", "scattered", "fine")},
        lambda: context.warm(*images.paths(folder)))
    context.report.ratio(key, scattered, dense)
    context.report.inform(key, "64 KiB pieces / dense", fine.median / dense.median, "")
    paths = plain_files(context, os.path.join(folder, "plain"))
    dense, scattered = interleave(context.sizes.rounds, "s", {path: lambda path=path: read(path) for path in paths})
    context.report.inform(key, "plain files, scattered / dense", scattered.median / dense.median, "")


def plain_files(context, folder):
    """A dense and a scattered file as make() makes disks, made once. Returns their paths."""
    paths = os.path.join(folder, "dense"), os.path.join(folder, "scattered")
    if not os.path.exists(folder):
        os.mkdir(folder)
        sizes = context.sizes
        dense = [(index * MIB, MIB, 0x5A) for index in range(sizes.pieces)]
        for path, pieces in zip(paths, (dense, images.scattered(sizes.huge, sizes.pieces, MIB))):
            with open(path, "wb") as file:
                for offset, length, byte in pieces:
                    file.seek(offset)
                    file.write(bytes([byte]) * length)
    return paths
