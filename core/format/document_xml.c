// SPDX-License-Identifier: LGPL-2.1-or-later
/* snapshot.xml; see document.h, which lists what is in it. */
#include "format/document.h"

#include <inttypes.h>
#include <libxml/xmlwriter.h>
#include <stdio.h>
#include <string.h>

#include "base/utf8.h"
#include "format/xml_parse.h"

struct writer {
    xmlTextWriterPtr xml;
    bool failed;
};

static void note(struct writer *writer, int result)
{
    writer->failed |= result < 0;
}

static void begin(struct writer *writer, const char *name)
{
    note(writer, xmlTextWriterStartElement(writer->xml, BAD_CAST name));
}

static void end(struct writer *writer)
{
    note(writer, xmlTextWriterEndElement(writer->xml));
}

/* What no XML can hold, and what would control a terminal, is U+FFFD. */
static void make_plain(struct text *plain, const char *string)
{
    for (size_t left = strlen(string), step; left; string += step, left -= step) {
        uint32_t code = 0;
        step = utf8_decode(string, left, &code);
        bool is_control = code < 0x20 ? code != '\t' && code != '\n' : code >= 0x7f && code < 0xa0;
        if (!step || is_control || code == 0xfffe || code == 0xffff)
            text_append_string(plain, "\xef\xbf\xbd");
        else
            text_append(plain, string, step);
        step = step ? step : 1;
    }
}

static void attribute(struct writer *writer, const char *name, const char *value)
{
    cleanup_text struct text plain = {0};
    make_plain(&plain, value);
    writer->failed |= plain.failed;
    if (plain.data)
        note(writer, xmlTextWriterWriteAttribute(writer->xml, BAD_CAST name, BAD_CAST plain.data));
}

static void element(struct writer *writer, const char *name, const char *value)
{
    cleanup_text struct text plain = {0};
    make_plain(&plain, value);
    writer->failed |= plain.failed;
    if (plain.data)
        note(writer, xmlTextWriterWriteElement(writer->xml, BAD_CAST name, BAD_CAST plain.data));
}

/* As libvirt calls it, for which disks alone are a state; NULL where it is not known. */
static const char *state_of(const struct snapshot *snapshot)
{
    if (snapshot->state == SNAPSHOT_STATE_SHUTOFF)
        return "shutoff";
    if (!snapshot_has_memory(snapshot))
        return "disk-snapshot";
    return snapshot->state == SNAPSHOT_STATE_UNKNOWN ? NULL : snapshot_state_name(snapshot->state);
}

static void write_memory(struct writer *writer, const struct snapshot *snapshot)
{
    const struct saved_memory *memory = snapshot->memory;
    begin(writer, "memory");
    attribute(writer, "snapshot", memory ? "external" : snapshot->memory_size ? "internal" : "no");
    if (memory)
        attribute(writer, "file", memory->layer.path);
    end(writer);
}

/* Of an external one, the file that libvirt would name is the overlay, of which there can be several, or none
 * any more; the frozen image is named in snapshot.json. */
static void write_disk(struct writer *writer, const struct snapshot *snapshot, const struct disk *disk)
{
    const struct frozen *frozen = snapshot_find_frozen(snapshot, disk);
    begin(writer, "disk");
    attribute(writer, "name", disk->target);
    attribute(writer, "snapshot", !frozen ? "no" : frozen->internal ? "internal" : "external");
    if (frozen && !frozen->internal) {
        begin(writer, "driver");
        attribute(writer, "type", "qcow2");
        end(writer);
    }
    end(writer);
}

static void write_snapshot(struct writer *writer, const struct domain *domain,
                           const struct snapshot *snapshot)
{
    const char *state = state_of(snapshot);
    char seconds[32];
    snprintf(seconds, sizeof seconds, "%" PRId64, (int64_t)snapshot->created.tv_sec);
    begin(writer, "domainsnapshot");
    element(writer, "name", snapshot->name);
    if (snapshot->description[0])
        element(writer, "description", snapshot->description);
    if (state)
        element(writer, "state", state);
    if (snapshot->parent) {
        begin(writer, "parent");
        element(writer, "name", snapshot->parent->name);
        end(writer);
    }
    element(writer, "creationTime", seconds);
    write_memory(writer, snapshot);
    begin(writer, "disks");
    for (size_t i = 0; i < domain->disk_count; i++)
        write_disk(writer, snapshot, &domain->disks[i]);
    end(writer);
    if (domain->uuid) {
        begin(writer, "domain");
        element(writer, "uuid", domain->uuid);
        end(writer);
    }
    end(writer);
}

void document_snapshot_xml(struct text *text, const struct domain *domain, const struct snapshot *snapshot)
{
    xml_prepare();
    xmlBufferPtr buffer = xmlBufferCreate();
    struct writer writer = {.xml = buffer ? xmlNewTextWriterMemory(buffer, 0) : NULL};
    writer.failed = !writer.xml;
    if (writer.xml) {
        note(&writer, xmlTextWriterSetIndent(writer.xml, 1));
        note(&writer, xmlTextWriterSetIndentString(writer.xml, BAD_CAST "  "));
        write_snapshot(&writer, domain, snapshot);
        note(&writer, xmlTextWriterFlush(writer.xml));
        xmlFreeTextWriter(writer.xml);
    }
    if (writer.failed)
        text->failed = true;
    else
        text_append_string(text, (const char *)xmlBufferContent(buffer));
    if (buffer)
        xmlBufferFree(buffer);
}
