# SPDX-License-Identifier: LGPL-2.1-or-later
"""Is a mount as the model says? Tree, every byte of every snapshot and of the present, every image, every file."""

import hashlib
import json
import os

import administer
from checks import equal
from mounted import wait_for


class Watch:
    """What must stay as it was from before the first mount on: no file is unlinked, and some are never written."""

    def __init__(self, source, never_written):
        self.source = source
        self.inodes = {name: os.stat(os.path.join(source, name)).st_ino for name in os.listdir(source) if name != ".vmsnapfs"}
        self.sums = {path: digest(path) for path in never_written}

    def check(self):
        for name, inode in self.inodes.items():
            path = os.path.join(self.source, name)
            assert os.path.exists(path), f"{name}, a file of the user's, was unlinked"
            equal(os.stat(path).st_ino, inode, f"{name}, a file of the user's, was replaced")
        for path, wanted in self.sums.items():
            equal(digest(path), wanted, f"{path}, on which others lie, was written")


def digest(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def link(mount, *parts):
    try:
        return os.path.basename(os.readlink(mount.path(*parts)))
    except FileNotFoundError:
        return None


def check_tree(mount, domain):
    """Names, parents, children, current, latest, what is missing, protected and described."""
    name = domain.name
    equal(mount.snapshots(name), sorted(domain.names()), f"{name}/snapshots")
    equal(sorted(mount.text(name, "snapshots", ".order").splitlines()), sorted(domain.names()), f"{name}/snapshots/.order")
    current = domain.snapshots[domain.current].name if domain.current else None
    equal(link(mount, name, "current"), current, f"{name}/current")
    latest = domain.snapshots[max(domain.snapshots)].name if domain.snapshots else None
    equal(link(mount, name, "latest"), latest, f"{name}/latest")
    for snapshot in domain.snapshots.values():
        check_snapshot(mount, domain, snapshot)
    nested = [each for _, inner, _ in os.walk(mount.path(name, "tree")) for each in inner if each != "@"]
    equal(sorted(nested), sorted(domain.names()), f"{name}/tree")


def check_snapshot(mount, domain, snapshot):
    where = (domain.name, "snapshots", snapshot.name)
    told = "/".join(where)
    parent = domain.snapshots[snapshot.parent].name if snapshot.parent else None
    equal(link(mount, *where, "parent"), parent, f"{told}/parent")
    children = sorted(domain.snapshots[each].name for each in domain.children(snapshot.serial))
    equal(sorted(os.listdir(mount.path(*where, "children"))), children, f"{told}/children")
    equal(sorted(os.listdir(mount.path(*where, "disks"))), sorted(target + ".raw" for target in snapshot.contents), f"{told}/disks")
    missing = sorted(set(domain.disks) - set(snapshot.contents))
    equal(sorted(mount.text(*where, "missing").split()), missing, f"{told}/missing")
    equal(mount.text(*where, "protected").strip(), "1" if snapshot.is_protected else "0", f"{told}/protected")
    equal(mount.text(*where, "description").removesuffix("\n"), snapshot.description, f"{told}/description")
    document = json.loads(mount.text(*where, "snapshot.json"))
    equal((document["name"], document["parent"], document["protected"]), (snapshot.name, parent, snapshot.is_protected), f"{told}/snapshot.json")


def compare(found, wanted, what):
    if found == wanted:
        return
    assert len(found) == len(wanted), f"{what}: {len(found)} bytes where {len(wanted)} are right"
    at = next(offset for offset in range(len(wanted)) if found[offset] != wanted[offset])
    raise AssertionError(f"{what}: at {at:#x} stands {found[at : at + 4].hex()} where {wanted[at : at + 4].hex()} is right")


def check_bytes(mount, domain):
    for snapshot in domain.snapshots.values():
        for target, content in snapshot.contents.items():
            found = administer.frozen_bytes(mount, domain.name, snapshot.name, target)
            compare(found, content.data, f"{domain.name}/snapshots/{snapshot.name}/{target}")
    for target, disk in domain.disks.items():
        compare(administer.active_bytes(mount, domain.name, target), disk.data, f"the present {domain.name} {target}")


def check(mount, world, watch, *, leaks_allowed=False):
    """Everything; AssertionError says what is wrong."""
    equal(sorted(name for name in os.listdir(mount.mountpoint) if not name.startswith(".")), sorted(world), "domains")
    for domain in world.values():
        check_tree(mount, domain)
        check_bytes(mount, domain)
    for path in administer.images(mount.source):
        administer.check_image(path, leaks_allowed)
    watch.check()
    check_whether_known(mount, world)


def check_whether_known(mount, world):
    """No domain has a problem, but for one that is still on a file that others lie on."""
    for name, domain in world.items():
        problem = json.loads(mount.text(name, "domain.json"))["problem"]
        allowed = any(not disk.may_write and disk.on_first for disk in domain.disks.values())
        assert allowed or not problem, f"{name}: {problem}"


def check_home(mount, world, initial):
    """All snapshots are deleted and all work is done: each domain is on the file that it began with, where that may be
    written and nobody else needs what lies on it, and nothing is left over of what was in between."""
    known = set(initial)
    for name, domain in world.items():
        if domain.is_clone:
            known.add(f"{name}.json")
        for target, disk in domain.disks.items():
            chain = administer.layers(mount, name, target)
            known.update(os.path.basename(path) for path in chain)
            if disk.may_write and not (domain.is_cloned or domain.is_clone or domain.snapshots):
                equal(chain[0], disk.path, f"{name} {target} is not on its first file, of {chain}")
    # The memory of deleted snapshots goes by no job that jobs/ would show.
    wait_for(lambda: set(administer.names_beside(mount)) <= known, lambda: f"the end of {sorted(set(administer.names_beside(mount)) - known)}, which nobody needs")
