# SPDX-License-Identifier: LGPL-2.1-or-later
"""The session of the README does what it says, line by line, in directories of its own."""

import os
import re
import subprocess
import tarfile

import checks
from checks import equal
from mounted import PROGRAM, is_mounted, new_room

README = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "README.md")
PLACES = ("/srv/vm", "/mnt", "/backup")


def session():
    """The lines of the section "A session" that stand as code."""
    with open(README, encoding="utf-8") as file:
        section = re.search(r"^## A session$(.*?)^## ", file.read(), re.MULTILINE | re.DOTALL)
    lines = [line[4:] for line in section[1].splitlines() if line.startswith("    ")]
    assert len(lines) >= 10, lines
    return lines


def test_session():
    """Pasted into a shell, every line succeeds, and at the end the tree is what the comments say"""
    checks.need_root()
    checks.need("qemu-img", "qemu-storage-daemon", "tar")
    room = new_room()
    places = {place: os.path.join(room, place.rpartition("/")[2]) for place in PLACES}
    for path in places.values():
        os.mkdir(path)
    lines = [re.sub("|".join(PLACES), lambda match: places[match[0]], line) for line in session()]
    environment = {**os.environ, "PATH": f"{os.path.dirname(PROGRAM)}:{os.environ['PATH']}"}
    try:
        said = subprocess.run(["bash", "-eu"], input="\n".join(lines), capture_output=True, text=True, env=environment, check=False)
        equal((said.returncode, said.stderr), (0, ""), "the session")
        snapshots = os.path.join(places["/mnt"], "web1", "snapshots")
        names = sorted(name for name in os.listdir(snapshots) if not name.startswith("."))
        assert len(names) == 2 and names[0] == "clean-install" and names[1].startswith("guard-"), names
        equal(os.path.basename(os.readlink(os.path.join(places["/mnt"], "web1", "current"))), "clean-install")
        for word in ("created snapshot clean-install", "renamed snapshot upgrade to before-upgrade", "cloned snapshot before-upgrade to domain web2",
                     "deleted snapshot before-upgrade"):  # fmt: skip
            assert word in said.stdout, f"{word!r} is not in {said.stdout!r}"
        equal(os.listdir(os.path.join(places["/mnt"], "web2", "snapshots")), [".order"])
        with tarfile.open(os.path.join(places["/backup"], "web1.tar")) as archive:
            equal(archive.getmember("disks/vda.raw").size, 20 << 30)
    finally:
        if is_mounted(places["/mnt"]):
            subprocess.run(["umount", places["/mnt"]], check=True)


if __name__ == "__main__":
    checks.main(globals())
