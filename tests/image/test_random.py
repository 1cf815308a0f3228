# SPDX-License-Identifier: LGPL-2.1-or-later
"""Random chains of images: every frozen content is what qemu-img says it is, byte for byte and extent for extent.

VMSNAPFS_SEED repeats a run (round n of it is the seed plus n), VMSNAPFS_ROUNDS tells how many chains.
"""

import collections
import os
import random
import shutil
import sys
import tempfile

import frozen_cat
import images
import oracle

CHUNKS = [509, 512, 4095, 4096, 65537, 131072, 1 << 20]


def read_file(path):
    with open(path, "rb") as file:
        return file.read()


def first_difference(a, b):
    if len(a) != len(b):
        return f"{len(a)} bytes where QEMU has {len(b)}"
    at = next(n for n in range(0, len(a), 512) if a[n : n + 512] != b[n : n + 512])
    at = next(n for n in range(at, len(a)) if a[n] != b[n])
    return f"byte {at} is {a[at]:#x}, QEMU has {b[at]:#x}"


def data_covers_what_is_not_zero(extents, content):
    """Holes of ours read as zeros."""
    for start, end, is_data in extents:
        if not is_data and content.count(0, start, end) != end - start:
            return f"hole {start}..{end} holds bytes that are not zero"
    return None


def check_content(chain, layer, snapshot, rng, checked):
    """Compares one frozen content with QEMU's; raises AssertionError."""
    scratch = os.path.join(chain.directory, "scratch")
    image = oracle.snapshot_applied(layer.path, snapshot.id) if snapshot else layer.path
    oracle.convert(image, layer.format, scratch)
    expected = read_file(scratch)
    qemu_map = oracle.map_extents(image, layer.format)
    if snapshot:
        os.unlink(image)
        oracle.convert_snapshot(layer.path, snapshot.id, scratch)
        same = min(len(expected), os.path.getsize(scratch))
        assert read_file(scratch)[:same] == expected[:same], "QEMU contradicts itself: convert -l is not snapshot -a"

    arguments = frozen_cat.arguments_of(chain, layer, snapshot)
    for way in ([], ["-t", str(rng.choice([1, 2, 3, 8])), "-c", str(rng.choice(CHUNKS[2:] if len(expected) > 1 << 21 else CHUNKS))]):
        with open(scratch, "wb") as output:
            result = frozen_cat.run(way + arguments, output)
        assert result.ok, f"{' '.join(way)}: {result.said}"
        ours = read_file(scratch)
        assert ours == expected, f"{' '.join(way) or 'plain'}: {first_difference(ours, expected)}"
    checked["bytes"] += len(expected)

    extents = frozen_cat.extents(arguments)
    assert [start for start, _, _ in extents] == [0, *(end for _, end, _ in extents[:-1])][: len(extents)], "the map has gaps"
    assert (extents[-1][1] if extents else 0) == len(expected), "the map does not end at the end"
    wrong = data_covers_what_is_not_zero(extents, expected)
    assert not wrong, wrong
    wrong = oracle.differing_extents(qemu_map, extents)
    assert not wrong, "map: " + "; ".join(wrong[:5])
    checked["extents"] += len(extents)


def check_round(seed, checked):
    """Makes one chain and compares everything in it; True if all was right."""
    rng = random.Random(seed)
    directory = tempfile.mkdtemp(prefix="vmsnapfs-random-")
    chain = images.random_chain(rng, directory)
    checked["layers"] += len(chain.layers)
    for layer, snapshot in chain.contents():
        what = os.path.relpath(layer.path, directory) + (f" at snapshot {snapshot.id}" if snapshot else "")
        checked["snapshots" if snapshot else "images"] += 1
        try:
            check_content(chain, layer, snapshot, rng, checked)
        except (AssertionError, oracle.QemuError) as failure:
            print(f"FAILED: VMSNAPFS_SEED={seed} VMSNAPFS_ROUNDS=1, {what}: {failure}")
            with open(os.path.join(directory, "recipe"), "w", encoding="utf-8") as file:
                file.write("\n".join(chain.recipe) + "\n")
            print(f"  kept, with the commands that made it in the file recipe: {directory}", flush=True)
            return False
    shutil.rmtree(directory)
    return True


def main():
    seed = int(os.environ.get("VMSNAPFS_SEED") or random.randrange(1 << 32))
    rounds = int(os.environ.get("VMSNAPFS_ROUNDS") or 25)
    print(f"VMSNAPFS_SEED={seed} VMSNAPFS_ROUNDS={rounds}", flush=True)
    checked = collections.Counter()
    failed = sum(not check_round(seed + number, checked) for number in range(rounds))
    print(", ".join(f"{count} {what}" for what, count in sorted(checked.items())))
    print(f"{failed} of {rounds} chains failed" if failed else "all equal to what qemu-img says")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
