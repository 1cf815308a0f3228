# SPDX-License-Identifier: LGPL-2.1-or-later
"""release: a domain back on its original files, without snapshots, for whoever wants to do without vmsnapfs."""

import json
import os
import sys
import time

import progress
from mount import Refused, find_mount, link_name

LOOK = 0.2  # seconds between two looks
TELL = 1  # second that a job stays as it is before a line tells of it
SETTLED = 10  # seconds without any job after which nothing more is coming


def release(options):
    domain = find_mount(options.mount).domain(options.domain)
    names = domain.snapshot_names()
    protected = [name for name in names if domain.snapshot(name)["protected"]]
    if protected:
        raise Refused(f"protected: {', '.join(protected)}; write 0 to snapshots/NAME/protected of each first")
    if names and not options.yes:
        confirm(domain, names)
    for name in names:
        path = os.path.join(domain.path, "snapshots", name)
        if os.path.isdir(path) and link_name(path, "parent") is None:  # those of its branch go with it
            domain.write(f"snapshots/{name}/delete", "children")
    left = wait(domain)
    if left:
        raise Refused(f"no snapshot is left, and nothing runs any more, but {'; '.join(left)}")
    for target in domain.targets():
        print(f"{target}: {domain.text('disks', target, 'source')}")
    return 0


def confirm(domain, names):
    if not sys.stdin.isatty():
        raise Refused(f"{len(names)} snapshots of {domain.name} would be deleted; --yes says that this is wanted")
    print(f"{domain.name} has these snapshots: {', '.join(names)}")
    if input("Delete them all? The present state stays. [y/N] ").strip().lower() not in ("y", "yes"):
        raise Refused("nothing was changed")


def first_files(domain):
    """What the domain's definition names, as {target: path}; empty where it has none that we can read."""
    path = domain.document()["definition"]
    try:
        with open(path or "", encoding="utf-8") as file:
            disks = json.load(file)["disks"]
        return {disk["target"]: os.path.realpath(os.path.join(os.path.dirname(path), disk["source"])) for disk in disks}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def not_home(domain):
    """A sentence for each disk that is not on its original file yet."""
    first = first_files(domain)
    left = []
    for target in domain.targets():
        source = domain.text("disks", target, "source")
        layers = domain.text("disks", target, "layers").split("\n")
        if target in first and os.path.realpath(source) != first[target]:
            left.append(f"disk {target} is on {source}, and began on {first[target]}")
        elif target not in first and len(layers) > 1:
            left.append(f"disk {target} has {len(layers)} layers: {', '.join(layers)}")
    return left


class Teller:
    """Says on standard error what is waited for: a line for each thing that lasts, once."""

    def __init__(self):
        self.since, self.told = {}, set()

    def look(self, jobs):
        now = time.monotonic()
        lines = [f"{job['what']}: {job['status']}".replace("\n", " ") for job in jobs]
        self.since = {line: self.since.get(line, now) for line in lines}
        self.told &= set(lines)
        for line in lines:
            if line not in self.told and now - self.since[line] >= TELL:
                self.told.add(line)
                progress.say(f"vmsnap: {line}")


def wait(domain):
    """Until the space of the snapshots is given back. Returns what is not as it should be."""
    quiet = time.monotonic()
    teller = Teller()
    try:
        while True:
            jobs = domain.unfinished_jobs()
            left = not_home(domain)
            if not jobs and not left:
                return []
            teller.look(jobs)
            if jobs:
                quiet = time.monotonic()
                if progress.is_shown():
                    progress.draw(jobs[0]["what"], jobs[0]["percent"], jobs[0]["status"].replace("\n", " "))
            elif time.monotonic() - quiet > SETTLED:
                return left
            time.sleep(LOOK)
    except KeyboardInterrupt:
        progress.say("vmsnap: the snapshots are deleted; what is left to do is done by itself, as soon as it can be")
        raise
    finally:
        if progress.is_shown():
            progress.clear()
