# SPDX-License-Identifier: LGPL-2.1-or-later
"""Renaming, control files, last_error, events and jobs, and what other processes see of an operation."""

import contextlib
import errno
import hashlib
import os
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time

import administer
import checks
import domains
import make
from administer import command, command_of, command_refused, refused, snapshot_path
from checks import equal, fails_with, is_listening
from domains import Unchanged, create, take
from mounted import Mounted, process_name, wait_for
from test_faults import helpers


def test_mv():
    """mv renames: what stands inside, who its parent is and how it is called in the image stay"""
    for kind in ("internal", "external"):
        with Mounted(domains.web1) as mount:
            domains.chain(mount, ("one", "two"), kind)
            inode = os.stat(snapshot_path(mount, "web1", "one")).st_ino
            before = administer.frozen_bytes(mount, "web1", "one")
            tags = administer.tags(os.path.join(mount.source, "web1.qcow2"))
            sources = administer.layers(mount, "web1")
            subprocess.run(["mv", snapshot_path(mount, "web1", "one"), snapshot_path(mount, "web1", "with blank ü")], check=True)
            equal(domains.parents(mount), {"with blank ü": None, "two": "with blank ü"})
            equal(os.stat(snapshot_path(mount, "web1", "with blank ü")).st_ino, inode)
            assert administer.frozen_bytes(mount, "web1", "with blank ü") == before
            equal(administer.tags(os.path.join(mount.source, "web1.qcow2")), tags)
            equal(administer.layers(mount, "web1"), sources)
            os.rename(snapshot_path(mount, "web1", "two"), snapshot_path(mount, "web1", "one"))
            equal(domains.current(mount), "one")
            mount.remount()
            equal(domains.parents(mount), {"with blank ü": None, "one": "with blank ü"})
            command_of(mount, "web1", "with blank ü", "revert", "1")
            equal(domains.byte(mount), 1)


def test_mv_refused():
    """Onto an existing name, or out of snapshots/: EPERM, never EXDEV; illegal names: EINVAL"""
    with Mounted(domains.web1) as mount:
        for name in ("one", "two"):
            take(mount, name)
        one = snapshot_path(mount, "web1", "one")
        with Unchanged(mount):
            refused(errno.EPERM, mount, "web1", os.rename, one, snapshot_path(mount, "web1", "two"), words=["two"])
            for target in (mount.path("web1", "one"), mount.path("one"), mount.path("web1", "tree", "one"), mount.path("web1", "snapshots", "two", "one")):
                fails_with(errno.EPERM, os.rename, one, target)
            for target in (".one", "-one", "tab\there"):
                refused(errno.EINVAL, mount, "web1", os.rename, one, snapshot_path(mount, "web1", target))
            fails_with(errno.ENAMETOOLONG, os.rename, one, snapshot_path(mount, "web1", "n" * 256))
            fails_with(errno.ENOENT, os.rename, snapshot_path(mount, "web1", "none"), snapshot_path(mount, "web1", "new"))
            # (To another file system mv copies whatever anybody answers: the kernel says EXDEV by itself.)
            for target in (snapshot_path(mount, "web1", "two"), mount.path("web1")):
                result = subprocess.run(["mv", "-T" if target.endswith("two") else "-t", *([one, target] if target.endswith("two") else [target, one])], capture_output=True)
                assert result.returncode != 0, f"mv to {target} says that it succeeded"


def test_description_and_protected():
    """Both can be written, by a shell too, read back, and are kept"""
    with Mounted(domains.web1) as mount:
        take(mount, "one")
        where = snapshot_path(mount, "web1", "one")
        subprocess.run(["sh", "-c", 'echo "first line" >"$0/description"; echo 1 >"$0/protected"', where], check=True)
        for _ in range(2):
            equal((mount.text("web1/snapshots/one/description"), mount.text("web1/snapshots/one/protected")), ("first line\n", "1\n"))
            equal((domains.document(mount, "one")["description"], domains.document(mount, "one")["protected"]), ("first line", True))
            mount.remount()
        command_of(mount, "web1", "one", "description", "two\nlines, äöü")
        equal(mount.text("web1/snapshots/one/description"), "two\nlines, äöü\n")
        subprocess.run(["sh", "-c", 'printf "\\n" >"$0/description"', where], check=True)
        equal(mount.text("web1/snapshots/one/description").strip(), "")
        with Unchanged(mount):
            command_refused(errno.EINVAL, mount, "web1", "snapshots/one/protected", "2", ["0 or 1"])
            command_refused(errno.EINVAL, mount, "web1", "snapshots/one/description", "a\x01b", ["control"])
        command_of(mount, "web1", "one", "protected", "0")
        os.rmdir(where)


def test_usage_and_last_result():
    """Reading a control file gives its usage, and its last result"""
    with Mounted(domains.web1) as mount:
        take(mount, "one")
        for control, word in (("create", "disk="), ("snapshots/one/revert", "guard"), ("snapshots/one/delete", "merge-force"), ("snapshots/one/clone", "full")):
            assert word in mount.text("web1", control), f"{control} does not tell its usage: {mount.text('web1', control)!r}"
        command_refused(errno.EINVAL, mount, "web1", "snapshots/one/revert", "backwards", ["backwards"])
        assert "backwards" in mount.text("web1", "snapshots", "one", "revert"), "the last result is not told"


def test_empty_writes():
    """Empty at a flush does nothing"""
    with Mounted(domains.web1) as mount:
        take(mount, "one")
        with Unchanged(mount):
            for control in ("create", "snapshots/one/delete", "snapshots/one/revert", "snapshots/one/clone"):
                for flags in (os.O_WRONLY, os.O_WRONLY | os.O_TRUNC, os.O_RDWR | os.O_APPEND):
                    os.close(os.open(mount.path("web1", control), flags))
                subprocess.run(["sh", "-c", ': >"$0"', mount.path("web1", control)], check=True)
        equal(mount.text("web1", "last_error"), "")


def test_last_error():
    """The last 20 failures, newest first, with time, pid, command, errno; the shell's writer sees the errno itself"""
    with Mounted(domains.web1) as mount:
        for number in range(25):
            command_refused(errno.EINVAL, mount, "web1", "create", f"one wrong{number}", [f"wrong{number}"])
        lines = mount.text("web1", "last_error").splitlines()
        equal(len(lines), 20)
        assert "wrong24" in lines[0] and "wrong5" in lines[19] and all("create" in line for line in lines), lines
        result = subprocess.run(["sh", "-c", 'echo "one wrong" >"$0"', mount.path("web1", "create")], capture_output=True, text=True)
        assert result.returncode != 0 and result.stderr, "the shell is not told"
        assert "wrong24" in mount.service_log() or "wrong" in mount.service_log(), "the log does not tell of it"


def test_events():
    """One line an event: read, polled, and by tail -f"""
    with Mounted(domains.web1) as mount:
        handle = os.open(mount.path("web1", "events"), os.O_RDONLY)
        tail = subprocess.Popen(["tail", "-n", "+1", "-f", mount.path("web1", "events")], stdout=subprocess.PIPE, text=True)
        try:
            while os.read(handle, 4096):
                pass
            poll = select.poll()
            poll.register(handle, select.POLLIN | select.POLLPRI)
            for number in range(3):
                name = f"event-{number}"
                take(mount, name)
                assert poll.poll(60000), "poll does not tell of a new event"
                wait_for(lambda name=name: name in os.read(handle, 4096).decode(), "the event in the file")
                line = tail.stdout.readline()
                while name not in line:
                    assert line, "tail ended"
                    line = tail.stdout.readline()
            fails_with(errno.EEXIST, create, mount, "event-0")
            line = tail.stdout.readline()
            assert "event-0" in line and "already" in line, f"not the failure: {line}"
        finally:
            tail.kill()
            tail.wait()
            tail.stdout.close()
            os.close(handle)


def big(source):
    """A domain that takes a moment to copy."""
    make.filled(os.path.join(source, "big.img"), 400 * make.MIB)
    make.definition(source, "web1", disks=[make.disk("big.img", image_format="raw")], follows=True)


class InBackground:
    """A command of snapshot `one` in a thread; `outcome` is empty, or has what it said or its errno."""

    def __init__(self, mount, verb, words):
        self.outcome = []
        self.thread = threading.Thread(target=self.work, args=(mount, verb, words))
        self.thread.start()

    def work(self, mount, verb, words):
        try:
            self.outcome.append(command_of(mount, "web1", "one", verb, words))
        except OSError as error:
            self.outcome.append(error.errno)


def stopped_copy(mount):
    """The qemu-img that copies for the daemon, which is to take as long as a test needs; os.kill(…, SIGCONT) lets it go on."""
    found = []

    def look():
        found[:] = [pid for pid in helpers(mount) if "qemu-img convert" in process_name(pid)]
        return found

    wait_for(look, "the copy")
    os.kill(found[0], signal.SIGSTOP)
    return found[0]


def test_a_second_opener():
    """While a command runs in a control file, a second opener for writing waits, or gets EBUSY with O_NONBLOCK"""
    with Mounted(big) as mount:
        create(mount, "one disk=vda:external")
        path = mount.path("web1", "snapshots", "one", "clone")
        first = InBackground(mount, "clone", "web2 full")
        copier = stopped_copy(mount)
        codes = []
        waiting = subprocess.Popen(["sh", "-c", 'echo web3 >"$0"', path])
        interrupted = subprocess.Popen(["sh", "-c", 'echo web4 >"$0"', path], stderr=subprocess.DEVNULL)
        while not first.outcome:
            try:
                os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK))
            except OSError as error:
                codes.append(error.errno)
            if len(codes) == 3:
                interrupted.send_signal(signal.SIGINT)
                interrupted.wait()
                assert not first.outcome, "an opener that waits can't be interrupted"
                os.kill(copier, signal.SIGCONT)
            time.sleep(0.01)
        first.thread.join()
        assert codes and set(codes) == {errno.EBUSY}, codes
        assert isinstance(first.outcome[0], str), first.outcome
        equal(waiting.wait(), 0)
        interrupted.wait()
        equal(sorted(name for name in os.listdir(mount.mountpoint) if not name.startswith(".")), ["web1", "web2", "web3"])


def test_seen_at_once():
    """What an operation changed is seen at once, also by processes that stand in the directories"""
    with Mounted(domains.web1) as mount:
        take(mount, "one")
        inside = os.open(snapshot_path(mount, "web1", "one"), os.O_RDONLY | os.O_DIRECTORY)
        deeper = os.open(mount.path("web1", "snapshots", "one", "disks"), os.O_RDONLY | os.O_DIRECTORY)
        above = os.open(mount.path("web1", "snapshots"), os.O_RDONLY | os.O_DIRECTORY)
        shell = subprocess.Popen(["sh"], cwd=snapshot_path(mount, "web1", "one"), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        try:
            for number in range(30):
                name = f"n{number}"
                everything = (mount.snapshots("web1"), mount.text("web1", "tree.txt"), os.listdir(mount.path("web1", "tree")))
                assert name not in str(everything)
                create(mount, name)
                assert name in os.listdir(above) and name in mount.text("web1", "snapshots", ".order"), f"{name} is not seen"
                equal((domains.current(mount), os.readlink(mount.path("web1", "latest"))), (name, f"snapshots/{name}"))
                assert name in mount.text("web1", "tree.txt") and name in mount.text("web1", "domain.json")
                if number:
                    assert name in os.listdir(snapshot_path(mount, "web1", f"n{number - 1}") + "/children")
            command_of(mount, "web1", "one", "delete", "1")
            for handle in (inside, deeper):
                fails_with((errno.ENOENT, errno.ESTALE), os.stat, "created", dir_fd=handle)
                try:
                    equal(os.listdir(handle), [])
                except FileNotFoundError:
                    pass
            said = shell.communicate("ls; cat created; cd ..; ls -d one; exit 0\n")[0]
            equal(shell.returncode, 0)
            assert said.count("No such file") >= 2, said
            equal(domains.parents(mount)["n0"], None)
        finally:
            shell.kill()
            shell.wait()
            for handle in (inside, deeper, above):
                os.close(handle)


def test_interrupted_mkdir():
    """Ctrl-C in mkdir: either it had happened, or it is undone, with EINTR"""
    random = checks.seed()
    program = "import os, sys\ntry:\n os.mkdir(sys.argv[1])\nexcept InterruptedError:\n sys.exit(4)\nexcept KeyboardInterrupt:\n sys.exit(5)\n"
    with Mounted(lambda source: domains.web1(source, formats=("qcow2", "raw"))) as mount:
        outcomes = set()
        for number in range(40):
            name = f"s{number}"
            files = administer.names_beside(mount)
            child = subprocess.Popen([sys.executable, "-S", "-c", program, snapshot_path(mount, "web1", name)], stderr=subprocess.DEVNULL)
            time.sleep(0.01 + random.random() * 0.04)
            child.send_signal(signal.SIGINT)
            status = child.wait()
            there = os.path.exists(snapshot_path(mount, "web1", name))
            outcomes.add((status, there))
            assert not (status == 0 and not there), f"{name}: it was told as done and is not there"
            assert not (status == 4 and there), f"{name}: EINTR, and yet it is there"
            if there:
                os.rmdir(snapshot_path(mount, "web1", name))
                administer.wait_idle(mount)
            else:
                equal(administer.names_beside(mount), files, "files of what was undone are left")
        equal(mount.snapshots("web1"), [])
        print(f"    {sorted(outcomes)}")


def test_ten_shells():
    """Ten shells at once, on one domain and on many, beside readers that compare: every command has its own effect"""
    for count in (1, 5):
        with Mounted(lambda source, count=count: many(source, count)) as mount:
            for number in range(count):
                create(mount, "fixed disk=vda:external", f"d{number}")
            sums = [hashlib.sha256(administer.frozen_bytes(mount, f"d{number}", "fixed")).digest() for number in range(count)]
            end, wrong = threading.Event(), []

            def read():
                while not end.is_set():
                    for number in range(count):
                        if hashlib.sha256(administer.frozen_bytes(mount, f"d{number}", "fixed")).digest() != sums[number]:
                            wrong.append(number)

            readers = [threading.Thread(target=read) for _ in range(2)]
            for reader in readers:
                reader.start()
            script = 'cd "$0/$1/snapshots" && for i in 1 2 3 4 5; do mkdir "$2-$i" && mv "$2-$i" "$2-$i-moved" || exit 1; done; rm -r "$2-2-moved" && rmdir "$2-4-moved"'
            shells = [subprocess.Popen(["sh", "-c", script, mount.mountpoint, f"d{number % count}", f"shell{number}"]) for number in range(10)]
            for shell in shells:
                equal(shell.wait(), 0)
            end.set()
            for reader in readers:
                reader.join()
            equal(wrong, [], "a reader found other bytes")
            for number in range(count):
                wanted = [f"shell{each}-{i}-moved" for each in range(number, 10, count) for i in (1, 3, 5)]
                equal(mount.snapshots(f"d{number}"), sorted([*wanted, "fixed"]))


def many(source, count):
    for number in range(count):
        make.write(make.image(source, f"d{number}.qcow2", "8M"), f"{number + 1} 0 6M")
        make.definition(source, f"d{number}", disks=[make.disk(f"d{number}.qcow2")], follows=True)


def test_jobs():
    """A long operation is seen in jobs/ with its progress, and `cancel` undoes it: ECANCELED"""
    with Mounted(big) as mount:
        create(mount, "one disk=vda:external")
        seen = []
        copy = InBackground(mount, "clone", "web2 full")
        while not copy.outcome:
            for number in administer.jobs(mount, "web1"):
                try:
                    where = mount.path("web1", "jobs", number)
                    equal(sorted(os.listdir(where)), ["cancel", "progress", "status", "what"])
                    seen.append((mount.text("web1", "jobs", number, "what"), mount.text("web1", "jobs", number, "progress")))
                    command(mount, "web1", f"jobs/{number}/cancel", "1")
                except OSError as error:
                    assert error.errno in (errno.ENOENT, errno.ESTALE), error
            time.sleep(0.005)
        copy.thread.join()
        assert seen and "clone" in seen[0][0], f"it was not seen in jobs/: {seen}"
        assert int(seen[0][1].split()[0].rstrip("%")) <= 100, seen
        equal(copy.outcome, [errno.ECANCELED])
        assert "web2" not in os.listdir(mount.mountpoint)
        equal([name for name in administer.names_beside(mount) if "web2" in name], [])
        command_of(mount, "web1", "one", "clone", "web2 full")
        administer.wait_idle(mount)


def test_side_by_side():
    """While a long operation runs, reads in the same domain and operations on others go on; the next on it waits"""

    def prepare(source):
        big(source)
        make.write(make.image(source, "other.qcow2", "8M"), "1 0 64k")

    with Mounted(prepare) as mount:
        create(mount, "one disk=vda:external")
        copy = InBackground(mount, "clone", "web2 full")
        copier = stopped_copy(mount)
        with open(mount.frozen("web1", "one"), "rb") as file:
            assert len(file.read(1 << 20)) == 1 << 20
        equal(len(mount.snapshots("web1")), 1)
        take(mount, "elsewhere", "other")
        assert not copy.outcome, "another domain, or a reader, has waited for the copy"
        following = subprocess.Popen(["mkdir", snapshot_path(mount, "web1", "two")])
        time.sleep(0.3)
        equal((copy.outcome, following.poll()), ([], None), "two operations ran on one domain at once: the copy, and what came after it")
        os.kill(copier, signal.SIGCONT)
        equal(following.wait(), 0)
        copy.thread.join()
        equal(mount.snapshots("web1"), ["one", "two"])
        said = mount.text("web1", "events").splitlines()
        (cloned,), (taken,) = ([number for number, line in enumerate(said) if word in line] for word in ("web2", "two"))
        assert cloned < taken, said


@contextlib.contextmanager
def served(directory, image):
    """`image` as DIRECTORY/disk.qcow2, out of a server; yields its process."""
    with tempfile.TemporaryDirectory() as room:
        socket = os.path.join(room, "socket")
        server = subprocess.Popen(["qemu-nbd", "-t", "-f", "raw", "-k", socket, image])
        mount = None
        try:
            wait_for(lambda: is_listening(socket), "the server")
            path = os.path.join(directory, "disk.qcow2")
            mount = subprocess.Popen(["nbdfuse", path, f"nbd+unix:///?socket={socket}"])
            wait_for(lambda: os.path.exists(path), "the file of the server")
            yield server
        finally:
            server.send_signal(signal.SIGCONT)
            subprocess.run(["umount", "--lazy", directory], check=False)
            if mount:
                mount.wait()
            server.kill()
            server.wait()


def test_storage_that_hangs():
    """Storage that does not answer holds up what is done to its own domain, and nothing else"""
    checks.need("nbdfuse", "qemu-nbd")
    with tempfile.TemporaryDirectory() as room:
        image, elsewhere = os.path.join(room, "image"), os.path.join(room, "elsewhere")
        os.mkdir(elsewhere)
        make.snapshot(make.image(room, "image", "8M"), "before")
        with served(elsewhere, image) as server:

            def prepare(source):
                domains.web1(source)
                make.definition(source, "slow", disks=[make.disk(os.path.join(elsewhere, "disk.qcow2"))])

            with Mounted(prepare, options=f"allow={elsewhere}", expected=[r"^vmsnapfs: (warning|error): "]) as mount:
                server.send_signal(signal.SIGSTOP)
                script = 'echo words >"$0"'
                slow = subprocess.Popen(["sh", "-c", script, mount.path("slow", "snapshots", "before", "description")])
                wait_for(lambda: administer.jobs(mount, "slow") or slow.poll() is not None, "the operation that is held up")
                for name in ("one", "two"):
                    take(mount, name)
                os.rmdir(snapshot_path(mount, "web1", "one"))
                equal((mount.snapshots("web1"), slow.poll()), (["two"], None))
                server.send_signal(signal.SIGCONT)
                equal(slow.wait(), 0)
                equal(mount.text("slow", "snapshots", "before", "description"), "words\n")


def test_read_only():
    """With ro: EROFS for everything, and what was administered before is seen"""
    with Mounted(domains.web1) as mount:
        domains.chain(mount, ("one", "two"))
        mount.remount("ro")
        equal((domains.parents(mount), domains.current(mount)), ({"one": None, "two": "one"}, "two"))
        equal((domains.frozen_byte(mount, "one"), domains.frozen_byte(mount, "two")), (1, 2))
        for function, *arguments in (
            (os.mkdir, snapshot_path(mount, "web1", "new")),
            (os.rmdir, snapshot_path(mount, "web1", "one")),
            (os.rename, snapshot_path(mount, "web1", "one"), snapshot_path(mount, "web1", "new")),
            (command, mount, "web1", "create", "new"),
            (command_of, mount, "web1", "one", "revert", "1"),
        ):
            fails_with(errno.EROFS, function, *arguments)


def test_other_users():
    """Only the owner of the mount changes anything"""
    checks.need_root()
    checks.need("setpriv")
    with Mounted(domains.web1, options="allow_other") as mount:
        take(mount, "one")
        user = ["setpriv", "--reuid=12345", "--regid=12345", "--clear-groups"]
        with Unchanged(mount):
            for line in ("mkdir new", "rmdir one", "rm -rf one", "mv one new", "echo 1 >one/delete", "echo 1 >one/revert", "echo x >../create"):
                result = subprocess.run([*user, "sh", "-c", f'cd "$0" && {line}', mount.path("web1", "snapshots")], capture_output=True, text=True)
                assert result.returncode != 0 and "ermission denied" in result.stderr, f"{line}: {result}"


if __name__ == "__main__":
    checks.main(globals())
