// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * What a qcow2 file says of itself: the parts of its header that matter here, and its internal snapshots.
 * Immutable once read, and shared by scans, with a digest that tells cheaply whether it would be read the
 * same again. One thread.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "domain/domain.h"

struct image_info {
    unsigned references;
    uint64_t digest;
    uint64_t table_bytes; /* of the snapshot table, which the digest covers */
    int error;            /* 0, or a negative errno: the header can't be used, and only `problem` is there */
    char *problem;        /* what is wrong, for people; NULL if nothing is */
    bool is_unread;       /* for an error of reading that may pass: it is to be read again */
    bool encrypted;
    uint64_t size; /* virtual, bytes */
    uint64_t l1_table_offset;
    uint32_t l1_size;     /* entries */
    char *backing_name;   /* as in the header; NULL if there is none */
    char *backing_format; /* NULL if not told */
    char *data_name;      /* of the external data file; NULL if there is none */
    struct internal_snapshot **snapshots;
    size_t snapshot_count;
};

/*
 * Reads what `fd` holds. `before` (may be NULL) is returned with another reference where it is still right.
 * A damaged image is no failure: `error` and `problem` tell. NULL: out of memory.
 */
const struct image_info *image_info_read(int fd, const char *path, const struct image_info *before);

/* Of a file that could not even be opened; `error` is a negative errno. NULL: out of memory. */
const struct image_info *image_info_failed(int error, const char *problem);

/* Would it be read the same again? Not what could not be read. Costs a read of the header and one of the
 * table. */
bool image_info_is_right(const struct image_info *info, int fd);

/* Has the image no cluster of its own, so that every byte is still its backing file's? 1, 0, or a negative
 * errno. */
int image_info_is_empty(const struct image_info *info, int fd);

const struct image_info *image_info_ref(const struct image_info *info); /* NULL stays NULL */
void image_info_unref(const struct image_info *info);
