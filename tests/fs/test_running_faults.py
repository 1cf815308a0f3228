# SPDX-License-Identifier: LGPL-2.1-or-later
"""Every command to the QEMU of a running domain, and every call of the daemon, failing in turn: undone or done, and whole.

As test_faults_in_turn, for operations on domains that run. A command is refused, not answered, carried out and not answered,
answered with garbage; the connection breaks, or the QEMU is killed, before or after it was carried out. Afterwards the
operation has happened or not, every byte is there, the guest runs or can be started, and the operation works when it is
done again.

What failed once is tried always, and a part of the others, chosen by VMSNAPFS_SEED, for half of VMSNAPFS_TEST_SECONDS.
VMSNAPFS_TEST_FAULTS_ALL tries all, those in which VMSNAPFS_TEST_FAULTS_ONLY is found, as in "^create mixed: monitor: error".
"""

import contextlib
import os
import re
import time

import administer
import checks
import domains
from administer import command_of, errno_name
from checks import equal, need
from faults import RUNNING_WAYS, Fault, Faults
from mounted import wait_for
from running import PAGE, Running
from test_faults_in_turn import ALL, CASES_MAX, NEVER, ONLY, SECONDS, journal_left, store_left
from test_mirror import abort, copy, copy_jobs, pivot, wait_ready
from test_power import QEMU, power, state

LOGGED = [r"^vmsnapfs: (error|warning): "]
KINDS = ("monitor", "files", "starts", "runs")
# Where the operation is told as failed, but what became of it was not known then.
UNCERTAIN = re.compile("silent|killed|breaks|garbage")
GONE = ("crashed", "shutoff")
MEMORY = "web1.new.mem"
ALL_INTERNAL = "disk=vda:internal disk=vdb:internal"
ALL_EXTERNAL = "disk=vda:external disk=vdb:external"
MIXED = "disk=vda:internal disk=vdb:external"


class Operation:
    """`act(mount)` does it; `happened(mount)` says whether it has; `expect(mount)` makes that what is to be found."""

    def __init__(self, before, act, happened, expect, formats=("qcow2", "qcow2"), state="running", after=None):
        self.before, self.act, self.happened, self.expect = before, act, happened, expect
        self.formats, self.state, self.after = formats, state, after or state


def create(words, formats=("qcow2", "qcow2"), is_paused=False):
    def before(mount):
        mount.guest_writes(41, at=PAGE)
        if is_paused:
            power(mount, "pause")

    return Operation(
        before,
        lambda mount: domains.create(mount, "new " + words),
        lambda mount: "new" in mount.snapshots("web1"),
        lambda mount: mount.remember("new"),
        formats,
        "paused" if is_paused else "running",
    )


def create_mirrored():
    made = create("disk-only " + ALL_EXTERNAL)
    made.act = lambda mount: domains.create(mount, f"new disk-only {ALL_EXTERNAL} mirror=vda:{copied(mount)}")
    return made


def revert(taken, words="1", after="running", formats=("qcow2", "qcow2")):
    def before(mount):
        mount.take("one " + taken)
        mount.guest_writes(41, at=PAGE)
        mount.take("two disk-only")
        mount.guest_writes(42, at=PAGE)

    def expect(mount):
        for target in mount.targets:
            mount.wanted[target] = bytearray(mount.frozen_bytes["one"][target])

    return Operation(
        before,
        lambda mount: command_of(mount, "web1", "one", "revert", words),
        lambda mount: domains.current(mount) == "one",
        expect,
        formats,
        after=after,
    )


def remove(taken, name, formats=("qcow2", "qcow2")):
    def before(mount):
        for number, each in enumerate(("one", "two", "three")):
            mount.take(f"{each} disk-only {taken}")
            mount.guest_writes(41 + number, at=PAGE * (number + 1))

    return Operation(
        before,
        lambda mount: os.rmdir(administer.snapshot_path(mount, "web1", name)),
        lambda mount: name not in mount.snapshots("web1"),
        lambda mount: mount.frozen_bytes.pop(name, None),
        formats,
    )


def copied(mount):
    return os.path.join(mount.source, "copy.qcow2")


def begin_copy(mount):
    mount.take("one disk-only disk=vda:external")
    mount.guest_writes(42, at=2 * PAGE)
    copy(mount, copied(mount))
    wait_ready(mount)
    mount.guest_writes(43, at=3 * PAGE)


def copy_starts(mount):
    """Asked for again where it is there already, as by then nobody knows whether it is."""
    if "vda" not in copy_jobs(mount):
        copy(mount, copied(mount))


COPY = Operation(
    lambda mount: mount.guest_writes(41, at=PAGE),
    copy_starts,
    lambda mount: "vda" in copy_jobs(mount) and settled(mount),
    lambda mount: None,
    ("qcow2",),
)
PIVOT = Operation(
    begin_copy, pivot, lambda mount: administer.source(mount, "web1")[0] == copied(mount), lambda mount: None, ("qcow2",)
)
ABORT = Operation(begin_copy, abort, lambda mount: not copy_jobs(mount), lambda mount: None, ("qcow2",))
START = Operation(
    lambda mount: mount.off(), lambda mount: power(mount, "start"), lambda mount: True, lambda mount: None, state="shutoff", after="running"
)

SCENES = {
    "create internal": create("disk-only " + ALL_INTERNAL),
    "create external": create("disk-only " + ALL_EXTERNAL),
    "create mixed": create("disk-only " + MIXED),
    "create paused": create("disk-only " + MIXED, is_paused=True),
    "create mirrored": create_mirrored(),
    "create memory": create("memory=external " + ALL_EXTERNAL),
    "create memory mixed": create("memory=external " + MIXED),
    "create memory paused": create("memory=external " + MIXED, is_paused=True),
    "create memory live": create("memory=external live compress=zstd " + ALL_EXTERNAL),
    "create memory inside": create("memory=internal " + ALL_INTERNAL),
    "create memory inside mixed": create("memory=internal " + MIXED),
    "revert": revert("disk-only " + MIXED),
    "revert shutoff": revert("disk-only " + MIXED, "shutoff", "shutoff"),
    "revert memory": revert("memory=external " + MIXED),
    "revert memory inside": revert("memory=internal " + ALL_INTERNAL),
    "rmdir internal": remove(ALL_INTERNAL, "two"),
    "rmdir into parent": remove(ALL_EXTERNAL, "two"),
    "rmdir current": remove(ALL_EXTERNAL, "three"),
    "copy": COPY,
    "pivot": PIVOT,
    "abort": ABORT,
    "start": START,
}


def settled(mount):
    """No copy is half begun or half ended."""
    found = copy_jobs(mount)
    is_copied = "The disk is not being copied." not in mount.text("web1", "disks", "vda", "copy")
    return found["vda"][1] == "ready" if found else not is_copied


def wait_settled(mount):
    """What goes on by itself has come to its end."""

    def is_settled():
        busy = [status for status in administer.jobs(mount, "web1").values() if status != "ready"]
        with contextlib.suppress(FileNotFoundError):
            restarts = [name for name in os.listdir(os.path.join(mount.source, ".vmsnapfs", "domains")) if name.endswith(".restart")]
            return not busy and not restarts and not journal_left(mount) and settled(mount)
        return False

    quiet = administer.Quiet()
    wait_for(lambda: quiet.look(not is_settled()), lambda: f"all to be settled: {administer.jobs(mount, 'web1')}, journal {journal_left(mount)}")


class Scene:
    def __init__(self, name, faults):
        self.name, self.faults, self.operation = name, faults, SCENES[name]
        self.names = None  # beside the store when all is over

    @contextlib.contextmanager
    def begun(self):
        with Running(self.operation.formats, expected=LOGGED, environment=self.faults.environment()) as mount:
            self.faults.watch(mount.source)
            try:
                mount.start()
                mount.guest_writes(40)
                self.operation.before(mount)
                if mount.processes():
                    mount.flush()
                administer.wait_idle(mount) if not copy_jobs(mount) else None
                yield mount
            finally:
                self.faults.disarm()

    def attempt(self, mount):
        """None or the errno."""
        try:
            self.operation.act(mount)
        except OSError as error:
            return error.errno
        return None


def names(mount):
    """Of the files beside the store, up to their endings: a layer can be merged into the one above or below."""
    return sorted(name.partition(".")[0] for name in administer.names_beside(mount) if name != MEMORY)


def runs(mount, operation, allowed):
    """Which state the guest comes to; where its QEMU was killed, it is started."""
    wait_for(lambda: state(mount) in allowed, f"{allowed}, it is {state(mount)}")
    if state(mount) in GONE:
        wait_for(lambda: not mount.processes(), "the end of the QEMU")
        mount.check(is_running=False)
        power(mount, "start")
    elif state(mount) == "paused":
        power(mount, "resume")
    wait_for(lambda: state(mount) == "running", f"the guest to run, it is {state(mount)}")


def works(mount, value):
    """The guest reads what it wrote, and writes."""
    equal(len(mount.processes()), 1)
    mount.guest_reads()
    mount.guest_writes(value, [mount.targets[0]], at=5 * PAGE)
    mount.check()


def judge(scene, mount, fault, code, hits):
    operation = scene.operation
    wait_settled(mount)
    happened = operation.happened(mount)
    if code is None:  # a copy ends with its QEMU
        assert happened or (operation is COPY and hits and "killed" in fault.way), "told as done, and it is not"
    else:
        assert hits, f"{errno_name(code)}, and nothing was hit: {administer.newest_error(mount, 'web1')}"
        line = administer.newest_error(mount, "web1")
        assert f"({errno_name(code)})" in line, f"last_error does not tell of it: {line!r}"
        may_have = UNCERTAIN.search(fault.way) or operation in (ABORT, START)
        assert may_have or not happened, f"told as failed, and it has happened: {line}"
    if happened:
        operation.expect(mount)
    allowed = {operation.after if happened else operation.state}
    if operation is START:
        allowed = {operation.after} if code is None else {"running", *GONE}
    if "killed" in fault.way and hits:
        allowed |= set(GONE)
    runs(mount, operation, allowed)
    works(mount, 90)
    if not happened:
        if operation is PIVOT and "vda" not in copy_jobs(mount):
            assert not os.path.exists(copied(mount)), "a copy that is none is left"
            copy(mount, copied(mount))
        if operation is PIVOT:
            wait_ready(mount)
        if operation is START:
            mount.off()
        again = scene.attempt(mount)
        assert again is None, f"again, without a fault: {errno_name(again)}: {administer.newest_error(mount, 'web1')}"
        wait_settled(mount)
        assert operation.happened(mount), "again, and it has not happened"
        operation.expect(mount)
        runs(mount, operation, {operation.after, "running"})
        works(mount, 91)
    if "new" in mount.frozen_bytes and domains.document(mount, "new")["memory"] != "no":
        command_of(mount, "web1", "new", "revert", "running")
        for target in mount.targets:
            mount.wanted[target] = bytearray(mount.frozen_bytes["new"][target])
        works(mount, 92)
    finish(scene, mount)


def finish(scene, mount):
    """Off, every image is right, and no file is there that would not be if nothing had failed."""
    mount.off()
    wait_settled(mount)
    administer.wait_idle(mount)
    mount.check(is_running=False)
    if scene.operation is not ABORT or not os.path.exists(copied(mount)):
        # Disks that could not be taken back are a snapshot without its memory.
        has_file = "new" in mount.frozen_bytes and domains.document(mount, "new")["memory"] == "external"
        equal(os.path.exists(os.path.join(mount.source, MEMORY)), has_file, "the memory")
        scene.names = scene.names or names(mount)
        # a merge that could not be carried on is tried again, after a while
        wait_for(lambda: names(mount) == scene.names, lambda: f"{scene.names} alone to be there, and not {administer.names_beside(mount)}")
    mount.unmount()
    equal(store_left(mount), [], "files in the store")


def count(scene, kind):
    """How many there are, in an operation in which none fails; which is judged, too."""
    with scene.begun() as mount:
        fault = Fault(kind, next(iter(RUNNING_WAYS[kind])))
        scene.faults.arm(fault, NEVER)
        code = scene.attempt(mount)
        wait_settled(mount)
        number = scene.faults.passed()
        scene.faults.disarm()
        assert code is None, administer.newest_error(mount, "web1")
        judge(scene, mount, fault, None, "")
    return number


def try_case(scene, fault, number):
    """Returns what was hit; empty: nothing."""
    begin = time.monotonic()
    with scene.begun() as mount:
        scene.faults.arm(fault, number)
        code = scene.attempt(mount)
        told = "done" if code is None else errno_name(code)
        try:
            wait_settled(mount)
            hits = scene.faults.disarm()
            judge(scene, mount, fault, code, hits)
        except BaseException:
            hits = scene.faults.disarm()
            print(f"    {scene.name}: {fault}, number {number}: {hits}; {told}")
            with contextlib.suppress(OSError):
                print("    " + mount.text("web1", "last_error").replace("\n", "\n    ") + mount.text("web1", "events").replace("\n", "\n    "))
            raise
    print(f"    {scene.name}: {fault}, number {number}: {hits or 'nothing'}: {told}, {time.monotonic() - begin:.1f} s", flush=True)
    return hits


def test_some():
    """Some commands to QEMUs, and some calls, failing in some operations on running domains"""
    need(QEMU)
    random = checks.seed()
    faults = Faults()
    end = time.monotonic() + SECONDS / 2
    cases = 0
    while cases == 0 or time.monotonic() < end:
        scene = Scene(random.choice(list(SCENES)), faults)
        kind = random.choice(("monitor", "monitor", *KINDS))
        number = count(scene, kind)
        for _ in range(2 if number else 0):
            try_case(scene, Fault(kind, random.choice(list(RUNNING_WAYS[kind]))), random.randrange(1, number + 1))
            cases += 1
            if time.monotonic() > end:
                break
    print(f"    {cases} cases")


def try_at_most(scene, fault, number):
    """As try_case, at that number, or at the last one where there are fewer: QEMU is asked more often the longer it takes."""
    while not try_case(scene, fault, number):
        number -= 1
        assert number, "nothing to be hit"


def test_lost_while_it_stands_still():
    """The connection breaks while a guest stands still for its memory: it runs again, whether it was undone or has happened"""
    need(QEMU)
    scene = Scene("create memory mixed", Faults())
    for command, number in (("stop", 1), ("migrate", 1), ("transaction", 1), ("migrate-continue", 1), ("query-status", 3), ("cont", 1)):
        assert try_case(scene, Fault("monitor", "carried out, breaks", only=command), number)


# What was wrong: the guest stayed paused; it did, as the operation could not be concluded before the next mount; it did, as
# nobody looked, twice; a job wrote on, and its layers were changed by someone else; a snapshot came that nobody had taken; a step
# was never done.
FOUND = (
    ("pivot", Fault("monitor", "error", only="cont"), 1),
    ("create memory mixed", Fault("monitor", "error", only="cont"), 1),
    ("create memory live", Fault("monitor", "carried out, silent", only="cont"), 1),
    ("revert shutoff", Fault("monitor", "carried out, silent", only="migrate-set-parameters"), 1),
    ("revert memory", Fault("files", "EACCES", only="/.vmsnapfs/domains/1.restart.tmp"), 7),
    ("rmdir into parent", Fault("monitor", "error", only="query-jobs"), 5),
    ("rmdir into parent", Fault("files", "EIO"), 52),
    ("rmdir current", Fault("monitor", "error", only="query-jobs"), 6),
    ("rmdir current", Fault("monitor", "carried out, silent", only="query-block"), 3),
)


def test_found():
    """Commands that failed, and what came of it was wrong once"""
    need(QEMU)
    faults = Faults()
    for name, fault, number in FOUND:
        try_at_most(Scene(name, faults), fault, number)


def test_destroyed_before_it_is_noted():
    """A guest that went back, where it could not be written down that it runs, stays off when it is destroyed"""
    need(QEMU)
    scene = Scene("revert memory", Faults())
    with scene.begun() as mount:
        pending = os.path.join(mount.source, ".vmsnapfs", "domains", "1.restart")
        scene.faults.arm(Fault("files", "EACCES", lasts=True, only="/.vmsnapfs/domains/1.restart.tmp"), 7)
        scene.attempt(mount)
        assert os.path.exists(pending), "it was written down"
        power(mount, "destroy")
        assert scene.faults.disarm(), "nothing has failed"
        wait_for(lambda: not os.path.exists(pending), "the end of what was to go on")
        administer.wait_idle(mount)
        equal((mount.text("web1", "state"), mount.processes()), ("shutoff\n", []))


def test_resumed_before_it_is_known():
    """A guest that moved to its copy while the connection was lost, resumed as soon as there is one: what it writes is kept"""
    need(QEMU)
    scene = Scene("pivot", Faults())
    with scene.begun() as mount:
        scene.faults.arm(Fault("monitor", "carried out, breaks", lasts=True, only="human-monitor-command"), 1)
        assert scene.attempt(mount), "the connection was not lost"
        scene.faults.arm(Fault("monitor", "breaks", lasts=True), 1)
        time.sleep(1)
        scene.faults.disarm()
        wait_for(lambda: state(mount) in ("paused", "running"), "the connection")
        with contextlib.suppress(OSError):  # it runs already, then
            power(mount, "resume")
        mount.guest_writes(60, at=6 * PAGE)
        mount.flush()
        mount.kill_guest()
        wait_settled(mount)
        mount.check(is_running=False)
        mount.start()
        works(mount, 61)


def all_of(scene, fault):
    """Tries all numbers; returns what failed."""
    failed, missed = [], 0
    for number in range(1, CASES_MAX):
        try:
            missed = 0 if try_case(scene, fault, number) else missed + 1
            if missed == 3:  # jobs are asked about more often at times
                break
        except Exception as error:  # the others are still to be tried
            print(f"    FAILED: {type(error).__name__} {str(error)[:1000]}", flush=True)
            failed.append(f"{scene.name}: {fault}, number {number}")
    return failed


def test_all():
    """Every command and call, failing in turn in every operation on a running domain"""
    need(QEMU)
    failed = []
    faults = Faults()
    for name in SCENES:
        for kind in KINDS:
            for way in RUNNING_WAYS[kind]:
                fault = Fault(kind, way)
                if ONLY.search(f"{name}: {fault}"):
                    failed += all_of(Scene(name, faults), fault)
    assert not failed, f"{len(failed)}: {failed}"


if __name__ == "__main__":
    checks.main({"test_all": test_all} if ALL else {name: value for name, value in globals().items() if name != "test_all"})
