// SPDX-License-Identifier: LGPL-2.1-or-later
/* Errors with a sentence; see error.h. Texts that are too long are cut, never refused. */
#include "base/error.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

/* Names, commands and what QEMU says may hold anything. */
static void to_one_line(char *text)
{
    for (; *text; text++)
        if ((unsigned char)*text < ' ' || *text == 0x7f)
            *text = ' ';
}

int error_set(struct error *err, int code, const char *format, ...)
{
    if (!err)
        return -code;
    /* The arguments may point into err->text. */
    char text[ERROR_TEXT_MAX];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    to_one_line(text);
    memcpy(err->text, text, sizeof text);
    err->code = code;
    return -code;
}

bool error_may_pass(int code)
{
    switch (-code) {
    case E2BIG:
    case EACCES:
    case EFBIG:
    case EINVAL:
    case EISDIR:
    case ELOOP:
    case ENAMETOOLONG:
    case ENODATA:
    case ENODEV:
    case ENOENT:
    case ENOTDIR:
    case ENXIO:
    case EOPNOTSUPP:
    case EOVERFLOW:
    case EPERM:
        return false;
    default:
        return code < 0;
    }
}

int error_prefix(struct error *err, const char *format, ...)
{
    if (!err)
        return 0;
    char prefix[ERROR_TEXT_MAX];
    va_list args;
    va_start(args, format);
    int length = vsnprintf(prefix, sizeof prefix - 2, format, args);
    va_end(args);
    if (length < 0)
        return -err->code;
    to_one_line(prefix);
    size_t used = strlen(prefix);
    memcpy(prefix + used, ": ", 3);
    used += 2;
    size_t room = sizeof err->text - used;
    size_t keep = strnlen(err->text, sizeof err->text - 1);
    if (keep >= room)
        keep = room - 1;
    memmove(err->text + used, err->text, keep);
    memcpy(err->text, prefix, used);
    err->text[used + keep] = '\0';
    return -err->code;
}
