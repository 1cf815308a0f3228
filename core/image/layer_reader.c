// SPDX-License-Identifier: LGPL-2.1-or-later
/* Opening one layer, whatever its format; see layer_reader.h. */
#include "image/layer_reader.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "base/monotonic.h"
#include "image/layer_lock.h"

#define LOOK_MS 20

/*
 * From now on who would change the file sees that it is read; who is changing it gives way, and is waited
 * for. What the file is is looked at after that.
 */
static int lock(const struct layer_request *request, int fd, bool *is_locked, struct error *err)
{
    int ret = layer_lock_take(fd, LAYER_LOCK_READ);
    if (ret < 0) {
        log_debug("%s: it can't be locked: %s", request->path, strerror(-ret));
        return 0; /* then each read is checked */
    }
    int64_t end = monotonic_ms() + LAYER_WAIT_MS;
    while (layer_lock_is_taken(fd, LAYER_LOCK_CHANGE)) {
        if (monotonic_ms() >= end)
            return error_set(err, EBUSY, "%s: another mount is changing it", request->path);
        poll(NULL, 0, LOOK_MS);
    }
    *is_locked = true;
    return 0;
}

static int check_expected(const struct layer_request *request, int fd, struct error *err)
{
    struct stat stat;
    if (!request->expected)
        return 0;
    if (fstat(fd, &stat) < 0)
        return error_set(err, EIO, "%s: %s", request->path, strerror(errno));
    struct file_identity now = file_identity_of(&stat);
    if (!file_identity_same_content(&now, request->expected))
        return error_set(err, EIO, "%s: changed by someone else since it was frozen", request->path);
    return 0;
}

static int open_remote(const struct layer_request *request, struct layer_reader **reader,
                       struct image_reference *backing, struct error *err)
{
    int ret = locate_network(request->named, request->path, err);
    if (ret < 0)
        return ret;
    if (request->format != IMAGE_FORMAT_RAW)
        return error_set(err, EOPNOTSUPP, "%s: format %s is not read over the network, only raw is",
                         request->path, image_format_name(request->format));
    ret = network_reader_open(request, reader, err);
    if (ret == 0)
        *backing = (struct image_reference){0};
    return ret;
}

int layer_reader_open(const struct layer_request *request, struct layer_reader **reader,
                      struct image_reference *backing, struct error *err)
{
    cleanup_close int fd = -1;
    if (request->remote)
        return open_remote(request, reader, backing, err);
    if (request->format == IMAGE_FORMAT_UNKNOWN)
        return error_set(err, EINVAL, "%s: nothing says what format it has", request->path);
    if (request->format == IMAGE_FORMAT_LUKS)
        return error_set(err, EOPNOTSUPP, "%s: is encrypted, and there is no key to read it with",
                         request->path);
    if (request->internal && request->format != IMAGE_FORMAT_QCOW2)
        return error_set(err, EINVAL, "%s: there are no internal snapshots in format %s", request->path,
                         image_format_name(request->format));
    int ret = locate_open(request->locate, request->named, request->path, &fd, err);
    if (ret < 0)
        return ret;
    bool is_locked = false;
    if (request->locks)
        ret = lock(request, fd, &is_locked, err);
    if (ret == 0)
        ret = check_expected(request, fd, err);
    if (ret < 0)
        return ret;

    struct image_reference none = {0};
    switch (request->format) {
    case IMAGE_FORMAT_QCOW2:
        ret = qcow2_reader_open(request, fd, reader, backing, err);
        break;
    case IMAGE_FORMAT_RAW:
        ret = raw_reader_open(request, fd, reader, err);
        if (ret == 0)
            *backing = none;
        break;
    default: /* the helper follows what these formats stand on */
        ret = foreign_reader_open(request, fd, reader, err);
        if (ret == 0)
            *backing = none;
        break;
    }
    if (ret < 0)
        return ret;
    (*reader)->is_locked = is_locked && request->expected;
    steal_fd(&fd);
    return 0;
}

void layer_reader_free(struct layer_reader *reader)
{
    if (reader)
        reader->ops->free(reader);
}
