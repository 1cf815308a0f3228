// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * An error that a person will read: a code for the system call and a sentence that names the thing and the
 * way out.
 *
 * Functions return 0 or a negative errno. Those whose failure a person will see take a `struct error *` last;
 * it may be NULL. Log or return, never both.
 */
#pragma once

#include <stdarg.h>
#include <stdbool.h>

#define ERROR_TEXT_MAX 512

struct error {
    int code; /* a positive errno, 0 while there was no error */
    char text[ERROR_TEXT_MAX];
};

/* Sets `err` (may be NULL) and returns -code, so that `return error_set(err, EINVAL, "...")` is one line.
 * The text is one line too, as it stands in logs: where an argument holds a control character, a space does.
 */
int error_set(struct error *err, int code, const char *format, ...) __attribute__((format(printf, 3, 4)));

/*
 * Opening or reading a file gave `code`. Was that an error that the same call may not give a moment later?
 * Not so where the file's bytes, name or mode are what is wrong: when these change, that can be seen.
 */
bool error_may_pass(int code);

/* Puts "PREFIX: " before the text that is there already. Returns -err->code, or 0 without `err`. */
int error_prefix(struct error *err, const char *format, ...) __attribute__((format(printf, 2, 3)));
