// SPDX-License-Identifier: LGPL-2.1-or-later
/* Any bytes as a qcow2 file: its header is refused with a text, or is as qcow2_header.h promises it. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "fuzz.h"
#include "image/qcow2_header.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct byte_source source = byte_source_memory(data, size);
    struct qcow2_header header;
    struct error err = {0};
    int ret = qcow2_header_read(&source, &header, &err);
    if (ret < 0) {
        fuzz_check((ret == -EINVAL || ret == -EOPNOTSUPP) && err.code == -ret && err.text[0]);
        return 0;
    }
    fuzz_check(ret == 0 && err.code == 0);
    fuzz_check(header.version == 2 || header.version == 3);
    fuzz_check(header.cluster_bits >= QCOW2_CLUSTER_BITS_MIN &&
               header.cluster_bits <= QCOW2_CLUSTER_BITS_MAX);
    fuzz_check(!header.extended_l2 || header.cluster_bits >= 14);
    fuzz_check(header.version == 3 || header.incompatible_features == 0);
    fuzz_check(header.incompatible_features <= 0x1f);
    fuzz_check(header.compression == COMPRESSION_DEFLATE || header.compression == COMPRESSION_ZSTD);
    fuzz_check(header.l1_size <= QCOW2_L1_BYTES_MAX / sizeof(uint64_t));
    unsigned entry_bits = 2 * header.cluster_bits - (header.extended_l2 ? 4 : 3);
    fuzz_check(header.size <= (uint64_t)header.l1_size << entry_bits && header.size % 512 == 0);
    fuzz_check(!header.backing_name || (*header.backing_name && strlen(header.backing_name) <= 1023));
    fuzz_check(!header.backing_format || (*header.backing_format && strlen(header.backing_format) <= 15));
    fuzz_check(!header.data_name || (*header.data_name && strlen(header.data_name) <= 4095));
    fuzz_check(header.external_data || !header.external_data_raw);
    qcow2_header_done(&header);
    return 0;
}
