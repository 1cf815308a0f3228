# SPDX-License-Identifier: LGPL-2.1-or-later
"""Runs the reader under test, frozen_cat: the frozen disk code without FUSE."""

import json
import os
import resource
import signal
import subprocess

PROGRAM = os.environ.get("VMSNAPFS_FROZEN_CAT", "frozen_cat")
SANITIZED = bool(os.environ.get("VMSNAPFS_SANITIZED"))
SUSPICIOUS = ("AddressSanitizer", "LeakSanitizer", "ThreadSanitizer", "runtime error:", "Assertion", "assertion")
CPU_SECONDS = 600  # ends an endless loop, which is then reported; no test passes because of it


class Crash(AssertionError):
    """It died of a signal, or a sanitizer reported something."""


class Result:
    """How a run ended: `code` as wait gives it, what it said, and the most memory that it had, in KiB."""

    def __init__(self, code, said, peak_kib):
        self.code = code
        self.said = said
        self.peak_kib = peak_kib

    @property
    def ok(self):
        return self.code == 0


def limited():
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def arguments_of(chain, layer, snapshot):
    """The command that opens one content of a chain (images.py)."""
    arguments = ["-a", chain.directory, "-f", layer.format]
    if snapshot:
        arguments += ["-s", snapshot.id]
    if chain.untold_format:
        arguments += ["-b", chain.untold_format]
    return arguments + [layer.path]


def run(arguments, output=subprocess.DEVNULL):
    """Runs it to its end, its output going to a file or descriptor."""
    process = subprocess.Popen([PROGRAM, *arguments], stdout=output, stderr=subprocess.PIPE, preexec_fn=limited)
    said = process.stderr.read().decode(errors="replace")
    process.stderr.close()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    judge(arguments, process.returncode, said)
    return Result(process.returncode, said, usage.ru_maxrss)


def run_head(arguments, most):
    """Runs it until it wrote `most` bytes or ended: (result, bytes). An image that claims exabytes is read in part."""
    process = subprocess.Popen([PROGRAM, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, preexec_fn=limited)
    head = process.stdout.read(most)
    process.stdout.close()  # it gets SIGPIPE or EPIPE where there is more
    said = process.stderr.read().decode(errors="replace")
    process.stderr.close()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != -signal.SIGPIPE:
        judge(arguments, process.returncode, said)
    return Result(process.returncode, said, usage.ru_maxrss), head


def judge(arguments, code, said):
    if code < 0:
        raise Crash(f"frozen_cat {' '.join(arguments)} died of {signal.Signals(-code).name}: {said[-2000:]}")
    if any(word in said for word in SUSPICIOUS):
        raise Crash(f"frozen_cat {' '.join(arguments)}: {said[-6000:]}")


def extents(arguments):
    """The map by SEEK_DATA and SEEK_HOLE: [(start, end, is_data)]."""
    result = subprocess.run([PROGRAM, "-m", *arguments], capture_output=True, preexec_fn=limited)
    judge(arguments, result.returncode, result.stderr.decode(errors="replace"))
    if result.returncode != 0:
        raise AssertionError(f"frozen_cat -m {' '.join(arguments)}: {result.stderr.decode(errors='replace')}")
    return [(one["start"], one["start"] + one["length"], one["data"]) for one in json.loads(result.stdout)]
