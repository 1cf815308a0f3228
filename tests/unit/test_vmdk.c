// SPDX-License-Identifier: LGPL-2.1-or-later
/* vmdk.h: descriptors taken apart and written anew, and those that must not be understood. */
#include "unit.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "image/vmdk.h"

#define HEAD        "# Disk DescriptorFile\nversion=1\nCID=123abc\nparentCID=ffffffff\ncreateType=\"vmfs\"\n"
#define ONE_EXTENT  "RW 8 VMFS \"a-flat.vmdk\"\n"
#define SPARSE_SIZE 4096

static int read_bytes(const void *bytes, size_t size, struct vmdk *vmdk, struct error *err)
{
    struct byte_source source = byte_source_memory(bytes, size);
    *err = (struct error){0};
    return vmdk_read(&source, vmdk, err);
}

static int read_text(const char *text, struct vmdk *vmdk, struct error *err)
{
    return read_bytes(text, strlen(text), vmdk, err);
}

static void assert_refused(const char *text, int code, const char *words)
{
    struct vmdk vmdk = {.cid = 77};
    struct error err;
    int rc = read_text(text, &vmdk, &err);
    if (rc != -code || err.code != code || !strstr(err.text, words))
        fail_msg("%d \"%s\" instead of %d \"%s\" for: %s", rc, err.text, -code, words, text);
    assert_int_equal(vmdk.cid, 77);
}

static void a_descriptor_is_taken_apart(void **state)
{
    struct vmdk vmdk;
    struct error err;
    assert_int_equal(read_text("# Disk DescriptorFile\r\n"
                               "version=1\r\n"
                               "encoding=\"UTF-8\"\r\n"
                               "CID=123abc\r\n"
                               "parentCID=89abcdef\r\n"
                               "createType=\"twoGbMaxExtentSparse\"\r\n"
                               "parentFileNameHint=\"the parent.vmdk\"\r\n"
                               "\r\n"
                               "# Extent description\r\n"
                               "RW 4192256 SPARSE \"Disk = 1-s001.vmdk\"\r\n"
                               "  RDONLY\t8 FLAT \"x\" 128\r\n"
                               "RW 16 VMFS \"/vmfs/volumes/a b/x-flat.vmdk\"\r\n"
                               "#DDB\r\n"
                               "ddb.adapterType = \"lsilogic\"\r\n",
                               &vmdk, &err),
                     0);
    assert_false(vmdk.single);
    assert_int_equal(vmdk.cid, 0x123abc);
    assert_int_equal(vmdk.parent_cid, 0x89abcdef);
    assert_string_equal(vmdk.parent_name, "the parent.vmdk");
    assert_int_equal(vmdk.extent_count, 3);
    assert_string_equal(vmdk.extents[0].name, "Disk = 1-s001.vmdk");
    assert_string_equal(vmdk.extents[0].type, "SPARSE");
    assert_int_equal(vmdk.extents[0].sectors, 4192256);
    assert_int_equal(vmdk.extents[1].flat_offset, 128);
    assert_string_equal(vmdk.extents[2].name, "/vmfs/volumes/a b/x-flat.vmdk");

    struct text text = {0};
    vmdk_rewrite(&vmdk, 7, &text);
    assert_string_equal(text.data, "# Disk DescriptorFile\nversion=1\nCID=00123abc\nparentCID=89abcdef\n"
                                   "createType=\"twoGbMaxExtentSparse\"\n\n# Extent description\n"
                                   "RW 4192256 SPARSE \"/proc/self/fd/7\"\n"
                                   "RW 8 FLAT \"/proc/self/fd/8\" 128\n"
                                   "RW 16 VMFS \"/proc/self/fd/9\"\n");
    text_done(&text);
    vmdk_done(&vmdk);
    vmdk_done(&vmdk);
}

static void what_qemu_would_skip_or_guess_is_refused(void **state)
{
    struct vmdk vmdk;
    struct error err;
    assert_int_equal(read_text(HEAD ONE_EXTENT, &vmdk, &err), 0);
    vmdk_done(&vmdk);
    assert_refused(HEAD ONE_EXTENT "RW 8 ZERO\n", EOPNOTSUPP, "kind ZERO");
    assert_refused(HEAD ONE_EXTENT "NOACCESS 8 VMFS \"x\"\n", EOPNOTSUPP, "no access");
    assert_refused(HEAD ONE_EXTENT "RW 8 VMFSRDM \"/dev/sda\"\n", EOPNOTSUPP, "kind VMFSRDM");
    assert_refused(HEAD "RW 0 VMFS \"x\"\n", EINVAL, "length");
    assert_refused(HEAD "RW -8 VMFS \"x\"\n", EINVAL, "length");
    assert_refused(HEAD "RW 0x10 VMFS \"x\"\n", EINVAL, "length");
    assert_refused(HEAD "RW 18014398509481984 VMFS \"x\"\n", EINVAL, "length");
    assert_refused(HEAD "RW 99999999999999999999999 VMFS \"x\"\n", EINVAL, "length");
    assert_refused(HEAD "RW 8\n", EOPNOTSUPP, "kind (none)");
    assert_refused(HEAD "RW 8 FLAT \"x\"\n", EINVAL, "offset");
    assert_refused(HEAD "RW 8 FLAT \"x\" -1\n", EINVAL, "offset");
    assert_refused(HEAD "RW 8 VMFS \"x\" 9\n", EINVAL, "offset");
    assert_refused(HEAD "RW 8 VMFS x\n", EINVAL, "name");
    assert_refused(HEAD "RW 8 VMFS \"x\n", EINVAL, "name");
    assert_refused(HEAD "RW 8 VMFS \"\"\n", EINVAL, "name");
    assert_refused(HEAD, EINVAL, "no extents");
    assert_refused(HEAD ONE_EXTENT "nonsense\n", EINVAL, "malformed");
    assert_refused(HEAD ONE_EXTENT "parentCID=1\n", EINVAL, "does not name");
    assert_refused(HEAD ONE_EXTENT "parentFileNameHint=\"x\"\n", EINVAL, "says that it has none");
    assert_refused(HEAD ONE_EXTENT "parentCID=1\nparentFileNameHint=\"x\"\nparentFileNameHint=\"y\"\n",
                   EINVAL, "two parents");
    assert_refused(HEAD ONE_EXTENT "parentCID=xyz\n", EINVAL, "malformed");
    assert_refused(HEAD ONE_EXTENT "CID=100000000\n", EINVAL, "malformed");
    assert_refused(HEAD ONE_EXTENT "createType=\"fullDevice\"\n", EOPNOTSUPP, "fullDevice");
    assert_refused(HEAD ONE_EXTENT "ddb.iofilters = \"vmwarevmcrypt\"\n", EOPNOTSUPP, "encrypted");
    assert_refused("# Disk DescriptorFile\n" ONE_EXTENT, EINVAL, "what kind");
    assert_refused("", EINVAL, "no vmdk");
    assert_refused("RW 8 VMFS \"x\"\n", EINVAL, "no vmdk");
    assert_refused("COWD and so on", EOPNOTSUPP, "one extent of a disk");
}

static void limits_hold(void **state)
{
    size_t size = VMDK_DESCRIPTOR_BYTES_MAX + 1;
    char *text = malloc(size + 1);
    struct vmdk vmdk;
    struct error err;
    /* Padding of zeros behind the text is what qemu-img itself writes. */
    memset(text, 0, size + 1);
    memcpy(text, HEAD ONE_EXTENT, strlen(HEAD ONE_EXTENT));
    assert_int_equal(read_bytes(text, size - 1, &vmdk, &err), 0);
    vmdk_done(&vmdk);
    assert_int_equal(read_bytes(text, size, &vmdk, &err), -E2BIG);

    char *end = text + strlen(HEAD);
    for (int i = 0; i <= VMDK_EXTENTS_MAX; i++)
        end = stpcpy(end, ONE_EXTENT);
    assert_refused(text, E2BIG, "more than 1024 extents");
    end[-(long)strlen(ONE_EXTENT)] = '\0';
    assert_int_equal(read_text(text, &vmdk, &err), 0);
    assert_int_equal(vmdk.extent_count, VMDK_EXTENTS_MAX);
    vmdk_done(&vmdk);

    end = text + sprintf(text, HEAD "RW 8 VMFS \"");
    memset(end, 'x', VMDK_NAME_BYTES_MAX + 1);
    strcpy(end + VMDK_NAME_BYTES_MAX + 1, "\"\n");
    assert_refused(text, EINVAL, "name");
    memset(end, 'x', 5000);
    assert_refused(text, E2BIG, "a line");
    free(text);
}

static void store_sector(char *image, size_t at, unsigned value)
{
    image[at] = (char)value;
    image[at + 1] = (char)(value >> 8);
}

static void a_sparse_extent_is_the_disk_itself(void **state)
{
    char image[SPARSE_SIZE] = "KDMV\1\0\0\0\3";
    struct vmdk vmdk;
    struct error err;
    store_sector(image, 12, 2048); /* capacity */
    assert_int_equal(read_bytes(image, sizeof image, &vmdk, &err), -EOPNOTSUPP);
    store_sector(image, 28, 1); /* the descriptor: from here, so long */
    store_sector(image, 36, 4);
    strcpy(image + 512, HEAD ONE_EXTENT);
    assert_int_equal(read_bytes(image, sizeof image, &vmdk, &err), 0);
    assert_true(vmdk.single);
    assert_int_equal(vmdk.extent_count, 0);
    assert_null(vmdk.parent_name);
    vmdk_done(&vmdk);

    strcpy(image + 512, HEAD ONE_EXTENT "parentCID=5\nparentFileNameHint=\"up.vmdk\"\n");
    assert_int_equal(read_bytes(image, sizeof image, &vmdk, &err), 0);
    assert_string_equal(vmdk.parent_name, "up.vmdk");
    vmdk_done(&vmdk);

    store_sector(image, 36, 100); /* beyond the end */
    assert_int_equal(read_bytes(image, sizeof image, &vmdk, &err), -EINVAL);
    store_sector(image, 36, 2049); /* too long */
    assert_int_equal(read_bytes(image, sizeof image, &vmdk, &err), -EINVAL);
    memset(image + 28, 0xff, 8);
    store_sector(image, 36, 4);
    assert_int_equal(read_bytes(image, sizeof image, &vmdk, &err), -EINVAL);
    store_sector(image, 12, 0); /* a descriptor in disguise */
    assert_int_equal(read_bytes(image, sizeof image, &vmdk, &err), -EPERM);
    assert_int_equal(read_bytes(image, 60, &vmdk, &err), -EINVAL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_descriptor_is_taken_apart),
        cmocka_unit_test(what_qemu_would_skip_or_guess_is_refused),
        cmocka_unit_test(limits_hold),
        cmocka_unit_test(a_sparse_extent_is_the_disk_itself),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
