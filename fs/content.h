// SPDX-License-Identifier: LGPL-2.1-or-later
/* What the small files say. From a catalog to text; opens no image. */
#pragma once

#include "administration/administration.h"
#include "base/text.h"
#include "control_files.h"
#include "events.h"
#include "last_error.h"
#include "machine/machines.h"
#include "tree.h"

/* Digits of unique_bytes, padded on the left, so that its length is known without opening an image. */
#define UNIQUE_BYTES_DIGITS 20

/* What the texts need beside the catalog. Borrowed. */
struct content_source {
    const char *source;     /* SOURCE, resolved */
    const char *mountpoint; /* as it was given */
    bool read_only;
    struct last_errors *last_errors;
    struct events *events;
    struct control_files *controls;
    struct administration *administration;
    struct machines *machines;
};

/*
 * Appends the content of a small file. The content of unique_bytes is not here (unique.h counts it): its
 * place is taken by a zero of the right width, which is all that its length needs.
 */
void content_render(const struct content_source *source, const struct place *place, struct text *text);
