// SPDX-License-Identifier: LGPL-2.1-or-later
/* What the small files say; see content.h. */
#include "content.h"

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/log.h"
#include "base/stats.h"
#include "format/document.h"
#include "hypervisor/image_locks.h"
#include "job_tree.h"
#include "tree_drawing.h"

static void render_help(const struct content_source *source, struct text *text)
{
    const char *at = source->mountpoint;
    text_printf(
        text,
        "vmsnapfs %s: the snapshots of %s as files\n"
        "\n"
        "DOMAIN/snapshots/NAME/disks/TARGET.raw   a frozen disk, raw and read-only\n"
        "DOMAIN/tree.txt                          the snapshots as a tree\n"
        "DOMAIN/last_error                        why something was refused\n"
        "DOMAIN/events                            what happened, for tail -f\n"
        "DOMAIN/jobs                              what is being done\n"
        "DOMAIN/domain.json                       everything about a domain in one document\n"
        "\n"
        "Take:         mkdir %s/DOMAIN/snapshots/NAME\n"
        "              with options: echo 'NAME disk=vda:external' > %s/DOMAIN/create\n"
        "Delete:       rmdir %s/DOMAIN/snapshots/NAME\n"
        "Rename:       mv %s/DOMAIN/snapshots/NAME %s/DOMAIN/snapshots/OTHER\n"
        "Revert:       echo 1 > %s/DOMAIN/snapshots/NAME/revert\n"
        "Clone:        echo NEWDOMAIN > %s/DOMAIN/snapshots/NAME/clone\n"
        "Run:          echo start > %s/DOMAIN/power; also shutdown, destroy, pause, resume, reset\n"
        "Copy a disk:  echo /PATH > %s/DOMAIN/disks/TARGET/copy; then echo 1 > …/pivot, or …/abort\n"
        "Each of create, revert, delete and clone tells its words when it is read, and defaults what a bare\n"
        "mkdir does. Whoever starts a domain asks DOMAIN/disks/TARGET/source first.\n"
        "\n"
        "Back up:      rsync -a --sparse %s/DOMAIN/snapshots/NAME/disks/ BACKUP/\n"
        "              tar -cSf BACKUP.tar -C %s/DOMAIN/snapshots/NAME disks\n"
        "Look inside:  losetup --read-only --partscan --find --show %s/DOMAIN/snapshots/NAME/disks/vda.raw\n"
        "Unmount:      umount %s\n"
        "\n"
        "See vmsnapfs(8).\n",
        VMSNAPFS_VERSION, source->source, at, at, at, at, at, at, at, at, at, at, at, at, at);
}

static void render_service(const struct content_source *source, unsigned entry, struct text *text)
{
    switch (entry) {
    case SERVICE_HELP:
        render_help(source, text);
        return;
    case SERVICE_LOG:
        log_render(text);
        return;
    case SERVICE_STATS:
        stats_render(text);
        return;
    case SERVICE_VERSION:
        text_printf(text, "%s\n", VMSNAPFS_VERSION);
        return;
    }
}

/*
 * What its QEMU says, where that is known. Else a domain runs if there is a QEMU of ours, which may not have
 * opened its images yet, or if another process has one of its active images open for writing, as QEMU's locks
 * tell.
 */
static void render_state(const struct content_source *source, const struct domain *domain, struct text *text)
{
    struct machine_report report = {.contact = MACHINE_UNKNOWN, .state = RUN_STATE_SHUTOFF};
    machines_report(source->machines, domain->serial, &report);
    bool running = report.is_there && report.contact != MACHINE_CONNECTED;
    for (size_t i = 0; i < domain->disk_count && !running && report.contact != MACHINE_CONNECTED; i++) {
        const struct layer *active = domain->disks[i].active;
        running = active && !active->remote &&
                  image_locks_written_by_others(active->identity.device, active->identity.inode);
    }
    if (report.contact != MACHINE_CONNECTED && report.contact != MACHINE_OFF)
        report.state = RUN_STATE_SHUTOFF;
    text_printf(text, "%s\n", run_state_name(running ? RUN_STATE_RUNNING : report.state));
}

static void render_order(const struct domain *domain, struct text *text)
{
    for (size_t i = 0; i < domain->snapshot_count; i++)
        text_printf(text, "%s\n", domain->snapshots[i]->name);
}

static void render_last_result(const struct content_source *source, const struct place *place,
                               struct text *text)
{
    cleanup_text struct text last = {0};
    control_files_last_result(source->controls, place->id, &last);
    if (last.length)
        text_printf(text, "\nLast: %s", last.data);
}

static void render_power(const struct content_source *source, const struct place *place, struct text *text)
{
    const struct domain *domain = place->domain;
    struct machine_report report;
    if (!domain->launch && !domain->qmp)
        text_append_string(
            text, "Refused: the definition, which must be trusted, has neither launch nor qmp, so that\n"
                  "nothing is known of the QEMU that runs this domain.\n");
    else
        text_printf(text,
                    "Write a word:\n"
                    "\n"
                    "%s"
                    "    shutdown    the guest is asked to switch itself off\n"
                    "    destroy     off at once, as if the plug was pulled\n"
                    "    pause       it stands still, and keeps its memory\n"
                    "    resume      it goes on\n"
                    "    reset       as with the button\n",
                    domain->launch ? "    start       from the present state\n" : "");
    if (machines_report(source->machines, domain->serial, &report) && report.problem[0])
        text_printf(text, "\nProblem: %s\n", report.problem);
    render_last_result(source, place, text);
}

static void render_defaults(const struct content_source *source, const struct domain *domain,
                            struct text *text)
{
    cleanup_free char *defaults = administration_defaults(source->administration, domain);
    text_append_string(text, defaults ? defaults : "");
}

static void render_domain(const struct content_source *source, const struct place *place, struct text *text)
{
    const struct domain *domain = place->domain;
    switch (place->node.position) {
    case DOMAIN_CREATE:
        text_append_string(
            text,
            "Write a line to take a snapshot of all disks at one instant:\n"
            "\n"
            "    [NAME] [disk=TARGET:no|internal|external[:PATH]]... [reuse-external]\n"
            "           [mirror=TARGET:PATH]...\n"
            "           [memory=no|internal|external] [memory-file=PATH] [compress=none|gzip|zstd]\n"
            "           [live] [paused] [disk-only] [quiesce=try|require] [description=\"...\"]\n"
            "\n"
            "or a document: JSON, {\"name\": ..., \"description\": ..., \"disks\": [{\"target\": ..., "
            "\"snapshot\": ..., \"path\": ...}]};\n"
            "libvirt's <domainsnapshot>; or lines of xl configuration, name = '...', disks = [',,TARGET'], "
            "and a line: end.\n"
            "Without a name one is made up. What is left out is as each disk's preset says. A bare mkdir in\n"
            "snapshots/ does what `defaults` says.\n");
        render_last_result(source, place, text);
        return;
    case DOMAIN_POWER:
        render_power(source, place, text);
        return;
    case DOMAIN_DEFAULTS:
        render_defaults(source, domain, text);
        return;
    case DOMAIN_DOMAIN_JSON:
        document_domain(text, domain);
        return;
    case DOMAIN_LAST_ERROR:
        last_errors_render(source->last_errors, domain->serial, text);
        return;
    case DOMAIN_EVENTS:
        events_render(source->events, domain->serial, text);
        return;
    case DOMAIN_STATE:
        render_state(source, domain, text);
        return;
    case DOMAIN_TREE_TXT:
        tree_drawing_render(domain, text);
        return;
    case DOMAIN_ORDER:
        render_order(domain, text);
        return;
    }
}

/*
 * Who starts a domain takes the image that `source` names. So nothing is named where the active one is gone,
 * where that would be a layer of another disk, or where the state that told which it is may be damaged: the
 * file that a look finds on top may be frozen.
 */
static bool may_be_started_from(const struct domain *domain, const struct disk *disk)
{
    if (!disk->active)
        return !domain->is_administered && !disk->is_of_another;
    return !domain->is_guessed || !domain->may_switch_files || strcmp(disk->active->path, disk->source) == 0;
}

static void render_disk_command(const struct content_source *source, const struct place *place,
                                unsigned entry, struct text *text)
{
    const struct disk *disk = place->disk;
    if (entry == DISK_COPY)
        text_append_string(
            text,
            "Write PATH to have the running domain's disk copied into a new file and kept in step there:\n"
            "\n"
            "    PATH [shallow | base=PATH] [raw | format=raw|qcow2] [reuse] [bandwidth=BYTES[K|M|G]]\n"
            "\n"
            "shallow copies the top layer alone, and the copy lies on what that lies on; reuse takes a file "
            "that\n"
            "is there. It goes on until something is written to pivot or abort, or the domain ends.\n");
    else if (entry == DISK_PIVOT)
        text_append_string(
            text, "Write 1 to have the domain go on in the copy of this disk, once that is in step.\n");
    else
        text_append_string(
            text, "Write 1 to let go of the copy of this disk: in step, it holds what the disk holds at "
                  "that instant;\nelse it is removed.\n");
    text_append_string(text,
                       disk->mirror ? "\nThe disk is being copied to " : "\nThe disk is not being copied.\n");
    if (disk->mirror)
        text_printf(text, "%s\n", disk->mirror);
    render_last_result(source, place, text);
}

static void render_disk(const struct content_source *source, const struct place *place, unsigned entry,
                        struct text *text)
{
    const struct domain *domain = place->domain;
    const struct disk *disk = place->disk;
    const struct layer *active = disk->active;
    switch (entry) {
    case DISK_FORMAT:
        text_printf(text, "%s\n", image_format_name(active ? active->format : disk->format));
        return;
    case DISK_LAYERS:
        for (const struct layer *layer = active; layer; layer = layer->backing)
            text_printf(text, "%s\n", layer->path);
        return;
    case DISK_PERSISTENT:
        text_append_string(text, disk->persistent ? "yes\n" : "no\n");
        return;
    case DISK_SIZE:
        if (!active || !active->remote || active->size)
            text_printf(text, "%llu\n", active ? (unsigned long long)active->size : 0ULL);
        return;
    case DISK_SNAPSHOT:
        text_printf(text, "%s\n", snapshot_preset_name(disk->snapshot));
        return;
    case DISK_SOURCE:
        if (may_be_started_from(domain, disk))
            text_printf(text, "%s\n", active ? active->path : disk->source);
        return;
    case DISK_ABORT:
    case DISK_COPY:
    case DISK_PIVOT:
        render_disk_command(source, place, entry, text);
        return;
    }
}

static void render_created(const struct snapshot *snapshot, struct text *text)
{
    text_append_time(text, snapshot->created.tv_sec, 'T');
    text_printf(text, ".%09ldZ\n", snapshot->created.tv_nsec);
}

static void render_missing(const struct domain *domain, const struct snapshot *snapshot, struct text *text)
{
    for (size_t i = 0; i < domain->disk_count; i++)
        if (!snapshot_find_frozen(snapshot, &domain->disks[i]))
            text_printf(text, "%s\n", domain->disks[i].target);
}

static void render_snapshot(const struct content_source *source, const struct place *place, struct text *text)
{
    const struct snapshot *snapshot = place->snapshot;
    switch (place->node.position) {
    case SNAPSHOT_CLONE:
        text_append_string(
            text, "Write NAME to make a new domain NAME of this snapshot, on top of its layers; NAME full to "
                  "copy them.\n");
        render_last_result(source, place, text);
        return;
    case SNAPSHOT_DELETE:
        text_append_string(
            text,
            "Write a word; every state that stays is the same, bit for bit:\n"
            "\n"
            "    1               this snapshot goes, its children become its parent's, as with rmdir\n"
            "    children        it and all its descendants\n"
            "    children-only   its descendants; it stays\n"
            "    merge           its parent takes over its state, and it goes\n"
            "    merge-force     the same, discarding the parent's other children\n"
            "    discard         it and its changes are dropped, if it has no children and is not current\n"
            "    discard-force   it and all its descendants; the domain goes back to its parent\n");
        render_last_result(source, place, text);
        return;
    case SNAPSHOT_REVERT:
        text_append_string(
            text,
            "Write 1 to bring the domain back to this snapshot, in the state that it had then, or running, "
            "paused\nor shutoff; with them guard, to take a snapshot of the present first, or force. What "
            "came after the\ncurrent snapshot is lost otherwise.\n");
        render_last_result(source, place, text);
        return;
    case SNAPSHOT_CONSISTENCY:
        text_printf(text, "%s\n", consistency_name(snapshot->consistency));
        return;
    case SNAPSHOT_CREATED:
        render_created(snapshot, text);
        return;
    case SNAPSHOT_DESCRIPTION:
        if (snapshot->description[0])
            text_printf(text, "%s\n", snapshot->description);
        return;
    case SNAPSHOT_MISSING:
        render_missing(place->domain, snapshot, text);
        return;
    case SNAPSHOT_PROTECTED:
        text_append_string(text, snapshot->is_protected ? "1\n" : "0\n");
        return;
    case SNAPSHOT_JSON:
        document_snapshot(text, place->domain, snapshot);
        return;
    case SNAPSHOT_XML:
        document_snapshot_xml(text, place->domain, snapshot);
        return;
    case SNAPSHOT_STATE:
        text_printf(text, "%s\n", snapshot_state_name(snapshot->state));
        return;
    case SNAPSHOT_UNIQUE_BYTES:
        text_printf(text, "%*d\n", UNIQUE_BYTES_DIGITS, 0);
        return;
    }
}

void content_render(const struct content_source *source, const struct place *place, struct text *text)
{
    if (place->node.kind == NODE_SERVICE)
        render_service(source, place->node.position, text);
    else if (place->node.kind == NODE_DOMAIN)
        render_domain(source, place, text);
    else if (place->node.kind == NODE_SNAPSHOT)
        render_snapshot(source, place, text);
    else if (place->node.kind == NODE_JOB)
        job_tree_render(source->administration, place, text);
    else if (node_is_disk_file(place->node.kind))
        render_disk(source, place, place->node.kind - NODE_DISK_FILE, text);
}
