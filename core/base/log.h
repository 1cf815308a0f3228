// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * The log: lines to standard error while the daemon has one, to syslog afterwards, and the last few hundred
 * kept in memory for .vmsnapfs/log.
 *
 * Any thread may call. A line that comes again at once is counted, not repeated, so that a damaged image that
 * is read ten thousand times does not push everything else out.
 */
#pragma once

#include "base/text.h"

enum log_level { LOG_LEVEL_ERROR, LOG_LEVEL_WARNING, LOG_LEVEL_INFO, LOG_LEVEL_DEBUG };

enum log_sink { LOG_SINK_STDERR, LOG_SINK_SYSLOG };

void log_set_level(enum log_level level);
void log_set_sink(enum log_sink sink);

void log_message(enum log_level level, const char *format, ...) __attribute__((format(printf, 2, 3)));

#define log_error(...)   log_message(LOG_LEVEL_ERROR, __VA_ARGS__)
#define log_warning(...) log_message(LOG_LEVEL_WARNING, __VA_ARGS__)
#define log_info(...)    log_message(LOG_LEVEL_INFO, __VA_ARGS__)
#define log_debug(...)   log_message(LOG_LEVEL_DEBUG, __VA_ARGS__)

/* Appends the lines that are kept, oldest first, each "TIME LEVEL TEXT\n". */
void log_render(struct text *text);
