// SPDX-License-Identifier: LGPL-2.1-or-later
/* libvirt's <domainsnapshot> to a command; see command_xml.h. */
#include "operation/command_xml.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "domain/domain.h"
#include "format/xml_parse.h"
#include "operation/command_document.h"
#include "operation/command_formats.h"

/* A document that libvirt wrote holds the whole definition of a domain, with disks and devices. */
const struct xml_limits command_xml_limits = {
    .depth = 32, .elements = 8 * DOMAIN_DISKS_MAX, .attributes = 16 * DOMAIN_DISKS_MAX};

static const char *name_of(const xmlNode *node)
{
    return command_shown((const char *)node->name);
}

static const char *const no_names[] = {NULL};

/* Nothing else is in the element than these attributes and elements, each of the latter once at most.
 * `known` tells people. */
static int check_element(const xmlNode *node, const char *const *attributes, const char *const *elements,
                         const char *known, struct error *err)
{
    for (const xmlAttr *attribute = node->properties; attribute; attribute = attribute->next)
        if (attribute->ns || command_word_index((const char *)attribute->name, attributes) < 0)
            return error_set(err, EINVAL, "line %ld: the attribute %.40s of <%.40s> is not known; %s",
                             xmlGetLineNo(node), command_shown((const char *)attribute->name), name_of(node),
                             known);
    if (xml_has_text(node))
        return error_set(err, EINVAL, "line %ld: there is text in <%.40s>, between what belongs there; %s",
                         xmlGetLineNo(node), name_of(node), known);
    unsigned seen = 0;
    for (const xmlNode *child = xml_first_element(node); child; child = xml_next_element(child)) {
        int index = child->ns ? -1 : command_word_index((const char *)child->name, elements);
        if (index < 0)
            return error_set(err, EINVAL, "line %ld: <%.40s> is not known in <%.40s>; %s",
                             xmlGetLineNo(child), name_of(child), name_of(node), known);
        if (seen & 1u << index)
            return error_set(err, EINVAL, "line %ld: <%.40s> is there twice; it can be there once",
                             xmlGetLineNo(child), name_of(child));
        seen |= 1u << index;
    }
    return 0;
}

/* The element in it of that name; NULL: there is none. */
static const xmlNode *element_in(const xmlNode *node, const char *name)
{
    const xmlNode *child = xml_first_element(node);
    while (child && !xml_is(child, name))
        child = xml_next_element(child);
    return child;
}

/* The index of an attribute's value among the words, of which `known` tells; -1: there is no attribute. */
static int read_word(const xmlNode *node, const char *attribute, const char *const *words, const char *known,
                     int *index, struct error *err)
{
    cleanup_free char *value = NULL;
    int rc = xml_attribute(node, attribute, &value, err);
    if (rc < 0)
        return rc;
    *index = value ? command_word_index(value, words) : -1;
    if (value && *index < 0)
        return error_set(err, strcmp(value, "manual") == 0 ? EOPNOTSUPP : EINVAL,
                         "line %ld: %s='%.40s' of <%.40s> is not known; %s", xmlGetLineNo(node), attribute,
                         command_shown(value), name_of(node), known);
    return 0;
}

/* An attribute that, where it is there, must have the one value that can be honoured. */
static int check_only(const xmlNode *node, const char *attribute, const char *value, const char *why,
                      struct error *err)
{
    cleanup_free char *found = NULL;
    int rc = node ? xml_attribute(node, attribute, &found, err) : 0;
    if (rc == 0 && found && strcmp(found, value) != 0)
        rc = error_set(err, EOPNOTSUPP, "line %ld: %s='%.40s' of <%.40s> can't be honoured: %s",
                       xmlGetLineNo(node), attribute, command_shown(found), name_of(node), why);
    return rc;
}

static const char only_qcow2[] = "a new overlay is qcow2";
static const char only_files[] = "a new overlay is a file, with type='file'";

static int read_source(const xmlNode *source, char **path, struct error *err)
{
    static const char *const attributes[] = {"file", NULL};
    int rc =
        check_element(source, attributes, no_names, "it has the attribute file, the path of a new file", err);
    return rc < 0 ? rc : xml_attribute(source, "file", path, err);
}

static int read_mirror(const xmlNode *mirror, char **path, struct error *err)
{
    static const char *const attributes[] = {"file", "type", "format", NULL};
    static const char *const elements[] = {"format", "source", NULL};
    static const char *const of_format[] = {"type", NULL};
    static const char known[] = "a mirror is <mirror file='PATH'/>, or has <format> and <source>";
    const xmlNode *format = element_in(mirror, "format"), *source = element_in(mirror, "source");
    int rc = check_element(mirror, attributes, elements, known, err);
    if (rc == 0 && format)
        rc = check_element(format, of_format, no_names, "it has the attribute type", err);
    if (rc == 0)
        rc = check_only(format, "type", "qcow2", only_qcow2, err);
    if (rc == 0)
        rc = check_only(mirror, "format", "qcow2", only_qcow2, err);
    if (rc == 0)
        rc = check_only(mirror, "type", "file", only_files, err);
    if (rc == 0)
        rc = xml_attribute(mirror, "file", path, err);
    if (rc == 0 && source && !*path)
        rc = read_source(source, path, err);
    else if (rc == 0 && source)
        rc = error_set(err, EINVAL, "line %ld: <mirror> names two files", xmlGetLineNo(mirror));
    if (rc == 0 && !*path)
        rc = error_set(err, EINVAL, "line %ld: <mirror> names no file; %s", xmlGetLineNo(mirror), known);
    return rc;
}

/* The kind of the disk, and what is only for external ones. */
static int read_kind(const xmlNode *node, struct create_disk *disk, struct error *err)
{
    static const char *const of_driver[] = {"type", NULL};
    const xmlNode *driver = element_in(node, "driver"), *source = element_in(node, "source");
    int kind = -1;
    int rc = read_word(node, "snapshot", command_places,
                       "no, internal and external are; whatever a snapshot has is taken here", &kind, err);
    if (rc == 0 && kind >= 0)
        disk->choice = (enum disk_choice)(DISK_NO + kind);
    else if (rc == 0 && (driver || source))
        disk->choice = DISK_EXTERNAL; /* as libvirt takes it */
    if (rc == 0 && (driver || source) && disk->choice != DISK_EXTERNAL)
        rc = error_set(err, EINVAL,
                       "line %ld: <driver> and <source> are about the new file of an external snapshot: disk "
                       "%.100s needs snapshot='external'",
                       xmlGetLineNo(node), command_shown(disk->target));
    if (rc == 0 && driver)
        rc = check_element(driver, of_driver, no_names, "it has the attribute type", err);
    if (rc == 0)
        rc = check_only(driver, "type", "qcow2", only_qcow2, err);
    return rc == 0 && source ? read_source(source, &disk->path, err) : rc;
}

static int read_disk(const xmlNode *node, struct create_command *command, struct error *err)
{
    static const char *const attributes[] = {"name", "snapshot", "type", NULL};
    static const char *const elements[] = {"driver", "source", "mirror", NULL};
    cleanup_free char *name = NULL;
    int rc = check_element(node, attributes, elements,
                           "a disk has the attributes name, snapshot and type, and <driver>, <source> and "
                           "<mirror>",
                           err);
    if (rc == 0)
        rc = xml_attribute(node, "name", &name, err);
    if (rc == 0 && !name)
        rc = error_set(err, EINVAL, "line %ld: a <disk> has no name; it is a target, such as name='vda'",
                       xmlGetLineNo(node));
    if (rc == 0 && strchr(name, '/'))
        rc = error_set(err, EINVAL,
                       "line %ld: the disk %.100s is named by its file; name it by its target, such as "
                       "name='vda'",
                       xmlGetLineNo(node), command_shown(name));
    if (rc == 0)
        rc = check_only(node, "type", "file", only_files, err);
    if (rc == 0)
        rc = command_add_disk(command, name, strlen(name), err);
    if (rc < 0)
        return rc;
    struct create_disk *disk = &command->disks[command->disk_count - 1];
    const xmlNode *mirror = element_in(node, "mirror");
    rc = read_kind(node, disk, err);
    return rc == 0 && mirror ? read_mirror(mirror, &disk->mirror, err) : rc;
}

static int read_disks(const xmlNode *node, struct create_command *command, struct error *err)
{
    static const char known[] = "it has a <disk> for each disk";
    if (node->properties)
        return check_element(node, no_names, no_names, known, err);
    if (xml_has_text(node))
        return error_set(err, EINVAL, "line %ld: there is text in <disks>; %s", xmlGetLineNo(node), known);
    for (const xmlNode *child = xml_first_element(node); child; child = xml_next_element(child)) {
        int rc = xml_is(child, "disk")
                     ? read_disk(child, command, err)
                     : error_set(err, EINVAL, "line %ld: <%.40s> is not known in <disks>; %s",
                                 xmlGetLineNo(child), name_of(child), known);
        if (rc < 0)
            return rc;
    }
    return 0;
}

static int read_memory(const xmlNode *node, struct create_command *command, struct error *err)
{
    static const char *const attributes[] = {"snapshot", "file", NULL};
    int kind = -1;
    int rc = check_element(node, attributes, no_names, "it has the attributes snapshot and file", err);
    if (rc == 0)
        rc = read_word(node, "snapshot", command_places, "no, internal and external are", &kind, err);
    if (rc == 0)
        rc = xml_attribute(node, "file", &command->memory_file, err);
    if (rc < 0)
        return rc;
    if (kind >= 0)
        command->memory = (enum memory_choice)(MEMORY_NO + kind);
    if (command->memory_file && command->memory != MEMORY_EXTERNAL)
        return error_set(err, EINVAL,
                         "line %ld: <memory> names a file, which only external memory needs: it must have "
                         "snapshot='external' then",
                         xmlGetLineNo(node));
    return 0;
}

/* Of a document that has no <memory>. */
static int read_state(const xmlNode *node, struct create_command *command, struct error *err)
{
    cleanup_free char *state = NULL;
    int rc = xml_text(node, &state, err);
    if (rc == 0 && strcmp(state, "disk-snapshot") == 0)
        command->memory = MEMORY_NO;
    return rc;
}

static int read_plain(const xmlNode *node, char **text, struct error *err)
{
    if (node->properties)
        return check_element(node, no_names, no_names, "it has text and no attributes", err);
    return xml_text(node, text, err);
}

static int read_snapshot(const xmlNode *root, struct create_command *command, struct error *err)
{
    static const char *const elements[] = {"name",   "description", "memory",       "disks",
                                           "state",  "parent",      "domain",       "inactiveDomain",
                                           "active", "cookie",      "creationTime", NULL};
    if (!xml_is(root, "domainsnapshot"))
        return error_set(err, EINVAL, "the root element is <%.40s>; that of a snapshot is <domainsnapshot>",
                         name_of(root));
    int rc = check_element(root, no_names, elements,
                           "a snapshot has <name>, <description>, <memory> and <disks>; what libvirt writes "
                           "besides is ignored: <state>, <creationTime>, <parent>, <domain>, "
                           "<inactiveDomain>, <active> and <cookie>",
                           err);
    const xmlNode *name = element_in(root, "name"), *description = element_in(root, "description");
    const xmlNode *memory = element_in(root, "memory"), *disks = element_in(root, "disks");
    const xmlNode *state = element_in(root, "state");
    if (rc == 0 && name)
        rc = read_plain(name, &command->name, err);
    if (rc == 0 && description)
        rc = read_plain(description, &command->description, err);
    if (rc == 0 && memory)
        rc = read_memory(memory, command, err);
    else if (rc == 0 && state)
        rc = read_state(state, command, err);
    if (rc == 0 && disks)
        rc = read_disks(disks, command, err);
    return rc == 0 ? create_command_check(command, err) : rc;
}

int command_xml_parse(const char *bytes, size_t length, struct create_command *command, struct error *err)
{
    cleanup_xml xmlDocPtr document = NULL;
    int rc = xml_parse(bytes, length, COMMAND_DOCUMENT_BYTES_MAX, &command_xml_limits, &document, err);
    if (rc < 0) {
        error_prefix(err, "the document");
        return rc;
    }
    cleanup(create_command_done) struct create_command parsed = {0};
    rc = read_snapshot(xmlDocGetRootElement(document), &parsed, err);
    if (rc < 0)
        return rc;
    *command = parsed;
    parsed = (struct create_command){0};
    return 0;
}
