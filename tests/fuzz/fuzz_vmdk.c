// SPDX-License-Identifier: LGPL-2.1-or-later
/* Any bytes as a .vmdk file; and what is understood, written anew, must mean the same. */
#include <string.h>

#include "fuzz.h"
#include "image/vmdk.h"

static void check_rewritten(const struct vmdk *vmdk)
{
    struct text text = {0};
    struct vmdk again;
    struct error err = {0};
    vmdk_rewrite(vmdk, 3, &text);
    struct byte_source source = byte_source_memory(text.data, text.length);
    int rc = vmdk_read(&source, &again, &err);
    if (vmdk->parent_name) { /* the name is left out */
        fuzz_check(rc < 0);
    } else {
        fuzz_check(rc == 0 && again.cid == vmdk->cid && again.extent_count == vmdk->extent_count);
        for (size_t i = 0; i < again.extent_count; i++) {
            fuzz_check(again.extents[i].sectors == vmdk->extents[i].sectors);
            fuzz_check(again.extents[i].flat_offset == vmdk->extents[i].flat_offset);
            fuzz_check(strcmp(again.extents[i].type, vmdk->extents[i].type) == 0);
            fuzz_check(strncmp(again.extents[i].name, "/proc/self/fd/", 14) == 0);
        }
        vmdk_done(&again);
    }
    text_done(&text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct byte_source source = byte_source_memory(data, size);
    struct vmdk vmdk = {0};
    struct error err = {0};
    int rc = vmdk_read(&source, &vmdk, &err);
    if (rc < 0) {
        fuzz_check(err.code == -rc && err.text[0] && !vmdk.extents && !vmdk.parent_name);
        return 0;
    }
    fuzz_check(rc == 0 && vmdk.extent_count <= VMDK_EXTENTS_MAX && vmdk.single == (vmdk.extent_count == 0));
    if (!vmdk.single)
        check_rewritten(&vmdk);
    vmdk_done(&vmdk);
    return 0;
}
