// SPDX-License-Identifier: LGPL-2.1-or-later
/* read_batch.h: every run its own bytes and its own result; also where there is no io_uring. */
#include "unit.h"

#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "io/read_batch.h"

#define FILE_BYTES 1000003
#define RUNS_MAX   200

static int file = -1;
static unsigned char *content;

static int set_up(void **state)
{
    content = malloc(FILE_BYTES);
    file = memfd_create("file", MFD_CLOEXEC);
    unsigned seed = 3;
    for (size_t i = 0; i < FILE_BYTES; i++)
        content[i] = (unsigned char)rand_r(&seed);
    return file >= 0 && write(file, content, FILE_BYTES) == FILE_BYTES ? 0 : -1;
}

static int tear_down(void **state)
{
    close(file);
    free(content);
    return 0;
}

/* Reads `count` runs from all over the file and compares. */
static bool scattered_runs_come_right(size_t count)
{
    unsigned char *buffer = malloc(RUNS_MAX * 5000);
    struct read_run runs[RUNS_MAX];
    for (size_t i = 0; i < count; i++)
        runs[i] = (struct read_run){.fd = file,
                                    .offset = (i * 77777) % (FILE_BYTES - 5000),
                                    .buffer = buffer + i * 5000,
                                    .length = 1 + i * 24};
    bool right = read_batch(runs, count) == 0;
    for (size_t i = 0; i < count; i++)
        right &= runs[i].result == 0 && runs[i].done == runs[i].length &&
                 memcmp(runs[i].buffer, content + runs[i].offset, runs[i].length) == 0;
    free(buffer);
    return right;
}

static void runs_come_right(void **state)
{
    for (size_t count = 0; count <= RUNS_MAX; count += count < 5 ? 1 : 13)
        assert_true(scattered_runs_come_right(count));
}

static void one_bad_run_spoils_no_other(void **state)
{
    static const size_t counts[] = {1, 2, 3, 20};
    for (size_t c = 0; c < 4; c++)
        for (int kind = 0; kind < 3; kind++) {
            size_t count = counts[c], bad = count / 2;
            unsigned char buffer[20][100] = {0};
            struct read_run runs[20];
            for (size_t i = 0; i < count; i++)
                runs[i] =
                    (struct read_run){.fd = file, .offset = i * 1000, .buffer = buffer[i], .length = 100};
            int wanted = -ENODATA;
            size_t done = 0;
            if (kind == 0) {
                runs[bad].offset = FILE_BYTES;
            } else if (kind == 1) {
                runs[bad].offset = FILE_BYTES - 30;
                done = 30;
            } else {
                runs[bad].fd = -1;
                wanted = -EBADF;
            }
            assert_int_equal(read_batch(runs, count), wanted);
            for (size_t i = 0; i < count; i++) {
                assert_int_equal(runs[i].result, i == bad ? wanted : 0);
                assert_int_equal(runs[i].done, i == bad ? done : 100);
                assert_memory_equal(buffer[i], content + runs[i].offset, runs[i].done);
            }
        }
}

static void *read_in_a_thread(void *opaque)
{
    bool *right = opaque;
    for (int i = 0; i < 20; i++)
        *right &= scattered_runs_come_right(RUNS_MAX);
    return NULL;
}

static void threads_come_and_go(void **state)
{
    for (int round = 0; round < 5; round++) {
        bool right[4] = {true, true, true, true};
        pthread_t threads[4];
        for (size_t i = 0; i < 4; i++)
            assert_int_equal(pthread_create(&threads[i], NULL, read_in_a_thread, &right[i]), 0);
        for (size_t i = 0; i < 4; i++) {
            pthread_join(threads[i], NULL);
            assert_true(right[i]);
        }
    }
}

static bool forbid(int syscall_number)
{
    struct sock_filter filter[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (unsigned)syscall_number, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {.len = sizeof filter / sizeof *filter, .filter = filter};
    return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 &&
           prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0;
}

/* As under a container's seccomp filter: at setup, or, with a ring already there, at submitting. */
static void without_io_uring_it_reads_one_by_one(void **state)
{
    static const int forbidden[] = {__NR_io_uring_setup, __NR_io_uring_enter};
    for (size_t i = 0; i < 2; i++) {
        pid_t child = fork();
        assert_true(child >= 0);
        if (child == 0) {
            bool before = i == 0 || scattered_runs_come_right(RUNS_MAX);
            bool after =
                forbid(forbidden[i]) && scattered_runs_come_right(RUNS_MAX) && scattered_runs_come_right(5);
            _exit(before && after ? 0 : 1);
        }
        int status;
        assert_int_equal(waitpid(child, &status, 0), child);
        assert_int_equal(status, 0);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(without_io_uring_it_reads_one_by_one),
        cmocka_unit_test(runs_come_right),
        cmocka_unit_test(one_bad_run_spoils_no_other),
        cmocka_unit_test(threads_come_and_go),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
