// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * When to look at the source again: inotify for files that come, go and are closed after writing, and a timer
 * for what inotify does not tell (a running guest's writes, other hosts on NFS). One thread waits; any thread
 * may hint or stop.
 */
#pragma once

#include "base/error.h"

struct watch;

enum watch_reason {
    WATCH_TIMER = 1, /* the interval is over: ask scan_moved */
    WATCH_FILES = 2, /* files were written to: ask scan_moved */
    WATCH_NAMES = 4, /* files came or went: scan */
    WATCH_HINT = 8,  /* somebody found that something is not what it was: look at everything */
    WATCH_STOP = 16, /* no more waiting */
};

/* Watches the directory that `directory` (borrowed) is open on. Without inotify (its limits reached, an odd
 * file system) the timer does it all, with a line in the log. -ENOMEM and others. */
int watch_new(int directory, unsigned interval_ms, struct watch **watch, struct error *err);
void watch_free(struct watch *watch);

/*
 * Waits, and returns what happened, as a set of enum watch_reason. Events that follow each other closely are
 * one: it gives them WATCH_SETTLE_MS to come to an end, and at most ten times that.
 */
unsigned watch_wait(struct watch *watch);

/* Waits for `ms` or for watch_stop, whichever comes first. */
void watch_rest(struct watch *watch, unsigned ms);

void watch_hint(struct watch *watch);
void watch_stop(struct watch *watch);

#define WATCH_SETTLE_MS 50
