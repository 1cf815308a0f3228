# SPDX-License-Identifier: LGPL-2.1-or-later
"""What every test of the mount needs: running test functions one by one, skipping with a reason, expecting an errno."""

import errno
import os
import random
import shutil
import sys
import traceback

SKIPPED = 77
ACCEPTS = 0x10000  # __SO_ACCEPTCON of the kernel's net/unix


class Skip(Exception):
    """The test can't run here; the text says why."""


def need(*programs):
    for program in programs:
        if not shutil.which(program):
            raise Skip(f"{program} is not installed")


def is_listening(path):
    """Whether somebody listens on a Unix socket: its name is there a moment before that."""
    with open("/proc/net/unix", encoding="utf-8", errors="surrogateescape") as file:
        next(file)
        return any(int(line.split()[3], 16) & ACCEPTS and line.rstrip("\n").endswith(f" {path}") for line in file)


def need_mounted_root():
    """Mounts can be private only below a mount."""
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        if not any(line.split()[4] == "/" for line in file):
            sys.exit("the root directory is no mount: before chroot to DIR, mount --bind DIR DIR")


def need_root():
    if os.geteuid() != 0:
        raise Skip("needs root")


def fails_with(code, function, *arguments, **options):
    """function(...) raises OSError with one of these errnos (a number or a tuple), which it returns."""
    codes = code if isinstance(code, tuple) else (code,)
    try:
        result = function(*arguments, **options)
    except OSError as error:
        wanted = " or ".join(errno.errorcode[one] for one in codes)
        found = errno.errorcode.get(error.errno, error.errno)
        assert error.errno in codes, f"{function.__name__}{arguments}: {found} where {wanted} is right"
        return error.errno
    raise AssertionError(f"{function.__name__}{arguments} succeeded: {result!r}")


def equal(found, wanted, what=""):
    assert found == wanted, f"{what + ': ' if what else ''}{found!r} where {wanted!r} is right"


def seed():
    """The run's random.Random, from VMSNAPFS_SEED or new, and printed."""
    number = int(os.environ.get("VMSNAPFS_SEED") or random.randrange(1 << 32))
    print(f"VMSNAPFS_SEED={number}", flush=True)
    return random.Random(number)


def main(names):
    """Runs every test_ function of a module (or those named on the command line), and prints how each ended."""
    tests = [(name, value) for name, value in names.items() if name.startswith("test_") and callable(value)]
    wanted = sys.argv[1:]
    if not os.path.exists("/dev/fuse"):
        print("skipped: there is no /dev/fuse")
        sys.exit(SKIPPED)
    failed, skipped = [], []
    for name, test in tests:
        if wanted and name not in wanted:
            continue
        try:
            test()
            print(f"ok: {(test.__doc__ or name).splitlines()[0]}", flush=True)
        except Skip as reason:
            print(f"skipped: {name}: {reason}", flush=True)
            skipped.append(name)
        except Exception:  # every kind of failure is reported, and the other tests still run
            print(f"FAILED: {name}: {(test.__doc__ or '').splitlines()[:1]}", flush=True)
            traceback.print_exc(file=sys.stdout)
            failed.append(name)
    if failed:
        sys.exit(f"{len(failed)} failed: {', '.join(failed)}")
    sys.exit(SKIPPED if skipped else 0)
