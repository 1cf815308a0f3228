// SPDX-License-Identifier: LGPL-2.1-or-later
/* After a crash in the background; see tidying.h. */
#include "administration/tidying.h"

#include "administration/images.h"
#include "administration/reclaim_files.h"
#include "administration/reclaim_states.h"
#include "administration/world.h"
#include "base/cleanup.h"
#include "base/log.h"
#include "hypervisor/qemu_img.h"

static int tidy_layer(struct administration *administration, struct reclaim_states *states,
                      const struct world *world, const struct layer *layer, struct error *err)
{
    cleanup_close int fd = -1;
    int r = reclaim_open(administration, world, layer->path, &fd, err);
    const struct qemu_img image = {.path = layer->path, .fd = fd, .timeout_ms = IMAGE_TIMEOUT_MS};
    if (r == 0 && layer->format == IMAGE_FORMAT_QCOW2)
        r = qemu_img_free_leaks(&image, err);
    return r < 0 ? r : reclaim_states_settle(states, world, layer->path, err);
}

static int tidy_domain(struct administration *administration, struct domain *domain, struct error *err)
{
    cleanup(reclaim_states_done) struct reclaim_states states = {.administration = administration};
    cleanup(world_done) struct world world = {0};
    int r = reclaim_states_begin(&states, &domain->serial, 1, err);
    if (r == 0)
        r = world_make(&domain, 1, NULL, NULL, &world, err);
    for (size_t i = 0; r == 0 && i < domain->layer_count; i++)
        if (domain->layers[i]->touched)
            r = tidy_layer(administration, &states, &world, domain->layers[i], err);
    return r < 0 ? r : reclaim_states_save(&states, err);
}

static bool has_touched(const struct domain *domain)
{
    for (size_t i = 0; i < domain->layer_count; i++)
        if (domain->layers[i]->touched)
            return true;
    return false;
}

void tidy_touched(struct administration *administration)
{
    struct catalog *catalog = catalog_service_get(administration->catalog);
    for (size_t i = 0; i < catalog->domain_count; i++) {
        struct domain *domain = catalog->domains[i];
        struct error why;
        if (has_touched(domain) && tidy_domain(administration, domain, &why) < 0)
            log_warning(
                "%s: what was being changed when vmsnapfs ended is looked after at the next start: %s",
                domain->name, why.text);
    }
    catalog_put(catalog);
}
