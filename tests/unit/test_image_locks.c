// SPDX-License-Identifier: LGPL-2.1-or-later
/* image_locks.h with locks of our own, as QEMU takes them. */
#include "unit.h"

#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "hypervisor/image_locks.h"

#define FILES       400 /* more lines than the kernel gives at once */
#define COME_AND_GO 100 /* of these, the first */
#define WRITE_BYTE  101
#define SLACK       8 /* each of its readings can be held up at a bad moment */
#define LOOKS       1000

static int files[FILES];
static atomic_bool is_over;

static void set_lock(int fd, short kind)
{
    struct flock lock = {.l_type = kind, .l_whence = SEEK_SET, .l_start = WRITE_BYTE, .l_len = 1};
    assert_int_equal(fcntl(fd, F_OFD_SETLK, &lock), 0);
}

static void *come_and_go(void *opaque)
{
    for (unsigned i = 0; !is_over; i++)
        set_lock(files[i % COME_AND_GO], i / COME_AND_GO % 2 ? F_RDLCK : F_UNLCK);
    return NULL;
}

/* What is seen by who reads it once. */
static bool is_in_one_reading(const struct stat *image)
{
    cleanup_fclose FILE *file = fopen("/proc/locks", "re");
    char line[256], mark[32];
    bool found = false;
    snprintf(mark, sizeof mark, ":%llu ", (unsigned long long)image->st_ino);
    while (file && !found && fgets(line, sizeof line, file))
        found = strstr(line, "OFDLCK") && strstr(line, mark);
    return found;
}

/* The kernel gives the list in pieces, and counts: each that goes takes another one's place. */
static void test_seen_among_others_that_go(void **state)
{
    struct stat stats[FILES];
    pthread_t thread;
    for (int i = 0; i < FILES; i++) {
        files[i] = memfd_create("image", MFD_CLOEXEC);
        assert_true(files[i] >= 0);
        assert_int_equal(fstat(files[i], &stats[i]), 0);
        set_lock(files[i], F_RDLCK);
    }
    assert_int_equal(pthread_create(&thread, NULL, come_and_go, NULL), 0);
    unsigned missed = 0, missed_once = 0;
    for (int i = 0; i < LOOKS; i++) {
        const struct stat *file = &stats[COME_AND_GO + i % (FILES - COME_AND_GO)];
        image_locks_forget();
        missed += !image_locks_written(file->st_dev, file->st_ino);
        missed_once += !is_in_one_reading(file);
    }
    is_over = true;
    pthread_join(thread, NULL);
    print_message("missed %u, in one reading %u of %u\n", missed, missed_once, LOOKS);
    assert_true(missed * 4 <= missed_once + SLACK);
    for (int i = 0; i < FILES; i++)
        close(files[i]);
    image_locks_forget();
    for (int i = 0; i < FILES; i++)
        assert_false(image_locks_written(stats[i].st_dev, stats[i].st_ino));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_seen_among_others_that_go),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
