// SPDX-License-Identifier: LGPL-2.1-or-later
/* See layer_claims.h. */
#include "administration/layer_claims.h"

#include <assert.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "image/layer_lock.h"

void layer_claims_add(struct layer_claims *claims, int fd)
{
    assert(claims->count < sizeof claims->fds / sizeof *claims->fds);
    claims->fds[claims->count++] = fd;
    int r = layer_lock_take(fd, LAYER_LOCK_CHANGE);
    if (r < 0)
        log_debug("a layer that is about to be changed can't be locked: %s", strerror(-r));
}

bool layer_claims_are_read(const struct layer_claims *claims)
{
    for (unsigned i = 0; claims && i < claims->count; i++)
        if (layer_lock_is_taken(claims->fds[i], LAYER_LOCK_READ))
            return true;
    return false;
}

void layer_claims_done(struct layer_claims *claims)
{
    for (unsigned i = 0; i < claims->count; i++)
        close(claims->fds[i]);
    claims->count = 0;
}
