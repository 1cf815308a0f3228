// SPDX-License-Identifier: LGPL-2.1-or-later
/* See thaw_owed.h. */
#include "store/thaw_owed.h"

#include <errno.h>
#include <inttypes.h>
#include <json-c/json.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/cleanup.h"
#include "format/json_parse.h"
#include "store/domain_files.h"
#include "store/json_fields.h"
#include "store/replace_file.h"
#include "store/store.h"
#include "store/store_inside.h"

#define BYTES_MAX  (64 * 1024)
#define VALUES_MAX 64
#define ENDING     ".thaw"

void thaw_owed_done(struct thaw_owed *owed)
{
    free(owed->agent);
    free(owed->monitor);
    *owed = (struct thaw_owed){0};
}

int store_save_thaw(struct store *store, const struct thaw_owed *owed, struct error *err)
{
    cleanup_text struct text text = {0};
    char name[DOMAIN_FILE_NAME_SIZE];
    if (store_is_read_only(store))
        return error_set(err, EROFS, "the store is only read");
    text_printf(&text, "{\"domain\":%" PRIu64 ",\n \"agent\":", owed->domain);
    json_bytes_write(&text, owed->agent);
    text_append_string(&text, ",\n \"monitor\":");
    json_bytes_write(&text, owed->monitor);
    text_printf(&text, ",\n \"inode\":%" PRIu64 ",\"seconds\":%" PRIu64 ",\"nanoseconds\":%u}\n",
                owed->socket.inode, (uint64_t)owed->socket.mtime_sec, owed->socket.mtime_nsec);
    if (text.failed)
        return error_set(err, ENOMEM, "out of memory");
    domain_file_name(name, owed->domain, ENDING);
    return replace_file(store_domains_directory(store), name, text.data, text.length, err);
}

static void read_fields(struct json_fields *fields, struct json_object *from, struct thaw_owed *owed)
{
    owed->agent = json_fields_string_member(fields, from, "agent");
    owed->monitor = json_fields_string_member(fields, from, "monitor");
    owed->socket.inode = json_fields_number(fields, from, "inode", INT64_MAX);
    owed->socket.mtime_sec = (int64_t)json_fields_number(fields, from, "seconds", INT64_MAX);
    owed->socket.mtime_nsec = (uint32_t)json_fields_number(fields, from, "nanoseconds", 999999999);
}

int store_read_thaw(struct store *store, uint64_t domain, struct thaw_owed *owed, struct error *err)
{
    static const struct json_limits limits = {.bytes = BYTES_MAX, .depth = 4, .values = VALUES_MAX};
    cleanup_json struct json_object *document = NULL;
    struct thaw_owed read = {.domain = domain};
    struct json_fields fields = {.err = err};
    int r = domain_file_read(store_domains_directory(store), domain, ENDING, &limits, &document, err);
    if (r == -ENOENT)
        return error_set(err, ENOENT, "no guest of that domain is to be thawed");
    if (r == 0) {
        read_fields(&fields, document, &read);
        r = fields.failed;
    }
    if (r < 0) {
        thaw_owed_done(&read);
        error_prefix(err, "which guest is to be thawed (.vmsnapfs/domains/%" PRIu64 ENDING ") can't be read",
                     domain);
        return r;
    }
    *owed = read;
    return 0;
}

int store_remove_thaw(struct store *store, uint64_t domain, struct error *err)
{
    return domain_file_remove(store_domains_directory(store), domain, ENDING, err);
}

int store_list_thaws(struct store *store, uint64_t **domains, size_t *count)
{
    return domain_files_list(store_domains_directory(store), ENDING, domains, count);
}
