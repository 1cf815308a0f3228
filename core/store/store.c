// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * SOURCE/.vmsnapfs/: opening, trust, version, and the state files; see store.h.
 *
 * What a damaged state file holds is not known, so nothing is ever written over it, and its serial number,
 * which its name tells, is not given again.
 */
#include "store/store.h"

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
#include "store/identity.h"
#include "store/lock.h"
#include "store/replace_file.h"
#include "store/reserve.h"
#include "store/seen_states.h"
#include "store/serials.h"
#include "store/state_json.h"
#include "store/store_inside.h"

#define VERSION 1

/* How far the counter jumps where it was lost and a damaged state file may hold numbers that nobody knows. */
#define SERIALS_UNKNOWN (UINT64_C(1) << 24)

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

/* Is it ours alone? `sticky_is_fine`: for a directory in which others can't replace what we own. */
static int check_owner(const struct store *store, int fd, const char *path, bool sticky_is_fine,
                       struct error *err)
{
    struct stat stat;
    const char *way_out = store->read_only ? "" : "; mend that, or mount with -o ro";
    if (fstat(fd, &stat) < 0)
        return error_set(err, errno, "%s: %s", path, strerror(errno));
    if (stat.st_uid != 0 && stat.st_uid != geteuid())
        return error_set(err, EPERM, "%s belongs to user %u, neither to root nor to who mounts it%s", path,
                         stat.st_uid, way_out);
    if ((stat.st_mode & 022) && !(sticky_is_fine && (stat.st_mode & S_ISVTX)))
        return error_set(err, EPERM,
                         "%s can be written by others (mode %04o), so what it keeps can't be trusted%s", path,
                         stat.st_mode & 07777, way_out);
    return 0;
}

static int open_directory(int at, const char *name)
{
    return openat(at, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
}

/* Opens the directory, and makes it if it is not there and `make` is true. */
static int make_directory(int at, const char *name, bool make, int *directory)
{
    int fd = open_directory(at, name);
    if (fd < 0 && errno == ENOENT && make) {
        if (mkdirat(at, name, 0700) < 0 && errno != EEXIST)
            return -errno;
        fsync(at); /* if it is lost in a power cut, the next mount makes it again */
        fd = open_directory(at, name);
    }
    if (fd < 0)
        return -errno;
    *directory = fd;
    return 0;
}

/* The version of the format; 0 where the file is not there, UINT_MAX where it tells none that we know. */
static int read_version(struct store *store, unsigned *version, struct error *err)
{
    char text[32] = "";
    cleanup_close int fd = openat(store->top, "version", O_RDONLY | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0 && errno == ENOENT) {
        *version = 0;
        return 0;
    }
    if (fd < 0 || read(fd, text, sizeof text - 1) < 0)
        return error_set(err, errno, "%s/version: %s", store->path, strerror(errno));
    int used = 0;
    if (sscanf(text, "%9u%n", version, &used) != 1 || text[used] != '\n' || *version == 0)
        *version = UINT32_MAX;
    return 0;
}

static void become_read_only(struct store *store)
{
    if (store->lock >= 0)
        close(store->lock);
    store->lock = -1;
    if (!store->read_only) /* one that is opened again was, and any thread may be asking */
        store->read_only = true;
}

/* Leaves the store as if it were not there. */
static void forget_directories(struct store *store)
{
    if (store->top >= 0)
        close(store->top);
    if (store->domains >= 0)
        close(store->domains);
    if (store->journal >= 0)
        close(store->journal);
    store->top = store->domains = store->journal = -1;
    become_read_only(store);
}

static bool means_read_only(int r)
{
    return r == -EROFS || r == -EACCES;
}

/* Everything up to the lock. The store is read-only afterwards where it can't be written. */
static int open_and_lock(struct store *store, int source, const char *source_path, struct error *err)
{
    int r = make_directory(source, ".vmsnapfs", !store->read_only, &store->top);
    if (r == -ENOENT || r == -EPERM || means_read_only(r)) { /* EPERM: the directory is immutable */
        log_info("%s: %s; nothing is written, and serial numbers are hashes of names", store->path,
                 r == -ENOENT ? "not there" : strerror(-r));
        become_read_only(store);
        return 0;
    }
    if (r < 0)
        return error_set(err, -r, "%s can't be opened or made: %s%s", store->path, strerror(-r),
                         store->read_only ? "" : "; mend that, or mount with -o ro");
    r = check_owner(store, source, source_path, true, err);
    if (r == 0)
        r = check_owner(store, store->top, store->path, false, err);
    if (r < 0)
        return r;
    if (!store->read_only) {
        r = lock_take(store->top, &store->lock, err);
        if (means_read_only(r))
            become_read_only(store);
        else if (r < 0)
            return error_prefix(err, "%s", source_path), r;
    }
    return 0;
}

/* A directory of the store; left at -1 where it is not there and the store is read-only. */
static int open_inner(struct store *store, const char *name, int *directory, struct error *err)
{
    int r = make_directory(store->top, name, !store->read_only, directory);
    if (store->read_only && r == -ENOENT)
        return 0;
    if (r < 0)
        return error_set(err, -r, "%s/%s: %s", store->path, name, strerror(-r));
    return check_owner(store, *directory, store->path, false, err);
}

/* The version and the directories. */
static int open_content(struct store *store, struct error *err)
{
    unsigned version;
    int r = read_version(store, &version, err);
    if (r < 0)
        return r;
    if (version > VERSION) {
        log_warning("%s: %s; it is only read", store->path,
                    version == UINT32_MAX ? "its file 'version' can't be understood"
                                          : "its format is of a newer version");
        become_read_only(store);
    }
    r = open_inner(store, "domains", &store->domains, err);
    if (r == 0)
        r = open_inner(store, "journal", &store->journal, err);
    if (r < 0)
        return r;
    int found = 0;
    r = serials_init(&store->serials, store->top, &found, err);
    if (r < 0)
        return error_prefix(err, "%s", store->path), r;
    store->serials_lost = !found;
    reserve_init(&store->reserve, store->read_only ? -1 : store->top);
    if (store->read_only)
        return 0;
    reserve_fill(&store->reserve, 0);
    replace_file_clean(store->top);
    replace_file_clean(store->domains);
    store->identity = identity_find(store->top);
    /* Who was killed before the flush left names that a power cut could still take back. */
    if (fsync(store->top) < 0 || fsync(store->domains) < 0)
        return error_set(err, errno, "%s: %s", store->path, strerror(errno));
    /* Last: what has a version is whole. */
    r = version == 0 ? replace_file(store->top, "version", "1\n", 2, err) : 0;
    return r < 0 ? (error_prefix(err, "%s", store->path), r) : 0;
}

static bool identify(int source, struct file_identity *now)
{
    struct stat stat;
    if (fstatat(source, ".vmsnapfs/domains", &stat, AT_SYMLINK_NOFOLLOW) < 0)
        return false;
    *now = file_identity_of(&stat);
    return true;
}

/* It is as if it were not there, until there is another one. */
static void refuse(struct store *store, int source)
{
    forget_directories(store);
    store->refused = (struct file_identity){0};
    identify(source, &store->refused);
}

/* Somebody may have made one, or another one, since a read-only store was opened. */
static void open_again(struct store *store)
{
    struct stat stat;
    struct file_identity now;
    struct error why;
    if (store->source < 0 || (store->domains >= 0 && fstat(store->domains, &stat) == 0 && stat.st_nlink))
        return;
    forget_directories(store);
    if (!identify(store->source, &now) || file_identity_same_file(&now, &store->refused))
        return;
    char source[64];
    snprintf(source, sizeof source, "/proc/self/fd/%d", store->source);
    int r = open_and_lock(store, store->source, source, &why);
    if (r == 0 && store->top >= 0)
        r = open_content(store, &why);
    if (r == 0)
        return;
    log_warning("the store is not used: %s", why.text);
    refuse(store, store->source);
}

int store_open(const char *source, bool read_only, struct store **store, struct error *err)
{
    cleanup_close int fd = open(source, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return error_set(err, errno, "%s: %s", source, strerror(errno));
    struct store *made = calloc(1, sizeof *made);
    if (!made)
        return error_set(err, ENOMEM, "%s", strerror(ENOMEM));
    made->top = made->domains = made->journal = made->lock = made->source = -1;
    made->read_only = read_only;
    seen_states_init(&made->seen);
    int r = 0;
    if (asprintf(&made->path, "%s/.vmsnapfs", source) < 0) {
        made->path = NULL;
        r = error_set(err, ENOMEM, "%s", strerror(ENOMEM));
    }
    struct error why = {0};
    if (r == 0) {
        r = open_and_lock(made, fd, source, &why);
        if (r == 0 && made->top >= 0)
            r = open_content(made, &why);
        if (r < 0 && (made->read_only || r == -ENOSPC || r == -EDQUOT)) {
            /* Everything can be read without it; only the numbers are others. A full disk must not keep
             * anybody from backing up what is on it. */
            log_warning("the store is not used: %s%s", why.text,
                        made->read_only ? "" : "; nothing is written, as with -o ro");
            refuse(made, fd);
            r = 0;
        } else if (r < 0) {
            error_set(err, why.code, "%s", why.text);
        }
    }
    if (r < 0) {
        store_close(made);
        return r;
    }
    if (made->read_only)
        made->source = steal_fd(&fd);
    *store = made;
    return 0;
}

void store_close(struct store *store)
{
    if (!store)
        return;
    forget_directories(store);
    if (store->source >= 0)
        close(store->source);
    seen_states_done(&store->seen);
    free(store->damaged);
    free(store->damage);
    free(store->path);
    free(store);
}

bool store_is_read_only(const struct store *store)
{
    return store->read_only;
}

uint64_t store_identity(const struct store *store)
{
    return store->identity;
}

int store_journal_directory(const struct store *store)
{
    return store->journal;
}

const char *store_damage(const struct store *store)
{
    return store->damage;
}

/* ---- Loading ---- */

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

static int read_state(struct store *store, const char *name, uint64_t serial, struct state_domain **state,
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
    int r = read_state(store, name, serial, state, err);
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
    open_again(store);
    if (store->domains < 0) {
        seen_states_set(&store->seen, NULL, 0, -1);
        *states = NULL;
        *count = 0;
        return 0;
    }
    cleanup_close int fd = open_directory(store->domains, ".");
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
        r = read_state(store, entry->d_name, serial, &made[made_count], &why);
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

static bool has_moved(struct store *store, bool shown)
{
    struct file_identity now;
    if (store->source < 0)
        return false;
    if (seen_states_moved(&store->seen, shown))
        return true;
    return !seen_states_are_known(&store->seen) && identify(store->source, &now) &&
           !file_identity_same_file(&now, &store->refused);
}

bool store_has_moved(struct store *store)
{
    return has_moved(store, false);
}

void store_is_shown(struct store *store)
{
    if (store->source >= 0)
        seen_states_show(&store->seen);
}

bool store_state_has_moved(struct store *store, uint64_t serial)
{
    return serial >= SERIAL_HASHED ? has_moved(store, true)
                                   : store->source >= 0 && seen_state_moved(&store->seen, serial);
}

/* ---- Saving ---- */

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

int store_domains_directory(const struct store *store)
{
    return store->domains;
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
    int r = read_state(store, name, serial, state, err);
    return r < 0 ? (error_prefix(err, "%s/domains/%s", store->path, name), r) : 0;
}

void store_remove_next(struct store *store, uint64_t serial)
{
    char name[32];
    name_next(name, serial);
    unlinkat(store->domains, name, 0);
}

int store_next_serial(struct store *store, uint64_t *serial, struct error *err)
{
    if (store->read_only)
        return error_set(err, EROFS, "%s is only read", store->path);
    int r = serials_next(&store->serials, serial, err);
    return r < 0 ? (error_prefix(err, "%s", store->path), r) : 0;
}
