# SPDX-License-Identifier: LGPL-2.1-or-later
"""Deleting snapshots of domains that are not running, in every way, and what becomes of their files."""

import errno
import itertools
import os
import shutil
import subprocess
import time

import administer
import checks
import domains
import make
from administer import command_of, command_refused, refused, snapshot_path
from checks import equal
from domains import Unchanged, byte, create, current, frozen_byte, parents, write
from mounted import Mounted, wait_for

KINDS = ("internal", "external")


def tree(mount, kind):
    """a - b - c, b - d and a - e: each has its own byte at 0 and all have the one before; the present is 100 on e."""
    for value, (name, after) in enumerate((("a", None), ("b", "a"), ("c", "b"), ("d", "b"), ("e", "a")), 1):
        if after and current(mount) != after:
            command_of(mount, "web1", after, "revert", "1")
        write(mount, value)
        write(mount, value, at=65536 * value)
        create(mount, f"{name} disk=vda:{kind}")
    write(mount, 100)
    equal(parents(mount), {"a": None, "b": "a", "c": "b", "d": "b", "e": "a"})


def states(mount):
    """{snapshot: its bytes}, and None: the present's."""
    found = {name: administer.frozen_bytes(mount, "web1", name) for name in mount.snapshots("web1")}
    found[None] = administer.active_bytes(mount, "web1")
    return found


class Tree:
    """The tree above in a new mount; `same(names)`: these, and the present, are as they were, also when all is merged."""

    def __init__(self, kind):
        self.mount = Mounted(domains.web1)
        self.kind = kind

    def __enter__(self):
        self.mount.__enter__()
        tree(self.mount, self.kind)
        self.before = states(self.mount)
        return self

    def __exit__(self, *failure):
        self.mount.__exit__(*failure)

    def delete(self, name, words):
        command_of(self.mount, "web1", name, "delete", words)

    def refused(self, code, name, words):
        with Unchanged(self.mount):
            command_refused(code, self.mount, "web1", f"snapshots/{name}/delete", words)

    def is_now(self, wanted_parents, wanted_current, changed=None):
        """`changed`: {snapshot or None: the one whose state it took over}."""
        wanted = {name: self.before[(changed or {}).get(name, name)] for name in [*wanted_parents, None]}
        for moment in ("at once", "when all is merged"):
            equal(parents(self.mount), wanted_parents, f"{self.kind}, {moment}")
            equal(current(self.mount), wanted_current, f"{self.kind}, {moment}")
            for name, data in states(self.mount).items():
                assert data == wanted[name], f"{self.kind}, {moment}: {name or 'the present'} has another content"
            administer.wait_idle(self.mount)
        for path in administer.images(self.mount.source):
            administer.check_image(path)


def test_one():
    """`1`, nothing and rmdir: the snapshot goes, its children become its parent's, every other state stays"""
    for kind in KINDS:
        for way in ("1", "", None):
            with Tree(kind) as it:
                if way is None:
                    os.rmdir(snapshot_path(it.mount, "web1", "b"))
                else:
                    it.delete("b", way)
                it.is_now({"a": None, "c": "a", "d": "a", "e": "a"}, "e")
        with Tree(kind) as it:
            it.delete("e", "1")
            it.is_now({"a": None, "b": "a", "c": "b", "d": "b"}, "a")
            it.delete("a", "1")
            it.is_now({"b": None, "c": "b", "d": "b"}, None)


def test_children():
    """`children`: it and all its descendants"""
    for kind in KINDS:
        with Tree(kind) as it:
            it.delete("b", "children")
            it.is_now({"a": None, "e": "a"}, "e")
            it.delete("a", "children")
            it.is_now({}, None)


def test_children_only():
    """`children-only`: the descendants go, and it stays"""
    for kind in KINDS:
        with Tree(kind) as it:
            it.delete("b", "children-only")
            it.is_now({"a": None, "b": "a", "e": "a"}, "e")
            it.delete("a", "children-only")
            it.is_now({"a": None}, "a")


def test_merge():
    """`merge`: the parent takes over its state, and it is gone; ENOTEMPTY if the parent has other children"""
    for kind in KINDS:
        with Tree(kind) as it:
            it.refused(errno.ENOTEMPTY, "b", "merge")
            it.refused(errno.ENOTEMPTY, "c", "merge")
            it.refused(errno.EINVAL, "a", "merge")
            it.delete("d", "discard")
            it.delete("c", "merge")
            it.is_now({"a": None, "b": "a", "e": "a"}, "e", {"b": "c"})
        with Tree(kind) as it:
            it.delete("b", "children")
            it.delete("e", "merge")
            it.is_now({"a": None}, "a", {"a": "e"})


def test_merge_into_current():
    """`merge` into a parent that is current: ENOTEMPTY; `merge-force` reverts to the merged state"""
    for kind in KINDS:
        with Tree(kind) as it:
            command_of(it.mount, "web1", "b", "revert", "1")
            it.delete("d", "1")
            write(it.mount, 101)
            it.refused(errno.ENOTEMPTY, "c", "merge")
            it.delete("c", "merge-force")
            it.is_now({"a": None, "b": "a", "e": "a"}, "b", {"b": "c", None: "c"})


def test_merge_force():
    """`merge-force`: the same, discarding the parent's other children; a domain that was there goes to the merged state"""
    for kind in KINDS:
        with Tree(kind) as it:
            it.delete("b", "merge-force")
            it.is_now({"a": None, "c": "a", "d": "a"}, "a", {"a": "b", None: "b"})
        with Tree(kind) as it:
            it.delete("e", "merge-force")
            it.is_now({"a": None}, "a", {"a": "e"})


def test_discard():
    """`discard`: it and its changes; ENOTEMPTY if it has children, EBUSY if it is current"""
    for kind in KINDS:
        with Tree(kind) as it:
            it.refused(errno.ENOTEMPTY, "b", "discard")
            it.refused(errno.EBUSY, "e", "discard")
            it.delete("c", "discard")
            it.is_now({"a": None, "b": "a", "d": "b", "e": "a"}, "e")


def test_discard_force():
    """`discard-force`: it and all its descendants; the domain goes back to the parent if it was on that branch"""
    for kind in KINDS:
        with Tree(kind) as it:
            it.delete("b", "discard-force")
            it.is_now({"a": None, "e": "a"}, "e")
            it.delete("e", "discard-force")
            it.is_now({"a": None}, "a", {None: "a"})
            it.refused(errno.EBUSY, "a", "discard-force")


def test_wrong_words():
    """What is not understood is EINVAL and changes nothing"""
    with Mounted(domains.web1) as mount:
        domains.take(mount, "one")
        with Unchanged(mount):
            for words in ("everything", "merge children", "0", "Children"):
                command_refused(errno.EINVAL, mount, "web1", "snapshots/one/delete", words, ["children-only"])


def test_protected():
    """A protected snapshot among those to go: EPERM, and nothing has changed; also for rm -r, at its first unlink"""
    for kind in KINDS:
        with Tree(kind) as it:
            mount = it.mount
            command_of(mount, "web1", "c", "protected", "1")
            equal(mount.text("web1", "snapshots", "c", "protected"), "1\n")
            for name, words in (("c", "1"), ("c", "merge"), ("c", "discard"), ("b", "children"), ("b", "children-only"), ("b", "discard-force"), ("a", "children")):
                codes = (errno.EPERM, errno.ENOTEMPTY) if words == "merge" else errno.EPERM
                with Unchanged(mount):
                    command_refused(codes, mount, "web1", f"snapshots/{name}/delete", words)
            with Unchanged(mount):
                refused(errno.EPERM, mount, "web1", os.rmdir, snapshot_path(mount, "web1", "c"), words=["protected"])
                refused(errno.EPERM, mount, "web1", os.unlink, mount.path("web1", "snapshots", "c", "state"), words=["protected"])
                equal(subprocess.run(["rm", "-r", snapshot_path(mount, "web1", "c")], capture_output=True, stdin=subprocess.DEVNULL).returncode, 1)
            it.delete("b", "1")
            it.is_now({"a": None, "c": "a", "d": "a", "e": "a"}, "e")
            command_of(mount, "web1", "c", "protected", "0")
            it.delete("c", "1")
            it.is_now({"a": None, "d": "a", "e": "a"}, "e")


def test_open():
    """A snapshot with an open frozen file is EBUSY, also for rm -r at its first unlink; what is open reads on"""
    for kind in KINDS:
        with Tree(kind) as it:
            mount = it.mount
            with open(mount.frozen("web1", "b"), "rb") as file, Unchanged(mount):
                for words in ("1", "children", "discard-force", "merge-force"):
                    command_refused(errno.EBUSY, mount, "web1", "snapshots/b/delete", words, ["b"])
                refused(errno.EBUSY, mount, "web1", os.rmdir, snapshot_path(mount, "web1", "b"))
                refused(errno.EBUSY, mount, "web1", os.unlink, mount.path("web1", "snapshots", "b", "state"))
                command_refused(errno.EBUSY, mount, "web1", "snapshots/a/delete", "children")
                assert file.read() == it.before["b"]
            with open(mount.frozen("web1", "c"), "rb") as file:
                it.delete("b", "1")
                administer.wait_idle(mount) if kind == "internal" else None
                assert file.read() == it.before["c"], "what is open reads something else"
            it.is_now({"a": None, "c": "a", "d": "a", "e": "a"}, "e")


def test_waits_for_a_reader():
    """What must be merged waits while somebody reads through it, jobs/ says so, and it goes on when he closes"""
    with Tree("external") as it:
        mount = it.mount
        administer.wait_idle(mount)  # what the reverts have left goes
        names = administer.names_beside(mount)
        with open(mount.frozen("web1", "c"), "rb") as file:
            it.delete("b", "1")
            it.delete("d", "1")
            wait_for(lambda: any("open" in status for status in administer.jobs(mount, "web1").values()), "a job that waits for the reader")
            number = min(administer.jobs(mount, "web1"), key=int)
            time.sleep(2)  # it is tried again meanwhile
            assert number in administer.jobs(mount, "web1"), "a step that is tried again has become another job"
            assert file.read() == it.before["c"]
        administer.wait_idle(mount)
        # The layer frozen at b has gone into that of c, and that of d is gone.
        equal(len(administer.names_beside(mount)), len(names) - 2)
        it.is_now({"a": None, "c": "a", "e": "a"}, "e")


def test_state_meanwhile():
    """While its own helper writes to the images of a domain that is off it does not look as if it were running"""

    def prepare(source):
        make.filled(os.path.join(source, "big.img"), 64 * make.MIB)
        make.definition(source, "web1", disks=[make.disk("big.img", image_format="raw")], follows=True)

    with Mounted(prepare) as mount:
        looks = 0
        for round_number in range(3):
            create(mount, "one disk=vda:external")
            administer.guest_write(mount, "web1", "vda", f"{round_number + 1} 0 {64 << 20}")
            wait_for(lambda: mount.text("web1", "state") == "shutoff\n", "the end of who wrote to be seen")
            os.rmdir(snapshot_path(mount, "web1", "one"))
            while len(administer.layers(mount, "web1")) > 1:
                equal(mount.text("web1", "state"), "shutoff\n", "while it is merged")
                looks += 1
            administer.wait_idle(mount)
            equal(mount.text("web1", "state"), "shutoff\n", "afterwards")
        assert looks, "it was too fast to be looked at"


def rm_programs():
    yield ["rm"]
    if shutil.which("busybox"):
        yield ["busybox", "rm"]


def test_rm_r():
    """rm -r deletes a snapshot like rmdir, several too, and its children stay"""
    for program, options in itertools.product(rm_programs(), ("-r", "-rf")):
        for kind in KINDS:
            with Tree(kind) as it:
                paths = [snapshot_path(it.mount, "web1", name) for name in ("b", "e")]
                result = subprocess.run([*program, options, *paths], capture_output=True, text=True, stdin=subprocess.DEVNULL)
                equal((result.returncode, result.stderr), (0, ""))
                it.is_now({"a": None, "c": "a", "d": "a"}, "a")


def test_unlinking_alone():
    """Unlinking what is inside a snapshot does nothing: where the rmdir does not come, all is there again"""
    with Tree("external") as it:
        mount = it.mount
        with Unchanged(mount):
            for name in ("state", "created", "parent", "disks/vda.raw", "children/c", "delete", "snapshot.json"):
                os.unlink(os.path.join(snapshot_path(mount, "web1", "b"), name))
            for name in ("disks", "children"):
                os.rmdir(os.path.join(snapshot_path(mount, "web1", "b"), name))
            assert administer.frozen_bytes(mount, "web1", "b") == it.before["b"]
            equal(mount.text("web1", "snapshots", "b", "state"), "shutoff\n")
            equal(sorted(os.listdir(mount.path("web1", "snapshots", "b", "children"))), ["c", "d"])


def test_rm_r_beside_children():
    """rm -r of a snapshot asks nothing of its children, be they protected or open"""
    for program in rm_programs():
        with Tree("external") as it:
            command_of(it.mount, "web1", "c", "protected", "1")
            with open(it.mount.frozen("web1", "d"), "rb") as file:
                result = subprocess.run([*program, "-r", snapshot_path(it.mount, "web1", "b")], capture_output=True, text=True, stdin=subprocess.DEVNULL)
                equal((result.returncode, result.stderr), (0, ""))
                assert file.read() == it.before["d"]
            it.is_now({"a": None, "c": "a", "d": "a", "e": "a"}, "e")


def test_rm_r_of_all_snapshots():
    """rm -r snapshots/* deletes them all"""
    for program in rm_programs():
        with Tree("external") as it:
            result = subprocess.run(["sh", "-c", f"{' '.join(program)} -r \"$0\"/*", it.mount.path("web1", "snapshots")], capture_output=True, text=True)
            equal((result.returncode, result.stderr), (0, ""))
            it.is_now({}, None)
            domains.home(it.mount)


def test_rm_r_of_more():
    """rm -rf of a domain, of snapshots/ and of the mount fails and harms nothing; so does rm in tree/"""
    for program in rm_programs():
        with Tree("internal") as it:
            for path in ("web1/snapshots", "web1", ".", "web1/tree", "web1/tree/a"):
                where = os.path.join(it.mount.mountpoint, path, "")
                with Unchanged(it.mount):
                    result = subprocess.run([*program, "-rf", where], capture_output=True, text=True, stdin=subprocess.DEVNULL)
                    assert result.returncode != 0, f"{program} -rf {path} says that it succeeded"
            # Without a trailing slash, and from within.
            with Unchanged(it.mount):
                subprocess.run([*program, "-rf", "web1"], cwd=it.mount.mountpoint, capture_output=True, check=False)
                subprocess.run([*program, "-rf", "snapshots"], cwd=it.mount.path("web1"), capture_output=True, check=False)


def test_refused_removal_stops_the_process():
    """A process that was refused an unlink outside a snapshot is refused every removal in that domain from then on"""
    with Tree("internal") as it:
        with Unchanged(it.mount):
            refused(errno.EPERM, it.mount, "web1", os.unlink, it.mount.path("web1", "state"))
            refused(errno.EPERM, it.mount, "web1", os.rmdir, snapshot_path(it.mount, "web1", "c"))
        equal(subprocess.run(["rmdir", snapshot_path(it.mount, "web1", "c")]).returncode, 0, "another process is refused too")


def test_plain_files_come_first():
    """Listings have plain files before directories, and snapshots/ begins with .order, the names by age"""
    with Tree("internal") as it:
        names = os.listdir(it.mount.path("web1", "snapshots"))
        equal(names[0], ".order")
        equal(it.mount.text("web1", "snapshots", ".order").split(), ["a", "b", "c", "d", "e"])
        for directory in ("web1", "web1/snapshots/a"):
            is_directory = [entry.is_dir(follow_symlinks=False) for entry in os.scandir(it.mount.path(directory))]
            assert is_directory == sorted(is_directory), f"{directory} lists a directory before a file"


def test_home():
    """A domain whose snapshots are all deleted ends on its original file alone, in every order, with the right bytes"""
    for kinds in itertools.product(KINDS, repeat=3):
        for order in itertools.permutations(("one", "two", "three")):
            with Mounted(domains.web1) as mount:
                for value, (name, kind) in enumerate(zip(("one", "two", "three"), kinds), 1):
                    write(mount, value)
                    write(mount, value, at=65536 * value)
                    create(mount, f"{name} disk=vda:{kind}")
                write(mount, 9)
                present = administer.active_bytes(mount, "web1")
                for name in order:
                    os.rmdir(snapshot_path(mount, "web1", name))
                domains.home(mount)
                assert administer.active_bytes(mount, "web1") == present, f"{kinds} {order}"
                equal(administer.names_beside(mount), ["web1.json", "web1.qcow2"])
                equal(administer.tags(os.path.join(mount.source, "web1.qcow2")), [])
                administer.check_image(os.path.join(mount.source, "web1.qcow2"))


def test_home_again_at_once():
    """A domain that is back on its first file, and gets a snapshot before the last overlay is forgotten, comes home again"""
    with Mounted(domains.web1) as mount:
        for turn in range(20):
            create(mount, "one disk=vda:external")
            write(mount, turn)
            os.rmdir(snapshot_path(mount, "web1", "one"))
            wait_for(lambda: len(administer.layers(mount, "web1", "vda")) == 1, f"the merge in turn {turn}")
        equal(byte(mount), 19)


def test_raw_comes_home():
    """A raw disk ends on its raw file, also after going back"""
    with Mounted(lambda source: domains.web1(source, formats=("raw",))) as mount:
        domains.chain(mount, ("one", "two"))
        command_of(mount, "web1", "one", "revert", "1")
        write(mount, 42)
        present = administer.active_bytes(mount, "web1")
        command_of(mount, "web1", "one", "delete", "children")
        domains.home(mount, name="web1.img")
        with open(os.path.join(mount.source, "web1.img"), "rb") as file:
            assert file.read() == present


def test_of_other_tools():
    """Snapshots that others made are deleted like ours, but an image that was a backing file before is never written"""

    def prepare(source):
        domains.web1(source)
        image = os.path.join(source, "web1.qcow2")
        make.snapshot(image, "inner")
        make.write(image, "2 0 64k")
        make.snapshot(make.overlay(image, "web1.snap1"), "inner2")
        make.write(os.path.join(source, "web1.snap1"), "3 0 64k")
        make.definition(source, "web1", disks=[make.disk("web1.snap1")], follows=True)

    with Mounted(prepare) as mount:
        image = os.path.join(mount.source, "web1.qcow2")
        equal(mount.snapshots("web1"), ["inner", "inner2", "snap1"])
        with open(image, "rb") as file:
            before = file.read()
        with Unchanged(mount):
            command_refused(errno.EPERM, mount, "web1", "snapshots/snap1/delete", "1", ["protected"])
            command_refused(errno.EPERM, mount, "web1", "snapshots/inner/delete", "1")
        command_of(mount, "web1", "inner2", "delete", "1")
        command_of(mount, "web1", "snap1", "protected", "0")
        command_of(mount, "web1", "snap1", "delete", "1")
        administer.wait_idle(mount)
        equal((mount.snapshots("web1"), byte(mount), frozen_byte(mount, "inner")), (["inner"], 3, 1))
        equal(administer.tags(os.path.join(mount.source, "web1.snap1")), [])
        with open(image, "rb") as file:
            assert file.read() == before, "a file that was a backing file before was written"
        equal(administer.names_beside(mount), ["web1.json", "web1.qcow2", "web1.snap1"])


if __name__ == "__main__":
    checks.main(globals())
