// SPDX-License-Identifier: LGPL-2.1-or-later
/* The guard of a revert; see guard.h. */
#include "administration/request/guard.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "administration/lane.h"
#include "administration/request/made_up_name.h"
#include "base/log.h"
#include "catalog/catalog.h"

int guard_drop(struct administration *administration, uint64_t domain, uint64_t serial)
{
    struct request request = {.kind = REQUEST_DELETE, .domain = domain, .snapshot = serial};
    struct work dropping = {.request = &request};
    struct outcome outcome = {0};
    struct error why;
    int r = carry_out_delete(administration, &dropping, &outcome, &why);
    free(outcome.text);
    if (r < 0)
        log_debug("the guard of a revert that has not happened is not deleted yet: %s", why.text);
    return r;
}

/* What its name is to be, and which of before is still to be deleted; 0: none. */
static int look(struct administration *administration, uint64_t domain, char **name, uint64_t *left)
{
    struct catalog *catalog = catalog_service_get(administration->catalog);
    const struct catalog_entry *entry = catalog_find_serial(catalog, domain);
    *name = entry ? made_up_name(entry->domain, "guard-") : strdup("guard");
    *left = entry ? entry->domain->guard : 0;
    catalog_put(catalog);
    return *name ? 0 : -ENOMEM;
}

int guard_take(struct administration *administration, struct work *work, uint64_t *serial, struct error *err)
{
    struct request request = {
        .kind = REQUEST_CREATE, .domain = work->request->domain, .use_defaults = true, .is_guard = true};
    struct request *asked = work->request;
    struct outcome outcome = {0};
    uint64_t left;
    if (look(administration, request.domain, &request.create.name, &left) < 0)
        return error_set(err, ENOMEM, "out of memory");
    if (left && guard_drop(administration, request.domain, left) < 0) {
        create_command_done(&request.create);
        return error_set(err, EBUSY, "the guard of a revert that has failed can't be deleted yet");
    }
    work->request = &request;
    int r = carry_out_create(administration, work, &outcome, err);
    work->request = asked;
    work->is_committed = false; /* the revert can still be undone, and this one with it */
    create_command_done(&request.create);
    free(outcome.text);
    *serial = outcome.serial;
    return r < 0 ? (error_prefix(err, "the guard could not be taken"), r) : 0;
}

static void answered(void *opaque, const struct request_result *result)
{
    if (result->code)
        log_info("the guard of a revert that was interrupted is still there: %s", result->text);
}

void guard_drop_all(struct administration *administration)
{
    struct catalog *catalog = catalog_service_get(administration->catalog);
    for (size_t i = 0; i < catalog->domain_count; i++) {
        const struct domain *domain = catalog->domains[i];
        struct request *request = domain->guard ? calloc(1, sizeof *request) : NULL;
        if (!request)
            continue; /* also where memory ran out: the reclaimer does it */
        *request = (struct request){.kind = REQUEST_DELETE,
                                    .domain = domain->serial,
                                    .snapshot = domain->guard,
                                    .words = strdup("taking back the guard of an interrupted revert"),
                                    .done = answered};
        administration_submit(administration, administration_number(administration), request);
    }
    catalog_put(catalog);
}

bool guard_drop_left(struct administration *administration)
{
    struct catalog *catalog = catalog_service_get(administration->catalog);
    bool any_left = false;
    for (size_t i = 0; i < catalog->domain_count; i++) {
        const struct domain *domain = catalog->domains[i];
        uint64_t serial = domain->serial;
        if (!domain->guard)
            continue;
        if (!lanes_try_take(administration, &serial, 1)) {
            any_left = true; /* its revert may be under way */
            continue;
        }
        /* What was seen before the lane was taken may be over. */
        struct catalog *now = catalog_service_get(administration->catalog);
        const struct catalog_entry *entry = catalog_find_serial(now, serial);
        uint64_t guard = entry ? entry->domain->guard : 0;
        catalog_put(now);
        int r = guard ? guard_drop(administration, serial, guard) : 0;
        any_left |= r < 0 && r != -ENOENT;
        lanes_give_back(administration, &serial, 1);
    }
    catalog_put(catalog);
    return any_left;
}
