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

static int parse(struct scan_definition *made, struct error *why)
{
    cleanup_free char *default_name = strndup(made->name, strlen(made->name) - strlen(".json"));
    if (!default_name)
        return error_set(why, ENOMEM, "%s", strerror(ENOMEM));
    int r = definition_parse(made->bytes, made->length, default_name, &made->definition, why);
    made->is_good = r == 0;
    return r;
}

static int read_definition(struct scan *scan, struct scan_definition *made, struct error *why)
{
    struct stat stat, directory;
    /* Also of one that can't be opened it is to be known whether it is still the same. */
    if (fstatat(scan->directory, made->name, &stat, AT_SYMLINK_NOFOLLOW) == 0) {
        made->identity = file_identity_of(&stat);
        made->ctime = stat.st_ctim;
    }
    cleanup_close int fd =
        openat(scan->directory, made->name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
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
    made->length = text.length;
    made->bytes = text_steal(&text);
    r = parse(made, why);
    if (r < 0)
        return r;
    const char *distrust = distrust_of(&stat, false);
    distrust = distrust ? distrust : distrust_of(&directory, true);
    if (distrust && !(made->distrust = strdup(distrust)))
        return error_set(why, ENOMEM, "%s", strerror(ENOMEM));
    return 0;
}

static const struct scan_definition *definition_before(const struct scan *before, const char *name)
{
    for (size_t i = 0; before && i < before->definition_count; i++)
        if (strcmp(before->definitions[i].name, name) == 0)
            return &before->definitions[i];
    return NULL;
}

/* It can't be read now: it is what it was. -ENOMEM. */
static int take_over(const struct scan *scan, const struct scan_definition *known,
                     struct scan_definition *made, const char *why)
{
    made->unread = strdup(why);
    made->unread_since = known && known->unread ? known->unread_since : scan->started_at;
    if (!made->unread)
        return -ENOMEM;
    if (!known || !known->is_good)
        return 0;
    made->length = known->length;
    made->bytes = malloc(known->length + 1);
    made->distrust = known->distrust ? strdup(known->distrust) : NULL;
    if (!made->bytes || (known->distrust && !made->distrust))
        return -ENOMEM;
    memcpy(made->bytes, known->bytes, known->length + 1);
    return parse(made, NULL);
}

/* The name of the domain, as far as it is known. -ENOMEM. */
static int name_domain(const struct scan_definition *known, struct scan_definition *made)
{
    made->domain = made->is_good ? strdup(made->definition.name)
                   : known       ? strdup(known->domain)
                                 : strndup(made->name, strlen(made->name) - strlen(".json"));
    return made->domain ? 0 : -ENOMEM;
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

int scan_definition_add(struct scan *scan, const struct scan *before, const char *name,
                        struct notices *notices)
{
    const struct scan_definition *known = definition_before(before, name);
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
    if (error_may_pass(r)) {
        r = take_over(scan, known, made, why.text);
        if (r < 0)
            return r;
        scan_try_again(scan, made->unread_since);
        notices_add(notices, LOG_LEVEL_ERROR, "%s can't be read now: %s", made->path, why.text);
    } else if (r < 0) {
        notices_add(notices, LOG_LEVEL_ERROR, "%s defines no domain: %s", made->path, why.text);
    }
    r = name_domain(known, made);
    return r == 0 && made->is_good ? make_sources(scan, made) : r;
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
    free(definition->unread);
    free(definition->domain);
    free(definition->bytes);
    free(definition->path);
    free(definition->name);
}
