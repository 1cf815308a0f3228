// SPDX-License-Identifier: LGPL-2.1-or-later
/* The command line of a mount helper; see mount_arguments.h. */
#include "mount_arguments.h"

#include <errno.h>
#include <getopt.h>
#include <string.h>

#include "mount_options.h"

static const struct option long_options[] = {
    {"help", no_argument, NULL, 'h'},
    {"version", no_argument, NULL, 'V'},
    {0},
};

static bool type_is_ours(const char *type)
{
    return !strcmp(type, "vmsnapfs") || !strcmp(type, "fuse.vmsnapfs");
}

int mount_arguments_parse(int argc, char **argv, struct mount_arguments *arguments, struct error *err)
{
    cleanup_text struct text list = {0};
    bool sloppy = false;
    int letter;

    optind = 0; /* start anew, also within one process */
    opterr = 0;
    while ((letter = getopt_long(argc, argv, ":sfnvN:o:t:hV", long_options, NULL)) != -1) {
        switch (letter) {
        case 's':
            sloppy = true;
            break;
        case 'f':
            arguments->fake = true;
            break;
        case 'n': /* there is no mtab to leave alone: the kernel keeps the table */
            break;
        case 'v':
            arguments->verbose = true;
            break;
        case 'N':
            arguments->namespace = optarg;
            break;
        case 'o':
            if (list.length)
                text_append(&list, ",", 1);
            text_append_string(&list, optarg);
            break;
        case 't':
            if (!type_is_ours(optarg))
                return error_set(err, EINVAL, "type '%s' is not vmsnapfs or fuse.vmsnapfs", optarg);
            break;
        case 'h':
            arguments->help = true;
            return 0;
        case 'V':
            arguments->version = true;
            return 0;
        case ':':
            return error_set(err, EINVAL, "option -%c needs an argument", optopt);
        default:
            if (optopt)
                return error_set(err, EINVAL, "unknown option -%c", optopt);
            return error_set(err, EINVAL, "unknown option %s", argv[optind - 1]);
        }
    }
    if (list.failed)
        return error_set(err, ENOMEM, "out of memory");
    if (argc - optind != 2)
        return error_set(err, EINVAL, "%s",
                         argc - optind < 2 ? "a source and a mount point are needed"
                                           : "more than a source and a mount point are given");
    if (!*argv[optind] || !*argv[optind + 1])
        return error_set(err, EINVAL, "the %s is empty", *argv[optind] ? "mount point" : "source");

    int rc = list.length ? mount_options_parse(list.data, sloppy, &arguments->options, err) : 0;
    if (rc)
        return rc;
    arguments->source = argv[optind];
    arguments->mountpoint = argv[optind + 1];
    return 0;
}

void mount_arguments_done(struct mount_arguments *arguments)
{
    text_done(&arguments->options);
}
