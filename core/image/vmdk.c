// SPDX-License-Identifier: LGPL-2.1-or-later
/* See vmdk.h. The sparse header: "Virtual Disk Format 5.0", Hosted Sparse Extent; ESX Server Sparse Extent.
 */
#include "image/vmdk.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "base/cleanup.h"

#define SECTOR_BYTES            512
#define EMBEDDED_SECTORS_MAX    2048 /* 1 MiB; the usual length is 20 */
#define SPARSE_HEADER_BYTES     79
#define SPARSE_CAPACITY         12 /* little-endian, as all fields */
#define SPARSE_DESCRIPTOR_AT    28 /* sector; 0: there is none */
#define SPARSE_DESCRIPTOR_COUNT 36 /* sectors */
#define LINE_BYTES_MAX          2048

static const char hosted_magic[4] = {'K', 'D', 'M', 'V'};
static const char esx_magic[4] = {'C', 'O', 'W', 'D'};

/* The kinds whose extents are files; the others (vmfsRaw, fullDevice, ...) are devices of another host. */
static const char *const known_types[] = {
    "monolithicFlat", "monolithicSparse",   "streamOptimized",      "vmfs", "vmfsThin", "vmfsSparse",
    "seSparse",       "twoGbMaxExtentFlat", "twoGbMaxExtentSparse",
};

static const char *const extent_types[] = {"FLAT", "VMFS", "SPARSE", "VMFSSPARSE", "SESPARSE"};

void vmdk_done(struct vmdk *vmdk)
{
    for (size_t i = 0; i < vmdk->extent_count; i++)
        free(vmdk->extents[i].name);
    free(vmdk->extents);
    free(vmdk->parent_name);
    *vmdk = (struct vmdk){0};
}

static const char *find_word(const char *const *words, size_t count, const char *word)
{
    for (size_t i = 0; i < count; i++)
        if (strcmp(words[i], word) == 0)
            return words[i];
    return NULL;
}

/* Cuts the next word, ended by blanks, out of `*rest`; NULL at the end. */
static char *next_word(char **rest)
{
    char *word = *rest + strspn(*rest, " \t");
    size_t length = strcspn(word, " \t");
    if (length == 0)
        return NULL;
    *rest = word + length;
    if (**rest)
        *(*rest)++ = '\0';
    return word;
}

static bool parse_number(const char *word, int base, uint64_t max, uint64_t *number)
{
    if (!word || !*word || strspn(word, base == 16 ? "0123456789abcdefABCDEF" : "0123456789") != strlen(word))
        return false;
    errno = 0;
    unsigned long long value = strtoull(word, NULL, base);
    if (errno || value > max)
        return false;
    *number = value;
    return true;
}

/* Takes `"text"` apart in place; what follows is left in `*rest`. */
static char *next_quoted(char **rest)
{
    char *begin = *rest + strspn(*rest, " \t");
    char *end = *begin == '"' ? strchr(begin + 1, '"') : NULL;
    if (!end)
        return NULL;
    *end = '\0';
    *rest = end + 1;
    return begin + 1;
}

/* ACCESS SECTORS TYPE "NAME" [OFFSET] */
static int parse_extent(char *line, struct vmdk *vmdk, struct error *err)
{
    char *rest = line;
    const char *access = next_word(&rest);
    struct vmdk_extent extent = {0};
    /* Sectors: a disk's bytes must fit into an int64_t. */
    if (!parse_number(next_word(&rest), 10, INT64_MAX / SECTOR_BYTES, &extent.sectors) || extent.sectors == 0)
        return error_set(err, EINVAL, "an extent's length is malformed");
    char *type = next_word(&rest);
    if (strcmp(access, "NOACCESS") == 0)
        return error_set(err, EOPNOTSUPP, "an extent has no access");
    extent.type = type ? find_word(extent_types, sizeof extent_types / sizeof *extent_types, type) : NULL;
    if (!extent.type)
        return error_set(err, EOPNOTSUPP, "an extent is of the kind %.32s, which can't be read",
                         type ? type : "(none)");
    const char *name = next_quoted(&rest);
    if (!name || !*name || strlen(name) > VMDK_NAME_BYTES_MAX)
        return error_set(err, EINVAL, "the name of an extent's file is malformed");
    const char *offset = next_word(&rest);
    if (strcmp(type, "FLAT") == 0 ? !parse_number(offset, 10, INT64_MAX / SECTOR_BYTES, &extent.flat_offset)
                                  : offset != NULL && !(strcmp(type, "VMFS") == 0 && !strcmp(offset, "0")))
        return error_set(err, EINVAL, "an extent's offset is malformed");

    if (vmdk->extent_count == VMDK_EXTENTS_MAX)
        return error_set(err, E2BIG, "there are more than %d extents", VMDK_EXTENTS_MAX);
    struct vmdk_extent *extents = realloc(vmdk->extents, (vmdk->extent_count + 1) * sizeof *vmdk->extents);
    if (!extents)
        return error_set(err, ENOMEM, "out of memory");
    vmdk->extents = extents;
    extent.name = strdup(name);
    if (!extent.name)
        return error_set(err, ENOMEM, "out of memory");
    vmdk->extents[vmdk->extent_count++] = extent;
    return 0;
}

static int parse_setting(const char *key, char *value, struct vmdk *vmdk, bool *typed, struct error *err)
{
    char *rest = value;
    char *text = *value == '"' ? next_quoted(&rest) : value;
    if (!text)
        return error_set(err, EINVAL, "the value of %.32s has no end", key);
    uint64_t number;
    if (strcasecmp(key, "CID") == 0 || strcasecmp(key, "parentCID") == 0) {
        if (!parse_number(text, 16, UINT32_MAX, &number))
            return error_set(err, EINVAL, "%.32s is malformed", key);
        *(strcasecmp(key, "CID") == 0 ? &vmdk->cid : &vmdk->parent_cid) = (uint32_t)number;
    } else if (strcasecmp(key, "createType") == 0) {
        if (!find_word(known_types, sizeof known_types / sizeof *known_types, text))
            return error_set(err, EOPNOTSUPP, "it is of the kind %.64s, which can't be read", text);
        *typed = true;
    } else if (strcasecmp(key, "parentFileNameHint") == 0 && *text) {
        if (vmdk->parent_name)
            return error_set(err, EINVAL, "it names two parents");
        vmdk->parent_name = strdup(text);
        if (!vmdk->parent_name)
            return error_set(err, ENOMEM, "out of memory");
    } else if (strcasestr(key, "crypt") || strcasecmp(key, "keySafe") == 0 ||
               (strcasecmp(key, "ddb.iofilters") == 0 && strcasestr(text, "crypt"))) {
        return error_set(err, EOPNOTSUPP, "it is encrypted, and there is no key to read it with");
    }
    return 0;
}

static bool is_extent(const char *line)
{
    static const char *const accesses[] = {"RW", "RDONLY", "NOACCESS"};
    for (size_t i = 0; i < sizeof accesses / sizeof *accesses; i++) {
        size_t length = strlen(accesses[i]);
        if (strncmp(line, accesses[i], length) == 0 && (line[length] == ' ' || line[length] == '\t'))
            return true;
    }
    return false;
}

static int parse_line(char *line, struct vmdk *vmdk, bool *typed, struct error *err)
{
    line += strspn(line, " \t");
    size_t length = strlen(line);
    while (length > 0 && strchr(" \t\r", line[length - 1]))
        line[--length] = '\0';
    if (*line == '#' || !*line)
        return 0;
    if (is_extent(line))
        return parse_extent(line, vmdk, err);
    char *equals = strchr(line, '=');
    if (!equals)
        return error_set(err, EINVAL, "a line of its descriptor is malformed");
    char *key_end = equals;
    while (key_end > line && strchr(" \t", key_end[-1]))
        key_end--;
    *key_end = '\0';
    return parse_setting(line, equals + 1 + strspn(equals + 1, " \t"), vmdk, typed, err);
}

/* `text` is terminated, and is overwritten. What follows a zero byte is padding. */
static int parse_descriptor(char *text, struct vmdk *vmdk, struct error *err)
{
    bool typed = false;
    vmdk->parent_cid = VMDK_NO_PARENT;
    for (char *line = text; line;) {
        char *end = strchr(line, '\n');
        if (end)
            *end++ = '\0';
        if (strlen(line) > LINE_BYTES_MAX)
            return error_set(err, E2BIG, "a line of its descriptor is longer than %d bytes", LINE_BYTES_MAX);
        int rc = parse_line(line, vmdk, &typed, err);
        if (rc < 0)
            return rc;
        line = end;
    }
    if (!typed)
        return error_set(err, EINVAL, "its descriptor does not say what kind it is");
    if (vmdk->parent_cid != VMDK_NO_PARENT && !vmdk->parent_name)
        return error_set(err, EINVAL, "it has a parent that it does not name");
    if (vmdk->parent_cid == VMDK_NO_PARENT && vmdk->parent_name)
        return error_set(err, EINVAL, "it names a parent and says that it has none");
    return 0;
}

static int read_descriptor(const struct byte_source *source, uint64_t offset, uint64_t length,
                           struct vmdk *vmdk, struct error *err)
{
    cleanup_free char *text = malloc(length + 1);
    if (!text)
        return error_set(err, ENOMEM, "out of memory");
    int rc = byte_source_read(source, offset, text, length);
    if (rc < 0)
        return error_set(err, rc == -ENODATA ? EINVAL : EIO, "its descriptor can't be read: %s",
                         rc == -ENODATA ? "the file is cut off" : strerror(-rc));
    text[length] = '\0';
    return parse_descriptor(text, vmdk, err);
}

static int read_hosted(const struct byte_source *source, struct vmdk *vmdk, struct error *err)
{
    uint8_t header[SPARSE_HEADER_BYTES];
    int rc = vmdk_check_sparse(source, err);
    if (rc == 0 && byte_source_read(source, 0, header, sizeof header) < 0)
        rc = error_set(err, EIO, "its header can't be read");
    if (rc < 0)
        return rc;
    uint64_t at = load_le64(header + SPARSE_DESCRIPTOR_AT);
    uint64_t count = load_le64(header + SPARSE_DESCRIPTOR_COUNT);
    vmdk->single = true;
    vmdk->parent_cid = VMDK_NO_PARENT;
    if (at == 0)
        return error_set(err, EOPNOTSUPP,
                         "it is one extent of a disk; the descriptor beside it is to be read");
    if (at > INT64_MAX / SECTOR_BYTES || count == 0 || count > EMBEDDED_SECTORS_MAX)
        return error_set(err, EINVAL, "the place of its descriptor is damaged");
    rc = read_descriptor(source, at * SECTOR_BYTES, count * SECTOR_BYTES, vmdk, err);
    for (size_t i = 0; i < vmdk->extent_count; i++) /* they name this very file */
        free(vmdk->extents[i].name);
    free(vmdk->extents);
    vmdk->extents = NULL;
    vmdk->extent_count = 0;
    return rc;
}

static int read_text(const struct byte_source *source, uint64_t size, struct vmdk *vmdk, struct error *err)
{
    char begin[64] = "";
    size_t length = (size_t)min_u64(size, sizeof begin - 1);
    if (byte_source_read(source, 0, begin, length) < 0)
        return error_set(err, EIO, "it can't be read");
    if (!strstr(begin, "# Disk Descriptor"))
        return error_set(err, EINVAL, "it is no vmdk file");
    if (size > VMDK_DESCRIPTOR_BYTES_MAX)
        return error_set(err, E2BIG, "its descriptor is longer than %d bytes", VMDK_DESCRIPTOR_BYTES_MAX);
    int rc = read_descriptor(source, 0, size, vmdk, err);
    if (rc == 0 && vmdk->extent_count == 0)
        return error_set(err, EINVAL, "it has no extents");
    return rc;
}

int vmdk_read(const struct byte_source *source, struct vmdk *vmdk, struct error *err)
{
    cleanup(vmdk_done) struct vmdk read = {0};
    uint64_t size;
    char magic[4];
    int rc = byte_source_size(source, &size);
    if (rc < 0)
        return error_set(err, -rc, "its length can't be found out: %s", strerror(-rc));
    if (size < sizeof magic || byte_source_read(source, 0, magic, sizeof magic) < 0)
        return error_set(err, EINVAL, "it is no vmdk file");
    if (memcmp(magic, hosted_magic, sizeof magic) == 0) {
        rc = read_hosted(source, &read, err);
    } else if (memcmp(magic, esx_magic, sizeof magic) == 0) {
        return error_set(err, EOPNOTSUPP,
                         "it is one extent of a disk; the descriptor beside it is to be read");
    } else {
        rc = read_text(source, size, &read, err);
    }
    if (rc < 0)
        return rc;
    *vmdk = read;
    read = (struct vmdk){0};
    return 0;
}

int vmdk_check_sparse(const struct byte_source *source, struct error *err)
{
    uint8_t header[SPARSE_HEADER_BYTES];
    int rc = byte_source_read(source, 0, header, sizeof header);
    if (rc < 0 && rc != -ENODATA)
        return error_set(err, EIO, "its header can't be read: %s", strerror(-rc));
    if (rc == 0 && memcmp(header, esx_magic, sizeof esx_magic) == 0)
        return 0;
    if (rc < 0 || memcmp(header, hosted_magic, sizeof hosted_magic) != 0)
        return error_set(err, EINVAL, "it is no sparse vmdk extent");
    if (load_le64(header + SPARSE_CAPACITY) == 0)
        return error_set(err, EPERM,
                         "it has no data of its own, but names other files inside a sparse extent");
    return 0;
}

void vmdk_rewrite(const struct vmdk *vmdk, unsigned first_fd, struct text *text)
{
    text_printf(text,
                "# Disk DescriptorFile\nversion=1\nCID=%08" PRIx32 "\nparentCID=%08" PRIx32
                "\ncreateType=\"twoGbMaxExtentSparse\"\n\n# Extent description\n",
                vmdk->cid, vmdk->parent_cid);
    for (size_t i = 0; i < vmdk->extent_count; i++) {
        const struct vmdk_extent *extent = &vmdk->extents[i];
        text_printf(text, "RW %" PRIu64 " %s \"/proc/self/fd/%zu\"", extent->sectors, extent->type,
                    first_fd + i);
        if (strcmp(extent->type, "FLAT") == 0)
            text_printf(text, " %" PRIu64, extent->flat_offset);
        text_append_string(text, "\n");
    }
}
