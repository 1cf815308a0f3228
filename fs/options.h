// SPDX-License-Identifier: LGPL-2.1-or-later
/* The command line of vmsnapfs: text to values. Pure, but for looking up nothing: users and groups are
 * numbers. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#include "base/error.h"
#include "base/image_format.h"

struct options {
    bool help, version; /* asked for: nothing else was read */
    bool foreground;
    bool debug;
    bool read_only;
    bool allow_other;
    char *source, *mountpoint; /* as given */
    char **allow;              /* directories, as given */
    size_t allow_count;
    enum image_format unnamed_backing;
    size_t cache_bytes;
    unsigned threads;
    uid_t uid;
    gid_t gid;
    mode_t directory_mode, disk_mode, control_mode;
    char *mount_flags; /* options for the kernel's mount, "nosuid,nodev": comma-separated; never NULL */
};

/*
 * Parses the arguments. Errors: EINVAL with a sentence, ENOMEM; then `options` holds nothing.
 * An option value ends at a comma that no backslash precedes.
 */
int options_parse(int argc, char *const *argv, struct options *options, struct error *err);
void options_done(struct options *options);

/* What -h prints. Static. */
const char *options_usage(void);
