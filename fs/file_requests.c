// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Opening, reading, seeking and writing: frozen disks and small files.
 *
 * A disk that a helper program reads is opened and read in the slow lane; every other one in the thread that
 * took the request, unless something is being done in its domain, for whose end its opening may have to wait.
 * Each thread has one buffer, which a request's bytes are read into and sent from.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/log.h"
#include "base/stats.h"
#include "bulk_priority.h"
#include "control_requests.h"
#include "event_requests.h"
#include "passthrough.h"
#include "service.h"
#include "unique_bytes.h"

/* --- the buffer of a thread --- */

#define BUFFER_BYTES MIB /* the longest read that the kernel sends */

static pthread_key_t buffer_key;
static pthread_once_t buffer_once = PTHREAD_ONCE_INIT;

static void buffer_unmap(void *buffer)
{
    munmap(buffer, BUFFER_BYTES);
}

static void buffer_make_key(void)
{
    pthread_key_create(&buffer_key, buffer_unmap);
}

/* NULL where memory ran out. */
static void *thread_buffer(void)
{
    pthread_once(&buffer_once, buffer_make_key);
    void *buffer = pthread_getspecific(buffer_key);
    if (buffer)
        return buffer;
    buffer = mmap(NULL, BUFFER_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (buffer == MAP_FAILED)
        return NULL;
    pthread_setspecific(buffer_key, buffer);
    return buffer;
}

/* --- work that may be done in the slow lane --- */

struct disk_request {
    fuse_req_t request;
    struct service *service;
    struct open_disk *disk;  /* a use of it, given back at the end; for an open it is not there yet */
    struct catalog *catalog; /* opens only: holds `place` */
    struct place place;
    struct fuse_file_info file;
    uint64_t offset;
    size_t size;
    int whence;
    bool slow;            /* in the slow lane: the reader may be interrupted meanwhile */
    atomic_bool answered; /* whoever sets it answers the request */
};

/* The reader was killed or interrupted: it is answered at once, and the work, which nobody can stop, ends
 * unseen. */
static void interrupted(fuse_req_t request, void *opaque)
{
    struct disk_request *work = opaque;
    if (!atomic_exchange(&work->answered, true))
        fuse_reply_err(request, EINTR);
}

/* True if the request is still to be answered, which the caller must do; else it is gone and must not be
 * touched. */
static bool claim(struct disk_request *work)
{
    if (!work->slow)
        return true;
    if (atomic_exchange(&work->answered, true))
        return false;
    fuse_req_interrupt_func(work->request, NULL, NULL); /* returns when `interrupted` no longer runs */
    return true;
}

static void work_done(struct disk_request *work)
{
    if (work->disk)
        open_disks_put(work->service->disks, work->disk);
    if (work->catalog)
        catalog_put(work->catalog);
    if (work->slow)
        free(work);
}

/* Runs work(disk_request) here, or in the slow lane. What the request holds is given back by work_done. */
static void run(void (*work)(void *), struct disk_request *disk_request, bool slow)
{
    if (!slow) {
        work(disk_request);
        return;
    }
    struct disk_request *copy = malloc(sizeof *copy);
    if (!copy) {
        fuse_reply_err(disk_request->request, ENOMEM);
        work_done(disk_request);
        return;
    }
    memcpy(copy, disk_request, sizeof *copy);
    copy->slow = true;
    fuse_req_interrupt_func(copy->request, interrupted, copy);
    int result = slow_lane_submit(copy->service->slow, work, copy);
    if (result != 0) {
        if (claim(copy))
            fuse_reply_err(copy->request, -result);
        work_done(copy);
    }
}

/* --- open and release --- */

/* Tells the kernel that the disk is open; the use of it is the kernel's until its release. The mode is chosen
 * at the first open and kept until the last release: the kernel refuses to mix backing ids, and cached with
 * passthrough, on one inode. */
static void reply_opened(const struct disk_request *work, struct open_disk *disk)
{
    pthread_mutex_lock(&disk->lock);
    if (!disk->decided) {
        int fd = frozen_disk_passthrough_fd(disk->disk);
        disk->backing_id = fd >= 0 ? passthrough_register(work->request, fd) : 0;
        disk->decided = true;
        if (disk->backing_id)
            drop_behind_add(work->service->drop_behind, disk->id, fd, frozen_disk_size(disk->disk));
    }
    disk->opens++;
    int backing_id = disk->backing_id;
    pthread_mutex_unlock(&disk->lock);

    struct fuse_file_info file = work->file;
    file.fh = 0;
    int result;
    if (backing_id) {
        stats_add(STAT_PASSTHROUGH_OPENS, 1);
        result = passthrough_reply_open(work->request, &file, backing_id);
    } else {
        /* What another mount changes is known here a moment later: what the kernel has may be from before. */
        file.keep_cache = !work->service->env.locks;
        result = fuse_reply_open(work->request, &file);
    }
    if (result == -ENOENT) { /* the opener was interrupted: no release will come */
        pthread_mutex_lock(&disk->lock);
        disk->opens--;
        pthread_mutex_unlock(&disk->lock);
        open_disks_put(work->service->disks, disk);
    }
}

static void open_disk(void *opaque)
{
    struct disk_request *work = opaque;
    const struct place *place = &work->place;
    struct open_disk *disk = NULL;
    struct error err = {0};
    int result = open_disks_acquire(work->service->disks, place, &disk, &err);
    if (result != 0)
        log_warning("%s/%s/%s: %s", place->domain->name, place->snapshot->name,
                    place->disk ? place->disk->target : "memory", err.text);
    if (result == -ESTALE || result == -ENOENT)
        catalog_service_hint(work->service->catalog);

    if (!claim(work)) {
        if (result == 0)
            open_disks_put(work->service->disks, disk);
    } else if (result == 0) {
        reply_opened(work, disk);
    } else {
        refusals_note(work->request, place, "open", -result, err.text);
        fuse_reply_err(work->request, -result);
    }
    work_done(work);
}

/* Gives the opener a handle on the text, which is taken over. Reading goes past the kernel's cache: it would
 * fill what is shorter than the length that it remembers with zeros, and cut off what is longer. */
static void reply_text(fuse_req_t request, struct fuse_file_info *file, struct text *text)
{
    struct service *service = service_of(request);
    uint64_t handle = text_handles_add(service->texts, text);
    if (!handle) {
        fuse_reply_err(request, ENOMEM);
        return;
    }
    file->fh = service_handle(HANDLE_TEXT, handle);
    file->direct_io = 1;
    if (fuse_reply_open(request, file) == -ENOENT)
        text_handles_remove(service->texts, handle);
}

static void open_text(fuse_req_t request, const struct place *place, struct fuse_file_info *file)
{
    struct text text = {0};
    content_render(&service_of(request)->content, place, &text);
    reply_text(request, file, &text);
}

/* Nobody waits for it any more. */
static bool is_unwanted(void *opaque)
{
    struct disk_request *work = opaque;
    return atomic_load(&work->answered) || atomic_load(&work->service->ending);
}

/* The one small file that takes reading images: always in the slow lane. */
static void open_unique_bytes(void *opaque)
{
    struct disk_request *work = opaque;
    struct text text = {0};
    struct error err = {0};
    const struct unique_stop stop = {.wanted = is_unwanted, .opaque = work};
    int result =
        unique_bytes_render(work->service->env.locate, work->catalog, &work->place, &stop, &text, &err);
    if (!claim(work)) {
        text_done(&text);
    } else if (result == 0) {
        reply_text(work->request, &work->file, &text);
    } else {
        text_done(&text);
        refusals_note(work->request, &work->place, "open unique_bytes", -result, err.text);
        fuse_reply_err(work->request, -result);
    }
    work_done(work);
}

/* Is something being done in the domain, or about to be? Where nothing is, opening has to wait for nothing:
 * what begins later sees that the disk is open. (What begins in between is waited for here; it gives way.) */
static bool something_is_done(struct administration *administration, uint64_t domain)
{
    struct job jobs[4];
    size_t room = sizeof jobs / sizeof *jobs;
    size_t count = administration_jobs(administration, domain, jobs, room);
    bool found = count > room;
    for (size_t i = 0; i < count && !found; i++)
        found = jobs[i].status != JOB_DONE && jobs[i].status != JOB_FAILED;
    return found;
}

static void do_open(fuse_req_t request, fuse_ino_t id, struct fuse_file_info *file)
{
    struct service *service = service_of(request);
    struct catalog *catalog = catalog_service_get(service->catalog);
    struct place place;
    int result = job_tree_resolve(service->administration, catalog, id, &place);
    bool writes = (file->flags & O_ACCMODE) != O_RDONLY;
    if (result == 0 && writes && place.type != ENTRY_CONTROL) {
        result = -EROFS;
        refusals_note(request, &place, "open for writing", EROFS,
                      "frozen disks and what describes them are read-only");
    }
    bool counts =
        result == 0 && place.node.kind == NODE_SNAPSHOT && place.node.position == SNAPSHOT_UNIQUE_BYTES;
    if (counts || (result == 0 && place.type == ENTRY_FROZEN)) {
        struct disk_request work = {
            .request = request, .service = service, .catalog = catalog, .place = place, .file = *file};
        if (counts)
            run(open_unique_bytes, &work, true);
        else
            run(open_disk, &work,
                frozen_needs_helper(place.frozen) || service->env.locks ||
                    something_is_done(service->administration, place.domain->serial));
        return; /* the work holds the catalog now */
    }
    if (result != 0)
        fuse_reply_err(request, -result);
    else if (place.type == ENTRY_CONTROL)
        control_requests_open(request, &place, file);
    else if (place.node.kind == NODE_DOMAIN && place.node.position == DOMAIN_EVENTS)
        event_requests_open(request, &place, file);
    else
        open_text(request, &place, file);
    catalog_put(catalog);
}

static void do_release(fuse_req_t request, fuse_ino_t id, struct fuse_file_info *file)
{
    struct service *service = service_of(request);
    uint64_t handle = service_handle_number(file->fh);
    switch (service_handle_kind(file->fh)) {
    case HANDLE_TEXT:
        text_handles_remove(service->texts, handle);
        fuse_reply_err(request, 0);
        return;
    case HANDLE_CONTROL:
        control_requests_release(request, id, handle);
        return;
    case HANDLE_EVENTS:
        event_requests_release(request, handle);
        return;
    case HANDLE_NONE:
        break;
    }
    struct open_disk *disk = open_disks_find(service->disks, id);
    if (disk) {
        int unused_id = 0;
        pthread_mutex_lock(&disk->lock);
        if (--disk->opens == 0) {
            unused_id = disk->backing_id;
            disk->backing_id = 0;
            disk->decided = false;
            disk->stream = (struct stream){0};
            disk->seeks = false;
            disk->ahead_begin = disk->ahead_end = 0;
        }
        pthread_mutex_unlock(&disk->lock);
        if (unused_id) {
            drop_behind_remove(service->drop_behind, id);
            passthrough_unregister(request, unused_id);
        }
        open_disks_put(service->disks, disk); /* the one that was just found */
        open_disks_put(service->disks, disk); /* the opener's */
    }
    fuse_reply_err(request, 0);
}

/* --- read --- */

static void read_disk(void *opaque)
{
    struct disk_request *work = opaque;
    struct service *service = work->service;
    struct open_disk *disk = work->disk;
    uint64_t drop_offset = 0, drop_length = 0;
    pthread_mutex_lock(&disk->lock);
    bool jumped = disk->seeks && work->offset != disk->stream.next;
    bool once = stream_note(&disk->stream, work->offset, work->size, disk->seeks, &drop_offset, &drop_length);
    pthread_mutex_unlock(&disk->lock);

    if (once && !work->slow) /* a helper that is started would keep it */
        bulk_priority_begin();
    void *buffer = thread_buffer();
    ssize_t count = -ENOMEM;
    if (buffer)
        count = frozen_disk_read(disk->disk, work->offset, buffer, min_u64(work->size, BUFFER_BYTES),
                                 once ? READ_ONCE : READ_KEEP);
    stats_add(STAT_READS, 1);
    stats_add(count >= 0 ? STAT_READ_BYTES : STAT_READ_ERRORS, count >= 0 ? count : 1);
    if (count == -ESTALE)
        catalog_service_hint(service->catalog);
    if (claim(work)) {
        if (count >= 0)
            fuse_reply_buf(work->request, buffer, (size_t)count);
        else
            fuse_reply_err(work->request, (int)-count);
    }
    if (jumped && count > 0 && !work->slow && !(work->file.flags & O_DIRECT))
        read_ahead_note(service->ahead, disk->id, work->offset);
    if (drop_length)
        invalidator_range(service->invalidator, disk->id, drop_offset, drop_length);
    bulk_priority_end();
    work_done(work);
}

static void read_text(fuse_req_t request, size_t size, off_t offset, uint64_t handle)
{
    cleanup_free char *buffer = malloc(size ? size : 1);
    int64_t count =
        buffer ? text_handles_read(service_of(request)->texts, handle, (uint64_t)offset, buffer, size)
               : -ENOMEM;
    if (count < 0)
        fuse_reply_err(request, (int)-count);
    else
        fuse_reply_buf(request, buffer, (size_t)count);
}

static void do_read(fuse_req_t request, fuse_ino_t id, size_t size, off_t offset, struct fuse_file_info *file)
{
    uint64_t handle = service_handle_number(file->fh);
    switch (service_handle_kind(file->fh)) {
    case HANDLE_TEXT:
        read_text(request, size, offset, handle);
        return;
    case HANDLE_CONTROL:
        control_requests_read(request, size, (uint64_t)offset, handle);
        return;
    case HANDLE_EVENTS:
        event_requests_read(request, size, (uint64_t)offset, handle);
        return;
    case HANDLE_NONE:
        break;
    }
    struct service *service = service_of(request);
    struct disk_request work = {
        .request = request, .service = service, .file = *file, .offset = (uint64_t)offset, .size = size};
    work.disk = open_disks_find(service->disks, id);
    if (work.disk)
        run(read_disk, &work, frozen_disk_is_slow(work.disk->disk));
    else
        fuse_reply_err(request, EBADF);
}

/* --- seek --- */

static void seek_disk(void *opaque)
{
    struct disk_request *work = opaque;
    pthread_mutex_lock(&work->disk->lock);
    work->disk->seeks = true;
    pthread_mutex_unlock(&work->disk->lock);
    int64_t found = frozen_disk_seek(work->disk->disk, work->offset, work->whence);
    if (claim(work)) {
        if (found < 0)
            fuse_reply_err(work->request, (int)-found);
        else
            fuse_reply_lseek(work->request, found);
    }
    work_done(work);
}

static void do_lseek(fuse_req_t request, fuse_ino_t id, off_t offset, int whence, struct fuse_file_info *file)
{
    if (file->fh) {
        /* A text is data up to its end, where the kernel's own answer is right. ENOSYS would stop it from
         * asking for frozen disks, too. */
        cleanup_catalog struct catalog *catalog = catalog_service_get(service_of(request)->catalog);
        struct place place;
        struct stat attributes = {0};
        if (job_tree_resolve(service_of(request)->administration, catalog, id, &place) == 0)
            attributes_of(&service_of(request)->attributes, &service_of(request)->content, &place,
                          &attributes);
        if (offset >= attributes.st_size)
            fuse_reply_err(request, ENXIO);
        else
            fuse_reply_lseek(request, whence == SEEK_DATA ? offset : attributes.st_size);
        return;
    }
    struct service *service = service_of(request);
    struct disk_request work = {
        .request = request, .service = service, .offset = (uint64_t)offset, .whence = whence};
    work.disk = open_disks_find(service->disks, id);
    if (work.disk)
        run(seek_disk, &work, frozen_disk_is_slow(work.disk->disk));
    else
        fuse_reply_err(request, EBADF);
}

/* --- write: only control files can be opened for it --- */

static void do_write(fuse_req_t request, fuse_ino_t id, const char *bytes, size_t size, off_t offset,
                     struct fuse_file_info *file)
{
    struct service *service = service_of(request);
    cleanup_catalog struct catalog *catalog = catalog_service_get(service->catalog);
    struct place place;
    int result = job_tree_resolve(service->administration, catalog, id, &place);
    if (result != 0)
        fuse_reply_err(request, ENOENT);
    else
        control_requests_write(request, &place, bytes, size, (uint64_t)offset,
                               service_handle_number(file->fh));
}

static void do_flush(fuse_req_t request, fuse_ino_t id, struct fuse_file_info *file)
{
    if (service_handle_kind(file->fh) == HANDLE_CONTROL)
        control_requests_flush(request, id, service_handle_number(file->fh));
    else
        fuse_reply_err(request, 0);
}

static void do_fsync(fuse_req_t request, fuse_ino_t id, int data_only, struct fuse_file_info *file)
{
    fuse_reply_err(request, 0);
}

void file_requests_add(struct fuse_lowlevel_ops *ops)
{
    ops->open = do_open;
    ops->release = do_release;
    ops->read = do_read;
    ops->write = do_write;
    ops->lseek = do_lseek;
    ops->flush = do_flush;
    ops->fsync = do_fsync;
}
