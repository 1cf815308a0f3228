// SPDX-License-Identifier: LGPL-2.1-or-later
/* What a scan sees of a directory of real images (scan.h), and what it must not even look at. */
#include "unit.h"

#include "failing_reads.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/endings.h"
#include "catalog/scan.h"
#include "catalog/scan_definition.h"
#include "source_dir.h"

static struct locate *locate;
static struct scan *scan;
static struct notices notices;
static int directory;

static int setup(void **state)
{
    if (source_dir_setup(state) < 0)
        return -1;
    struct error err;
    locate = NULL;
    scan = NULL;
    failing_open = failing_read = failing_stat = NULL;
    failing_from = 0;
    notices = (struct notices){0};
    run("mkdir source outside");
    strcat(source_dir, "/source");
    directory = open(source_dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    return directory < 0 ? -1 : locate_new(source_dir, NULL, 0, IMAGE_FORMAT_UNKNOWN, &locate, &err);
}

static int teardown(void **state)
{
    scan_free(scan);
    notices_done(&notices);
    locate_free(locate);
    close(directory);
    source_dir[strlen(source_dir) - strlen("/source")] = '\0';
    return source_dir_teardown(state);
}

static void look(void)
{
    struct scan *after = NULL;
    struct error err = {0};
    notices_done(&notices);
    if (scan_new(locate, directory, scan, NULL, &notices, &after, &err) != 0)
        fail_msg("%s", err.text);
    scan_free(scan);
    scan = after;
}

static struct scan_image *find(const char *name)
{
    for (size_t i = 0; i < scan->image_count; i++)
        if (strcmp(strrchr(scan->images[i]->path, '/') + 1, name) == 0)
            return scan->images[i];
    return NULL;
}

static struct scan_image *get(const char *name)
{
    struct scan_image *image = find(name);
    if (!image)
        fail_msg("%s is not there", name);
    return image;
}

/* True if the image could be read as qcow2. */
static bool was_read(const char *name)
{
    const struct scan_image *image = find(name);
    return image && image->info && !image->info->error;
}

static bool noticed(const char *text)
{
    for (size_t i = 0; i < notices.count; i++)
        if (strstr(notices.list[i].text, text))
            return true;
    return false;
}

static void write_file(const char *name, const char *text)
{
    char path[256];
    snprintf(path, sizeof path, "%s/%s", source_dir, name);
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    fputs(text, file);
    assert_int_equal(fclose(file), 0);
}

static void endings_say_what_they_say(void **unused)
{
    assert_int_equal(ending_of("/a.b/web1.qcow2"), ENDING_QCOW2);
    assert_int_equal(ending_of("web1.snap1"), ENDING_MEANINGLESS);
    assert_int_equal(ending_of("web1"), ENDING_MEANINGLESS);
    assert_int_equal(ending_of("a.raw/web1"), ENDING_MEANINGLESS);
    assert_int_equal(ending_of("web1.IMG"), ENDING_OTHER);
    assert_int_equal(ending_of("web1.json"), ENDING_DEFINITION);
    assert_int_equal(ending_of("web1.vmx"), ENDING_OTHER_DEFINITION);
    assert_string_equal(ending_start("/x.y/web1.tar.gz"), ".gz");
    assert_string_equal(ending_start("/x.y/web1"), "");
    assert_string_equal(ending_start("/x/.hidden"), "");
}

static void headers_and_snapshot_tables_are_read(void **unused)
{
    run("qemu-img create -q -f qcow2 web1.qcow2 3M && qemu-img snapshot -c one web1.qcow2 &&"
        " qemu-img snapshot -c two web1.qcow2 && qemu-img create -q -f qcow2 -b web1.qcow2 -F qcow2 "
        "web1.snap 5M");
    look();
    const struct scan_image *base = get("web1.qcow2"), *top = get("web1.snap");
    assert_int_equal(base->size, 3 << 20);
    assert_int_equal(base->info->snapshot_count, 2);
    assert_string_equal(base->info->snapshots[1]->name, "two");
    assert_true(base->is_backing);
    assert_false(base->is_empty);
    assert_int_equal(top->size, 5 << 20);
    assert_ptr_equal(top->backing, base);
    assert_true(top->is_empty);
    assert_string_equal(top->name, "web1.snap");
}

/* A guest can write a qcow2 header into its raw disk, and name any file of the host in it. */
static void what_its_ending_calls_raw_is_never_read_as_qcow2(void **unused)
{
    run("qemu-img create -q -f qcow2 -u -b /etc/passwd -F raw header 1M");
    run("for n in a.raw a.img a.IMG a.iso a.vmdk a.vhd a.vhdx a.vdi a.cfg a.xml a.qcow; do cp header $n; "
        "done;"
        "cp header disk.named; cp header real.qcow2; rm header");
    write_file("web.json", "{\"disks\":[{\"target\":\"vda\",\"source\":\"disk.named\",\"format\":\"raw\"}]}");
    look();
    for (size_t i = 0; i < scan->image_count; i++)
        if (scan->images[i]->info)
            assert_string_equal(scan->images[i]->name, "real.qcow2");
    assert_int_equal(get("disk.named")->format, IMAGE_FORMAT_RAW);
    assert_null(get("real.qcow2")->backing);
    assert_int_equal(get("real.qcow2")->backing_error, -EPERM);
    assert_true(noticed("a.cfg"));
    assert_true(noticed("a.xml"));
}

static void only_regular_files_of_the_top_directory_count(void **unused)
{
    run("qemu-img create -q -f qcow2 ../outside/web.qcow2 1M && mkdir sub.qcow2 && cp ../outside/web.qcow2 "
        "sub.qcow2/"
        " && ln -s ../outside/web.qcow2 link.qcow2 && ln -s sub.qcow2/web.qcow2 inner.qcow2 && mkfifo "
        "fifo.qcow2"
        " && cp ../outside/web.qcow2 .hidden.qcow2 && echo '{}' > .hidden.json && mkdir sub.json"
        " && echo '{\"disks\":[]}' > ../outside/d.json && ln -s ../outside/d.json d.json");
    look();
    assert_int_equal(scan->image_count, 0);
    assert_int_equal(scan->definition_count, 0);
}

static void a_detour_gives_no_file_another_name(void **unused)
{
    char expected[1024];
    run("mkdir below && qemu-img create -q -f qcow2 below/base.qcow2 1M && ln -s below link &&"
        " qemu-img create -q -f qcow2 -b link/../below/./base.qcow2 -F qcow2 top.qcow2");
    look();
    assert_non_null(get("top.qcow2")->backing);
    snprintf(expected, sizeof expected, "%s/below/base.qcow2", scan->source);
    assert_string_equal(get("top.qcow2")->backing->path, expected);
}

static void a_bad_definition_stops_nothing(void **unused)
{
    write_file("bad.json", "{");
    write_file("key.json", "{\"diks\":[]}");
    run("head -c 1048577 /dev/zero | tr '\\0' ' ' > long.json");
    write_file("good.json", "{\"name\":\"other\",\"disks\":[]}");
    look();
    assert_int_equal(scan->definition_count, 4);
    assert_true(noticed("bad.json"));
    assert_true(noticed("diks"));
    assert_true(noticed("long.json"));
    for (size_t i = 0; i < 4; i++)
        assert_int_equal(scan->definitions[i].is_good, strcmp(scan->definitions[i].name, "good.json") == 0);
}

static const struct scan_definition *web(void)
{
    for (size_t i = 0; i < scan->definition_count; i++)
        if (strcmp(scan->definitions[i].name, "web.json") == 0)
            return &scan->definitions[i];
    fail();
    return NULL;
}

static void only_trusted_definitions_lead_out_of_the_source(void **unused)
{
    char text[1024];
    run("qemu-img create -q -f qcow2 ../outside/base.qcow2 1M &&"
        " qemu-img create -q -f qcow2 -b base.qcow2 -F qcow2 ../outside/top.qcow2");
    run("qemu-img create -q -f qcow2 -b $PWD/../outside/base.qcow2 -F qcow2 thief.qcow2");
    const char *rest = "{\"target\":\"vda\",\"format\":\"qcow2\",\"source\":\"../outside/top.qcow2\"}";
    snprintf(text, sizeof text, "{\"disks\":[%s]}", rest);
    write_file("web.json", text);
    look();
    /* The top is named, and what it stands on is not. */
    assert_null(web()->distrust);
    assert_int_equal(web()->chains[0].count, 1);
    assert_non_null(strstr(web()->chains[0].problem, "allow="));
    assert_null(find("base.qcow2"));

    snprintf(
        text, sizeof text,
        "{\"disks\":[%s,{\"target\":\"vdb\",\"format\":\"qcow2\",\"source\":\"../outside/base.qcow2\"}]}",
        rest);
    write_file("web.json", text);
    look();
    assert_int_equal(web()->chains[0].count, 2);
    snprintf(text, sizeof text,
             "{\"disks\":[{\"target\":\"vda\",\"format\":\"qcow2\",\"source\":\"%.*s/outside/top.qcow2\"},"
             "{\"target\":\"vdb\",\"format\":\"qcow2\",\"source\":\"%.*s/outside/base.qcow2\"}]}",
             (int)(strlen(source_dir) - strlen("/source")), source_dir,
             (int)(strlen(source_dir) - strlen("/source")), source_dir);
    write_file("web.json", text);
    look();
    assert_int_equal(web()->chains[0].count, 2);
    assert_null(web()->chains[0].problem);
    assert_int_equal(web()->chains[1].count, 1);
    /* Nobody else gets there by that. */
    assert_null(get("thief.qcow2")->backing);
    assert_int_equal(get("thief.qcow2")->backing_error, -EPERM);

    static const char *const distrusts[][2] = {
        {"chmod 0664 web.json", "chmod 0644 web.json"},
        {"chmod 0646 web.json", "chmod 0644 web.json"},
        {"chmod 0775 .", "chmod 0755 ."},
        {"chmod 1777 .", "chmod 0755 ."},
    };
    for (size_t i = 0; i < 4; i++) {
        run("%s", distrusts[i][0]);
        look();
        assert_non_null(web()->distrust);
        assert_null(scan_definition_named(web()));
        assert_int_equal(web()->chains[0].count, 0);
        assert_non_null(strstr(web()->chains[0].problem, web()->distrust));
        run("%s", distrusts[i][1]);
    }
    if (geteuid() == 0) {
        run("chown 65534 web.json");
        look();
        assert_non_null(web()->distrust);
        run("chown 0 web.json");
    }
    look();
    assert_int_equal(web()->chains[0].count, 2);
}

static void a_backing_file_of_unknown_format_is_refused_but_known(void **unused)
{
    run("qemu-img create -q -f qcow2 web.qcow2 1M &&"
        " qemu-img create -q -f qcow2 -b web.qcow2 -F qcow2 web.one &&"
        " qemu-img create -q -f qcow2 -b web.one -F qcow2 web.two");
    /* As old versions of qemu-img made them: the format taken out of the header. */
    run("python3 - <<'END'\n"
        "import struct\n"
        "f = open('web.two', 'r+b')\n"
        "d = bytearray(f.read())\n"
        "at = d.index(struct.pack('>I', 0xe2792aca))\n"
        "d[at:at + 4] = struct.pack('>I', 0x12345678)\n"
        "f.seek(0); f.write(d)\n"
        "END");
    look();
    const struct scan_image *top = get("web.two");
    assert_ptr_equal(top->backing, get("web.one"));
    assert_true(top->backing_refused);
    assert_non_null(strstr(top->backing_problem, "backing-format="));
    assert_true(get("web.one")->is_backing);
    assert_false(get("web.one")->backing_refused);
}

static void a_definition_is_right_about_the_format(void **unused)
{
    run("truncate -s 1000 data.img && qemu-img create -q -f qcow2 -u -b data.img -F qcow2 data.over 1M");
    write_file("web.json", "{\"disks\":[{\"target\":\"vda\",\"source\":\"data.img\",\"format\":\"raw\"}]}");
    look();
    assert_int_equal(get("data.img")->size, 1024);
    assert_true(get("data.img")->is_defined);
    assert_true(get("data.over")->backing_refused);
    assert_int_equal(get("data.over")->backing_error, -EPERM);
    assert_non_null(strstr(get("data.over")->backing_problem, "says raw"));
    for (size_t i = 0; i < scan->image_count; i++)
        assert_true(!scan->images[i]->info || strcmp(scan->images[i]->name, "data.img") != 0);
}

/* virsh puts an overlay beside its base, and that need not be in the top directory. */
static void overlays_beside_a_defined_disk_are_found(void **unused)
{
    run("mkdir sub && qemu-img create -q -f qcow2 sub/web.qcow2 1M &&"
        " qemu-img create -q -f qcow2 -b web.qcow2 -F qcow2 sub/web.snap &&"
        " cp sub/web.snap sub/other && cp sub/web.snap sub/abc.snap && cp sub/web.snap sub/web.img && cp "
        "sub/web.snap sub/top.qcow2");
    write_file("web.json",
               "{\"disks\":[{\"target\":\"vda\",\"source\":\"sub/web.qcow2\",\"format\":\"qcow2\"}]}");
    look();
    assert_int_equal(scan->image_count, 2);
    assert_true(get("web.snap")->is_candidate);
    assert_null(get("web.snap")->name);
    assert_ptr_equal(get("web.snap")->backing, get("web.qcow2"));
    assert_true(get("web.qcow2")->is_defined);
}

static void two_names_of_one_file_are_one_image(void **unused)
{
    run("qemu-img create -q -f qcow2 b.qcow2 1M && ln b.qcow2 a.qcow2 &&"
        " qemu-img create -q -f qcow2 -b b.qcow2 -F qcow2 c.qcow2");
    look();
    assert_ptr_equal(get("b.qcow2")->first, get("a.qcow2"));
    assert_true(get("a.qcow2")->is_backing);
}

static void a_damaged_image_is_told_as_such(void **unused)
{
    run("qemu-img create -q -f qcow2 cut.qcow2 1M && truncate -s 50 cut.qcow2 && : > empty.qcow2 && echo "
        "text > text.qcow2");
    look();
    assert_int_equal(scan->image_count, 3);
    for (size_t i = 0; i < 3; i++) {
        assert_true(scan->images[i]->info->error < 0);
        assert_non_null(strstr(scan->images[i]->info->problem, scan->images[i]->path));
    }
}

/* ---- Looking again ---- */

static void what_did_not_change_is_not_read_again(void **unused)
{
    run("qemu-img create -q -f qcow2 a.qcow2 1M && qemu-img create -q -f qcow2 b.qcow2 1M");
    look();
    const struct image_info *a = image_info_ref(get("a.qcow2")->info),
                            *b = image_info_ref(get("b.qcow2")->info);
    run("qemu-img snapshot -c new b.qcow2");
    look();
    assert_ptr_equal(get("a.qcow2")->info, a);
    assert_ptr_not_equal(get("b.qcow2")->info, b);
    assert_int_equal(get("b.qcow2")->info->snapshot_count, 1);
    image_info_unref(a);
    image_info_unref(b);
}

/* The scan until nothing moves any more: a directory that has just changed is looked at twice. */
static void settle(void)
{
    do {
        look();
        usleep(1000);
    } while (scan_moved(scan, false));
}

static void only_what_matters_counts_as_moved(void **unused)
{
    run("qemu-img create -q -f qcow2 web.qcow2 8M && qemu-img snapshot -c a web.qcow2 &&"
        " qemu-img create -q -f qcow2 base.qcow2 8M && qemu-img create -q -f qcow2 -b base.qcow2 -F qcow2 "
        "top.qcow2 &&"
        " mkdir sub && cp base.qcow2 sub/disk.qcow2 && truncate -s 1M data.img && echo hello > notes.txt && "
        ": > coming");
    write_file("d.json", "{\"disks\":[{\"target\":\"vda\",\"source\":\"data.img\",\"format\":\"raw\"},"
                         "{\"target\":\"vdb\",\"source\":\"later.img\",\"format\":\"raw\"},"
                         "{\"target\":\"vdc\",\"source\":\"sub/disk.qcow2\",\"format\":\"qcow2\"}]}");
    settle();
    scan->is_settled = true; /* else, after a second, it would be looked at once more */
    /* A guest that writes is nothing, on qcow2 and raw; nor is a file that is no image. */
    run("qemu-io -c 'write 0 1M' web.qcow2 > /dev/null && qemu-io -f raw -c 'write 0 64k' data.img "
        ">/dev/null &&"
        " echo more >> notes.txt");
    assert_false(scan_moved(scan, false));
    assert_false(scan_moved(scan, true));

    static const char *const moves[] = {
        "qemu-img snapshot -c b web.qcow2",
        "qemu-img snapshot -d a web.qcow2",
        "qemu-img snapshot -a b web.qcow2 && qemu-img resize -q web.qcow2 9M",
        "qemu-io -c 'write 0 64k' top.qcow2 >/dev/null", /* its first cluster */
        "qemu-io -c 'write 0 64k' base.qcow2 >/dev/null",
        "touch -d '2001-01-01' base.qcow2",
        "truncate -s 2M data.img",
        "cp web.qcow2 new.qcow2",
        "rm new.qcow2",
        "mv web.qcow2 renamed.qcow2",
        "cp renamed.qcow2 other && mv other renamed.qcow2",
        "echo ' ' >> d.json",
        "chmod 0600 d.json",
        "chmod 0700 .",
        "truncate -s 1M later.img",
        "cp base.qcow2 coming", /* a file that was no image becomes one */
        "qemu-img create -q -f qcow2 -b disk.qcow2 -F qcow2 sub/disk.snap",
        "qemu-img rebase -u -f qcow2 -b renamed.qcow2 -F qcow2 top.qcow2",
    };
    for (size_t i = 0; i < sizeof moves / sizeof *moves; i++) {
        settle();
        run("%s", moves[i]);
        if (!scan_moved(scan, false))
            fail_msg("not seen: %s", moves[i]);
    }
    settle();
    scan->is_settled = true;
    run("qemu-io -c 'write 64k 64k' top.qcow2 >/dev/null");
    assert_false(scan_moved(scan, false));
}

static void what_was_missing_and_comes_is_seen(void **unused)
{
    run("mkdir sub && qemu-img create -q -f qcow2 -u -b sub/base.qcow2 -F qcow2 top.qcow2 1M");
    settle();
    assert_int_equal(get("top.qcow2")->backing_error, -ENOENT);
    run("qemu-img create -q -f qcow2 sub/base.qcow2 1M");
    assert_true(scan_moved(scan, false));
    settle();
    assert_non_null(get("top.qcow2")->backing);
    assert_true(was_read("base.qcow2"));
    run("rm sub/base.qcow2");
    assert_true(scan_moved(scan, false));
}

static void wait_until_moved(void)
{
    while (!scan_moved(scan, false))
        usleep(1000);
}

/* The file is well older than the look at it. */
static void age(const char *name)
{
    get(name)->looked_at += 10;
}

static void what_could_not_be_read_is_tried_again(void **unused)
{
    run("qemu-img create -q -f qcow2 web1.qcow2 3M && qemu-img snapshot -c one web1.qcow2");
    failing_read = "web1.qcow2";
    failing_from = 65536; /* the header can be read, its table can't */
    look();
    assert_true(failures > 0);
    assert_non_null(strstr(get("web1.qcow2")->info->problem, "can't read the snapshot table"));
    assert_true(scan->again_at > 0);
    age("web1.qcow2");
    wait_until_moved();
    look();
    assert_non_null(get("web1.qcow2")->info->problem);
    failing_read = NULL;
    age("web1.qcow2");
    wait_until_moved();
    look();
    assert_null(get("web1.qcow2")->info->problem);
    assert_int_equal(get("web1.qcow2")->info->snapshot_count, 1);
    assert_true(scan->again_at == 0);

    run("cp web1.qcow2 web2.qcow2");
    failing_read = "web2.qcow2";
    failing_from = 0;
    look();
    assert_false(was_read("web2.qcow2"));
    failing_read = NULL;
    age("web2.qcow2");
    assert_true(scan_moved(scan, true)); /* somebody knows that it is time */
    look();
    assert_true(was_read("web2.qcow2"));
}

static void of_an_overlay_that_could_not_be_read_it_is_not_known_that_it_is_used(void **unused)
{
    run("qemu-img create -q -f qcow2 base.qcow2 3M && qemu-img create -q -f qcow2 -b base.qcow2 -F qcow2 "
        "base.top && qemu-img create -q -f qcow2 -b base.qcow2 -F qcow2 base.used && qemu-io -c 'write 0 64k'"
        " base.used >/dev/null");
    failing_read = "/base.";
    failing_from = 65536;
    look();
    assert_true(get("base.top")->is_empty);
    assert_true(get("base.used")->is_empty);
    failing_read = NULL;
    age("base.top");
    age("base.used");
    wait_until_moved();
    look();
    assert_true(get("base.top")->is_empty);
    assert_false(get("base.used")->is_empty);
    assert_true(scan->again_at == 0);
}

static void what_fails_for_good_is_tried_less_and_less_often(void **unused)
{
    static const time_t ages[] = {0, 1, 2, 10, 31, 100000}, waits[] = {1, 1, 2, 10, 31, 32};
    run("qemu-img create -q -f qcow2 web1.qcow2 3M");
    failing_read = "web1.qcow2";
    for (size_t i = 0; i < sizeof ages / sizeof *ages; i++) {
        look();
        struct scan_image *image = get("web1.qcow2");
        image->unread_since = time(NULL) - ages[i];
        look();
        time_t slow = scan->started_at - get("web1.qcow2")->unread_since - ages[i]; /* this machine */
        time_t wait = scan->again_at - scan->started_at;
        assert_true(wait >= waits[i] && wait <= waits[i] + slow);
        scan->again_at = scan->started_at + 100000;
        unsigned so_far = failures;
        scan->is_settled = true;
        assert_false(scan_moved(scan, false));
        assert_int_equal(failures, so_far);
    }
    /* Nobody waits for a clock that was put back. */
    scan->started_at += 1000;
    scan->again_at = scan->started_at + 1;
    assert_true(scan_moved(scan, false));
}

static void a_definition_that_cant_be_read_is_what_it_was(void **unused)
{
    run("qemu-img create -q -f qcow2 a.qcow2 1M");
    write_file("d.json", "{\"name\":\"web\",\"disks\":[{\"target\":\"vda\",\"source\":\"a.qcow2\",\"format\":"
                         "\"qcow2\"}]}");
    for (int round = 0; round < 4; round++) {
        look();
        assert_null(scan->definitions[0].unread);
        *(round % 2 ? &failing_open : &failing_read) = "d.json";
        if (round / 2) /* nothing was known before */
            scan_free(steal_pointer(scan));
        look();
        const struct scan_definition *definition = &scan->definitions[0];
        assert_true(noticed("can't be read now"));
        assert_non_null(strstr(definition->unread, "Input/output error"));
        assert_true(definition->is_good == (round / 2 == 0));
        assert_string_equal(definition->domain, round / 2 ? "d" : "web");
        assert_true(scan->again_at > 0);
        if (definition->is_good) {
            assert_int_equal(definition->definition.disk_count, 1);
            assert_ptr_equal(definition->chains[0].images[0], get("a.qcow2"));
            assert_true(get("a.qcow2")->is_defined);
        }
        look();
        assert_true(scan->definitions[0].is_good == (round / 2 == 0));
        failing_open = failing_read = NULL;
        wait_until_moved();
    }
}

static void a_disk_that_cant_be_opened_for_once_is_nothing_else(void **unused)
{
    run("qemu-img create -q -f qcow2 a.qcow2 1M");
    write_file("d.json", "{\"disks\":[{\"target\":\"vda\",\"source\":\"a.qcow2\",\"format\":\"qcow2\"}]}");
    failing_stat = "a.qcow2";
    look();
    assert_null(failing_stat); /* once, and then it could be opened */
    assert_null(find("a.qcow2"));
    wait_until_moved();
    look();
    assert_true(get("a.qcow2")->is_defined);
}

#define TEST(function) cmocka_unit_test_setup_teardown(function, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(endings_say_what_they_say),
        TEST(headers_and_snapshot_tables_are_read),
        TEST(what_its_ending_calls_raw_is_never_read_as_qcow2),
        TEST(only_regular_files_of_the_top_directory_count),
        TEST(a_detour_gives_no_file_another_name),
        TEST(a_bad_definition_stops_nothing),
        TEST(only_trusted_definitions_lead_out_of_the_source),
        TEST(a_backing_file_of_unknown_format_is_refused_but_known),
        TEST(a_definition_is_right_about_the_format),
        TEST(overlays_beside_a_defined_disk_are_found),
        TEST(two_names_of_one_file_are_one_image),
        TEST(a_damaged_image_is_told_as_such),
        TEST(what_did_not_change_is_not_read_again),
        TEST(only_what_matters_counts_as_moved),
        TEST(what_was_missing_and_comes_is_seen),
        TEST(what_could_not_be_read_is_tried_again),
        TEST(of_an_overlay_that_could_not_be_read_it_is_not_known_that_it_is_used),
        TEST(what_fails_for_good_is_tried_less_and_less_often),
        TEST(a_definition_that_cant_be_read_is_what_it_was),
        TEST(a_disk_that_cant_be_opened_for_once_is_nothing_else),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
