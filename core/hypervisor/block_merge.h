// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Merging layers of a chain, and the names of backing files in headers.
 *
 * QEMU's jobs change the header of the layer above before the tables of the layer that took the data are on
 * disk (7.2: killed there, data is lost, by block-stream and, where the base is opened for writing, by
 * block-commit too). So a job here stops before it changes the graph, what it wrote is flushed, then it goes
 * on, and the header is flushed. After success all is durable, and the file that went out of the chain is
 * needed by this chain no more.
 *
 * Who else needs the layers is the caller's business. Threads and deadly errors as in block_nodes.h.
 */
#pragma once

#include "hypervisor/block_nodes.h"
#include "hypervisor/qmp_job.h"

/* For a chain `base <- top <- overlay <- ... <- device`, of which `top` is not the active layer. */
struct block_commit {
    const char *job_id;
    const char *device;       /* the active layer's node; may be the overlay */
    const char *overlay;      /* whose backing the top is: its header is changed */
    const char *top;          /* is merged down, and goes out of the chain; its file is not changed */
    const char *base;         /* takes the data; in a storage daemon opened for writing */
    const char *base_backing; /* the node that is the backing of the base; NULL: none */
    const char *base_name;    /* what the overlay's header is to say */

    /*
     * Called when the base, durably, reads as the top over it did, and neither graph nor header have changed
     * yet; an error, which it returns with its text, gives the job up. May be NULL.
     */
    int (*copied)(void *opaque, struct error *err);
    void *opaque;
};

/* For a chain `base <- backing ... <- device`. */
struct block_stream {
    const char *job_id;
    const char *device;    /* takes the data of all between it and the base; any writable layer */
    const char *backing;   /* the node that is its backing now */
    const char *base;      /* the node that will be; NULL: none, all data is taken */
    const char *base_name; /* what its header is to say; NULL with a NULL base */
};

/*
 * What QEMU 7.2 does not do right is refused with EOPNOTSUPP, before anything is written:
 *  - An image with clusters whose size is no multiple of them can't grow into the size of what is merged into
 *    it: what lay behind its end, when it was larger once, would be seen again.
 *  - A layer that is shorter than the one above and the one below it can't go out from between them: what the
 *    lower one has behind its end would be seen.
 *
 * Both: `*changed` is set true as soon as the graph and header may have been changed; a failure after that
 * leaves what is in the files to be looked at (old and new chain read the same), and no file may go. A
 * failure before leaves the chain as it was; the base of a commit may hold some of the data by then, which no
 * layer above sees otherwise, but which the base's own content has changed by. Errors: ENOSPC, EROFS (a base
 * that is read-only), EOPNOTSUPP, ENODEV, EBUSY, ECANCELED by `watch`; as qmp_job_wait.
 */
int block_commit(const struct block_engine *engine, const struct block_commit *commit,
                 const struct qmp_job_watch *watch, bool *changed, struct error *err);
int block_stream(const struct block_engine *engine, const struct block_stream *stream,
                 const struct qmp_job_watch *watch, bool *changed, struct error *err);

/* 0, or the EOPNOTSUPP of the first case above, for what is in `from` going into `into`; ENODEV. */
int block_merge_check_growth(const struct block_nodes *nodes, const char *from, const char *into,
                             struct error *err);

struct block_backing_name {
    const char *device;         /* the active layer's node of the chain */
    const char *image;          /* the node whose header is changed */
    const char *backing;        /* the node that is its backing now; NULL: none */
    const char *backing_name;   /* what the header is to say */
    const char *backing_format; /* of the backing; has to be that of the image itself */
};

/*
 * Changes what a header says its backing file is, durably, and nothing else. QEMU writes the image's own
 * format beside the name, whatever the backing is (7.2), so another format is refused with EOPNOTSUPP: of an
 * image that is not open, use qemu_img_name_backing. Errors: as qmp_command.
 */
int block_name_backing(const struct block_engine *engine, const struct block_backing_name *name,
                       struct error *err);
