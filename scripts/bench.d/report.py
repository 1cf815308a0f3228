# SPDX-License-Identifier: LGPL-2.1-or-later
"""Figures: what was to be reached, what was, and both in words and as JSON."""

import json
import statistics
import sys

# What must be measured, and the bound: (what, ">=" or "<=", bound, unit; "" is a ratio).
TARGETS = {
    "P1": ("raw frozen disk, sequential: mount / the file itself", ">=", 0.95, ""),
    "P2": ("qcow2, sequential: ours / qemu-storage-daemon", ">=", 3, ""),
    "P3": ("qcow2, O_DIRECT 4 KiB random, depth 16: ours / qemu-storage-daemon", ">=", 1.3, ""),
    "P4.depth": ("the same data through 64 overlays / through one image, ours", ">=", 0.9, ""),
    "P4.peer": ("64 overlays, sequential: ours / qemu-storage-daemon", ">=", 3, ""),
    "P5.zlib": ("zlib-compressed qcow2, sequential: ours / qemu-storage-daemon", ">=", 3, ""),
    "P5.zstd": ("zstd-compressed qcow2, sequential: ours / qemu-storage-daemon", ">=", 2, ""),
    "P6.cp": ("cp --sparse=auto, scattered pieces of a huge disk / dense: time", "<=", 1.3, ""),
    "P6.tar": ("tar -S, scattered pieces of a huge disk / dense: time", "<=", 1.3, ""),
    "P7.first": ("first mount of all domains until usable", "<=", 1.0, "s"),
    "P7.again": ("mounting them again until usable", "<=", 1.0, "s"),
    "P7.memory": ("resident memory of that mount, everything listed once", "<=", 64, "MiB"),
    "P8.first": ("find -ls, first / over a copy on ext4: time", "<=", 4, ""),
    "P8.second": ("find -ls, second / over a copy on ext4: time", "<=", 1.5, ""),
    "P9": ("qcow2, sequential: ours / nbdfuse over qemu-nbd", ">=", 3, ""),
    "P10": ("mkdir, internal, 1 disk / qemu-img snapshot -c: time", "<=", 1.5, ""),
    "P11": ("mkdir, internal, 4 disks at once / four qemu-img snapshot -c: time", "<=", 1, ""),
    "P12": ("mkdir, external, 4 disks at once / four qemu-img create -b: time", "<=", 1, ""),
    "P13": ("rmdir, lowest snapshot of an external chain / qemu-img commit: time", "<=", 0.05, ""),
    "P14": ("mkdir, external, many snapshots in the store / ten: time", "<=", 1.2, ""),
    "P15": ("99.9th percentile of a busy reader, administration / none: time", "<=", 2, ""),
    "P16": ("guest's pause, 2 disks, external / virsh snapshot-create-as --disk-only", "<=", 1, ""),
    "P17.live.time": ("live memory and external disks / virsh --live --memspec: time", "<=", 1, ""),
    "P17.live.pause": ("the same: guest's pause", "<=", 1, ""),
    "P17.inside.time": ("memory and disks inside / virsh snapshot-create-as: time", "<=", 1, ""),
    "P17.inside.pause": ("the same: guest's pause", "<=", 1, ""),
    "P18": ("mkdir, running, 2 disks, external / virsh snapshot-create-as --disk-only: time", "<=", 0.5, ""),
    "P19": ("guest's writes while a frozen disk is read: ours / qemu-img convert -U", ">=", 1, ""),
    "P20.raw": ("other page cache kept by a backup of a raw frozen disk", ">=", 0.9, ""),
    "P20.qcow2": ("other page cache kept by a backup of a qcow2 frozen disk", ">=", 0.9, ""),
    "P20.cpu": ("cpu of an idle mount of all domains", "<=", 0.5, "%"),
}


class Series:
    """What one contender reached in several runs."""

    def __init__(self, name, unit, values):
        self.name, self.unit, self.values = name, unit, values

    @property
    def median(self):
        return statistics.median(self.values)

    @property
    def spread(self):
        """(largest - smallest) / median: how much to trust the median."""
        return (max(self.values) - min(self.values)) / self.median if self.median else 0.0

    def __str__(self):
        runs = f", {len(self.values)} runs, spread {self.spread:.0%}" if len(self.values) > 1 else ""
        return f"{self.name}: {show(self.median, self.unit)}{runs}"

    def as_json(self):
        return {"name": self.name, "unit": self.unit, "median": self.median, "values": self.values}


def interleave(rounds, unit, contenders, before=lambda: None):
    """Runs every contender (name: function that returns a number) once a round, in rotating order, so that a slow
    minute of the machine hits all of them. One more round goes first and is not counted. `before` runs before each,
    untimed: it sees to the page cache, which others on the machine use, too."""
    values = {name: [] for name in contenders}
    order = list(contenders)
    for number in range(rounds + 1):
        for name in order:
            before()
            value = contenders[name]()
            if number:
                values[name].append(value)
        order.append(order.pop(0))
    return [Series(name, unit, values[name]) for name in contenders]


def show(value, unit):
    """A number as a person wants to read it."""
    if unit == "B/s":
        return f"{value / 1e9:.2f} GB/s" if value >= 1e9 else f"{value / 1e6:.0f} MB/s"
    if unit == "s":
        return f"{value:.3f} s"
    if unit == "/s":
        return f"{value:,.0f}/s"
    return f"{value:.2f}{' ' * bool(unit)}{unit}"


class Report:
    """Collects figures; writes each as soon as it is known (JSON: all at the end)."""

    def __init__(self, as_json):
        self.as_json = as_json
        self.machine = {}
        self.conditions = []
        self.figures = []
        self.information = []

    def say(self, text):
        """A line for the person who watches; with --json on stderr."""
        print(text, file=sys.stderr if self.as_json else sys.stdout, flush=True)

    def describe(self, machine):
        self.machine = machine
        self.say("  ".join(f"{key} {value}" for key, value in machine.items()))

    def condition(self, text):
        """Something about this run that a reader of the figures must know."""
        self.conditions.append(text)
        self.say(text)

    def once(self, text):
        """The same, however often it happens."""
        if text not in self.conditions:
            self.condition(text)

    def figure(self, key, value, series=()):
        what, direction, bound, unit = TARGETS[key]
        met = value >= bound if direction == ">=" else value <= bound
        self.figures.append({"id": key, "what": what, "value": value, "unit": unit, "direction": direction,
                             "target": bound, "met": met, "series": [each.as_json() for each in series]})
        self.say(f"{key:<10} {what:<70} {show(value, unit):>10}  {direction} {bound:<5g} {'pass' if met else 'MISS'}")
        for each in series:
            self.say(f"{'':<13}{each}")

    def ratio(self, key, ours, peer):
        self.figure(key, ours.median / peer.median, (ours, peer))

    def unmeasured(self, key, why):
        what, direction, bound, unit = TARGETS[key]
        self.figures.append({"id": key, "what": what, "value": None, "unit": unit, "direction": direction,
                             "target": bound, "met": None, "why": why})
        self.say(f"{key:<10} {what:<70} {'-':>10}  {direction} {bound:<5g} not measured: {why}")

    def inform(self, key, what, value, unit):
        """A figure without a target."""
        self.information.append({"id": key, "what": what, "value": value, "unit": unit})
        self.say(f"{'':<13}({what}: {show(value, unit)})")

    def has(self, key):
        return any(figure["id"] == key for figure in self.figures)

    def all_met(self):
        return all(figure["met"] for figure in self.figures)

    def finish(self, quick):
        """The last words. Returns whether every target was met."""
        met = sum(figure["met"] is True for figure in self.figures)
        self.say(f"{met} of {len(self.figures)} targets met")
        if self.as_json:
            json.dump({"machine": self.machine, "quick": quick, "conditions": self.conditions,
                       "figures": self.figures, "information": self.information}, sys.stdout, indent=2)
            print()
        return self.all_met()
