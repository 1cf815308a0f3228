// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * tree.txt; see tree_drawing.h.
 *
 * Walks without recursion, since the depth is whatever the snapshots have: from a node to its first child,
 * else to its next sibling, else up. "By age" is the order of domain->snapshots, which gives each snapshot
 * its rank.
 */
#include "tree_drawing.h"

#include <stdlib.h>
#include <time.h>

struct drawn { /* one snapshot, at its rank by age; indexes into the same array, or NONE */
    size_t parent, first_child, last_child, next;
};

#define NONE SIZE_MAX

static int compare_pointer(const void *left, const void *right)
{
    const struct snapshot *a = ((const struct snapshot *const *)left)[0];
    const struct snapshot *b = ((const struct snapshot *const *)right)[0];
    return a < b ? -1 : a > b;
}

struct rank { /* the first member is what is sorted and searched by */
    const struct snapshot *snapshot;
    size_t rank;
};

/* Links every snapshot to its parent, first child and next sibling; the roots are the children of
 * drawn[count]. */
static struct drawn *link_by_age(const struct domain *domain)
{
    size_t count = domain->snapshot_count;
    struct drawn *drawn = calloc(count + 1, sizeof *drawn);
    struct rank *ranks = calloc(count ? count : 1, sizeof *ranks);
    if (!drawn || !ranks) {
        free(drawn);
        free(ranks);
        return NULL;
    }
    for (size_t i = 0; i < count; i++)
        ranks[i] = (struct rank){domain->snapshots[i], i};
    qsort(ranks, count, sizeof *ranks, compare_pointer);
    for (size_t i = 0; i <= count; i++)
        drawn[i] = (struct drawn){NONE, NONE, NONE, NONE};
    for (size_t i = 0; i < count; i++) {
        size_t parent = count;
        if (domain->snapshots[i]->parent) {
            struct rank wanted = {domain->snapshots[i]->parent, 0};
            const struct rank *found = bsearch(&wanted, ranks, count, sizeof *ranks, compare_pointer);
            parent = found ? found->rank : count;
        }
        drawn[i].parent = parent;
        if (drawn[parent].first_child == NONE)
            drawn[parent].first_child = i;
        else
            drawn[drawn[parent].last_child].next = i;
        drawn[parent].last_child = i;
    }
    free(ranks);
    return drawn;
}

static void draw_line(const struct domain *domain, const struct drawn *drawn, size_t index, struct text *text)
{
    const struct snapshot *snapshot = domain->snapshots[index];
    /* The branches of the ancestors, from the root down: gather them, then write them backwards. */
    struct text branches = {0};
    for (size_t up = drawn[index].parent; up != domain->snapshot_count; up = drawn[up].parent)
        text_append(&branches, drawn[up].next == NONE ? " " : "|", 1);
    for (size_t i = branches.length; i-- > 0;)
        text_append_string(text, branches.data[i] == '|' ? "│   " : "    ");
    text_done(&branches);

    text_printf(text, "%s%s  ", drawn[index].next == NONE ? "└── " : "├── ", snapshot->name);
    text_append_time(text, snapshot->created.tv_sec, ' ');
    if (snapshot_has_memory(snapshot))
        text_append_string(text, "  memory");
    if (snapshot->is_protected)
        text_append_string(text, "  protected");
    if (snapshot->frozen_count < domain->disk_count)
        text_printf(text, "  %zu of %zu disks", snapshot->frozen_count, domain->disk_count);
    if (snapshot == domain->current)
        text_append_string(text, "  <- current");
    text_append_string(text, "\n");
}

void tree_drawing_render(const struct domain *domain, struct text *text)
{
    text_printf(text, "%s\n", domain->name);
    struct drawn *drawn = link_by_age(domain);
    if (!drawn) {
        text->failed = true;
        return;
    }
    size_t root = domain->snapshot_count;
    for (size_t at = drawn[root].first_child; at != NONE && at != root;) {
        draw_line(domain, drawn, at, text);
        if (drawn[at].first_child != NONE) {
            at = drawn[at].first_child;
            continue;
        }
        while (at != root && drawn[at].next == NONE)
            at = drawn[at].parent;
        if (at != root)
            at = drawn[at].next;
    }
    free(drawn);
}
