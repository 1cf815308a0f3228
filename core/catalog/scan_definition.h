// SPDX-License-Identifier: LGPL-2.1-or-later
/* The definitions of a scan: reading them, whether they are trusted, and their disks. Inside of scan.h. */
#pragma once

#include "catalog/scan.h"

/*
 * Reads the definition `name` of the source. One that can't be read is a notice, not a failure; where that
 * may pass, it is what the last scan (may be NULL) knew until it can be. -ENOMEM.
 */
int scan_definition_add(struct scan *scan, const struct scan *before, const char *name,
                        struct notices *notices);

/* Opens the images that its disks name; that they exist is not asked. -ENOMEM. */
int scan_definition_open(struct scan *scan, const struct scan *before, struct scan_definition *definition);

/* Follows their chains, once all images are known. -ENOMEM. */
int scan_definition_follow(struct scan *scan, const struct scan *before, struct scan_definition *definition);

/* The files that may be opened wherever they lie: what a trusted definition names. NULL-terminated, or NULL.
 * Borrowed. */
char *const *scan_definition_named(const struct scan_definition *definition);

void scan_definition_done(struct scan_definition *definition);
