// SPDX-License-Identifier: LGPL-2.1-or-later
/* Room for a change; see room.h. */
#include "administration/files/room.h"

#include "hypervisor/free_space.h"

/*
 * A new overlay has a header, a refcount table and block, and an L1 table of 8 bytes for each 512 MiB; an
 * internal snapshot has a copy of the L1 table, an entry, and refcounts of the tables that are shared from
 * then on: by a large margin.
 */
#define OVERLAY_BYTES  (512 * 1024)
#define INTERNAL_BYTES (512 * 1024)
#define L1_BYTES(size) ((size) / (512 * 1024 * 1024) * 8 * 2)

int room_for_bytes(int fd, const char *name, uint64_t bytes, struct error *err)
{
    int r = free_space_check(fd, name, "it", bytes, err);
    return r < 0 ? (error_prefix(err, "there is no room"), r) : 0;
}

int room_for_snapshot(const struct overlays *overlays, const struct internals *internals, struct error *err)
{
    uint64_t bytes = 0;
    int r = 0;
    for (size_t i = 0; i < overlays->count; i++)
        bytes += OVERLAY_BYTES + L1_BYTES(overlays->list[i].below->size);
    for (size_t i = 0; i < internals->count; i++)
        bytes += INTERNAL_BYTES + L1_BYTES(internals->list[i].info->size);
    /* As if all were in each place: too much rather than too little. */
    for (size_t i = 0; r == 0 && i < overlays->count; i++)
        r = room_for_bytes(overlays->list[i].directory, overlays->list[i].directory_path, bytes, err);
    for (size_t i = 0; r == 0 && i < internals->count; i++)
        r = room_for_bytes(internals->list[i].fd, internals->list[i].disk->active->path, bytes, err);
    return r;
}
