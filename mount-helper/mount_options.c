// SPDX-License-Identifier: LGPL-2.1-or-later
/* The option list of `mount -o`; see mount_options.h. */
#include "mount_options.h"

#include <errno.h>
#include <stddef.h>
#include <string.h>

enum option_use {
    OPTION_PASSED_FLAG,  /* to vmsnapfs, as it is */
    OPTION_PASSED_VALUE, /* to vmsnapfs, NAME=VALUE */
    OPTION_DROPPED,      /* with or without a value */
};

struct known_option {
    const char *name;
    enum option_use use;
};

static const struct known_option known_options[] = {
    /* vmsnapfs's own */
    {"ro", OPTION_PASSED_FLAG},
    {"rw", OPTION_PASSED_FLAG},
    {"allow", OPTION_PASSED_VALUE},
    {"backing-format", OPTION_PASSED_VALUE},
    {"cache", OPTION_PASSED_VALUE},
    {"uid", OPTION_PASSED_VALUE},
    {"gid", OPTION_PASSED_VALUE},
    {"disk-mode", OPTION_PASSED_VALUE},
    {"dir-mode", OPTION_PASSED_VALUE},
    {"control-mode", OPTION_PASSED_VALUE},
    {"allow_other", OPTION_PASSED_FLAG},
    {"threads", OPTION_PASSED_VALUE},
    {"debug", OPTION_PASSED_FLAG},
    /* flags of every mount */
    {"suid", OPTION_PASSED_FLAG},
    {"nosuid", OPTION_PASSED_FLAG},
    {"dev", OPTION_PASSED_FLAG},
    {"nodev", OPTION_PASSED_FLAG},
    {"exec", OPTION_PASSED_FLAG},
    {"noexec", OPTION_PASSED_FLAG},
    {"noatime", OPTION_PASSED_FLAG},
    /* for whoever decides when to mount, and who may: mount(8), systemd */
    {"defaults", OPTION_DROPPED},
    {"auto", OPTION_DROPPED},
    {"noauto", OPTION_DROPPED},
    {"nofail", OPTION_DROPPED},
    {"_netdev", OPTION_DROPPED},
    {"user", OPTION_DROPPED},
    {"users", OPTION_DROPPED},
    {"nouser", OPTION_DROPPED},
    {"nousers", OPTION_DROPPED},
    {"owner", OPTION_DROPPED},
    {"noowner", OPTION_DROPPED},
    {"group", OPTION_DROPPED},
    {"nogroup", OPTION_DROPPED},
    {"comment", OPTION_DROPPED},
    {"helper", OPTION_DROPPED},
    {"uhelper", OPTION_DROPPED},
    /* true here whatever is asked: the kernel checks permissions, times never change, and a write is done
     * when it returns */
    {"default_permissions", OPTION_DROPPED},
    {"async", OPTION_DROPPED},
    {"sync", OPTION_DROPPED},
    {"dirsync", OPTION_DROPPED},
    {"atime", OPTION_DROPPED},
    {"diratime", OPTION_DROPPED},
    {"nodiratime", OPTION_DROPPED},
    {"relatime", OPTION_DROPPED},
    {"norelatime", OPTION_DROPPED},
    {"strictatime", OPTION_DROPPED},
    {"nostrictatime", OPTION_DROPPED},
    {"lazytime", OPTION_DROPPED},
    {"nolazytime", OPTION_DROPPED},
    {"iversion", OPTION_DROPPED},
    {"noiversion", OPTION_DROPPED},
    {"mand", OPTION_DROPPED},
    {"nomand", OPTION_DROPPED},
    {"silent", OPTION_DROPPED},
    {"loud", OPTION_DROPPED},
};

static const struct known_option *find_known(const char *name, size_t length)
{
    for (size_t i = 0; i < sizeof known_options / sizeof *known_options; i++)
        if (strlen(known_options[i].name) == length && !memcmp(known_options[i].name, name, length))
            return &known_options[i];
    return NULL;
}

/* The next option of `list` with its quotes and backslashes taken off; -EINVAL where a quote doesn't end. */
static int next_option(const char **list, struct text *option, struct error *err)
{
    const char *at = *list;
    bool quoted = false;
    for (; *at && (quoted || *at != ','); at++) {
        if (*at == '"') {
            quoted = !quoted;
            continue;
        }
        if (*at == '\\' && (at[1] == ',' || at[1] == '\\' || at[1] == '"'))
            at++;
        text_append(option, at, 1);
    }
    if (quoted)
        return error_set(err, EINVAL, "option list: a double quote is opened and not closed: %s", *list);
    *list = *at ? at + 1 : at;
    return option->failed ? error_set(err, ENOMEM, "out of memory") : 0;
}

static void append_escaped(struct text *passed, const char *option)
{
    if (passed->length)
        text_append(passed, ",", 1);
    for (; *option; option++) {
        if (*option == ',' || *option == '\\')
            text_append(passed, "\\", 1);
        text_append(passed, option, 1);
    }
}

static int take_option(const char *option, bool sloppy, struct text *passed, struct error *err)
{
    const char *equals = strchr(option, '=');
    size_t length = equals ? (size_t)(equals - option) : strlen(option);

    if (!strncmp(option, "x-", 2) || !strncmp(option, "X-", 2))
        return 0;
    if (length == strlen("remount") && !memcmp(option, "remount", length))
        return error_set(err, EINVAL,
                         "remount is not supported: unmount, and mount again with the other options");

    const struct known_option *known = find_known(option, length);
    if (!known)
        return sloppy ? 0
                      : error_set(err, EINVAL, "unknown option '%.*s' (-h lists them)", (int)length, option);
    if (known->use == OPTION_DROPPED)
        return 0;
    if (known->use == OPTION_PASSED_VALUE && (!equals || !equals[1]))
        return error_set(err, EINVAL, "option '%s' needs a value: %s=...", known->name, known->name);
    if (known->use == OPTION_PASSED_FLAG && equals)
        return error_set(err, EINVAL, "option '%s' takes no value", known->name);
    append_escaped(passed, option);
    return 0;
}

int mount_options_parse(const char *list, bool sloppy, struct text *passed, struct error *err)
{
    cleanup_text struct text result = {0};
    while (*list) {
        cleanup_text struct text option = {0};
        int rc = next_option(&list, &option, err);
        if (!rc && option.length)
            rc = take_option(option.data, sloppy, &result, err);
        if (rc)
            return rc;
    }
    if (result.failed)
        return error_set(err, ENOMEM, "out of memory");
    if (result.length) {
        if (passed->length)
            text_append(passed, ",", 1);
        text_append(passed, result.data, result.length);
    }
    return passed->failed ? error_set(err, ENOMEM, "out of memory") : 0;
}

void mount_options_names(struct text *names, const char *separator)
{
    for (size_t i = 0; i < sizeof known_options / sizeof *known_options; i++)
        if (known_options[i].use != OPTION_DROPPED)
            text_printf(names, "%s%s%s", known_options[i].name,
                        known_options[i].use == OPTION_PASSED_VALUE ? "=" : "", separator);
}
