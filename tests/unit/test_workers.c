// SPDX-License-Identifier: LGPL-2.1-or-later
/* workers.h: every step once, jobs that wait or are taken back. */
#include "unit.h"

#include <pthread.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <unistd.h>

#include "io/workers.h"

#define STEPS 500

static void count_step(void *opaque, size_t index)
{
    atomic_fetch_add(&((_Atomic unsigned *)opaque)[index], 1);
}

static void each_step_runs_once(struct workers *workers)
{
    for (size_t count = 0; count < STEPS; count += 1 + count / 3) {
        _Atomic unsigned done[STEPS] = {0};
        workers_for_each(workers, count, count_step, done);
        for (size_t i = 0; i < STEPS; i++)
            assert_int_equal(done[i], i < count);
    }
}

static void steps_run_once_with_and_without_workers(void **state)
{
    each_step_runs_once(NULL);
    for (unsigned threads = 0; threads < 5; threads++) {
        struct workers *workers = workers_new(threads);
        each_step_runs_once(workers);
        workers_free(workers);
    }
    workers_free(NULL);
}

static void *share_out(void *opaque)
{
    each_step_runs_once(opaque);
    return NULL;
}

static void several_may_share_out_at_once(void **state)
{
    struct workers *workers = workers_new(3);
    pthread_t threads[4];
    for (size_t i = 0; i < 4; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, share_out, workers), 0);
    for (size_t i = 0; i < 4; i++)
        pthread_join(threads[i], NULL);
    workers_free(workers);
}

/* Two steps that wait for each other: only two threads get through. */
static void meet(void *opaque, size_t index)
{
    sem_t *gates = opaque;
    sem_post(&gates[index]);
    sem_wait(&gates[1 - index]);
}

static void steps_run_side_by_side(void **state)
{
    struct workers *workers = workers_new(1);
    sem_t gates[2];
    sem_init(&gates[0], 0, 0);
    sem_init(&gates[1], 0, 0);
    workers_for_each(workers, 2, meet, gates);
    workers_free(workers);
    sem_destroy(&gates[0]);
    sem_destroy(&gates[1]);
}

struct slow_steps {
    pthread_t caller;
    _Atomic unsigned done;
};

static void be_slow_elsewhere(void *opaque, size_t index)
{
    struct slow_steps *slow = opaque;
    usleep(pthread_equal(pthread_self(), slow->caller) ? 1000 : 10000);
    atomic_fetch_add(&slow->done, 1);
}

static void it_returns_when_every_step_is_done(void **state)
{
    struct workers *workers = workers_new(4);
    for (int round = 0; round < 10; round++) {
        struct slow_steps slow = {.caller = pthread_self()};
        workers_for_each(workers, 6, be_slow_elsewhere, &slow);
        assert_int_equal(slow.done, 6);
    }
    workers_free(workers);
}

struct owner {
    _Atomic unsigned runs;
    _Atomic uint64_t sum;
    sem_t started;
    sem_t go_on;
};

static void owner_init(struct owner *owner)
{
    owner->runs = 0;
    owner->sum = 0;
    sem_init(&owner->started, 0, 0);
    sem_init(&owner->go_on, 0, 0);
}

static void add(void *opaque, uint64_t argument)
{
    struct owner *owner = opaque;
    atomic_fetch_add(&owner->sum, argument);
    atomic_fetch_add(&owner->runs, 1);
    sem_post(&owner->started);
}

static void wait_inside(void *opaque, uint64_t argument)
{
    struct owner *owner = opaque;
    sem_post(&owner->started);
    sem_wait(&owner->go_on);
    atomic_fetch_add(&owner->runs, 1);
}

static void jobs_run_with_their_arguments(void **state)
{
    struct workers *workers = workers_new(2);
    struct owner owner;
    owner_init(&owner);
    for (uint64_t i = 1; i <= 100; i++)
        assert_true(workers_submit(workers, add, &owner, i));
    for (int i = 0; i < 100; i++)
        sem_wait(&owner.started);
    workers_cancel(workers, &owner);
    assert_int_equal(owner.sum, 5050);
    workers_free(workers);
    assert_false(workers_submit(NULL, add, &owner, 1));
    workers_cancel(NULL, &owner);
}

static void cancelling_forgets_the_waiting(void **state)
{
    struct workers *workers = workers_new(1);
    struct owner slow, quick, other;
    owner_init(&slow);
    owner_init(&quick);
    owner_init(&other);
    assert_true(workers_submit(workers, wait_inside, &slow, 0));
    sem_wait(&slow.started);
    for (int i = 0; i < 10; i++) {
        assert_true(workers_submit(workers, add, &quick, 1));
        assert_true(workers_submit(workers, add, &other, 1));
    }
    workers_cancel(workers, &quick);
    sem_post(&slow.go_on);
    for (int i = 0; i < 10; i++)
        sem_wait(&other.started);
    workers_cancel(workers, &slow);
    assert_int_equal(slow.runs, 1);
    assert_int_equal(quick.runs, 0);
    workers_free(workers);
}

struct cancelling {
    struct workers *workers;
    struct owner *owner;
    unsigned runs; /* when workers_cancel returned */
};

static void *cancel_and_look(void *opaque)
{
    struct cancelling *cancelling = opaque;
    workers_cancel(cancelling->workers, cancelling->owner);
    cancelling->runs = cancelling->owner->runs;
    return NULL;
}

static void cancelling_awaits_the_running(void **state)
{
    struct workers *workers = workers_new(2);
    struct owner slow;
    owner_init(&slow);
    for (int i = 0; i < 2; i++)
        assert_true(workers_submit(workers, wait_inside, &slow, 0));
    for (int i = 0; i < 2; i++)
        sem_wait(&slow.started);
    struct cancelling cancelling = {.workers = workers, .owner = &slow};
    pthread_t canceller;
    assert_int_equal(pthread_create(&canceller, NULL, cancel_and_look, &cancelling), 0);
    usleep(10000);
    for (int i = 0; i < 2; i++)
        sem_post(&slow.go_on);
    pthread_join(canceller, NULL);
    assert_int_equal(cancelling.runs, 2);
    workers_free(workers);
}

static void the_queue_has_an_end_and_freeing_forgets_it(void **state)
{
    struct workers *workers = workers_new(1);
    struct owner slow, quick;
    owner_init(&slow);
    owner_init(&quick);
    assert_true(workers_submit(workers, wait_inside, &slow, 0));
    sem_wait(&slow.started);
    unsigned queued = 0;
    while (queued < 100000 && workers_submit(workers, add, &quick, 1))
        queued++;
    assert_in_range(queued, 1, 10000);
    sem_post(&slow.go_on);
    workers_free(workers);
    assert_int_equal(slow.runs, 1);
    assert_true(quick.runs <= queued);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(steps_run_once_with_and_without_workers),
        cmocka_unit_test(several_may_share_out_at_once),
        cmocka_unit_test(steps_run_side_by_side),
        cmocka_unit_test(it_returns_when_every_step_is_done),
        cmocka_unit_test(jobs_run_with_their_arguments),
        cmocka_unit_test(cancelling_forgets_the_waiting),
        cmocka_unit_test(cancelling_awaits_the_running),
        cmocka_unit_test(the_queue_has_an_end_and_freeing_forgets_it),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
