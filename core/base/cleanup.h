// SPDX-License-Identifier: LGPL-2.1-or-later
/* Cleanup attributes, and how to give away what they would free. */
#pragma once

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define cleanup(function) __attribute__((cleanup(function)))

static inline void cleanup_free_(void *pointer)
{
    free(*(void **)pointer);
}

static inline void cleanup_close_(int *fd)
{
    if (*fd >= 0)
        close(*fd);
}

static inline void cleanup_closedir_(DIR **dir)
{
    if (*dir)
        closedir(*dir);
}

static inline void cleanup_fclose_(FILE **file)
{
    if (*file)
        fclose(*file);
}

#define cleanup_free     cleanup(cleanup_free_)
#define cleanup_close    cleanup(cleanup_close_) /* the fd must start as -1 */
#define cleanup_closedir cleanup(cleanup_closedir_)
#define cleanup_fclose   cleanup(cleanup_fclose_)

/* Takes the value out of a variable with a cleanup attribute, so that it outlives the scope. */
#define steal_pointer(variable)                                                                              \
    __extension__({                                                                                          \
        __typeof__(variable) *steal_from_ = &(variable);                                                     \
        __typeof__(variable) stolen_ = *steal_from_;                                                         \
        *steal_from_ = NULL;                                                                                 \
        stolen_;                                                                                             \
    })

static inline int steal_fd(int *fd)
{
    int stolen = *fd;
    *fd = -1;
    return stolen;
}
