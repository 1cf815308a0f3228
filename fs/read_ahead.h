// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Reading ahead across holes, into the kernel's cache.
 *
 * The kernel reads ahead of a reader, further with each step, but knows of no holes. On a disk that is short
 * pieces of data in large holes most of what it reads ahead are zeros that nobody wants, and each piece
 * begins with a wait. It stops where it finds pages that are there already. So for a program that asks for
 * holes, and begins to read a piece, the next pieces are stored in the kernel's cache while it is busy with
 * this one; all but their first page, whose request tells when the program has come there.
 *
 * A thread of its own stores them: it can wait for pages that the kernel holds locked until a request of its
 * own is answered. Any thread may call.
 */
#pragma once

#include "open_disks.h"

struct fuse_session;
struct read_ahead;

/* `disks` must outlive it. NULL where memory ran out. */
struct read_ahead *read_ahead_new(struct open_disks *disks);

/* Starts the thread, which sends to `session` until read_ahead_stop. 0 or a negative errno. */
int read_ahead_start(struct read_ahead *ahead, struct fuse_session *session);

/* Ends the thread. While the connection lives, requests must still be answered. Safe to call twice; NULL is
 * fine. */
void read_ahead_stop(struct read_ahead *ahead);

/* Stops it and frees. NULL is fine. */
void read_ahead_free(struct read_ahead *ahead);

/* A program that asks for holes jumped to `offset` of the disk, which is node `id`. Does not wait. */
void read_ahead_note(struct read_ahead *ahead, uint64_t id, uint64_t offset);
