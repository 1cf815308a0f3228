// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Images in the formats of others (vmdk, vhdx, vpc, vdi, ...) as a layer, read by a qemu-nbd: slower than our
 * own reader, complete, and not our code. What such an image stands on is followed by the helper too, so to
 * us it is always the bottom of a chain, and what it does not hold is zeros.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "image/foreign_graph.h"
#include "image/layer_reader.h"
#include "image/nbd_helper.h"

#define STALL_MS 30000
/* A VDI file of 4 KiB can claim a table of 2 GiB, which QEMU then fills. A real one has 4 bytes for each MiB
 * of disk; the tables of the largest VHDX, of 64 TiB, are 512 MiB. */
#define HELPER_MEMORY_BYTES GIB

struct foreign_reader {
    struct layer_reader base;
    struct foreign_graph graph;
    struct nbd_helper *helper; /* uses the graph */
};

static struct foreign_reader *foreign_reader_of(struct layer_reader *base)
{
    return (struct foreign_reader *)base;
}

static int foreign_reader_walk(struct layer_reader *base, uint64_t offset, uint64_t length,
                               extent_visitor visitor, void *opaque)
{
    return nbd_helper_walk(foreign_reader_of(base)->helper, offset, length, visitor, opaque);
}

static int foreign_reader_read(struct layer_reader *base, uint64_t offset, void *buffer, size_t length)
{
    return nbd_helper_read(foreign_reader_of(base)->helper, offset, buffer, length);
}

static int foreign_reader_check(struct layer_reader *base)
{
    return foreign_graph_check(&foreign_reader_of(base)->graph);
}

static void foreign_reader_free(struct layer_reader *base)
{
    struct foreign_reader *foreign = foreign_reader_of(base);
    nbd_helper_free(foreign->helper);
    foreign_graph_done(&foreign->graph);
    free(base->path);
    free(foreign);
}

static const struct layer_reader_ops foreign_reader_ops = {
    .name = "foreign",
    .walk = foreign_reader_walk,
    .read = foreign_reader_read,
    .check = foreign_reader_check,
    .free = foreign_reader_free,
};

int foreign_reader_open(const struct layer_request *request, int fd, struct layer_reader **reader,
                        struct error *err)
{
    struct foreign_reader *foreign = calloc(1, sizeof *foreign);
    char *path = strdup(request->path);
    if (!foreign || !path) {
        free(foreign);
        free(path);
        return error_set(err, ENOMEM, "%s: out of memory", request->path);
    }
    foreign->base =
        (struct layer_reader){.ops = &foreign_reader_ops, .path = path, .data_fd = -1, .slow = true};
    int rc = foreign_graph_build(request, fd, &foreign->graph, err);
    if (rc == 0) {
        const struct nbd_helper_spec spec = {
            .path = path,
            .graph = foreign->graph.json,
            .fds = foreign->graph.fds,
            .fd_count = foreign->graph.count,
            .memory_bytes = HELPER_MEMORY_BYTES,
            .stall_ms = STALL_MS,
        };
        rc = nbd_helper_new(&spec, &foreign->helper, err);
        if (rc < 0) {
            error_prefix(err, "%.150s", path);
            foreign->graph.fds[0] = -1; /* it stays the caller's */
        }
    }
    if (rc < 0) {
        foreign_reader_free(&foreign->base);
        return rc;
    }
    foreign->base.size = nbd_helper_size(foreign->helper);
    *reader = &foreign->base;
    return 0;
}
