// SPDX-License-Identifier: LGPL-2.1-or-later
/* Any journal file, and the same with a checksum that is right: refused with a text, or what was read comes
 * back when it is written and read again. */
#include <inttypes.h>
#include <string.h>

#include "base/hash.h"
#include "fuzz.h"
#include "store/journal_json.h"

static void check(const char *bytes, size_t length)
{
    struct journal_record record = {0}, again = {0};
    struct error err = {0};
    if (journal_json_read(bytes, length, &record, &err) < 0) {
        fuzz_check(err.code > 0 && *err.text && record.step_count == 0);
        return;
    }
    fuzz_check(record.step_count > 0 && record.commit < record.step_count &&
               record.next <= record.step_count);
    cleanup_text struct text text = {0}, second = {0};
    journal_json_write(&text, &record);
    fuzz_check(journal_json_read(text.data, text.length, &again, &err) == 0);
    journal_json_write(&second, &again);
    fuzz_check(second.length == text.length && memcmp(second.data, text.data, text.length) == 0);
    journal_record_done(&record);
    journal_record_done(&again);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    check((const char *)data, size);
    cleanup_text struct text text = {0};
    text_append(&text, data, size);
    text_printf(&text, ",\n \"checksum\": \"%016" PRIx64 "\"}\n", hash_bytes(HASH_START, data, size));
    check(text.data, text.length);
    return 0;
}
