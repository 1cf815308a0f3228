# SPDX-License-Identifier: LGPL-2.1-or-later
"""Random operations for the model test: what they would do to the model, and doing them to the mount.

A Step is chosen once and carried out on both. `refusals` are the errnos that are right for the mount; where there are
any, nothing may change.
"""

import contextlib
import errno
import os
import subprocess

import administer
import make
from model import KINDS, Content, Disk, Domain, Snapshot

NAMES = ("alpha", "beta", "two words", "ärger", "1", "a.qcow2", "snap~1", "%41", "x" * 120, "semi;colon", "quote\"d")
SECTOR = 512
MIB = 1 << 20
SNAPSHOTS_MAX = 8  # of a domain: so many that trees branch, so few that every byte can be read after each step


class Step:
    """`told`: for people. `act(mount)` does it and raises OSError, or returns False where a command said no.
    `apply(world)` changes a copy of the world.
    `unnamed`: the operation makes up a name that the model can't know. `kind`: which of the functions below made it."""

    def __init__(self, told, refusals, act, apply, unnamed=None):
        self.told, self.refusals, self.act, self.apply, self.unnamed = told, refusals, act, apply, unnamed
        self.kind = None

    def __str__(self):
        expected = " or ".join(sorted(map(administer.errno_name, self.refusals)))
        return self.told + (f", to be refused: {expected}" if expected else "")


def copy_world(world):
    return {name: domain.copy() for name, domain in world.items()}


def pattern(random, size):
    """Bytes that no other write has, at a place that is aligned or not."""
    length = random.choice((SECTOR, 4096, 65536, random.randrange(SECTOR, 200000, SECTOR)))
    offset = random.randrange(0, max(SECTOR, size - length + 1), SECTOR)
    return offset, min(length, size - offset), random.randrange(1, 256)


def written(data, offset, length, byte):
    return data[:offset] + bytes([byte]) * length + data[offset + length :]


class Steps:
    def __init__(self, random):
        self.random = random
        self.count = 0

    def choose(self, mount, world):
        """A step that can be taken now."""
        kinds = (
            (self.create, 26), (self.write, 24), (self.delete, 20), (self.revert, 14), (self.rename, 5), (self.protect, 5),
            (self.describe, 3), (self.clone, 4), (self.open_delete, 3), (self.nonsense, 4),
        )  # fmt: skip
        while True:
            make_step = self.random.choices([kind for kind, _ in kinds], [weight for _, weight in kinds])[0]
            domain = world[self.random.choice(sorted(world))]
            step = make_step(mount, world, domain)
            if step:
                step.kind = make_step.__name__
                return step

    def name(self, domain, *, taken=0.05):
        if domain.snapshots and self.random.random() < taken:
            return self.random.choice(domain.names())
        self.count += 1
        return f"{self.random.choice(NAMES)}-{self.count}"

    def snapshot(self, domain):
        return self.random.choice(list(domain.snapshots.values())) if domain.snapshots else None

    def create(self, mount, world, domain):
        if len(domain.snapshots) >= SNAPSHOTS_MAX:
            return None
        if any(disk.format == "raw" for disk in domain.disks.values()):
            administer.wait_idle(mount, domain.name)  # which may bring a disk back to its raw file, where less can be done
        name = self.name(domain)
        formats = {target: administer.source(mount, domain.name, target)[1] for target in domain.disks}
        if self.random.random() < 0.4:
            return Step(
                f"mkdir {domain.name}/snapshots/{name}",
                domain.refusals_create(name, formats, {}),
                lambda mount: os.mkdir(administer.snapshot_path(mount, domain.name, name)),
                lambda world: world[domain.name].create(name, formats, {}),
            )
        asked = {target: self.random.choice(("no", "internal", "external", "external")) for target in domain.disks if self.random.random() < 0.6}
        description = self.random.choice(("", "", "a description", "two\nlines, \"quoted\" and \\ more"))
        words = [administer_quoted(name), *(["disk-only"] if self.random.random() < 0.3 else [])]
        words += [f"disk={target}:{kind}" for target, kind in asked.items()]
        words += [f"description={administer_quoted(description)}"] if description else []
        line = " ".join(words)
        return Step(
            f"{domain.name}/create: {line!r}",
            domain.refusals_create(name, formats, asked),
            lambda mount: administer.command(mount, domain.name, "create", line),
            lambda world: world[domain.name].create(name, formats, asked, description),
        )

    def write(self, mount, world, domain):
        """A guest that runs for a moment. One that is still on a file that others lie on would harm these: not done."""
        target = self.random.choice(sorted(domain.disks))
        disk = domain.disks[target]
        if not disk.may_write_active():
            return None
        pieces = [pattern(self.random, len(disk.data)) for _ in range(self.random.randrange(1, 4))]
        zeros = self.random.random() < 0.2

        def apply(world):
            changed = world[domain.name].disks[target]
            for offset, length, byte in pieces:
                changed.data = written(changed.data, offset, length, 0 if zeros else byte)

        def act(mount):
            commands = [f"write -q -z {offset} {length}" if zeros else f"{byte} {offset} {length}" for offset, length, byte in pieces]
            administer.guest_write(mount, domain.name, target, *commands)

        return Step(f"guest of {domain.name} writes {pieces}{' zeros' if zeros else ''} to {target}", set(), act, apply)

    def delete(self, mount, world, domain):
        snapshot = self.snapshot(domain)
        if not snapshot:
            return None
        way = self.random.random()
        kind = "1" if way < 0.35 else self.random.choice(KINDS)
        path = administer.snapshot_path(mount, domain.name, snapshot.name)
        if way < 0.15:
            told, act = f"rmdir {path}", lambda mount: os.rmdir(path)
        elif way < 0.25:
            told, act = f"rm -r {path}", lambda mount: subprocess.run(["rm", "-r", path], capture_output=True, stdin=subprocess.DEVNULL).returncode == 0
        else:
            told = f"{domain.name}/snapshots/{snapshot.name}/delete: {kind}"
            act = lambda mount: administer.command_of(mount, domain.name, snapshot.name, "delete", kind)  # noqa: E731
        return Step(told, domain.refusals_delete(snapshot.serial, kind), act, lambda world: world[domain.name].delete(snapshot.serial, kind))

    def open_delete(self, mount, world, domain):
        """While a frozen file is open, the snapshot stays."""
        snapshot = self.snapshot(domain)
        if not snapshot or not snapshot.contents:
            return None
        target = self.random.choice(sorted(snapshot.contents))

        def act(mount):
            with open(mount.frozen(domain.name, snapshot.name, target), "rb"):
                os.rmdir(administer.snapshot_path(mount, domain.name, snapshot.name))

        wanted = {errno.EBUSY} | domain.refusals_delete(snapshot.serial, "1")
        return Step(f"rmdir {domain.name}/snapshots/{snapshot.name} while {target}.raw is open", wanted, act, lambda world: None)

    def revert(self, mount, world, domain):
        snapshot = self.snapshot(domain)
        if not snapshot:
            return None
        refusals = domain.refusals_revert(snapshot.serial)
        guards = self.random.random() < 0.25 and len(domain.snapshots) < SNAPSHOTS_MAX
        words = self.random.choice(("", "1", "shutoff")) if not guards else self.random.choice(("guard", "1 guard", "shutoff guard"))
        placeholder = f"guard {self.count}"
        self.count += 1
        formats = {}
        if guards:
            administer.wait_idle(mount, domain.name)
            formats = {target: administer.source(mount, domain.name, target)[1] for target in domain.disks}
            refusals = refusals | domain.refusals_create(placeholder, formats, {})

        def apply(world):
            if guards:
                world[domain.name].create(placeholder, formats, {})
            world[domain.name].revert(snapshot.serial)

        return Step(
            f"{domain.name}/snapshots/{snapshot.name}/revert: {words!r}",
            refusals,
            lambda mount: administer.command_of(mount, domain.name, snapshot.name, "revert", words),
            apply,
            unnamed=(domain.name, placeholder) if guards else None,
        )

    def rename(self, mount, world, domain):
        snapshot = self.snapshot(domain)
        if not snapshot:
            return None
        name = self.name(domain, taken=0.2)

        def apply(world):
            world[domain.name].snapshots[snapshot.serial].name = name

        return Step(
            f"mv {domain.name}/snapshots/{snapshot.name} {name}",
            domain.refusals_rename(snapshot.serial, name),
            lambda mount: os.rename(administer.snapshot_path(mount, domain.name, snapshot.name), administer.snapshot_path(mount, domain.name, name)),
            apply,
        )

    def protect(self, mount, world, domain):
        snapshot = self.snapshot(domain)
        if not snapshot:
            return None
        value = self.random.random() < 0.5

        def apply(world):
            world[domain.name].snapshots[snapshot.serial].is_protected = value

        return Step(
            f"{domain.name}/snapshots/{snapshot.name}/protected: {int(value)}",
            set(),
            lambda mount: administer.command_of(mount, domain.name, snapshot.name, "protected", str(int(value))),
            apply,
        )

    def describe(self, mount, world, domain):
        snapshot = self.snapshot(domain)
        if not snapshot:
            return None
        text = self.random.choice(("", "words", "Zeile eins\nZeile zwei: äöü", "tab\there"))

        def apply(world):
            world[domain.name].snapshots[snapshot.serial].description = text

        return Step(
            f"{domain.name}/snapshots/{snapshot.name}/description: {text!r}",
            set(),
            lambda mount: administer.command_of(mount, domain.name, snapshot.name, "description", text),
            apply,
        )

    def clone(self, mount, world, domain):
        snapshot = self.snapshot(domain)
        if not snapshot or not snapshot.contents or sum(each.is_clone for each in world.values()) >= 2:
            return None
        full = self.random.random() < 0.4
        taken = self.random.random() < 0.1
        self.count += 1
        name = self.random.choice(sorted(world)) if taken else f"clone-{self.count}"

        def apply(world):
            world[name] = world[domain.name].clone(snapshot.serial, name, full)

        return Step(
            f"{domain.name}/snapshots/{snapshot.name}/clone: {name}{' full' if full else ''}",
            {errno.EEXIST} if taken else set(),
            lambda mount: administer.command_of(mount, domain.name, snapshot.name, "clone", name + (" full" if full else "")),
            apply,
        )

    def nonsense(self, mount, world, domain):
        """What can't be right."""
        snapshot = self.snapshot(domain)
        tries = [("create", "new memory=external", {errno.EINVAL}), ("create", "new surprise", {errno.EINVAL}),
                 ("create", "new disk=nowhere:internal", {errno.ENOENT, errno.EINVAL}), ("create", ".hidden", {errno.EINVAL}),
                 ("create", "n" * 256, {errno.ENAMETOOLONG}), ("defaults", "name disk-only", {errno.EINVAL})]  # fmt: skip
        if snapshot:
            where = f"snapshots/{snapshot.name}/"
            tries += [(where + "delete", "everything", {errno.EINVAL}), (where + "revert", "running paused", {errno.EINVAL}),
                      (where + "clone", "", {errno.EINVAL}), (where + "clone", "a/b", {errno.EINVAL}), (where + "protected", "2", {errno.EINVAL})]  # fmt: skip
        control, words, wanted = self.random.choice(tries)
        if control.endswith("/clone") and not words:
            words = "name half"
        return Step(f"{domain.name}/{control}: {words[:40]!r}", wanted, lambda mount: administer.command(mount, domain.name, control, words), lambda world: None)


def administer_quoted(word):
    return '"' + word.replace("\\", "\\\\").replace('"', '\\"') + '"'


def settle_names(mount, world, step):
    """Gives the snapshot whose name the mount made up that name in the model, if it can be told."""
    if not step.unnamed:
        return
    domain = world[step.unnamed[0]]
    new = set(mount.snapshots(domain.name)) - set(domain.names())
    if len(new) == 1:
        domain.named(step.unnamed[1]).name = new.pop()


# The domains that it begins with.


def first_world(random, source):
    """Makes images and definitions, and the model of them: (world, paths that are never written)."""
    world = {}
    gold = new_disk(random, source, "gold.qcow2", "qcow2")
    gold_base = gold.data
    make.snapshot(gold.path, "inner")
    gold_data = scribble(random, gold)
    gold.may_write = False
    inner = Content(gold_base, True, is_ours=False)
    world["gold"] = Domain("gold", {"vda": gold}, True, {1: Snapshot("inner", 1, 0, {"vda": inner})})

    path = make.overlay(gold.path, "web.qcow2")
    web = Disk("vda", "qcow2", gold_data, path)
    scribble(random, web)
    data = new_disk(random, source, "web-data.img", "raw", target="vdb")
    snapshots = {1: Snapshot("inner", 1, 0, {"vda": inner}), 2: Snapshot("gold", 2, 0, {"vda": Content(gold_data, False)}, is_protected=True)}
    world["web"] = Domain("web", {"vda": web, "vdb": data}, True, snapshots, current=2)

    disks = {}
    for position in range(random.randrange(1, 4)):
        target = f"vd{'abc'[position]}"
        image_format = random.choice(("qcow2", "qcow2", "raw"))
        disks[target] = new_disk(random, source, f"db-{target}.{'qcow2' if image_format == 'qcow2' else 'img'}", image_format, target=target)
        disks[target].preset = random.choice(("default", "default", "external", "no" if position else "internal"))
    world["db"] = Domain("db", disks, random.random() < 0.7)
    world["plain"] = Domain("plain", {"vda": new_disk(random, source, "plain.qcow2", "qcow2")}, False)
    for domain in world.values():
        if domain.name != "plain":
            define(source, domain)
    return world, [gold.path]


def new_disk(random, source, name, image_format, target="vda"):
    size = random.choice((MIB, 2 * MIB, 4 * MIB, MIB + 3 * SECTOR))
    path = os.path.join(source, name)
    if image_format == "raw":
        with open(path, "wb") as file:
            file.truncate(size)
    else:
        make.image(source, name, str(size), cluster_size=random.choice(("512", "4k", "64k", "1M")), compat=random.choice(("0.10", "1.1", "1.1")))
    disk = Disk(target, image_format, bytes(size), path)
    scribble(random, disk)
    return disk


def scribble(random, disk):
    for _ in range(random.randrange(1, 6)):
        offset, length, byte = pattern(random, len(disk.data))
        make.write(disk.path, f"{byte} {offset} {length}", image_format=disk.format)
        disk.data = written(disk.data, offset, length, byte)
    return disk.data


def define(source, domain):
    disks = []
    for disk in domain.disks.values():
        described = make.disk(os.path.basename(disk.path), disk.target, disk.format)
        if disk.preset != "default":
            described["snapshot"] = disk.preset
        disks.append(described)
    with contextlib.suppress(FileExistsError):
        make.definition(source, domain.name, disks=disks, **({"follows": True} if domain.follows else {}))

