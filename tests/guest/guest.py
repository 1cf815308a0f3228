# SPDX-License-Identifier: LGPL-2.1-or-later
"""The test guest (init.c) in a QEMU without KVM: starting it, reading what it says, and judging its disks."""

import collections
import json
import os
import re
import subprocess
import sys
import time

import build

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "fs"))

from checks import Skip, is_listening, need  # pylint: disable=wrong-import-position # noqa: E402

BLOCK = 4096
SLOTS = 64
SAY_EVERY = 20
MAGIC = 0x31544E554F434D56
MASK = (1 << 64) - 1
MEMORY_MIB = 128

Point = collections.namedtuple("Point", "count ahead")  # how far a disk has counted; whether the next count's ring block is there


def need_guest():
    """The images, or Skip where this machine can't run it."""
    need("qemu-system-x86_64", "qemu-img", "cc", "ldd")
    try:
        return build.images()
    except (OSError, subprocess.CalledProcessError) as problem:
        raise Skip(str(problem)) from None


def machine(serial, agent=None, options=""):
    """The words of a QEMU with the guest, but for its disks (virtio ones, any number) and its monitor: also
    for a definition's "launch". `serial` is the file that it writes to, `agent` the path of the agent's socket."""
    images = need_guest()
    words = ["qemu-system-x86_64", "-accel", "tcg", "-cpu", "max", "-machine", "pc-i440fx-7.2", "-m", str(MEMORY_MIB)]
    words += ["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"]
    words += ["-chardev", f"file,id=serial,path={serial},append=on", "-serial", "chardev:serial"]
    if agent:
        words += ["-device", "virtio-serial-pci", "-chardev", f"socket,id=agent,path={agent},server=on,wait=off"]
        words += ["-device", "virtserialport,chardev=agent,name=org.qemu.guest_agent.0,id=agentport"]
    line = f"console=ttyS0 quiet panic=-1 nokaslr mitigations=off slots={SLOTS} {options}" + (" agent" if agent else "")
    return words + ["-kernel", images.kernel, "-initrd", images.initramfs_with_agent if agent else images.initramfs, "-append", line]


def disk(node, path, form="qcow2", backing=None):
    """The words of one disk; the device is called like the node. `backing` is a node that was named before."""
    chain = {"backing": backing} if form == "qcow2" and backing else {}
    opened = {"node-name": node, "driver": form, "file": {"driver": "file", "filename": path}, **chain}
    return ["-blockdev", json.dumps(opened), "-device", f"virtio-blk-pci,drive={node},id=disk-{node}"]


class Serial:
    """What the guest says, from a place in its file on."""

    def __init__(self, path, process=None):
        self.path, self.process, self.start = path, process, 0

    def text(self):
        try:
            with open(self.path, "rb") as file:
                file.seek(self.start)
                return file.read().decode(errors="replace")
        except FileNotFoundError:
            return ""

    def forget(self):
        """What was said until now is not looked at any more."""
        self.start = os.path.getsize(self.path) if os.path.exists(self.path) else 0

    def wait(self, pattern):
        """Waits for a whole line; returns the match."""
        while True:
            ended = self.process and self.process.poll() is not None
            found = re.search(rf"^(?:{pattern})\r?\n", self.text(), re.MULTILINE)
            if found:
                return found
            assert not ended, f"QEMU ended with {self.process.returncode}; the guest said: {self.text()[-500:]}"
            time.sleep(0.02)

    def wait_ready(self):
        return int(self.wait(r"READY disks=\d+ count=(\d+)").group(1))

    def counts(self):
        """Of whole lines: it writes them byte by byte. One may begin behind what a guest left that was stopped in a line."""
        return [int(count) for count in re.findall(r"COUNT (\d+)(?: compared)?\r?\n", self.text())]

    def wait_counts(self, number=2):
        """Waits until it has said that it counts so many times more than it had when this was called."""
        wanted = len(self.counts()) + number
        while len(self.counts()) < wanted:
            assert not (self.process and self.process.poll() is not None), f"QEMU ended: {self.text()[-500:]}"
            time.sleep(0.02)

    def wait_compared(self):
        """Waits until it compares all that it has written, twice over."""
        self.wait(r"COUNT \d+ compared")
        self.wait_counts()

    def assert_went_on(self, count):
        """After forget(), and then going back to where its disks had that count: it counts on from there, and has not booted.
        Before that is what it said until then: where a QEMU saves memory while the guest runs, it counts on meanwhile."""
        counts, first = self.counts(), (count // SAY_EVERY + 1) * SAY_EVERY
        assert not re.search(r"READY disks=", self.text()), f"going back to {count}, the guest has begun anew"
        since = counts[len(counts) - 1 - counts[::-1].index(first) :] if first in counts else []
        wanted = list(range(first, first + len(since) * SAY_EVERY, SAY_EVERY))
        assert len(since) > 1 and since == wanted, f"going back to {count}, the guest counted {counts}"

    def wrong(self):
        return [line for line in self.text().splitlines() if "WRONG" in line or "Kernel panic" in line]

    def assert_right(self):
        assert not self.wrong(), f"{len(self.wrong())} lines such as {self.wrong()[:3]}"


class Guest:
    """A QEMU with the guest, whose monitor is at `qmp`. `disks` are the words of disk() for each."""

    def __init__(self, room, disks, options="", agent=False, more=()):
        self.qmp, self.agent = f"{room}/qmp", f"{room}/agent" if agent else None
        self.serial = Serial(f"{room}/serial")
        self.serial.forget()
        words = machine(self.serial.path, self.agent, options)
        words += ["-chardev", f"socket,id=monitor,path={self.qmp},server=on,wait=off", "-mon", "chardev=monitor,mode=control"]
        self._said = open(f"{room}/said", "wb")
        self.process = subprocess.Popen(
            words + [word for one in disks for word in one] + list(more), stdin=subprocess.DEVNULL, stdout=self._said, stderr=self._said
        )
        self.serial.process = self.process
        while not is_listening(self.qmp):
            if self.process.poll() is not None:
                with open(f"{room}/said", encoding="utf-8", errors="replace") as file:
                    raise AssertionError(f"QEMU ended with {self.process.returncode}: {file.read()}")
            time.sleep(0.01)

    def kill(self):
        """As a power cut of the guest alone."""
        self.process.kill()
        self.process.wait()
        self._said.close()
        if os.path.exists(self.qmp):
            os.unlink(self.qmp)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.kill()


# ---- judging disks ----


def _noise(count, place):
    seed = ((count * 0x9E3779B97F4A7C15 + place) & MASK) | 1
    for _ in range(BLOCK // 8 - 3):
        seed ^= (seed << 13) & MASK
        seed ^= seed >> 7
        seed ^= (seed << 17) & MASK
        yield seed


def block(count, place):
    """What the guest writes for a count into a place."""
    return b"".join(word.to_bytes(8, "little") for word in (MAGIC, count, place, *_noise(count, place)))


def count_in(content, place):
    """The count in a block, None where it was never written; it must be whole."""
    if not any(content):
        return None
    count = int.from_bytes(content[8:16], "little")
    assert content == block(count, place), f"block {place} is torn, or none of the guest's"
    return count


def point_of(raw):
    """Of a raw image's path: the instant that it shows. AssertionError where it is none."""
    with open(raw, "rb") as file:
        content = file.read((SLOTS + 1) * BLOCK)
    now = count_in(content[:BLOCK], 0) or 0
    ahead = False
    for slot in range(SLOTS):
        found = count_in(content[(slot + 1) * BLOCK : (slot + 2) * BLOCK], slot + 1)
        last = now - (now - slot) % SLOTS
        if found == now + 1 and found % SLOTS == slot:
            ahead = True
        elif last > 0:
            assert found == last, f"block {slot + 1} has {found} where a disk at {now} has {last}"
        else:
            assert found is None, f"block {slot + 1} has {found}, and the disk is at {now}"
    return Point(now, ahead)


def check(image, form="qcow2", snapshot=None):
    """The instant that an image, or an internal snapshot in it, shows; nobody may have it open for writing, but for the
    snapshot's sake."""
    raw = f"{image}.raw"
    command = ["qemu-img", "convert", "-f", form, "-O", "raw"]
    command += ["-U", "-l", f"snapshot.name={snapshot}"] if snapshot else []
    subprocess.run(command + [image, raw], check=True)
    try:
        return point_of(raw)
    finally:
        os.unlink(raw)


def assert_one_instant(points):
    """Several disks of one guest: it writes each count's ring block to all, then its block 0 to all, one after the other."""
    steps = [2 * point.count + point.ahead for point in points]
    assert max(steps) - min(steps) <= 1 and steps == sorted(steps, reverse=True), f"disks of different instants: {points}"
