# SPDX-License-Identifier: LGPL-2.1-or-later
"""The command vmsnap, verb by verb: what it does to a mount, what it says, and its status."""

import json
import os
import pty
import re
import signal
import subprocess

import administer
import checks
import domains
import make
from checks import equal
from domains import byte, create, frozen_byte, take, write
from mounted import Mounted, wait_for

HERE = os.path.dirname(os.path.abspath(__file__))
VMSNAP = os.environ.get("VMSNAP", os.path.join(HERE, "..", "..", "scripts", "vmsnap"))
COMPLETION = os.path.join(HERE, "..", "..", "scripts", "completions", "vmsnap")


def vmsnap(mount, *words, status=0, **options):
    """Runs it on the mount; returns what it printed, and what it complained about."""
    result = subprocess.run([VMSNAP, "-m", mount.mountpoint, *words], capture_output=True, text=True, stdin=subprocess.DEVNULL, **options)
    equal(result.returncode, status, f"vmsnap {' '.join(words)}: {result.stdout}{result.stderr}")
    return result.stdout, result.stderr


def foreign(source):
    """A domain with a snapshot inside an image, and one as an overlay that others made."""
    domains.web1(source, formats=("qcow2", "raw"))
    image = os.path.join(source, "web1.qcow2")
    make.snapshot(image, "inner")
    make.write(image, "2 64k 64k")
    make.write(make.overlay(image, "web1.snap1"), "3 0 64k")
    make.definition(source, "web1", disks=[make.disk("web1.snap1"), make.disk("web1-b.img", "vdb", "raw")], follows=True)


def test_usage():
    """Wrong usage is status 2; --help of every verb has examples"""
    with Mounted(foreign) as mount:
        for words in ((), ("frobnicate",), ("list", "--wrong"), ("revert", "web1"), ("delete", "web1"), ("backup", "web1"), ("backup", "web1", "a", "b", "c"), ("restore", "web1", "vda"), ("power", "web1"), ("power", "web1", "explode")):
            vmsnap(mount, *words, status=2)
        for verb in "list tree create revert delete clone power backup restore jobs check release".split():
            said, _ = vmsnap(mount, verb, "--help")
            assert f"vmsnap {verb}" in said and "Examples:" in said, said


def other_mounts():
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        return sum(" - fuse.vmsnapfs " in line for line in file) - 1


def test_finding_the_mount():
    """The only mount is found; what is none is refused"""
    with Mounted(foreign) as mount:
        result = subprocess.run([VMSNAP, "-m", mount.room, "list"], capture_output=True, text=True)
        assert result.returncode == 1 and mount.mountpoint in result.stderr, result
        others = None
        while others is None or others != other_mounts():  # those of tests beside this one come and go
            others = other_mounts()
            result = subprocess.run([VMSNAP, "list"], capture_output=True, text=True)
        equal((result.returncode, "several" in result.stderr), (1, True) if others else (0, False))


def test_list_and_tree():
    """list and tree tell what the tree holds; --json is the documents of the tree"""
    with Mounted(foreign) as mount:
        assert "web1" in vmsnap(mount, "list")[0] and "shutoff" in vmsnap(mount, "list")[0]
        said, _ = vmsnap(mount, "list", "web1")
        equal([line.split()[0] for line in said.splitlines()], ["SNAPSHOT", "inner", "snap1"])
        documents = json.loads(vmsnap(mount, "list", "web1", "--json")[0])
        equal(documents, [json.loads(mount.text("web1", "snapshots", name, "snapshot.json")) for name in ("inner", "snap1")])
        (domain,) = json.loads(vmsnap(mount, "list", "--json")[0])
        equal((domain["name"], domain["state"], domain["snapshots"]), ("web1", "shutoff", ["inner", "snap1"]))
        equal(vmsnap(mount, "tree", "web1")[0], mount.text("web1", "tree.txt"))
        assert "none" in vmsnap(mount, "list", "nothing", status=1)[1] or "no domain" in vmsnap(mount, "list", "nothing", status=1)[1]
        vmsnap(mount, "list", "../web1", status=1)


def test_backup():
    """A backup holds the bytes and the holes, and both documents; it is there as a whole or not at all"""
    with Mounted(foreign) as mount:
        target = os.path.join(mount.room, "backup")
        said, _ = vmsnap(mount, "backup", "web1", "inner", target)
        equal(sorted(os.listdir(target)), ["domain.json", "snapshot.json", "vda.raw"])
        with open(os.path.join(target, "vda.raw"), "rb") as file:
            equal(file.read(), administer.frozen_bytes(mount, "web1", "inner"))
        assert os.stat(os.path.join(target, "vda.raw")).st_blocks * 512 <= 128 * 1024, "the holes were filled"
        equal(oct(os.stat(os.path.join(target, "vda.raw")).st_mode & 0o777), "0o600")
        with open(os.path.join(target, "snapshot.json"), encoding="utf-8") as file:
            equal(file.read(), mount.text("web1", "snapshots", "inner", "snapshot.json"))
        assert "vdb" in said, "what was left out is not told"
        assert "already" in vmsnap(mount, "backup", "web1", "inner", target, status=1)[1]
        vmsnap(mount, "backup", "web1", "nothing", target + "2", status=1)
        vmsnap(mount, "backup", "web1", "inner", os.path.join(mount.room, "nowhere", "x"), status=1)
        os.mkdir(target + "3")
        vmsnap(mount, "backup", "web1", "snap1", target + "3")
        equal(sorted(name for name in os.listdir(mount.room) if "backup" in name), ["backup", "backup3"], "something unfinished is left")


def test_backup_that_fails():
    """Where there is no room nothing of it stays"""
    with Mounted(foreign) as mount, domains.small_file_system(8) as directory:
        domains.fill(directory, leave=100000)
        vmsnap(mount, "backup", "web1", "snap1", os.path.join(directory, "backup"), status=1)
        equal(sorted(os.listdir(directory)), [".filler"])


def test_check():
    """Nothing wrong is 0; each kind of damage is told, and is 1"""
    with Mounted(foreign) as mount:
        said, _ = vmsnap(mount, "check")
        assert "ok     web1" in said and "WRONG" not in said, said
    with Mounted(foreign, expected=[r".*"]) as mount:
        with open(os.path.join(mount.source, "web1.qcow2"), "r+b") as file:
            file.seek(0x30000)  # an L2 table, or what a table names
            file.write(b"\xff" * 65536)
        assert "WRONG" in vmsnap(mount, "check", "web1", status=1)[0]
    with Mounted(foreign, expected=[r".*"]) as mount:
        os.rename(os.path.join(mount.source, "web1.qcow2"), os.path.join(mount.source, "away.img"))
        wait_for(lambda: '"problem": null' not in mount.text("web1", "domain.json"), "the loss to be noticed")
        assert "WRONG" in vmsnap(mount, "check", status=1)[0]


def test_create_and_delete():
    """create as defaults say, with a name made up, with options; delete in its kinds"""
    with Mounted(lambda source: domains.web1(source, formats=("qcow2", "raw"))) as mount:
        equal(vmsnap(mount, "create", "web1", "one")[0], "one\n")
        made_up = vmsnap(mount, "create", "web1")[0].strip()
        assert made_up in mount.snapshots("web1"), made_up
        equal(vmsnap(mount, "create", "web1", "two words", "-d", 'say "hi"\nback\\slash')[0], "two words\n")
        equal(mount.text("web1", "snapshots", "two words", "description"), 'say "hi"\nback\\slash\n')
        vmsnap(mount, "create", "web1", "part", "disk=vda:external", "disk=vdb:no")
        equal(domains.kinds(mount, "part"), {"vda": "external"})
        assert "already" in vmsnap(mount, "create", "web1", "one", status=1)[1]
        for words, reason in ((("x", "memory=external"), "memory"), (("x", "surprise"), "surprise")):
            _, complaint = vmsnap(mount, "create", "web1", *words, status=1)
            assert reason in complaint and len(complaint) > 40, f"not the whole reason: {complaint}"
        vmsnap(mount, "delete", "web1", "part", "two words")
        vmsnap(mount, "delete", "web1", made_up, "--merge")
        vmsnap(mount, "delete", "web1", "one", "--discard", status=1)
        vmsnap(mount, "delete", "web1", "one", "--children")
        equal(mount.snapshots("web1"), [])
        equal(vmsnap(mount, "jobs")[1], "")


def test_create_from_documents():
    """X3: create -f takes what a document asks for; key=value is added to xl configuration, and to nothing else"""
    with Mounted(lambda source: domains.web1(source, formats=("qcow2", "raw"))) as mount:
        path = os.path.join(mount.room, "document")

        def create_from(text, *words, status=0):
            with open(path, "w", encoding="utf-8") as file:
                file.write(text)
            return vmsnap(mount, "create", "web1", *words, "-f", path, status=status)

        lines = "description = 'of the file'\ndisks = [',,vda', # inside\n ]\n end # here\n"
        equal(create_from(lines, "name=it's \"one\"")[0], "it's \"one\"\n")
        equal(domains.kinds(mount, "it's \"one\""), {"vda": "internal", "vdb": "external"})
        equal(create_from("name = 'x'\n" + lines, "two words", "disks=[',qcow2,vda']", "live=1", "-d", "mine\\")[0], "two words\n")
        equal(domains.kinds(mount, "two words")["vda"], "external")
        equal(mount.text("web1", "snapshots", "two words", "description"), "mine\\\n")
        equal(create_from("\ufeff<domainsnapshot><name>three</name></domainsnapshot>\n")[0], "three\n")
        equal(create_from('{"name": "four"}')[0], "four\n")
        for text, words, reason in (
            ("<domainsnapshot/>", ["name=x"], "only to xl"),
            ("<domainsnapshot><nam/></domainsnapshot>", [], "<nam> is not known"),
            (lines, ["x", "live"], "KEY=VALUE"),
            (lines, ["surprise=1"], "surprise is not known"),
            ("disks = [", [], "ends before"),
            ("<domainsnapshot>", [], "ends before"),
        ):
            _, complaint = create_from(text, *words, status=1)
            assert reason in complaint, f"{text} {words}: {complaint}"
        os.unlink(path)
        assert path in vmsnap(mount, "create", "web1", "-f", path, status=1)[1]
        equal(sorted(mount.snapshots("web1")), sorted(["it's \"one\"", "two words", "three", "four"]))


def test_power():
    """power starts a domain, pauses it and ends it; what makes no sense is refused with the reason"""
    checks.need("qemu-system-x86_64")
    launch = ["qemu-system-x86_64", "-accel", "tcg", "-nodefaults", "-no-user-config", "-display", "none", "-M", "pc", "-m", "16", "-device", "virtio-blk-pci,drive=vda"]
    with Mounted(lambda source: domains.web1(source, launch=launch)) as mount:
        vmsnap(mount, "power", "web1", "start")
        try:
            vmsnap(mount, "power", "web1", "pause")
            equal(mount.text("web1", "state"), "paused\n")
            vmsnap(mount, "create", "web1", "while-paused", "disk-only")
            assert "paused" in vmsnap(mount, "power", "web1", "start", status=1)[1]
        finally:
            vmsnap(mount, "power", "web1", "destroy")
        equal(mount.text("web1", "state"), "shutoff\n")
        vmsnap(mount, "power", "web1", "destroy", status=1)


def test_revert_and_clone():
    """revert with and without guard; clone"""
    with Mounted(domains.web1) as mount:
        create(mount, "one disk=vda:external")
        write(mount, 2)
        vmsnap(mount, "revert", "web1", "one", "shutoff", "--guard")
        equal(byte(mount), 1)
        (guard,) = set(mount.snapshots("web1")) - {"one"}
        vmsnap(mount, "revert", "web1", guard)
        equal(byte(mount), 2)
        vmsnap(mount, "revert", "web1", "nothing", status=1)
        vmsnap(mount, "clone", "web1", "one", "web2")
        vmsnap(mount, "clone", "web1", "one", "web3", "--full")
        equal((byte(mount, "web2"), byte(mount, "web3")), (1, 1))
        vmsnap(mount, "clone", "web1", "one", "web3", status=1)


def test_backup_without_a_name():
    """It takes a snapshot for it and deletes it, also when the copy fails"""
    with Mounted(domains.web1) as mount:
        target = os.path.join(mount.room, "backup")
        vmsnap(mount, "backup", "web1", target)
        with open(os.path.join(target, "vda.raw"), "rb") as file:
            equal(file.read(), administer.active_bytes(mount, "web1"))
        equal(mount.snapshots("web1"), [])
        with domains.small_file_system(8) as directory:
            domains.fill(directory, leave=20000)
            vmsnap(mount, "backup", "web1", os.path.join(directory, "backup"), status=1)
        equal(mount.snapshots("web1"), [])


def test_restore():
    """A disk comes back from a backup and from a snapshot; the present is kept first"""
    with Mounted(lambda source: domains.web1(source, formats=("qcow2", "raw"))) as mount:
        take(mount, "one")
        target = os.path.join(mount.room, "backup")
        vmsnap(mount, "backup", "web1", "one", target)
        for disk in ("vda", "vdb"):
            wanted = administer.frozen_bytes(mount, "web1", "one", disk)
            write(mount, 55, target=disk)
            before = set(mount.snapshots("web1"))
            vmsnap(mount, "restore", "web1", disk, os.path.join(target, disk + ".raw"))
            assert administer.active_bytes(mount, "web1", disk) == wanted, disk
            (guard,) = set(mount.snapshots("web1")) - before
            equal(frozen_byte(mount, guard, target=disk), 55)
            write(mount, 56, target=disk)
            vmsnap(mount, "restore", "web1", disk, "--snapshot", "one", "--no-guard")
            assert administer.active_bytes(mount, "web1", disk) == wanted, disk
            equal(set(mount.snapshots("web1")), before | {guard})
        short = make.filled(os.path.join(mount.room, "short"), make.MIB)
        assert "bytes" in vmsnap(mount, "restore", "web1", "vda", short, status=1)[1]
        vmsnap(mount, "restore", "web1", "vdz", short, status=1)
        with domains.Holder(mount, *administer.source(mount, "web1")):
            wait_for(lambda: mount.text("web1", "state") == "running\n", "the state")
            assert "running" in vmsnap(mount, "restore", "web1", "vda", os.path.join(target, "vda.raw"), status=1)[1]


def test_release():
    """All snapshots go, protected ones are told first, and the domain is on its files when it returns"""
    with Mounted(lambda source: domains.web1(source, formats=("qcow2", "raw"))) as mount:
        for number in range(4):
            write(mount, 10 + number)
            create(mount, f"s{number} disk=vda:{'external' if number % 2 else 'internal'}")
            if number == 2:
                administer.command_of(mount, "web1", "s0", "revert", "1")
        write(mount, 42)
        assert "--yes" in vmsnap(mount, "release", "web1", status=1)[1]
        administer.command_of(mount, "web1", "s1", "protected", "1")
        assert "s1" in vmsnap(mount, "release", "web1", "--yes", status=1)[1]
        equal(len(mount.snapshots("web1")), 4)
        administer.command_of(mount, "web1", "s1", "protected", "0")
        vmsnap(mount, "release", "web1", "--yes")
        equal(mount.snapshots("web1"), [])
        equal(administer.names_beside(mount), ["web1-b.img", "web1.json", "web1.qcow2"])
        equal(byte(mount), 42)


def test_release_that_has_to_wait():
    """It says what it waits for, on a terminal and elsewhere; Ctrl-C ends the waiting alone, and it ends by itself when it can"""
    checks.need("qemu-nbd")
    with Mounted(domains.web1) as mount:
        write(mount, 7)
        create(mount, "one disk=vda:external")
        write(mount, 42)
        command = [VMSNAP, "-m", mount.mountpoint, "release", "web1", "--yes"]

        def waiting(stream):
            """What it says until a whole line has told what it waits for."""
            said = b""
            while not re.search(rb"(^|[\r\n])vmsnap: merging [^\r\n]*: waiting: [^\r\n]*qemu-nbd[^\r\n]*\r?\n", said):
                chunk = os.read(stream, 4096)
                assert chunk, said
                said += chunk
            return said

        with domains.Holder(mount, *administer.source(mount, "web1")):
            ours, theirs = pty.openpty()
            process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=theirs)
            os.close(theirs)
            waiting(ours)
            process.send_signal(signal.SIGINT)
            equal(process.wait(), -signal.SIGINT)
            os.close(ours)

            process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
            waiting(process.stderr.fileno())
            process.send_signal(signal.SIGINT)
            rest = process.stderr.read().decode()
            equal(process.wait(), -signal.SIGINT)
            process.stderr.close()
            assert "by itself" in rest and rest.endswith("vmsnap: interrupted\n"), rest

            process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
            waiting(process.stderr.fileno())
        process.stderr.read()
        process.stderr.close()
        equal(process.wait(), 0)
        equal(administer.names_beside(mount), ["web1.json", "web1.qcow2"])
        equal(byte(mount), 42)


def test_progress():
    """On a terminal a long copy shows a bar"""

    def prepare(source):
        make.overlay(make.filled(os.path.join(source, "big.img"), 600 * make.MIB), "web1.one", backing_format="raw")
        make.definition(source, "web1", disks=[make.disk("web1.one")])

    with Mounted(prepare) as mount:
        ours, theirs = pty.openpty()
        process = subprocess.Popen([VMSNAP, "-m", mount.mountpoint, "backup", "web1", "one", os.path.join(mount.room, "backup")], stdout=subprocess.DEVNULL, stderr=theirs)
        os.close(theirs)
        drawn = b""
        while True:
            try:
                chunk = os.read(ours, 4096)
            except OSError:
                break
            if not chunk:
                break
            drawn += chunk
        os.close(ours)
        equal(process.wait(), 0)
        assert b"[#" in drawn and b"%" in drawn, drawn[-200:]


def test_completion():
    """The shell completes verbs, options and names"""
    checks.need("bash")
    script = 'PATH=$1:$PATH; . "$2"; mount=$3; shift 3; COMP_WORDS=(vmsnap -m "$mount" "$@"); COMP_CWORD=$(($# + 2)); _vmsnap 2>/dev/null; printf "%s\\n" "${COMPREPLY[@]}"'
    with Mounted(foreign) as mount:
        for words, wanted in (
            (["rel"], ["release"]),
            (["revert", "w"], ["web1"]),
            (["revert", "web1", ""], ["inner", "snap1"]),
            (["delete", "web1", "inner", "s"], ["snap1"]),
            (["power", "web1", "re"], ["resume", "reset"]),
            (["delete", "web1", "--dis"], ["--discard", "--discard-force"]),
            (["restore", "web1", ""], ["vda", "vdb"]),
            (["restore", "web1", "vda", "--snapshot", "i"], ["inner"]),
        ):
            said = subprocess.run(["bash", "-c", script, "bash", os.path.dirname(VMSNAP), COMPLETION, mount.mountpoint, *words], capture_output=True, text=True)
            equal(said.stdout.split(), wanted, str(words))
            mount.wait_for_orphans()


if __name__ == "__main__":
    checks.main(globals())
