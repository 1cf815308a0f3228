# SPDX-License-Identifier: LGPL-2.1-or-later
"""Snapshots of a guest that runs, by mkdir and control files: it compares its memory with its disks, and each frozen disk
has to be an instant of its writes, the same one for all disks."""

import errno
import json
import os
import shutil
import subprocess

import guest
from guest import assert_one_instant, point_of
from checks import equal, main, need  # found where guest has looked

import administer  # pylint: disable=wrong-import-order
import checks
from mounted import Mounted, wait_for

SIZE = "8M"
TARGETS = ("vda", "vdb")
ROUNDS = 8


class Running(Mounted):
    """Domain web1, which counts on two disks while the block is entered."""

    def __init__(self, options="", agent=False, images=None, **more):
        super().__init__(**more)
        self.serial = guest.Serial(os.path.join(self.room, "serial"))
        self.agent = os.path.join(self.room, "agent") if agent else None
        launch = guest.machine(self.serial.path, self.agent, options)
        disks = []
        for target in TARGETS:
            path = os.path.join(self.source, f"{target}.qcow2")
            if images:
                images(path)
            else:
                subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", path, SIZE], check=True)
            disks.append({"target": target, "source": os.path.basename(path), "format": "qcow2"})
            launch += ["-device", f"virtio-blk-pci,drive={target}"]
        definition = {"name": "web1", "disks": disks, "launch": launch, **({"agent": self.agent} if agent else {})}
        with open(os.path.join(self.source, "web1.json"), "w", encoding="utf-8") as file:
            json.dump(definition, file)

    def __enter__(self):
        super().__enter__()
        self.power("start")
        return self

    def __exit__(self, *reason):
        try:
            if self.process and self.text("web1", "state").strip() not in ("shutoff", "crashed"):
                self.power("destroy")
        finally:
            super().__exit__(*reason)

    def end_daemon(self):
        """As a crash of it; the guest goes on."""
        self.kill()
        subprocess.run(["umount", "--lazy", self.mountpoint], check=True)

    def begin_daemon(self, **environment):
        self.environment = environment
        self.mount()
        wait_for(lambda: self.text("web1", "state") == "running\n", "the guest to be found")

    def power(self, word):
        administer.command(self, "web1", "power", word)

    def create(self, words):
        administer.command(self, "web1", "create", words)

    def points(self, snapshot):
        """The instants that the frozen disks of a snapshot show, by disk."""
        disks = self.path("web1", "snapshots", snapshot, "disks")
        return [point_of(os.path.join(disks, name)) for name in sorted(os.listdir(disks))]

    def goes_on(self):
        self.serial.wait_counts(4)
        self.serial.assert_right()


def test_while_it_counts():
    """Snapshots of all kinds of a busy guest: each an instant of its writes, for as long as it is there; then it comes home"""
    random = checks.seed()
    with Running() as mount:
        mount.serial.wait_compared()
        seen = {}
        for number in range(ROUNDS):
            kinds = [random.choice(("internal", "external")) for _ in TARGETS]
            name = f"s{number}"
            mount.create(f"{name} disk-only " + " ".join(f"disk={target}:{kind}" for target, kind in zip(TARGETS, kinds)))
            seen[name] = mount.points(name)
            assert_one_instant(seen[name])
            mount.goes_on()
            for other, points in seen.items():
                equal(mount.points(other), points, f"{other}, after {name}")
            if random.random() < 0.3:
                gone = random.choice(sorted(seen))
                del seen[gone]
                os.rmdir(administer.snapshot_path(mount, "web1", gone))
        order = [seen[name][0].count for name in sorted(seen)]
        equal(order, sorted(order))
        mount.power("destroy")
        mount.serial.forget()
        mount.power("start")
        mount.serial.wait_ready()
        mount.goes_on()
        mount.power("destroy")
        for name, points in seen.items():
            equal(mount.points(name), points, name)
        for name in sorted(seen, key=lambda _: random.random()):
            os.rmdir(administer.snapshot_path(mount, "web1", name))
        administer.wait_idle(mount)
        paths = [administer.source(mount, "web1", target)[0] for target in TARGETS]
        equal(paths, [os.path.join(mount.source, f"{target}.qcow2") for target in TARGETS])
        assert_one_instant([guest.check(path) for path in paths])
        for path in paths:
            administer.check_image(path)


def first_files(mount):
    return [os.path.join(mount.source, f"{target}.qcow2") for target in TARGETS]


def test_given_back_under_it():
    """Layers are merged while it counts, also the one that it writes to: it reads what it wrote, and comes home running"""
    random = checks.seed()
    with Running() as mount:
        mount.serial.wait_compared()
        for _ in range(4):
            seen = {}
            for number in range(3):
                name = f"s{number}"
                mount.create(f"{name} disk-only disk=vda:external disk=vdb:external")
                seen[name] = mount.points(name)
                mount.serial.wait_counts()
            for name in sorted(seen, key=lambda _: random.random()):
                del seen[name]
                os.rmdir(administer.snapshot_path(mount, "web1", name))
                if random.random() < 0.7:
                    administer.wait_idle(mount)
                    mount.goes_on()
                for other, points in seen.items():
                    equal(mount.points(other), points, f"{other}, after {name}")
            administer.wait_idle(mount)
            mount.goes_on()
            equal([administer.source(mount, "web1", target)[0] for target in TARGETS], first_files(mount))
            equal(sorted(os.listdir(mount.source)), [".vmsnapfs", "vda.qcow2", "vdb.qcow2", "web1.json"])
        mount.power("destroy")
        assert_one_instant([guest.check(path) for path in first_files(mount)])
        for path in first_files(mount):
            administer.check_image(path)


def test_daemon_that_is_killed_giving_back():
    """The same, killed at each step of having the guest go on in another layer, which then waits for the next daemon or not"""
    with Running() as mount:
        mount.serial.wait_compared()
        mount.expected.append("interrupted|journal")
        for point in ("journaled", "held", "kept", "pivoted", "finishing", "copied", "merged", "unlinked"):
            for name in "ab":
                mount.create(f"{name} disk-only disk=vda:external disk=vdb:external")
                mount.serial.wait_counts()
            mount.end_daemon()
            mount.begin_daemon(VMSNAPFS_TEST_CRASH=f"{point}:1")
            for name in "ab":
                try:
                    administer.command_of(mount, "web1", name, "delete")
                except OSError as error:
                    assert error.errno in (errno.ENOTCONN, errno.ECONNABORTED, errno.ENOENT), error
            mount.process.wait()
            mount.end_daemon()
            mount.begin_daemon()
            for name in mount.snapshots("web1"):
                os.rmdir(administer.snapshot_path(mount, "web1", name))
            administer.wait_idle(mount)
            mount.goes_on()
            equal([administer.source(mount, "web1", target)[0] for target in TARGETS], first_files(mount), point)
            equal(sorted(os.listdir(mount.source)), [".vmsnapfs", "vda.qcow2", "vdb.qcow2", "web1.json"], point)
        mount.power("destroy")
        assert_one_instant([guest.check(path) for path in first_files(mount)])


def test_daemon_that_is_killed():
    """The guest counts on while daemons come and go, killed at each step of taking a snapshot; each is there whole or not at all"""
    random = checks.seed()
    with Running() as mount:
        mount.serial.wait_compared()
        seen = {}
        mount.expected.append("interrupted|journal|storage daemon")
        for number, point in enumerate(("made", "journaled", "published", "opened", "taken", "committing", "committed", "finishing")):
            name = f"s{number}"
            mount.end_daemon()
            mount.begin_daemon(VMSNAPFS_TEST_CRASH=f"{point}:1")
            kinds = [random.choice(("internal", "external")) for _ in TARGETS]
            if point in ("published", "opened"):
                kinds[0] = "external"
            try:
                mount.create(f"{name} disk-only " + " ".join(f"disk={target}:{kind}" for target, kind in zip(TARGETS, kinds)))
            except OSError as error:
                assert error.errno in (errno.ENOTCONN, errno.ECONNABORTED), error
            mount.process.wait()
            mount.end_daemon()
            mount.goes_on()
            mount.begin_daemon()
            there = name in mount.snapshots("web1")
            beyond_undoing = point in ("taken", "committing") and "external" in kinds
            equal(there, point in ("committed", "finishing") or beyond_undoing, f"{point} {kinds}")
            if there:
                seen[name] = mount.points(name)
                assert_one_instant(seen[name])
            for other, points in seen.items():
                equal(mount.points(other), points, f"{other}, after {name}")
        mount.create("last disk-only disk=vda:external disk=vdb:internal")
        seen["last"] = mount.points("last")
        mount.goes_on()
        mount.power("destroy")
        for name, points in seen.items():
            equal(mount.points(name), points, name)
            os.rmdir(administer.snapshot_path(mount, "web1", name))
        equal(mount.snapshots("web1"), [])
        administer.wait_idle(mount)
        equal([administer.source(mount, "web1", target)[0] for target in TARGETS], [os.path.join(mount.source, f"{target}.qcow2") for target in TARGETS])
        equal(sorted(name for name in os.listdir(mount.source) if name != ".vmsnapfs"), ["vda.qcow2", "vdb.qcow2", "web1.json"])


def needs_recovery(raw):
    """Whether the file system has a journal to be replayed; all else has to be right."""
    if "needs_recovery" in subprocess.run(["dumpe2fs", "-h", raw], capture_output=True, text=True, check=True).stdout:
        return True
    checked = subprocess.run(["e2fsck", "-fn", raw], capture_output=True, text=True)
    equal(checked.returncode, 0, checked.stdout)
    return False


def make_ext4(path):
    subprocess.run(["mkfs.ext4", "-q", f"{path}.raw", "32M"], check=True)
    subprocess.run(["qemu-img", "convert", "-q", "-f", "raw", "-O", "qcow2", f"{path}.raw", path], check=True)
    os.unlink(f"{path}.raw")


def create_quiesced(mount, words):
    """The agent of a slow guest may not answer in time; then nothing has happened."""
    while True:
        try:
            return mount.create(words)
        except OSError as error:
            equal(error.errno, errno.ETIMEDOUT)
            mount.serial.wait_counts()


def test_quiesced():
    """quiesce=require gives a clean file system, and the guest writes on; without, its journal has to be replayed"""
    need("mkfs.ext4", "dumpe2fs", "e2fsck")
    with Running("ext4", agent=True, images=make_ext4) as mount:
        mount.expected.append("may still be frozen")  # for a while, where the agent of a slow guest is late
        mount.serial.wait_ready()
        mount.serial.wait_counts()
        for kind in ("internal", "external"):
            mount.create(f"crash-{kind} disk-only " + " ".join(f"disk={target}:{kind}" for target in TARGETS))
            create_quiesced(mount, f"quiet-{kind} disk-only quiesce=require " + " ".join(f"disk={target}:{kind}" for target in TARGETS))
            mount.serial.wait_counts()
        mount.serial.assert_right()
        for name, wanted in (("crash", True), ("quiet", False)):
            for kind in ("internal", "external"):
                copy = os.path.join(mount.room, "copy")
                shutil.copyfile(mount.path("web1", "snapshots", f"{name}-{kind}", "disks", "vdb.raw"), copy)
                equal(needs_recovery(copy), wanted, f"{name}-{kind}")
                equal(mount.text("web1", "snapshots", f"{name}-{kind}", "consistency"), "crash\n" if wanted else "quiesced\n")


if __name__ == "__main__":
    main(globals())
