# SPDX-License-Identifier: LGPL-2.1-or-later
"""Every call, every command to a storage daemon, every run of a helper failing in turn: undone, reported, works again.

A scene is a source with a domain of two disks, and an operation. It is carried out again and again, each time with
another fault: the first call of a kind fails, the second, and so on until the operation comes to no more of them. What
was refused has left everything as it was, what was told as done has happened, and refused ones work when they are
repeated, with the same files afterwards as if nothing had ever failed.

What failed once is tried always, and a part of all the others, chosen by VMSNAPFS_SEED, for three quarters of
VMSNAPFS_TEST_SECONDS; VMSNAPFS_TEST_FAULTS_ALL tries all, which takes hours. VMSNAPFS_TEST_FAULTS_ONLY is a regular
expression that has to be found in what is tried then, as in "^create mixed: (files: EIO|qmp)".
"""

import errno
import json
import os
import re
import shutil
import time

import administer
import checks
import make
import model_check
import model_steps
from administer import errno_name, snapshot_path
from checks import equal
from faults import WAYS, Fault, Faults
from model import Disk, Domain
from model_steps import copy_world, settle_names, written
from mounted import HOPELESS, LOOK, Mounted, is_mounted, run, wait_for

SECONDS = float(os.environ.get("VMSNAPFS_TEST_SECONDS") or 40)
ALL = bool(os.environ.get("VMSNAPFS_TEST_FAULTS_ALL"))
ONLY = re.compile(os.environ.get("VMSNAPFS_TEST_FAULTS_ONLY") or "")
SIZE = 2 * make.MIB
CASES_MAX = 2000  # of one fault in one operation: more often it comes to nothing of the kind
NEVER = 1 << 30
LOGGED = [r"^vmsnapfs: (error|warning): "]

# What a person may be told, by what has failed.
SENSIBLE = {
    "ENOSPC": {errno.ENOSPC, errno.EIO},
    "EIO": {errno.EIO},
    "EACCES": {errno.EACCES, errno.EIO},
    "EAGAIN": {errno.EAGAIN},
    "error": {errno.ENOSPC, errno.ETIMEDOUT},
    "silent": {errno.ETIMEDOUT, errno.EIO},
    "carried out, silent": {errno.ETIMEDOUT, errno.EIO},
    "garbage": {errno.EIO, errno.ETIMEDOUT},
    "hangs": {errno.ETIMEDOUT},
    "not started": {errno.EACCES},
}


# Operations.


class Operation:
    """`act(mount)` does it, `apply(world)` does it to the model."""

    def __init__(self, act, apply, unnamed=None):
        self.act, self.apply, self.unnamed = act, apply, unnamed


def create(name, asked=None):
    def prepare(scene):
        formats = scene.formats()
        line = " ".join([name, *(f"disk={target}:{kind}" for target, kind in (asked or {}).items())])
        return Operation(
            lambda mount: administer.command(mount, "db", "create", line),
            lambda world: world["db"].create(name, formats, asked or {}),
        )

    return prepare


def take(name):
    def prepare(scene):
        formats = scene.formats()
        return Operation(lambda mount: os.mkdir(snapshot_path(mount, "db", name)), lambda world: world["db"].create(name, formats, {}))

    return prepare


def write(target, offset, length, byte):
    def prepare(scene):
        def apply(world):
            disk = world["db"].disks[target]
            disk.data = written(disk.data, offset, length, byte)

        return Operation(lambda mount: administer.guest_write(mount, "db", target, f"{byte} {offset} {length}"), apply)

    return prepare


def shorten(target, size):
    """The disk is made shorter while it is off, as qemu-img does it."""

    def prepare(scene):
        def act(mount):
            path, image_format = administer.source(mount, "db", target)
            run("qemu-img", "resize", "-q", "--shrink", "-f", image_format, path, str(size))

        def apply(world):
            disk = world["db"].disks[target]
            disk.data = disk.data[:size]

        return Operation(act, apply)

    return prepare


def revert(name, words="1"):
    def prepare(scene):
        formats = scene.formats()
        guards = "guard" in words

        def apply(world):
            if guards:
                world["db"].create("the guard", formats, {})
            world["db"].revert(world["db"].named(name).serial)

        return Operation(
            lambda mount: administer.command_of(mount, "db", name, "revert", words),
            apply,
            unnamed=("db", "the guard") if guards else None,
        )

    return prepare


def delete(name, kind="1"):
    def prepare(scene):
        return Operation(
            lambda mount: administer.command_of(mount, "db", name, "delete", kind),
            lambda world: world["db"].delete(world["db"].named(name).serial, kind),
        )

    return prepare


def clone(name, words):
    def prepare(scene):
        new, _, full = words.partition(" ")

        def apply(world):
            world[new] = world["db"].clone(world["db"].named(name).serial, new, bool(full))

        return Operation(lambda mount: administer.command_of(mount, "db", name, "clone", words), apply)

    return prepare


def rename(name, new):
    def prepare(scene):
        def apply(world):
            world["db"].named(name).name = new

        return Operation(lambda mount: os.rename(snapshot_path(mount, "db", name), snapshot_path(mount, "db", new)), apply)

    return prepare


def describe(name, text):
    def prepare(scene):
        def apply(world):
            world["db"].named(name).description = text

        return Operation(lambda mount: administer.command_of(mount, "db", name, "description", text), apply)

    return prepare


def protect(name):
    def prepare(scene):
        def apply(world):
            world["db"].named(name).is_protected = True

        return Operation(lambda mount: administer.command_of(mount, "db", name, "protected", "1"), apply)

    return prepare


INTERNAL = {"vda": "internal", "vdb": "internal"}
EXTERNAL = {"vda": "external", "vdb": "external"}
MIXED = {"vda": "internal", "vdb": "external"}


def history(*contents):
    """Snapshots one, two, …, of these kinds, and writes of bytes before and after each, to both disks."""
    names = ("one", "two", "three", "four")
    steps = []
    for number, asked in enumerate(contents):
        steps += [write("vda", 4096 * number, 65536, 10 + number), write("vdb", 65536 * number, 4096, 20 + number), create(names[number], asked)]
    return [*steps, write("vda", 8192, 8192, 30), write("vdb", 131072, 512, 31)]


BIG = write("vda", make.MIB, 512 * 1024, 40)

# name: (formats of vda and vdb, what was before, the operation)
SCENES = {
    "create internal": (("qcow2", "qcow2"), history(INTERNAL), create("new", INTERNAL)),
    "create external": (("qcow2", "raw"), history(EXTERNAL), create("new", EXTERNAL)),
    "create mixed": (("qcow2", "qcow2"), history(), create("new", MIXED)),
    "mkdir": (("qcow2", "raw"), history(), take("new")),
    "revert internal": (("qcow2", "qcow2"), history(INTERNAL, INTERNAL), revert("one")),
    "revert external": (("qcow2", "raw"), history(EXTERNAL, EXTERNAL), revert("one")),
    "revert mixed": (("qcow2", "qcow2"), history(MIXED, MIXED), revert("one")),
    "revert guard": (("qcow2", "raw"), history(MIXED), revert("one", "guard")),
    "revert copies out": (("qcow2", "qcow2"), history(INTERNAL, EXTERNAL), revert("one")),
    "delete internal": (("qcow2", "qcow2"), history(INTERNAL, INTERNAL), delete("one")),
    "delete into parent": (("qcow2", "raw"), history(EXTERNAL, EXTERNAL), delete("two")),
    "delete home": (("qcow2", "raw"), [*history(EXTERNAL), BIG], delete("one")),
    "delete home, shorter": (("qcow2", "raw"), [write("vda", 0, 65536, 9), BIG, *history(EXTERNAL), shorten("vda", make.MIB + 65536)], delete("one")),
    "delete into child": (("qcow2", "qcow2"), [*history(EXTERNAL, EXTERNAL), BIG], delete("two")),
    "delete below child": (("qcow2", "qcow2"), [*history(EXTERNAL, EXTERNAL), BIG, create("three", EXTERNAL)], delete("two")),
    "delete children": (("qcow2", "raw"), [*history(EXTERNAL, MIXED), revert("one"), *history()], delete("one", "children")),
    "merge": (("qcow2", "qcow2"), history(EXTERNAL, MIXED, EXTERNAL), delete("two", "merge")),
    "merge-force back": (("qcow2", "qcow2"), [*history(MIXED, MIXED), revert("one")], delete("two", "merge-force")),
    "discard": (("qcow2", "raw"), [*history(EXTERNAL, EXTERNAL), revert("one")], delete("two", "discard")),
    "discard-force back": (("qcow2", "qcow2"), history(MIXED, MIXED), delete("two", "discard-force")),
    "copy home": (("qcow2", "qcow2"), [*history(INTERNAL, EXTERNAL), revert("one"), delete("two")], delete("one")),
    "clone": (("qcow2", "raw"), history(EXTERNAL), clone("one", "copy")),
    "clone full": (("qcow2", "raw"), history(EXTERNAL), clone("one", "copy full")),
    "clone internal": (("qcow2", "qcow2"), history(MIXED), clone("one", "copy")),
    "mv": (("qcow2",), [create("one")], rename("one", "other")),
    "describe": (("qcow2",), [create("one")], describe("one", "more words")),
    "protect": (("qcow2",), [create("one")], protect("one")),
}  # fmt: skip
BACKGROUND = re.compile("delete|merge|discard|copy home|revert")  # after which there is something to give back


# Scenes.


class Scene:
    """Its source is made once, and put back before each case."""

    def __init__(self, name, faults):
        self.name, self.faults = name, faults
        formats, self.before_it, self.operation = SCENES[name]
        self.mount = Mounted(lambda source: self.prepare(source, formats), expected=LOGGED, environment=faults.environment())
        self.template = os.path.join(self.mount.room, "template")
        self.finds_background = bool(BACKGROUND.search(name))

    def prepare(self, source, formats):
        disks = {}
        for position, image_format in enumerate(formats):
            target = "vd" + "ab"[position]
            path = os.path.join(source, f"db-{target}.{'qcow2' if image_format == 'qcow2' else 'img'}")
            if image_format == "raw":
                with open(path, "wb") as file:
                    file.truncate(SIZE)
            else:
                make.image(source, os.path.basename(path), str(SIZE))
            disks[target] = Disk(target, image_format, bytes(SIZE), path)
        self.world = {"db": Domain("db", disks, True)}
        model_steps.define(source, self.world["db"])
        self.first_names = os.listdir(source)

    def formats(self):
        return {target: administer.source(self.mount, "db", target)[1] for target in self.world["db"].disks}

    def __enter__(self):
        self.faults.watch(self.mount.source)
        self.mount.mount()
        for step in self.before_it:
            made = step(self)
            made.act(self.mount)
            made.apply(self.world)
            administer.wait_idle(self.mount)
        self.mount.unmount()
        run("cp", "-a", "--sparse=always", self.mount.source, self.template)
        self.begin()
        self.names_before = self.names()
        self.check(self.world)
        self.planned.act(self.mount)
        self.names_after = self.names_when_idle()
        self.check(self.after())
        self.end()
        return self

    def __exit__(self, kind, value, trace):
        self.faults.disarm()
        self.mount.__exit__(kind, value, trace)

    def begin(self):
        """As it was before the operation, newly mounted."""
        for name in os.listdir(self.mount.source):
            path = os.path.join(self.mount.source, name)
            shutil.rmtree(path) if os.path.isdir(path) else os.unlink(path)
        run("cp", "-a", "--sparse=always", self.template + "/.", self.mount.source)
        self.watch = model_check.Watch(self.mount.source, [])
        self.watch.inodes = {name: inode for name, inode in self.watch.inodes.items() if name in self.first_names}
        self.mount.mount()
        self.planned = self.operation(self)

    def end(self):
        self.mount.unmount()

    def give_up(self):
        """Whatever the state: the next case can begin."""
        if self.mount.process:
            self.mount.kill()
        if is_mounted(self.mount.mountpoint):
            run("umount", "--lazy", self.mount.mountpoint)
        self.mount.wait_for_orphans()

    def after(self):
        world = copy_world(self.world)
        self.planned.apply(world)
        settle_names(self.mount, world, self.planned)
        return world

    def check(self, world, fault=None):
        """A helper that fails may leave clusters behind that are nobody's, behind the end of the file, where `qemu-img check`
        sees them only when the file has grown."""
        model_check.check(self.mount, world, self.watch, leaks_allowed=bool(fault) and fault.kind in ("qmp", "runs", "writes"))

    def names_when_idle(self):
        if self.finds_background:
            administer.wait_idle(self.mount)
        return self.names()

    def names(self):
        """Of the files beside the store; serial numbers in them may be others each time. Of two layers that are merged the one
        may stay or the other."""
        found = [re.sub(r"~[0-9]+$", "~", name) for name in administer.names_beside(self.mount)]
        return sorted(name.partition(".")[0] for name in found) if self.finds_background else found

    def attempt(self):
        """None or the errno."""
        try:
            self.planned.act(self.mount)
        except OSError as error:
            return error.errno
        return None


def wait_until_stuck(mount):
    """Until nothing is done in the background any more, be it that all is done, or that it only waits."""
    end = time.monotonic() + HOPELESS
    quiet, is_busy = administer.Quiet(), True
    while not quiet.look(is_busy) and time.monotonic() < end:
        try:
            names = [name for name in os.listdir(mount.mountpoint) if not name.startswith(".")]
            states = [status for name in names for status in administer.jobs(mount, name).values()]
        except OSError:
            states = []
        # one that makes way for the request itself is tried again at once
        is_busy = any(not status.startswith("waiting") or "comes first" in status for status in states)
        time.sleep(LOOK)


def journal_left(mount):
    """Operations that are not ended."""
    return [name for name in os.listdir(os.path.join(mount.source, ".vmsnapfs", "journal")) if not name.endswith(".tmp")]


def store_left(mount):
    """Files of the store that are there only while something is under way. Of a daemon that has ended."""
    top = os.path.join(mount.source, ".vmsnapfs")
    found = []
    for where, _, names in os.walk(top):
        found += [os.path.relpath(os.path.join(where, name), top) for name in names if name.endswith(".tmp") or where.endswith("/journal")]
    return found


def check_reported(scene, fault, code):
    """A sensible errno, and a text that says something."""
    line = administer.newest_error(scene.mount, "db")
    assert f"pid {os.getpid()}: " in line and f"({errno_name(code)})" in line, f"last_error does not tell of it: {line!r}"
    assert code in SENSIBLE.get(fault.way, {errno.EIO}), f"told as {errno_name(code)}: {line}"
    return line


def try_case(scene, fault, number):
    """Returns what was hit; empty: nothing."""
    scene.begin()
    scene.faults.arm(fault, number)
    code = scene.attempt()
    if fault.lasts:
        wait_until_stuck(scene.mount)
    elif scene.finds_background:
        administer.wait_idle(scene.mount)
    hits = scene.faults.disarm()
    try:
        judge(scene, fault, code, hits)
        scene.end()
        if not fault.lasts:
            equal(store_left(scene.mount), [], "files in the store")
    except BaseException:
        print(f"    {scene.name}: {fault}, number {number}: {hits}; it {'was told as done' if code is None else f'failed with {errno_name(code)}'}")
        if scene.mount.process:
            print("    " + scene.mount.text("db", "last_error").replace("\n", "\n    "))
        raise
    return hits


def judge(scene, fault, code, hits):
    if code is not None:
        assert hits, f"{errno_name(code)}, and nothing was hit: {administer.newest_error(scene.mount, 'db')}"
        check_reported(scene, fault, code)
        settle(scene, fault, scene.names_before)
        scene.check(scene.world, fault)
        equal(scene.names_when_idle(), scene.names_before, "what was undone has left files")
        again = scene.attempt()
        assert again is None, f"again, without a fault: {errno_name(again)}: {administer.newest_error(scene.mount, 'db')}"
    after = scene.after()
    if hits:
        settle(scene, fault, scene.names_after)
        scene.check(after, fault)
    if fault.kind == "reads":  # what could not be looked at waits without a job
        wait_for(lambda: scene.names_when_idle() == scene.names_after, "what is given back when all can be read again")
    equal(scene.names_when_idle(), scene.names_after, "files beside")
    if hits and scene.finds_background:
        scene.check(after, fault)


def guard_left(mount):
    """Is the guard of a revert that failed still there? The state says that it is to go."""
    top = os.path.join(mount.source, ".vmsnapfs", "domains")
    for name in os.listdir(top):
        if name.endswith(".json"):
            with open(os.path.join(top, name), encoding="utf-8") as file:
                if "guard" in json.load(file).get("administered", {}):
                    return True
    return False


def problem(mount):
    """What domain.json says is wrong with it."""
    try:
        return json.loads(mount.text("db", "domain.json"))["problem"]
    except FileNotFoundError:
        return "it is not there"


def settle(scene, fault, names):
    """What could not be ended is ended by itself, soon. Where nothing could be done any more, it is at the next start."""
    if fault.lasts and (journal_left(scene.mount) or guard_left(scene.mount) or scene.names_when_idle() != names):
        scene.mount.remount()
        scene.names_when_idle()
    wait_for(lambda: not journal_left(scene.mount), "the end of an operation that could not be ended")
    wait_for(lambda: not guard_left(scene.mount), "the end of the guard of a revert that failed")
    wait_for(lambda: not problem(scene.mount), "another look at what could not be read")


def all_faults():
    for kind, ways in WAYS.items():
        for way in ways:
            yield Fault(kind, way)
            if kind in ("files", "writes") and way != "killed":
                yield Fault(kind, way, lasts=True)


def count(scene, kind):
    """How many calls of the kind the operation comes to."""
    scene.begin()
    scene.faults.arm(Fault(kind, next(iter(WAYS[kind]))), NEVER)
    assert scene.attempt() is None, administer.newest_error(scene.mount, "db")
    scene.names_when_idle()
    number = scene.faults.passed()
    scene.faults.disarm()
    scene.end()
    return number


def test_met():
    """Calls of each kind are met: a way that the daemon takes no more would fail none of them, and nobody would see"""
    faults = Faults()
    for name, kinds in (("create internal", ("files", "reads", "starts", "qmp", "writes")), ("clone full", ("starts", "runs", "writes"))):
        with Scene(name, faults) as scene:
            for kind in kinds:
                assert count(scene, kind), f"{name}: no {kind}"


def test_some():
    """Some calls and commands, failing in some operations"""
    random = checks.seed()
    faults = Faults()
    end = time.monotonic() + SECONDS * 3 / 4
    cases = 0
    while cases == 0 or time.monotonic() < end:
        with Scene(random.choice(list(SCENES)), faults) as scene:
            for kind in random.sample(list(WAYS), 4):
                number = count(scene, kind)
                candidates = [fault for fault in all_faults() if fault.kind == kind]
                for _ in range(3 if number else 0):
                    try_case(scene, random.choice(candidates), random.randrange(1, number + 1))
                    cases += 1
    print(f"    {cases} cases")


# What was wrong: what could not be named in a header after a merge was never given back; an image was
# taken for tidied up, and was not; and the errno was that of tidying up.
FOUND = (
    ("merge", Fault("files", "EIO", lasts=True, only="/db-vdb.two"), 1),
    ("create mixed", Fault("writes", "EIO", lasts=True), 11),
    ("create mixed", Fault("writes", "EIO", lasts=True), 12),
    ("clone internal", Fault("writes", "ENOSPC"), 13),
    ("clone internal", Fault("writes", "EIO", lasts=True), 17),
)


def test_found():
    """Calls that failed, and what came of it was wrong once"""
    faults = Faults()
    for name, fault, number in FOUND:
        with Scene(name, faults) as scene:
            assert try_case(scene, fault, number)


def test_killed_while_it_is_made_shorter():
    """The helper killed before each of its writes, and never started anew: an image that is being made shorter is never damaged"""
    faults = Faults()
    fault = Fault("writes", "killed", lasts=True)
    with Scene("delete home, shorter", faults) as scene:
        (home,) = [path for path in administer.images(scene.mount.source) if os.path.basename(path) == "db-vda.qcow2"]
        was, sizes = os.path.getsize(home), set()
        for number in range(1, CASES_MAX):
            scene.begin()
            scene.faults.arm(fault, number)
            assert scene.attempt() is None, administer.newest_error(scene.mount, "db")
            wait_until_stuck(scene.mount)
            scene.give_up()
            hits = scene.faults.disarm()
            administer.check_image(home, leaks_allowed=True)
            sizes.add(os.path.getsize(home))
            scene.mount.mount()
            equal(scene.names_when_idle(), scene.names_after, "files beside")
            scene.check(scene.after(), fault)
            scene.end()
            if not hits:
                break
        print(f"    {number - 1} writes")
        assert was in sizes and len(sizes) > 1, f"its file was not made shorter: {sizes}"


def all_of(scene, wanted):
    """Tries these faults with all numbers; returns what failed."""
    failed = []
    for fault in wanted:
        missed = 0
        for number in range(1, CASES_MAX):
            try:
                missed = 0 if try_case(scene, fault, number) else missed + 1
                if missed == 3:  # in the background there are more calls at times
                    print(f"    {scene.name}: {fault}: {number - 3}", flush=True)
                    break
            except Exception as error:  # the others are still to be tried
                print(f"    FAILED: {str(error)[:1000]}", flush=True)
                failed.append(f"{scene.name}: {fault}, number {number}")
                scene.give_up()
        else:
            failed.append(f"{scene.name}: {fault}: without end")
    return failed


def test_all():
    """Every call and command, failing in turn in every operation"""
    failed = []
    faults = Faults()
    for name in SCENES:
        wanted = [fault for fault in all_faults() if ONLY.search(f"{name}: {fault}")]
        if wanted:
            with Scene(name, faults) as scene:
                failed += all_of(scene, wanted)
    assert not failed, f"{len(failed)}: {failed}"


if __name__ == "__main__":
    checks.main({"test_all": test_all} if ALL else {"test_met": test_met, "test_found": test_found, "test_some": test_some,
                 "test_killed_while_it_is_made_shorter": test_killed_while_it_is_made_shorter})
