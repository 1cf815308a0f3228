# SPDX-License-Identifier: LGPL-2.1-or-later
"""A model of domains and their snapshots: what each operation must do, or why it must be refused, by the contract alone.

Contents are plain bytes. It knows of files only what decides about refusals: whether a disk is still on the file that
it had at first and whether that file may be written (an image that others lay on already never is), and whether the
domain's files may be switched at all.

Every operation is a function refusals_…(domain, …), which gives the errnos that are right (an empty set: it must
succeed), and a method that does it.
"""

import copy
import errno
import itertools
from dataclasses import dataclass, field

KINDS = ("1", "children", "children-only", "merge", "merge-force", "discard", "discard-force")


@dataclass(frozen=True)
class Content:
    """A disk at a snapshot."""

    data: bytes
    is_internal: bool
    is_ours: bool = True  # false: an internal snapshot in a file that is never written


@dataclass
class Disk:
    target: str
    format: str  # of the file that it had at first
    data: bytes  # the present
    path: str = ""  # of the file that it had at first
    preset: str = "default"
    may_write: bool = True  # may the file that it had at first be written?
    on_first: bool = True  # while it may not be written: is the disk still on it?

    def can_internal(self, active_format):
        return active_format == "qcow2"

    def may_write_active(self):
        return self.may_write or not self.on_first


@dataclass
class Snapshot:
    name: str
    serial: int
    parent: int  # serial; 0: none
    contents: dict  # target: Content
    is_protected: bool = False
    description: str = ""


@dataclass
class Domain:
    name: str
    disks: dict  # target: Disk
    follows: bool
    snapshots: dict = field(default_factory=dict)  # serial: Snapshot
    current: int = 0
    is_cloned: bool = False  # another domain's disks lie on its layers
    is_clone: bool = False
    serials: itertools.count = field(default_factory=lambda: itertools.count(1))

    def copy(self):
        """Contents are shared: they are never changed."""
        other = copy.copy(self)
        other.disks = {target: copy.copy(disk) for target, disk in self.disks.items()}
        other.snapshots = {serial: copy.copy(snapshot) for serial, snapshot in self.snapshots.items()}
        other.serials = itertools.count(max(self.snapshots, default=0) + 1)
        return other

    def named(self, name):
        return next((each for each in self.snapshots.values() if each.name == name), None)

    def names(self):
        return [each.name for each in self.snapshots.values()]

    def children(self, serial):
        return [each.serial for each in self.snapshots.values() if each.parent == serial]

    def branch(self, serial):
        """It and all its descendants."""
        found = {serial}
        for child in self.children(serial):
            found |= self.branch(child)
        return found

    # Create.

    def choose(self, formats, asked):
        """What each disk's snapshot is, {target: no, internal or external}, from formats of the active files."""
        chosen = {}
        for target, disk in self.disks.items():
            kind = asked.get(target) or (disk.preset if disk.preset != "default" else None)
            if kind is None:
                kind = "internal" if disk.can_internal(formats[target]) and disk.may_write_active() else "external"
            chosen[target] = kind
        return chosen

    def refusals_create(self, name, formats, asked):
        found = set()
        if self.named(name):
            found.add(errno.EEXIST)
        if set(asked) - set(self.disks):
            found.add(errno.ENOENT)
        chosen = self.choose(formats, asked)
        if all(kind == "no" for kind in chosen.values()):
            found.add(errno.EINVAL)
        for target, kind in chosen.items():
            disk = self.disks[target]
            if kind == "internal" and not disk.can_internal(formats[target]):
                found.add(errno.EOPNOTSUPP)
            if (kind == "internal" and not disk.may_write_active()) or (kind == "external" and not self.follows):
                found.add(errno.EPERM)
        return found

    def create(self, name, formats, asked, description=""):
        contents = {}
        for target, kind in self.choose(formats, asked).items():
            disk = self.disks[target]
            if kind != "no":
                contents[target] = Content(disk.data, kind == "internal")
            if kind == "external":
                disk.on_first = False
        snapshot = Snapshot(name, next(self.serials), self.current, contents, description=description)
        self.snapshots[snapshot.serial] = snapshot
        self.current = snapshot.serial

    # Revert.

    def needs_switch(self, contents):
        return any(not content.is_internal or not content.is_ours for content in contents.values())

    def refusals_revert(self, serial):
        return {errno.EPERM} if self.needs_switch(self.snapshots[serial].contents) and not self.follows else set()

    def go_to(self, contents):
        for target, content in contents.items():
            self.disks[target].data = content.data
            if not content.is_internal or not content.is_ours:
                self.disks[target].on_first = False

    def revert(self, serial):
        self.go_to(self.snapshots[serial].contents)
        self.current = serial

    # Delete.

    def going(self, serial, kind):
        """Which snapshots go."""
        branch = self.branch(serial)
        if kind in ("children", "discard-force"):
            return branch
        if kind == "children-only":
            return branch - {serial}
        parent = self.snapshots[serial].parent
        if kind == "merge-force" and parent:
            return {serial} | (self.branch(parent) - branch - {parent})
        return {serial}

    def goes_back_to(self, serial, kind):
        """The contents that a delete reverts the domain to; None where it does not."""
        snapshot, going = self.snapshots[serial], self.going(serial, kind)
        if kind == "merge-force" and (self.current == snapshot.parent or (self.current in going and self.current != serial)):
            return snapshot.contents
        if kind == "discard-force" and self.current in going and snapshot.parent:
            return self.snapshots[snapshot.parent].contents
        return None

    def refusals_delete(self, serial, kind):
        found = set()
        snapshot, going = self.snapshots[serial], self.going(serial, kind)
        merges = kind in ("merge", "merge-force")
        if merges and not snapshot.parent:
            found.add(errno.EINVAL)
        if kind == "merge" and snapshot.parent and (len(self.children(snapshot.parent)) > 1 or self.current == snapshot.parent):
            found.add(errno.ENOTEMPTY)
        if kind == "discard":
            if self.children(serial):
                found.add(errno.ENOTEMPTY)
            if self.current == serial:
                found.add(errno.EBUSY)
        if kind == "discard-force" and self.current in going and not snapshot.parent:
            found.add(errno.EBUSY)
        lost = going | ({snapshot.parent} if merges and snapshot.parent else set())
        if any(self.snapshots[each].is_protected for each in lost):
            found.add(errno.EPERM)
        freed = lost - ({serial} if merges else set())
        if any(not content.is_ours for each in freed for content in self.snapshots[each].contents.values()):
            found.add(errno.EPERM)
        contents = self.goes_back_to(serial, kind)
        if contents is not None and self.needs_switch(contents) and not self.follows:
            found.add(errno.EPERM)
        return found

    def delete(self, serial, kind):
        snapshot, going = self.snapshots[serial], self.going(serial, kind)
        back = self.goes_back_to(serial, kind)

        def nearest(each):
            while each in going:
                each = self.snapshots[each].parent
            return each

        self.current = nearest(self.current)
        for each in self.snapshots.values():
            each.parent = nearest(each.parent)
        if kind in ("merge", "merge-force"):
            self.snapshots[nearest(serial)].contents = snapshot.contents
        if back is not None:
            self.go_to(back)
        for each in going:
            del self.snapshots[each]

    # The rest.

    def refusals_rename(self, serial, name):
        other = self.named(name)
        return {errno.EPERM} if other and other.serial != serial else set()

    def clone(self, serial, name, full):
        """The new domain."""
        disks = {}
        for target, content in self.snapshots[serial].contents.items():
            first = self.disks[target]
            disks[target] = Disk(target, "qcow2", content.data, preset=first.preset)
            self.is_cloned |= not full and not content.is_internal
        return Domain(name, disks, self.follows, is_clone=True)
