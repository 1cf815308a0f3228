// SPDX-License-Identifier: LGPL-2.1-or-later
/* SOURCE/.vmsnapfs/: opening, trust, version, and what another mount does there; see store.h. */
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

int store_open_directory(int at, const char *name)
{
    return openat(at, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
}

/* Opens the directory, and makes it if it is not there and `make` is true. */
static int make_directory(int at, const char *name, bool make, int *directory)
{
    int fd = store_open_directory(at, name);
    if (fd < 0 && errno == ENOENT && make) {
        if (mkdirat(at, name, 0700) < 0 && errno != EEXIST)
            return -errno;
        fsync(at); /* if it is lost in a power cut, the next mount makes it again */
        fd = store_open_directory(at, name);
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
void store_open_again(struct store *store)
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

int store_domains_directory(const struct store *store)
{
    return store->domains;
}

int store_next_serial(struct store *store, uint64_t *serial, struct error *err)
{
    if (store->read_only)
        return error_set(err, EROFS, "%s is only read", store->path);
    int r = serials_next(&store->serials, serial, err);
    return r < 0 ? (error_prefix(err, "%s", store->path), r) : 0;
}
