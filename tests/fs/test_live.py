# SPDX-License-Identifier: LGPL-2.1-or-later
"""A QEMU writes to the image that is read: readers get exact bytes or ESTALE, and the tree follows what QEMU does."""

import collections
import errno
import mmap
import os
import random
import threading
import time

import checks
import make
from checks import equal, need
from mounted import Mounted, run, wait_for
from qemu import Qemu

SIZE = 4 * make.MIB
TURNS = int(os.environ.get("VMSNAPFS_ROUNDS") or 60)
KEPT = 6  # snapshots at a time
GONE = (errno.ENOENT, errno.ESTALE)


class Model:
    """What the disk holds, and what it held at each snapshot of each tag (tags come again)."""

    def __init__(self, qemu, node, rng):
        self.qemu, self.node, self.rng = qemu, node, rng
        self.now = bytearray(SIZE)
        self.states = collections.defaultdict(list)

    def write(self):
        offset = self.rng.randrange(SIZE)
        length = min(SIZE - offset, int(2 ** self.rng.uniform(0, 20)))
        pattern = self.rng.randrange(1, 256)
        if self.rng.random() < 0.25:
            pattern = 0
            self.qemu.io(self.node, f"write -zu {offset} {length}")
        else:
            self.qemu.io(self.node, f"write -P {pattern} {offset} {length}")
        self.now[offset : offset + length] = bytes([pattern]) * length

    def snapshot(self, tag):
        self.states[tag].append(bytes(self.now))
        self.qemu.snapshot(tag, self.node)


class Reader(threading.Thread):
    """Reads snapshots, one after the other, until it is stopped; keeps what was wrong."""

    def __init__(self, mount, model, seed, direct):
        super().__init__()
        self.mount, self.model, self.direct = mount, model, direct
        self.rng = random.Random(seed)
        self.counts = collections.Counter()
        self.wrong = []
        self.stopped = threading.Event()

    def run(self):
        while not self.stopped.is_set():
            try:
                names = self.mount.snapshots("live")
                if names:
                    self.read_one(self.rng.choice(names))
            except OSError as error:
                self.counts[errno.errorcode[error.errno]] += 1
                if error.errno not in GONE:
                    self.wrong.append(repr(error))

    def read_one(self, name):
        """One whole read must be one state that this tag had, from the first byte to the last."""
        fd = os.open(self.mount.frozen("live", name), os.O_RDONLY | (os.O_DIRECT if self.direct else 0))
        try:
            with mmap.mmap(-1, 1 << 20) as buffer:
                content = bytearray(os.fstat(fd).st_size)
                pieces = list(range(0, len(content), 1 << 18))
                self.rng.shuffle(pieces)
                for offset in pieces:
                    end = min(offset + (1 << 18), len(content))
                    while offset < end:  # where it ends in the middle the kernel gives what came before
                        count = os.preadv(fd, [memoryview(buffer)[: end - offset]], offset)
                        if count == 0:
                            self.wrong.append(f"{name} ends at {offset}")
                            return
                        content[offset : offset + count] = buffer[:count]
                        offset += count
                        self.counts["short reads"] += offset < end
        finally:
            os.close(fd)
        self.counts["whole reads"] += 1
        states = self.model.states[name]
        if bytes(content) not in states:
            places = [next(at for at in range(SIZE) if content[at] != state[at]) for state in states]
            self.wrong.append(f"{name} is none of the {len(states)} states that it had: it differs at {places}, direct {self.direct}")


def come_and_go(image_options, rng):
    """One image, written to and snapshotted by QEMU while three readers read."""
    mount = Mounted(expected=[r"no longer there|gone|deleted|disappear"])
    path = make.image(mount.source, "live.qcow2", str(SIZE), **image_options)
    with Qemu({"n0": path}) as qemu, mount:
        model = Model(qemu, "n0", rng)
        readers = [Reader(mount, model, rng.random(), direct=number == 0) for number in range(3)]
        for reader in readers:
            reader.start()
        kept, slowest = [], 0.0
        try:
            for turn in range(TURNS):
                for _ in range(rng.randrange(1, 8)):
                    model.write()
                if len(kept) >= KEPT or (kept and rng.random() < 0.4):
                    qemu.delete_snapshot(kept.pop(rng.randrange(len(kept))), "n0")
                tag = rng.choice(sorted({"again", "anew"} - set(kept)) + [f"s{turn}"])
                model.snapshot(tag)
                kept.append(tag)
                if rng.random() < 0.2:
                    begin = time.monotonic()
                    wait_for(lambda: mount.snapshots("live") == sorted(kept), f"{sorted(kept)}, there are {mount.snapshots('live')}")
                    slowest = max(slowest, time.monotonic() - begin)
            wait_for(lambda: all(reader.counts["whole reads"] for reader in readers), "each reader to read one snapshot whole")
        finally:
            for reader in readers:
                reader.stopped.set()
            for reader in readers:
                reader.join()
        wait_for(lambda: mount.snapshots("live") == sorted(kept), "the last snapshots")
        for tag in kept:
            wait_for(lambda: content(mount, tag) == model.states[tag][-1], f"{tag} to be its last state")
        counts = sum((reader.counts for reader in readers), collections.Counter())
        print(f"    {image_options}: {dict(counts)}; the tree followed after {slowest:.2f} s at most")
        wrong = [text for reader in readers for text in reader.wrong]
        assert not wrong, wrong[:5]


def content(mount, tag):
    """The bytes of a snapshot, or None while its name still leads to one that was deleted."""
    try:
        return mount.read(mount.frozen("live", tag))
    except OSError as error:
        assert error.errno in GONE, error
        return None


def open_direct(path, flags):
    return os.open(path, flags | os.O_DIRECT)


def test_snapshots_come_and_go():
    """Readers get exact bytes or ESTALE while a running QEMU writes, takes snapshots and deletes them"""
    need("qemu-system-x86_64")
    rng = checks.seed()
    for options in ({"cluster_size": 65536}, {"cluster_size": 512}, {"cluster_size": 4096, "lazy_refcounts": "on"}, {"cluster_size": 16384, "extended_l2": "on"}):
        come_and_go(options, rng)


def test_a_deleted_snapshot_under_a_reader():
    """A file that is open when its snapshot is deleted gives ESTALE, and its space may be used again"""
    need("qemu-system-x86_64")
    mount = Mounted(expected=[r"no longer there|gone|deleted|disappear"])
    path = make.image(mount.source, "live.qcow2")
    with Qemu({"n0": path}) as qemu, mount:
        qemu.io("n0", "write -P 1 0 4M")
        qemu.snapshot("old", "n0")
        wait_for(lambda: mount.snapshots("live") == ["old"], "the snapshot")
        with open(mount.frozen("live", "old"), "rb", buffering=0, opener=open_direct) as file, mmap.mmap(-1, 65536) as buffer:
            fd = file.fileno()
            equal(os.preadv(fd, [buffer], 0), 65536)
            equal(buffer[:], bytes([1]) * 65536)
            qemu.io("n0", "write -P 2 0 4M")
            qemu.delete_snapshot("old", "n0")
            qemu.io("n0", "write -P 3 0 8M")
            checks.fails_with(errno.ESTALE, os.preadv, fd, [buffer], 1 << 20)
            qemu.snapshot("old", "n0")
            checks.fails_with(errno.ESTALE, os.preadv, fd, [buffer], 1 << 20)
        wait_for(lambda: content(mount, "old") == bytes([3]) * (8 * make.MIB), "the new one")


def test_overlays_of_a_running_qemu():
    """An external snapshot that QEMU takes is a protected snapshot at once, and the frozen layer reads right"""
    need("qemu-system-x86_64")
    mount = Mounted()
    path = make.image(mount.source, "live.qcow2", str(SIZE))
    rng = checks.seed()
    with Qemu({"n0": path}) as qemu, mount:
        equal(mount.text("live", "state"), "running\n")
        model = Model(qemu, "n0", rng)
        states, node = {}, "n0"
        for number in range(4):
            for _ in range(10):
                model.write()
            top = make_overlay(path, f"live.snap{number}")
            states[f"snap{number}"] = bytes(model.now)
            qemu.add_overlay(node, top, f"n{number + 1}")
            node = model.node = f"n{number + 1}"
            model.write()
            wait_for(lambda: mount.snapshots("live") == sorted(states), f"{sorted(states)}")
            equal(mount.text("live", "disks", "vda", "source"), top + "\n")
            path = top
        for name, state in states.items():
            equal(mount.text("live", "snapshots", name, "protected").strip() in ("1", "yes"), True)
            assert mount.read(mount.frozen("live", name)) == state, name


def make_overlay(path, name):
    """An overlay whose backing file nobody opens: QEMU has it open for writing."""
    top = os.path.join(os.path.dirname(path), name)
    run("qemu-img", "create", "-q", "-f", "qcow2", "-u", "-b", path, "-F", "qcow2", top, str(SIZE))
    return top


def test_state_follows():
    """state is running while a QEMU has the image open for writing, and shutoff before and after"""
    need("qemu-system-x86_64")
    mount = Mounted()
    path = make.image(mount.source, "live.qcow2")
    with mount:
        equal(mount.text("live", "state"), "shutoff\n")
        with Qemu({"n0": path}):
            wait_for(lambda: mount.text("live", "state") == "running\n", "running")
        wait_for(lambda: mount.text("live", "state") == "shutoff\n", "shutoff")


def test_qemu_is_not_disturbed():
    """QEMU opens, snapshots and closes an image whose snapshots are being read: no lock of ours is in its way"""
    need("qemu-system-x86_64")
    mount = Mounted()
    path = make.image(mount.source, "live.qcow2")
    make.write(path, "1 0 1M")
    make.snapshot(path, "one")
    with mount, open(mount.frozen("live", "one"), "rb") as reader:
        equal(reader.read(1), b"\1")
        for turn in range(3):
            with Qemu({"n0": path}) as qemu:
                qemu.io("n0", f"write -P {turn + 2} 0 1M")
                qemu.snapshot(f"turn{turn}", "n0")
            make.snapshot(path, f"img{turn}")
            run("qemu-img", "check", "-q", path)
        reader.seek(0)
        equal(reader.read(1 << 20), bytes([1]) * (1 << 20))


if __name__ == "__main__":
    checks.main(globals())
