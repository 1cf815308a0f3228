// SPDX-License-Identifier: LGPL-2.1-or-later
/* What the files of a store share. Inside of store/. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "base/file_identity.h"
#include "store/reserve.h"
#include "store/seen_states.h"
#include "store/serials.h"
#include "store/store.h"

struct store {
    char *path;  /* SOURCE/.vmsnapfs, for texts */
    int top;     /* that directory; -1 where there is no store (read-only) */
    int domains; /* its directory "domains"; -1 likewise */
    int journal; /* its directory "journal"; -1 likewise, or where a read-only store has none */
    int lock;    /* -1 where read-only */
    bool read_only;
    bool serials_lost; /* the counter could not be read */
    uint64_t identity; /* 0 where read-only */
    struct serials serials;
    struct reserve reserve;
    uint64_t *damaged; /* serials of the state files that could not be read */
    size_t damaged_count;
    char *damage; /* their names, for people */

    /* Of a read-only one, which may be another mount's: */
    int source; /* the directory that it lies in; else -1 */
    struct seen_states seen;
    struct file_identity refused; /* what was there, and could not be used */
};

/* Its directory "domains", borrowed; -1 where there is no store. */
int store_domains_directory(const struct store *store);

/* A descriptor of a directory, no link; -1 and errno. */
int store_open_directory(int at, const char *name);

/* A read-only one that is another mount's may have been replaced, or have come. */
void store_open_again(struct store *store);

/* Of the file `name` in "domains", which is to hold the state of `serial`. Errors: as state_json_read; EINVAL
 * where it holds another. */
int store_read_state(struct store *store, const char *name, uint64_t serial, struct state_domain **state,
                     struct error *err);
