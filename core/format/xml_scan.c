// SPDX-License-Identifier: LGPL-2.1-or-later
/* Where an XML document ends; see xml_scan.h. The names of the productions are those of XML 1.0. */
#include "format/xml_scan.h"

#include <errno.h>
#include <string.h>

static int refuse_type(struct error *err)
{
    return error_set(err, EINVAL,
                     "a document type (<!DOCTYPE …>) is not read, and with it no entities; leave it out");
}

static int begin_element(struct xml_scan *scan, const struct xml_limits *limits, struct error *err)
{
    scan->state = XML_TAG;
    if (++scan->depth > limits->depth)
        return error_set(err, E2BIG, "elements are nested deeper than %u", limits->depth);
    if (++scan->elements > limits->elements)
        return error_set(err, E2BIG, "more than %u elements", limits->elements);
    return 0;
}

static void end_element(struct xml_scan *scan)
{
    scan->state = XML_TEXT;
    if (scan->depth > 0)
        scan->depth--;
    scan->closed |= scan->depth == 0;
}

/* STag and EmptyElemTag: a bracket in an attribute's value does not end it. */
static int in_tag(struct xml_scan *scan, char byte, const struct xml_limits *limits, struct error *err)
{
    bool slash = scan->state == XML_TAG_SLASH;
    scan->state = byte == '/' ? XML_TAG_SLASH : XML_TAG;
    if (byte == '>' && slash) {
        end_element(scan);
    } else if (byte == '>') {
        scan->state = XML_TEXT;
    } else if (byte == '"' || byte == '\'') {
        scan->state = XML_TAG_QUOTE;
        scan->quote = byte;
        if (++scan->attributes > limits->attributes)
            return error_set(err, E2BIG, "more than %u attributes", limits->attributes);
    }
    return 0;
}

static int after_less(struct xml_scan *scan, char byte, const struct xml_limits *limits, struct error *err)
{
    switch (byte) {
    case '!':
        scan->state = XML_BANG;
        return 0;
    case '?':
        scan->state = XML_INSTRUCTION;
        return 0;
    case '/':
        scan->state = XML_END_TAG;
        return 0;
    default:
        return begin_element(scan, limits, err);
    }
}

/* After "<!" only a comment or CDATA may come. */
static int after_bang(struct xml_scan *scan, char byte, struct error *err)
{
    static const char cdata[] = "CDATA[";
    if (scan->state == XML_BANG && byte == '-') {
        scan->state = XML_BANG_HYPHEN;
    } else if (scan->state == XML_BANG && byte == '[') {
        scan->state = XML_CDATA_BEGIN;
        scan->matched = 0;
    } else if (scan->state == XML_BANG_HYPHEN && byte == '-') {
        scan->state = XML_COMMENT;
    } else if (scan->state == XML_CDATA_BEGIN && byte == cdata[scan->matched]) {
        if (!cdata[++scan->matched])
            scan->state = XML_CDATA;
    } else {
        return refuse_type(err);
    }
    return 0;
}

static void in_brackets(struct xml_scan *scan, char byte)
{
    switch (scan->state) {
    case XML_COMMENT:
        scan->state = byte == '-' ? XML_COMMENT_HYPHEN : XML_COMMENT;
        break;
    case XML_COMMENT_HYPHEN:
        scan->state = byte == '-' ? XML_COMMENT_END : XML_COMMENT;
        break;
    case XML_COMMENT_END:
        scan->state = byte == '>' ? XML_TEXT : byte == '-' ? XML_COMMENT_END : XML_COMMENT;
        break;
    case XML_CDATA:
        scan->state = byte == ']' ? XML_CDATA_BRACKET : XML_CDATA;
        break;
    case XML_CDATA_BRACKET:
        scan->state = byte == ']' ? XML_CDATA_END : XML_CDATA;
        break;
    case XML_CDATA_END:
        scan->state = byte == '>' ? XML_TEXT : byte == ']' ? XML_CDATA_END : XML_CDATA;
        break;
    case XML_INSTRUCTION:
        scan->state = byte == '?' ? XML_INSTRUCTION_END : XML_INSTRUCTION;
        break;
    default: /* XML_INSTRUCTION_END */
        scan->state = byte == '>' ? XML_TEXT : byte == '?' ? XML_INSTRUCTION_END : XML_INSTRUCTION;
    }
}

int xml_scan(struct xml_scan *scan, const char *bytes, size_t length, const struct xml_limits *limits,
             struct error *err)
{
    for (size_t i = 0; i < length; i++) {
        int rc = 0;
        if (!bytes[i])
            return error_set(err, EINVAL, "there is a zero byte in it; it must be UTF-8");
        switch (scan->state) {
        case XML_TEXT:
            if (bytes[i] == '<')
                scan->state = XML_LESS;
            break;
        case XML_LESS:
            rc = after_less(scan, bytes[i], limits, err);
            break;
        case XML_TAG:
        case XML_TAG_SLASH:
            rc = in_tag(scan, bytes[i], limits, err);
            break;
        case XML_TAG_QUOTE:
            if (bytes[i] == scan->quote)
                scan->state = XML_TAG;
            break;
        case XML_END_TAG:
            if (bytes[i] == '>')
                end_element(scan);
            break;
        case XML_BANG:
        case XML_BANG_HYPHEN:
        case XML_CDATA_BEGIN:
            rc = after_bang(scan, bytes[i], err);
            break;
        default:
            in_brackets(scan, bytes[i]);
        }
        if (rc < 0)
            return rc;
    }
    return scan->closed && scan->depth == 0 && scan->state == XML_TEXT ? 0 : -EAGAIN;
}
