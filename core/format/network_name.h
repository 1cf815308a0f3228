// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Names of disks that lie on the network, as QEMU spells them: rbd:POOL/IMAGE, nbd://HOST/EXPORT,
 * nbd+unix:///EXPORT?socket=PATH, iscsi://HOST/TARGET/LUN, ssh://HOST/PATH, https://HOST/PATH and their like
 * (QEMU docs/system/qemu-block-drivers.rst.inc; block/rbd.c and block/nbd.c for what they take besides).
 *
 * Pure: nothing is connected to here, and whether a name may be used is decided by image/locate.h. A name
 * that holds a password is refused: the tree shows it, and so does the command line of the helper.
 */
#pragma once

#include <stddef.h>

#include "base/error.h"

#define NETWORK_NAME_BYTES_MAX 1023 /* what the header of an image holds */
#define NETWORK_NAME_FILES_MAX 2

enum network_protocol {
    NETWORK_NONE,  /* a path */
    NETWORK_OTHER, /* a protocol that is not read here */
    NETWORK_RBD,
    NETWORK_NBD,
    NETWORK_NBD_UNIX, /* NBD through a UNIX socket */
    NETWORK_ISCSI,
    NETWORK_SSH,
    NETWORK_HTTP, /* http, https, ftp, ftps: QEMU's curl driver */
};

struct network_name {
    enum network_protocol protocol; /* none of the first two */
    char *shown;                    /* without options: for sentences */
    char *label; /* the last part, which names the image there: what a file's name is to a path */
    char *files[NETWORK_NAME_FILES_MAX + 1]; /* absolute paths of configuration files that it names;
                                                NULL-terminated */
};

/*
 * What stands before the first colon, where that comes before the first slash. "file:" and "json:" are
 * NETWORK_NONE, and so is what has a colon but is no protocol that QEMU knows and has no "://".
 */
enum network_protocol network_name_protocol(const char *name);

/*
 * Takes the name apart. Errors: EINVAL for what is malformed, holds control characters or a password;
 * EOPNOTSUPP for a protocol or an option that is not read here; ENAMETOOLONG; ENOMEM. On failure `*parsed` is
 * untouched.
 */
int network_name_parse(const char *name, struct network_name *parsed, struct error *err);
void network_name_done(struct network_name *parsed);
