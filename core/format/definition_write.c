// SPDX-License-Identifier: LGPL-2.1-or-later
/* Writing definitions; see definition_write.h. */
#include "format/definition_write.h"

#include "format/json_write.h"

static void write_disk(struct json_writer *writer, const struct definition_disk *disk)
{
    json_begin_object(writer, NULL);
    json_string(writer, "target", disk->target);
    json_string(writer, "source", disk->source);
    json_string(writer, "format", image_format_name(disk->format));
    if (disk->snapshot != PRESET_DEFAULT)
        json_string(writer, "snapshot", snapshot_preset_name(disk->snapshot));
    if (!disk->persistent)
        json_bool(writer, "persistent", false);
    json_end_object(writer);
}

void definition_write(struct text *text, const struct definition *definition)
{
    struct json_writer writer = {.text = text};
    json_begin_object(&writer, NULL);
    json_string(&writer, "name", definition->name);
    if (definition->uuid)
        json_string(&writer, "uuid", definition->uuid);
    json_begin_array(&writer, "disks");
    for (size_t i = 0; i < definition->disk_count; i++)
        write_disk(&writer, &definition->disks[i]);
    json_end_array(&writer);
    if (definition->follows)
        json_bool(&writer, "follows", true);
    json_end_object(&writer);
    text_append_string(text, "\n");
}
