// SPDX-License-Identifier: LGPL-2.1-or-later
/* Changing domains in the catalog; see catalog_hold.h. */
#include "catalog/catalog_hold.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "catalog/administered.h"
#include "catalog/compare.h"
#include "catalog/service.h"
#include "catalog/step_back.h"

#define SHOW_TRIES 3

static void unlock(pthread_mutex_t **mutex)
{
    pthread_mutex_unlock(*mutex);
}

/* Holds members_lock to the end of the block. */
#define LOCK_MEMBERS(service)                                                                                \
    cleanup(unlock) pthread_mutex_t *locked_ = &(service)->members_lock;                                     \
    pthread_mutex_lock(locked_)

static int gone(struct error *err)
{
    return error_set(err, ESTALE, "the domain is gone");
}

int catalog_hold(struct catalog_service *service, uint64_t domain, struct error *err)
{
    LOCK_MEMBERS(service);
    struct member *member = members_find(&service->members, domain);
    if (!member)
        return gone(err);
    member->held++;
    return 0;
}

void catalog_release(struct catalog_service *service, uint64_t domain)
{
    LOCK_MEMBERS(service);
    struct member *member = members_find(&service->members, domain);
    if (member && --member->held == 0)
        member->changed_at = ++service->members.changes;
}

/* ---- Looking at one domain ---- */

static char *absolute(const char *source, const char *path)
{
    char *made = NULL;
    if (*path == '/')
        return strdup(path);
    return asprintf(&made, "%s/%s", source, path) < 0 ? NULL : made;
}

static int add_absolute(const char *source, const char *path, char ***paths)
{
    cleanup_free char *made = absolute(source, path);
    return made ? state_paths_add(paths, made) : -ENOMEM;
}

int catalog_known_images(const char *source, const struct state_domain *state, char ***known, char ***raw)
{
    int r = 0;
    for (char **path = state->made; r == 0 && path && *path; path++)
        r = add_absolute(source, *path, state_paths_have(state->raw, *path) ? raw : known);
    for (char **path = state->reused; r == 0 && path && *path; path++)
        r = add_absolute(source, *path, state_paths_have(state->raw, *path) ? raw : known);
    return r;
}

/* Files of the top directory: what else there is, is opened by its path, or listed by the scan itself. */
static int add_name(const char *path, char ***names)
{
    return strchr(path, '/') ? 0 : state_paths_add(names, path);
}

static int compare_names(const void *left, const void *right)
{
    return strcmp(*(char *const *)left, *(char *const *)right);
}

/* The names in the source that have to do with the domain. */
static int names_of(const char *source, const struct domain *domain, const struct state_domain *state,
                    char ***names)
{
    int r = domain->definition ? add_name(path_in_store(source, domain->definition), names) : 0;
    for (size_t i = 0; r == 0 && i < domain->disk_count; i++)
        r = add_name(path_in_store(source, domain->disks[i].source), names);
    for (size_t i = 0; r == 0 && i < domain->layer_count; i++)
        r = add_name(path_in_store(source, domain->layers[i]->path), names);
    for (size_t i = 0; r == 0 && i < state->disk_count; i++)
        if (state->disks[i].active)
            r = add_name(state->disks[i].active, names);
    for (char **path = state->made; r == 0 && path && *path; path++)
        r = add_name(*path, names);
    for (char **path = state->reused; r == 0 && path && *path; path++)
        r = add_name(*path, names);
    for (size_t i = 0; r == 0 && i < state->snapshot_count; i++)
        for (size_t j = 0; r == 0 && j < state->snapshots[i].frozen_count; j++)
            r = add_name(state->snapshots[i].frozen[j].layer, names);
    for (size_t i = 0; r == 0 && i < state->hidden_count; i++)
        r = add_name(state->hidden[i].layer, names);
    size_t count = 0;
    while (*names && (*names)[count])
        count++;
    if (count)
        qsort(*names, count, sizeof **names, compare_names);
    return r;
}

static struct draft *draft_of(struct discovery *discovery, const struct state_domain *state)
{
    for (size_t i = 0; i < discovery->count; i++)
        if (discovery->drafts[i].state == state)
            return &discovery->drafts[i];
    return NULL;
}

/* The watcher is to look soon: what is shown now may not be what the files are. With members_lock held. */
static uint64_t want_look(struct catalog_service *service)
{
    uint64_t wanted = service->looks_begun + 1;
    if (service->look_wanted < wanted)
        service->look_wanted = wanted;
    catalog_service_hint(service);
    return wanted;
}

/* Without its definition a domain has other disks, and what is asked for would be done to these. */
static int check_definition(const struct scan *scan, const struct domain *domain, struct error *err)
{
    for (size_t i = 0; domain->definition && i < scan->definition_count; i++) {
        const struct scan_definition *definition = &scan->definitions[i];
        if (!definition->is_good && strcmp(definition->path, domain->definition) == 0 &&
            (access(definition->path, F_OK) == 0 || errno != ENOENT))
            return error_set(err, EIO, "%s can't be read, so nothing can be changed", definition->path);
    }
    return 0;
}

/*
 * A look at the files of one held domain, as `state` tells of them. Files are read without the lock: storage
 * that hangs holds up this domain, and no other. Nobody else replaces the member meanwhile, since it is held.
 */
struct held_look {
    struct catalog_service *service;
    uint64_t serial;
    struct domain *domain;      /* as the catalog had it at first */
    struct state_domain *state; /* from which the look begins */
    bool is_told;               /* it says something else than the member's: that is to be saved */
    char *const *ignored;       /* paths of overlays that are looked past; NULL: none */
};

static void held_look_done(struct held_look *look)
{
    domain_unref(look->domain);
    state_domain_free(look->state);
}

/* `state` NULL: the member's own. */
static int held_look_begin(struct catalog_service *service, uint64_t serial, const struct state_domain *state,
                           struct held_look *look, struct error *err)
{
    LOCK_MEMBERS(service);
    const struct member *member = members_find(&service->members, serial);
    if (!member)
        return gone(err);
    struct state_domain *copy = NULL;
    if (state_domain_copy(state ? state : member->state, &copy) < 0)
        return error_set(err, ENOMEM, "%s", strerror(ENOMEM));
    *look = (struct held_look){.service = service,
                               .serial = serial,
                               .domain = domain_ref(member->domain),
                               .state = copy,
                               .is_told = state != NULL};
    return 0;
}

/* What becomes of what was found: called once, with the lock not held. */
typedef int held_look_end(struct held_look *look, struct draft *draft, void *opaque, struct error *err);

/* The look knew the state of this domain alone, and it is the one that counts: what the member still has of
 * it, which may be administered where it is so no more, is not another domain's. With the lock held. */
static int refuse_layers_of_others(const struct held_look *look, struct draft *draft, struct error *err)
{
    struct catalog_service *service = look->service;
    size_t count = 0;
    cleanup_free struct state_domain **states = members_states(&service->members, &count);
    if (!states)
        return error_set(err, ENOMEM, "%s", strerror(ENOMEM));
    for (size_t i = 0; i < count; i++)
        if (states[i]->serial == look->serial)
            states[i] = look->state;
    administered_refuse_layers(locate_source(service->options.locate), draft, states, count);
    return 0;
}

/* It is the catalog's from now on. */
static int publish(struct held_look *look, struct draft *draft, void *opaque, struct error *err)
{
    struct catalog_service *service = look->service;
    bool changed = false;
    LOCK_MEMBERS(service);
    struct member *member = members_find(&service->members, look->serial);
    if (!member)
        return gone(err);
    int r = refuse_layers_of_others(look, draft, err);
    if (r < 0)
        return r;
    r = members_replace(&service->members, locate_source(service->options.locate), draft, member,
                        look->is_told, &changed, err);
    if (r == 0 && member->domain->is_incomplete)
        want_look(service); /* it may have been so for this look only, of which the watcher knows nothing */
    return r == 0 && changed ? catalog_publish(service, err) : r;
}

static int held_look_run(struct held_look *look, held_look_end *end, void *opaque, struct error *err)
{
    struct catalog_service *service = look->service;
    const char *source = locate_source(service->options.locate);
    cleanup(state_paths_free) char **names = calloc(1, sizeof *names), **known = NULL, **raw = NULL;
    if (!names || names_of(source, look->domain, look->state, &names) < 0 ||
        catalog_known_images(source, look->state, &known, &raw) < 0)
        return error_set(err, ENOMEM, "%s", strerror(ENOMEM));
    const struct scan_scope scope = {.names = names, .known = known, .raw = raw};
    cleanup(notices_done) struct notices notices = {0};
    struct discovery discovery = {0};
    struct scan *scan = NULL;
    int r = scan_new(service->options.locate, service->directory, NULL, &scope, &notices, &scan, err);
    if (r == 0)
        r = check_definition(scan, look->domain, err);
    for (size_t i = 0; r == 0 && i < scan->image_count; i++) {
        struct scan_image *image = scan->images[i];
        if (image->is_remote)
            image->size = remote_sizes_get(&service->remote_sizes, image->path);
        if (look->ignored)
            image->is_prepared |= state_paths_have(look->ignored, image->path);
    }
    if (r == 0) {
        const struct discover_input input = {
            .scan = scan, .states = &look->state, .state_count = 1, .notices = &notices};
        r = discover(&input, &discovery);
        if (r < 0)
            error_set(err, -r, "%s", strerror(-r));
    }
    struct draft *draft = r == 0 ? draft_of(&discovery, look->state) : NULL;
    if (r == 0)
        r = draft ? end(look, draft, opaque, err) : gone(err);
    discovery_done(&discovery);
    scan_free(scan);
    return r;
}

int catalog_refresh(struct catalog_service *service, uint64_t domain, struct domain **result,
                    struct state_domain **state, struct error *err)
{
    cleanup(held_look_done) struct held_look look = {0};
    int r = held_look_begin(service, domain, NULL, &look, err);
    if (r == 0)
        r = held_look_run(&look, publish, NULL, err);
    if (r < 0)
        return r;
    LOCK_MEMBERS(service);
    struct member *member = members_find(&service->members, domain);
    if (!member)
        return gone(err);
    if (state && state_domain_copy(member->state, state) < 0)
        return error_set(err, ENOMEM, "%s", strerror(ENOMEM));
    if (result)
        *result = domain_ref(member->domain);
    return 0;
}

/* What the domain is if its files are looked at past some overlays; nobody is shown that. */
struct imagined {
    struct domain *domain;
    struct state_domain *state;
};

static int imagine(struct held_look *look, struct draft *draft, void *opaque, struct error *err)
{
    struct catalog_service *service = look->service;
    struct imagined *imagined = opaque;
    LOCK_MEMBERS(service);
    int r = refuse_layers_of_others(look, draft, err);
    if (r < 0)
        return r;
    return members_imagine(&service->members, locate_source(service->options.locate), draft,
                           &imagined->domain, &imagined->state, err);
}

int catalog_imagine(struct catalog_service *service, uint64_t domain, char *const *ignored,
                    struct domain **result, struct state_domain **state, struct error *err)
{
    cleanup(held_look_done) struct held_look look = {0};
    struct imagined imagined = {0};
    int r = held_look_begin(service, domain, NULL, &look, err);
    look.ignored = ignored;
    if (r == 0 && step_back(look.domain, locate_source(service->options.locate), ignored, look.state) < 0)
        r = error_set(err, ENOMEM, "%s", strerror(ENOMEM));
    if (r == 0)
        r = held_look_run(&look, imagine, &imagined, err);
    if (r < 0)
        return r;
    *result = imagined.domain;
    *state = imagined.state;
    return 0;
}

/* Where the last flush of the directory failed, the file has been replaced all the same, and whoever reads it
 * goes by it. */
static bool is_stored(struct catalog_service *service, const struct state_domain *state)
{
    struct state_domain *stored = NULL;
    if (store_read(service->options.store, state->serial, &stored, NULL) < 0)
        return false;
    bool same = state_is_same(stored, state);
    state_domain_free(stored);
    return same;
}

int catalog_save(struct catalog_service *service, const struct state_domain *state, struct error *err)
{
    LOCK_MEMBERS(service);
    int r = store_save(service->options.store, state, err);
    if (r < 0 && is_stored(service, state)) {
        log_warning("the state of %s was replaced, but a power cut may take that back: %s", state->name,
                    err->text);
        return 0;
    }
    return r;
}

/* After a look that failed: what was saved holds all the same, and is shown by the next one. */
static void show_later(struct catalog_service *service, struct held_look *look)
{
    LOCK_MEMBERS(service);
    struct member *member = members_find(&service->members, look->serial);
    want_look(service);
    if (!member)
        return;
    state_domain_free(member->state);
    member->state = look->state;
    member->unsaved = false;
    look->state = NULL;
}

/* Does the catalog have the domain as a whole? It gets a reference. */
static bool is_shown(struct catalog_service *service, uint64_t domain, struct domain **result)
{
    LOCK_MEMBERS(service);
    const struct member *member = members_find(&service->members, domain);
    if (!member)
        return false;
    domain_unref(*result);
    *result = domain_ref(member->domain);
    return !member->domain->is_incomplete;
}

int catalog_show(struct catalog_service *service, const struct state_domain *state, struct domain **result,
                 struct error *err)
{
    cleanup(held_look_done) struct held_look look = {0};
    struct domain *shown = NULL;
    int r = held_look_begin(service, state->serial, state, &look, err);
    if (r < 0)
        return r;
    /* Who asked for the change looks right after it: an error that passes must not show him the old. */
    for (int tries = 0; tries < SHOW_TRIES; tries++) {
        r = held_look_run(&look, publish, NULL, err);
        if (r == 0 ? is_shown(service, state->serial, &shown) : !error_may_pass(r))
            break;
    }
    if (r < 0)
        show_later(service, &look);
    else if (result)
        *result = domain_ref(shown);
    domain_unref(shown);
    return r;
}

/* ---- New domains ---- */

int catalog_expect(struct catalog_service *service, const struct state_domain *state, struct error *err)
{
    struct state_domain *copy = NULL;
    if (state_domain_copy(state, &copy) < 0)
        return error_set(err, ENOMEM, "%s", strerror(ENOMEM));
    LOCK_MEMBERS(service);
    if (members_expect(&service->members, copy) < 0) {
        state_domain_free(copy);
        return error_set(err, ENOMEM, "%s", strerror(ENOMEM));
    }
    return 0;
}

void catalog_unexpect(struct catalog_service *service, uint64_t domain)
{
    LOCK_MEMBERS(service);
    members_forget(&service->members, domain);
}

void catalog_look(struct catalog_service *service)
{
    LOCK_MEMBERS(service);
    uint64_t wanted = want_look(service);
    while (service->watching && service->looks_ended < wanted)
        pthread_cond_wait(&service->looked, &service->members_lock);
}

bool catalog_service_is_current(struct catalog_service *service, uint64_t domain)
{
    return !store_state_has_moved(service->options.store, domain);
}

void catalog_service_catch_up(struct catalog_service *service, uint64_t domain)
{
    if (!catalog_service_is_current(service, domain))
        catalog_look(service);
}

/* ---- What else is known ---- */

int catalog_next_serial(struct catalog_service *service, uint64_t *serial, struct error *err)
{
    LOCK_MEMBERS(service);
    return store_next_serial(service->options.store, serial, err);
}

/* Adds the paths of those that stand on the file of this one, but for those at the paths `except` (may be
 * NULL). `*is`: one of them is another host's, where nobody looks. -ENOMEM. */
static int note_carriers(const struct scan *scan, const struct scan_image *below, char *const *except,
                         char ***paths, bool *is)
{
    int r = 0;
    if (!except && !below->first->is_backing)
        return 0;
    for (size_t i = 0; r == 0 && i < scan->image_count; i++) {
        const struct scan_image *image = scan->images[i];
        if (!image->backing || image->backing->first != below->first || image->first == below->first ||
            state_paths_have(except, image->path))
            continue;
        *is |= image->is_remote;
        r = state_paths_add(paths, image->path);
    }
    /* What only a definition may follow. */
    for (size_t i = 0; i < scan->definition_count; i++)
        for (size_t j = 0; scan->definitions[i].is_good && j < scan->definitions[i].definition.disk_count;
             j++) {
            const struct scan_chain *chain = &scan->definitions[i].chains[j];
            for (size_t k = 1; r == 0 && k < chain->count; k++) {
                const struct scan_image *image = chain->images[k - 1];
                if (chain->images[k]->first != below->first || state_paths_have(except, image->path))
                    continue;
                *is |= image->is_remote;
                r = state_paths_add(paths, image->path);
            }
        }
    return r;
}

/* As far as it is known without looking at files: `*is`, or else it is if one of the `paths` is there.
 * -ENOMEM. */
static int look_for_carriers(struct catalog_service *service, const char *path, char *const *except,
                             char ***paths, bool *is)
{
    unsigned disks = 0;
    int r = 0;
    LOCK_MEMBERS(service);
    const struct scan *scan = service->scan;
    for (size_t i = 0; r == 0 && i < scan->image_count; i++) {
        const struct scan_image *image = scan->images[i];
        *is |= image->data_path && strcmp(image->data_path, path) == 0;
        if (strcmp(image->path, path) == 0)
            r = note_carriers(scan, image, except, paths, is);
    }
    for (size_t i = 0; i < service->members.count; i++) {
        const struct domain *domain = service->members.list[i].domain;
        for (size_t j = 0; j < domain->disk_count; j++)
            disks += domain->disks[j].active && strcmp(domain->disks[j].active->path, path) == 0;
    }
    *is |= disks > 1;
    return r;
}

/* An overlay that was merged and unlinked a moment ago may be in the scan still. Files are looked at without
 * the lock: they may lie where nobody answers. */
static bool any_is_there(char *const *paths)
{
    struct stat file;
    for (; paths && *paths; paths++)
        if (lstat(*paths, &file) == 0 || errno != ENOENT)
            return true;
    return false;
}

bool catalog_is_backing(struct catalog_service *service, const char *path, char *const *except)
{
    cleanup(state_paths_free) char **carriers = NULL;
    bool is = false;
    return look_for_carriers(service, path, except, &carriers, &is) < 0 || is || any_is_there(carriers);
}
