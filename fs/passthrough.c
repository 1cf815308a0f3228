// SPDX-License-Identifier: LGPL-2.1-or-later
/* FUSE passthrough; see passthrough.h. */
#include "passthrough.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdint.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/uio.h>
#include <unistd.h>

#include "base/log.h"

static _Atomic bool available;

#if FUSE_VERSION >= FUSE_MAKE_VERSION(3, 17)

int passthrough_attach(struct fuse_session *session)
{
    return 0;
}

void passthrough_init(struct fuse_conn_info *connection)
{
    if (geteuid() != 0 || !(connection->capable & FUSE_CAP_PASSTHROUGH))
        return;
    connection->want |= FUSE_CAP_PASSTHROUGH;
    connection->max_backing_stack_depth = 1;
    atomic_store(&available, true);
}

int passthrough_register(fuse_req_t request, int fd)
{
    if (!atomic_load(&available))
        return 0;
    int id = fuse_passthrough_open(request, fd);
    return id > 0 ? id : 0;
}

void passthrough_unregister(fuse_req_t request, int id)
{
    fuse_passthrough_close(request, id);
}

int passthrough_reply_open(fuse_req_t request, struct fuse_file_info *file, int id)
{
    file->backing_id = id;
    return fuse_reply_open(request, file);
}

#else

/* From linux/fuse.h, protocol 7.40: newer than the header that such a libfuse was built with. */
struct backing_map {
    int32_t fd;
    uint32_t flags;
    uint64_t padding;
};
#define DEV_IOC_BACKING_OPEN  _IOW(229, 1, struct backing_map)
#define DEV_IOC_BACKING_CLOSE _IOW(229, 2, uint32_t)

#define OPCODE_INIT        26
#define INIT_EXT           (1U << 30)
#define PASSTHROUGH_FLAGS2 (1U << (37 - 32)) /* FUSE_PASSTHROUGH, bit 37, in the upper word */
#define OPEN_PASSTHROUGH   (1U << 7)         /* FOPEN_PASSTHROUGH */

struct in_header {
    uint32_t length, opcode;
    uint64_t unique;
};

struct init_in { /* after a header of 40 bytes */
    uint32_t major, minor, max_readahead, flags, flags2;
};
#define IN_HEADER_BYTES    40

struct out_header {
    uint32_t length;
    int32_t error;
    uint64_t unique;
};

struct init_out {
    uint32_t major, minor, max_readahead, flags;
    uint16_t max_background, congestion_threshold;
    uint32_t max_write, time_gran;
    uint16_t max_pages, map_alignment;
    uint32_t flags2, max_stack_depth;
};

struct open_out {
    uint64_t fh;
    uint32_t open_flags;
    int32_t backing_id;
};

static int device_fd = -1;
static _Atomic uint64_t
    init_unique; /* of the INIT request that offers passthrough; 0: none waits for its reply */
static _Thread_local int reply_backing_id; /* for the OPEN reply that this thread sends next */

static ssize_t hook_read(int fd, void *buffer, size_t length, void *opaque)
{
    ssize_t count = read(fd, buffer, length);
    const struct in_header *header = buffer;
    if (count >= (ssize_t)(IN_HEADER_BYTES + sizeof(struct init_in)) && header->opcode == OPCODE_INIT) {
        const void *body = (const char *)buffer + IN_HEADER_BYTES;
        const struct init_in *init = body;
        if (geteuid() == 0 && (init->flags & INIT_EXT) && (init->flags2 & PASSTHROUGH_FLAGS2))
            atomic_store(&init_unique, header->unique);
    }
    return count;
}

static ssize_t hook_writev(int fd, struct iovec *parts, int count, void *opaque)
{
    const struct out_header *header = parts[0].iov_base;
    if (count > 1 && header->error == 0) {
        uint64_t waiting = atomic_load(&init_unique);
        if (waiting && header->unique == waiting && parts[1].iov_len >= sizeof(struct init_out)) {
            struct init_out *init = parts[1].iov_base;
            init->flags |= INIT_EXT;
            init->flags2 |= PASSTHROUGH_FLAGS2;
            init->max_stack_depth = 1;
            atomic_store(&init_unique, 0);
            atomic_store(&available, true);
        } else if (reply_backing_id && parts[1].iov_len == sizeof(struct open_out)) {
            struct open_out *open = parts[1].iov_base;
            open->open_flags |= OPEN_PASSTHROUGH;
            open->backing_id = reply_backing_id;
            reply_backing_id = 0;
        }
    }
    ssize_t sent = writev(fd, parts, count);
    /* What the kernel can't take back of a name that went is no fault; libfuse would print it. */
    if (sent < 0 && header->unique == 0 && (errno == ENOTEMPTY || errno == EBUSY))
        errno = ENOENT;
    return sent;
}

int passthrough_attach(struct fuse_session *session)
{
    static const struct fuse_custom_io io = {.read = hook_read, .writev = hook_writev};
    device_fd = fuse_session_fd(session);
    return fuse_session_custom_io(session, &io, device_fd);
}

void passthrough_init(struct fuse_conn_info *connection)
{
    /* The hook decides, on the reply. */
}

int passthrough_register(fuse_req_t request, int fd)
{
    if (!atomic_load(&available))
        return 0;
    struct backing_map map = {.fd = fd};
    int id = ioctl(device_fd, DEV_IOC_BACKING_OPEN, &map);
    if (id <= 0)
        log_debug("no passthrough: %s", strerror(errno));
    return id > 0 ? id : 0;
}

void passthrough_unregister(fuse_req_t request, int id)
{
    uint32_t backing_id = (uint32_t)id;
    ioctl(device_fd, DEV_IOC_BACKING_CLOSE, &backing_id);
}

int passthrough_reply_open(fuse_req_t request, struct fuse_file_info *file, int id)
{
    reply_backing_id = id;
    int result = fuse_reply_open(request, file);
    reply_backing_id = 0;
    return result;
}

#endif
