# SPDX-License-Identifier: LGPL-2.1-or-later
"""The command line: verbs, their options, and help with examples."""

import argparse

import backup
import change
import check
import release
import show

POWER_WORDS = ("start", "shutdown", "destroy", "pause", "resume", "reset")

EPILOG = """\
Exit status: 0 done; 1 refused or failed, with the reason on standard error; 2 wrong usage.
`vmsnap VERB --help` has examples. The files behind the verbs: vmsnapfs(8)."""


def parse(words=None):
    parser = argparse.ArgumentParser(
        prog="vmsnap",
        description="Snapshots of virtual machines that vmsnapfs has mounted, by verbs.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("-m", "--mount", metavar="MOUNT", help="the mount point, where there are several")
    verbs = parser.add_subparsers(metavar="VERB", required=True)
    for add in (add_list, add_tree, add_create, add_revert, add_delete, add_clone, add_power, add_copy, add_pivot, add_abort, add_backup, add_restore, add_jobs, add_check, add_release):
        add(verbs)
    add_complete(verbs)
    options = parser.parse_args(words)
    if options.run is backup.backup:
        split_backup(parser, options)
    return options


def verb(verbs, name, run, what, examples):
    parser = verbs.add_parser(
        name,
        help=what,
        description=what[0].upper() + what[1:] + ".",
        epilog="Examples:\n" + "\n".join(f"  vmsnap {line}" for line in examples),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.set_defaults(run=run)
    return parser


def add_list(verbs):
    parser = verb(verbs, "list", show.list_all, "list domains, or the snapshots of one, the oldest first", ("list", "list web1", "list web1 --json"))
    parser.add_argument("domain", nargs="?", metavar="DOMAIN")
    parser.add_argument("--json", action="store_true", help="everything that is known, as a JSON list")


def add_tree(verbs):
    parser = verb(verbs, "tree", show.tree, "draw the snapshots as a tree", ("tree", "tree web1"))
    parser.add_argument("domain", nargs="?", metavar="DOMAIN")


def add_create(verbs):
    examples = (
        "create web1                                  a name made up from the time",
        "create web1 upgrade                          as `defaults` of the domain says",
        "create web1 upgrade -d 'before version 2'",
        "create web1 upgrade disk=vda:external disk=vdb:no",
        "create web1 other live=1 -f upgrade.cfg      a document; to xl configuration KEY=VALUE is added",
    )
    parser = verb(verbs, "create", change.create, "take a snapshot, and print its name", examples)
    parser.add_argument("domain", metavar="DOMAIN")
    parser.add_argument("name", nargs="?", metavar="NAME")
    parser.add_argument("option", nargs="*", metavar="OPTION", help="as for the file `create`, instead of `defaults`")
    parser.add_argument("-d", "--description", metavar="TEXT")
    parser.add_argument("-f", "--file", metavar="FILE", help="a document for `create`: JSON, libvirt's <domainsnapshot>, xl configuration")


def add_revert(verbs):
    examples = ("revert web1 upgrade", "revert web1 upgrade --guard          keep the present in a snapshot first")
    parser = verb(verbs, "revert", change.revert, "return a domain to a snapshot; what came after and was not saved is gone", examples)
    parser.add_argument("domain", metavar="DOMAIN")
    parser.add_argument("snapshot", metavar="SNAPSHOT")
    parser.add_argument("state", nargs="?", choices=("running", "paused", "shutoff"), help="the state afterwards; as it was then, without")
    parser.add_argument("--guard", action="store_true", help="take a snapshot of the present first")
    parser.add_argument("--force", action="store_true", help="although disks or the machine changed")


def add_delete(verbs):
    examples = ("delete web1 upgrade", "delete web1 monday tuesday", "delete web1 upgrade --children")
    parser = verb(verbs, "delete", change.delete, "delete snapshots; without an option their children stay", examples)
    parser.add_argument("domain", metavar="DOMAIN")
    parser.add_argument("snapshot", nargs="+", metavar="SNAPSHOT")
    kinds = parser.add_mutually_exclusive_group()
    for kind, what in (
        ("children", "it and all its descendants"),
        ("children-only", "the descendants; it stays"),
        ("merge", "its parent takes over its state"),
        ("merge-force", "the same, discarding the parent's other children"),
        ("discard", "it and its changes; refused if it has children or is current"),
        ("discard-force", "it and its descendants; the domain goes back to its parent if it was there"),
    ):
        kinds.add_argument(f"--{kind}", dest="kind", action="store_const", const=kind, help=what)


def add_clone(verbs):
    examples = ("clone gold installed web2          at once, on top of the snapshot", "clone gold installed web2 --full   a copy that stands alone")
    parser = verb(verbs, "clone", change.clone, "make a new domain that begins with a snapshot", examples)
    parser.add_argument("domain", metavar="DOMAIN")
    parser.add_argument("snapshot", metavar="SNAPSHOT")
    parser.add_argument("name", metavar="NAME", help="of the new domain")
    parser.add_argument("--full", action="store_true", help="copy everything")


def add_power(verbs):
    examples = ("power web1 start", "power web1 shutdown          the guest is asked, and may take its time")
    parser = verb(verbs, "power", change.power, "start a domain, stop it, or have it stand still", examples)
    parser.add_argument("domain", metavar="DOMAIN")
    parser.add_argument("word", metavar="WORD", choices=POWER_WORDS, help=", ".join(POWER_WORDS))


def add_disk(parser):
    parser.add_argument("domain", metavar="DOMAIN")
    parser.add_argument("target", metavar="TARGET", help="the disk, for instance vda")


def add_copy(verbs):
    examples = ("copy web1 vda /fast/web1.qcow2", "copy web1 vda /fast/web1.raw raw bandwidth=50M", "copy web1 vda /srv/vm/top shallow")
    parser = verb(verbs, "copy", change.copy, "copy a disk of a running domain into a file, which is kept in step with it", examples)
    add_disk(parser)
    parser.add_argument("path", metavar="FILE")
    parser.add_argument("option", nargs="*", metavar="OPTION", help="shallow, base=FILE, raw, format=raw|qcow2, reuse, bandwidth=BYTES[K|M|G]")


def add_pivot(verbs):
    parser = verb(verbs, "pivot", change.pivot, "have a domain go on in the copy of its disk", ("pivot web1 vda",))
    add_disk(parser)


def add_abort(verbs):
    parser = verb(verbs, "abort", change.abort, "let go of the copy of a disk: in step it stays as it is, else it is removed", ("abort web1 vda",))
    add_disk(parser)


def add_backup(verbs):
    examples = (
        "backup web1 /backup/web1-monday           takes a snapshot for it, and deletes it",
        "backup web1 upgrade /backup/web1-upgrade",
    )
    parser = verb(verbs, "backup", backup.backup, "copy the frozen disks of a snapshot, sparse, into a new directory", examples)
    parser.usage = "vmsnap backup [-h] DOMAIN [SNAPSHOT] DIR"
    parser.add_argument("domain", metavar="DOMAIN")
    parser.add_argument("rest", nargs="+", metavar="[SNAPSHOT] DIR", help="DIR must be empty or not there; a backup that is there is complete")


def split_backup(parser, options):
    """argparse can't be asked for an optional word in the middle."""
    if len(options.rest) > 2:
        parser.error(f"backup: too many words: {' '.join(options.rest[2:])}")
    options.directory = options.rest[-1]
    options.snapshot = options.rest[0] if len(options.rest) == 2 else None


def add_restore(verbs):
    examples = ("restore web1 vda /backup/web1-monday/vda.raw", "restore web1 vda --snapshot upgrade     one disk of a snapshot, not all")
    parser = verb(verbs, "restore", backup.restore, "write a frozen disk back into a domain that is shut off", examples)
    parser.add_argument("domain", metavar="DOMAIN")
    parser.add_argument("target", metavar="TARGET", help="the disk, for instance vda")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("file", nargs="?", metavar="FILE", help="a raw file, as long as the disk")
    source.add_argument("--snapshot", metavar="SNAPSHOT", help="the disk as it was at this snapshot of the domain")
    parser.add_argument("--no-guard", dest="guard", action="store_false", help="take no snapshot of the present first")


def add_jobs(verbs):
    parser = verb(verbs, "jobs", show.jobs, "list what is being done, or waits", ("jobs", "jobs web1 --json", "jobs --cancel 7"))
    parser.add_argument("domain", nargs="?", metavar="DOMAIN")
    parser.add_argument("--json", action="store_true", help="as a JSON list")
    parser.add_argument("--cancel", type=int, metavar="NUMBER", help="have this one undone")


def add_check(verbs):
    parser = verb(verbs, "check", check.check, "look whether snapshots, chains and images are whole and agree", ("check", "check web1"))
    parser.add_argument("domain", nargs="?", metavar="DOMAIN")


def add_release(verbs):
    examples = ("release web1", "release web1 --yes")
    parser = verb(verbs, "release", release.release, "delete all snapshots of a domain, and wait until it is on its original files", examples)
    parser.add_argument("domain", metavar="DOMAIN")
    parser.add_argument("--yes", action="store_true", help="don't ask")


def add_complete(verbs):
    """For the completion of the shell; in no help."""
    parser = verbs.add_parser("_complete")
    parser.set_defaults(run=show.complete)
    parser.add_argument("what", choices=("domains", "snapshots", "targets", "jobs"))
    parser.add_argument("domain", nargs="?")
