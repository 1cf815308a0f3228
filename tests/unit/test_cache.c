// SPDX-License-Identifier: LGPL-2.1-or-later
/* cache.h: one fill for many askers, the bound, dropping, failures. */
#include "unit.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/bytes.h"
#include "io/cache.h"

struct source {
    size_t size;
    int error;
    useconds_t delay_usec;
    _Atomic unsigned fills;
};

/* Every byte tells which block it is of. */
static unsigned char byte_of(struct cache_key key)
{
    return (unsigned char)(key.owner * 31 + key.index * 7 + 1);
}

static int fill(void *opaque, struct cache_key key, void **data, size_t *size)
{
    struct source *source = opaque;
    atomic_fetch_add(&source->fills, 1);
    if (source->delay_usec)
        usleep(source->delay_usec);
    if (source->error)
        return source->error;
    *data = malloc(source->size);
    if (!*data)
        return -ENOMEM;
    memset(*data, byte_of(key), source->size);
    *size = source->size;
    return 0;
}

static bool is_right(const struct cache_block *block, struct cache_key key, size_t wanted)
{
    size_t size;
    const unsigned char *data = cache_block_data(block, &size);
    if (size != wanted)
        return false;
    for (size_t i = 0; i < size; i += 61)
        if (data[i] != byte_of(key))
            return false;
    return true;
}

static void get_and_put(struct cache *cache, struct cache_key key, struct source *source)
{
    struct cache_block *block = NULL;
    assert_int_equal(cache_get(cache, key, fill, source, &block), 0);
    assert_true(is_right(block, key, source->size));
    cache_put(cache, block);
}

static void a_block_is_filled_once_and_found_again(void **state)
{
    struct cache *cache = cache_new(MIB);
    struct source source = {.size = 1000};
    struct cache_key key = {.owner = cache_new_owner(cache), .index = 5};
    assert_false(cache_has(cache, key));
    get_and_put(cache, key, &source);
    assert_true(cache_has(cache, key));
    get_and_put(cache, key, &source);
    assert_int_equal(source.fills, 1);
    key.index = UINT64_MAX;
    get_and_put(cache, key, &source);
    key.owner = cache_new_owner(cache);
    assert_false(cache_has(cache, key));
    get_and_put(cache, key, &source);
    assert_int_equal(source.fills, 3);
    cache_free(cache);
}

static void owners_are_never_given_twice(void **state)
{
    struct cache *cache = cache_new(MIB);
    uint64_t first = cache_new_owner(cache);
    assert_int_not_equal(first, cache_new_owner(cache));
    cache_drop_owner(cache, first);
    assert_int_not_equal(first, cache_new_owner(cache));
    cache_free(cache);
}

static void the_least_recently_used_go_first(void **state)
{
    struct cache *cache = cache_new(MIB);
    struct source source = {.size = 100 * KIB};
    struct cache_key key = {.owner = cache_new_owner(cache)};
    for (key.index = 0; key.index < 30; key.index++) {
        get_and_put(cache, key, &source);
        assert_true(cache_bytes(cache) <= MIB);
        get_and_put(cache, (struct cache_key){.owner = key.owner, .index = 0}, &source);
    }
    assert_int_equal(source.fills, 30);
    for (uint64_t index = 0; index < 30; index++) {
        struct cache_key look = {.owner = key.owner, .index = index};
        assert_int_equal(cache_has(cache, look), index == 0 || index > 20); /* ten fit */
    }
    cache_free(cache);
}

static void what_is_in_use_stays_and_is_counted(void **state)
{
    struct cache *cache = cache_new(MIB);
    size_t empty = cache_bytes(cache);
    struct source source = {.size = 2 * MIB};
    struct cache_key key = {.owner = cache_new_owner(cache), .index = 1}, other = key;
    other.index = 2;
    struct cache_block *block, *second;
    assert_int_equal(cache_get(cache, key, fill, &source, &block), 0);
    assert_true(cache_has(cache, key));
    assert_true(cache_bytes(cache) > 2 * MIB);
    assert_int_equal(cache_get(cache, other, fill, &source, &second), 0);
    assert_true(is_right(block, key, source.size));
    cache_put(cache, block);
    assert_false(cache_has(cache, key)); /* it alone is more than there may be */
    assert_true(is_right(second, other, source.size));
    cache_put(cache, second);
    assert_int_equal(cache_bytes(cache), empty);
    cache_free(cache);
}

static void a_failed_fill_is_told_and_not_kept(void **state)
{
    struct cache *cache = cache_new(MIB);
    size_t empty = cache_bytes(cache);
    struct source bad = {.error = -EIO}, good = {.size = 10};
    struct cache_key key = {.owner = cache_new_owner(cache), .index = 1};
    struct cache_block *block = NULL;
    assert_int_equal(cache_get(cache, key, fill, &bad, &block), -EIO);
    assert_null(block);
    assert_false(cache_has(cache, key));
    assert_int_equal(cache_bytes(cache), empty);
    get_and_put(cache, key, &good);
    assert_int_equal(cache_get(cache, key, fill, &bad, &block), 0);
    assert_int_equal(bad.fills, 1);
    cache_put(cache, block);
    cache_free(cache);
}

static void dropping_an_owner_spares_what_is_in_use(void **state)
{
    struct cache *cache = cache_new(MIB);
    size_t empty = cache_bytes(cache);
    struct source source = {.size = 1000};
    struct cache_key mine = {.owner = cache_new_owner(cache)};
    struct cache_key other = {.owner = mine.owner + 64, .index = 3}; /* listed in the same slot */
    for (mine.index = 0; mine.index < 20; mine.index++)
        get_and_put(cache, mine, &source);
    get_and_put(cache, other, &source);
    mine.index = 4;
    struct cache_block *block;
    assert_int_equal(cache_get(cache, mine, fill, &source, &block), 0);
    cache_drop_owner(cache, mine.owner);
    for (uint64_t index = 0; index < 20; index++)
        assert_false(cache_has(cache, (struct cache_key){.owner = mine.owner, .index = index}));
    assert_true(cache_has(cache, other));
    assert_true(is_right(block, mine, source.size));
    cache_put(cache, block);
    cache_drop_owner(cache, mine.owner); /* has nothing any more */
    cache_drop_owner(cache, other.owner);
    assert_int_equal(cache_bytes(cache), empty);
    cache_free(cache);
}

#define THREADS 8

struct crowd {
    struct cache *cache;
    struct cache_key key;
    struct source *source;
    int wanted;
    _Atomic unsigned wrong;
};

static void *ask_once(void *opaque)
{
    struct crowd *crowd = opaque;
    struct cache_block *block = NULL;
    int rc = cache_get(crowd->cache, crowd->key, fill, crowd->source, &block);
    if (rc != crowd->wanted || (rc == 0 && !is_right(block, crowd->key, crowd->source->size)))
        atomic_fetch_add(&crowd->wrong, 1);
    cache_put(crowd->cache, block);
    return NULL;
}

static void ask_together(struct crowd *crowd)
{
    pthread_t threads[THREADS];
    for (size_t i = 0; i < THREADS; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, ask_once, crowd), 0);
    for (size_t i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    assert_int_equal(crowd->wrong, 0);
}

static void many_who_want_one_block_fill_it_once(void **state)
{
    struct cache *cache = cache_new(MIB);
    struct source source = {.size = 100, .delay_usec = 20000};
    struct crowd crowd = {.cache = cache, .source = &source};
    crowd.key = (struct cache_key){.owner = cache_new_owner(cache), .index = 9};
    ask_together(&crowd);
    assert_int_equal(source.fills, 1);
    cache_free(cache);
}

static void all_who_waited_get_the_error(void **state)
{
    struct cache *cache = cache_new(MIB);
    size_t empty = cache_bytes(cache);
    struct source source = {.error = -EIO, .delay_usec = 20000};
    struct crowd crowd = {.cache = cache, .source = &source, .wanted = -EIO};
    crowd.key = (struct cache_key){.owner = cache_new_owner(cache), .index = 9};
    ask_together(&crowd);
    assert_int_equal(cache_bytes(cache), empty);
    cache_free(cache);
}

struct mill {
    struct cache *cache;
    uint64_t owners[4];
    struct source sources[4];
    _Atomic unsigned number;
    _Atomic unsigned wrong;
};

static void *grind(void *opaque)
{
    struct mill *mill = opaque;
    unsigned seed = atomic_fetch_add(&mill->number, 1) + 1;
    for (int i = 0; i < 4000; i++) {
        unsigned owner = (unsigned)rand_r(&seed) % 4;
        struct cache_key key = {.owner = mill->owners[owner], .index = (unsigned)rand_r(&seed) % 50};
        struct cache_block *block;
        if (rand_r(&seed) % 200 == 0) {
            cache_drop_owner(mill->cache, key.owner);
        } else if (cache_get(mill->cache, key, fill, &mill->sources[owner], &block) == 0) {
            if (!is_right(block, key, mill->sources[owner].size))
                atomic_fetch_add(&mill->wrong, 1);
            cache_put(mill->cache, block);
        } else {
            atomic_fetch_add(&mill->wrong, 1);
        }
    }
    return NULL;
}

static void threads_that_get_drop_and_evict_agree(void **state)
{
    struct mill mill = {.cache = cache_new(MIB)};
    size_t empty = cache_bytes(mill.cache);
    for (size_t i = 0; i < 4; i++) {
        mill.owners[i] = cache_new_owner(mill.cache);
        mill.sources[i].size = (size_t)100 << (4 * i); /* up to 400 KiB */
    }
    pthread_t threads[THREADS];
    for (size_t i = 0; i < THREADS; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, grind, &mill), 0);
    for (size_t i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    assert_int_equal(mill.wrong, 0);
    assert_true(cache_bytes(mill.cache) <= MIB);
    for (size_t i = 0; i < 4; i++)
        cache_drop_owner(mill.cache, mill.owners[i]);
    assert_int_equal(cache_bytes(mill.cache), empty);
    cache_free(mill.cache);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_block_is_filled_once_and_found_again),
        cmocka_unit_test(owners_are_never_given_twice),
        cmocka_unit_test(the_least_recently_used_go_first),
        cmocka_unit_test(what_is_in_use_stays_and_is_counted),
        cmocka_unit_test(a_failed_fill_is_told_and_not_kept),
        cmocka_unit_test(dropping_an_owner_spares_what_is_in_use),
        cmocka_unit_test(many_who_want_one_block_fill_it_once),
        cmocka_unit_test(all_who_waited_get_the_error),
        cmocka_unit_test(threads_that_get_drop_and_evict_agree),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
