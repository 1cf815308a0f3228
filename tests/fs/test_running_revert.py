# SPDX-License-Identifier: LGPL-2.1-or-later
"""Going back to snapshots where a QEMU is ended or started for it: disks, states, refusals, and the way back after failures."""

import errno
import os

import administer
import checks
import domains
from administer import command_of, command_refused
from checks import equal, need
from running import Running
from test_power import QEMU, Guest, Watched, events, power, state, wait_state

KINDS = {
    "internal": "disk=vda:internal disk=vdb:internal",
    "external": "disk=vda:external disk=vdb:external",
    "mixed": "disk=vda:internal disk=vdb:external",
}


def back(mount, name, words="1"):
    return command_of(mount, "web1", name, "revert", words)


def went_back(mount, name):
    """The present is as the snapshot is."""
    for target in mount.targets:
        mount.wanted[target] = bytearray(mount.frozen_bytes[name][target])
    equal(domains.current(mount), name)


def is_now(mount, wanted):
    """What gives space back has an image open for a moment, which looks like a QEMU of somebody's."""
    if wanted == "shutoff":
        wait_state(mount, wanted)
    equal(state(mount), wanted)


def no_leftovers(mount):
    names = [name for name in os.listdir(mount.source) if name.startswith(".vmsnapfs-")]
    names += [name for name in os.listdir(os.path.join(mount.source, ".vmsnapfs", "domains")) if name.endswith(".restart")]
    equal(names, [])


def test_states():
    """From each state to each: of snapshots of running, paused and inactive domains, of all kinds"""
    need(QEMU)
    for kind, disks in KINDS.items():
        with Running() as mount:
            mount.start()
            mount.guest_writes(40)
            mount.take("ran disk-only " + disks)
            mount.guest_writes(41)
            power(mount, "pause")
            mount.take("stood disk-only " + disks)
            mount.guest_writes(42)
            mount.off()
            mount.take("off disk-only " + disks)
            for turn, (name, words, wanted) in enumerate(
                (
                    ("ran", "1", "running"),
                    ("ran", "paused", "paused"),
                    ("stood", "", "paused"),
                    ("stood", "running", "running"),
                    ("off", "running", "running"),
                    ("ran", "shutoff", "shutoff"),
                    ("ran", "1", "running"),
                    ("off", "1", "shutoff"),
                    ("stood", "1", "paused"),
                )
            ):
                processes = mount.processes()
                back(mount, name, words)
                is_now(mount, wanted)
                went_back(mount, name)
                equal(len(mount.processes()), 0 if wanted == "shutoff" else 1)
                assert not set(processes) & set(mount.processes()), "the same QEMU"
                no_leftovers(mount)
                if wanted != "shutoff":
                    mount.guest_reads()
                    mount.guest_writes(50 + turn, at=65536)
                mount.check(is_running=wanted != "shutoff")
            assert not any("crashed" in line for line in events(mount)), events(mount)


if __name__ == "__main__":
    checks.main(globals())
