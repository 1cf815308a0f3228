// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * What a helper needs to reach a disk on the network: which kind of sockets, and which files of the host its
 * protocol's library reads. No more than that: the helper speaks to a server that may be hostile.
 */
#pragma once

#include "base/error.h"
#include "helper/sandbox.h"

#define NETWORK_ACCESS_PATHS_MAX 16

struct network_access {
    enum sandbox_network sockets;
    char *read_if_there[NETWORK_ACCESS_PATHS_MAX + 1]; /* NULL-terminated; owned */
    char *home; /* of the user that we run as: for ssh, which looks for keys there; NULL: none */
};

/* For the disk `name` (format/network_name.h). Errors: those of network_name_parse; ENOMEM. */
int network_access_of(const char *name, struct network_access *access, struct error *err);
void network_access_done(struct network_access *access);
