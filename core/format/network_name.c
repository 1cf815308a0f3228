// SPDX-License-Identifier: LGPL-2.1-or-later
/* Names of disks on the network; see network_name.h. */
#include "format/network_name.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/un.h>

#include "base/cleanup.h"

static const struct {
    const char *prefix;
    enum network_protocol protocol;
} protocols[] = {
    {"rbd", NETWORK_RBD},           {"nbd", NETWORK_NBD},     {"nbd+tcp", NETWORK_NBD},
    {"nbd+unix", NETWORK_NBD_UNIX}, {"iscsi", NETWORK_ISCSI}, {"ssh", NETWORK_SSH},
    {"http", NETWORK_HTTP},         {"https", NETWORK_HTTP},  {"ftp", NETWORK_HTTP},
    {"ftps", NETWORK_HTTP},         {"file", NETWORK_NONE},   {"json", NETWORK_NONE},
};

/* Options of rbd: that say where the cluster is and as whom it is asked. Any other key would be taken as one
 * of Ceph's many settings, of which some write files or load plugins. */
static const char *const rbd_options[] = {"id", "conf", "keyring", "mon_host", "auth_supported"};

static bool is_one_of(const char *text, size_t length, const char *const *list, size_t count)
{
    for (size_t i = 0; i < count; i++)
        if (strlen(list[i]) == length && strncmp(list[i], text, length) == 0)
            return true;
    return false;
}

enum network_protocol network_name_protocol(const char *name)
{
    size_t length = strcspn(name, ":/");
    if (length == 0 || name[length] != ':')
        return NETWORK_NONE;
    for (size_t i = 0; i < sizeof protocols / sizeof *protocols; i++)
        if (strlen(protocols[i].prefix) == length && strncmp(protocols[i].prefix, name, length) == 0)
            return protocols[i].protocol;
    return strncmp(name + length, "://", 3) == 0 ? NETWORK_OTHER : NETWORK_NONE;
}

static int malformed(struct error *err, const char *what)
{
    return error_set(err, EINVAL, "is no name of a disk on the network: %s", what);
}

static int holds_password(struct error *err)
{
    return error_set(
        err, EINVAL,
        "holds a password, which the tree and the list of processes would show to everybody; use "
        "a keyring (rbd), a key (ssh), or a server that asks for none");
}

static int set_copy(char **copy, const char *from, size_t length, struct error *err)
{
    *copy = strndup(from, length);
    return *copy ? 0 : error_set(err, ENOMEM, "out of memory");
}

/* The port, which goes on up to the end. */
static bool is_port(const char *port, size_t length)
{
    unsigned value = 0;
    for (size_t i = 0; i < length; i++) {
        if (port[i] < '0' || port[i] > '9' || length > 5)
            return false;
        value = value * 10 + (unsigned)(port[i] - '0');
    }
    return value > 0 && value <= 65535;
}

/* HOST, [ADDRESS], HOST:PORT; `port_needed` where the port can't be left out. */
static bool is_host(const char *host, size_t length, bool port_needed)
{
    const char *end = host + length, *colon = memchr(host, ':', length);
    if (length && *host == '[') {
        const char *bracket = memchr(host, ']', length);
        if (!bracket || bracket == host + 1)
            return false;
        colon = bracket + 1 < end ? bracket + 1 : NULL;
        if (colon && *colon != ':')
            return false;
    }
    if (!colon)
        return length > 0 && !port_needed;
    return colon > host && is_port(colon + 1, (size_t)(end - colon) - 1);
}

static bool is_socket_path(const char *path, size_t length)
{
    return length > 1 && *path == '/' && length < sizeof((struct sockaddr_un *)NULL)->sun_path;
}

/* What follows the last slash of [from, from + length), or all of it. */
static int set_label(struct network_name *made, const char *from, size_t length, struct error *err)
{
    while (length && from[length - 1] == '/')
        length--;
    size_t start = length;
    while (start && from[start - 1] != '/')
        start--;
    if (length == 0) /* nothing but slashes */
        return set_copy(&made->label, "disk", strlen("disk"), err);
    return set_copy(&made->label, from + start, length - start, err);
}

/* ---- rbd:POOL/[NAMESPACE/]IMAGE[@SNAPSHOT][:KEY=VALUE]..., with backslashes before what is no separator
 * ---- */

/* The length up to the first of `ends` that has no backslash before it. */
static size_t rbd_span(const char *text, const char *ends)
{
    size_t length = 0;
    while (text[length] && !strchr(ends, text[length]))
        length += text[length] == '\\' && text[length + 1] ? 2 : 1;
    return length;
}

static int rbd_file(struct network_name *made, const char *value, size_t length, struct error *err)
{
    size_t count = 0;
    while (made->files[count])
        count++;
    if (*value != '/' || memchr(value, '\\', length))
        return malformed(err, "conf and keyring must be absolute paths");
    if (count == NETWORK_NAME_FILES_MAX)
        return malformed(err, "conf or keyring stands in it twice");
    return set_copy(&made->files[count], value, length, err);
}

static int rbd_option(struct network_name *made, const char *option, size_t length, struct error *err)
{
    const char *equals = memchr(option, '=', length);
    size_t key = equals ? (size_t)(equals - option) : 0;
    if (key == 0 || key + 1 == length)
        return malformed(err, "after the image's name come KEY=VALUE pairs, with a colon before each");
    if (is_one_of(option, key, (const char *const[]){"key", "keyfile", "password-secret"}, 3))
        return holds_password(err);
    if (!is_one_of(option, key, rbd_options, sizeof rbd_options / sizeof *rbd_options))
        return error_set(err, EOPNOTSUPP,
                         "has the option \"%.*s\"; id, conf, keyring, mon_host and auth_supported are taken",
                         (int)(key < 40 ? key : 40), option);
    /* QEMU looks for the @ of a snapshot in all of the name. */
    if (memchr(option, '@', length))
        return malformed(err, "an option has an @ in it");
    bool is_file = strncmp(option, "conf=", 5) == 0 || strncmp(option, "keyring=", 8) == 0;
    return is_file ? rbd_file(made, equals + 1, length - key - 1, err) : 0;
}

static int parse_rbd(const char *name, struct network_name *made, struct error *err)
{
    const char *path = name + strlen("rbd:");
    size_t length = rbd_span(path, ":");
    size_t image_length = 0, parts = 0;
    const char *image = path;
    for (const char *at = path;; parts++) {
        size_t part = rbd_span(at, "/:");
        image = at;
        image_length = part;
        if (part == 0)
            return malformed(err, "rbd:POOL/IMAGE is meant, and a part of that is empty");
        if (at[part] != '/')
            break;
        at += part + 1;
    }
    if (parts < 1 || parts > 2)
        return malformed(err, "rbd:POOL/IMAGE or rbd:POOL/NAMESPACE/IMAGE is meant");
    const char *at_sign = memchr(path, '@', length);
    if (at_sign && (at_sign <= image || at_sign == path + length - 1 ||
                    memchr(at_sign + 1, '@', (size_t)(path + length - at_sign) - 1)))
        return malformed(err, "one @ may stand in it, between the image's name and its snapshot's");
    int rc = set_copy(&made->shown, name, (size_t)(path - name) + length, err);
    if (rc == 0)
        rc = set_copy(&made->label, image, at_sign ? (size_t)(at_sign - image) : image_length, err);
    for (const char *option = path + length; rc == 0 && *option;) {
        option++;
        size_t option_length = rbd_span(option, ":");
        rc = rbd_option(made, option, option_length, err);
        option += option_length;
    }
    return rc;
}

/* ---- nbd:HOST:PORT[:exportname=NAME], nbd:unix:PATH[:exportname=NAME] ---- */

static int parse_old_nbd(const char *name, struct network_name *made, struct error *err)
{
    static const char export_key[] = ":exportname=";
    const char *address = name + strlen("nbd:"), *export = strstr(address, export_key);
    size_t length = export ? (size_t)(export - address) : strlen(address);
    bool is_unix = strncmp(address, "unix:", 5) == 0;
    if (is_unix) {
        made->protocol = NETWORK_NBD_UNIX;
        address += 5;
        length -= length < 5 ? length : 5;
    }
    if (is_unix ? !is_socket_path(address, length) : !is_host(address, length, true))
        return malformed(
            err, "nbd:HOST:PORT, nbd:unix:/PATH or nbd://HOST/EXPORT is meant; :exportname= may follow");
    int rc = set_copy(&made->shown, name, strlen(name), err);
    if (rc == 0 && export && export[strlen(export_key)])
        rc = set_label(made, export + strlen(export_key), strlen(export + strlen(export_key)), err);
    else if (rc == 0)
        rc = set_label(made, address, length, err);
    return rc;
}

/* ---- PROTOCOL://[USER@]HOST[:PORT]/PATH[?OPTIONS] ---- */

struct uri { /* all parts inside the name */
    const char *user, *host, *path, *query;
    size_t user_length, host_length, path_length;
};

static struct uri split_uri(const char *name)
{
    struct uri uri = {0};
    const char *authority = strstr(name, "://") + 3;
    size_t length = strcspn(authority, "/?");
    uri.host = authority;
    for (size_t i = 0; i < length; i++)
        if (authority[i] == '@')
            uri.host = authority + i + 1;
    uri.user = uri.host > authority ? authority : NULL;
    uri.user_length = uri.user ? (size_t)(uri.host - authority) - 1 : 0;
    uri.host_length = length - (size_t)(uri.host - authority);
    uri.path = authority + length;
    uri.path_length = strcspn(uri.path, "?");
    uri.query = uri.path[uri.path_length] == '?' ? uri.path + uri.path_length + 1 : NULL;
    return uri;
}

static int check_uri(const struct network_name *made, const char *name, const struct uri *uri,
                     struct error *err)
{
    size_t slashes = 0;
    if (strchr(name, '#'))
        return malformed(err, "it has a # in it");
    for (size_t i = 0; i < uri->path_length; i++)
        slashes += uri->path[i] == '/';
    if (uri->user && (memchr(uri->user, ':', uri->user_length) ||
                      (made->protocol == NETWORK_ISCSI && memchr(uri->user, '%', uri->user_length))))
        return holds_password(err);
    if (made->protocol == NETWORK_NBD_UNIX) {
        const char *socket = uri->query && strncmp(uri->query, "socket=", 7) == 0 ? uri->query + 7 : "";
        if (uri->user || uri->host_length || strchr(socket, '&') || !is_socket_path(socket, strlen(socket)))
            return malformed(err, "nbd+unix:///EXPORT?socket=/PATH is meant");
        return 0;
    }
    if (!is_host(uri->host, uri->host_length, false))
        return malformed(err, "the host or the port is none");
    bool has_path = uri->path_length > 1;
    switch (made->protocol) {
    case NETWORK_NBD:
        if (uri->user || uri->query)
            return malformed(err, "nbd://HOST:PORT/EXPORT is meant, without a user and options");
        return 0;
    case NETWORK_ISCSI:
        if (slashes != 2 || uri->path[1] == '/' || uri->path[uri->path_length - 1] == '/' || uri->query)
            return malformed(err, "iscsi://HOST/TARGET/LUN is meant, without options");
        return 0;
    case NETWORK_SSH:
        if (!has_path || (uri->query && strncmp(uri->query, "host_key_check=", 15) != 0))
            return malformed(err, "ssh://USER@HOST/PATH is meant; ?host_key_check= may follow");
        return 0;
    default:
        if (!has_path || name[strlen(name) - 1] == ':')
            return malformed(err, "a path must follow the host, and QEMU's :OPTION=VALUE: can't follow it");
        return 0;
    }
}

static int parse_uri(const char *name, struct network_name *made, struct error *err)
{
    struct uri uri = split_uri(name);
    int rc = check_uri(made, name, &uri, err);
    if (rc < 0)
        return rc;
    bool hides_query = made->protocol == NETWORK_HTTP && uri.query; /* it may sign the request */
    rc = set_copy(&made->shown, name, hides_query ? (size_t)(uri.query - name) - 1 : strlen(name), err);
    if (rc < 0)
        return rc;
    /* LUNs are numbers: the target says more. */
    size_t length = uri.path_length;
    while (made->protocol == NETWORK_ISCSI && uri.path[length - 1] != '/')
        length--;
    if (length > 1)
        return set_label(made, uri.path, length, err);
    if (uri.host_length)
        return set_copy(&made->label, uri.host, uri.host_length, err);
    return set_label(made, uri.query, strlen(uri.query), err);
}

/* ---- */

int network_name_parse(const char *name, struct network_name *parsed, struct error *err)
{
    if (strlen(name) > NETWORK_NAME_BYTES_MAX)
        return error_set(err, ENAMETOOLONG, "is longer than %d bytes, which no name of a network disk is",
                         NETWORK_NAME_BYTES_MAX);
    for (const char *at = name; *at; at++)
        if ((unsigned char)*at < 0x20 || *at == 0x7f)
            return malformed(err, "it holds a control character");
    cleanup(network_name_done) struct network_name made = {.protocol = network_name_protocol(name)};
    size_t prefix = strcspn(name, ":/");
    int rc;
    if (made.protocol == NETWORK_NONE)
        rc = malformed(err, "it names no protocol");
    else if (made.protocol == NETWORK_OTHER)
        rc = error_set(err, EOPNOTSUPP,
                       "names the protocol \"%.*s\", which is not read here; rbd, nbd, iscsi, ssh, http, "
                       "https, ftp and ftps are",
                       (int)(prefix < 30 ? prefix : 30), name);
    else if (made.protocol == NETWORK_RBD)
        rc = parse_rbd(name, &made, err);
    else if (strncmp(name + prefix, "://", 3) == 0)
        rc = parse_uri(name, &made, err);
    else if (strncmp(name, "nbd:", 4) == 0)
        rc = parse_old_nbd(name, &made, err);
    else
        rc = malformed(err, "\"://\" must follow the protocol");
    if (rc < 0)
        return rc;
    *parsed = made;
    made = (struct network_name){0};
    return 0;
}

void network_name_done(struct network_name *parsed)
{
    free(parsed->shown);
    free(parsed->label);
    for (size_t i = 0; i < NETWORK_NAME_FILES_MAX; i++)
        free(parsed->files[i]);
    *parsed = (struct network_name){0};
}
