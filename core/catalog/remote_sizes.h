// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * How long disks on the network are, as far as readers that connected to them have found out. Listing and
 * scanning never connect, so nobody else can tell. Any thread.
 */
#pragma once

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct remote_size {
    char *name;
    uint64_t bytes;
};

struct remote_sizes {
    pthread_mutex_t lock; /* protects everything below */
    struct remote_size *list;
    size_t count;
    bool is_new; /* since remote_sizes_take_new */
};

void remote_sizes_init(struct remote_sizes *sizes);
void remote_sizes_done(struct remote_sizes *sizes);

/* Notes the size of `name`. Where memory is out it is forgotten, and found out again by the next reader. */
void remote_sizes_learn(struct remote_sizes *sizes, const char *name, uint64_t bytes);

/* 0 while nobody knows. */
uint64_t remote_sizes_get(struct remote_sizes *sizes, const char *name);

/* Has anything been learned since the last call? */
bool remote_sizes_take_new(struct remote_sizes *sizes);
