// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * See nbd_helper.h: who uses which connection, and what happens when the helper fails.
 *
 * The first request that fails to get its answer declares the session broken and cuts it, so that the others
 * under way fail at once. When the last of them has returned its connection the session is freed, which ends
 * the process; the next request starts a new one. Starts are a second apart: an image upon which QEMU dies at
 * once must not keep the host busy.
 */
#include "image/nbd_helper.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <time.h>

#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/log.h"
#include "base/monotonic.h"
#include "image/nbd_session.h"

#define READ_BYTES_MAX    (16 * MIB)           /* of one request; QEMU takes 32 MiB */
#define MAP_BYTES_MAX     (4 * GIB - 64 * KIB) /* of one request; the protocol has 32 bits */
#define MS_BETWEEN_STARTS 1000
#define ATTEMPTS          2    /* at a request whose helper died under it */
#define MS_BEFORE_ANEW    2000 /* a helper on the network that is younger is not started again for an error */

struct nbd_helper {
    struct nbd_helper_spec spec;
    uint64_t size;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    /* Protected by lock: */
    struct nbd_session *session; /* NULL: none */
    bool busy[NBD_HELPER_CONNECTIONS];
    unsigned busy_count;
    int broken;             /* why the session is of no use: a negative errno; 0: it is fine */
    bool starting;          /* some thread is at it */
    unsigned failed_starts; /* counted, so that those who waited for one see that it failed */
    int64_t started_ms;     /* last */
};

static void sleep_ms(int64_t ms)
{
    struct timespec left = {.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000};
    while (ms > 0 && nanosleep(&left, &left) < 0 && errno == EINTR)
        ;
}

int nbd_helper_new(const struct nbd_helper_spec *spec, struct nbd_helper **helper, struct error *err)
{
    struct nbd_session *session;
    int64_t started = monotonic_ms();
    int rc = nbd_session_start(spec, &session, err);
    if (rc < 0)
        return rc;
    struct nbd_helper *made = calloc(1, sizeof *made);
    if (!made) {
        nbd_session_free(session);
        return error_set(err, ENOMEM, "out of memory");
    }
    made->spec = *spec;
    session->spec = &made->spec;
    made->session = session;
    made->size = session->size;
    made->started_ms = started;
    pthread_mutex_init(&made->lock, NULL);
    pthread_cond_init(&made->changed, NULL);
    *helper = made;
    return 0;
}

void nbd_helper_free(struct nbd_helper *helper)
{
    if (!helper)
        return;
    nbd_session_free(helper->session);
    pthread_cond_destroy(&helper->changed);
    pthread_mutex_destroy(&helper->lock);
    free(helper);
}

uint64_t nbd_helper_size(const struct nbd_helper *helper)
{
    return helper->size;
}

/* ---- sessions that come and go ---- */

/* Called without the lock, by the one thread that has set `starting`. */
static int restart(struct nbd_helper *helper, int64_t last_ms, struct nbd_session **session)
{
    struct error err = {0};
    sleep_ms(last_ms + MS_BETWEEN_STARTS - monotonic_ms());
    int rc = nbd_session_start(&helper->spec, session, &err);
    if (rc == 0 && (*session)->size != helper->size) {
        nbd_session_free(*session);
        rc = error_set(&err, EIO, "its size is another one now");
    }
    if (rc < 0)
        log_error("%s: %s", helper->spec.path, err.text);
    return rc;
}

/* Called with the lock held, which it lets go meanwhile. */
static int start_locked(struct nbd_helper *helper)
{
    struct nbd_session *session = NULL;
    int64_t last_ms = helper->started_ms;
    helper->starting = true;
    pthread_mutex_unlock(&helper->lock);
    int rc = restart(helper, last_ms, &session);
    pthread_mutex_lock(&helper->lock);
    helper->starting = false;
    helper->started_ms = monotonic_ms();
    if (rc == 0)
        helper->session = session;
    else
        helper->failed_starts++;
    pthread_cond_broadcast(&helper->changed);
    return rc;
}

/* Waits for a connection that is free, and for a session where there is none. */
static int connection_take(struct nbd_helper *helper, struct nbd_session **session, unsigned *connection)
{
    int rc = 0;
    pthread_mutex_lock(&helper->lock);
    unsigned failed = helper->failed_starts;
    for (;;) {
        if (failed != helper->failed_starts)
            rc = -EIO; /* logged by the one who tried */
        else if (!helper->session && !helper->starting)
            rc = start_locked(helper);
        if (rc < 0)
            break;
        unsigned free_one = 0;
        while (free_one < NBD_HELPER_CONNECTIONS && helper->busy[free_one])
            free_one++;
        if (helper->session && !helper->broken && free_one < NBD_HELPER_CONNECTIONS) {
            helper->busy[free_one] = true;
            helper->busy_count++;
            *session = helper->session;
            *connection = free_one;
            break;
        }
        pthread_cond_wait(&helper->changed, &helper->lock);
    }
    pthread_mutex_unlock(&helper->lock);
    return rc;
}

static void bury(struct nbd_helper *helper, struct nbd_session *session, int why)
{
    char said[256];
    nbd_session_said(session, said, sizeof said);
    if (why == -ECANCELED)
        log_debug("%s: qemu-nbd is ended with the program", helper->spec.path);
    else if (why == -ECONNABORTED)
        log_warning("%s: can't be read%s%s; it is connected to anew", helper->spec.path, *said ? ": " : "",
                    said);
    else if (why == -ETIMEDOUT)
        log_error("%s: qemu-nbd made no progress for %d ms and is ended%s%s", helper->spec.path,
                  helper->spec.stall_ms, *said ? "; it said: " : "", said);
    else
        log_error("%s: qemu-nbd is gone%s%s", helper->spec.path, *said ? "; it said: " : "", said);
    nbd_session_free(session);
}

/* `rc` is what the request came to. */
static void connection_return(struct nbd_helper *helper, unsigned connection, int rc)
{
    struct nbd_session *dead = NULL;
    pthread_mutex_lock(&helper->lock);
    helper->busy[connection] = false;
    helper->busy_count--;
    if ((rc == -ETIMEDOUT || rc == -ECONNRESET || rc == -ECONNABORTED || rc == -ECANCELED) &&
        !helper->broken) {
        helper->broken = rc;
        nbd_session_cut(helper->session);
    }
    int why = helper->broken;
    if (why && helper->busy_count == 0) {
        dead = helper->session;
        helper->session = NULL;
        helper->broken = 0;
    }
    pthread_cond_broadcast(&helper->changed);
    pthread_mutex_unlock(&helper->lock);
    if (dead)
        bury(helper, dead, why);
}

/* ---- requests ---- */

struct request {
    uint64_t offset;
    uint64_t length;
    void *buffer;        /* a read; else the map is wanted: */
    struct nbd_map *map; /* empty where the helper can't tell */
};

static int request_once(struct nbd_session *session, unsigned connection, const struct request *request)
{
    if (request->buffer)
        return nbd_connection_read(session, connection, request->offset, request->buffer, request->length);
    request->map->count = 0;
    if (!session->has_map)
        return 0;
    int rc = nbd_connection_map(session, connection, request->offset, request->length, request->map);
    if (rc != -EIO)
        return rc;
    request->map->count = 0; /* where the map is damaged reading will tell, byte for byte */
    return 0;
}

/* What an error of the server means: -ECONNABORTED if the helper is to be started anew, and asked again. */
static int judge(struct nbd_helper *helper, int rc)
{
    if (rc != -EIO || !helper->spec.network)
        return rc;
    pthread_mutex_lock(&helper->lock);
    bool is_old = monotonic_ms() >= helper->started_ms + MS_BEFORE_ANEW;
    pthread_mutex_unlock(&helper->lock);
    return is_old ? -ECONNABORTED : rc;
}

static int request_run(struct nbd_helper *helper, const struct request *request)
{
    int rc = -EIO;
    for (int attempt = 0; attempt < ATTEMPTS; attempt++) {
        struct nbd_session *session;
        unsigned connection;
        rc = connection_take(helper, &session, &connection);
        if (rc < 0)
            break;
        rc = judge(helper, request_once(session, connection, request));
        connection_return(helper, connection, rc);
        if (rc != -ECONNRESET && rc != -ECONNABORTED)
            break;
    }
    return rc < 0 ? -EIO : 0;
}

int nbd_helper_read(struct nbd_helper *helper, uint64_t offset, void *buffer, size_t length)
{
    if (offset > helper->size || length > helper->size - offset)
        return -EINVAL;
    while (length > 0) {
        size_t now = min_u64(length, READ_BYTES_MAX);
        int rc = request_run(helper, &(struct request){.offset = offset, .length = now, .buffer = buffer});
        if (rc < 0)
            return rc;
        offset += now;
        buffer = (char *)buffer + now;
        length -= now;
    }
    return 0;
}

static void map_done(struct nbd_map *map)
{
    free(map->runs);
}

int nbd_helper_walk(struct nbd_helper *helper, uint64_t offset, uint64_t length, extent_visitor visitor,
                    void *opaque)
{
    cleanup(map_done) struct nbd_map map = {0};
    length = offset < helper->size ? min_u64(length, helper->size - offset) : 0;
    while (length > 0) {
        uint64_t now = min_u64(length, MAP_BYTES_MAX);
        int rc = request_run(helper, &(struct request){.offset = offset, .length = now, .map = &map});
        struct nbd_run all = {.length = now};
        const struct nbd_run *runs = map.count ? map.runs : &all;
        size_t count = map.count ? map.count : 1;
        for (size_t i = 0; i < count && now > 0 && rc == 0; i++) {
            uint64_t run = min_u64(runs[i].length, now);
            if (run == 0)
                return -EIO; /* it would never end */
            rc = visitor(opaque, &(struct extent){.guest = offset,
                                                  .length = run,
                                                  .kind = runs[i].zero ? EXTENT_ZERO : EXTENT_FOREIGN,
                                                  .offset = offset});
            offset += run;
            length -= run;
            now -= run;
        }
        if (rc)
            return rc;
    }
    return 0;
}
