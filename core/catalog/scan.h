// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * What lies in the source now: definitions, image files with their headers and snapshot tables, and who is
 * whose backing file. Facts only; which domains that makes is decided in discover.h.
 *
 * Files are looked at in the top directory only, and subdirectories are not even statted, since the mount
 * point may be one of them. (But for overlays that lie beside a disk that a definition names.) A file is
 * opened as qcow2 only if a definition or another image says that it is one, or its ending does, or its
 * ending says nothing; never where its ending or a definition tells another format, since a guest can write
 * any header into a raw disk. (An overlay that virsh made has an ending that says nothing; what it claims is
 * believed only as far as its place on top of a known image.)
 *
 * Headers are read again only where a file's times or size moved. What could not be read is tried again soon,
 * and then less and less often while it goes on failing. One thread.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <time.h>

#include "base/error.h"
#include "base/file_identity.h"
#include "catalog/image_info.h"
#include "catalog/notices.h"
#include "format/definition.h"
#include "image/locate.h"

/* An image file, or a disk on the network, read as one format. */
struct scan_image {
    char *path;       /* absolute, or the name on the network */
    bool is_remote;   /* on the network: no file, no identity, and nothing is asked of it here; only what a
                         trusted definition names */
    const char *name; /* its last component where it lies in the top directory, else NULL; inside `path` */
    enum image_format format;
    bool is_device;
    struct file_identity identity;
    char *data_path;                    /* of its external data file; NULL: none that may be read */
    struct file_identity data_identity; /* of that; zeros if there is none */
    struct timespec ctime;
    time_t looked_at;              /* when `info` was last known to be right */
    bool is_unread;                /* something of it could not be read, which may pass */
    time_t unread_since;           /* the start of the first scan in which that was so */
    uint64_t size;                 /* virtual, bytes; 0 where it is not known */
    char *size_problem;            /* why it is not known although it should; NULL */
    const struct image_info *info; /* qcow2 only; a reference */
    struct scan_image *backing;    /* NULL: none, or see backing_problem */
    bool backing_refused;          /* `backing` is what it stands on, but must not be read that way */
    int backing_error;             /* 0 or a negative errno */
    char *backing_problem;         /* why there is no `backing`, or it must not be read */
    struct timespec birth;         /* of what stands on a disk on the network: when the file was made; 0:
                                      not known */
    bool is_empty;                 /* qcow2 with a backing file and no cluster of its own yet */
    bool is_candidate;        /* found by listing a directory, not by what an image or definition names */
    bool is_written;          /* a QEMU had it open for writing when it was looked at */
    bool is_prepared;         /* an empty overlay that no QEMU has open, on what one writes to: made ready
                                 for later, and not what the domain writes to now */
    bool is_restless;         /* something stands on it, and it was written to while the scan ran */
    bool is_backing;          /* of some image here; told by `first` for all of the same file */
    bool is_defined;          /* a definition names it as a disk, with this format */
    size_t index;             /* in the scan's images[] */
    struct scan_image *first; /* the first image of the same file, maybe itself */
    struct scan_image *same_hash;
};

struct scan_chain { /* of a disk that a definition names; top first */
    struct scan_image **images;
    size_t count;
    char *problem; /* why it is not complete; NULL if it is */
};

struct scan_definition {
    char *name; /* of the file */
    char *path;
    struct file_identity identity;
    struct timespec ctime;
    bool is_good; /* else it could not be read, and nothing below is there but what says why */
    char *unread; /* why it can't be read, which may pass; what is here is what the last scan knew. NULL: it
                     was read */
    time_t unread_since;
    char *domain; /* the name of the domain that it defines, or that it defined before it became bad */
    char *bytes;  /* what `definition` was parsed from */
    size_t length;
    struct definition definition;
    char *distrust;            /* why it is not trusted; NULL if it is */
    char **sources;            /* absolute paths of its disks; NULL-terminated */
    struct scan_chain *chains; /* one for each disk */
};

/* A path that could not be opened, and may come into being. */
struct scan_absent {
    char *path;
    bool is_named; /* by a trusted definition */
    int error;     /* negative errno */
};

/* A directory, besides the source, that holds a disk which a definition names: overlays may lie in it too. */
struct scan_directory {
    char *path;
    struct timespec ctime;
};

struct scan {
    const struct locate *locate;
    const char *source; /* its resolved absolute path */
    int directory;      /* the source; borrowed */
    struct timespec directory_ctime;
    time_t started_at;
    bool is_settled;            /* the directories were listed once more, well after their last change */
    struct scan_image **images; /* those of definitions, those of the directory by name, backing files */
    size_t image_count;
    size_t resolved_count;               /* so many have their `backing` */
    struct scan_definition *definitions; /* by file name */
    size_t definition_count;
    struct scan_directory *directories;
    size_t directory_count;
    struct scan_absent *absent;
    size_t absent_count;
    time_t again_at;                 /* when to try again what could not be read; 0: all was */
    time_t others_unread_since;      /* of what is no image and no definition; 0: all was */
    struct scan_image **by_identity; /* hash table of SCAN_BUCKETS */
};

#define SCAN_BUCKETS 4096 /* a power of two */

/* What to look at, besides what definitions and images lead to. */
struct scan_scope {
    char *const *names; /* of files in the directory, sorted; NULL: all that are there */
    char *const *known; /* absolute paths of qcow2 images that the store knows; NULL: none */
    char *const *raw;   /* the same of raw ones */
};

/*
 * Looks at the source, which `directory` (borrowed for the scan's life) is open on. `before` (may be NULL) is
 * the last scan: what it knows of unchanged files is taken over. `scope` may be NULL: the whole directory.
 * What a person should know goes to `notices`. Errors: the directory can't be read; ENOMEM.
 */
int scan_new(const struct locate *locate, int directory, const struct scan *before,
             const struct scan_scope *scope, struct notices *notices, struct scan **scan, struct error *err);
void scan_free(struct scan *scan);

/*
 * Did anything move that a new scan would see? Stats every file that the scan knows; reads an image's header
 * and table only where its times moved, so that a busy guest costs one small read. With `thoroughly`, all
 * headers are read. Updates the identities of images that were written to.
 */
bool scan_moved(struct scan *scan, bool thoroughly);
