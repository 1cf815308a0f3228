// SPDX-License-Identifier: LGPL-2.1-or-later
/* The small parts of base/: bytes, UTF-8, formats' names, the identity of files, the log, the counters,
 * threads in the background. */
#include "unit.h"

#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/background.h"
#include "base/bytes.h"
#include "base/file_identity.h"
#include "base/image_format.h"
#include "base/log.h"
#include "base/stats.h"
#include "base/utf8.h"

static void integers_lie_big_endian(void **state)
{
    uint8_t bytes[9] = {0, 1, 2, 3, 4, 5, 6, 7, 8};
    assert_int_equal(load_be16(bytes + 1), 0x0102);
    assert_int_equal(load_be32(bytes + 1), 0x01020304);
    assert_true(load_be64(bytes + 1) == UINT64_C(0x0102030405060708));
    uint8_t written[8];
    store_be64(written, UINT64_C(0x0102030405060708));
    assert_memory_equal(written, bytes + 1, 8);
    store_be32(written, 0x01020304);
    assert_memory_equal(written, bytes + 1, 4);
    store_be16(written, 0x0102);
    assert_memory_equal(written, bytes + 1, 2);
}

static void rounding_up_tells_when_it_does_not_fit(void **state)
{
    uint64_t result = 77;
    assert_true(align_up_checked(0, 512, &result) && result == 0);
    assert_true(align_up_checked(1, 512, &result) && result == 512);
    assert_true(align_up_checked(512, 512, &result) && result == 512);
    assert_true(align_up_checked(UINT64_MAX - 511, 512, &result) && result == UINT64_MAX - 511);
    result = 77;
    assert_false(align_up_checked(UINT64_MAX - 510, 512, &result));
    assert_false(align_up_checked(UINT64_MAX, 2, &result));
    assert_int_equal(result, 77);
    assert_true(align_down(1023, 512) == 512 && align_down(511, 512) == 0);
    assert_true(min_u64(1, UINT64_MAX) == 1 && max_u64(1, UINT64_MAX) == UINT64_MAX);
}

static void every_character_of_utf8_is_decoded(void **state)
{
    for (uint32_t code = 0; code < 0x110000; code++) {
        char bytes[4];
        size_t length;
        if (code < 0x80) {
            bytes[0] = (char)code;
            length = 1;
        } else if (code < 0x800) {
            bytes[0] = (char)(0xc0 | code >> 6);
            bytes[1] = (char)(0x80 | (code & 63));
            length = 2;
        } else if (code < 0x10000) {
            bytes[0] = (char)(0xe0 | code >> 12);
            bytes[1] = (char)(0x80 | (code >> 6 & 63));
            bytes[2] = (char)(0x80 | (code & 63));
            length = 3;
        } else {
            bytes[0] = (char)(0xf0 | code >> 18);
            bytes[1] = (char)(0x80 | (code >> 12 & 63));
            bytes[2] = (char)(0x80 | (code >> 6 & 63));
            bytes[3] = (char)(0x80 | (code & 63));
            length = 4;
        }
        uint32_t decoded = 0x7777777;
        bool surrogate = code >= 0xd800 && code <= 0xdfff;
        assert_int_equal(utf8_decode(bytes, length, &decoded), surrogate ? 0 : length);
        assert_int_equal(decoded, surrogate ? 0x7777777 : code);
        assert_int_equal(utf8_decode(bytes, length - 1, &decoded), 0);
    }
}

static void formats_have_the_names_of_qemu(void **state)
{
    for (enum image_format format = IMAGE_FORMAT_RAW; format < IMAGE_FORMAT_COUNT; format++) {
        assert_non_null(image_format_name(format));
        assert_int_equal(image_format_from_name(image_format_name(format)), format);
        assert_int_equal(image_format_is_native(format),
                         format == IMAGE_FORMAT_RAW || format == IMAGE_FORMAT_QCOW2);
    }
    assert_int_equal(image_format_from_name("vhd"), IMAGE_FORMAT_VPC);
    assert_int_equal(image_format_from_name(NULL), IMAGE_FORMAT_UNKNOWN);
    assert_int_equal(image_format_from_name(""), IMAGE_FORMAT_UNKNOWN);
    assert_int_equal(image_format_from_name("unknown"), IMAGE_FORMAT_UNKNOWN);
    assert_int_equal(image_format_from_name("QCOW2"), IMAGE_FORMAT_UNKNOWN);
    assert_int_equal(image_format_from_name("rbd"), IMAGE_FORMAT_UNKNOWN);
}

static void endings_tell_three_formats_and_no_more(void **state)
{
    assert_int_equal(image_format_from_ending("a.qcow2"), IMAGE_FORMAT_QCOW2);
    assert_int_equal(image_format_from_ending("/b.raw/a.qcow2"), IMAGE_FORMAT_QCOW2);
    assert_int_equal(image_format_from_ending("a.raw"), IMAGE_FORMAT_RAW);
    assert_int_equal(image_format_from_ending("a.qcow2.img"), IMAGE_FORMAT_RAW);
    static const char *const others[] = {
        "", "a", ".", "/", "a.", "qcow2", "a.vmdk", "a.QCOW2", "a.qcow2.bak", "a.qcow2/b", "web1.snap1",
    };
    for (size_t i = 0; i < sizeof others / sizeof *others; i++)
        assert_int_equal(image_format_from_ending(others[i]), IMAGE_FORMAT_UNKNOWN);
}

static void a_file_is_told_by_what_identifies_it(void **state)
{
    struct stat stat = {.st_dev = 1, .st_ino = 2, .st_size = 3, .st_mtim = {.tv_sec = 4, .tv_nsec = 5}};
    struct file_identity a = file_identity_of(&stat), b = a;
    assert_true(file_identity_same_content(&a, &b) && file_identity_same_file(&a, &b));
    b.device++;
    assert_true(file_identity_same_content(&a, &b) && !file_identity_same_file(&a, &b));
    b = a;
    b.inode++;
    assert_true(file_identity_same_content(&a, &b) && !file_identity_same_file(&a, &b));
    b = a;
    b.size++;
    assert_true(!file_identity_same_content(&a, &b) && file_identity_same_file(&a, &b));
    b = a;
    b.mtime_sec++;
    assert_false(file_identity_same_content(&a, &b));
    b = a;
    b.mtime_nsec++;
    assert_false(file_identity_same_content(&a, &b));
}

/* The log writes to standard error: taken aside for the time of a test. */
static int kept_stderr = -1, log_file = -1;

static int take_stderr(void **state)
{
    fflush(stderr);
    kept_stderr = dup(STDERR_FILENO);
    log_file = memfd_create("log", MFD_CLOEXEC);
    return kept_stderr < 0 || log_file < 0 || dup2(log_file, STDERR_FILENO) < 0 ? -1 : 0;
}

static int give_stderr_back(void **state)
{
    fflush(stderr);
    int rc = dup2(kept_stderr, STDERR_FILENO);
    close(kept_stderr);
    close(log_file);
    log_set_level(LOG_LEVEL_INFO);
    log_set_sink(LOG_SINK_STDERR);
    return rc < 0 ? -1 : 0;
}

/* What went to standard error since the test began. */
static const char *written(void)
{
    static char buffer[256 * 1024];
    fflush(stderr);
    ssize_t length = pread(log_file, buffer, sizeof buffer - 1, 0);
    assert_true(length >= 0);
    buffer[length] = '\0';
    return buffer;
}

/* The last line that the log keeps, without its time; the caller's until the next call. */
static const char *last_kept(void)
{
    static char line[2048];
    struct text text = {0};
    log_render(&text);
    assert_true(text.length > 0 && text.data[text.length - 1] == '\n');
    text.data[text.length - 1] = '\0';
    char *begin = strrchr(text.data, '\n');
    begin = begin ? begin + 1 : text.data;
    assert_int_equal(strspn(begin, "0123456789-T:Z"), strlen("2001-09-09T01:46:40Z"));
    snprintf(line, sizeof line, "%s", begin + strlen("2001-09-09T01:46:40Z "));
    text_done(&text);
    return line;
}

static void a_line_is_written_and_kept(void **state)
{
    log_error("disk %s: %d", "vda", 7);
    assert_string_equal(written(), "vmsnapfs: error: disk vda: 7\n");
    assert_string_equal(last_kept(), "error disk vda: 7");
    log_warning("w");
    log_info("i");
    assert_string_equal(written(), "vmsnapfs: error: disk vda: 7\nvmsnapfs: warning: w\nvmsnapfs: info: i\n");
}

static void what_is_below_the_level_is_dropped(void **state)
{
    log_debug("too much");
    assert_string_equal(written(), "");
    log_set_level(LOG_LEVEL_ERROR);
    log_warning("too much");
    assert_string_equal(written(), "");
    assert_null(strstr(last_kept(), "too much"));
    log_set_level(LOG_LEVEL_DEBUG);
    log_debug("enough");
    assert_string_equal(written(), "vmsnapfs: debug: enough\n");
}

static void a_line_that_comes_again_is_counted(void **state)
{
    for (int i = 0; i < 1000; i++)
        log_error("the same");
    assert_string_equal(written(), "vmsnapfs: error: the same\n");
    assert_string_equal(last_kept(), "error the same (and 999 times more)");
    log_warning("the same"); /* another level is another line */
    assert_string_equal(last_kept(), "warning the same");
    log_error("the same"); /* not at once any more */
    assert_string_equal(last_kept(), "error the same");
}

static void control_characters_do_not_reach_a_terminal(void **state)
{
    log_error("a\nb\033[2Jc\x7f\td");
    assert_string_equal(written(), "vmsnapfs: error: a?b?[2Jc??d\n");
    assert_string_equal(last_kept(), "error a?b?[2Jc??d");
}

static void long_lines_are_cut_and_old_ones_dropped(void **state)
{
    char longest[5000];
    memset(longest, 'x', sizeof longest - 1);
    longest[sizeof longest - 1] = '\0';
    log_error("%s", longest);
    assert_true(strlen(last_kept()) > 500 && strlen(last_kept()) < 1000);
    for (int i = 0; i < 300; i++)
        log_info("line %d", i);
    struct text text = {0};
    log_render(&text);
    unsigned lines = 0;
    for (size_t i = 0; i < text.length; i++)
        lines += text.data[i] == '\n';
    assert_int_equal(lines, 256);
    assert_null(strstr(text.data, "line 43\n"));
    assert_non_null(strstr(text.data, "line 44\n"));
    assert_null(strstr(text.data, "xxx"));
    assert_string_equal(last_kept(), "info line 299");
    text_done(&text);
}

static void *log_and_render(void *opaque)
{
    for (int i = 0; i < 500; i++) {
        log_info("thread %p line %d", opaque, i);
        stats_add(STAT_SCANS, 1);
        struct text text = {0};
        log_render(&text);
        text_done(&text);
    }
    return NULL;
}

static void threads_log_and_count_side_by_side(void **state)
{
    uint64_t before = stats_get(STAT_SCANS);
    pthread_t threads[4];
    for (size_t i = 0; i < 4; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, log_and_render, (void *)(i + 1)), 0);
    for (size_t i = 0; i < 4; i++)
        pthread_join(threads[i], NULL);
    assert_true(stats_get(STAT_SCANS) == before + 2000);
    unsigned lines = 0;
    for (const char *c = written(); *c; c++)
        lines += *c == '\n';
    assert_int_equal(lines, 2000); /* whole ones */
}

static void counters_go_up_and_down_and_are_all_shown(void **state)
{
    stats_add(STAT_DISKS_OPEN, 3);
    stats_add(STAT_DISKS_OPEN, -1);
    assert_true(stats_get(STAT_DISKS_OPEN) == 2);
    stats_add(STAT_READ_BYTES, INT64_C(1) << 40);
    struct text text = {0};
    stats_render(&text);
    assert_non_null(strstr(text.data, "disks_open 2\n"));
    assert_non_null(strstr(text.data, "read_bytes 1099511627776\n"));
    unsigned lines = 0;
    for (size_t i = 0; i < text.length; i++)
        lines += text.data[i] == '\n';
    assert_int_equal(lines, STAT_COUNT);
    assert_null(strstr(text.data, "(null)"));
    text_done(&text);
    stats_add(STAT_DISKS_OPEN, -2);
}

/* A thread that counts how often it was told to. */
struct counting {
    struct background background;
    bool is_told;
    unsigned count;
};

static void *count_until_stopped(void *opaque)
{
    struct counting *counting = opaque;
    struct background *background = &counting->background;
    pthread_mutex_lock(&background->lock);
    while (!background->is_stopping) {
        if (counting->is_told) {
            counting->is_told = false;
            counting->count++;
            pthread_cond_broadcast(&background->changed);
        } else {
            pthread_cond_wait(&background->changed, &background->lock);
        }
    }
    pthread_mutex_unlock(&background->lock);
    return NULL;
}

static void a_thread_in_the_background_is_woken_and_ends(void **state)
{
    struct counting counting = {.count = 0};
    struct background *background = &counting.background;
    struct error err;
    background_init(background);
    background_stop(background); /* there is none yet */
    assert_int_equal(background_start(background, count_until_stopped, &counting, &err), 0);
    for (unsigned i = 1; i <= 100; i++) {
        background_set(background, &counting.is_told);
        pthread_mutex_lock(&background->lock);
        while (counting.count < i)
            pthread_cond_wait(&background->changed, &background->lock);
        pthread_mutex_unlock(&background->lock);
    }
    background_stop(background);
    background_stop(background);
    background_done(background);
    assert_int_equal(counting.count, 100);
}

int main(void)
{
#define with_log(test) cmocka_unit_test_setup_teardown(test, take_stderr, give_stderr_back)
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(integers_lie_big_endian),
        cmocka_unit_test(rounding_up_tells_when_it_does_not_fit),
        cmocka_unit_test(every_character_of_utf8_is_decoded),
        cmocka_unit_test(formats_have_the_names_of_qemu),
        cmocka_unit_test(endings_tell_three_formats_and_no_more),
        cmocka_unit_test(a_file_is_told_by_what_identifies_it),
        with_log(a_line_is_written_and_kept),
        with_log(what_is_below_the_level_is_dropped),
        with_log(a_line_that_comes_again_is_counted),
        with_log(control_characters_do_not_reach_a_terminal),
        with_log(long_lines_are_cut_and_old_ones_dropped),
        with_log(threads_log_and_count_side_by_side),
        cmocka_unit_test(counters_go_up_and_down_and_are_all_shown),
        cmocka_unit_test(a_thread_in_the_background_is_woken_and_ends),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
