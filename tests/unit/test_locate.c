// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Which files may be opened as images: real directories with links, special files, and names that lead out.
 *
 *     top/real/src        the source, with images; top/link -> top/real is another way there
 *     top/allowed         an allowed directory
 *     top/outside         what must never be read; top/outside/secret
 */
#include "unit.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "image/locate.h"

static char top[256];
static struct locate *locate;

/* "top/..." as an absolute path; one of many buffers, used in turn. */
__attribute__((format(printf, 1, 2))) static char *at(const char *format, ...)
{
    static char buffers[64][1024];
    static unsigned turn;
    char *buffer = buffers[turn++ % 64];
    size_t used = (size_t)snprintf(buffer, sizeof buffers[0], "%s/", top);
    va_list args;
    va_start(args, format);
    vsnprintf(buffer + used, sizeof buffers[0] - used, format, args);
    va_end(args);
    return buffer;
}

static void write_file(const char *path, const char *content)
{
    cleanup_close int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, content, strlen(content)), strlen(content));
}

static void link_to(const char *target, const char *path)
{
    if (symlink(target, path) < 0)
        fail_msg("symlink %s: %s", path, strerror(errno));
}

static int set_up(void **state)
{
    const char *tmp = getenv("TMPDIR");
    char name[200];
    snprintf(name, sizeof name, "%s/vmsnapfs-locate-XXXXXX", tmp ? tmp : "/tmp");
    if (!mkdtemp(name) || !realpath(name, top))
        return -1;
    for (const char *const *directory = (const char *const[]){"real", "real/src", "real/src/sub",
                                                              "real/other", "allowed", "outside", NULL};
         *directory; directory++)
        if (mkdir(at("%s", *directory), 0700) < 0)
            return -1;
    write_file(at("real/src/base.qcow2"), "base");
    write_file(at("real/src/sub/deep.qcow2"), "deep");
    write_file(at("allowed/gold.qcow2"), "gold");
    write_file(at("outside/secret"), "secret");
    write_file(at("real/other/near"), "secret");
    link_to("real", at("link"));
    char *const allowed[] = {at("allowed")};
    struct error err = {0};
    if (locate_new(at("link/src"), allowed, 1, IMAGE_FORMAT_UNKNOWN, &locate, &err) < 0) {
        print_error("%s\n", err.text);
        return -1;
    }
    return 0;
}

static int tear_down(void **state)
{
    locate_free(locate);
    char command[300];
    snprintf(command, sizeof command, "rm -rf '%s'", top);
    return system(command);
}

/* The first bytes of what `path` opens as; fails the test where it does not open. */
static const char *content_of(const struct locate *here, char *const *named, const char *path)
{
    static char buffer[16];
    struct error err = {0};
    cleanup_close int fd = -1;
    if (locate_open(here, named, path, &fd, &err) < 0)
        fail_msg("%s: %s", path, err.text);
    ssize_t length = read(fd, buffer, sizeof buffer - 1);
    assert_true(length >= 0);
    buffer[length] = '\0';
    assert_int_equal(fcntl(fd, F_GETFD), FD_CLOEXEC);
    assert_int_equal(fcntl(fd, F_GETFL) & (O_ACCMODE | O_NONBLOCK), O_RDONLY);
    return buffer;
}

static void refused(char *const *named, const char *path, int rc, const char *said)
{
    struct error err = {0};
    int fd = -7;
    int got = locate_open(locate, named, path, &fd, &err);
    if (got != rc)
        fail_msg("%s: %d (%s), not %d", path, got, err.text, rc);
    assert_int_equal(fd, -7);
    assert_int_equal(err.code, -rc);
    if (!strstr(err.text, said))
        fail_msg("%s: \"%s\" does not say \"%s\"", path, err.text, said);
}

static void files_inside_open_by_either_spelling(void **state)
{
    assert_string_equal(content_of(locate, NULL, at("link/src/base.qcow2")), "base");
    assert_string_equal(content_of(locate, NULL, at("real/src/base.qcow2")), "base");
    assert_string_equal(content_of(locate, NULL, at("link//src/./sub//deep.qcow2")), "deep");
    assert_string_equal(content_of(locate, NULL, at("allowed/gold.qcow2")), "gold");
    assert_string_equal(locate_source(locate), at("real/src"));
    assert_string_equal(locate_roots(locate)[1], at("allowed"));
    assert_null(locate_roots(locate)[2]);
}

static void dots_are_followed_while_they_stay_inside(void **state)
{
    assert_string_equal(content_of(locate, NULL, at("real/src/sub/../base.qcow2")), "base");
    assert_string_equal(content_of(locate, NULL, at("link/src/../src/base.qcow2")), "base");
    /* From one root into another one. */
    assert_string_equal(content_of(locate, NULL, at("real/src/../../allowed/gold.qcow2")), "gold");
    refused(NULL, at("real/src/../other/near"), -EPERM, "-o allow=");
    refused(NULL, at("real/src/../../outside/secret"), -EPERM, at("outside"));
    refused(NULL, at("real/src/../../../../../../../../etc/passwd"), -EPERM, "-o allow=/etc");
    refused(NULL, "/etc/passwd", -EPERM, "-o allow=/etc");
    refused(NULL, at("outside/secret"), -EPERM, "outside");
    /* A name that only begins like a root. */
    refused(NULL, at("allowed2/gold.qcow2"), -EPERM, "allowed2");
    refused(NULL, at("real/src2"), -EPERM, "-o allow=");
    refused(NULL, "base.qcow2", -EINVAL, "absolute");
}

static void links_are_followed_while_they_stay_inside(void **state)
{
    link_to("base.qcow2", at("real/src/relative"));
    link_to("../base.qcow2", at("real/src/sub/up"));
    link_to(at("real/src/base.qcow2"), at("real/src/absolute"));
    link_to(at("link/src/base.qcow2"), at("real/src/by-the-link"));
    link_to(at("allowed/gold.qcow2"), at("real/src/to-allowed"));
    link_to("../../allowed", at("real/src/to-allowed-dir"));
    link_to("relative", at("real/src/twice"));
    assert_string_equal(content_of(locate, NULL, at("real/src/relative")), "base");
    assert_string_equal(content_of(locate, NULL, at("real/src/sub/up")), "base");
    assert_string_equal(content_of(locate, NULL, at("real/src/absolute")), "base");
    assert_string_equal(content_of(locate, NULL, at("real/src/by-the-link")), "base");
    assert_string_equal(content_of(locate, NULL, at("real/src/to-allowed")), "gold");
    assert_string_equal(content_of(locate, NULL, at("real/src/to-allowed-dir/gold.qcow2")), "gold");
    assert_string_equal(content_of(locate, NULL, at("real/src/twice")), "base");
    /* `..` after a link goes up from where the link leads, as in the kernel. */
    assert_string_equal(content_of(locate, NULL, at("real/src/to-allowed-dir/../real/src/base.qcow2")),
                        "base");
    refused(NULL, at("real/src/to-allowed-dir/../base.qcow2"), -EPERM, "-o allow=");
}

static void links_that_lead_out_are_not_followed(void **state)
{
    link_to(at("outside/secret"), at("real/src/out"));
    link_to("../../outside/secret", at("real/src/out-relative"));
    link_to(at("outside"), at("real/src/out-dir"));
    link_to("out", at("real/src/out-twice"));
    link_to("self", at("real/src/self"));
    link_to(at("outside/nothing"), at("real/src/out-nothing"));
    link_to("nothing", at("real/src/dangling"));
    link_to(at("real/src/base.qcow2"), at("outside/back"));
    refused(NULL, at("real/src/out"), -EPERM, at("outside"));
    refused(NULL, at("real/src/out-relative"), -EPERM, at("outside"));
    refused(NULL, at("real/src/out-dir/secret"), -EPERM, at("outside"));
    refused(NULL, at("real/src/out-twice"), -EPERM, at("outside"));
    refused(NULL, at("real/src/self"), -ELOOP, "self");
    refused(NULL, at("real/src/dangling"), -ENOENT, "dangling");
    /* Whether something exists out there is not told, and nothing there is walked through. */
    refused(NULL, at("real/src/out-nothing"), -EPERM, at("outside"));
    refused(NULL, at("outside/nothing"), -EPERM, at("outside"));
    refused(NULL, at("outside/back"), -EPERM, at("outside"));
    refused(NULL, at("nowhere/at/all"), -EPERM, "-o allow=");
}

static void magic_links_are_not_followed(void **state)
{
    cleanup_close int fd = open(at("outside/secret"), O_RDONLY | O_CLOEXEC);
    assert_true(fd >= 0);
    char magic[64];
    snprintf(magic, sizeof magic, "/proc/self/fd/%d", fd);
    link_to(magic, at("real/src/magic"));
    link_to("/proc/self/root", at("real/src/magic-dir"));
    refused(NULL, magic, -EPERM, "-o allow=");
    refused(NULL, at("real/src/magic"), -EPERM, "-o allow=");
    refused(NULL, at("real/src/magic-dir/etc/passwd"), -EPERM, "-o allow=");
    char *const named[] = {magic, NULL};
    refused(named, magic, -ELOOP, magic);
}

static void only_files_are_images(void **state)
{
    assert_int_equal(mkfifo(at("real/src/fifo"), 0600), 0);
    cleanup_close int listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    snprintf(address.sun_path, sizeof address.sun_path, "%.100s", at("real/src/socket"));
    assert_int_equal(bind(listener, (struct sockaddr *)&address, sizeof address), 0);
    refused(NULL, at("real/src/fifo"), -EINVAL, "FIFO");
    refused(NULL, at("real/src/socket"), -EINVAL, "socket");
    refused(NULL, at("real/src/sub"), -EINVAL, "directory");
    refused(NULL, at("real/src"), -EINVAL, "directory");
    refused(NULL, at("real/src/nothing"), -ENOENT, "nothing");
    refused(NULL, at("real/src/nothing/at/all"), -ENOENT, "nothing");
    refused(NULL, at("real/src/base.qcow2/more"), -ENOTDIR, "more");
    char *const named[] = {(char *)"/dev/null", at("real/src/fifo"), NULL};
    refused(named, "/dev/null", -EINVAL, "character device");
    refused(named, at("real/src/fifo"), -EINVAL, "FIFO");
    refused(NULL, "/dev/null", -EPERM, "-o allow=/dev");
}

static void block_devices_are_opened_only_where_named(void **state)
{
    /* A number that no driver has: it can't be opened, but that is found out only after it was let through.
     */
    const char *device = at("real/src/device");
    if (mknod(device, S_IFBLK | 0600, makedev(240, 77)) < 0)
        skip();
    refused(NULL, device, -EPERM, "definition");
    char *const named[] = {(char *)device, NULL};
    struct error err = {0};
    int fd = -1;
    assert_int_not_equal(locate_open(locate, named, device, &fd, &err), -EPERM);
    assert_null(strstr(err.text, "definition"));
}

static void named_files_open_wherever_they_lie(void **state)
{
    link_to("secret", at("outside/to-secret"));
    char *const named[] = {at("outside/secret"), at("outside/to-secret"), at("outside/gone"), NULL};
    assert_string_equal(content_of(locate, named, at("outside/secret")), "secret");
    assert_string_equal(content_of(locate, named, at("outside/./secret")), "secret");
    assert_string_equal(content_of(locate, named, at("outside/to-secret")), "secret");
    assert_string_equal(content_of(locate, named, at("real/src/base.qcow2")), "base");
    refused(named, at("outside/gone"), -ENOENT, "gone");
    refused(named, at("outside/secret2"), -EPERM, "-o allow=");
    refused(named, at("outside"), -EPERM, "-o allow=");
}

static void names_that_are_too_long_are_refused(void **state)
{
    char path[8192];
    strcpy(path, at("real/src/"));
    while (strlen(path) < 5000)
        strcat(path, "sub/../");
    refused(NULL, path, -ENAMETOOLONG, "long");
    memset(path + strlen(at("real/src/")), 'x', 300);
    path[strlen(at("real/src/")) + 300] = '\0';
    refused(NULL, path, -ENAMETOOLONG, "long");
    /* Links whose targets add up to more than a path can be. */
    char target[3000] = "";
    while (strlen(target) < 2900)
        strcat(target, "./");
    strcat(target, "grow");
    link_to(target, at("real/src/grow"));
    strcpy(path, at("real/src/grow/"));
    while (strlen(path) < 2000)
        strcat(path, "y/");
    refused(NULL, path, -ENAMETOOLONG, "long");
}

static void the_mount_point_is_never_opened(void **state)
{
    struct locate *here = NULL;
    struct error err = {0};
    assert_int_equal(mkdir(at("real/src/mnt"), 0700), 0);
    write_file(at("real/src/mnt/disk"), "mine");
    link_to("mnt/disk", at("real/src/to-mnt"));
    assert_int_equal(locate_new(at("real/src"), NULL, 0, IMAGE_FORMAT_UNKNOWN, &here, &err), 0);
    assert_string_equal(content_of(here, NULL, at("real/src/mnt/disk")), "mine");
    assert_int_equal(locate_exclude(here, at("link/src/mnt"), &err), 0);
    int fd = -1;
    char *const named[] = {at("real/src/mnt/disk"), NULL};
    assert_int_equal(locate_open(here, NULL, at("real/src/mnt/disk"), &fd, &err), -EPERM);
    assert_non_null(strstr(err.text, "mount point"));
    assert_int_equal(locate_open(here, NULL, at("real/src/to-mnt"), &fd, &err), -EPERM);
    assert_int_equal(locate_open(here, NULL, at("real/src/mnt/../mnt/x"), &fd, &err), -EPERM);
    assert_int_equal(locate_open(here, named, at("real/src/mnt/disk"), &fd, &err), -EPERM);
    assert_string_equal(content_of(here, NULL, at("real/src/base.qcow2")), "base");
    assert_int_equal(locate_exclude(here, at("real/src/none"), &err), -ENOENT);
    locate_free(here);
}

static void what_is_kept_out_is_never_opened(void **state)
{
    struct locate *here = NULL;
    struct error err = {0};
    assert_int_equal(mkdir(at("real/src/ours"), 0700), 0);
    assert_int_equal(mkdir(at("real/src/ours/below"), 0700), 0);
    assert_int_equal(mkdir(at("allowed/.vmsnapfs"), 0700), 0);
    write_file(at("real/src/ours/state"), "mine");
    write_file(at("real/src/ours/below/state"), "mine");
    write_file(at("allowed/.vmsnapfs/1.json"), "somebody's");
    write_file(at("allowed/.vmsnapfs/version"), "1");
    assert_int_equal(mkdir(at("real/src/.vmsnapfs"), 0700), 0);
    write_file(at("real/src/.vmsnapfs/disk"), "no store");
    link_to("ours/below/state", at("real/src/to-state"));
    link_to("ours/below", at("real/src/to-below"));
    char *const allowed[] = {at("allowed")};
    assert_int_equal(locate_new(at("real/src"), allowed, 1, IMAGE_FORMAT_UNKNOWN, &here, &err), 0);
    assert_string_equal(content_of(here, NULL, at("real/src/to-state")), "mine");
    assert_int_equal(locate_keep_out(here, at("link/src/ours"), &err), 0);
    assert_int_equal(locate_keep_out(here, at("link/src/none"), &err), 0);
    const char *const paths[] = {"real/src/ours/state",       "real/src/ours/below/state",
                                 "link/src/ours/below/state", "real/src/to-state",
                                 "real/src/to-below/state",   "real/src/sub/../ours/state",
                                 "allowed/.vmsnapfs/1.json"};
    for (size_t i = 0; i < sizeof paths / sizeof *paths; i++) {
        int fd = -1;
        char *const named[] = {at("%s", paths[i]), NULL};
        assert_int_equal(locate_open(here, NULL, named[0], &fd, &err), -EPERM);
        assert_non_null(strstr(err.text, ".vmsnapfs"));
        assert_int_equal(locate_open(here, named, named[0], &fd, &err), -EPERM);
        assert_non_null(strstr(err.text, ".vmsnapfs"));
    }
    cleanup_close int directory = open(at("real/src/to-below"), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    cleanup_close int other = open(at("real/src/sub"), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    assert_int_equal(locate_check_kept_out(here, directory, "x", &err), -EPERM);
    assert_int_equal(locate_check_kept_out(here, other, "x", &err), 0);
    assert_string_equal(content_of(here, NULL, at("real/src/base.qcow2")), "base");
    assert_string_equal(content_of(here, NULL, at("real/src/.vmsnapfs/disk")), "no store");
    locate_free(here);
}

static void the_root_directory_can_be_the_source(void **state)
{
    struct locate *here = NULL;
    struct error err = {0};
    assert_int_equal(locate_new("/", NULL, 0, IMAGE_FORMAT_UNKNOWN, &here, &err), 0);
    assert_string_equal(content_of(here, NULL, at("outside/secret")), "secret");
    int fd = -1;
    assert_int_equal(locate_open(here, NULL, "/../../..", &fd, &err), -EINVAL);
    assert_int_equal(locate_open(here, NULL, "/nothing-here", &fd, &err), -ENOENT);
    locate_free(here);
}

static void a_relative_source_works_and_a_missing_one_does_not(void **state)
{
    struct locate *here = NULL;
    struct error err = {0};
    cleanup_close int before = open(".", O_PATH | O_DIRECTORY | O_CLOEXEC);
    assert_int_equal(chdir(top), 0);
    int rc = locate_new("link/src/", NULL, 0, IMAGE_FORMAT_UNKNOWN, &here, &err);
    assert_int_equal(fchdir(before), 0);
    assert_int_equal(rc, 0);
    assert_string_equal(content_of(here, NULL, at("link/src/base.qcow2")), "base");
    locate_free(here);

    here = NULL;
    char *const allowed[] = {at("none")};
    assert_int_equal(locate_new(at("none"), NULL, 0, IMAGE_FORMAT_UNKNOWN, &here, &err), -ENOENT);
    assert_int_equal(locate_new(at("real/src"), allowed, 1, IMAGE_FORMAT_UNKNOWN, &here, &err), -ENOENT);
    assert_int_equal(locate_new(at("real/src/base.qcow2"), NULL, 0, IMAGE_FORMAT_UNKNOWN, &here, &err),
                     -ENOTDIR);
    assert_int_equal(locate_new("", NULL, 0, IMAGE_FORMAT_UNKNOWN, &here, &err), -EINVAL);
    assert_null(here);
    locate_free(NULL);
}

static _Atomic bool stop;

static void *swap_directory_and_link(void *opaque)
{
    char directory[512], link[512];
    snprintf(directory, sizeof directory, "%s/real/src/race", top);
    snprintf(link, sizeof link, "%s/real/src/race-link", top);
    while (!stop)
        if (renameat2(AT_FDCWD, directory, AT_FDCWD, link, RENAME_EXCHANGE) < 0)
            return (void *)-1;
    return NULL;
}

static void a_race_never_leads_out(void **state)
{
    assert_int_equal(mkdir(at("real/src/race"), 0700), 0);
    write_file(at("real/src/race/secret"), "public");
    link_to(at("outside"), at("real/src/race-link"));
    pthread_t thread;
    stop = false;
    assert_int_equal(pthread_create(&thread, NULL, swap_directory_and_link, NULL), 0);
    unsigned opened = 0, refusals = 0, secrets = 0;
    char path[512];
    snprintf(path, sizeof path, "%s/real/src/race/secret", top);
    for (unsigned i = 0; i < 20000 || (i < 2000000 && (!opened || !refusals)); i++) {
        int fd = -1;
        if (locate_open(locate, NULL, path, &fd, NULL) == 0) {
            char byte = 0;
            if (read(fd, &byte, 1) != 1 || byte != 'p')
                secrets++;
            close(fd);
            opened++;
        } else {
            refusals++;
        }
    }
    stop = true;
    void *result;
    pthread_join(thread, &result);
    assert_null(result);
    assert_int_equal(secrets, 0);
    assert_true(opened > 0 && refusals > 0);
}

static void references_are_made_absolute(void **state)
{
    const struct {
        const char *image, *name, *format_name, *path;
        enum image_format format;
    } table[] = {
        {"/src/a.qcow2", "base.qcow2", "qcow2", "/src/base.qcow2", IMAGE_FORMAT_QCOW2},
        {"/src/a.qcow2", "../b/base", "raw", "/src/../b/base", IMAGE_FORMAT_RAW},
        {"/src/a.qcow2", "/b/base", "raw", "/b/base", IMAGE_FORMAT_RAW},
        {"/src/a.qcow2", "file:base", "vpc", "/src/base", IMAGE_FORMAT_VPC},
        {"/src/a.qcow2", "./a:b", "raw", "/src/./a:b", IMAGE_FORMAT_RAW},
        {"/a.qcow2", "base", "raw", "/base", IMAGE_FORMAT_RAW},
        {"/src/a.qcow2", "json:{\"driver\":\"qcow2\",\"file.filename\":\"c\"}", NULL, "/src/c",
         IMAGE_FORMAT_QCOW2},
        /* What the image says comes before the ending, and that before the option. */
        {"/src/a.qcow2", "base.img", "qcow2", "/src/base.img", IMAGE_FORMAT_QCOW2},
        {"/src/a.qcow2", "base.qcow2", NULL, "/src/base.qcow2", IMAGE_FORMAT_QCOW2},
        {"/src/a.qcow2", "base.raw", NULL, "/src/base.raw", IMAGE_FORMAT_RAW},
        {"/src/a.qcow2", "base.img", NULL, "/src/base.img", IMAGE_FORMAT_RAW},
    };
    for (unsigned with_option = 0; with_option < 2; with_option++) {
        struct locate *here = NULL;
        enum image_format option = with_option ? IMAGE_FORMAT_VMDK : IMAGE_FORMAT_UNKNOWN;
        assert_int_equal(locate_new(at("real/src"), NULL, 0, option, &here, NULL), 0);
        for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
            struct image_reference reference = {0};
            struct error err = {0};
            if (locate_reference(here, table[i].image, table[i].name, table[i].format_name, &reference,
                                 &err) < 0)
                fail_msg("%s: %s", table[i].name, err.text);
            assert_string_equal(reference.path, table[i].path);
            assert_int_equal(reference.format, table[i].format);
            image_reference_done(&reference);
        }
        struct image_reference reference = {0};
        struct error err = {0};
        int rc = locate_reference(here, "/src/a.qcow2", "web1.base", NULL, &reference, &err);
        if (with_option) {
            assert_int_equal(rc, 0);
            assert_int_equal(reference.format, IMAGE_FORMAT_VMDK);
            image_reference_done(&reference);
        } else {
            assert_int_equal(rc, -EINVAL);
            assert_non_null(strstr(err.text, "/src/a.qcow2"));
            assert_non_null(strstr(err.text, "-o backing-format=raw"));
            assert_null(reference.path);
        }
        locate_free(here);
    }
}

static void a_disk_on_the_network_is_only_where_a_definition_names_it(void **state)
{
    char nbd[] = "nbd://h/x", other[] = "nbd://h/xy", file[] = "/nbd:/h/x";
    char *const named[] = {other, nbd, NULL}, *const near[] = {other, file, NULL};
    struct error err = {0};
    assert_int_equal(locate_network(named, "nbd://h/x", &err), 0);
    assert_int_equal(locate_network(near, "nbd://h/x", &err), -EPERM);
    assert_non_null(strstr(err.text, "nbd://h/x"));
    assert_non_null(strstr(err.text, "definition"));
    assert_int_equal(locate_network(NULL, "nbd://h/x", &err), -EPERM);
    /* Its name allows no file, however it is cleaned. */
    refused(named, "/nbd:/h/x", -EPERM, "-o allow=");

    struct image_reference reference = {0};
    assert_int_equal(locate_reference(locate, "/src/a.qcow2", "nbd://h/x", NULL, &reference, &err), 0);
    assert_true(reference.network);
    assert_string_equal(reference.path, "nbd://h/x");
    assert_int_equal(reference.format, IMAGE_FORMAT_UNKNOWN);
    image_reference_done(&reference);
}

static void a_refused_reference_names_the_image(void **state)
{
    struct image_reference reference = {0};
    struct error err = {0};
    assert_int_equal(locate_reference(locate, "/src/a.qcow2", "nfs://h/x", "raw", &reference, &err),
                     -EOPNOTSUPP);
    assert_non_null(strstr(err.text, "/src/a.qcow2: "));
    assert_int_equal(locate_reference(locate, "/src/a.qcow2", "base", "rbd", &reference, &err), -EOPNOTSUPP);
    assert_non_null(strstr(err.text, "/src/a.qcow2: "));
    assert_int_equal(locate_reference(locate, "/src/a.qcow2", "base", "rbd", &reference, NULL), -EOPNOTSUPP);
    char name[5000];
    memset(name, 'n', sizeof name - 1);
    name[sizeof name - 1] = '\0';
    assert_int_equal(locate_reference(locate, "/src/a.qcow2", name, "raw", &reference, &err), -ENAMETOOLONG);
    assert_null(reference.path);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(files_inside_open_by_either_spelling),
        cmocka_unit_test(dots_are_followed_while_they_stay_inside),
        cmocka_unit_test(links_are_followed_while_they_stay_inside),
        cmocka_unit_test(links_that_lead_out_are_not_followed),
        cmocka_unit_test(magic_links_are_not_followed),
        cmocka_unit_test(only_files_are_images),
        cmocka_unit_test(block_devices_are_opened_only_where_named),
        cmocka_unit_test(named_files_open_wherever_they_lie),
        cmocka_unit_test(names_that_are_too_long_are_refused),
        cmocka_unit_test(the_mount_point_is_never_opened),
        cmocka_unit_test(what_is_kept_out_is_never_opened),
        cmocka_unit_test(the_root_directory_can_be_the_source),
        cmocka_unit_test(a_relative_source_works_and_a_missing_one_does_not),
        cmocka_unit_test(a_race_never_leads_out),
        cmocka_unit_test(references_are_made_absolute),
        cmocka_unit_test(a_disk_on_the_network_is_only_where_a_definition_names_it),
        cmocka_unit_test(a_refused_reference_names_the_image),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
