# SPDX-License-Identifier: LGPL-2.1-or-later
"""Mounting and unmounting: the command, its daemon, what it leaves behind, and who may do it."""

import contextlib
import errno
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import tempfile

import checks
import make
from checks import equal, fails_with
from mounted import PROGRAM, Mounted, children, is_mounted, new_room, process_name, run, wait_for

USER = 65534  # nobody: fusermount3 wants one with a name


class Background:
    """A mount by the command as people use it: it returns, and the daemon stays behind."""

    def __init__(self, *options, source=None):
        self.room = new_room()
        self.source = source or os.path.join(self.room, "source")
        self.mountpoint = os.path.join(self.room, "mnt")
        self.reports = os.path.join(self.room, "report")
        for directory in (self.source, self.mountpoint):
            os.makedirs(directory, exist_ok=True)
        make.snapshot(make.image(self.source, "vm.qcow2"), "clean")
        self.options = options
        self.before = children()

    def mount(self):
        """Runs the command to its end: (status, what it said)."""
        sanitizers = {name: f"log_path={self.reports}:{os.environ.get(name, '')}" for name in ("ASAN_OPTIONS", "UBSAN_OPTIONS", "TSAN_OPTIONS")}
        command = [PROGRAM, *self.options, self.source, self.mountpoint]
        result = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, env={**os.environ, **sanitizers})
        return result.returncode, result.stdout + result.stderr

    def daemons(self):
        return children() - self.before

    def wait_for_the_end(self):
        """The daemon became our child when its parent ended; reaps it and gives its status. What a killed one leaves to us,
        to abort the mount, ends by itself."""
        statuses = []
        for pid in self.daemons():
            statuses.append(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
        if any(statuses):
            for pid in self.daemons():
                equal(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), 0)
        assert not self.daemons(), [process_name(pid) for pid in self.daemons()]
        return statuses

    def __enter__(self):
        equal(self.mount(), (0, ""))
        return self

    def __exit__(self, kind, *_):
        try:
            while is_mounted(self.mountpoint):
                subprocess.run(["umount", "--lazy", self.mountpoint], check=True)
            statuses = self.wait_for_the_end()
            found = [open(os.path.join(self.room, name), encoding="utf-8").read() for name in os.listdir(self.room) if name.startswith("report")]
            if not kind:
                assert not found, found[0][:3000]
                assert all(status in (0, -signal.SIGKILL) for status in statuses), statuses
        finally:
            shutil.rmtree(self.room, ignore_errors=True)


def test_the_command_returns_when_it_can_be_used():
    """The command says nothing, returns 0, and the mount is there at once; umount ends the daemon"""
    with Background() as mount:
        for _ in range(10):
            equal(os.listdir(os.path.join(mount.mountpoint, "vm", "snapshots")), [".order", "clean"])
            (daemon,) = mount.daemons()
            equal(os.readlink(f"/proc/{daemon}/cwd"), "/")
            equal({os.readlink(f"/proc/{daemon}/fd/{fd}") for fd in range(3)}, {"/dev/null"})
            run("umount", mount.mountpoint)
            equal(mount.wait_for_the_end(), [0])
            equal(mount.mount(), (0, ""))


def test_what_mount_shows():
    """/proc/mounts has the type, the source and the options"""
    with Background("-o", "ro,noexec") as mount:
        with open("/proc/self/mounts", encoding="utf-8", errors="surrogateescape") as file:
            line = next(line.split() for line in file if line.split()[1] == mount.mountpoint)
        equal((line[0], line[2]), (mount.source, "fuse.vmsnapfs"))
        for option in ("ro", "noexec", "default_permissions"):
            assert option in line[3].split(","), line[3]


def test_flags_of_every_mount():
    """Each flag that mount(8) tells of is taken, also those that change nothing here"""
    flags = "suid nosuid dev nodev exec noexec atime noatime async sync dirsync diratime nodiratime relatime norelatime strictatime lazytime"
    for flag in flags.split():
        with Mounted(lambda source: make.snapshot(make.image(source, "web1.qcow2"), "clean"), options=flag) as mount:
            equal(mount.snapshots("web1"), ["clean"], flag)


def test_signals_end_it():
    """SIGTERM, SIGINT and SIGHUP unmount and end the daemon"""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        with Background() as mount:
            (daemon,) = mount.daemons()
            os.kill(daemon, number)
            equal(mount.wait_for_the_end(), [0], signal.Signals(number).name)
            assert not is_mounted(mount.mountpoint), "still mounted"


def test_killed():
    """kill -9 leaves a mount that says ENOTCONN, which the next mount cleans away; numbers stay, the lock is free"""
    with Background() as mount:
        disk = os.path.join(mount.mountpoint, "vm", "snapshots", "clean", "disks", "vda.raw")
        number = os.stat(disk).st_ino
        for _ in range(3):
            reader = os.open(disk, os.O_RDONLY)
            (daemon,) = mount.daemons()
            os.kill(daemon, signal.SIGKILL)
            mount.wait_for_the_end()
            fails_with(errno.ENOTCONN, os.listdir, mount.mountpoint)
            fails_with(errno.ENOTCONN, os.close, reader)
            equal(mount.mount(), (0, ""))
            equal(os.stat(disk).st_ino, number)


def mounts_on(path):
    """How many mounts lie on top of each other there."""
    with open("/proc/self/mounts", encoding="utf-8", errors="surrogateescape") as file:
        return sum(line.split(" ")[1] == path for line in file)


def test_dead_mounts_do_not_pile_up():
    """What died is cleared away even where the kernel still answers for it from its cache, and the next umount ends all"""
    with Background() as mount:
        domain = os.path.join(mount.mountpoint, "vm")
        for turn in range(4):
            os.stat(mount.mountpoint)
            os.stat(domain)
            (daemon,) = mount.daemons()
            os.kill(daemon, signal.SIGKILL)
            mount.wait_for_the_end()
            if turn != 2:
                os.stat(mount.mountpoint)  # nobody would see that it is dead
            equal(mount.mount(), (0, ""))
            equal(mounts_on(mount.mountpoint), 1)
        run("umount", mount.mountpoint)
        equal(os.listdir(mount.mountpoint), [])
        mount.wait_for_the_end()
        equal(mount.mount(), (0, ""))


def test_many_dead_mounts_on_top_of_each_other():
    """All of them go, also by a path through a link and with a slash; what lives below them stays"""
    with Background() as mount:
        link = os.path.join(mount.room, "link")
        os.symlink(mount.mountpoint, link)
        (below,) = mount.daemons()
        others = []
        for number in range(3):
            source = os.path.join(mount.room, f"source{number}")
            os.mkdir(source)
            run(PROGRAM, source, mount.mountpoint)
            others += mount.daemons() - {below, *others}
        equal(mounts_on(mount.mountpoint), 4)
        for daemon in others:
            os.kill(daemon, signal.SIGKILL)
            os.waitpid(daemon, 0)
        wait_for(lambda: reap_all_but(mount, below), "the guards of the killed daemons")
        run(PROGRAM, source, link + "/")
        equal(mounts_on(mount.mountpoint), 2)
        run("umount", mount.mountpoint)
        equal(os.listdir(mount.mountpoint), [".vmsnapfs", "vm"])
        wait_for(lambda: reap_all_but(mount, below), "the end of what was mounted last")


def reap_all_but(mount, daemon):
    for pid in mount.daemons() - {daemon}:
        os.waitpid(pid, os.WNOHANG)
    return mount.daemons() == {daemon}


def is_stopped(pid):
    """All threads of it."""
    states = []
    for task in os.listdir(f"/proc/{pid}/task"):
        with open(f"/proc/{pid}/task/{task}/stat", encoding="ascii") as file:
            states.append(file.read().rsplit(")", 1)[1].split()[0])
    return set(states) == {"T"}


def test_a_daemon_that_hangs_is_not_waited_for():
    """Where it does not answer, nothing is mounted on top, and the command says so instead of hanging; later all is well"""
    with Background() as mount:
        (daemon,) = mount.daemons()
        os.kill(daemon, signal.SIGSTOP)
        wait_for(lambda: is_stopped(daemon), "the daemon to stand still")
        try:
            for options in ([], ["-o", "ro"]):
                result = subprocess.run([PROGRAM, *options, mount.source, mount.mountpoint], capture_output=True, text=True)
                equal(result.returncode, 32)
                assert "does not answer" in result.stderr, result.stderr
                equal(mounts_on(mount.mountpoint), 1)
        finally:
            os.kill(daemon, signal.SIGCONT)
        equal(os.listdir(os.path.join(mount.mountpoint, "vm", "snapshots")), [".order", "clean"])
        wait_for(lambda: reap_all_but(mount, daemon), "the end of those who asked it")


def test_busy_unmount():
    """umount with an open file is refused by the kernel; a lazy one lets the reader go on to its end"""
    with Background() as mount:
        disk = os.path.join(mount.mountpoint, "vm", "snapshots", "clean", "disks", "vda.raw")
        with open(disk, "rb") as reader:
            assert subprocess.run(["umount", mount.mountpoint], capture_output=True).returncode != 0
            run("umount", "--lazy", mount.mountpoint)
            equal(len(reader.read()), 8 * make.MIB)
            assert mount.daemons(), "the daemon ended although a file was open"
        equal(mount.wait_for_the_end(), [0])


def test_refused_mounts():
    """What can't be mounted: a status as mount(8) has it, one line that names the thing, and nothing stays behind"""
    room = new_room()
    source, mountpoint, file = (os.path.join(room, name) for name in ("source", "mnt", "file"))
    os.mkdir(source)
    os.mkdir(mountpoint)
    make.filled(file, 10)
    cases = [
        ([], 1, "usage|SOURCE|source"),
        ([source], 1, "usage|MOUNTPOINT|mount ?point"),
        ([source, mountpoint, "more"], 1, "usage|more"),
        (["", mountpoint], 1, "SOURCE is empty"),
        ([source, ""], 1, "MOUNTPOINT is empty"),
        (["-x", source, mountpoint], 1, "x"),
        (["-o", "nonsense", source, mountpoint], 1, "nonsense"),
        (["-o", "cache=much", source, mountpoint], 1, "cache"),
        (["-o", "disk-mode=999", source, mountpoint], 1, "disk-mode"),
        (["-o", "backing-format=vmdk", source, mountpoint], 1, "backing-format"),
        ([room + "/nothing", mountpoint], 32, "nothing"),
        ([file, mountpoint], 32, "file"),
        ([source, room + "/nowhere"], 32, "nowhere"),
        ([source, file], 32, "file"),
        (["-o", "allow=" + room + "/absent", source, mountpoint], 32, "absent"),
    ]
    before = children()
    for arguments, status, word in cases:
        for foreground in ([], ["-f"]):
            result = subprocess.run([PROGRAM, *foreground, *arguments], capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=None)
            equal(result.returncode, status, f"{arguments}: {result.stderr}")
            assert re.search(word, result.stderr), f"{arguments}: {result.stderr!r} does not tell of {word}"
            equal(len(result.stderr.strip().splitlines()), 1, f"{arguments}: {result.stderr}")
            equal(result.stdout, "")
            assert not is_mounted(mountpoint) and children() == before
    equal(os.listdir(mountpoint), [])


def test_help_and_version():
    """-h and -V print and succeed"""
    assert run(PROGRAM, "-h").startswith("usage: vmsnapfs")
    assert re.fullmatch(r"vmsnapfs \d+\.\d+\.\d+\n", run(PROGRAM, "-V"))


def test_relative_names():
    """Source, mount point and allow= may be relative to where the command is started"""
    with Background() as mount:
        run("umount", mount.mountpoint)
        mount.wait_for_the_end()
        result = subprocess.run([PROGRAM, "-o", "allow=.", "source", "mnt"], cwd=mount.room, capture_output=True, text=True)
        equal((result.returncode, result.stderr), (0, ""))
        equal(os.listdir(os.path.join(mount.mountpoint, "vm", "snapshots")), [".order", "clean"])


def enter_namespace():
    """Starts this program anew with mounts of its own; returns there, or where only root could do that."""
    if os.geteuid() == 0 and not os.environ.get("VMSNAPFS_IN_NAMESPACE"):
        checks.need_mounted_root()
        os.environ["VMSNAPFS_IN_NAMESPACE"] = "1"
        os.execvp("unshare", ["unshare", "--mount", "--propagation", "private", sys.executable, *sys.argv])


def open_device_to_all(room):
    """/dev/fuse as udev makes it, in this namespace alone."""
    device = os.path.join(room, "fuse")
    os.mknod(device, 0o666 | stat.S_IFCHR, os.makedev(10, 229))
    os.chmod(device, 0o666)
    run("mount", "--bind", device, "/dev/fuse")


def test_ordinary_user():
    """An ordinary user mounts his own images through fusermount3, and unmounts them; others don't get in"""
    checks.need_root()
    checks.need("setpriv", "fusermount3")
    helper = shutil.which("fusermount3")
    if not os.stat(helper).st_mode & 0o4000:
        raise checks.Skip("fusermount3 is not setuid root")
    as_user = ["setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups"]
    with tempfile.TemporaryDirectory() as program_room:
        program = shutil.copy(PROGRAM, os.path.join(program_room, "vmsnapfs"))  # the build may lie where others can't look
        os.chmod(program_room, 0o755)
        mount = Background()
        try:
            for directory, _, files in os.walk(mount.room):
                for name in [".", *files]:
                    os.chown(os.path.join(directory, name), USER, USER)
            if subprocess.run([*as_user, "test", "-w", "/dev/fuse"]).returncode != 0:
                open_device_to_all(mount.room)
            result = subprocess.run([*as_user, program, mount.source, mount.mountpoint], capture_output=True, text=True)
            equal((result.returncode, result.stderr), (0, ""))
            disk = os.path.join(mount.mountpoint, "vm", "snapshots", "clean", "disks", "vda.raw")
            found = subprocess.run([*as_user, "cat", disk], capture_output=True)
            equal((found.returncode, len(found.stdout)), (0, 8 * make.MIB))
            fails_with(errno.EACCES, os.listdir, mount.mountpoint)  # root neither, without allow_other
            for mounted_anew_by in ([*as_user, program], [*as_user, program], [program, "-o", "ro"]):  # root, who may not even look
                subprocess.run([*as_user, "stat", mount.mountpoint], stdout=subprocess.DEVNULL, check=True)
                for daemon in mount.daemons():
                    os.kill(daemon, signal.SIGKILL)
                    os.waitpid(daemon, 0)
                result = subprocess.run([*mounted_anew_by, mount.source, mount.mountpoint], capture_output=True, text=True)
                equal((result.returncode, result.stderr), (0, ""))
                equal(mounts_on(mount.mountpoint), 1)
            run("umount", mount.mountpoint)
            equal(mount.wait_for_the_end(), [0])
            equal(subprocess.run([*as_user, program, mount.source, mount.mountpoint], capture_output=True, text=True).stderr, "")
            equal(subprocess.run([*as_user, "fusermount3", "-u", mount.mountpoint], capture_output=True, text=True).stderr, "")
            equal(mount.wait_for_the_end(), [0])
            equal(os.listdir(mount.mountpoint), [])
        finally:
            mount.__exit__(None)


def test_nothing_is_written_elsewhere():
    """The daemon has open what it needs, and holds no image of a disk that nobody reads"""
    with Background() as mount:
        (daemon,) = mount.daemons()
        disk = os.path.join(mount.mountpoint, "vm", "snapshots", "clean", "disks", "vda.raw")

        def open_images():
            found = []
            for fd in os.listdir(f"/proc/{daemon}/fd"):
                with contextlib.suppress(FileNotFoundError):  # closed meanwhile
                    found.append(os.readlink(f"/proc/{daemon}/fd/{fd}"))
            return [path for path in found if path.endswith(".qcow2")]

        wait_for(lambda: not open_images(), f"images to be closed: {open_images()}")
        os.listdir(os.path.dirname(disk))
        os.stat(disk)
        # What is allocated may still be counted, which ends by itself.
        wait_for(lambda: not open_images(), "no image to be open after a listing")
        with open(disk, "rb") as reader:
            reader.read(1)
            assert open_images(), "a frozen disk is read, and no image is open"
        wait_for(lambda: not open_images(), "the image to be closed after its last reader")


def test_mounted_many_times():
    """Twenty mounts and unmounts while the source is busy: each ends well"""
    mount = Mounted()
    path = make.image(mount.source, "vm.qcow2")
    make.snapshot(path, "clean")
    with mount:
        for turn in range(20):
            with open(mount.frozen("vm", "clean"), "rb") as reader:
                reader.read(4096)
            make.snapshot(path, f"s{turn}")
            mount.remount()
        equal(len(mount.snapshots("vm")), 21)


if __name__ == "__main__":
    enter_namespace()
    checks.main(globals())
