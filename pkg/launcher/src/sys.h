/*
 * System calls of a process that has no C library: x86-64 psABI A.2.1, the
 * number in rax, arguments in rdi rsi rdx r10 r8 r9, a result in [-4095, -1]
 * is -errno; rcx and r11 are lost.
 */
#ifndef SYS_H
#define SYS_H

typedef unsigned int u32;
typedef unsigned long u64;
typedef long s64;

#define SYS_read		0
#define SYS_write		1
#define SYS_close		3
#define SYS_stat		4
#define SYS_fstat		5
#define SYS_lstat		6
#define SYS_mmap		9
#define SYS_mprotect		10
#define SYS_munmap		11
#define SYS_brk			12
#define SYS_rt_sigaction	13
#define SYS_rt_sigprocmask	14
#define SYS_ioctl		16
#define SYS_pread64		17
#define SYS_mremap		25
#define SYS_madvise		28
#define SYS_getpid		39
#define SYS_clone		56
#define SYS_execve		59
#define SYS_exit		60
#define SYS_wait4		61
#define SYS_uname		63
#define SYS_fcntl		72
#define SYS_readlink		89
#define SYS_umask		95
#define SYS_capget		125
#define SYS_personality		135
#define SYS_prctl		157
#define SYS_arch_prctl		158
#define SYS_fgetxattr		193
#define SYS_sched_getaffinity	204
#define SYS_set_tid_address	218
#define SYS_openat		257
#define SYS_readlinkat		267
#define SYS_set_robust_list	273
#define SYS_prlimit64		302
#define SYS_getrandom		318
#define SYS_execveat		322
#define SYS_rseq		334
#define SYS_openat2		437	/* since Linux 5.6 */
#define SYS_faccessat2		439

#define AT_FDCWD		(-100)
#define AT_EACCESS		0x200	/* fcntl.h */
#define X_OK			1
#define O_RDONLY		0
#define O_WRONLY		1
#define O_APPEND		02000
#define O_NONBLOCK		04000	/* or a FIFO would wait for its writer */
#define O_DIRECTORY		0200000
#define O_NOFOLLOW		0400000
#define O_CLOEXEC		02000000
#define O_PATH			010000000

#define PROT_NONE		0
#define PROT_READ		1
#define PROT_WRITE		2
#define PROT_EXEC		4
#define PROT_GROWSDOWN		0x01000000
#define MAP_PRIVATE		0x02
#define MAP_FIXED		0x10
#define MAP_ANONYMOUS		0x20
#define MAP_NORESERVE		0x04000
#define MAP_POPULATE		0x008000
#define MAP_FIXED_NOREPLACE	0x100000	/* since Linux 4.17 */
#define MREMAP_MAYMOVE		1
#define MREMAP_FIXED		2
#define MADV_POPULATE_WRITE	23	/* since Linux 5.14 */

#define TCGETS			0x5401	/* asm-generic/ioctls.h */

#define SIG_DFL			0
#define SIG_IGN			1

#define ADDR_NO_RANDOMIZE	0x0040000	/* linux/personality.h */
#define RSEQ_FLAG_UNREGISTER	1	/* linux/rseq.h */

#define S_IFMT			0170000
#define S_IFDIR			0040000
#define S_IFREG			0100000
#define S_ISUID			04000
#define S_ISGID			02000
#define S_ISVTX			01000
#define S_IXGRP			00010

#define F_GETFD			1
#define RLIMIT_STACK		3
#define RLIMIT_NOFILE		7
#define RLIM_INFINITY		(~0UL)

#define ARCH_SET_FS		0x1002		/* asm/prctl.h */
#define PR_SET_NAME		15
#define PR_GET_SECCOMP		21
#define PR_SET_MM		35
#define PR_SET_MM_MAP		14		/* since Linux 3.18 */

#define CLONE_VM		0x00000100UL	/* linux/sched.h */
#define CLONE_VFORK		0x00004000UL
#define CLONE_NEWUSER		0x10000000UL
#define WCLONE			0x80000000UL	/* linux/wait.h, __WCLONE */

#define VFS_CAP_REVISION_MASK	0xff000000U	/* linux/capability.h */
#define VFS_CAP_REVISION_2	0x02000000U
#define CAP_SYS_ADMIN		21
#define CAP_CHECKPOINT_RESTORE	40		/* since Linux 5.9 */
#define CAPABILITY_VERSION_3	0x20080522

#define EPERM			1
#define ENOENT			2
#define ENOEXEC			8
#define EAGAIN			11
#define ENOMEM			12
#define EACCES			13
#define EBUSY			16
#define EEXIST			17
#define ENOTDIR			20
#define EMFILE			24

/* auxv entries: linux/auxvec.h, asm/auxvec.h */
#define AT_NULL			0
#define AT_EXECFD		2
#define AT_PHDR			3
#define AT_PHENT		4
#define AT_PHNUM		5
#define AT_PAGESZ		6
#define AT_BASE			7
#define AT_FLAGS		8
#define AT_ENTRY		9
#define AT_UID			11
#define AT_EUID			12
#define AT_GID			13
#define AT_EGID			14
#define AT_PLATFORM		15
#define AT_HWCAP		16
#define AT_CLKTCK		17
#define AT_SECURE		23
#define AT_RANDOM		25
#define AT_HWCAP2		26
#define AT_RSEQ_FEATURE_SIZE	27
#define AT_RSEQ_ALIGN		28
#define AT_EXECFN		31
#define AT_SYSINFO_EHDR		33
#define AT_MINSIGSTKSZ		51
#define AT_COUNT		52
#define AT_FLAGS_PRESERVE_ARGV0	1	/* linux/binfmts.h, since Linux 5.12 */

struct stat {			/* asm/stat.h */
	u64 dev, ino, nlink;
	u32 mode, uid, gid, pad;
	u64 rdev;
	s64 size, blksize, blocks;
	s64 atime, atime_ns, mtime, mtime_ns, ctime, ctime_ns;
	s64 unused[3];
};

struct open_how {		/* linux/openat2.h */
	u64 flags, mode, resolve;
};
#define RESOLVE_NO_MAGICLINKS	0x02
#define RESOLVE_BENEATH		0x08

struct rlimit {
	u64 cur, max;
};

struct ehdr {			/* elf.h, Elf64_Ehdr */
	unsigned char ident[16];
	unsigned short type, machine;
	u32 version;
	u64 entry, phoff, shoff;
	u32 flags;
	unsigned short ehsize, phentsize, phnum, shentsize, shnum, shstrndx;
};
#define ELF_MAGIC		0x464c457fU
#define ELFCLASS64		2
#define ET_EXEC			2
#define ET_DYN			3
#define EM_X86_64		62

struct phdr {			/* elf.h, Elf64_Phdr */
	u32 type, flags;
	u64 offset, vaddr, paddr, filesz, memsz, align;
};
#define PT_LOAD			1
#define PT_INTERP		3
#define PT_GNU_STACK		0x6474e551
#define PF_X			1
#define PF_W			2
#define PF_R			4

struct mm_map {			/* linux/prctl.h, struct prctl_mm_map */
	u64 start_code, end_code, start_data, end_data;
	u64 start_brk, brk, start_stack;
	u64 arg_start, arg_end, env_start, env_end;
	u64 *auxv;
	u32 auxv_size;
	int exe_fd;
};

/* What rt_sigreturn(2) takes its registers from: asm/sigframe.h and
 * asm/sigcontext.h, struct rt_sigframe without the siginfo after it, which it does not
 * read (arch/x86/kernel/signal_64.c). */
struct sigframe {
	u64 pretcode;
	u64 uc_flags, uc_link, ss_sp, ss_flags, ss_size;
	u64 r8, r9, r10, r11, r12, r13, r14, r15;
	u64 rdi, rsi, rbp, rbx, rdx, rax, rcx, rsp, rip, eflags;
	u64 segments;		/* cs, gs, fs, ss: 16 bits each */
	u64 err, trapno, oldmask, cr2, fpstate, reserved[8];
	u64 sigmask;
};
#define UC_SIGCONTEXT_SS	2
#define UC_STRICT_RESTORE_SS	4
#define USER_SEGMENTS		(0x33UL | 0x2bUL << 48)
#define EFLAGS_IF		0x202
#define SS_DISABLE		2

/* Pages of 4 KiB: x86-64 psABI 3.3.1. */
#define PAGE			4096UL

static inline u64 page_down(u64 at)
{
	return at & ~(PAGE - 1);
}

static inline u64 page_up(u64 at)
{
	return page_down(at + PAGE - 1);
}

/* gcc may ask for these two whatever the flags (gcc manual, "Standards"). */
void *memcpy(void *to, const void *from, u64 n);
void *memset(void *to, int c, u64 n);

/* Also in a function that is copied away from all others (leave.c, stage). */
#define IN_LINE static inline __attribute__((always_inline))

IN_LINE long sys6(long n, u64 a, u64 b, u64 c, u64 d, u64 e, u64 f)
{
	register u64 r10 __asm__("r10") = d;
	register u64 r8 __asm__("r8") = e;
	register u64 r9 __asm__("r9") = f;
	long ret;

	__asm__ volatile("syscall" : "=a"(ret)
			 : "a"(n), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
			 : "rcx", "r11", "memory");
	return ret;
}

IN_LINE long sys4(long n, u64 a, u64 b, u64 c, u64 d)
{
	register u64 r10 __asm__("r10") = d;
	long ret;

	__asm__ volatile("syscall" : "=a"(ret)
			 : "a"(n), "D"(a), "S"(b), "d"(c), "r"(r10)
			 : "rcx", "r11", "memory");
	return ret;
}

IN_LINE long sys3(long n, u64 a, u64 b, u64 c)
{
	long ret;

	__asm__ volatile("syscall" : "=a"(ret)
			 : "a"(n), "D"(a), "S"(b), "d"(c)
			 : "rcx", "r11", "memory");
	return ret;
}

IN_LINE int failed(long ret)
{
	return (u64)ret > -4096UL;
}

static inline long open_file(const char *path)
{
	return sys3(SYS_openat, AT_FDCWD, (u64)path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
}

static inline void cpuid(u32 leaf, u32 subleaf, u32 out[4])
{
	__asm__ volatile("cpuid" : "=a"(out[0]), "=b"(out[1]), "=c"(out[2]), "=d"(out[3])
			 : "a"(leaf), "c"(subleaf));
}

/* Which register states the kernel has enabled; faults without OSXSAVE, which
 * the plan's XCR0 of 0 tells. */
static inline u64 xgetbv(void)
{
	u32 lo, hi;

	__asm__ volatile("xgetbv" : "=a"(lo), "=d"(hi) : "c"(0));
	return lo | (u64)hi << 32;
}

#endif
