// SPDX-License-Identifier: LGPL-2.1-or-later
/* Words to commands; see command_text.h. Each option of `create` is one row of a table. */
#include "operation/command_text.h"

#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "domain/domain.h"

#define cleanup_words  cleanup(command_words_done)
#define cleanup_create cleanup(create_command_done)

static int out_of_memory(struct error *err)
{
    return error_set(err, ENOMEM, "out of memory");
}

static int set_string(char **string, const char *value, size_t length, struct error *err)
{
    *string = strndup(value, length);
    return *string ? 0 : out_of_memory(err);
}

/* The index of `value` among `names`, up to a NULL; -1 if it is none of them. */
static int index_of(const char *value, size_t length, const char *const *names)
{
    for (int i = 0; names[i]; i++)
        if (strlen(names[i]) == length && memcmp(names[i], value, length) == 0)
            return i;
    return -1;
}

/* The disk of that name in the command, added where it is not there yet; NULL: too many, or no memory. */
static struct create_disk *disk_of(struct create_command *command, const char *target, size_t length,
                                   struct error *err)
{
    for (size_t i = 0; i < command->disk_count; i++) {
        const char *other = command->disks[i].target;
        if (strlen(other) == length && memcmp(other, target, length) == 0)
            return &command->disks[i];
    }
    if (command->disk_count == DOMAIN_DISKS_MAX) {
        error_set(err, EINVAL, "more than %d disks are named", DOMAIN_DISKS_MAX);
        return NULL;
    }
    struct create_disk *disks = reallocarray(command->disks, command->disk_count + 1, sizeof *command->disks);
    char *copy = disks ? strndup(target, length) : NULL;
    if (disks)
        command->disks = disks;
    if (!copy) {
        out_of_memory(err);
        return NULL;
    }
    disks[command->disk_count] = (struct create_disk){.target = copy};
    return &disks[command->disk_count++];
}

/*
 * TARGET:KIND[:PATH]. A target may hold a colon and so may a path, but no target holds a slash and a path
 * begins with one: what stands before the first slash ends with the kind.
 */
static int read_disk(struct create_command *command, const char *value, struct error *err)
{
    static const char *const kinds[] = {"no", "internal", "external", NULL};
    static const char right[] = "disk=TARGET:no|internal|external[:PATH], with an absolute path";
    const char *path = strchr(value, '/');
    size_t head = path ? (size_t)(path - value) : strlen(value);
    if (path && (head == 0 || value[--head] != ':'))
        return error_set(err, EINVAL, "\"disk=%.100s\" is not understood; it is %s", value, right);
    const char *colon = memrchr(value, ':', head);
    int kind = colon ? index_of(colon + 1, head - (size_t)(colon + 1 - value), kinds) : -1;
    if (kind < 0 || colon == value)
        return error_set(err, EINVAL, "\"disk=%.100s\" is not understood; it is %s", value, right);
    struct create_disk *disk = disk_of(command, value, (size_t)(colon - value), err);
    if (!disk)
        return err && err->code ? -err->code : -ENOMEM;
    if (disk->choice != DISK_OMITTED)
        return error_set(err, EINVAL, "disk %.100s is named twice; each disk once", disk->target);
    disk->choice = (enum disk_choice)(DISK_NO + kind);
    return path ? set_string(&disk->path, path, strlen(path), err) : 0;
}

static int read_mirror(struct create_command *command, const char *value, struct error *err)
{
    const char *path = strstr(value, ":/");
    if (!path || path == value)
        return error_set(
            err, EINVAL,
            "\"mirror=%.100s\" is not understood; it is mirror=TARGET:PATH, with an absolute path", value);
    struct create_disk *disk = disk_of(command, value, (size_t)(path - value), err);
    if (!disk)
        return err && err->code ? -err->code : -ENOMEM;
    if (disk->mirror)
        return error_set(err, EINVAL, "disk %.100s has two mirrors; it can have one", disk->target);
    return set_string(&disk->mirror, path + 1, strlen(path + 1), err);
}

/* The index of the value among `names`, which `known` lists for people, or -EINVAL. */
static int one_of(const char *option, const char *value, const char *const *names, const char *known,
                  struct error *err)
{
    int index = index_of(value, strlen(value), names);
    return index >= 0 ? index
                      : error_set(err, EINVAL, "\"%s=%.40s\" is not known; %s are", option, value, known);
}

static int read_memory(struct create_command *command, const char *value, struct error *err)
{
    static const char *const names[] = {"no", "internal", "external", NULL};
    int index = one_of("memory", value, names, "no, internal and external", err);
    if (index < 0)
        return index;
    command->memory = (enum memory_choice)(MEMORY_NO + index);
    return 0;
}

static int read_memory_file(struct create_command *command, const char *value, struct error *err)
{
    return set_string(&command->memory_file, value, strlen(value), err);
}

static int read_compress(struct create_command *command, const char *value, struct error *err)
{
    static const char *const names[] = {"none", "gzip", "zstd", NULL};
    int index = one_of("compress", value, names, "none, gzip and zstd", err);
    if (index < 0)
        return index;
    command->compression = (enum memory_compression)(COMPRESS_NONE + index);
    return 0;
}

static int read_quiesce(struct create_command *command, const char *value, struct error *err)
{
    static const char *const names[] = {"try", "require", NULL};
    int index = one_of("quiesce", value, names, "try and require", err);
    if (index < 0)
        return index;
    command->quiesce = (enum quiesce)(QUIESCE_TRY + index);
    return 0;
}

static int read_description(struct create_command *command, const char *value, struct error *err)
{
    return set_string(&command->description, value, strlen(value), err);
}

static int read_live(struct create_command *command, const char *value, struct error *err)
{
    command->live = true;
    return 0;
}

static int read_disk_only(struct create_command *command, const char *value, struct error *err)
{
    command->disk_only = true;
    return 0;
}

static int read_reuse_external(struct create_command *command, const char *value, struct error *err)
{
    command->reuse_external = true;
    return 0;
}

static int read_paused(struct create_command *command, const char *value, struct error *err)
{
    command->paused = true;
    return 0;
}

/* A name that ends with `=` has a value; the others are words of their own. */
static const struct option {
    const char *name;
    int (*read)(struct create_command *command, const char *value, struct error *err);
    bool repeats;
} options[] = {
    {"live", read_live, false},
    {"disk-only", read_disk_only, false},
    {"memory=", read_memory, false},
    {"memory-file=", read_memory_file, false},
    {"compress=", read_compress, false},
    {"disk=", read_disk, true},
    {"reuse-external", read_reuse_external, false},
    {"mirror=", read_mirror, true},
    {"quiesce=", read_quiesce, false},
    {"paused", read_paused, false},
    {"description=", read_description, false},
};

#define OPTION_COUNT (sizeof options / sizeof *options)
#define OPTIONS_TEXT                                                                                         \
    "live, disk-only, memory=, memory-file=, compress=, disk=, reuse-external, mirror=, quiesce=, paused, "  \
    "description="

/* The index of the option that the word is, and its value; OPTION_COUNT if it is none. */
static size_t option_of(const struct word *word, const char **value)
{
    for (size_t i = 0; i < OPTION_COUNT && !word->quoted; i++) {
        size_t length = strlen(options[i].name);
        bool has_value = options[i].name[length - 1] == '=';
        if (has_value ? strncmp(word->text, options[i].name, length) == 0
                      : strcmp(word->text, options[i].name) == 0) {
            *value = word->text + length;
            return i;
        }
    }
    return OPTION_COUNT;
}

/* Line ends can stand in quotes: in a description that is right, anywhere else nobody meant it. */
static bool holds_line_end(const char *text)
{
    return strpbrk(text, "\n\r\t") != NULL;
}

static int read_word(struct create_command *command, const struct word *word, bool seen[OPTION_COUNT],
                     struct error *err)
{
    const char *value = NULL;
    size_t index = option_of(word, &value);
    if (holds_line_end(word->text) && (index == OPTION_COUNT || options[index].read != read_description))
        return error_set(err, EINVAL, "a tab or line end stands in quotes; only a description can hold one");
    const struct word bare = {.text = word->text};
    if (index == OPTION_COUNT && (index = option_of(&bare, &value)) != OPTION_COUNT)
        return error_set(
            err, EINVAL,
            "\"%.60s\" is no option where all of it is in quotes; quote only what needs it: %s%s", word->text,
            options[index].name, strchr(options[index].name, '=') ? "\"...\"" : "");
    if (index == OPTION_COUNT)
        return error_set(err, EINVAL, "\"%.60s\" is no option; these are: " OPTIONS_TEXT, word->text);
    if (seen[index] && !options[index].repeats)
        return error_set(err, EINVAL, "\"%s\" is given twice", options[index].name);
    seen[index] = true;
    return options[index].read(command, value, err);
}

static int read_name(struct create_command *command, const struct word *word, struct error *err)
{
    if (!word->quoted && strchr(word->text, '=') && !holds_line_end(word->text))
        return error_set(err, EINVAL,
                         "\"%.60s\" is no option; these are: " OPTIONS_TEXT
                         "; a name with = in it is written in double quotes",
                         word->text);
    return set_string(&command->name, word->text, strlen(word->text), err);
}

static int parse_options(const char *bytes, size_t length, bool with_name, struct create_command *command,
                         struct error *err)
{
    struct error ignored = {0};
    err = err ? err : &ignored;
    cleanup_words struct command_words words = {0};
    int rc = command_words_parse(bytes, length, &words, err);
    if (rc < 0)
        return rc;
    cleanup_create struct create_command parsed = {0};
    bool seen[OPTION_COUNT] = {false};
    const char *value;
    for (size_t i = 0; i < words.count && rc == 0; i++) {
        const struct word *word = &words.words[i];
        if (i == 0 && with_name && option_of(word, &value) == OPTION_COUNT)
            rc = read_name(&parsed, word, err);
        else
            rc = read_word(&parsed, word, seen, err);
    }
    if (rc == 0)
        rc = create_command_check(&parsed, err);
    if (rc == 0 && !with_name)
        rc = create_command_check_defaults(&parsed, err);
    if (rc < 0)
        return rc;
    *command = parsed;
    parsed = (struct create_command){0};
    return 0;
}

int command_parse_create(const char *bytes, size_t length, struct create_command *command, struct error *err)
{
    return parse_options(bytes, length, true, command, err);
}

int command_parse_defaults(const char *bytes, size_t length, struct create_command *command,
                           struct error *err)
{
    return parse_options(bytes, length, false, command, err);
}

int command_parse_revert(const char *bytes, size_t length, struct revert_command *command, struct error *err)
{
    static const char *const names[] = {"1", "running", "paused", "shutoff", "guard", "force", NULL};
    cleanup_words struct command_words words = {0};
    int rc = command_words_parse(bytes, length, &words, err);
    if (rc < 0)
        return rc;
    struct revert_command parsed = {0};
    bool has_state = false;
    for (size_t i = 0; i < words.count; i++) {
        const char *text = words.words[i].text;
        int index = index_of(text, strlen(text), names);
        if (index < 0)
            return holds_line_end(text)
                       ? error_set(err, EINVAL, "a tab or line end stands in quotes")
                       : error_set(err, EINVAL,
                                   "\"%.60s\" is not known; 1, running, paused, shutoff, guard, force are",
                                   text);
        if (index <= REVERT_SHUTOFF) {
            if (has_state)
                return error_set(err, EINVAL,
                                 "two states are given; write one of 1 (as saved), running, paused, shutoff");
            has_state = true;
            parsed.state = (enum revert_state)index;
        } else {
            bool *flag = index == REVERT_SHUTOFF + 1 ? &parsed.guard : &parsed.force;
            if (*flag)
                return error_set(err, EINVAL, "\"%s\" is given twice", text);
            *flag = true;
        }
    }
    *command = parsed;
    return 0;
}

/* The only word, or "" where there is none; NULL, and an error, where there are more. */
static const char *only_word(const struct command_words *words, const char *right, struct error *err)
{
    if (words->count > 1) {
        error_set(err, EINVAL, "one word is expected, and there are %zu; it is %s", words->count, right);
        return NULL;
    }
    if (words->count == 1 && holds_line_end(words->words[0].text)) {
        error_set(err, EINVAL, "a tab or line end stands in quotes; what can be written is %s", right);
        return NULL;
    }
    return words->count ? words->words[0].text : "";
}

int command_parse_delete(const char *bytes, size_t length, enum delete_kind *kind, struct error *err)
{
    static const char right[] =
        "1 or nothing, children, children-only, merge, merge-force, discard or discard-force";
    cleanup_words struct command_words words = {0};
    int rc = command_words_parse(bytes, length, &words, err);
    if (rc < 0)
        return rc;
    const char *word = only_word(&words, right, err);
    if (!word)
        return -EINVAL;
    for (enum delete_kind each = DELETE_ONE; each < DELETE_KIND_COUNT; each++)
        if (words.count == 0 || strcmp(word, delete_kind_name(each)) == 0) {
            *kind = each;
            return 0;
        }
    return error_set(err, EINVAL, "\"%.60s\" is not known; what can be written is %s", word, right);
}

int command_parse_clone(const char *bytes, size_t length, struct clone_command *command, struct error *err)
{
    cleanup_words struct command_words words = {0};
    int rc = command_words_parse(bytes, length, &words, err);
    if (rc < 0)
        return rc;
    if (words.count == 0)
        return error_set(err, EINVAL, "the new domain's name is missing; it is NAME, or NAME full");
    const char *name = words.words[0].text;
    rc = domain_name_check(name, strlen(name), err);
    if (rc < 0)
        return rc;
    bool full = words.count > 1;
    if (words.count > 2 || (full && strcmp(words.words[1].text, "full") != 0))
        return error_set(err, EINVAL,
                         "only \"full\" can follow the name; a name with blanks is written in double quotes");
    struct clone_command parsed = {.full = full};
    rc = set_string(&parsed.name, name, strlen(name), err);
    if (rc == 0)
        *command = parsed;
    return rc;
}

int command_parse_power(const char *bytes, size_t length, struct power_command *command, struct error *err)
{
    static const char right[] = "start, start SNAPSHOT, shutdown, destroy, pause, resume or reset";
    cleanup_words struct command_words words = {0};
    int rc = command_words_parse(bytes, length, &words, err);
    if (rc < 0)
        return rc;
    if (words.count == 0)
        return error_set(err, EINVAL, "nothing was said; what can be written is %s", right);
    enum power_verb verb = POWER_START;
    while (verb < POWER_VERB_COUNT && strcmp(words.words[0].text, power_verb_name(verb)) != 0)
        verb++;
    if (verb == POWER_VERB_COUNT)
        return error_set(err, EINVAL, "\"%.60s\" is not known; what can be written is %s",
                         words.words[0].text, right);
    if (words.count > (verb == POWER_START ? 2 : 1))
        return error_set(err, EINVAL, "too many words; what can be written is %s", right);
    struct power_command parsed = {.verb = verb};
    if (words.count == 2) {
        const char *snapshot = words.words[1].text;
        rc = snapshot_name_check(snapshot, strlen(snapshot), err);
        if (rc == 0)
            rc = set_string(&parsed.snapshot, snapshot, strlen(snapshot), err);
    }
    if (rc == 0)
        *command = parsed;
    return rc;
}

int command_parse_trigger(const char *bytes, size_t length, struct error *err)
{
    static const char right[] = "1 or nothing";
    cleanup_words struct command_words words = {0};
    int rc = command_words_parse(bytes, length, &words, err);
    if (rc < 0)
        return rc;
    const char *word = only_word(&words, right, err);
    if (!word)
        return -EINVAL;
    return words.count && strcmp(word, "1") != 0
               ? error_set(err, EINVAL, "\"%.60s\" is not known; what can be written is %s", word, right)
               : 0;
}

int command_parse_protected(const char *bytes, size_t length, bool *is_protected, struct error *err)
{
    static const char right[] = "0 or 1";
    cleanup_words struct command_words words = {0};
    int rc = command_words_parse(bytes, length, &words, err);
    if (rc < 0)
        return rc;
    const char *word = only_word(&words, right, err);
    if (!word)
        return -EINVAL;
    if (strcmp(word, "0") != 0 && strcmp(word, "1") != 0)
        return error_set(err, EINVAL, "\"%.60s\" is not known; what can be written is %s", word, right);
    *is_protected = *word == '1';
    return 0;
}

int command_parse_description(const char *bytes, size_t length, char **description, struct error *err)
{
    if (length > 0 && bytes[length - 1] == '\n')
        length--;
    int rc = description_check(bytes, length, err);
    if (rc < 0)
        return rc;
    char *copy = strndup(bytes, length);
    if (!copy)
        return out_of_memory(err);
    *description = copy;
    return 0;
}
