// SPDX-License-Identifier: LGPL-2.1-or-later
/* One line; see line.h. */
#include "line.h"

#include <string.h>

#include "base/utf8.h"

void line_append(struct text *text, const char *string)
{
    size_t left = strlen(string);
    for (size_t step; left; string += step, left -= step) {
        uint32_t code = 0;
        step = utf8_decode(string, left, &code);
        bool plain = step && code >= 0x20 && (code < 0x7f || code >= 0xa0);
        text_append(text, plain ? string : "?", plain ? step : 1);
        step = step ? step : 1;
    }
}
