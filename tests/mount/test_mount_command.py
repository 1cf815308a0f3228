# SPDX-License-Identifier: LGPL-2.1-or-later
"""mount(8), umount(8) and fstab with vmsnapfs as if it were installed.

Runs in mount and process namespaces of its own, where /sbin has the helper and /mnt is empty, so that the host has
neither afterwards, and every process ends with the test.
"""

import errno
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import time
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "fs"))
import checks  # noqa: E402

HELPER = os.environ["VMSNAPFS_MOUNT_HELPER"]
DAEMON = os.environ["VMSNAPFS_DAEMON"]
SBIN = os.path.realpath("/sbin")
ROOM = "/mnt"
SOURCE = f"{ROOM}/source"
TARGET = f"{ROOM}/target"
NOBODY = 65534
SKIPPED = 77
PATIENCE_SECONDS = 60  # after which a daemon that should have ended is a failure


def enter_namespaces():
    """Starts this program anew in namespaces of its own; returns only there."""
    if os.environ.get("VMSNAPFS_IN_NAMESPACE"):
        return
    if os.geteuid() != 0:
        print("needs root")
        sys.exit(SKIPPED)
    checks.need_mounted_root()
    os.environ["VMSNAPFS_IN_NAMESPACE"] = "1"
    unshare = ["unshare", "--mount", "--propagation", "private", "--pid", "--fork", "--kill-child", "--mount-proc"]
    os.execvp("unshare", [*unshare, sys.executable, *sys.argv])


def run(*command, **options):
    return subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, **options)


def must(*command):
    result = run(*command)
    if result.returncode:
        raise RuntimeError(f"{command}: {result.stderr}")


def install():
    """Puts the helper, its link and vmsnapfs into an /sbin of this namespace, and makes a source."""
    must("mount", "-t", "tmpfs", "-o", "mode=0755", "room", ROOM)
    os.mkdir(f"{ROOM}/sbin")
    must("mount", "--bind", SBIN, f"{ROOM}/sbin")
    must("mount", "-t", "tmpfs", "-o", "mode=0755", "sbin", SBIN)
    for name in os.listdir(f"{ROOM}/sbin"):
        os.symlink(f"{ROOM}/sbin/{name}", f"{SBIN}/{name}")
    for program in (HELPER, DAEMON):
        there = os.path.join(SBIN, os.path.basename(program))
        if os.path.lexists(there):
            os.unlink(there)
        shutil.copy(program, there)
    if not os.path.lexists(f"{SBIN}/mount.fuse.vmsnapfs"):
        os.symlink("mount.vmsnapfs", f"{SBIN}/mount.fuse.vmsnapfs")
    # As Debian has it, for ordinary users.
    os.mknod(f"{ROOM}/fuse", 0o666 | stat.S_IFCHR, os.makedev(10, 229))
    os.chmod(f"{ROOM}/fuse", 0o666)
    must("mount", "--bind", f"{ROOM}/fuse", "/dev/fuse")
    os.mkdir(SOURCE)
    os.mkdir(TARGET)
    must("qemu-img", "create", "-q", "-f", "qcow2", f"{SOURCE}/web1.qcow2", "1M")
    must("qemu-img", "snapshot", "-c", "upgrade", f"{SOURCE}/web1.qcow2")


def mounts(target=TARGET):
    """[(source, type, options)] of what is mounted on `target`."""
    with open("/proc/self/mounts", encoding="utf-8", errors="surrogateescape") as file:
        lines = [line.split() for line in file]
    return [(line[0], line[2], line[3].split(",")) for line in lines if line[1] == target]


def daemons():
    found = []
    for name in os.listdir("/proc"):
        try:
            with open(f"/proc/{name}/cmdline", "rb") as file:
                if name.isdigit() and os.path.basename(file.read().split(b"\0")[0]) == b"vmsnapfs":
                    found.append(int(name))
        except OSError:
            pass
    return found


def wait_for_no_daemons():
    start = time.monotonic()
    while daemons():
        if time.monotonic() - start > PATIENCE_SECONDS:
            raise RuntimeError(f"still running after {PATIENCE_SECONDS} s: {daemons()}")
        time.sleep(0.01)


def wait_for_error(code):
    """Until TARGET gives this error; a request that is in flight when the daemon dies gets another one."""
    while True:
        try:
            os.listdir(TARGET)
        except OSError as error:
            if error.errno == code:
                return


def clear():
    """As before a test, whatever it left."""
    while mounts():
        run("umount", "--lazy", TARGET)
    wait_for_no_daemons()
    shutil.rmtree(f"{SOURCE}/.vmsnapfs", ignore_errors=True)


class MountTest(unittest.TestCase):
    def setUp(self):
        self.fstab = f"{ROOM}/fstab"

        self.addCleanup(clear)

    def write_fstab(self, options, kind="vmsnapfs"):
        with open(self.fstab, "w", encoding="utf-8") as file:
            file.write(f"{SOURCE} {TARGET} {kind} {options} 0 0\n")

    def assert_mounted(self, result):
        self.assertEqual((result.returncode, result.stderr), (0, ""))
        self.assertEqual([(source, kind) for source, kind, _ in mounts()], [(SOURCE, "fuse.vmsnapfs")])
        self.assertEqual(os.listdir(f"{TARGET}/web1/snapshots"), [".order", "upgrade"])

    def assert_not_mounted(self, result, status, reason):
        self.assertEqual(result.returncode, status, result.stderr)
        self.assertIn(reason, result.stderr)
        self.assertEqual(mounts(), [])
        self.assertEqual(daemons(), [])

    def test_by_type(self):
        for kind in ("vmsnapfs", "fuse.vmsnapfs"):
            with self.subTest(kind):
                clear()
                self.assert_mounted(run("mount", "-t", kind, SOURCE, TARGET))
                self.assertEqual(run("umount", TARGET).returncode, 0)
                wait_for_no_daemons()

    def test_again_as_soon_as_umount_returns(self):
        for _turn in range(20):
            self.assert_mounted(run("mount", "-t", "vmsnapfs", SOURCE, TARGET))
            self.assertEqual(run("umount", TARGET).returncode, 0)

    def test_from_fstab_by_mount_point(self):
        options = "ro,nofail,noauto,_netdev,users,comment=images,x-systemd.automount,gid=daemon,disk-mode=0440,relatime"
        for kind in ("vmsnapfs", "fuse.vmsnapfs"):
            with self.subTest(kind):
                clear()
                self.write_fstab(options, kind)
                self.assert_mounted(run("mount", "-T", self.fstab, TARGET))
                disk = os.stat(f"{TARGET}/web1/snapshots/upgrade/disks/vda.raw")
                self.assertEqual((disk.st_mode & 0o777, disk.st_gid), (0o440, 1))
                self.assertIn("ro", mounts()[0][2])
                self.assertFalse(os.path.exists(f"{SOURCE}/.vmsnapfs"))

    def test_all_of_fstab_twice_mounts_once(self):
        self.write_fstab("defaults")
        self.assert_mounted(run("mount", "-a", "-T", self.fstab))
        self.assert_mounted(run("mount", "-a", "-T", self.fstab))

    def test_flags_of_every_mount_reach_the_kernel(self):
        self.assert_mounted(run("mount", "-t", "vmsnapfs", "-o", "ro,noexec,nosuid,nodev,noatime", SOURCE, TARGET))
        self.assertLessEqual({"ro", "noexec", "nosuid", "nodev", "noatime"}, set(mounts()[0][2]))

    def test_fake_mounts_nothing(self):
        result = run("mount", "-f", "-v", "-t", "vmsnapfs", SOURCE, TARGET)
        self.assert_not_mounted(result, 0, "")
        self.assertIn(f"vmsnapfs -o rw -- {SOURCE} {TARGET}", result.stdout)

    def test_failures_have_a_reason_and_the_status_of_mount(self):
        self.assert_not_mounted(run("mount", "-t", "vmsnapfs", f"{ROOM}/none", TARGET), 32, f"{ROOM}/none")
        self.assert_not_mounted(run("mount", "-t", "vmsnapfs", "-o", "nonsense", SOURCE, TARGET), 1, "nonsense")
        self.assert_not_mounted(run("mount", "-t", "vmsnapfs", "-o", "cache=lots", SOURCE, TARGET), 1, "lots")
        self.assert_mounted(run("mount", "-t", "vmsnapfs", "-s", "-o", "nonsense", SOURCE, TARGET))

    def test_remount_is_refused_and_harms_nothing(self):
        self.assert_mounted(run("mount", "-t", "vmsnapfs", SOURCE, TARGET))
        result = run("mount", "-o", "remount,ro", "-t", "vmsnapfs", SOURCE, TARGET)
        self.assertEqual(result.returncode, 1)
        self.assertIn("remount is not supported", result.stderr)
        self.assert_mounted(subprocess.CompletedProcess([], 0, "", ""))

    def test_a_mount_whose_daemon_died_is_mounted_again(self):
        self.write_fstab("defaults")
        self.assert_mounted(run("mount", "-T", self.fstab, TARGET))
        for pid in daemons():
            os.kill(pid, signal.SIGKILL)
        wait_for_error(errno.ENOTCONN)
        self.assert_mounted(run("mount", "-T", self.fstab, TARGET))

    def test_also_one_whose_death_nobody_has_noticed(self):
        """The kernel answers for it from its cache."""
        self.assert_mounted(run("mount", "-t", "vmsnapfs", SOURCE, TARGET))
        for _turn in range(3):
            for pid in daemons():
                os.kill(pid, signal.SIGKILL)
            wait_for_no_daemons()
            os.stat(TARGET)
            self.assert_mounted(run("mount", "-t", "vmsnapfs", SOURCE, TARGET))
        self.assertEqual(run("umount", TARGET).returncode, 0)
        self.assertEqual(os.listdir(TARGET), [])

    def test_in_another_namespace(self):
        sleeper = subprocess.Popen(["unshare", "--mount", "--propagation", "private", "sh", "-c", "echo; exec sleep infinity"],
                                   stdout=subprocess.PIPE)
        try:
            sleeper.stdout.read(1)
            result = run("mount", "-N", str(sleeper.pid), "-t", "vmsnapfs", SOURCE, TARGET)
            self.assertEqual((result.returncode, result.stderr), (0, ""))
            self.assertEqual(mounts(), [])
            seen = run("nsenter", "-t", str(sleeper.pid), "-m", "ls", f"{TARGET}/web1/snapshots")
            self.assertEqual(seen.stdout, "upgrade\n")
            self.assertEqual(run("nsenter", "-t", str(sleeper.pid), "-m", "umount", TARGET).returncode, 0)
        finally:
            sleeper.kill()
            sleeper.communicate()

    def test_an_ordinary_user_where_fstab_lets_him(self):
        self.write_fstab("ro,noauto,user")
        must("mount", "--bind", self.fstab, "/etc/fstab")
        os.chown(TARGET, NOBODY, NOBODY)
        as_nobody = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
        try:
            result = run(*as_nobody, "mount", TARGET)
            self.assertEqual((result.returncode, result.stderr), (0, ""))
            self.assertIn(f"user_id={NOBODY}", mounts()[0][2])
            seen = run(*as_nobody, "stat", "--format=%u %a", f"{TARGET}/web1/snapshots/upgrade/disks/vda.raw")
            self.assertEqual(seen.stdout, f"{NOBODY} 400\n")
            self.assertEqual(run(*as_nobody, "fusermount3", "-u", TARGET).returncode, 0)
            self.assertEqual(mounts(), [])
        finally:
            must("umount", "/etc/fstab")
            clear()
            os.chown(TARGET, 0, 0)

    def test_vmsnapfs_knows_every_option_that_the_helper_passes(self):
        names = re.findall(r"[a-z_-]+=?", run(HELPER, "-h").stdout.rsplit("Options:", 1)[1])
        self.assertGreater(len(names), 10)
        values = {"allow=": ROOM, "backing-format=": "raw", "cache=": "2M"}
        for name in names:
            option = name + (values.get(name, "0400" if "mode" in name else "1") if name.endswith("=") else "")
            with self.subTest(option):
                clear()
                result = run("mount", "-t", "vmsnapfs", "-o", option, SOURCE, TARGET)
                self.assertEqual((result.returncode, result.stderr), (0, ""))


if __name__ == "__main__":
    enter_namespaces()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # the first process of a namespace is spared it else
    install()
    unittest.main()
