// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * libvirt's <domainsnapshot> as a command of `create`:
 *
 *     <domainsnapshot>
 *       <name>…</name>
 *       <description>…</description>
 *       <memory snapshot='no|internal|external' file='PATH'/>
 *       <disks>
 *         <disk name='TARGET' snapshot='no|internal|external' type='file'>
 *           <driver type='qcow2'/>
 *           <source file='PATH'/>
 *           <mirror file='PATH'/>
 *         </disk>
 *       </disks>
 *     </domainsnapshot>
 *
 * All may be left out but a disk's name. Without <memory>, memory is omitted, as the table of
 * snapshot_choice.h has it: internal for a domain that has memory, where its disks can hold it, and none for
 * another; but none, too, where <state> is that of a snapshot of disks alone, since libvirt has no <memory>
 * in such a document. A disk with <driver> or <source> and no kind is external. <mirror> is libvirt's of a
 * domain, in its old form (above) and its new one (<mirror type='file'><format type='qcow2'/><source
 * file='PATH'/></mirror>), at the place that was proposed for it.
 *
 * What libvirt writes into a document and ignores in one for a new snapshot is ignored here too, whatever is
 * in it: <state> (but see above), <creationTime>, <parent>, <domain>, <inactiveDomain>, <active>, <cookie>.
 * Everything else is an error that says what is known: ignoring it could give another snapshot than the one
 * that was asked for.
 *
 * Pure; any thread.
 */
#pragma once

#include <stddef.h>

#include "base/error.h"
#include "format/xml_scan.h"
#include "operation/command.h"

extern const struct xml_limits command_xml_limits;

/* As command_document_parse. EOPNOTSUPP is for what libvirt can and this can't. */
int command_xml_parse(const char *bytes, size_t length, struct create_command *command, struct error *err);
