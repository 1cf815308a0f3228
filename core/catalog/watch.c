// SPDX-License-Identifier: LGPL-2.1-or-later
/* When to look at the source again; see watch.h. */
#include "catalog/watch.h"

#include <errno.h>
#include <poll.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/inotify.h>
#include <time.h>
#include <unistd.h>

#include "base/log.h"
#include "base/monotonic.h"

struct watch {
    int inotify; /* -1 without */
    int wake;    /* eventfd: hinted or stopped */
    atomic_uint asked;
    unsigned interval_ms;
    int64_t next_tick_ms;
};

/* By its descriptor, since a mount may cover the path. */
static void start_inotify(struct watch *watch, int directory)
{
    char path[64];
    snprintf(path, sizeof path, "/proc/self/fd/%d", directory);
    watch->inotify = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
    if (watch->inotify >= 0 &&
        inotify_add_watch(watch->inotify, path,
                          IN_CREATE | IN_DELETE | IN_MOVED_FROM | IN_MOVED_TO | IN_CLOSE_WRITE | IN_ATTRIB |
                              IN_ONLYDIR | IN_EXCL_UNLINK) >= 0)
        return;
    log_warning("the source can't be watched (%s): new files show up within %u ms, not at once",
                strerror(errno), watch->interval_ms);
    if (watch->inotify >= 0)
        close(watch->inotify);
    watch->inotify = -1;
}

int watch_new(int directory, unsigned interval_ms, struct watch **watch, struct error *err)
{
    struct watch *made = calloc(1, sizeof *made);
    if (!made)
        return error_set(err, ENOMEM, "%s", strerror(ENOMEM));
    made->interval_ms = interval_ms;
    made->wake = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    if (made->wake < 0) {
        int code = errno;
        free(made);
        return error_set(err, code, "watching the source: %s", strerror(code));
    }
    start_inotify(made, directory);
    made->next_tick_ms = monotonic_ms() + interval_ms;
    *watch = made;
    return 0;
}

void watch_free(struct watch *watch)
{
    if (!watch)
        return;
    if (watch->inotify >= 0)
        close(watch->inotify);
    close(watch->wake);
    free(watch);
}

/* Takes in all events that are there. Names do not matter: what a file is is only known by looking. */
static unsigned take_events(struct watch *watch)
{
    unsigned reasons = 0;
    union {
        struct inotify_event first;
        char bytes[16384];
    } buffer;
    ssize_t length;
    while (watch->inotify >= 0 && (length = read(watch->inotify, &buffer, sizeof buffer)) > 0) {
        for (ssize_t at = 0; at < length;) {
            struct inotify_event event;
            memcpy(&event, buffer.bytes + at, sizeof event);
            at += (ssize_t)(sizeof event + event.len);
            if (event.mask & IN_ISDIR)
                continue; /* also the mount point, when it is mounted on */
            reasons |= event.mask & (IN_CLOSE_WRITE | IN_ATTRIB) ? WATCH_FILES : WATCH_NAMES;
        }
    }
    return reasons;
}

static unsigned take_asked(struct watch *watch)
{
    uint64_t count;
    if (read(watch->wake, &count, sizeof count) < 0 && errno != EAGAIN)
        log_error("watching the source: %s", strerror(errno));
    unsigned asked = atomic_fetch_and(&watch->asked, WATCH_STOP);
    if (asked & WATCH_STOP)
        (void)!write(watch->wake, &(uint64_t){1}, sizeof(uint64_t)); /* for whoever waits next */
    return asked;
}

static void poll_until(struct watch *watch, int64_t until_ms, bool for_events)
{
    struct pollfd fds[] = {
        {.fd = watch->wake, .events = POLLIN},
        {.fd = for_events ? watch->inotify : -1, .events = POLLIN},
    };
    int64_t now = monotonic_ms();
    poll(fds, 2, until_ms > now ? (int)(until_ms - now) : 0);
}

/* Files come in bursts. */
static unsigned settle(struct watch *watch)
{
    unsigned reasons = 0;
    int64_t end = monotonic_ms() + 10 * WATCH_SETTLE_MS;
    for (;;) {
        int64_t quiet = monotonic_ms() + WATCH_SETTLE_MS;
        poll_until(watch, quiet < end ? quiet : end, true);
        unsigned more = take_events(watch) | take_asked(watch);
        reasons |= more;
        if (!more || (more & WATCH_STOP) || monotonic_ms() >= end)
            return reasons;
    }
}

unsigned watch_wait(struct watch *watch)
{
    for (;;) {
        if (!atomic_load(&watch->asked)) /* while it rested, a hint may have come */
            poll_until(watch, watch->next_tick_ms, true);
        unsigned reasons = take_events(watch) | take_asked(watch);
        if (reasons && !(reasons & WATCH_STOP))
            reasons |= settle(watch);
        int64_t now = monotonic_ms();
        if (now >= watch->next_tick_ms) {
            reasons |= WATCH_TIMER;
            watch->next_tick_ms = now + watch->interval_ms;
        }
        if (reasons)
            return reasons;
    }
}

void watch_rest(struct watch *watch, unsigned ms)
{
    int64_t end = monotonic_ms() + ms;
    while (!(atomic_load(&watch->asked) & WATCH_STOP) && monotonic_ms() < end) {
        uint64_t count;
        poll_until(watch, end, false);
        /* A hint keeps for later: `asked` has it. */
        if (!(atomic_load(&watch->asked) & WATCH_STOP) && read(watch->wake, &count, sizeof count) < 0 &&
            errno != EAGAIN)
            return;
    }
}

static void ask(struct watch *watch, unsigned what)
{
    atomic_fetch_or(&watch->asked, what);
    if (write(watch->wake, &(uint64_t){1}, sizeof(uint64_t)) < 0 && errno != EAGAIN)
        log_error("watching the source: %s", strerror(errno));
}

void watch_hint(struct watch *watch)
{
    ask(watch, WATCH_HINT);
}

void watch_stop(struct watch *watch)
{
    ask(watch, WATCH_STOP);
}
