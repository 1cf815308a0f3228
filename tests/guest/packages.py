#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Fetches what the test guest is made of from Debian's packages, which are unpacked and not installed (a kernel that
is installed would be booted one day): its kernel, the modules for virtio, and the guest agent. Does nothing
where all that is there already."""

import glob
import lzma
import os
import re
import shutil
import subprocess
import sys
import tempfile

KERNEL = "linux-image-cloud-amd64"
AGENT = "qemu-guest-agent"
MODULES = ["virtio", "virtio_ring", "virtio_pci_legacy_dev", "virtio_pci_modern_dev", "virtio_pci", "virtio_blk", "virtio_console"]
FORMAT = 1  # of the folder; another number fetches anew


def cache():
    """Where it is kept: VMSNAPFS_TEST_CACHE, or in the user's own cache."""
    given = os.environ.get("VMSNAPFS_TEST_CACHE")
    return given or os.path.join(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "vmsnapfs-tests")


def folder():
    return os.path.join(cache(), f"packages-{FORMAT}")


def there():
    return os.path.isdir(folder())


def run(*command, **options):
    result = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **options)
    if result.returncode:
        raise OSError(f"{' '.join(command)}: {result.stdout.strip() or result.returncode}")
    return result.stdout


def kernel_package():
    """The package with the kernel itself, which the one with the lasting name depends on."""
    found = re.search(r"^Depends: (linux-image-[^ ,]+)", run("apt-cache", "show", "--no-all-versions", KERNEL), re.MULTILINE)
    if not found:
        raise OSError(f"{KERNEL} names no kernel")
    return found[1]


def fetch(into):
    with tempfile.TemporaryDirectory(dir=cache(), prefix="fetching-") as room:
        run("apt-get", "download", "-q", "-o", "APT::Sandbox::User=root", kernel_package(), AGENT, cwd=room)
        for package in glob.glob(f"{room}/*.deb"):
            run("dpkg-deb", "--extract", package, f"{room}/root")
        (kernel,) = glob.glob(f"{room}/root/boot/vmlinuz-*")
        shutil.copyfile(kernel, f"{into}/vmlinuz")
        for name in MODULES:
            copy_module(f"{room}/root", name, into)
        shutil.copy(f"{room}/root/usr/sbin/qemu-ga", into)


def copy_module(root, name, into):
    """Kernels that have it built in come without it (Debian 13's has most); there modules are compressed, too."""
    for module in glob.glob(f"{root}/**/modules/**/{name}.ko*", recursive=True):
        with (lzma.open if module.endswith(".xz") else open)(module, "rb") as file, open(f"{into}/{name}.ko", "wb") as copy:
            shutil.copyfileobj(file, copy)


def refresh():
    as_root = [] if os.geteuid() == 0 else ["sudo", "-n"]
    run(*as_root, "apt-get", "update", "-qq")


def fetch_once(into):
    try:
        fetch(into)
    except OSError:  # there are no lists of packages yet, or old ones
        refresh()
        fetch(into)


def main():
    if there():
        return
    try:
        os.makedirs(cache(), exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache(), prefix="made-") as room:
            made = os.path.join(room, "packages")
            os.mkdir(made)
            fetch_once(made)
            os.rename(made, folder())
    except (OSError, ValueError) as error:
        if not there():  # two at a time: the other one's will do
            sys.exit(f"the test guest's kernel and agent can't be had: {error}")


if __name__ == "__main__":
    main()
