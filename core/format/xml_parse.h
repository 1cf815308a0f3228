// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Untrusted XML, parsed with libxml2 behind limits (xml_scan.h), which are kept before libxml2 sees a byte.
 * The text is UTF-8 by itself, and no document type is in it; so there are no entities but the five of XML
 * itself, nothing is loaded, and no name in the text is ever opened. CDATA is text.
 */
#pragma once

#include <libxml/tree.h>
#include <stdbool.h>
#include <stddef.h>

#include "base/error.h"
#include "format/xml_scan.h"

/*
 * Parses `length` bytes. `*document` is the caller's, to be freed with xmlFreeDoc. Errors: E2BIG for what is
 * over a limit or longer than `bytes_max`; EINVAL with the line; ENOMEM.
 */
int xml_parse(const char *bytes, size_t length, size_t bytes_max, const struct xml_limits *limits,
              xmlDocPtr *document, struct error *err);

/* libxml2 is to be made ready once, before it is used in several threads: whoever uses it calls this first.
 */
void xml_prepare(void);

/* Is it an element of that name, in no namespace? */
bool xml_is(const xmlNode *node, const char *name);

/* The first child of `node` that is an element, or the next one after `node`; NULL: none. */
xmlNodePtr xml_first_element(const xmlNode *node);
xmlNodePtr xml_next_element(const xmlNode *node);

/* Is there anything but blanks between the elements in it? */
bool xml_has_text(const xmlNode *node);

/* The value of an attribute in no namespace, which the caller frees; NULL: there is none, and -ENOMEM is the
 * only error. */
int xml_attribute(const xmlNode *node, const char *name, char **value, struct error *err);

/* All the text of an element that holds nothing else; "" for an empty one. The caller frees. EINVAL for one
 * that has elements; ENOMEM. */
int xml_text(const xmlNode *node, char **text, struct error *err);

void xml_free_cleanup_(xmlDocPtr *document);
#define cleanup_xml cleanup(xml_free_cleanup_)
