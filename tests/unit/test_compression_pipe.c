// SPDX-License-Identifier: LGPL-2.1-or-later
/* Memory through pipes: what comes out is what went in, and gzip and zstd themselves read it. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "io/compression_pipe.h"

static const enum memory_compression kinds[] = {COMPRESS_GZIP, COMPRESS_ZSTD};

static int new_file(void)
{
    FILE *file = tmpfile();
    assert_non_null(file);
    int fd = fcntl(fileno(file), F_DUPFD_CLOEXEC, 0);
    assert_true(fd >= 0);
    fclose(file);
    return fd;
}

/* Zeros, repetitions, and what can't be compressed. */
static unsigned char *make_bytes(size_t size)
{
    unsigned char *bytes = calloc(size + 1, 1);
    assert_non_null(bytes);
    uint32_t state = 12345;
    for (size_t i = 0; i < size; i++) {
        state = state * 1664525 + 1013904223;
        if ((i >> 16) % 3 == 1)
            bytes[i] = (unsigned char)(state >> 24);
        else if ((i >> 16) % 3 == 2)
            bytes[i] = (unsigned char)(i % 100);
    }
    return bytes;
}

static void put(int fd, const unsigned char *bytes, size_t size)
{
    for (size_t done = 0; done < size;) {
        ssize_t count = write(fd, bytes + done, size - done);
        assert_true(count > 0);
        done += (size_t)count;
    }
}

static size_t get(int fd, unsigned char *bytes, size_t size)
{
    size_t done = 0;
    while (done < size) {
        ssize_t count = read(fd, bytes + done, size - done);
        assert_true(count >= 0);
        if (!count)
            break;
        done += (size_t)count;
    }
    return done;
}

static int compress(enum memory_compression kind, const unsigned char *bytes, size_t size)
{
    struct compression_pipe *pipe;
    struct error err;
    int file = new_file(), fd;
    assert_int_equal(compression_pipe_to_file(file, kind, &pipe, &fd, &err), 0);
    put(fd, bytes, size);
    close(fd);
    assert_int_equal(compression_pipe_end(pipe, &err), 0);
    return file;
}

static void assert_reads_as(int file, enum memory_compression kind, const unsigned char *bytes, size_t size)
{
    struct compression_pipe *pipe;
    struct error err;
    int fd;
    unsigned char *found = malloc(size + 2);
    assert_non_null(found);
    lseek(file, 0, SEEK_SET);
    assert_int_equal(compression_pipe_from_file(file, kind, &pipe, &fd, &err), 0);
    assert_int_equal(get(fd, found, size + 1), size);
    assert_memory_equal(found, bytes, size);
    assert_int_equal(compression_pipe_bytes(pipe), size);
    close(fd);
    assert_int_equal(compression_pipe_end(pipe, &err), 0);
    free(found);
}

static void what_goes_in_comes_out(void **unused)
{
    static const size_t sizes[] = {0, 1, 262143, 262144, 262145, 5000000};
    (void)unused;
    for (size_t k = 0; k < 2; k++)
        for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
            unsigned char *bytes = make_bytes(sizes[i]);
            int file = compress(kinds[k], bytes, sizes[i]);
            assert_reads_as(file, kinds[k], bytes, sizes[i]);
            close(file);
            free(bytes);
        }
}

/* The programs that everybody has are the oracle. */
static void others_read_it(void **unused)
{
    static const char *const commands[] = {"gzip -dc", "zstd -dc"};
    (void)unused;
    unsigned char *bytes = make_bytes(3000000), *found = malloc(3000001);
    for (size_t k = 0; k < 2; k++) {
        char command[100];
        int file = compress(kinds[k], bytes, 3000000);
        lseek(file, 0, SEEK_SET);
        snprintf(command, sizeof command, "%s <&%d", commands[k], file);
        fcntl(file, F_SETFD, 0);
        FILE *output = popen(command, "r");
        assert_non_null(output);
        size_t count = fread(found, 1, 3000001, output);
        if (WEXITSTATUS(pclose(output)) != 127) {
            assert_int_equal(count, 3000000);
            assert_memory_equal(found, bytes, 3000000);
        }
        close(file);
    }
    free(bytes);
    free(found);
}

static void damage_and_cuts_are_told(void **unused)
{
    (void)unused;
    unsigned char *bytes = make_bytes(1000000), *found = malloc(1000000);
    for (size_t k = 0; k < 2; k++)
        for (int damage = 0; damage < 3; damage++) {
            struct compression_pipe *pipe;
            struct error err = {0};
            struct stat stat;
            int file = compress(kinds[k], bytes, 1000000), fd;
            fstat(file, &stat);
            unsigned char wrong[64];
            memset(wrong, 0xa5, sizeof wrong);
            if (damage == 0)
                assert_int_equal(ftruncate(file, stat.st_size - 3), 0);
            else
                pwrite(file, wrong, sizeof wrong, damage == 1 ? 0 : stat.st_size / 2);
            lseek(file, 0, SEEK_SET);
            assert_int_equal(compression_pipe_from_file(file, kinds[k], &pipe, &fd, &err), 0);
            get(fd, found, 1000000);
            close(fd);
            assert_int_equal(compression_pipe_end(pipe, &err), -EINVAL);
            close(file);
        }
    free(bytes);
    free(found);
}

static void a_full_disk_is_told(void **unused)
{
    (void)unused;
    unsigned char *bytes = make_bytes(4000000);
    for (size_t k = 0; k < 2; k++) {
        struct compression_pipe *pipe;
        struct error err = {0};
        int file = open("/dev/full", O_WRONLY | O_CLOEXEC), fd;
        assert_true(file >= 0);
        assert_int_equal(compression_pipe_to_file(file, kinds[k], &pipe, &fd, &err), 0);
        ssize_t count;
        do /* the other process sees a pipe that nobody reads */
            count = write(fd, bytes, 4000000);
        while (count > 0);
        assert_int_equal(errno, EPIPE);
        close(fd);
        assert_int_equal(compression_pipe_end(pipe, &err), -ENOSPC);
        close(file);
    }
    free(bytes);
}

/* Another process keeps its end open, and does nothing more. */
static void aborting_waits_for_nobody(void **unused)
{
    (void)unused;
    for (size_t k = 0; k < 2; k++) {
        struct compression_pipe *pipe;
        struct error err;
        int file = new_file(), fd;
        assert_int_equal(compression_pipe_to_file(file, kinds[k], &pipe, &fd, &err), 0);
        put(fd, (const unsigned char *)"some", 4);
        compression_pipe_abort(pipe, NULL);
        close(fd);
        close(file);

        unsigned char *bytes = make_bytes(4000000);
        file = compress(kinds[k], bytes, 4000000);
        lseek(file, 0, SEEK_SET);
        assert_int_equal(compression_pipe_from_file(file, kinds[k], &pipe, &fd, &err), 0);
        compression_pipe_abort(pipe, NULL);
        close(fd);
        close(file);
        free(bytes);
    }
    compression_pipe_abort(NULL, NULL);
    assert_int_equal(compression_pipe_end(NULL, NULL), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_goes_in_comes_out),    cmocka_unit_test(others_read_it),
        cmocka_unit_test(damage_and_cuts_are_told),  cmocka_unit_test(a_full_disk_is_told),
        cmocka_unit_test(aborting_waits_for_nobody),
    };
    signal(SIGPIPE, SIG_IGN);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
