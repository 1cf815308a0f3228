// SPDX-License-Identifier: LGPL-2.1-or-later
/* Opening one layer, whatever its format; see layer_reader.h. */
#include "image/layer_reader.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/cleanup.h"

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
    if (ret == 0)
        steal_fd(&fd);
    return ret;
}

void layer_reader_free(struct layer_reader *reader)
{
    if (reader)
        reader->ops->free(reader);
}
