# SPDX-License-Identifier: LGPL-2.1-or-later
"""Builds the test guest: its kernel, and an initial file system with init.c as its only program, and the guest agent
in a second archive. What was built is kept, and built anew when something of it has changed."""

import collections
import hashlib
import os
import re
import stat
import subprocess
import tempfile

import packages

HERE = os.path.dirname(os.path.abspath(__file__))
Images = collections.namedtuple("Images", "kernel initramfs initramfs_with_agent")


class Archive:
    """A cpio archive as the kernel unpacks it (Linux, Documentation/driver-api/early-userspace/buffer-format.rst)."""

    def __init__(self):
        self.content = bytearray()
        self._inode = 0
        self._folders = set()

    def _add(self, path, mode, content=b"", device=(0, 0)):
        self._inode += 1
        name = path.encode() + b"\0"
        fields = (self._inode, mode, 0, 0, 1, 0, len(content), 0, 0, *device, len(name), 0)
        self.content += b"070701" + b"".join(b"%08X" % field for field in fields) + name
        self.content += bytes(-len(self.content) % 4) + content
        self.content += bytes(-len(self.content) % 4)

    def folder(self, path):
        if path and path not in self._folders:
            self.folder(os.path.dirname(path))
            self._folders.add(path)
            self._add(path, stat.S_IFDIR | 0o755)

    def file(self, path, source):
        self.folder(os.path.dirname(path))
        with open(source, "rb") as file:
            self._add(path, stat.S_IFREG | 0o755, file.read())

    def console(self):
        """What process 1 has as its standard output from the beginning."""
        self.folder("dev")
        self._add("dev/console", stat.S_IFCHR | 0o600, device=(5, 1))

    def finish(self):
        self._add("TRAILER!!!", 0)
        self.content += bytes(-len(self.content) % 512)
        return self.content


def libraries(program):
    """The shared libraries that a program is started with, and the one that starts it."""
    said = subprocess.run(["ldd", program], capture_output=True, text=True, check=True).stdout
    if "not found" in said:
        raise OSError(f"{program} needs libraries that are not installed: {said}")
    return re.findall(r"(/\S+) \(0x", said)


def base(room):
    archive = Archive()
    archive.console()
    subprocess.run(["cc", "-O2", "-static", "-Wall", "-Wextra", "-D_GNU_SOURCE", "-o", f"{room}/init", f"{HERE}/init.c"], check=True)
    archive.file("init", f"{room}/init")
    for name in packages.MODULES:
        if os.path.exists(os.path.join(packages.folder(), f"{name}.ko")):
            archive.file(f"modules/{name}.ko", os.path.join(packages.folder(), f"{name}.ko"))
    return archive.finish()


def agent():
    archive = Archive()
    program = os.path.join(packages.folder(), "qemu-ga")
    archive.file("usr/sbin/qemu-ga", program)
    for library in libraries(program):
        archive.file(library.lstrip("/"), library)
    return archive.finish()


def fingerprint():
    """Of all that goes into it; of libraries, which other ones replace as wholes, their times."""
    digest = hashlib.sha256()
    for path in (f"{HERE}/init.c", __file__):
        with open(path, "rb") as file:
            digest.update(file.read())
    inputs = [os.path.join(packages.folder(), name) for name in sorted(os.listdir(packages.folder()))]
    for path in inputs + libraries(os.path.join(packages.folder(), "qemu-ga")):
        digest.update(f"{path} {os.stat(path).st_size} {os.stat(path).st_mtime_ns}".encode())
    return digest.hexdigest()[:16]


def images():
    """The guest, built if need be. OSError where its packages were not fetched, or what it is built with is missing."""
    if not packages.there():
        raise FileNotFoundError("the test guest's packages are not there: run scripts/install-deps --test")
    built = os.path.join(packages.cache(), f"guest-{fingerprint()}")
    if not os.path.isdir(built):
        with tempfile.TemporaryDirectory(dir=packages.cache(), prefix="building-") as room:
            made = os.path.join(room, "guest")
            os.mkdir(made)
            first = base(room)
            for name, content in (("initramfs", first), ("initramfs-agent", first + agent())):
                with open(f"{made}/{name}", "wb") as file:
                    file.write(content)
            try:
                os.rename(made, built)
            except OSError:  # another one was as fast
                if not os.path.isdir(built):
                    raise
    return Images(os.path.join(packages.folder(), "vmlinuz"), f"{built}/initramfs", f"{built}/initramfs-agent")
