// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Running qemu-img, confined, until it ends: what qemu_img.c and qemu_img_copy.c share. Private to
 * core/hypervisor/. Any thread.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "base/error.h"

#define QEMU_IMG_LOOK_MS 100

/* What stands in the texts of qemu-img, and what a person knows it by. */
struct qemu_img_word {
    const char *from, *to;
};

struct qemu_img_run {
    const char *const *argv;
    const char *name; /* what it is about, for texts */
    const char *const *write_paths;
    const int *pass_fds;
    size_t pass_fd_count;
    size_t memory_bytes;
    const struct qemu_img_word *words; /* replaced in this order */
    size_t word_count;
    int timeout_ms; /* after which it is killed; -1: never */
    int stall_ms;   /* it is killed when it has used no cpu for so long, whatever it waits for; 0: never */

    /*
     * For a command with -p: called at least each 200 ms with how much is done, by which the command is told
     * from one that says nothing. Returns false to have it killed. NULL: nobody wants to know.
     */
    bool (*progress)(void *opaque, unsigned percent);
    void *opaque;
};

/*
 * Errors: what sandbox_start gives; what qmp_errno makes of its words; EIO where a signal ended it;
 * ETIMEDOUT; ECANCELED where `progress` said so.
 */
int qemu_img_run(const struct qemu_img_run *run, struct error *err);
