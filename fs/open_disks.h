// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * The frozen disks that are open: one for each node, shared by everyone who has it open, found by node id
 * (file handles are numbers that mean nothing). A disk that a helper reads stays open for a few seconds after
 * its last user, so that a program that opens it again and again does not start a helper each time. Any
 * thread.
 */
#pragma once

#include <pthread.h>

#include "base/error.h"
#include "image/frozen_disk.h"
#include "stream.h"
#include "tree.h"

struct open_disks;

struct open_disk {
    uint64_t id;
    struct frozen_disk *disk;

    pthread_mutex_t lock; /* protects what follows */
    unsigned opens;       /* that the kernel was told of */
    bool decided; /* how it is read was chosen at the first of them, and holds until the last is released: */
    int backing_id; /* > 0: by the kernel itself, from this backing file; 0: by us */
    struct stream stream;
    bool seeks;           /* a program asked for holes since it was opened */
    uint64_t ahead_begin; /* [ahead_begin, ahead_end): what read_ahead.h stored last; */
    uint64_t ahead_end;   /* empty: nothing */
};

/*
 * Called before a disk is opened, when it counts as open already: returns when nothing is being done to the
 * layers that it reads through, with what `place` is then, in a catalog that the caller puts back. May wait.
 * -ESTALE: it is gone.
 */
typedef int (*open_disks_make_way)(void *opaque, const struct place *place, struct catalog **catalog,
                                   struct place *now);

/* Called after it was opened, or could not be: was `now` right all the time? Else it is done again. */
typedef bool (*open_disks_was_right)(void *opaque, const struct place *now);

/* Called once where it could not be opened, before it is tried again: has everything looked at anew, since
 * what was seen of files and what another mount says of them may not be of the same moment. */
typedef void (*open_disks_look_anew)(void *opaque);

/* Called when the last use of a disk has ended. Must not wait. */
typedef void (*open_disks_closed)(void *opaque);

struct open_disks_calls { /* each may be NULL */
    open_disks_make_way make_way;
    open_disks_was_right was_right;
    open_disks_look_anew look_anew;
    open_disks_closed closed;
    void *opaque;
};

struct open_disks *open_disks_new(const struct frozen_disk_env *env, const struct open_disks_calls *calls);

/* Every user must be gone. NULL is fine. */
void open_disks_free(struct open_disks *disks);

/* Opens the frozen disk of `place`, or takes one more use of the open one. Errors as frozen_disk_open; EBUSY
 * also where it is open as something else than it is by now. */
int open_disks_acquire(struct open_disks *disks, const struct place *place, struct open_disk **disk,
                       struct error *err);

/* One more use of a disk that is open; NULL if there is none. */
struct open_disk *open_disks_find(struct open_disks *disks, uint64_t id);

void open_disks_put(struct open_disks *disks, struct open_disk *disk);

/* Is any disk of the snapshot open, or about to be opened? One that is only kept open for a next user is not;
 * it is closed soon. Does not wait. */
bool open_disks_has_snapshot(struct open_disks *disks, uint64_t snapshot);
