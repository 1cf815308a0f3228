// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * A text that grows: what small files show, documents, log lines.
 *
 * A failed allocation is remembered (`failed`) and everything appended later is dropped, so that a writer
 * checks once, at the end, instead of after each append.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <time.h>

#include "base/cleanup.h"

struct text {
    char *data; /* always terminated by a zero byte once anything was appended; may hold zero bytes itself */
    size_t length;
    size_t capacity;
    bool failed;
};

void text_append(struct text *text, const void *bytes, size_t length);
void text_append_string(struct text *text, const char *string);
void text_printf(struct text *text, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Appends a time in UTC: "2026-11-21", `between`, "15:04:05"; one for which the calendar has no year, as a
 * file can have, as "@" and its seconds. */
void text_append_time(struct text *text, time_t seconds, char between);

/* Gives the terminated string away (the caller frees it) and leaves the text empty; NULL where memory ran
 * out. */
char *text_steal(struct text *text);

void text_done(struct text *text);

#define cleanup_text cleanup(text_done)
