// SPDX-License-Identifier: LGPL-2.1-or-later
/* See memory_removal.h. */
#include "administration/memory/memory_removal.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "administration/lane.h"
#include "administration/reclaim/reclaim_states.h"
#include "administration/undo/undo.h"
#include "base/cleanup.h"
#include "base/crash_point.h"
#include "base/log.h"
#include "catalog/discover.h"

/* Only the very file that was saved goes; what somebody has put in its place stays. */
static int remove_file(const char *path, const struct state_memory *memory, struct error *err)
{
    struct stat stat;
    if (lstat(path, &stat) < 0)
        return errno == ENOENT ? 0 : error_set(err, errno, "%s: %m", path);
    const struct file_identity now = file_identity_of(&stat);
    if (!S_ISREG(stat.st_mode) || now.inode != memory->identity.inode ||
        !file_identity_same_content(&now, &memory->identity)) {
        log_warning("%s is not the memory that was saved there, and stays", path);
        return 0;
    }
    if (unlink(path) < 0 && errno != ENOENT)
        return error_set(err, errno, "%s: %m", path);
    crash_point("memory-removed");
    return 0;
}

static int remove_of(struct administration *administration, uint64_t domain, struct error *err)
{
    cleanup(reclaim_states_done) struct reclaim_states states = {.administration = administration};
    const char *source = locate_source(administration->options.locate);
    int r = undo_again(administration, domain, err);
    if (r == 0)
        r = reclaim_states_begin(&states, &domain, 1, err);
    if (r < 0)
        return r;
    struct state_domain *state = states.states[0];
    for (size_t i = state->unneeded_count; i-- > 0;) {
        const struct state_memory *memory = &state->unneeded[i];
        cleanup_free char *path = path_from_store(source, memory->path);
        if (!path)
            return error_set(err, ENOMEM, "out of memory");
        if (state_paths_have(state->made, memory->path))
            r = remove_file(path, memory, err);
        if (r < 0)
            return r;
        state_paths_remove(state->made, memory->path);
        state_remove_unneeded(state, i);
    }
    return reclaim_states_save(&states, err);
}

bool memory_removal_run(struct administration *administration)
{
    struct catalog *catalog = catalog_service_get(administration->catalog);
    bool any_left = false;
    for (size_t i = 0; i < catalog->domain_count; i++) {
        const struct domain *domain = catalog->domains[i];
        uint64_t serial = domain->serial;
        struct error why;
        if (!domain->unneeded_count)
            continue;
        if (!lanes_try_take(administration, &serial, 1)) {
            any_left = true;
            continue;
        }
        if (remove_of(administration, serial, &why) < 0) {
            log_debug("%s: memory of deleted snapshots is not removed yet: %s", domain->name, why.text);
            any_left = true;
        }
        lanes_give_back(administration, &serial, 1);
    }
    catalog_put(catalog);
    return any_left;
}
