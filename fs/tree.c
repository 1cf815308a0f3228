// SPDX-License-Identifier: LGPL-2.1-or-later
/* The shape of the tree; see tree.h. Fixed entries stand in tables, in the order in which they are listed. */
#include "tree.h"

#include <errno.h>
#include <string.h>

struct fixed_entry {
    const char *name;
    unsigned position;
    enum entry_type type;
};

static const struct fixed_entry service_entries[] = {
    {"help", SERVICE_HELP, ENTRY_FILE},
    {"log", SERVICE_LOG, ENTRY_DYNAMIC},
    {"stats", SERVICE_STATS, ENTRY_DYNAMIC},
    {"version", SERVICE_VERSION, ENTRY_FILE},
    {0},
};

static const struct fixed_entry domain_entries[] = {
    {"create", DOMAIN_CREATE, ENTRY_CONTROL},
    {"defaults", DOMAIN_DEFAULTS, ENTRY_CONTROL},
    {"domain.json", DOMAIN_DOMAIN_JSON, ENTRY_FILE},
    {"events", DOMAIN_EVENTS, ENTRY_DYNAMIC},
    {"last_error", DOMAIN_LAST_ERROR, ENTRY_DYNAMIC},
    {"power", DOMAIN_POWER, ENTRY_CONTROL},
    {"state", DOMAIN_STATE, ENTRY_DYNAMIC},
    {"tree.txt", DOMAIN_TREE_TXT, ENTRY_FILE},
    {"current", DOMAIN_CURRENT, ENTRY_LINK},
    {"latest", DOMAIN_LATEST, ENTRY_LINK},
    {"disks", DOMAIN_DISKS, ENTRY_DIRECTORY},
    {"jobs", DOMAIN_JOBS, ENTRY_DIRECTORY},
    {"snapshots", DOMAIN_SNAPSHOTS, ENTRY_DIRECTORY},
    {"tree", DOMAIN_TREE, ENTRY_DIRECTORY},
    {0},
};

static const struct fixed_entry snapshots_entries[] = {
    {".order", DOMAIN_ORDER, ENTRY_FILE},
    {0},
};

static const struct fixed_entry disk_entries[] = {
    {"abort", DISK_ABORT, ENTRY_CONTROL},
    {"copy", DISK_COPY, ENTRY_CONTROL},
    {"format", DISK_FORMAT, ENTRY_FILE},
    {"layers", DISK_LAYERS, ENTRY_FILE},
    {"persistent", DISK_PERSISTENT, ENTRY_FILE},
    {"pivot", DISK_PIVOT, ENTRY_CONTROL},
    {"size", DISK_SIZE, ENTRY_FILE},
    {"snapshot", DISK_SNAPSHOT, ENTRY_FILE},
    {"source", DISK_SOURCE, ENTRY_FILE},
    {0},
};

static const struct fixed_entry snapshot_entries[] = {
    {"clone", SNAPSHOT_CLONE, ENTRY_CONTROL},
    {"consistency", SNAPSHOT_CONSISTENCY, ENTRY_FILE},
    {"created", SNAPSHOT_CREATED, ENTRY_FILE},
    {"delete", SNAPSHOT_DELETE, ENTRY_CONTROL},
    {"description", SNAPSHOT_DESCRIPTION, ENTRY_CONTROL},
    {"memory", SNAPSHOT_MEMORY, ENTRY_FROZEN},
    {"missing", SNAPSHOT_MISSING, ENTRY_FILE},
    {"protected", SNAPSHOT_PROTECTED, ENTRY_CONTROL},
    {"revert", SNAPSHOT_REVERT, ENTRY_CONTROL},
    {"snapshot.json", SNAPSHOT_JSON, ENTRY_FILE},
    {"snapshot.xml", SNAPSHOT_XML, ENTRY_FILE},
    {"state", SNAPSHOT_STATE, ENTRY_FILE},
    {"unique_bytes", SNAPSHOT_UNIQUE_BYTES, ENTRY_FILE},
    {"parent", SNAPSHOT_PARENT, ENTRY_LINK},
    {"children", SNAPSHOT_CHILDREN, ENTRY_DIRECTORY},
    {"disks", SNAPSHOT_DISKS, ENTRY_DIRECTORY},
    {0},
};

#define FROZEN_ENDING ".raw"

/* Cookies: fixed entries by their index + 1, then everything that has a serial number or disk position. */
#define COOKIE_FIXED_MAX 64

static const struct fixed_entry *fixed_by_position(const struct fixed_entry *entries, unsigned position)
{
    for (; entries->name; entries++)
        if (entries->position == position)
            return entries;
    return NULL;
}

bool tree_domain_entry_exists(const struct domain *domain, unsigned entry)
{
    if (entry == DOMAIN_CURRENT)
        return domain->current != NULL;
    if (entry == DOMAIN_LATEST)
        return domain->latest != NULL;
    return true;
}

static bool snapshot_entry_exists(const struct snapshot *snapshot, unsigned entry)
{
    return entry == SNAPSHOT_PARENT   ? snapshot->parent != NULL
           : entry == SNAPSHOT_MEMORY ? snapshot->memory != NULL
                                      : true;
}

static struct disk *disk_at(const struct domain *domain, unsigned position)
{
    for (size_t i = 0; i < domain->disk_count; i++)
        if (domain->disks[i].position == position)
            return &domain->disks[i];
    return NULL;
}

static struct frozen *frozen_at(const struct snapshot *snapshot, unsigned position)
{
    for (size_t i = 0; i < snapshot->frozen_count; i++)
        if (snapshot->frozen[i].disk->position == position)
            return &snapshot->frozen[i];
    return NULL;
}

static int resolve_domain_entry(struct place *place)
{
    if (place->node.position == DOMAIN_DIRECTORY) {
        place->type = ENTRY_DIRECTORY;
        return 0;
    }
    const struct fixed_entry *entry = fixed_by_position(domain_entries, place->node.position);
    if (!entry)
        entry = fixed_by_position(snapshots_entries, place->node.position);
    if (!entry || !tree_domain_entry_exists(place->domain, entry->position))
        return -ESTALE;
    place->type = entry->type;
    return 0;
}

static int resolve_snapshot_entry(struct place *place)
{
    if (place->node.position == SNAPSHOT_DIRECTORY) {
        place->type = ENTRY_DIRECTORY;
        return 0;
    }
    const struct fixed_entry *entry = fixed_by_position(snapshot_entries, place->node.position);
    if (!entry || !snapshot_entry_exists(place->snapshot, entry->position))
        return -ESTALE;
    place->type = entry->type;
    if (entry->position == SNAPSHOT_MEMORY)
        place->frozen = &place->snapshot->memory->frozen;
    return 0;
}

static int resolve_disk_entry(struct place *place)
{
    place->disk = disk_at(place->domain, place->node.position);
    if (!place->disk)
        return -ESTALE;
    if (place->node.kind == NODE_DISK) {
        place->type = ENTRY_DIRECTORY;
        return 0;
    }
    const struct fixed_entry *entry = fixed_by_position(disk_entries, place->node.kind - NODE_DISK_FILE);
    if (!entry)
        return -ESTALE;
    place->type = entry->type;
    return 0;
}

int tree_resolve(const struct catalog *catalog, uint64_t id, struct place *place)
{
    struct place found = {.id = id, .node = node_of(id), .type = ENTRY_DIRECTORY};
    int result = 0;

    if (id == NODE_ROOT_ID) {
        *place = found;
        return 0;
    }
    if (found.node.kind == NODE_SERVICE) {
        if (found.node.position != SERVICE_DIRECTORY) {
            const struct fixed_entry *entry = fixed_by_position(service_entries, found.node.position);
            if (!entry)
                return -ESTALE;
            found.type = entry->type;
        }
        *place = found;
        return 0;
    }

    const struct catalog_entry *entry = catalog_find_serial(catalog, found.node.serial);
    if (!entry)
        return -ESTALE;
    found.domain = entry->domain;
    found.snapshot = entry->snapshot;
    bool of_domain =
        found.node.kind == NODE_DOMAIN || found.node.kind == NODE_DISK || node_is_disk_file(found.node.kind);
    if (of_domain != !found.snapshot)
        return -ESTALE;

    switch (found.node.kind) {
    case NODE_DOMAIN:
        result = resolve_domain_entry(&found);
        break;
    case NODE_SNAPSHOT:
        result = resolve_snapshot_entry(&found);
        break;
    case NODE_FROZEN:
        found.frozen = frozen_at(found.snapshot, found.node.position);
        if (!found.frozen)
            return -ESTALE;
        /* The disk is the catalog's, only const where a frozen disk refers to it. */
        found.disk = disk_at(found.domain, found.node.position);
        found.type = ENTRY_FROZEN;
        break;
    case NODE_CHILD_LINK:
        if (!found.snapshot->parent)
            return -ESTALE;
        found.type = ENTRY_LINK;
        break;
    case NODE_TREE:
        break;
    case NODE_TREE_LINK:
        found.type = ENTRY_LINK;
        break;
    default: /* NODE_DISK, NODE_DISK_FILE + entry, and what we never gave out */
        result = found.node.kind == NODE_DISK || node_is_disk_file(found.node.kind)
                     ? resolve_disk_entry(&found)
                     : -ESTALE;
    }
    if (result == 0)
        *place = found;
    return result;
}

static int resolve_entry(const struct catalog *catalog, unsigned kind, uint64_t serial, unsigned position,
                         struct place *place)
{
    int result = tree_resolve(catalog, node_id(kind, serial, position), place);
    return result == -ESTALE ? -ENOENT : result;
}

/* Which fixed entries a directory has, and how their ids are made; NULL where it has none. */
static const struct fixed_entry *fixed_entries_of(const struct place *directory)
{
    switch (directory->node.kind) {
    case NODE_SERVICE:
        return service_entries;
    case NODE_DOMAIN:
        return directory->node.position == DOMAIN_DIRECTORY   ? domain_entries
               : directory->node.position == DOMAIN_SNAPSHOTS ? snapshots_entries
                                                              : NULL;
    case NODE_SNAPSHOT:
        return directory->node.position == SNAPSHOT_DIRECTORY ? snapshot_entries : NULL;
    case NODE_DISK:
        return disk_entries;
    default:
        return NULL;
    }
}

static uint64_t fixed_entry_id(const struct place *directory, const struct fixed_entry *entry)
{
    if (directory->node.kind == NODE_DISK)
        return node_id(NODE_DISK_FILE + entry->position, directory->node.serial, directory->node.position);
    return node_id(directory->node.kind, directory->node.serial, entry->position);
}

static int lookup_disk(const struct catalog *catalog, const struct place *parent, const char *name,
                       struct place *child)
{
    const struct disk *disk = domain_find_disk(parent->domain, name);
    if (!disk)
        return -ENOENT;
    return resolve_entry(catalog, NODE_DISK, parent->domain->serial, disk->position, child);
}

static int lookup_frozen(const struct catalog *catalog, const struct place *parent, const char *name,
                         struct place *child)
{
    size_t length = strlen(name), ending = strlen(FROZEN_ENDING);
    if (length <= ending || strcmp(name + length - ending, FROZEN_ENDING) != 0)
        return -ENOENT;
    for (size_t i = 0; i < parent->snapshot->frozen_count; i++) {
        const struct disk *disk = parent->snapshot->frozen[i].disk;
        if (strlen(disk->target) == length - ending && strncmp(disk->target, name, length - ending) == 0)
            return resolve_entry(catalog, NODE_FROZEN, parent->snapshot->serial, disk->position, child);
    }
    return -ENOENT;
}

static int lookup_snapshot(const struct catalog *catalog, const struct place *parent, unsigned kind,
                           const struct snapshot *of, const char *name, struct place *child)
{
    const struct snapshot *snapshot = domain_find_snapshot(parent->domain, name);
    if (!snapshot || (kind != NODE_SNAPSHOT && snapshot->parent != of))
        return -ENOENT;
    return resolve_entry(catalog, kind, snapshot->serial, 0, child);
}

static int lookup_in_root(const struct catalog *catalog, const char *name, struct place *child)
{
    if (strcmp(name, ".vmsnapfs") == 0)
        return tree_resolve(catalog, node_id(NODE_SERVICE, 0, SERVICE_DIRECTORY), child);
    const struct domain *domain = catalog_find_domain(catalog, name);
    if (!domain)
        return -ENOENT;
    return resolve_entry(catalog, NODE_DOMAIN, domain->serial, DOMAIN_DIRECTORY, child);
}

int tree_lookup(const struct catalog *catalog, const struct place *parent, const char *name,
                struct place *child)
{
    if (parent->type != ENTRY_DIRECTORY)
        return -ENOTDIR;
    if (parent->id == NODE_ROOT_ID)
        return lookup_in_root(catalog, name, child);

    for (const struct fixed_entry *entry = fixed_entries_of(parent); entry && entry->name; entry++)
        if (strcmp(entry->name, name) == 0) {
            int result = tree_resolve(catalog, fixed_entry_id(parent, entry), child);
            return result == -ESTALE ? -ENOENT : result;
        }

    switch (parent->node.kind) {
    case NODE_DOMAIN:
        if (parent->node.position == DOMAIN_DISKS)
            return lookup_disk(catalog, parent, name, child);
        if (parent->node.position == DOMAIN_SNAPSHOTS)
            return lookup_snapshot(catalog, parent, NODE_SNAPSHOT, NULL, name, child);
        if (parent->node.position == DOMAIN_TREE)
            return lookup_snapshot(catalog, parent, NODE_TREE, NULL, name, child);
        return -ENOENT;
    case NODE_SNAPSHOT:
        if (parent->node.position == SNAPSHOT_DISKS)
            return lookup_frozen(catalog, parent, name, child);
        if (parent->node.position == SNAPSHOT_CHILDREN)
            return lookup_snapshot(catalog, parent, NODE_CHILD_LINK, parent->snapshot, name, child);
        return -ENOENT;
    case NODE_TREE:
        if (strcmp(name, "@") == 0)
            return resolve_entry(catalog, NODE_TREE_LINK, parent->snapshot->serial, 0, child);
        return lookup_snapshot(catalog, parent, NODE_TREE, parent->snapshot, name, child);
    default:
        return -ENOENT;
    }
}

struct listing {
    const struct catalog *catalog;
    tree_visitor visitor;
    void *opaque;
};

/* Visits one entry; one that is gone is passed over. */
static int visit(const struct listing *listing, const char *name, uint64_t id, uint64_t next)
{
    struct place entry;
    if (tree_resolve(listing->catalog, id, &entry) != 0)
        return 0;
    return listing->visitor(listing->opaque, name, &entry, next);
}

static int list_fixed(const struct listing *listing, const struct place *directory, uint64_t cookie)
{
    /* Counted from the beginning: a cookie can be any number that a program gives seekdir. */
    uint64_t index = 0;
    for (const struct fixed_entry *entry = fixed_entries_of(directory); entry && entry->name; entry++) {
        if (index++ < cookie)
            continue;
        int result = visit(listing, entry->name, fixed_entry_id(directory, entry), index);
        if (result)
            return result;
    }
    return 0;
}

/* Those of `snapshots` (sorted by serial) whose serial is at least `first` and, unless `any_parent`, whose
 * parent is `parent`. */
static int list_snapshots(const struct listing *listing, struct snapshot *const *snapshots, size_t count,
                          uint64_t first, unsigned kind, bool any_parent, const struct snapshot *parent)
{
    size_t low = 0, high = count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (snapshots[middle]->serial < first)
            low = middle + 1;
        else
            high = middle;
    }
    for (size_t i = low; i < count; i++) {
        if (!any_parent && snapshots[i]->parent != parent)
            continue;
        int result = visit(listing, snapshots[i]->name, node_id(kind, snapshots[i]->serial, 0),
                           COOKIE_FIXED_MAX + snapshots[i]->serial + 1);
        if (result)
            return result;
    }
    return 0;
}

static int list_domain_disks(const struct listing *listing, const struct domain *domain, uint64_t first)
{
    for (size_t i = 0; i < domain->disk_count; i++) {
        const struct disk *disk = &domain->disks[i];
        if (disk->position < first)
            continue;
        int result = visit(listing, disk->target, node_id(NODE_DISK, domain->serial, disk->position),
                           COOKIE_FIXED_MAX + disk->position + 1);
        if (result)
            return result;
    }
    return 0;
}

static int list_frozen(const struct listing *listing, const struct snapshot *snapshot, uint64_t first)
{
    for (size_t i = 0; i < snapshot->frozen_count; i++) {
        const struct disk *disk = snapshot->frozen[i].disk;
        if (disk->position < first)
            continue;
        struct text name = {0};
        text_printf(&name, "%s%s", disk->target, FROZEN_ENDING);
        int result = name.failed
                         ? 0
                         : visit(listing, name.data, node_id(NODE_FROZEN, snapshot->serial, disk->position),
                                 COOKIE_FIXED_MAX + disk->position + 1);
        text_done(&name);
        if (result)
            return result;
    }
    return 0;
}

/* Domains are listed by serial, too, so that the cookie is one; a catalog sorts them by name. */
static int list_root(const struct listing *listing, uint64_t cookie)
{
    if (cookie == 0) {
        int result = visit(listing, ".vmsnapfs", node_id(NODE_SERVICE, 0, SERVICE_DIRECTORY), 1);
        if (result)
            return result;
    }
    uint64_t first = cookie > COOKIE_FIXED_MAX ? cookie - COOKIE_FIXED_MAX : 0;
    const struct catalog *catalog = listing->catalog;
    for (size_t i = 0; i < catalog->entry_count; i++) {
        const struct catalog_entry *entry = &catalog->by_serial[i];
        if (entry->snapshot || entry->serial < first)
            continue;
        int result =
            visit(listing, entry->domain->name, node_id(NODE_DOMAIN, entry->serial, DOMAIN_DIRECTORY),
                  COOKIE_FIXED_MAX + entry->serial + 1);
        if (result)
            return result;
    }
    return 0;
}

static int list_rest(const struct listing *listing, const struct place *directory, uint64_t first)
{
    const struct domain *domain = directory->domain;
    const struct snapshot *snapshot = directory->snapshot;
    unsigned kind = directory->node.kind, position = directory->node.position;

    if (kind == NODE_DOMAIN && position == DOMAIN_DISKS)
        return list_domain_disks(listing, domain, first);
    if (kind == NODE_DOMAIN && position == DOMAIN_SNAPSHOTS)
        return list_snapshots(listing, domain->by_serial, domain->snapshot_count, first, NODE_SNAPSHOT, true,
                              NULL);
    if (kind == NODE_DOMAIN && position == DOMAIN_TREE)
        return list_snapshots(listing, domain->by_serial, domain->snapshot_count, first, NODE_TREE, false,
                              NULL);
    if (kind == NODE_SNAPSHOT && position == SNAPSHOT_DISKS)
        return list_frozen(listing, snapshot, first);
    if (kind == NODE_SNAPSHOT && position == SNAPSHOT_CHILDREN)
        return list_snapshots(listing, snapshot->children, snapshot->child_count, first, NODE_CHILD_LINK,
                              true, NULL);
    if (kind == NODE_TREE)
        return list_snapshots(listing, snapshot->children, snapshot->child_count, first, NODE_TREE, true,
                              NULL);
    return 0;
}

int tree_list(const struct catalog *catalog, const struct place *directory, uint64_t cookie,
              tree_visitor visitor, void *opaque)
{
    if (directory->type != ENTRY_DIRECTORY)
        return -ENOTDIR;
    const struct listing listing = {catalog, visitor, opaque};
    if (directory->id == NODE_ROOT_ID) {
        list_root(&listing, cookie);
        return 0;
    }
    if (cookie < COOKIE_FIXED_MAX) {
        if (directory->node.kind == NODE_TREE && cookie == 0 &&
            visit(&listing, "@", node_id(NODE_TREE_LINK, directory->snapshot->serial, 0), 1) != 0)
            return 0;
        if (list_fixed(&listing, directory, cookie) != 0)
            return 0;
    }
    list_rest(&listing, directory, cookie > COOKIE_FIXED_MAX ? cookie - COOKIE_FIXED_MAX : 0);
    return 0;
}

uint64_t tree_parent(const struct place *place)
{
    uint64_t serial = place->node.serial, domain = place->domain ? place->domain->serial : 0;
    switch (place->node.kind) {
    case NODE_SERVICE:
        return place->node.position == SERVICE_DIRECTORY ? NODE_ROOT_ID
                                                         : node_id(NODE_SERVICE, 0, SERVICE_DIRECTORY);
    case NODE_DOMAIN:
        if (place->node.position == DOMAIN_DIRECTORY)
            return NODE_ROOT_ID;
        return node_id(NODE_DOMAIN, serial,
                       place->node.position == DOMAIN_ORDER ? DOMAIN_SNAPSHOTS : DOMAIN_DIRECTORY);
    case NODE_DISK:
        return node_id(NODE_DOMAIN, serial, DOMAIN_DISKS);
    case NODE_SNAPSHOT:
        if (place->node.position == SNAPSHOT_DIRECTORY)
            return node_id(NODE_DOMAIN, domain, DOMAIN_SNAPSHOTS);
        return node_id(NODE_SNAPSHOT, serial, SNAPSHOT_DIRECTORY);
    case NODE_FROZEN:
        return node_id(NODE_SNAPSHOT, serial, SNAPSHOT_DISKS);
    case NODE_CHILD_LINK:
        return node_id(NODE_SNAPSHOT, place->snapshot->parent->serial, SNAPSHOT_CHILDREN);
    case NODE_TREE:
        return place->snapshot->parent ? node_id(NODE_TREE, place->snapshot->parent->serial, 0)
                                       : node_id(NODE_DOMAIN, domain, DOMAIN_TREE);
    case NODE_TREE_LINK:
        return node_id(NODE_TREE, serial, 0);
    case NODE_ROOT:
        return NODE_ROOT_ID;
    default:
        return node_id(NODE_DISK, serial, place->node.position);
    }
}

void tree_control_path(const struct place *place, struct text *text)
{
    if (place->node.kind == NODE_JOB) {
        text_printf(text, "jobs/%llu/cancel", (unsigned long long)place->node.serial);
        return;
    }
    if (node_is_disk_file(place->node.kind)) {
        const struct fixed_entry *of_disk =
            fixed_by_position(disk_entries, place->node.kind - NODE_DISK_FILE);
        text_printf(text, "disks/%s/%s", place->disk->target, of_disk ? of_disk->name : "?");
        return;
    }
    const struct fixed_entry *entries = place->snapshot ? snapshot_entries : domain_entries;
    const struct fixed_entry *entry = fixed_by_position(entries, place->node.position);
    if (place->snapshot)
        text_printf(text, "snapshots/%s/", place->snapshot->name);
    text_append_string(text, entry ? entry->name : "?");
}

void tree_link_target(const struct place *place, struct text *text)
{
    const struct snapshot *snapshot = place->snapshot;
    switch (place->node.kind) {
    case NODE_DOMAIN:
        snapshot = place->node.position == DOMAIN_CURRENT ? place->domain->current : place->domain->latest;
        text_printf(text, "snapshots/%s", snapshot->name);
        return;
    case NODE_SNAPSHOT:
        text_printf(text, "../%s", snapshot->parent->name);
        return;
    case NODE_CHILD_LINK:
        text_printf(text, "../../%s", snapshot->name);
        return;
    default: /* NODE_TREE_LINK: up out of tree/, however deep */
        for (const struct snapshot *up = snapshot; up; up = up->parent)
            text_append_string(text, "../");
        text_printf(text, "../snapshots/%s", snapshot->name);
    }
}
