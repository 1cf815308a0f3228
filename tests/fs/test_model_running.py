# SPDX-License-Identifier: LGPL-2.1-or-later
"""Domains that run, against the model: random sequences over a domain and its clones, on common layers, in QEMUs without an
operating system, whose guests write; without and with the daemon, or a QEMU, being killed.

VMSNAPFS_SEED repeats a run, VMSNAPFS_TEST_SECONDS says how long each of the two goes on. With
VMSNAPFS_TEST_CRASH_POINTS the daemon ends itself at the places that it has for that, too.
"""

import contextlib
import errno
import json
import os
import random as random_module
import signal
import subprocess
import threading
import time

import administer
import checks
import model_check
from checks import equal, need
from model_running import OFF, PAUSED, RUNS, RunningSteps, first_world, rest
from model_steps import copy_world
from mounted import HOPELESS, Mounted, MountFailed, children, reap, run, wait_for
from running import is_ended
from test_model import attempt, errno_name, sequences
from test_power import BARE, QEMU, Monitor

SECONDS = float(os.environ.get("VMSNAPFS_TEST_SECONDS") or 20)
HAS_POINTS = bool(os.environ.get("VMSNAPFS_TEST_CRASH_POINTS"))
ROUND_STEPS = 40
SERIAL_BITS, POSITION_BITS = 48, 10  # of an inode number, as fs/node.h has them
COMMON = ("made", "journaled", "published", "committing", "committed", "finishing")
BACKGROUND = ("touched", "merged", "renamed", "dropped", "unlinked", "copied", "reclaimed", "held", "kept", "pivoted")
CRASH_POINTS = {
    "create": (*COMMON, "opened", "taken", "stopped", "saving", "memory-saved", "memory-whole", "memory-published", "resumed", "copied"),
    "revert": (*COMMON, "pointed", "applied", "saving", "saved", "ended", "launched", "loaded", "noted", "continued"),
    "clone": (*COMMON, "cloned", "defined"),
    "delete": (*COMMON, *BACKGROUND, "memory-removed"),
    "turn_on": ("transient",),
    "copy": ("mirror-noted", "mirror-opened", "mirror-started", "mirror-pivots", "mirror-stopped", "mirror-moved", "mirror-committed",
             "mirror-resumed", "mirror-ends", "mirror-detached", "mirror-dropped"),
}  # fmt: skip
EXPECTED = (r"its QEMU", r"ended while nobody looked", r"ended by signal", r"ended without being asked")
EXPECTED_OF_CRASHES = (r"journal|undone|complet|settle|interrupted|storage daemon|does not answer|start|memory|copy|merge|go on as before|after its snapshot|could not be saved; that is tried again",)
POWER = {"running": RUNS, "paused": PAUSED, "shutoff": OFF, "crashed": OFF}


class Source(Mounted):
    """A mount of domains that run."""

    def __init__(self, prepare, expected):
        super().__init__(prepare, expected=expected)
        self.elsewhere = self._directory("elsewhere")
        self.options = f"allow={self.elsewhere}"
        self.serials = {}

    def arm_clones(self):
        """A clone's definition says nothing of starting it: its user does."""
        for entry in os.listdir(self.source):
            path = os.path.join(self.source, entry)
            if not entry.endswith(".json") or entry.startswith("one"):
                continue
            with open(path, encoding="utf-8") as file:
                content = json.load(file)
            if "launch" in content:
                continue
            content["launch"] = self.launch
            with open(path + ".new", "w", encoding="utf-8") as file:
                json.dump(content, file)
            os.rename(path + ".new", path)
            wait_for(lambda: self.can_be_launched(entry.removesuffix(".json")), "the new definition of a clone")

    def can_be_launched(self, domain):
        """What is off, and can't be paused therefore, says so only where it could be started."""
        try:
            administer.command(self, domain, "power", "pause")
        except OSError as error:
            return error.errno == errno.EINVAL
        return True

    def domains(self):
        return [name for name in os.listdir(self.mountpoint) if not name.startswith(".")]

    def guests(self):
        """{serial number of the domain: (pid, path of the second monitor)} of the QEMUs of this source."""
        found = {}
        for pid in filter(str.isdigit, os.listdir("/proc")):
            with contextlib.suppress(OSError), open(f"/proc/{pid}/cmdline", "rb") as file:
                words = file.read().decode(errors="replace").split("\0")
                if words[0].endswith(QEMU) and any(self.room in word for word in words[1:]):
                    path = next(word.split("path=")[1] for word in words if "monitor-2" in word)
                    found[int(os.path.basename(os.path.dirname(path)).split("-")[1])] = (int(pid), path)
        return found

    def of(self, domain):
        """(pid, path of the second monitor) of the QEMU of a domain; None where none runs."""
        with contextlib.suppress(OSError):  # when its daemon is dead
            self.serials[domain] = os.stat(self.path(domain)).st_ino >> POSITION_BITS & ((1 << SERIAL_BITS) - 1)
        return self.guests().get(self.serials.get(domain))

    @contextlib.contextmanager
    def monitor_of(self, domain):
        monitor = Monitor(self.of(domain)[1])
        try:
            yield monitor
        finally:
            monitor.close()

    def io_of(self, domain, target, command):
        with self.monitor_of(domain) as monitor:
            line = f'qemu-io -d /machine/peripheral/d-{target}/virtio-backend "{command}"'
            equal(monitor.command("human-monitor-command", command_line=line), "", command)

    def guest_bytes(self, domain, targets):
        """{target: what the guest reads}, as its QEMU exports it."""
        where, found = os.path.join(self.room, "nbd"), {}
        with self.monitor_of(domain) as monitor:
            monitor.command("nbd-server-start", addr={"type": "unix", "data": {"path": where}})
            for target in targets:
                wait_for(lambda: exports(monitor, target), f"{target} to stay what it is for a moment")
                raw = os.path.join(self.room, "guest.raw")
                run("qemu-img", "convert", "-f", "raw", "-O", "raw", f"nbd+unix:///{target}?socket={where}", raw)
                with open(raw, "rb") as file:
                    found[target] = file.read()
            monitor.command("nbd-server-stop")
            while monitor.command("query-block-exports"):
                time.sleep(0.01)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(where)
        return found

    def kill_guest(self, domain):
        found = self.of(domain)
        if found:
            with contextlib.suppress(ProcessLookupError):
                os.kill(found[0], signal.SIGKILL)
            wait_for(lambda: is_ended(found[0]), "the end of a killed QEMU")

    def mount_again(self, **environment):
        """After the daemon was killed, or has ended itself."""
        if self.process:
            self.kill()
        subprocess.run(["umount", "--lazy", self.mountpoint], check=False)
        self.environment = environment
        self.mount()

    def unmount(self):
        self.reap()
        super().unmount()

    def reap(self):
        """Takes leave of what a daemon has left to us, and of what has ended."""
        reap(children() - {self.process.pid if self.process else 0})

    def end_guests(self):
        for pid, _ in self.guests().values():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        while self.guests():
            time.sleep(0.02)
        self.reap()


def exports(monitor, target):
    """Whether the disk could be exported: in between it may have changed over to another layer."""
    blocks = {block.get("qdev"): block for block in monitor.command("query-block")}
    node = blocks[f"/machine/peripheral/d-{target}/virtio-backend"]["inserted"]["node-name"]
    try:
        monitor.command("block-export-add", **{"type": "nbd", "id": target, "node-name": node, "name": target})
    except AssertionError as refusal:
        if "Cannot find" not in str(refusal):
            raise
        return False
    return True


class Sequence:
    def __init__(self, seed, crashes):
        self.random = random_module.Random(seed)
        self.crashes = crashes
        self.steps = RunningSteps(self.random)
        self.history = []
        self.mount = Source(self.prepare, [*EXPECTED, *(EXPECTED_OF_CRASHES if crashes else ())])
        self.mount.launch = self.launch
        self.kills = 0

    def prepare(self, source):
        self.world = first_world(self.random, source, BARE)
        self.initial = sorted(os.listdir(source))
        self.watch = model_check.Watch(source, [])
        with open(os.path.join(source, "one.json"), encoding="utf-8") as file:
            self.launch = json.load(file)["launch"]

    def run(self):
        with self.mount:
            try:
                self.check(self.world)
                for _ in range(ROUND_STEPS):
                    step = self.steps.choose(self.mount, self.world)
                    self.history.append(str(step))
                    if self.crashes and not step.kind == "write" and self.random.random() < (0.6 if self.world[step.domain].is_active() else 0.3):
                        self.take_and_kill(step)
                    elif self.random.random() < 0.03 and self.world[step.domain].is_active():
                        self.kill_a_guest(step.domain)
                    else:
                        self.take(step)
                    if self.random.random() < 0.3:
                        rest(self.mount)
                    self.check(self.world)
                self.delete_all()
            except BaseException:
                self.told_at_the_end()
                self.mount.end_guests()
                raise
        return len(self.history)

    def told_at_the_end(self):
        with contextlib.suppress(OSError):
            for name in self.mount.domains():
                print(f"    {name}: {self.mount.text(name, 'state').strip()}, {administer.jobs(self.mount, name)}")
                for target in os.listdir(self.mount.path(name, "disks")):
                    print(f"      {target}: {[os.path.basename(path) for path in administer.layers(self.mount, name, target)]}")
                print("      " + "\n      ".join(self.mount.text(name, "last_error").splitlines()[:3]))

    def take(self, step):
        code = attempt(step, self.mount)
        if step.refusals:
            assert code is not None, f"succeeded: {step}"
            assert not isinstance(code, int) or code in step.refusals, f"errno {errno_name(code)}: {step}: {self.errors()}"
            return
        assert code is None, f"errno {errno_name(code)}: {step}: {self.errors()}"
        self.world = self.after(step)
        if step.kind == "clone":
            self.mount.arm_clones()

    def after(self, step):
        world = copy_world(self.world)
        step.apply(world)
        return world

    def errors(self):
        return [administer.newest_error(self.mount, name) for name in self.mount.domains()]

    def kill_a_guest(self, name):
        self.history[-1] = f"the QEMU of {name} is killed"
        self.mount.kill_guest(name)
        self.world[name].set_power(OFF)

    def starts(self, crash):
        """The daemon is started anew, to be killed at a point; False: what was left to do in the background came by there
        already, so that it is started without."""
        try:
            self.mount.mount_again(VMSNAPFS_TEST_CRASH=crash)
            self.wait_power(self.world)
            return True
        except (MountFailed, OSError):
            assert not self.mount.process or self.mount.process.poll() == -signal.SIGKILL, "it ended in another way"
            self.history[-1] += f"  [the start at {crash}]"
            self.mount.mount_again()
            self.wait_power(self.world)
            return False

    def take_and_kill(self, step):
        """The daemon is killed at some instant of the step, or the QEMU is, or both; it has happened, or it has not."""
        way = self.random.choice(("daemon", "daemon", "daemon", "QEMU", "both"))
        points = CRASH_POINTS.get(step.kind) if HAS_POINTS and way != "QEMU" and not step.refusals and self.random.random() < 0.6 else None
        point = self.random.choice(points) if points else None
        if point and not self.starts(f"{point}:{self.random.choice((1, 1, 2))}"):
            point = None
        outcome = []
        thread = threading.Thread(target=lambda: outcome.append(attempt(step, self.mount)))
        thread.start()
        delay = self.random.choice((0.01, 0.05, 0.2, 0.5)) * self.random.random()
        if point:
            thread.join()
            delay = 0.5
        end = time.monotonic() + delay
        while time.monotonic() < end and self.mount.process.poll() is None:
            time.sleep(0.002)
        came = self.mount.process.poll() is not None
        when = f"after {delay * 1000:.0f} ms" if not point else f"at {point}" if came else f"though it did not come to {point}"
        self.history[-1] += f"  [{way} killed {when}]"
        if way != "daemon":
            self.mount.kill_guest(step.domain)
        if way != "QEMU":
            self.mount.kill()
        thread.join(HOPELESS)
        assert not thread.is_alive(), f"does not come to its end: {step}"
        self.kills += 1
        if way != "QEMU":
            self.mount.mount_again()
        self.mount.arm_clones()
        self.end_copies()
        self.settle(step, outcome[0], way)

    def end_copies(self):
        for name in self.mount.domains():
            for target in os.listdir(self.mount.path(name, "disks")):
                if "not being copied" not in self.mount.text(name, "disks", target, "copy"):
                    with contextlib.suppress(OSError):  # it has ended by itself
                        administer.command(self.mount, name, f"disks/{target}/abort", "1")

    def settle(self, step, code, way):
        """Told as done it must have happened; what failed, while the daemon lived, must not have."""
        possible = [self.world]
        if not step.refusals:
            if code is None:
                possible = [self.after(step)]
            elif way != "QEMU":
                possible.append(self.after(step))
        may_be_off = way != "daemon" or step.kind in ("revert", "turn_on", "turn_off", "pause")
        wrong = []
        for world in possible:
            world = copy_world(world)
            try:
                self.wait_power(world, step.domain if may_be_off else None)
                self.check(world)
                # Both read the same whether the guest has moved to a copy or not: which it is, the tree tells.
                world[step.domain].is_cloned |= step.kind == "copy" and self.is_on_a_copy(step.domain)
                self.world = world
                return
            except AssertionError as error:
                wrong.append(str(error)[:600])
        said = "it was told as done" if code is None else f"it ended with {errno_name(code)}"
        raise AssertionError(f"after a crash in {step} ({said}) neither before nor after holds: {' // '.join(wrong)}")

    def is_on_a_copy(self, name):
        chains = [administer.layers(self.mount, name, target) for target in self.world[name].disks]
        return any(os.path.dirname(chain[-1]) == self.mount.elsewhere for chain in chains)

    def power(self, name):
        return self.mount.text(name, "state").strip()

    def wait_to_go_on(self, domain):
        """A guest that is to go on as before an operation does so soon, or never, where its QEMU is gone."""
        time.sleep(0.3)
        file = os.path.join(self.mount.source, ".vmsnapfs", "domains", f"{self.mount.serials.get(domain.name)}.restart")
        end = time.monotonic() + 20  # more than the waits between its attempts together
        while os.path.exists(file) and time.monotonic() < end:
            time.sleep(0.02)

    def wait_power(self, world, any_of=None):
        """Until each domain is as the model says, but for one whose state is taken as it is."""
        for name, domain in world.items():
            if name not in self.mount.domains():
                raise AssertionError(f"there is no domain {name}")
            end = time.monotonic() + HOPELESS
            if name == any_of:
                self.wait_to_go_on(domain)
            while time.monotonic() < end:
                found = POWER.get(self.power(name))
                if found == domain.power if name != any_of else found and (self.mount.of(name) is not None) == (found != OFF):
                    break
                time.sleep(0.02)
            else:
                raise AssertionError(f"{name} is {self.power(name)} where {domain.power} is right")
            if name == any_of:
                domain.power = found
                for disk in domain.disks.values():
                    disk.scratch = b"" if disk.persistent or found != OFF else disk.data

    def check(self, world):
        equal(sorted(self.mount.domains()), sorted(world), "domains")
        self.wait_power(world)
        busy = set()
        for name, domain in world.items():
            model_check.check_tree(self.mount, domain)
            for snapshot in domain.snapshots.values():
                for target, content in snapshot.contents.items():
                    found = administer.frozen_bytes(self.mount, name, snapshot.name, target)
                    model_check.compare(found, content.data, f"{name}/snapshots/{snapshot.name}/{target}")
            if domain.is_active():
                self.check_guest(domain)
                busy.update(path for target in domain.disks for path in administer.layers(self.mount, name, target))
            else:
                for target, disk in domain.disks.items():
                    model_check.compare(administer.active_bytes(self.mount, name, target), disk.data, f"the present {name} {target}")
        for path in administer.images(self.mount.source) + administer.images(self.mount.elsewhere):
            if not any(domain.is_active() for domain in world.values()):
                administer.check_image(path, leaks_allowed=True)
        self.watch.check()
        model_check.check_whether_known(self.mount, world)

    def check_guest(self, domain):
        for target, found in self.mount.guest_bytes(domain.name, domain.disks).items():
            disk = domain.disks[target]
            if not disk.persistent and not disk.scratch:
                disk.scratch = found  # of a QEMU that was killed, or not, just after it was started
            model_check.compare(found, disk.present(True), f"the guest of {domain.name} {target}")

    def delete_all(self):
        for name, domain in self.world.items():
            if domain.is_active() and self.random.random() < 0.7:
                administer.command(self.mount, name, "power", "destroy")
                domain.set_power(OFF)
        for name in self.random.sample(sorted(self.world), len(self.world)):
            domain = self.world[name]
            for snapshot in self.random.sample(list(domain.snapshots.values()), len(domain.snapshots)):
                if snapshot.is_protected:
                    administer.command_of(self.mount, name, snapshot.name, "protected", "0")
                    domain.snapshots[snapshot.serial].is_protected = False
                os.rmdir(administer.snapshot_path(self.mount, name, snapshot.name))
                domain.delete(snapshot.serial, "1")
        rest(self.mount)
        self.check(self.world)
        for name, domain in self.world.items():
            if domain.is_active():
                administer.command(self.mount, name, "power", "destroy")
                domain.set_power(OFF)
        administer.wait_idle(self.mount)
        self.check(self.world)
        clones = [name for name, domain in self.world.items() if domain.is_clone]  # whose first files stay, unless they went on in a copy
        first = [f"{name}{end}.qcow2" for name in clones for end in ("", "-vda", "-vdb", "-vdc")]
        model_check.check_home(self.mount, self.world, [*self.initial, *first])


def test_sequences():
    """After every step each byte, what the guests read, the tree, states and images are as the model says"""
    need(QEMU)
    sequences(SECONDS, lambda seed: Sequence(seed, False), lambda sequence: "")


def test_crashes():
    """The daemon or a QEMU killed in the middle, an operation has happened or it has not, and nothing else has changed"""
    need(QEMU)
    kills = []

    def told(sequence):
        kills.append(sequence.kills)
        return f", something was killed in {sum(kills)} of them"

    sequences(SECONDS, lambda seed: Sequence(seed, True), told)


if __name__ == "__main__":
    checks.main(globals())
