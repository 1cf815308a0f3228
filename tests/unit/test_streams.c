// SPDX-License-Identifier: LGPL-2.1-or-later
/* streams.h: what is handed out ahead of sequential reads, and what is not. */
#include "image/streams.h"

#include "unit.h"

#include <stdlib.h>

#include "base/bytes.h"

#define PIECE  (128 * KIB)
#define WINDOW MIB

struct reader {
    struct streams streams;
    uint64_t from, to; /* handed out last */
};

static void reader_init(struct reader *reader)
{
    streams_init(&reader->streams);
    reader->from = reader->to = 0;
}

static bool note(struct reader *reader, uint64_t offset, uint64_t length)
{
    return streams_note(&reader->streams, offset, length, WINDOW, PIECE, &reader->from, &reader->to);
}

static void a_stream_gets_each_piece_once_and_in_order(void **state)
{
    static const uint64_t lengths[] = {4096, PIECE, MIB, 100000};
    for (size_t i = 0; i < 4; i++) {
        struct reader reader;
        reader_init(&reader);
        uint64_t end = 0;
        for (uint64_t offset = 0; offset < 40 * MIB; offset += lengths[i]) {
            uint64_t next = offset + lengths[i];
            if (note(&reader, offset, lengths[i])) {
                assert_int_equal(reader.from % PIECE, 0);
                assert_int_equal(reader.to % PIECE, 0);
                assert_true(reader.from >= next && reader.from < reader.to && reader.to <= next + WINDOW);
                assert_true(end == 0 || reader.from == end || reader.from < next + PIECE);
                assert_true(reader.from >= end);
                end = reader.to;
            }
            if (offset > 4 * lengths[i])
                assert_true(end + PIECE > next + WINDOW); /* as far ahead as there may be */
        }
        streams_done(&reader.streams);
    }
}

static void a_few_reads_in_a_row_are_no_stream_yet(void **state)
{
    struct reader reader;
    reader_init(&reader);
    assert_false(note(&reader, 5 * MIB, PIECE));
    assert_false(note(&reader, 5 * MIB + PIECE, PIECE));
    assert_true(note(&reader, 5 * MIB + 2 * PIECE, PIECE));
    streams_done(&reader.streams);
}

static void random_reads_are_no_streams(void **state)
{
    struct reader reader;
    reader_init(&reader);
    unsigned seed = 5;
    for (int i = 0; i < 10000; i++)
        assert_false(note(&reader, (uint64_t)rand_r(&seed) % (1 << 20) * 4 * MIB, 4096));
    streams_done(&reader.streams);
}

static void requests_may_come_in_another_order(void **state)
{
    struct reader reader;
    reader_init(&reader);
    uint64_t handed_out = 0;
    for (uint64_t base = 0; base < 32 * MIB; base += 4 * PIECE) {
        static const uint64_t order[] = {1, 0, 3, 2};
        for (size_t i = 0; i < 4; i++)
            if (note(&reader, base + order[i] * PIECE, PIECE))
                handed_out += reader.to - reader.from;
    }
    assert_true(handed_out >= 28 * MIB);
    assert_true(handed_out <= 33 * MIB);
    streams_done(&reader.streams);
}

static void several_streams_run_side_by_side(void **state)
{
    struct reader reader;
    reader_init(&reader);
    uint64_t ends[STREAMS_MAX] = {0};
    for (uint64_t step = 0; step < 100; step++)
        for (uint64_t i = 0; i < STREAMS_MAX; i++) {
            uint64_t base = i * GIB;
            if (note(&reader, base + step * PIECE, PIECE)) {
                assert_true(reader.from > base && reader.from >= ends[i]);
                ends[i] = reader.to;
            }
        }
    for (uint64_t i = 0; i < STREAMS_MAX; i++)
        assert_int_equal(ends[i], i * GIB + 100 * PIECE + WINDOW);
    streams_done(&reader.streams);
}

static void a_piece_is_wanted_until_its_stream_has_passed_it(void **state)
{
    struct reader reader;
    reader_init(&reader);
    assert_false(streams_want(&reader.streams, 5 * MIB));
    uint64_t offset = 4 * MIB;
    while (!note(&reader, offset, PIECE))
        offset += PIECE;
    uint64_t to = reader.to;
    assert_true(streams_want(&reader.streams, to));
    assert_true(streams_want(&reader.streams, reader.from + PIECE));
    assert_false(streams_want(&reader.streams, reader.from));
    assert_false(streams_want(&reader.streams, to + PIECE));
    while (offset < to - 2 * PIECE)
        note(&reader, offset += PIECE, PIECE);
    assert_true(streams_want(&reader.streams, to));
    note(&reader, offset += PIECE, PIECE);
    assert_false(streams_want(&reader.streams, to));
    streams_done(&reader.streams);
}

static void nothing_is_handed_out_in_less_than_a_piece(void **state)
{
    struct streams streams;
    streams_init(&streams);
    uint64_t from, to;
    for (uint64_t offset = 0; offset < 4 * MIB; offset += 4096)
        assert_false(streams_note(&streams, offset, 4096, PIECE - 1, 2 * PIECE, &from, &to));
    streams_done(&streams);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_stream_gets_each_piece_once_and_in_order),
        cmocka_unit_test(a_few_reads_in_a_row_are_no_stream_yet),
        cmocka_unit_test(random_reads_are_no_streams),
        cmocka_unit_test(requests_may_come_in_another_order),
        cmocka_unit_test(several_streams_run_side_by_side),
        cmocka_unit_test(a_piece_is_wanted_until_its_stream_has_passed_it),
        cmocka_unit_test(nothing_is_handed_out_in_less_than_a_piece),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
