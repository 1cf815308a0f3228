# SPDX-License-Identifier: LGPL-2.1-or-later
"""P7, P8 and the idle half of P20: a folder of 100 images with 100 internal snapshots each.

P7 takes the time from starting the command until the last domain's last snapshot can be listed: for the very first
mount (which makes the store) and for one after it. P8 runs find -ls over the tree and over a copy of it on ext4,
which has the same directories, links and small files, and a sparse file of the same length for each frozen disk. The
first time, ours is a new mount, and ext4 has lost its cached names and inodes while its blocks are still in the page
cache; the second time follows at once. The kernel asks a file system that is not mounted read-only for the attributes
of every directory again once its listing was read (to learn the new access time), which is most of what the second time
takes, so a mount with -o ro is told beside it.
"""

import contextlib
import os
import shutil
import time

import images
from machine import MIB, drop_names, file_system
from readers import list_tree
from report import Series, interleave
from session import BenchError, command, unmount

KEYS = ("P7.first", "P7.again", "P7.memory", "P8.first", "P8.second", "P20.cpu")
QUIET_SECONDS = 120  # at most this long for the work that a new mount does in the background


def measure(context):
    with context.workspace.folder("tree") as folder:
        images.many_domains(folder, context.sizes.domains, context.sizes.snapshots)
        if context.wants("P7.first", "P7.again"):
            measure_mounting(context, folder)
        if context.wants("P7.memory", "P20.cpu"):
            measure_idle(context, folder)
        if context.wants("P8.first", "P8.second"):
            measure_listing(context, folder)


def last_snapshot(context):
    return f"domain-{context.sizes.domains:03}/snapshots/snapshot-{context.sizes.snapshots:03}"


def measure_mounting(context, folder):
    """P7, the times."""

    def mount():
        with context.vmsnapfs.mounted(folder, usable=last_snapshot(context)) as mounted:
            return mounted.seconds

    def first():
        shutil.rmtree(os.path.join(folder, ".vmsnapfs"), ignore_errors=True)
        return mount()

    new, again = interleave(context.sizes.rounds, "s", {"first mount": first, "later mount": mount},
                            lambda: context.warm(*images.paths(folder)))
    context.report.figure("P7.first", new.median, (new,))
    context.report.figure("P7.again", again.median, (again,))


def measure_idle(context, folder):
    """P7's memory and P20's processor time, of one mount: listed once, and then left alone."""
    with context.vmsnapfs.mounted(folder) as mount:
        context.report.inform("P7", "resident memory after mounting", status(mount, "VmRSS") / MIB, "MiB")
        list_tree(mount.point)
        busy = wait_quiet(mount)
        context.report.figure("P7.memory", status(mount, "VmRSS") / MIB)
        context.report.inform("P7", "of that, anonymous (RssAnon)", status(mount, "RssAnon") / MIB, "MiB")
        context.report.inform("P7", "at most, ever (VmHWM)", status(mount, "VmHWM") / MIB, "MiB")
        if context.wants("P20.cpu"):
            context.report.figure("P20.cpu", 100 * load(mount, context.sizes.idle_seconds))
            context.report.inform("P20", "processor time until the mount was idle", busy, "s")


def status(mount, field):
    """A field of /proc/PID/status, in bytes, of all processes of the mount together."""
    total = 0
    for pid in mount.pids:
        with open(f"/proc/{pid}/status", encoding="ascii", errors="replace") as lines:
            total += sum(int(line.split()[1]) * 1024 for line in lines if line.startswith(field + ":"))
    return total


def processor_seconds(mount):
    """Processor time that the processes of the mount have used so far, user and system."""
    ticks = 0
    for pid in mount.pids:
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as line:
            fields = line.read().rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def load(mount, seconds):
    """Processors that the mount keeps busy, over `seconds`."""
    before, begin = processor_seconds(mount), time.monotonic()
    time.sleep(seconds)
    return (processor_seconds(mount) - before) / (time.monotonic() - begin)


def wait_quiet(mount):
    """Waits until what a new mount does in the background (counting allocated blocks) is done: a second with under 5 %
    of a processor. Returns the processor time that the mount took until then."""
    deadline = time.monotonic() + QUIET_SECONDS
    while load(mount, 1) > 0.05 and time.monotonic() < deadline:
        pass
    return processor_seconds(mount)


def measure_listing(context, folder):
    """P8."""
    with ext4_folder(context) as copy:
        with context.vmsnapfs.mounted(folder) as mount:
            count = copy_tree(mount.point, copy)
        context.report.inform("P8", "files, directories and links in the tree", count, "")
        runs = {name: [] for name in ("ours, first", "ext4, first", "ours, second", "ext4, second")}
        for number in range(context.sizes.rounds + 1):
            times = list_ours(context, folder) + list_copy(copy)
            if number:
                for name, seconds in zip(("ours, first", "ours, second", "ext4, first", "ext4, second"), times):
                    runs[name].append(seconds)
        with context.vmsnapfs.mounted(folder, options=("-o", "ro")) as mount:
            list_tree(mount.point)
            read_only = list_tree(mount.point)
        series = {name: Series(name, "s", values) for name, values in runs.items()}
        context.report.ratio("P8.first", series["ours, first"], series["ext4, first"])
        context.report.ratio("P8.second", series["ours, second"], series["ext4, second"])
        context.report.inform("P8.second", "ours with -o ro / ext4", read_only / series["ext4, second"].median, "")


def list_ours(context, folder):
    """find -ls over a new mount, twice."""
    context.warm(*images.paths(folder))
    with context.vmsnapfs.mounted(folder) as mount:
        return list_tree(mount.point), list_tree(mount.point)


def list_copy(copy):
    """find -ls over the copy, without and with its names and inodes in memory."""
    if not drop_names():
        raise BenchError("only root may drop the cached names of ext4")
    return list_tree(copy), list_tree(copy)


@contextlib.contextmanager
def ext4_folder(context):
    """A folder on ext4: beside the data if that is ext4, else in an image file that is mounted."""
    with context.workspace.folder("copy") as folder:
        if file_system(folder) == "ext2/ext3":  # as stat calls all three
            yield folder
            return
        image, point = os.path.join(folder, "ext4.img"), os.path.join(folder, "point")
        os.mkdir(point)
        with open(image, "wb") as file:
            file.truncate(4096 * MIB)
        command("mkfs.ext4", "-q", "-F", "-N", "1000000", image)
        command("mount", "-o", "loop", image, point)
        try:
            yield point
        finally:
            unmount(point)


def copy_tree(source, target):
    """Copies directories, links and small files with their times; frozen disks become sparse files of their length.
    Returns how many there are of all."""
    count = 0
    pending = [(source, target)]
    while pending:
        here, there = pending.pop()
        for entry in os.scandir(here):
            made = os.path.join(there, entry.name)
            count += 1
            if entry.is_symlink():
                os.symlink(os.readlink(entry.path), made)
            elif entry.is_dir():
                os.mkdir(made)
                pending.append((entry.path, made))
            else:
                copy_file(entry, made)
    return count


def copy_file(entry, made):
    """A copy of the same length; one with the same bytes, unless it is large or can't be read (a control file)."""
    size = entry.stat().st_size
    with open(made, "wb") as file:
        if size <= MIB:
            with contextlib.suppress(OSError):
                with open(entry.path, "rb") as original:
                    file.write(original.read(MIB))
        file.truncate(size)
