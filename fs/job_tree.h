// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * The whole tree, with jobs/ in it: what stands in a catalog, as tree.h has it, and jobs/NUMBER/ with what is
 * in it, as the administration tells. Nothing about jobs is ever kept, here or in the kernel, but for the
 * listing of jobs/, which is invalidated when it changes. Any thread.
 */
#pragma once

#include "administration/administration.h"
#include "tree.h"

/* As tree_resolve, tree_lookup and tree_list. */
int job_tree_resolve(struct administration *administration, const struct catalog *catalog, uint64_t id,
                     struct place *place);
int job_tree_lookup(struct administration *administration, const struct catalog *catalog,
                    const struct place *parent, const char *name, struct place *child);
int job_tree_list(struct administration *administration, const struct catalog *catalog,
                  const struct place *directory, uint64_t cookie, tree_visitor visitor, void *opaque);

/* As tree_parent. */
uint64_t job_tree_parent(const struct place *place);

/* Appends the content of a file of a job: nothing if there is no such job any more. */
void job_tree_render(struct administration *administration, const struct place *place, struct text *text);

/* True for what may come, go and change at any time: neither its name nor its attributes may be kept. */
static inline bool job_tree_is_fleeting(const struct place *place)
{
    return place->node.kind == NODE_JOB;
}
