// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * mount.vmsnapfs: what mount(8) runs for `mount -t vmsnapfs` and for such lines of fstab.
 *
 * It turns mount's command line into vmsnapfs's and becomes vmsnapfs, whose exit status and standard error
 * are then its own: vmsnapfs returns only when the mount can be used, and its statuses are those of mount(8).
 * It never exits with a status but 0 without a line that says why. It mounts nothing itself, judges no value
 * of an option, and is not set-user-ID: mount(8) has dropped its privileges for a user's mount.
 */
#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <limits.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "mount_arguments.h"
#include "mount_options.h"

/* The exit statuses of mount(8). */
enum mount_status {
    MOUNT_STATUS_DONE = 0,
    MOUNT_STATUS_USAGE = 1, /* incorrect invocation, or permissions */
    MOUNT_STATUS_SYSTEM = 2,
    MOUNT_STATUS_FAILED = 32,
};

static const char usage[] =
    "Usage: mount.vmsnapfs SOURCE MOUNTPOINT [-sfnv] [-N NAMESPACE] [-o OPTIONS] [-t TYPE]\n"
    "Mounts the snapshots of the images in the directory SOURCE; mount(8) runs it for -t vmsnapfs.\n"
    "\n"
    "  -s            drop options that are not known\n"
    "  -f            fake: check the arguments, mount nothing\n"
    "  -n            accepted, without effect\n"
    "  -v            say what is run\n"
    "  -N NAMESPACE  mount in this mount namespace: a file, or the id of a process\n"
    "  -o OPTIONS    see below and vmsnapfs(8)\n"
    "  -t TYPE       vmsnapfs or fuse.vmsnapfs\n"
    "  -h, -V        this text; the version\n"
    "\n"
    "Options:";

static int fail(enum mount_status status, const char *text)
{
    fprintf(stderr, "mount.vmsnapfs: %s\n", text);
    return status;
}

static int print_usage(void)
{
    cleanup_text struct text names = {0};
    mount_options_names(&names, " ");
    if (names.failed)
        return fail(MOUNT_STATUS_SYSTEM, "out of memory");
    printf("%s %s\n", usage, names.data);
    return MOUNT_STATUS_DONE;
}

static bool is_program(const char *path)
{
    return !access(path, X_OK);
}

/* Where vmsnapfs is: in the build tree that this program runs from, where it was installed, beside this
 * program, or, without a slash, wherever PATH has it. */
static void find_daemon(char *path, size_t size)
{
    char self[PATH_MAX];
    ssize_t length = readlink("/proc/self/exe", self, sizeof self - 1);
    const char *folder = "";
    if (length > 0) {
        self[length] = '\0';
        folder = dirname(self);
        const char *slash = strrchr(folder, '/');
        if (slash && !strcmp(slash, "/mount-helper")) {
            snprintf(path, size, "%s/../fs/vmsnapfs", folder);
            if (is_program(path))
                return;
        }
    }
    snprintf(path, size, "%s", VMSNAPFS_BINDIR "/vmsnapfs");
    if (is_program(path))
        return;
    snprintf(path, size, "%s/vmsnapfs", folder);
    if (*folder && is_program(path))
        return;
    snprintf(path, size, "vmsnapfs");
}

/* From here on every path is one of that namespace: source, mount point and vmsnapfs itself. */
static int enter_namespace(const struct mount_arguments *arguments, struct error *err)
{
    const char *namespace = arguments->namespace;
    if (*arguments->source != '/' || *arguments->mountpoint != '/')
        return error_set(err, EINVAL, "with -N, source and mount point must be absolute paths");

    char path[PATH_MAX];
    bool is_pid = *namespace && strspn(namespace, "0123456789") == strlen(namespace);
    snprintf(path, sizeof path, is_pid ? "/proc/%s/ns/mnt" : "%s", namespace);
    cleanup_close int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return error_set(err, errno, "namespace %s: %s", path, strerror(errno));
    if (setns(fd, CLONE_NEWNS))
        return error_set(err, errno, "can't enter the mount namespace %s: %s", path, strerror(errno));
    return 0;
}

/* What -f checks besides the options. A mount point whose daemon died is sound: vmsnapfs clears it away. So
 * no daemon is asked, which might hang. */
static int check_paths(const struct mount_arguments *arguments, struct error *err)
{
    struct stat status;
    if (stat(arguments->source, &status))
        return error_set(err, errno, "source %s: %s", arguments->source, strerror(errno));
    if (!S_ISDIR(status.st_mode))
        return error_set(err, ENOTDIR, "source %s: not a directory", arguments->source);
    struct statx target;
    if (statx(AT_FDCWD, arguments->mountpoint, AT_STATX_DONT_SYNC, STATX_TYPE, &target))
        return errno == ENOTCONN
                   ? 0
                   : error_set(err, errno, "mount point %s: %s", arguments->mountpoint, strerror(errno));
    if (!S_ISDIR(target.stx_mode))
        return error_set(err, ENOTDIR, "mount point %s: not a directory", arguments->mountpoint);
    return 0;
}

static int become_daemon(const struct mount_arguments *arguments)
{
    char program[PATH_MAX];
    find_daemon(program, sizeof program);

    const char *command[7];
    size_t count = 0;
    command[count++] = program;
    if (arguments->options.length) {
        command[count++] = "-o";
        command[count++] = arguments->options.data;
    }
    command[count++] = "--";
    command[count++] = arguments->source;
    command[count++] = arguments->mountpoint;
    command[count] = NULL;

    if (arguments->verbose) {
        printf("mount.vmsnapfs:");
        for (size_t i = 0; i < count; i++)
            printf(" %s", command[i]);
        printf("\n");
        fflush(stdout);
    }
    if (arguments->fake)
        return MOUNT_STATUS_DONE;

    execvp(program, (char *const *)command);
    fprintf(stderr, "mount.vmsnapfs: can't run %s: %s\n", program, strerror(errno));
    return MOUNT_STATUS_SYSTEM;
}

int main(int argc, char **argv)
{
    cleanup(mount_arguments_done) struct mount_arguments arguments = {0};
    struct error err = {0};

    int rc = mount_arguments_parse(argc, argv, &arguments, &err);
    if (rc)
        return fail(rc == -ENOMEM ? MOUNT_STATUS_SYSTEM : MOUNT_STATUS_USAGE, err.text);
    if (arguments.help)
        return print_usage();
    if (arguments.version) {
        printf("mount.vmsnapfs %s\n", VMSNAPFS_VERSION);
        return MOUNT_STATUS_DONE;
    }
    if (arguments.namespace)
        rc = enter_namespace(&arguments, &err);
    if (!rc && arguments.fake)
        rc = check_paths(&arguments, &err);
    if (rc)
        return fail(rc == -EINVAL || rc == -EPERM || rc == -EACCES ? MOUNT_STATUS_USAGE : MOUNT_STATUS_FAILED,
                    err.text);
    return become_daemon(&arguments);
}
