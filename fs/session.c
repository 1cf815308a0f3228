// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * One mount; see session.h.
 *
 * The main thread waits for signals. Worker threads take requests off /dev/fuse, each with a buffer of its
 * own, and answer them; when the kernel says that the mount is gone they end, and the last one wakes the main
 * thread.
 */
#include "session.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "abort_guard.h"
#include "base/log.h"
#include "catalog/catalog_hold.h"
#include "event_requests.h"
#include "mountpoint.h"
#include "passthrough.h"
#include "service.h"

#define THREADS_DEFAULT 10

struct session {
    const struct options *options;
    struct service service;
    struct locate *locate;
    struct store *store;
    struct cache *cache;
    struct workers *decompressors;
    char *mountpoint;
    struct fuse_session *fuse;
    pid_t guard; /* 0: none */
    bool mounted;
    pthread_t main_thread;
    pthread_t *workers;
    unsigned worker_count;
    atomic_uint running;
};

/* --- what libfuse says goes into our one line of reason --- */

static char fuse_said[256];

__attribute__((format(printf, 2, 0))) static void take_fuse_log(enum fuse_log_level level, const char *format,
                                                                va_list args)
{
    char line[sizeof fuse_said];
    vsnprintf(line, sizeof line, format, args);
    line[strcspn(line, "\n")] = '\0';
    if (strncmp(line, "fuse: ", 6) == 0)
        memmove(line, line + 6, strlen(line + 6) + 1);
    if (level <= FUSE_LOG_ERR)
        memcpy(fuse_said, line, sizeof fuse_said);
    log_debug("libfuse: %s", line);
}

/* --- changes of the catalog --- */

static void catalog_has_changed(void *opaque, const struct catalog *before, const struct catalog *after)
{
    struct session *session = opaque;
    if (session->service.machines)
        machines_follow(session->service.machines, after->domains, after->domain_count);
    invalidator_compare(session->service.invalidator, before, after);
}

static void disk_was_counted(void *opaque, const struct domain *domain, const struct snapshot *snapshot,
                             const struct frozen *frozen)
{
    struct session *session = opaque;
    invalidator_node(session->service.invalidator,
                     node_id(NODE_FROZEN, snapshot->serial, frozen->disk->position), false);
}

/* --- what the administration asks and tells --- */

static bool snapshot_is_open(void *opaque, uint64_t snapshot)
{
    const struct session *session = opaque;
    return open_disks_has_snapshot(session->service.disks, snapshot);
}

static void something_happened(void *opaque, uint64_t domain, const char *line)
{
    const struct session *session = opaque;
    events_add(session->service.events, domain, line);
}

static void jobs_have_changed(void *opaque, uint64_t domain)
{
    const struct session *session = opaque;
    invalidator_node(session->service.invalidator, node_id(NODE_DOMAIN, domain, DOMAIN_JOBS), true);
}

static int make_way(void *opaque, const struct place *place, struct catalog **catalog, struct place *now)
{
    const struct session *session = opaque;
    if (store_is_read_only(session->store))
        catalog_service_catch_up(session->service.catalog, place->domain->serial);
    else
        administration_make_way(session->service.administration, place->frozen);
    /* What was merged meanwhile is another file, or the same one with other times. */
    struct catalog *after = catalog_service_get(session->service.catalog);
    int result = tree_resolve(after, place->id, now);
    if (result == 0)
        *catalog = after;
    else
        catalog_put(after);
    return result;
}

/* What another mount begins from now on sees our locks. What it has done before stands in the state, by which
 * it was opened if that is still the same. */
static bool was_right(void *opaque, const struct place *now)
{
    const struct session *session = opaque;
    return catalog_service_is_current(session->service.catalog, now->domain->serial);
}

static void look_anew(void *opaque)
{
    const struct session *session = opaque;
    catalog_look(session->service.catalog);
}

static void disk_was_closed(void *opaque)
{
    const struct session *session = opaque;
    administration_was_closed(session->service.administration);
}

static void machine_has_changed(void *opaque, uint64_t domain, const char *line)
{
    const struct session *session = opaque;
    if (line)
        events_add(session->service.events, domain, line);
    invalidator_node(session->service.invalidator, node_id(NODE_DOMAIN, domain, DOMAIN_POWER), true);
}

static int make_administration(struct session *session, struct error *err)
{
    const struct administration_options options = {
        .store = session->store,
        .locate = session->locate,
        .machines = session->service.machines,
        .is_open = snapshot_is_open,
        .event = something_happened,
        .jobs_changed = jobs_have_changed,
        .opaque = session,
    };
    return administration_new(&options, &session->service.administration, err);
}

/* --- making and taking down --- */

static int open_source(struct session *session, struct error *err)
{
    const struct options *options = session->options;
    struct service *service = &session->service;
    int result = locate_new(options->source, options->allow, options->allow_count, options->unnamed_backing,
                            &session->locate, err);
    if (result == 0)
        result = locate_exclude(session->locate, session->mountpoint, err);
    if (result != 0)
        return result;
    const char *source = locate_source(session->locate);
    service->source_fd = open(source, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (service->source_fd < 0)
        return error_set(err, errno, "%s: %s", source, strerror(errno));
    result = store_open(source, options->read_only, &session->store, err);
    if (result != 0)
        return result;

    /* The directories in it by themselves too: each can be mounted elsewhere. */
    static const char *const ours[] = {".vmsnapfs", ".vmsnapfs/domains", ".vmsnapfs/journal"};
    for (size_t i = 0; result == 0 && i < sizeof ours / sizeof *ours; i++) {
        cleanup_free char *path = NULL;
        if (asprintf(&path, "%s/%s", source, ours[i]) < 0)
            return path = NULL, error_set(err, ENOMEM, "out of memory");
        result = locate_keep_out(session->locate, path, err);
    }
    if (result != 0)
        return result;

    service->invalidator = invalidator_new();
    service->events = events_new(event_requests_wake);
    session->cache = cache_new(options->cache_bytes);
    if (!service->invalidator || !service->events || !session->cache)
        return error_set(err, ENOMEM, "out of memory");
    const struct machines_options machines = {
        .source = source,
        .changed = machine_has_changed,
        .opaque = session,
    };
    /* A monitor has one client, and it is needed by who administers the domain. */
    if (!store_is_read_only(session->store))
        result = machines_new(&machines, &service->machines, err);
    if (result == 0)
        result = make_administration(session, err);
    if (result != 0)
        return result;
    const struct catalog_options catalog_options = {
        .locate = session->locate,
        .store = session->store,
        .cache = session->cache,
        .count_usage = true,
        .changed = catalog_has_changed,
        .counted = disk_was_counted,
        .opaque = session,
    };
    result = catalog_service_new(&catalog_options, &service->catalog, err);
    if (result != 0)
        return result;
    cleanup_catalog struct catalog *catalog = catalog_service_get(service->catalog);
    if (service->machines)
        machines_follow(service->machines, catalog->domains, catalog->domain_count);
    return 0;
}

static void size_was_learned(void *opaque, const char *network_name, uint64_t bytes)
{
    struct service *service = opaque;
    catalog_service_learn_size(service->catalog, network_name, bytes);
}

static int make_service(struct session *session, struct error *err)
{
    const struct options *options = session->options;
    struct service *service = &session->service;
    session->decompressors = workers_new(0);
    service->env = (struct frozen_disk_env){
        .locate = session->locate,
        .locks = store_is_read_only(session->store),
        .cache = session->cache,
        .workers = session->decompressors,
        .size_learned = size_was_learned,
        .size_learned_opaque = service,
    };
    service->attributes = (struct attribute_options){
        .uid = options->uid,
        .gid = options->gid,
        .directory_mode = options->directory_mode,
        .disk_mode = options->disk_mode,
        .control_mode = options->control_mode,
    };
    clock_gettime(CLOCK_REALTIME, &service->attributes.started);
    service->last_errors = last_errors_new();
    service->controls = control_files_new();
    service->guard = removal_guard_new();
    service->generations = generations_new();
    service->content = (struct content_source){
        .source = locate_source(session->locate),
        .mountpoint = session->mountpoint,
        .read_only = store_is_read_only(session->store),
        .last_errors = service->last_errors,
        .events = service->events,
        .controls = service->controls,
        .administration = service->administration,
        .machines = service->machines,
    };
    const struct open_disks_calls calls = {.make_way = make_way,
                                           .was_right = service->env.locks ? was_right : NULL,
                                           .look_anew = service->env.locks ? look_anew : NULL,
                                           .closed = disk_was_closed,
                                           .opaque = session};
    service->disks = open_disks_new(&service->env, &calls);
    service->ahead = service->disks ? read_ahead_new(service->disks) : NULL;
    service->texts = text_handles_new();
    service->slow = slow_lane_new();
    service->drop_behind = drop_behind_new();
    if (!service->last_errors || !service->controls || !service->guard || !service->generations ||
        !service->disks || !service->ahead || !service->texts || !service->slow || !service->drop_behind)
        return error_set(err, ENOMEM, "out of memory");
    return 0;
}

/* "-o" for libfuse; commas and backslashes of the source's name are escaped. NULL where memory ran out. */
static char *mount_options(const struct session *session)
{
    struct text text = {0};
    text_append_string(&text, "default_permissions,subtype=vmsnapfs,fsname=");
    for (const char *c = locate_source(session->locate); *c; c++)
        text_printf(&text, "%s%c", *c == ',' || *c == '\\' ? "\\" : "", *c);
    if (session->options->allow_other)
        text_append_string(&text, ",allow_other");
    if (session->options->read_only)
        text_append_string(&text, ",ro");
    if (session->options->mount_flags[0])
        text_printf(&text, ",%s", session->options->mount_flags);
    return text_steal(&text);
}

static int mount_session(struct session *session, struct error *err)
{
    struct fuse_lowlevel_ops ops = {0};
    requests_add(&ops);
    file_requests_add(&ops);
    event_requests_add(&ops);
    snapshot_requests_add(&ops);
    removals_add(&ops);
    refusals_add(&ops);

    cleanup_free char *options = mount_options(session);
    if (!options)
        return error_set(err, ENOMEM, "out of memory");
    char name[] = "vmsnapfs", dash_o[] = "-o";
    char *arguments[] = {name, dash_o, options, NULL};
    struct fuse_args args = FUSE_ARGS_INIT(3, arguments);
    fuse_set_log_func(take_fuse_log);
    session->fuse = fuse_session_new(&args, &ops, sizeof ops, &session->service);
    fuse_opt_free_args(&args);
    if (!session->fuse)
        return error_set(err, EINVAL, "can't make the session: %s", fuse_said);
    if (fuse_session_mount(session->fuse, session->mountpoint) != 0)
        return error_set(err, EIO, "can't mount on %s: %s", session->mountpoint,
                         fuse_said[0] ? fuse_said : "fusermount3 refused, as it says above");
    session->mounted = true;
    session->guard = abort_guard_start(session->mountpoint);
    if (passthrough_attach(session->fuse) != 0)
        log_info("no passthrough with this libfuse");
    return 0;
}

/*
 * Answers everything that waits. Who waits for a control file is sent away before it becomes free. The
 * answers of the administration, in which everything is undone or finished then, go through the invalidator,
 * so that one ends after it. Requests that come meanwhile are answered at once.
 */
static void stop_answering_later(struct session *session)
{
    struct service *service = &session->service;
    if (service->controls)
        control_files_end(service->controls);
    if (service->administration)
        administration_stop(service->administration);
    machines_stop(service->machines);
    invalidator_stop(service->invalidator);
    read_ahead_stop(service->ahead);
}

static void session_done(struct session *session)
{
    struct service *service = &session->service;
    atomic_store(&service->ending, true);
    /* Whoever still writes to /dev/fuse ends before it is closed, which unmounting does. */
    stop_answering_later(session);
    frozen_disks_end();
    slow_lane_free(service->slow);
    if (session->mounted)
        fuse_session_unmount(session->fuse);
    abort_guard_stop(session->guard);
    administration_free(service->administration);
    catalog_service_free(service->catalog);
    machines_free(service->machines);
    invalidator_free(service->invalidator);
    drop_behind_free(service->drop_behind);
    read_ahead_free(service->ahead);
    open_disks_free(service->disks);
    events_free(service->events);
    if (session->fuse)
        fuse_session_destroy(session->fuse);
    control_files_free(service->controls);
    removal_guard_free(service->guard);
    generations_free(service->generations);
    text_handles_free(service->texts);
    last_errors_free(service->last_errors);
    workers_free(session->decompressors);
    cache_free(session->cache);
    store_close(session->store);
    if (service->source_fd >= 0)
        close(service->source_fd);
    locate_free(session->locate);
    free(session->workers);
    free(session->mountpoint);
}

/* --- serving --- */

static void *worker_run(void *opaque)
{
    struct session *session = opaque;
    struct fuse_buf buffer = {0};
    while (!fuse_session_exited(session->fuse)) {
        int length = fuse_session_receive_buf(session->fuse, &buffer);
        if (length == -EINTR || length == -EAGAIN)
            continue;
        if (length <= 0)
            break;
        fuse_session_process_buf(session->fuse, &buffer);
    }
    free(buffer.mem);
    if (atomic_fetch_sub(&session->running, 1) == 1)
        pthread_kill(session->main_thread, SIGTERM); /* the main thread waits for this, too */
    return NULL;
}

static int start_workers(struct session *session, struct error *err)
{
    unsigned count = session->options->threads ? session->options->threads : THREADS_DEFAULT;
    session->workers = calloc(count, sizeof *session->workers);
    if (!session->workers)
        return error_set(err, ENOMEM, "out of memory");
    for (unsigned i = 0; i < count; i++) {
        atomic_fetch_add(&session->running, 1);
        int result = pthread_create(&session->workers[i], NULL, worker_run, session);
        if (result != 0) {
            atomic_fetch_sub(&session->running, 1);
            if (i == 0)
                return error_set(err, result, "can't start a thread: %s", strerror(result));
            break;
        }
        session->worker_count++;
    }
    return 0;
}

/* What the first request may need: changes can be told, and commands can be carried out. */
static int start_services(struct session *session, struct error *err)
{
    struct service *service = &session->service;
    int result = invalidator_start(service->invalidator, session->fuse);
    if (result != 0)
        return error_set(err, -result, "can't start a thread: %s", strerror(-result));
    if (service->machines)
        result = machines_start(service->machines, err);
    if (result == 0)
        result = catalog_service_start(service->catalog, err);
    return result ? result : administration_start(service->administration, service->catalog, err);
}

static int start_read_ahead(struct session *session, struct error *err)
{
    /* With one thread nobody would answer the request that a stored page waits for. */
    int result = session->worker_count >= 2 ? read_ahead_start(session->service.ahead, session->fuse) : 0;
    return result ? error_set(err, -result, "can't start a thread: %s", strerror(-result)) : 0;
}

static void wake(int signal_number) {}

/* Wakes workers that wait on /dev/fuse, until all have seen that the session ends. Unmounting comes after
 * that, in session_done, since it closes the descriptor that they read from. */
static void end_workers(struct session *session)
{
    stop_answering_later(session);
    fuse_session_exit(session->fuse);
    while (atomic_load(&session->running)) {
        for (unsigned i = 0; i < session->worker_count; i++)
            pthread_kill(session->workers[i], SIGUSR1);
        nanosleep(&(struct timespec){.tv_nsec = 10 * 1000 * 1000}, NULL);
    }
}

static void prepare_signals(sigset_t *waited)
{
    const struct sigaction waker = {.sa_handler = wake};
    sigaction(SIGUSR1, &waker, NULL);
    signal(SIGPIPE, SIG_IGN);
    sigemptyset(waited);
    sigaddset(waited, SIGTERM);
    sigaddset(waited, SIGINT);
    sigaddset(waited, SIGHUP);
    pthread_sigmask(SIG_BLOCK, waited, NULL);
}

static void wait_for_end(struct session *session, const sigset_t *waited)
{
    while (atomic_load(&session->running)) {
        int number;
        if (sigwait(waited, &number) == 0 && atomic_load(&session->running)) {
            log_info("ending on signal %d", number);
            end_workers(session);
        }
    }
    for (unsigned i = 0; i < session->worker_count; i++)
        pthread_join(session->workers[i], NULL);
    session->worker_count = 0;
}

/* The mount works if its root answers. */
static int check_mount(const struct session *session, struct error *err)
{
    struct stat root;
    if (stat(session->mountpoint, &root) != 0)
        return error_set(err, errno, "%s was mounted but does not answer: %s", session->mountpoint,
                         strerror(errno));
    if (root.st_ino != NODE_ROOT_ID)
        return error_set(err, EIO, "%s was mounted, but something else is on top of it", session->mountpoint);
    mountpoint_set_readahead(session->mountpoint);
    return 0;
}

static int serve(struct session *session, session_ready ready, void *opaque, struct error *err)
{
    sigset_t waited;
    prepare_signals(&waited);
    session->main_thread = pthread_self();
    int result = mount_session(session, err);
    if (result != 0)
        return result;
    result = start_services(session, err);
    if (result == 0)
        result = start_workers(session, err);
    if (result == 0)
        result = start_read_ahead(session, err);
    if (result == 0)
        result = check_mount(session, err);
    if (result == 0)
        ready(opaque);
    else
        end_workers(session);
    wait_for_end(session, &waited);
    return result;
}

/* Deep chains and many readers take many descriptors. */
static void raise_descriptor_limit(void)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur < limit.rlim_max) {
        limit.rlim_cur = limit.rlim_max;
        setrlimit(RLIMIT_NOFILE, &limit);
    }
}

int session_run(const struct options *options, session_ready ready, void *opaque, struct error *err)
{
    struct session session = {.options = options, .service = {.source_fd = -1}};
    raise_descriptor_limit();
    int result = mountpoint_prepare(options->mountpoint, &session.mountpoint, err);
    if (result == 0)
        result = open_source(&session, err);
    if (result == 0)
        result = make_service(&session, err);
    if (result == 0)
        result = serve(&session, ready, opaque, err);
    session_done(&session);
    return result;
}
