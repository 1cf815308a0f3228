# SPDX-License-Identifier: LGPL-2.1-or-later
"""The table of what a snapshot consists of, row by row, with a guest that compares its memory with its disks: what it says
comes about, or is refused and nothing has changed; and the guest goes on from each that has its memory."""

import errno
import itertools
import os

from guest import assert_one_instant
from checks import equal, main  # found where guest has looked

import administer  # pylint: disable=wrong-import-order
import domains
from checks import fails_with
from test_snapshots import TARGETS, Running

# domain | memory | disk | disk-only | result
TABLE = """
inactive | omitted, no        | omitted            | any | memory no; disks default
inactive | omitted, no        | no (all)           | any | refused: nothing to snapshot
inactive | omitted, no        | internal           | any | memory no; disks internal
inactive | omitted, no        | external           | any | memory no; disks external
inactive | internal, external | any                | any | refused: no memory to save
active   | omitted            | omitted            | no  | memory internal; disks internal
active   | omitted            | omitted            | yes | memory no; disks default
active   | omitted            | no (all)           | no  | memory external; disks no
active   | omitted            | external           | no  | memory external; disks external
active   | omitted            | no (all)           | yes | refused: nothing to snapshot
active   | omitted            | external           | yes | memory no; disks external
active   | omitted            | internal           | no  | memory internal; disks internal
active   | omitted, no        | internal           | yes | memory no; disks internal
active   | no                 | omitted            | any | memory no; disks default
active   | no                 | no (all)           | any | refused: nothing to snapshot
active   | no                 | internal           | any | memory no; disks internal
active   | no                 | external           | any | memory no; disks external
active   | internal, external | any                | yes | refused: disk-only and memory contradict each other
active   | internal           | omitted, internal  | no  | memory internal; disks internal
active   | internal           | no (all), external | no  | refused: internal memory needs an internal disk snapshot
active   | external           | omitted            | no  | memory external; disks default
active   | external           | no (all)           | no  | memory external; disks no
active   | external           | internal           | no  | memory external; disks internal
active   | external           | external           | no  | memory external; disks external
"""
ALL = {"memory": ("omitted", "no", "internal", "external"), "disk": ("omitted", "no (all)", "internal", "external"), "only": ("no", "yes")}
MEMORY_WORDS = {"omitted": "", "no": "memory=no", "internal": "memory=internal", "external": "memory=external"}


def rows(domain):
    """(number, result, the words of each combination that the row stands for) of each row for domains in that state."""
    for number, line in enumerate(TABLE.strip().splitlines(), 1):
        cells = [cell.strip() for cell in line.split("|")]
        if cells[0] != domain:
            continue
        choices = [ALL[name] if cell == "any" else cell.split(", ") for name, cell in zip(ALL, cells[1:4])]
        yield number, cells[4], list(itertools.product(*choices))


def words_of(memory, disk, only):
    disks = [] if disk == "omitted" else [f"disk={target}:{disk.split()[0]}" for target in TARGETS]
    return " ".join(word for word in (MEMORY_WORDS[memory], *disks, "disk-only" if only == "yes" else "") if word)


def picture(mount):
    """What a refusal must leave as it is."""
    sources = {target: administer.source(mount, "web1", target) for target in TARGETS}
    files = sorted(name for name in os.listdir(mount.source) if name != ".vmsnapfs")
    return mount.snapshots("web1"), sources, files, mount.text("web1", "state")


def try_combination(mount, name, words, result):
    """Does one, and judges it. True where memory was saved."""
    if result.startswith("refused"):
        before = picture(mount)
        fails_with(errno.EINVAL, mount.create, f"{name} {words}")
        equal(picture(mount), before, f"{words}: refused, and yet something has changed")
        return False
    memory, disks = (part.split()[1] for part in result.split("; "))
    mount.create(f"{name} {words}")
    document = domains.document(mount, name)
    equal(document["memory"], memory, words)
    kind = "internal" if disks == "default" else disks
    equal(domains.kinds(mount, name), {} if kind == "no" else dict.fromkeys(TARGETS, kind), words)
    assert_one_instant(mount.points(name)) if kind != "no" else None
    equal(document["consistency"], "checkpoint" if memory != "no" else "clean" if document["state"] == "shutoff" else "crash")
    return memory != "no"


def try_rows(mount, domain):
    """Every row for this state, printed with what came of it; the names of the snapshots with memory, and their disks."""
    with_memory = {}
    for number, result, combinations in rows(domain):
        for index, combination in enumerate(combinations):
            words, name = words_of(*combination), f"{domain[0]}{number}-{index}"
            if try_combination(mount, name, words, result):
                with_memory[name] = domains.kinds(mount, name)
            if domain == "active":
                mount.goes_on()
        print(f"    row {number:2} ({domain}): {result}: {len(combinations)} as it says", flush=True)
    return with_memory


def test_table():
    """Every row, and the guest goes on from every snapshot that has its memory and its disks"""
    with Running() as mount:
        mount.serial.wait_compared()
        with_memory = try_rows(mount, "active")
        for name in sorted(with_memory, key=lambda name: name[::-1]):
            mount.serial.forget()
            if not with_memory[name]:
                fails_with(errno.EINVAL, administer.command_of, mount, "web1", name, "revert", "running")
                continue
            points = mount.points(name)
            administer.command_of(mount, "web1", name, "revert", "running")
            mount.goes_on()
            mount.serial.assert_went_on(points[0].count)
            equal(mount.points(name), points, f"{name} after going back to it")
            print(f"    {name}: the guest went on from {points[0].count}", flush=True)
        mount.power("destroy")
        try_rows(mount, "inactive")


if __name__ == "__main__":
    main(globals())
