// SPDX-License-Identifier: LGPL-2.1-or-later
/* Any bytes as what an image says of its backing file. The first line is the format beside the name (an empty
 * one: none), the rest is the name. */
#include <stdlib.h>
#include <string.h>

#include "format/backing_name.h"
#include "format/network_name.h"
#include "fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const uint8_t *end = size ? memchr(data, '\n', size) : NULL;
    size_t format_length = end ? (size_t)(end - data) : 0, skip = end ? format_length + 1 : 0;
    char *format = strndup((const char *)data, format_length);
    char *name = strndup((const char *)data + skip, size - skip);
    struct backing_name parsed = {0};
    struct error err = {0};
    int rc = backing_name_parse(name, *format ? format : NULL, &parsed, &err);
    if (rc < 0) {
        fuzz_check(err.code == -rc && err.text[0] && !parsed.filename);
    } else {
        fuzz_check(rc == 0 && *parsed.filename && parsed.format < IMAGE_FORMAT_COUNT);
        fuzz_check(!*format || parsed.format != IMAGE_FORMAT_UNKNOWN);
        if (parsed.network) {
            struct network_name network = {0};
            fuzz_check(network_name_parse(parsed.filename, &network, NULL) == 0 && *network.label);
            network_name_done(&network);
        }
        backing_name_done(&parsed);
    }
    free(name);
    free(format);
    return 0;
}
