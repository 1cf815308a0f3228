# SPDX-License-Identifier: LGPL-2.1-or-later
"""Sources for the tests of the mount: images, snapshots and definitions, in few words."""

import contextlib
import json
import os
import sys

from mounted import run

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "image"))

MIB = 1 << 20


@contextlib.contextmanager
def appearing(path):
    """The name under which a file is made that is to be there whole, or not: whoever looks meanwhile passes it over."""
    new = os.path.join(os.path.dirname(path), ".new-" + os.path.basename(path))
    yield new
    os.rename(new, path)


def image(directory, name, size="8M", **options):
    """An empty qcow2 image; options as after -o, with _ for -."""
    path = os.path.join(directory, name)
    given = ",".join(f"{key}={value}" for key, value in options.items())
    with appearing(path) as new:
        run("qemu-img", "create", "-q", "-f", "qcow2", *(["-o", given] if given else []), new, size)
    return path


def overlay(path, name, *, backing_format="qcow2", told=None):
    """An overlay beside `path`, which it names as `told` (its file name by default)."""
    top = os.path.join(os.path.dirname(path), name)
    with appearing(top) as new:
        run("qemu-img", "create", "-q", "-f", "qcow2", "-b", told or os.path.basename(path), "-F", backing_format, new)
    return top


def write(path, *commands, image_format="qcow2"):
    """qemu-io commands in one process; "P off len" is short for "write -P P off len"."""
    arguments = []
    for command in commands:
        arguments += ["-c", "write -P " + command if command[0].isdigit() else command]
    run("qemu-io", "-d", "unmap", "-f", image_format, *arguments, path)


def snapshot(path, tag):
    run("qemu-img", "snapshot", "-q", "-c", tag, path)


def delete_snapshot(path, tag):
    run("qemu-img", "snapshot", "-q", "-d", tag, path)


def filled(path, size, seed=1):
    """A raw file of that many bytes, none of them twice in a row."""
    import random

    chance = random.Random(seed)
    with open(path, "wb") as file:
        for offset in range(0, size, 64 * MIB):
            file.write(chance.randbytes(min(64 * MIB, size - offset)))
    return path


def definition(directory, name, /, **content):
    path = os.path.join(directory, name + ".json")
    with appearing(path) as new, open(new, "w", encoding="utf-8") as file:
        json.dump(content, file)
    return path


def disk(source, target="vda", image_format="qcow2", **more):
    return {"target": target, "source": source, "format": image_format, **more}


def convert(path, raw, *options, image_format="qcow2"):
    """What qemu-img reads of an image, as bytes."""
    run("qemu-img", "convert", *options, "-f", image_format, "-O", "raw", path, raw)
    with open(raw, "rb") as file:
        return file.read()
