/* Which system calls a confined process may make: a seccomp filter built from three tables.
 *
 * Old calls that newer architectures do not have (poll, open, ...) are left out where the kernel's headers lack them.
 */
#ifndef NETSTACK_CONFINEMENT_H
#define NETSTACK_CONFINEMENT_H

#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#if defined(__x86_64__)
#define CONFINEMENT_ARCH AUDIT_ARCH_X86_64
#elif defined(__aarch64__)
#define CONFINEMENT_ARCH AUDIT_ARCH_AARCH64
#else
#define CONFINEMENT_ARCH 0       /* no table for it: seccomp is left out */
#endif

/* Whatever their arguments are. Which files may be opened is Landlock's business. */
static const int confinement_allowed[] = {
    /* bytes and descriptors */
    SYS_read, SYS_write, SYS_readv, SYS_writev, SYS_pread64, SYS_pwrite64, SYS_lseek, SYS_close, SYS_dup, SYS_dup3,
    SYS_fcntl, SYS_flock, SYS_pipe2, SYS_eventfd2, SYS_epoll_create1, SYS_epoll_ctl, SYS_epoll_pwait, SYS_ppoll,
    SYS_pselect6, SYS_fstat, SYS_ftruncate, SYS_fallocate, SYS_memfd_create, SYS_splice,
    /* sockets that exist; which kinds may be made is judged apart */
    SYS_bind, SYS_listen, SYS_accept, SYS_accept4, SYS_connect, SYS_shutdown, SYS_sendto, SYS_sendmsg, SYS_sendmmsg,
    SYS_recvfrom, SYS_recvmsg, SYS_recvmmsg, SYS_getsockname, SYS_getpeername, SYS_getsockopt, SYS_setsockopt,
    /* files */
    SYS_openat, SYS_unlinkat, SYS_readlinkat, SYS_getdents64, SYS_getcwd, SYS_faccessat, SYS_fchmod, SYS_fchmodat,
    SYS_fstatfs, SYS_statfs, SYS_mkdirat, SYS_umask, SYS_renameat2,
    /* memory: executable pages are judged apart */
    SYS_munmap, SYS_mremap, SYS_madvise, SYS_brk, SYS_mlock, SYS_munlock, SYS_membarrier, SYS_mincore, SYS_msync,
    /* threads and time */
    SYS_futex, SYS_set_robust_list, SYS_sched_yield, SYS_sched_getaffinity, SYS_sched_setaffinity, SYS_gettid,
    SYS_getpid, SYS_getppid, SYS_getuid, SYS_geteuid, SYS_getgid, SYS_getegid, SYS_nanosleep, SYS_clock_nanosleep,
    SYS_clock_gettime, SYS_clock_getres, SYS_gettimeofday, SYS_timerfd_create, SYS_timerfd_settime, SYS_getrandom,
    SYS_exit, SYS_exit_group, SYS_restart_syscall, SYS_getrusage, SYS_sysinfo, SYS_uname, SYS_getcpu, SYS_getpriority,
    SYS_setpriority, SYS_sched_getscheduler, SYS_sched_getparam,
    /* signals, to itself alone (tgkill is judged apart) */
    SYS_rt_sigaction, SYS_rt_sigprocmask, SYS_rt_sigreturn, SYS_rt_sigtimedwait, SYS_rt_sigpending, SYS_sigaltstack,
    SYS_prlimit64, SYS_wait4, SYS_pidfd_open,
#ifdef SYS_rseq
    SYS_rseq,
#endif
#ifdef SYS_epoll_pwait2
    SYS_epoll_pwait2,
#endif
#ifdef SYS_faccessat2
    SYS_faccessat2,
#endif
#ifdef SYS_close_range
    SYS_close_range,
#endif
#ifdef SYS_statx
    SYS_statx,
#endif
#ifdef SYS_futex_waitv
    SYS_futex_waitv,
#endif
#ifdef SYS_newfstatat
    SYS_newfstatat,
#endif
#ifdef SYS_fstatat
    SYS_fstatat,
#endif
#ifdef SYS_poll              /* x86-64: the older names of the same */
    SYS_poll, SYS_select, SYS_epoll_wait, SYS_epoll_create, SYS_open, SYS_stat, SYS_lstat, SYS_access, SYS_unlink,
    SYS_readlink, SYS_mkdir, SYS_chmod, SYS_rename, SYS_dup2, SYS_pipe, SYS_eventfd, SYS_time, SYS_getdents,
    SYS_arch_prctl, SYS_getrlimit,
#endif
};

/* A process that makes one of these is not the program that we started: it is ended. */
static const int confinement_fatal[] = {
    SYS_execve, SYS_execveat, SYS_ptrace, SYS_process_vm_readv, SYS_process_vm_writev, SYS_bpf, SYS_perf_event_open,
    SYS_mount, SYS_umount2, SYS_pivot_root, SYS_chroot, SYS_setns, SYS_unshare, SYS_kexec_load, SYS_init_module,
    SYS_finit_module, SYS_delete_module, SYS_add_key, SYS_keyctl, SYS_request_key, SYS_open_by_handle_at, SYS_reboot,
    SYS_swapon, SYS_swapoff, SYS_userfaultfd, SYS_setuid, SYS_setresuid, SYS_setgid, SYS_setresgid, SYS_capset,
    SYS_personality, SYS_settimeofday, SYS_clock_settime, SYS_acct, SYS_quotactl,
#ifdef SYS_io_uring_setup
    SYS_io_uring_setup, SYS_io_uring_enter, SYS_io_uring_register,
#endif
#ifdef SYS_pidfd_getfd
    SYS_pidfd_getfd,
#endif
#ifdef SYS_process_madvise
    SYS_process_madvise,
#endif
};

/* ioctls of any descriptor: is it a terminal and how wide, close-on-exec, non-blocking, bytes waiting. */
static const unsigned confinement_ioctls[] = {
    0x5401 /* TCGETS */, 0x5413 /* TIOCGWINSZ */, 0x5421 /* FIONBIO */, 0x5450 /* FIONCLEX */, 0x5451 /* FIOCLEX */,
    0x541B /* FIONREAD */,
};

enum {
    CONFINEMENT_ALLOWED = sizeof confinement_allowed / sizeof confinement_allowed[0],
    CONFINEMENT_FATAL = sizeof confinement_fatal / sizeof confinement_fatal[0],
    CONFINEMENT_IOCTLS = sizeof confinement_ioctls / sizeof confinement_ioctls[0],
    CONFINEMENT_FAMILIES = 8,
    CONFINEMENT_PROGRAM = 2 * (CONFINEMENT_ALLOWED + CONFINEMENT_FATAL + CONFINEMENT_IOCTLS + CONFINEMENT_FAMILIES) + 64,
};

typedef struct {
    struct sock_filter code[CONFINEMENT_PROGRAM];
    unsigned short n;
} confinement_t;

static inline void confinement_put(confinement_t *c, unsigned short code, unsigned k, unsigned char jt, unsigned char jf)
{
    c->code[c->n++] = (struct sock_filter){code, jt, jf, k};
}

static inline void confinement_load(confinement_t *c, size_t offset)
{
    confinement_put(c, BPF_LD | BPF_W | BPF_ABS, (unsigned)offset, 0, 0);
}

static inline void confinement_return(confinement_t *c, unsigned action)
{
    confinement_put(c, BPF_RET | BPF_K, action, 0, 0);
}

/* If the loaded word is `value`, this is the verdict. */
static inline void confinement_case(confinement_t *c, unsigned value, unsigned action)
{
    confinement_put(c, BPF_JMP | BPF_JEQ | BPF_K, value, 0, 1);
    confinement_return(c, action);
}

/* If the call's number is `number`, the following `length` instructions judge its arguments, and end. */
static inline void confinement_unless(confinement_t *c, int number, unsigned char length)
{
    confinement_put(c, BPF_JMP | BPF_JEQ | BPF_K, (unsigned)number, 0, length);
}

#define CONFINEMENT_ARGUMENT(i) (offsetof(struct seccomp_data, args) + 8 * (i))     /* its low half, little-endian */

/* The filter for a process `pid` that may make sockets of these families. Little-endian architectures. */
static inline void confinement_build(confinement_t *c, int pid, const int *families, int n_families)
{
    const unsigned refuse = SECCOMP_RET_ERRNO | 1;            /* EPERM */
    const unsigned missing = SECCOMP_RET_ERRNO | 38;          /* ENOSYS: libc has another way */
    c->n = 0;
    confinement_load(c, offsetof(struct seccomp_data, arch));
    confinement_put(c, BPF_JMP | BPF_JEQ | BPF_K, CONFINEMENT_ARCH, 1, 0);
    confinement_return(c, SECCOMP_RET_KILL_PROCESS);
    confinement_load(c, offsetof(struct seccomp_data, nr));
    for (int i = 0; i < CONFINEMENT_FATAL; i++)
        confinement_case(c, (unsigned)confinement_fatal[i], SECCOMP_RET_KILL_PROCESS);
    for (int i = 0; i < CONFINEMENT_ALLOWED; i++)
        confinement_case(c, (unsigned)confinement_allowed[i], SECCOMP_RET_ALLOW);
    for (int i = 0; i < 2; i++) {
        confinement_unless(c, i ? SYS_socketpair : SYS_socket, (unsigned char)(2 * n_families + 2));
        confinement_load(c, CONFINEMENT_ARGUMENT(0));
        for (int f = 0; f < n_families; f++)
            confinement_case(c, (unsigned)families[f], SECCOMP_RET_ALLOW);
        confinement_return(c, refuse);
    }
    for (int i = 0; i < 2; i++) {                              /* no new executable pages */
        confinement_unless(c, i ? SYS_mprotect : SYS_mmap, 4);
        confinement_load(c, CONFINEMENT_ARGUMENT(2));
        confinement_put(c, BPF_JMP | BPF_JSET | BPF_K, PROT_EXEC, 0, 1);
        confinement_return(c, refuse);
        confinement_return(c, SECCOMP_RET_ALLOW);
    }
    confinement_unless(c, SYS_clone, 4);                       /* threads, no processes */
    confinement_load(c, CONFINEMENT_ARGUMENT(0));
    confinement_put(c, BPF_JMP | BPF_JSET | BPF_K, 0x00010000 /* CLONE_THREAD */, 0, 1);
    confinement_return(c, SECCOMP_RET_ALLOW);
    confinement_return(c, refuse);
#ifdef SYS_clone3
    confinement_case(c, SYS_clone3, missing);                  /* its flags lie in memory: libc takes clone instead */
#endif
    confinement_unless(c, SYS_tgkill, 4);
    confinement_load(c, CONFINEMENT_ARGUMENT(0));
    confinement_put(c, BPF_JMP | BPF_JEQ | BPF_K, (unsigned)pid, 0, 1);
    confinement_return(c, SECCOMP_RET_ALLOW);
    confinement_return(c, refuse);
    confinement_unless(c, SYS_prctl, 6);                       /* names of threads; not what was given up */
    confinement_load(c, CONFINEMENT_ARGUMENT(0));
    confinement_case(c, 15 /* PR_SET_NAME */, SECCOMP_RET_ALLOW);
    confinement_case(c, 16 /* PR_GET_NAME */, SECCOMP_RET_ALLOW);
    confinement_return(c, refuse);
    confinement_unless(c, SYS_ioctl, (unsigned char)(2 * CONFINEMENT_IOCTLS + 2));
    confinement_load(c, CONFINEMENT_ARGUMENT(1));
    for (int i = 0; i < CONFINEMENT_IOCTLS; i++)
        confinement_case(c, confinement_ioctls[i], SECCOMP_RET_ALLOW);
    confinement_return(c, refuse);
    confinement_return(c, refuse);
}

#endif
