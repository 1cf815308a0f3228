// SPDX-License-Identifier: LGPL-2.1-or-later
/* Journal files; see journal.h. What one file may hold: journal_json.h. */
#include "store/journal.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "store/journal_json.h"
#include "store/replace_file.h"
#include "store/store.h"

#define NAME_SIZE 32

/* What the progress and the outcome of an operation may add to its file after it was begun. */
#define BYTES_GROWTH 256

struct journal {
    int directory;
    bool read_only;
    const struct file_calls *calls;
    struct journal_damage *damage; /* does not change once opened, nor do those above */
    size_t damage_count;

    atomic_bool has_removed; /* a file, which may be back after a power cut */
    pthread_mutex_t lock;
    struct journal_operation **operations; /* protected by lock */
    size_t count, capacity;                /* protected by lock */
};

struct journal_operation {
    struct journal *journal;
    struct journal_record record;
    bool is_leftover;  /* could not be begun, nor removed again; protected by the journal's lock */
    bool is_finishing; /* may be removed already */
    bool is_told;      /* by something else, to be done: its file counts no more */
};

static void operation_free(struct journal_operation *operation)
{
    if (!operation)
        return;
    journal_record_done(&operation->record);
    free(operation);
}

static void operation_free_(struct journal_operation **operation)
{
    operation_free(*operation);
}

static void file_name(char name[NAME_SIZE], uint64_t domain)
{
    snprintf(name, NAME_SIZE, "%" PRIu64 ".json", domain);
}

/* "17.json" to 17; 0 for every other name. */
static uint64_t domain_of_name(const char *name)
{
    char again[NAME_SIZE];
    uint64_t domain;
    if (sscanf(name, "%15" SCNu64, &domain) != 1 || domain >= SERIAL_HASHED)
        return 0;
    file_name(again, domain);
    return strcmp(name, again) == 0 ? domain : 0;
}

static int out_of_memory(struct error *err)
{
    return error_set(err, ENOMEM, "journal: %s", strerror(ENOMEM));
}

/* ---- The list ---- */

static int list_add_locked(struct journal *journal, struct journal_operation *operation)
{
    if (journal->count == journal->capacity) {
        size_t capacity = journal->capacity ? journal->capacity * 2 : 16;
        struct journal_operation **grown =
            realloc(journal->operations, capacity * sizeof(struct journal_operation *));
        if (!grown)
            return -ENOMEM;
        journal->operations = grown;
        journal->capacity = capacity;
    }
    journal->operations[journal->count++] = operation;
    return 0;
}

static void list_remove_locked(struct journal *journal, const struct journal_operation *operation)
{
    size_t kept = 0;
    for (size_t i = 0; i < journal->count; i++)
        if (journal->operations[i] != operation)
            journal->operations[kept++] = journal->operations[i];
    journal->count = kept;
}

/* ---- Opening ---- */

static int note_damage(struct journal *journal, uint64_t domain, const struct error *why)
{
    struct journal_damage *grown =
        realloc(journal->damage, (journal->damage_count + 1) * sizeof *journal->damage);
    if (!grown)
        return -ENOMEM;
    journal->damage = grown;
    struct journal_damage *damage = &grown[journal->damage_count++];
    *damage = (struct journal_damage){.domain = domain, .is_newer = why->code == ENOTSUP};
    snprintf(damage->why, sizeof damage->why, "%.400s", why->text);
    log_error(".vmsnapfs/journal/%" PRIu64 ".json can't be used: %s", domain, damage->why);
    return 0;
}

static int read_operation(struct journal *journal, const char *name, uint64_t domain, struct error *why)
{
    cleanup_free char *bytes = NULL;
    size_t length;
    int r = replace_file_read(journal->directory, name, JOURNAL_BYTES_MAX, &bytes, &length, why);
    if (r < 0)
        return r;
    cleanup(operation_free_) struct journal_operation *made = calloc(1, sizeof *made);
    if (!made)
        return -ENOMEM;
    made->journal = journal;
    r = journal_json_read(bytes, length, &made->record, why);
    if (r < 0)
        return r;
    if (made->record.domain != domain)
        return error_set(why, EINVAL, "it holds an operation of domain %" PRIu64, made->record.domain);
    r = list_add_locked(journal, made);
    if (r == 0)
        steal_pointer(made);
    return r;
}

static int read_all(struct journal *journal)
{
    cleanup_close int fd = openat(journal->directory, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    cleanup_closedir DIR *dir = fd < 0 ? NULL : fdopendir(fd);
    if (!dir)
        return -errno;
    steal_fd(&fd);
    for (;;) {
        errno = 0;
        struct dirent *entry = readdir(dir);
        if (!entry)
            return -errno;
        uint64_t domain = domain_of_name(entry->d_name);
        if (domain == 0)
            continue;
        struct error why = {0};
        int r = read_operation(journal, entry->d_name, domain, &why);
        if (r < 0 && r != -ENOMEM)
            r = note_damage(journal, domain, &why);
        if (r < 0)
            return r;
    }
}

int journal_open(int directory, bool read_only, const struct file_calls *calls, struct journal **journal,
                 struct error *err)
{
    struct journal *made = calloc(1, sizeof *made);
    if (!made)
        return out_of_memory(err);
    made->directory = directory;
    made->read_only = read_only || directory < 0;
    made->calls = calls ? calls : &file_calls_system;
    pthread_mutex_init(&made->lock, NULL);
    int r = 0;
    if (!made->read_only) {
        replace_file_clean(directory);
        /* Who was killed before the flush left names that a power cut could still take back, when what they
         * say has been acted on. */
        r = made->calls->fsync_directory(made->calls->layer, directory) < 0 ? -errno : 0;
    }
    if (r == 0 && directory >= 0)
        r = read_all(made);
    if (r < 0) {
        journal_close(made);
        return error_set(err, -r, "journal: %s", strerror(-r));
    }
    *journal = made;
    return 0;
}

void journal_close(struct journal *journal)
{
    if (!journal)
        return;
    for (size_t i = 0; i < journal->count; i++)
        operation_free(journal->operations[i]);
    free(journal->operations);
    free(journal->damage);
    pthread_mutex_destroy(&journal->lock);
    free(journal);
}

/* ---- Looking ---- */

const struct journal_damage *journal_damage(const struct journal *journal, size_t *count)
{
    *count = journal->damage_count;
    return journal->damage;
}

struct journal_operation *journal_operation_at(struct journal *journal, size_t index)
{
    struct journal_operation *found = NULL;
    pthread_mutex_lock(&journal->lock);
    for (size_t i = 0; i < journal->count && !found; i++)
        if (!journal->operations[i]->is_leftover && index-- == 0)
            found = journal->operations[i];
    pthread_mutex_unlock(&journal->lock);
    return found;
}

struct journal_operation *journal_find_request(struct journal *journal, uint64_t mount, uint64_t id)
{
    struct journal_operation *found = NULL;
    pthread_mutex_lock(&journal->lock);
    for (size_t i = 0; i < journal->count && (mount || id); i++) {
        struct journal_operation *operation = journal->operations[i];
        if (!operation->is_leftover && operation->record.request.mount == mount &&
            operation->record.request.id == id)
            found = operation;
    }
    pthread_mutex_unlock(&journal->lock);
    return found;
}

const struct journal_record *journal_operation_record(const struct journal_operation *operation)
{
    return &operation->record;
}

bool journal_is_committed(const struct journal_record *record)
{
    return record->next > record->commit;
}

/* ---- Writing ---- */

/* Replaces the file by one that says `record`. */
static int write_record(const struct journal *journal, const struct journal_record *record, struct error *err)
{
    cleanup_text struct text text = {0};
    char name[NAME_SIZE];
    file_name(name, record->domain);
    journal_json_write(&text, record);
    if (text.failed)
        return out_of_memory(err);
    const struct replacement file = {.name = name, .bytes = text.data, .length = text.length};
    int r = replace_files_through(journal->calls, journal->directory, &file, 1, err);
    return r < 0 ? (error_prefix(err, ".vmsnapfs/journal"), r) : 0;
}

/* Removes the file, if it is there, durably. */
static int fail_file(const char *name, struct error *err)
{
    return error_set(err, errno, ".vmsnapfs/journal/%s: %s", name, strerror(errno));
}

/* As it looks from now on, and not yet after a power cut. */
static int unlink_file(struct journal *journal, uint64_t domain, struct error *err)
{
    char name[NAME_SIZE];
    file_name(name, domain);
    if (journal->calls->unlink(journal->calls->layer, journal->directory, name) < 0 && errno != ENOENT)
        return fail_file(name, err);
    atomic_store(&journal->has_removed, true);
    return 0;
}

int journal_flush(struct journal *journal, struct error *err)
{
    if (!atomic_exchange(&journal->has_removed, false))
        return 0;
    if (journal->calls->fsync_directory(journal->calls->layer, journal->directory) == 0)
        return 0;
    int r = fail_file("", err);
    atomic_store(&journal->has_removed, true);
    return r;
}

static int remove_file(struct journal *journal, uint64_t domain, struct error *err)
{
    int r = unlink_file(journal, domain, err);
    return r < 0 ? r : journal_flush(journal, err);
}

/* The lock is held meanwhile: this happens only where storage has failed, and nobody may begin before. */
static int remove_leftovers_locked(struct journal *journal, struct error *err)
{
    for (size_t i = journal->count; i-- > 0;) {
        struct journal_operation *operation = journal->operations[i];
        if (!operation->is_leftover)
            continue;
        int r = remove_file(journal, operation->record.domain, err);
        if (r < 0)
            return r;
        list_remove_locked(journal, operation);
        operation_free(operation);
    }
    return 0;
}

static int refuse_begin_locked(const struct journal *journal, uint64_t domain, struct error *err)
{
    for (size_t i = 0; i < journal->damage_count; i++)
        if (journal->damage[i].domain == domain)
            return error_set(err, EIO, ".vmsnapfs/journal/%" PRIu64 ".json can't be used: %s", domain,
                             journal->damage[i].why);
    for (size_t i = 0; i < journal->count; i++)
        if (journal->operations[i]->record.domain == domain)
            return error_set(err, EBUSY, "another operation of the domain ('%s') is not finished",
                             journal->operations[i]->record.kind);
    return 0;
}

/* A copy by way of the text, so that what is written can surely be read. */
static int copy_record(const struct journal_record *record, struct journal_record *copy, struct error *err)
{
    struct journal_record fresh = *record;
    fresh.next = 0;
    fresh.is_concluded = false;
    fresh.code = 0;
    fresh.value = 0;
    cleanup_text struct text text = {0};
    journal_json_write(&text, &fresh);
    if (text.failed)
        return out_of_memory(err);
    if (text.length > JOURNAL_BYTES_MAX - BYTES_GROWTH)
        return error_set(err, E2BIG, "the journal takes no operation of more than %d MiB",
                         JOURNAL_BYTES_MAX / (1024 * 1024));
    int r = journal_json_read(text.data, text.length, copy, err);
    return r < 0 ? (error_prefix(err, "the journal does not take the operation"), r) : 0;
}

int journal_begin(struct journal *journal, const struct journal_record *record,
                  struct journal_operation **operation, struct error *err)
{
    if (journal->read_only)
        return error_set(err, EROFS, "the journal is only read");
    cleanup(operation_free_) struct journal_operation *made = calloc(1, sizeof *made);
    if (!made)
        return out_of_memory(err);
    made->journal = journal;
    int r = copy_record(record, &made->record, err);
    if (r < 0)
        return r;

    pthread_mutex_lock(&journal->lock);
    r = remove_leftovers_locked(journal, err);
    if (r == 0)
        r = refuse_begin_locked(journal, made->record.domain, err);
    if (r == 0 && list_add_locked(journal, made) < 0)
        r = out_of_memory(err);
    pthread_mutex_unlock(&journal->lock);
    if (r < 0)
        return r;

    r = write_record(journal, &made->record, err);
    if (r == 0) {
        *operation = steal_pointer(made);
        return 0;
    }
    bool removed = remove_file(journal, made->record.domain, NULL) == 0;
    pthread_mutex_lock(&journal->lock);
    if (removed)
        list_remove_locked(journal, made);
    else
        steal_pointer(made)->is_leftover = true;
    pthread_mutex_unlock(&journal->lock);
    return r;
}

/* Makes the change durable, then takes it over. */
static int change(struct journal_operation *operation, const struct journal_record *changed,
                  struct error *err)
{
    int r = write_record(operation->journal, changed, err);
    if (r < 0)
        return r;
    /* Only these: other threads look at the rest. */
    operation->record.next = changed->next;
    operation->record.is_concluded = changed->is_concluded;
    operation->record.code = changed->code;
    operation->record.value = changed->value;
    return 0;
}

static int refuse_change(const struct journal_operation *operation, bool is_allowed, const char *what,
                         struct error *err)
{
    if (operation->journal->read_only)
        return error_set(err, EROFS, "the journal is only read");
    if (!is_allowed || operation->is_finishing)
        return error_set(err, EINVAL, "the operation '%s' can't be %s now", operation->record.kind, what);
    return 0;
}

int journal_advance(struct journal_operation *operation, size_t step, struct error *err)
{
    struct journal_record changed = operation->record;
    bool is_undone = changed.is_concluded && changed.code;
    int r = refuse_change(operation, !is_undone && step == changed.next && step < changed.step_count,
                          "advanced", err);
    if (r < 0)
        return r;
    changed.next = step + 1;
    return change(operation, &changed, err);
}

int journal_complete(struct journal_operation *operation, struct error *err)
{
    const struct journal_record *record = &operation->record;
    int r = refuse_change(operation, !record->is_concluded || !record->code, "completed", err);
    if (r == 0) {
        operation->record.next = record->step_count;
        operation->is_told = true;
    }
    return r;
}

int journal_conclude(struct journal_operation *operation, int code, uint64_t value, struct error *err)
{
    struct journal_record changed = operation->record;
    int r = refuse_change(operation,
                          !changed.is_concluded && code >= 0 && code <= JOURNAL_CODE_MAX &&
                              (code == 0) == journal_is_committed(&changed),
                          "concluded", err);
    if (r < 0)
        return r;
    changed.is_concluded = true;
    changed.code = code;
    changed.value = value;
    return change(operation, &changed, err);
}

int journal_finish(struct journal_operation *operation, struct error *err)
{
    struct journal *journal = operation->journal;
    const struct journal_record *record = &operation->record;
    bool is_over = record->next == record->step_count || (record->is_concluded && record->code);
    if (journal->read_only)
        return error_set(err, EROFS, "the journal is only read");
    if (!is_over)
        return error_set(err, EINVAL, "the operation '%s' is not over", record->kind);
    operation->is_finishing = true;
    int r = operation->is_told ? unlink_file(journal, record->domain, err)
                               : remove_file(journal, record->domain, err);
    if (r < 0)
        return r;
    pthread_mutex_lock(&journal->lock);
    list_remove_locked(journal, operation);
    pthread_mutex_unlock(&journal->lock);
    operation_free(operation);
    return 0;
}
