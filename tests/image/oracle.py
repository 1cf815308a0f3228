# SPDX-License-Identifier: LGPL-2.1-or-later
"""What QEMU says: the bytes and the extents of an image, or of an internal snapshot in it.

`convert -l` gives a snapshot the present virtual size of the image, whatever it was; so the snapshot is
applied to a copy of the image beside it, and that copy is converted and mapped. Where QEMU finds an image
damaged, QemuError says how.
"""

import json
import resource
import shutil
import subprocess

import damage

CPU_SECONDS = 600  # ends a QEMU that loops on a hostile image; no test passes because of it


class QemuError(Exception):
    """QEMU refused or failed; the text is what it said."""


def limited():
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))


def qemu_img(*arguments):
    """Runs qemu-img and returns what it printed."""
    result = subprocess.run(["qemu-img", *arguments], capture_output=True, preexec_fn=limited)
    if result.returncode != 0:
        raise QemuError(result.stderr.decode(errors="replace").strip() or f"rc {result.returncode}")
    return result.stdout.decode(errors="replace")


def info(path, image_format):
    return json.loads(qemu_img("info", "--output=json", "-f", image_format, path))


def snapshot_applied(path, snapshot_id):
    """A copy of the image, in its directory (backing names are relative to it), that the snapshot was applied to.

    QEMU refuses to apply one where bitmaps are, or where a refcount would pass its width. Then the copy's header
    is pointed at the snapshot's L1 table, which is all that a reader sees of it.
    """
    copy = path + ".applied"
    shutil.copyfile(path, copy)
    try:
        qemu_img("snapshot", "-q", "-a", snapshot_id, copy)
    except QemuError:
        shutil.copyfile(path, copy)
        image = damage.Qcow2(copy)
        image.apply_snapshot(snapshot_id.encode())
        image.save()
    return copy


def convert(path, image_format, raw):
    """Writes the image's content to the file `raw`."""
    qemu_img("convert", "-f", image_format, "-O", "raw", path, raw)


def convert_snapshot(path, snapshot_id, raw):
    """The same for an internal snapshot, without a copy: right up to the present size of the image."""
    qemu_img("convert", "-l", f"snapshot.id={snapshot_id}", "-f", "qcow2", "-O", "raw", path, raw)


def map_extents(path, image_format):
    """The list that `qemu-img map` gives: dictionaries with start, length, data, zero."""
    return json.loads(qemu_img("map", "--output=json", "-f", image_format, path))


def classify(extents):
    """(start, end, kind) with kind "data", "hole", or "either" where QEMU knows of zeros in allocated clusters."""
    for extent in extents:
        if extent["data"] != extent["zero"]:
            kind = "data" if extent["data"] else "hole"
        else:
            kind = "either"
        yield extent["start"], extent["start"] + extent["length"], kind


def differing_extents(qemu, ours):
    """Places where a map of ours, [(start, end, is_data)], contradicts QEMU's; a list of texts."""
    wrong = []
    ours = list(ours)
    index = 0
    for start, end, kind in classify(qemu):
        while kind != "either" and start < end:
            while index < len(ours) and ours[index][1] <= start:
                index += 1
            if index == len(ours):
                wrong.append(f"{start}..{end}: QEMU says {kind}, we end before")
                break
            stop = min(end, ours[index][1])
            mine = "data" if ours[index][2] else "hole"
            if mine != kind:
                wrong.append(f"{start}..{stop}: QEMU says {kind}, we say {mine}")
            start = stop
    return wrong
