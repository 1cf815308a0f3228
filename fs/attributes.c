// SPDX-License-Identifier: LGPL-2.1-or-later
/* What stat shows; see attributes.h. */
#include "attributes.h"

#include "base/bytes.h"
#include "job_tree.h"

#define SECTOR UINT64_C(512)

static uint64_t frozen_blocks(const struct frozen *frozen)
{
    uint64_t length = frozen->size / SECTOR + (frozen->size % SECTOR != 0);
    uint64_t allocated = atomic_load_explicit(&frozen->allocated, memory_order_relaxed);
    if (allocated != ALLOCATED_UNKNOWN)
        return min_u64(allocated / SECTOR + (allocated % SECTOR != 0), length);
    return length > 1 ? length - 1 : length;
}

static uint64_t text_size(const struct content_source *content, const struct place *place)
{
    if (place->node.kind == NODE_DOMAIN && place->node.position == DOMAIN_EVENTS)
        return events_size(content->events, place->domain->serial);
    cleanup_text struct text text = {0};
    if (place->type == ENTRY_LINK)
        tree_link_target(place, &text);
    else
        content_render(content, place, &text);
    return text.length;
}

/* When the thing was last different: a snapshot's creation, for a domain that of its latest snapshot. */
static struct timespec time_of(const struct attribute_options *options, const struct place *place)
{
    if (place->snapshot)
        return place->snapshot->created;
    if (place->domain && place->domain->latest)
        return place->domain->latest->created;
    return options->started;
}

double attributes_of(const struct attribute_options *options, const struct content_source *content,
                     const struct place *place, struct stat *attributes)
{
    *attributes = (struct stat){
        .st_ino = place->id,
        .st_nlink = 1,
        .st_uid = options->uid,
        .st_gid = options->gid,
        .st_blksize = 4096,
    };
    attributes->st_mtim = attributes->st_ctim = attributes->st_atim = time_of(options, place);

    switch (place->type) {
    case ENTRY_DIRECTORY:
        attributes->st_mode = S_IFDIR | options->directory_mode;
        return job_tree_is_fleeting(place) ? 0 : KEEP_LONG_SEC;
    case ENTRY_FROZEN:
        attributes->st_mode = S_IFREG | options->disk_mode;
        attributes->st_size = (off_t)place->frozen->size;
        attributes->st_blocks = (blkcnt_t)frozen_blocks(place->frozen);
        attributes->st_blksize = (blksize_t)MIB;
        return KEEP_LONG_SEC;
    case ENTRY_LINK:
        attributes->st_mode = S_IFLNK | 0777;
        break;
    case ENTRY_CONTROL:
        attributes->st_mode = S_IFREG | options->control_mode;
        break;
    case ENTRY_FILE:
    case ENTRY_DYNAMIC:
        attributes->st_mode = S_IFREG | (0444 & options->directory_mode);
        break;
    }
    uint64_t size = text_size(content, place);
    attributes->st_size = (off_t)size;
    attributes->st_blocks = (blkcnt_t)((size + SECTOR - 1) / SECTOR);
    if (place->type != ENTRY_DYNAMIC)
        return job_tree_is_fleeting(place) ? 0 : KEEP_LONG_SEC;
    clock_gettime(CLOCK_REALTIME, &attributes->st_mtim);
    attributes->st_ctim = attributes->st_mtim;
    return 0;
}
