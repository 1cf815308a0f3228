# SPDX-License-Identifier: LGPL-2.1-or-later
"""Verbs that change snapshots, create, revert, delete and clone; power, which changes what the domain does; and the copies of
its disks, copy, pivot and abort."""

import os

from mount import Refused, directory_names, find_mount, quoted


FLAGS = ("live", "disk-only", "reuse-external", "paused")


def is_option(word):
    """As `create` reads it: such a word is no name. (mkdir takes a snapshot that is called so.)"""
    return word in FLAGS or "=" in word


def create(options):
    """With a name and nothing else it is mkdir, as the domain's defaults say; else a line for `create`."""
    domain = find_mount(options.mount).domain(options.domain)
    if options.name is not None and is_option(options.name):
        options.option.insert(0, options.name)
        options.name = None
    words = list(options.option)
    if options.description is not None:
        words.append(f"description={quoted(options.description)}")
    if options.name is not None and not words:
        domain.make_snapshot(options.name)
        print(options.name)
        return 0
    if options.name is not None:
        words.insert(0, quoted(options.name))
    if not options.option:  # what mkdir would do
        words += domain.text("defaults").split("\n")
    before = set(domain.snapshot_names())
    said = domain.write("create", " ".join(words))
    new = [name for name in domain.snapshot_names() if name not in before]
    print(options.name or (new[-1] if new else said))
    return 0


def revert(options):
    domain = find_mount(options.mount).domain(options.domain)
    domain.snapshot_path(options.snapshot)
    words = [options.state or "1", *(["guard"] if options.guard else []), *(["force"] if options.force else [])]
    said = domain.write(f"snapshots/{options.snapshot}/revert", " ".join(words))
    print(said or f"{domain.name} is at {options.snapshot}")
    return 0


def delete(options):
    """Several are deleted one after the other, and the first that is refused ends it."""
    domain = find_mount(options.mount).domain(options.domain)
    for name in options.snapshot:
        domain.snapshot_path(name)
    for name in options.snapshot:
        if os.path.isdir(os.path.join(domain.path, "snapshots", name)):  # it may have gone with one before it
            domain.write(f"snapshots/{name}/delete", options.kind or "1")
    return 0


def clone(options):
    domain = find_mount(options.mount).domain(options.domain)
    domain.snapshot_path(options.snapshot)
    said = domain.write(f"snapshots/{options.snapshot}/clone", quoted(options.name) + (" full" if options.full else ""))
    print(said or options.name)
    return 0


def power(options):
    domain = find_mount(options.mount).domain(options.domain)
    said = domain.write("power", options.word)
    print(said or options.word)
    return 0


def disk_file(domain, target, name):
    if "/" in target or not os.path.isdir(os.path.join(domain.path, "disks", target)):
        raise Refused(f"domain {domain.name} has no disk {target}; it has: {', '.join(directory_names(domain.path, 'disks')) or 'none'}")
    return f"disks/{target}/{name}"


def copy(options):
    domain = find_mount(options.mount).domain(options.domain)
    words = [quoted(os.path.abspath(options.path)), *options.option]
    print(domain.write(disk_file(domain, options.target, "copy"), " ".join(words)) or options.path)
    return 0


def pivot(options):
    domain = find_mount(options.mount).domain(options.domain)
    print(domain.write(disk_file(domain, options.target, "pivot"), "1"))
    return 0


def abort(options):
    domain = find_mount(options.mount).domain(options.domain)
    print(domain.write(disk_file(domain, options.target, "abort"), "1"))
    return 0
