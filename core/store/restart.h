// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * What a domain is to do whose QEMU an operation ends or starts: written down before, so that whoever comes
 * after a crash has it go on, be it from where it was (the operation has not happened) or from where it went
 * (it has: the domain's state is of that operation).
 *
 *     .vmsnapfs/domains/N.restart     of the domain with serial N
 *
 * Replaced whole, as all that the store keeps. Used by whoever owns the domain's lane.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

struct store;

enum restart_state { RESTART_SHUTOFF, RESTART_PAUSED, RESTART_RUNNING, RESTART_STATE_COUNT };

struct restart {
    uint64_t domain;    /* serial */
    uint64_t operation; /* serial */

    /* Where it was. */
    enum restart_state before;
    char *memory;  /* absolute path of the file that its memory is put aside in; NULL: nowhere */
    bool is_saved; /* all of it is there, and durable: the QEMU may be ended */
    char **launch; /* what its machine is; NULL-terminated; NULL with RESTART_SHUTOFF */
    bool events, pause_before_switchover; /* as its QEMU had them before its memory was saved */
    uint64_t bandwidth;                   /* likewise, bytes a second */

    /* Where it goes. */
    enum restart_state after;
    uint64_t snapshot; /* serial of the one that it gets its memory from; 0: from none */
    bool has_run;      /* its new QEMU has that memory, and may have run with it: never load it again */
};

void restart_done(struct restart *restart);

/* Durably. Errors: as store_save. */
int store_save_restart(struct store *store, const struct restart *restart, struct error *err);

/* The caller's. Errors: ENOENT, without a text: there is none; EIO, EINVAL and others for one that can't be
 * read, with a text. */
int store_read_restart(struct store *store, uint64_t domain, struct restart *restart, struct error *err);

/* Durably; 0 also where there is none. Errors: what unlink and fsync give. */
int store_remove_restart(struct store *store, uint64_t domain, struct error *err);

/* The domains that have one, for the caller to free; `*count` of them. -ENOMEM, -EIO. */
int store_list_restarts(struct store *store, uint64_t **domains, size_t *count);
