// SPDX-License-Identifier: LGPL-2.1-or-later
/* The images of a scan; see scan_images.h. */
#include "catalog/scan_images.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/endings.h"
#include "image/frozen_disk.h"
#include "io/byte_source.h"

/* A change this shortly before a file was looked at may have another one in the same tick behind it. Coarse
 * clocks of file servers count in seconds. */
#define SETTLE_SECONDS 2

bool scan_image_is_settled(const struct scan_image *image)
{
    return image->ctime.tv_sec < image->looked_at - SETTLE_SECONDS;
}

#define AGAIN_SECONDS_MAX 32

void scan_try_again(struct scan *scan, time_t since)
{
    time_t wait = scan->started_at - since;
    wait = wait < 1 ? 1 : wait > AGAIN_SECONDS_MAX ? AGAIN_SECONDS_MAX : wait;
    if (scan->again_at == 0 || scan->again_at > scan->started_at + wait)
        scan->again_at = scan->started_at + wait;
}

void scan_note_unread(struct scan *scan, const struct scan *before, int error)
{
    if (!error_may_pass(error))
        return;
    scan->others_unread_since =
        before && before->others_unread_since ? before->others_unread_since : scan->started_at;
    scan_try_again(scan, scan->others_unread_since);
}

static struct scan_image **bucket_of(const struct scan *scan, const struct file_identity *identity)
{
    uint64_t hash = (identity->inode * UINT64_C(0x9e3779b97f4a7c15)) ^ identity->device;
    return &scan->by_identity[(hash >> 32) & (SCAN_BUCKETS - 1)];
}

/* The image of this file and format; with IMAGE_FORMAT_UNKNOWN the one that a definition names, if any does.
 */
static struct scan_image *find(const struct scan *scan, const struct file_identity *identity,
                               enum image_format format)
{
    for (struct scan_image *image = *bucket_of(scan, identity); image; image = image->same_hash)
        if (file_identity_same_file(&image->identity, identity) &&
            (format == IMAGE_FORMAT_UNKNOWN ? image->is_defined : image->format == format))
            return image;
    return NULL;
}

static int append(struct scan *scan, struct scan_image *image)
{
    if ((scan->image_count & (scan->image_count + 1)) == 0) { /* full at 1, 3, 7, 15, … */
        struct scan_image **grown = realloc(scan->images, (2 * scan->image_count + 1) * sizeof *grown);
        if (!grown)
            return -ENOMEM;
        scan->images = grown;
    }
    if (image->is_unread)
        scan_try_again(scan, image->unread_since);
    image->index = scan->image_count;
    scan->images[scan->image_count++] = image;
    struct scan_image **end = bucket_of(scan, &image->identity);
    for (; !image->is_remote && *end; end = &(*end)->same_hash)
        if (!image->first && file_identity_same_file(&(*end)->identity, &image->identity))
            image->first = *end;
    if (!image->is_remote)
        *end = image;
    if (!image->first)
        image->first = image;
    return 0;
}

/* The image of this name on the network. A definition with another format has one of its own. */
static struct scan_image *find_remote(const struct scan *scan, const char *name, enum image_format format)
{
    for (size_t i = 0; i < scan->image_count; i++)
        if (scan->images[i]->is_remote && strcmp(scan->images[i]->path, name) == 0 &&
            (format == IMAGE_FORMAT_UNKNOWN || scan->images[i]->format == format))
            return scan->images[i];
    return NULL;
}

static bool is_same_file(const struct scan_image *a, const struct scan_image *b)
{
    if (a->is_remote || b->is_remote)
        return a->is_remote && b->is_remote && strcmp(a->path, b->path) == 0;
    return file_identity_same_file(&a->identity, &b->identity);
}

static void take_stat(struct scan_image *image, const struct stat *stat)
{
    image->identity = file_identity_of(stat);
    image->ctime = stat->st_ctim;
    image->is_device = S_ISBLK(stat->st_mode);
}

const struct scan_image *scan_image_before(const struct scan *before, const struct scan_image *image)
{
    const struct scan_image *known = before ? find(before, &image->identity, image->format) : NULL;
    return known && strcmp(known->path, image->path) == 0 ? known : NULL;
}

/* Reads what the image says of itself, unless the last scan knows. */
static int look_at(struct scan_image *image, int fd, const struct scan *before)
{
    const struct scan_image *known = scan_image_before(before, image);
    image->looked_at = time(NULL);
    if (image->format == IMAGE_FORMAT_QCOW2) {
        image->info = image_info_read(fd, image->path, known ? known->info : NULL);
        if (!image->info)
            return -ENOMEM;
        image->size = image->info->size;
        image->is_unread = image->info->is_unread;
        if (!image->info->error && image->info->backing_name &&
            (!known || known->is_empty || known->info != image->info)) {
            int empty = image_info_is_empty(image->info, fd);
            image->is_unread |= error_may_pass(empty);
            image->is_empty = empty > 0 || error_may_pass(empty); /* nothing tells that it is in use */
        }
    } else if (image->format == IMAGE_FORMAT_RAW) {
        uint64_t bytes;
        struct byte_source source = byte_source_fd(fd);
        /* QEMU counts in sectors: a raw file of 1000 bytes is a disk of 1024. */
        int r = byte_source_size(&source, &bytes);
        image->is_unread = error_may_pass(r);
        if (r < 0 || !align_up_checked(bytes, 512, &image->size))
            image->size = 0;
    }
    return 0;
}

/* Where the data lies in a file of its own, that has an identity, too. */
static int look_at_data(const struct scan *scan, const struct scan_image *known, struct scan_image *image)
{
    cleanup(image_reference_done) struct image_reference data = {0};
    cleanup_close int fd = -1;
    struct stat stat;
    if (!image->info || !image->info->data_name)
        return 0;
    int r = locate_reference(scan->locate, image->path, image->info->data_name, "raw", &data, NULL);
    if (r == 0 && !data.network)
        r = locate_open(scan->locate, NULL, data.path, &fd, NULL);
    if (fd >= 0 && fstat(fd, &stat) == 0 && S_ISREG(stat.st_mode)) {
        image->data_identity = file_identity_of(&stat);
        image->data_path = steal_pointer(data.path);
    } else if (error_may_pass(r)) {
        image->is_unread = true;
        if (known && known->data_path && data.path && strcmp(known->data_path, data.path) == 0) {
            image->data_identity = known->data_identity;
            image->data_path = steal_pointer(data.path);
        }
    }
    return r == -ENOMEM ? r : 0;
}

static void note_unread(const struct scan *scan, const struct scan_image *known, struct scan_image *image)
{
    if (image->is_unread)
        image->unread_since = known && known->is_unread ? known->unread_since : scan->started_at;
}

static bool is_unchanged(const struct scan_image *known, const struct stat *stat)
{
    struct file_identity now = file_identity_of(stat);
    return !known->is_unread && scan_image_is_settled(known) && !known->is_device &&
           file_identity_same_content(&known->identity, &now) &&
           known->ctime.tv_sec == stat->st_ctim.tv_sec && known->ctime.tv_nsec == stat->st_ctim.tv_nsec;
}

/*
 * A QEMU that has the file open for writing holds a shared lock on this byte (block/file-posix.c:
 * RAW_LOCK_PERM_BASE + BLK_PERM_WRITE), which an exclusive one would conflict with.
 */
bool scan_is_written(int fd)
{
    struct flock byte = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = 101, .l_len = 1};
    return fcntl(fd, F_OFD_GETLK, &byte) == 0 && byte.l_type != F_UNLCK;
}

/*
 * The file's own path where `path` makes a detour ("sub/../x"), so that one file has one name whoever stands
 * on it; else `path`, also where only that name may be opened (a definition names it so). The kernel tells
 * it, since without it nobody knows what ".." after a symbolic link is. The caller frees; NULL where memory
 * ran out.
 */
static char *plain_path(const struct scan *scan, int fd, const char *path, const struct stat *stat)
{
    char link[64], plain[PATH_MAX];
    if (!strstr(path, "/./") && !strstr(path, "/../") && !strstr(path, "//"))
        return strdup(path);
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, plain, sizeof plain - 1);
    if (length < 0)
        return strdup(path);
    plain[length] = '\0';
    cleanup_close int again = -1;
    struct stat found;
    bool is_same = locate_open(scan->locate, NULL, plain, &again, NULL) == 0 && fstat(again, &found) == 0 &&
                   found.st_dev == stat->st_dev && found.st_ino == stat->st_ino;
    return strdup(is_same ? plain : path);
}

/* Takes over `path`, also where it fails. */
static struct scan_image *image_new(const struct scan *scan, char *path, enum image_format format,
                                    const struct stat *stat)
{
    struct scan_image *image = path ? calloc(1, sizeof *image) : NULL;
    if (!image) {
        free(path);
        return NULL;
    }
    image->format = format;
    take_stat(image, stat);
    image->path = path;
    size_t length = strlen(scan->source);
    if (strncmp(image->path, scan->source, length) == 0 && image->path[length] == '/' &&
        !strchr(image->path + length + 1, '/'))
        image->name = image->path + length + 1;
    return image;
}

/* Adds the open file as an image. */
static int add(struct scan *scan, const struct scan *before, const char *path, enum image_format format,
               int fd, const struct stat *stat, struct scan_image **result)
{
    struct scan_image *image = image_new(scan, plain_path(scan, fd, path, stat), format, stat);
    if (!image)
        return -ENOMEM;
    image->is_written = scan_is_written(fd);
    int r = 0;
    const struct scan_image *known = scan_image_before(before, image);
    if (known && is_unchanged(known, stat)) {
        image->looked_at = known->looked_at;
        image->size = known->size;
        image->is_empty = known->is_empty;
        image->info = image_info_ref(known->info);
    } else {
        r = look_at(image, fd, before);
    }
    if (r == 0)
        r = look_at_data(scan, known, image);
    note_unread(scan, known, image);
    if (r == 0)
        r = append(scan, image);
    if (r < 0) {
        scan_image_free(image);
        return r;
    }
    *result = image;
    return 0;
}

/* Adds a file of the source that could not be opened: it is a domain all the same, with a problem. */
static int add_unreadable(struct scan *scan, const struct scan *before, const char *path, const char *name,
                          const struct error *why)
{
    struct stat stat;
    if (fstatat(scan->directory, name, &stat, AT_SYMLINK_NOFOLLOW) < 0 || !S_ISREG(stat.st_mode))
        return 0;
    struct scan_image *image = image_new(scan, strdup(path), IMAGE_FORMAT_QCOW2, &stat);
    if (!image)
        return -ENOMEM;
    image->is_candidate = true;
    image->looked_at = time(NULL);
    image->info = image_info_failed(-why->code, why->text);
    image->is_unread = image->info && image->info->is_unread;
    note_unread(scan, scan_image_before(before, image), image);
    int r = image->info ? append(scan, image) : -ENOMEM;
    if (r < 0)
        scan_image_free(image);
    return r;
}

static int add_absent(struct scan *scan, char *const *named, const char *path, int error)
{
    bool is_named = false;
    for (; named && *named; named++)
        is_named |= strcmp(*named, path) == 0;
    struct scan_absent *grown = realloc(scan->absent, (scan->absent_count + 1) * sizeof *grown);
    if (!grown)
        return -ENOMEM;
    scan->absent = grown;
    char *copy = strdup(path);
    if (!copy)
        return -ENOMEM;
    scan->absent[scan->absent_count++] = (struct scan_absent){copy, is_named, error};
    return 0;
}

int scan_images_open(struct scan *scan, const struct scan *before, char *const *named, const char *path,
                     enum image_format format, struct scan_image **image, struct error *why)
{
    cleanup_close int fd = -1;
    int r = locate_open(scan->locate, named, path, &fd, why);
    if (r == -ENOMEM)
        return r;
    if (r < 0)
        /* What is not allowed, or no image, is not looked for again until something else changes. */
        return r == -EPERM || r == -EINVAL ? 0 : add_absent(scan, named, path, r);
    struct stat stat;
    if (fstat(fd, &stat) < 0) {
        scan_note_unread(scan, before, -errno);
        return error_set(why, errno, "%s: %s", path, strerror(errno)), 0;
    }
    struct file_identity identity = file_identity_of(&stat);
    struct scan_image *found = find(scan, &identity, format);
    if (!found) {
        r = add(scan, before, path, format, fd, &stat, &found);
        if (r < 0)
            return r;
    }
    *image = found;
    return 0;
}

int scan_images_add_remote(struct scan *scan, char *const *named, const char *name, enum image_format format,
                           struct scan_image **image, struct error *why)
{
    if (locate_network(named, name, why) < 0)
        return 0;
    if (format != IMAGE_FORMAT_RAW)
        return error_set(why, EOPNOTSUPP, "%.200s: format %s is not read over the network, only raw is", name,
                         image_format_name(format)),
               0;
    struct scan_image *found = find_remote(scan, name, format);
    if (!found) {
        found = calloc(1, sizeof *found);
        char *path = strdup(name);
        if (!found || !path) {
            free(found);
            free(path);
            return -ENOMEM;
        }
        *found = (struct scan_image){.path = path, .is_remote = true, .format = format};
        int r = append(scan, found);
        if (r < 0) {
            scan_image_free(found);
            return r;
        }
    }
    *image = found;
    return 0;
}

int scan_images_add_candidate(struct scan *scan, const struct scan *before, const char *directory,
                              const char *name)
{
    cleanup_free char *path = NULL;
    if (asprintf(&path, "%s/%s", directory, name) < 0)
        return path = NULL, -ENOMEM;
    cleanup_close int fd = -1;
    struct error why;
    int r = locate_open(scan->locate, NULL, path, &fd, &why);
    if (r == -ENOMEM)
        return r;
    struct stat stat;
    if (r == 0 && fstat(fd, &stat) < 0)
        r = error_set(&why, errno, "%s: %s", path, strerror(errno));
    if (r < 0) {
        /* Nothing else than a .qcow2 in the source is known to be an image before it was read. */
        if (directory == scan->source && ending_of(name) == ENDING_QCOW2)
            return add_unreadable(scan, before, path, name, &why);
        scan_note_unread(scan, before, r);
        return 0;
    }
    struct file_identity identity = file_identity_of(&stat);
    if (find(scan, &identity, IMAGE_FORMAT_UNKNOWN))
        return 0;
    struct scan_image *image;
    r = add(scan, before, path, IMAGE_FORMAT_QCOW2, fd, &stat, &image);
    if (r == 0)
        image->is_candidate = true;
    return r;
}

/* When the file of the image was made. As far as the file system keeps that. */
static struct timespec birth_of(const struct scan *scan, const struct scan_image *image)
{
    struct statx found;
    int r = image->name ? statx(scan->directory, image->name, AT_SYMLINK_NOFOLLOW, STATX_BTIME, &found)
                        : statx(AT_FDCWD, image->path, 0, STATX_BTIME, &found);
    if (r < 0 || !(found.stx_mask & STATX_BTIME))
        return (struct timespec){0};
    return (struct timespec){found.stx_btime.tv_sec, (long)found.stx_btime.tv_nsec};
}

/*
 * What stands on the network is known only as far as trusted definitions name it. Whether the domain that the
 * image belongs to may go there is asked when its chain is followed.
 */
static int find_remote_backing(struct scan *scan, struct scan_image *image,
                               const struct image_reference *reference, struct scan_image **backing,
                               bool *refused, struct error *why)
{
    struct scan_image *found = find_remote(scan, reference->path, IMAGE_FORMAT_UNKNOWN);
    if (!found) {
        *refused = false; /* it is not the format that is in doubt */
        struct error not_named = {0};
        int r = locate_network(NULL, reference->path, &not_named);
        return error_set(why, -r, "%s: its backing file: %s", image->path, not_named.text), 0;
    }
    image->birth = birth_of(scan, image);
    *backing = found;
    if (reference->format != IMAGE_FORMAT_UNKNOWN && reference->format != found->format) {
        *refused = true;
        error_set(why, EPERM, "%s says that %s is %s, but its definition says %s", image->path, found->path,
                  image_format_name(reference->format), image_format_name(found->format));
    }
    return 0;
}

/*
 * Opens what `image` names as its backing file, and adds it. `*backing` stays NULL, and `why` tells, where
 * that can't be; `*refused` where it is known but its format is not. -ENOMEM.
 */
static int open_backing(struct scan *scan, const struct scan *before, char *const *named,
                        struct scan_image *image, struct scan_image **backing, bool *refused,
                        struct error *why)
{
    const struct image_info *info = image->info;
    cleanup(image_reference_done) struct image_reference reference = {0};
    int r = locate_reference(scan->locate, image->path, info->backing_name, info->backing_format, &reference,
                             why);
    *refused = r < 0;
    if (r == -ENOMEM)
        return r;
    /* Where only the format is in doubt, it is still good to know that the file is somebody's backing file.
     */
    if (r < 0 &&
        locate_reference(scan->locate, image->path, info->backing_name, "qcow2", &reference, NULL) < 0)
        return 0;
    if (reference.network)
        return find_remote_backing(scan, image, &reference, backing, refused, why);
    cleanup_close int fd = -1;
    struct error not_open = {0};
    r = locate_open(scan->locate, named, reference.path, &fd, &not_open);
    if (r < 0) {
        if (!*refused)
            error_set(why, not_open.code, "%s: its backing file: %s", image->path, not_open.text);
        return r == -ENOMEM                  ? r
               : r == -EPERM || r == -EINVAL ? 0
                                             : add_absent(scan, named, reference.path, r);
    }
    struct stat stat;
    if (fstat(fd, &stat) < 0) {
        scan_note_unread(scan, before, -errno);
        return error_set(why, errno, "%s: %s", reference.path, strerror(errno)), 0;
    }
    struct file_identity identity = file_identity_of(&stat);
    struct scan_image *found = find(scan, &identity, reference.format);
    struct scan_image *defined =
        found && found->is_defined ? NULL : find(scan, &identity, IMAGE_FORMAT_UNKNOWN);
    if (defined) {
        *backing = defined;
        *refused = true;
        if (why->code == 0)
            error_set(why, EPERM, "%s says that %s is %s, but its definition says %s", image->path,
                      defined->path, image_format_name(reference.format), image_format_name(defined->format));
        return 0;
    }
    if (!found) {
        r = add(scan, before, reference.path, reference.format, fd, &stat, &found);
        if (r < 0)
            return r;
    }
    *backing = found;
    return 0;
}

static bool has_backing(const struct scan_image *image)
{
    return image->info && !image->info->error && image->info->backing_name;
}

int scan_images_resolve(struct scan *scan, const struct scan *before)
{
    for (; scan->resolved_count < scan->image_count; scan->resolved_count++) {
        struct scan_image *image = scan->images[scan->resolved_count];
        if (!has_backing(image))
            continue;
        struct error why = {0};
        int r = open_backing(scan, before, NULL, image, &image->backing, &image->backing_refused, &why);
        if (r < 0)
            return r;
        if (image->backing)
            image->backing->first->is_backing = true;
        if (why.code) {
            image->backing_error = -why.code;
            image->backing_problem = strdup(why.text);
            if (!image->backing_problem)
                return -ENOMEM;
        }
    }
    return 0;
}

/* ---- Chains ---- */

static int chain_append(struct scan_chain *chain, struct scan_image *image)
{
    struct scan_image **grown = realloc(chain->images, (chain->count + 1) * sizeof *grown);
    if (!grown)
        return -ENOMEM;
    chain->images = grown;
    chain->images[chain->count++] = image;
    return 0;
}

static int chain_end(struct scan_chain *chain, const char *problem)
{
    chain->problem = strdup(problem ? problem : "out of memory");
    return chain->problem ? 0 : -ENOMEM;
}

/* Appends `image` unless the chain would become a loop, or too deep; then `*ended` is true. */
static int chain_go_on(struct scan_chain *chain, struct scan_image *image, bool *ended)
{
    char text[ERROR_TEXT_MAX];
    *ended = true;
    if (image->info && image->info->error)
        return chain_end(chain, image->info->problem);
    for (size_t i = 0; i < chain->count; i++)
        if (is_same_file(chain->images[i], image)) {
            snprintf(text, sizeof text,
                     "the chain of backing files of %.200s is a loop: it comes to %.200s again",
                     chain->images[0]->path, image->path);
            return chain_end(chain, text);
        }
    if (chain->count == CHAIN_DEPTH_MAX) {
        snprintf(text, sizeof text, "the chain of backing files of %.300s is longer than %d",
                 chain->images[0]->path, CHAIN_DEPTH_MAX);
        return chain_end(chain, text);
    }
    *ended = false;
    return chain_append(chain, image);
}

int scan_images_follow(struct scan *scan, const struct scan *before, char *const *named,
                       struct scan_image *top, struct scan_chain *chain)
{
    bool ended = false;
    int r = chain_go_on(chain, top, &ended);
    for (struct scan_image *image = top; r == 0 && !ended && has_backing(image);) {
        struct scan_image *backing = image->backing_refused ? NULL : image->backing;
        if (!backing && image->backing_error == -EPERM && !image->backing_refused && scan && named &&
            *named) {
            struct error why = {0};
            bool refused = false;
            r = open_backing(scan, before, named, image, &backing, &refused, &why);
            if (r == 0 && backing)
                backing->first->is_backing = true;
            if (refused)
                backing = NULL;
            if (r == 0)
                r = scan_images_resolve(scan, before);
        }
        if (r == 0 && !backing)
            return chain_end(chain, image->backing_problem);
        if (r == 0 && backing->is_remote) {
            struct error why = {0};
            if (locate_network(named, backing->path, &why) < 0) {
                error_prefix(&why, "%.150s: its backing file", image->path);
                return chain_end(chain, why.text);
            }
        }
        if (r == 0)
            r = chain_go_on(chain, backing, &ended);
        image = backing;
    }
    return r;
}

int scan_chain_follow(char *const *named, struct scan_image *top, struct scan_chain *chain)
{
    return scan_images_follow(NULL, NULL, named, top, chain);
}

void scan_chain_done(struct scan_chain *chain)
{
    free(chain->images);
    free(chain->problem);
    *chain = (struct scan_chain){0};
}

void scan_image_free(struct scan_image *image)
{
    if (!image)
        return;
    image_info_unref(image->info);
    free(image->backing_problem);
    free(image->size_problem);
    free(image->data_path);
    free(image->path);
    free(image);
}
