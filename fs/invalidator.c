// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Telling the kernel what changed; see invalidator.h.
 *
 * A new name needs no notification of its own, since the kernel is never told that a name is missing for
 * longer than one look; the directory's listing needs one. A name that went does.
 */
#include "invalidator.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "fuse.h"
#include "tree.h"

struct notice {
    struct notice *next;
    uint64_t id; /* the node, or the directory of `name` */
    int64_t offset;
    int64_t length; /* 0: to the end; offset -1: attributes only */
    char name[];    /* empty: about the node itself */
};

struct invalidator {
    pthread_mutex_t lock; /* protects the queue and `ending` */
    pthread_cond_t work;
    struct notice *first, **last;
    bool ending;
    bool started;
    pthread_t thread;
    struct fuse_session *session; /* set before the thread starts */
};

struct invalidator *invalidator_new(void)
{
    struct invalidator *invalidator = calloc(1, sizeof *invalidator);
    if (!invalidator)
        return NULL;
    pthread_mutex_init(&invalidator->lock, NULL);
    pthread_cond_init(&invalidator->work, NULL);
    invalidator->last = &invalidator->first;
    return invalidator;
}

/* Errors are of no interest: mostly the kernel does not know the node, and then there is nothing to forget.
 */
static void send_notice(struct invalidator *invalidator, const struct notice *notice)
{
    if (notice->name[0])
        fuse_lowlevel_notify_inval_entry(invalidator->session, notice->id, notice->name,
                                         strlen(notice->name));
    else
        fuse_lowlevel_notify_inval_inode(invalidator->session, notice->id, notice->offset, notice->length);
}

static void *invalidator_run(void *opaque)
{
    struct invalidator *invalidator = opaque;
    pthread_mutex_lock(&invalidator->lock);
    while (!invalidator->ending) {
        struct notice *notice = invalidator->first;
        if (!notice) {
            pthread_cond_wait(&invalidator->work, &invalidator->lock);
            continue;
        }
        invalidator->first = notice->next;
        if (!invalidator->first)
            invalidator->last = &invalidator->first;
        pthread_mutex_unlock(&invalidator->lock);
        send_notice(invalidator, notice);
        free(notice);
        pthread_mutex_lock(&invalidator->lock);
    }
    pthread_mutex_unlock(&invalidator->lock);
    return NULL;
}

int invalidator_start(struct invalidator *invalidator, struct fuse_session *session)
{
    invalidator->session = session;
    int result = pthread_create(&invalidator->thread, NULL, invalidator_run, invalidator);
    invalidator->started = result == 0;
    return -result;
}

void invalidator_stop(struct invalidator *invalidator)
{
    if (!invalidator || !invalidator->started)
        return;
    pthread_mutex_lock(&invalidator->lock);
    invalidator->ending = true;
    pthread_cond_signal(&invalidator->work);
    pthread_mutex_unlock(&invalidator->lock);
    pthread_join(invalidator->thread, NULL);
    invalidator->started = false;
}

void invalidator_free(struct invalidator *invalidator)
{
    if (!invalidator)
        return;
    invalidator_stop(invalidator);
    for (struct notice *notice = invalidator->first, *next; notice; notice = next) {
        next = notice->next;
        free(notice);
    }
    pthread_cond_destroy(&invalidator->work);
    pthread_mutex_destroy(&invalidator->lock);
    free(invalidator);
}

static void queue(struct invalidator *invalidator, uint64_t id, const char *name, int64_t offset,
                  int64_t length)
{
    size_t name_size = strlen(name) + 1;
    struct notice *notice = malloc(sizeof *notice + name_size);
    if (!notice)
        return; /* the kernel keeps what it has until it expires */
    *notice = (struct notice){.id = id, .offset = offset, .length = length};
    memcpy(notice->name, name, name_size);
    pthread_mutex_lock(&invalidator->lock);
    *invalidator->last = notice;
    invalidator->last = &notice->next;
    pthread_cond_signal(&invalidator->work);
    pthread_mutex_unlock(&invalidator->lock);
}

void invalidator_node(struct invalidator *invalidator, uint64_t id, bool content)
{
    queue(invalidator, id, "", content ? 0 : -1, 0);
}

void invalidator_range(struct invalidator *invalidator, uint64_t id, uint64_t offset, uint64_t length)
{
    queue(invalidator, id, "", (int64_t)offset, (int64_t)length);
}

static void name_went(struct invalidator *invalidator, uint64_t directory, const char *name)
{
    queue(invalidator, directory, name, 0, 0);
}

static uint64_t domain_node(const struct domain *domain, unsigned entry)
{
    return node_id(NODE_DOMAIN, domain->serial, entry);
}

static void snapshot_went(struct invalidator *invalidator, const struct domain *domain,
                          const struct snapshot *snapshot)
{
    name_went(invalidator, domain_node(domain, DOMAIN_SNAPSHOTS), snapshot->name);
    if (snapshot->parent) {
        name_went(invalidator, node_id(NODE_TREE, snapshot->parent->serial, 0), snapshot->name);
        name_went(invalidator, node_id(NODE_SNAPSHOT, snapshot->parent->serial, SNAPSHOT_CHILDREN),
                  snapshot->name);
    } else {
        name_went(invalidator, domain_node(domain, DOMAIN_TREE), snapshot->name);
    }
    for (size_t i = 0; i < snapshot->frozen_count; i++)
        invalidator_node(invalidator,
                         node_id(NODE_FROZEN, snapshot->serial, snapshot->frozen[i].disk->position), true);
}

static bool same_frozen(const struct snapshot *a, const struct snapshot *b)
{
    if (a->frozen_count != b->frozen_count)
        return false;
    for (size_t i = 0; i < a->frozen_count; i++)
        if (a->frozen[i].disk->position != b->frozen[i].disk->position ||
            a->frozen[i].size != b->frozen[i].size ||
            strcmp(a->frozen[i].layer->path, b->frozen[i].layer->path) != 0 ||
            a->frozen[i].layer->changed != b->frozen[i].layer->changed)
            return false;
    return true;
}

static bool same_children(const struct snapshot *a, const struct snapshot *b)
{
    if (a->child_count != b->child_count)
        return false;
    for (size_t i = 0; i < a->child_count; i++)
        if (a->children[i]->serial != b->children[i]->serial)
            return false;
    return true;
}

/* The same snapshot, before and after: what of it is to be forgotten. */
static void snapshot_compare(struct invalidator *invalidator, const struct domain *domain,
                             const struct snapshot *before, const struct snapshot *after)
{
    uint64_t before_parent = before->parent ? before->parent->serial : 0;
    uint64_t after_parent = after->parent ? after->parent->serial : 0;
    bool moved = before_parent != after_parent || strcmp(before->name, after->name) != 0;
    if (moved) {
        snapshot_went(invalidator, domain, before);
        name_went(invalidator, node_id(NODE_SNAPSHOT, after->serial, SNAPSHOT_DIRECTORY), "parent");
        invalidator_node(invalidator, node_id(NODE_SNAPSHOT, after->serial, SNAPSHOT_PARENT), true);
        invalidator_node(invalidator, node_id(NODE_TREE_LINK, after->serial, 0), true);
        invalidator_node(invalidator, node_id(NODE_CHILD_LINK, after->serial, 0), true);
    }
    if (!same_children(before, after)) {
        invalidator_node(invalidator, node_id(NODE_SNAPSHOT, after->serial, SNAPSHOT_CHILDREN), true);
        invalidator_node(invalidator, node_id(NODE_TREE, after->serial, 0), true);
    }
    bool other_disks = !same_frozen(before, after);
    if (moved || other_disks || before->is_protected != after->is_protected ||
        strcmp(before->description, after->description) != 0)
        for (unsigned entry = SNAPSHOT_DIRECTORY; entry <= SNAPSHOT_DISKS; entry++)
            invalidator_node(invalidator, node_id(NODE_SNAPSHOT, after->serial, entry), true);
    if (other_disks)
        for (size_t i = 0; i < before->frozen_count; i++)
            invalidator_node(invalidator,
                             node_id(NODE_FROZEN, before->serial, before->frozen[i].disk->position), true);
}

static const struct snapshot *find_serial(const struct domain *domain, uint64_t serial)
{
    size_t low = 0, high = domain->snapshot_count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (domain->by_serial[middle]->serial == serial)
            return domain->by_serial[middle];
        if (domain->by_serial[middle]->serial < serial)
            low = middle + 1;
        else
            high = middle;
    }
    return NULL;
}

static void domain_compare(struct invalidator *invalidator, const struct domain *before,
                           const struct domain *after)
{
    for (size_t i = 0; i < before->snapshot_count; i++) {
        const struct snapshot *snapshot = before->by_serial[i];
        const struct snapshot *still = find_serial(after, snapshot->serial);
        if (still)
            snapshot_compare(invalidator, before, snapshot, still);
        else
            snapshot_went(invalidator, before, snapshot);
    }
    for (size_t i = 0; i < before->disk_count; i++) {
        name_went(invalidator, domain_node(before, DOMAIN_DISKS), before->disks[i].target);
        for (unsigned file = 0; file < NODE_DISK_FILES_MAX; file++)
            invalidator_node(invalidator,
                             node_id(NODE_DISK_FILE + file, before->serial, before->disks[i].position), true);
    }
    name_went(invalidator, domain_node(before, DOMAIN_DIRECTORY), "current");
    name_went(invalidator, domain_node(before, DOMAIN_DIRECTORY), "latest");
    for (unsigned entry = DOMAIN_DIRECTORY; entry <= DOMAIN_ORDER; entry++)
        invalidator_node(invalidator, domain_node(before, entry), true);
}

void invalidator_compare(struct invalidator *invalidator, const struct catalog *before,
                         const struct catalog *after)
{
    bool listing_changed = before->domain_count != after->domain_count;
    for (size_t i = 0; i < before->domain_count; i++) {
        const struct domain *domain = before->domains[i];
        const struct domain *still = catalog_find_domain(after, domain->name);
        if (still == domain)
            continue;
        if (still && still->serial == domain->serial) {
            domain_compare(invalidator, domain, still);
            continue;
        }
        name_went(invalidator, NODE_ROOT_ID, domain->name);
        listing_changed = true;
    }
    if (listing_changed)
        invalidator_node(invalidator, NODE_ROOT_ID, true);
}
