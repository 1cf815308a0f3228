# SPDX-License-Identifier: LGPL-2.1-or-later
"""What passed, failed and was skipped, over all parts of a run."""

import json

# Tests that may skip themselves, by name, and why; every other skip is a failure.
EXPECTED_SKIPS = {}


class Results:
    def __init__(self):
        self.passed = 0
        self.failures = []  # one line each
        self.skips = []

    def add(self, name, failure=None):
        """A check of this run's own: passed, or failed for the reason given."""
        if failure is None:
            self.passed += 1
            print(f"ok       {name}", flush=True)
        else:
            self.failures.append(f"{name}: {failure}")
            print(f"FAILED   {name}: {failure}", flush=True)

    def skip(self, name, reason):
        self.skips.append(f"{name}: {reason}")
        print(f"skipped  {name}: {reason}", flush=True)

    def add_meson_log(self, label, log):
        """Every test of a meson-logs/testlog.json, which has one object a line."""
        with open(log, encoding="utf-8") as file:
            for line in file:
                test = json.loads(line)
                name = f"{label}: {test['name']}"
                if test["result"] in ("OK", "EXPECTEDFAIL"):
                    self.passed += 1
                elif test["result"] == "SKIP" and test["name"] in EXPECTED_SKIPS:
                    self.skips.append(f"{name}: {EXPECTED_SKIPS[test['name']]}")
                elif test["result"] == "SKIP":
                    self.failures.append(f"{name}: skipped itself, which nobody expected")
                else:
                    self.failures.append(f"{name}: {test['result']}")

    def print_summary(self):
        for line in self.skips:
            print(f"skipped: {line}")
        for line in self.failures:
            print(f"FAILED: {line}")
        print(f"{self.passed} passed, {len(self.failures)} failed, {len(self.skips)} skipped", flush=True)
