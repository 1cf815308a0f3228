// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * The documents that the tree shows: domain.json, snapshot.json and snapshot.xml. Pure: from a domain to
 * text, any thread.
 *
 * In JSON every key is always there; what is unknown or absent is null. Sizes are bytes. Times are RFC 3339,
 * UTC, with nanoseconds. Keys may be added later, never renamed or removed.
 *
 * domain.json:
 *
 *     name            the domain's name
 *     uuid            of its definition
 *     definition      absolute path of its definition; null for an image without one
 *     problem         why part of the domain can't be shown
 *     current         name of the snapshot that the present state descends from
 *     latest          name of the newest snapshot
 *     disks           a list, in the definition's order:
 *         target      "vda"
 *         source      absolute path of the image that is active now, or its name on the network
 *         format      of that image
 *         size        virtual
 *         snapshot    its preset: "default", "no", "internal", "external"
 *         persistent  false where changes are dropped at power-off
 *         layers      a list, the active image first, the bottom of the chain last:
 *             path    absolute, or a name on the network
 *             format
 *             size    virtual
 *             frozen  false for the one that is written to
 *             changed true where someone wrote to it although it is frozen
 *     snapshots       a list of names, the oldest first
 *
 * snapshot.json:
 *
 *     name            the snapshot's name
 *     domain          its domain's
 *     created         when it was taken
 *     parent          name of its parent; null for a root
 *     state           the domain's state then: "running", "paused", "shutoff", "unknown"
 *     consistency     "clean", "quiesced", "crash", "checkpoint"
 *     protected       true where it can't be deleted
 *     description
 *     memory_bytes    size of the memory that was saved inside an image
 *     disks           a list, one for each disk that it includes:
 *         target      "vda"
 *         file        name of the frozen disk in disks/: "vda.raw"
 *         size        virtual, at the snapshot
 *         kind        "internal": in the image's own snapshot table; "external": the whole frozen image
 *         layer       absolute path of the image that holds it
 *         format      of that image
 *         internal_id, internal_tag
 *                     the snapshot's id and tag in that image; null where external
 *     missing         a list of the domain's disks, by target, that it does not include
 *
 * snapshot.xml, as libvirt's <domainsnapshot> (command_xml.h reads it):
 *
 *     name
 *     description     where there is one
 *     state           "shutoff"; "running" or "paused" with memory, where it is known; else "disk-snapshot"
 *     parent/name     where there is one
 *     creationTime    in seconds since 1970
 *     memory          always: snapshot "no", "internal", "external", and then the file
 *     disks/disk      every disk of the domain: name, snapshot "no", "internal", "external", and then the
 *                     format of the overlay; no file is named
 *     domain/uuid     where the definition has one
 */
#pragma once

#include "base/text.h"
#include "domain/domain.h"

/* Appends an indented JSON object and a newline. Strings that are no UTF-8 (a tag, a path) have U+FFFD for
 * each byte that is none, so that the document stays valid. `text->failed` tells where memory ran out. */
void document_domain(struct text *text, const struct domain *domain);
void document_snapshot(struct text *text, const struct domain *domain, const struct snapshot *snapshot);

/* The same as XML. What XML can't hold is U+FFFD. */
void document_snapshot_xml(struct text *text, const struct domain *domain, const struct snapshot *snapshot);
