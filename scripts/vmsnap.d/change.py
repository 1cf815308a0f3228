# SPDX-License-Identifier: LGPL-2.1-or-later
"""Verbs that change snapshots, create, revert, delete and clone; power, which changes what the domain does; and the copies of
its disks, copy, pivot and abort."""

import os
import re

from mount import Refused, directory_names, find_mount, quoted


FLAGS = ("live", "disk-only", "reuse-external", "paused")


def is_option(word):
    """As `create` reads it: such a word is no name. (mkdir takes a snapshot that is called so.)"""
    return word in FLAGS or "=" in word


def xl_line(key, value):
    """A line of xl configuration; what is no number, list or quoted text there is a text."""
    if not re.fullmatch(r"\d+|\[.*\]|'.*'|\".*\"", value, re.DOTALL):
        value = '"' + value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'
    return f"{key} = {value}"


def document_of(options):
    """The file, with what was given besides added to it, if it is xl configuration: there the last line of a key counts."""
    try:
        with open(options.file, encoding="utf-8") as file:
            text = file.read().strip().removeprefix("\ufeff")
    except (OSError, UnicodeDecodeError) as error:
        raise Refused(f"{options.file}: {error.strerror if isinstance(error, OSError) else 'it is not UTF-8'}") from None
    words = list(filter(None, [options.name, *options.option]))
    if options.name is not None and "=" not in options.name:
        words[0] = f"name={options.name}"
    if options.description is not None:
        words.append(f"description={options.description}")
    if text[:1] in ("{", "<"):
        if words:
            raise Refused(f"{options.file}: only to xl configuration can something be added; write it into the document")
        return text
    lines = [line for line in text.split("\n") if line.split("#")[0].strip() != "end"]
    for word in words:
        if "=" not in word:
            raise Refused(f"{word} can't be added to a document; that is KEY=VALUE")
        lines.append(xl_line(*word.split("=", 1)))
    return "\n".join(["# a document", *lines, "end"])


def create_from_file(options, domain):
    before = set(domain.snapshot_names())
    domain.write("create", document_of(options))
    new = [name for name in domain.snapshot_names() if name not in before]
    if not new:  # it was taken for the beginning of one
        raise Refused(f"{options.file}: the document ends before a bracket, a text or an element that was begun in it does")
    print(new[-1])
    return 0


def create(options):
    """With a name and nothing else it is mkdir, as the domain's defaults say; else a line, or a document, for `create`."""
    domain = find_mount(options.mount).domain(options.domain)
    if options.file is not None:
        return create_from_file(options, domain)
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
