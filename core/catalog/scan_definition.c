// SPDX-License-Identifier: LGPL-2.1-or-later
/* The definitions of a scan; see scan_definition.h. */
#include "catalog/scan_definition.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/text.h"
#include "catalog/scan_images.h"

/* Who could have written this? NULL where it is root or us, and nobody else can. */
static const char *distrust_of(const struct stat *stat, bool is_directory)
{
    if (stat->st_uid != 0 && stat->st_uid != geteuid())
        return is_directory ? "its directory belongs to somebody else" : "it belongs to somebody else";
    if (stat->st_mode & 022)
        return is_directory ? "others can write to its directory" : "others can write to it";
    return NULL;
}

static int read_file(int fd, struct text *text, struct error *why)
{
    char piece[16384];
    for (;;) {
        ssize_t length = read(fd, piece, sizeof piece);
        if (length < 0 && errno == EINTR)
            continue;
        if (length < 0)
            return error_set(why, errno, "%s", strerror(errno));
        if (length == 0)
            break;
        text_append(text, piece, (size_t)length);
        if (text->length > DEFINITION_BYTES_MAX)
            return error_set(why, E2BIG, "it is longer than %d bytes", DEFINITION_BYTES_MAX);
    }
    text_append(text, "", 0);
    return text->failed ? error_set(why, ENOMEM, "%s", strerror(ENOMEM)) : 0;
}

static int read_definition(struct scan *scan, struct scan_definition *made, struct error *why)
{
    cleanup_close int fd =
        openat(scan->directory, made->name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    struct stat stat, directory;
    if (fd < 0 || fstat(fd, &stat) < 0 || fstat(scan->directory, &directory) < 0)
        return error_set(why, errno, "%s", strerror(errno));
    made->identity = file_identity_of(&stat);
    made->ctime = stat.st_ctim;
    if (!S_ISREG(stat.st_mode))
        return error_set(why, EINVAL, "it is no regular file");
    cleanup_text struct text text = {0};
    int r = read_file(fd, &text, why);
    if (r < 0)
        return r;
    cleanup_free char *default_name = strndup(made->name, strlen(made->name) - strlen(".json"));
    if (!default_name)
        return error_set(why, ENOMEM, "%s", strerror(ENOMEM));
    r = definition_parse(text.data, text.length, default_name, &made->definition, why);
    if (r < 0)
        return r;
    made->is_good = true;
    const char *distrust = distrust_of(&stat, false);
    distrust = distrust ? distrust : distrust_of(&directory, true);
    if (distrust && !(made->distrust = strdup(distrust)))
        return error_set(why, ENOMEM, "%s", strerror(ENOMEM));
    return 0;
}

static int make_sources(struct scan *scan, struct scan_definition *made)
{
    const struct definition *definition = &made->definition;
    made->sources = calloc(definition->disk_count + 1, sizeof *made->sources);
    made->chains = calloc(definition->disk_count ? definition->disk_count : 1, sizeof *made->chains);
    if (!made->sources || !made->chains)
        return -ENOMEM;
    for (size_t i = 0; i < definition->disk_count; i++) {
        const char *source = definition->disks[i].source;
        bool remote = definition->disks[i].remote;
        while (strncmp(source, "./", 2) == 0)
            source += 2;
        if (*source == '/' || remote)
            made->sources[i] = strdup(source);
        else if (asprintf(&made->sources[i], "%s/%s", scan->source, source) < 0)
            made->sources[i] = NULL;
        if (!made->sources[i])
            return -ENOMEM;
    }
    return 0;
}

int scan_definition_add(struct scan *scan, const char *name, struct notices *notices)
{
    struct scan_definition *grown = realloc(scan->definitions, (scan->definition_count + 1) * sizeof *grown);
    if (!grown)
        return -ENOMEM;
    scan->definitions = grown;
    struct scan_definition *made = &grown[scan->definition_count++];
    *made = (struct scan_definition){0};
    if (asprintf(&made->path, "%s/%s", scan->source, name) < 0)
        return made->path = NULL, -ENOMEM;
    made->name = strdup(name);
    if (!made->name)
        return -ENOMEM;
    struct error why = {0};
    int r = read_definition(scan, made, &why);
    if (r == -ENOMEM)
        return r;
    if (r < 0) {
        notices_add(notices, LOG_LEVEL_ERROR, "%s defines no domain: %s", made->path, why.text);
        return 0;
    }
    return make_sources(scan, made);
}

char *const *scan_definition_named(const struct scan_definition *definition)
{
    return definition->distrust ? NULL : definition->sources;
}

/* A foreign image, or a raw one, that another definition names with another format is an image of its own. */
int scan_definition_open(struct scan *scan, const struct scan *before, struct scan_definition *definition)
{
    if (!definition->is_good)
        return 0;
    for (size_t i = 0; i < definition->definition.disk_count; i++) {
        struct scan_image *image = NULL;
        struct error why = {0};
        const struct definition_disk *disk = &definition->definition.disks[i];
        char *const *named = scan_definition_named(definition);
        int r =
            disk->remote
                ? scan_images_add_remote(scan, named, definition->sources[i], disk->format, &image, &why)
                : scan_images_open(scan, before, named, definition->sources[i], disk->format, &image, &why);
        if (r < 0)
            return r;
        struct scan_chain *chain = &definition->chains[i];
        if (image) {
            image->is_defined = true;
            chain->images = malloc(sizeof *chain->images);
            if (!chain->images)
                return -ENOMEM;
            chain->images[chain->count++] = image;
        } else if (asprintf(&chain->problem, "%s%s%s%s", why.text, definition->distrust ? " (" : "",
                            definition->distrust ? definition->distrust : "",
                            !definition->distrust ? ""
                            : disk->remote
                                ? ", so the definition is not trusted with the network)"
                                : ", so the definition is not trusted with files elsewhere)") < 0) {
            return chain->problem = NULL, -ENOMEM;
        }
    }
    return 0;
}

int scan_definition_follow(struct scan *scan, const struct scan *before, struct scan_definition *definition)
{
    int r = 0;
    for (size_t i = 0; r == 0 && definition->is_good && i < definition->definition.disk_count; i++) {
        struct scan_chain *chain = &definition->chains[i];
        if (chain->count == 0)
            continue;
        struct scan_image *top = chain->images[0];
        chain->count = 0;
        r = scan_images_follow(scan, before, scan_definition_named(definition), top, chain);
    }
    return r;
}

void scan_definition_done(struct scan_definition *definition)
{
    for (size_t i = 0; definition->chains && i < definition->definition.disk_count; i++)
        scan_chain_done(&definition->chains[i]);
    for (char **source = definition->sources; source && *source; source++)
        free(*source);
    free(definition->sources);
    free(definition->chains);
    if (definition->is_good)
        definition_done(&definition->definition);
    free(definition->distrust);
    free(definition->path);
    free(definition->name);
}
