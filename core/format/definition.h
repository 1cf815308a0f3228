// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * A domain's definition in JSON, NAME.json, as a person wrote it. The text is untrusted: limits on size,
 * depth and counts, every value's type checked, names legal (domain/name.h). Keys that are not known are an
 * error that names them, so that a misspelt one is not silently ignored. No file is opened here.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "base/error.h"
#include "base/image_format.h"
#include "base/text.h"
#include "domain/domain.h"

#define DEFINITION_BYTES_MAX (1024 * 1024)

struct definition_disk {
    char *target;
    char *source; /* as written: absolute, relative to the directory of the definition, or `remote` */
    bool remote;  /* the source is a name on the network, which network_name_parse takes */
    enum image_format format;
    enum snapshot_preset snapshot; /* "snapshot": no, internal, external; absent: default */
    bool persistent;               /* absent: true */
};

struct definition {
    char *name; /* absent: the file's name without .json, which the caller passes */
    char *uuid; /* NULL if absent; 8-4-4-4-12 hex digits, lower case */
    struct definition_disk *disks;
    size_t disk_count;
    char *qmp; /* absolute socket paths; NULL if absent */
    char *agent;
    char **launch; /* argument vector, NULL-terminated; NULL if absent */
    bool follows;
};

/*
 * Parses `length` bytes. `default_name` is used where the document has no "name". Errors: EINVAL with a
 * sentence that names the key and what would be right, E2BIG, ENOMEM. On failure `*definition` is untouched.
 */
int definition_parse(const char *bytes, size_t length, const char *default_name,
                     struct definition *definition, struct error *err);
void definition_done(struct definition *definition);
