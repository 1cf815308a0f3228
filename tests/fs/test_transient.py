# SPDX-License-Identifier: LGPL-2.1-or-later
"""Disks that are not persistent: what the guest writes there is gone at power-off, and when the domain goes back."""

import contextlib
import errno
import json
import os
import signal

import administer
import checks
import domains
from administer import command_of, command_refused
from checks import equal, need
from mounted import wait_for
from running import Running, administer_bytes, is_ended, same
from test_power import QEMU, power, state, wait_state
from test_running_crashes import need_points


class Transient(Running):
    """Domain web1, whose vdb is not persistent."""

    def __init__(self, formats=("qcow2", "qcow2"), **options):
        super().__init__(formats, **options)
        path = os.path.join(self.source, "web1.json")
        with open(path, encoding="utf-8") as file:
            content = json.load(file)
        content["disks"][1]["persistent"] = False
        with open(path, "w", encoding="utf-8") as file:
            json.dump(content, file)

    def files(self):
        """All that is in the source, with what was written to the image of vdb."""
        names = sorted(name for name in os.listdir(self.source) if name not in (".vmsnapfs", "web1.json"))
        return names, administer_bytes(self, "vdb")

    def hidden(self):
        """The files without a name that its QEMU has open."""
        (pid,) = self.processes()
        links = set()
        for fd in os.listdir(f"/proc/{pid}/fd"):
            with contextlib.suppress(FileNotFoundError):  # closed meanwhile
                links.add(os.readlink(f"/proc/{pid}/fd/{fd}"))
        return {link for link in links if ".vmsnapfs-" in link and link.endswith(" (deleted)")}


def run_and_write(mount, value):
    power(mount, "start")
    wait_state(mount, "running")
    equal(len(mount.hidden()), 1)
    mount.io("vda", f"write -P {value} 0 64k")
    mount.io("vdb", f"write -P {value} 0 64k")
    mount.io("vdb", f"read -P {value} 0 4k")
    mount.io("vda", "flush")


def test_dropped_at_power_off():
    """However its QEMU ends, the image is as it was, no file is left, and each start begins from it again"""
    need(QEMU)
    for formats in (("qcow2", "qcow2"), ("qcow2", "raw")):
        with Transient(formats, expected=[r"its QEMU was ended by signal"]) as mount:
            equal(mount.text("web1", "disks", "vdb", "persistent").strip(), "no")
            before = mount.files()
            for value, end in enumerate(("destroy", "kill", "destroy"), 50):
                run_and_write(mount, value)
                equal(mount.files(), before, "the file has a name, or the image was written to")
                if end == "kill":
                    mount.kill_guest()
                    wait_for(lambda: state(mount) == "crashed", "the end of the QEMU")
                else:
                    power(mount, "destroy")
                equal(mount.files(), before)
                equal(administer_bytes(mount, "vda")[0], value)


def test_snapshots():
    """Left out by default and refused when named, while it runs; off, it has snapshots as any disk, also on overlays"""
    need(QEMU)
    with Transient() as mount:
        content = mount.files()[1]
        domains.create(mount, "off disk=vda:external disk=vdb:external")
        run_and_write(mount, 7)
        domains.create(mount, "on disk-only")
        equal(domains.kinds(mount, "on"), {"vda": "internal"})
        for kind in ("internal", "external"):
            command_refused(errno.EOPNOTSUPP, mount, "web1", "create", f"no disk-only disk=vdb:{kind}", words=["not persistent"])
        command_refused(errno.EOPNOTSUPP, mount, "web1", "disks/vdb/copy", os.path.join(mount.source, "copy.qcow2"), words=["not persistent"])
        equal(mount.text("web1", "snapshots", "on", "missing").split(), ["vdb"])
        os.rmdir(administer.snapshot_path(mount, "web1", "off"))
        power(mount, "destroy")
        administer.wait_idle(mount)
        same(administer_bytes(mount, "vdb"), content, "vdb")
        equal(administer.source(mount, "web1", "vdb")[0], os.path.join(mount.source, "web1-b.qcow2"))


def test_dropped_by_going_back():
    """Going back while it runs drops what was written, also to a disk that the snapshot left out"""
    need(QEMU)
    with Transient() as mount:
        before = mount.files()
        domains.create(mount, "off")
        run_and_write(mount, 9)
        command_of(mount, "web1", "off", "revert", "running")
        wait_state(mount, "running")
        equal(len(mount.hidden()), 1)
        mount.io("vdb", f"read -P {before[1][0]} 0 4k")
        mount.io("vdb", "write -P 11 0 64k")
        domains.create(mount, "on disk-only")
        command_of(mount, "web1", "on", "revert", "running force")
        wait_state(mount, "running")
        mount.io("vdb", f"read -P {before[1][0]} 0 4k")
        power(mount, "destroy")
        same(mount.files()[1], before[1], "vdb")


def test_killed_daemon():
    """A daemon that is killed between making the overlay and taking its name away: the next one does"""
    need(QEMU)
    need_points()
    with Transient(environment={"VMSNAPFS_TEST_CRASH": "transient:1"}, expected=[r"interrupted", r"its QEMU"]) as mount:
        before = mount.files()
        try:
            power(mount, "start")
        except OSError as error:
            assert error.errno in (errno.ENOTCONN, errno.ECONNABORTED, errno.EIO), error
        mount.kill()
        mount.mount_again()
        equal(mount.files(), before)
        run_and_write(mount, 12)
        (pid,) = mount.processes()
        mount.kill()
        mount.mount_again()
        wait_state(mount, "running")
        mount.io("vdb", "read -P 12 0 4k")
        os.kill(pid, signal.SIGKILL)
        wait_for(lambda: is_ended(pid), "the end of the QEMU")
        equal(mount.files(), before)


if __name__ == "__main__":
    checks.main(globals())
