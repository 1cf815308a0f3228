// SPDX-License-Identifier: LGPL-2.1-or-later
/* The commands of core/hypervisor for running domains, for the Python tests: a line each, of words, on the
 * standard input, and a line "ok ..." or "ERRNO text" for each on the standard output. Ends with its input.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "format/json_parse.h"
#include "hypervisor/block_mirror.h"
#include "hypervisor/block_snapshot.h"
#include "hypervisor/guest_agent.h"
#include "hypervisor/memory_internal.h"
#include "hypervisor/memory_load.h"
#include "hypervisor/memory_save.h"
#include "hypervisor/run_state.h"

#define LONG_MS   600000
#define WORDS_MAX 64

static struct block_engine engine = {.timeout_ms = LONG_MS};
static struct guest_agent *agent;
static struct memory_save_before before;
static struct memory_save saving;
static const struct qmp_job_watch watch = {.timeout_ms = LONG_MS};

static char said[256]; /* behind "ok" */

typedef const char *const *words; /* behind the command's name; NULL at the end */

static size_t count_of(words arguments)
{
    size_t count = 0;
    while (arguments[count])
        count++;
    return count;
}

static int do_connect(words arguments, struct error *err)
{
    return qmp_connect(arguments[0], "qemu", LONG_MS, &engine.qmp, err);
}

static int do_qmp(words arguments, struct error *err)
{
    cleanup_json struct json_object *object = json_tokener_parse(arguments[1]);
    return qmp_command(engine.qmp, arguments[0], object, LONG_MS, NULL, err);
}

static int do_state(words arguments, struct error *err)
{
    struct run_state_answer answer;
    int rc = run_state_query(engine.qmp, LONG_MS, &answer, err);
    if (rc == 0)
        snprintf(said, sizeof said, "%s", run_state_name(answer.state));
    return rc;
}

static int do_stop(words arguments, struct error *err)
{
    return run_state_stop(engine.qmp, LONG_MS, err);
}

static int do_cont(words arguments, struct error *err)
{
    return run_state_continue(engine.qmp, LONG_MS, err);
}

static int do_quit(words arguments, struct error *err)
{
    return run_state_quit(engine.qmp, LONG_MS, err);
}

/* save-begin FILE live|stopped */
static int do_save_begin(words arguments, struct error *err)
{
    cleanup_close int fd = open(arguments[0], O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0)
        return error_set(err, errno, "%s: %m", arguments[0]);
    const struct memory_save_spec spec = {
        .fd = fd,
        .live = strcmp(arguments[1], "live") == 0,
        .timeout_ms = LONG_MS,
    };
    int rc = memory_save_look(engine.qmp, LONG_MS, &before, err);
    return rc < 0 ? rc : memory_save_begin(engine.qmp, &spec, &before, &saving, err);
}

static int do_save_copy(words arguments, struct error *err)
{
    return memory_save_copy(&saving, &watch, err);
}

static int do_save_finish(words arguments, struct error *err)
{
    return memory_save_finish(&saving, &watch, err);
}

static int do_save_resume(words arguments, struct error *err)
{
    return memory_save_resume(&saving, err);
}

static int do_save_cancel(words arguments, struct error *err)
{
    return memory_save_cancel(&saving, err);
}

static int do_load(words arguments, struct error *err)
{
    cleanup_close int fd = open(arguments[0], O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return error_set(err, errno, "%s: %m", arguments[0]);
    return memory_load(engine.qmp, fd, &watch, err);
}

static struct memory_internal internal(words arguments)
{
    return (struct memory_internal){
        .job_id = "memory",
        .tag = arguments[0],
        .vmstate = arguments[1],
        .devices = arguments + 1,
        .device_count = count_of(arguments + 1),
    };
}

static int do_internal_save(words arguments, struct error *err)
{
    struct memory_internal snapshot = internal(arguments);
    return memory_internal_save(engine.qmp, &snapshot, &watch, err);
}

/* snapshot TAG NODE... */
static int do_snapshot(words arguments, struct error *err)
{
    return block_snapshot_internal(&engine, arguments + 1, count_of(arguments + 1), arguments[0], err);
}

/* overlay NODE OVERLAY [NODE OVERLAY]... */
static int do_overlay(words arguments, struct error *err)
{
    struct block_snapshot_pair pairs[WORDS_MAX / 2];
    size_t count = count_of(arguments) / 2;
    for (size_t i = 0; i < count; i++)
        pairs[i] = (struct block_snapshot_pair){arguments[2 * i], arguments[2 * i + 1]};
    return block_snapshot_external(&engine, pairs, count, err);
}

/* mirror DEVICE TARGET, until it is in step */
static int do_mirror(words arguments, struct error *err)
{
    const struct block_mirror mirror = {
        .job_id = "mirror", .device = arguments[0], .target = arguments[1], .write_through = true};
    int rc = block_mirror_start(&engine, &mirror, err);
    return rc < 0 ? rc : block_mirror_await(&engine, "mirror", &watch, err);
}

static int do_pivot(words arguments, struct error *err)
{
    return block_mirror_pivot(&engine, "mirror", arguments[0], &watch, err);
}

static int do_detach(words arguments, struct error *err)
{
    return block_mirror_detach(&engine, "mirror", arguments[0], &watch, err);
}

static int do_agent(words arguments, struct error *err)
{
    return guest_agent_connect(arguments[0], "agent", LONG_MS, &agent, err);
}

/* ping MILLISECONDS, freeze MILLISECONDS */
static int do_ping(words arguments, struct error *err)
{
    return guest_agent_ping(agent, atoi(arguments[0]), err);
}

static int do_freeze(words arguments, struct error *err)
{
    unsigned count;
    bool owes;
    int rc = guest_agent_freeze(agent, atoi(arguments[0]), &count, &owes, err);
    if (rc == 0)
        snprintf(said, sizeof said, "%u", count);
    return rc;
}

static int do_thaw(words arguments, struct error *err)
{
    unsigned count;
    int rc = guest_agent_thaw(agent, LONG_MS, &count, err);
    if (rc == 0)
        snprintf(said, sizeof said, "%u", count);
    return rc;
}

static int do_frozen(words arguments, struct error *err)
{
    bool frozen;
    int rc = guest_agent_is_frozen(agent, LONG_MS, &frozen, err);
    if (rc == 0)
        snprintf(said, sizeof said, "%s", frozen ? "frozen" : "thawed");
    return rc;
}

static const struct {
    const char *name;
    int (*run)(words, struct error *);
    size_t words_min;
} commands[] = {
    {"connect", do_connect, 1},
    {"qmp", do_qmp, 2},
    {"state", do_state, 0},
    {"stop", do_stop, 0},
    {"cont", do_cont, 0},
    {"quit", do_quit, 0},
    {"save-begin", do_save_begin, 2},
    {"save-copy", do_save_copy, 0},
    {"save-finish", do_save_finish, 0},
    {"save-resume", do_save_resume, 0},
    {"save-cancel", do_save_cancel, 0},
    {"load", do_load, 1},
    {"internal-save", do_internal_save, 2},
    {"snapshot", do_snapshot, 2},
    {"overlay", do_overlay, 2},
    {"mirror", do_mirror, 2},
    {"pivot", do_pivot, 1},
    {"detach", do_detach, 1},
    {"agent", do_agent, 1},
    {"ping", do_ping, 1},
    {"freeze", do_freeze, 1},
    {"thaw", do_thaw, 0},
    {"frozen", do_frozen, 0},
};

static int run_line(char *line, struct error *err)
{
    const char *found[WORDS_MAX + 1] = {0};
    char *rest = NULL;
    size_t count = 0;
    for (char *word = strtok_r(line, " \n", &rest); word && count < WORDS_MAX;
         word = strtok_r(NULL, " \n", &rest))
        found[count++] = word;
    for (size_t i = 0; i < sizeof commands / sizeof *commands; i++)
        if (count > commands[i].words_min && strcmp(found[0], commands[i].name) == 0)
            return commands[i].run(found + 1, err);
    return error_set(err, EINVAL, "no such command, or too few words");
}

int main(void)
{
    char *line = NULL;
    size_t size = 0;
    while (getline(&line, &size, stdin) > 0) {
        struct error err = {0};
        *said = '\0';
        if (run_line(line, &err) < 0)
            printf("%d %s\n", err.code, err.text);
        else
            printf("ok %s\n", said);
        fflush(stdout);
    }
    free(line);
    qmp_free(engine.qmp);
    guest_agent_free(agent);
}
