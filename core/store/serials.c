// SPDX-License-Identifier: LGPL-2.1-or-later
/* Serial numbers: counted (serials.h), or hashed where nothing can be written (store.h). */
#include "store/serials.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/hash.h"
#include "store/replace_file.h"
#include "store/store.h"

#define FILE_NAME "serials"
#define BLOCK     4096 /* more than a first mount of 40 domains with 100 snapshots needs: few waits */

int serials_init(struct serials *serials, int directory, int *found, struct error *err)
{
    char text[32] = "";
    cleanup_close int fd = openat(directory, FILE_NAME, O_RDONLY | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0 && errno != ENOENT)
        return error_set(err, errno, FILE_NAME ": %s", strerror(errno));
    ssize_t length = fd < 0 ? 0 : read(fd, text, sizeof text - 1);
    if (length < 0)
        return error_set(err, errno, FILE_NAME ": %s", strerror(errno));
    uint64_t value = 0;
    int used = 0;
    bool good = sscanf(text, "%" SCNu64 "%n", &value, &used) == 1 && text[used] == '\n' && value > 0 &&
                value < SERIAL_HASHED;
    *serials = (struct serials){.directory = directory, .next = good ? value : 1};
    serials->reserved = serials->next;
    *found = good;
    return 0;
}

void serials_skip(struct serials *serials, uint64_t used)
{
    if (used >= SERIAL_HASHED || used < serials->next)
        return;
    serials->next = used + 1;
    if (serials->reserved < serials->next)
        serials->reserved = serials->next;
}

int serials_next(struct serials *serials, uint64_t *serial, struct error *err)
{
    if (serials->next == serials->reserved) {
        if (serials->next >= SERIAL_HASHED - BLOCK)
            return error_set(err, EOVERFLOW, "all serial numbers are used up");
        char text[32];
        int length = snprintf(text, sizeof text, "%" PRIu64 "\n", serials->reserved + BLOCK);
        int r = replace_file(serials->directory, FILE_NAME, text, (size_t)length, err);
        if (r < 0)
            return r;
        serials->reserved += BLOCK;
    }
    *serial = serials->next++;
    return 0;
}

/* With a finishing mix (MurmurHash3's): no secret is needed, only few collisions. */
uint64_t store_serial_hashed(const char *kind, const char *domain, const char *name, unsigned attempt)
{
    uint64_t hash = HASH_START;
    hash = hash_bytes(hash, kind, strlen(kind) + 1);
    hash = hash_bytes(hash, domain, strlen(domain) + 1);
    hash = hash_bytes(hash, name, strlen(name) + 1);
    for (; attempt; attempt >>= 8) {
        unsigned char byte = (unsigned char)attempt;
        hash = hash_bytes(hash, &byte, 1);
    }
    hash ^= hash >> 33;
    hash *= UINT64_C(0xff51afd7ed558ccd);
    hash ^= hash >> 33;
    hash *= UINT64_C(0xc4ceb9fe1a85ec53);
    hash ^= hash >> 33;
    return (hash & (SERIAL_HASHED - 1)) | SERIAL_HASHED;
}
