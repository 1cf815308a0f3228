// SPDX-License-Identifier: LGPL-2.1-or-later
/* Runs a fuzz target over every file of the directories (and over the files) that are given. Without any
 * input it fails: a corpus that was not found proves nothing. */
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "fuzz.h"

static int replay_file(const char *path)
{
    cleanup_fclose FILE *file = fopen(path, "rb");
    cleanup_free char *data = NULL;
    size_t size = 0, capacity = 0;
    if (!file) {
        perror(path);
        return -1;
    }
    for (;;) {
        if (size == capacity) {
            capacity = capacity ? capacity * 2 : 4096;
            char *grown = realloc(data, capacity);
            if (!grown)
                return -1;
            data = grown;
        }
        size_t count = fread(data + size, 1, capacity - size, file);
        if (count == 0)
            break;
        size += count;
    }
    printf("%s (%zu bytes)\n", path, size);
    fflush(stdout);
    /* In a block of just its size, so that the sanitizers see what reads beyond it. */
    uint8_t *exact = malloc(size ? size : 1);
    if (!exact)
        return -1;
    if (size)
        memcpy(exact, data, size);
    LLVMFuzzerTestOneInput(exact, size);
    free(exact);
    return 0;
}

static int no_dots(const struct dirent *entry)
{
    return entry->d_name[0] != '.';
}

int main(int argc, char **argv)
{
    unsigned inputs = 0;
    for (int i = 1; i < argc; i++) {
        struct dirent **entries;
        int count = scandir(argv[i], &entries, no_dots, alphasort);
        if (count < 0) {
            if (replay_file(argv[i]) < 0)
                return 1;
            inputs++;
            continue;
        }
        int rc = 0;
        for (int j = 0; j < count; j++) {
            char path[4096];
            snprintf(path, sizeof path, "%s/%s", argv[i], entries[j]->d_name);
            free(entries[j]);
            if (rc == 0)
                rc = replay_file(path);
            inputs++;
        }
        free(entries);
        if (rc < 0)
            return 1;
    }
    if (!inputs)
        fprintf(stderr, "no inputs\n");
    return inputs == 0;
}
