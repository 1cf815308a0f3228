// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * A running qemu-nbd and the connections to it: the life of one process, without the policy about what
 * happens when it fails (nbd_helper.h). Private to nbd_helper.c.
 *
 * A session is started and freed by one thread. Each connection is used by one thread at a time; that is for
 * the owner to see to. nbd_session_cut may be called meanwhile.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "helper/sandbox.h"
#include "image/nbd_helper.h"

struct nbd_handle;

struct nbd_session {
    const struct nbd_helper_spec *spec;
    struct helper_process process;
    struct nbd_handle *connections[NBD_HELPER_CONNECTIONS];
    int sockets[NBD_HELPER_CONNECTIONS]; /* duplicates, since libnbd closes its own when it likes */
    uint64_t size;                       /* virtual, bytes */
    bool has_map;                        /* it can tell zeros from data */
};

/* One stretch of an answer of nbd_connection_map. */
struct nbd_run {
    uint64_t length;
    bool zero;
};

struct nbd_map {
    struct nbd_run *runs; /* from the offset that was asked for on; neighbours differ in kind; owned */
    size_t count;
    size_t capacity;
};

/* Errors: those of nbd_helper_new. `spec` must outlive the session. */
int nbd_session_start(const struct nbd_helper_spec *spec, struct nbd_session **session, struct error *err);

/* Ends the process. NULL is ignored. */
void nbd_session_free(struct nbd_session *session);

/* Makes every request that is under way fail soon. Any thread. */
void nbd_session_cut(struct nbd_session *session);

/* No session of this process waits for its helper any more, and none can be started: what is under way fails
 * soon. For the end of the program, which must not wait for a helper that hangs. Any thread. */
void nbd_sessions_end(void);

/* What the process said on standard error since it was started or this was called: one line for a person. */
void nbd_session_said(struct nbd_session *session, char *text, size_t size);

/*
 * 0; -EIO: the helper answered that it can't, and the connection goes on; -ECONNRESET: the helper is gone;
 * -ETIMEDOUT: it hangs; -ECANCELED: nbd_sessions_end. After the last three the session is of no use any more.
 */
int nbd_connection_read(struct nbd_session *session, unsigned connection, uint64_t offset, void *buffer,
                        size_t length);

/* The same. Replaces what is in `map`. The runs may come to more or less than `length`. */
int nbd_connection_map(struct nbd_session *session, unsigned connection, uint64_t offset, uint64_t length,
                       struct nbd_map *map);
