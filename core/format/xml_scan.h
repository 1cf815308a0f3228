// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Finds out where an XML document ends, while it comes in pieces, and that it is within limits, before a
 * parser takes memory for it. It follows what has brackets (tags with quotes in them, comments, CDATA,
 * processing instructions) and counts; whether the document is well-formed is the parser's to say. What is
 * counted is never less than what a parser would find.
 *
 * A document type is refused as soon as it begins: entities and external subsets come with nothing else. Pure
 * functions; any thread.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "base/error.h"

struct xml_limits {
    unsigned depth;      /* elements inside each other */
    unsigned elements;   /* in the whole document */
    unsigned attributes; /* of all elements together */
};

enum xml_scan_state {
    XML_TEXT,
    XML_LESS,           /* < */
    XML_TAG,            /* <a */
    XML_TAG_SLASH,      /* <a / */
    XML_TAG_QUOTE,      /* <a b=" */
    XML_END_TAG,        /* </ */
    XML_BANG,           /* <! */
    XML_BANG_HYPHEN,    /* <!- */
    XML_COMMENT,        /* <!-- */
    XML_COMMENT_HYPHEN, /* <!-- - */
    XML_COMMENT_END,    /* <!-- -- */
    XML_CDATA_BEGIN,    /* <![, and `matched` more letters of CDATA[ */
    XML_CDATA,          /* <![CDATA[ */
    XML_CDATA_BRACKET,  /* <![CDATA[ ] */
    XML_CDATA_END,      /* <![CDATA[ ]] */
    XML_INSTRUCTION,    /* <? */
    XML_INSTRUCTION_END /* <? ? */
};

/* Zeros at the beginning. */
struct xml_scan {
    enum xml_scan_state state;
    unsigned depth, elements, attributes;
    unsigned matched;
    char quote;
    bool closed; /* the root element was */
};

/*
 * Goes on over the next piece. 0: the root element is closed, and nothing else is open; -EAGAIN: more must
 * come. Errors, which nothing that comes can mend: EINVAL for a document type and a zero byte; E2BIG for what
 * is over a limit.
 */
int xml_scan(struct xml_scan *scan, const char *bytes, size_t length, const struct xml_limits *limits,
             struct error *err);
