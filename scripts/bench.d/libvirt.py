# SPDX-License-Identifier: LGPL-2.1-or-later
"""A libvirt daemon of the bench's own, unprivileged, for what virsh does to running domains.

libvirtd runs in session mode as an ordinary user, with everything below one folder. Its orphaned QEMUs, which probe what
they can do, need somebody who reaps them at once, or its start takes long: so it runs below a small subreaper.
"""

import contextlib
import os
import subprocess
import sys
import time

from session import BenchError, command, end_child

NOBODY = 65534
START_SECONDS = 120

# Becomes a subreaper, starts its arguments, and reaps whatever ends until nothing is left.
REAPER = """
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(36, 1)
child = os.spawnvp(os.P_NOWAIT, sys.argv[1], sys.argv[1:])
signal.signal(signal.SIGTERM, lambda *_: os.kill(child, signal.SIGTERM))
while True:
    try:
        os.wait()
    except ChildProcessError:
        break
"""

DOMAIN = """
<domain type='qemu'>
  <name>{name}</name>
  <memory unit='MiB'>{memory}</memory>
  <os><type arch='x86_64' machine='pc'>hvm</type></os>
  <on_poweroff>destroy</on_poweroff>
  <devices>
    <emulator>/usr/bin/qemu-system-x86_64</emulator>
    {disks}
    {serial}
    <controller type='usb' model='none'/>
    <memballoon model='none'/>
  </devices>
</domain>
"""
DISK = "<disk type='file' device='disk'><driver name='qemu' type='qcow2' discard='unmap'/><source file='{path}'/><target dev='{target}' bus='virtio'/><boot order='{order}'/></disk>"

SERIAL = "<serial type='unix'><source mode='bind' path='{path}'/><target port='0'/></serial>"


class Libvirt:
    def __init__(self, folder):
        self.folder = folder
        self.environment = {
            "PATH": os.environ["PATH"],
            "HOME": folder,
            "XDG_RUNTIME_DIR": os.path.join(folder, "run"),
            "XDG_CONFIG_HOME": os.path.join(folder, "config"),
            "XDG_CACHE_HOME": os.path.join(folder, "cache"),
            "LIBVIRT_AUTOSTART": "0",  # or each virsh starts a daemon of its own
            "LIBVIRT_DEFAULT_URI": "qemu:///session",
            "LANG": "C",
        }
        self.options = {"env": self.environment}
        if os.geteuid() == 0:
            self.options.update(user=NOBODY, group=NOBODY, extra_groups=[])

    def virsh(self, *words):
        return command("virsh", "-q", *words, **self.options)

    def start(self, name, paths, memory, serial=None):
        """Starts a domain with these qcow2 images as vda, vdb and so on, and a serial line that ends in a socket."""
        disks = "\n".join(DISK.format(path=path, target=f"vd{'abcdefgh'[number]}", order=number + 1) for number, path in enumerate(paths))
        document = os.path.join(self.folder, f"{name}.xml")
        with open(document, "w", encoding="utf-8") as file:
            file.write(DOMAIN.format(name=name, memory=memory, disks=disks, serial=SERIAL.format(path=serial) if serial else ""))
        self.virsh("create", document)

    def timed(self, *words):
        """Seconds of one virsh, as a whole process."""
        begin = time.perf_counter()
        try:
            subprocess.run(["virsh", "-q", *words], check=True, capture_output=True, text=True, **self.options)
        except subprocess.CalledProcessError as error:
            raise BenchError(f"virsh {' '.join(words)}: {error.stderr.strip()}") from None
        return time.perf_counter() - begin


@contextlib.contextmanager
def libvirt(context):
    """A daemon that answers; its domains end with it."""
    with context.workspace.folder("libvirt") as folder:
        made = Libvirt(folder)
        for name in ("run", "config/libvirt", "cache"):
            os.makedirs(os.path.join(folder, name), mode=0o700)
        with open(os.path.join(folder, "config", "libvirt", "qemu.conf"), "w", encoding="ascii") as file:
            file.write('stdio_handler = "file"\n')
        if os.geteuid() == 0:
            os.chmod(context.workspace.path, 0o711)
            for path, _, files in os.walk(folder):
                for name in (path, *(os.path.join(path, file) for file in files)):
                    os.chown(name, NOBODY, NOBODY)
        drop = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"] if os.geteuid() == 0 else []
        words = [sys.executable, "-c", REAPER, *drop, "libvirtd", "-p", os.path.join(folder, "libvirtd.pid")]
        with open(context.workspace.log, "ab") as log:
            try:
                daemon = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, env=made.environment)
            except OSError as error:
                raise BenchError(f"libvirtd can't be started: {error}") from None
        try:
            wait_ready(made, daemon)
            yield made
        finally:
            with contextlib.suppress(BenchError):
                for name in made.virsh("list", "--name").split():
                    made.virsh("destroy", name)
            end_child(daemon)


def wait_ready(made, daemon):
    deadline = time.monotonic() + START_SECONDS
    while True:
        with contextlib.suppress(BenchError):
            made.virsh("version")
            return
        if daemon.poll() is not None or time.monotonic() > deadline:
            raise BenchError("libvirtd does not answer (packages libvirt-daemon, libvirt-daemon-driver-qemu, libvirt-clients)")
        time.sleep(0.05)
