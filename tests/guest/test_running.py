# SPDX-License-Identifier: LGPL-2.1-or-later
"""A guest that compares its memory with its disks: saved, restored, mirrored and frozen while it counts, by the commands
of core/hypervisor."""

import errno
import json
import os
import subprocess
import tempfile
import threading

import guest
from guest import Guest, disk
from checks import equal, main  # found where guest has looked

SIZE = "8M"


class Refused(OSError):
    """A command failed: its errno and text."""


class Commands:
    """The program that has core/hypervisor's commands; connected to a guest's monitor."""

    def __init__(self, running):
        self._process = subprocess.Popen([os.environ["RUNNING_COMMANDS"]], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.do("connect", running.qmp)

    def do(self, *words):
        print(*words, file=self._process.stdin, flush=True)
        code, _space, text = self._process.stdout.readline().strip().partition(" ")
        if code != "ok":
            raise Refused(int(code or errno.EPIPE), text)
        return text

    def fails(self, code, *words):
        try:
            self.do(*words)
        except Refused as refusal:
            equal(refusal.errno, code, refusal.strerror)
            return
        raise AssertionError(f"{words} succeeded")

    def open_overlay(self, node, path):
        opened = {"node-name": node, "driver": "qcow2", "backing": None, "file": {"driver": "file", "filename": path}}
        self.do("qmp", "blockdev-add", json.dumps(opened, separators=(",", ":")))

    def save(self, memory, snapshot, live="live"):
        """Memory into a file, and what `snapshot` does to the disks at the same instant."""
        self.do("save-begin", memory, live)
        self.do("save-copy")
        snapshot()
        self.do("save-finish")
        self.do("save-resume")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        """As if it had been killed: nothing is undone."""
        self._process.kill()
        self._process.wait()
        self._process.stdin.close()
        self._process.stdout.close()


class Room:
    """A directory with the images of two disks."""

    def __init__(self):
        self._directory = tempfile.TemporaryDirectory(prefix="vmsnapfs-guest-")
        self.path = self._directory.name
        for name in ("vda", "vdb"):
            self.image("create", "-f", "qcow2", f"{self.path}/{name}", SIZE)

    def image(self, verb, *words):
        subprocess.run(["qemu-img", verb, "-q", *words], check=True)

    def overlay(self, name, backing):
        self.image("create", "-f", "qcow2", "-F", "qcow2", "-b", f"{self.path}/{backing}", f"{self.path}/{name}")

    def disks(self, vda="vda", vdb="vdb"):
        """The guest's disks; a "/" in a name is none of the node's."""
        return [disk("vda", f"{self.path}/{vda}"), disk("vdb", f"{self.path}/{vdb}")]

    def start(self, disks=None, **options):
        return Guest(self.path, disks or self.disks(), **options)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._directory.cleanup()


def goes_on(running):
    """The guest counts, and memory and disks are of one instant."""
    running.serial.wait_counts(6)  # more than once around its ring
    running.serial.assert_right()


def restores(room, memory, disks):
    """In a new QEMU, from a file."""
    with room.start(disks, more=["-S", "-incoming", "defer"]) as running, Commands(running) as commands:
        commands.do("load", memory)
        equal(commands.do("state"), "paused")
        commands.do("cont")
        goes_on(running)


def are_of_one_instant(room, *images, snapshot=None):
    points = [guest.check(f"{room.path}/{image}", snapshot=snapshot) for image in images]
    guest.assert_one_instant(points)
    return points[0].count


def test_memory_external_disks_internal():
    """Live, from a stop, and of a paused domain: memory in a file and disks in their images, at one instant"""
    with Room() as room:
        with room.start() as running, Commands(running) as commands:
            running.serial.wait_compared()
            kinds = {"live": "live", "stopped": "stopped", "paused": "live"}
            for tag, how in kinds.items():
                if tag == "paused":
                    commands.do("stop")
                commands.save(f"{room.path}/memory-{tag}", lambda: commands.do("snapshot", tag, "vda", "vdb"), how)
                equal(commands.do("state"), "paused" if tag == "paused" else "running")
                commands.do("cont")
                goes_on(running)
        counts = [are_of_one_instant(room, "vda", "vdb", snapshot=tag) for tag in kinds]
        assert counts == sorted(counts) and counts[0] > 0, counts
        for tag in reversed(kinds):
            for name in ("vda", "vdb"):
                room.image("snapshot", "-a", tag, f"{room.path}/{name}")
            restores(room, f"{room.path}/memory-{tag}", room.disks())


def test_memory_external_disks_external():
    """Memory in a file and disks frozen under new overlays, at one instant, more than once"""
    with Room() as room:
        with room.start() as running, Commands(running) as commands:
            running.serial.wait_compared()
            top = ("vda", "vdb")
            for turn in ("1", "2"):
                new = tuple(f"vd{letter}-{turn}" for letter in "ab")
                for below, above in zip(top, new):
                    room.overlay(above, below)
                    commands.open_overlay(above, f"{room.path}/{above}")
                pairs = [word for pair in zip(top, new) for word in pair]
                commands.save(f"{room.path}/memory-{turn}", lambda words=pairs: commands.do("overlay", *words))
                top = new
                goes_on(running)
        first = are_of_one_instant(room, "vda", "vdb")
        assert 0 < first < are_of_one_instant(room, "vda-1", "vdb-1")
        for turn, below in (("1", ""), ("2", "-1")):
            for letter in "ab":
                room.overlay(f"back{letter}-{turn}", f"vd{letter}{below}")
            restores(room, f"{room.path}/memory-{turn}", room.disks(f"backa-{turn}", f"backb-{turn}"))


LOAD_ALL = ("qmp", "human-monitor-command", r'{"command-line":"loadvm\u0020all"}')


def test_memory_internal():
    """Memory and disks in one internal snapshot, gone back to in the same QEMU and in a new one"""
    with Room() as room:
        with room.start() as running, Commands(running) as commands:
            running.serial.wait_compared()
            commands.do("internal-save", "all", "vda", "vdb")
            goes_on(running)
            commands.do(*LOAD_ALL)
            equal(commands.do("state"), "running")
            goes_on(running)
        are_of_one_instant(room, "vda", "vdb", snapshot="all")
        with room.start(more=["-S"]) as running, Commands(running) as commands:
            commands.do(*LOAD_ALL)
            commands.do("cont")
            goes_on(running)


def test_a_cancelled_save_disturbs_nothing():
    """Cancelled at each stage, the guest goes on with its disks"""
    with Room() as room, room.start() as running, Commands(running) as commands:
        running.serial.wait_compared()
        for stages in range(3):
            for how in ("live", "stopped"):
                commands.do("save-begin", f"{room.path}/memory", how)
                for stage in ("save-copy", "save-finish")[:stages]:
                    commands.do(stage)
                commands.do("save-cancel")
                equal(commands.do("state"), "running")
                goes_on(running)


def test_memory_and_disks_of_two_instants():
    """The guest notices: without this the other tests would show nothing"""
    with Room() as room:
        with room.start() as running, Commands(running) as commands:
            running.serial.wait_compared()
            commands.save(f"{room.path}/memory", lambda: commands.do("snapshot", "then", "vda", "vdb"))
            running.serial.wait_counts()
            commands.do("snapshot", "later", "vda", "vdb")
        for name, tag in (("vda", "then"), ("vdb", "later")):
            room.image("snapshot", "-a", tag, f"{room.path}/{name}")
        with room.start(more=["-S", "-incoming", "defer"]) as running, Commands(running) as commands:
            commands.do("load", f"{room.path}/memory")
            commands.do("cont")
            running.serial.wait_counts(6)
            wrong = running.serial.wrong()
            assert wrong and all(line.startswith("WRONG: disk 1, block ") for line in wrong), wrong[:3]


def read_slowly(path, into, bytes_a_second):
    with open(path, "rb", buffering=0) as source, open(into, "wb") as target:
        pause = threading.Event()
        for piece in iter(lambda: source.read(1 << 20), b""):
            target.write(piece)
            pause.wait(len(piece) / bytes_a_second)


def test_a_busy_guest_through_a_slow_pipe():
    """All that it changes meanwhile is saved, too (QEMU 7.2 without KVM loses pages of a guest that runs)"""
    with Room() as room:
        with room.start(options="memory_mib=48 pause_us=0") as running, Commands(running) as commands:
            running.serial.wait_compared()
            os.mkfifo(f"{room.path}/pipe")
            reader = threading.Thread(target=read_slowly, args=(f"{room.path}/pipe", f"{room.path}/memory", 32 << 20))
            reader.start()
            commands.save(f"{room.path}/pipe", lambda: commands.do("snapshot", "then", "vda", "vdb"))
            reader.join()
            goes_on(running)
        for name in ("vda", "vdb"):
            room.image("snapshot", "-a", "then", f"{room.path}/{name}")
        restores(room, f"{room.path}/memory", room.disks())


def test_mirrors():
    """A disk that moves to its mirror under the guest, and a mirror that is let go of"""
    with Room() as room:
        for name in ("copy", "image"):
            room.image("create", "-f", "qcow2", f"{room.path}/{name}", SIZE)
        with room.start() as running, Commands(running) as commands:
            running.serial.wait_compared()
            commands.open_overlay("copy", f"{room.path}/copy")
            commands.open_overlay("image", f"{room.path}/image")
            commands.do("mirror", "vdb", "image")
            goes_on(running)
            commands.do("detach", "image")
            commands.do("mirror", "vda", "copy")
            goes_on(running)
            commands.do("pivot", "copy")
            goes_on(running)
        are_of_one_instant(room, "copy", "vdb")
        assert 0 < guest.check(f"{room.path}/image").count < guest.check(f"{room.path}/vda").count


def needs_recovery(image, snapshot):
    """Whether the file system in a snapshot has a journal to be replayed; all else has to be right."""
    raw = f"{image}.raw"
    subprocess.run(["qemu-img", "convert", "-U", "-f", "qcow2", "-l", f"snapshot.name={snapshot}", "-O", "raw", image, raw], check=True)
    features = subprocess.run(["dumpe2fs", "-h", raw], capture_output=True, text=True, check=True).stdout
    if "needs_recovery" in features:
        return True
    checked = subprocess.run(["e2fsck", "-fn", raw], capture_output=True, text=True)
    equal(checked.returncode, 0, checked.stdout)
    return False


def test_quiesce():
    """The agent freezes the guest's file system: its snapshot is clean; a client that was killed leaves it to the next one"""
    guest.need("mkfs.ext4", "dumpe2fs", "e2fsck")
    with Room() as room:
        subprocess.run(["mkfs.ext4", "-q", f"{room.path}/raw", "32M"], check=True)
        room.image("convert", "-f", "raw", "-O", "qcow2", f"{room.path}/raw", f"{room.path}/vda")
        with room.start([disk("vda", f"{room.path}/vda")], options="ext4", agent=True) as running:
            with Commands(running) as commands:
                commands.do("agent", running.agent)
                commands.fails(errno.ETIMEDOUT, "freeze", 100)  # the guest has not booted
                running.serial.wait_ready()
                running.serial.wait_counts()
                commands.do("ping", 600000)
                equal(commands.do("frozen"), "thawed")
                commands.do("snapshot", "crash", "vda")
                equal(commands.do("freeze", 600000), "1")
                commands.do("snapshot", "quiet", "vda")
                equal(commands.do("thaw"), "1")
                running.serial.wait_counts()
                equal(commands.do("freeze", 600000), "1")
                commands.fails(errno.EBUSY, "freeze", 600000)
            with Commands(running) as commands:
                commands.do("agent", running.agent)
                equal(commands.do("frozen"), "frozen")
                equal(commands.do("thaw"), "1")
                equal(commands.do("thaw"), "0")
                running.serial.wait_counts()
            running.serial.assert_right()
            assert needs_recovery(f"{room.path}/vda", "crash")
            assert not needs_recovery(f"{room.path}/vda", "quiet")


if __name__ == "__main__":
    main(globals())
