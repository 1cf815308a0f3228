// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Which files may be opened as images; see locate.h.
 *
 * Opening goes in two steps. First a name is made canonical, component by component: symbolic links are read
 * and followed by text, `..` goes up, and the walk stops at the first directory that is neither inside a root
 * (the source, an allowed directory) nor above one. So a hostile image does not even learn what exists
 * elsewhere. That walk decides nothing: files may move meanwhile. What guards is the second step, openat2
 * from the root's descriptor with RESOLVE_BENEATH and without any links: a race can make it fail, never
 * escape. (RESOLVE_BENEATH alone would refuse absolute links that stay inside, and links between two roots.)
 */
#include "image/locate.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/openat2.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "format/backing_name.h"
#include "image/kept_out.h"

#define LINKS_MAX 40 /* as the kernel's MAXSYMLINKS */

struct root {
    char *given;    /* as the user spelled it, made absolute, without `//` and `/.` */
    char *resolved; /* canonical */
    int fd;         /* O_PATH */
};

struct locate {
    struct root *roots; /* the source, then the allowed ones */
    size_t root_count;
    const char **resolved; /* the same, NULL-terminated, for locate_roots */
    char *excluded;        /* canonical; NULL if none */
    struct kept_out kept_out;
    enum image_format unnamed_backing;
};

static int open_at(int root, const char *path, uint64_t flags, uint64_t resolve)
{
    struct open_how how = {.flags = flags | O_CLOEXEC, .resolve = resolve};
    return (int)syscall(SYS_openat2, root, path, &how, sizeof how);
}

/* If the absolute `path` is `directory` or inside it: what follows, without the slash; else NULL. Neither has
 * `//`. */
static const char *path_inside(const char *path, const char *directory)
{
    size_t length = strlen(directory);
    if (length == 1) /* "/" */
        return path + 1;
    if (strncmp(path, directory, length) != 0 || (path[length] != '\0' && path[length] != '/'))
        return NULL;
    return path[length] ? path + length + 1 : path + length;
}

/* Takes `//`, `/.` and a slash at the end out of an absolute path, in place. `..` stays: it depends on links.
 */
static void path_clean(char *path)
{
    char *to = path;
    for (const char *from = path; *from;) {
        size_t slashes = strspn(from, "/");
        const char *component = from + slashes;
        size_t length = strcspn(component, "/");
        from = component + length;
        if (length == 0 || (length == 1 && *component == '.'))
            continue;
        *to++ = '/';
        memmove(to, component, length);
        to += length;
    }
    if (to == path)
        *to++ = '/';
    *to = '\0';
}

static void root_done(struct root *root)
{
    free(root->given);
    free(root->resolved);
    if (root->fd >= 0)
        close(root->fd);
}

static int root_init(struct root *root, const char *directory, struct error *err)
{
    *root = (struct root){.fd = -1};
    if (!*directory)
        return error_set(err, EINVAL, "the name of a directory is empty");
    cleanup_free char *here = NULL;
    if (*directory != '/') {
        here = getcwd(NULL, 0);
        if (!here)
            return error_set(err, errno, "%s: %s", directory, strerror(errno));
    }
    if (asprintf(&root->given, "%s/%s", here ? here : "", directory) < 0) {
        root->given = NULL;
        return error_set(err, ENOMEM, "out of memory");
    }
    path_clean(root->given);
    root->resolved = realpath(directory, NULL);
    if (!root->resolved)
        return error_set(err, errno, "%s: %s", directory, strerror(errno));
    root->fd = open(root->resolved, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (root->fd < 0)
        return error_set(err, errno, "%s: %s", directory, strerror(errno));
    return 0;
}

int locate_new(const char *source, char *const *allowed, size_t allowed_count,
               enum image_format unnamed_backing, struct locate **locate, struct error *err)
{
    struct locate *made = calloc(1, sizeof *made);
    if (!made)
        return error_set(err, ENOMEM, "out of memory");
    made->unnamed_backing = unnamed_backing;
    made->roots = calloc(allowed_count + 1, sizeof *made->roots);
    made->resolved = calloc(allowed_count + 2, sizeof *made->resolved);
    if (!made->roots || !made->resolved) {
        locate_free(made);
        return error_set(err, ENOMEM, "out of memory");
    }
    for (size_t i = 0; i < allowed_count + 1; i++) {
        made->root_count = i + 1;
        int rc = root_init(&made->roots[i], i ? allowed[i - 1] : source, err);
        if (rc < 0) {
            locate_free(made);
            return rc;
        }
        made->resolved[i] = made->roots[i].resolved;
    }
    *locate = made;
    return 0;
}

void locate_free(struct locate *locate)
{
    if (!locate)
        return;
    for (size_t i = 0; i < locate->root_count; i++)
        root_done(&locate->roots[i]);
    free(locate->roots);
    free(locate->resolved);
    free(locate->excluded);
    free(locate);
}

int locate_exclude(struct locate *locate, const char *directory, struct error *err)
{
    char *resolved = realpath(directory, NULL);
    if (!resolved)
        return error_set(err, errno, "%s: %s", directory, strerror(errno));
    free(locate->excluded);
    locate->excluded = resolved;
    return 0;
}

int locate_keep_out(struct locate *locate, const char *directory, struct error *err)
{
    return kept_out_add(&locate->kept_out, directory, err);
}

int locate_check_kept_out(const struct locate *locate, int fd, const char *path, struct error *err)
{
    if (!kept_out_holds(&locate->kept_out, fd))
        return 0;
    return error_set(err, EPERM,
                     "%.200s lies where vmsnapfs keeps its own files (.vmsnapfs), and would be written over; "
                     "it belongs somewhere else",
                     path);
}

const char *locate_source(const struct locate *locate)
{
    return locate->roots[0].resolved;
}

const char *const *locate_roots(const struct locate *locate)
{
    return locate->resolved;
}

/* The root that a canonical path lies in, or NULL. */
static const struct root *root_of(const struct locate *locate, const char *canonical)
{
    for (size_t i = 0; i < locate->root_count; i++)
        if (path_inside(canonical, locate->roots[i].resolved))
            return &locate->roots[i];
    return NULL;
}

/* Inside a root, or on the way to one. */
static bool may_be_searched(const struct locate *locate, const char *canonical)
{
    for (size_t i = 0; i < locate->root_count; i++)
        if (path_inside(locate->roots[i].resolved, canonical))
            return true;
    return root_of(locate, canonical) != NULL;
}

static bool is_excluded(const struct locate *locate, const char *canonical)
{
    return locate->excluded && path_inside(canonical, locate->excluded);
}

/* A walk: what is canonical so far, and the components that are still to come. */
struct walk {
    char canonical[PATH_MAX];
    char rest[PATH_MAX];
    unsigned links;
};

/* Starts again at an absolute path. Where it begins with a root as the user spelled it, that is the root,
 * whatever links lie on the way there. */
static int walk_from(const struct locate *locate, struct walk *walk, const char *path)
{
    char absolute[PATH_MAX];
    size_t length = strlen(path);
    if (length >= sizeof absolute)
        return -ENAMETOOLONG;
    memcpy(absolute, path, length + 1);
    path_clean(absolute);
    const char *start = "/", *rest = absolute + 1;
    size_t longest = 0;
    for (size_t i = 0; i < locate->root_count; i++) {
        const struct root *root = &locate->roots[i];
        const char *after = path_inside(absolute, root->given);
        if (after && strlen(root->given) > longest) {
            longest = strlen(root->given);
            start = root->resolved;
            rest = after;
        }
    }
    if (strlen(start) >= sizeof walk->canonical)
        return -ENAMETOOLONG;
    memcpy(walk->canonical, start, strlen(start) + 1);
    memcpy(walk->rest, rest, strlen(rest) + 1);
    return 0;
}

/* Puts what a link says before the components that are still to come. */
static int walk_link(const struct locate *locate, struct walk *walk, const char *target)
{
    if (++walk->links > LINKS_MAX)
        return -ELOOP;
    char joined[PATH_MAX];
    int length = snprintf(joined, sizeof joined, "%s/%s", target, walk->rest);
    if (length < 0 || (size_t)length >= sizeof joined)
        return -ENAMETOOLONG;
    if (*target == '/')
        return walk_from(locate, walk, joined);
    memcpy(walk->rest, joined, (size_t)length + 1);
    return 0;
}

/*
 * Takes the first component of `rest` over into `canonical`, or puts the link that it is in its place. -EPERM
 * where that leads to a place that must not be searched, whether it exists or not.
 */
static int walk_step(const struct locate *locate, struct walk *walk)
{
    const char *component = walk->rest + strspn(walk->rest, "/");
    size_t length = strcspn(component, "/");
    size_t used = strlen(walk->canonical);
    char *parent_end = walk->canonical + (used == 1 ? 1 : used); /* "/" keeps its slash */
    if (length == 2 && memcmp(component, "..", 2) == 0) {
        char *slash = strrchr(walk->canonical, '/');
        slash[slash == walk->canonical ? 1 : 0] = '\0';
    } else if (length > 1 || (length == 1 && *component != '.')) {
        if (used + 1 + length >= sizeof walk->canonical)
            return -ENAMETOOLONG;
        if (used > 1)
            walk->canonical[used++] = '/';
        memcpy(walk->canonical + used, component, length);
        walk->canonical[used + length] = '\0';
    }
    memmove(walk->rest, component + length, strlen(component + length) + 1);
    if (is_excluded(locate, walk->canonical))
        return -EPERM;

    char target[PATH_MAX];
    ssize_t target_length = readlink(walk->canonical, target, sizeof target - 1);
    if (target_length < 0) {
        if (!may_be_searched(locate, walk->canonical))
            return -EPERM;
        return errno == EINVAL ? 0 : -errno;
    }
    target[target_length] = '\0';
    *parent_end = '\0';
    return walk_link(locate, walk, target);
}

static int refuse(const struct locate *locate, const char *path, const struct walk *walk, struct error *err)
{
    if (is_excluded(locate, walk->canonical))
        return error_set(err, EPERM, "%.150s lies below the mount point itself", path);
    char directory[PATH_MAX * 2];
    snprintf(directory, sizeof directory, "%s/%s", walk->canonical, walk->rest);
    path_clean(directory);
    char *slash = strrchr(directory, '/');
    slash[slash == directory ? 1 : 0] = '\0';
    return error_set(err, EPERM,
                     "%.150s lies outside the directories that may be read; if it is meant to be read, mount "
                     "with -o allow=%.200s",
                     path, directory);
}

/* Only regular files, and block devices where `allow_device`. */
static int check_type(int fd, bool allow_device, const char *path, struct error *err)
{
    struct stat stat;
    if (fstat(fd, &stat) < 0)
        return error_set(err, errno, "%.200s: %s", path, strerror(errno));
    if (S_ISREG(stat.st_mode) || (S_ISBLK(stat.st_mode) && allow_device))
        return 0;
    if (S_ISBLK(stat.st_mode))
        return error_set(err, EPERM,
                         "%.200s is a block device; those are only opened where a definition names them",
                         path);
    return error_set(err, EINVAL, "%.200s is %s, not an image file", path,
                     S_ISDIR(stat.st_mode)    ? "a directory"
                     : S_ISFIFO(stat.st_mode) ? "a FIFO"
                     : S_ISSOCK(stat.st_mode) ? "a socket"
                     : S_ISCHR(stat.st_mode)  ? "a character device"
                                              : "of another kind");
}

/* Opens `name` from `root` in the way that `resolve` says. The type is looked at before anything is opened,
 * since opening a device or a FIFO can have effects. */
static int open_checked(const struct locate *locate, int root, const char *name, uint64_t resolve,
                        bool allow_device, const char *path, int *fd, struct error *err)
{
    cleanup_close int place = open_at(root, name, O_PATH, resolve);
    if (place < 0)
        return error_set(err, errno, "%.200s: %s", path, strerror(errno));
    int rc = check_type(place, allow_device, path, err);
    if (rc < 0)
        return rc;
    cleanup_close int opened = open_at(root, name, O_RDONLY | O_NONBLOCK | O_NOCTTY, resolve);
    if (opened < 0)
        return error_set(err, errno, "%.200s: %s", path, strerror(errno));
    rc = check_type(opened, allow_device, path, err); /* it may be another one by now */
    if (rc == 0)
        rc = locate_check_kept_out(locate, opened, path, err);
    if (rc < 0)
        return rc;
    /* O_NONBLOCK was for the opening; left set, io_uring gives EAGAIN on some file systems. */
    int flags = fcntl(opened, F_GETFL);
    if (flags < 0 || fcntl(opened, F_SETFL, flags & ~O_NONBLOCK) < 0)
        return error_set(err, errno, "%.200s: %s", path, strerror(errno));
    *fd = steal_fd(&opened);
    return 0;
}

static bool is_named(char *const *named, const char *clean)
{
    for (; named && *named; named++) {
        char other[PATH_MAX];
        if (**named != '/' || strlen(*named) >= sizeof other) /* also names on the network */
            continue;
        memcpy(other, *named, strlen(*named) + 1);
        path_clean(other);
        if (strcmp(other, clean) == 0)
            return true;
    }
    return false;
}

int locate_open(const struct locate *locate, char *const *named, const char *path, int *fd, struct error *err)
{
    if (*path != '/')
        return error_set(err, EINVAL, "\"%.200s\" is no absolute path", path);
    if (strlen(path) >= PATH_MAX)
        return error_set(err, ENAMETOOLONG, "%.200s...: %s", path, strerror(ENAMETOOLONG));
    char clean[PATH_MAX];
    memcpy(clean, path, strlen(path) + 1);
    path_clean(clean);
    if (is_named(named, clean) && !is_excluded(locate, clean))
        return open_checked(locate, AT_FDCWD, clean, RESOLVE_NO_MAGICLINKS, true, path, fd, err);

    struct walk walk = {0};
    int rc = walk_from(locate, &walk, clean);
    while (rc == 0 && *walk.rest)
        rc = walk_step(locate, &walk);
    const struct root *root = rc == 0 ? root_of(locate, walk.canonical) : NULL;
    if (rc == -EPERM || (rc == 0 && !root))
        return refuse(locate, path, &walk, err);
    if (rc < 0)
        return error_set(err, -rc, "%.200s: %s", path, strerror(-rc));
    const char *rest = path_inside(walk.canonical, root->resolved);
    return open_checked(locate, root->fd, *rest ? rest : ".",
                        RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS, false, path, fd, err);
}

int locate_network(char *const *named, const char *name, struct error *err)
{
    for (; named && *named; named++)
        if (strcmp(*named, name) == 0)
            return 0;
    return error_set(
        err, EPERM,
        "\"%.200s\" lies on the network, where an image alone leads nobody; if it is meant to be "
        "read, name it as the \"source\" of a disk in the definition of this domain, which only "
        "its owner can write to",
        name);
}

int locate_reference(const struct locate *locate, const char *image, const char *name,
                     const char *format_name, struct image_reference *reference, struct error *err)
{
    cleanup(backing_name_done) struct backing_name parsed = {0};
    int rc = backing_name_parse(name, format_name, &parsed, err);
    if (rc < 0) {
        error_prefix(err, "%.150s", image);
        return rc;
    }
    char *path = NULL;
    if (parsed.network) {
        *reference = (struct image_reference){
            .path = steal_pointer(parsed.filename), .format = parsed.format, .network = true};
        return 0;
    }
    if (*parsed.filename == '/') {
        path = steal_pointer(parsed.filename);
    } else {
        const char *slash = strrchr(image, '/');
        if (asprintf(&path, "%.*s%s", slash ? (int)(slash - image) + 1 : 0, image, parsed.filename) < 0)
            return error_set(err, ENOMEM, "out of memory");
    }
    if (strlen(path) >= PATH_MAX) {
        free(path);
        return error_set(err, ENAMETOOLONG, "%.150s: the name of the file that it refers to is too long",
                         image);
    }
    enum image_format format = parsed.format;
    if (format == IMAGE_FORMAT_UNKNOWN)
        format = image_format_from_ending(path);
    if (format == IMAGE_FORMAT_UNKNOWN)
        format = locate->unnamed_backing;
    if (format == IMAGE_FORMAT_UNKNOWN) {
        rc = error_set(err, EINVAL,
                       "%.150s does not say the format of its backing file %.150s, and nor does that file's "
                       "ending; if you know it, mount with -o backing-format=raw or -o backing-format=qcow2",
                       image, path);
        free(path);
        return rc;
    }
    *reference = (struct image_reference){.path = path, .format = format};
    return 0;
}

void image_reference_done(struct image_reference *reference)
{
    free(reference->path);
    *reference = (struct image_reference){0};
}
