// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Decompression of one qcow2 cluster: raw deflate (compression type 0) or one zstd frame (type 1).
 *
 * The input may be longer than the compressed data, since qcow2 counts it in sectors. The output must come to
 * exactly `output_size` bytes: less and more are -EIO. Any thread; each keeps its own decompressor, freed
 * when it ends.
 */
#pragma once

#include <stddef.h>

enum compression { COMPRESSION_DEFLATE = 0, COMPRESSION_ZSTD = 1 };

int decompress_cluster(enum compression type, const void *input, size_t input_size, void *output,
                       size_t output_size);
