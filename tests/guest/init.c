// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * All that runs in the test guest: process 1 of a Linux without anything else. It counts, writes each count
 * to all its disks and remembers it in memory, and before each step compares the two. So memory and disks
 * that are not of the same instant show, and so does a disk that is not of one instant in itself (check.py).
 *
 * A disk is written in blocks of 4 KiB: block 0 says how far it has counted, and the blocks behind it are a
 * ring of the last `slots` counts. For each count its block of the ring is written to all disks, then block 0
 * to all disks, each synchronously. So at every instant each disk has in block 0 a count n, and in the ring,
 * block 1 + n % slots, the last ones up to n, or with the next one, n + 1, in the place of its oldest.
 *
 * On the kernel's command line: slots=N; pause_us=N between counts; memory_mib=N that are changed all the
 * time; agent: runs the guest agent; ext4: the last disk has that file system, and files in it are written
 * instead. What it says on the serial line: "READY disks=N count=N"; "COUNT n", now and then; and whatever is
 * wrong in a line that begins with "WRONG".
 */
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define BLOCK     4096
#define PAGE      4096
#define DISKS_MAX 8
#define SLOTS_MAX 4096
#define SAY_EVERY 20
#define MAGIC     UINT64_C(0x31544e554f434d56) /* "VMCOUNT1" */
#define AGENT     "/usr/sbin/qemu-ga"
#define PORT      "/dev/virtio-ports/org.qemu.guest_agent.0"

struct options {
    unsigned slots, pause_us, memory_mib;
    bool agent, ext4;
};

/* A block holds the numbers of the generator that these two begin; check.py knows it, too. */
struct block {
    uint64_t magic, count, place;
    uint64_t noise[BLOCK / 8 - 3];
};

static int disks[DISKS_MAX];
static unsigned disk_count;

static uint64_t next(uint64_t *seed)
{
    *seed ^= *seed << 13;
    *seed ^= *seed >> 7;
    *seed ^= *seed << 17;
    return *seed;
}

static void fill(struct block *block, uint64_t count, uint64_t place)
{
    uint64_t seed = (count * 0x9e3779b97f4a7c15 + place) | 1;
    *block = (struct block){.magic = MAGIC, .count = count, .place = place};
    for (size_t i = 0; i < sizeof block->noise / 8; i++)
        block->noise[i] = next(&seed);
}

static void write_block(unsigned disk, const struct block *block)
{
    if (pwrite(disks[disk], block, BLOCK, (off_t)block->place * BLOCK) != BLOCK)
        printf("WRONG: disk %u, block %lu is not written: %s\n", disk, block->place, strerror(errno));
}

/* The count in a block; 0 where it was never written. */
static uint64_t read_block(unsigned disk, uint64_t place, struct block *block)
{
    if (pread(disks[disk], block, BLOCK, (off_t)place * BLOCK) != BLOCK) {
        printf("WRONG: disk %u, block %lu is not read: %s\n", disk, place, strerror(errno));
        return 0;
    }
    if (block->magic == 0)
        return 0;
    static struct block wanted;
    fill(&wanted, block->count, place);
    if (memcmp(block, &wanted, BLOCK) != 0)
        printf("WRONG: disk %u, block %lu is torn\n", disk, place);
    return block->count;
}

static void expect_block(unsigned disk, uint64_t place, uint64_t count, struct block *block)
{
    uint64_t found = read_block(disk, place, block);
    if (found != count)
        printf("WRONG: disk %u, block %lu has %lu, memory %lu\n", disk, place, found, count);
}

/* ---- memory ---- */

static uint64_t *pages, *page_counts;
static uint64_t page_total;

static uint64_t page_word(uint64_t page, uint64_t count, unsigned word)
{
    return (page * 0x9e3779b97f4a7c15 + count) ^ (word * UINT64_C(0xff51afd7ed558ccd));
}

static void change_memory(uint64_t count)
{
    static uint64_t seed = 1;
    for (int i = 0; i < 16 && page_total; i++) {
        uint64_t page = next(&seed) % page_total, *words = pages + page * (PAGE / 8);
        for (unsigned word = 0; word < PAGE / 8; word++)
            if (words[word] != (page_counts[page] ? page_word(page, page_counts[page], word) : 0)) {
                printf("WRONG: page %lu of the memory has changed\n", page);
                break;
            }
        page_counts[page] = count;
        for (unsigned word = 0; word < PAGE / 8; word++)
            words[word] = page_word(page, count, word);
    }
}

/* ---- beginning ---- */

static void load_module(const char *name)
{
    char path[64];
    snprintf(path, sizeof path, "/modules/%s.ko", name);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 && errno == ENOENT)
        return; /* this kernel has it built in */
    if (fd < 0 || (syscall(SYS_finit_module, fd, "", 0) < 0 && errno != EEXIST))
        printf("WRONG: the module %s: %s\n", name, strerror(errno));
    close(fd);
}

static unsigned number_of(const char *line, const char *key, unsigned otherwise)
{
    const char *found = strstr(line, key);
    return found ? (unsigned)strtoul(found + strlen(key), NULL, 10) : otherwise;
}

static struct options read_options(void)
{
    static char line[4096];
    FILE *file = fopen("/proc/cmdline", "re");
    if (!file || !fgets(line, sizeof line, file))
        printf("WRONG: no command line\n");
    if (file)
        fclose(file);
    struct options options = {
        .slots = number_of(line, " slots=", 64),
        .pause_us = number_of(line, " pause_us=", 2000),
        .memory_mib = number_of(line, " memory_mib=", 4),
        .agent = strstr(line, " agent") != NULL,
        .ext4 = strstr(line, " ext4") != NULL,
    };
    if (options.slots < 2 || options.slots > SLOTS_MAX)
        options.slots = 64;
    return options;
}

/* The device nodes of what the kernel finds come a moment after its driver. */
static int open_when_there(const char *path, int flags)
{
    for (int i = 0;; i++) {
        int fd = open(path, flags | O_CLOEXEC);
        if (fd >= 0 || i == 100)
            return fd;
        usleep(10000);
    }
}

static void open_disks(void)
{
    /* What the first look finds is all: virtio disks are there when their driver is. */
    usleep(200000);
    for (; disk_count < DISKS_MAX; disk_count++) {
        char path[16];
        snprintf(path, sizeof path, "/dev/vd%c", 'a' + disk_count);
        disks[disk_count] = open(path, O_RDWR | O_DIRECT | O_DSYNC | O_CLOEXEC);
        if (disks[disk_count] < 0)
            break;
    }
}

static void start_agent(void)
{
    /* Where udev would put a link to the port. */
    mkdir("/dev/virtio-ports", 0755);
    mkdir("/run", 0755);
    int fd = open_when_there("/dev/vport0p1", O_RDWR);
    const char *port = fd >= 0 ? "/dev/vport0p1" : "/dev/vport1p1";
    if (fd >= 0)
        close(fd);
    if (symlink(port, PORT) < 0)
        printf("WRONG: %s: %s\n", PORT, strerror(errno));
    if (fork() == 0) {
        execl(AGENT, AGENT, "-m", "virtio-serial", "-p", PORT, "-t", "/run", "-f", "/run/agent.pid", NULL);
        printf("WRONG: %s: %s\n", AGENT, strerror(errno));
        _exit(1);
    }
}

/* Files come, grow and go, and nothing is synchronized: what is in the journal differs from what is in place.
 */
static void write_files(const struct options *options)
{
    char device[] = "/dev/vda";
    device[7] = (char)('a' + disk_count - 1);
    mkdir("/files", 0755);
    if (mount(device, "/files", "ext4", 0, NULL) < 0)
        printf("WRONG: mounting %s: %s\n", device, strerror(errno));
    static struct block block;
    printf("READY disks=%u count=0\n", disk_count);
    for (uint64_t count = 1;; count++) {
        char path[32];
        snprintf(path, sizeof path, "/files/%lu", count % 50);
        unlink(path);
        int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
        fill(&block, count, count % 50);
        if (fd < 0 || write(fd, &block, BLOCK) != BLOCK)
            printf("WRONG: %s: %s\n", path, strerror(errno));
        close(fd);
        if (count % SAY_EVERY == 0) {
            sync(); /* now and then, that there is something in place, too */
            printf("COUNT %lu\n", count);
        }
        usleep(options->pause_us);
    }
}

/* ---- counting ---- */

static void count_for_ever(const struct options *options)
{
    static _Alignas(BLOCK) struct block block;
    static uint64_t ring[SLOTS_MAX];
    /* What an earlier boot has left; disks that were cut off between two writes may differ by one. */
    uint64_t count = disk_count ? read_block(0, 0, &block) : 0;
    for (unsigned disk = 1; disk < disk_count; disk++)
        if (read_block(disk, 0, &block) > count)
            count = block.count;
    printf("READY disks=%u count=%lu\n", disk_count, count);
    bool known = false; /* what is in the ring */
    for (uint64_t steps = 0;; steps++) {
        for (unsigned disk = 0; disk < disk_count && known; disk++) {
            expect_block(disk, 0, count, &block);
            expect_block(disk, 1 + count % options->slots, ring[count % options->slots], &block);
            /* What comes next shows a disk that is ahead, and any other one that is behind. */
            expect_block(disk, 1 + (count + 1) % options->slots, ring[(count + 1) % options->slots], &block);
            expect_block(disk, 1 + steps % options->slots, ring[steps % options->slots], &block);
        }
        count++;
        ring[count % options->slots] = count;
        fill(&block, count, 1 + count % options->slots);
        for (unsigned disk = 0; disk < disk_count; disk++)
            write_block(disk, &block);
        fill(&block, count, 0);
        for (unsigned disk = 0; disk < disk_count; disk++)
            write_block(disk, &block);
        change_memory(count);
        known = known || steps + 1 >= options->slots;
        if (count % SAY_EVERY == 0)
            printf("COUNT %lu%s\n", count, known ? " compared" : "");
        usleep(options->pause_us);
    }
}

int main(void)
{
    mkdir("/proc", 0755);
    mkdir("/sys", 0755);
    mkdir("/dev", 0755);
    mount("proc", "/proc", "proc", 0, NULL);
    mount("sysfs", "/sys", "sysfs", 0, NULL);
    mount("devtmpfs", "/dev", "devtmpfs", 0, NULL);
    int console = open("/dev/console", O_RDWR);
    for (int fd = 0; fd < 3; fd++)
        dup2(console, fd);
    setvbuf(stdout, NULL, _IOLBF, 0);
    static const char *const modules[] = {
        /* Each after what it needs. */
        "virtio_ring", "virtio",     "virtio_pci_legacy_dev", "virtio_pci_modern_dev",
        "virtio_pci",  "virtio_blk", "virtio_console",
    };
    for (size_t i = 0; i < sizeof modules / sizeof *modules; i++)
        load_module(modules[i]);
    const struct options options = read_options();
    page_total = (uint64_t)options.memory_mib * (1 << 20) / PAGE;
    pages = calloc(page_total + 1, PAGE);
    page_counts = calloc(page_total + 1, sizeof *page_counts);
    if (!pages || !page_counts) {
        printf("WRONG: out of memory\n");
        page_total = 0;
    }
    open_disks();
    if (options.agent)
        start_agent();
    if (options.ext4 && disk_count)
        write_files(&options);
    count_for_ever(&options);
}
