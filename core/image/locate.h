// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Which files may be opened as images, and opening them.
 *
 * An image can name any file of the host as its backing or data file. Such names are followed only inside the
 * source, inside the directories of `-o allow=`, and to files that a trusted definition names; to a disk on
 * the network only where a trusted definition names that very one. Files are
 * opened with openat2 (RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS), so that neither `..` nor a symbolic link
 * leads out; a link that stays inside is followed. Only regular files, and block devices where a definition
 * names them, come back.
 *
 * A `struct locate` is immutable after locate_new; any thread may use it.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "base/error.h"
#include "base/image_format.h"

struct locate;

/*
 * `source` and each of `allowed` (count entries) are existing directories; both spellings, as given and
 * resolved, lead to them later. `unnamed_backing` is the format of backing files whose format neither the
 * image nor the ending tells
 * (-o backing-format=); IMAGE_FORMAT_UNKNOWN refuses them. Errors: what opening a directory gives, EINVAL.
 */
int locate_new(const char *source, char *const *allowed, size_t allowed_count,
               enum image_format unnamed_backing, struct locate **locate, struct error *err);
void locate_free(struct locate *locate);

/*
 * Nothing in `directory` is ever opened: for the mount point, which may lie inside the source, where the
 * daemon would wait for itself. Call it before the mount, and before other threads use `locate`. Errors: what
 * resolving the name gives.
 */
int locate_exclude(struct locate *locate, const char *directory, struct error *err);

/*
 * Nor is anything in this directory, or put into it: where vmsnapfs keeps its own files (kept_out.h). Call it
 * before other threads use `locate`. 0 also where there is none. Errors: what stat gives.
 */
int locate_keep_out(struct locate *locate, const char *directory, struct error *err);

/* EPERM, with a text, if the file or directory that `fd` is open on lies there. */
int locate_check_kept_out(const struct locate *locate, int fd, const char *path, struct error *err);

/* The resolved absolute path of the source. Borrowed. */
const char *locate_source(const struct locate *locate);

/* The directories that may be read, resolved: the source, then the allowed ones. Borrowed; NULL-terminated.
 */
const char *const *locate_roots(const struct locate *locate);

/*
 * Opens an image read-only (O_CLOEXEC), without blocking on FIFOs. `path` is absolute. `named`
 * (NULL-terminated, may be NULL) are the absolute paths that a trusted definition names, opened wherever they
 * lie. Errors: EPERM for a place that is not allowed, with a text that says how to allow it; ENOENT; EINVAL
 * for what is no regular file or block device; what open gives.
 */
int locate_open(const struct locate *locate, char *const *named, const char *path, int *fd,
                struct error *err);

/*
 * May the helper connect to `name`, which lies on the network (format/network_name.h)? 0 if it is one of
 * `named` (as in locate_open), letter by letter; else -EPERM, with a text that says how to allow it.
 */
int locate_network(char *const *named, const char *name, struct error *err);

/* What an image says of its backing or data file, made absolute. */
struct image_reference {
    char *path; /* absolute; a name in the directory of the image where the image gave a relative one */
    enum image_format format; /* of the file; IMAGE_FORMAT_UNKNOWN on success only with `network` */
    bool network;             /* `path` is the name of a disk on the network, as the image gives it */
};

/*
 * Makes a reference out of what the image at the absolute path `image` says: `name` is a path, "file:PATH",
 * "json:{...}" of plain files ("driver" raw, qcow2, file..., nested "file"; anything that is no plain file is
 * refused), or a name on the network. `format_name` is the format beside it, NULL if the image says none;
 * then, of a file, the ending decides, then unnamed_backing; of a disk on the network its definition. Errors:
 * EINVAL and EOPNOTSUPP, with a text that names the image.
 */
int locate_reference(const struct locate *locate, const char *image, const char *name,
                     const char *format_name, struct image_reference *reference, struct error *err);
void image_reference_done(struct image_reference *reference);
