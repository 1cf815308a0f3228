// SPDX-License-Identifier: LGPL-2.1-or-later
/* Requests that the administration carries out; see administer.h. */
#include "administer.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct pending {
    struct invalidator_call call; /* first: what is called is found by it */
    fuse_req_t request;
    struct administer_reply reply;
    uint64_t number;
    uint64_t domain;
    pid_t pid;
    char *text;
    struct administered result;
    char *words;
    atomic_uint references; /* who submits, and who answers */
    atomic_bool interrupted;
};

static void pending_put(struct pending *pending)
{
    if (atomic_fetch_sub(&pending->references, 1) != 1)
        return;
    free(pending->text);
    free(pending->words);
    free(pending);
}

/* The kernel was told. */
static void answer(struct invalidator_call *call)
{
    struct pending *pending = (struct pending *)call;
    fuse_req_interrupt_func(pending->request, NULL, NULL); /* returns when `interrupted` no longer runs */
    pending->reply.send(pending->request, &pending->result);
    if (pending->reply.directory)
        invalidator_unlocked(pending->result.service->invalidator, pending->reply.directory);
    pending_put(pending);
}

/* Does not reply: this may be a thread that libfuse runs `interrupted` in, which keeps the request locked. */
static void done(void *opaque, const struct request_result *result)
{
    struct pending *pending = opaque;
    /* Programs begin a call again that was EINTR without a signal of theirs. */
    bool cancelled = result->code == EINTR && !atomic_load(&pending->interrupted);
    pending->text = strdup(result->text);
    pending->result.code = cancelled ? ECANCELED : result->code;
    pending->result.text = pending->text ? pending->text : "";
    pending->result.serial = result->serial;
    if (result->code != 0)
        last_errors_add(pending->result.service->last_errors, pending->domain, pending->pid, pending->words,
                        pending->result.code, result->text);
    if (pending->reply.node)
        invalidator_node(pending->result.service->invalidator, pending->reply.node, false);
    invalidator_after(pending->result.service->invalidator, &pending->call);
}

static void interrupted(fuse_req_t request, void *opaque)
{
    struct pending *pending = opaque;
    atomic_store(&pending->interrupted, true);
    administration_cancel(pending->result.service->administration, pending->number);
}

static void refuse_for_memory(fuse_req_t request, struct service *service,
                              const struct administer_reply *reply)
{
    const struct administered result = {
        .service = service,
        .code = ENOMEM,
        .text = "out of memory",
        .words = "",
        .node = reply->node,
        .handle = reply->handle,
        .end = reply->end,
        .size = reply->size,
    };
    reply->send(request, &result);
}

void administer(fuse_req_t request, const struct request *asked, const char *words,
                const struct administer_reply *reply)
{
    struct service *service = service_of(request);
    struct request *copy = calloc(1, sizeof *copy);
    struct pending *pending = calloc(1, sizeof *pending);
    char *pending_words = strdup(words), *copy_words = strdup(words);
    if (copy)
        *copy = *asked;
    if (!copy || !pending || !pending_words || !copy_words) {
        free(copy_words);
        free(pending_words);
        free(pending);
        if (copy)
            request_free(copy);
        refuse_for_memory(request, service, reply);
        return;
    }
    *pending = (struct pending){
        .call.run = answer,
        .request = request,
        .reply = *reply,
        .number = administration_number(service->administration),
        .domain = asked->domain,
        .pid = fuse_req_ctx(request)->pid,
        .words = pending_words,
        .result =
            {
                .service = service,
                .words = pending_words,
                .node = reply->node,
                .handle = reply->handle,
                .end = reply->end,
                .size = reply->size,
            },
        .references = 2,
    };
    copy->words = copy_words;
    copy->pid = pending->pid;
    copy->done = done;
    copy->opaque = pending;
    if (reply->directory)
        invalidator_locked(service->invalidator, reply->directory);
    fuse_req_interrupt_func(request, interrupted, pending);
    administration_submit(service->administration, pending->number, copy);
    /* Who interrupted before there was anything to cancel is heard now. */
    if (atomic_load(&pending->interrupted))
        administration_cancel(service->administration, pending->number);
    pending_put(pending);
}
