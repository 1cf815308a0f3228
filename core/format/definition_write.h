// SPDX-License-Identifier: LGPL-2.1-or-later
/* A domain's definition as a person would write it (definition.h reads it). Pure. */
#pragma once

#include "base/text.h"
#include "format/definition.h"

/* Appends the document; what is as it would be anyway is left out. `text->failed` tells where memory ran out.
 */
void definition_write(struct text *text, const struct definition *definition);
