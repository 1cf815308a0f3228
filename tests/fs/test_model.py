# SPDX-License-Identifier: LGPL-2.1-or-later
"""Administration against a model: random sequences over several domains, without and with the daemon being killed.

VMSNAPFS_SEED repeats a run, VMSNAPFS_TEST_SECONDS says how long each of the two goes on. With
VMSNAPFS_TEST_CRASH_POINTS, the daemon (of a build with tests) ends itself at the places that it has
for that, too, while it does something or while it settles what a crash has left, besides being killed at random instants.
"""

import errno
import os
import random as random_module
import signal
import threading
import time

import administer
import checks
import model_check
import model_steps
from model_steps import Steps, copy_world, settle_names
from mounted import Mounted, MountFailed, is_mounted, run

SECONDS = float(os.environ.get("VMSNAPFS_TEST_SECONDS") or (30 if os.environ.get("VMSNAPFS_SANITIZED") else 60))
ROUND_STEPS = 60  # of one sequence, from new domains to none of their snapshots left
# As the calls of crash_point() are named, by the steps that come to them: what is done at once, and in the background.
COMMON = ("made", "journaled", "committing", "committed", "finishing")
BACKGROUND = ("touched", "merged", "renamed", "dropped", "unlinked", "copied", "reclaimed")
CRASH_POINTS = {
    "create": (*COMMON, "published", "pointed", "snapshotted"),
    "revert": (*COMMON, "published", "pointed", "applied"),
    "clone": (*COMMON, "published", "cloned", "defined"),
    "delete": (*COMMON, *BACKGROUND),
}
AT_START = ("undone", "finishing", *BACKGROUND)
HAS_POINTS = bool(os.environ.get("VMSNAPFS_TEST_CRASH_POINTS"))
CRASH_STEPS = 5  # at most so many steps until the daemon is killed
EXPECTED = (r"is active, and yet it is the backing file",)  # of the log: an image that others were laid upon by hand


def expected_in_log(crashes):
    return [*EXPECTED, *([r"journal|undone|complet|settle|storage daemon"] if crashes else [])]


class Sequence:
    """One sequence of operations on one source."""

    def __init__(self, seed, crashes):
        self.random = random_module.Random(seed)
        self.crashes = crashes
        self.steps = Steps(self.random)
        self.history = []
        self.mount = Mounted(self.prepare, expected=expected_in_log(crashes))
        self.killed = self.killed_in_the_middle = 0

    def prepare(self, source):
        self.world, never_written = model_steps.first_world(self.random, source)
        self.initial = sorted(os.listdir(source))
        self.watch = model_check.Watch(source, never_written)

    def run(self):
        with self.mount:
            self.check(self.world)
            until_killed = self.random.randrange(1, CRASH_STEPS + 1)
            for _ in range(ROUND_STEPS):
                step = self.steps.choose(self.mount, self.world)
                self.history.append(str(step))
                until_killed -= 1
                if self.crashes and until_killed <= 0 and not str(step).startswith("guest of"):
                    self.take_and_kill(step)
                    until_killed = self.random.randrange(1, CRASH_STEPS + 1)
                else:
                    self.take(step)
                if self.random.random() < 0.3:
                    administer.wait_idle(self.mount)
                self.check(self.world)
            self.delete_all()
        return len(self.history)

    def check(self, world):
        model_check.check(self.mount, world, self.watch, leaks_allowed=self.crashes)

    def take(self, step):
        """Carries it out on both; what is refused must be refused, and with the right errno."""
        code = attempt(step, self.mount)
        if step.refusals:
            assert code is not None, f"succeeded: {step}"
            assert code is UNKNOWN or code in step.refusals, f"errno {errno_name(code)}: {step}: {self.errors()}"
            return
        assert code is None, f"errno {errno_name(code)}: {step}: {self.errors()}"
        self.world = self.after(step)

    def after(self, step):
        world = copy_world(self.world)
        step.apply(world)
        settle_names(self.mount, world, step)
        return world

    def errors(self):
        return [administer.newest_error(self.mount, name) for name in self.world]

    def take_and_kill(self, step):
        """The daemon is killed at some instant of the step; afterwards it has happened, or it has not."""
        outcome = []
        came = False
        points = CRASH_POINTS.get(step.kind) if HAS_POINTS and not step.refusals and self.random.random() < 0.7 else None
        point = self.random.choice(points) if points else None
        if point and not self.mount_with(point):
            point = None
        thread = threading.Thread(target=lambda: outcome.append(attempt(step, self.mount)))
        thread.start()
        if point:
            thread.join()
            came = self.ends_itself()
            told = f"at {point}" if came else f"after it all, having not come to {point}"
        else:
            delay = self.random.choice((0.002, 0.01, 0.03, 0.03, 0.06)) * self.random.random()
            time.sleep(delay)
            told = f"after {delay * 1000:.1f} ms"
        self.kill()
        thread.join()
        self.killed += 1
        self.killed_in_the_middle += came or outcome[0] in (errno.ENOTCONN, errno.ECONNABORTED, UNKNOWN)
        self.history[-1] += f"  [killed {told}]"
        if HAS_POINTS and self.random.random() < 0.4:
            self.begin_and_kill()
        self.mount.environment = {}
        self.mount.mount()
        self.settle(step, outcome[0])

    def point(self, name):
        return {"VMSNAPFS_TEST_CRASH": f"{name}:{self.random.choice((1, 1, 1, 2))}"}

    def ends_itself(self):
        """Whether the daemon comes to its point, in the background, too; the answer may be no when all work is done."""
        quiet, is_busy = administer.Quiet(), True
        while not quiet.look(is_busy):
            if self.mount.process.poll() is not None:
                return True
            try:
                is_busy = any(administer.jobs(self.mount, name) for name in self.mount_names())
            except OSError:  # it has just gone
                is_busy = True
            time.sleep(0.01)
        return False

    def mount_names(self):
        return [name for name in os.listdir(self.mount.mountpoint) if not name.startswith(".")]

    def kill(self):
        self.mount.kill()
        run("umount", "--lazy", self.mount.mountpoint)
        self.mount.wait_for_orphans()

    def starts(self, point):
        """Whether it does not come to its point before it is ready."""
        self.mount.environment = self.point(point)
        try:
            self.mount.mount()
        except MountFailed as failure:
            assert failure.status == -signal.SIGKILL, failure
            self.history[-1] += f"  [the start at {point}]"
            if is_mounted(self.mount.mountpoint):
                run("umount", "--lazy", self.mount.mountpoint)
            self.mount.wait_for_orphans()
            return False
        return True

    def mount_with(self, point):
        """Mounts anew with a point; False: without, as what was left to do in the background came by there at once."""
        self.mount.unmount()
        if self.starts(point):
            return True
        self.mount.environment = {}
        self.mount.mount()
        return False

    def begin_and_kill(self):
        """A start that has something to settle is killed as well."""
        point = self.random.choice(AT_START)
        if self.starts(point):
            self.history[-1] += f"  [and after the start, {'at ' if self.ends_itself() else 'having not come to '}{point}]"
            self.kill()
        self.killed += 1

    def settle(self, step, code):
        """Which of the two is it? Told as done it must have happened, refused by the rules it must not have."""
        possible = [self.world]
        if not step.refusals and code is None:
            possible = [self.after(step)]
        elif not step.refusals:
            possible.append(self.after(step))
        administer.wait_idle(self.mount)  # the guard of a revert that was interrupted goes when its domain is at rest
        wrong = []
        for world in possible:
            try:
                self.check(world)
                self.world = world
                return
            except AssertionError as error:
                wrong.append(str(error))
        said = "it was told as done" if code is None else f"it ended with {errno_name(code)}"
        raise AssertionError(f"after a crash in {step} ({said}) neither before nor after holds: {' // '.join(wrong)}")

    def delete_all(self):
        """In random order; the domains come home, with the right bytes."""
        for name in self.random.sample(sorted(self.world), len(self.world)):
            domain = self.world[name]
            for snapshot in self.random.sample(list(domain.snapshots.values()), len(domain.snapshots)):
                if snapshot.is_protected:
                    administer.command_of(self.mount, name, snapshot.name, "protected", "0")
                    domain.snapshots[snapshot.serial].is_protected = False
                if domain.refusals_delete(snapshot.serial, "1"):
                    continue  # it lies in a file that is never written
                os.rmdir(administer.snapshot_path(self.mount, name, snapshot.name))
                domain.delete(snapshot.serial, "1")
        administer.wait_idle(self.mount)
        self.check(self.world)
        model_check.check_home(self.mount, self.world, self.initial)


UNKNOWN = object()  # a command said no, and not why


def attempt(step, mount):
    """None, the errno, or UNKNOWN."""
    try:
        return UNKNOWN if step.act(mount) is False else None
    except OSError as error:
        return error.errno


def errno_name(code):
    return "?" if code is UNKNOWN else administer.errno_name(code)


def sequences(seconds, begin, told):
    """One after the other for so many seconds; the first that fails is told with all its steps. `begin(seed)` gives one,
    with run() and its history, `told(sequence)` what is said after its end."""
    random = checks.seed()
    end = time.monotonic() + seconds
    count = steps = 0
    while count == 0 or time.monotonic() < end:
        seed = random.randrange(1 << 48)
        sequence = begin(seed)
        try:
            steps += sequence.run()
        except BaseException:
            print(f"    sequence {count}, seed {seed}:", flush=True)
            for number, line in enumerate(sequence.history):
                print(f"    {number:3} {line}")
            raise
        finally:
            if sequence.mount.process is None and is_mounted(sequence.mount.mountpoint):
                run("umount", "--lazy", sequence.mount.mountpoint)
        count += 1
        print(f"    {count} sequences, {steps} steps{told(sequence)}", flush=True)


def test_sequences():
    """After every step each byte, the tree, the domains' disks, the images and the user's files are as the model says"""
    sequences(SECONDS, lambda seed: Sequence(seed, False), lambda sequence: "")


def test_crashes():
    """Killed in the middle, an operation has happened or it has not, and nothing else has changed"""
    killed = {"all": 0, "middle": 0}

    def told(sequence):
        killed["all"] += sequence.killed
        killed["middle"] += sequence.killed_in_the_middle
        return f", killed {killed['all']} times, {killed['middle']} of them in the middle of something"

    sequences(SECONDS, lambda seed: Sequence(seed, True), told)


if __name__ == "__main__":
    checks.main(globals())
