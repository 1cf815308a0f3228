// SPDX-License-Identifier: LGPL-2.1-or-later
/* The JSON documents that the tree shows; see document.h, which lists their keys. */
#include "format/document.h"

#include <limits.h>
#include <stdio.h>
#include <time.h>

#include "format/json_write.h"

static const char *name_or_null(const struct snapshot *snapshot)
{
    return snapshot ? snapshot->name : NULL;
}

/* RFC 3339 knows the years 0 to 9999; other times, which a damaged file can have, are null. */
static void write_time(struct json_writer *writer, const char *key, const struct timespec *time)
{
    struct tm utc;
    char seconds[40], whole[64];
    if (!gmtime_r(&time->tv_sec, &utc) || utc.tm_year < -1900 || utc.tm_year > 9999 - 1900) {
        json_null(writer, key);
        return;
    }
    strftime(seconds, sizeof seconds, "%Y-%m-%dT%H:%M:%S", &utc);
    snprintf(whole, sizeof whole, "%s.%09ldZ", seconds, time->tv_nsec);
    json_string(writer, key, whole);
}

static void write_size(struct json_writer *writer, const struct layer *layer)
{
    if (layer && (!layer->remote || layer->size))
        json_number(writer, "size", layer->size);
    else
        json_null(writer, "size");
}

static void write_layers(struct json_writer *writer, const struct domain *domain, const struct layer *top)
{
    json_begin_array(writer, "layers");
    /* A chain has no more layers than its domain, whatever the pointers say. */
    size_t left = domain->layer_count;
    for (const struct layer *layer = top; layer && left; layer = layer->backing, left--) {
        json_begin_object(writer, NULL);
        json_string(writer, "path", layer->path);
        json_string(writer, "format", image_format_name(layer->format));
        write_size(writer, layer);
        json_bool(writer, "frozen", !layer->active);
        json_bool(writer, "changed", layer->changed);
        json_end_object(writer);
    }
    json_end_array(writer);
}

void document_domain(struct text *text, const struct domain *domain)
{
    struct json_writer writer = {.text = text};
    json_begin_object(&writer, NULL);
    json_string(&writer, "name", domain->name);
    json_string(&writer, "uuid", domain->uuid);
    json_string(&writer, "definition", domain->definition);
    json_string(&writer, "problem", domain->problem);
    json_string(&writer, "current", name_or_null(domain->current));
    json_string(&writer, "latest", name_or_null(domain->latest));
    json_begin_array(&writer, "disks");
    for (size_t i = 0; i < domain->disk_count; i++) {
        const struct disk *disk = &domain->disks[i];
        const struct layer *active = disk->active;
        json_begin_object(&writer, NULL);
        json_string(&writer, "target", disk->target);
        json_string(&writer, "source", active ? active->path : disk->source);
        json_string(&writer, "format", image_format_name(active ? active->format : disk->format));
        write_size(&writer, active);
        json_string(&writer, "snapshot", snapshot_preset_name(disk->snapshot));
        json_bool(&writer, "persistent", disk->persistent);
        write_layers(&writer, domain, active);
        json_end_object(&writer);
    }
    json_end_array(&writer);
    json_begin_array(&writer, "snapshots");
    for (size_t i = 0; i < domain->snapshot_count; i++)
        json_string(&writer, NULL, domain->snapshots[i]->name);
    json_end_array(&writer);
    json_end_object(&writer);
    text_append_string(text, "\n");
}

static void write_frozen(struct json_writer *writer, const struct frozen *frozen)
{
    char file[NAME_MAX + sizeof ".raw"];
    snprintf(file, sizeof file, "%s.raw", frozen->disk->target);
    json_begin_object(writer, NULL);
    json_string(writer, "target", frozen->disk->target);
    json_string(writer, "file", file);
    json_number(writer, "size", frozen->size);
    json_string(writer, "kind", frozen->internal ? "internal" : "external");
    json_string(writer, "layer", frozen->layer->path);
    json_string(writer, "format", image_format_name(frozen->layer->format));
    json_string(writer, "internal_id", frozen->internal ? frozen->internal->id : NULL);
    json_string(writer, "internal_tag", frozen->internal ? frozen->internal->name : NULL);
    json_end_object(writer);
}

/* Where it lies, and how many bytes it takes there. */
static void write_memory(struct json_writer *writer, const struct snapshot *snapshot)
{
    const struct saved_memory *memory = snapshot->memory;
    json_string(writer, "memory", memory ? "external" : snapshot->memory_size ? "internal" : "no");
    if (snapshot_has_memory(snapshot))
        json_number(writer, "memory_bytes", memory ? memory->layer.size : snapshot->memory_size);
    else
        json_null(writer, "memory_bytes");
    json_string(writer, "memory_file", memory ? memory->layer.path : NULL);
    json_string(writer, "memory_compression", memory ? memory_compression_name(memory->compression) : NULL);
}

void document_snapshot(struct text *text, const struct domain *domain, const struct snapshot *snapshot)
{
    struct json_writer writer = {.text = text};
    json_begin_object(&writer, NULL);
    json_string(&writer, "name", snapshot->name);
    json_string(&writer, "domain", domain->name);
    write_time(&writer, "created", &snapshot->created);
    json_string(&writer, "parent", name_or_null(snapshot->parent));
    json_string(&writer, "state", snapshot_state_name(snapshot->state));
    json_string(&writer, "consistency", consistency_name(snapshot->consistency));
    json_bool(&writer, "protected", snapshot->is_protected);
    json_string(&writer, "description", snapshot->description);
    write_memory(&writer, snapshot);
    json_begin_array(&writer, "disks");
    for (size_t i = 0; i < snapshot->frozen_count; i++)
        write_frozen(&writer, &snapshot->frozen[i]);
    json_end_array(&writer);
    json_begin_array(&writer, "missing");
    for (size_t i = 0; i < domain->disk_count; i++)
        if (!snapshot_find_frozen(snapshot, &domain->disks[i]))
            json_string(&writer, NULL, domain->disks[i].target);
    json_end_array(&writer);
    json_end_object(&writer);
    text_append_string(text, "\n");
}
