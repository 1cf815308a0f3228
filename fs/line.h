// SPDX-License-Identifier: LGPL-2.1-or-later
/* What anybody may have written, as one line of a file that people and programs read. Pure; any thread. */
#pragma once

#include "base/text.h"

/* Appends the string as UTF-8 without control characters: what is neither becomes a question mark. */
void line_append(struct text *text, const char *string);
