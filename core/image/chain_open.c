// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Opening a chain, from the top down (chain.h).
 *
 * The images say what they stand on; the domain says what those files were when they were frozen. A reference
 * that leads anywhere else, or to a file that was written to since, is refused by the layer's reader.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/cleanup.h"
#include "image/chain.h"

struct chain_builder {
    struct chain chain;
    struct file_identity *files;    /* of the layers so far */
    struct image_reference backing; /* of the last one */
};

static void chain_builder_done(struct chain_builder *builder)
{
    chain_done(&builder->chain);
    free(builder->files);
    image_reference_done(&builder->backing);
}

static int changed(const struct layer *layer, struct error *err)
{
    return error_set(err, EIO, "%s: changed by someone else since it was frozen", layer->path);
}

static int open_one(struct chain_builder *builder, const struct layer_request *request, struct error *err)
{
    struct chain *chain = &builder->chain;
    if (chain->count == CHAIN_DEPTH_MAX)
        return error_set(err, ELOOP, "%s: the chain of backing files is longer than %d images", request->path,
                         CHAIN_DEPTH_MAX);
    struct layer_reader **layers = realloc(chain->layers, (chain->count + 1) * sizeof *layers);
    if (layers)
        chain->layers = layers;
    struct file_identity *files = realloc(builder->files, (chain->count + 1) * sizeof *files);
    if (files)
        builder->files = files;
    if (!layers || !files)
        return error_set(err, ENOMEM, "%s: out of memory", request->path);

    struct image_reference backing = {0};
    int rc = layer_reader_open(request, &chain->layers[chain->count], &backing, err);
    if (rc < 0)
        return rc;
    image_reference_done(&builder->backing);
    builder->backing = backing;
    size_t index = chain->count++;

    /* By name: if the file was replaced just now this says nothing, and the limit on depth ends the walk. */
    struct stat stat_now;
    files[index] = (struct file_identity){0};
    if (!request->remote && stat(request->path, &stat_now) == 0)
        files[index] = file_identity_of(&stat_now);
    for (size_t i = 0; i < index; i++)
        if (files[index].inode && file_identity_same_file(&files[i], &files[index]))
            return error_set(err, ELOOP, "%s: the chain of backing files comes back to this image",
                             request->path);
    return 0;
}

/* Only what the catalog knows as a disk on the network is opened as one: then whoever called does not mind to
 * wait. It also knows the format that the definition gives, where the image gives none. */
static int check_network(const struct domain *domain, const struct layer *layer,
                         struct image_reference *backing, struct error *err)
{
    int rc = locate_network(domain->named_files, backing->path, err);
    if (rc < 0)
        return rc;
    if (!layer || !layer->remote || strcmp(layer->path, backing->path) != 0)
        return error_set(err, ESTALE, "it stands on %.200s since a moment ago", backing->path);
    if (backing->format == IMAGE_FORMAT_UNKNOWN)
        backing->format = layer->format;
    return 0;
}

int chain_open(const struct locate *locate, bool locks, const struct domain *domain,
               const struct frozen *frozen, struct chain *chain, struct error *err)
{
    cleanup(chain_builder_done) struct chain_builder builder = {0};
    const struct layer *layer = frozen->layer;
    /* An image that holds the internal snapshot may be written to; that snapshot in it is checked at every
     * read. */
    bool is_written = frozen->internal && layer->active;
    bool may_change = is_written || layer->touched;
    struct layer_request request = {
        .locate = locate,
        .named = domain->named_files,
        .path = layer->path,
        .remote = layer->remote,
        .locks = locks && !is_written,
        .format = layer->format,
        .internal = frozen->internal,
        .expected = may_change ? NULL : &layer->identity,
        .expected_data = &layer->data_identity,
    };
    if (layer->changed && !may_change)
        return changed(layer, err);
    int rc = open_one(&builder, &request, err);
    while (rc == 0 && builder.backing.path) {
        layer = layer ? layer->backing : NULL;
        if (layer && layer->changed)
            return changed(layer, err);
        if (builder.backing.network) {
            rc = check_network(domain, layer, &builder.backing, err);
            if (rc < 0) {
                error_prefix(err, "%.150s", builder.chain.layers[builder.chain.count - 1]->path);
                return rc;
            }
        }
        cleanup_free char *path = steal_pointer(builder.backing.path);
        request = (struct layer_request){
            .locate = locate,
            .named = domain->named_files,
            .path = path,
            .remote = builder.backing.network,
            .locks = locks,
            .format = builder.backing.format,
            .expected = layer && !layer->touched ? &layer->identity : NULL,
            .expected_data = layer ? &layer->data_identity : NULL,
        };
        rc = open_one(&builder, &request, err);
        if (rc < 0)
            error_prefix(err, "%s has a backing file that can't be used",
                         builder.chain.layers[builder.chain.count - 1]->path);
    }
    if (rc < 0)
        return rc;
    *chain = builder.chain;
    builder.chain = (struct chain){0};
    return 0;
}
