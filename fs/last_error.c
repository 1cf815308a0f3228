// SPDX-License-Identifier: LGPL-2.1-or-later
/* Why operations failed; see last_error.h. One short list for each domain that ever had a failure. */
#include "last_error.h"

#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "line.h"

#define KEPT 20

struct failure {
    time_t when;
    pid_t pid;
    int code;
    char *command;
    char *reason;
    unsigned long more; /* times that it had come before, at once */
};

struct domain_errors {
    struct domain_errors *next;
    uint64_t domain;
    uint64_t count; /* so far; failure i is kept in kept[i % KEPT] */
    struct failure kept[KEPT];
};

struct last_errors {
    pthread_mutex_t lock; /* protects the list and everything in it */
    struct domain_errors *first;
};

static void failure_done(struct failure *failure)
{
    free(failure->command);
    free(failure->reason);
}

struct last_errors *last_errors_new(void)
{
    struct last_errors *errors = calloc(1, sizeof *errors);
    if (errors)
        pthread_mutex_init(&errors->lock, NULL);
    return errors;
}

void last_errors_free(struct last_errors *errors)
{
    if (!errors)
        return;
    for (struct domain_errors *of = errors->first, *next; of; of = next) {
        next = of->next;
        for (size_t i = 0; i < KEPT; i++)
            failure_done(&of->kept[i]);
        free(of);
    }
    pthread_mutex_destroy(&errors->lock);
    free(errors);
}

static struct domain_errors *find_locked(struct last_errors *errors, uint64_t domain)
{
    struct domain_errors *of = errors->first;
    while (of && of->domain != domain)
        of = of->next;
    return of;
}

/* Names and commands may hold anything; a failure is one line. */
static char *one_line(const char *from)
{
    struct text line = {0};
    line_append(&line, from);
    return text_steal(&line);
}

static bool is_removal(const char *command)
{
    return strncmp(command, "unlink ", 7) == 0 || strncmp(command, "rmdir ", 6) == 0;
}

/* The same again; or rm -r, which tries each file. Another command is never hidden behind an older one,
 * although it is refused for the same reason. */
static bool is_repeat(const struct failure *last, const struct failure *failure)
{
    return last->code == failure->code && strcmp(last->reason, failure->reason) == 0 &&
           (strcmp(last->command, failure->command) == 0 ||
            (last->pid == failure->pid && is_removal(last->command) && is_removal(failure->command)));
}

/* `failure` is then what it has replaced, the caller's. False: this process was told that already. */
static bool add_locked(struct last_errors *errors, uint64_t domain, struct failure *failure)
{
    struct domain_errors *of = find_locked(errors, domain);
    if (!of) {
        of = calloc(1, sizeof *of);
        if (!of)
            return false;
        of->domain = domain;
        of->next = errors->first;
        errors->first = of;
    }
    struct failure *last = of->count ? &of->kept[(of->count - 1) % KEPT] : NULL;
    bool repeat = last && is_repeat(last, failure), told = repeat && last->pid == failure->pid;
    if (repeat)
        failure->more = last->more + 1;
    else
        last = &of->kept[of->count++ % KEPT];
    struct failure before = *last;
    *last = *failure;
    *failure = before;
    return !told;
}

bool last_errors_add(struct last_errors *errors, uint64_t domain, pid_t pid, const char *command, int code,
                     const char *reason)
{
    struct failure failure = {.when = time(NULL),
                              .pid = pid,
                              .code = code,
                              .command = one_line(command),
                              .reason = one_line(reason)};
    bool is_new = false;
    if (failure.command && failure.reason) {
        pthread_mutex_lock(&errors->lock);
        is_new = add_locked(errors, domain, &failure);
        pthread_mutex_unlock(&errors->lock);
    }
    failure_done(&failure);
    return is_new;
}

void last_errors_render(struct last_errors *errors, uint64_t domain, struct text *text)
{
    pthread_mutex_lock(&errors->lock);
    const struct domain_errors *of = find_locked(errors, domain);
    for (uint64_t i = of ? of->count : 0; i > 0 && i + KEPT > of->count; i--) {
        const struct failure *failure = &of->kept[(i - 1) % KEPT];
        struct tm utc;
        char when[32];
        gmtime_r(&failure->when, &utc);
        strftime(when, sizeof when, "%Y-%m-%dT%H:%M:%SZ", &utc);
        text_printf(text, "%s pid %d: %s: %s (%s)", when, (int)failure->pid, failure->command,
                    failure->reason, strerrorname_np(failure->code));
        if (failure->more)
            text_printf(text, ", and %lu more like it", failure->more);
        text_append_string(text, "\n");
    }
    pthread_mutex_unlock(&errors->lock);
}
