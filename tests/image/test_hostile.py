# SPDX-License-Identifier: LGPL-2.1-or-later
"""Damaged and hostile images: the reader ends by itself, does not crash, keeps its memory bounded, and where both it
and QEMU give bytes, they are the same (or QEMU's own check says that the image is damaged).

VMSNAPFS_SEED repeats a run, VMSNAPFS_ROUNDS tells how many images are made; each is damaged in MUTATIONS ways.
"""

import collections
import os
import random
import shutil
import subprocess
import sys
import tempfile
import zlib

import damage
import frozen_cat
import images
import oracle

MUTATIONS = 25
HEAD = 32 << 20  # bytes compared at most; the images here are smaller unless their header was damaged
PEAK_KIB = (2048 if frozen_cat.SANITIZED else 320) * 1024  # the bound for caches is 64 MiB; tables, threads, code besides
DEPTH_REFUSED = 600  # more than CHAIN_DEPTH_MAX


def make_image(rng, directory):
    """A small qcow2 image with a history, on another one or not: (chain, layer)."""
    chain = images.Chain(directory)
    backing = None
    if rng.random() < 0.3:
        backing = images.raw_base(chain, rng, "base.raw")
        chain.layers.append(backing)
    layer = images.qcow2_layer(chain, rng, "image.qcow2", backing)
    images.grow_history(chain, layer, rng, rng.choice([1, 2, 3]))
    chain.layers.append(layer)
    return chain, layer


def qemu_bytes(path, snapshot, size, scratch):
    """What QEMU reads, or None where it refuses; images that claim to be huge are not compared."""
    try:
        if oracle.info(path, "qcow2")["virtual-size"] > HEAD:
            return None
        if snapshot:
            oracle.convert_snapshot(path, snapshot.id, scratch)
        else:
            oracle.convert(path, "qcow2", scratch)
    except (oracle.QemuError, KeyError, ValueError):
        return None
    with open(scratch, "rb") as file:
        return file.read()


def qemu_check_complains(path):
    result = subprocess.run(["qemu-img", "check", "-q", "-f", "qcow2", path], capture_output=True, preexec_fn=oracle.limited)
    return result.returncode != 0


def judge_image(chain, layer, snapshot, counts):
    """Reads one (damaged) image and compares; raises AssertionError."""
    result, ours = frozen_cat.run_head(frozen_cat.arguments_of(chain, layer, snapshot), HEAD)
    assert result.peak_kib < PEAK_KIB, f"used {result.peak_kib} KiB of memory"
    read_all = result.ok
    if not read_all and result.code > 0:
        assert result.said.strip(), "failed without saying why"
    theirs = qemu_bytes(layer.path, snapshot, len(ours), os.path.join(chain.directory, "scratch"))
    if read_all and theirs is not None:
        common = min(len(ours), len(theirs)) if snapshot else max(len(ours), len(theirs))
        if ours[:common] == theirs[:common]:
            counts["read by both, equal"] += 1
        else:
            assert qemu_check_complains(layer.path), "other bytes than QEMU, whose check finds nothing wrong"
            counts["read by both, differing, damaged to qemu-img check"] += 1
    elif read_all:
        counts["read by us alone"] += 1
    else:
        counts["read by QEMU alone" if theirs is not None else "refused by both"] += 1


def random_damage(seed, counts):
    """One image, damaged again and again, each time from the sound one."""
    rng = random.Random(seed)
    directory = tempfile.mkdtemp(prefix="vmsnapfs-hostile-")
    chain, layer = make_image(rng, directory)
    sound = layer.path + ".sound"
    os.rename(layer.path, sound)
    for number in range(MUTATIONS):
        shutil.copyfile(sound, layer.path)
        image = damage.Qcow2(layer.path)
        done = damage.damage_randomly(image, rng)
        image.save()
        snapshot = rng.choice(layer.snapshots) if layer.snapshots and rng.random() < 0.5 else None
        try:
            judge_image(chain, layer, snapshot, counts)
        except AssertionError as failure:
            print(f"FAILED: VMSNAPFS_SEED={seed} VMSNAPFS_ROUNDS=1, mutation {number} ({done})"
                  f"{' at snapshot ' + snapshot.id if snapshot else ''}: {failure}\n  kept: {directory}")  # fmt: skip
            return False
    shutil.rmtree(directory)
    return True


def expect_refusal(directory, name, what, words):
    """frozen_cat of `name` fails, and its text has one of the words."""
    result = frozen_cat.run(["-a", directory, "-f", "qcow2", os.path.join(directory, name)])
    assert not result.ok, f"{what}: was read"
    assert any(word in result.said for word in words), f"{what}: says {result.said!r}"
    assert result.peak_kib < PEAK_KIB, f"{what}: used {result.peak_kib} KiB"
    print(f"{what}: {result.said.strip().splitlines()[-1]}")


def create(directory, name, backing, backing_format="qcow2"):
    """An empty overlay on whatever name; nothing is opened under it."""
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", name, "1M"], cwd=directory, check=True)
    subprocess.run(["qemu-img", "rebase", "-u", "-f", "qcow2", "-b", backing, "-F", backing_format, name], cwd=directory, check=True)


def test_loops(directory):
    create(directory, "self.qcow2", "self.qcow2")
    expect_refusal(directory, "self.qcow2", "an image that stands on itself", ["loop", "comes back"])
    for number in range(3):
        create(directory, f"loop{number}.qcow2", f"loop{(number + 1) % 3}.qcow2")
    expect_refusal(directory, "loop0.qcow2", "a loop of three images", ["loop", "comes back"])
    create(directory, "twisted.qcow2", os.path.join(directory, "..", os.path.basename(directory), ".", "twisted.qcow2"))
    expect_refusal(directory, "twisted.qcow2", "a loop by another spelling of the name", ["loop", "comes back"])
    os.symlink("linked.qcow2", os.path.join(directory, "link.qcow2"))
    create(directory, "linked.qcow2", "link.qcow2")
    expect_refusal(directory, "linked.qcow2", "a loop through a symbolic link", ["loop", "comes back"])


def test_depth(directory):
    create(directory, "deep000.qcow2", "deep001.qcow2")
    with open(os.path.join(directory, "deep000.qcow2"), "rb") as file:
        image = file.read()
    for number in range(1, DEPTH_REFUSED):
        with open(os.path.join(directory, f"deep{number:03}.qcow2"), "wb") as file:
            file.write(image.replace(b"deep001", b"deep%03d" % (number + 1)))
    expect_refusal(directory, "deep000.qcow2", f"a chain of {DEPTH_REFUSED} images", ["512", "deep", "many"])


def test_compressed_lengths(directory):
    """A compressed cluster that inflates to more or less than a cluster is an error, whatever comes out of it."""
    path = os.path.join(directory, "inflate.qcow2")
    for change, name in ((1, "one byte too much"), (-1, "one byte too little"), (1 << 24, "16 MiB too much")):
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", path, "1M"], check=True)
        noise = os.path.join(directory, "noise")
        with open(noise, "wb") as file:
            file.write(random.Random(1).randbytes(32768) + bytes(32768))
        subprocess.run(["qemu-io", "-f", "qcow2", "-c", f"write -c -s {noise} 0 64k", path], check=True, capture_output=True)
        image = damage.Qcow2(path)
        ((place, offset, length),) = image.compressed()
        packer = zlib.compressobj(9, zlib.DEFLATED, -12)
        packed = packer.compress(bytes(65536 + change)) + packer.flush()
        assert len(packed) <= length
        image.bytes[offset : offset + len(packed)] = packed
        image.save()
        expect_refusal(directory, "inflate.qcow2", f"a cluster that inflates to {name}", [""])


def test_outside(directory):
    """Backing and data files outside the allowed directories, directly and by links: not one byte of them."""
    outside = tempfile.mkdtemp(prefix="vmsnapfs-outside-")
    secret = os.path.join(outside, "secret.raw")
    with open(secret, "wb") as file:
        file.write(b"SECRET" * 10000)
    inside = os.path.join(directory, "inside")
    os.mkdir(inside)
    os.symlink(secret, os.path.join(inside, "link.raw"))
    os.symlink(outside, os.path.join(inside, "way"))
    up = os.path.relpath(secret, inside)
    json_name = 'json:{"driver":"raw","file":{"driver":"file","filename":"%s"}}' % secret
    names = [secret, up, "link.raw", "way/secret.raw", "file:" + secret, json_name, "/proc/self/root" + secret]
    for number, name in enumerate(names):
        create(inside, f"out{number}.qcow2", name, "raw")
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "-o", f"data_file={outside}/data,data_file_raw=on", "data.qcow2", "1M"], cwd=inside, check=True)
    subprocess.run(["qemu-io", "-f", "qcow2", "-c", "write -P 83 0 1M", "data.qcow2"], cwd=inside, check=True, capture_output=True)
    for image in [f"out{number}.qcow2" for number in range(len(names))] + ["data.qcow2"]:
        result, bytes_read = frozen_cat.run_head(["-a", inside, "-f", "qcow2", os.path.join(inside, image)], HEAD)
        assert not result.ok, f"{image} was read"
        assert b"SECRET" not in bytes_read and b"SSSS" not in bytes_read, f"{image} gave away what lies outside"
        assert result.said.strip(), f"{image}: no word why"
    shutil.rmtree(outside)
    print(f"{len(names) + 1} ways to name a file outside: none was followed")


def main():
    seed = int(os.environ.get("VMSNAPFS_SEED") or random.randrange(1 << 32))
    rounds = int(os.environ.get("VMSNAPFS_ROUNDS") or 12)
    failed = 0
    for test in (test_loops, test_depth, test_compressed_lengths, test_outside):
        directory = tempfile.mkdtemp(prefix="vmsnapfs-hostile-")
        try:
            test(directory)
        except AssertionError as failure:
            print(f"FAILED: {test.__name__}: {failure}")
            failed += 1
        shutil.rmtree(directory)
    print(f"VMSNAPFS_SEED={seed} VMSNAPFS_ROUNDS={rounds}", flush=True)
    counts = collections.Counter()
    failed += sum(not random_damage(seed + number, counts) for number in range(rounds))
    for what, count in sorted(counts.items()):
        print(f"{count:6} {what}")
    print("no crash, bounded memory, no wrong bytes" if not failed else f"{failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
