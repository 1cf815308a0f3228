// SPDX-License-Identifier: LGPL-2.1-or-later
/* See foreign_graph.h. The headers looked into: QEMU docs/interop/qed_spec.txt; block/qcow.c; Microsoft,
 * "Virtual Hard Disk Image Format Specification", Hard Disk Footer Format. */
#include "image/foreign_graph.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/text.h"
#include "image/nbd_helper.h"
#include "image/vmdk.h"

#define FILES_MAX (SANDBOX_FDS_MAX - 1) /* the socket is passed too */

struct builder {
    const struct layer_request *request;
    struct foreign_graph graph;
    size_t capacity;
    struct text json;
};

static void builder_done(struct builder *builder)
{
    foreign_graph_done(&builder->graph);
    text_done(&builder->json);
}

/* Grows the three arrays together. */
static int reserve(struct builder *builder)
{
    struct foreign_graph *graph = &builder->graph;
    if (graph->count < builder->capacity)
        return 0;
    size_t capacity = builder->capacity ? builder->capacity * 2 : 8;
    int *fds = realloc(graph->fds, capacity * sizeof *fds);
    if (fds)
        graph->fds = fds;
    struct file_identity *identities = realloc(graph->identities, capacity * sizeof *identities);
    if (identities)
        graph->identities = identities;
    bool *watched = realloc(graph->watched, capacity * sizeof *watched);
    if (watched)
        graph->watched = watched;
    if (!fds || !identities || !watched)
        return -ENOMEM;
    builder->capacity = capacity;
    return 0;
}

/* Adds a file; `*fd` is taken over on success. `*number` is the one that it has in the helper. */
static int add_file(struct builder *builder, int *fd, bool watched, size_t *number, struct error *err)
{
    struct stat stat;
    if (builder->graph.count == FILES_MAX)
        return error_set(err, E2BIG, "it has more than %d files", FILES_MAX);
    if (fstat(*fd, &stat) < 0)
        return error_set(err, EIO, "%s", strerror(errno));
    if (reserve(builder) < 0)
        return error_set(err, ENOMEM, "out of memory");
    size_t i = builder->graph.count++;
    builder->graph.identities[i] = file_identity_of(&stat);
    builder->graph.watched[i] = watched;
    builder->graph.fds[i] = steal_fd(fd);
    *number = NBD_HELPER_FIRST_FD + i;
    return 0;
}

/* The node of a format over the file `number`, up to the value of "backing". */
static void begin_node(struct builder *builder, enum image_format format, size_t number)
{
    struct stat stat;
    bool device =
        fstat(builder->graph.fds[number - NBD_HELPER_FIRST_FD], &stat) == 0 && S_ISBLK(stat.st_mode);
    /* QEMU's locks keep others from writing to a frozen image while it is read. An image that may change is
     * only looked at. */
    text_printf(&builder->json,
                "{\"driver\":\"%s\",\"read-only\":true,\"force-share\":%s,"
                "\"file\":{\"driver\":\"%s\",\"filename\":\"/proc/self/fd/%zu\"},\"backing\":",
                image_format_name(format), builder->request->expected ? "false" : "true",
                device ? "host_device" : "file", number);
}

/* ---- formats of one file ---- */

/* Refuses what stands on another image: read alone, it would give wrong bytes. */
static int check_header(const struct layer_request *request, int fd, struct error *err)
{
    uint8_t header[512] = {0};
    struct byte_source source = byte_source_fd(fd);
    uint64_t size;
    if (byte_source_size(&source, &size) < 0)
        return error_set(err, EIO, "its length can't be found out");
    int rc = byte_source_read(&source, 0, header, min_u64(size, sizeof header));
    bool encrypted = false, stands_on_another = false;
    switch (request->format) {
    case IMAGE_FORMAT_QCOW:
        stands_on_another = load_be64(header + 8) != 0;
        encrypted = load_be32(header + 36) != 0;
        break;
    case IMAGE_FORMAT_QED:
        stands_on_another = load_le64(header + 16) & 1;
        break;
    case IMAGE_FORMAT_VPC: /* the footer, of which dynamic and differencing disks have a copy in front */
        if (rc == 0 && memcmp(header, "conectix", 8) != 0 && size >= sizeof header)
            rc = byte_source_read(&source, size - sizeof header, header, sizeof header);
        stands_on_another = memcmp(header, "conectix", 8) == 0 && load_be32(header + 60) == 4;
        break;
    default:
        break;
    }
    if (rc < 0)
        return error_set(err, EIO, "its header can't be read: %s", strerror(-rc));
    if (encrypted)
        return error_set(err, EOPNOTSUPP, "it is encrypted, and there is no key to read it with");
    if (stands_on_another)
        return error_set(err, EOPNOTSUPP,
                         "it stands on another image, which is not followed in format %s; qemu-img convert "
                         "makes one image of both",
                         image_format_name(request->format));
    return 0;
}

static int build_single(struct builder *builder, int fd, size_t number, struct error *err)
{
    int rc = check_header(builder->request, fd, err);
    if (rc < 0)
        return rc;
    begin_node(builder, builder->request->format, number);
    text_append_string(&builder->json, "null}");
    return 0;
}

/* ---- vmdk: extents and parents ---- */

/* The absolute path of what the image at `path` calls `name`; to be freed. */
static int resolve(const char *path, const char *name, char **resolved, struct error *err)
{
    /* What QEMU would take for a protocol (json:, nbd:, fat:, C:). */
    if (name[strcspn(name, ":/")] == ':')
        return error_set(err, EPERM, "it names \"%.100s\", which is no plain file", name);
    const char *slash = strrchr(path, '/');
    struct text text = {0};
    if (*name != '/' && slash)
        text_append(&text, path, (size_t)(slash - path) + 1);
    text_append_string(&text, name);
    char *made = text_steal(&text);
    if (!made)
        return error_set(err, ENOMEM, "out of memory");
    *resolved = made;
    return 0;
}

/* Opens what `path` names, if it may be read. */
static int open_named(struct builder *builder, const char *path, const char *name, char **resolved, int *fd,
                      struct error *err)
{
    int rc = resolve(path, name, resolved, err);
    return rc < 0 ? rc : locate_open(builder->request->locate, builder->request->named, *resolved, fd, err);
}

static int add_extent(struct builder *builder, const char *path, const struct vmdk_extent *extent,
                      struct error *err)
{
    cleanup_free char *extent_path = NULL;
    cleanup_close int fd = -1;
    size_t number;
    int rc = open_named(builder, path, extent->name, &extent_path, &fd, err);
    if (rc < 0)
        return rc;
    if (strcmp(extent->type, "SPARSE") == 0 || strcmp(extent->type, "VMFSSPARSE") == 0) {
        struct byte_source source = byte_source_fd(fd);
        rc = vmdk_check_sparse(&source, err);
        if (rc < 0) {
            error_prefix(err, "%.150s", extent_path);
            return rc;
        }
    }
    return add_file(builder, &fd, true, &number, err);
}

/* Adds the extents, and the descriptor that says where they are now; its number is told. */
static int add_extents(struct builder *builder, const char *path, const struct vmdk *vmdk, size_t *number,
                       struct error *err)
{
    size_t first = NBD_HELPER_FIRST_FD + builder->graph.count;
    for (size_t i = 0; i < vmdk->extent_count; i++) {
        int rc = add_extent(builder, path, &vmdk->extents[i], err);
        if (rc < 0)
            return rc;
    }
    cleanup_text struct text descriptor = {0};
    vmdk_rewrite(vmdk, (unsigned)first, &descriptor);
    if (descriptor.failed)
        return error_set(err, ENOMEM, "out of memory");
    cleanup_close int fd = memfd_create("descriptor", MFD_CLOEXEC);
    if (fd < 0 || write(fd, descriptor.data, descriptor.length) != (ssize_t)descriptor.length)
        return error_set(err, ENOMEM, "no memory for a descriptor: %s", strerror(errno));
    return add_file(builder, &fd, false, number, err);
}

/* One image of the chain, whose file is open as `number`. `*parent` (its path) and `*parent_number` are set
 * where it has a parent. */
static int build_vmdk_node(struct builder *builder, const char *path, size_t number, char **parent,
                           size_t *parent_number, struct error *err)
{
    cleanup(vmdk_done) struct vmdk vmdk = {0};
    struct byte_source source = byte_source_fd(builder->graph.fds[number - NBD_HELPER_FIRST_FD]);
    int rc = vmdk_read(&source, &vmdk, err);
    if (rc == 0 && !vmdk.single)
        rc = add_extents(builder, path, &vmdk, &number, err);
    if (rc < 0)
        return rc;
    begin_node(builder, IMAGE_FORMAT_VMDK, number);
    if (!vmdk.parent_name)
        return 0;
    cleanup_free char *parent_path = NULL;
    cleanup_close int fd = -1;
    rc = open_named(builder, path, vmdk.parent_name, &parent_path, &fd, err);
    if (rc == 0)
        rc = add_file(builder, &fd, true, parent_number, err);
    if (rc == 0)
        *parent = steal_pointer(parent_path);
    return rc;
}

static int build_vmdk(struct builder *builder, size_t number, struct error *err)
{
    cleanup_free char *path = strdup(builder->request->path);
    size_t depth = 0;
    while (path) {
        char *parent = NULL;
        if (++depth > FOREIGN_PARENTS_MAX)
            return error_set(err, ELOOP, "it stands on more than %d images, or on itself",
                             FOREIGN_PARENTS_MAX);
        int rc = build_vmdk_node(builder, path, number, &parent, &number, err);
        if (rc < 0) {
            if (depth > 1)
                error_prefix(err, "%.150s", path);
            return rc;
        }
        free(path);
        path = parent;
    }
    if (depth == 0)
        return error_set(err, ENOMEM, "out of memory");
    text_append_string(&builder->json, "null");
    while (depth-- > 0)
        text_append_string(&builder->json, "}");
    return 0;
}

/* ---- */

int foreign_graph_build(const struct layer_request *request, int fd, struct foreign_graph *graph,
                        struct error *err)
{
    cleanup(builder_done) struct builder builder = {.request = request};
    size_t number;
    int image_fd = fd;
    int rc = add_file(&builder, &image_fd, true, &number, err);
    if (rc == 0 && request->expected)
        builder.graph.identities[0] = *request->expected;
    if (rc == 0)
        rc = request->format == IMAGE_FORMAT_VMDK ? build_vmdk(&builder, number, err)
                                                  : build_single(&builder, fd, number, err);
    if (rc == 0 && builder.json.failed)
        rc = error_set(err, ENOMEM, "out of memory");
    if (rc < 0) {
        if (builder.graph.count > 0)
            builder.graph.fds[0] = -1; /* it stays the caller's */
        error_prefix(err, "%.150s", request->path);
        return rc;
    }
    builder.graph.json = text_steal(&builder.json);
    *graph = builder.graph;
    builder.graph = (struct foreign_graph){0};
    return 0;
}

void foreign_graph_done(struct foreign_graph *graph)
{
    for (size_t i = 0; i < graph->count; i++)
        if (graph->fds[i] >= 0)
            close(graph->fds[i]);
    free(graph->fds);
    free(graph->identities);
    free(graph->watched);
    free(graph->json);
    *graph = (struct foreign_graph){0};
}

int foreign_graph_check(const struct foreign_graph *graph)
{
    for (size_t i = 0; i < graph->count; i++) {
        struct stat stat;
        if (!graph->watched[i])
            continue;
        if (fstat(graph->fds[i], &stat) < 0)
            return -EIO;
        struct file_identity now = file_identity_of(&stat);
        if (!file_identity_same_content(&now, &graph->identities[i]))
            return -EIO;
    }
    return 0;
}
