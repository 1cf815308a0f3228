// SPDX-License-Identifier: LGPL-2.1-or-later
/* The log; see log.h. Control characters, which names from images may hold, are written as `?`. */
#include "base/log.h"

#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <syslog.h>
#include <time.h>

#define LOG_KEPT     256
#define LOG_LINE_MAX 768

struct log_line {
    enum log_level level;
    struct timespec time;
    uint64_t repeats;
    char text[LOG_LINE_MAX];
};

static struct {
    pthread_mutex_t lock; /* protects everything below */
    enum log_level level;
    enum log_sink sink;
    uint64_t written; /* lines so far; line i is kept in lines[i % LOG_KEPT] */
    struct log_line lines[LOG_KEPT];
} log_state = {.lock = PTHREAD_MUTEX_INITIALIZER, .level = LOG_LEVEL_INFO};

static const char *const level_names[] = {"error", "warning", "info", "debug"};
static const int level_priorities[] = {LOG_ERR, LOG_WARNING, LOG_INFO, LOG_DEBUG};

void log_set_level(enum log_level level)
{
    pthread_mutex_lock(&log_state.lock);
    log_state.level = level;
    pthread_mutex_unlock(&log_state.lock);
}

void log_set_sink(enum log_sink sink)
{
    pthread_mutex_lock(&log_state.lock);
    log_state.sink = sink;
    pthread_mutex_unlock(&log_state.lock);
}

void log_message(enum log_level level, const char *format, ...)
{
    char text[LOG_LINE_MAX];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    for (char *c = text; *c; c++)
        if ((unsigned char)*c < ' ' || *c == 0x7f)
            *c = '?';

    pthread_mutex_lock(&log_state.lock);
    if (level > log_state.level) {
        pthread_mutex_unlock(&log_state.lock);
        return;
    }
    struct log_line *last = log_state.written ? &log_state.lines[(log_state.written - 1) % LOG_KEPT] : NULL;
    if (last && last->level == level && strcmp(last->text, text) == 0) {
        last->repeats++;
        pthread_mutex_unlock(&log_state.lock);
        return;
    }
    struct log_line *line = &log_state.lines[log_state.written++ % LOG_KEPT];
    line->level = level;
    line->repeats = 0;
    clock_gettime(CLOCK_REALTIME, &line->time);
    memcpy(line->text, text, sizeof text);
    if (log_state.sink == LOG_SINK_SYSLOG)
        syslog(level_priorities[level], "%s", text);
    else
        fprintf(stderr, "vmsnapfs: %s: %s\n", level_names[level], text);
    pthread_mutex_unlock(&log_state.lock);
}

void log_render(struct text *text)
{
    pthread_mutex_lock(&log_state.lock);
    uint64_t first = log_state.written > LOG_KEPT ? log_state.written - LOG_KEPT : 0;
    for (uint64_t i = first; i < log_state.written; i++) {
        const struct log_line *line = &log_state.lines[i % LOG_KEPT];
        struct tm utc;
        char when[32];
        gmtime_r(&line->time.tv_sec, &utc);
        strftime(when, sizeof when, "%Y-%m-%dT%H:%M:%SZ", &utc);
        text_printf(text, "%s %s %s", when, level_names[line->level], line->text);
        if (line->repeats)
            text_printf(text, " (and %llu times more)", (unsigned long long)line->repeats);
        text_append_string(text, "\n");
    }
    pthread_mutex_unlock(&log_state.lock);
}
