# SPDX-License-Identifier: LGPL-2.1-or-later
"""A progress bar on standard error, where that is a terminal; and lines there, wherever it leads."""

import contextlib
import os
import shutil
import sys
import threading

PATIENCE = 0.5  # seconds that something may take before a bar appears
LOOK = 0.2  # seconds between two looks
BAR = 24


def is_shown():
    return sys.stderr.isatty()


def draw(what, percent, status=""):
    """Over the line that is there."""
    filled = BAR * min(percent, 100) // 100
    line = f"[{'#' * filled}{'.' * (BAR - filled)}] {percent:3} %  {what}{'  ' + status if status else ''}"
    width = shutil.get_terminal_size().columns - 1
    sys.stderr.write("\r" + line[:width].ljust(width))
    sys.stderr.flush()


def say(line):
    """A line of its own on standard error, also where that is no terminal."""
    if is_shown():
        clear()
    print(line, file=sys.stderr, flush=True)


def clear():
    sys.stderr.write("\r" + " " * (shutil.get_terminal_size().columns - 1) + "\r")
    sys.stderr.flush()


@contextlib.contextmanager
def of_jobs(domain):
    """While the body waits for the domain in a system call, a thread shows how far the domain's newest job is."""
    if not is_shown():
        yield
        return
    end = threading.Event()

    def watch():
        drawn = False
        wait = PATIENCE
        while not end.wait(wait):
            wait = LOOK
            jobs = []
            with contextlib.suppress(OSError):
                jobs = domain.unfinished_jobs()
            if jobs:
                draw(jobs[-1]["what"], jobs[-1]["percent"], jobs[-1]["status"])
                drawn = True
        if drawn:
            clear()

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        end.set()
        thread.join()


class Bytes:
    """Of a copy that this process makes: `total` bytes in all."""

    def __init__(self, what, total):
        self.what, self.total, self.done = what, total, 0
        self._percent = None

    def add(self, count):
        self.done += count
        percent = 100 * self.done // self.total if self.total else 100
        if is_shown() and percent != self._percent:
            self._percent = percent
            draw(self.what, percent)

    def finish(self):
        if self._percent is not None:
            clear()


def run_with_percents(process, what):
    """Shows the `(12.34/100%)` that qemu-img -p writes to its standard output; returns its status and errors."""
    text = b""
    while chunk := os.read(process.stdout.fileno(), 4096):
        text = (text + chunk)[-64:]
        number = text.rpartition(b"(")[2].partition(b"/")[0]
        if is_shown() and number.strip().replace(b".", b"", 1).isdigit():
            draw(what, int(float(number)))
    errors = process.stderr.read()
    status = process.wait()
    if is_shown():
        clear()
    return status, errors.decode(errors="replace").strip()
