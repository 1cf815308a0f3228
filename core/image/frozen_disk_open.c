// SPDX-License-Identifier: LGPL-2.1-or-later
/* Opening a frozen disk (frozen_disk.h): its chain, and the disk over it. */
#include <errno.h>
#include <inttypes.h>

#include "base/cleanup.h"
#include "image/frozen_disk_chain.h"
#include "image/nbd_session.h"

void frozen_disks_end(void)
{
    nbd_sessions_end();
}

/* Nobody knows how long a disk on the network is before somebody connects to it. */
static int check_sizes(const struct frozen_disk_env *env, const struct frozen *frozen,
                       const struct chain *chain, struct error *err)
{
    const struct layer *layer = frozen->layer;
    int rc = 0;
    for (size_t i = 0; layer && i < chain->count; i++, layer = layer->backing) {
        uint64_t size = chain->layers[i]->size;
        if (!layer->remote || layer->size == size)
            continue;
        if (env->size_learned)
            env->size_learned(env->size_learned_opaque, layer->path, size);
        if (i == 0)
            rc = error_set(err, EAGAIN,
                           "%.200s has %" PRIu64 " bytes, and not %" PRIu64
                           " as was thought before anybody connected to it; its length is corrected, and it "
                           "can be opened then",
                           layer->path, size, layer->size);
    }
    return rc;
}

int frozen_disk_open(const struct frozen_disk_env *env, const struct domain *domain,
                     const struct frozen *frozen, struct frozen_disk **disk, struct error *err)
{
    cleanup(chain_done) struct chain chain = {0};
    int rc = chain_open(env->locate, env->locks, domain, frozen, &chain, err);
    if (rc < 0)
        return rc;
    rc = check_sizes(env, frozen, &chain, err);
    if (rc < 0)
        return rc;
    if (frozen->is_memory)
        chain.layers[0]->size = frozen->size;
    rc = frozen_disk_new(env, &chain, disk);
    return rc < 0 ? error_set(err, -rc, "%s: out of memory", frozen->layer->path) : 0;
}
