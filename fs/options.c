// SPDX-License-Identifier: LGPL-2.1-or-later
/* The command line; see options.h. */
#include "options.h"

#include <errno.h>
#include <grp.h>
#include <pwd.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/text.h"

#define CACHE_DEFAULT (64 * MIB)
#define CACHE_MIN     MIB
#define THREADS_MAX   256

const char *options_usage(void)
{
    return "usage: vmsnapfs [-f] [-o OPTIONS] SOURCE MOUNTPOINT\n"
           "\n"
           "Shows the virtual machines whose images lie in the directory SOURCE as directories\n"
           "under MOUNTPOINT, with the frozen disks of their snapshots as read-only raw files.\n"
           "\n"
           "  -f                    stay in the foreground\n"
           "  -h, -V                this help; the version\n"
           "  -o OPTION[,OPTION...]\n"
           "      ro                write nothing, not even to SOURCE/.vmsnapfs\n"
           "      allow=DIR[:DIR]   follow backing and data files into these directories, too\n"
           "      backing-format=F  format of backing files that nothing else tells: raw, qcow2\n"
           "      cache=SIZE        memory for maps and decompressed clusters (default 64M)\n"
           "      allow_other       let other users in, as owner and modes permit\n"
           "      uid=, gid=        owner and group of everything, by name or number\n"
           "      dir-mode=, disk-mode=, control-mode=\n"
           "                        octal modes (default 0755, 0400, 0600)\n"
           "      threads=N         threads that answer requests\n"
           "      debug             log more\n"
           "      nosuid, nodev, noexec, noatime, ...\n"
           "                        as for any mount\n";
}

/* --- values --- */

static int parse_number(const char *text, unsigned base, uint64_t max, uint64_t *number)
{
    char *end;
    if (text[0] < '0' || text[0] > '9')
        return -EINVAL;
    errno = 0;
    unsigned long long value = strtoull(text, &end, (int)base);
    if (errno || *end || value > max)
        return -EINVAL;
    *number = value;
    return 0;
}

/* "64M": bytes, with K, M or G. */
static int parse_size(const char *text, size_t *size)
{
    char digits[24];
    size_t length = strlen(text);
    uint64_t unit = 1;
    if (length == 0 || length >= sizeof digits)
        return -EINVAL;
    memcpy(digits, text, length + 1);
    const char *const units = "KMG";
    const char *found = strchr(units, digits[length - 1]);
    if (found) {
        unit = UINT64_C(1) << (10 * (found - units + 1));
        digits[length - 1] = '\0';
    }
    uint64_t number, product;
    if (parse_number(digits, 10, UINT64_MAX, &number) != 0 ||
        __builtin_mul_overflow(number, unit, &product) || product < CACHE_MIN || product > SIZE_MAX / 2)
        return -EINVAL;
    *size = product;
    return 0;
}

static int parse_mode(const char *value, mode_t *mode)
{
    uint64_t number;
    int result = parse_number(value, 8, 0777, &number);
    if (result == 0)
        *mode = (mode_t)number;
    return result;
}

/* Adds the directories of "DIR:DIR". */
static int parse_allow(const char *value, struct options *options)
{
    while (*value) {
        size_t length = strcspn(value, ":");
        if (length == 0)
            return -EINVAL;
        char **allow = realloc(options->allow, (options->allow_count + 1) * sizeof *allow);
        if (!allow)
            return -ENOMEM;
        options->allow = allow;
        char *directory = strndup(value, length);
        if (!directory)
            return -ENOMEM;
        options->allow[options->allow_count++] = directory;
        value += length;
        if (*value == ':' && *++value == '\0')
            return -EINVAL;
    }
    return options->allow_count ? 0 : -EINVAL;
}

static int parse_backing_format(const char *value, struct options *options)
{
    options->unnamed_backing = image_format_from_name(value);
    return image_format_is_native(options->unnamed_backing) ? 0 : -EINVAL;
}

static int parse_threads(const char *value, struct options *options)
{
    uint64_t number;
    if (parse_number(value, 10, THREADS_MAX, &number) != 0 || number == 0)
        return -EINVAL;
    options->threads = (unsigned)number;
    return 0;
}

static int parse_id(const char *value, uint32_t *id)
{
    uint64_t number;
    int result = parse_number(value, 10, UINT32_MAX - 1, &number);
    if (result == 0)
        *id = (uint32_t)number;
    return result;
}

static int parse_user(const char *value, uid_t *uid)
{
    const struct passwd *user = getpwnam(value);
    if (!user)
        return parse_id(value, uid);
    *uid = user->pw_uid;
    return 0;
}

static int parse_group(const char *value, gid_t *gid)
{
    const struct group *group = getgrnam(value);
    if (!group)
        return parse_id(value, gid);
    *gid = group->gr_gid;
    return 0;
}

/* --- one option --- */

static bool is_one_of(const char *name, const char *const *names)
{
    for (; *names; names++)
        if (strcmp(name, *names) == 0)
            return true;
    return false;
}

/* Flags that libfuse hands on. */
static const char *const mount_flags_passed[] = {"suid",    "nosuid", "dev",  "nodev",   "exec", "noexec",
                                                 "noatime", "async",  "sync", "dirsync", NULL};

/* Flags that libfuse may not know, and that change nothing here: the times of files never change. Permissions
 * are checked whether or not it is said. */
static const char *const flags_without_effect[] = {
    "atime",    "diratime",   "nodiratime",          "relatime", "norelatime", "strictatime", "nostrictatime",
    "lazytime", "nolazytime", "default_permissions", NULL};

/* `text` is NAME or NAME=VALUE. */
static int apply_option(struct options *options, char *text, struct text *mount_flags, struct error *err)
{
    char *value = strchr(text, '=');
    if (value)
        *value++ = '\0';
    int result = -EINVAL;
    if (!value) {
        result = 0;
        if (strcmp(text, "ro") == 0)
            options->read_only = true;
        else if (strcmp(text, "rw") == 0)
            options->read_only = false;
        else if (strcmp(text, "allow_other") == 0)
            options->allow_other = true;
        else if (strcmp(text, "debug") == 0)
            options->debug = true;
        else if (is_one_of(text, mount_flags_passed))
            text_printf(mount_flags, "%s%s", mount_flags->length ? "," : "", text);
        else if (!is_one_of(text, flags_without_effect))
            return error_set(err, EINVAL, "unknown option '%s'; vmsnapfs -h lists them", text);
        return 0;
    }
    if (strcmp(text, "allow") == 0)
        result = parse_allow(value, options);
    else if (strcmp(text, "backing-format") == 0)
        result = parse_backing_format(value, options);
    else if (strcmp(text, "cache") == 0)
        result = parse_size(value, &options->cache_bytes);
    else if (strcmp(text, "threads") == 0)
        result = parse_threads(value, options);
    else if (strcmp(text, "uid") == 0)
        result = parse_user(value, &options->uid);
    else if (strcmp(text, "gid") == 0)
        result = parse_group(value, &options->gid);
    else if (strcmp(text, "dir-mode") == 0)
        result = parse_mode(value, &options->directory_mode);
    else if (strcmp(text, "disk-mode") == 0)
        result = parse_mode(value, &options->disk_mode);
    else if (strcmp(text, "control-mode") == 0)
        result = parse_mode(value, &options->control_mode);
    else
        return error_set(err, EINVAL, "unknown option '%s'; vmsnapfs -h lists them", text);
    if (result == -EINVAL)
        return error_set(err, EINVAL, "option '%s' can't be '%s'; vmsnapfs -h tells what it takes", text,
                         value);
    return result;
}

/* A list as after -o. A backslash takes the meaning from a comma. */
static int apply_options(struct options *options, const char *list, struct text *mount_flags,
                         struct error *err)
{
    cleanup_free char *one = malloc(strlen(list) + 1);
    if (!one)
        return error_set(err, ENOMEM, "out of memory");
    while (*list) {
        size_t length = 0;
        for (; *list && *list != ','; list++) {
            if (list[0] == '\\' && (list[1] == ',' || list[1] == '\\'))
                list++;
            one[length++] = *list;
        }
        one[length] = '\0';
        if (*list == ',')
            list++;
        if (length == 0)
            continue;
        int result = apply_option(options, one, mount_flags, err);
        if (result != 0)
            return result;
    }
    return 0;
}

/* --- the whole line --- */

static int parse_arguments(int argc, char *const *argv, struct options *options, struct text *mount_flags,
                           struct error *err)
{
    int result = 0;
    optind = 0; /* glibc: begin anew, so that tests can call this again */
    for (int letter; result == 0 && (letter = getopt(argc, argv, ":fdhVo:")) != -1;) {
        switch (letter) {
        case 'f':
            options->foreground = true;
            break;
        case 'd':
            options->foreground = options->debug = true;
            break;
        case 'h':
            options->help = true;
            break;
        case 'V':
            options->version = true;
            break;
        case 'o':
            result = apply_options(options, optarg, mount_flags, err);
            break;
        case ':':
            result = error_set(err, EINVAL, "option -%c needs a value", optopt);
            break;
        default:
            result = error_set(err, EINVAL, "unknown option -%c; vmsnapfs -h lists them", optopt);
        }
    }
    if (result != 0 || options->help || options->version)
        return result;
    if (argc - optind != 2)
        return error_set(err, EINVAL, "usage: vmsnapfs [-f] [-o OPTIONS] SOURCE MOUNTPOINT");
    /* Empty would come to mean the present directory: a store made, or a mount laid, where nobody asked. */
    if (!argv[optind][0] || !argv[optind + 1][0])
        return error_set(err, EINVAL, "%s is empty; it must name a directory",
                         argv[optind][0] ? "MOUNTPOINT" : "SOURCE");
    options->source = strdup(argv[optind]);
    options->mountpoint = strdup(argv[optind + 1]);
    return options->source && options->mountpoint ? 0 : error_set(err, ENOMEM, "out of memory");
}

int options_parse(int argc, char *const *argv, struct options *options, struct error *err)
{
    struct options parsed = {
        .cache_bytes = CACHE_DEFAULT,
        .uid = geteuid(),
        .gid = getegid(),
        .directory_mode = 0755,
        .disk_mode = 0400,
        .control_mode = 0600,
    };
    struct text mount_flags = {0};
    int result = parse_arguments(argc, argv, &parsed, &mount_flags, err);
    parsed.mount_flags = text_steal(&mount_flags);
    if (result == 0 && !parsed.mount_flags)
        result = error_set(err, ENOMEM, "out of memory");
    if (result == 0)
        *options = parsed;
    else
        options_done(&parsed);
    return result;
}

void options_done(struct options *options)
{
    for (size_t i = 0; i < options->allow_count; i++)
        free(options->allow[i]);
    free(options->allow);
    free(options->source);
    free(options->mountpoint);
    free(options->mount_flags);
    *options = (struct options){0};
}
