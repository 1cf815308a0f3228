// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Frozen layers that a running domain's QEMU has open for writing, since a merge into them was given up
 * (block_read_only.h). As long as it has, it may write to them at any time, if only its tables; so what such
 * a file is then, its size and mtime, is not to be noted as what it was frozen with: it stays touched.
 */
#pragma once

#include "domain/domain.h"
#include "hypervisor/block_nodes.h"

/*
 * By whoever has the domain's lane, after the job has ended: has the QEMU open them for reading only, as far
 * as it can be made to. False: some are open for writing still, or that is not known.
 */
bool frozen_nodes_close(const struct block_engine *engine, const struct domain *domain);
