# SPDX-License-Identifier: LGPL-2.1-or-later
"""The machine: what it is, and bringing its memory into a state in which two runs of the same thing take the same
time.

A virtual machine's memory is often handed out by its host only at the first touch, several times slower than later.
Whoever is measured first would pay for it. So most of the free memory is written once and given back before anything
is measured (settle_memory). The page cache of files is looked at with mincore.
"""

import ctypes
import mmap
import os
import platform
import re
import subprocess

GIB = 1 << 30
MIB = 1 << 20
SETTLE_LIMIT = 24 * GIB   # more than a run ever has in memory at once
SETTLE_SPARE = 2 * GIB    # left alone, for everything else on the machine

libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long)
libc.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
libc.mincore.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p)


def meminfo(field):
    """A field of /proc/meminfo, in bytes."""
    with open("/proc/meminfo", encoding="ascii") as lines:
        for line in lines:
            name, value = line.split(":")
            if name == field:
                return int(value.split()[0]) * 1024
    return 0


def settle_memory(limit=SETTLE_LIMIT):
    """Writes to the free memory once, up to `limit` bytes, in a child that then ends. Returns the bytes written."""
    size = max(0, min(limit, meminfo("MemFree") - SETTLE_SPARE)) & ~(MIB - 1)
    if not size:
        return 0
    child = os.fork()
    if child == 0:
        try:
            touch(size)
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    return size


def touch(size):
    """Writes `size` bytes of memory, a piece at a time; the first to go if the machine runs short."""
    with open("/proc/self/oom_score_adj", "w", encoding="ascii") as score:
        score.write("1000")
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    piece = b"\1" * MIB
    for _ in range(size // MIB):
        memory.write(piece)


def cached_bytes(path):
    """How much of a file is in the page cache."""
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        if not size:
            return 0
        where = libc.mmap(None, size, mmap.PROT_READ, mmap.MAP_SHARED, file.fileno(), 0)
        if where == ctypes.c_void_p(-1).value:
            raise OSError(ctypes.get_errno(), "mmap", path)
        pages = (size + mmap.PAGESIZE - 1) // mmap.PAGESIZE
        present = (ctypes.c_ubyte * pages)()
        try:
            if libc.mincore(where, size, present):
                raise OSError(ctypes.get_errno(), "mincore", path)
        finally:
            libc.munmap(where, size)
        return min(size, bytes(present).count(1) * mmap.PAGESIZE)


def warm(*paths):
    """Reads files into the page cache, as far as they are not there. Returns the share of them that is there
    afterwards, 0 to 1."""
    for path in paths:
        if cached_bytes(path) < os.path.getsize(path):
            read_through(path)
    return sum(map(cached_bytes, paths)) / max(1, sum(map(os.path.getsize, paths)))


def read_through(path):
    """Reads a file from begin to end."""
    with open(path, "rb", buffering=0) as file:
        buffer = bytearray(MIB)
        while file.readinto(buffer):
            pass


def forget(*paths):
    """Writes files back and drops them from the page cache."""
    for path in paths:
        with open(path, "rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def drop_names():
    """Drops the kernel's cached names and inodes (as far as it can). False if this user may not."""
    try:
        with open("/proc/sys/vm/drop_caches", "w", encoding="ascii") as file:
            file.write("2\n")
    except OSError:
        return False
    return True


def file_system(path):
    """The type of the file system that holds `path`."""
    return first_line("stat", "-f", "-c", "%T", path)


def first_line(*words):
    """The first line that a command writes; a dash if it can't be run."""
    try:
        done = subprocess.run(words, capture_output=True, text=True, check=False)
    except OSError:
        return "-"
    return ((done.stdout + done.stderr).strip().splitlines() or ["-"])[0]


def version(*words):
    """The version number in the first line that a command writes."""
    found = re.search(r"\d+(\.\d+)+\S*", first_line(*words))
    return found.group() if found else "-"


def cpu_model():
    with open("/proc/cpuinfo", encoding="utf-8") as lines:
        found = re.search(r"^model name\s*:\s*(.*)$", lines.read(), re.MULTILINE)
    return found.group(1) if found else platform.machine()


def describe(data_folder):
    """What a reader of the figures must know about where they were taken."""
    return {
        "cpu": cpu_model(),
        "cores": os.cpu_count(),
        "memory_gib": round(meminfo("MemTotal") / GIB, 1),
        "kernel": platform.release(),
        "file_system": file_system(data_folder),
        "qemu": version("qemu-img", "--version"),
        "nbdfuse": version("nbdfuse", "--version"),
        "libfuse": version("fusermount3", "--version"),
        "fio": version("fio", "--version"),
        "load_before": round(os.getloadavg()[0], 2),
        "root": os.geteuid() == 0,
    }
