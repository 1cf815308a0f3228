// SPDX-License-Identifier: LGPL-2.1-or-later
/* After a crash in the background; see tidying.h. */
#include "administration/reclaim/tidying.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/stat.h>

#include "administration/files/images.h"
#include "administration/frozen_nodes.h"
#include "administration/reclaim/reclaim_files.h"
#include "administration/reclaim/reclaim_states.h"
#include "administration/running.h"
#include "administration/world.h"
#include "base/cleanup.h"
#include "base/log.h"
#include "hypervisor/qemu_img.h"

#define ANSWER_MS 10000

/* Files that QEMUs have open: nothing is repaired in these, and what is told of them is told by locks. */
struct open_file {
    dev_t device;
    ino_t inode;
    bool is_written;
};

struct open_files {
    struct open_file *list;
    size_t count;
};

static int tidy_layer(struct administration *administration, struct reclaim_states *states,
                      const struct world *world, const struct layer *layer, const struct open_files *open,
                      struct error *err)
{
    cleanup_close int fd = -1;
    struct stat file;
    int r = reclaim_open(administration, world, layer->path, &fd, err);
    const struct qemu_img image = {.path = layer->path, .fd = fd, .timeout_ms = IMAGE_TIMEOUT_MS};
    if (r == 0 && fstat(fd, &file) < 0)
        r = error_set(err, errno, "%s: %m", layer->path);
    if (r < 0)
        return r;
    bool is_open = false, is_written = false;
    for (size_t i = 0; i < open->count; i++)
        if (open->list[i].device == file.st_dev && open->list[i].inode == file.st_ino) {
            is_open = true;
            is_written |= open->list[i].is_written;
        }
    if (is_written && !layer->active)
        return 0; /* it stays touched, for whoever comes next to the domain (frozen_nodes.h) */
    /* Its QEMU has ended the job in good order, which leaves nothing behind. */
    if (!is_open && layer->format == IMAGE_FORMAT_QCOW2)
        r = qemu_img_free_leaks(&image, err);
    return r < 0 ? r : reclaim_states_settle(states, world, layer->path, err);
}

static int tidy_domain(struct administration *administration, struct domain *domain,
                       const struct open_files *open, struct error *err)
{
    cleanup(reclaim_states_done) struct reclaim_states states = {.administration = administration};
    cleanup(world_done) struct world world = {0};
    int r = reclaim_states_begin(&states, &domain->serial, 1, err);
    if (r == 0)
        r = world_make(&domain, 1, NULL, NULL, &world, err);
    for (size_t i = 0; r == 0 && i < domain->layer_count; i++)
        if (domain->layers[i]->touched)
            r = tidy_layer(administration, &states, &world, domain->layers[i], open, err);
    return r < 0 ? r : reclaim_states_save(&states, err);
}

/* ---- What QEMUs go on with ---- */

static int note_files(const struct block_nodes *nodes, struct open_files *open, struct error *err)
{
    struct open_file *grown = realloc(open->list, (open->count + nodes->count + 1) * sizeof *grown);
    if (!grown)
        return error_set(err, ENOMEM, "out of memory");
    open->list = grown;
    for (size_t i = 0; i < nodes->count; i++) {
        const struct block_node *node = &nodes->nodes[i];
        struct stat file;
        if (node->path && stat(node->path, &file) == 0)
            grown[open->count++] = (struct open_file){file.st_dev, file.st_ino, !node->read_only};
    }
    return 0;
}

/* Ends the merge that a predecessor has left in this domain's QEMU, if there is one; without it, nothing it
 * has touched is looked at. */
static int end_merge(struct administration *administration, const struct domain *domain,
                     struct open_files *open, struct error *err)
{
    struct machine *machine = machines_get(administration->options.machines, domain->serial);
    struct qmp *qmp;
    if (!machine)
        return 0;
    int r = machine_borrow(machine, ANSWER_MS, &qmp, NULL, err);
    if (r == 0) {
        const struct block_engine engine = {.qmp = qmp, .timeout_ms = ANSWER_MS};
        struct block_nodes nodes = {0};
        /* What the journal still has of it is not ended here. */
        bool is_ours = !journal_find_domain(administration->journal, domain->serial);
        if (is_ours)
            r = running_end_leftover(&engine, err);
        if (r == 0 && is_ours)
            frozen_nodes_close(&engine, domain);
        if (r == 0)
            r = block_nodes_query(&engine, &nodes, err);
        if (r == 0)
            r = note_files(&nodes, open, err);
        block_nodes_done(&nodes);
        machine_return(machine, qmp);
    }
    machine_unref(machine);
    return r == -ESRCH || (r == -ETIMEDOUT && !running_is_written(domain)) ? 0 : r;
}

static int end_merges(struct administration *administration, const struct catalog *catalog,
                      struct open_files *open, struct error *err)
{
    bool any = false;
    int r = 0;
    for (size_t i = 0; i < catalog->domain_count; i++)
        any |= domain_has_touched(catalog->domains[i]);
    /* The QEMU that did it may be another domain's. */
    for (size_t i = 0; any && r == 0 && i < catalog->domain_count; i++)
        r = end_merge(administration, catalog->domains[i], open, err);
    return r;
}

void tidy_touched(struct administration *administration)
{
    struct catalog *catalog = catalog_service_get(administration->catalog);
    struct open_files open = {0};
    struct error why;
    int r = end_merges(administration, catalog, &open, &why);
    if (r < 0)
        log_warning("what was being changed when vmsnapfs ended is looked after at the next start: %s",
                    why.text);
    for (size_t i = 0; r == 0 && i < catalog->domain_count; i++) {
        struct domain *domain = catalog->domains[i];
        if (domain_has_touched(domain) && tidy_domain(administration, domain, &open, &why) < 0)
            log_warning(
                "%s: what was being changed when vmsnapfs ended is looked after at the next start: %s",
                domain->name, why.text);
    }
    free(open.list);
    catalog_put(catalog);
}
