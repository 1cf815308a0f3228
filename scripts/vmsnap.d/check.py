# SPDX-License-Identifier: LGPL-2.1-or-later
"""check: do store, layers and images agree? Everything that is wrong is a line, and one is enough for status 1."""

import json
import os
import subprocess

from mount import Refused, directory_names, find_mount, link_name

EDGE = 1 << 20  # bytes read at either end of a frozen disk
CHECKED = ("qcow2", "qed", "vdi", "vhdx", "vmdk", "parallels")  # formats that qemu-img check knows
LEAKS = 3  # status of qemu-img check where all that is wrong is lost space


class Findings:
    def __init__(self):
        self.wrong = 0

    def bad(self, text):
        self.wrong += 1
        print(f"WRONG  {text}")

    def note(self, text):
        print(f"note   {text}")


def check(options):
    mount = find_mount(options.mount)
    findings = Findings()
    for domain in mount.domains([options.domain] if options.domain else ()):
        before = findings.wrong
        check_domain(domain, findings)
        if findings.wrong == before:
            print(f"ok     {domain.name}: {len(domain.snapshot_names())} snapshots, {len(domain.targets())} disks")
    return 1 if findings.wrong else 0


def check_domain(domain, findings):
    document = domain.document()
    if document["problem"]:
        findings.bad(f"{domain.name}: {document['problem']}")
    is_running = domain.state() != "shutoff"
    for disk in document["disks"]:
        check_chain(f"{domain.name}, disk {disk['target']}", disk["layers"], is_running, findings)
    check_tree(domain, document, findings)
    for name in document["snapshots"]:
        try:
            check_snapshot(domain, name, findings)
        except FileNotFoundError:
            findings.note(f"{domain.name}: snapshot {name} went while it was looked at")
    for job in domain.jobs():
        findings.note(f"{domain.name}: job {job['number']}, {job['what']}: {job['status']}, {job['percent']} %")


def check_chain(where, layers, is_running, findings):
    """Each image is there, is what it is taken for, and lies on the next one."""
    if not layers:
        findings.bad(f"{where}: no image could be opened")
    for position, layer in enumerate(layers):
        path = layer["path"]
        if layer["changed"]:
            findings.bad(f"{where}: {path} is frozen, and somebody changed it")
        if not path.startswith("/"):
            findings.note(f"{where}: {path} lies on the network, and was not looked at")
            continue
        information = image_information(where, layer, findings)
        if information is None:
            continue
        below = layers[position + 1] if position + 1 < len(layers) else None
        check_backing(where, path, information, below, findings)
        if is_running and position == 0:
            findings.note(f"{where}: {path} is in use, so its tables were not checked")
        elif layer["format"] in CHECKED:
            check_tables(where, layer, findings)


def image_node(layer):
    """The image alone, whatever file its header names: nothing but it is opened."""
    node = {"driver": layer["format"], "file": {"driver": "file", "filename": layer["path"]}}
    if layer["format"] in ("qcow2", "qed", "vmdk"):
        node["backing"] = None
    return "json:" + json.dumps(node)


def qemu_img(*words):
    try:
        done = subprocess.run(["qemu-img", *words], stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", check=False)
    except FileNotFoundError:
        raise Refused("qemu-img is not installed") from None
    return done.returncode, done.stdout, done.stderr.strip()


def image_information(where, layer, findings):
    status, said, errors = qemu_img("info", "-U", "--output=json", image_node(layer))
    if status != 0:
        findings.bad(f"{where}: {errors}")
        return None
    information = json.loads(said)
    if layer["size"] and information["virtual-size"] != layer["size"]:
        findings.bad(f"{where}: {layer['path']} has {information['virtual-size']} bytes, and is listed with {layer['size']}")
    return information


def check_backing(where, path, information, below, findings):
    named = information.get("full-backing-filename") or information.get("backing-filename")
    if not named and not below:
        return
    if not named or not below:
        findings.bad(f"{where}: {path} lies on {named or 'nothing'}, and is listed on {below['path'] if below else 'nothing'}")
        return
    named = named.removeprefix("file:")
    if named.startswith("json:") or not below["path"].startswith("/"):
        return
    full = os.path.join(os.path.dirname(path), named)
    if not os.path.exists(full) or not os.path.samefile(full, below["path"]):
        findings.bad(f"{where}: {path} lies on {full}, and is listed on {below['path']}")


def check_tables(where, layer, findings):
    status, said, errors = qemu_img("check", image_node(layer))
    if status == 0:
        return
    if status == LEAKS:
        findings.note(f"{where}: {layer['path']} has lost some space, which harms nothing: qemu-img check -r leaks gives it back")
    elif "lock" in errors:
        findings.note(f"{where}: {layer['path']} is in use, so its tables were not checked")
    else:
        findings.bad(f"{where}: {layer['path']}: {errors or said.strip()}")


def check_tree(domain, document, findings):
    """What the tree says in several places is the same everywhere."""
    names = set(document["snapshots"])
    if set(directory_names(domain.path, "snapshots")) != names or set(domain.snapshot_names()) != names:
        findings.bad(f"{domain.name}: snapshots/, .order and domain.json list different snapshots")
    for link in ("current", "latest"):
        if link_name(domain.path, link) != document[link]:
            findings.bad(f"{domain.name}: {link} and domain.json name different snapshots")
    nested = [name for _, inner, _ in os.walk(os.path.join(domain.path, "tree")) for name in inner if name != "@"]
    if sorted(nested) != sorted(names):
        findings.bad(f"{domain.name}: tree/ and snapshots/ list different snapshots")


def check_snapshot(domain, name, findings):
    snapshot = domain.snapshot(name)
    path = domain.snapshot_path(name)
    if link_name(path, "parent") != snapshot["parent"]:
        findings.bad(f"{domain.name}, snapshot {name}: parent and snapshot.json name different snapshots")
    files = directory_names(path, "disks")
    if files != sorted(disk["file"] for disk in snapshot["disks"]):
        findings.bad(f"{domain.name}, snapshot {name}: disks/ and snapshot.json list different disks")
    for disk in snapshot["disks"]:
        where = f"{domain.name}, snapshot {name}, disk {disk['target']}"
        try:
            read_edges(os.path.join(path, "disks", disk["file"]), disk["size"], where, findings)
        except OSError as error:
            with_reason = domain.last_error()
            findings.bad(f"{where}: {error.strerror}{': ' + with_reason if with_reason else ''}")


def read_edges(path, size, where, findings):
    with open(path, "rb", buffering=0) as file:
        length = os.fstat(file.fileno()).st_size
        if size and length != size:
            findings.bad(f"{where}: has {length} bytes, and snapshot.json says {size}")
        for offset in {0, max(0, length - EDGE)}:
            wanted = min(EDGE, length - offset)
            got = 0
            while got < wanted and (data := os.pread(file.fileno(), wanted - got, offset + got)):
                got += len(data)
            if got < wanted:
                findings.bad(f"{where}: ended at {offset + got}, before its length of {length}")
