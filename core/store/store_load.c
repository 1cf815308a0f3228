// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Reading the state files of a store; see store.h.
 *
 * What a damaged state file holds is not known, so nothing is ever written over it, and its serial number,
 * which its name tells, is not given again.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "store/replace_file.h"
#include "store/state_json.h"
#include "store/store.h"
#include "store/store_inside.h"

/* How far the counter jumps where it was lost and a damaged state file may hold numbers that nobody knows. */
#define SERIALS_UNKNOWN (UINT64_C(1) << 24)

static void forget_damage(struct store *store)
{
    free(store->damaged);
    free(store->damage);
    store->damaged = NULL;
    store->damaged_count = 0;
    store->damage = NULL;
}

static int note_damage(struct store *store, uint64_t serial, bool is_known, const struct error *why)
{
    if (!is_known)
        log_error("%s/domains/%" PRIu64 ".json can't be used: %s", store->path, serial, why->text);
    uint64_t *grown = realloc(store->damaged, (store->damaged_count + 1) * sizeof *grown);
    if (!grown)
        return -ENOMEM;
    store->damaged = grown;
    store->damaged[store->damaged_count++] = serial;
    char *names;
    if (asprintf(&names, "%s%s%" PRIu64 ".json", store->damage ? store->damage : "",
                 store->damage ? ", " : "", serial) < 0)
        return -ENOMEM;
    free(store->damage);
    store->damage = names;
    return 0;
}

int store_read_state(struct store *store, const char *name, uint64_t serial, struct state_domain **state,
                     struct error *err)
{
    cleanup_free char *bytes = NULL;
    size_t size;
    int r = replace_file_read(store->domains, name, STATE_BYTES_MAX, &bytes, &size, err);
    if (r < 0)
        return r;
    struct state_domain *made;
    r = state_json_read(bytes, size, &made, err);
    if (r < 0)
        return r;
    if (made->serial != serial) {
        r = error_set(err, EINVAL, "it holds the state of serial %" PRIu64, made->serial);
        state_domain_free(made);
        return r;
    }
    *state = made;
    return 0;
}

int store_read(struct store *store, uint64_t serial, struct state_domain **state, struct error *err)
{
    char name[32];
    if (store->domains < 0)
        return error_set(err, ENOENT, "%s is not there", store->path);
    snprintf(name, sizeof name, "%" PRIu64 ".json", serial);
    int r = store_read_state(store, name, serial, state, err);
    return r < 0 ? (error_prefix(err, "%s/domains/%s", store->path, name), r) : 0;
}

static int compare_state(const void *left, const void *right)
{
    const struct state_domain *a = *(struct state_domain *const *)left;
    const struct state_domain *b = *(struct state_domain *const *)right;
    return a->serial < b->serial ? -1 : a->serial > b->serial;
}

static int compare_u64(const void *left, const void *right)
{
    uint64_t a = *(const uint64_t *)left, b = *(const uint64_t *)right;
    return a < b ? -1 : a > b;
}

/* Is any serial of the state in `sorted` already? */
static bool is_taken(const uint64_t *sorted, size_t count, const struct state_domain *state)
{
    if (bsearch(&state->serial, sorted, count, sizeof *sorted, compare_u64))
        return true;
    for (size_t i = 0; i < state->snapshot_count; i++)
        if (bsearch(&state->snapshots[i].serial, sorted, count, sizeof *sorted, compare_u64))
            return true;
    return false;
}

/*
 * A serial stands for one thing. State files that hold the same one (copied by hand) are all refused like
 * damaged ones, since nothing tells which is right. Tells the counter of every number, those of refused
 * files too.
 */
static int refuse_doubles(struct store *store, struct state_domain **states, size_t *count)
{
    size_t total = 0, doubles = 0, kept = 0, used = 0;
    for (size_t i = 0; i < *count; i++)
        total += states[i]->snapshot_count + 1;
    cleanup_free uint64_t *all = calloc(total ? total : 1, sizeof *all);
    if (!all)
        return -ENOMEM;
    for (size_t i = 0; i < *count; i++) {
        all[used++] = states[i]->serial;
        for (size_t j = 0; j < states[i]->snapshot_count; j++)
            all[used++] = states[i]->snapshots[j].serial;
    }
    qsort(all, total, sizeof *all, compare_u64);
    for (size_t i = 0; i < total; i++) {
        serials_skip(&store->serials, all[i]);
        if (i > 0 && all[i] == all[i - 1] && (doubles == 0 || all[doubles - 1] != all[i]))
            all[doubles++] = all[i]; /* behind what is still to be looked at */
    }
    int r = 0;
    for (size_t i = 0; doubles && i < *count; i++) {
        if (r < 0 || !is_taken(all, doubles, states[i])) {
            states[kept++] = states[i];
            continue;
        }
        struct error why;
        error_set(&why, EINVAL, "it holds a serial number that another state file holds too");
        r = note_damage(store, states[i]->serial, false, &why);
        state_domain_free(states[i]);
    }
    if (doubles)
        *count = kept;
    return r;
}

static void free_states(struct state_domain **states, size_t count)
{
    for (size_t i = 0; i < count; i++)
        state_domain_free(states[i]);
    free(states);
}

int store_load(struct store *store, struct state_domain ***states, size_t *count, struct error *err)
{
    struct state_domain **made = NULL;
    cleanup_free struct seen_state *seen = NULL;
    size_t made_count = 0, seen_count = 0, capacity = 0;
    int r = 0;
    forget_damage(store);
    store_open_again(store);
    if (store->domains < 0) {
        seen_states_set(&store->seen, NULL, 0, -1);
        *states = NULL;
        *count = 0;
        return 0;
    }
    cleanup_close int fd = store_open_directory(store->domains, ".");
    cleanup_closedir DIR *dir = fd < 0 ? NULL : fdopendir(fd);
    if (!dir)
        return error_set(err, errno, "%s/domains: %s", store->path, strerror(errno));
    steal_fd(&fd);
    uint64_t greatest = 0;
    for (struct dirent *entry; r == 0 && (entry = readdir(dir));) {
        uint64_t serial = seen_states_serial(entry->d_name);
        if (serial == 0)
            continue;
        greatest = serial > greatest ? serial : greatest;
        if (seen_count == capacity) {
            capacity = capacity ? capacity * 2 : 64;
            struct state_domain **grown = realloc(made, capacity * sizeof *made);
            struct seen_state *more = realloc(seen, capacity * sizeof *seen);
            made = grown ? grown : made;
            seen = more ? more : seen;
            if (!grown || !more) {
                r = -ENOMEM;
                break;
            }
        }
        struct error why;
        struct stat stat = {0}; /* before it is read: one that is replaced meanwhile has moved */
        if (fstatat(store->domains, entry->d_name, &stat, AT_SYMLINK_NOFOLLOW) < 0 && errno == ENOENT)
            continue;
        seen[seen_count] = (struct seen_state){.serial = serial, .file = file_identity_of(&stat)};
        r = store_read_state(store, entry->d_name, serial, &made[made_count], &why);
        if (r == 0)
            made_count++;
        else if (r != -ENOMEM)
            r = note_damage(store, serial, seen_states_have(&store->seen, serial, &seen[seen_count].file),
                            &why);
        seen_count++;
    }
    if (r == 0) {
        if (made_count)
            qsort(made, made_count, sizeof *made, compare_state);
        r = refuse_doubles(store, made, &made_count);
    }
    if (r < 0) {
        free_states(made, made_count);
        return error_set(err, -r, "%s/domains: %s", store->path, strerror(-r));
    }
    if (store->read_only)
        seen_states_set(&store->seen, steal_pointer(seen), seen_count, store->domains);
    serials_skip(&store->serials, greatest);
    if (store->serials_lost && store->damaged_count)
        serials_skip(&store->serials, store->serials.next + SERIALS_UNKNOWN);
    *states = made;
    *count = made_count;
    return 0;
}
