// SPDX-License-Identifier: LGPL-2.1-or-later
/* Which store it is; see identity.h. */
#include "store/identity.h"

#include <errno.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "store/replace_file.h"

#define BYTES_MAX 64

static bool read_it(int top, uint64_t inode, uint64_t *identity)
{
    cleanup_free char *bytes = NULL;
    size_t length;
    uint64_t found, of;
    int used = 0;
    if (replace_file_read(top, "identity", BYTES_MAX, &bytes, &length, NULL) < 0 ||
        sscanf(bytes, "%16" SCNx64 " %" SCNu64 "%n", &found, &of, &used) != 2 || bytes[used] != '\n' ||
        found == 0 || of != inode)
        return false;
    *identity = found;
    return true;
}

uint64_t identity_find(int top)
{
    struct stat stat = {0};
    uint64_t identity = 0;
    fstat(top, &stat);
    if (read_it(top, stat.st_ino, &identity))
        return identity;
    if (getrandom(&identity, sizeof identity, 0) != (ssize_t)sizeof identity || identity == 0)
        identity = ((uint64_t)time(NULL) << 24) | ((uint64_t)getpid() & 0xffffff);
    char text[BYTES_MAX];
    struct error why;
    int length = snprintf(text, sizeof text, "%016" PRIx64 " %" PRIu64 "\n", identity, (uint64_t)stat.st_ino);
    if (replace_file(top, "identity", text, (size_t)length, &why) < 0)
        log_warning("the store can't keep its identity, so what this mount leaves when it is killed is not "
                    "removed by the next: %s",
                    why.text);
    return identity;
}
