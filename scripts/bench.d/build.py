# SPDX-License-Identifier: LGPL-2.1-or-later
"""The program that is measured: an optimised build, made here or given."""

import json
import os

from session import BenchError, command

BINARY = os.path.join("fs", "vmsnapfs")


def optimised(checkout):
    """Builds with buildtype=release in build-bench/ of the checkout. Returns the binary."""
    folder = os.path.join(checkout, "build-bench")
    if not os.path.exists(os.path.join(folder, "build.ninja")):
        # A new compiler's warnings are the business of the tests, and no reason not to measure.
        command("meson", "setup", "--buildtype=release", "-Dtests=false", "-Dwerror=false", folder, checkout)
    command("ninja", "-C", folder, BINARY)
    return os.path.join(folder, BINARY)


def given(folder):
    """The binary of an existing build directory, and a warning (or None) if it is not an optimised one."""
    binary = os.path.join(os.path.abspath(folder), BINARY)
    if not os.access(binary, os.X_OK):
        raise BenchError(f"{binary} is not there: build it first (ninja -C {folder})")
    options = {option["name"]: option["value"] for option in json.loads(
        command("meson", "introspect", "--buildoptions", folder))}
    if options["optimization"] not in ("2", "3") or options["b_sanitize"] != "none":
        return binary, (f"{folder} is not an optimised build (buildtype {options['buildtype']}, "
                        f"sanitizers {options['b_sanitize']}): its figures say little")
    return binary, None
