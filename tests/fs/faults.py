# SPDX-License-Identifier: LGPL-2.1-or-later
"""Faults of a mounted daemon, by the layer that is preloaded into it (fault_layer.c): which call fails, and how."""

import errno
import mmap
import os
import struct
import tempfile

from checks import Skip
from mounted import PROGRAM

LIBRARY = os.environ.get("VMSNAPFS_FAULT_LAYER") or os.path.join(os.path.dirname(PROGRAM), "..", "tests", "fs", "libfault_layer.so")
HEAD = struct.Struct("=IIiIIi")
TOLD, SOURCE, ONLY = 2048, 1024, 64

KINDS = ("nothing", "files", "reads", "starts", "qmp", "runs", "writes", "monitor")
QMP = {"error": 1, "silent": 2, "carried out, silent": 3, "killed": 4, "carried out, killed": 5, "garbage": 6}
MONITOR = {**QMP, "breaks": 7, "carried out, breaks": 8}
RUNS = {"fails": 1, "killed": 2, "garbage": 3, "hangs": 4, "not started": 5}
ERRNOS = {"ENOSPC": errno.ENOSPC, "EIO": errno.EIO, "EACCES": errno.EACCES}
WAYS = {
    "files": ERRNOS,
    "reads": {"EIO": errno.EIO},
    "starts": {"EAGAIN": errno.EAGAIN},
    "qmp": QMP,
    "runs": RUNS,
    "writes": {"killed": 0, "ENOSPC": errno.ENOSPC, "EIO": errno.EIO},
}
RUNNING_WAYS = {**WAYS, "monitor": MONITOR}  # of operations on domains that run


class Fault:
    """The Nth call of a kind fails in a way; `lasts`: and all after it. `only`: of this command."""

    def __init__(self, kind, way, lasts=False, only=""):
        self.kind, self.way, self.lasts, self.only = kind, way, lasts, only

    def __str__(self):
        return f"{self.kind}: {self.way}{' from then on' if self.lasts else ''}{' of ' if self.only else ''}{self.only}"


class Faults:
    """Of one daemon after the other, with the same source."""

    def __init__(self):
        if not os.path.exists(LIBRARY):
            raise Skip(f"{LIBRARY} was not built")
        self.file = tempfile.NamedTemporaryFile(prefix="vmsnapfs-faults-")
        self.file.truncate(HEAD.size + TOLD + SOURCE + ONLY)
        self.page = mmap.mmap(self.file.fileno(), HEAD.size + TOLD + SOURCE + ONLY)

    def environment(self):
        found = {"VMSNAPFS_TEST_FAULTS": self.file.name, "LD_PRELOAD": os.path.abspath(LIBRARY)}
        if os.environ.get("VMSNAPFS_SANITIZED"):
            found["ASAN_OPTIONS"] = os.environ.get("ASAN_OPTIONS", "") + ":verify_asan_link_order=0"
        return found

    def watch(self, source):
        """Beneath which directory calls on files fail."""
        self.disarm()
        self.page[HEAD.size + TOLD : -ONLY] = os.fsencode(os.path.realpath(source)).ljust(SOURCE, b"\0")

    def arm(self, fault, number):
        self.disarm()
        self.number = number
        self.page[HEAD.size : HEAD.size + TOLD] = bytes(TOLD)
        self.page[-ONLY:] = fault.only.encode().ljust(ONLY, b"\0")
        self.page[4 : HEAD.size] = HEAD.pack(0, RUNNING_WAYS[fault.kind][fault.way], number, fault.lasts, 0, 0)[4:]
        self.page[:4] = struct.pack("=I", KINDS.index(fault.kind))

    def passed(self):
        """How many calls of the kind there have been since it was armed."""
        return self.number - HEAD.unpack(self.page[: HEAD.size])[2]

    def disarm(self):
        """Returns which calls were hit; empty: none was."""
        self.page[:4] = bytes(4)
        return self.page[HEAD.size : HEAD.size + TOLD].rstrip(b"\0").decode(errors="replace")

    def close(self):
        self.page.close()
        self.file.close()
