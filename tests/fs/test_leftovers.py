# SPDX-License-Identifier: LGPL-2.1-or-later
"""Temporary files that a killed daemon leaves: its next start removes them, in every directory, and those of others stay."""

import json
import os
import shutil
import subprocess

import administer
import checks
import domains
import make
from checks import equal
from domains import create
from mounted import Mounted, new_room, wait_for
from test_running_crashes import create_and_die, need_points


def temporary(directory):
    return sorted(
        os.path.relpath(os.path.join(parent, name), directory)
        for parent, _, names in os.walk(directory)
        for name in names
        if name.startswith(".vmsnapfs-")
    )


def sharing(shared, name, **options):
    """A mount whose domain has its image in a directory that others use as well."""

    def prepare(source):
        path = os.path.join(shared, f"{name}.qcow2")
        make.write(make.image(shared, f"{name}.qcow2", str(domains.SIZE)), "1 0 64k")
        make.definition(source, "web1", disks=[make.disk(path)], follows=True)

    return Mounted(prepare, options=f"allow={shared}", **options)


def die(mount, words):
    """The daemon is killed in the middle of a snapshot that is being made, and leaves a temporary file."""
    create_and_die(mount, words)
    mount.wait_for_orphans()
    subprocess.run(["umount", "--lazy", mount.mountpoint], check=False)
    mount.environment = {}


def test_shared_directory():
    """What one mount leaves in a directory that two use is removed when that one comes back, wherever it lies, and no sooner"""
    need_points()
    shared = new_room()
    os.makedirs(os.path.join(shared, "a", "b"))
    with sharing(shared, "a") as mount:
        for number, path in enumerate((os.path.join(shared, "x"), os.path.join(shared, "a", "b", "x"))):
            mount.unmount()
            mount.environment = {"VMSNAPFS_TEST_CRASH": "made:1"}
            mount.mount()
            die(mount, f"one disk=vda:external:{path}")
            (left,) = temporary(shared)
            left_at = os.path.join(shared, left)
            equal(os.path.dirname(left_at), os.path.dirname(path))
            os.utime(left_at, (0, os.stat(left_at).st_mtime - 10 * 24 * 3600))
            with sharing(shared, f"b{number}") as other:
                create(other, "one disk=vda:external")
                os.rmdir(administer.snapshot_path(other, "web1", "one"))
                administer.wait_idle(other)
                equal(temporary(shared), [left], "of another mount, whatever its age")
            mine = make.filled(os.path.join(mount.source, ".vmsnapfs-mine"), 10)
            mount.mount()
            wait_for(lambda: not temporary(shared), "its end")
            equal(temporary(mount.source), [os.path.basename(mine)], "a name that is not ours")
        create(mount, "one disk=vda:external")
        os.rmdir(administer.snapshot_path(mount, "web1", "one"))
        administer.wait_idle(mount)
        equal(administer.layers(mount, "web1"), [os.path.join(shared, "a.qcow2")], "nothing keeps the merge waiting")


def test_copied_source():
    """A copy of a source with its store is another store: it does not take the files of the first for its own"""
    need_points()
    shared = new_room()
    with sharing(shared, "a", environment={"VMSNAPFS_TEST_CRASH": "made:1"}) as mount:
        die(mount, "one disk=vda:external")
        copy = os.path.join(new_room(), "copy")
        shutil.copytree(mount.source, copy)
        (left,) = temporary(shared)
        for _ in range(2):
            with Mounted(source=copy, options=f"allow={shared}") as other:
                administer.wait_idle(other)
                equal(temporary(shared), [left])
        mount.mount()
        wait_for(lambda: not temporary(shared), "its end")
        with open(os.path.join(copy, "web1.json"), encoding="utf-8") as file:
            equal(json.load(file)["disks"][0]["target"], "vda")


if __name__ == "__main__":
    checks.main(globals())
