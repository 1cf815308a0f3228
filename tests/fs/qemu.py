# SPDX-License-Identifier: LGPL-2.1-or-later
"""A running QEMU without a guest: its monitor writes to the disks and takes snapshots, as a guest and virsh would."""

import json
import os
import shutil
import socket
import subprocess
import tempfile
import time


class QmpError(Exception):
    """QEMU refused a command."""


class Qemu:
    """Holds images open for writing; `nodes` is {node name: path of a qcow2 image}."""

    def __init__(self, nodes, program="qemu-system-x86_64"):
        self._room = tempfile.mkdtemp(prefix="vmsnapfs-qemu-")
        where = os.path.join(self._room, "qmp")
        command = [program, "-machine", "none", "-nodefaults", "-display", "none", "-S", "-qmp", f"unix:{where},server=on,wait=off"]
        for name, path in nodes.items():
            node = {"driver": "qcow2", "node-name": name, "discard": "unmap", "file": {"driver": "file", "filename": path}}
            command += ["-blockdev", json.dumps(node)]
        self._said = open(os.path.join(self._room, "said"), "w+", encoding="utf-8")  # what qemu-io prints goes here
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=self._said)
        self._socket = socket.socket(socket.AF_UNIX)
        while True:
            try:
                self._socket.connect(where)
                break
            except OSError:
                if self.process.poll() is not None:
                    raise AssertionError(f"QEMU ended with {self.process.returncode}") from None
                time.sleep(0.01)
        self._stream = self._socket.makefile("rw", encoding="utf-8")
        json.loads(self._stream.readline())
        self.command("qmp_capabilities")

    def command(self, execute, /, **arguments):
        """Sends a QMP command and returns what it gave; events are passed over."""
        json.dump({"execute": execute, "arguments": {key.replace("_", "-"): value for key, value in arguments.items()}}, self._stream)
        self._stream.write("\n")
        self._stream.flush()
        while True:
            reply = json.loads(self._stream.readline())
            if "error" in reply:
                raise QmpError(reply["error"]["desc"])
            if "return" in reply:
                return reply["return"]

    def io(self, node, command):
        """A qemu-io command on a node; returns when it is done."""
        said = self.command("human-monitor-command", command_line=f'qemu-io {node} "{command}"') + self._said.read()
        if "failed" in said or "rror" in said:
            raise QmpError(f"{command}: {said}")

    def snapshot(self, tag, *nodes):
        """An internal snapshot of all these disks at once."""
        actions = [{"type": "blockdev-snapshot-internal-sync", "data": {"device": node, "name": tag}} for node in nodes]
        self.command("transaction", actions=actions)

    def delete_snapshot(self, tag, node):
        self.command("blockdev-snapshot-delete-internal-sync", device=node, name=tag)

    def add_overlay(self, node, path, name):
        """From now on the disk is written to the image `path`, node `name`; what was active is frozen."""
        node_options = {"driver": "qcow2", "node-name": name, "backing": None, "file": {"driver": "file", "filename": path}}
        self.command("blockdev-add", **node_options)
        self.command("blockdev-snapshot", node=node, overlay=name)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        try:
            self.command("quit")
        except (OSError, ValueError):
            self.process.kill()
        self.process.wait()
        self._stream.close()
        self._socket.close()
        self._said.close()
        shutil.rmtree(self._room)
