// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * A FUSE request that the administration carries out: handed over at once, so that no thread that answers
 * requests waits, and answered when it is done and the kernel was told what changed. Interrupting the request
 * cancels what was asked for; what became of it is the answer even then: EINTR, if it was undone. What others
 * cancelled is ECANCELED.
 */
#pragma once

#include "administration/administration.h"
#include "fuse.h"
#include "service.h"

/* What came of it, for the reply. */
struct administered {
    struct service *service;
    int code; /* 0 or a positive errno */
    const char *text;
    const char *words;
    uint64_t serial;            /* as in struct request_result */
    uint64_t node, handle, end; /* as given */
    size_t size;
};

struct administer_reply {
    void (*send)(fuse_req_t request, const struct administered *result);
    uint64_t directory;         /* that the kernel has locked until the reply; 0: none */
    uint64_t node, handle, end; /* for `send` */
    size_t size;
};

/*
 * `asked` is filled but for its words, who asks, and done; what it owns is taken over. `words` is what was
 * done, for people. Every failure stands in last_error before the reply.
 */
void administer(fuse_req_t request, const struct request *asked, const char *words,
                const struct administer_reply *reply);
