# SPDX-License-Identifier: LGPL-2.1-or-later
"""Test data: images as a host has them, made with qemu-img and qemu-io, the same in every run."""

import itertools
import os
import random
import shutil

from machine import MIB
from session import command

SEED = 20121  # of everything that is placed at random
PIECE = 16 * MIB


def dense_raw(path, size):
    """A raw file without holes whose content no program can compress or skip."""
    block = random.Random(SEED).randbytes(PIECE)
    with open(path, "wb") as file:
        for index in range(size // PIECE):
            shift = index * 4099 % PIECE  # no two pieces are equal
            file.write(block[shift:])
            file.write(block[:shift])


def convert(source, target, *options):
    """The same content as a qcow2 image with 64 KiB clusters."""
    command("qemu-img", "convert", "-q", "-O", "qcow2", *options, source, target)


def create(path, size):
    """An empty qcow2 image."""
    command("qemu-img", "create", "-q", "-f", "qcow2", path, str(size))


def overlay(path, backing, backing_format="qcow2"):
    """A qcow2 overlay: from now on `backing` is a frozen layer."""
    command("qemu-img", "create", "-q", "-f", "qcow2", "-b", backing, "-F", backing_format, path)


def write_pieces(path, pieces):
    """Writes (offset, length, byte) pieces into a qcow2 image, with one qemu-io."""
    script = "".join(f"write -q -P {byte} {offset} {length}\n" for offset, length, byte in pieces)
    command("qemu-io", "-f", "qcow2", path, input=script)


def chain_pieces(size, depth, longest):
    """Cuts a disk into pieces of 1 to `longest` clusters and deals them out to `depth` layers at random. Returns the
    pieces of each layer."""
    chance = random.Random(SEED)
    layers = [[] for _ in range(depth)]
    offset = 0
    while offset < size:
        length = min(chance.randint(1, longest) * 65536, size - offset)
        layer = chance.randrange(depth)
        layers[layer].append((offset, length, 1 + chance.randrange(255)))
        offset += length
    return layers


def chain(folder, size, depth, longest):
    """A base and `depth` overlays with all data in the overlays, spread over all of them; on top an empty active one.
    Returns the newest frozen layer and its domain's name."""
    below = os.path.join(folder, "layer-000.qcow2")
    create(below, size)
    for number, pieces in enumerate(chain_pieces(size, depth, longest), 1):
        layer = os.path.join(folder, f"layer-{number:03}.qcow2")
        overlay(layer, below)
        write_pieces(layer, pieces)
        below = layer
    overlay(os.path.join(folder, "chain.qcow2"), below)
    return below, "chain"


def scattered(size, count, length):
    """`count` pieces of `length` bytes at random places of a disk, none touching another."""
    chance = random.Random(SEED)
    return [(slot * 2 * length, length, 0x5A) for slot in sorted(chance.sample(range(size // (2 * length)), count))]


def realistic_raw(path, size):
    """A raw file with what disks hold: programs, libraries, documents and texts of this machine, in turn, and one part
    in sixteen zeros."""
    sources = [stored_bytes(root) for root in ("/usr/bin", "/usr/share", "/usr/lib")]
    turns = itertools.cycle(sources)
    with open(path, "wb") as file:
        for index in range(size // MIB):
            file.write(bytes(MIB) if index % 16 == 15 else next(turns).read(MIB))


class stored_bytes:
    """The regular files below a folder, in a fixed order, as one endless stream."""

    def __init__(self, root):
        self.files = itertools.cycle(sorted(regular_files(root)))
        self.rest = b""

    def read(self, size):
        while len(self.rest) < size:
            with open(next(self.files), "rb") as file:
                self.rest += file.read(64 * MIB)
        piece, self.rest = self.rest[:size], self.rest[size:]
        return piece


def regular_files(root):
    """All regular, readable, non-empty files below a folder."""
    for folder, _, names in os.walk(root):
        for name in names:
            path = os.path.join(folder, name)
            if os.path.isfile(path) and not os.path.islink(path) and os.access(path, os.R_OK) and os.path.getsize(path):
                yield path


def many_domains(folder, domains, snapshots):
    """A folder of `domains` images with `snapshots` internal snapshots each: one is made, the rest are copies."""
    first = os.path.join(folder, "domain-001.qcow2")
    create(first, 1024 * MIB)
    for number in range(1, snapshots + 1):
        write_pieces(first, [(number % 1000 * MIB, 65536, number % 255 + 1)])
        command("qemu-img", "snapshot", "-c", f"snapshot-{number:03}", first)
    for number in range(2, domains + 1):
        shutil.copyfile(first, os.path.join(folder, f"domain-{number:03}.qcow2"))


def paths(folder):
    """All images of a folder."""
    return [entry.path for entry in sorted(os.scandir(folder), key=lambda entry: entry.name) if entry.is_file()]
