// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Parsing of backing names; see backing_name.h.
 *
 * A json: name is flattened first, as QEMU does it: {"file": {"filename": "a"}} and {"file.filename": "a"}
 * are the same. Then the nodes are followed from the outermost ("") inwards ("file.", "file.file.", ...).
 */
#include "format/backing_name.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "format/json_parse.h"
#include "format/network_name.h"

#define KEY_BYTES_MAX 128

struct option {
    char key[KEY_BYTES_MAX]; /* flattened: "file.filename" */
    struct json_object *value;
};

struct options {
    struct option list[BACKING_NAME_KEYS_MAX];
    size_t count;
};

/* Options that change how QEMU reads a file, but not what it reads. One that ends in a dot stands for all
 * below. */
static const char *const harmless[] = {
    "aio",
    "aio-max-batch",
    "auto-read-only",
    "cache-clean-interval",
    "cache-size",
    "cache.",
    "detect-zeroes",
    "discard",
    "drop-cache",
    "force-share",
    "l2-cache-entry-size",
    "l2-cache-size",
    "lazy-refcounts",
    "locking",
    "node-name",
    "overlap-check",
    "overlap-check.",
    "pass-discard-other",
    "pass-discard-request",
    "pass-discard-snapshot",
    "read-only",
    "refcount-cache-size",
};

/* The drivers of plain files and of devices named by a path. They give the bytes as they are. */
static bool is_file_driver(const char *driver)
{
    return strcmp(driver, "file") == 0 || strcmp(driver, "host_device") == 0;
}

/* The format that a driver's name stands for; IMAGE_FORMAT_UNKNOWN for what is none that we know. */
static enum image_format format_of_driver(const char *driver)
{
    return is_file_driver(driver) ? IMAGE_FORMAT_RAW : image_format_from_name(driver);
}

static bool is_harmless(const char *key)
{
    for (size_t i = 0; i < sizeof harmless / sizeof *harmless; i++) {
        size_t length = strlen(harmless[i]);
        if (harmless[i][length - 1] == '.' ? strncmp(key, harmless[i], length) == 0
                                           : strcmp(key, harmless[i]) == 0)
            return true;
    }
    return false;
}

static const struct option *find_option(const struct options *options, const char *prefix, const char *key)
{
    size_t length = strlen(prefix);
    for (size_t i = 0; i < options->count; i++)
        if (strncmp(options->list[i].key, prefix, length) == 0 &&
            strcmp(options->list[i].key + length, key) == 0)
            return &options->list[i];
    return NULL;
}

/* Walks all objects, with a stack of its own, into one list of dotted keys. */
static int flatten(struct json_object *root, struct options *options, struct error *err)
{
    struct {
        char prefix[KEY_BYTES_MAX];
        struct json_object *object;
    } pending[BACKING_NAME_KEYS_MAX];
    size_t pending_count = 1;
    pending[0].prefix[0] = '\0';
    pending[0].object = root;
    size_t seen = 0;
    while (pending_count) {
        struct json_object *object = pending[--pending_count].object;
        char prefix[KEY_BYTES_MAX];
        memcpy(prefix, pending[pending_count].prefix, sizeof prefix);
        json_object_object_foreach(object, key, value)
        {
            char full[KEY_BYTES_MAX];
            size_t prefix_length = strlen(prefix), key_length = strlen(key);
            if (++seen > BACKING_NAME_KEYS_MAX)
                return error_set(err, EINVAL, "its json: name has more than %d keys", BACKING_NAME_KEYS_MAX);
            if (prefix_length + key_length + 2 > sizeof full)
                return error_set(err, EINVAL, "its json: name has a key of more than %d bytes",
                                 KEY_BYTES_MAX - 2);
            memcpy(full, prefix, prefix_length);
            memcpy(full + prefix_length, key, key_length + 1);
            if (json_object_is_type(value, json_type_object)) {
                memcpy(full + prefix_length + key_length, ".", 2);
                memcpy(pending[pending_count].prefix, full, sizeof full);
                pending[pending_count++].object = value;
                continue;
            }
            if (find_option(options, "", full))
                return error_set(err, EINVAL, "its json: name gives \"%s\" twice", full);
            memcpy(options->list[options->count].key, full, sizeof full);
            options->list[options->count++].value = value;
        }
    }
    return 0;
}

/* Stores the string, borrowed; NULL where the option is absent. */
static int get_string(const struct options *options, const char *prefix, const char *key, const char **string,
                      struct error *err)
{
    const struct option *option = find_option(options, prefix, key);
    if (!option) {
        *string = NULL;
        return 0;
    }
    const char *value = json_string_of(option->value);
    if (!value)
        return error_set(err, EINVAL, "its json: name gives a \"%s\" that is no string", option->key);
    *string = value;
    return 0;
}

/* Refuses every option of the node at `prefix` that is not known to leave the bytes as they are. */
static int check_node(const struct options *options, const char *prefix, bool is_file, struct error *err)
{
    size_t length = strlen(prefix);
    for (size_t i = 0; i < options->count; i++) {
        const char *key = options->list[i].key;
        if (strncmp(key, prefix, length) != 0)
            continue;
        key += length;
        if (strcmp(key, "driver") == 0 || is_harmless(key) ||
            (is_file ? strcmp(key, "filename") == 0 : strncmp(key, "file.", 5) == 0))
            continue;
        return error_set(err, EOPNOTSUPP,
                         "its json: name has \"%.80s\", which is not understood here; only plain files are "
                         "followed",
                         options->list[i].key);
    }
    return 0;
}

static int follow_nodes(const struct options *options, const char *format_name, const char **filename,
                        enum image_format *format, struct error *err)
{
    char prefix[BACKING_NAME_DEPTH_MAX * 5 + 1] = "";
    enum image_format found = IMAGE_FORMAT_UNKNOWN;
    for (unsigned depth = 0; depth < BACKING_NAME_DEPTH_MAX; depth++) {
        const char *driver = NULL, *path = NULL;
        int rc = get_string(options, prefix, "driver", &driver, err);
        if (rc == 0)
            rc = get_string(options, prefix, "filename", &path, err);
        if (rc < 0)
            return rc;
        if (depth == 0 && format_name)
            driver = format_name;

        /* Without a driver, the outermost node is a format that nobody told, and the inner ones are files. */
        bool is_file = driver ? is_file_driver(driver) : depth > 0;
        enum image_format here = driver ? format_of_driver(driver) : IMAGE_FORMAT_UNKNOWN;
        if (driver && here == IMAGE_FORMAT_UNKNOWN)
            return error_set(err, EOPNOTSUPP,
                             "it refers to its file by \"%.60s\", which is no plain file and no format known "
                             "here",
                             driver);
        rc = check_node(options, prefix, is_file, err);
        if (rc < 0)
            return rc;
        if (is_file) {
            if (!path)
                return error_set(err, EINVAL, "its json: name gives no \"%sfilename\"", prefix);
            *filename = path;
            *format = depth == 0 ? here : found;
            return 0;
        }
        /* Raw over something passes its bytes on; anything else in a row would be an image inside an image.
         */
        if (here > IMAGE_FORMAT_RAW && found > IMAGE_FORMAT_RAW)
            return error_set(err, EOPNOTSUPP, "its json: name puts %s into %s, which is not read here",
                             image_format_name(found), image_format_name(here));
        if (here > found)
            found = here;
        memcpy(prefix + strlen(prefix), "file.", 6);
    }
    return error_set(err, EINVAL, "its json: name is nested deeper than %d", BACKING_NAME_DEPTH_MAX);
}

static int parse_json(const char *text, const char *format_name, struct backing_name *parsed,
                      struct error *err)
{
    static const struct json_limits limits = {
        .bytes = BACKING_NAME_BYTES_MAX,
        .depth = BACKING_NAME_DEPTH_MAX,
        .values = BACKING_NAME_BYTES_MAX,
    };
    cleanup_json struct json_object *root = NULL;
    /* Lenient, since QEMU takes single quotes too, and people write them in shells. */
    int rc = json_parse(text, strlen(text), &limits, JSON_LENIENT, &root, err);
    if (rc < 0) {
        error_prefix(err, "its json: name");
        return rc;
    }

    cleanup_free struct options *options = calloc(1, sizeof *options);
    if (!options)
        return error_set(err, ENOMEM, "out of memory");
    const char *filename = "";
    enum image_format format = IMAGE_FORMAT_UNKNOWN;
    rc = flatten(root, options, err);
    if (rc == 0)
        rc = follow_nodes(options, format_name, &filename, &format, err);
    if (rc < 0)
        return rc;
    if (!*filename)
        return error_set(err, EINVAL, "its json: name gives an empty \"filename\"");
    char *copy = strdup(filename);
    if (!copy)
        return error_set(err, ENOMEM, "out of memory");
    *parsed = (struct backing_name){.filename = copy, .format = format};
    return 0;
}

/* The name is looked at, and not understood any further here. */
static int parse_network(const char *name, enum image_format format, struct backing_name *parsed,
                         struct error *err)
{
    cleanup(network_name_done) struct network_name network = {0};
    struct error why = {0};
    int rc = network_name_parse(name, &network, &why);
    if (rc < 0)
        return error_set(err, why.code, "it refers to a name that %s", why.text);
    char *copy = strdup(name);
    if (!copy)
        return error_set(err, ENOMEM, "out of memory");
    *parsed = (struct backing_name){.filename = copy, .format = format, .network = true};
    return 0;
}

int backing_name_parse(const char *name, const char *format_name, struct backing_name *parsed,
                       struct error *err)
{
    if (strlen(name) > BACKING_NAME_BYTES_MAX)
        return error_set(err, ENAMETOOLONG, "the name of the file that it refers to is longer than %d bytes",
                         BACKING_NAME_BYTES_MAX);
    if (strncmp(name, "json:", 5) == 0)
        return parse_json(name + 5, format_name, parsed, err);

    enum image_format format = IMAGE_FORMAT_UNKNOWN;
    if (format_name) {
        format = format_of_driver(format_name);
        if (format == IMAGE_FORMAT_UNKNOWN)
            return error_set(err, EOPNOTSUPP,
                             "it says that the format of %.150s is \"%.60s\", which is not known", name,
                             format_name);
    }
    /* QEMU: what stands before a colon and before the first slash is a protocol. After "file:" all is path.
     */
    const char *path = name;
    size_t length = strcspn(name, ":/");
    if (network_name_protocol(name) > NETWORK_OTHER)
        return parse_network(name, format, parsed, err);
    if (name[length] == ':') {
        if (length != strlen("file") || strncmp(name, "file", length) != 0) {
            int shown = (int)(length < 30 ? length : 30);
            int rc = error_set(err, EOPNOTSUPP,
                               "it refers to \"%.150s\", and \"%.*s:\" is a protocol that is not followed",
                               name, shown, name);
            if (err && !strstr(name, "://"))
                error_set(err, EOPNOTSUPP, "%s (a file of that name would be written \"./%.60s\")", err->text,
                          name);
            return rc;
        }
        path = name + length + 1;
    }
    if (!*path)
        return error_set(err, EINVAL, "it refers to a file with an empty name");
    char *copy = strdup(path);
    if (!copy)
        return error_set(err, ENOMEM, "out of memory");
    *parsed = (struct backing_name){.filename = copy, .format = format};
    return 0;
}

void backing_name_done(struct backing_name *parsed)
{
    free(parsed->filename);
    *parsed = (struct backing_name){0};
}
