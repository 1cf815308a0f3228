// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * One line of the QEMU Machine Protocol (QEMU's docs/interop/qmp-spec.rst) as it comes from the other side,
 * which is not trusted: limits in length, depth and number of values, valid UTF-8, and the types of all that
 * is taken out of it are checked here, once. No I/O.
 */
#pragma once

#include <json-c/json.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

/* Of a line without its end. query-named-block-nodes lists every snapshot of every image: 2,000 bytes for
 * ten. */
#define QMP_LINE_BYTES_MAX  (16U << 20)
#define QMP_LINE_VALUES_MAX (256U << 10)
#define QMP_LINE_DEPTH_MAX  64 /* a chain's images can be nested in an answer */

enum qmp_message_kind { QMP_GREETING, QMP_RETURN, QMP_ERROR, QMP_EVENT };

struct qmp_message {
    enum qmp_message_kind kind;
    struct json_object *root; /* the whole message; the strings below are borrowed from it */
    /* What a QMP_RETURN returns (NULL: null), or the data of a QMP_EVENT (an object, or NULL). */
    struct json_object *body;
    const char *id;      /* of an answer; NULL where there is none, or none that is a string */
    const char *name;    /* of an event; the class of an error */
    const char *text;    /* what an error says */
    unsigned version[3]; /* of a greeting: QEMU's major, minor and micro number */
};

/*
 * Parses `length` bytes (a line end, CR LF or LF, may be among them as the last). On success the message is
 * to be ended with qmp_message_done. Errors: EPROTO with a text for everything that is no message; ENOMEM.
 */
int qmp_message_parse(const char *line, size_t length, struct qmp_message *message, struct error *err);

/* Takes all zeros, too. */
void qmp_message_done(struct qmp_message *message);

/*
 * The errno (positive) for an error that QEMU reports. Its class says nearly nothing ("GenericError"), so its
 * text is looked at, without what stands in it in single quotes: names that users gave. Either may be NULL.
 *
 *     ENOSPC  no room, or no quota              EBUSY       an image's lock, or a node in use
 *     EEXIST  a snapshot, node or file is there ENOENT      a snapshot or file is not there
 *     ENODEV  no such node or device            EOPNOTSUPP  QEMU, the format or this command can't
 *     EROFS, EACCES, EPERM, ENOMEM, EINVAL, ECANCELED  as QEMU's words say;  EIO  all else
 */
int qmp_errno(const char *class_name, const char *text);

/* Copies what the peer wrote for a person to read: in one line, without control characters, cut to size. */
void qmp_clean_text(const char *text, char *buffer, size_t size);
