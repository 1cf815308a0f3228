// SPDX-License-Identifier: LGPL-2.1-or-later
/* The live file; see event_requests.h. Waking a poller takes no lock that waits for anything. */
#include "event_requests.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>

#include "events.h"
#include "service.h"

void event_requests_open(fuse_req_t request, const struct place *place, struct fuse_file_info *file)
{
    struct events *events = service_of(request)->events;
    uint64_t handle = events_open(events, place->domain->serial);
    if (!handle) {
        fuse_reply_err(request, ENOMEM);
        return;
    }
    file->fh = service_handle(HANDLE_EVENTS, handle);
    file->direct_io = 1;
    if (fuse_reply_open(request, file) == -ENOENT)
        events_close(events, handle);
}

void event_requests_read(fuse_req_t request, size_t size, uint64_t offset, uint64_t handle)
{
    cleanup_free char *buffer = malloc(size ? size : 1);
    int64_t count = buffer ? events_read(service_of(request)->events, handle, offset, buffer, size) : -ENOMEM;
    if (count < 0)
        fuse_reply_err(request, (int)-count);
    else
        fuse_reply_buf(request, buffer, (size_t)count);
}

void event_requests_release(fuse_req_t request, uint64_t handle)
{
    events_close(service_of(request)->events, handle);
    fuse_reply_err(request, 0);
}

void event_requests_wake(void *waiter, bool happened)
{
    struct fuse_pollhandle *poller = waiter;
    if (happened)
        fuse_lowlevel_notify_poll(poller);
    fuse_pollhandle_destroy(poller);
}

static void do_poll(fuse_req_t request, fuse_ino_t id, struct fuse_file_info *file,
                    struct fuse_pollhandle *poller)
{
    unsigned ready = POLLIN | POLLRDNORM | POLLOUT | POLLWRNORM;
    if (service_handle_kind(file->fh) == HANDLE_EVENTS) {
        if (!events_poll(service_of(request)->events, service_handle_number(file->fh), poller))
            ready = 0;
        else
            ready = POLLIN | POLLRDNORM;
    } else if (poller) {
        fuse_pollhandle_destroy(poller);
    }
    fuse_reply_poll(request, ready);
}

void event_requests_add(struct fuse_lowlevel_ops *ops)
{
    ops->poll = do_poll;
}
