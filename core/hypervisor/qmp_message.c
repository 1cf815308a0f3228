// SPDX-License-Identifier: LGPL-2.1-or-later
/* What the lines of QMP mean; see qmp_message.h. */
#include "hypervisor/qmp_message.h"

#include <errno.h>
#include <string.h>

#include "base/cleanup.h"
#include "format/json_parse.h"

static const struct json_limits limits = {
    .bytes = QMP_LINE_BYTES_MAX,
    .depth = QMP_LINE_DEPTH_MAX,
    .values = QMP_LINE_VALUES_MAX,
};

static int parse_version(struct json_object *greeting, unsigned version[3])
{
    static const char *const parts[3] = {"major", "minor", "micro"};
    struct json_object *outer, *qemu, *value;
    if (!json_object_object_get_ex(greeting, "version", &outer) ||
        !json_object_object_get_ex(outer, "qemu", &qemu) || !json_object_is_type(qemu, json_type_object))
        return -1;
    for (int i = 0; i < 3; i++) {
        if (!json_object_object_get_ex(qemu, parts[i], &value) || !json_object_is_type(value, json_type_int))
            return -1;
        int64_t number = json_object_get_int64(value);
        if (number < 0 || number > 9999)
            return -1;
        version[i] = (unsigned)number;
    }
    return 0;
}

/* Fills in what belongs to the kind. Returns what is wrong with the message, or NULL. */
static const char *take(struct qmp_message *message, struct json_object *value)
{
    switch (message->kind) {
    case QMP_GREETING:
        if (!json_object_is_type(value, json_type_object) || parse_version(value, message->version) < 0)
            return "a greeting without a version";
        return NULL;
    case QMP_RETURN:
        message->body = value;
        return NULL;
    case QMP_ERROR:
        if (!json_object_is_type(value, json_type_object))
            return "an error that is no object";
        message->name = json_string_in(value, "class");
        message->text = json_string_in(value, "desc");
        return message->name && message->text ? NULL : "an error without class and desc";
    case QMP_EVENT:
        message->name = json_string_of(value);
        if (!message->name)
            return "an event without a name";
        if (json_object_object_get_ex(message->root, "data", &message->body) &&
            !json_object_is_type(message->body, json_type_object))
            return "an event whose data is no object";
        return NULL;
    }
    return "no message";
}

int qmp_message_parse(const char *line, size_t length, struct qmp_message *message, struct error *err)
{
    static const struct {
        const char *key;
        enum qmp_message_kind kind;
    } keys[] = {{"QMP", QMP_GREETING}, {"return", QMP_RETURN}, {"error", QMP_ERROR}, {"event", QMP_EVENT}};

    struct error problem = {0};
    cleanup_json struct json_object *root = NULL;
    int rc = json_parse(line, length, &limits, JSON_STANDARD, &root, &problem);
    if (rc == -ENOMEM)
        return error_set(err, ENOMEM, "out of memory");
    if (rc < 0)
        return error_set(err, EPROTO, "no QMP message: %s", problem.text);

    struct qmp_message parsed = {.root = root};
    struct json_object *value = NULL, *found;
    unsigned count = 0;
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++)
        if (json_object_object_get_ex(root, keys[i].key, &found)) {
            parsed.kind = keys[i].kind;
            value = found;
            count++;
        }
    if (count != 1)
        return error_set(err, EPROTO, "no QMP message: neither greeting, answer nor event");
    parsed.id = json_string_in(root, "id");
    const char *wrong = take(&parsed, value);
    if (wrong)
        return error_set(err, EPROTO, "no QMP message: %s", wrong);
    root = NULL;
    *message = parsed;
    return 0;
}

void qmp_message_done(struct qmp_message *message)
{
    json_object_put(message->root);
    *message = (struct qmp_message){0};
}

/* ---- errors ---- */

void qmp_clean_text(const char *text, char *buffer, size_t size)
{
    size_t used = 0, length = strlen(text);
    while (length > 0 && (text[length - 1] == '\n' || text[length - 1] == '\r'))
        length--;
    for (size_t i = 0; i < length && used + 3 < size; i++) {
        unsigned char byte = (unsigned char)text[i];
        if (byte == '\n') {
            buffer[used++] = ';';
            buffer[used++] = ' ';
        } else {
            buffer[used++] = byte < ' ' || byte == 127 ? '?' : text[i];
        }
    }
    buffer[used] = '\0';
}

/* True where a quotation may begin after `before`: an apostrophe within a word begins none. */
static bool begins_quotation(char before)
{
    return strchr(" (=:,", before) != NULL; /* also at the very beginning, where it is 0 */
}

/* Copies the text without what stands in single quotes. */
static void without_names(const char *text, char *buffer, size_t size)
{
    size_t used = 0;
    for (size_t i = 0; text[i] && used + 1 < size; i++) {
        if (text[i] == '\'' && begins_quotation(i ? text[i - 1] : '\0')) {
            const char *end = strchr(text + i + 1, '\'');
            if (end) {
                i = (size_t)(end - text);
                continue;
            }
        }
        buffer[used++] = text[i];
    }
    buffer[used] = '\0';
}

int qmp_errno(const char *class_name, const char *text)
{
    static const struct {
        const char *name;
        int code;
    } classes[] = {
        {"CommandNotFound", EOPNOTSUPP},
        {"DeviceNotFound", ENODEV},
        {"DeviceNotActive", ENODEV},
        {"KVMMissingCap", EOPNOTSUPP},
    };
    /* The first that is found counts: "Could not open FILE: No space left on device". */
    static const struct {
        const char *words;
        int code;
    } texts[] = {
        {"No space left", ENOSPC},
        {"Disk quota exceeded", ENOSPC},
        {"Failed to get", EBUSY}, /* ... "write" lock; shared "consistent read" lock */
        {"using the image", EBUSY},
        {"is busy", EBUSY},
        {"Need a root block node", EBUSY}, /* one that has a mirror on top */
        {"resource busy", EBUSY},
        {"already in use", EBUSY},
        {"already using", EBUSY},
        {"in progress", EBUSY},
        {"already exists", EEXIST},
        {"File exists", EEXIST},
        {"Duplicate node", EEXIST},
        {"Cannot find device", ENODEV},
        {"Cannot find node", ENODEV},
        {"Failed to find node", ENODEV},
        {"No block device node", ENODEV},
        {"vmstate block device", ENODEV},
        {"does not support", EOPNOTSUPP},
        {"not supported", EOPNOTSUPP},
        {"Unsupported", EOPNOTSUPP},
        {"Unknown driver", EOPNOTSUPP},
        {"Permission denied", EACCES},
        {"Operation not permitted", EPERM},
        {"ead-only", EROFS}, /* "Read-only file system", "Block node is read-only" */
        {"annot allocate memory", ENOMEM},
        {"peration canceled", ECANCELED},
        {"not found", ENOENT},
        {"does not exist", ENOENT},
        {"No such", ENOENT},
        {"has not been found", ENOENT},
        {"timed out", ETIMEDOUT},
        {"Invalid parameter", EINVAL},
        {"Parameter ", EINVAL},
        {"Name is empty", EINVAL},
        {"have different sizes", EINVAL},
        {"device is required", EINVAL},
    };
    for (size_t i = 0; class_name && i < sizeof classes / sizeof *classes; i++)
        if (strcmp(class_name, classes[i].name) == 0)
            return classes[i].code;
    char plain[1024] = "";
    without_names(text ? text : "", plain, sizeof plain);
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
        if (strstr(plain, texts[i].words))
            return texts[i].code;
    return EIO;
}
