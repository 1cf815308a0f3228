# SPDX-License-Identifier: LGPL-2.1-or-later
"""A guest that does nothing but write to its two disks, and tells by a serial line when each write was done.

writing_guest.S is all of it, in the first sector of its first disk. What it tells comes through a socket, and is noted with
this process's clock, so that what the guest can't notice, standing still, is seen.
"""

import contextlib
import os
import socket
import threading
import time

from session import BenchError, command

READY_SECONDS = 60


def install(path, workspace):
    """Puts the guest into the first sector of a qcow2 image."""
    source = os.path.join(os.path.dirname(os.path.abspath(__file__)), "writing_guest.S")
    made = os.path.join(workspace.path, "writing-guest")
    command("gcc", "-m32", "-c", source, "-o", made + ".o")
    command("ld", "-m", "elf_i386", "-Ttext", "0x7c00", "-e", "start", "--oformat", "binary", made + ".o", "-o", made)
    command("qemu-io", "-f", "qcow2", "-c", f"write -q -s {made} 0 512", path)


class Writes:
    """The times at which pairs of writes were done, as they come through the socket at `path`."""

    def __init__(self, path):
        self.times = []
        self.failed = False
        self._socket = socket.socket(socket.AF_UNIX)
        deadline = time.monotonic() + READY_SECONDS
        while True:
            try:
                self._socket.connect(path)
                break
            except OSError as error:
                if time.monotonic() > deadline:
                    raise BenchError(f"the serial line of a guest: {error}") from None
                time.sleep(0.05)
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def _listen(self):
        with contextlib.suppress(OSError):
            while data := self._socket.recv(4096):
                now = time.perf_counter()
                self.failed |= b"E" in data
                self.times.extend([now] * data.count(b"."))

    def wait_ready(self):
        """Until it writes steadily: the firmware has a word first."""
        deadline = time.monotonic() + READY_SECONDS
        while len(self.times) < 200:
            if time.monotonic() > deadline:
                raise BenchError(f"the guest does not write ({len(self.times)} times so far)")
            time.sleep(0.05)

    def around(self, work):
        """(seconds that the work took, longest time without a completed write from before it until a while after)."""
        time.sleep(0.3)
        begin = time.perf_counter()
        work()
        end = time.perf_counter()
        time.sleep(0.3)
        if self.failed:
            raise BenchError("the guest could not write")
        times = self.times[:]
        seen = [at for at in times if begin - 0.2 < at < end + 0.25]
        if len(seen) < 2:
            return end - begin, end - begin + 0.45
        return end - begin, max(after - before for before, after in zip(seen, seen[1:]))

    def rate(self, seconds):
        """Pairs of writes a second, over so many seconds from now on."""
        before = len(self.times)
        begin = time.perf_counter()
        time.sleep(seconds)
        count, took = len(self.times) - before, time.perf_counter() - begin
        if self.failed:
            raise BenchError("the guest could not write")
        return count / took

    def close(self):
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._socket.close()


@contextlib.contextmanager
def writes(path):
    made = Writes(path)
    try:
        made.wait_ready()
        yield made
    finally:
        made.close()
