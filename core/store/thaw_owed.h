// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * A guest that was told to freeze its file systems, and has not said that it has thawed them again: written
 * down before the operation that froze them is over, so that it is told so until it has, whoever is killed.
 *
 *     .vmsnapfs/domains/N.thaw     of the domain with serial N
 *
 * Replaced whole, as all that the store keeps. Used by administration/thaws.h alone.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "base/file_identity.h"

struct store;

struct thaw_owed {
    uint64_t domain; /* serial */
    char *agent;     /* the path of its socket */
    char *monitor;   /* of the QEMU that runs it; "": not known */
    /* The monitor's socket, which each QEMU makes anew: inode and mtime; zeros: not known. */
    struct file_identity socket;
};

void thaw_owed_done(struct thaw_owed *owed);

/* Durably. Errors: as store_save. */
int store_save_thaw(struct store *store, const struct thaw_owed *owed, struct error *err);

/* The caller's. Errors: EIO, EINVAL and others for one that can't be read, with a text. */
int store_read_thaw(struct store *store, uint64_t domain, struct thaw_owed *owed, struct error *err);

/* Durably; 0 also where there is none. Errors: what unlink and fsync give. */
int store_remove_thaw(struct store *store, uint64_t domain, struct error *err);

/* The domains that have one, for the caller to free; `*count` of them. -ENOMEM, -EIO. */
int store_list_thaws(struct store *store, uint64_t **domains, size_t *count);
