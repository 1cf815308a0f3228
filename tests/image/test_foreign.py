# SPDX-License-Identifier: LGPL-2.1-or-later
"""Images of other formats, and qcow2 overlays on them: every content is what qemu-img says it is.

VMSNAPFS_SEED repeats a run (round n of it is the seed plus n), VMSNAPFS_ROUNDS tells how many chains.
"""

import glob
import os
import random
import select
import shutil
import signal
import subprocess
import sys
import tempfile

import frozen_cat
import oracle

KIB = 1024
MIB = 1024 * KIB
KINDS = [
    ("vmdk", "vmdk", "subformat=monolithicSparse"),
    ("vmdk", "vmdk", "subformat=monolithicFlat"),
    ("vmdk", "vmdk", "subformat=twoGbMaxExtentSparse"),
    ("vmdk", "vmdk", "subformat=twoGbMaxExtentFlat"),
    ("vmdk", "vmdk", "subformat=streamOptimized"),
    ("vhdx", "vhdx", "subformat=dynamic"),
    ("vhdx", "vhdx", "subformat=fixed"),
    ("vpc", "vhd", "subformat=dynamic"),
    ("vpc", "vhd", "subformat=fixed"),
    ("vdi", "vdi", "static=off"),
    ("parallels", "hds", "cluster_size=65536"),
    ("qed", "qed", "cluster_size=65536"),
    ("qcow", "qcow", None),
]


def run(*command):
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def random_content(rng, size):
    content = bytearray(size)
    at = 0
    while at < size:
        length = min(rng.randrange(1, 400 * KIB), size - at)
        if rng.random() < 0.5:
            content[at : at + length] = rng.randbytes(length)
        at += length
    return bytes(content)


def write_some(rng, path):
    size = oracle.info(path, "qcow2")["virtual-size"]
    commands = []
    for _ in range(rng.randrange(4)):
        offset = rng.randrange(size)
        length = min(rng.randrange(1, 300 * KIB), size - offset)
        commands += ["-c", rng.choice([f"write -P {rng.randrange(256)} {offset} {length}", f"write -z {offset} {length}"])]
    if commands:
        run("qemu-io", "-f", "qcow2", *commands, path)


def make_chain(rng, directory, kind):
    """The top layer's path and format: the foreign image itself, or a qcow2 image some layers above it."""
    driver, ending, options = kind
    raw, path = os.path.join(directory, "raw"), os.path.join(directory, f"base.{ending}")
    with open(raw, "wb") as file:
        file.write(random_content(rng, 512 * rng.randrange(1, 12 * MIB // 512)))
    run("qemu-img", "convert", "-f", "raw", "-O", driver, *(["-o", options] if options else []), raw, path)
    os.unlink(raw)
    image_format = driver
    for number in range(rng.randrange(4)):
        overlay = os.path.join(directory, f"overlay{number}.qcow2")
        # Smaller than what it stands on, or larger.
        size = [str(512 * rng.randrange(1, 16 * MIB // 512))] if rng.random() < 0.3 else []
        run("qemu-img", "create", "-q", "-f", "qcow2", "-F", image_format, "-b", os.path.basename(path), overlay, *size)
        path, image_format = overlay, "qcow2"
        write_some(rng, path)
    return path, image_format


def check_chain(rng, directory, path, image_format):
    scratch = os.path.join(directory, "scratch")
    oracle.convert(path, image_format, scratch)
    with open(scratch, "rb") as file:
        expected = file.read()
    arguments = ["-f", image_format, path]
    threads, chunk = rng.choice([1, 4, 8]), rng.choice([4096, 65537, 131072])
    with open(scratch, "wb") as output:
        result = frozen_cat.run(["-t", str(threads), "-c", str(chunk), *arguments], output)
    assert result.ok, result.said
    with open(scratch, "rb") as file:
        assert file.read() == expected, f"the bytes differ (-t {threads} -c {chunk})"
    extents = frozen_cat.extents(arguments)
    assert (extents[-1][1] if extents else 0) == len(expected), "the map does not end at the end"
    for start, end, is_data in extents:
        assert is_data or not any(expected[start:end]), f"hole {start}..{end} holds bytes that are not zero"
    wrong = oracle.differing_extents(oracle.map_extents(path, image_format), extents)
    assert not wrong, "map: " + "; ".join(wrong[:5])


def check_round(seed):
    rng = random.Random(seed)
    directory = tempfile.mkdtemp(prefix="vmsnapfs-foreign-")
    kind = KINDS[seed % len(KINDS)]
    try:
        path, image_format = make_chain(rng, directory, kind)
        check_chain(rng, directory, path, image_format)
    except (AssertionError, oracle.QemuError) as failure:
        print(f"FAILED: VMSNAPFS_SEED={seed} VMSNAPFS_ROUNDS=1, {kind}: {failure}\n  kept: {directory}", flush=True)
        return False
    shutil.rmtree(directory)
    return True


def children(pid):
    """Pids of the qemu-nbd processes that `pid` has started."""
    found = []
    for path in glob.glob("/proc/[0-9]*/stat"):
        try:
            with open(path, encoding="ascii", errors="replace") as file:
                left, right = file.read().rsplit(")", 1)
        except OSError:
            continue
        if "(qemu-nbd" in left and int(right.split()[1]) == pid:
            found.append(int(left.split()[0]))
    return found


def check_killed_reader():
    """A reader that is killed in the middle leaves no helper behind."""
    directory = tempfile.mkdtemp(prefix="vmsnapfs-foreign-")
    path = os.path.join(directory, "base.vdi")
    run("qemu-img", "create", "-q", "-f", "vdi", path, "64M")
    reader = subprocess.Popen([frozen_cat.PROGRAM, "-f", "vdi", path], stdout=subprocess.PIPE)
    reader.stdout.read(1)  # the pipe fills up, and it waits
    helpers = [os.pidfd_open(pid) for pid in children(reader.pid)]
    assert len(helpers) == 1, f"{len(helpers)} helpers run"
    reader.send_signal(signal.SIGKILL)
    reader.wait()
    reader.stdout.close()
    ended, _, _ = select.select(helpers, [], [], 60)
    assert ended, "qemu-nbd still runs a minute after its reader was killed"
    os.close(helpers[0])
    shutil.rmtree(directory)


def main():
    if not shutil.which("qemu-nbd") or not shutil.which("qemu-img"):
        print("no QEMU here")
        return 77
    seed = int(os.environ.get("VMSNAPFS_SEED") or random.randrange(1 << 32))
    rounds = int(os.environ.get("VMSNAPFS_ROUNDS") or 2 * len(KINDS))
    print(f"VMSNAPFS_SEED={seed} VMSNAPFS_ROUNDS={rounds}", flush=True)
    check_killed_reader()
    failed = sum(not check_round(seed + number) for number in range(rounds))
    print(f"{failed} of {rounds} chains failed" if failed else f"{rounds} chains, all equal to what qemu-img says")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
