# SPDX-License-Identifier: LGPL-2.1-or-later
"""mount.vmsnapfs by itself, over a vmsnapfs that only writes down how it was called."""

import os
import shutil
import subprocess
import tempfile
import unittest

HELPER = os.environ["VMSNAPFS_MOUNT_HELPER"]
INSTALLED = os.path.join(os.environ["VMSNAPFS_BINDIR"], "vmsnapfs")  # where the helper looks before other places

RECORDER = """#!/bin/sh
printf '%s\\n' "$@" >"{calls}"
echo "vmsnapfs: as asked" >&2
exit {status}
"""


class HelperTest(unittest.TestCase):
    def setUp(self):
        self.directory = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, self.directory)
        self.calls = os.path.join(self.directory, "calls")
        # The layout of a build tree, where the helper finds vmsnapfs beside its own folder.
        for folder in ("mount-helper", "fs", "source", "target"):
            os.mkdir(os.path.join(self.directory, folder))
        self.helper = shutil.copy(HELPER, os.path.join(self.directory, "mount-helper"))
        self.source = os.path.join(self.directory, "source")
        self.target = os.path.join(self.directory, "target")
        self.make_daemon(0)

    def make_daemon(self, status):
        self.daemon = os.path.join(self.directory, "fs", "vmsnapfs")
        with open(self.daemon, "w", encoding="utf-8") as file:
            file.write(RECORDER.format(calls=self.calls, status=status))
        os.chmod(self.daemon, 0o755)

    def run_helper(self, *arguments):
        return subprocess.run([self.helper, *arguments], capture_output=True, text=True, stdin=subprocess.DEVNULL)

    def called_with(self):
        """The arguments that vmsnapfs got, or None where it was not called."""
        if not os.path.exists(self.calls):
            return None
        with open(self.calls, encoding="utf-8") as file:
            return file.read().splitlines()

    def assert_refused(self, result, status, reason):
        self.assertEqual(result.returncode, status, result.stderr)
        self.assertRegex(result.stderr, r"\Amount\.vmsnapfs: [^\n]+\n\Z")
        self.assertIn(reason, result.stderr)
        self.assertIsNone(self.called_with())

    def test_what_mount_says_becomes_what_vmsnapfs_is_told(self):
        result = self.run_helper(self.source, self.target, "-n", "-o", "rw,nofail,_netdev,gid=3,x-a=b", "-t", "fuse.vmsnapfs")
        self.assertEqual(result.returncode, 0)
        self.assertEqual(self.called_with(), ["-o", "rw,gid=3", "--", self.source, self.target])

    def test_without_options_none_are_passed(self):
        self.assertEqual(self.run_helper("--", "-source", "-target").returncode, 0)
        self.assertEqual(self.called_with(), ["--", "-source", "-target"])

    def test_status_and_reason_are_those_of_vmsnapfs(self):
        for status in (1, 2, 32):
            self.make_daemon(status)
            result = self.run_helper(self.source, self.target)
            self.assertEqual(result.returncode, status)
            self.assertEqual(result.stderr, "vmsnapfs: as asked\n")

    def test_bad_arguments_are_usage_errors_with_one_line(self):
        self.assert_refused(self.run_helper(), 1, "a source and a mount point are needed")
        self.assert_refused(self.run_helper(self.source), 1, "a source and a mount point are needed")
        self.assert_refused(self.run_helper(self.source, self.target, "-o", "nonsense"), 1, "'nonsense'")
        self.assert_refused(self.run_helper(self.source, self.target, "-o", "remount,ro"), 1, "remount")
        self.assert_refused(self.run_helper(self.source, self.target, "-q"), 1, "-q")
        self.assert_refused(self.run_helper(self.source, self.target, "-t", "ext4"), 1, "ext4")

    def test_sloppy_drops_what_is_not_known(self):
        self.assertEqual(self.run_helper(self.source, self.target, "-s", "-o", "nonsense,ro").returncode, 0)
        self.assertEqual(self.called_with(), ["-o", "ro", "--", self.source, self.target])

    def test_fake_mounts_nothing(self):
        result = self.run_helper(self.source, self.target, "-f")
        self.assertEqual((result.returncode, result.stdout, result.stderr), (0, "", ""))
        self.assertIsNone(self.called_with())

    def test_fake_judges_the_arguments(self):
        self.assert_refused(self.run_helper(self.source, self.target, "-fo", "nonsense"), 1, "nonsense")
        self.assert_refused(self.run_helper(self.source + "x", self.target, "-f"), 32, "sourcex: No such file")
        self.assert_refused(self.run_helper(self.source, self.target + "x", "-f"), 32, "targetx: No such file")
        self.assert_refused(self.run_helper(self.daemon, self.target, "-f"), 32, "not a directory")

    def test_verbose_says_what_is_run(self):
        line = f"mount.vmsnapfs: {self.directory}/mount-helper/../fs/vmsnapfs -o ro -- {self.source} {self.target}\n"
        for flags in ("-v", "-fv"):
            self.assertEqual(self.run_helper(self.source, self.target, flags, "-o", "ro").stdout, line)
        self.assertIsNotNone(self.called_with())

    @unittest.skipIf(os.path.exists(INSTALLED), f"finds {INSTALLED}")
    def test_without_vmsnapfs_it_says_so(self):
        os.unlink(self.daemon)
        environment = {**os.environ, "PATH": self.directory}
        result = subprocess.run([self.helper, self.source, self.target], capture_output=True, text=True, env=environment)
        self.assert_refused(result, 2, "can't run vmsnapfs: No such file")

    @unittest.skipIf(os.path.exists(INSTALLED), f"finds {INSTALLED}")
    def test_beside_it_or_in_the_path_vmsnapfs_is_found(self):
        beside = os.path.join(self.directory, "elsewhere")
        os.mkdir(beside)
        helper = shutil.copy(HELPER, beside)
        shutil.move(self.daemon, beside)
        self.assertEqual(subprocess.run([helper, "a", "b"], capture_output=True).returncode, 0)
        self.assertEqual(self.called_with(), ["--", "a", "b"])
        os.unlink(self.calls)
        environment = {**os.environ, "PATH": f"{beside}:{os.environ['PATH']}"}
        self.assertEqual(subprocess.run([self.helper, "c", "d"], env=environment, capture_output=True).returncode, 0)
        self.assertEqual(self.called_with(), ["--", "c", "d"])

    def test_a_namespace_that_is_none_is_refused(self):
        self.assert_refused(self.run_helper(self.source, self.target, "-N", "/nowhere"), 32, "/nowhere")
        self.assert_refused(self.run_helper("source", self.target, "-N", "1"), 1, "absolute")

    def test_help_lists_the_options(self):
        result = self.run_helper("-h")
        self.assertEqual(result.returncode, 0)
        for name in ("ro", "allow=", "backing-format=", "nosuid"):
            self.assertIn(f" {name} ", result.stdout)


if __name__ == "__main__":
    unittest.main()
