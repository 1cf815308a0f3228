// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Carrying out what administrators ask for: a command for a domain becomes a plan (operation/), the plan
 * becomes work on image files (hypervisor/) under a journal (store/), and the result is published in the
 * catalog. It has happened as a whole or not at all, whatever fails or is killed.
 *
 * Requests for one domain are carried out one after the other, in the order in which they came; those of
 * different domains side by side, in threads of their own. What space is to be given back is given back in
 * the background, and makes way for requests and readers.
 *
 * Any thread may call.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/error.h"
#include "catalog/catalog.h"
#include "machine/machines.h"
#include "operation/command.h"

struct administration;

enum request_kind {
    REQUEST_CREATE,
    REQUEST_DELETE,
    REQUEST_RENAME,
    REQUEST_REVERT,
    REQUEST_CLONE,
    REQUEST_PROTECT,
    REQUEST_DESCRIBE,
    REQUEST_DEFAULTS,
    REQUEST_POWER,
    REQUEST_RESUME, /* our own: a domain goes on that an interrupted operation has left (resume.h) */
    REQUEST_COPY,
    REQUEST_PIVOT,
    REQUEST_ABORT,
};

/* What a request came to. Borrowed, for the call of `done` only. */
struct request_result {
    int code;         /* 0 or a positive errno */
    const char *text; /* why it failed, or what a person should know of what was done; never NULL */
    uint64_t serial;  /* REQUEST_CREATE: of the new snapshot; REQUEST_CLONE: of the new domain */
};

struct request {
    enum request_kind kind;
    uint64_t domain;   /* serial */
    uint64_t snapshot; /* serial; 0 for what is asked of the domain or a disk */
    union {
        struct create_command create; /* REQUEST_CREATE: what it leaves open is as `defaults` says, where
                                         `use_defaults` is set (mkdir) */
        enum delete_kind delete_kind;
        char *name; /* REQUEST_RENAME: the new one */
        struct revert_command revert;
        struct clone_command clone;
        bool is_protected;
        char *description;
        struct power_command power;
        struct copy_command copy;
        char *defaults; /* REQUEST_DEFAULTS: the text, which command_parse_defaults has accepted */
    };
    unsigned disk; /* REQUEST_COPY, REQUEST_PIVOT, REQUEST_ABORT: its position */
    bool use_defaults;
    bool is_guard;   /* REQUEST_CREATE: for a revert, without which it goes again */
    bool may_launch; /* who asks may have QEMUs started and ended */
    char *words; /* the command as a person would tell it, for jobs/ and events: "mkdir snapshots/upgrade" */
    pid_t pid;   /* who asks; 0: nobody */

    /* Called once, from any thread, also from within administration_submit. */
    void (*done)(void *opaque, const struct request_result *result);
    void *opaque;
};

/* Frees what the request owns: its strings and commands. */
void request_free(struct request *request);

/* What a bare mkdir does where nobody has said otherwise. */
#define DEFAULTS_AS_SHIPPED "disk-only\nquiesce=try\n"

enum job_status {
    JOB_WAITING,
    JOB_RUNNING,
    JOB_CANCELLING,
    JOB_DONE,
    JOB_FAILED,
    JOB_COPYING, /* a QEMU fills a copy */
    JOB_READY,   /* the copy is in step, and stays so */
};

/* A request, or a piece of work in the background, as jobs/ shows it. */
struct job {
    uint64_t number; /* a serial number */
    uint64_t domain; /* serial */
    enum job_status status;
    unsigned percent;
    char what[256];
    char reason[ERROR_TEXT_MAX]; /* why it waits or failed; empty if there is nothing to say */
};

struct administration_options {
    struct catalog_service *catalog; /* borrowed, for the administration's life, as all of these */
    struct store *store;
    const struct locate *locate;
    struct machines *machines; /* may be NULL: no domain says how it is run */

    /* Is any frozen file of the snapshot open, or about to be opened? Must not wait. */
    bool (*is_open)(void *opaque, uint64_t snapshot);

    /* Something happened to a domain: one line for people, without a time and a line end. */
    void (*event)(void *opaque, uint64_t domain, const char *line);

    /* The jobs of a domain are others than before, or say something else. */
    void (*jobs_changed)(void *opaque, uint64_t domain);
    void *opaque;
};

/*
 * Settles what a killed predecessor left half done, before anything else is done to these domains. To be
 * called before catalog_service_new makes the first catalog from the store: `options->catalog` may be NULL
 * until administration_start. Errors: ENOMEM, EIO. What can't be settled is logged, and its domain can't be
 * changed.
 */
int administration_new(const struct administration_options *options, struct administration **administration,
                       struct error *err);

/* Starts the threads (after a daemon's last fork). */
int administration_start(struct administration *administration, struct catalog_service *catalog,
                         struct error *err);

/*
 * Has what runs undone or finished, answers what waits with EINTR, and ends the threads. What background work
 * has not finished is gone on with by the next mount.
 */
void administration_stop(struct administration *administration);
void administration_free(struct administration *administration); /* stops first; NULL is fine */

/* A number for a request, which administration_cancel knows it by. */
uint64_t administration_number(struct administration *administration);

/*
 * Has the request, which is taken over, carried out; `done` is called in any case, and never waits for this
 * thread. `number` is from administration_number, once.
 */
void administration_submit(struct administration *administration, uint64_t number, struct request *request);

/*
 * Has a job undone, if it is there and not finished yet: its `done` tells EINTR, or that it was too late. 0;
 * ENOENT: there is no such job any more; EPERM: it can't be cancelled.
 */
int administration_cancel(struct administration *administration, uint64_t number);

/* The jobs of a domain, by number: at most `room`; returns how many there are. */
size_t administration_jobs(struct administration *administration, uint64_t domain, struct job *jobs,
                           size_t room);

/* -ENOENT */
int administration_job(struct administration *administration, uint64_t number, struct job *job);

/* What `defaults` says of the domain: one option a line. The caller frees; NULL: out of memory. */
char *administration_defaults(struct administration *administration, const struct domain *domain);

/*
 * A frozen file is about to be opened, and options->is_open says so already: returns when nothing is being
 * merged into the layers that it reads through. It may wait for as long as stopping a merge takes.
 */
void administration_make_way(struct administration *administration, const struct frozen *frozen);

/* A frozen file was closed, and options->is_open says so: what waited for that goes on soon. Does not wait.
 */
void administration_was_closed(struct administration *administration);
