// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * overlay_name.h and overlay_file.h: names, access as that of the layer below, and that files which are there
 * stay as they are, whatever fails. Skips (77) where there is no QEMU.
 */
#include "qemu_folder.h"

#include <endian.h>
#include <sys/stat.h>
#include <sys/xattr.h>

#include "image/overlay_file.h"
#include "image/overlay_name.h"

/* ---- names ---- */

static void assert_named(const char *below, const char *snapshot, const char *expected)
{
    char name[OVERLAY_NAME_SIZE];
    must(overlay_name_choose(folder_fd, below, snapshot, 7, NULL, 0, name, &why));
    assert_string_equal(name, expected);
}

static void test_names(void **state)
{
    assert_named("web1.qcow2", "upgrade", "web1.upgrade");
    assert_named("web1.upgrade", "v1.0", "web1.v1.0");
    assert_named("web1.upgrade~6", "x", "web1.x");
    assert_named("web1", "x", "web1.x");
    assert_named("web1.old.img", "x", "web1.old.x");
    assert_named(".web1", "x", ".web1.x");
    /* Endings with a meaning, and those that are none. */
    assert_named("web1.qcow2", "qcow2", "web1.qcow2~7");
    assert_named("web1.qcow2", "a.json", "web1.a.json~7");
    assert_named("web1.qcow2", "XML.xml", "web1.XML.xml~7");
    assert_named("web1.qcow2", "IMG", "web1.IMG~7");
    assert_named("web1.qcow2", "dot.", "web1.dot.~7");
    /* What is not plain. */
    assert_named("web1.qcow2", "before the update", "web1.before_the_update~7");
    assert_named("web1.qcow2", "\xc3\xbc\xc3\xa4x", "web1._x~7");
    assert_named("web1.qcow2", "a~b", "web1.a_b~7");
    assert_named("my disk.qcow2", "x", "my disk.x");

    /* What is there, or is to be there. */
    run("rm -f web1.* && touch web1.taken 'web1.both~7' web1.both && ln -s nowhere web1.link");
    assert_named("web1.qcow2", "taken", "web1.taken~7");
    assert_named("web1.qcow2", "both", "web1.both~7-1");
    assert_named("web1.qcow2", "link", "web1.link~7");
    const char *const taken[] = {"web1.new", "web1.new~7", "web1.new~7-1"};
    char name[OVERLAY_NAME_SIZE];
    must(overlay_name_choose(folder_fd, "web1.img", "new", 7, taken, 3, name, &why));
    assert_string_equal(name, "web1.new~7-2");
    int file = open_image_file("web1.taken", O_RDONLY);
    must_fail(overlay_name_choose(file, "web1.img", "new", 7, NULL, 0, name, &why), ENOTDIR);
    close(file);
}

static void test_long_names(void **state)
{
    char below[256], snapshot[256], name[OVERLAY_NAME_SIZE];
    for (size_t stem = 150; stem < 256; stem++)
        for (size_t length = 1; length < 256; length += 9) {
            /* Characters of two bytes, so that a cut can come into the middle of one. */
            size_t used = stem % 2;
            memset(below, 'x', used);
            for (; used < stem; used += 2)
                memcpy(below + used, "\xc3\xbc", 2);
            below[used] = '\0';
            memset(snapshot, 's', length);
            snapshot[length] = '\0';
            must(overlay_name_choose(folder_fd, below, snapshot, UINT64_MAX, NULL, 0, name, &why));
            used = strlen(name);
            bool fits = strlen(below) + 1 + length <= OVERLAY_NAME_BYTES_MAX;
            assert_true(used <= OVERLAY_NAME_BYTES_MAX + 21);
            assert_int_equal(fits, strchr(name, '~') == NULL);
            const char *dot = strrchr(name, '.');
            assert_non_null(dot);
            assert_int_not_equal((unsigned char)dot[-1], 0xc3); /* the beginning of a character */
            assert_int_equal(strncmp(name, below, (size_t)(dot - name)), 0);
        }
}

/* ---- access ---- */

struct acl_entry {
    uint16_t tag, permissions;
    uint32_t id;
};

/* As Linux stores ACLs (include/uapi/linux/posix_acl_xattr.h): the owner, user 4242, group, mask, others. */
static void set_acl(const char *path, const char *key, uint16_t mask)
{
    struct {
        uint32_t version;
        struct acl_entry entries[5];
    } acl = {htole32(2),
             {{htole16(1), htole16(4), htole32(UINT32_MAX)},
              {htole16(2), htole16(6), htole32(4242)},
              {htole16(4), htole16(0), htole32(UINT32_MAX)},
              {htole16(16), htole16(mask), htole32(UINT32_MAX)},
              {htole16(32), htole16(0), htole32(UINT32_MAX)}}};
    assert_int_equal(setxattr(path, key, &acl, sizeof acl, 0), 0);
}

static int reserve(const char *below)
{
    int fd = -1, layer = open_image_file(below, O_RDONLY);
    must(overlay_file_reserve(folder_fd, ".t", layer, below, &fd, &why));
    close(layer);
    return fd;
}

static void assert_access(int fd, uid_t uid, gid_t gid, mode_t mode)
{
    struct stat stat;
    assert_int_equal(fstat(fd, &stat), 0);
    assert_int_equal(stat.st_uid, uid);
    assert_int_equal(stat.st_gid, gid);
    assert_int_equal(stat.st_mode & 07777, mode);
    assert_int_equal(stat.st_size, 0);
}

static void test_access_is_copied(void **state)
{
    run("rm -f layer .t; echo content >layer && chmod 4440 layer");
    if (geteuid() == 0)
        run("chown 12345:23456 layer");
    uid_t uid = geteuid() == 0 ? 12345 : geteuid();
    gid_t gid = geteuid() == 0 ? 23456 : getegid();
    int fd = reserve("layer");
    assert_access(fd, uid, gid, 0640);
    close(fd);
    int layer = open_image_file("layer", O_RDONLY);
    fd = -1;
    must_fail(overlay_file_reserve(folder_fd, ".t", layer, "layer", &fd, &why), EEXIST);
    close(layer);
    assert_int_equal(fd, -1);
    run("rm .t && test \"$(cat layer)\" = content");
}

static void test_acl_and_labels_are_copied(void **state)
{
    if (geteuid() != 0)
        skip();
    run("rm -f layer .t; touch layer && chmod 600 layer");
    set_acl(in_folder("layer"), "system.posix_acl_access", 6);
    assert_int_equal(setxattr(in_folder("layer"), "security.selinux", "label", 6, 0), 0);
    assert_int_equal(setxattr(in_folder("layer"), "security.vmsnapfs-test", "x", 1, 0), 0);
    assert_int_equal(setxattr(in_folder("layer"), "security.ima", "\1signature", 10, 0), 0);
    int fd = reserve("layer");
    char expected[256], value[256];
    ssize_t size = getxattr(in_folder("layer"), "system.posix_acl_access", expected, sizeof expected);
    assert_true(size > 0);
    assert_int_equal(fgetxattr(fd, "system.posix_acl_access", value, sizeof value), size);
    expected[6] = 6; /* but that it may be written to by its owner */
    assert_memory_equal(value, expected, (size_t)size);
    assert_int_equal(fgetxattr(fd, "security.selinux", value, sizeof value), 6);
    assert_memory_equal(value, "label", 6);
    assert_int_equal(fgetxattr(fd, "security.vmsnapfs-test", value, sizeof value), 1);
    assert_int_equal(fgetxattr(fd, "security.ima", value, sizeof value), -1);
    close(fd);

    /* What the directory gives to new files is not the layer's. */
    run("rm -f layer .t; touch layer && chmod 604 layer");
    set_acl(folder, "system.posix_acl_default", 6);
    fd = reserve("layer");
    assert_access(fd, geteuid(), getegid(), 0604);
    assert_int_equal(fgetxattr(fd, "system.posix_acl_access", value, sizeof value), -1);
    assert_int_equal(errno, ENODATA);
    close(fd);
    assert_int_equal(removexattr(folder, "system.posix_acl_default"), 0);
    run("rm .t");
}

/* Files on which nothing but owner and mode can be set. */
static void test_access_of_a_device(void **state)
{
    if (geteuid() != 0 ||
        status_of("rm -f device; mknod device b 7 250 && chown 11:22 device && chmod 660 device"))
        skip();
    int layer = open(in_folder("device"), O_PATH | O_CLOEXEC), fd = -1;
    must(overlay_file_reserve(folder_fd, ".t", layer, "device", &fd, &why));
    assert_access(fd, 11, 22, 0660);
    close(fd);
    close(layer);
    run("rm .t");
}

/* ---- overlays ---- */

static char backing_names[2][128];

static void prepare(struct overlay_file files[2])
{
    static const char *const finals[] = {"d0.new", "d1.new"}, *const temporaries[] = {".t0", ".t1"};
    run("rm -f d? .t? d?.new; for i in 0 1; do qemu-img create -q -f qcow2 d$i 16M && "
        "qemu-io -c \"write -P 1$i 0 9M\" d$i; done; chmod 640 d1 && qemu-img convert -O raw d1 want");
    for (int i = 0; i < 2; i++) {
        char name[] = {'d', (char)('0' + i), '\0'};
        snprintf(backing_names[i], sizeof backing_names[i], "%s", in_folder(name));
        files[i] = (struct overlay_file){.directory = folder_fd,
                                         .temporary_name = temporaries[i],
                                         .final_name = finals[i],
                                         .below = open_image_file(name, O_RDONLY),
                                         .backing_name = backing_names[i],
                                         .backing_format = "qcow2",
                                         .size_bytes = 16 << 20,
                                         .fd = -1};
    }
}

static void finish(struct overlay_file files[2])
{
    overlay_files_close(files, 2);
    close(files[0].below);
    close(files[1].below);
}

static void test_overlays_are_made_and_published(void **state)
{
    struct overlay_file files[2];
    prepare(files);
    must(overlay_files_make(files, 2, &why));
    run("test -s .t0 -a -s .t1 -a ! -e d0.new -a ! -e d1.new");
    must(overlay_files_publish(files, 2, &why));
    run("test ! -e .t0 -a ! -e .t1 && test $(stat -c %%a d1.new) = 640");
    assert_undamaged("d0.new");
    assert_undamaged("d1.new");
    assert_reads_as("d1.new", "qcow2", "want");
    struct stat stat;
    assert_int_equal(fstatat(folder_fd, "d1.new", &stat, 0), 0);
    assert_int_equal(stat.st_ino, files[1].mark.inode);
    assert_int_equal(stat.st_dev, files[1].mark.device);

    /* Taken back: once, and again. */
    run("mv d0.new kept && echo other >d0.new");
    for (int i = 0; i < 2; i++)
        for (int j = 0; j < 2; j++)
            must(overlay_file_undo(folder_fd, files[i].temporary_name, files[i].final_name, &files[i].mark,
                                   &why));
    run("test ! -e d1.new && grep -q other d0.new");
    finish(files);
}

static void test_nothing_is_left_of_what_fails(void **state)
{
    struct overlay_file files[2];
    prepare(files);
    files[1].size_bytes++;
    must_fail(overlay_files_make(files, 2, &why), EINVAL);
    assert_non_null(strstr(why.text, "d1.new"));
    run("test ! -e .t0 -a ! -e .t1");
    files[1].size_bytes--;
    run("echo other >.t1");
    must_fail(overlay_files_make(files, 2, &why), EEXIST);
    run("test ! -e .t0 && grep -q other .t1 && rm .t1");
    must(overlay_files_make(files, 2, &why));
    run("echo other >d1.new");
    must_fail(overlay_files_publish(files, 2, &why), EEXIST);
    run("test ! -e .t0 -a ! -e .t1 -a ! -e d0.new && grep -q other d1.new");
    finish(files);
}

/* All that a kill can leave: the temporary file, the final one, both where there is no atomic rename. */
static void test_undo_of_what_was_killed(void **state)
{
    static const char *const left[] = {"true", "mv .t1 d1.new", "ln .t1 d1.new", "rm .t1", ">.t1"};
    for (size_t i = 0; i < sizeof left / sizeof *left; i++) {
        struct overlay_file files[2];
        prepare(files);
        must(overlay_files_make(files, 2, &why));
        run("%s", left[i]);
        for (int j = 0; j < 2; j++)
            must(overlay_file_undo(folder_fd, files[j].temporary_name, files[j].final_name, &files[j].mark,
                                   &why));
        run("test ! -e .t0 -a ! -e .t1 -a ! -e d0.new -a ! -e d1.new");
        finish(files);
    }
}

/* The machine was off in between: devices have other numbers, and others' files may have the same inode
 * number. */
static void test_undo_after_a_boot(void **state)
{
    struct overlay_file files[2];
    prepare(files);
    must(overlay_files_make(files, 2, &why));
    must(overlay_files_publish(files, 2, &why));
    const struct overlay_file *file = &files[0];
    if (!file->mark.made_ns)
        print_message("the file system does not tell when a file was made\n");
    struct new_file_mark other = file->mark;
    other.made_ns += 1;
    other.device += file->mark.made_ns == 0;
    must(overlay_file_undo(folder_fd, file->temporary_name, file->final_name, &other, &why));
    run("test -e d0.new");
    other = file->mark;
    other.inode += 1;
    must(overlay_file_undo(folder_fd, file->temporary_name, file->final_name, &other, &why));
    run("test -e d0.new");
    other = file->mark;
    other.device += file->mark.made_ns != 0;
    must(overlay_file_undo(folder_fd, file->temporary_name, file->final_name, &other, &why));
    run("test ! -e d0.new -a -e d1.new && rm d1.new");
    finish(files);
}

int main(void)
{
    int rc = folder_make();
    if (rc)
        return rc;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_names),
        cmocka_unit_test(test_long_names),
        cmocka_unit_test(test_access_is_copied),
        cmocka_unit_test(test_acl_and_labels_are_copied),
        cmocka_unit_test(test_access_of_a_device),
        cmocka_unit_test(test_overlays_are_made_and_published),
        cmocka_unit_test(test_nothing_is_left_of_what_fails),
        cmocka_unit_test(test_undo_of_what_was_killed),
        cmocka_unit_test(test_undo_after_a_boot),
    };
    return cmocka_run_group_tests(tests, folder_open, folder_close_and_remove);
}
