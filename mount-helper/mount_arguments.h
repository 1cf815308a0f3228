// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * The command line that mount(8) gives its helpers (section EXTERNAL HELPERS):
 *
 *     mount.vmsnapfs SOURCE MOUNTPOINT [-sfnv] [-N namespace] [-o options] [-t type.subtype]
 *
 * No I/O. Not for two threads at once: getopt(3) has its state in globals.
 */
#pragma once

#include <stdbool.h>

#include "base/error.h"
#include "base/text.h"

struct mount_arguments {
    const char *source;
    const char *mountpoint;
    const char *namespace; /* a file, or the id of a process; NULL: this one */
    struct text options;   /* for vmsnapfs; empty where there are none */
    bool fake;
    bool verbose;
    bool help;
    bool version;
};

/*
 * `arguments` must be zeroed, and done with mount_arguments_done(), also after a failure. Its strings are
 * borrowed from `argv`, whose order getopt changes. With `help` or `version` nothing else is set or checked.
 * -EINVAL, with a text, for what is not in the synopsis.
 */
int mount_arguments_parse(int argc, char **argv, struct mount_arguments *arguments, struct error *err);
void mount_arguments_done(struct mount_arguments *arguments);
