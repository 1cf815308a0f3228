// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Which block nodes of a running QEMU are a domain's disks. They are found by the files that they are on,
 * whatever they are called: whoever started it may have named them as he likes.
 */
#pragma once

#include "base/error.h"
#include "domain/domain.h"
#include "hypervisor/qmp.h"

/*
 * For each disk of the domain, in its order, the node with the format of the disk's active image (not the one
 * of its file, nor a filter above). NULL in the list: this QEMU does not have the image, or not with that
 * format; so it is with a disk that was unplugged, and with all of them where QEMU sees other files than we
 * do under the same names. `qmp` is borrowed; the list is freed with machine_disks_free. Errors: as
 * block_nodes_query; EINVAL where several nodes are on one image and nothing tells which is the disk's.
 */
int machine_disks_find(struct qmp *qmp, int timeout_ms, const struct domain *domain, char ***nodes,
                       struct error *err);
void machine_disks_free(char **nodes, const struct domain *domain);
