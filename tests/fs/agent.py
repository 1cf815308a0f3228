# SPDX-License-Identifier: LGPL-2.1-or-later
"""A guest agent, as far as vmsnapfs asks one; no guest is needed for it."""

import contextlib
import json
import os
import socket
import threading


class Agent(threading.Thread):
    """`refuses` are commands that fail, `ignores` those never answered, `breaks` those upon which it hangs up when it has carried
    them out, but for a thaw, `floods` those whose answer is too long."""

    def __init__(self, path, refuses=(), ignores=(), breaks=(), floods=(), when_frozen=None, when_thawed=None, is_paused=None):
        super().__init__(daemon=True)
        self.is_paused = is_paused
        self.when_thawed = when_thawed
        self.when_frozen = when_frozen
        self.refuses, self.ignores = refuses, ignores
        self.breaks, self.floods = breaks, floods
        self.is_frozen = False
        self.heard = []
        self.server = socket.socket(socket.AF_UNIX)
        self.server.bind(path)
        self.server.listen()
        self.path = path
        self.start()

    def run(self):
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self.server.accept()
                with connection, contextlib.suppress(OSError):
                    self.serve(connection)

    def serve(self, connection):
        for line in connection.makefile("rb"):
            message = json.loads(line.replace(b"\xff", b""))
            name = message["execute"]
            self.heard.append(name)
            if name in self.ignores or (self.is_paused and self.is_paused()):
                continue
            if name in self.breaks:
                self.is_frozen |= name == "guest-fsfreeze-freeze"
                return
            if name in self.refuses:
                answer = {"error": {"class": "GenericError", "desc": "no, not now"}}
            else:
                answer = {"return": self.answer(name, message.get("arguments", {}))}
            if name in self.floods:
                answer["return"] = [[0] * 100000]
            mark = b"\xff" if name == "guest-sync-delimited" else b""
            connection.sendall(mark + json.dumps(answer).encode() + b"\n")

    def answer(self, name, arguments):
        if name == "guest-sync-delimited":
            return arguments["id"]
        if name == "guest-fsfreeze-status":
            return "frozen" if self.is_frozen else "thawed"
        if name == "guest-fsfreeze-freeze":
            self.is_frozen = True
            if self.when_frozen:
                self.when_frozen()
            return 2
        if name == "guest-fsfreeze-thaw":
            self.is_frozen = False
            if self.when_thawed:
                self.when_thawed()
            return 2
        raise AssertionError(name)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.server.shutdown(socket.SHUT_RDWR)
        self.server.close()
        os.unlink(self.path)


def agent_of(mount, **how):
    return Agent(os.path.join(mount.room, "qga"), **how)
