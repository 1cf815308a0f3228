// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Where what belongs to running guests lies: a private directory for each, on a file system that ends with
 * the machine's run. /run/vmsnapfs-0 for root, else $XDG_RUNTIME_DIR/vmsnapfs. In it the guests of one source
 * begin with the same sixteen digits, which follow from which directory the source is.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

struct runtime;

/* `source` is an absolute path. Makes no directory. ENOMEM; what stat gives. */
int runtime_new(const char *source, struct runtime **runtime, struct error *err);
void runtime_free(struct runtime *runtime);

/* The directory of a domain's guest, absolute; the caller frees. NULL where memory ran out, or there is no
 * place for such directories. */
char *runtime_guest(const struct runtime *runtime, uint64_t domain);

/* Calls `visit` with the directory of each guest of this source. */
void runtime_each(const struct runtime *runtime, void (*visit)(const char *guest));

/*
 * Makes sure that the directory of a guest is there, empty, and nobody else's. Errors: EOPNOTSUPP, there is
 * no place for it, with what to do; EPERM, it is somebody else's; EEXIST, something is in it; ENAMETOOLONG
 * for a path in which no socket can lie; what mkdir gives.
 */
int runtime_make(const char *guest, struct error *err);

/* Is it a directory that nobody else can write to? */
bool runtime_is_ours(const char *guest);

/* Removes the directory with the files in it. */
void runtime_remove(const char *guest);
