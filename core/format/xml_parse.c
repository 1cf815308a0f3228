// SPDX-License-Identifier: LGPL-2.1-or-later
/* Untrusted XML; see xml_parse.h. */
#include "format/xml_parse.h"

#include <errno.h>
#include <libxml/parser.h>
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/cleanup.h"
#include "base/utf8.h"

void xml_free_cleanup_(xmlDocPtr *document)
{
    xmlFreeDoc(*document);
}

static void free_context(xmlParserCtxtPtr *context)
{
    xmlFreeParserCtxt(*context);
}

static void free_string(xmlChar **string)
{
    if (*string)
        xmlFree(*string);
}

static int out_of_memory(struct error *err)
{
    return error_set(err, ENOMEM, "out of memory");
}

static int check_utf8(const char *bytes, size_t length, struct error *err)
{
    unsigned line = 1;
    for (size_t at = 0, step; at < length; at += step) {
        uint32_t code;
        step = utf8_decode(bytes + at, length - at, &code);
        if (step == 0)
            return error_set(err, EINVAL, "line %u: not UTF-8", line);
        line += code == '\n';
    }
    return 0;
}

/* The encoding that the XML declaration names: another one than UTF-8 would not be what the bytes are. */
static int check_encoding(const char *bytes, size_t length, struct error *err)
{
    static const char begin[] = "<?xml", key[] = "encoding";
    static const char *const right[] = {"UTF-8", "UTF8", "US-ASCII", "ASCII", NULL};
    if (length < sizeof begin || memcmp(bytes, begin, sizeof begin - 1) != 0)
        return 0;
    const char *end = memmem(bytes, length, "?>", 2);
    const char *at = end ? memmem(bytes, (size_t)(end - bytes), key, sizeof key - 1) : NULL;
    if (!at)
        return 0;
    at += sizeof key - 1;
    while (at < end && strchr(" \t\r\n=", *at))
        at++;
    char quote = at < end ? *at++ : '\0';
    const char *close = at < end ? memchr(at, quote, (size_t)(end - at)) : NULL;
    size_t named = close ? (size_t)(close - at) : 0;
    for (size_t i = 0; right[i]; i++)
        if (strlen(right[i]) == named && strncasecmp(at, right[i], named) == 0)
            return 0;
    return error_set(err, EINVAL, "line 1: the encoding must be UTF-8");
}

/* libxml2's own words end with a line end, and may hold whatever stands in the text. */
static int say_what_is_wrong(xmlParserCtxtPtr context, struct error *err)
{
    const xmlError *last = xmlCtxtGetLastError(context);
    if (last && last->code == XML_ERR_NO_MEMORY)
        return out_of_memory(err);
    char said[200] = "not well-formed";
    if (last && last->message) {
        size_t length = strnlen(last->message, sizeof said - 1);
        memcpy(said, last->message, length);
        while (length && said[length - 1] == '\n')
            length--;
        said[length] = '\0';
        for (char *c = said; *c; c++)
            if ((unsigned char)*c < ' ' || (unsigned char)*c >= 0x7f)
                *c = '?';
    }
    return error_set(err, EINVAL, "line %d: %s", last ? last->line : 1, said);
}

void xml_prepare(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, xmlInitParser);
}

int xml_parse(const char *bytes, size_t length, size_t bytes_max, const struct xml_limits *limits,
              xmlDocPtr *document, struct error *err)
{
    if (length > bytes_max || length >= INT32_MAX)
        return error_set(err, E2BIG, "longer than %zu bytes", bytes_max);
    struct xml_scan scan = {0};
    int rc = xml_scan(&scan, bytes, length, limits, err);
    if (rc == -EAGAIN)
        return error_set(err, EINVAL, "it ends before its root element does");
    if (rc == 0)
        rc = check_utf8(bytes, length, err);
    if (rc == 0)
        rc = check_encoding(bytes, length, err);
    if (rc < 0)
        return rc;
    xml_prepare();
    cleanup(free_context) xmlParserCtxtPtr context = xmlNewParserCtxt();
    if (!context)
        return out_of_memory(err);
    /* Without XML_PARSE_NOENT, XML_PARSE_DTDLOAD, XML_PARSE_XINCLUDE and XML_PARSE_HUGE. */
    xmlDocPtr parsed =
        xmlCtxtReadMemory(context, bytes, (int)length, NULL, "UTF-8",
                          XML_PARSE_NONET | XML_PARSE_NOCDATA | XML_PARSE_NOERROR | XML_PARSE_NOWARNING);
    if (!parsed)
        return say_what_is_wrong(context, err);
    if (!context->wellFormed || parsed->intSubset || parsed->extSubset || !xmlDocGetRootElement(parsed)) {
        xmlFreeDoc(parsed);
        return say_what_is_wrong(context, err);
    }
    *document = parsed;
    return 0;
}

bool xml_is(const xmlNode *node, const char *name)
{
    return node->type == XML_ELEMENT_NODE && !node->ns && strcmp((const char *)node->name, name) == 0;
}

static xmlNodePtr element_from(xmlNodePtr node)
{
    while (node && node->type != XML_ELEMENT_NODE)
        node = node->next;
    return node;
}

xmlNodePtr xml_first_element(const xmlNode *node)
{
    return element_from(node->children);
}

xmlNodePtr xml_next_element(const xmlNode *node)
{
    return element_from(node->next);
}

bool xml_has_text(const xmlNode *node)
{
    for (const xmlNode *child = node->children; child; child = child->next) {
        bool plain = child->type == XML_TEXT_NODE || child->type == XML_CDATA_SECTION_NODE;
        if (child->type == XML_ENTITY_REF_NODE || (plain && !xmlIsBlankNode(child)))
            return true;
    }
    return false;
}

/* Takes over a string of libxml2. */
static int give(xmlChar *string, char **given, struct error *err)
{
    cleanup(free_string) xmlChar *taken = string;
    char *copy = taken ? strdup((const char *)taken) : NULL;
    if (!copy)
        return out_of_memory(err);
    *given = copy;
    return 0;
}

int xml_attribute(const xmlNode *node, const char *name, char **value, struct error *err)
{
    if (!xmlHasNsProp(node, (const xmlChar *)name, NULL))
        return 0;
    return give(xmlGetNoNsProp(node, (const xmlChar *)name), value, err);
}

int xml_text(const xmlNode *node, char **text, struct error *err)
{
    if (xml_first_element(node))
        return error_set(err, EINVAL, "<%.40s> can have no elements in it", (const char *)node->name);
    return give(xmlNodeGetContent(node), text, err);
}
