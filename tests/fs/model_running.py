# SPDX-License-Identifier: LGPL-2.1-or-later
"""What running adds to the model of domains: their power, disks that are not persistent, and the steps of guests that run.

What memory holds the model can't know; that the QEMU runs again and has the right disks it does.
"""

import errno
import os
import time
from dataclasses import dataclass

import administer
import make
import model
import model_steps
from model_steps import Step, administer_quoted, pattern, written
from mounted import HOPELESS

OFF, RUNS, PAUSED = "off", "running", "paused"


@dataclass
class Disk(model.Disk):
    persistent: bool = True
    scratch: bytes = b""  # what a disk that is not persistent holds while its domain is active

    def present(self, is_active):
        return self.scratch if is_active and not self.persistent else self.data


@dataclass
class Domain(model.Domain):
    power: str = OFF
    launched: tuple = ()  # the disks that `launch` names: without one of them it can't be started

    def is_active(self):
        return self.power != OFF

    def can_start(self):
        return set(self.launched) == set(self.disks)

    def set_power(self, power):
        """A QEMU is started, or ends: what is not persistent begins anew."""
        self.power = power
        for disk in self.disks.values():
            disk.scratch = b"" if disk.persistent else disk.data

    def choose(self, formats, asked):
        chosen = super().choose(formats, asked)
        for target, disk in self.disks.items():
            if not disk.persistent and (self.is_active() or target not in asked):
                chosen[target] = "no"
        return chosen

    def create(self, name, formats, asked, description=""):
        super().create(name, formats, asked, description)
        self.snapshots[self.current].power = self.power

    def refusals_delete(self, serial, kind):
        found = super().refusals_delete(serial, kind)
        if self.is_active() and self.goes_back_to(serial, kind) is not None:
            found = found | {errno.EBUSY}
        return found

    def delete(self, serial, kind):
        power = self.snapshots[serial].power
        below = self.snapshots[serial].parent
        super().delete(serial, kind)
        if kind in ("merge", "merge-force"):
            self.snapshots[below].power = power

    def clone(self, serial, name, full):
        other = super().clone(serial, name, full)
        disks = {target: Disk(**{**vars(disk), "persistent": self.disks[target].persistent}) for target, disk in other.disks.items()}
        return Domain(name, disks, True, is_clone=True, launched=self.launched)


def first_world(random, source, launch):
    """One domain; others come to be as its clones."""
    disks, described = {}, []
    for position in range(random.choice((1, 2, 2, 3))):
        target = f"vd{'abc'[position]}"
        image_format = random.choice(("qcow2", "qcow2", "qcow2", "raw"))
        made = model_steps.new_disk(random, source, f"one-{target}.{'qcow2' if image_format == 'qcow2' else 'img'}", image_format, target=target)
        disks[target] = Disk(**vars(made), persistent=position == 0 or random.random() < 0.6)
        described.append(make.disk(os.path.basename(made.path), target, image_format, **({} if disks[target].persistent else {"persistent": False})))
    devices = [word for target in disks for word in ("-device", f"virtio-blk-pci,drive={target},id=d-{target}")]
    make.definition(source, "one", disks=described, launch=[*launch, *devices])
    return {"one": Domain("one", disks, True, launched=tuple(disks))}


class RunningSteps(model_steps.Steps):
    def __init__(self, random):
        super().__init__(random)
        self.first = [self.create, self.clone, self.turn_on, self.turn_on]

    def choose(self, mount, world):
        kinds = (
            (self.create, 24), (self.write, 30), (self.delete, 20), (self.revert, 12), (self.rename, 3), (self.protect, 2), (self.describe, 1),
            (self.clone, 4), (self.open_delete, 2), (self.turn_on, 10), (self.turn_off, 3), (self.pause, 3), (self.copy, 5),
        )  # fmt: skip
        for _ in range(1000):
            make_step = self.random.choices([kind for kind, _ in kinds], [weight for _, weight in kinds])[0]
            if self.first:
                make_step = self.first.pop(0)
            domain = world[self.random.choice(sorted(world))]
            step = make_step(mount, world, domain)
            if step:
                step.kind = make_step.__name__
                step.domain = domain.name
                return step
        raise AssertionError("nothing can be done any more")

    def create(self, mount, world, domain):
        if len(domain.snapshots) >= 6:
            return None
        if any(disk.format == "raw" for disk in domain.disks.values()):
            rest(mount, [domain.name])  # which may bring a disk back to its raw file
        name = self.name(domain, taken=0.02)
        formats = {target: administer.source(mount, domain.name, target)[1] for target in domain.disks}
        asked = {}
        for target, disk in domain.disks.items():
            if disk.persistent or not domain.is_active():
                can = formats[target] == "qcow2"
                if self.random.random() < 0.7 or not can:
                    asked[target] = self.random.choice(("no", "external", "external", *(("internal", "internal") if can else ())))
        words = [administer_quoted(name), *(f"disk={target}:{kind}" for target, kind in asked.items())]
        chosen = set(domain.choose(formats, asked).values())
        memory = "no"
        if domain.is_active():
            memory = self.random.choice(("no", "no", "external", "internal"))
            if memory == "internal" and ("internal" not in chosen or any(target not in asked for target in domain.disks)):
                memory = "external"
            words += [self.random.choice(("disk-only", "memory=no"))] if memory == "no" else [f"memory={memory}"]
            if memory == "external" and self.random.random() < 0.3:
                words.append("live")
        if memory == "no" and chosen == {"no"}:
            return None
        pauses = domain.is_active() and self.random.random() < 0.1
        line = " ".join([*words, *(["paused"] if pauses else [])])

        def apply(world):
            changed = world[domain.name]
            changed.create(name, formats, asked)
            if pauses:
                changed.power = PAUSED

        refusals = {errno.EEXIST} if domain.named(name) else set()
        return Step(f"{domain.name}/create: {line!r}", refusals, lambda mount: administer.command(mount, domain.name, "create", line), apply)

    def write(self, mount, world, domain):
        """By the guest that runs; one that is off is one that runs for a moment."""
        if not domain.is_active():
            if not all(disk.persistent for disk in domain.disks.values()):
                return None
            return super().write(mount, world, domain)
        if domain.power == PAUSED:
            return None
        target = self.random.choice(sorted(domain.disks))
        pieces = [pattern(self.random, len(domain.disks[target].data)) for _ in range(self.random.randrange(1, 4))]

        def apply(world):
            disk = world[domain.name].disks[target]
            for offset, length, byte in pieces:
                if disk.persistent:
                    disk.data = written(disk.data, offset, length, byte)
                else:
                    disk.scratch = written(disk.scratch, offset, length, byte)

        def act(mount):
            rest(mount)
            for offset, length, byte in pieces:
                mount.io_of(domain.name, target, f"write -P {byte} {offset} {length}")
            mount.io_of(domain.name, target, "flush")

        return Step(f"guest of {domain.name}, which runs, writes {pieces} to {target}", set(), act, apply)

    def revert(self, mount, world, domain):
        snapshot = self.snapshot(domain)
        if not snapshot:
            return None
        wanted = self.random.choice(("", "1", RUNS, PAUSED, "shutoff"))
        becomes = {"": snapshot.power, "1": snapshot.power, "shutoff": OFF}.get(wanted, wanted)
        if becomes != OFF and not domain.can_start():
            return None
        words = wanted + (" force" if set(domain.disks) - set(snapshot.contents) else "")

        def apply(world):
            world[domain.name].revert(snapshot.serial)
            world[domain.name].set_power(becomes)

        def act(mount):
            administer.command_of(mount, domain.name, snapshot.name, "revert", words)

        return Step(f"{domain.name}/snapshots/{snapshot.name}/revert: {words!r}", set(), act, apply)

    def clone(self, mount, world, domain):
        """Copying an internal snapshot out of an image that a guest writes to is refused (EBUSY), so then there is none."""
        if domain.is_clone or (domain.is_active() and any(c.is_internal for each in domain.snapshots.values() for c in each.contents.values())):
            return None
        return super().clone(mount, world, domain)

    def turn_on(self, mount, world, domain):
        if domain.is_active() or not domain.can_start():
            return None
        return self.powered(domain, "start", RUNS)

    def turn_off(self, mount, world, domain):
        return self.powered(domain, "destroy", OFF) if domain.is_active() else None

    def powered(self, domain, word, becomes):
        return Step(
            f"{domain.name}/power: {word}",
            set(),
            lambda mount: administer.command(mount, domain.name, "power", word),
            lambda world: world[domain.name].set_power(becomes),
        )

    def pause(self, mount, world, domain):
        if not domain.is_active():
            return None
        word, becomes = ("pause", PAUSED) if domain.power == RUNS else ("resume", RUNS)

        def apply(world):
            world[domain.name].power = becomes

        return Step(f"{domain.name}/power: {word}", set(), lambda mount: administer.command(mount, domain.name, "power", word), apply)

    def copy(self, mount, world, domain):
        """Copies a disk, and has the guest go on in the copy, or not."""
        target = self.random.choice(sorted(domain.disks))
        if domain.power != RUNS or not domain.disks[target].persistent:
            return None
        self.count += 1
        verb = self.random.choice(("pivot", "pivot", "abort"))
        image_format = self.random.choice(("qcow2", "qcow2", "raw"))
        path = os.path.join(mount.elsewhere, f"copy-{self.count}.{'qcow2' if image_format == 'qcow2' else 'img'}")

        def act(mount):
            where = f"disks/{target}/"
            administer.command(mount, domain.name, where + "copy", f"{path} format={image_format}")
            wait_for_copy(mount, domain.name)
            administer.command(mount, domain.name, where + verb, "1")

        def apply(world):
            world[domain.name].is_cloned |= verb == "pivot"  # which does not come home either

        return Step(f"{domain.name}/disks/{target}: copy to {os.path.basename(path)}, {verb}", set(), act, apply)


def wait_for_copy(mount, domain):
    """Until it is ready; OSError where there is no copy any more, since its QEMU has ended."""
    end = time.monotonic() + HOPELESS
    while True:
        statuses = administer.jobs(mount, domain).values()
        if any(status == "ready" for status in statuses):
            return
        if not statuses or time.monotonic() > end:
            raise OSError(errno.EIO, f"no copy became ready: {list(statuses)}")
        time.sleep(0.02)


def rest(mount, names=None):
    """Until nothing goes on in the background, though something may wait: for images that a guest has open, for one."""
    names = names or mount.domains()
    end = time.monotonic() + HOPELESS
    quiet, quiet_for_long = administer.Quiet(), administer.Quiet(1.2)
    while True:
        statuses = [status for name in names for status in administer.jobs(mount, name).values()]
        is_busy = any(not status.startswith("waiting") for status in statuses)
        is_quiet, is_quiet_for_long = quiet.look(is_busy), quiet_for_long.look(is_busy)
        if is_quiet_for_long if statuses else is_quiet:
            return
        assert time.monotonic() < end, f"work that never ends: {[(name, administer.jobs(mount, name)) for name in names]}"
        time.sleep(0.02)
