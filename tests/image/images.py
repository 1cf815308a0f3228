# SPDX-License-Identifier: LGPL-2.1-or-later
"""Random images as qemu-img and qemu-io make them: one call, one chain of layers, from a random.Random.

What comes out depends on the generator alone, never on the clock or the machine, so that a seed that was
printed makes the same chain again. Every command is kept in Chain.recipe, for the report of a failure.
QEMU refuses some mixtures (a compressed write over an allocated cluster, a resize of a version 2 image with
snapshots): such a command then simply did nothing, and the recipe says so.
"""

import json
import os
import shlex
import struct
import subprocess

KIB = 1024
MIB = 1024 * KIB
CLUSTER_SIZES = [512 << n for n in range(13)]  # 512 B to 2 MiB
DEEP = 70  # a chain deeper than anyone's, well below CHAIN_DEPTH_MAX
TAGS = ["clean", "upgrade", "before the upgrade", "2", "17", "ünï→tag", "a" * 200, ".hidden", "-dash", "x/y", "%41"]
BACKING_FORMAT_EXTENSION = 0xE2792ACA
UNKNOWN_EXTENSION = 0x766D736E  # a number that means nothing: readers skip it


class Snapshot:
    """An internal snapshot: the id is what tells it from others, tags may come twice."""

    def __init__(self, identifier, tag):
        self.id = identifier
        self.tag = tag


class Layer:
    """One image file; `backing` is the layer that it stands on."""

    def __init__(self, path, image_format, backing=None):
        self.path = path
        self.format = image_format
        self.backing = backing
        self.backing_format_told = True
        self.data_file = None
        self.cluster_size = 0
        self.version = 0
        self.snapshots = []

    def chain(self):
        layer = self
        while layer:
            yield layer
            layer = layer.backing


class Chain:
    """Layers from the bottom to the top, all below `directory`, and how they were made."""

    def __init__(self, directory):
        self.directory = directory
        self.layers = []
        self.recipe = []
        self.untold_format = None  # of all backing files whose format nothing tells

    @property
    def top(self):
        return self.layers[-1]

    def run(self, *command, may_fail=False):
        """Runs a command in the chain's directory and keeps it; True if it succeeded."""
        result = subprocess.run(command, cwd=self.directory, capture_output=True, text=True, errors="replace")
        said = "; ".join(line for line in (result.stderr + result.stdout).splitlines() if "ops/sec" not in line)
        self.recipe.append(" ".join(map(shlex.quote, command)) + ("" if result.returncode == 0 else f"   # failed: {said}"))
        if result.returncode != 0 and not may_fail:
            raise RuntimeError("\n".join(self.recipe[-3:]))
        return result.returncode == 0

    def contents(self):
        """Every content that can be read: (layer, internal snapshot or None)."""
        for layer in self.layers:
            for snapshot in layer.snapshots:
                yield layer, snapshot
            yield layer, None


def random_length(rng, limit):
    """1 to limit: often short, often a good part of it."""
    bits = limit.bit_length()
    return min(limit, int(2 ** rng.uniform(0, bits) if rng.random() < 0.6 else 2 ** rng.uniform(bits * 0.7, bits)))


def random_size(rng, cluster_size):
    """A virtual size that tests every table and stays small enough to be compared whole."""
    most = max(min(cluster_size * 256, 16 * MIB), 2 * cluster_size, 512 * KIB)
    size = max(512, random_length(rng, most)) if rng.random() < 0.3 else rng.randrange(most // 4, most)
    if rng.random() < 0.3:
        size = (size + cluster_size - 1) // cluster_size * cluster_size
    return (size + 511) // 512 * 512


def pattern_file(chain, rng):
    """A file for `qemu-io write -s`: partly random, partly text, so that clusters compress to odd lengths."""
    path = os.path.join(chain.directory, "pattern.bin")
    if not os.path.exists(path):
        pieces = []
        for _ in range(40):
            pieces.append(rng.randbytes(rng.randrange(1, 5000)))
            pieces.append(b"the same words again and again, " * rng.randrange(1, 300))
        with open(path, "wb") as file:
            file.write(b"".join(pieces))
    return "pattern.bin"


def virtual_size(layer):
    """The size as the header says it, rounded as QEMU rounds raw files."""
    if layer.format == "raw":
        return (os.path.getsize(layer.path) + 511) // 512 * 512
    with open(layer.path, "rb") as file:
        return struct.unpack_from(">Q", file.read(32), 24)[0] // 512 * 512


def random_writes(chain, layer, rng, most):
    """One qemu-io with up to `most` writes, zero writes and discards."""
    size = virtual_size(layer)
    cluster = layer.cluster_size or 64 * KIB
    commands = []
    for _ in range(rng.randint(1, most)):
        offset = rng.randrange(size)
        length = random_length(rng, size - offset)
        source = f"-s {pattern_file(chain, rng)}" if rng.random() < 0.4 else f"-P {rng.randrange(256)}"
        action = rng.random()
        if action < 0.45:
            commands.append(f"write {source} {offset} {length}")
        elif action < 0.65 and layer.cluster_size and not layer.data_file:
            offset -= offset % cluster
            length = min(size - offset, max(1, length // cluster) * cluster)
            commands.append(f"write -c {source} {offset} {length}")
        elif action < 0.85:
            if rng.random() < 0.5:  # whole clusters, or QEMU writes zeros out at both ends
                offset -= offset % cluster
                length = min(size - offset, max(1, length // cluster) * cluster)
            commands.append(f"write {rng.choice(['-z', '-zu'])} {offset} {length}")
        else:
            commands.append(f"discard {offset} {length}")
    if layer.format == "qcow2" and rng.random() < 0.1:
        commands += ["flush", "abort"]  # dies without closing: the dirty bit stays where refcounts are lazy
    arguments = [part for command in commands for part in ("-c", command)]
    chain.run("qemu-io", "-t", "unsafe", "-d", "unmap", "-f", layer.format, *arguments, layer.path, may_fail=True)


def raw_base(chain, rng, name):
    """A raw file with holes, often of a length that is no multiple of a sector."""
    layer = Layer(os.path.join(chain.directory, name), "raw")
    size = rng.choice([rng.randrange(1, 4 * MIB), rng.randrange(1, 8 * KIB) * 512, rng.randrange(1, 5000)])
    chain.recipe.append(f"# {name}: raw, {size} bytes")
    with open(layer.path, "wb") as file:
        file.truncate(size)
        for _ in range(rng.randrange(8)):
            offset = rng.randrange(size)
            file.seek(offset)
            file.write(rng.randbytes(min(size - offset, random_length(rng, 200 * KIB))))
    return layer


def qcow2_options(rng, version, cluster_size, backing):
    """The -o options that this version and cluster size can have, and the data file's name or None."""
    options = ["compat=" + ("0.10" if version == 2 else "1.1"), f"cluster_size={cluster_size}"]
    data_file = None
    if version == 3:
        if rng.random() < 0.3:
            options.append("lazy_refcounts=on")
        if rng.random() < 0.3:
            options.append(f"refcount_bits={rng.choice([1, 2, 4, 8, 16, 32, 64])}")
        if rng.random() < 0.4:
            options.append("compression_type=" + rng.choice(["zlib", "zstd", "zstd"]))
        if cluster_size >= 16 * KIB and rng.random() < 0.35:
            options.append("extended_l2=on")
        if rng.random() < 0.12:
            data_file = f"data{rng.randrange(1 << 30)}.bin"
            options.append(f"data_file={data_file}")
            if not backing and rng.random() < 0.5:
                options.append("data_file_raw=on")
    if not backing and rng.random() < 0.15:
        options.append("preallocation=" + rng.choice(["metadata", "falloc", "full"]))
    return ",".join(options), data_file


def backing_name(rng, layer, backing):
    """The backing file's name, in one of the ways that QEMU understands."""
    way = rng.random()
    relative = os.path.relpath(backing.path, os.path.dirname(layer.path))
    if way < 0.5:
        return relative
    if way < 0.7:
        return backing.path
    if way < 0.8:
        return "file:" + backing.path
    if way < 0.9:
        return "json:" + json.dumps({"driver": backing.format, "file": {"driver": "file", "filename": backing.path}})
    return "json:" + json.dumps({"driver": backing.format, "file.driver": "file", "file.filename": backing.path})


def forget_backing_format(path):
    """Makes the extension that tells the backing file's format one that nobody knows; True if it was there."""
    with open(path, "r+b") as file:
        header = file.read(112)
        offset = struct.unpack_from(">I", header, 100)[0] if struct.unpack_from(">I", header, 4)[0] == 3 else 72
        while True:
            file.seek(offset)
            kind, length = struct.unpack(">II", file.read(8))
            if kind == BACKING_FORMAT_EXTENSION:
                file.seek(offset)
                file.write(struct.pack(">I", UNKNOWN_EXTENSION))
                return True
            if kind == 0:
                return False
            offset += 8 + (length + 7) // 8 * 8


def untell_backing_format(chain, layer):
    """Takes the format of the backing file out of the header, if the ending or one -b still tells it."""
    ending = os.path.splitext(layer.backing.path)[1]
    by_ending = {".qcow2": "qcow2", ".raw": "raw", ".img": "raw"}.get(ending)
    if by_ending is None:
        if chain.untold_format not in (None, layer.backing.format):
            return
        chain.untold_format = layer.backing.format
    elif by_ending != layer.backing.format:
        return
    if forget_backing_format(layer.path):
        layer.backing_format_told = False
        chain.recipe.append(f"# {layer.path}: the backing file's format is not told any more")


def qcow2_layer(chain, rng, name, backing):
    """Creates a qcow2 layer, on `backing` or not, still empty."""
    layer = Layer(os.path.join(chain.directory, name), "qcow2", backing)
    layer.version = rng.choice([2, 3, 3, 3])
    layer.cluster_size = rng.choice(CLUSTER_SIZES)
    options, data_file = qcow2_options(rng, layer.version, layer.cluster_size, backing)
    if data_file:
        layer.data_file = os.path.join(os.path.dirname(layer.path), data_file)
        options = options.replace(f"data_file={data_file}", f"data_file={layer.data_file}")
    command = ["qemu-img", "create", "-q", "-f", "qcow2", "-o", options]
    size = str(random_size(rng, layer.cluster_size))
    if backing:
        command += ["-b", backing_name(rng, layer, backing), "-F", backing.format]
        if rng.random() < 0.5:
            size = None  # that of the backing file
    chain.run(*command, layer.path, *([size] if size else []))
    if backing and rng.random() < 0.2:
        untell_backing_format(chain, layer)
    return layer


def read_snapshots(layer):
    """The internal snapshots that qemu-img lists."""
    listed = subprocess.run(["qemu-img", "info", "--output=json", "-f", "qcow2", layer.path], capture_output=True, check=True)
    layer.snapshots = [Snapshot(entry["id"], entry["name"]) for entry in json.loads(listed.stdout).get("snapshots", [])]


def grow_history(chain, layer, rng, generations):
    """Writes, resizes, bitmaps and internal snapshots, one after the other."""
    path = layer.path
    for _ in range(generations):
        if rng.random() < 0.85:
            random_writes(chain, layer, rng, 8)
        if rng.random() < 0.3:
            chain.run("qemu-img", "resize", "-q", "-f", "qcow2", "--shrink", path, str(random_size(rng, layer.cluster_size)), may_fail=True)
        if layer.version == 3 and rng.random() < 0.1:
            chain.run("qemu-img", "bitmap", "--add", "-f", "qcow2", path, f"b{rng.randrange(1 << 20)}", may_fail=True)
        if layer.data_file or rng.random() < 0.25:
            continue
        chain.run("qemu-img", "snapshot", "-q", "-c", rng.choice(TAGS), path, may_fail=True)
        if rng.random() < 0.2:
            chain.run("qemu-img", "snapshot", "-q", rng.choice(["-d", "-a"]), rng.choice(TAGS), path, may_fail=True)
    if rng.random() < 0.7:
        random_writes(chain, layer, rng, 8)
    read_snapshots(layer)


def random_chain(rng, directory):
    """Makes a chain in `directory`, which exists and is empty."""
    os.mkdir(os.path.join(directory, "deeper"))
    chain = Chain(directory)
    depth = DEEP if rng.random() < 0.04 else rng.choice([1, 1, 2, 2, 3, 3, 4, 5, 6, 8])
    for position in range(depth):
        backing = chain.layers[-1] if position else None
        name = rng.choice(["", "", "deeper/"]) + f"layer{position}"
        if not backing and rng.random() < (0.1 if depth == 1 else 0.4):
            layer = raw_base(chain, rng, name + rng.choice([".raw", ".img", ".disk"]))
            if rng.random() < 0.3 and os.path.getsize(layer.path) >= 512:
                random_writes(chain, layer, rng, 4)
        else:
            layer = qcow2_layer(chain, rng, name + rng.choice([".qcow2", ".qcow2", ".snap1", ".x~1"]), backing)
            if depth < DEEP:
                grow_history(chain, layer, rng, rng.choice([0, 1, 1, 2, 3, 5]))
            elif rng.random() < 0.7:
                random_writes(chain, layer, rng, 3)
        chain.layers.append(layer)
    return chain
