// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Images that qemu-nbd reads for us, against what qemu-img makes of them; images that would have it read
 * other files; and a qemu-nbd that hangs or dies. Skips (77) where there is no QEMU.
 */
#include "unit.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/log.h"
#include "base/stats.h"
#include "image/layer_reader.h"
#include "image/nbd_helper.h"

static char folder[] = "/tmp/test_foreign_reader.XXXXXX";
static char source[64];  /* inside `folder`: what may be read */
static char outside[64]; /* a file in `folder` that may not */
static struct locate *locate;
static unsigned seed;

#define SECRET           "the only copy of a secret\n"
#define STALL_MS         5000 /* a program starts in that time, however busy the machine */
#define STRING_OF(value) #value
#define STRING(value)    STRING_OF(value)

/* ---- tools ---- */

static int __attribute__((format(printf, 1, 2))) shell(const char *format, ...)
{
    char command[2048];
    va_list arguments;
    va_start(arguments, format);
    int length = vsnprintf(command, sizeof command, format, arguments);
    va_end(arguments);
    assert_in_range(length, 1, sizeof command - 1);
    int status = system(command);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static const char *in_source(const char *name)
{
    static char paths[8][128];
    static unsigned next;
    char *path = paths[next++ % 8];
    snprintf(path, sizeof paths[0], "%s/%s", source, name);
    return path;
}

static void write_file(const char *path, const void *bytes, size_t length)
{
    cleanup_close int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    assert_return_code(fd, errno);
    assert_int_equal(write(fd, bytes, length), length);
}

static char *read_file(const char *path, size_t *length)
{
    cleanup_close int fd = open(path, O_RDONLY | O_CLOEXEC);
    assert_return_code(fd, errno);
    struct stat stat;
    assert_return_code(fstat(fd, &stat), errno);
    char *bytes = malloc((size_t)stat.st_size + 1);
    assert_int_equal(read(fd, bytes, (size_t)stat.st_size), stat.st_size);
    *length = (size_t)stat.st_size;
    return bytes;
}

/* Data and holes in stretches of random lengths, some of them no multiples of anything. */
static void make_raw(const char *path, size_t size)
{
    cleanup_free char *bytes = calloc(1, size);
    for (size_t at = 0; at < size;) {
        size_t run = min_u64(1 + (size_t)rand_r(&seed) % 300000, size - at);
        if (rand_r(&seed) % 2)
            for (size_t i = 0; i < run; i++)
                bytes[at + i] = (char)rand_r(&seed);
        at += run;
    }
    write_file(path, bytes, size);
}

static int open_layer(const char *path, enum image_format format, struct layer_reader **reader,
                      struct error *err)
{
    struct stat stat;
    struct file_identity identity;
    assert_return_code(lstat(path, &stat), errno);
    identity = file_identity_of(&stat);
    struct layer_request request = {.locate = locate,
                                    .path = path,
                                    .format = format,
                                    .expected = S_ISREG(stat.st_mode) ? &identity : NULL};
    struct image_reference backing = {0};
    *err = (struct error){0};
    int rc = layer_reader_open(&request, reader, &backing, err);
    assert_null(backing.path);
    return rc;
}

static struct layer_reader *open_good(const char *path, enum image_format format)
{
    struct layer_reader *reader;
    struct error err;
    if (open_layer(path, format, &reader, &err) < 0)
        fail_msg("%s", err.text);
    return reader;
}

struct collected {
    struct layer_reader *reader;
    char *bytes; /* of the whole disk */
    uint64_t next;
    uint64_t zeros;
};

static int collect(void *opaque, const struct extent *extent)
{
    struct collected *collected = opaque;
    assert_int_equal(extent->guest, collected->next);
    assert_true(extent->length > 0);
    collected->next += extent->length;
    if (extent->kind == EXTENT_ZERO) {
        memset(collected->bytes + extent->guest, 0, extent->length);
        collected->zeros += extent->length;
        return 0;
    }
    assert_int_equal(extent->kind, EXTENT_FOREIGN);
    return collected->reader->ops->read(collected->reader, extent->offset, collected->bytes + extent->guest,
                                        extent->length);
}

/* Reads it all by its extents and compares with `expected`. Returns how much of it was told to be zeros. */
static uint64_t compare(struct layer_reader *reader, const char *expected, size_t size)
{
    assert_int_equal(reader->size, size);
    cleanup_free char *bytes = malloc(size);
    memset(bytes, 0x5a, size);
    struct collected collected = {.reader = reader, .bytes = bytes};
    assert_int_equal(reader->ops->walk(reader, 0, size, collect, &collected), 0);
    assert_int_equal(collected.next, size);
    assert_int_equal(reader->ops->check(reader), 0);
    assert_memory_equal(bytes, expected, size);
    return collected.zeros;
}

static int names_of_sockets(void)
{
    return shell("ls -d %s/vmsnapfs-nbd-* 2>/dev/null | grep -q .", folder);
}

static void assert_nothing_is_left(void)
{
    assert_int_equal(stats_get(STAT_HELPERS_RUNNING), 0);
    assert_int_equal(waitpid(-1, NULL, WNOHANG), -1);
    assert_int_equal(errno, ECHILD);
    assert_int_not_equal(names_of_sockets(), 0);
}

/* The pid of the one qemu-nbd that is our child. */
static pid_t helper_pid(void)
{
    cleanup_closedir DIR *dir = opendir("/proc");
    pid_t found = 0;
    for (struct dirent *entry; (entry = readdir(dir));) {
        char path[300], name[32] = "";
        int parent = 0;
        snprintf(path, sizeof path, "/proc/%s/stat", entry->d_name);
        if (!isdigit(entry->d_name[0]))
            continue;
        cleanup_fclose FILE *file = fopen(path, "r");
        if (file && fscanf(file, "%*d (%31[^)]) %*c %d", name, &parent) == 2 && parent == getpid() &&
            strcmp(name, "qemu-nbd") == 0) {
            assert_int_equal(found, 0);
            found = atoi(entry->d_name);
        }
    }
    assert_int_not_equal(found, 0);
    return found;
}

static bool log_has(const char *words)
{
    cleanup_text struct text text = {0};
    log_render(&text);
    return text.data && strstr(text.data, words);
}

/* ---- every format ---- */

static const struct {
    const char *name;
    enum image_format format;
    const char *options;
} kinds[] = {
    {"sparse.vmdk", IMAGE_FORMAT_VMDK, "-O vmdk -o subformat=monolithicSparse"},
    {"flat.vmdk", IMAGE_FORMAT_VMDK, "-O vmdk -o subformat=monolithicFlat"},
    {"splits.vmdk", IMAGE_FORMAT_VMDK, "-O vmdk -o subformat=twoGbMaxExtentSparse"},
    {"splitf.vmdk", IMAGE_FORMAT_VMDK, "-O vmdk -o subformat=twoGbMaxExtentFlat"},
    {"stream.vmdk", IMAGE_FORMAT_VMDK, "-O vmdk -o subformat=streamOptimized"},
    {"a.vhdx", IMAGE_FORMAT_VHDX, "-O vhdx"},
    {"fixed.vhdx", IMAGE_FORMAT_VHDX, "-O vhdx -o subformat=fixed"},
    {"dynamic.vhd", IMAGE_FORMAT_VPC, "-O vpc -o subformat=dynamic"},
    {"fixed.vhd", IMAGE_FORMAT_VPC, "-O vpc -o subformat=fixed"},
    {"a.vdi", IMAGE_FORMAT_VDI, "-O vdi"},
    {"static.vdi", IMAGE_FORMAT_VDI, "-O vdi -o static=on"},
    {"a.hds", IMAGE_FORMAT_PARALLELS, "-O parallels"},
    {"a.qed", IMAGE_FORMAT_QED, "-O qed"},
    {"a.qcow", IMAGE_FORMAT_QCOW, "-O qcow"},
};

static void every_format_reads_as_qemu_img_reads_it(void **state)
{
    cleanup_free char *raw = strdup(in_source("raw.img"));
    make_raw(raw, 5 * MIB + 3 * 512);
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        cleanup_free char *path = strdup(in_source(kinds[i].name));
        assert_int_equal(shell("qemu-img convert -f raw %s %s %s", kinds[i].options, raw, path), 0);
        assert_int_equal(shell("qemu-img convert -f %s -O raw %s %s/oracle",
                               image_format_name(kinds[i].format), path, folder),
                         0);
        char oracle_path[128];
        snprintf(oracle_path, sizeof oracle_path, "%s/oracle", folder);
        size_t size;
        cleanup_free char *oracle = read_file(oracle_path, &size);
        struct layer_reader *reader = open_good(path, kinds[i].format);
        assert_true(reader->slow);
        assert_int_equal(reader->data_fd, -1);
        print_message("%s: %llu of %zu bytes are zeros\n", kinds[i].name,
                      (unsigned long long)compare(reader, oracle, size), size);

        /* Odd places and lengths; nothing beyond the end. */
        char bytes[3000];
        for (int turn = 0; turn < 50; turn++) {
            size_t length = 1 + (size_t)rand_r(&seed) % sizeof bytes;
            size_t offset = (size_t)rand_r(&seed) % (size - length);
            assert_int_equal(reader->ops->read(reader, offset, bytes, length), 0);
            assert_memory_equal(bytes, oracle + offset, length);
        }
        assert_int_equal(reader->ops->read(reader, size - 1, bytes, 2), -EINVAL);
        layer_reader_free(reader);
        assert_nothing_is_left();
    }
}

static void a_sparse_image_tells_its_zeros(void **state)
{
    const char *path = in_source("mostly.vmdk");
    assert_int_equal(
        shell("qemu-img create -q -f vmdk %s 3G && qemu-io -f vmdk -c 'write -P 7 2G 64k' %s >%s/io", path,
              path, folder),
        0);
    struct layer_reader *reader = open_good(path, IMAGE_FORMAT_VMDK);
    struct collected all = {.reader = reader};
    cleanup_free char *bytes = all.bytes = calloc(1, 3 * GIB);
    assert_int_equal(reader->ops->walk(reader, 0, 3 * GIB, collect, &all), 0);
    assert_int_equal(all.next, 3 * GIB);
    assert_int_equal(all.zeros, 3 * GIB - 64 * KIB);
    assert_int_equal(bytes[2 * GIB + 100], 7);
    layer_reader_free(reader);
}

struct many {
    struct layer_reader *reader;
    const char *oracle;
    size_t size;
    unsigned seed;
    atomic_bool *stop;
    int failures;
    atomic_int reads;
};

/* Each of them has begun and ended a read since. */
static void await_reads(struct many *many, unsigned count)
{
    for (unsigned i = 0; i < count; i++)
        for (int begin = many[i].reads; many[i].reads < begin + 2;)
            usleep(1000);
}

static void *read_many(void *opaque)
{
    struct many *many = opaque;
    char bytes[20000];
    for (; !*many->stop; many->reads++) {
        size_t length = 1 + (size_t)rand_r(&many->seed) % sizeof bytes;
        size_t offset = (size_t)rand_r(&many->seed) % (many->size - length);
        if (many->reader->ops->read(many->reader, offset, bytes, length) != 0 ||
            memcmp(bytes, many->oracle + offset, length) != 0)
            many->failures++;
    }
    return NULL;
}

static void many_threads_read_at_once(void **state)
{
    const char *raw = in_source("many.img"), *path = in_source("many.vmdk");
    make_raw(raw, 4 * MIB);
    assert_int_equal(shell("qemu-img convert -f raw -O vmdk -o subformat=streamOptimized %s %s", raw, path),
                     0);
    size_t size;
    cleanup_free char *oracle = read_file(raw, &size);
    struct layer_reader *reader = open_good(path, IMAGE_FORMAT_VMDK);
    atomic_bool stop = false;
    struct many many[12];
    pthread_t threads[12];
    for (unsigned i = 0; i < 12; i++) {
        many[i] =
            (struct many){.reader = reader, .oracle = oracle, .size = size, .seed = seed + i, .stop = &stop};
        pthread_create(&threads[i], NULL, read_many, &many[i]);
    }
    /* In the middle of it the helper dies, twice, and never twice in one read: nobody notices. */
    for (int i = 0; i < 2; i++) {
        await_reads(many, 12);
        pid_t pid = helper_pid();
        kill(pid, SIGKILL);
        while (kill(pid, 0) == 0 || stats_get(STAT_HELPERS_RUNNING) == 0)
            usleep(10000);
    }
    await_reads(many, 12);
    stop = true;
    for (unsigned i = 0; i < 12; i++) {
        pthread_join(threads[i], NULL);
        assert_int_equal(many[i].failures, 0);
        assert_true(many[i].reads > 0);
    }
    layer_reader_free(reader);
    assert_nothing_is_left();
}

static void a_delta_reads_through_its_parents(void **state)
{
    const char *raw = in_source("p.img"), *base = in_source("p.vmdk"), *delta = in_source("p-1.vmdk"),
               *top = in_source("p-2.vmdk");
    make_raw(raw, 2 * MIB);
    assert_int_equal(
        shell("cd %s && qemu-img convert -f raw -O vmdk -o subformat=twoGbMaxExtentSparse %s %s &&"
              "qemu-img create -q -f vmdk -F vmdk -b p.vmdk %s && qemu-io -f vmdk -c 'write -P 3 "
              "100k 100k' %s >io && qemu-img create -q -f vmdk -F vmdk -b p-1.vmdk %s && qemu-io "
              "-f vmdk -c 'write -P 4 150k 10k' %s >io && qemu-img convert -f vmdk -O raw %s "
              "oracle",
              source, raw, base, delta, delta, top, top, top),
        0);
    size_t size;
    cleanup_free char *oracle = read_file(in_source("oracle"), &size);
    struct layer_reader *reader = open_good(top, IMAGE_FORMAT_VMDK);
    compare(reader, oracle, size);
    /* A parent that someone wrote to: what was read may be wrong. */
    assert_int_equal(shell("printf x >> %s", in_source("p-s001.vmdk")), 0);
    assert_int_equal(reader->ops->check(reader), -EIO);
    layer_reader_free(reader);
}

static void a_change_of_the_image_is_found_out(void **state)
{
    const char *path = in_source("changed.vdi");
    assert_int_equal(shell("qemu-img create -q -f vdi %s 1M", path), 0);
    struct layer_reader *reader = open_good(path, IMAGE_FORMAT_VDI);
    assert_int_equal(reader->ops->check(reader), 0);
    assert_int_equal(shell("touch -d 2001-01-01 %s", path), 0);
    assert_int_equal(reader->ops->check(reader), -EIO);
    layer_reader_free(reader);
}

/* qemu-io, that has an image open for writing until its input ends. */
static FILE *hold_open(const char *path)
{
    char command[256];
    snprintf(command, sizeof command, "exec qemu-io -f vdi %s >%s/io", path, folder);
    FILE *holder = popen(command, "w");
    assert_non_null(holder);
    /* QEMU's locks are on bytes from 100 on. To look at them disturbs nobody. */
    cleanup_close int fd = open(path, O_RDWR | O_CLOEXEC);
    struct flock lock;
    do {
        usleep(10000);
        lock = (struct flock){.l_type = F_WRLCK, .l_start = 100, .l_len = 200};
        assert_return_code(fcntl(fd, F_OFD_GETLK, &lock), errno);
    } while (lock.l_type == F_UNLCK);
    return holder;
}

static void a_frozen_image_that_someone_writes_to_is_refused(void **state)
{
    cleanup_free char *path = strdup(in_source("locked.vdi"));
    assert_int_equal(shell("qemu-img create -q -f vdi %s 1M", path), 0);
    FILE *holder = hold_open(path);
    struct layer_reader *reader;
    struct error err;
    assert_int_equal(open_layer(path, IMAGE_FORMAT_VDI, &reader, &err), -EIO);
    assert_non_null(strstr(err.text, "Is another process using the image [/tmp/test_foreign_reader"));
    /* One that may change is looked at all the same. */
    struct layer_request request = {.locate = locate, .path = path, .format = IMAGE_FORMAT_VDI};
    struct image_reference backing = {0};
    assert_int_equal(layer_reader_open(&request, &reader, &backing, &err), 0);
    assert_int_equal(reader->size, MIB);
    layer_reader_free(reader);
    assert_int_equal(pclose(holder), 0);
}

/* ---- images that name other files ---- */

static const char *descriptor(const char *extent_line, const char *more)
{
    static char text[4096];
    snprintf(text, sizeof text,
             "# Disk DescriptorFile\nversion=1\nCID=fffffffe\nparentCID=ffffffff\n"
             "createType=\"monolithicFlat\"\n%.900s\n%.900s\nddb.adapterType = \"ide\"\n",
             more, extent_line);
    return text;
}

static void write_hostile(const char *path, const char *text)
{
    write_file(path, text, strlen(text));
}

/* Can it not be opened, and is `words` in the text? */
static void assert_refused(const char *path, enum image_format format, int code, const char *words)
{
    struct layer_reader *reader;
    struct error err;
    int rc = open_layer(path, format, &reader, &err);
    if (rc != -code || !strstr(err.text, words))
        fail_msg("%d, \"%s\" instead of %d, \"%s\"", rc, err.text, -code, words);
    assert_nothing_is_left();
}

static void without_us_a_hostile_image_would_be_read(void **state)
{
    /* The negative control: what the tests below refuse does leak through plain qemu-img. */
    char line[256];
    snprintf(line, sizeof line, "RW 1 FLAT \"%s\" 0", outside);
    const char *path = in_source("control.vmdk");
    write_hostile(path, descriptor(line, ""));
    assert_int_equal(shell("qemu-img convert -f vmdk -O raw %s %s/leaked", path, folder), 0);
    assert_int_equal(shell("grep -q 'the only copy of a secret' %s/leaked", folder), 0);
    assert_refused(path, IMAGE_FORMAT_VMDK, EPERM, "outside the directories that may be read");
}

static void extents_outside_the_allowed_directories_are_refused(void **state)
{
    const char *path = in_source("hostile.vmdk");
    char lines[8][256];
    snprintf(lines[0], sizeof lines[0], "RW 1 FLAT \"%s\" 0", outside);
    snprintf(lines[1], sizeof lines[1], "RW 1 FLAT \"../secret\" 0");
    snprintf(lines[2], sizeof lines[2], "RW 1 FLAT \"link\" 0");
    snprintf(lines[3], sizeof lines[3], "RW 1 FLAT \"sub/../../secret\" 0");
    snprintf(lines[4], sizeof lines[4], "RW 1 VMFS \"/etc/hostname\"");
    snprintf(lines[5], sizeof lines[5], "RW 1 FLAT \"/usr/lib/os-release\" 0");
    snprintf(lines[6], sizeof lines[6], "RW 1 FLAT \"/proc/self/fd/3\" 0");
    snprintf(lines[7], sizeof lines[7], "RDONLY 1 FLAT \"%s\" 0", outside);
    mkdir(in_source("sub"), 0700);
    symlink("../secret", in_source("link"));
    for (size_t i = 0; i < 8; i++) {
        write_hostile(path, descriptor(lines[i], ""));
        assert_refused(path, IMAGE_FORMAT_VMDK, EPERM, "outside the directories that may be read");
    }
}

static void extents_that_are_no_plain_files_are_refused(void **state)
{
    const char *path = in_source("hostile.vmdk");
    const char *names[] = {
        "json:{\\\"driver\\\":\\\"raw\\\"}",
        "fat:/etc",
        "nbd:localhost:10809",
        "nbd+unix:///?socket=/run/x",
        "http://localhost/x",
        "file:/etc/hostname",
        "rbd:pool/image",
        "C:\\\\disk-flat.vmdk",
    };
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char line[256];
        snprintf(line, sizeof line, "RW 1 FLAT \"%s\" 0", names[i]);
        write_hostile(path, descriptor(line, ""));
        struct layer_reader *reader;
        struct error err;
        assert_int_not_equal(open_layer(path, IMAGE_FORMAT_VMDK, &reader, &err), 0);
        assert_nothing_is_left();
    }
    write_hostile(path, descriptor("RW 1 FLAT \"nbd:localhost:10809\" 0", ""));
    assert_refused(path, IMAGE_FORMAT_VMDK, EPERM, "no plain file");
    write_hostile(path, descriptor("RW 1 FLAT \"sub\" 0", ""));
    assert_refused(path, IMAGE_FORMAT_VMDK, EINVAL, "a directory");
    write_hostile(path, descriptor("RW 1 FLAT \"/dev/zero\" 0", ""));
    assert_refused(path, IMAGE_FORMAT_VMDK, EPERM, "outside");
}

static void parents_outside_are_refused_too(void **state)
{
    const char *path = in_source("hostile.vmdk");
    char text[512];
    write_hostile(in_source("plain-flat"), "0123456789");
    snprintf(text, sizeof text,
             "# Disk DescriptorFile\nCID=1\nparentCID=2\ncreateType=\"monolithicFlat\"\n"
             "parentFileNameHint=\"%s\"\nRW 1 FLAT \"plain-flat\" 0\n",
             outside);
    write_hostile(path, text);
    assert_refused(path, IMAGE_FORMAT_VMDK, EPERM, "outside the directories");
    snprintf(text, sizeof text,
             "# Disk DescriptorFile\nCID=1\nparentCID=2\ncreateType=\"monolithicFlat\"\n"
             "parentFileNameHint=\"hostile.vmdk\"\nRW 1 FLAT \"plain-flat\" 0\n");
    write_hostile(path, text);
    assert_refused(path, IMAGE_FORMAT_VMDK, ELOOP, "on itself");
}

static void a_descriptor_inside_a_sparse_extent_names_nothing(void **state)
{
    /* A sparse header of capacity 0 makes QEMU read extent lines out of the same file. */
    char image[4096] = {0}, line[256];
    memcpy(image, "KDMV\1\0\0\0\3\0\0\0", 12);
    image[28] = 1; /* the descriptor, in sector 1 */
    image[36] = 4;
    snprintf(line, sizeof line, "RW 1 FLAT \"%s\" 0", outside);
    const char *text = descriptor(line, "");
    memcpy(image + 512, text, strlen(text));
    const char *path = in_source("embedded.vmdk");
    write_file(path, image, sizeof image);
    assert_int_equal(shell("qemu-img convert -f vmdk -O raw %s %s/leaked2", path, folder), 0);
    assert_int_equal(shell("grep -q 'the only copy of a secret' %s/leaked2", folder), 0);
    assert_refused(path, IMAGE_FORMAT_VMDK, EPERM, "names other files");

    write_hostile(in_source("outer.vmdk"), descriptor("RW 1 SPARSE \"embedded.vmdk\"", ""));
    assert_refused(in_source("outer.vmdk"), IMAGE_FORMAT_VMDK, EPERM, "names other files");
}

/*
 * What would happen if all these checks failed, or the file changed after them: the helper, told to open the
 * hostile image as it is, still can't reach the file.
 */
static void even_an_unchecked_name_is_out_of_reach(void **state)
{
    char line[256];
    snprintf(line, sizeof line, "RW 1 FLAT \"%s\" 0", outside);
    const char *path = in_source("control.vmdk");
    write_hostile(path, descriptor(line, ""));
    cleanup_close int fd = open(path, O_RDONLY | O_CLOEXEC);
    struct nbd_helper_spec spec = {
        .path = path,
        .graph = "{\"driver\":\"vmdk\",\"file\":{\"driver\":\"file\",\"filename\":\"/proc/self/fd/4\"}}",
        .fds = &fd,
        .fd_count = 1,
        .stall_ms = 30000};
    struct nbd_helper *helper;
    struct error err = {0};
    assert_int_equal(nbd_helper_new(&spec, &helper, &err), -EIO);
    assert_non_null(strstr(err.text, "Permission denied"));
    assert_nothing_is_left();
}

static void backing_files_of_other_formats_are_refused(void **state)
{
    const char *base = in_source("b.img");
    make_raw(base, 1 * MIB);
    for (int i = 0; i < 2; i++) {
        enum image_format format = i ? IMAGE_FORMAT_QED : IMAGE_FORMAT_QCOW;
        const char *path = in_source(i ? "b.qed" : "b.qcow");
        assert_int_equal(
            shell("qemu-img create -q -f %s -F raw -b %s %s", image_format_name(format), base, path), 0);
        assert_refused(path, format, EOPNOTSUPP, "stands on another image");
    }
    /* A differencing VHD, as its footer says. */
    char footer[512] = "conectix";
    footer[63] = 4;
    write_file(in_source("diff.vhd"), footer, sizeof footer);
    assert_refused(in_source("diff.vhd"), IMAGE_FORMAT_VPC, EOPNOTSUPP, "stands on another image");
}

static void what_is_no_image_or_encrypted_says_so(void **state)
{
    const char *path = in_source("garbage");
    make_raw(path, 1 * MIB);
    assert_refused(path, IMAGE_FORMAT_VMDK, EINVAL, "no vmdk file");
    assert_refused(path, IMAGE_FORMAT_VHDX, EIO, "qemu-nbd ended: ");
    assert_refused(path, IMAGE_FORMAT_LUKS, EOPNOTSUPP, "encrypted");
    write_hostile(path, descriptor("RW 1 FLAT \"plain-flat\" 0", "ddb.iofilters = \"vmwarevmcrypt\""));
    assert_refused(path, IMAGE_FORMAT_VMDK, EOPNOTSUPP, "encrypted");
    char qcow[512] = "QFI\xfb\0\0\0\1";
    qcow[39] = 1;
    write_file(path, qcow, sizeof qcow);
    assert_refused(path, IMAGE_FORMAT_QCOW, EOPNOTSUPP, "encrypted");
}

static void tables_of_absurd_size_are_refused(void **state)
{
    /* A disk of 512 TiB in 4 KiB: all its blocks are unallocated, says a table that is not even there. */
    const char *path = in_source("huge.vdi");
    assert_int_equal(shell("qemu-img create -q -f vdi %s 1M", path), 0);
    uint32_t blocks = htole32(0x1fffff80);
    uint64_t size = htole64((uint64_t)0x1fffff80 << 20);
    cleanup_close int fd = open(path, O_RDWR | O_CLOEXEC);
    assert_int_equal(pwrite(fd, &size, sizeof size, 368), sizeof size);
    assert_int_equal(pwrite(fd, &blocks, sizeof blocks, 384), sizeof blocks);
    assert_refused(path, IMAGE_FORMAT_VDI, EIO, "Cannot allocate memory");
}

static void a_vhdx_with_a_parent_is_refused(void **state)
{
    cleanup_free char *path = strdup(in_source("child.vhdx"));
    assert_int_equal(shell("qemu-img create -q -f vhdx %s 4M", path), 0);
    size_t length;
    cleanup_free char *bytes = read_file(path, &length);
    /* The item "file parameters" of the metadata table: block size, then flags, bit 1 of which is the parent
     * (Microsoft, "VHDX Format Specification", 2.6.2.1). */
    static const uint8_t item[16] = {0x37, 0x67, 0xa1, 0xca, 0x36, 0xfa, 0x43, 0x4d,
                                     0xb3, 0xb6, 0x33, 0xf0, 0xaa, 0x44, 0xe7, 0x6b};
    char *table = memmem(bytes, length, "metadata", 8);
    assert_non_null(table);
    char *entry = memmem(table, 4096, item, sizeof item);
    assert_non_null(entry);
    table[load_le32(entry + 16) + 4] |= 2;
    write_file(path, bytes, length);
    assert_refused(path, IMAGE_FORMAT_VHDX, EIO, "qemu-nbd ended");
}

/* ---- a helper that fails ---- */

static struct nbd_helper *start_helper(const char *name, int stall_ms, int *fd)
{
    static struct nbd_helper_spec spec;
    cleanup_free char *path = strdup(in_source(name));
    assert_int_equal(
        shell("qemu-img create -q -f vdi %s 4M && qemu-io -f vdi -c 'write -P 9 1M 1M' %s >%s/io", path, path,
              folder),
        0);
    *fd = open(path, O_RDONLY | O_CLOEXEC);
    spec = (struct nbd_helper_spec){
        .path = "the image",
        .graph = "{\"driver\":\"vdi\",\"file\":{\"driver\":\"file\",\"filename\":\"/proc/self/fd/4\"}}",
        .fds = fd,
        .fd_count = 1,
        .stall_ms = stall_ms};
    struct nbd_helper *helper;
    struct error err = {0};
    if (nbd_helper_new(&spec, &helper, &err) < 0)
        fail_msg("%s", err.text);
    return helper;
}

static void a_helper_that_was_killed_is_started_again(void **state)
{
    cleanup_close int fd = -1;
    struct nbd_helper *helper = start_helper("killed.vdi", 30000, &fd);
    char byte = 0;
    pid_t before = helper_pid();
    kill(before, SIGKILL);
    assert_int_equal(nbd_helper_read(helper, MIB, &byte, 1), 0);
    assert_int_equal(byte, 9);
    assert_int_not_equal(helper_pid(), before);
    assert_true(log_has("the image: qemu-nbd is gone"));
    nbd_helper_free(helper);
    assert_nothing_is_left();
}

static void a_helper_that_hangs_is_ended_and_a_later_read_works(void **state)
{
    cleanup_close int fd = -1;
    struct nbd_helper *helper = start_helper("hangs.vdi", STALL_MS, &fd);
    char byte = 0;
    pid_t before = helper_pid();
    kill(before, SIGSTOP);
    assert_int_equal(nbd_helper_read(helper, MIB, &byte, 1), -EIO);
    assert_true(log_has("the image: qemu-nbd made no progress for " STRING(STALL_MS) " ms and is ended"));
    assert_int_equal(kill(before, 0), -1);
    assert_int_equal(nbd_helper_read(helper, MIB, &byte, 1), 0);
    assert_int_equal(byte, 9);
    nbd_helper_free(helper);
    assert_nothing_is_left();
}

/* This program, under the name of qemu-nbd: it takes the connections and never says a word on them. */
static int be_a_mute_helper(void)
{
    fputs("I will not answer\n", stderr);
    while (pause() < 0)
        ;
    return 1;
}

static void a_helper_that_never_answers_is_given_up(void **state)
{
    cleanup_free char *path = strdup(getenv("PATH"));
    char fake[128], self[4096] = "";
    assert_true(readlink("/proc/self/exe", self, sizeof self - 1) > 0);
    snprintf(fake, sizeof fake, "%s/fake", folder);
    mkdir(fake, 0755);
    assert_int_equal(shell("cp %s %s/qemu-nbd", self, fake), 0);
    setenv("PATH", fake, 1);
    cleanup_close int fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
    struct nbd_helper_spec spec = {
        .path = "the image", .graph = "{}", .fds = &fd, .fd_count = 1, .stall_ms = STALL_MS};
    struct nbd_helper *helper;
    struct error err = {0};
    assert_int_equal(nbd_helper_new(&spec, &helper, &err), -ETIMEDOUT);
    assert_string_equal(err.text,
                        "qemu-nbd gave no answer within " STRING(STALL_MS) " ms: I will not answer");
    assert_int_equal(unlink(strcat(fake, "/qemu-nbd")), 0);
    assert_int_equal(nbd_helper_new(&spec, &helper, &err), -EOPNOTSUPP);
    assert_string_equal(err.text, "qemu-nbd is not installed (package qemu-utils)");
    setenv("PATH", path, 1);
    assert_nothing_is_left();
}

/* ---- */

static int set_up(void **state)
{
    struct error err;
    if (!mkdtemp(folder))
        return -1;
    setenv("XDG_RUNTIME_DIR", folder, 1); /* where sockets have their names for a moment */
    snprintf(source, sizeof source, "%s/source", folder);
    snprintf(outside, sizeof outside, "%s/secret", folder);
    char secret[512] = SECRET;
    mkdir(source, 0700);
    write_file(outside, secret, sizeof secret);
    const char *given = getenv("VMSNAPFS_SEED");
    seed = given ? (unsigned)strtoul(given, NULL, 10) : (unsigned)getpid();
    print_message("VMSNAPFS_SEED=%u\n", seed);
    return locate_new(source, NULL, 0, IMAGE_FORMAT_UNKNOWN, &locate, &err);
}

static int tear_down(void **state)
{
    locate_free(locate);
    return shell("rm -rf %s", folder);
}

int main(int argc, char **argv)
{
    if (strcmp(basename(argv[0]), "qemu-nbd") == 0)
        return be_a_mute_helper();
    if (shell("qemu-nbd --version >/dev/null 2>&1 && qemu-img --version >/dev/null 2>&1") != 0)
        return 77;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_format_reads_as_qemu_img_reads_it),
        cmocka_unit_test(a_sparse_image_tells_its_zeros),
        cmocka_unit_test(many_threads_read_at_once),
        cmocka_unit_test(a_delta_reads_through_its_parents),
        cmocka_unit_test(a_change_of_the_image_is_found_out),
        cmocka_unit_test(a_frozen_image_that_someone_writes_to_is_refused),
        cmocka_unit_test(without_us_a_hostile_image_would_be_read),
        cmocka_unit_test(extents_outside_the_allowed_directories_are_refused),
        cmocka_unit_test(extents_that_are_no_plain_files_are_refused),
        cmocka_unit_test(parents_outside_are_refused_too),
        cmocka_unit_test(a_descriptor_inside_a_sparse_extent_names_nothing),
        cmocka_unit_test(even_an_unchecked_name_is_out_of_reach),
        cmocka_unit_test(backing_files_of_other_formats_are_refused),
        cmocka_unit_test(what_is_no_image_or_encrypted_says_so),
        cmocka_unit_test(tables_of_absurd_size_are_refused),
        cmocka_unit_test(a_vhdx_with_a_parent_is_refused),
        cmocka_unit_test(a_helper_that_was_killed_is_started_again),
        cmocka_unit_test(a_helper_that_hangs_is_ended_and_a_later_read_works),
        cmocka_unit_test(a_helper_that_never_answers_is_given_up),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
