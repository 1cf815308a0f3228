// SPDX-License-Identifier: LGPL-2.1-or-later
/* tree.txt: a domain's snapshots, drawn as a tree. Pure; any thread. */
#pragma once

#include "base/text.h"
#include "domain/domain.h"

/* Appends one line a snapshot: its branch, name, time, and what is worth knowing; children by age under their
 * parent. */
void tree_drawing_render(const struct domain *domain, struct text *text);
