// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * See confinement.h. The kernel's interfaces: Documentation/userspace-api/landlock.rst and
 * seccomp_filter.rst. What <linux/landlock.h> of Debian 12 does not know yet is spelled out here.
 */
#include "helper/confinement.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/landlock.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/cleanup.h"

#define FS_TRUNCATE                (UINT64_C(1) << 14) /* ABI 3, Linux 6.2 */
#define FS_IOCTL_DEV               (UINT64_C(1) << 15) /* ABI 5, Linux 6.10 */
#define NET_BIND                   (UINT64_C(1) << 0)  /* ABI 4, Linux 6.7 */
#define NET_CONNECT                (UINT64_C(1) << 1)
#define SCOPE_ABSTRACT_UNIX_SOCKET (UINT64_C(1) << 0) /* ABI 6, Linux 6.12 */
#define SCOPE_SIGNAL               (UINT64_C(1) << 1)

/* struct landlock_ruleset_attr of ABI 6; older kernels take the beginning of it. */
struct ruleset_attributes {
    uint64_t handled_access_fs;
    uint64_t handled_access_net;
    uint64_t scoped;
};

#define FS_READ_LIBRARIES (LANDLOCK_ACCESS_FS_READ_FILE | LANDLOCK_ACCESS_FS_EXECUTE)
#define FS_READ           (LANDLOCK_ACCESS_FS_READ_FILE | LANDLOCK_ACCESS_FS_READ_DIR | FS_IOCTL_DEV)
#define FS_MAKE_DEVICE    (LANDLOCK_ACCESS_FS_MAKE_CHAR | LANDLOCK_ACCESS_FS_MAKE_BLOCK)
/* What a rule for something that is no directory may contain. */
#define FS_OF_A_FILE                                                                                         \
    (LANDLOCK_ACCESS_FS_EXECUTE | LANDLOCK_ACCESS_FS_WRITE_FILE | LANDLOCK_ACCESS_FS_READ_FILE |             \
     FS_TRUNCATE | FS_IOCTL_DEV)

/* What a dynamically linked program reads by itself. Of /etc only what the loader wants: there lie secrets.
 * The library folders can be read but not listed. */
static const char *const library_paths[] = {
    "/lib",       "/lib32",      "/lib64",         "/libx32",          "/usr/lib", "/usr/lib32",
    "/usr/lib64", "/usr/libx32", "/usr/local/lib", "/usr/local/lib64", NULL,
};
static const char *const loader_paths[] = {"/etc/ld.so.cache", "/etc/ld.so.preload", NULL};
static const char *const device_paths[] = {"/dev/null", "/dev/zero", "/dev/random", "/dev/urandom", NULL};
/* What finding a host reads. */
static const char *const resolver_paths[] = {
    "/etc/resolv.conf",   "/run/systemd/resolve", "/etc/hosts",    "/etc/host.conf",
    "/etc/nsswitch.conf", "/etc/gai.conf",        "/etc/services", NULL,
};

/* ---- Landlock, in the parent ---- */

static int allow_fd(int ruleset_fd, uint64_t handled, int fd, uint64_t access)
{
    struct stat stat;
    if (fstat(fd, &stat) < 0)
        return -errno;
    if (!S_ISDIR(stat.st_mode))
        access &= FS_OF_A_FILE;
    struct landlock_path_beneath_attr rule = {.allowed_access = access & handled, .parent_fd = fd};
    if (syscall(SYS_landlock_add_rule, ruleset_fd, LANDLOCK_RULE_PATH_BENEATH, &rule, 0) < 0)
        return -errno;
    return 0;
}

static int allow_path(int ruleset_fd, uint64_t handled, const char *path, uint64_t access)
{
    cleanup_close int fd = open(path, O_PATH | O_CLOEXEC);
    return fd < 0 ? -errno : allow_fd(ruleset_fd, handled, fd, access);
}

/* Paths that a system may lack are skipped, and so are those that the helper could not read anyway. */
static int allow_if_there(int ruleset_fd, uint64_t handled, const char *const *paths, uint64_t access,
                          struct error *err)
{
    for (; *paths; paths++) {
        int rc = allow_path(ruleset_fd, handled, *paths, access);
        if (rc < 0 && rc != -ENOENT && rc != -ENOTDIR && rc != -EACCES)
            return error_set(err, -rc, "%s can't be made readable for a helper: %s", *paths, strerror(-rc));
    }
    return 0;
}

static int allow_given(int ruleset_fd, uint64_t handled, const char *const *paths, uint64_t access,
                       struct error *err)
{
    for (; paths && *paths; paths++) {
        int rc = allow_path(ruleset_fd, handled, *paths, access);
        if (rc < 0)
            return error_set(err, -rc, "%s can't be given to a helper: %s", *paths, strerror(-rc));
    }
    return 0;
}

static int allow_passed(int ruleset_fd, uint64_t handled, const struct sandbox_spec *spec, struct error *err)
{
    for (size_t i = 0; i < spec->pass_fd_count; i++) {
        struct stat stat;
        if (fstat(spec->pass_fds[i], &stat) < 0)
            return error_set(err, errno, "a descriptor can't be given to a helper: %m");
        if (!S_ISREG(stat.st_mode) && !S_ISBLK(stat.st_mode))
            continue;
        int rc =
            allow_fd(ruleset_fd, handled, spec->pass_fds[i], LANDLOCK_ACCESS_FS_READ_FILE | FS_IOCTL_DEV);
        /* EBADFD: a memfd, which lies in no file system that has rules, and may always be opened. */
        if (rc < 0 && rc != -EBADFD)
            return error_set(err, -rc, "a file can't be given to a helper: %s", strerror(-rc));
    }
    return 0;
}

static uint64_t handled_by(long abi)
{
    uint64_t handled = LANDLOCK_ACCESS_FS_MAKE_SYM * 2 - 1; /* ABI 1: the bits up to MAKE_SYM */
    if (abi >= 2)
        handled |= LANDLOCK_ACCESS_FS_REFER;
    if (abi >= 3)
        handled |= FS_TRUNCATE;
    if (abi >= 5)
        handled |= FS_IOCTL_DEV;
    return handled;
}

static int make_ruleset(const struct sandbox_spec *spec, const char *program, long abi, int *ruleset,
                        struct error *err)
{
    uint64_t handled = handled_by(abi);
    struct ruleset_attributes attributes = {.handled_access_fs = handled};
    size_t size = sizeof attributes.handled_access_fs;
    if (abi >= 4) {
        attributes.handled_access_net = NET_BIND | (spec->network == SANDBOX_INTERNET ? 0 : NET_CONNECT);
        size = offsetof(struct ruleset_attributes, scoped);
    }
    if (abi >= 6) {
        attributes.scoped = SCOPE_SIGNAL | SCOPE_ABSTRACT_UNIX_SOCKET;
        size = sizeof attributes;
    }
    cleanup_close int fd = (int)syscall(SYS_landlock_create_ruleset, &attributes, size, 0);
    if (fd < 0)
        return error_set(err, errno, "a Landlock ruleset can't be made: %m");

    int rc = allow_path(fd, handled, program, FS_READ_LIBRARIES);
    if (rc < 0)
        return error_set(err, -rc, "%s: %s", program, strerror(-rc));
    rc = allow_if_there(fd, handled, library_paths, FS_READ_LIBRARIES, err);
    if (rc == 0)
        rc = allow_if_there(fd, handled, loader_paths, LANDLOCK_ACCESS_FS_READ_FILE, err);
    if (rc == 0)
        rc = allow_if_there(fd, handled, device_paths,
                            LANDLOCK_ACCESS_FS_READ_FILE | LANDLOCK_ACCESS_FS_WRITE_FILE, err);
    if (rc == 0 && spec->network == SANDBOX_INTERNET)
        rc = allow_if_there(fd, handled, resolver_paths, FS_READ, err);
    if (rc == 0 && spec->read_if_there)
        rc = allow_if_there(fd, handled, spec->read_if_there, FS_READ, err);
    if (rc == 0)
        rc = allow_given(fd, handled, spec->read_paths, FS_READ, err);
    if (rc == 0)
        rc = allow_given(fd, handled, spec->write_paths,
                         handled & ~(LANDLOCK_ACCESS_FS_EXECUTE | FS_MAKE_DEVICE), err);
    if (rc == 0)
        rc = allow_passed(fd, handled, spec, err);
    if (rc == 0)
        *ruleset = steal_fd(&fd);
    return rc;
}

int confinement_prepare(const struct sandbox_spec *spec, const char *program, struct confinement *confinement,
                        struct error *err)
{
    struct confinement made = {
        .ruleset_fd = -1,
        .network = spec->network,
        .filter_optional = spec->without_landlock,
        .writes = spec->write_paths && *spec->write_paths,
    };
    long abi = syscall(SYS_landlock_create_ruleset, NULL, 0, LANDLOCK_CREATE_RULESET_VERSION);
    if (abi < 1) {
        if (!spec->without_landlock)
            return error_set(
                err, EOPNOTSUPP,
                "%s is not started: this kernel has no Landlock (Linux 5.13, lsm=landlock), so an "
                "image could make it read any file",
                program);
    } else {
        int rc = make_ruleset(spec, program, abi, &made.ruleset_fd, err);
        if (rc < 0)
            return rc;
    }
    *confinement = made;
    return 0;
}

void confinement_done(struct confinement *confinement)
{
    if (confinement->ruleset_fd >= 0)
        close(confinement->ruleset_fd);
    confinement->ruleset_fd = -1;
}

/* ---- in the child: async-signal-safe ---- */

#if defined(__x86_64__)
#define AUDIT_ARCH_HERE AUDIT_ARCH_X86_64
#elif defined(__aarch64__) && defined(__AARCH64EL__)
#define AUDIT_ARCH_HERE AUDIT_ARCH_AARCH64
#elif defined(__riscv) && __riscv_xlen == 64
#define AUDIT_ARCH_HERE AUDIT_ARCH_RISCV64
#elif defined(__powerpc64__) && defined(__LITTLE_ENDIAN__)
#define AUDIT_ARCH_HERE AUDIT_ARCH_PPC64LE
#endif

/* Families of sockets that may be made; the C library asks the kernel by netlink which addresses it has. */
#define FAMILIES_MAX 3
#define NO_FAMILY    0xffff
static const uint32_t families_allowed[][FAMILIES_MAX] = {
    [SANDBOX_NO_NETWORK] = {NO_FAMILY, NO_FAMILY, NO_FAMILY},
    [SANDBOX_INTERNET] = {AF_INET, AF_INET6, AF_NETLINK},
    [SANDBOX_UNIX_SOCKETS] = {AF_UNIX, AF_UNIX, AF_UNIX},
};

static int refuse_sockets(enum sandbox_network network)
{
#ifdef AUDIT_ARCH_HERE
    const uint32_t *families = families_allowed[network];
    /* io_uring can make sockets too (IORING_OP_SOCKET). QEMU falls back to threads and poll. A call by
     * another architecture's numbers (on x86-64: i386, and x32, whose numbers have bit 30) ends the helper.
     */
    struct sock_filter instructions[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, arch)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, AUDIT_ARCH_HERE, 1, 0),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JGE | BPF_K, 0x40000000, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_io_uring_setup, 5, 0),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_socket, 0, 5),
        /* The family is an int: the lower half of the argument, on these little-endian machines. */
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, families[0], 3, 0),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, families[1], 2, 0),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, families[2], 1, 0),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EACCES),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {
        .len = sizeof instructions / sizeof *instructions,
        .filter = instructions,
    };
    if (prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) < 0)
        return -errno;
#endif
    return 0;
}

/*
 * Takes away all capabilities but those without which a helper of root could not open images that belong to
 * other users. After no_new_privs, exec gives none back.
 */
static int drop_capabilities(bool writes)
{
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct data[_LINUX_CAPABILITY_U32S_3] = {0};
    if (syscall(SYS_capget, &header, data) < 0)
        return -errno;
    uint32_t kept = CAP_TO_MASK(CAP_DAC_READ_SEARCH) | (writes ? CAP_TO_MASK(CAP_DAC_OVERRIDE) : 0);
    kept &= data[0].permitted;
    memset(data, 0, sizeof data);
    data[0].permitted = kept;
    data[0].effective = kept;
    return syscall(SYS_capset, &header, data) < 0 ? -errno : 0;
}

int confinement_enter(const struct confinement *confinement, int ruleset_fd)
{
    int rc = drop_capabilities(confinement->writes);
    if (rc < 0)
        return rc;
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
        return -errno;
    if (confinement->ruleset_fd >= 0 && syscall(SYS_landlock_restrict_self, ruleset_fd, 0) < 0)
        return -errno;
    rc = refuse_sockets(confinement->network);
    return rc < 0 && confinement->filter_optional ? 0 : rc;
}
