# SPDX-License-Identifier: LGPL-2.1-or-later
"""Clones, and layers that several domains need: nothing that is done to one domain harms the others."""

import errno
import itertools
import json
import os
import uuid

import administer
import checks
import domains
import make
from administer import command_of, command_refused, snapshot_path
from checks import equal
from domains import Unchanged, byte, create, frozen_byte, write
from mounted import Mounted, wait_for


def definition(mount, name):
    with open(os.path.join(mount.source, name + ".json"), encoding="utf-8") as file:
        return json.load(file)


def test_clone():
    """A new domain, shut off, on the frozen layers or on copies of what lies inside; with a definition and uuid of its own"""
    for kind, full in itertools.product(("internal", "external"), (False, True)):
        with Mounted(lambda source: domains.web1(source, formats=("qcow2", "raw"), uuid="7a4c1f6e-0000-4000-8000-000000000001")) as mount:
            create(mount, f"one disk=vda:{kind} disk=vdb:external")
            write(mount, 9)
            command_of(mount, "web1", "one", "clone", "web2 full" if full else "web2")
            assert "web2" in os.listdir(mount.mountpoint), "the new domain is not there at once"
            equal(mount.text("web2", "state"), "shutoff\n")
            equal(mount.snapshots("web2"), [])
            equal((byte(mount, "web2"), byte(mount, "web2", "vdb")), (1, 2))
            told = definition(mount, "web2")
            equal(told["name"], "web2")
            assert uuid.UUID(told["uuid"]) != uuid.UUID("7a4c1f6e-0000-4000-8000-000000000001"), "it has the other one's uuid"
            for target in ("vda", "vdb"):
                chain = administer.layers(mount, "web2", target)
                alone = full or (target == "vda" and kind == "internal")
                equal(len(chain) == 1, alone, f"{kind} {full} {chain}")
                equal(os.path.dirname(chain[0]), mount.source)
            write(mount, 7, "web2")
            equal((byte(mount), byte(mount, "web2"), frozen_byte(mount, "one")), (9, 7, 1))
            domains.take(mount, "mine", "web2")
            write(mount, 8, "web2")
            mount.remount()
            equal((byte(mount), byte(mount, "web2"), frozen_byte(mount, "one"), frozen_byte(mount, "mine", "web2")), (9, 8, 1, 7))


def test_refused():
    """Names that are taken or illegal, and what is not understood; nothing has changed"""
    with Mounted(domains.web1) as mount:
        create(mount, "one disk=vda:external")
        make.write(make.image(mount.source, "other.qcow2", "1M"), "1 0 4k")
        with open(os.path.join(mount.source, "broken.json"), "w", encoding="utf-8") as file:
            file.write("no definition")
        mount.expected.append("broken.json|broken")
        with Unchanged(mount):
            for words, code in (
                ("web1", errno.EEXIST),
                ("other", errno.EEXIST),
                ("broken", errno.EEXIST),
                (".hidden", errno.EINVAL),
                ("a/b", errno.EINVAL),
                ("-x", errno.EINVAL),
                ("new half", errno.EINVAL),
                ("new full full", errno.EINVAL),
                ("n" * 255, errno.ENAMETOOLONG),
            ):
                command_refused(code, mount, "web1", "snapshots/one/clone", words)


def test_part_of_the_disks():
    """A clone has the disks that the snapshot includes"""
    with Mounted(lambda source: domains.web1(source, formats=("qcow2", "qcow2"))) as mount:
        create(mount, "one disk=vda:external disk=vdb:no")
        command_of(mount, "web1", "one", "clone", "web2")
        equal(os.listdir(mount.path("web2", "disks")), ["vda"])


def test_origin_goes():
    """Whatever is deleted in the first domain, the clone keeps its bytes, and the other way round"""
    for order in itertools.permutations(("web1 a", "web1 b", "web2 c")):
        with Mounted(domains.web1) as mount:
            # BASE---A---B web1, and A---C web2.
            domains.chain(mount, ("a", "b"))
            command_of(mount, "web1", "b", "clone", "web2")
            write(mount, 21, "web2", at=65536)
            create(mount, "c disk=vda:external", "web2")
            write(mount, 22, "web2", at=65536)
            wanted = {name: administer.active_bytes(mount, name) for name in ("web1", "web2")}
            frozen = {("web1", "a"): None, ("web1", "b"): None, ("web2", "c"): None}
            frozen = {key: administer.frozen_bytes(mount, *key) for key in frozen}
            for step in order:
                domain, name = step.split()
                os.rmdir(snapshot_path(mount, domain, name))
                del frozen[domain, name]
                for moment in ("at once", "when all is merged"):
                    for each, data in wanted.items():
                        assert administer.active_bytes(mount, each) == data, f"{order}, {step}, {moment}: {each}"
                    for key, data in frozen.items():
                        assert administer.frozen_bytes(mount, *key) == data, f"{order}, {step}, {moment}: {key}"
                    administer.wait_idle(mount)
            for path in administer.images(mount.source):
                administer.check_image(path)
            mount.remount()
            for each, data in wanted.items():
                assert administer.active_bytes(mount, each) == data, f"{order}, remounted: {each}"


def test_gold_image():
    """X7: two domains that others laid on one gold image, with snapshots of each, deleted in every order"""

    def prepare(source):
        gold = make.image(source, "gold.qcow2", str(domains.SIZE))
        make.write(gold, "1 0 64k")
        for name in ("web1", "web2"):
            make.overlay(gold, name + ".qcow2")
            make.definition(source, name, disks=[make.disk(name + ".qcow2")], follows=True)

    steps = [(domain, snapshot) for domain in ("web1", "web2") for snapshot in ("s", "t")]
    for order in itertools.permutations(steps):
        with Mounted(prepare) as mount:
            with open(os.path.join(mount.source, "gold.qcow2"), "rb") as file:
                gold = file.read()
            for number, (domain, snapshot) in enumerate(steps):
                write(mount, 10 + number, domain, at=65536 * (number + 1))
                create(mount, f"{snapshot} disk=vda:{'external' if number % 3 else 'internal'}", domain)
            wanted = {domain: administer.active_bytes(mount, domain) for domain in ("web1", "web2")}
            frozen = {key: administer.frozen_bytes(mount, *key) for key in steps}
            for key in order:
                os.rmdir(snapshot_path(mount, *key))
                del frozen[key]
                for each, data in frozen.items():
                    assert administer.frozen_bytes(mount, *each) == data, f"{order}: {each} after {key}"
            administer.wait_idle(mount)
            for domain, data in wanted.items():
                assert administer.active_bytes(mount, domain) == data, f"{order}: {domain}"
                equal(administer.layers(mount, domain), [os.path.join(mount.source, name) for name in (f"{domain}.qcow2", "gold.qcow2")])
            with open(os.path.join(mount.source, "gold.qcow2"), "rb") as file:
                assert file.read() == gold, f"{order}: the gold image was written"
            equal(administer.names_beside(mount), ["gold.qcow2", "web1.json", "web1.qcow2", "web2.json", "web2.qcow2"])


def test_home_over_a_frozen_layer():
    """A disk that went back to an inner state comes home into its first file, which stands on another domain's layer"""
    with Mounted(domains.web1) as mount:
        write(mount, 3, at=8192)
        create(mount, "gold disk=vda:external")
        command_of(mount, "web1", "gold", "clone", "copy")
        first = administer.layers(mount, "copy")[0]
        write(mount, 5, "copy")
        create(mount, "inner disk=vda:internal", "copy")
        write(mount, 6, "copy", at=4096)
        create(mount, "outer disk=vda:external", "copy")
        command_of(mount, "copy", "inner", "revert", "1")
        administer.guest_write(mount, "copy", "vda", "0 8192 4k")
        wanted = administer.active_bytes(mount, "copy")
        for name in ("outer", "inner"):
            os.rmdir(snapshot_path(mount, "copy", name))
        administer.wait_idle(mount)
        equal(administer.source(mount, "copy")[0], first)
        equal(administer.active_bytes(mount, "copy"), wanted)
        equal((byte(mount, "copy"), byte(mount, "copy", at=8192), frozen_byte(mount, "gold", at=8192)), (5, 0, 3))
        administer.check_image(first)


def test_unknown_child():
    """An overlay that somebody laid on a frozen layer meanwhile keeps it from being written"""
    with Mounted(domains.web1) as mount:
        domains.chain(mount, ("one", "two"))
        frozen = os.path.join(mount.source, "web1.one")
        theirs = make.overlay(frozen, "theirs.img")
        raw = os.path.join(mount.room, "raw")
        before = make.convert(theirs, raw)
        for name in ("one", "two"):
            os.rmdir(snapshot_path(mount, "web1", name))
        wait_for(lambda: any("theirs.img" in status for status in administer.jobs(mount, "web1").values()), "the reason in jobs/")
        assert make.convert(theirs, raw) == before, "what somebody laid on a frozen layer reads something else now"
        equal(byte(mount), 3)
        os.unlink(theirs)
        domains.home(mount)
        equal(byte(mount), 3)


if __name__ == "__main__":
    checks.main(globals())
