// SPDX-License-Identifier: LGPL-2.1-or-later
/* Opening a frozen disk (frozen_disk.h): its chain, and the disk over it. */
#include <errno.h>

#include "base/cleanup.h"
#include "image/frozen_disk_chain.h"

int frozen_disk_open(const struct frozen_disk_env *env, const struct domain *domain,
                     const struct frozen *frozen, struct frozen_disk **disk, struct error *err)
{
    cleanup(chain_done) struct chain chain = {0};
    int rc = chain_open(env->locate, domain, frozen, &chain, err);
    if (rc < 0)
        return rc;
    rc = frozen_disk_new(env, &chain, disk);
    return rc < 0 ? error_set(err, -rc, "%s: out of memory", frozen->layer->path) : 0;
}
