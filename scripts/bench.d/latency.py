# SPDX-License-Identifier: LGPL-2.1-or-later
"""A reader of its own: latency.py FILE SECONDS prints the 99.9th percentile of the times that reads take, in seconds."""

import mmap
import os
import random
import sys
import time

BLOCK = 4096
SEED = 20121


def main():
    path, seconds = sys.argv[1], float(sys.argv[2])
    chance = random.Random(SEED)
    buffer = mmap.mmap(-1, BLOCK)  # aligned, as O_DIRECT wants it
    handle = os.open(path, os.O_RDONLY | os.O_DIRECT)
    blocks = os.fstat(handle).st_size // BLOCK
    times = []
    end = time.perf_counter() + seconds
    begin = time.perf_counter()
    while begin < end:
        if os.preadv(handle, [buffer], chance.randrange(blocks) * BLOCK) != BLOCK:
            sys.exit(f"{path}: a read was cut short")
        now = time.perf_counter()
        times.append(now - begin)
        begin = now
    times.sort()
    print(times[len(times) * 999 // 1000])


if __name__ == "__main__":
    main()
