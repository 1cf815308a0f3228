// SPDX-License-Identifier: LGPL-2.1-or-later
/* Overlays (image/overlay_file.h) in a running QEMU, for block_snapshot_external. */
#pragma once

#include "hypervisor/block_nodes.h"

/*
 * Opens one, as nodes `name` and, for its file, `file_name`: it stands on nothing yet. Errors, after which
 * neither is there: EACCES where that QEMU may not open it; as qmp_command.
 */
int block_overlay_open(const struct block_engine *engine, const char *name, const char *file_name,
                       const char *path, struct error *err);

/* Closes both nodes of one that was not put on top. Errors: EBUSY where it was; as qmp_command. */
int block_overlay_close(const struct block_engine *engine, const char *name, struct error *err);
