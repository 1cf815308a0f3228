# SPDX-License-Identifier: LGPL-2.1-or-later
"""backup and restore: frozen disks out of a mount, as plain sparse files, and one of them back into a domain."""

import contextlib
import errno
import os
import shutil
import subprocess
import tempfile
import time

import progress
from mount import Refused, find_mount, quoted, read_text

CHUNK = 1 << 20
STAMP = "%Y%m%dT%H%M%SZ"


def backup(options):
    """DIR is made as a whole: under another name beside it, and renamed when everything is on the disk."""
    domain = find_mount(options.mount).domain(options.domain)
    target = os.path.abspath(options.directory)
    check_free(target)
    with contextlib.ExitStack() as stack:
        name = options.snapshot or stack.enter_context(temporary_snapshot(domain))
        snapshot = domain.snapshot(name)
        made = stack.enter_context(unfinished(target))
        write_durably(os.path.join(made, "domain.json"), domain.text("domain.json") + "\n")
        write_durably(os.path.join(made, "snapshot.json"), read_text(domain.snapshot_path(name), "snapshot.json") + "\n")
        for disk in snapshot["disks"]:
            source = os.path.join(domain.snapshot_path(name), "disks", disk["file"])
            copied, size = copy_sparse(source, os.path.join(made, disk["file"]))
            print(f"{disk['file']}: {megabytes(copied)} of {megabytes(size)} copied, the rest is holes")
        sync_directory(made)
        os.rename(made, target)
        sync_directory(os.path.dirname(target))
    print(f"{domain.name}, snapshot {name}{' (taken for this and deleted)' if not options.snapshot else ''}, is in {target}")
    if snapshot["missing"]:
        print(f"not in it, since the snapshot has left them out: {' '.join(snapshot['missing'])}")
    return 0


def check_free(target):
    """A backup that is there is never touched."""
    if not os.path.isdir(os.path.dirname(target)):
        raise Refused(f"{os.path.dirname(target)} is no directory")
    if os.path.lexists(target) and (not os.path.isdir(target) or os.listdir(target)):
        raise Refused(f"{target} is there already; name a directory that is empty or not there yet")


@contextlib.contextmanager
def temporary_snapshot(domain):
    """A snapshot as mkdir takes it, for as long as it is copied."""
    name = f"backup-{time.strftime(STAMP, time.gmtime())}-{os.getpid()}"
    domain.make_snapshot(name)
    try:
        yield name
    finally:
        domain.write(f"snapshots/{name}/delete", "1")


@contextlib.contextmanager
def unfinished(target):
    """A directory beside `target`, gone again if the body does not rename it."""
    made = tempfile.mkdtemp(prefix=f".{os.path.basename(target)}.vmsnap-", dir=os.path.dirname(target))
    try:
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)


def write_durably(path, text):
    with open(path, "x", encoding="utf-8", errors="surrogateescape") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def sync_directory(path):
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def extents(handle, size):
    """(begin, end) of each run of data."""
    at = 0
    while at < size:
        try:
            begin = os.lseek(handle, at, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:
                return
            raise
        at = os.lseek(handle, begin, os.SEEK_HOLE)
        yield begin, at


def copy_sparse(source, target):
    """Copies what is data, and makes it durable. Returns the bytes that were copied, and the length."""
    with open(source, "rb", buffering=0) as read, open(target, "xb", buffering=0) as written:
        os.fchmod(written.fileno(), 0o600)
        size = os.fstat(read.fileno()).st_size
        os.truncate(written.fileno(), size)
        bar = progress.Bytes(os.path.basename(source), size)
        copied = reached = 0
        try:
            for begin, end in extents(read.fileno(), size):
                bar.add(begin - reached)
                reached = begin
                while reached < end:
                    data = os.pread(read.fileno(), min(CHUNK, end - reached), reached)
                    if not data:
                        raise Refused(f"{source} ended at {reached}, before its length of {size}")
                    write_all(written.fileno(), data, reached)
                    reached += len(data)
                    copied += len(data)
                    bar.add(len(data))
        finally:
            bar.finish()
        os.fsync(written.fileno())
        return copied, size


def write_all(handle, data, offset):
    view = memoryview(data)
    while view:
        count = os.pwrite(handle, view, offset)
        view, offset = view[count:], offset + count


def megabytes(count):
    return f"{count / (1 << 20):.1f} MiB"


def restore(options):
    """Writes into the image that the domain would start from. It can't be atomic, so the present is kept first."""
    domain = find_mount(options.mount).domain(options.domain)
    disk = domain.target_path(options.target)
    if (state := domain.state()) != "shutoff":
        raise Refused(f"{domain.name} is {state}; shut it down first")
    if problem := domain.document()["problem"]:  # then what would be written to may be what others need
        raise Refused(f"{domain.name}: {problem}")
    file = options.file
    if options.snapshot is not None:
        file = os.path.join(domain.snapshot_path(options.snapshot), "disks", f"{options.target}.raw")
        if not os.path.exists(file):
            raise Refused(f"snapshot {options.snapshot} has left disk {options.target} out")
    check_size(file, disk, options.target)
    if options.guard:
        print(f"the present is kept in snapshot {take_guard(domain, options.target, disk)}")
    source, image_format = read_text(disk, "source"), read_text(disk, "format")
    convert(file, source, image_format)
    print(f"{domain.name}, disk {options.target} ({source}) holds what {file} holds")
    return 0


def check_size(file, disk, target):
    try:
        size = os.stat(file).st_size
    except OSError as error:
        raise Refused(f"{file}: {error.strerror}") from None
    wanted = int(read_text(disk, "size"))
    if size != wanted:
        raise Refused(f"{file} has {size} bytes and disk {target} has {wanted}; restore works where they are equal")


def take_guard(domain, target, disk):
    """A snapshot of the whole domain that surely has the disk in it, whatever its preset."""
    name = f"before-restore-{time.strftime(STAMP, time.gmtime())}-{os.getpid()}"
    words = [name, "disk-only", f"description={quoted(f'before disk {target} was restored')}"]
    if read_text(disk, "snapshot") == "no":
        words.append(f"disk={target}:{'internal' if read_text(disk, 'format') == 'qcow2' else 'external'}")
    try:
        domain.write("create", " ".join(words))
    except Refused as reason:
        raise Refused(f"{reason}\nNothing was restored. Without a snapshot of the present: --no-guard") from None
    return name


def convert(file, source, image_format):
    """qemu-img, into the image as it is: its lock keeps others out, and what is zero in the file is written as zero."""
    bar = ["-p"] if progress.is_shown() else []
    words = ["qemu-img", "convert", *bar, "-n", "-t", "writeback", "-f", "raw", "-O", image_format, file, source]
    try:
        process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    except FileNotFoundError:
        raise Refused("qemu-img is not installed") from None
    status, errors = progress.run_with_percents(process, "restoring")
    if status != 0:
        raise Refused(f"{errors or f'qemu-img ended with {status}'}\nThe disk may hold a part of {file} now; restore it again, or revert")
    handle = os.open(source, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
