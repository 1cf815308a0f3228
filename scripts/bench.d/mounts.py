# SPDX-License-Identifier: LGPL-2.1-or-later
"""The contenders: our mount, and the two programs that can show a qcow2 image as a plain file today.

Each is a context manager that yields the path of the file to read, and takes everything away at its end. All three
are started anew for every run that is timed, so that nobody is served from a cache that an earlier run filled. All
have their defaults, as somebody who starts them has: no option here makes one faster or slower.
"""

import contextlib
import glob
import os
import subprocess
import tempfile
import time

from session import BenchError, end_pids, last_line, pids_naming, process, unmount, wait_mounted

START_SECONDS = 120  # a mount that took longer is broken, not slow


class Mount:
    """A mounted vmsnapfs: where, how long it took to become usable, and which processes serve it."""

    def __init__(self, point, seconds):
        self.point = point
        self.seconds = seconds
        self.pids = pids_naming(point)
        if not self.pids:
            raise BenchError(f"no process that serves {point} was found")

    def disk(self, domain, snapshot="*"):
        """The one frozen disk of a domain, or of its snapshot whose name fits `snapshot`."""
        found = glob.glob(os.path.join(self.point, domain, "snapshots", snapshot, "disks", "vda.raw"))
        if len(found) != 1:
            raise BenchError(f"{domain}/snapshots/{snapshot}: {len(found)} frozen disks in the mount instead of one")
        return found[0]


class Vmsnapfs:
    """Our binary, mounting sources."""

    def __init__(self, binary, workspace):
        self.binary = binary
        self.workspace = workspace

    @contextlib.contextmanager
    def mounted(self, source, usable=None, prefix=(), options=()):
        """Mounts `source`. `usable` is a path in the mount that must be listable before the time stops; `prefix` are
        words that run the command (to put it into a cgroup), `options` words after its name."""
        point = tempfile.mkdtemp(prefix="mount-", dir=self.workspace.path)
        try:
            seconds = self._start([*prefix, self.binary, *options, source, point], point, usable)
            yield Mount(point, seconds)
        finally:
            pids = pids_naming(point)
            unmount(point)
            end_pids(point, pids)
            os.rmdir(point)

    def _start(self, words, point, usable):
        """Runs the command, which returns when the mount can be used; returns the seconds until `usable` was listed."""
        with open(self.workspace.log, "ab") as log:
            begin = time.perf_counter()
            try:
                code = subprocess.run(words, stdin=subprocess.DEVNULL, stdout=log, stderr=log, timeout=START_SECONDS,
                                      check=False).returncode
            except subprocess.TimeoutExpired:
                raise BenchError(f"the mount was not usable after {START_SECONDS} s") from None
        if code:
            raise BenchError(f"mounting failed: {last_line(self.workspace.log)}")
        os.listdir(os.path.join(point, usable or ""))
        return time.perf_counter() - begin

    @contextlib.contextmanager
    def export(self, source, domain, snapshot="*"):
        """Mounts and yields the path of one frozen disk."""
        with self.mounted(source) as mount:
            yield mount.disk(domain, snapshot)


@contextlib.contextmanager
def storage_daemon(workspace, image):
    """qemu-storage-daemon's FUSE export of a qcow2 image and its backing chain, read-only."""
    with file_mount_point(workspace) as point:
        words = ["qemu-storage-daemon",
                 "--blockdev", f"driver=file,node-name=file,filename={image},read-only=on",
                 "--blockdev", "driver=qcow2,node-name=disk,file=file,read-only=on",
                 "--export", f"type=fuse,id=export,node-name=disk,mountpoint={point},writable=off"]
        with process(words, workspace.log) as daemon:
            wait_mounted(point, daemon, workspace.log)
            yield point


@contextlib.contextmanager
def nbd_fuse(workspace, image):
    """nbdfuse over a qemu-nbd that it starts itself."""
    with file_mount_point(workspace) as point:
        words = ["nbdfuse", "-r", point, "--socket-activation", "qemu-nbd", "-r", "-f", "qcow2", image]
        with process(words, workspace.log) as daemon:
            wait_mounted(point, daemon, workspace.log)
            yield point
            unmount(point)
            daemon.wait()  # it ends qemu-nbd, then itself


@contextlib.contextmanager
def file_mount_point(workspace):
    """An empty file to mount over, which both peers want."""
    handle, point = tempfile.mkstemp(prefix="export-", dir=workspace.path)
    os.close(handle)
    try:
        yield point
    finally:
        unmount(point)
        os.unlink(point)
