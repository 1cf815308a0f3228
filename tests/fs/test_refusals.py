# SPDX-License-Identifier: LGPL-2.1-or-later
"""What would change something is refused, with the errno of the contract and a text in last_error, and changes nothing."""

import errno
import json
import os
import shutil
import stat
import subprocess

import administer
import checks
import make
from administer import command_refused
from checks import equal, fails_with, need
from mounted import Mounted, wait_for
from running import Running
from test_power import QEMU

NOT_YET = errno.EOPNOTSUPP  # administration that is not in this version
NEVER = errno.EPERM
READ_ONLY = errno.EROFS


def one_domain(source):
    path = make.image(source, "web1.qcow2")
    make.write(path, "1 0 64k")
    make.snapshot(path, "one")
    make.snapshot(path, "two")


def write_to(path, text, flags=os.O_WRONLY):
    fd = os.open(path, flags)
    try:
        os.write(fd, text)
    finally:
        os.close(fd)


def attempts(mount):
    """(errno in a writable mount, what last_error says of, function, arguments) of everything that one may try."""
    snapshots = mount.path("web1", "snapshots")
    one, two = os.path.join(snapshots, "one"), os.path.join(snapshots, "two")
    disk = mount.frozen("web1", "one")
    yield NEVER, "rename", os.rename, one, two
    yield NEVER, "rename", os.rename, one, mount.path("web1", "one")
    yield NEVER, None, os.rename, mount.path("web1"), mount.path("web2")
    yield NEVER, "rename", os.rename, disk, one + "/disks/other.raw"
    yield NEVER, "rmdir", os.rmdir, mount.path("web1", "tree", "one")
    yield NEVER, "rmdir", os.rmdir, snapshots
    yield NEVER, None, os.rmdir, mount.path("web1")
    yield NEVER, None, os.rmdir, mount.path(".vmsnapfs")
    yield NEVER, "unlink state", os.unlink, mount.path("web1", "state")
    yield NEVER, "unlink latest", os.unlink, mount.path("web1", "latest")
    yield NEVER, "unlink .order", os.unlink, snapshots + "/.order"
    yield NEVER, None, os.mkdir, mount.path("web2")
    yield NEVER, "mkdir", os.mkdir, one + "/disks/new"
    yield NEVER, "create", os.open, mount.path("web1", "new"), os.O_CREAT | os.O_WRONLY
    yield NEVER, "mknod", os.mkfifo, mount.path("web1", "fifo")
    yield NEVER, "symlink", os.symlink, "target", snapshots + "/link"
    yield NEVER, "link", os.link, disk, mount.path("web1", "hard")
    for name, wanted in (("state", NEVER), ("power", NEVER), ("snapshots/one", NEVER)):
        yield wanted, None, os.chmod, mount.path("web1", name), 0o777
        yield wanted, None, os.utime, mount.path("web1", name), (1, 1)
        yield wanted, None, os.chown, mount.path("web1", name), 12, 12
    yield (NEVER, READ_ONLY), None, os.chmod, disk, 0o777
    yield (NEVER, READ_ONLY), None, os.truncate, disk, 0
    yield (NEVER, READ_ONLY, errno.EACCES), None, os.open, disk, os.O_WRONLY
    yield (NEVER, READ_ONLY, errno.EACCES), None, os.open, disk, os.O_RDWR
    yield (NEVER, READ_ONLY, errno.EACCES), None, os.open, mount.path("web1", "state"), os.O_WRONLY
    for flags in (os.O_WRONLY, os.O_WRONLY | os.O_TRUNC):
        yield NOT_YET, "power", write_to, mount.path("web1", "power"), b"start\n", flags
        for control, text in (("create", b"new disk-onli\n"), ("create", b"<domain/>\n"), ("create", b"nam = 1\nend\n"), ("defaults", b"name\n"), ("snapshots/one/revert", b"2\n"), ("snapshots/one/delete", b"all\n"),
                              ("snapshots/one/clone", b".copy\n"), ("snapshots/one/description", b"\x01\n"), ("snapshots/one/protected", b"2\n")):  # fmt: skip
            yield (errno.EINVAL, READ_ONLY), os.path.basename(control), write_to, mount.path("web1", control), text, flags


def in_child(function, arguments):
    """Tries it in a process of its own (what one process was refused again and again is one line): (its id, errno)."""
    pid = os.fork()
    if pid == 0:
        code = 0
        try:
            function(*arguments)
        except OSError as error:
            code = error.errno
        os._exit(code)
    return pid, os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def everything(directory):
    """Names and lengths of all that the tree holds, but for what tells of the attempts themselves."""
    found = {}
    for where, directories, files in os.walk(directory):
        for name in directories + files:
            if name not in ("last_error", "events", "log", "stats") and "jobs" not in where:
                status = os.lstat(os.path.join(where, name))
                control = stat.S_IMODE(status.st_mode) == 0o600  # tells its last result, too
                found[os.path.join(where, name)] = 0 if control else status.st_size, status.st_mode, status.st_ino
    return found


def test_every_attempt():
    """Each has its errno, last_error says why, and the tree and the images are as they were"""
    with Mounted(one_domain) as mount:
        with open(os.path.join(mount.source, "web1.qcow2"), "rb") as file:
            image = file.read()
        before = everything(mount.mountpoint)
        count = 0
        for wanted, verb, function, *arguments in attempts(mount):
            pid, code = in_child(function, arguments)
            assert code in (wanted if isinstance(wanted, tuple) else (wanted,)), f"{function.__name__}{arguments}: errno {code}, not {wanted}"
            count += 1
            if verb:
                first = mount.text("web1", "last_error").splitlines()[0]
                assert f"pid {pid}: " in first and verb in first, f"last_error of {function.__name__}{arguments} by {pid}: {first}"
                assert administer.errno_name(code) in first, first
        equal(everything(mount.mountpoint), before)
        with open(os.path.join(mount.source, "web1.qcow2"), "rb") as file:
            assert file.read() == image, "the image changed"
        assert len(mount.text("web1", "last_error").splitlines()) <= 20, "last_error keeps more than 20"
        print(f"    {count} attempts")


def test_read_only():
    """With ro every one of them is EROFS, whoever asks"""
    with Mounted(one_domain, options="ro") as mount:
        for _, _, function, *arguments in attempts(mount):
            _, code = in_child(function, arguments)
            assert code in (READ_ONLY, errno.EACCES), f"{function.__name__}{arguments}: errno {code}"


def test_illegal_names():
    """Names that no snapshot can have are EINVAL, and last_error says what is wrong with them"""
    with Mounted(one_domain) as mount:
        for name, word in ((".dot", "dot"), ("-hyphen", "hyphen"), ("tab\there", "control"), (b"\xff\xfe", "UTF-8")):
            path = os.fsencode(mount.path("web1", "snapshots")) + b"/" + (name if isinstance(name, bytes) else name.encode())
            fails_with(errno.EINVAL, os.mkdir, path)
            with open(mount.path("web1", "last_error"), "rb") as file:
                assert word.encode() in file.readline(), f"{name!r}: {word} is not in last_error"
        fails_with(errno.ENAMETOOLONG, os.mkdir, mount.path("web1", "snapshots", "n" * 256))
        fails_with(errno.EEXIST, os.mkdir, mount.path("web1", "snapshots", "one"))


def test_rm_harms_nothing():
    """rm -rf of snapshots/, a domain and the mount leaves all as it was; mv never copies"""
    with Mounted(one_domain) as mount:
        before = everything(mount.mountpoint)
        for path in ("web1/snapshots", "web1/tree", "web1", "."):
            result = subprocess.run(["rm", "-rf", os.path.join(mount.mountpoint, path, "")], capture_output=True, text=True)
            assert result.returncode != 0, f"rm -rf {path} says that it succeeded"
            equal(everything(mount.mountpoint), before)
        target = os.path.join(mount.room, "moved")
        for command in (["mv", mount.path("web1", "snapshots", "one"), mount.path("web1")], ["mv", mount.path("web1"), mount.path("web2")]):
            assert subprocess.run(command, capture_output=True).returncode != 0
            assert not os.path.exists(target)
        equal(everything(mount.mountpoint), before)


def test_usage_of_control_files():
    """A control file tells its usage; what a shell's redirection does reaches it"""
    with Mounted(one_domain) as mount:
        for name, word in (("create", "disk="), ("power", "Refused"), ("snapshots/one/revert", "guard"), ("snapshots/one/delete", "merge"), ("snapshots/one/clone", "full")):
            assert word in mount.text("web1", name), name
        result = subprocess.run(["sh", "-c", f"echo 2 >'{mount.path('web1', 'snapshots', 'one', 'revert')}'"], capture_output=True, text=True)
        assert result.returncode != 0 and result.stderr, "a shell's redirection is not told of the refusal"
        fd = os.open(mount.path("web1", "power"), os.O_RDWR)
        try:
            fails_with(NOT_YET, os.write, fd, b"start\n")
            text = os.pread(fd, 4096, 0).decode()
            assert "neither launch nor qmp" in text, f"reading the same open file gives {text!r}"
        finally:
            os.close(fd)


def test_empty_writes():
    """Opening a control file with O_TRUNC and closing it again does nothing"""
    with Mounted(one_domain) as mount:
        os.close(os.open(mount.path("web1", "create"), os.O_WRONLY | os.O_TRUNC))
        equal(mount.text("web1", "last_error"), "")


def test_other_users():
    """Another user sees names but reads no disk, and another group reads disks where the mode says so"""
    checks.need_root()
    checks.need("setpriv")
    with Mounted(one_domain, options="allow_other,gid=34,disk-mode=0440") as mount:
        disk = mount.frozen("web1", "one")
        as_user = ["setpriv", "--reuid=12345", "--regid=12345", "--clear-groups"]
        in_group = ["setpriv", "--reuid=12345", "--regid=34", "--clear-groups"]
        equal(subprocess.run([*as_user, "stat", disk], capture_output=True).returncode, 0)
        assert subprocess.run([*as_user, "cat", disk], capture_output=True).returncode != 0, "anyone can read a disk"
        equal(len(subprocess.run([*in_group, "cat", disk], capture_output=True).stdout), 8 * make.MIB)
        result = subprocess.run([*in_group, "sh", "-c", f"echo start >'{mount.path('web1', 'power')}'"], capture_output=True, text=True)
        assert "ermission denied" in result.stderr, result.stderr


def ways_into_the_store(mount, room):
    """Paths of new files that would lie in the store, however they are spelled."""
    store = os.path.join(mount.source, ".vmsnapfs")
    os.makedirs(os.path.join(store, "made"))
    for link, target in (("link", store), ("deeper", os.path.join(store, "domains"))):
        os.symlink(target, os.path.join(mount.source, link))
    yield from (store + "/x", store + "/domains/77.json", store + "/journal/x", store + "/made/x", mount.source + "/link/x")
    yield from (mount.source + "/link/domains/../domains/x", mount.source + "/deeper/x", os.path.join(mount.elsewhere, os.path.relpath(store, mount.elsewhere), "x"))
    for number, of in enumerate(("", "/domains", "/journal")):
        where = os.path.join(room, f"bound{number}")
        os.mkdir(where)
        if subprocess.run(["mount", "--bind", store + of, where], check=False, capture_output=True).returncode == 0:
            yield where + "/x"
            subprocess.run(["umount", where], check=True)
        os.rmdir(where)


def test_no_file_is_put_into_the_store():
    """Overlays, copies, mirrors and memory that would lie in the store, or be taken for a definition, are refused"""
    need(QEMU)
    with Running() as mount:
        mount.start()
        seen = []
        for path in ways_into_the_store(mount, mount.elsewhere):
            before = set(everything(mount.source))
            for control, words in (("create", f"s disk-only disk=vda:external:{path}"),
                                   ("create", f"s disk-only disk=vda:external:{path} reuse-external"),
                                   ("create", f"s disk-only disk=vda:external mirror=vda:{path}"),
                                   ("create", f"s memory=external memory-file={path}"),
                                   ("disks/vda/copy", path)):  # fmt: skip
                command_refused(errno.EPERM, mount, "web1", control, words, words=[".vmsnapfs"])
            equal(set(everything(mount.source)), before, path)
            seen.append(path)
        assert len(seen) >= 8, seen
        for name in ("x.json", "x.xml", "x.vmx", "x.cfg", ".vmsnapfs-1-0", ".x"):
            path = os.path.join(mount.source, name)
            for control, words in (("create", f"s disk-only disk=vda:external:{path}"),
                                   ("create", f"s disk-only disk=vda:external mirror=vda:{path}"),
                                   ("create", f"s memory=external memory-file={path}"),
                                   ("disks/vda/copy", path)):  # fmt: skip
                command_refused(errno.EINVAL, mount, "web1", control, words, words=[name])
            assert not os.path.exists(path)
        equal(mount.snapshots("web1"), [])
        mount.take("one disk-only disk=vda:external")
        mount.check()


def test_no_disk_is_taken_from_the_store():
    """An image that lies in the store is no disk: it would be written over"""
    with Mounted(prepare=one_domain, expected=[r"other", r"\.vmsnapfs"]) as mount:
        inside = os.path.join(mount.source, ".vmsnapfs", "domains", "77.qcow2")
        shutil.copy(os.path.join(mount.source, "web1.qcow2"), inside)
        with open(os.path.join(mount.source, "other.json"), "w", encoding="utf-8") as file:
            json.dump({"name": "other", "disks": [{"target": "vda", "source": inside, "format": "qcow2"}]}, file)
        wait_for(lambda: os.path.isdir(mount.path("other")), "the domain")
        fails_with(errno.EIO, os.mkdir, mount.path("other", "snapshots", "new"))
        assert ".vmsnapfs" in mount.text("other", "last_error")


if __name__ == "__main__":
    checks.main(globals())
