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

enum queue_name { NODES, NAMES, PAGES, QUEUE_COUNT };

struct notice {
    struct invalidator_item item;
    uint64_t id;    /* the node, or the directory of `name` */
    uint64_t child; /* what the name stood for, which is gone; 0: the name may have come to mean another */
    int64_t offset;
    int64_t length; /* 0: to the end; offset -1: attributes only */
    char name[];    /* empty: about the node itself */
};

struct queue {
    struct invalidator *of;
    pthread_mutex_t lock; /* protects what follows, but for `thread` */
    pthread_cond_t work;
    struct invalidator_item *first, **last;
    bool runs;   /* there is a thread that will come to what is queued */
    bool ending; /* it takes what is left, and ends */
    pthread_t thread;
};

struct locked {
    struct locked *next;
    uint64_t directory;
};

struct invalidator {
    struct queue queues[QUEUE_COUNT];
    struct locked *locked;        /* protected by the lock of queues[NAMES] */
    struct fuse_session *session; /* set before the threads start */
};

struct invalidator *invalidator_new(void)
{
    struct invalidator *invalidator = calloc(1, sizeof *invalidator);
    for (size_t i = 0; invalidator && i < QUEUE_COUNT; i++) {
        struct queue *queue = &invalidator->queues[i];
        pthread_mutex_init(&queue->lock, NULL);
        pthread_cond_init(&queue->work, NULL);
        queue->of = invalidator;
        queue->last = &queue->first;
    }
    return invalidator;
}

/* ---- Sending ---- */

/* Newer versions of the library have only one kind of this left, and tell it by nothing. */
#if FUSE_VERSION >= FUSE_MAKE_VERSION(3, 16)
#define expire_entry(session, id, name, length) fuse_lowlevel_notify_expire_entry(session, id, name, length)
#else
#define expire_entry(session, id, name, length)                                                              \
    fuse_lowlevel_notify_expire_entry(session, id, name, length, FUSE_LL_EXPIRE_ONLY)
#endif

/*
 * Of a thing that is gone the kernel is told just that, so that who stands in it gets ENOENT. (Where somebody
 * stands deeper, it only forgets the name.) A name that may still mean something is to be looked up again,
 * and nobody who stands there loses his way.
 *
 * Errors are of no interest: mostly the kernel does not know the node, and then there is nothing to forget.
 */
static void send_name(struct fuse_session *session, const struct notice *notice)
{
    size_t length = strlen(notice->name);
    if (notice->child)
        fuse_lowlevel_notify_delete(session, notice->id, notice->child, notice->name, length);
    else if (expire_entry(session, notice->id, notice->name, length) == -ENOSYS)
        fuse_lowlevel_notify_inval_entry(session, notice->id, notice->name, length);
}

static void send_notice(struct fuse_session *session, const struct notice *notice)
{
    if (notice->name[0])
        send_name(session, notice);
    else
        fuse_lowlevel_notify_inval_inode(session, notice->id, notice->offset, notice->length);
}

/* ---- Directories that are locked ---- */

void invalidator_locked(struct invalidator *invalidator, uint64_t directory)
{
    struct queue *names = &invalidator->queues[NAMES];
    struct locked *locked = malloc(sizeof *locked);
    if (!locked)
        return; /* a notification may wait, then */
    locked->directory = directory;
    pthread_mutex_lock(&names->lock);
    locked->next = invalidator->locked;
    invalidator->locked = locked;
    pthread_mutex_unlock(&names->lock);
}

void invalidator_unlocked(struct invalidator *invalidator, uint64_t directory)
{
    struct queue *names = &invalidator->queues[NAMES];
    struct locked *found = NULL;
    pthread_mutex_lock(&names->lock);
    for (struct locked **at = &invalidator->locked; *at && !found; at = &(*at)->next)
        if ((*at)->directory == directory) {
            found = *at;
            *at = found->next;
            break;
        }
    pthread_cond_signal(&names->work);
    pthread_mutex_unlock(&names->lock);
    free(found);
}

/* With the lock of queues[NAMES] held. */
static bool is_locked(const struct invalidator *invalidator, const struct invalidator_item *item)
{
    if (item->is_call)
        return false;
    const struct notice *notice = (const struct notice *)item; /* it comes first there */
    for (const struct locked *locked = invalidator->locked; locked; locked = locked->next)
        if (notice->name[0] && locked->directory == notice->id)
            return true;
    return false;
}

/* ---- The queues ---- */

/* False where no thread would come to it. */
static bool append(struct queue *queue, struct invalidator_item *item)
{
    item->next = NULL;
    pthread_mutex_lock(&queue->lock);
    bool taken = queue->runs;
    if (taken) {
        *queue->last = item;
        queue->last = &item->next;
        pthread_cond_signal(&queue->work);
    }
    pthread_mutex_unlock(&queue->lock);
    return taken;
}

static void *queue_run(void *opaque)
{
    struct queue *queue = opaque;
    pthread_mutex_lock(&queue->lock);
    for (;;) {
        struct invalidator_item *item = queue->first;
        bool ending = queue->ending;
        if (!item && ending)
            break;
        bool is_names = queue == &queue->of->queues[NAMES];
        if (!item || (is_names && !ending && is_locked(queue->of, item))) {
            pthread_cond_wait(&queue->work, &queue->lock);
            continue;
        }
        queue->first = item->next;
        if (!queue->first)
            queue->last = &queue->first;
        pthread_mutex_unlock(&queue->lock);
        if (item->is_call) {
            struct invalidator_call *call = (struct invalidator_call *)item; /* it comes first there */
            call->run(call);
        } else {
            if (!ending)
                send_notice(queue->of->session, (const struct notice *)item); /* it comes first there, too */
            free(item);
        }
        pthread_mutex_lock(&queue->lock);
    }
    queue->runs = false;
    pthread_mutex_unlock(&queue->lock);
    return NULL;
}

int invalidator_start(struct invalidator *invalidator, struct fuse_session *session)
{
    invalidator->session = session;
    for (size_t i = 0; i < QUEUE_COUNT; i++) {
        struct queue *queue = &invalidator->queues[i];
        pthread_mutex_lock(&queue->lock);
        int result = pthread_create(&queue->thread, NULL, queue_run, queue);
        queue->runs = result == 0;
        pthread_mutex_unlock(&queue->lock);
        if (result != 0) {
            invalidator_stop(invalidator);
            return -result;
        }
    }
    return 0;
}

void invalidator_stop(struct invalidator *invalidator)
{
    for (size_t i = 0; invalidator && i < QUEUE_COUNT; i++) {
        struct queue *queue = &invalidator->queues[i];
        pthread_mutex_lock(&queue->lock);
        bool runs = queue->runs && !queue->ending;
        queue->ending = true;
        pthread_cond_signal(&queue->work);
        pthread_mutex_unlock(&queue->lock);
        if (runs)
            pthread_join(queue->thread, NULL);
    }
}

void invalidator_free(struct invalidator *invalidator)
{
    if (!invalidator)
        return;
    invalidator_stop(invalidator);
    for (struct locked *locked = invalidator->locked, *next; locked; locked = next) {
        next = locked->next;
        free(locked);
    }
    for (size_t i = 0; i < QUEUE_COUNT; i++) {
        pthread_cond_destroy(&invalidator->queues[i].work);
        pthread_mutex_destroy(&invalidator->queues[i].lock);
    }
    free(invalidator);
}

void invalidator_after(struct invalidator *invalidator, struct invalidator_call *call)
{
    call->item.is_call = true;
    if (!append(&invalidator->queues[NODES], &call->item))
        call->run(call);
}

/* ---- What is queued ---- */

static void queue_notice(struct invalidator *invalidator, enum queue_name queue, const struct notice *notice,
                         const char *name)
{
    size_t name_size = strlen(name) + 1;
    struct notice *copy = malloc(sizeof *copy + name_size);
    if (!copy)
        return; /* the kernel keeps what it has until it expires */
    *copy = *notice;
    memcpy(copy->name, name, name_size);
    if (!append(&invalidator->queues[queue], &copy->item))
        free(copy);
}

void invalidator_node(struct invalidator *invalidator, uint64_t id, bool content)
{
    struct node node = node_of(id);
    bool is_disk =
        node.kind == NODE_FROZEN || (node.kind == NODE_SNAPSHOT && node.position == SNAPSHOT_MEMORY);
    bool of_disk = content && is_disk;
    queue_notice(invalidator, of_disk ? PAGES : NODES,
                 &(const struct notice){.id = id, .offset = content ? 0 : -1}, "");
}

void invalidator_range(struct invalidator *invalidator, uint64_t id, uint64_t offset, uint64_t length)
{
    queue_notice(invalidator, PAGES,
                 &(const struct notice){.id = id, .offset = (int64_t)offset, .length = (int64_t)length}, "");
}

/* `child`: as in struct notice. */
static void name_went(struct invalidator *invalidator, uint64_t directory, const char *name, uint64_t child)
{
    queue_notice(invalidator, NAMES, &(const struct notice){.id = directory, .child = child}, name);
}

/* ---- What differs between two catalogs ---- */

static uint64_t domain_node(const struct domain *domain, unsigned entry)
{
    return node_id(NODE_DOMAIN, domain->serial, entry);
}

/* The directories in which a snapshot is listed by its name, below those of its parent. */
static void listings_changed(struct invalidator *invalidator, const struct domain *domain,
                             const struct snapshot *parent)
{
    if (parent) {
        invalidator_node(invalidator, node_id(NODE_TREE, parent->serial, 0), true);
        invalidator_node(invalidator, node_id(NODE_SNAPSHOT, parent->serial, SNAPSHOT_CHILDREN), true);
    } else {
        invalidator_node(invalidator, domain_node(domain, DOMAIN_TREE), true);
    }
}

/* What stands for a snapshot itself is to be asked for anew by whoever comes to it: it is gone. */
static void snapshot_is_gone(struct invalidator *invalidator, const struct snapshot *snapshot)
{
    invalidator_node(invalidator, node_id(NODE_SNAPSHOT, snapshot->serial, SNAPSHOT_DIRECTORY), true);
    invalidator_node(invalidator, node_id(NODE_TREE, snapshot->serial, 0), true);
    invalidator_node(invalidator, node_id(NODE_CHILD_LINK, snapshot->serial, 0), true);
}

/* The snapshot is not where it was: it went, or it has another name or parent. */
static void snapshot_went(struct invalidator *invalidator, const struct domain *domain,
                          const struct snapshot *snapshot, bool is_gone)
{
    uint64_t serial = snapshot->serial;
    name_went(invalidator, domain_node(domain, DOMAIN_SNAPSHOTS), snapshot->name,
              is_gone ? node_id(NODE_SNAPSHOT, serial, 0) : 0);
    name_went(invalidator,
              snapshot->parent ? node_id(NODE_TREE, snapshot->parent->serial, 0)
                               : domain_node(domain, DOMAIN_TREE),
              snapshot->name, is_gone ? node_id(NODE_TREE, serial, 0) : 0);
    if (snapshot->parent)
        name_went(invalidator, node_id(NODE_SNAPSHOT, snapshot->parent->serial, SNAPSHOT_CHILDREN),
                  snapshot->name, is_gone ? node_id(NODE_CHILD_LINK, serial, 0) : 0);
    listings_changed(invalidator, domain, snapshot->parent);
    for (size_t i = 0; i < snapshot->frozen_count; i++)
        invalidator_node(invalidator, node_id(NODE_FROZEN, serial, snapshot->frozen[i].disk->position), true);
    if (snapshot->memory)
        invalidator_node(invalidator, node_id(NODE_SNAPSHOT, serial, SNAPSHOT_MEMORY), true);
}

static bool same_frozen(const struct snapshot *a, const struct snapshot *b)
{
    if (a->frozen_count != b->frozen_count || !a->memory != !b->memory)
        return false;
    if (a->memory && strcmp(a->memory->layer.path, b->memory->layer.path) != 0)
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

static uint64_t parent_serial(const struct snapshot *snapshot)
{
    return snapshot->parent ? snapshot->parent->serial : 0;
}

static bool same_parent(const struct snapshot *a, const struct snapshot *b)
{
    return parent_serial(a) == parent_serial(b) &&
           (!a->parent || strcmp(a->parent->name, b->parent->name) == 0);
}

/* The same snapshot, before and after: what of it is to be forgotten. */
static void snapshot_compare(struct invalidator *invalidator, const struct domain *domain,
                             const struct snapshot *before, const struct snapshot *after)
{
    bool moved = !same_parent(before, after) || strcmp(before->name, after->name) != 0;
    if (moved) {
        snapshot_went(invalidator, domain, before, false);
        listings_changed(invalidator, domain, after->parent);
        name_went(invalidator, node_id(NODE_SNAPSHOT, after->serial, SNAPSHOT_DIRECTORY), "parent", 0);
        invalidator_node(invalidator, node_id(NODE_CHILD_LINK, after->serial, 0), true);
        invalidator_node(invalidator, node_id(NODE_TREE_LINK, after->serial, 0), true);
    }
    if (!same_children(before, after)) {
        invalidator_node(invalidator, node_id(NODE_SNAPSHOT, after->serial, SNAPSHOT_CHILDREN), true);
        invalidator_node(invalidator, node_id(NODE_TREE, after->serial, 0), true);
    }
    bool other_disks = !same_frozen(before, after);
    if (moved || other_disks || before->is_protected != after->is_protected ||
        strcmp(before->description, after->description) != 0)
        for (unsigned entry = SNAPSHOT_DIRECTORY; entry < SNAPSHOT_ENTRY_COUNT; entry++)
            invalidator_node(invalidator, node_id(NODE_SNAPSHOT, after->serial, entry), true);
    if (!before->memory != !after->memory)
        name_went(invalidator, node_id(NODE_SNAPSHOT, after->serial, SNAPSHOT_DIRECTORY), "memory", 0);
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
    bool hung_elsewhere = false;
    for (size_t i = 0; i < before->snapshot_count; i++) {
        const struct snapshot *snapshot = before->by_serial[i];
        const struct snapshot *still = find_serial(after, snapshot->serial);
        if (still) {
            snapshot_compare(invalidator, before, snapshot, still);
            hung_elsewhere |= parent_serial(snapshot) != parent_serial(still);
        } else {
            snapshot_went(invalidator, before, snapshot, true);
            snapshot_is_gone(invalidator, snapshot);
        }
    }
    /* `@` leads up as far as it lies deep in tree/, and who lies below those may lie deeper or less deep. */
    for (size_t i = 0; hung_elsewhere && i < after->snapshot_count; i++)
        invalidator_node(invalidator, node_id(NODE_TREE_LINK, after->snapshots[i]->serial, 0), true);
    for (size_t i = 0; i < before->disk_count; i++) {
        name_went(invalidator, domain_node(before, DOMAIN_DISKS), before->disks[i].target, 0);
        for (unsigned file = 0; file < DISK_ENTRY_COUNT; file++)
            invalidator_node(invalidator,
                             node_id(NODE_DISK_FILE + file, before->serial, before->disks[i].position), true);
    }
    name_went(invalidator, domain_node(before, DOMAIN_DIRECTORY), "current", 0);
    name_went(invalidator, domain_node(before, DOMAIN_DIRECTORY), "latest", 0);
    for (unsigned entry = DOMAIN_DIRECTORY; entry < DOMAIN_ENTRY_COUNT; entry++)
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
        invalidator_node(invalidator, domain_node(domain, DOMAIN_DIRECTORY), true);
        name_went(invalidator, NODE_ROOT_ID, domain->name,
                  node_id(NODE_DOMAIN, domain->serial, DOMAIN_DIRECTORY));
        listing_changed = true;
    }
    if (listing_changed)
        invalidator_node(invalidator, NODE_ROOT_ID, true);
}
