// SPDX-License-Identifier: LGPL-2.1-or-later
/* Small files of domains in the store's directory "domains", beside their states: N.ENDING. Inside of store/.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "format/json_parse.h"

#define DOMAIN_FILE_NAME_SIZE 40

/* `ending` with its dot. */
void domain_file_name(char name[DOMAIN_FILE_NAME_SIZE], uint64_t domain, const char *ending);

/* Reads one, a JSON document with the member "domain", which has to be that one; the caller puts it. Errors:
 * ENOENT, with no text, where there is none; as replace_file_read, json_parse; EINVAL where it is of another
 * domain. */
int domain_file_read(int directory, uint64_t domain, const char *ending, const struct json_limits *limits,
                     struct json_object **document, struct error *err);

/* Durably; 0 also where there is none, or no directory (-1). Errors: what unlink and fsync give. */
int domain_file_remove(int directory, uint64_t domain, const char *ending, struct error *err);

/* The domains that have one, for the caller to free; `*count` of them. -ENOMEM, -EIO. */
int domain_files_list(int directory, const char *ending, uint64_t **domains, size_t *count);
