# SPDX-License-Identifier: LGPL-2.1-or-later
"""Verbs that look: list, tree and jobs."""

import json
import os
import sys

from mount import Refused, find_mount


def table(rows):
    """Columns as wide as their widest cell; the last one as it is."""
    widths = [max(map(len, column)) for column in zip(*rows)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row[:-1], widths)) + "  " + row[-1])


def as_json(value):
    json.dump(value, sys.stdout, indent=2)
    print()


def list_all(options):
    """Without a domain the domains, with one its snapshots."""
    mount = find_mount(options.mount)
    if options.domain is None:
        domains = [{**domain.document(), "state": domain.state()} for domain in mount.domains()]
        if options.json:
            as_json(domains)
        elif domains:
            table([("DOMAIN", "STATE", "SNAPSHOTS", "CURRENT"), *map(domain_row, domains)])
        return
    domain = mount.domain(options.domain)
    snapshots = [domain.snapshot(name) for name in domain.snapshot_names()]
    if options.json:
        as_json(snapshots)
    elif snapshots:
        table([("SNAPSHOT", "CREATED", "PARENT", "CONSISTENCY", "DISKS", "NOTES"), *(snapshot_row(each, domain) for each in snapshots)])


def domain_row(document):
    notes = document["current"] or "-"
    return document["name"], document["state"], str(len(document["snapshots"])), notes + (f"  ({document['problem']})" if document["problem"] else "")


def snapshot_row(snapshot, domain):
    notes = [word for word, is_true in (("current", snapshot["name"] == domain.current()), ("protected", snapshot["protected"])) if is_true]
    if snapshot["missing"]:
        notes.append("without " + " ".join(snapshot["missing"]))
    if snapshot["description"]:
        notes.append(snapshot["description"].replace("\n", " "))
    disks = " ".join(f"{disk['target']}:{disk['kind']}" for disk in snapshot["disks"])
    created = snapshot["created"][:19].replace("T", " ")
    return snapshot["name"], created, snapshot["parent"] or "-", snapshot["consistency"], disks, "; ".join(notes)


def tree(options):
    mount = find_mount(options.mount)
    for domain in mount.domains([options.domain] if options.domain else ()):
        print(domain.text("tree.txt"))


def jobs(options):
    mount = find_mount(options.mount)
    domains = mount.domains([options.domain] if options.domain else ())
    if options.cancel is not None:
        return cancel(domains, options.cancel)
    found = [{"domain": domain.name, **job} for domain in domains for job in domain.jobs()]
    if options.json:
        as_json(found)
    elif found:
        table([("JOB", "DOMAIN", "PROGRESS", "STATUS", "WHAT"), *map(job_row, found)])
    return 0


def job_row(job):
    return str(job["number"]), job["domain"], f"{job['percent']} %", job["status"].replace("\n", " "), job["what"].replace("\n", " ")


def cancel(domains, number):
    for domain in domains:
        if os.path.isdir(os.path.join(domain.path, "jobs", str(number))):
            domain.write(f"jobs/{number}/cancel", "1")
            print(f"job {number} is being cancelled")
            return 0
    raise Refused(f"there is no job {number}; it may have ended")


def complete(options):
    """Names for the shell's completion: one a line, nothing where there is nothing."""
    try:
        mount = find_mount(options.mount)
        if options.what == "domains":
            names = [domain.name for domain in mount.domains()]
        elif options.what == "snapshots":
            names = mount.domain(options.domain).snapshot_names()
        elif options.what == "jobs":
            names = [str(job["number"]) for domain in mount.domains() for job in domain.jobs()]
        else:
            names = mount.domain(options.domain).targets()
    except (Refused, OSError):
        return 0
    print("\n".join(names))
    return 0
