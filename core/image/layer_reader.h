// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * One open image file of a chain, whatever its format: the vtable that raw, qcow2 and foreign images share.
 *
 * A reader is immutable after it was opened, but for what its own lock protects; any thread may call. Freed
 * once, by the frozen disk that owns it, when nobody reads any more.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "base/file_identity.h"
#include "domain/domain.h"
#include "image/extent.h"
#include "image/locate.h"
#include "image/qcow2_header.h"

struct layer_reader;

struct layer_reader_ops {
    const char *name;
    int (*walk)(struct layer_reader *reader, uint64_t offset, uint64_t length, extent_visitor visitor,
                void *opaque);
    /* Reads bytes of EXTENT_FOREIGN; NULL for formats without them. May take long. */
    int (*read)(struct layer_reader *reader, uint64_t offset, void *buffer, size_t length);
    /* 0 if what was read before this call was right; -ESTALE (the internal snapshot is gone), -EIO. */
    int (*check)(struct layer_reader *reader);
    void (*free)(struct layer_reader *reader);
};

struct layer_reader {
    const struct layer_reader_ops *ops;
    char *path;             /* absolute, or the name on the network */
    uint64_t size;          /* virtual, bytes; of the internal snapshot where one is read */
    int data_fd;            /* where EXTENT_DATA and EXTENT_COMPRESSED offsets lie; -1 for foreign */
    uint64_t smallest_unit; /* bytes that one table entry maps: cluster or subcluster; 0 where there are no
                               tables */
    enum compression compression;
    uint32_t cluster_size; /* bytes of a decompressed cluster; 0 where there are none */
    bool slow;             /* may block for long: never to be called from a thread that serves others */
    bool is_locked;        /* it is as it was frozen, and no mount changes it as long as it is open */
    uint64_t cache_owner;  /* for its clusters, io/cache.h; drawn by the frozen disk */
    uint64_t compressed_guest_mask; /* cluster_size - 1: which bytes of a guest offset lie inside a cluster */
};

/* What to open. Everything is borrowed. */
struct layer_request {
    const struct locate *locate;
    char *const *named; /* see locate_open */
    const char *path;
    bool remote; /* `path` is the name of a disk on the network */
    bool locks;  /* another mount may change it: its locks are looked at, and ours taken (layer_lock.h) */
    enum image_format format;
    const struct internal_snapshot *internal; /* only qcow2; NULL: the image itself */
    bool vm_state; /* with `internal`: it is as much longer that the memory in it can be read; vm_state.h */
    /* Frozen: what the file must be, and stay. NULL with `internal`: others may write to the image, as long
     * as the snapshot stays. NULL without it: the file must stay what it is when it is opened. Not looked at
     * with `remote`: nobody knows whether somebody wrote there. */
    const struct file_identity *expected;
    /* The same of the external data file; NULL, or zeros: what it is when it is opened. */
    const struct file_identity *expected_data;
};

/*
 * Opens one layer, and tells what it stands on: `*backing` is the reference to its backing file (path NULL
 * where there is none). Errors: EOPNOTSUPP (encrypted, unknown feature), EPERM (not allowed), ENOENT, ESTALE
 * (the internal snapshot is gone), EIO ("changed by someone else", damaged), EINVAL; EBUSY with `locks`:
 * another mount has been changing it for LAYER_WAIT_MS, for which this waits.
 */
#define LAYER_WAIT_MS 30000
int layer_reader_open(const struct layer_request *request, struct layer_reader **reader,
                      struct image_reference *backing, struct error *err);
void layer_reader_free(struct layer_reader *reader);

/* Each format's opener, called by layer_reader_open with the file open already; `fd` is taken over on success
 * only. */
int raw_reader_open(const struct layer_request *request, int fd, struct layer_reader **reader,
                    struct error *err);
int qcow2_reader_open(const struct layer_request *request, int fd, struct layer_reader **reader,
                      struct image_reference *backing, struct error *err);
int foreign_reader_open(const struct layer_request *request, int fd, struct layer_reader **reader,
                        struct error *err);

/* The same for a disk on the network, which locate_network has let pass. Connects; EIO with QEMU's text where
 * that fails. */
int network_reader_open(const struct layer_request *request, struct layer_reader **reader, struct error *err);
