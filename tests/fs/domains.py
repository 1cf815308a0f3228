# SPDX-License-Identifier: LGPL-2.1-or-later
"""Domains to be administered, in few words, and what their disks must hold."""

import contextlib
import json
import os
import subprocess

import administer
import make
from checks import equal
from mounted import new_room, run, wait_for

SIZE = 4 * make.MIB


def web1(source, *, follows=True, formats=("qcow2",), presets=None, **more):
    """Domain web1: disk vda in web1.qcow2 or web1.img, vdb in web1-b.…, and so on, each with a byte of its own at 0."""
    disks = []
    for position, image_format in enumerate(formats):
        target = "vd" + "abcdef"[position]
        name = ("web1" if position == 0 else f"web1-{target[-1]}") + (".qcow2" if image_format == "qcow2" else ".img")
        path = os.path.join(source, name)
        if image_format == "raw":
            make.filled(path, SIZE, seed=position)
        else:
            make.image(source, name, str(SIZE))
        make.write(path, f"{position + 1} 0 64k", image_format=image_format)
        disk = make.disk(name, target, image_format)
        if presets and presets[position]:
            disk["snapshot"] = presets[position]
        disks.append(disk)
    return make.definition(source, "web1", disks=disks, **({"follows": True} if follows else {}), **more)


def implicit(source):
    """Domain web1 without a definition: nobody would follow a change of its file."""
    make.write(make.image(source, "web1.qcow2", str(SIZE)), "1 0 64k")


def byte(mount, domain="web1", target="vda", at=0):
    """The byte at an offset of the present."""
    return administer.active_bytes(mount, domain, target)[at]


def frozen_byte(mount, snapshot, domain="web1", target="vda", at=0):
    return administer.frozen_bytes(mount, domain, snapshot, target)[at]


def write(mount, value, domain="web1", target="vda", at=0):
    """The guest writes a page of a byte."""
    administer.guest_write(mount, domain, target, f"{value} {at} 4k")


def take(mount, name, domain="web1"):
    os.mkdir(administer.snapshot_path(mount, domain, name))


def create(mount, words, domain="web1"):
    return administer.command(mount, domain, "create", words)


def chain(mount, names, kind="external", domain="web1"):
    """Snapshots one after the other; before the nth the guest writes n at 0."""
    for number, name in enumerate(names, 1):
        write(mount, number, domain)
        create(mount, f"{name} disk=vda:{kind}", domain)
    write(mount, len(names) + 1, domain)


def parents(mount, domain="web1"):
    """{snapshot: parent or None}"""
    found = {}
    for name in mount.snapshots(domain):
        try:
            found[name] = os.path.basename(os.readlink(mount.path(domain, "snapshots", name, "parent")))
        except FileNotFoundError:
            found[name] = None
    return found


def current(mount, domain="web1"):
    try:
        return os.path.basename(os.readlink(mount.path(domain, "current")))
    except FileNotFoundError:
        return None


def document(mount, snapshot, domain="web1"):
    return json.loads(mount.text(domain, "snapshots", snapshot, "snapshot.json"))


def kinds(mount, snapshot, domain="web1"):
    """{target: internal or external} of the disks that a snapshot includes."""
    return {disk["target"]: disk["kind"] for disk in document(mount, snapshot, domain)["disks"]}


class Unchanged:
    """Whatever is refused in the body changes nothing: snapshots, tree, active files, files in the source, tags."""

    def __init__(self, mount, domain="web1"):
        self.mount, self.domain = mount, domain

    def picture(self):
        mount, domain = self.mount, self.domain
        targets = sorted(os.listdir(mount.path(domain, "disks")))
        return (
            parents(mount, domain),
            current(mount, domain),
            {target: administer.layers(mount, domain, target) for target in targets},
            administer.names_beside(mount),
            {path: administer.tags(path) for path in administer.images(mount.source)},
            {target: administer.active_bytes(mount, domain, target) for target in targets},
            {name: document(mount, name, domain) for name in mount.snapshots(domain)},
        )

    def __enter__(self):
        administer.wait_idle(self.mount)
        self.before = self.picture()
        return self

    def __exit__(self, kind, value, trace):
        if not kind:
            administer.wait_idle(self.mount)
            for found, wanted in zip(self.picture(), self.before):
                assert found == wanted, f"what was refused has changed something: {str(found)[:500]} where it was {str(wanted)[:500]}"


def home(mount, domain="web1", target="vda", name=None):
    """All is deleted and done: the disk is on its first file alone."""
    administer.wait_idle(mount)
    equal(administer.layers(mount, domain, target), [os.path.join(mount.source, name or f"{domain}.qcow2")], f"{domain} {target}")


class Holder:
    """Another program, qemu-nbd, that has an image open for writing; yields its process."""

    def __init__(self, mount, path, image_format="qcow2"):
        socket = os.path.join(mount.room, f"nbd-{os.path.basename(path)}")
        self.process = subprocess.Popen(["qemu-nbd", "-f", image_format, "-k", socket, "--persistent", path])
        wait_for(lambda: lock_mark(path) in locks(), f"qemu-nbd's lock on {path}")

    def __enter__(self):
        return self.process

    def __exit__(self, *_):
        while self.process.poll() is None:
            self.process.terminate()  # more than once: qemu-nbd forgets one that comes while it starts
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(1)


def lock_mark(path):
    """What a line of /proc/locks has of a lock on the file."""
    file = os.stat(path)
    return f" {os.major(file.st_dev):02x}:{os.minor(file.st_dev):02x}:{file.st_ino} "


def locks():
    with open("/proc/locks", encoding="ascii") as file:
        return file.read()


@contextlib.contextmanager
def small_file_system(megabytes, make_it=("mkfs.ext4", "-q", "-F", "-m", "0")):
    """A directory on a file system of that size, of its own, an ext4 if nothing else is said."""
    room = new_room()
    image, point = os.path.join(room, "small.img"), os.path.join(room, "small")
    os.mkdir(point)
    with open(image, "wb") as file:
        file.truncate(megabytes * make.MIB)
    run(*make_it, image)
    run("mount", "-o", "loop", image, point)
    try:
        with contextlib.suppress(FileNotFoundError):
            os.rmdir(os.path.join(point, "lost+found"))
        yield point
    finally:
        subprocess.run(["umount", point], check=False)


def fill(directory, leave=0):
    """Takes all room of a file system but `leave` bytes; returns the file that does."""
    path = os.path.join(directory, ".filler")
    handle = os.open(path, os.O_CREAT | os.O_WRONLY, 0o600)
    try:
        size = os.statvfs(directory).f_bavail * os.statvfs(directory).f_frsize - leave
        while size >= 4096:
            try:
                os.posix_fallocate(handle, os.fstat(handle).st_size, size)
                size = os.statvfs(directory).f_bavail * os.statvfs(directory).f_frsize - leave
            except OSError:
                size //= 2
    finally:
        os.close(handle)
    return path
