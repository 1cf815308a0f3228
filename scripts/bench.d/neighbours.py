# SPDX-License-Identifier: LGPL-2.1-or-later
"""P20, the page cache: what a backup through the mount leaves of the cache of everything else on the host.

Other files fill the page cache; then a frozen disk of the same size, which is not cached, is read once, from begin to
end; then it is counted (mincore) how much of the other files is still cached. The machine has the size of the other
cache plus a spare part: it is a memory cgroup, in which the reader, the daemon and whoever filled the cache live, so
that the bench is the same on hosts of every size and takes nothing from their real work. How much is left after a
plain cat of the same disk shows what happens if nobody takes care.
"""

import contextlib
import os

import images
from machine import cached_bytes, forget
from readers import timed
from report import Series
from session import BenchError

KEYS = ("P20.raw", "P20.qcow2")
FILES = 8  # that the other cache consists of
ROOTS = ("/sys/fs/cgroup/memory", "/sys/fs/cgroup")  # version 1, version 2


class MemoryGroup:
    """A memory cgroup with a limit. `prefix` are words that run a command inside it."""

    def __init__(self, name, limit):
        root = next((path for path in ROOTS if os.path.exists(f"{path}/cgroup.procs")), None)
        if root is None:
            raise BenchError("no memory cgroup can be made here")
        self.path = os.path.join(root, name)
        self.limit_file = "memory.limit_in_bytes" if root == ROOTS[0] else "memory.max"
        self.limit = limit
        self.prefix = ["sh", "-c", 'echo $$ > "$0/cgroup.procs" && exec "$@"', self.path]

    def __enter__(self):
        try:
            os.mkdir(self.path)
            self._write(self.limit_file, str(self.limit))
        except OSError as error:
            self.__exit__()
            raise BenchError(f"no memory cgroup can be made here: {error}") from None
        return self

    def __exit__(self, *_):
        with contextlib.suppress(OSError):
            self._write("memory.force_empty", "0")
        with contextlib.suppress(OSError):
            os.rmdir(self.path)

    def _write(self, name, value):
        with open(os.path.join(self.path, name), "w", encoding="ascii") as file:
            file.write(value)


def measure(context):
    with context.workspace.folder("other") as folder:
        others = make_others(folder, context.sizes.other_cache)
        with context.workspace.folder("raw") as raw_folder:
            raw = os.path.join(raw_folder, "base.raw")
            images.dense_raw(raw, context.sizes.other_cache)
            images.overlay(os.path.join(raw_folder, "disk.qcow2"), raw, "raw")
            kept = Host(context, others, raw).left_by_cat(raw)
            context.report.inform("P20", "kept by a plain cat of that disk, for comparison", kept, "")
            if context.wants("P20.raw"):
                measure_disk(context, "P20.raw", Host(context, others, raw), raw_folder)
            if context.wants("P20.qcow2"):
                with context.workspace.folder("qcow2") as folder_2:
                    image = os.path.join(folder_2, "base.qcow2")
                    images.convert(raw, image)
                    images.overlay(os.path.join(folder_2, "disk.qcow2"), image)
                    os.unlink(raw)
                    measure_disk(context, "P20.qcow2", Host(context, others, image), folder_2)


def make_others(folder, size):
    """The files whose cache is to be kept."""
    paths = [os.path.join(folder, f"other-{number}") for number in range(FILES)]
    for path in paths:
        images.dense_raw(path, size // FILES)
    return paths


def measure_disk(context, key, host, folder):
    """Backs a disk up with cat, several times (the figure), and with the read sizes of rsync and tar (information)."""
    rounds = min(3, context.sizes.rounds)
    runs = [host.left_by_mount(folder, "128K") for _ in range(rounds)]
    kept = Series("kept", "", [share for share, _ in runs])
    context.report.figure(key, kept.median, (kept, Series("read at, from the disk", "B/s", [rate for _, rate in runs])))
    for name, block in (("rsync", "256K"), ("tar", "10K")):
        context.report.inform(key, f"kept, with reads as {name} does them", host.left_by_mount(folder, block)[0], "")


class Host:
    """A host with the other files in its page cache and one image that is not in it."""

    def __init__(self, context, others, image):
        self.context, self.others, self.image = context, others, image

    @contextlib.contextmanager
    def filled(self):
        """The cgroup, with the other files read into the page cache by it."""
        sizes = self.context.sizes
        name = os.path.basename(self.context.workspace.path)
        forget(self.image, *self.others)
        with MemoryGroup(name, sizes.other_cache + sizes.spare) as group:
            timed("cat", *self.others, prefix=group.prefix)
            yield group
        forget(self.image, *self.others)

    def cached(self):
        return sum(map(cached_bytes, self.others))

    def left_by_cat(self, path):
        """The share of the other cache that is left after reading `path` directly."""
        with self.filled() as group:
            before = self.cached()
            timed("cat", path, prefix=group.prefix)
            return self.cached() / before

    def left_by_mount(self, folder, block):
        """The same after reading the frozen disk through a mount, and how fast that went (bytes per second)."""
        with self.filled() as group:
            before = self.cached()
            with self.context.vmsnapfs.mounted(folder, prefix=group.prefix) as mount:
                path = mount.disk("disk")
                seconds = timed("dd", f"if={path}", "of=/dev/null", f"bs={block}", "status=none", prefix=group.prefix)
                kept = self.cached() / before
                return kept, os.stat(path).st_size / seconds
