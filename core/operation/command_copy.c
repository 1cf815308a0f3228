// SPDX-License-Identifier: LGPL-2.1-or-later
/* The words of a disk's `copy`; see command_text.h. */
#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "operation/command_text.h"

#define cleanup_words cleanup(command_words_done)
#define cleanup_copy  cleanup(copy_command_done)

#define RIGHT                                                                                                \
    "PATH [shallow | base=PATH] [raw | format=raw|qcow2] [reuse] [bandwidth=BYTES[K|M|G]], with an "         \
    "absolute "                                                                                              \
    "path"

void copy_command_done(struct copy_command *command)
{
    free(command->path);
    free(command->base);
    *command = (struct copy_command){0};
}

static int read_path(const char *what, const char *path, char **result, struct error *err)
{
    size_t length = strlen(path);
    if (*result)
        return error_set(err, EINVAL, "%s is given twice", what);
    if (*path != '/' || path[length - 1] == '/' || strpbrk(path, "\n\r\t"))
        return error_set(err, EINVAL,
                         "\"%.100s\" is no absolute path of a file; what can be written is " RIGHT, path);
    if (length >= PATH_MAX)
        return error_set(err, ENAMETOOLONG, "%s has %zu bytes; at most %d can be", what, length,
                         PATH_MAX - 1);
    *result = strdup(path);
    return *result ? 0 : error_set(err, ENOMEM, "out of memory");
}

static int read_format(const char *name, struct copy_command *command, struct error *err)
{
    enum image_format format = image_format_from_name(name);
    if (command->format != IMAGE_FORMAT_UNKNOWN)
        return error_set(err, EINVAL, "the format is given twice");
    if (format != IMAGE_FORMAT_RAW && format != IMAGE_FORMAT_QCOW2)
        return error_set(err, EINVAL, "\"%.40s\" is no format of a copy; raw and qcow2 are", name);
    command->format = format;
    return 0;
}

/* Digits, and then one letter at most. */
static int read_bandwidth(const char *text, uint64_t *bandwidth, struct error *err)
{
    static const char units[] = "KMG";
    uint64_t number = 0;
    const char *at = text;
    bool fits = true;
    if (*bandwidth)
        return error_set(err, EINVAL, "bandwidth= is given twice");
    for (; *at >= '0' && *at <= '9'; at++)
        fits = fits && !__builtin_mul_overflow(number, 10, &number) &&
               !__builtin_add_overflow(number, (uint64_t)(*at - '0'), &number);
    const char *unit = *at ? strchr(units, *at) : NULL;
    if (at == text || (*at && (!unit || at[1])))
        return error_set(err, EINVAL,
                         "\"bandwidth=%.40s\" is not understood; it is bytes a second, as 1000000 or 50M",
                         text);
    for (long i = unit ? unit - units + 1 : 0; i > 0; i--)
        fits = fits && !__builtin_mul_overflow(number, 1024, &number);
    if (!fits || number == 0 || number > INT64_MAX)
        return error_set(err, EINVAL, "\"bandwidth=%.40s\": no copying is as fast, or as slow, as that",
                         text);
    *bandwidth = number;
    return 0;
}

static int read_word(const char *word, struct copy_command *command, struct error *err)
{
    if (strcmp(word, "shallow") == 0 && !command->shallow) {
        command->shallow = true;
        return 0;
    }
    if (strcmp(word, "reuse") == 0 && !command->reuse) {
        command->reuse = true;
        return 0;
    }
    if (strcmp(word, "raw") == 0)
        return read_format(word, command, err);
    if (strncmp(word, "format=", 7) == 0)
        return read_format(word + 7, command, err);
    if (strncmp(word, "base=", 5) == 0)
        return read_path("base=", word + 5, &command->base, err);
    if (strncmp(word, "bandwidth=", 10) == 0)
        return read_bandwidth(word + 10, &command->bandwidth, err);
    return error_set(err, EINVAL,
                     "\"%.60s\" is not known here, or stands twice; what can be written is " RIGHT, word);
}

int command_parse_copy(const char *bytes, size_t length, struct copy_command *command, struct error *err)
{
    cleanup_words struct command_words words = {0};
    int rc = command_words_parse(bytes, length, &words, err);
    if (rc < 0)
        return rc;
    if (words.count == 0)
        return error_set(err, EINVAL, "nothing was said; what can be written is " RIGHT);
    cleanup_copy struct copy_command parsed = {0};
    rc = read_path("the path", words.words[0].text, &parsed.path, err);
    for (size_t i = 1; rc == 0 && i < words.count; i++)
        rc = read_word(words.words[i].text, &parsed, err);
    if (rc < 0)
        return rc;
    if (parsed.shallow && parsed.base)
        return error_set(err, EINVAL, "shallow and base= both say what is copied; write one of them");
    if ((parsed.shallow || parsed.base) && parsed.format == IMAGE_FORMAT_RAW)
        return error_set(err, EINVAL, "a raw file lies on no other: copy everything, or into qcow2");
    *command = parsed;
    parsed = (struct copy_command){0};
    return 0;
}
