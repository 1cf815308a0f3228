// SPDX-License-Identifier: LGPL-2.1-or-later
/* The layers of a frozen disk; see chain.h. */
#include "image/chain.h"

#include <stdlib.h>

void chain_done(struct chain *chain)
{
    for (size_t i = 0; i < chain->count; i++)
        layer_reader_free(chain->layers[i]);
    free(chain->layers);
    *chain = (struct chain){0};
}

static int check_layer(struct layer_reader *layer)
{
    return layer->ops->check ? layer->ops->check(layer) : 0;
}

int chain_check(const struct chain *chain, const struct layer_set *used)
{
    int rc = check_layer(chain->layers[0]);
    for (size_t word = 0; rc == 0 && word < (chain->count + 63) / 64; word++)
        for (uint64_t bits = used->bits[word]; rc == 0 && bits; bits &= bits - 1) {
            size_t layer = word * 64 + (size_t)__builtin_ctzll(bits);
            if (layer > 0)
                rc = check_layer(chain->layers[layer]);
        }
    return rc;
}
