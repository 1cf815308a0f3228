// SPDX-License-Identifier: LGPL-2.1-or-later
/* The virtual sizes of foreign images; see scan_foreign.h. */
#include "catalog/scan_foreign.h"

#include <errno.h>
#include <string.h>

#include "catalog/scan_images.h"
#include "image/layer_reader.h"

static int ask_helper(const struct scan *scan, struct scan_image *image)
{
    /* It was opened once, where it may be. */
    char *const named[] = {image->path, NULL};
    const struct layer_request request = {
        .locate = scan->locate,
        .named = named,
        .path = image->path,
        .format = image->format,
    };
    struct layer_reader *reader;
    struct image_reference backing = {0};
    struct error why = {0};
    int r = layer_reader_open(&request, &reader, &backing, &why);
    if (r < 0) {
        image->size_problem = strdup(why.text);
        return image->size_problem ? 0 : -ENOMEM;
    }
    image->size = reader->size;
    layer_reader_free(reader);
    image_reference_done(&backing);
    return 0;
}

int scan_foreign_sizes(struct scan *scan, const struct scan *before)
{
    int r = 0;
    for (size_t i = 0; r == 0 && i < scan->image_count; i++) {
        struct scan_image *image = scan->images[i];
        if (image->is_remote || image_format_is_native(image->format) || !image->first->is_backing)
            continue;
        const struct scan_image *known = scan_image_before(before, image);
        if (known && known->size && file_identity_same_content(&known->identity, &image->identity))
            image->size = known->size;
        else
            r = ask_helper(scan, image);
    }
    return r;
}
