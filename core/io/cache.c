// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * The one cache; see cache.h.
 *
 * One lock protects everything. It is held for a few hundred nanoseconds at a time, never while a block is
 * filled, so that splitting it has not paid. A block is in the table from the moment that somebody wants it;
 * `holders` counts those who have it or wait for it. With no holders it stands in the list by age, from which
 * the oldest go. A block that was dropped, or whose fill failed, leaves the table at once and lives on, found
 * by nobody, until its last holder puts it back.
 */
#include "io/cache.h"

#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>

#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/stats.h"

/* What malloc adds to each of the two allocations of a block. */
#define MALLOC_OVERHEAD 16

#define BUCKETS_MIN 64
#define BUCKETS_MAX (1 << 16)
#define OWNER_SLOTS 64
#define WAIT_SLOTS  16

/* A doubly linked ring with the list's head among its members. */
struct link {
    struct link *previous;
    struct link *next;
};

/* Where the blocks of an owner are listed; exists while it has any. */
struct cache_owner {
    struct cache_owner *next; /* in its slot */
    uint64_t number;
    struct link blocks;
};

struct cache_block {
    struct cache_key key;
    struct cache_block *next; /* in its bucket */
    struct link age;          /* linked while filled and without holders */
    struct link of_owner;
    struct cache_owner *owner; /* NULL once it is out of the table */
    void *data;
    size_t size;
    unsigned holders;
    bool filling;
    int result; /* of the fill */
};

struct cache {
    pthread_mutex_t lock; /* protects everything below, and every field of every block but data and size of
                             one that is held */
    pthread_cond_t filled[WAIT_SLOTS]; /* chosen by the block's address */
    struct link by_age;                /* youngest first */
    struct cache_block **buckets;
    size_t bucket_count; /* a power of two */
    struct cache_owner *owners[OWNER_SLOTS];
    size_t limit;
    size_t bytes;
    size_t block_count;
    uint64_t last_owner;
};

static void link_init(struct link *head)
{
    head->previous = head->next = head;
}

static void link_insert(struct link *head, struct link *link)
{
    link->previous = head;
    link->next = head->next;
    head->next->previous = link;
    head->next = link;
}

static void link_remove(struct link *link)
{
    link->previous->next = link->next;
    link->next->previous = link->previous;
    link->previous = link->next = link;
}

#define block_of(link, member)                                                                               \
    ((struct cache_block *)(void *)((char *)(link)-offsetof(struct cache_block, member)))

static size_t bucket_of(const struct cache *cache, struct cache_key key)
{
    uint64_t hash = (key.owner * UINT64_C(0x9e3779b97f4a7c15)) ^ (key.index * UINT64_C(0xc2b2ae3d27d4eb4f));
    return (hash ^ hash >> 29) & (cache->bucket_count - 1);
}

static pthread_cond_t *condition_of(struct cache *cache, const struct cache_block *block)
{
    return &cache->filled[((uintptr_t)block >> 6) % WAIT_SLOTS];
}

static size_t cost_of(size_t size)
{
    return size + sizeof(struct cache_block) + 2 * MALLOC_OVERHEAD;
}

static void charge(struct cache *cache, int64_t bytes)
{
    cache->bytes += (size_t)bytes;
    stats_add(STAT_CACHE_BYTES, bytes);
}

static struct cache_block *find_locked(struct cache *cache, struct cache_key key)
{
    struct cache_block *block = cache->buckets[bucket_of(cache, key)];
    while (block && (block->key.index != key.index || block->key.owner != key.owner))
        block = block->next;
    return block;
}

static struct cache_owner *owner_get_locked(struct cache *cache, uint64_t number)
{
    struct cache_owner **slot = &cache->owners[number % OWNER_SLOTS];
    for (struct cache_owner *owner = *slot; owner; owner = owner->next)
        if (owner->number == number)
            return owner;
    struct cache_owner *owner = malloc(sizeof *owner);
    if (!owner)
        return NULL;
    owner->number = number;
    owner->next = *slot;
    link_init(&owner->blocks);
    *slot = owner;
    charge(cache, sizeof *owner + MALLOC_OVERHEAD);
    return owner;
}

static void owner_free_if_empty_locked(struct cache *cache, struct cache_owner *owner)
{
    if (owner->blocks.next != &owner->blocks)
        return;
    struct cache_owner **at = &cache->owners[owner->number % OWNER_SLOTS];
    while (*at != owner)
        at = &(*at)->next;
    *at = owner->next;
    free(owner);
    charge(cache, -(int64_t)(sizeof *owner + MALLOC_OVERHEAD));
}

/* Takes the block out of the table, so that nobody finds it any more. */
static void unlist_locked(struct cache *cache, struct cache_block *block)
{
    if (!block->owner)
        return;
    struct cache_block **at = &cache->buckets[bucket_of(cache, block->key)];
    while (*at != block)
        at = &(*at)->next;
    *at = block->next;
    link_remove(&block->of_owner);
    owner_free_if_empty_locked(cache, steal_pointer(block->owner));
}

static void block_free_locked(struct cache *cache, struct cache_block *block)
{
    assert(block->holders == 0);
    unlist_locked(cache, block);
    link_remove(&block->age);
    charge(cache, -(int64_t)cost_of(block->size));
    cache->block_count--;
    free(block->data);
    free(block);
}

static void trim_locked(struct cache *cache)
{
    while (cache->bytes > cache->limit && cache->by_age.previous != &cache->by_age)
        block_free_locked(cache, block_of(cache->by_age.previous, age));
}

static void put_locked(struct cache *cache, struct cache_block *block)
{
    assert(block->holders > 0);
    if (--block->holders)
        return;
    if (!block->owner) {
        block_free_locked(cache, block);
        return;
    }
    link_insert(&cache->by_age, &block->age);
    trim_locked(cache);
}

struct cache *cache_new(size_t limit_bytes)
{
    struct cache *cache = calloc(1, sizeof *cache);
    if (!cache)
        return NULL;
    /* One bucket for 4 KiB: the blocks are rarely smaller. */
    cache->bucket_count = BUCKETS_MIN;
    while (cache->bucket_count < BUCKETS_MAX && cache->bucket_count < limit_bytes / (4 * KIB))
        cache->bucket_count *= 2;
    cache->buckets = calloc(cache->bucket_count, sizeof *cache->buckets);
    if (!cache->buckets) {
        free(cache);
        return NULL;
    }
    pthread_mutex_init(&cache->lock, NULL);
    for (size_t i = 0; i < WAIT_SLOTS; i++)
        pthread_cond_init(&cache->filled[i], NULL);
    link_init(&cache->by_age);
    cache->limit = limit_bytes;
    charge(cache, (int64_t)(cache->bucket_count * sizeof *cache->buckets));
    return cache;
}

void cache_free(struct cache *cache)
{
    if (!cache)
        return;
    while (cache->by_age.next != &cache->by_age)
        block_free_locked(cache, block_of(cache->by_age.next, age));
    assert(cache->block_count == 0);
    charge(cache, -(int64_t)(cache->bucket_count * sizeof *cache->buckets));
    for (size_t i = 0; i < WAIT_SLOTS; i++)
        pthread_cond_destroy(&cache->filled[i]);
    pthread_mutex_destroy(&cache->lock);
    free(cache->buckets);
    free(cache);
}

size_t cache_limit(const struct cache *cache)
{
    return cache->limit;
}

uint64_t cache_new_owner(struct cache *cache)
{
    pthread_mutex_lock(&cache->lock);
    uint64_t owner = ++cache->last_owner;
    pthread_mutex_unlock(&cache->lock);
    return owner;
}

/* A block that is being filled, in the table, held once; NULL where memory ran out. */
static struct cache_block *add_locked(struct cache *cache, struct cache_key key)
{
    struct cache_block *block = calloc(1, sizeof *block);
    struct cache_owner *owner = block ? owner_get_locked(cache, key.owner) : NULL;
    if (!owner) {
        free(block);
        return NULL;
    }
    block->key = key;
    block->owner = owner;
    block->holders = 1;
    block->filling = true;
    link_init(&block->age);
    link_insert(&owner->blocks, &block->of_owner);
    struct cache_block **bucket = &cache->buckets[bucket_of(cache, key)];
    block->next = *bucket;
    *bucket = block;
    cache->block_count++;
    charge(cache, (int64_t)cost_of(0));
    return block;
}

int cache_get(struct cache *cache, struct cache_key key, cache_fill fill, void *opaque,
              struct cache_block **result)
{
    pthread_mutex_lock(&cache->lock);
    struct cache_block *block = find_locked(cache, key);
    if (block) {
        if (block->holders++ == 0)
            link_remove(&block->age);
        while (block->filling)
            pthread_cond_wait(condition_of(cache, block), &cache->lock);
    } else {
        block = add_locked(cache, key);
        if (!block) {
            pthread_mutex_unlock(&cache->lock);
            return -ENOMEM;
        }
        pthread_mutex_unlock(&cache->lock);
        void *data = NULL;
        size_t size = 0;
        int rc = fill(opaque, key, &data, &size);
        pthread_mutex_lock(&cache->lock);
        block->filling = false;
        block->result = rc;
        if (rc == 0) {
            block->data = data;
            block->size = size;
            charge(cache, (int64_t)size);
            trim_locked(cache);
        } else {
            unlist_locked(cache, block);
        }
        if (block->holders > 1)
            pthread_cond_broadcast(condition_of(cache, block));
    }
    int rc = block->result;
    if (rc == 0)
        *result = block;
    else
        put_locked(cache, block);
    pthread_mutex_unlock(&cache->lock);
    return rc;
}

bool cache_has(struct cache *cache, struct cache_key key)
{
    pthread_mutex_lock(&cache->lock);
    bool has = find_locked(cache, key) != NULL;
    pthread_mutex_unlock(&cache->lock);
    return has;
}

const void *cache_block_data(const struct cache_block *block, size_t *size)
{
    if (size)
        *size = block->size;
    return block->data;
}

void cache_put(struct cache *cache, struct cache_block *block)
{
    if (!block)
        return;
    pthread_mutex_lock(&cache->lock);
    put_locked(cache, block);
    pthread_mutex_unlock(&cache->lock);
}

void cache_drop_owner(struct cache *cache, uint64_t number)
{
    pthread_mutex_lock(&cache->lock);
    struct cache_owner *owner = cache->owners[number % OWNER_SLOTS];
    while (owner && owner->number != number)
        owner = owner->next;
    /* The owner is freed with its last block. */
    bool more = owner != NULL;
    while (more) {
        struct cache_block *block = block_of(owner->blocks.next, of_owner);
        more = owner->blocks.next->next != &owner->blocks;
        if (block->holders)
            unlist_locked(cache, block);
        else
            block_free_locked(cache, block);
    }
    pthread_mutex_unlock(&cache->lock);
}

size_t cache_bytes(struct cache *cache)
{
    pthread_mutex_lock(&cache->lock);
    size_t bytes = cache->bytes;
    pthread_mutex_unlock(&cache->lock);
    return bytes;
}
