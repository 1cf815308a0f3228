// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * A raw disk on the network as a layer, read by a qemu-nbd for the sake of QEMU's protocol drivers. It is the
 * bottom of a chain, and nobody can tell whether somebody wrote to it: there is no check.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "image/layer_reader.h"
#include "image/nbd_helper.h"
#include "image/network_access.h"

#define STALL_MS 30000
/* Ceph's client has a stack of 8 MiB for each of its many threads. */
#define HELPER_MEMORY_BYTES (2 * GIB)

struct network_reader {
    struct layer_reader base;
    struct network_access access;
    struct nbd_helper *helper; /* uses what is above */
};

static struct network_reader *network_reader_of(struct layer_reader *base)
{
    return (struct network_reader *)base;
}

static int network_reader_walk(struct layer_reader *base, uint64_t offset, uint64_t length,
                               extent_visitor visitor, void *opaque)
{
    return nbd_helper_walk(network_reader_of(base)->helper, offset, length, visitor, opaque);
}

static int network_reader_read(struct layer_reader *base, uint64_t offset, void *buffer, size_t length)
{
    return nbd_helper_read(network_reader_of(base)->helper, offset, buffer, length);
}

static void network_reader_free(struct layer_reader *base)
{
    struct network_reader *network = network_reader_of(base);
    nbd_helper_free(network->helper);
    network_access_done(&network->access);
    free(base->path);
    free(network);
}

static const struct layer_reader_ops network_reader_ops = {
    .name = "network",
    .walk = network_reader_walk,
    .read = network_reader_read,
    .free = network_reader_free,
};

int network_reader_open(const struct layer_request *request, struct layer_reader **reader, struct error *err)
{
    struct network_reader *network = calloc(1, sizeof *network);
    char *path = strdup(request->path);
    if (!network || !path) {
        free(network);
        free(path);
        return error_set(err, ENOMEM, "%.150s: out of memory", request->path);
    }
    network->base =
        (struct layer_reader){.ops = &network_reader_ops, .path = path, .data_fd = -1, .slow = true};
    int rc = network_access_of(path, &network->access, err);
    if (rc == 0) {
        const struct nbd_helper_spec spec = {
            .path = path,
            .network = &network->access,
            .memory_bytes = HELPER_MEMORY_BYTES,
            .stall_ms = STALL_MS,
        };
        struct error why = {0};
        rc = nbd_helper_new(&spec, &network->helper, &why);
        /* A server that is silent is as good as one that is gone. */
        if (rc < 0)
            rc = error_set(err, why.code == ETIMEDOUT ? EIO : why.code, "%.150s: %s", path, why.text);
    }
    if (rc < 0) {
        network_reader_free(&network->base);
        return rc;
    }
    network->base.size = nbd_helper_size(network->helper);
    *reader = &network->base;
    return 0;
}
