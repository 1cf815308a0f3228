# SPDX-License-Identifier: LGPL-2.1-or-later
"""A definition that goes, comes back, or says something else: what the store knows of its domain stays, and no layer of it
is taken for something that may be written to."""

import errno
import json
import os

import administer
import checks
import domains
import make
from administer import command, command_refused, snapshot_path
from checks import equal
from domains import byte, frozen_byte, parents, write
from mounted import Mounted, wait_for

EXPECTED = (r"^vmsnapfs: (warning|error): .*(definition|domain|web1|left alone)",)


def path_of(mount, name="web1"):
    return os.path.join(mount.source, name + ".json")


def read(mount, name="web1"):
    with open(path_of(mount, name), encoding="utf-8") as file:
        return json.load(file)


def put(mount, content, name="web1"):
    """As editors do it: whole, by renaming."""
    with open(path_of(mount, name) + ".new", "w", encoding="utf-8") as file:
        json.dump(content, file)
    os.rename(path_of(mount, name) + ".new", path_of(mount, name))


def all_domains(mount):
    return sorted(name for name in os.listdir(mount.mountpoint) if not name.startswith("."))


def wait_domains(mount, *names):
    wait_for(lambda: all_domains(mount) == sorted(names), f"the domains {names}, and not {all_domains(mount)}")


def problem(mount, name):
    return json.loads(mount.text(name, "domain.json"))["problem"]


def picture(mount, name="web1"):
    """What must not change by what happens to the definition."""
    return (
        parents(mount, name),
        domains.current(mount, name),
        administer.layers(mount, name),
        {each: frozen_byte(mount, each, name) for each in mount.snapshots(name)},
        byte(mount, name),
        administer.names_beside(mount),
    )


def test_gone_and_back():
    """A domain of one disk stays what it is without its definition, but that external snapshots need it"""
    with Mounted(domains.web1, expected=EXPECTED) as mount:
        domains.chain(mount, ("one", "two"))
        before = picture(mount)
        content = read(mount)
        serial = os.stat(mount.path("web1")).st_ino
        os.unlink(path_of(mount))
        wait_for(lambda: "web1.json" not in mount.text("web1", "domain.json"), "a look without the definition")
        equal(picture(mount)[:-1], before[:-1])
        command_refused(errno.EPERM, mount, "web1", "create", "three disk=vda:external")
        mount.remount()
        equal(picture(mount)[:-1], before[:-1])
        put(mount, content)
        wait_for(lambda: "web1.json" in mount.text("web1", "domain.json"), "a look with the definition")
        equal((picture(mount), os.stat(mount.path("web1")).st_ino), (before, serial))
        domains.create(mount, "three disk=vda:external")
        write(mount, 9)
        equal((byte(mount), frozen_byte(mount, "two")), (9, before[3]["two"]))


def test_several_disks():
    """One of several disks is left out while it has no definition: nothing else is made of its images, and all comes back"""
    with Mounted(lambda source: domains.web1(source, formats=("qcow2", "raw")), expected=EXPECTED) as mount:
        domains.chain(mount, ("one", "two"))
        before = picture(mount)
        content = read(mount)
        for how in ("gone", "broken"):
            if how == "gone":
                os.unlink(path_of(mount))
            else:
                with open(path_of(mount), "w", encoding="utf-8") as file:
                    file.write("{ broken")
            wait_domains(mount)
            mount.remount()
            equal(all_domains(mount), [])
            put(mount, content)
            wait_domains(mount, "web1")
            equal(picture(mount), before)


def test_another_name():
    """A definition under another name is the same domain: its snapshots and numbers stay"""
    with Mounted(domains.web1, expected=EXPECTED) as mount:
        domains.chain(mount, ("one", "two"))
        before = picture(mount)
        serial = os.stat(mount.path("web1")).st_ino
        content = read(mount)
        for name in ("other", "web1"):
            put(mount, {**content, "name": name})
            wait_domains(mount, name)
            equal((picture(mount, name), os.stat(mount.path(name)).st_ino), (before, serial))
        put(mount, {**content, "name": "other"})
        wait_domains(mount, "other")
        domains.create(mount, "three disk=vda:external", "other")
        mount.remount()
        equal(parents(mount, "other"), {"one": None, "two": "one", "three": "two"})


def test_another_target():
    """A disk under another target is another disk; what it begins with is a frozen layer, and is not written to"""
    with Mounted(domains.web1, expected=EXPECTED) as mount:
        domains.chain(mount, ("one", "two"))
        before = picture(mount)
        content = read(mount)
        put(mount, {**content, "disks": [{**content["disks"][0], "target": "sda"}]})
        wait_for(lambda: os.path.isdir(mount.path("web1", "disks", "sda")), "the other disk")
        equal(administer.source(mount, "web1", "sda")[0], "")
        assert "layer" in problem(mount, "web1"), problem(mount, "web1")
        command_refused((errno.EIO, errno.EPERM, errno.EBUSY), mount, "web1", "create", "three")
        put(mount, content)
        wait_for(lambda: os.path.isdir(mount.path("web1", "disks", "vda")) and not problem(mount, "web1"), "the disk")
        equal(picture(mount), before)


def test_two_definitions():
    """A second definition with a layer of the first one's disk has nothing to write to"""
    with Mounted(domains.web1, expected=EXPECTED) as mount:
        domains.chain(mount, ("one", "two"))
        before = picture(mount)
        for source in ("web1.qcow2", "web1.two"):
            make.definition(mount.source, "second", disks=[make.disk(source)], follows=True)
            wait_domains(mount, "web1", "second")
            wait_for(lambda: problem(mount, "second"), "what is wrong with it")
            equal(administer.source(mount, "second")[0], "")
            command_refused((errno.EIO, errno.EPERM, errno.EBUSY), mount, "second", "create", "three")
            mount.remount()
            equal(administer.source(mount, "second")[0], "")
            equal(picture(mount)[:-1], before[:-1])
            os.unlink(path_of(mount, "second"))
            wait_domains(mount, "web1")
        os.rmdir(snapshot_path(mount, "web1", "one"))
        os.rmdir(snapshot_path(mount, "web1", "two"))
        domains.home(mount)


def test_released():
    """Without snapshots a domain is what its definitions and images say, whatever it was before"""
    with Mounted(domains.web1, expected=EXPECTED) as mount:
        domains.chain(mount, ("one",))
        command(mount, "web1", "snapshots/one/delete", "1")
        domains.home(mount)
        os.unlink(path_of(mount))
        make.definition(mount.source, "second", disks=[make.disk("web1.qcow2", "sda")], follows=True)
        wait_domains(mount, "second")
        equal(administer.source(mount, "second", "sda")[0], os.path.join(mount.source, "web1.qcow2"))
        domains.create(mount, "new disk=sda:external", "second")
        equal(mount.snapshots("second"), ["new"])


if __name__ == "__main__":
    checks.main(globals())
