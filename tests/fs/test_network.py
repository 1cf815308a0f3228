# SPDX-License-Identifier: LGPL-2.1-or-later
"""Disks on the network: qemu-nbd and a small web server stand for the servers, on loopback and on UNIX sockets."""

import errno
import glob
import http.server
import json
import os
import re
import signal
import socket
import subprocess
import threading
import time

import checks
import make
import images  # which make knows the way to
from checks import equal, fails_with
from mounted import Mounted, new_room, run, wait_for

MIB = 1 << 20


class Nbd:
    """qemu-nbd with a raw file, on a port of loopback or on a UNIX socket, which can go away and come back."""

    def __init__(self, path, *, unix=None, export="base"):
        self.path = path
        self.export = export
        self.unix = unix
        self.port = free_port()
        self.process = None
        self.start()

    @property
    def name(self):
        if self.unix:
            return f"nbd+unix:///{self.export}?socket={self.unix}"
        return f"nbd://127.0.0.1:{self.port}/{self.export}"

    def start(self):
        where = ["--socket", self.unix] if self.unix else ["--bind", "127.0.0.1", "--port", str(self.port)]
        command = ["qemu-nbd", "--read-only", "--persistent", "--shared=64", "--format=raw", "--export-name", self.export]
        self.process = subprocess.Popen([*command, *where, self.path], stdin=subprocess.DEVNULL)
        wait_for(self._answers, "qemu-nbd")

    def _answers(self):
        assert self.process.poll() is None, "qemu-nbd ended"
        with socket.socket(socket.AF_UNIX if self.unix else socket.AF_INET) as one:
            return one.connect_ex(self.unix or ("127.0.0.1", self.port)) == 0

    def stop(self):
        self.process.kill()
        self.process.wait()
        if self.unix:
            os.unlink(self.unix)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()


class Listener:
    """A server that takes connections, counts them, and says nothing."""

    def __init__(self):
        self._socket = socket.socket()
        self._socket.bind(("127.0.0.1", 0))
        self._socket.listen(64)
        self.port = self._socket.getsockname()[1]
        self.name = f"nbd://127.0.0.1:{self.port}/silent"
        self.connections = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            try:
                self.connections.append(self._socket.accept()[0])
            except OSError:
                return

    def __enter__(self):
        return self

    def __exit__(self, *_):
        """Hangs up on everybody; may be called early, and twice."""
        if self._socket.fileno() >= 0:
            self._socket.shutdown(socket.SHUT_RDWR)
            self._socket.close()
        for one in self.connections:
            one.close()


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def base_file(size=4 * MIB):
    path = os.path.join(new_room(), "base.raw")
    make.filled(path, size)
    with open(path, "r+b") as file:  # a hole, too
        file.truncate(size - MIB)
        file.truncate(size)
    return path


def overlay(source, name, network_name, size="4M"):
    """A qcow2 image on a disk on the network, made without connecting to it."""
    path = os.path.join(source, name)
    run("qemu-img", "create", "-q", "-u", "-f", "qcow2", "-b", network_name, "-F", "raw", path, size)
    return path


def snapshot_alone(path, tag):
    """An internal snapshot, made without opening what the image stands on."""
    node = {"driver": "qcow2", "backing": None, "file": {"driver": "file", "filename": path}}
    make.snapshot("json:" + json.dumps(node), tag)


def content(path):
    with open(path, "rb") as file:
        return file.read()


def read_anew(path):
    """All bytes of the file, none of which the kernel had."""
    file = os.open(path, os.O_RDONLY)
    try:
        os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
        pieces = []
        while piece := os.read(file, MIB):
            pieces.append(piece)
        return b"".join(pieces)
    finally:
        os.close(file)


def is_below_us(pid):
    """Is the process a child of this one, or a child's child?"""
    while pid > 1 and pid != os.getpid():
        try:
            pid = int(content(f"/proc/{pid}/stat").rsplit(b") ", 1)[1].split()[1])
        except OSError:
            return False
    return pid == os.getpid()


def helpers():
    """Process ids of the qemu-nbd that the vmsnapfs of this test started."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            words = content(f"/proc/{pid}/cmdline").split(b"\0")
        except OSError:
            continue
        if words[0] == b"qemu-nbd" and b"--shared=4" in words and is_below_us(int(pid)):
            found.append(int(pid))
    return found


def make_overlay_with_snapshots(source, network_name):
    """A domain `vm` whose disk is on the network, with an overlay that has internal snapshots; the overlay's path."""
    make.definition(source, "vm", disks=[make.disk(network_name, image_format="raw")])
    top = overlay(source, "base.snap1", network_name)
    make.snapshot(top, "empty")
    make.write(top, "7 64k 128k")
    make.snapshot(top, "written")
    make.write(top, "9 0 1M")
    return top


def compare_all(mount, server, top):
    base = content(server.path)
    equal(read_anew(mount.frozen("vm", "snap1")) == base, True, "the frozen disk on the network")
    for tag in ("empty", "written"):
        wanted = make.convert(top, os.path.join(mount.room, tag), "-l", f"snapshot.name={tag}")
        equal(read_anew(mount.frozen("vm", tag)) == wanted, True, f"snapshot {tag}")
    equal(os.stat(mount.frozen("vm", "snap1")).st_size, len(base))


def test_bytes():
    """An overlay on NBD, by TCP and by UNIX socket: snapshots of both layers have the bytes that qemu-img reads"""
    base = base_file()
    for unix in (None, os.path.join(os.path.dirname(base), "socket")):
        with Nbd(base, unix=unix) as server:
            mount = Mounted()
            top = make_overlay_with_snapshots(mount.source, server.name)
            with mount:
                equal(mount.snapshots("vm"), ["empty", "snap1", "written"])
                equal(helpers(), [], "listing started a helper")
                equal(mount.text("vm", "disks", "vda", "source"), top + "\n")
                equal(mount.text("vm", "disks", "vda", "layers"), f"{top}\n{server.name}\n")
                equal(mount.text("vm", "snapshots", "snap1", "missing"), "")
                made = os.stat(mount.frozen("vm", "snap1")).st_mtime
                assert abs(made - os.stat(top).st_mtime) < 3600, f"the time of freezing is {made}"
                compare_all(mount, server, top)
                number = os.stat(mount.frozen("vm", "snap1")).st_ino
                mount.remount()
                equal(os.stat(mount.frozen("vm", "snap1")).st_ino, number)
                compare_all(mount, server, top)


def test_old_name_and_idle():
    """QEMU's old way to write an NBD name; the helper ends when nobody reads any more"""
    base = base_file()
    with Nbd(base, unix=os.path.join(os.path.dirname(base), "socket")) as server:
        mount = Mounted()
        top = make_overlay_with_snapshots(mount.source, f"nbd:unix:{server.unix}:exportname=base")
        os.rename(top, os.path.join(mount.source, "socket.snap1"))
        with mount:
            with open(mount.frozen("vm", "snap1"), "rb") as file:
                equal(file.read(100), content(base)[:100])
                equal(len(helpers()), 1)
            wait_for(lambda: not helpers(), "the end of the idle helper")


def test_active_disk():
    """A domain whose disk is on the network, without snapshots: shown, and nothing is connected to"""
    with Listener() as server:
        mount = Mounted()
        make.definition(mount.source, "vm", disks=[make.disk(server.name, image_format="raw")])
        with mount:
            equal(mount.text("vm", "disks", "vda", "source"), server.name + "\n")
            equal(mount.text("vm", "disks", "vda", "layers"), server.name + "\n")
            equal(mount.text("vm", "disks", "vda", "format"), "raw\n")
            equal(mount.text("vm", "disks", "vda", "size"), "")
            equal(mount.text("vm", "state"), "shutoff\n")
            assert '"size": null' in mount.text("vm", "domain.json"), mount.text("vm", "domain.json")
            equal(mount.snapshots("vm"), [])
        equal(server.connections, [])


def test_server_goes_and_comes():
    """Reads of a disk whose server is gone fail with EIO, and work again when it is back, in files that stayed open too"""
    base = base_file()
    with Nbd(base) as server:
        mount = Mounted(expected=[r"nbd://127\.0\.0\.1"])
        make_overlay_with_snapshots(mount.source, server.name)
        with mount:
            path = mount.frozen("vm", "snap1")
            stays_open = os.open(path, os.O_RDONLY)
            equal(os.pread(stays_open, 4096, 0), content(base)[:4096])
            server.stop()
            fails_with(errno.EIO, os.pread, stays_open, 4096, 2 * MIB)
            fails_with(errno.EIO, os.pread, stays_open, 4096, 2 * MIB)
            fails_with(errno.EIO, read_anew, mount.frozen("vm", "empty"))
            server.start()
            equal(os.pread(stays_open, 4096, 2 * MIB), content(base)[2 * MIB : 2 * MIB + 4096])
            equal(read_anew(mount.frozen("vm", "empty")) == content(base), True)
            # The same once more while the helper is young, and now it is the helper that is killed.
            os.kill(helpers()[0], signal.SIGKILL)
            os.posix_fadvise(stays_open, 0, 0, os.POSIX_FADV_DONTNEED)
            equal(read_anew(path) == content(base), True)
            os.close(stays_open)
            server.stop()


def interrupted_reader(path):
    """A reader of its own process, which is then interrupted; returns once it is gone."""
    reader = subprocess.Popen(["cat", path], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return reader


def test_silent_server():
    """A server that says nothing holds up its own readers alone, and those can be interrupted"""
    with Listener() as server:
        mount = Mounted(expected=[r"nbd://127\.0\.0\.1"])
        make.definition(mount.source, "vm", disks=[make.disk(server.name, image_format="raw")])
        overlay(mount.source, "silent.snap1", server.name)
        other = make.image(mount.source, "other.qcow2", "1M")
        make.write(other, "3 0 1M")
        make.snapshot(other, "clean")
        with mount:
            equal(os.stat(mount.frozen("vm", "snap1")).st_size, 4 * MIB)
            readers = [interrupted_reader(mount.frozen("vm", "snap1")) for _ in range(20)]
            wait_for(lambda: server.connections, "the connection")
            for _ in range(5):
                equal(read_anew(mount.frozen("other", "clean"))[:MIB] == bytes([3]) * MIB, True)
            equal(mount.snapshots("vm"), ["snap1"])
            equal([reader.poll() for reader in readers], [None] * 20)
            begin = time.monotonic()
            for reader in readers:
                reader.send_signal(signal.SIGINT)
            for reader in readers:
                equal(reader.wait(), -signal.SIGINT)
            print(f"    interrupted in {time.monotonic() - begin:.2f} s")
            # One that hangs up is an error, and no reason to wait.
            server.__exit__()
            fails_with(errno.EIO, read_anew, mount.frozen("vm", "snap1"))


def test_the_end_waits_for_no_server():
    """SIGTERM ends the mount though readers wait for a server that says nothing, in open and in read"""
    for silent_after in (0, 1 << 20):
        with Listener() as server, Nbd(base_file()) as real:
            mount = Mounted(expected=[r"nbd://127\.0\.0\.1"])
            name = real.name if silent_after else server.name
            make.definition(mount.source, "vm", disks=[make.disk(name, image_format="raw")])
            overlay(mount.source, "end.snap1", name)
            mount.mount()
            path = mount.frozen("vm", "snap1")
            if silent_after:
                with open(path, "rb", buffering=0) as file:
                    file.read(4096)
                    real.process.send_signal(signal.SIGSTOP)
            reader = subprocess.Popen(["cat", path], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            if not silent_after:
                wait_for(lambda: server.connections, "the connection")
            mount.process.terminate()
            equal(mount.process.wait(), 0, "status after SIGTERM")
            real.process.send_signal(signal.SIGCONT)
            assert reader.wait() != 0, "the reader got something"
            mount.process = None
            for waited in ("no progress for", "no answer within"):
                assert waited not in mount.log(), mount.log()


def test_only_trusted_definitions():
    """No image alone, and no definition that others can write to, makes the host open a connection"""
    checks.need_root()
    with Listener() as server:
        mount = Mounted(expected=[r"network"])
        alone = overlay(mount.source, "alone.qcow2", server.name)
        snapshot_alone(alone, "s")
        for name in ("others", "owner"):
            image = overlay(mount.source, name + ".data", server.name)
            snapshot_alone(image, "s")
            disks = [make.disk(name + ".data"), make.disk(server.name, "vdb", "raw")]
            make.definition(mount.source, name, disks=disks)
        os.chmod(os.path.join(mount.source, "others.json"), 0o646)
        os.chown(os.path.join(mount.source, "owner.json"), 12345, 12345)
        # A trusted definition names another export of the same server; that is not the same name.
        near = overlay(mount.source, "near.data", server.name)
        snapshot_alone(near, "s")
        make.definition(mount.source, "near", disks=[make.disk("near.data"), make.disk(server.name + "2", "vdb", "raw")])
        # The name of what the definition allows, for another domain alone.
        make.definition(mount.source, "allowed", disks=[make.disk(server.name, "vdb", "raw")])
        data = overlay(mount.source, "stranger.qcow2", server.name)
        snapshot_alone(data, "s")
        with mount:
            for name in ("alone", "others", "owner", "near", "stranger"):
                equal(mount.snapshots(name), ["s"], name)
                fails_with(errno.EPERM, read_anew, mount.frozen(name, "s"))
                said = mount.text(name, "last_error")
                assert "network" in said and "definition" in said, said
            equal(server.connections, [], "a connection was made")
            os.chmod(os.path.join(mount.source, "others.json"), 0o644)
            mount.expected.append("others/s")
            wait_for(lambda: server.name in mount.text("others", "disks", "vda", "layers"), "the trust")
            reader = interrupted_reader(mount.frozen("others", "s"))
            wait_for(lambda: server.connections, "the connection that is allowed")
            reader.kill()
            reader.wait()
            server.__exit__()


def test_named_beside_the_overlay():
    """A definition that names an overlay and what it stands on; the format of that may stand in either"""
    base = base_file()
    with Nbd(base) as server:
        mount = Mounted()
        top = overlay(mount.source, "vm.qcow2", server.name)
        make.write(top, "5 64k 64k")
        make.snapshot(top, "s")
        assert images.forget_backing_format(top)
        make.definition(mount.source, "web", disks=[make.disk("vm.qcow2"), make.disk(server.name, "base", "raw")])
        with mount:
            wanted = bytearray(content(base))
            wanted[65536:131072] = bytes([5]) * 65536
            equal(read_anew(mount.frozen("web", "s")) == bytes(wanted), True)


def test_other_length():
    """Where the overlay is longer than what it stands on, the frozen disk has its right length before a byte is read"""
    base = base_file()
    with Nbd(base) as server:
        mount = Mounted(expected=[r"was thought"])
        make.definition(mount.source, "vm", disks=[make.disk(server.name, image_format="raw")])
        overlay(mount.source, "base.snap1", server.name, "6M")
        with mount:
            path = mount.frozen("vm", "snap1")
            equal(os.stat(path).st_size, 6 * MIB)
            fails_with(errno.EAGAIN, read_anew, path)
            wait_for(lambda: os.stat(path).st_size == 4 * MIB, "the right length")
            equal(read_anew(path) == content(base), True)
            mount.remount()
            equal(os.stat(path).st_size, 4 * MIB)
            equal(read_anew(path) == content(base), True)


def test_what_is_refused():
    """Names that are malformed, hold passwords or are of other protocols, and formats other than raw"""
    refused = {
        "password": ("https://user:secret@host/a.img", "raw", "password"),
        "key": ("rbd:pool/image:key=AQB", "raw", "password"),
        "other": ("gluster://host/volume/a.img", "raw", "gluster"),
        "control": ("nbd://127.0.0.1/a\nb", "raw", "control character"),
        "port": ("nbd://127.0.0.1:99999/a", "raw", "port"),
        "noformat": ("nbd://127.0.0.1/a", None, "format"),
    }
    mount = Mounted(expected=[r"\.json", "qcow2 is not read over the network", "json"])
    for name, (source, image_format, _) in refused.items():
        one = {"target": "vda", "source": source}
        make.definition(mount.source, name, disks=[{**one, "format": image_format} if image_format else one])
    with Listener() as server:
        make.definition(mount.source, "qcow2", disks=[make.disk(server.name, image_format="qcow2")])
        name = 'json:{"driver":"nbd","host":"127.0.0.1","port":"%d"}' % server.port
        top = overlay(mount.source, "json.qcow2", name)
        snapshot_alone(top, "s")
        with mount:
            for name, (_, _, said) in refused.items():
                assert not os.path.exists(mount.path(name)), name
                lines = [line for line in mount.service_log().splitlines() if f"/{name}.json" in line]
                assert lines and said in lines[0], f"{name}: {lines}"
            assert "secret" not in mount.service_log()
            assert "qcow2 is not read over the network" in mount.text("qcow2", "domain.json")
            fails_with((errno.EOPNOTSUPP, errno.EPERM), read_anew, mount.frozen("json", "s"))
        equal(server.connections, [])


class Ranges(http.server.BaseHTTPRequestHandler):
    """Serves one file, in ranges."""

    protocol_version = "HTTP/1.1"

    def do_HEAD(self):
        self._head(200, len(self.server.content))

    def do_GET(self):
        found = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        if not found:
            self._head(200, len(self.server.content))
            self.wfile.write(self.server.content)
            return
        part = self.server.content[int(found[1]) : int(found[2]) + 1]
        self._head(206, len(part), f"bytes {found[1]}-{int(found[1]) + len(part) - 1}/{len(self.server.content)}")
        self.wfile.write(part)

    def _head(self, status, length, content_range=None):
        self.send_response(status)
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(length))
        if content_range:
            self.send_header("Content-Range", content_range)
        self.end_headers()

    def log_message(self, *_):
        pass


def need_driver(name):
    places = ("/usr/lib/qemu", "/usr/lib64/qemu", "/usr/lib/*/qemu")
    if not any(glob.glob(f"{place}/block-{name}.so") for place in places):
        raise checks.Skip(f"QEMU's driver {name} is not installed (package qemu-block-extra)")


def test_web():
    """A disk on a web server, and one whose certificate nobody has signed"""
    checks.need("openssl")
    need_driver("curl")
    import ssl

    base = base_file()
    room = new_room()
    key, certificate = os.path.join(room, "key"), os.path.join(room, "certificate")
    run("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=localhost", "-keyout", key, "-out", certificate)
    servers = [http.server.ThreadingHTTPServer(("127.0.0.1", 0), Ranges) for _ in range(2)]
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    servers[1].socket = context.wrap_socket(servers[1].socket, server_side=True)
    for server in servers:
        server.content = content(base)
        server.handle_error = lambda *_: None
        threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        # QEMU's driver for the web stands still now and then (1 run in 40, QEMU 7.2), and its helper is started anew.
        mount = Mounted(expected=[r"https://localhost", r"http://localhost\S* (qemu-nbd made no progress|guest offset)"])
        names = [f"http://localhost:{servers[0].server_port}/a/base.img", f"https://localhost:{servers[1].server_port}/a/signed.img"]
        for index, name in enumerate(names):
            make.definition(mount.source, f"vm{index}", disks=[make.disk(name, image_format="raw")])
            overlay(mount.source, f"{index}.snap1", name)
        with mount:
            equal(read_anew(mount.frozen("vm0", "snap1")) == content(base), True)
            fails_with(errno.EIO, read_anew, mount.frozen("vm1", "snap1"))
            assert re.search("certificate|SSL|CURL", mount.text("vm1", "last_error")), mount.text("vm1", "last_error")
    finally:
        for server in servers:
            server.shutdown()
            server.server_close()


def test_errors_of_the_drivers():
    """Where Ceph, iSCSI or SSH can't be reached, a read gives EIO, and last_error has QEMU's own words"""
    port = free_port()
    names = {
        "rbd": ("rbd:pool/image:id=nobody:conf=/etc/ceph/none.conf", r"conf|rbd|connect"),
        "iscsi": (f"iscsi://127.0.0.1:{port}/iqn.2000-01.test:disk/1", r"iSCSI"),
        "ssh": (f"ssh://user@127.0.0.1:{port}/a.img", r"ssh|connect"),
        "nbd": (f"nbd://127.0.0.1:{port}/a.img", r"connect"),
    }
    mount = Mounted(expected=[r"rbd:|iscsi:|ssh:|nbd:"])
    for driver, (name, _) in names.items():
        if driver != "nbd":
            need_driver(driver)
        make.definition(mount.source, driver, disks=[make.disk(name, image_format="raw")])
        overlay(mount.source, f"{driver}.snap1", name)
    with mount:
        for driver, (_, said) in names.items():
            equal(mount.snapshots(driver), ["snap1"])
            fails_with(errno.EIO, read_anew, mount.frozen(driver, "snap1"))
            text = mount.text(driver, "last_error")
            print("    " + text.strip().splitlines()[0])
            assert re.search(said, text), f"{driver}: {text}"
            assert "Unknown driver" not in text and "Unknown protocol" not in text, text


if __name__ == "__main__":
    checks.main(globals())
