# SPDX-License-Identifier: LGPL-2.1-or-later
"""Frozen disks read through the mount in every way that programs have: always what qemu-img reads."""

import concurrent.futures
import errno
import json
import mmap
import os
import random
import subprocess
import tempfile

import checks
import make
from checks import equal, need
from mounted import Mounted, run

import images  # from tests/image, which make puts on the path
import oracle

ROUNDS = 8
RANDOM_READS = 60


def expected_contents(chain):
    """{(path of a layer, snapshot id or None): (bytes, QEMU's map)} of a chain. Before it is mounted: copies appear."""
    contents = {}
    scratch = os.path.join(chain.directory, "scratch")
    for layer, snapshot in chain.contents():
        path = oracle.snapshot_applied(layer.path, snapshot.id) if snapshot else layer.path
        oracle.convert(path, layer.format, scratch)
        with open(scratch, "rb") as file:
            contents[layer.path, snapshot.id if snapshot else None] = file.read(), oracle.map_extents(path, layer.format)
        if snapshot:
            os.unlink(path)
        os.unlink(scratch)
    return contents


def extents_of(fd, size):
    """The map by SEEK_DATA and SEEK_HOLE: (start, end, is_data)."""
    offset = 0
    while offset < size:
        try:
            data = os.lseek(fd, offset, os.SEEK_DATA)
        except OSError as error:
            equal(error.errno, errno.ENXIO)
            data = size
        if data > offset:
            yield offset, data, False
        if data < size:
            offset = os.lseek(fd, data, os.SEEK_HOLE)
            yield data, offset, True
        else:
            offset = size


def random_piece(rng, size):
    offset = rng.randrange(size + 1)
    return offset, rng.choice([1, 511, 4096, 4097, 65536, rng.randrange(1, 1 << 20)])


def read_every_way(path, content, rng):
    """Full, partial, unaligned, parallel, mapped, direct and sent reads of one frozen disk."""
    size = len(content)
    with open(path, "rb", buffering=0) as file:
        fd = file.fileno()
        equal(os.fstat(fd).st_size, size, path)
        assert file.readall() == content, f"{path}: a plain read differs"
        pieces = [random_piece(rng, size) for _ in range(RANDOM_READS)]
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            for (offset, length), found in zip(pieces, pool.map(lambda piece: os.pread(fd, piece[1], piece[0]), pieces)):
                assert found == content[offset : offset + length], f"{path}: {length} bytes at {offset} differ"
        equal(os.pread(fd, 10, size), b"", "beyond the end")
        with mmap.mmap(fd, 0, prot=mmap.PROT_READ) as view:
            assert view[:] == content, f"{path}: mmap differs"
        with tempfile.TemporaryFile() as sink:
            sent = 0
            while count := os.sendfile(sink.fileno(), fd, sent, 1 << 20):
                sent += count
            sink.seek(0)
            assert sink.read() == content, f"{path}: sendfile differs"
    read_direct(path, content, rng)


def read_direct(path, content, rng):
    """O_DIRECT, into a page-aligned buffer."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECT)
    with mmap.mmap(-1, 256 * 1024) as buffer:
        for _ in range(20):
            offset = rng.randrange(len(content)) // 4096 * 4096
            length = rng.randrange(1, 64) * 4096
            count = os.preadv(fd, [memoryview(buffer)[:length]], offset)
            assert buffer[:count] == content[offset : offset + length], f"{path}: O_DIRECT at {offset} differs"
    os.close(fd)


def test_random_images():
    """Random chains: every frozen disk equals qemu-img's reading, in every way of reading, with the same holes"""
    rng = checks.seed()
    checked = 0
    for _ in range(ROUNDS):
        mount = Mounted()
        chain = images.random_chain(rng, mount.source)
        contents = expected_contents(chain)
        make.definition(mount.source, "dom", disks=[make.disk(chain.top.path, image_format=chain.top.format)])
        mount.options = f"backing-format={chain.untold_format}" if chain.untold_format else ""
        with mount:
            shown = {}
            for name in mount.snapshots("dom"):
                disk = json.loads(mount.text("dom", "snapshots", name, "snapshot.json"))["disks"][0]
                shown[name] = disk["layer"], disk["internal_id"]
            equal(sorted(map(str, shown.values())), sorted(str(key) for key in contents if key != (chain.top.path, None)), "frozen contents shown")
            for name, key in shown.items():  # before anything is mapped: that fills holes of files in a tmpfs
                content, qemu_map = contents[key]
                with open(mount.frozen("dom", name), "rb") as file:
                    wrong = oracle.differing_extents(qemu_map, extents_of(file.fileno(), len(content)))
                assert not wrong, f"{name}: {wrong[:5]}"
            for name, key in shown.items():
                read_every_way(mount.frozen("dom", name), contents[key][0], rng)
            checked += len(shown)
    print(f"    {checked} frozen disks")


def scattered(source):
    """web1 at snapshot clean: 64 MiB virtual, pieces of data and compressed clusters far apart."""
    path = make.image(source, "web1.qcow2", "64M")
    make.write(path, "1 1M 300k", "2 17M 64k", "write -c -P 3 33M 1M", "4 63M 1M", "write -z 40M 1M")
    make.snapshot(path, "clean")
    make.write(path, "5 0 20M")
    raw = os.path.join(source, "..", "expected")
    return path, make.convert(path, raw, "-l", "snapshot.name=clean")


def test_copies():
    """cp --sparse, tar -S and rsync copy right and keep the holes; a second rsync transfers nothing"""
    need("rsync", "tar", "cp")
    mount = Mounted()
    _, content = scattered(mount.source)
    with mount, tempfile.TemporaryDirectory() as target:
        disk = mount.frozen("web1", "clean")

        def judge(copy, what):
            with open(copy, "rb") as file:
                assert file.read() == content, f"{what} differs"
            held = os.stat(copy).st_blocks * 512
            assert held <= 4 * make.MIB, f"{what} takes {held} bytes"

        for way in ("auto", "always"):
            run("cp", f"--sparse={way}", disk, f"{target}/cp-{way}")
            judge(f"{target}/cp-{way}", f"cp --sparse={way}")
        archive = f"{target}/archive.tar"
        run("tar", "-C", mount.path("web1", "snapshots", "clean"), "-cSf", archive, "disks")
        assert os.path.getsize(archive) <= 4 * make.MIB, "tar -S stored holes"
        run("tar", "-C", target, "-xSf", archive)
        judge(f"{target}/disks/vda.raw", "tar -S")
        rsync = ["rsync", "-a", "--sparse", "--itemize-changes", mount.path("web1", "snapshots"), f"{target}/rsync/"]
        run(*rsync)
        judge(f"{target}/rsync/snapshots/clean/disks/vda.raw", "rsync")
        equal([line for line in run(*rsync).splitlines() if "vda.raw" in line], [], "the second rsync")
        mount.remount()
        equal([line for line in run(*rsync).splitlines() if "vda.raw" in line], [], "rsync after a remount")


def in_pieces(source, rng):
    """web1 at snapshot clean: 512 MiB virtual with 100 pieces of data in it, no two alike. Returns it as a raw file."""
    path = make.image(source, "web1.qcow2", "512M")
    places = sorted(rng.sample(range(0, 512, 4), 100))
    make.write(path, *(f"{1 + index % 255} {place}M {rng.randrange(1, 24) * 65536}" for index, place in enumerate(places)))
    make.snapshot(path, "clean")
    make.write(path, "5 0 20M")
    raw = os.path.join(source, "..", "expected")
    run("qemu-img", "convert", "-l", "snapshot.name=clean", "-f", "qcow2", "-O", "raw", path, raw)
    return raw


def stored_ahead(mount):
    return int(dict(line.split() for line in mount.text(".vmsnapfs", "stats").splitlines())["stored_ahead_bytes"])


def test_copies_of_a_disk_in_pieces():
    """What is read ahead across holes is right, for several readers at once, and also when the mount ends under them"""
    rng = checks.seed()
    mount = Mounted()
    expected = in_pieces(mount.source, rng)
    with mount, tempfile.TemporaryDirectory() as target:
        disk = mount.frozen("web1", "clean")
        for _ in range(20):  # a reader that is quicker than the reading ahead leaves nothing to do
            run("cp", "--sparse=auto", disk, f"{target}/alone")
            run("cmp", expected, f"{target}/alone")
            if stored_ahead(mount):
                break
            mount.remount()
        assert stored_ahead(mount) > 0, "nothing was read ahead"
        for _ in range(2):  # from the kernel's cache the second time
            copies = [subprocess.Popen(["cp", "--sparse=auto", disk, f"{target}/{number}"]) for number in range(3)]
            archive = f"{target}/archive.tar"
            run("tar", "-C", os.path.dirname(disk), "-cSf", archive, "vda.raw")
            run("tar", "-C", target, "-xSf", archive)
            run("cmp", expected, f"{target}/vda.raw")
            for number, copy in enumerate(copies):
                equal(copy.wait(), 0, "cp")
                run("cmp", expected, f"{target}/{number}")
        for _ in range(5):
            mount.remount()
            copies = [
                subprocess.Popen(["cp", "--sparse=auto", mount.frozen("web1", "clean"), f"{target}/{number}"], stderr=subprocess.DEVNULL)
                for number in range(3)
            ]
            while not stored_ahead(mount) and any(copy.poll() is None for copy in copies):
                pass
            mount.process.terminate()
            for copy in copies:
                copy.wait()
            equal(mount.process.wait(), 0, "status after SIGTERM")
            mount.mount()


def test_loop_mounted():
    """A file system in a frozen disk is mounted through a loop device, and its files are as they were"""
    checks.need_root()
    need("mkfs.ext4", "losetup")
    files = {f"file{number}": random.Random(number).randbytes(number * 7919) for number in range(40)}

    def guest(source):
        raw, image, folder = (os.path.join(source, name) for name in ("fs.img", "guest.qcow2", "files"))
        os.mkdir(folder)
        for name, content in files.items():
            with open(os.path.join(folder, name), "wb") as file:
                file.write(content)
        run("mkfs.ext4", "-q", "-d", folder, raw, "32M")
        run("qemu-img", "convert", "-c", "-f", "raw", "-O", "qcow2", raw, image)
        make.snapshot(image, "backup")
        make.write(image, "7 0 32M")

    with Mounted(guest) as mount, tempfile.TemporaryDirectory() as inside:
        device = run("losetup", "--find", "--show", "--read-only", mount.frozen("guest", "backup")).strip()
        try:
            run("mount", "-t", "ext4", "-o", "ro", device, inside)
            try:
                for name, content in files.items():
                    with open(os.path.join(inside, name), "rb") as file:
                        assert file.read() == content, name
            finally:
                run("umount", inside)
        finally:
            run("losetup", "--detach", device)
            while device in run("losetup", "--list", "--noheadings", "--output", "NAME").split():
                pass  # detaching ends when the last user of the device has gone


def test_read_by_qemu():
    """QEMU compares, reads and builds upon a frozen disk"""
    mount = Mounted()
    path, content = scattered(mount.source)
    base = make.image(mount.source, "web2.qcow2", "4M")
    make.write(base, "6 0 1M")
    make.overlay(base, "web2.snap1")
    with mount, tempfile.TemporaryDirectory() as target:
        disk = mount.frozen("web1", "clean")
        run("qemu-img", "compare", "-f", "raw", "-F", "qcow2", mount.frozen("web2", "snap1"), base)
        run("qemu-img", "snapshot", "-q", "-a", "clean", path)
        run("qemu-img", "compare", "-f", "raw", "-F", "qcow2", disk, path)
        run("qemu-io", "-r", "-f", "raw", "-c", "read -P 2 17M 64k", "-c", "read -P 3 33M 1M", "-c", "read -P 0 40M 1M", disk)
        top = os.path.join(target, "clone.qcow2")
        run("qemu-img", "create", "-q", "-f", "qcow2", "-b", disk, "-F", "raw", top)
        make.write(top, "8 2M 64k")
        found = make.convert(top, os.path.join(target, "raw"))
        changed = bytearray(content)
        changed[2 * make.MIB : 2 * make.MIB + 65536] = bytes([8]) * 65536
        assert found == bytes(changed), "an overlay on a frozen disk differs"


def test_opened_by_a_guest():
    """qemu-system takes a frozen disk as a read-only drive"""
    need("qemu-system-x86_64")
    with Mounted(scattered) as mount:
        drive = f"file={mount.frozen('web1', 'clean')},format=raw,if=none,id=d,readonly=on"
        process = subprocess.run(
            ["qemu-system-x86_64", "-nodefaults", "-display", "none", "-S", "-drive", drive, "-device", "virtio-blk-pci,drive=d",
             "-monitor", "stdio"], input='qemu-io d "read -P 4 63M 1M"\nquit\n', capture_output=True, text=True)  # fmt: skip
        assert process.returncode == 0 and "read 1048576/1048576" in process.stdout and "erification" not in process.stdout, (
            process.stdout + process.stderr
        )


def test_raw_layers():
    """Frozen raw files, of a length that is a multiple of a sector (read by the kernel itself) and of another one"""
    for size in (3 * make.MIB, 3 * make.MIB + 77, 1000):
        mount = Mounted()
        base = make.filled(os.path.join(mount.source, "base.raw"), size)
        make.definition(mount.source, "dom", disks=[make.disk(make.overlay(base, "top.qcow2", backing_format="raw"))])
        with mount:
            (name,) = mount.snapshots("dom")
            with open(base, "rb") as file:
                content = file.read()
            content += bytes(-len(content) % 512)
            read_every_way(mount.frozen("dom", name), content, random.Random(size))
            with open(mount.frozen("dom", name), "rb") as first, open(mount.frozen("dom", name), "rb") as second:
                equal(first.read(), second.read(), "two opens")


def test_foreign_formats():
    """vmdk, vhdx, vdi and parallels, through a helper that ends with its reader"""
    need("qemu-nbd")
    mount = Mounted()
    raw = make.filled(os.path.join(mount.source, "plain"), 2 * make.MIB)
    with open(raw, "rb") as file:
        content = file.read()
    kinds = ("vmdk", "vhdx", "vdi", "parallels")
    for kind in kinds:
        base = os.path.join(mount.source, f"base.{kind}")
        run("qemu-img", "convert", "-f", "raw", "-O", kind, raw, base)
        make.overlay(base, f"{kind}.qcow2", backing_format=kind)
    with mount:
        for kind in kinds:
            (name,) = mount.snapshots(kind)
            found = mount.read(kind, "snapshots", name, "disks", "vda.raw")
            assert found[: len(content)] == content and not any(found[len(content) :]), f"{kind} differs"


if __name__ == "__main__":
    checks.main(globals())
