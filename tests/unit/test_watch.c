// SPDX-License-Identifier: LGPL-2.1-or-later
/* When to look at the source again (watch.h). */
#include "unit.h"

#include <fcntl.h>
#include <pthread.h>
#include <unistd.h>

#include "catalog/watch.h"
#include "source_dir.h"

static struct watch *watch;
static int directory;

/* A timer that does not come while a test runs, unless it asks for one. */
#define NEVER_MS 3600000

static void start(unsigned interval_ms)
{
    struct error err;
    directory = open(source_dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    assert_int_equal(watch_new(directory, interval_ms, &watch, &err), 0);
}

static int teardown(void **state)
{
    watch_free(watch);
    close(directory);
    return source_dir_teardown(state);
}

static void names_and_contents_are_told_apart(void **unused)
{
    run("touch old && mkdir sub");
    start(NEVER_MS);
    run("touch new");
    assert_int_equal(watch_wait(watch) & ~WATCH_FILES, WATCH_NAMES);
    run("echo >> old");
    assert_int_equal(watch_wait(watch), WATCH_FILES);
    run("chmod 0600 old");
    assert_int_equal(watch_wait(watch), WATCH_FILES);
    run("mv old other");
    assert_int_equal(watch_wait(watch), WATCH_NAMES);
    run("mv other sub/");
    assert_int_equal(watch_wait(watch), WATCH_NAMES);
    run("rm new");
    assert_int_equal(watch_wait(watch) & ~WATCH_FILES, WATCH_NAMES);
}

static void what_happens_in_directories_is_nothing(void **unused)
{
    run("mkdir sub");
    start(NEVER_MS);
    run("touch sub/file && mkdir sub2 && rmdir sub2 && chmod 0700 sub && echo > .vmsnapfs");
    assert_int_equal(watch_wait(watch) & WATCH_NAMES, WATCH_NAMES); /* for the file */
    run("touch sub/file2 && mkdir sub2 && chmod 0755 sub");
    watch_hint(watch);
    assert_int_equal(watch_wait(watch), WATCH_HINT);
}

static void a_burst_is_one_event(void **unused)
{
    start(NEVER_MS);
    run("for i in 1 2 3 4 5 6 7 8; do touch file$i; done");
    assert_int_equal(watch_wait(watch) & WATCH_NAMES, WATCH_NAMES);
    watch_hint(watch);
    assert_int_equal(watch_wait(watch), WATCH_HINT);
}

static void the_timer_goes_on(void **unused)
{
    start(1);
    for (int i = 0; i < 3; i++)
        assert_int_equal(watch_wait(watch), WATCH_TIMER);
    /* Also while files come all the time. */
    run("touch file");
    assert_int_equal(watch_wait(watch) & (WATCH_TIMER | WATCH_NAMES), WATCH_TIMER | WATCH_NAMES);
}

static void a_hint_is_kept_over_a_rest(void **unused)
{
    start(NEVER_MS);
    watch_hint(watch);
    watch_rest(watch, 5);
    assert_int_equal(watch_wait(watch), WATCH_HINT);
}

static void *stop(void *opaque)
{
    usleep(1000);
    watch_stop(watch);
    return NULL;
}

static void stopping_ends_every_wait(void **unused)
{
    pthread_t thread;
    start(NEVER_MS);
    assert_int_equal(pthread_create(&thread, NULL, stop, NULL), 0);
    watch_rest(watch, NEVER_MS);
    assert_int_equal(watch_wait(watch), WATCH_STOP);
    watch_rest(watch, NEVER_MS);
    assert_true(watch_wait(watch) & WATCH_STOP);
    pthread_join(thread, NULL);
}

static void a_directory_that_moved_is_still_watched(void **unused)
{
    run("mkdir d");
    strcat(source_dir, "/d");
    start(NEVER_MS);
    run("mv ../d ../e");
    source_dir[strlen(source_dir) - 1] = 'e';
    run("touch file");
    assert_true(watch_wait(watch) & WATCH_NAMES);
    source_dir[strlen(source_dir) - 2] = '\0';
}

#define TEST(function) cmocka_unit_test_setup_teardown(function, source_dir_setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(names_and_contents_are_told_apart),
        TEST(what_happens_in_directories_is_nothing),
        TEST(a_burst_is_one_event),
        TEST(the_timer_goes_on),
        TEST(a_hint_is_kept_over_a_rest),
        TEST(stopping_ends_every_wait),
        TEST(a_directory_that_moved_is_still_watched),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
