// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * What a machine consists of. Inside of machine.c (what is asked of it), machine_thread.c (the thread that
 * keeps its connection) and machine_launch.c (where its QEMU comes from).
 *
 * The connection belongs to the thread, or, while `lent`, to the borrower; so each is used by one thread at a
 * time. What may wait in it for long is ended from outside by shutting down `cut`, another descriptor of the
 * same socket.
 */
#pragma once

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <time.h>

#include "machine/guest.h"
#include "machine/machine.h"

/* From its start until it answers: storage that is slow to open images takes most of it. */
#define LAUNCH_MS 60000

enum thread_state { THREAD_NONE, THREAD_RUNS, THREAD_OVER };

struct machine {
    _Atomic unsigned references;
    uint64_t domain;
    char *name;
    char *directory; /* NULL: no guest of ours can be */
    machine_changed *tell;
    void *opaque;
    int wake; /* eventfd */

    pthread_mutex_t lock; /* a leaf; protects what follows */
    pthread_cond_t moved; /* anything of it has changed */
    struct machine_report report;
    char *monitor; /* of a QEMU that others run; NULL: none */
    int socket;    /* that a visit has connected, for the thread; -1: none */
    int cut;       /* -1: no connection */
    unsigned wanted;
    bool lent, taken; /* the connection is to be had; somebody has it */
    bool is_stopping, is_launching;
    bool end_expected;                   /* of the QEMU that is there now */
    bool has_looked;                     /* for a guest that a predecessor left us */
    struct guest *guest;                 /* that we started; changed only by the thread, while one runs */
    char last_words[ERROR_TEXT_MAX / 2]; /* of the guest before */
    enum thread_state thread_state;
    pthread_t thread; /* unless THREAD_NONE */

    /* The thread's, or the borrower's. */
    struct qmp *qmp;
    bool was_connected;
    bool guest_is_off; /* its QEMU said so, and is about to end, or has */
};

/* Publishes what is known now, and tells of it where it is new. `problem` may be NULL. */
void machine_publish(struct machine *machine, enum machine_contact contact, enum run_state state,
                     const char *problem);

/* The same by who has found no thread of it: does nothing where there is one by now. */
void machine_publish_idle(struct machine *machine, enum machine_contact contact, enum run_state state,
                          const char *problem);

/* A line for people. */
__attribute__((format(printf, 2, 3))) void machine_tell(struct machine *machine, const char *format, ...);

/* Has the thread look up. */
void machine_wake(struct machine *machine);

/* Starts the thread, which takes over `guest` or `socket`; with the lock held. -EAGAIN and its like. */
int machine_start_thread_locked(struct machine *machine);

/* Frees the thread that has ended, if there is one. */
void machine_join(struct machine *machine);

/* Kills the guest whose directory this is, if it runs, and waits for its end. ETIMEDOUT; as guest_find. */
int machine_end_guest(const char *directory, struct error *err);
