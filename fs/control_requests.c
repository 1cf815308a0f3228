// SPDX-License-Identifier: LGPL-2.1-or-later
/* Open control files; see control_requests.h. */
#include "control_requests.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "administer.h"
#include "control_command.h"
#include "control_files.h"
#include "service.h"

/* --- opening --- */

struct waiting_open {
    struct control_waiter waiter; /* first: who is called is found by it */
    fuse_req_t request;
    uint64_t node;
    struct fuse_file_info file;
    atomic_uint references; /* who opens, and who answers */
    atomic_bool interrupted;
};

static void waiting_put(struct waiting_open *waiting)
{
    if (atomic_fetch_sub(&waiting->references, 1) == 1)
        free(waiting);
}

/* Gives the opener his handle. What he reads is what the file says at this moment. */
static void reply_opened(fuse_req_t request, uint64_t node, struct fuse_file_info file)
{
    struct service *service = service_of(request);
    cleanup_catalog struct catalog *catalog = catalog_service_get(service->catalog);
    struct place place;
    int result = job_tree_resolve(service->administration, catalog, node, &place);
    if (result != 0) {
        fuse_reply_err(request, -result);
        return;
    }
    struct text text = {0};
    content_render(&service->content, &place, &text);
    uint64_t handle = control_files_open(service->controls, &text);
    if (!handle) {
        fuse_reply_err(request, ENOMEM);
        return;
    }
    file.fh = service_handle(HANDLE_CONTROL, handle);
    file.direct_io = 1;
    const char *missing;
    if (fuse_reply_open(request, &file) == -ENOENT)
        control_files_close(service->controls, handle, &missing);
}

static void file_is_free(struct control_waiter *waiter, int result)
{
    struct waiting_open *waiting = (struct waiting_open *)waiter;
    fuse_req_interrupt_func(waiting->request, NULL, NULL); /* returns when `interrupted` no longer runs */
    if (result == 0)
        reply_opened(waiting->request, waiting->node, waiting->file);
    else
        fuse_reply_err(waiting->request, -result);
    waiting_put(waiting);
}

static void interrupted(fuse_req_t request, void *opaque)
{
    struct waiting_open *waiting = opaque;
    atomic_store(&waiting->interrupted, true);
    if (control_files_give_up(service_of(request)->controls, &waiting->waiter)) {
        fuse_reply_err(request, EINTR);
        waiting_put(waiting);
    }
}

static void wait_and_open(fuse_req_t request, uint64_t node, const struct fuse_file_info *file)
{
    struct service *service = service_of(request);
    struct waiting_open *waiting = calloc(1, sizeof *waiting);
    if (!waiting) {
        fuse_reply_err(request, ENOMEM);
        return;
    }
    waiting->waiter.ready = file_is_free;
    waiting->request = request;
    waiting->node = node;
    waiting->file = *file;
    atomic_init(&waiting->references, 2);
    fuse_req_interrupt_func(request, interrupted, waiting);
    int result = control_files_enter(service->controls, node, &waiting->waiter);
    if (result != -EINPROGRESS) {
        file_is_free(&waiting->waiter, result);
    } else if (atomic_load(&waiting->interrupted) &&
               control_files_give_up(service->controls, &waiting->waiter)) {
        /* Interrupted before it waited. */
        fuse_req_interrupt_func(request, NULL, NULL);
        fuse_reply_err(request, EINTR);
        waiting_put(waiting);
    }
    waiting_put(waiting);
}

void control_requests_open(fuse_req_t request, const struct place *place, const struct fuse_file_info *file)
{
    struct service *service = service_of(request);
    bool writes = (file->flags & O_ACCMODE) != O_RDONLY;
    if (!writes) {
        reply_opened(request, place->id, *file);
        return;
    }
    if (!(file->flags & O_NONBLOCK)) {
        wait_and_open(request, place->id, file);
        return;
    }
    int result = control_files_enter(service->controls, place->id, NULL);
    if (result == -EBUSY)
        refusals_note(request, place, "open", EBUSY,
                      "a command is running in this control file; open it without O_NONBLOCK to wait for it");
    if (result == 0)
        reply_opened(request, place->id, *file);
    else
        fuse_reply_err(request, -result);
}

void control_requests_read(fuse_req_t request, size_t size, uint64_t offset, uint64_t handle)
{
    cleanup_free char *buffer = malloc(size ? size : 1);
    int64_t count =
        buffer ? control_files_read(service_of(request)->controls, handle, offset, buffer, size) : -ENOMEM;
    if (count < 0)
        fuse_reply_err(request, (int)-count);
    else
        fuse_reply_buf(request, buffer, (size_t)count);
}

void control_requests_release(fuse_req_t request, fuse_ino_t id, uint64_t handle)
{
    struct service *service = service_of(request);
    const char *missing;
    control_files_close(service->controls, handle, &missing);
    cleanup_catalog struct catalog *catalog = catalog_service_get(service->catalog);
    struct place place;
    if (missing && tree_resolve(catalog, id, &place) == 0)
        refusals_note(request, &place, "a document written to create", EINVAL, missing);
    fuse_reply_err(request, 0);
}

/* --- writing --- */

/* Ends the command: `code` is 0 or a positive errno. */
static void end_command(const struct administered *result)
{
    struct service *service = result->service;
    const char *said = result->text[0] ? result->text : "done";
    struct text text = {0}, last = {0};
    text_printf(&text, "%s\n", said);
    /* A write that failed has not moved the place where whoever wrote goes on. */
    uint64_t end = result->code ? result->end - result->size : result->end;
    control_files_answer(service->controls, result->handle, &text, end);
    text_append_time(&last, time(NULL), 'T');
    text_printf(&last, "Z %s: %s", result->words, said);
    if (result->code)
        text_printf(&last, " (%s)", strerrorname_np(result->code));
    text_append_string(&last, "\n");
    control_files_finish(service->controls, result->node, &last);
}

static void reply_written(fuse_req_t request, const struct administered *result)
{
    end_command(result);
    if (result->code == 0)
        fuse_reply_write(request, result->size);
    else
        fuse_reply_err(request, result->code);
}

static void reply_flushed(fuse_req_t request, const struct administered *result)
{
    end_command(result);
    fuse_reply_err(request, result->code);
}

static void cancel_job(fuse_req_t request, const struct place *place, struct administered *result)
{
    int code = administration_cancel(result->service->administration, place->node.serial);
    if (code == 0) {
        fuse_reply_write(request, result->size);
        return;
    }
    result->code = code < 0 ? -code : code;
    result->text = result->code == EPERM ? "this job can't be cancelled" : "the job is over";
    refusals_note(request, place, result->words, result->code, result->text);
    fuse_reply_err(request, result->code);
}

/* What a definition launches runs with our rights. */
static bool may_power(fuse_req_t request)
{
    uid_t user = fuse_req_ctx(request)->uid;
    return user == geteuid() || user == 0;
}

/* All of a command: what was written, or, with `code` and a sentence, why there is none. */
struct written {
    const char *bytes;
    size_t length;
    int code;
    struct error err;
};

static void carry_out(fuse_req_t request, const struct place *place, struct written *written,
                      const struct administer_reply *reply)
{
    struct service *service = service_of(request);
    cleanup_text struct text words = {0};
    control_command_words(place, written->bytes, written->length, &words);
    struct administered result = {
        .service = service,
        .words = words.failed ? "write" : words.data,
        .node = place->id,
        .handle = reply->handle,
        .end = reply->end,
        .size = reply->size,
    };
    int code = written->code;
    if (code == 0 && place->node.kind == NODE_JOB) {
        cancel_job(request, place, &result);
        return;
    }
    struct request asked = {0};
    if (code == 0)
        code = control_command_parse(place, written->bytes, written->length, &asked, &written->err);
    asked.may_launch = may_power(request);
    control_files_begin(service->controls, place->id);
    if (code != 0) { /* it never comes to the administration */
        result.code = -code;
        result.text = written->err.text;
        refusals_note(request, place, result.words, result.code, result.text);
        invalidator_node(service->invalidator, place->id, false);
        reply->send(request, &result);
        return;
    }
    administer(request, &asked, result.words, reply);
}

void control_requests_write(fuse_req_t request, const struct place *place, const char *bytes, size_t size,
                            uint64_t offset, uint64_t handle)
{
    struct service *service = service_of(request);
    cleanup_text struct text document = {0};
    struct written written = {.bytes = bytes, .length = size};
    bool of_domain = place->node.kind == NODE_DOMAIN;
    if (service->content.read_only)
        written.code = error_set(&written.err, EROFS, "%s", refusals_read_only());
    else if (of_domain && place->node.position == DOMAIN_POWER && !may_power(request))
        written.code =
            error_set(&written.err, EPERM,
                      "only the user who mounted, and root, start and stop domains, whatever the modes say");
    else if (of_domain && place->node.position == DOMAIN_CREATE)
        written.code =
            control_files_add(service->controls, handle, bytes, size, offset + size, &document, &written.err);
    if (written.code == -EAGAIN) {
        fuse_reply_write(request, size);
        return;
    }
    if (document.length) {
        written.bytes = document.data;
        written.length = document.length;
    }
    const struct administer_reply reply = {
        .send = reply_written,
        .node = place->id,
        .handle = handle,
        .end = offset + size,
        .size = size,
    };
    carry_out(request, place, &written, &reply);
}

/* Lines of xl configuration are complete when who wrote them closes the file. Shells flush before they write,
 * too, and ignore what comes of it: a document that was begun may go on. */
void control_requests_flush(fuse_req_t request, fuse_ino_t id, uint64_t handle)
{
    struct service *service = service_of(request);
    cleanup_text struct text document = {0};
    struct administer_reply reply = {.send = reply_flushed, .node = id, .handle = handle};
    cleanup_catalog struct catalog *catalog = catalog_service_get(service->catalog);
    struct place place;
    if (!control_files_flush(service->controls, handle, &document, &reply.end)) {
        fuse_reply_err(request, 0);
        return;
    }
    if (tree_resolve(catalog, id, &place) != 0) { /* the domain is gone */
        fuse_reply_err(request, ENOENT);
        return;
    }
    struct written written = {.bytes = document.data, .length = document.length};
    carry_out(request, &place, &written, &reply);
}
