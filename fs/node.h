// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Node ids are arithmetic: kind, serial number and position in one 64-bit number, which is the FUSE node id
 * and st_ino alike. So there is no inode table to fill, lock or forget, inode numbers stay the same across
 * remounts, and a restarted daemon understands the ids that the kernel still holds.
 *
 *     63      58 57                                        10 9          0
 *     [  kind  ] [         serial of domain or snapshot      ] [ position ]
 *
 * The position is the number of a fixed entry in its directory (tree.c), or of a disk in its domain. The root
 * is 1, since FUSE says so. Pure; any thread.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#define NODE_ROOT_ID 1

enum node_kind {
    NODE_ROOT,       /* position 1, serial 0: the id is 1 */
    NODE_SERVICE,    /* .vmsnapfs and what is in it */
    NODE_DOMAIN,     /* a domain's directory and its fixed entries; serial of the domain */
    NODE_DISK,       /* disks/TARGET of a domain; position of the disk */
    NODE_SNAPSHOT,   /* a snapshot's directory and its fixed entries; serial of the snapshot */
    NODE_FROZEN,     /* a frozen disk; serial of the snapshot, position of the disk */
    NODE_CHILD_LINK, /* in its parent's children/; serial of the child */
    NODE_TREE,       /* a snapshot's directory under tree/ */
    NODE_TREE_LINK,  /* the `@` in it */
    NODE_DISK_FILE,  /* the first of the fixed entries of disks/TARGET: kind NODE_DISK_FILE + entry */
    NODE_DISK_FILE_END = NODE_DISK_FILE + 32,
    NODE_JOB = NODE_DISK_FILE_END, /* jobs/NUMBER and its fixed entries; serial is the job's number */
};

#define NODE_DISK_FILES_MAX (NODE_DISK_FILE_END - NODE_DISK_FILE)
#define NODE_SERIAL_BITS    48
#define NODE_POSITION_BITS  10

struct node {
    unsigned kind; /* enum node_kind, or NODE_DISK_FILE + entry */
    uint64_t serial;
    unsigned position;
};

static inline uint64_t node_id(unsigned kind, uint64_t serial, unsigned position)
{
    return (uint64_t)kind << (NODE_SERIAL_BITS + NODE_POSITION_BITS) | serial << NODE_POSITION_BITS |
           position;
}

static inline bool node_is_disk_file(unsigned kind)
{
    return kind >= NODE_DISK_FILE && kind < NODE_DISK_FILE_END;
}

static inline struct node node_of(uint64_t id)
{
    return (struct node){
        .kind = (unsigned)(id >> (NODE_SERIAL_BITS + NODE_POSITION_BITS)),
        .serial = id >> NODE_POSITION_BITS & ((UINT64_C(1) << NODE_SERIAL_BITS) - 1),
        .position = (unsigned)(id & ((1U << NODE_POSITION_BITS) - 1)),
    };
}
