// SPDX-License-Identifier: LGPL-2.1-or-later
/* The content of unique_bytes: counted when the file is opened, since it takes reading tables. May take long.
 */
#pragma once

#include "base/error.h"
#include "base/text.h"
#include "image/locate.h"
#include "image/unique.h"
#include "tree.h"

/* Appends the number and a newline, as wide as content_render says. Errors: those of unique_bytes_count. */
int unique_bytes_render(const struct locate *locate, const struct catalog *catalog, const struct place *place,
                        const struct unique_stop *stop, struct text *text, struct error *err);
