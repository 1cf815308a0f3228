# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a test run can leave behind, found again by marks that only a test run sets, and taken away.

Mounts and loop devices are a run's own if they lie under its scratch directory. Processes are its own if they have
its token in their environment, which every descendant inherits; they are ended by a file descriptor for the process,
so that a number that was given to another one meanwhile is never hit.
"""

import fcntl
import json
import os
import re
import select
import shutil
import signal
import subprocess

TOKEN_VARIABLE = "VMSNAPFS_TEST_RUN"
TOKEN_FILE = "this-is-a-vmsnapfs-test-run"  # in the scratch directory; without it nothing is removed there
GRACE_SECONDS = 10  # for a process to end by itself before it is killed


def mounts_under(directory):
    """Mount points under `directory`, the newest first."""
    found = []
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        for line in file:
            target = re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), line.split()[4])
            if target.startswith(directory + "/"):
                found.append(target)
    return found[::-1]


def loops_under(directory):
    """Loop devices whose file is under `directory`, also where that file is gone."""
    result = subprocess.run(["losetup", "--json", "--list", "--output", "NAME,BACK-FILE"], capture_output=True, text=True)
    devices = json.loads(result.stdout)["loopdevices"] if result.returncode == 0 and result.stdout.strip() else []
    return [each["name"] for each in devices if (each["back-file"] or "").startswith(directory + "/")]


def has_token(pid, token):
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            return f"{TOKEN_VARIABLE}={token}".encode() in file.read().split(b"\0")
    except OSError:
        return False


def processes_of(token):
    """(pid, command line) of everything that the run with this token started and that is still there."""
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit() and int(name) != os.getpid() and has_token(name, token):
            try:
                with open(f"/proc/{name}/cmdline", "rb") as file:
                    found.append((int(name), file.read().replace(b"\0", b" ").decode(errors="replace").strip()))
            except OSError:
                pass
    return found


def end_process(pid, token):
    try:
        handle = os.pidfd_open(pid)
    except OSError:
        return
    try:
        if not has_token(pid, token):
            return
        for number in (signal.SIGTERM, signal.SIGKILL):
            try:
                signal.pidfd_send_signal(handle, number)
            except ProcessLookupError:
                return
            if select.select([handle], [], [], GRACE_SECONDS)[0]:
                return
    finally:
        os.close(handle)


def end_all(token):
    for pid, _command in processes_of(token):
        end_process(pid, token)


def look(directory, token):
    """One line for each thing of the run that is still there."""
    return (
        [f"mount {target}" for target in mounts_under(directory)]
        + [f"loop device {device}" for device in loops_under(directory)]
        + [f"process {pid}: {command}" for pid, command in processes_of(token)]
    )


def take_scratch(directory, token):
    """Makes `directory` this run's own, cleared of what an earlier run left. It stays so while the result is open."""
    while True:
        os.makedirs(directory, exist_ok=True)
        handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise SystemExit(f"test: another run is using {directory}; set VMSNAPFS_TEST_DIR to another directory")
        try:
            if os.path.samestat(os.fstat(handle), os.stat(directory)):
                break
        except FileNotFoundError:
            pass
        os.close(handle)  # the run before removed it just now

    path = os.path.join(directory, TOKEN_FILE)
    if os.path.exists(path):
        with open(path, encoding="ascii") as file:
            clear(directory, file.read() or token)
    elif os.listdir(directory):
        raise SystemExit(f"test: {directory} holds something else; set VMSNAPFS_TEST_DIR to another directory")
    with open(path, "w", encoding="ascii") as file:
        file.write(token)
    return handle


def clear(directory, token):
    """Takes everything of the run away, and what is in `directory`."""
    for target in mounts_under(directory):
        subprocess.run(["umount", target], capture_output=True)
    for device in loops_under(directory):
        subprocess.run(["losetup", "--detach", device], capture_output=True)
    end_all(token)
    for target in mounts_under(directory):
        subprocess.run(["umount", "--lazy", target], capture_output=True)
    if mounts_under(directory):
        raise SystemExit(f"test: can't unmount what is under {directory}")
    for entry in os.scandir(directory):
        if entry.is_dir(follow_symlinks=False):
            shutil.rmtree(entry.path)
        else:
            os.unlink(entry.path)
