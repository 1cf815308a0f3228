// SPDX-License-Identifier: LGPL-2.1-or-later
/* What was written to a control file; see control_command.h. */
#include "control_command.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "operation/command_document.h"
#include "operation/command_text.h"

#define SHOWN_BYTES 200 /* of a command; a document can be long */

static int parse_create(const char *bytes, size_t length, struct create_command *create, struct error *err)
{
    return command_document_kind(bytes, length) == COMMAND_WORDS
               ? command_parse_create(bytes, length, create, err)
               : command_document_parse(bytes, length, create, err);
}

static int parse_defaults(const char *bytes, size_t length, char **defaults, struct error *err)
{
    struct create_command checked = {0};
    int rc = command_parse_defaults(bytes, length, &checked, err);
    create_command_done(&checked);
    if (rc < 0)
        return rc;
    *defaults = strndup(bytes, length);
    return *defaults ? 0 : error_set(err, ENOMEM, "out of memory");
}

static int parse_for_domain(unsigned entry, const char *bytes, size_t length, struct request *request,
                            struct error *err)
{
    if (entry == DOMAIN_CREATE) {
        request->kind = REQUEST_CREATE;
        return parse_create(bytes, length, &request->create, err);
    }
    if (entry == DOMAIN_POWER) {
        request->kind = REQUEST_POWER;
        return command_parse_power(bytes, length, &request->power, err);
    }
    request->kind = REQUEST_DEFAULTS;
    return parse_defaults(bytes, length, &request->defaults, err);
}

static int parse_for_disk(unsigned entry, const char *bytes, size_t length, struct request *request,
                          struct error *err)
{
    if (entry == DISK_COPY) {
        request->kind = REQUEST_COPY;
        return command_parse_copy(bytes, length, &request->copy, err);
    }
    request->kind = entry == DISK_PIVOT ? REQUEST_PIVOT : REQUEST_ABORT;
    return command_parse_trigger(bytes, length, err);
}

static int parse_for_snapshot(unsigned entry, const char *bytes, size_t length, struct request *request,
                              struct error *err)
{
    switch (entry) {
    case SNAPSHOT_CLONE:
        request->kind = REQUEST_CLONE;
        return command_parse_clone(bytes, length, &request->clone, err);
    case SNAPSHOT_DELETE:
        request->kind = REQUEST_DELETE;
        return command_parse_delete(bytes, length, &request->delete_kind, err);
    case SNAPSHOT_DESCRIPTION:
        request->kind = REQUEST_DESCRIBE;
        return command_parse_description(bytes, length, &request->description, err);
    case SNAPSHOT_PROTECTED:
        request->kind = REQUEST_PROTECT;
        return command_parse_protected(bytes, length, &request->is_protected, err);
    default:
        request->kind = REQUEST_REVERT;
        return command_parse_revert(bytes, length, &request->revert, err);
    }
}

int control_command_parse(const struct place *place, const char *bytes, size_t length,
                          struct request *request, struct error *err)
{
    struct request parsed = {
        .domain = place->domain->serial,
        .snapshot = place->snapshot ? place->snapshot->serial : 0,
    };
    bool of_disk = node_is_disk_file(place->node.kind);
    if (of_disk)
        parsed.disk = place->disk->position;
    int rc = of_disk ? parse_for_disk(place->node.kind - NODE_DISK_FILE, bytes, length, &parsed, err)
             : place->snapshot ? parse_for_snapshot(place->node.position, bytes, length, &parsed, err)
                               : parse_for_domain(place->node.position, bytes, length, &parsed, err);
    if (rc == 0)
        *request = parsed;
    return rc;
}

void control_command_words(const struct place *place, const char *bytes, size_t length, struct text *text)
{
    size_t shown = length < SHOWN_BYTES ? length : SHOWN_BYTES;
    while (shown && (bytes[shown - 1] == '\n' || bytes[shown - 1] == '\0'))
        shown--;
    text_append_string(text, "write \"");
    text_append(text, bytes, strnlen(bytes, shown));
    text_printf(text, "\"%s to ", shown < length && length > SHOWN_BYTES ? "…" : "");
    tree_control_path(place, text);
}
