// SPDX-License-Identifier: LGPL-2.1-or-later
/* What the other files of a store need of it. Inside of store/. */
#pragma once

struct store;

/* Its directory "domains", borrowed; -1 where there is no store. */
int store_domains_directory(const struct store *store);
