// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * What a helper program may not do: the Landlock ruleset, the seccomp filter and the capabilities that
 * sandbox.c puts between fork and exec. Private to core/helper/.
 *
 * Three layers, since none of them covers everything: Landlock says which files can be opened; the seccomp
 * filter refuses new sockets, or those of other kinds than the helper needs, which Landlock knows only as
 * TCP, only since Linux 6.7, and never by the path of a UNIX socket (behind which there are services that do
 * for root what it asks them); and a helper of root keeps no capability but to read its files, or a hostile
 * image that takes it over could still change modes and owners, for which there is no Landlock rule.
 */
#pragma once

#include "helper/sandbox.h"

struct confinement {
    int ruleset_fd; /* -1: no Landlock */
    enum sandbox_network network;
    bool filter_optional; /* go on where the kernel has no seccomp filters */
    bool writes;
};

/*
 * Prepares the confinement of `spec`, whose program is the absolute path `program`. Errors: EOPNOTSUPP where
 * the kernel has no Landlock and spec->without_landlock is not set; ENOENT and others for the paths in spec.
 */
int confinement_prepare(const struct sandbox_spec *spec, const char *program, struct confinement *confinement,
                        struct error *err);
void confinement_done(struct confinement *confinement);

/*
 * Confines the calling thread, for ever, with what it executes. `ruleset_fd` is confinement->ruleset_fd or a
 * duplicate. Async-signal-safe. 0 or a negative errno.
 */
int confinement_enter(const struct confinement *confinement, int ruleset_fd);
