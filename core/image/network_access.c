// SPDX-License-Identifier: LGPL-2.1-or-later
/* What a helper needs to reach a disk on the network; see network_access.h. */
#include "image/network_access.h"

#include <errno.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "format/network_name.h"

/* Certificates; Debian keeps the first, Fedora the second. */
static const char *const http_paths[] = {"/etc/ssl", "/etc/pki", "/usr/share/ca-certificates",
                                         "/etc/ca-certificates", NULL};
static const char *const rbd_paths[] = {"/etc/ceph", NULL};
/* libssh and glib ask who we are. */
static const char *const ssh_paths[] = {"/etc/passwd", "/etc/ssh/ssh_known_hosts", NULL};
/* In the user's home: whom we trust, and as whom we come. ~/.ssh/config is not read: it can name programs. */
static const char *const ssh_home_paths[] = {
    ".ssh/known_hosts",  ".ssh/id_ed25519", ".ssh/id_ed25519.pub", ".ssh/id_ecdsa",
    ".ssh/id_ecdsa.pub", ".ssh/id_rsa",     ".ssh/id_rsa.pub",     NULL};

static int add_path(struct network_access *access, const char *directory, const char *path)
{
    size_t count = 0;
    while (access->read_if_there[count])
        count++;
    if (count == NETWORK_ACCESS_PATHS_MAX)
        return -E2BIG;
    char *made;
    if (asprintf(&made, "%s%s%s", directory, *directory ? "/" : "", path) < 0)
        return -ENOMEM;
    access->read_if_there[count] = made;
    return 0;
}

static int add_paths(struct network_access *access, const char *directory, const char *const *paths)
{
    int rc = 0;
    for (; rc == 0 && *paths; paths++)
        rc = add_path(access, directory, *paths);
    return rc;
}

static int add_home(struct network_access *access)
{
    struct passwd entry, *found = NULL;
    char buffer[4096];
    if (getpwuid_r(geteuid(), &entry, buffer, sizeof buffer, &found) != 0 || !found || *found->pw_dir != '/')
        return 0;
    access->home = strdup(found->pw_dir);
    return access->home ? add_paths(access, access->home, ssh_home_paths) : -ENOMEM;
}

int network_access_of(const char *name, struct network_access *access, struct error *err)
{
    cleanup(network_name_done) struct network_name parsed = {0};
    struct error why = {0};
    int rc = network_name_parse(name, &parsed, &why);
    if (rc < 0)
        return error_set(err, why.code, "%.150s %s", name, why.text);
    struct network_access made = {.sockets = SANDBOX_INTERNET};
    switch (parsed.protocol) {
    case NETWORK_NBD_UNIX:
        made.sockets = SANDBOX_UNIX_SOCKETS;
        break;
    case NETWORK_RBD:
        rc = add_paths(&made, "", rbd_paths);
        for (char *const *file = parsed.files; rc == 0 && *file; file++)
            rc = add_path(&made, "", *file);
        break;
    case NETWORK_SSH:
        rc = add_paths(&made, "", ssh_paths);
        if (rc == 0)
            rc = add_home(&made);
        break;
    case NETWORK_HTTP:
        rc = add_paths(&made, "", http_paths);
        break;
    default:
        break;
    }
    if (rc < 0) {
        network_access_done(&made);
        return error_set(err, -rc, "%s", strerror(-rc));
    }
    *access = made;
    return 0;
}

void network_access_done(struct network_access *access)
{
    for (size_t i = 0; i < NETWORK_ACCESS_PATHS_MAX; i++)
        free(access->read_if_there[i]);
    free(access->home);
    *access = (struct network_access){0};
}
