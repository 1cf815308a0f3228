// SPDX-License-Identifier: LGPL-2.1-or-later
/* Replacing the state files of a store, and the states that are to come; see store.h. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "store/replace_file.h"
#include "store/state_json.h"
#include "store/store.h"
#include "store/store_inside.h"

static int refuse_writing(const struct store *store, uint64_t serial, struct error *err)
{
    if (store->read_only)
        return error_set(err, EROFS, "%s is only read", store->path);
    for (size_t i = 0; i < store->damaged_count; i++)
        if (store->damaged[i] == serial)
            return error_set(err, EIO, "%s/domains/%" PRIu64 ".json is damaged and not written over",
                             store->path, serial);
    return 0;
}

int store_save(struct store *store, const struct state_domain *state, struct error *err)
{
    return store_save_all(store, &state, 1, err);
}

static int save_batch(struct store *store, const struct state_domain *const *states, size_t count,
                      struct error *err)
{
    struct replacement files[REPLACE_FILES_MAX];
    struct text texts[REPLACE_FILES_MAX] = {0};
    char names[REPLACE_FILES_MAX][32];
    int r = 0;
    for (size_t i = 0; r == 0 && i < count; i++) {
        state_json_write(&texts[i], states[i]);
        if (texts[i].failed)
            r = error_set(err, ENOMEM, "%s", strerror(ENOMEM));
        else if (texts[i].length > STATE_BYTES_MAX)
            r = error_set(err, E2BIG, "the state of domain %s is too long", states[i]->name);
        snprintf(names[i], sizeof names[i], "%" PRIu64 ".json", states[i]->serial);
        files[i] = (struct replacement){names[i], texts[i].data, texts[i].length};
    }
    if (r == 0) {
        size_t bytes = 0;
        for (size_t i = 0; i < count; i++)
            bytes += files[i].length;
        r = replace_files(store->domains, files, count, err);
        if ((r == -ENOSPC || r == -EDQUOT) && reserve_release(&store->reserve))
            r = replace_files(store->domains, files, count, err);
        reserve_fill(&store->reserve, bytes * 2);
        if (r < 0)
            error_prefix(err, "%s/domains", store->path);
    }
    for (size_t i = 0; i < count; i++)
        text_done(&texts[i]);
    return r;
}

int store_save_all(struct store *store, const struct state_domain *const *states, size_t count,
                   struct error *err)
{
    for (size_t i = 0; i < count; i++) {
        int r = refuse_writing(store, states[i]->serial, err);
        if (r < 0)
            return r;
    }
    for (size_t i = 0; i < count; i += REPLACE_FILES_MAX) {
        size_t batch = count - i < REPLACE_FILES_MAX ? count - i : REPLACE_FILES_MAX;
        int r = save_batch(store, states + i, batch, err);
        if (r < 0)
            return r;
    }
    return 0;
}

int store_remove(struct store *store, uint64_t serial, struct error *err)
{
    int r = refuse_writing(store, serial, err);
    if (r < 0)
        return r;
    char name[32];
    snprintf(name, sizeof name, "%" PRIu64 ".json", serial);
    if (unlinkat(store->domains, name, 0) < 0 && errno != ENOENT)
        return error_set(err, errno, "%s/domains/%s: %s", store->path, name, strerror(errno));
    if (fsync(store->domains) < 0)
        return error_set(err, errno, "%s/domains: %s", store->path, strerror(errno));
    return 0;
}

static void name_next(char name[32], uint64_t serial)
{
    snprintf(name, 32, "%" PRIu64 ".next", serial);
}

int store_save_next(struct store *store, const struct state_domain *state, struct error *err)
{
    int r = refuse_writing(store, state->serial, err);
    if (r < 0)
        return r;
    cleanup_text struct text text = {0};
    char name[32];
    name_next(name, state->serial);
    state_json_write(&text, state);
    if (text.failed)
        return error_set(err, ENOMEM, "%s", strerror(ENOMEM));
    r = replace_file(store->domains, name, text.data, text.length, err);
    return r < 0 ? (error_prefix(err, "%s/domains", store->path), r) : 0;
}

int store_read_next(struct store *store, uint64_t serial, struct state_domain **state, struct error *err)
{
    char name[32];
    name_next(name, serial);
    int r = store_read_state(store, name, serial, state, err);
    return r < 0 ? (error_prefix(err, "%s/domains/%s", store->path, name), r) : 0;
}

void store_remove_next(struct store *store, uint64_t serial)
{
    char name[32];
    name_next(name, serial);
    unlinkat(store->domains, name, 0);
}
