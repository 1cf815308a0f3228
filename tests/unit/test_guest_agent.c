// SPDX-License-Identifier: LGPL-2.1-or-later
/* guest_agent.h against agents that are slow, wrong, hostile, or not there. Where a call is to run into its
 * time, the time is short; where it is to succeed, it is so long that it plays no part. */
#include "unit.h"

#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "hypervisor/guest_agent.h"
#include "must.h"

#define LONG_MS  600000
#define SHORT_MS 60

/* An agent: a thread behind a channel, with what it was told. */
struct fake;
typedef void script(struct fake *fake);

struct fake {
    pthread_t thread;
    int fd;
    script *run;
    char heard[4096];
    char log[4096]; /* the commands but for the synchronizations, in their order */
    bool frozen;
};

static struct fake fake;

static void say(const char *bytes, size_t length)
{
    while (length > 0) {
        ssize_t sent = send(fake.fd, bytes, length, MSG_NOSIGNAL);
        if (sent <= 0)
            return;
        bytes += sent;
        length -= (size_t)sent;
    }
}

static void say_text(const char *text)
{
    say(text, strlen(text));
}

/* The next line, without the byte that restarts a parser; false when the client has gone. */
static bool hear(void)
{
    size_t length = 0;
    for (;;) {
        char byte;
        if (recv(fake.fd, &byte, 1, 0) != 1)
            return false;
        if (byte == '\xff') {
            length = 0;
            continue;
        }
        if (byte == '\n')
            break;
        if (length + 1 < sizeof fake.heard)
            fake.heard[length++] = byte;
    }
    fake.heard[length] = '\0';
    if (!strstr(fake.heard, "guest-sync-delimited")) {
        char name[64] = "?";
        sscanf(fake.heard, "{\"execute\":\"guest-fsfreeze-%63[^\"]", name);
        strncat(fake.log, name, sizeof fake.log - strlen(fake.log) - 2);
        strcat(fake.log, " ");
    }
    return true;
}

static bool told(const char *what)
{
    return strstr(fake.heard, what) != NULL;
}

static void answer_sync(void)
{
    char line[128];
    snprintf(line, sizeof line, "\xff{\"return\": %lld}\n",
             strtoll(strstr(fake.heard, "\"id\":") + 5, NULL, 10));
    say_text(line);
}

/* As the real one does. */
static void answer(void)
{
    if (told("guest-sync-delimited")) {
        answer_sync();
    } else if (told("status")) {
        say_text(fake.frozen ? "{\"return\": \"frozen\"}\n" : "{\"return\": \"thawed\"}\n");
    } else if (told("freeze-freeze")) {
        fake.frozen = true;
        say_text("{\"return\": 2}\n");
    } else if (told("thaw")) {
        say_text(fake.frozen ? "{\"return\": 2}\n" : "{\"return\": 0}\n");
        fake.frozen = false;
    } else {
        say_text("{\"error\": {\"class\": \"CommandNotFound\", \"desc\": \"no such command\"}}\n");
    }
}

static void *run_fake(void *opaque)
{
    fake.run(&fake);
    close(fake.fd);
    return NULL;
}

static struct guest_agent *start(script *run, bool frozen)
{
    int ends[2];
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
    fake = (struct fake){.fd = ends[1], .run = run, .frozen = frozen};
    assert_int_equal(pthread_create(&fake.thread, NULL, run_fake, NULL), 0);
    struct guest_agent *agent = NULL;
    assert_int_equal(guest_agent_take(&ends[0], "agent", &agent, NULL), 0);
    assert_int_equal(ends[0], -1);
    return agent;
}

static void finish(struct guest_agent *agent)
{
    guest_agent_free(agent);
    pthread_join(fake.thread, NULL);
}

static bool owes;

/* ---- one that works ---- */

static void serve(struct fake *of)
{
    while (hear())
        answer();
}

static void test_freeze_and_thaw(void **state)
{
    struct guest_agent *agent = start(serve, false);
    bool frozen = true;
    unsigned count = 9;
    must(guest_agent_ping(agent, LONG_MS, &why));
    must(guest_agent_is_frozen(agent, LONG_MS, &frozen, &why));
    assert_false(frozen);
    must(guest_agent_freeze(agent, LONG_MS, &count, &owes, &why));
    assert_int_equal(count, 2);
    must(guest_agent_is_frozen(agent, LONG_MS, &frozen, &why));
    assert_true(frozen);
    must(guest_agent_thaw(agent, LONG_MS, &count, &why));
    assert_int_equal(count, 2);
    must(guest_agent_thaw(agent, LONG_MS, NULL, &why));
    finish(agent);
    assert_string_equal(fake.log, "status status freeze status thaw thaw ");
}

static void test_thawed_by_another_client(void **state)
{
    struct guest_agent *agent = start(serve, true); /* whoever froze it has been killed */
    bool frozen = false;
    must(guest_agent_is_frozen(agent, LONG_MS, &frozen, &why));
    assert_true(frozen);
    must_fail(guest_agent_freeze(agent, LONG_MS, NULL, &owes, &why), EBUSY);
    assert_true(fake.frozen);
    unsigned count;
    must(guest_agent_thaw(agent, LONG_MS, &count, &why));
    assert_int_equal(count, 2);
    finish(agent);
    assert_string_equal(fake.log, "status status thaw ");
}

static void stutter(struct fake *of)
{
    while (hear()) {
        int real = fake.fd, ends[2];
        if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) < 0)
            abort();
        fake.fd = ends[0];
        answer();
        close(ends[0]);
        fake.fd = real;
        char byte;
        while (recv(ends[1], &byte, 1, 0) == 1)
            say(&byte, 1);
        close(ends[1]);
    }
}

static void test_answers_in_pieces(void **state)
{
    struct guest_agent *agent = start(stutter, false);
    must(guest_agent_freeze(agent, LONG_MS, NULL, &owes, &why));
    must(guest_agent_thaw(agent, LONG_MS, NULL, &why));
    finish(agent);
}

/* What earlier clients asked for comes first, and what a parser makes of half a line. */
static void serve_leftovers(struct fake *of)
{
    for (int i = 0; hear(); i++) {
        if (told("guest-sync-delimited")) {
            say_text(
                "{\"return\": \"frozen\"}\n{\"error\": {\"class\": \"GenericError\", \"desc\": \"x\"}}\n");
            say_text("\xff{\"return\": 17}\n{\"return\": {}}\nnonsense\n\n{\"return\": 1.5}\n\xff\xff{\"ret");
            say_text("\xff{\"return\": 18}\n{\"half");
        }
        answer();
    }
}

static void test_leftovers(void **state)
{
    struct guest_agent *agent = start(serve_leftovers, false);
    bool frozen = true;
    must(guest_agent_is_frozen(agent, LONG_MS, &frozen, &why));
    assert_false(frozen);
    must(guest_agent_freeze(agent, LONG_MS, NULL, &owes, &why));
    must(guest_agent_thaw(agent, LONG_MS, NULL, &why));
    finish(agent);
}

/* ---- one that does not ---- */

static void serve_nobody(struct fake *of)
{
    while (hear())
        continue;
}

/* The channel keeps what is sent for an agent that may come later: nothing may be in it that freezes. */
static void test_nobody(void **state)
{
    struct guest_agent *agent = start(serve_nobody, false);
    bool frozen;
    must_fail(guest_agent_ping(agent, SHORT_MS, &why), ETIMEDOUT);
    assert_non_null(strstr(why.text, "no guest agent answers"));
    must_fail(guest_agent_is_frozen(agent, SHORT_MS, &frozen, &why), ETIMEDOUT);
    must_fail(guest_agent_freeze(agent, SHORT_MS, NULL, &owes, &why), ETIMEDOUT);
    finish(agent);
    assert_string_equal(fake.log, "");
    agent = start(serve_nobody, false);
    must_fail(guest_agent_thaw(agent, SHORT_MS, NULL, &why), ETIMEDOUT);
    finish(agent);
    assert_string_equal(fake.log, "thaw ");
}

/* Nobody even takes the bytes: the other end's buffers fill up. */
static void test_a_full_channel(void **state)
{
    int ends[2], size = 1;
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
    setsockopt(ends[0], SOL_SOCKET, SO_SNDBUF, &size, sizeof size);
    struct guest_agent *agent = NULL;
    must(guest_agent_take(&ends[0], "agent", &agent, &why));
    for (int i = 0; i < 200; i++)
        must_fail(guest_agent_freeze(agent, 1, NULL, &owes, &why), ETIMEDOUT);
    guest_agent_free(agent);
    close(ends[1]);
}

static void serve_later(struct fake *of)
{
    /* The first synchronization is lost; the second is answered, after the first. */
    hear();
    char first[sizeof fake.heard];
    strcpy(first, fake.heard);
    if (!hear())
        return;
    char second[sizeof fake.heard];
    strcpy(second, fake.heard);
    strcpy(fake.heard, first);
    answer();
    strcpy(fake.heard, second);
    answer();
    serve(of);
}

static void test_an_agent_that_comes_later(void **state)
{
    struct guest_agent *agent = start(serve_later, false);
    must_fail(guest_agent_ping(agent, SHORT_MS, &why), ETIMEDOUT);
    must(guest_agent_freeze(agent, LONG_MS, NULL, &owes, &why));
    must(guest_agent_thaw(agent, LONG_MS, NULL, &why));
    finish(agent);
    assert_string_equal(fake.log, "status freeze thaw ");
}

/* It dies, or hangs, with the freeze: whatever carries that out later carries out the thaw, too. */
static void serve_hang_in_freeze(struct fake *of)
{
    while (hear() && !told("freeze-freeze"))
        answer();
    while (hear())
        continue;
}

/* Has a freeze run into its time, with as much as it takes on this machine to get that far. */
static void freeze_in_vain(script *run)
{
    for (int timeout_ms = SHORT_MS; !strstr(fake.log, "freeze"); timeout_ms *= 2) {
        struct guest_agent *agent = start(run, false);
        must_fail(guest_agent_freeze(agent, timeout_ms, NULL, &owes, &why), ETIMEDOUT);
        finish(agent);
    }
}

static void test_a_freeze_that_hangs(void **state)
{
    *fake.log = '\0';
    freeze_in_vain(serve_hang_in_freeze);
    assert_string_equal(fake.log, "status freeze thaw ");
}

/* It only takes longer than there is time for. */
static void serve_slow_freeze(struct fake *of)
{
    while (hear() && !told("freeze-freeze"))
        answer();
    /* Until the client has lost patience, and says so. */
    char freeze[sizeof fake.heard], next[sizeof fake.heard];
    strcpy(freeze, fake.heard);
    if (!hear())
        return;
    strcpy(next, fake.heard);
    strcpy(fake.heard, freeze);
    answer();
    strcpy(fake.heard, next);
    answer();
    serve(of);
}

static void test_a_slow_freeze(void **state)
{
    *fake.log = '\0';
    freeze_in_vain(serve_slow_freeze);
    assert_false(fake.frozen);
    assert_non_null(strstr(fake.log, "freeze thaw "));
}

static const char *refusal;
static const char *refused;

static void serve_refusal(struct fake *of)
{
    while (hear())
        if (told(refused))
            say_text(refusal);
        else
            answer();
}

static void test_refusals(void **state)
{
    static const struct {
        const char *of, *what;
        int code;
    } refusals[] = {
        {"freeze-freeze",
         "{\"error\": {\"class\": \"CommandNotFound\", \"desc\": \"The command is not there\"}}\n",
         EOPNOTSUPP},
        {"freeze-freeze",
         "{\"error\": {\"class\": \"GenericError\", \"desc\": \"Command guest-fsfreeze-freeze has been "
         "disabled\"}}\n",
         EOPNOTSUPP},
        {"freeze-freeze",
         "{\"error\": {\"class\": \"GenericError\", \"desc\": \"failed to freeze /: Input/output error\"}}\n",
         EIO},
        {"freeze-freeze", "{\"error\": {\"class\": \"GenericError\"}}\n", EIO},
        {"freeze-freeze", "{\"error\": 3}\n", EIO},
        {"freeze-freeze", "{\"return\": \"2\"}\n", EPROTO},
        {"freeze-freeze", "{\"return\": -1}\n", EPROTO},
        {"freeze-freeze", "{\"return\": 5000000000}\n", EPROTO},
        {"freeze-freeze", "{\"nothing\": 1}\n", EPROTO},
        {"freeze-freeze", "[1]\n", EPROTO},
        {"freeze-freeze", "]\n", EPROTO},
        {"freeze-freeze", "{\"return\": 1, \"return\": \"\xc3\x28\"}\n", EPROTO},
        {"status", "{\"return\": 1}\n", EPROTO},
        {"status", "{\"error\": {\"class\": \"GenericError\", \"desc\": \"no\"}}\n", EIO},
    };
    for (size_t i = 0; i < sizeof refusals / sizeof *refusals; i++) {
        refused = refusals[i].of;
        refusal = refusals[i].what;
        struct guest_agent *agent = start(serve_refusal, false);
        must_fail(guest_agent_freeze(agent, LONG_MS, NULL, &owes, &why), refusals[i].code);
        finish(agent);
        /* Whatever a freeze that was told came to, it is thawed. */
        assert_string_equal(fake.log, strcmp(refused, "status") == 0 ? "status " : "status freeze thaw ");
    }
    refused = "thaw";
    refusal = "{\"error\": {\"class\": \"GenericError\", \"desc\": \"it sticks\"}}\n";
    struct guest_agent *agent = start(serve_refusal, true);
    must_fail(guest_agent_thaw(agent, LONG_MS, NULL, &why), EIO);
    assert_non_null(strstr(why.text, "it sticks"));
    finish(agent);
}

/* ---- one that means harm ---- */

static void serve_flood(struct fake *of)
{
    static const char line[] = "{\"return\": 1}\n";
    while (send(fake.fd, line, sizeof line - 1, MSG_NOSIGNAL) > 0)
        continue;
}

static void serve_endless_line(struct fake *of)
{
    static const char bytes[] = "{\"return\": {\"return\": [[[[[[[[[";
    while (send(fake.fd, bytes, sizeof bytes - 1, MSG_NOSIGNAL) > 0)
        continue;
}

static void serve_restarts(struct fake *of)
{
    char bytes[1024];
    memset(bytes, 0xff, sizeof bytes);
    while (send(fake.fd, bytes, sizeof bytes, MSG_NOSIGNAL) > 0)
        continue;
}

static void serve_goodbye(struct fake *of) {}

static void serve_goodbye_in_a_freeze(struct fake *of)
{
    while (hear() && !told("freeze-freeze"))
        answer();
}

static void test_floods(void **state)
{
    static script *const floods[] = {serve_flood, serve_endless_line, serve_restarts};
    for (size_t i = 0; i < sizeof floods / sizeof *floods; i++) {
        struct guest_agent *agent = start(floods[i], false);
        must_fail(guest_agent_freeze(agent, LONG_MS, NULL, &owes, &why), EPROTO);
        must_fail(guest_agent_thaw(agent, LONG_MS, NULL, &why), EPROTO);
        finish(agent);
    }
}

static void test_hanging_up(void **state)
{
    struct guest_agent *agent = start(serve_goodbye, false);
    int rc = guest_agent_ping(agent, LONG_MS, &why);
    assert_true(rc == -ECONNRESET || rc == -EPIPE);
    assert_true(guest_agent_thaw(agent, LONG_MS, NULL, &why) == rc);
    finish(agent);
    agent = start(serve_goodbye_in_a_freeze, false);
    rc = guest_agent_freeze(agent, LONG_MS, NULL, &owes, &why);
    assert_true(rc == -ECONNRESET || rc == -EPIPE);
    finish(agent);
}

static void test_sockets_that_are_none(void **state)
{
    struct guest_agent *agent = NULL;
    must_fail(guest_agent_connect("/nonexistent/agent", "agent", LONG_MS, &agent, &why), ENOENT);
    must_fail(guest_agent_connect("/dev/null", "agent", LONG_MS, &agent, &why), ECONNREFUSED);
    assert_null(agent);
    guest_agent_free(NULL);
}

static unsigned noise_seed;

/* Random bytes between right ones, as a channel could have them. */
static void serve_noise(struct fake *of)
{
    unsigned seed = noise_seed;
    while (hear()) {
        char noise[200];
        size_t length = (size_t)rand_r(&seed) % sizeof noise;
        for (size_t i = 0; i < length; i++)
            noise[i] = (char)rand_r(&seed);
        if (told("guest-sync-delimited"))
            say(noise, length);
        answer();
    }
}

static void test_noise(void **state)
{
    const char *given = getenv("SEED");
    noise_seed = given ? (unsigned)strtoul(given, NULL, 10) : (unsigned)getpid();
    print_message("SEED=%u\n", noise_seed);
    struct guest_agent *agent = start(serve_noise, false);
    for (int i = 0; i < 200; i++) {
        must(guest_agent_freeze(agent, LONG_MS, NULL, &owes, &why));
        must(guest_agent_thaw(agent, LONG_MS, NULL, &why));
    }
    finish(agent);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_freeze_and_thaw),
        cmocka_unit_test(test_thawed_by_another_client),
        cmocka_unit_test(test_answers_in_pieces),
        cmocka_unit_test(test_leftovers),
        cmocka_unit_test(test_nobody),
        cmocka_unit_test(test_a_full_channel),
        cmocka_unit_test(test_an_agent_that_comes_later),
        cmocka_unit_test(test_a_freeze_that_hangs),
        cmocka_unit_test(test_a_slow_freeze),
        cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_floods),
        cmocka_unit_test(test_hanging_up),
        cmocka_unit_test(test_sockets_that_are_none),
        cmocka_unit_test(test_noise),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
