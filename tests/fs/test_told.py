# SPDX-License-Identifier: LGPL-2.1-or-later
"""The kernel is told what an operation changed before whoever asked for it goes on; and nobody ever waits for ever."""

import errno
import os
import random
import signal
import subprocess
import sys

import checks
import domains
from administer import command, command_of, snapshot_path
from checks import equal, fails_with
from mounted import Mounted, run


def look(mount, path="web1"):
    """Looks at everything, so that the kernel keeps it: {name: (mode, what a link leads to)}."""
    found = {}
    for where, directories, files in os.walk(mount.path(path)):
        if "jobs" in directories:
            directories.remove("jobs")
        for name in directories + files:
            full = os.path.join(where, name)
            try:
                found[os.path.relpath(full, mount.path(path))] = os.readlink(full) if os.path.islink(full) else ""
                if name in ("tree.txt", "domain.json", "snapshot.json", ".order"):
                    with open(full, "rb") as file:
                        file.read()
            except FileNotFoundError:
                pass
    return found


def leads_home(mount):
    """Every link of the tree leads to what is there, and the listings are those of the documents."""
    found = look(mount)
    names = set(mount.snapshots("web1"))
    for path, target in found.items():
        if target:
            there = os.path.normpath(os.path.join("web1", os.path.dirname(path), target))
            assert there in {f"web1/snapshots/{name}" for name in names}, f"{path} leads to {target}"
    equal({path.split("/")[-2] for path in found if path.startswith("tree/") and path.endswith("/@")}, names)
    equal(set(mount.text("web1", "snapshots", ".order").split()), names)
    for name in names:
        assert name in mount.text("web1", "tree.txt"), f"{name} is not drawn"
        assert f'"{name}"' in mount.text("web1", "domain.json")


def test_seen_after_each_call():
    """After mkdir, mv, rmdir and each write all names, links and texts are the new ones, although the kernel kept the old"""
    with Mounted(domains.web1) as mount:
        snapshots = mount.path("web1", "snapshots")
        for name in ("a", "b", "c", "d"):
            look(mount)
            os.mkdir(os.path.join(snapshots, name))
            assert name in os.listdir(snapshots) and os.readlink(mount.path("web1", "current")) == f"snapshots/{name}"
            leads_home(mount)
        os.rename(snapshots + "/b", snapshots + "/B")
        equal(os.readlink(snapshots + "/c/parent"), "../B")
        equal(os.listdir(snapshots + "/a/children"), ["B"])
        equal(sorted(os.listdir(mount.path("web1", "tree", "a"))), ["@", "B"])
        leads_home(mount)
        os.rmdir(snapshots + "/B")
        fails_with(errno.ENOENT, os.stat, snapshots + "/B")
        equal(os.readlink(mount.path("web1", "tree", "a", "c", "d", "@")), "../../../../snapshots/d")
        leads_home(mount)
        command_of(mount, "web1", "a", "delete", "1")
        fails_with(errno.ENOENT, os.stat, snapshots + "/a")
        fails_with(errno.ENOENT, os.stat, mount.path("web1", "tree", "a"))
        leads_home(mount)
        command_of(mount, "web1", "d", "description", "words")
        equal(mount.text("web1", "snapshots", "d", "description"), "words\n")
        subprocess.run(["rm", "-r", snapshots + "/d"], check=True)
        leads_home(mount)
        equal(mount.snapshots("web1"), ["c"])


def test_a_name_taken_again():
    """A directory that was deleted and made again is a new one: who stands in the old one is lost, in the new one not"""
    with Mounted(domains.web1) as mount:
        path = snapshot_path(mount, "web1", "again")
        for _ in range(20):
            os.mkdir(path)
            old = os.open(path, os.O_RDONLY)
            os.rmdir(path)
            os.mkdir(path)
            result = subprocess.run(["sh", "-c", 'cd "$0" && sleep 0.02 && /bin/pwd && ls', path], capture_output=True, text=True)
            assert result.returncode == 0 and result.stdout.splitlines()[0] == path, result
            fails_with(errno.ENOENT, os.listdir, old)
            fails_with(errno.ENOENT, os.stat, "disks", dir_fd=old)
            fails_with(errno.ENOENT, os.open, "created", os.O_RDONLY, dir_fd=old)
            os.close(old)
            command_of(mount, "web1", "again", "delete", "1")


def test_a_text_read_while_it_changes():
    """A small file that becomes shorter or longer while it is opened and read is the old one or the new one, whole"""
    with Mounted(domains.web1) as mount:
        os.mkdir(snapshot_path(mount, "web1", "short"))
        stop = os.path.join(mount.room, "stop")
        reader = "\n".join((
            "import os, sys",
            "while not os.path.exists(sys.argv[2]):",
            "    text = open(sys.argv[1], 'rb').read()",
            "    assert text.endswith(b'current\\n') and b'\\0' not in text, text",
        ))
        command = [sys.executable, "-c", reader, mount.path("web1", "tree.txt"), stop]
        readers = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(3)]
        names = ("short", "l" + "o" * 100 + "ng")
        for turn in range(1000):
            os.rename(*(snapshot_path(mount, "web1", names[(turn + at) % 2]) for at in range(2)))
        with open(stop, "wb"):
            pass
        equal([reader.communicate()[1] for reader in readers], [""] * 3)


def crowd(mount, seed, stop):
    """One of many who do things at random until told to stop; refusals are all right, waiting for ever is not."""
    chance = random.Random(seed)
    snapshots = mount.path("web1", "snapshots")
    names = [f"s{i}" for i in range(6)]
    parent = os.getppid()
    while not os.path.exists(stop) and os.getppid() == parent:
        one, two = (os.path.join(snapshots, name) for name in chance.sample(names, 2))
        try:
            match chance.randrange(9):
                case 0 | 1:
                    os.mkdir(one)
                case 2:
                    os.rmdir(one)
                case 3:
                    os.rename(one, two)
                case 4:
                    command(mount, "web1", "create", os.path.basename(one))
                case 5:
                    command_of(mount, "web1", os.path.basename(one), "delete", chance.choice(("1", "children-only")))
                case 6:
                    subprocess.run(["rm", "-rf", one], capture_output=True)
                case 7:
                    look(mount)
                case 8:
                    os.chdir(one)
                    os.listdir(".")
                    os.chdir("/")
        except OSError as error:
            assert error.errno in (errno.ENOENT, errno.EEXIST, errno.EPERM, errno.EBUSY, errno.ENOTEMPTY, errno.ESTALE), error
            os.chdir("/")


def test_crowd():
    """Ten processes at once take, rename, delete, look and stand there: all come to an end, and the tree is one"""
    chance = checks.seed()
    with Mounted(domains.web1) as mount:
        stop = os.path.join(mount.room, "stop")
        before = os.getpid()
        pids = []
        for _ in range(10):
            seed = chance.randrange(1 << 32)
            pid = os.fork()
            if pid == 0:
                code = 1
                try:
                    crowd(mount, seed, stop)
                    code = 0
                except BaseException as error:  # told by its status
                    print(f"    {error!r}", flush=True)
                os._exit(code)
            pids.append(pid)
        assert os.getpid() == before
        for _ in range(20):
            look(mount)
        with open(stop, "wb"):
            pass
        equal([os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids], [0] * 10)
        leads_home(mount)
        print(f"    {len(mount.text('web1', 'events').splitlines())} events, {len(mount.snapshots('web1'))} snapshots are left")


def begin_crowd(mount, chance):
    """Ten of these, under whom the mount may go away: (the file that stops them, their pids)."""
    stop = os.path.join(mount.room, "stop")
    pids = []
    for _ in range(10):
        seed = chance.randrange(1 << 32)
        pid = os.fork()
        if pid == 0:
            try:
                crowd(mount, seed, stop)
            except BaseException:  # the mount goes away under it
                pass
            os._exit(0)
        pids.append(pid)
    return stop, pids


def end_crowd(stop, pids):
    with open(stop, "wb"):
        pass
    for pid in pids:
        os.waitpid(pid, 0)


def test_ended_in_a_crowd():
    """SIGTERM while ten do that: the daemon ends, everybody is answered, and the next mount shows a whole tree"""
    chance = checks.seed()
    with Mounted(domains.web1) as mount:
        for _ in range(4):
            stop, pids = begin_crowd(mount, chance)
            for _ in range(chance.randrange(1, 15)):
                look(mount)
            mount.process.send_signal(signal.SIGTERM)
            equal(mount.process.wait(), 0)
            end_crowd(stop, pids)
            os.unlink(stop)
            mount.mount()
            leads_home(mount)


def test_killed_in_a_crowd():
    """SIGKILL while ten do that: the daemon is gone at once, and nobody is left waiting for it"""
    chance = checks.seed()
    for _ in range(5):
        with Mounted(domains.web1) as mount:
            stop, pids = begin_crowd(mount, chance)
            for _ in range(chance.randrange(2, 8)):
                look(mount)
            mount.process.kill()
            mount.process.wait()
            end_crowd(stop, pids)
            run("umount", "--lazy", mount.mountpoint)
            mount.wait_for_orphans()
            mount.mount()
            leads_home(mount)


if __name__ == "__main__":
    checks.main(globals())
