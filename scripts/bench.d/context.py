# SPDX-License-Identifier: LGPL-2.1-or-later
"""What every measurement gets: the contenders, the sizes, the place for data, and the report."""

from dataclasses import dataclass

from machine import GIB, MIB, warm
from mounts import Vmsnapfs
from report import Report
from session import Workspace


@dataclass(frozen=True)
class Sizes:
    """How much of everything. The quick ones are a smoke test: they show that it runs, not how fast it is."""

    rounds: int          # counted runs of each contender
    dense: int           # bytes of the disks of P1, P2, P3 and P9
    chain: int           # bytes of the disk of P4
    chain_depth: int     # overlays of P4
    compressed: int      # bytes of the disks of P5
    pieces: int          # MiB pieces of P6; as many MiB dense
    huge: int            # virtual size of P6's disk
    domains: int         # of P7, P8 and P20
    snapshots: int       # of each; P14 has as many
    chain_layer: int     # bytes of the layer that P13 merges
    reading_seconds: int # of P15's reader, each way
    other_cache: int     # bytes of P20's other page cache, and of the disk that is backed up
    spare: int           # what P20's machine has beyond that
    random_seconds: int  # of one run of P3
    idle_seconds: int    # of P20's idle mount


FULL = Sizes(rounds=5, dense=4 * GIB, chain=2 * GIB, chain_depth=64, compressed=GIB, pieces=1024, huge=1024 * GIB,
             domains=100, snapshots=100, chain_layer=2 * GIB, reading_seconds=20,
             other_cache=8 * GIB, spare=2 * GIB, random_seconds=5, idle_seconds=60)

QUICK = Sizes(rounds=2, dense=256 * MIB, chain=256 * MIB, chain_depth=64, compressed=64 * MIB, pieces=128,
              huge=128 * GIB, domains=20, snapshots=20, chain_layer=128 * MIB,
              reading_seconds=3, other_cache=512 * MIB, spare=256 * MIB, random_seconds=1,
              idle_seconds=5)


@dataclass(frozen=True)
class Context:
    workspace: Workspace
    vmsnapfs: Vmsnapfs
    sizes: Sizes
    report: Report
    wanted: frozenset  # keys of report.TARGETS

    def wants(self, *keys):
        return any(key in self.wanted for key in keys)

    def warm(self, *paths):
        """Brings files into the page cache, and says so in the report if they don't stay there."""
        if warm(*paths) < 0.99:
            self.report.once("images don't stay in the page cache: too little memory, so these figures say little")
