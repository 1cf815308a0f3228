# SPDX-License-Identifier: LGPL-2.1-or-later
"""The programs that read: ordinary ones, as a backup uses them, timed from start to end with the wall clock."""

import json
import os
import subprocess
import time

from session import BenchError, command


def timed(*words, prefix=()):
    """Seconds that a command takes; its output goes to /dev/null."""
    begin = time.perf_counter()
    done = subprocess.run([*prefix, *words], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                          stderr=subprocess.PIPE, text=True, check=False)
    seconds = time.perf_counter() - begin
    if done.returncode:
        raise BenchError(f"{' '.join(words)}: {done.stderr.strip() or done.returncode}")
    return seconds


def sequential(path, block="1M"):
    """Bytes per second of one reader from begin to end, `block` a read: 1 MiB, the block size that stat recommends."""
    size = os.stat(path).st_size
    return size / timed("dd", f"if={path}", "of=/dev/null", f"bs={block}", "status=none")


def random_direct(path, seconds):
    """Reads per second: 4 KiB at random places, O_DIRECT, 16 at a time (fio with Linux AIO)."""
    text = command("fio", "--name=random", f"--filename={path}", "--readonly", "--rw=randread", "--bs=4k",
                   "--ioengine=libaio", "--iodepth=16", "--direct=1", "--time_based", f"--runtime={seconds}",
                   "--randseed=1", "--output-format=json")
    return json.loads(text[text.index("{"):])["jobs"][0]["read"]["iops"]


def copy_sparse(path, target):
    """Seconds of `cp --sparse=auto`. The target is a new file each time; removing it is not timed."""
    seconds = timed("cp", "--sparse=auto", path, target)
    os.unlink(target)
    return seconds


def tar_sparse(path):
    """Seconds of `tar -S` into a pipe: GNU tar reads nothing at all if it writes to /dev/null itself."""
    begin = time.perf_counter()
    folder, name = os.path.split(path)
    with subprocess.Popen(["tar", "-C", folder, "-cSf", "-", name], stdout=subprocess.PIPE) as tar:
        with subprocess.Popen(["cat"], stdin=tar.stdout, stdout=subprocess.DEVNULL) as cat:
            tar.stdout.close()
            failed = cat.wait() or tar.wait()
    if failed:
        raise BenchError(f"tar -cSf - {path} failed")
    return time.perf_counter() - begin


def list_tree(path):
    """Seconds of `find -ls` over a tree: reads every directory, stats everything, reads every link."""
    return timed("find", path, "-ls")


def same_as_image(image, path):
    """Checks with qemu-img that a frozen disk holds what the image holds: a fast wrong answer is no figure."""
    done = subprocess.run(["qemu-img", "compare", "-q", "-f", "qcow2", "-F", "raw", image, path],
                          capture_output=True, text=True, check=False)
    if done.returncode:
        raise BenchError(f"{path} differs from {image}: {(done.stdout + done.stderr).strip()}")
