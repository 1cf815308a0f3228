# SPDX-License-Identifier: LGPL-2.1-or-later
"""Between FUSE and the administration: control files, removals, events, jobs, and who waits for what.

The administration under this program is a fake, which changes nothing, and is as slow as a test wants: while the file
`hold` is there, every request is running. Then descriptions and protections are said to be changed, the rest is
EOPNOTSUPP, "nothing is administered here".
"""

import contextlib
import errno
import json
import os
import select
import shutil
import signal
import subprocess
import threading

import checks
import make
from checks import equal, fails_with
from mounted import Mounted, wait_for

FAKE = "nothing is administered here"


def one_domain(source):
    path = make.image(source, "web1.qcow2")
    make.write(path, "1 0 64k")
    make.snapshot(path, "one")
    make.snapshot(path, "two")


class Held(Mounted):
    """A mount of one domain in which requests take as long as they are held."""

    def __init__(self, **options):
        super().__init__(one_domain, **options)
        self.hold_path = os.path.join(self.room, "hold")

    def mount(self):
        os.environ["VMSNAPFS_FAKE_HOLD"] = self.hold_path
        return super().mount()

    def hold(self):
        with open(self.hold_path, "wb"):
            pass

    def let_go(self):
        os.unlink(self.hold_path)

    def jobs(self):
        return sorted(os.listdir(self.path("web1", "jobs")), key=int)

    def wait_for_jobs(self, count):
        wait_for(lambda: len(self.jobs()) == count, f"{count} jobs")
        return self.jobs()


def write_to(path, text, flags=os.O_WRONLY):
    fd = os.open(path, flags)
    try:
        return os.write(fd, text)
    finally:
        with contextlib.suppress(OSError):  # where the mount has ended meanwhile
            os.close(fd)


class Started:
    """A call in a process of its own, which can be interrupted: the errno it came to, 0 if it succeeded."""

    def __init__(self, function, *arguments):
        self.pid = os.fork()
        if self.pid == 0:
            signal.signal(signal.SIGINT, self._stop)  # else Python would begin the call again
            try:
                function(*arguments)
                os._exit(0)
            except OSError as error:
                os._exit(error.errno)
            except BaseException:
                os._exit(255)

    @staticmethod
    def _stop(number, frame):
        raise InterruptedError(errno.EINTR, "interrupted")

    def interrupt(self):
        os.kill(self.pid, signal.SIGINT)

    def is_over(self):
        pid, _ = os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) and (self.pid, 0) or (0, 0)
        return pid != 0

    def waits_in_fuse(self):
        """It sleeps, and in this file system."""
        try:
            with open(f"/proc/{self.pid}/wchan", encoding="ascii") as file:
                return "request_wait" in file.read() or "fuse" in file.read()
        except OSError:
            return False

    def result(self):
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


def open_once(path, flags=os.O_WRONLY):
    os.close(os.open(path, flags))


def everything(directory):
    """Names, modes and inode numbers of all that the tree holds, but for jobs."""
    found = {}
    for where, directories, files in os.walk(directory):
        if "jobs" in directories:
            directories.remove("jobs")
        for name in directories + files:
            status = os.lstat(os.path.join(where, name))
            found[os.path.join(where, name)] = status.st_mode, status.st_ino, status.st_nlink
    return found


def first_error(mount):
    lines = mount.text("web1", "last_error").splitlines()
    return lines[0] if lines else ""


def test_commands_reach_the_administration():
    """Each way to ask for something becomes that request: jobs/ tells its words, and the answer is the errno"""
    with Held() as mount:
        snapshots = mount.path("web1", "snapshots")
        one = os.path.join(snapshots, "one")
        cases = [
            ("mkdir snapshots/new", os.mkdir, (snapshots + "/new",)),
            ("rmdir snapshots/one", os.rmdir, (one,)),
            ("mv snapshots/one snapshots/uno", os.rename, (one, snapshots + "/uno")),
            ('write "up disk-only" to create', write_to, (mount.path("web1", "create"), b"up disk-only\n")),
            ('write "quiesce=try" to defaults', write_to, (mount.path("web1", "defaults"), b"quiesce=try\n", os.O_WRONLY | os.O_TRUNC)),
            ('write "merge" to snapshots/one/delete', write_to, (one + "/delete", b"merge\n")),
            ('write "1" to snapshots/one/revert', write_to, (one + "/revert", b"1\n")),
            ('write "web2" to snapshots/one/clone', write_to, (one + "/clone", b"web2\n")),
        ]
        for words, function, arguments in cases:
            mount.hold()
            started = Started(function, *arguments)
            (number,) = mount.wait_for_jobs(1)
            equal(mount.text("web1", "jobs", number, "what"), words + "\n")
            equal(mount.text("web1", "jobs", number, "status"), "running\n")
            equal(mount.text("web1", "jobs", number, "progress"), "50\n")
            mount.let_go()
            equal(started.result(), errno.EOPNOTSUPP, words)
            mount.wait_for_jobs(0)
            line = first_error(mount)
            assert f"pid {started.pid}: {words}: {FAKE} (EOPNOTSUPP)" in line, line
            assert f"failed: {words}: {FAKE}" in mount.text("web1", "events").splitlines()[-1]
        equal(write_to(one + "/description", b"words\n"), 6)
        equal(write_to(one + "/protected", b"1\n"), 2)


def test_interrupted():
    """Ctrl-C in mkdir, rmdir, mv and a write has it undone: EINTR, and the job is gone"""
    with Held() as mount:
        snapshots = mount.path("web1", "snapshots")
        one = os.path.join(snapshots, "one")
        mount.hold()
        for function, *arguments in (
            (os.mkdir, snapshots + "/new"),
            (os.rmdir, one),
            (os.rename, one, snapshots + "/uno"),
            (write_to, mount.path("web1", "create"), b"up\n"),
        ):
            started = Started(function, *arguments)
            mount.wait_for_jobs(1)
            started.interrupt()
            equal(started.result(), errno.EINTR, f"{function.__name__}{arguments}")
            mount.wait_for_jobs(0)
            assert f"pid {started.pid}: " in first_error(mount) and first_error(mount).endswith("(EINTR)"), first_error(mount)


def test_jobs_cancel():
    """Writing to jobs/N/cancel cancels that one; a job that is over is gone, with its directory"""
    with Held() as mount:
        mount.hold()
        first = Started(os.mkdir, mount.path("web1", "snapshots", "new"))
        mount.wait_for_jobs(1)
        second = Started(write_to, mount.path("web1", "create"), b"up\n")
        numbers = mount.wait_for_jobs(2)
        here = os.open(mount.path("web1", "jobs", numbers[1]), os.O_RDONLY)
        write_to(mount.path("web1", "jobs", numbers[1], "cancel"), b"1\n")
        equal(second.result(), errno.ECANCELED)
        equal(mount.wait_for_jobs(1), numbers[:1])
        fails_with(errno.ENOENT, os.stat, "what", dir_fd=here)
        fails_with(errno.ENOENT, os.listdir, mount.path("web1", "jobs", numbers[1]))
        os.close(here)
        for name in ("0", "01", numbers[1], "x", "-1", str(1 << 60), "99999999999999999999999"):
            fails_with(errno.ENOENT, os.stat, mount.path("web1", "jobs", name))
        mount.let_go()
        equal(first.result(), errno.EOPNOTSUPP)


def test_second_opener():
    """While a command runs, a second opener for writing waits and can be interrupted, or is told EBUSY; readers do not"""
    with Held() as mount:
        create = mount.path("web1", "create")
        mount.hold()
        first = Started(write_to, create, b"up\n")
        mount.wait_for_jobs(1)
        fails_with(errno.EBUSY, open_once, create, os.O_WRONLY | os.O_NONBLOCK)
        assert "running" in first_error(mount)
        mount.text("web1", "create")
        open_once(mount.path("web1", "defaults"))
        open_once(mount.path("web1", "power"))
        waiting, other = Started(open_once, create), Started(open_once, create, os.O_RDWR | os.O_TRUNC)
        wait_for(waiting.waits_in_fuse, "the second opener to wait")
        wait_for(other.waits_in_fuse, "the third opener to wait")
        waiting.interrupt()
        equal(waiting.result(), errno.EINTR)
        assert not other.is_over() and len(mount.jobs()) == 1
        mount.let_go()
        equal(first.result(), errno.EOPNOTSUPP)
        equal(other.result(), 0)
        open_once(create, os.O_WRONLY | os.O_NONBLOCK)


def test_many_waiting_hold_up_nobody():
    """More requests wait than there are threads that answer: everything else is answered at once"""
    with Held() as mount:
        before = mount.read("web1", "snapshots", "one", "disks", "vda.raw")  # and the kernel knows the names
        for name in ("one", "two"):
            mount.text("web1", "snapshots", name, "revert")
        mount.hold()
        waiting = [Started(write_to, mount.path("web1", "create"), b"up\n")]
        mount.wait_for_jobs(1)
        waiting += [Started(write_to, mount.path("web1", "create"), b"up\n") for _ in range(20)]
        waiting += [Started(write_to, mount.path("web1", "snapshots", name, "revert"), b"1\n") for name in ("one", "two")]
        waiting += [Started(os.mkdir, mount.path("web1", "snapshots", f"n{i}")) for i in range(10)]
        mount.wait_for_jobs(4)  # one create, two reverts, one mkdir: the kernel lets in one
        equal(mount.read("web1", "snapshots", "one", "disks", "vda.raw"), before)
        equal(os.listdir(mount.path("web1", "tree")), ["one", "two"])
        equal(mount.text("web1", "snapshots", "two", "protected"), "0\n")
        mount.text("web1", "create")
        mount.let_go()
        for started in waiting:
            equal(started.result(), errno.EOPNOTSUPP)


def test_terminated_while_busy():
    """SIGTERM ends the mount at once, and everybody who waits is told ECANCELED"""
    with Held() as mount:
        mount.hold()
        snapshots = mount.path("web1", "snapshots")
        waiting = [Started(os.mkdir, snapshots + "/new"), Started(os.mkdir, snapshots + "/newer"), Started(write_to, mount.path("web1", "create"), b"up\n")]
        mount.wait_for_jobs(2)
        waiting.append(Started(open_once, mount.path("web1", "create")))
        wait_for(waiting[-1].waits_in_fuse, "the opener to wait")
        mount.process.send_signal(signal.SIGTERM)
        codes = [started.result() for started in waiting]
        for code in codes:
            assert code in (errno.ECANCELED, errno.ENOTCONN, errno.ECONNABORTED), codes
        assert codes.count(errno.ECANCELED) >= 3, codes  # one mkdir waited in the kernel
        equal(mount.process.wait(), 0)


def test_unmount_right_after():
    """umount after a command succeeds at once, whatever is still to be told to the kernel"""
    with Held() as mount:
        for _ in range(10):
            fails_with(errno.EOPNOTSUPP, os.mkdir, mount.path("web1", "snapshots", "new"))
            write_to(mount.path("web1", "snapshots", "one", "description"), b"x\n")
            mount.remount()


def test_what_is_read():
    """Reading a fresh open tells the usage and the last result; the same open file gives what its command came to"""
    with Held() as mount:
        for name, word in (("create", "disk=TARGET"), ("snapshots/one/revert", "guard"), ("snapshots/one/delete", "merge-force"), ("snapshots/one/clone", "full")):
            path = mount.path("web1", name)
            usage = mount.text("web1", name)
            assert word in usage and "Last:" not in usage, usage
            fd = os.open(path, os.O_RDWR)
            fails_with(errno.EOPNOTSUPP, os.write, fd, b"web2\n" if name.endswith("clone") else b"1\n" if "/" in name else b"up\n")
            equal(os.read(fd, 100).decode(), FAKE + "\n")  # where the write left off
            equal(os.pread(fd, 100, 0).decode(), FAKE + "\n")
            os.close(fd)
            after = mount.text("web1", name)
            assert after.startswith(usage) and f": {FAKE} (EOPNOTSUPP)\n" in after, after
            equal(os.stat(path).st_size, len(after.encode()))
        equal(mount.text("web1", "defaults"), "disk-only\nquiesce=try\n")
        equal(mount.text("web1", "snapshots", "one", "protected"), "0\n")
        equal(mount.text("web1", "snapshots", "one", "description"), "")
        for shell in filter(None, map(shutil.which, ("bash", "dash", "busybox"))):
            command = [shell, "sh"] if shell.endswith("busybox") else [shell]
            script = f"exec 3<>'{mount.path('web1', 'create')}'; echo up >&3; cat <&3"
            result = subprocess.run([*command, "-c", script], capture_output=True, text=True)
            assert FAKE in result.stdout and "rror" in result.stderr, (shell, result)  # dash calls them all I/O error
            result = subprocess.run([*command, "-c", f"echo 1 >'{mount.path('web1', 'snapshots', 'one', 'delete')}'"], capture_output=True, text=True)
            assert result.returncode != 0 and result.stderr, (shell, result)


def test_wrong_words():
    """What is not understood is EINVAL with what would be right, and never comes to the administration"""
    with Held() as mount:
        mount.hold()  # who came there would not come back
        for name, text, word, code in (
            ("create", b"up nonsense\n", "disk-only", errno.EINVAL),
            ("create", b"disk=vda:sometimes\n", "internal", errno.EINVAL),
            ("create", b"x" * 256 + b"\n", "255", errno.ENAMETOOLONG),
            ("create", b"\xff\n", "UTF-8", errno.EINVAL),
            ("create", b"<domain/>\n", "<domainsnapshot>", errno.EINVAL),
            ("create", b"<domainsnapshot><nam/></domainsnapshot>\n", "<description>", errno.EINVAL),
            ("create", b"nam = 'x'\nend\n", "memory_path", errno.EINVAL),
            ("create", b"name = x\nend\n", "quotes", errno.EINVAL),
            ("create", b'{"nam": 1}\n', "nam", errno.EINVAL),
            ("create", b"{" * 300000, "longer", errno.E2BIG),
            ("defaults", b"name\n", "no option", errno.EINVAL),
            ("power", b"begin\n", "shutdown", errno.EINVAL),
            ("snapshots/one/delete", b"everything\n", "children-only", errno.EINVAL),
            ("snapshots/one/revert", b"running paused\n", "two states", errno.EINVAL),
            ("snapshots/one/clone", b"\n", "name", errno.EINVAL),
            ("snapshots/one/clone", b"a b c\n", "full", errno.EINVAL),
            ("snapshots/one/protected", b"2\n", "0 or 1", errno.EINVAL),
            ("snapshots/one/description", b"\x01\n", "control", errno.EINVAL),
        ):
            for flags in (os.O_RDWR, os.O_RDWR | os.O_TRUNC):
                fd = os.open(mount.path("web1", name), flags)
                fails_with(code, os.write, fd, text)
                said = os.pread(fd, 4096, 0).decode()
                os.close(fd)
                assert word in said, f"{name} {text[:50]!r}: {said}"
                assert said.strip() in first_error(mount), (said, first_error(mount))
        equal(mount.jobs(), [])


def ran(mount):
    """How many commands came to the administration."""
    return len([line for line in mount.text("web1", "events").splitlines() if line.endswith(f": {FAKE}")])


JSON = json.dumps({"name": "up", "description": "}{", "disks": [{"target": "vda", "snapshot": "internal"}]}, indent=2).encode()
XML = b"""<?xml version='1.0' encoding='UTF-8'?>
<!-- </domainsnapshot> -->
<domainsnapshot>
  <name>up</name>
  <description>&lt;<![CDATA[</domainsnapshot>]]></description>
  <?what it='/>'?>
  <disks>
    <disk name='vda' snapshot="internal"/>
  </disks>
</domainsnapshot >
"""
XL = b"""# a snapshot [
name = "up"
description = 'end of [ it\\''
disks = [ # of all
',,vda',
]
"""


def test_documents():
    """A document may come in pieces, and runs in the write that completes it; unfinished at close is an error"""
    with Held() as mount:
        create = mount.path("web1", "create")
        for begun, last, missing in ((JSON[:-1], JSON[-1:], "last brace"), (XML[:-2], XML[-2:-1], "root element")):
            for size in (1, 7, len(begun)):
                fd = os.open(create, os.O_WRONLY)
                for at in range(0, len(begun), size):
                    equal(os.write(fd, begun[at : at + size]), len(begun[at : at + size]))
                    os.close(os.dup(fd))  # a flush in the middle does nothing
                fails_with(errno.EOPNOTSUPP, os.write, fd, last)
                equal(os.write(fd, b"\n"), 1)  # still the document's
                os.close(fd)
                assert FAKE in first_error(mount)
            count = ran(mount)
            fd = os.open(create, os.O_WRONLY)
            fails_with(errno.EOPNOTSUPP, os.write, fd, begun + last + b"\n \n")
            fails_with(errno.EOPNOTSUPP, os.write, fd, b"words\n")
            os.close(fd)
            equal(ran(mount), count + 2)
            before = first_error(mount)
            fd = os.open(create, os.O_WRONLY)
            os.write(fd, begun)
            copy = os.dup(fd)
            os.close(fd)
            equal(first_error(mount), before)
            os.close(copy)
            wait_for(lambda said=missing: said in first_error(mount), "the unfinished document in last_error")
            open_once(create, os.O_WRONLY | os.O_TRUNC)
            assert missing in first_error(mount)
            equal(ran(mount), count + 2)


def test_lines_of_xl():
    """Lines of xl run at a line `end`, or at a close after which nothing is open, and close says what came of it"""
    with Held() as mount:
        create = mount.path("web1", "create")
        for size in (1, 7, len(XL)):  # however it is cut
            fd = os.open(create, os.O_RDWR)
            for at in range(0, len(XL), size):
                equal(os.write(fd, XL[at : at + size]), len(XL[at : at + size]))
            equal(os.write(fd, b"  end # now"), 11)
            fails_with(errno.EOPNOTSUPP, os.write, fd, b"\n")
            equal(os.read(fd, 100).decode(), FAKE + "\n")
            equal(os.write(fd, b"\n"), 1)
            os.close(fd)
        equal(ran(mount), 3)

        fd = os.open(create, os.O_RDWR)
        for at in range(len(XL)):
            os.write(fd, XL[at : at + 1])
            if XL[:at].count(b"\n") in (0, 4):  # only a comment, or in the list
                os.close(os.dup(fd))
        equal(ran(mount), 3)
        fails_with(errno.EOPNOTSUPP, os.close, os.dup(fd))
        equal(os.pread(fd, 100, 0).decode(), FAKE + "\n")
        equal(ran(mount), 4)
        os.close(fd)  # nothing is left
        equal(ran(mount), 4)
        fd = os.open(create, os.O_WRONLY)
        os.write(fd, b"nam = 'x'\n")
        fails_with(errno.EINVAL, os.close, fd)
        assert "memory_path" in first_error(mount) and "pid" in first_error(mount), first_error(mount)
        for text, missing in ((b"disks = [',,vda',\n", "end of a list"), (b"name =", "a line"), (b"# only this\n", "only comments")):
            fd = os.open(create, os.O_WRONLY)
            os.write(fd, text)
            os.close(fd)
            wait_for(lambda said=missing: said in first_error(mount), f"{text} in last_error")
        equal(ran(mount), 4)


def test_close_is_interrupted():
    """Ctrl-C in the close that runs a document has it undone, too"""

    def write_and_close():
        fd = os.open(mount.path("web1", "create"), os.O_WRONLY)
        os.write(fd, b"name = 'x'\n")
        os.close(fd)

    with Held() as mount:
        mount.hold()
        started = Started(write_and_close)
        mount.wait_for_jobs(1)
        started.interrupt()
        equal(started.result(), errno.EINTR)
        mount.wait_for_jobs(0)
        assert first_error(mount).endswith("(EINTR)"), first_error(mount)


def test_documents_from_shells():
    """cat FILE > create runs each kind of document once, and tells that it failed"""
    with Held() as mount:
        create, path = mount.path("web1", "create"), os.path.join(mount.room, "document")
        count = 0
        for shell in filter(None, map(shutil.which, ("bash", "dash", "busybox"))):
            command = [shell, "sh", "-c"] if shell.endswith("busybox") else [shell, "-c"]
            for document in (JSON + b"\n", XML, XL, XL + b"end\n"):
                with open(path, "wb") as file:
                    file.write(document)
                result = subprocess.run([*command, f"cat '{path}' > '{create}'"], capture_output=True, text=True)
                count += 1
                equal(ran(mount), count, f"{shell}: {document}")
                assert shell.endswith("busybox") or result.returncode != 0, f"{shell}: {document}: {result}"
            subprocess.run([*command, f"echo \"name = 'x'\" > '{create}'"], capture_output=True)
            count += 1
            equal(ran(mount), count, shell)


HOSTILE = {
    "billion laughs": (b"<!DOCTYPE a [<!ENTITY a0 'ha'>" + b"".join(b"<!ENTITY a%d '%s'>" % (i + 1, b"&a%d;" % i * 10) for i in range(10)) + b"]><domainsnapshot><name>&a10;</name></domainsnapshot>", errno.EINVAL),
    "a file of the host": (b"<!DOCTYPE a [<!ENTITY b SYSTEM 'file://%s'>]><domainsnapshot><name>&b;</name></domainsnapshot>", errno.EINVAL),
    "a parameter entity": (b"<!DOCTYPE a [<!ENTITY %% b SYSTEM 'file://%s'> %%b;]><domainsnapshot/>", errno.EINVAL),
    "an external subset": (b"<!DOCTYPE domainsnapshot SYSTEM 'file://%s'><domainsnapshot><name>&secret;</name></domainsnapshot>", errno.EINVAL),
    "XInclude": (b"<domainsnapshot><i:include xmlns:i='http://www.w3.org/2001/XInclude' href='file://%s' parse='text'/></domainsnapshot>", errno.EINVAL),
    "depth": (b"<a>" * 100000, errno.E2BIG),
    "depth, closed": (b"<a>" * 20000 + b"</a>" * 20000, errno.E2BIG),
    "no UTF-8": (b"<domainsnapshot><name>\xff</name></domainsnapshot>", errno.EINVAL),
    "UTF-16": ("<domainsnapshot/>".encode("utf-16"), errno.EINVAL),
    "UTF-16 without a mark": ("<domainsnapshot/>".encode("utf-16-le"), errno.EINVAL),
    "a zero byte": (b"<domainsnapshot><name>a\0b</name></domainsnapshot>", errno.EINVAL),
    "another encoding": (b"<?xml version='1.0' encoding='UTF-7'?><domainsnapshot/>", errno.EINVAL),
    "xl, a zero byte": (b"name = 'a\0b'\nend\n", errno.EINVAL),
    "xl, no UTF-8": (b"name = '\xff'\nend\n", errno.EINVAL),
    "xl, lists in lists": (b"disks = " + b"[" * 100000 + b"]" * 100000 + b"\nend\n", errno.EINVAL),
    "xl, many values": (b"disks = [" + b"1," * 100000 + b"]\nend\n", errno.E2BIG),
    "100 MiB in tags": (b"<domainsnapshot " + b"a" * (100 << 20), errno.E2BIG),
    "100 MiB of comments": (b"<!--" + b"a" * (100 << 20), errno.E2BIG),
    "100 MiB of lines": (b"# " + b"a" * (100 << 20), errno.E2BIG),
}  # fmt: skip


def test_hostile_documents():
    """What would take memory, time or a file of the host is refused, with all that follows it, and is never a command"""
    with Held() as mount:
        secret = os.path.join(mount.room, "secret")
        with open(secret, "wb") as file:
            file.write(b"SECRET" * 10)
        mount.hold()  # what came to the administration would show up as a job
        create = mount.path("web1", "create")
        for name, (text, code) in HOSTILE.items():
            text = text % os.fsencode(secret) if b"%s" in text else text
            fd = os.open(create, os.O_RDWR)
            left = text
            try:
                while left:  # as cat would, but that it goes on after the first refusal
                    left = left[os.write(fd, left[: 128 << 10]) :]
                os.close(fd)
                raise AssertionError(f"{name} is taken")
            except OSError as error:
                equal(error.errno, code, name)
                said = os.pread(fd, 4096, 0)
                assert len(said) > 10 and b"SECRET" not in said, f"{name}: {said}"
            if name.startswith(("billion", "depth", "100")):  # refused before its end
                fails_with(code, os.write, fd, b"up\n")
            os.close(fd)
        equal(mount.jobs(), [])
        assert "SECRET" not in mount.text("web1", "last_error") + mount.text("web1", "events") + mount.text("web1", "create")
        with open(f"/proc/{mount.process.pid}/status", encoding="ascii") as file:
            peak = int(next(line for line in file if line.startswith("VmHWM")).split()[1])
        assert os.environ.get("VMSNAPFS_SANITIZED") or peak < 64 << 10, f"{peak} KiB"


def removed(command, *paths):
    return subprocess.run([*command, *paths], capture_output=True, text=True, stdin=subprocess.DEVNULL)


def removers():
    yield ["rm", "-rf"]
    yield ["rm", "-r"]
    if shutil.which("busybox"):
        yield ["busybox", "rm", "-rf"]
    yield ["find"]


def test_rm_of_too_much_harms_nothing():
    """rm -rf of a domain, of snapshots/, of tree/ and of the mount never asks for a deletion, and all is there after it"""
    with Held() as mount:
        before = everything(mount.mountpoint)
        mount.hold()  # a deletion would not come back, and show up as a job
        for command in removers():
            for path in ("web1/snapshots", "web1/tree", "web1/tree/one", "web1/disks", "web1", ".vmsnapfs", "."):
                path = os.path.join(mount.mountpoint, path, "")
                result = removed([*command, path, "-delete"] if command == ["find"] else [*command, path])
                assert result.returncode != 0, f"{command} {path} says that it succeeded"
                equal(mount.jobs(), [])
        # the shell's own list, from inside
        for where in ("web1", "."):
            result = subprocess.run("rm -rf * .[a-z]*", shell=True, cwd=mount.path(where), capture_output=True)
            assert result.returncode != 0
        equal(mount.jobs(), [])
        equal(everything(mount.mountpoint), before)
        assert "for a minute" in mount.text("web1", "last_error")


def asked(mount):
    """What came to the administration, and failed there, in that order."""
    return [line.split(": ")[1] for line in mount.text("web1", "events").splitlines() if " failed: " in line]


def test_rm_of_a_snapshot():
    """rm -r of one snapshot or several asks for their deletion and nothing else; what it unlinked is there again"""
    with Held() as mount:
        snapshots = mount.path("web1", "snapshots")
        before = everything(mount.mountpoint)
        for command in [["rm", "-rf"], ["rm", "-r"]] + ([["busybox", "rm", "-r"]] if shutil.which("busybox") else []):
            for paths in ([snapshots + "/one"], [snapshots + "/one", snapshots + "/two/"]):
                result = removed(command, *paths)
                assert result.returncode != 0 and "not supported" in result.stderr, result
                equal(asked(mount)[-len(paths) :], [f"rmdir snapshots/{os.path.basename(path.rstrip('/'))}" for path in paths])
                equal(everything(mount.mountpoint), before)
        equal(subprocess.run(f"rm -r '{snapshots}'/*", shell=True, capture_output=True).returncode, 1)
        equal(asked(mount)[-2:], ["rmdir snapshots/one", "rmdir snapshots/two"])
        equal(len(asked(mount)), 11 if shutil.which("busybox") else 8)


def test_removed_bit_by_bit():
    """Unlinking all there is in a snapshot, and rmdir of its directories, succeeds and does nothing; other names don't"""
    with Held() as mount:
        one = mount.path("web1", "snapshots", "one")
        with open(mount.frozen("web1", "one"), "rb") as file:
            first = file.read(4096)
        before = everything(mount.mountpoint)
        for name in os.listdir(one + "/disks"):
            os.unlink(os.path.join(one, "disks", name))
        for name in os.listdir(one):
            path = os.path.join(one, name)
            if os.path.isdir(path) and not os.path.islink(path):
                fails_with((errno.EISDIR, errno.EPERM), os.unlink, path)
                os.rmdir(path)
            else:
                fails_with(errno.ENOTDIR, os.rmdir, path)
                os.unlink(path)
        equal(everything(mount.mountpoint), before)
        with open(mount.frozen("web1", "one"), "rb") as file:
            equal(file.read(4096), first)
        fails_with(errno.ENOENT, os.unlink, one + "/nothing")
        fails_with(errno.ENOENT, os.rmdir, mount.path("web1", "snapshots", "nothing"))


def test_stands_in_a_removed_directory():
    """What was rmdir'ed inside a snapshot that stayed is there again, also for one who looks while another stands in it"""
    with Held() as mount:
        disks = mount.path("web1", "snapshots", "one", "disks")
        here = os.open(disks, os.O_RDONLY)
        os.rmdir(disks)
        equal(os.listdir(disks), ["vda.raw"])
        equal(len(mount.read("web1", "snapshots", "one", "disks", "vda.raw")), 8 * make.MIB)
        os.close(here)


def test_open_snapshot():
    """A snapshot with an open disk is busy at the first unlink already; a moment after closing it is not"""
    with Held() as mount:
        one = mount.path("web1", "snapshots", "one")
        with open(mount.frozen("web1", "one"), "rb"):
            fails_with(errno.EBUSY, os.unlink, one + "/created")
            fails_with(errno.EBUSY, os.unlink, one + "/disks/vda.raw")
            fails_with(errno.EBUSY, os.rmdir, one + "/disks")
            fails_with(errno.EBUSY, os.rmdir, one)
            assert "open" in first_error(mount)
            os.unlink(mount.path("web1", "snapshots", "two", "created"))
        for _ in range(100):
            with open(mount.frozen("web1", "one"), "rb") as file:
                file.read(4096)
            os.unlink(one + "/created")
        fails_with(errno.EOPNOTSUPP, os.rmdir, one)


def test_protected_snapshot():
    """A protected snapshot says so at the first unlink, and with the way out"""

    def frozen_by_others(source):
        make.overlay(make.image(source, "web1.qcow2"), "web1.snap1")

    with Mounted(frozen_by_others) as mount:
        (name,) = mount.snapshots("web1")
        path = mount.path("web1", "snapshots", name)
        equal(mount.text("web1", "snapshots", name, "protected"), "1\n")
        for function, victim in ((os.unlink, "created"), (os.unlink, "disks/vda.raw"), (os.rmdir, "disks"), (os.rmdir, "")):
            fails_with(errno.EPERM, function, os.path.join(path, victim))
            assert "write 0 to snapshots/" in first_error(mount)


def test_mv():
    """Onto an existing name, out of snapshots/ and in exchange: EPERM, never EXDEV; wrong names are told"""
    with Held() as mount:
        snapshots = mount.path("web1", "snapshots")
        one, two = snapshots + "/one", snapshots + "/two"
        mount.hold()
        fails_with(errno.EPERM, os.rename, one, two)
        for flag, code in ((1, errno.EEXIST), (2, errno.EPERM)):  # RENAME_NOREPLACE, RENAME_EXCHANGE
            equal(rename2(one, two, flag), code)
        fails_with(errno.EPERM, os.rename, one, mount.path("web1", "one"))
        fails_with(errno.EPERM, os.rename, one, mount.path("one"))
        fails_with(errno.EPERM, os.rename, one, mount.path("web1", "tree", "moved"))
        fails_with(errno.EPERM, os.rename, snapshots + "/.order", snapshots + "/order")
        fails_with(errno.EINVAL, os.rename, one, snapshots + "/.hidden")
        fails_with(errno.EINVAL, os.mkdir, snapshots + "/-x")
        equal(subprocess.run(["mv", one, mount.path("web1")], capture_output=True).returncode, 1)
        equal(mount.jobs(), [])
        mount.let_go()
        equal(rename2(one, snapshots + "/free", 1), errno.EOPNOTSUPP)


def rename2(old, new, flags):
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    if libc.renameat2(-100, os.fsencode(old), -100, os.fsencode(new), flags) == 0:
        return 0
    return ctypes.get_errno()


def test_events():
    """events grows, line by line, for tail -f and for poll, and each line has a time"""
    with Held() as mount:
        path = mount.path("web1", "events")
        equal(mount.text("web1", "events"), "")
        fd = os.open(path, os.O_RDONLY)
        poller = select.poll()
        poller.register(fd, select.POLLIN)
        equal(poller.poll(0), [])
        tail = subprocess.Popen(["tail", "-n", "+1", "-f", path], stdout=subprocess.PIPE, text=True)
        found = []
        waker = threading.Thread(target=lambda: found.append(poller.poll()))
        waker.start()
        fails_with(errno.EOPNOTSUPP, os.mkdir, mount.path("web1", "snapshots", "new"))
        waker.join()
        equal(found, [[(fd, select.POLLIN)]])
        text = b""
        while not text.endswith(b"\n"):
            text += os.read(fd, 4096)
        equal(poller.poll(0), [])
        line = tail.stdout.readline()
        equal(line, text.decode())
        assert line[4] == "-" and line[19:21] == "Z " and line[21:] == f"failed: mkdir snapshots/new: {FAKE}\n", line
        fails_with(errno.EPERM, os.mkdir, mount.path("web1", "new"))  # what never came to the administration, too
        assert tail.stdout.readline().endswith("(EPERM)\n")
        os.read(fd, 4096)
        os.pread(fd, 4096, len(line))
        write_to(mount.path("web1", "snapshots", "one", "protected"), b"1\n")
        assert tail.stdout.readline().endswith('done: write "1" to snapshots/one/protected: it is as it was\n')
        equal(poller.poll(), [(fd, select.POLLIN)])
        equal(os.stat(path).st_size, len(mount.text("web1", "events")))
        tail.kill()
        tail.wait()
        tail.stdout.close()
        os.close(fd)
        with open(mount.path("web1", "state"), "rb") as file:  # every other file is always ready
            equal(select.select([file], [file], [], 0)[:2], ([file], [file]))


if __name__ == "__main__":
    checks.main(globals())
