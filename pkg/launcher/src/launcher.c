/*
 * The launcher: a process that has just been exec'd becomes the program whose
 * image the plan describes.
 *
 * The phases, top to bottom, and what exists in each:
 *
 *   look at the caller   the kernel's stack, the launcher's own text; no C
 *                        library, no TLS, no heap, no writable data but the
 *                        stack
 *   read the plan        + the plan, mapped below the launcher
 *   ask what must be true
 *   map                  + the image; the vDSO has moved
 *   register             + TLS, as far as the kernel knows
 *   correct the words
 *   leave                the image, the stack and the vDSO; nothing else
 *
 * Until the jump in leave() every doubt is answered by execve of the program,
 * which discards all that was done. Where an exec would only come back here,
 * everything is undone instead, and the program started as an exec would have.
 * The launcher decides nothing that the plan has not decided: it validates, then
 * carries out.
 */
#include "load.h"
#include "plan.h"

#define SCRATCH		16384UL		/* below the launcher, for paths that are put together */
/*
 * How far below the launcher the plan ends. With so much between them one munmap of
 * both spans more than 33 pages and flushes the TLB once, instead of page by page
 * (arch/x86/mm/tlb.c, tlb_single_page_flush_ceiling), which traps in some virtual
 * machines: 17 instead of 50 us.
 */
#define PLAN_GAP	147456UL
#define PLAN_MAX	(16UL << 20)	/* and below that a plan of at most this size */
#define VDSO_DATA	(16 * 4096UL)	/* at most so much of the vDSO's mappings is before its code */
#define PATH_LEN	4096
#define SUMMED		(__builtin_offsetof(struct plan_header, program) / 8)
#define INTERP_OFFSET	32	/* of _interp in start_amd64.S */
#define KEPT		2	/* at most as many files stand where a program does: it and CRIU's pages */
#define GUARD_GAP	(256 * 4096UL)	/* mm/mmap.c, stack_guard_gap: what the kernel keeps free below a stack */

/* Stands behind the launcher in a launcher file; pkg/launcher writes it. */
struct config {
	u64 magic;		/* tells a launcher file to whoever reads it */
	u32 front;		/* treat the arguments as residentctl's own */
	u32 program, plan;	/* offsets from the configuration's start to NUL-terminated strings;
				 * the program may have more names behind the first, then stands an empty one */
	u32 stores[4];		/* front, interp: the stores to look in; front has default ones */
	u32 linker;		/* interp: where the dynamic linker is that this one covers */
	s64 entry, base;	/* interp: its entry and its first byte, from the launcher's */
	u64 span;		/* interp: of the whole mapping of it */
	u32 root;		/* interp: whom stat(2) shows for root, 0 but in a user namespace */
	u32 log;		/* interp: the file to note starts in, or 0 */
};
_Static_assert(sizeof(struct config) == 72, "pkg/launcher knows the size");

/* What is known of this process. */
struct text;
struct caller {
	u64 *sp;		/* the initial stack: argc */
	char **argv, **envp;
	u64 *auxv;
	u64 *auxv_end;		/* behind AT_NULL */
	u64 aux[AT_COUNT];
	u64 start, end;		/* the launcher's own mappings, to be taken away */
	u64 below;		/* what the launcher maps for itself stands below this */
	const char *linker;	/* interp: what to open instead of the dynamic linker */
	u64 program_at, program_end; /* interp: what the kernel has mapped of the program */
	int in_place;		/* interp: and that is where the image has it too */
	long kept[KEPT];	/* interp: then what is to be mapped over it, in the plan's order */
	u32 keeps;		/* how many files that is */
	const char *log;	/* interp: where to note the start, or 0 */
	long given;		/* binfmt_misc: a descriptor of the program, else -1 */
	int filtered;		/* binfmt_misc, exec_behind: there is a seccomp filter */
	struct text *own;	/* interp, binfmt_misc: for the program's path, once it is asked for */
	u32 mapped;		/* how much of the image is mapped */
	u64 arg_start, arg_end, env_end; /* where the strings stand */
	const char *program;	/* what an exec would have been given */
	const char *name;	/* front: comm, if it has to be set */
	int explain, strict;
	u32 root;		/* root's uid as this process sees it */
	int may_set_exe;	/* may it say which file it executes? */
	const char *plan;	/* the mapped plan, or NULL */
	u64 plan_size;		/* with the room up to the launcher's texts, which is mapped with it */
};

/* Why the program is not started from its image. */
struct reason {
	const char *why;
	const char *what;	/* a path, or NULL */
};

#define NO(text)	return (struct reason){ text, 0 }
#define NO_FOR(text, path) return (struct reason){ text, path }
#define YES		((struct reason){ 0, 0 })

static const char NOT_RESIDENT[] = "it is not resident";

void *memcpy(void *to, const void *from, u64 n)
{
	void *ret = to;

	__asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(n) : : "memory");
	return ret;
}

void *memset(void *to, int c, u64 n)
{
	void *ret = to;

	__asm__ volatile("rep stosb" : "+D"(to), "+c"(n) : "a"(c) : "memory");
	return ret;
}

static u64 length(const char *s)
{
	u64 n = 0;

	while (s[n])
		n++;
	return n;
}

static int equal(const char *a, const char *b)
{
	while (*a && *a == *b)
		a++, b++;
	return *a == *b;
}

static int same(const void *a, const void *b, u64 n)
{
	const char *x = a, *y = b;

	while (n && *x == *y)
		n--, x++, y++;
	return n == 0;
}

static int starts(const char *s, const char *prefix)
{
	while (*prefix && *s == *prefix)
		s++, prefix++;
	return *prefix == 0;
}

static const char *base_name(const char *path)
{
	const char *base = path;

	for (; *path; path++)
		if (*path == '/')
			base = path + 1;
	return base;
}

static int same_folder(const char *a, const char *b)
{
	u64 n = base_name(a) - a;

	return n == (u64)(base_name(b) - b) && same(a, b, n);
}

/* A message or a path that is put together; what does not fit is cut. */
struct text {
	u64 len;
	char buf[PATH_LEN + 256];
};

/*
 * Room for a path that is short, as most are: this much stack is always there, and
 * fresh memory costs a start some microseconds. Whoever takes it for a struct text
 * has seen to it that the path fits.
 */
#define SHORT	256
struct short_text {
	u64 len;
	char buf[SHORT];
};

static void add(struct text *t, const char *s)
{
	while (*s && t->len < sizeof(t->buf) - 1)
		t->buf[t->len++] = *s++;
	t->buf[t->len] = 0;
}

#define DIGITS	24

static void add_number(struct text *t, u64 n)
{
	char digits[DIGITS], *p = digits + DIGITS - 1;

	*p = 0;
	do
		*--p = '0' + n % 10;
	while (n /= 10);
	add(t, p);
}

#define INFO	"residentctl: "
#define ERROR	"residentctl: error: "

/*
 * Fresh memory for texts, at a place or anywhere: not on the stack, which a
 * limit may keep at two pages. 0 if there is none.
 */
static struct text *fresh(u64 at, u64 len)
{
	long ret = sys6(SYS_mmap, at, len, PROT_READ | PROT_WRITE,
			MAP_PRIVATE | MAP_ANONYMOUS | (at ? MAP_FIXED_NOREPLACE : 0), -1, 0);

	return failed(ret) ? 0 : (struct text *)ret;
}

/*
 * What the launcher maps for itself stands beside it, the paths first, then the plan:
 * it needs no page tables of its own there, which cost more than what they map, and
 * one munmap takes all of it away.
 */
static struct text *scratch(const struct caller *c)
{
	return fresh(c->below - SCRATCH, SCRATCH);
}

static u64 plan_place(const struct caller *c, u64 size)
{
	return (c->below - PLAN_GAP - size) & ~4095UL;
}

/* The lowest byte of that. */
static u64 lowest(const struct caller *c)
{
	return c->plan ? (u64)c->plan : c->below - SCRATCH;
}

static void tell(const struct caller *c, const char *head, const char *way, const char *why, const char *what, long err)
{
	struct text *t = fresh(0, sizeof(*t));

	if (!t)
		return;
	add(t, head);
	add(t, c->program);
	add(t, ": ");
	add(t, way);
	add(t, ": ");
	add(t, why);
	if (what) {
		add(t, " ");
		add(t, what);
	}
	if (err)
		add_number(t, err);
	add(t, "\n");
	sys3(SYS_write, 2, (u64)t->buf, t->len);
	sys3(SYS_munmap, (u64)t, sizeof(*t), 0);
}

/* ---- look at the caller ------------------------------------------------ */

/* The initial stack, psABI 3.4.1. */
static void look(struct caller *c, u64 *sp)
{
	u64 *p;

	c->sp = sp;
	c->argv = (char **)(sp + 1);
	c->envp = c->argv + *sp + 1;
	for (p = (u64 *)c->envp; *p; p++)
		;
	c->auxv = ++p;
	for (; *p != AT_NULL; p += 2)
		if (*p < AT_COUNT)
			c->aux[*p] = p[1];
	c->auxv_end = p + 2;
}

/* Where the strings stand: arguments, environment, the path that was exec'd, in
 * this order (fs/exec.c, do_execveat_common). */
static void find_strings(struct caller *c)
{
	c->env_end = c->aux[AT_EXECFN];
	c->arg_end = c->envp[0] ? (u64)c->envp[0] : c->env_end;
	c->arg_start = c->argv[0] ? (u64)c->argv[0] : c->arg_end;
}

/* Where the launcher, or the residentctl around it, is mapped: from its own
 * program headers, which are linked where they stand. */
static void find_self(struct caller *c)
{
	const struct phdr *ph = (const struct phdr *)c->aux[AT_PHDR];
	u64 i;

	c->start = ~0UL;
	for (i = 0; i < c->aux[AT_PHNUM]; i++) {
		u64 from = ph[i].vaddr & ~4095UL, to = (ph[i].vaddr + ph[i].memsz + 4095) & ~4095UL;

		if (ph[i].type != PT_LOAD)
			continue;
		if (from < c->start)
			c->start = from;
		if (to > c->end)
			c->end = to;
	}
	c->below = c->start;
}

/* What `run` hands to the launcher file that it executes: this variable, the last,
 * with the letters s for --strict and e for --explain, a colon, and the process's
 * id, so that none that somebody else has set is taken for it. */
#define HANDED	"RESIDENTCTL_RUN="

static int handed(struct caller *c, const char *s)
{
	u64 pid = 0;
	int strict, explain;

	if (!starts(s, HANDED))
		return 0;
	s += sizeof(HANDED) - 1;
	strict = *s == 's';
	s += strict;
	explain = *s == 'e';
	s += explain;
	if (!(strict || explain) || *s++ != ':' || *s == '0')
		return 0;
	for (; *s >= '0' && *s <= '9'; s++)
		pid = pid * 10 + *s - '0';
	if (*s || pid != (u64)sys3(SYS_getpid, 0, 0, 0))
		return 0;
	c->strict |= strict;
	c->explain |= explain;
	return 1;
}

/* Take a variable off the initial stack: all that stands above it moves down by
 * a word. */
static void take_variable(struct caller *c, char **e)
{
	for (; (u64 *)(e + 1) < c->auxv_end; e++)
		e[0] = e[1];
	c->auxv--;
	c->auxv_end--;
}

/* May this process say which file it executes? prctl(2), PR_SET_MM_MAP: in its
 * user namespace CAP_CHECKPOINT_RESTORE, or CAP_SYS_ADMIN before Linux 5.9. */
static int may_set_exe(void)
{
	struct { u32 version; int pid; } head = { CAPABILITY_VERSION_3, 0 };
	struct { u32 effective, permitted, inheritable; } caps[2] = { { 0, 0, 0 }, { 0, 0, 0 } };

	if (failed(sys3(SYS_capget, (u64)&head, (u64)caps, 0)))
		return 0;
	return caps[0].effective >> CAP_SYS_ADMIN & 1 || caps[1].effective >> (CAP_CHECKPOINT_RESTORE - 32) & 1;
}

/*
 * A seccomp filter was made for what the program does, and may end a process for
 * a system call that only the launcher makes. Of those this is the first, and no
 * other is made where there is a filter: prctl(2), PR_GET_SECCOMP.
 */
static struct reason ask_filter(void)
{
	if (sys3(SYS_prctl, PR_GET_SECCOMP, 0, 0) != 0)
		NO("its system calls are filtered (seccomp)");
	return YES;
}

/* The dynamic linker's and malloc's environment: what it would have done to the
 * program is not in the image (ld.so(8); elf/dl-tunables.list). */
static struct reason ask_environment(struct caller *c)
{
	const char *unusable = 0;
	char **e;

	for (e = c->envp; *e; e++) {
		const char *s = *e;

		if (s[0] == 'L' && starts(s, "LD_"))
			unusable = s;
		else if (s[0] == 'G' && starts(s, "GLIBC_TUNABLES="))
			unusable = s;
		else if (s[0] == 'M' && starts(s, "MALLOC_"))
			unusable = s;
		else if (s[0] == 'R' && starts(s, "RESIDENTCTL_EXPLAIN=") && s[20] && !equal(s + 20, "0"))
			c->explain = 1;
		else if (s[0] == 'R' && starts(s, "RESIDENTCTL_OFF=") && s[16] && !equal(s + 16, "0"))
			unusable = s;
	}
	/* Its string is the last too (fs/exec.c, do_execveat_common). */
	if (e > c->envp && handed(c, e[-1])) {
		c->env_end = (u64)e[-1];
		take_variable(c, e - 1);
	}
	if (unusable)
		NO_FOR("the environment changes how it is linked", unusable);
	if (c->aux[AT_SECURE])
		NO("the caller gives it privileges (AT_SECURE)");
	return YES;
}

/* ---- read the plan ------------------------------------------------------ */

struct image {
	const char *base;		/* the plan's first byte */
	const struct plan_header *head;
};

#define TABLE(im, name, type) ((const struct type *)((im)->base + (im)->head->name.off))

static const char *string(const struct image *im, u32 off)
{
	return im->base + im->head->strings.off + off;
}

static u64 rotate(u64 x, int n)
{
	return x << n | x >> (64 - n);
}

/* XXH64 with seed 0, of whole 8-byte words (the xxHash specification 0.1.1). */
static u64 checksum(const u64 *p, u64 words)
{
	const u64 P1 = 0x9E3779B185EBCA87UL, P2 = 0xC2B2AE3D27D4EB4FUL, P3 = 0x165667B19E3779F9UL;
	const u64 P4 = 0x85EBCA77C2B2AE63UL, P5 = 0x27D4EB2F165667C5UL;
	u64 total = words * 8, h;

	if (words >= 4) {
		u64 a = P1 + P2, b = P2, d = 0, e = -P1;

		for (; words >= 4; words -= 4, p += 4) {
			a = rotate(a + p[0] * P2, 31) * P1;
			b = rotate(b + p[1] * P2, 31) * P1;
			d = rotate(d + p[2] * P2, 31) * P1;
			e = rotate(e + p[3] * P2, 31) * P1;
		}
		h = rotate(a, 1) + rotate(b, 7) + rotate(d, 12) + rotate(e, 18);
		h = (h ^ rotate(a * P2, 31) * P1) * P1 + P4;
		h = (h ^ rotate(b * P2, 31) * P1) * P1 + P4;
		h = (h ^ rotate(d * P2, 31) * P1) * P1 + P4;
		h = (h ^ rotate(e * P2, 31) * P1) * P1 + P4;
	} else {
		h = P5;
	}
	h += total;
	for (; words; words--, p++)
		h = rotate(h ^ rotate(*p * P2, 31) * P1, 27) * P1 + P4;
	h = (h ^ h >> 33) * P2;
	h = (h ^ h >> 29) * P3;
	return h ^ h >> 32;
}

/* An image is code by another name: only root's and the caller's own count. */
static int trusted(const struct caller *c, const struct stat *st)
{
	return (st->uid == c->root || st->uid == c->aux[AT_EUID]) && !(st->mode & 022);
}

/*
 * Map the plan below the launcher, so that one munmap takes both away, and
 * check that it is whole. Its bounds were checked when it was written; the sum
 * tells that it is still what was written.
 */
static struct reason read_plan(struct caller *c, const char *path, struct image *im)
{
	struct stat st;
	u64 at = 0, room = 0;
	long fd = open_file(path), ret = -1;
	char target;

	if (fd == -ENOENT && (c->explain || c->strict) && !failed(sys3(SYS_readlink, (u64)path, (u64)&target, 1)))
		NO_FOR("its image is missing", path);
	if (fd == -ENOENT)
		NO_FOR(NOT_RESIDENT, path);
	if (failed(fd))
		NO_FOR("its plan cannot be opened", path);
	if (c->plan)
		sys3(SYS_munmap, (u64)c->plan, c->plan_size, 0);
	c->plan = 0;
	if (failed(sys3(SYS_fstat, fd, (u64)&st, 0)) || (st.mode & S_IFMT) != S_IFREG || !trusted(c, &st)) {
		sys3(SYS_close, fd, 0, 0);
		NO_FOR("its plan is not safe: it must belong to root or to you, and nobody else may write it", path);
	}
	if (st.size >= (s64)sizeof(*im->head) && st.size <= (s64)PLAN_MAX && st.size % 8 == 0) {
		/* What is behind the file's end is never touched: nothing else may come there. */
		at = plan_place(c, st.size);
		room = c->below - SCRATCH - at;
		ret = sys6(SYS_mmap, at, room, PROT_READ, MAP_PRIVATE | MAP_FIXED_NOREPLACE | MAP_POPULATE, fd, 0);
	}
	sys3(SYS_close, fd, 0, 0);
	if ((u64)ret != at)
		NO_FOR("its plan is damaged or cannot be mapped", path);
	c->plan = im->base = (const char *)at;
	c->plan_size = room;
	im->head = (const struct plan_header *)at;

	if (*(u64 *)im->head->magic != PLAN_MAGIC)
		NO_FOR("its plan is damaged", path);
	if (im->head->version != PLAN_VERSION || im->head->kind != PLAN_KIND_LINKED)
		NO_FOR("its plan is of another version of residentctl", path);
	if (im->head->size != (u64)st.size ||
	    im->head->sum != checksum((const u64 *)at + SUMMED, st.size / 8 - SUMMED))
		NO_FOR("its plan is damaged", path);
	return YES;
}

/* ---- ask what must be true ---------------------------------------------- */

static s64 nanoseconds(s64 sec, s64 nsec)
{
	return sec * 1000000000L + nsec;
}

static int same_times(const struct stat *st, const struct plan_file_id *id)
{
	return st->dev == id->dev && st->ino == id->ino &&
	       nanoseconds(st->mtime, st->mtime_ns) == id->mtime &&
	       nanoseconds(st->ctime, st->ctime_ns) == id->ctime;
}

static int same_file(const struct stat *st, const struct plan_file_id *id)
{
	return same_times(st, id) && (u64)st->size == id->size;
}

/* What tells this boot from others, and costs one stat: internal/linux, BootMark. */
static u64 boot_mark(void)
{
	struct stat st;
	u64 words[4];

	if (failed(sys3(SYS_stat, (u64)"/dev/null", (u64)&st, 0)))
		return 0;
	words[0] = st.dev;
	words[1] = st.ino;
	words[2] = nanoseconds(st.mtime, st.mtime_ns);
	words[3] = nanoseconds(st.ctime, st.ctime_ns);
	return checksum(words, 4);
}

static u64 hexadecimal(const char *s)
{
	u64 n = 0;
	int i;

	for (i = 0; i < 16; i++)
		n = n << 4 | (s[i] <= '9' ? s[i] - '0' : s[i] - 'a' + 10);
	return n;
}

/* The store's stamp: boot id, CPU and vDSO, boot mark, each with a newline
 * (pkg/store, StampBoot). */
#define STAMP_ID	36
#define STAMP_SUM	(STAMP_ID + 1)
#define STAMP_MARK	(STAMP_SUM + 17)
#define STAMP_LEN	(STAMP_MARK + 17)

/* Reads this much of a file. */
static int read_start(const char *path, char *to, long len)
{
	long n, fd = open_file(path);

	if (failed(fd))
		return 0;
	n = sys3(SYS_read, fd, (u64)to, len);
	sys3(SYS_close, fd, 0, 0);
	return n == len;
}

/*
 * The image is for one kernel's vDSO, and holds what CPUID said (IFUNC choices,
 * cpu_features), so it is for one kind of CPU. Asking again would trap in a virtual
 * machine, 5 us for each leaf, and to read the vDSO makes the kernel map it, with page
 * tables that have to be moved with it. What was true since this boot still is. After
 * a reboot the stamp in the store says that both were compared; only before that are
 * they compared here. The boot's mark is what is asked for first: its name takes three
 * system calls, 20 us in some virtual machines.
 */
static int compared(const struct image *im)
{
	const struct plan_caller *want = &im->head->caller;
	char boot[STAMP_ID], stamp[STAMP_LEN];
	u64 mark = boot_mark();
	int stamped;

	if (mark && mark == want->boot_mark)
		return 1;
	stamped = read_start(string(im, im->head->stamp), stamp, STAMP_LEN) &&
		  hexadecimal(stamp + STAMP_SUM) == want->machine_sum;
	if (stamped && mark && mark == hexadecimal(stamp + STAMP_MARK))
		return 1;
	return read_start("/proc/sys/kernel/random/boot_id", boot, STAMP_ID) &&
	       (same(boot, want->boot_id, STAMP_ID) || (stamped && same(boot, stamp, STAMP_ID)));
}

static int same_cpu(const struct image *im)
{
	const struct plan_cpuid *leaf = TABLE(im, cpuid, plan_cpuid);
	u32 i, k;

	for (i = 0; i < im->head->cpuid.count; i++, leaf++) {
		u32 got[4];

		cpuid(leaf->leaf, leaf->subleaf, got);
		for (k = 0; k < 4; k++)
			if ((got[k] ^ leaf->value[k]) & leaf->mask[k])
				return 0;
	}
	return 1;
}

static struct reason ask_machine(const struct caller *c, const struct image *im)
{
	const struct plan_caller *want = &im->head->caller;
	const struct plan_vdso *vdso = &im->head->vdso;
	const u64 *aux = c->aux;

	if (aux[AT_HWCAP] != want->hw_cap || aux[AT_HWCAP2] != want->hw_cap2 ||
	    aux[AT_PAGESZ] != want->page_size || aux[AT_CLKTCK] != want->clock_tick ||
	    aux[AT_FLAGS] != want->flags || aux[AT_MINSIGSTKSZ] != want->min_sig_stack ||
	    aux[AT_RSEQ_FEATURE_SIZE] != want->rseq_size || aux[AT_RSEQ_ALIGN] != want->rseq_align)
		NO("the kernel describes the machine otherwise than when it was made resident");
	if (!aux[AT_SYSINFO_EHDR] || !aux[AT_RANDOM] || !aux[AT_EXECFN])
		NO("the kernel gave no vDSO or no random bytes");
	if (want->xcr0 && xgetbv() != want->xcr0)
		NO("the CPU is another one");
	if (compared(im))
		return YES;
	if (!same((const char *)aux[AT_SYSINFO_EHDR] + vdso->build_off, vdso->build_id, vdso->build_len))
		NO("the kernel is another one (vDSO)");
	if (!same_cpu(im))
		NO("the CPU is another one");
	return YES;
}

static int identify(const char *path, struct plan_file_id *id)
{
	struct stat st;

	if (failed(sys3(SYS_stat, (u64)path, (u64)&st, 0)))
		return 0;
	*id = (struct plan_file_id){
		.dev = st.dev, .ino = st.ino, .size = st.size,
		.mtime = nanoseconds(st.mtime, st.mtime_ns), .ctime = nanoseconds(st.ctime, st.ctime_ns),
	};
	return 1;
}

static const char OWN[] = "/proc/self/exe";

/* Has the kernel opened the program, for an exec of it? */
static int opened(const struct caller *c)
{
	return c->linker || c->given >= 0;
}

/* Where the program is that the kernel has opened, or would: what /proc says of
 * it. The stack may be too small to hold it. */
static const char *own_path(struct caller *c)
{
	struct text *t = c->own;
	long len, fd = c->given;

	if (!t)
		t = c->own = scratch(c);
	if (!t)
		return "";
	t->len = 0;
	if (c->linker) {
		add(t, OWN);
	} else {
		if (fd < 0)
			fd = sys3(SYS_openat, AT_FDCWD, (u64)c->program, O_PATH | O_CLOEXEC);
		if (failed(fd))
			return "";
		add(t, "/proc/self/fd/");
		add_number(t, fd);
	}
	len = sys3(SYS_readlink, (u64)t->buf, (u64)t->buf, PATH_LEN - 1);
	t->buf[failed(len) ? 0 : len] = 0;
	if (!opened(c))
		sys3(SYS_close, fd, 0, 0);
	return t->buf;
}

/*
 * $ORIGIN is the folder of what /proc/self/exe says, the path with all links
 * resolved (glibc sysdeps/unix/sysv/linux/dl-origin.c, _dl_get_origin; musl
 * ldso/dynlink.c, fixup_rpath). Where that is the one of the image, an exec would
 * find the libraries where the image has them. A path in another way of writing has
 * to be resolved, be it in the same folder or the one that was made resident: either
 * may by now be a link to a hard link in another folder.
 */
static struct reason ask_origin(struct caller *c, const struct image *im)
{
	const char *real = string(im, im->head->real);

	if (!(im->head->flags & PLAN_FLAG_OWN_PATH) || (!opened(c) && equal(c->program, real)) ||
	    same_folder(own_path(c), real))
		return YES;
	NO_FOR("it finds its libraries relative to itself, and was made resident as", string(im, im->head->program));
}

/*
 * Is the image that of the program which is to be started? An inode number may
 * have been given to another program since, so the file's whole identity counts:
 * here for a program that the kernel has mapped, else when it is mapped. Where
 * libraries are searched relative to the program its path counts too.
 */
static struct reason ask_program(struct caller *c, const struct image *im, const struct plan_file_id *id)
{
	const struct plan_file_id *want = &TABLE(im, files, plan_file)->id;
	struct plan_file_id mapped;

	if (id && (id->dev != want->dev || id->ino != want->ino))
		NO_FOR("the store holds another program's image for it", string(im, im->head->program));
	if (c->linker && !identify(OWN, &mapped))
		NO_FOR("this cannot be found", OWN);
	if (c->linker && !same(&mapped, want, sizeof(mapped)))
		NO_FOR("this has changed", c->program);
	return ask_origin(c, im);
}

/* What the dynamic linker looked at and the image does not map, and what it
 * looked for in vain. */
static struct reason ask_files(const struct image *im)
{
	const struct plan_check *check = TABLE(im, checks, plan_check);
	const struct plan_folder *folder = TABLE(im, folders, plan_folder);
	const u32 *miss = (const u32 *)(im->base + im->head->misses.off);
	struct stat st;
	u32 i, k;

	for (i = 0; i < im->head->checks.count; i++, check++) {
		const char *path = string(im, check->path);
		long ret = sys3(SYS_stat, (u64)path, (u64)&st, 0);

		if (check->id.ino ? failed(ret) || !same_file(&st, &check->id) : ret != -ENOENT && ret != -ENOTDIR)
			NO_FOR("this has changed", path);
	}
	for (i = 0; i < im->head->folders.count; i++, folder++) {
		const char *path = string(im, folder->path);

		if (!failed(sys3(SYS_stat, (u64)path, (u64)&st, 0)) && same_times(&st, &folder->id))
			continue;
		for (k = 0; k < folder->misses; k++) {
			const char *missing = string(im, miss[folder->first_miss + k]);
			long ret = sys3(SYS_stat, (u64)missing, (u64)&st, 0);

			if (ret != -ENOENT && ret != -ENOTDIR)
				NO_FOR("this now comes first in the search for libraries", missing);
		}
	}
	return YES;
}

static struct reason ask_stack(const struct caller *c, const struct image *im, struct rlimit *stack)
{
	if (failed(sys4(SYS_prlimit64, 0, RLIMIT_STACK, 0, (u64)stack)))
		NO("the stack limit cannot be read");
	if (stack->cur > (u64)c->sp || (u64)c->sp - stack->cur < im->head->caller.maps_end + GUARD_GAP)
		NO("the stack limit leaves no room beside the image");
	return YES;
}

/* ---- map ---------------------------------------------------------------- */

/*
 * The vDSO goes first: until now it is the only mapping that the kernel placed
 * in the area where libraries stand, and could lie where the image goes. Its
 * code reaches its data pages relative to itself, so all move by one delta. The
 * kernel moves several mappings in one call since Linux 6.17; before it answers
 * EFAULT, having done nothing.
 */
static struct reason move_vdso(const struct plan_vdso *v, u64 from, u64 to)
{
	int i;

	if (from == to)
		return YES;
	if (from < to + v->len && to < from + v->len)
		NO("the vDSO would be moved over itself");
	if (!failed(sys6(SYS_mremap, from, v->len, v->len, MREMAP_MAYMOVE | MREMAP_FIXED, to, 0)))
		return YES;
	for (i = 0; i < 4 && v->parts[i]; i++) {
		if (failed(sys6(SYS_mremap, from, v->parts[i], v->parts[i], MREMAP_MAYMOVE | MREMAP_FIXED, to, 0)))
			NO("the vDSO cannot be moved");
		from += v->parts[i];
		to += v->parts[i];
	}
	return YES;
}

/* Where the kernel put the first of the vDSO's mappings. */
static u64 vdso_start(const struct caller *c, const struct plan_vdso *v)
{
	return c->aux[AT_SYSINFO_EHDR] - (v->code - v->addr);
}

/* Does the kernel hold this place already, with the program that it mapped? */
static int held(const struct caller *c, const struct plan_map *m)
{
	return c->in_place && m->addr < c->program_end && m->addr + m->len > c->program_at;
}

/* Maps in two passes: first what the kernel has not mapped itself, then, over
 * it, what it has (only a dynamic linker meets a program that is mapped). */
static int map(struct caller *c, const struct plan_map *m, long fd, int over)
{
	u32 flags = over ? (m->flags & ~MAP_FIXED_NOREPLACE) | MAP_FIXED : m->flags;

	if (held(c, m) != over)
		return 1;
	if ((u64)sys6(SYS_mmap, m->addr, m->len, m->prot, flags, fd, m->off) != m->addr)
		return 0;
	c->mapped++;
	return 1;
}

static int map_all(struct caller *c, const struct plan_map *m, u32 count, long fd, int over)
{
	for (; count; count--, m++)
		if (!map(c, m, fd, over))
			return 0;
	return 1;
}

static int holds_any(const struct caller *c, const struct plan_map *m, u32 count)
{
	for (; count; count--, m++)
		if (held(c, m))
			return 1;
	return 0;
}

/* What the kernel has opened is closed when it is certain that the program is
 * started from its image. */
static void done_with(const struct caller *c, long fd)
{
	if (fd != c->given)
		sys3(SYS_close, fd, 0, 0);
}

/*
 * Inside of `residentctl exec` the dynamic linker's path leads to a copy, which ends
 * with the path that leads to the linker itself (pkg/launcher, Cover). Gives a
 * descriptor of what is there for the copy's, or the same one; what it has to be is
 * for the caller to compare.
 */
static long uncover(long fd, struct stat *st)
{
	char here[SHORT], *end = here, *path, *more = 0;
	u64 room = sizeof(here);
	long original = -1;

	for (;;) {
		if (sys4(SYS_pread64, fd, (u64)end, room, st->size - room) != (long)room || end[room - 1])
			break;
		for (path = end + room - 1; path > end && path[-1]; path--)
			;
		if (path > end || more) {
			if (*path == '/')
				original = open_file(path);
			break;
		}
		if (!(more = (char *)fresh(0, PATH_LEN)))
			break;
		end = more;
		room = PATH_LEN;
	}
	if (more)
		sys3(SYS_munmap, (u64)more, PATH_LEN, 0);
	if (failed(original))
		return fd;
	sys3(SYS_close, fd, 0, 0);
	sys3(SYS_fstat, original, (u64)st, 0);
	return original;
}

/* Files are opened by the path that the dynamic linker used, compared, mapped
 * and closed. Two are kept: the program, for /proc/self/exe, and what is mapped over
 * that. */
static struct reason map_image(struct caller *c, const struct image *im, long *program)
{
	const struct plan_file *f = TABLE(im, files, plan_file);
	const struct plan_map *maps = TABLE(im, maps, plan_map);
	struct stat st;
	u32 i;

	for (i = 0; i < im->head->files.count; i++, f++) {
		const char *path = string(im, f->path);
		int mapped, keep = holds_any(c, &maps[f->first_map], f->maps);
		long fd;

		if (f->flags & PLAN_FILE_LINKER && c->linker)
			path = c->linker;
		else if (f->flags & PLAN_FILE_PROGRAM && !c->linker)
			path = c->program; /* it may have several names */
		fd = f->flags & PLAN_FILE_PROGRAM && c->given >= 0 ? c->given : open_file(path);
		if (failed(fd))
			NO_FOR("this cannot be opened", path);
		if (failed(sys3(SYS_fstat, fd, (u64)&st, 0)))
			st.ino = 0;
		else if (f->flags & PLAN_FILE_LINKER && !same_file(&st, &f->id))
			fd = uncover(fd, &st);
		if (!same_file(&st, &f->id)) {
			done_with(c, fd);
			NO_FOR("this has changed", path);
		}
		if (f->flags & PLAN_FILE_PAGES && !trusted(c, &st)) {
			done_with(c, fd);
			NO_FOR("its image is not safe: it must belong to root or to you, and nobody else may write it", path);
		}
		mapped = map_all(c, &maps[f->first_map], f->maps, fd, 0);
		if (program && f->flags & PLAN_FILE_PROGRAM)
			*program = fd;
		else if (keep && c->keeps < KEPT)
			c->kept[c->keeps++] = fd, keep = 0;
		else
			done_with(c, fd);
		if (!mapped || keep)
			NO_FOR("this cannot be mapped at its place", path);
	}
	if (!map_all(c, TABLE(im, anon, plan_map), im->head->anon.count, -1, 0))
		NO("there is no memory at the image's place");
	return YES;
}

/* The second pass. By now the names may lead elsewhere, or nowhere. */
static int map_over(struct caller *c, const struct image *im)
{
	const struct plan_file *f = TABLE(im, files, plan_file);
	const struct plan_map *maps = TABLE(im, maps, plan_map);
	u32 i;

	for (i = 0; i < c->keeps; f++) {
		if (!holds_any(c, &maps[f->first_map], f->maps))
			continue;
		if (!map_all(c, &maps[f->first_map], f->maps, c->kept[i], 1))
			return 0;
		sys3(SYS_close, c->kept[i++], 0, 0);
	}
	return map_all(c, TABLE(im, anon, plan_map), im->head->anon.count, -1, 1);
}
/* ---- register ----------------------------------------------------------- */

/* What the dynamic linker had told the kernel. Gives the thread's id. */
static struct reason register_thread(const struct image *im, u64 *tid)
{
	const struct plan_kernel *k = &im->head->kernel;

	*tid = k->tid_addr ? sys3(SYS_set_tid_address, k->tid_addr, 0, 0) : sys3(SYS_getpid, 0, 0, 0);
	if (k->robust_head && failed(sys3(SYS_set_robust_list, k->robust_head, k->robust_len, 0)))
		NO("the robust list cannot be registered");
	if (k->rseq_addr && failed(sys4(SYS_rseq, k->rseq_addr, k->rseq_len, 0, k->rseq_sig)))
		NO("restartable sequences cannot be registered");
	if (failed(sys3(SYS_arch_prctl, ARCH_SET_FS, k->fs_base, 0)))
		NO("the thread pointer cannot be set");
	return YES;
}

/* ---- correct the words -------------------------------------------------- */

/* The default size of thread stacks, as glibc derives it from the limit:
 * nptl/pthread_early_init.h, __pthread_initialize_minimal_internal. */
static u64 thread_stack(const struct rlimit *stack)
{
	if (stack->cur == RLIM_INFINITY)
		return 2UL << 20;
	if (stack->cur < 16384)
		return 16384;
	return (stack->cur + 4095) & ~4095UL;
}

static struct reason correct(const struct caller *c, const struct image *im, const struct rlimit *stack, u64 tid)
{
	const struct plan_fixup *f = TABLE(im, fixups, plan_fixup);
	const struct plan_protect *p = TABLE(im, protects, plan_protect);
	const u64 *random = (const u64 *)c->aux[AT_RANDOM];
	u64 value[PLAN_FIX_KINDS];
	u32 i;

	value[PLAN_FIX_SP] = (u64)c->sp;
	value[PLAN_FIX_ARGV] = (u64)c->argv;
	value[PLAN_FIX_ENVP] = (u64)c->envp;
	value[PLAN_FIX_AUXV] = (u64)c->auxv;
	value[PLAN_FIX_PLATFORM] = c->aux[AT_PLATFORM];
	value[PLAN_FIX_RANDOM] = c->aux[AT_RANDOM];
	value[PLAN_FIX_EXECFN] = c->aux[AT_EXECFN];
	value[PLAN_FIX_ARGC] = *c->sp;
	value[PLAN_FIX_TID] = tid;
	value[PLAN_FIX_CANARY] = random[0] & ~0xffUL;	/* sysdeps/unix/sysv/linux/dl-osinfo.h */
	value[PLAN_FIX_GUARD] = random[1];
	value[PLAN_FIX_STACK_SIZE] = thread_stack(stack);

	for (i = 0; i < im->head->fixups.count; i++, f++) {
		if (f->size == 4)
			*(u32 *)f->addr = value[f->kind];
		else
			*(u64 *)f->addr = value[f->kind];
	}
	for (i = 0; i < im->head->protects.count; i++, p++)
		if (failed(sys3(SYS_mprotect, p->addr, p->len, p->prot)))
			NO("its read-only data cannot be protected");
	return YES;
}

/* Where the path that an exec would have left on the stack can stand: in the
 * place of the launcher's, or of the arguments that were residentctl's. 0 where
 * neither is as long. A launcher file in the store is, its path ends with the
 * program's. */
static char *room_for_name(const struct caller *c)
{
	char *old = (char *)c->aux[AT_EXECFN];
	u64 room = length(old), len = length(c->program);
	u64 freed = c->argv[0] ? (u64)c->argv[0] - c->arg_start : 0;

	if (len <= room)
		return old + room - len;
	return len < freed ? (char *)c->arg_start : 0;
}

/* As the interpreter of a script the launcher leaves the script's path, which
 * is what an exec would have left. */
static void name_program(struct caller *c)
{
	char *to = room_for_name(c);

	if (!to || (!c->name && !equal(base_name((char *)c->aux[AT_EXECFN]), base_name(c->program))))
		return;
	memcpy(to, c->program, length(c->program) + 1);
	c->aux[AT_EXECFN] = (u64)to;
}

static void write_auxv(struct caller *c, const struct image *im)
{
	const struct plan_entry *e = &im->head->entry;
	u64 *a;

	for (a = c->auxv; *a != AT_NULL; a += 2) {
		switch (*a) {
		case AT_PHDR:		a[1] = e->phdr; break;
		case AT_PHENT:		a[1] = e->phent; break;
		case AT_PHNUM:		a[1] = e->phnum; break;
		case AT_BASE:		a[1] = e->base; break;
		case AT_ENTRY:		a[1] = e->program_entry; break;
		case AT_EXECFN:		a[1] = c->aux[AT_EXECFN]; break;
		case AT_SYSINFO_EHDR:	a[1] = im->head->vdso.code; break;
		}
	}
}

/*
 * What /proc shows of the process, and the program break. The kernel has
 * randomised a break for the launcher: the program's gets the same distance
 * from its own data, so it is as random as this system wants it.
 */
static struct reason describe(const struct caller *c, const struct image *im, struct mm_map *mm)
{
	const struct plan_mm *p = &im->head->mm;
	u64 start = p->brk_base, brk = p->brk;

	if (!(im->head->flags & PLAN_FLAG_KEEP_BRK)) {
		u64 now = sys3(SYS_brk, 0, 0, 0), end = c->program_end ? c->program_end : c->end;

		start += now > end ? now - end : 0;
		brk = start;
	}
	*mm = (struct mm_map){
		.start_code = p->start_code, .end_code = p->end_code,
		.start_data = p->start_data, .end_data = p->end_data,
		.start_brk = start, .brk = brk, .start_stack = (u64)c->sp,
		.arg_start = c->argv[0] ? (u64)c->argv[0] : c->arg_end, .arg_end = c->arg_end,
		.env_start = c->arg_end, .env_end = c->env_end,
		.auxv = c->auxv, .auxv_size = (u64)c->auxv_end - (u64)c->auxv,
		.exe_fd = -1,
	};
	if (failed(sys6(SYS_prctl, PR_SET_MM, PR_SET_MM_MAP, (u64)mm, sizeof(*mm), 0, 0)))
		NO("the kernel does not let the memory map be described (PR_SET_MM_MAP)");
	if (c->name && failed(sys3(SYS_prctl, PR_SET_NAME, (u64)c->name, 0)))
		NO("the process's name cannot be set");
	return YES;
}

/* ---- leave -------------------------------------------------------------- */

struct leave {			/* start_amd64.S knows the order */
	u64 rsp, rbx, rbp, r12, r13, r14, r15, unmap, unmap_len, gadget;
};
_Static_assert(__builtin_offsetof(struct leave, gadget) == 72, "order");
_Noreturn void leave(const struct leave *);

/*
 * What is done on a page of its own, when the launcher's are gone: only then does
 * the kernel let /proc/self/exe name another file (kernel/sys.c,
 * replace_mm_exe_file). It comes back, with the launcher still there, only if the
 * name must be set and a child cannot.
 */
struct stage {			/* and this one's */
	struct leave leave;
	u64 at, len;		/* of the page */
	struct mm_map *mm;
	u32 how;
	int file;		/* to be closed */
	u32 must;
};
_Static_assert(__builtin_offsetof(struct stage, how) == 104 && __builtin_offsetof(struct stage, must) == 112 &&
	       sizeof(struct mm_map) == 104, "order");
enum { EXE_STAYS, EXE_SET, EXE_SET_BY_CHILD };
enum { EXE_NEED_NOT, EXE_MUST, EXE_ASK };
extern const char stage_code[], stage_end[];
#define EXE_UNSET	"it reads its own file through /proc/self/exe, which the kernel does not let you set"

/*
 * Who may not say which file he executes may do so as root of a user namespace
 * (prctl(2), PR_SET_MM_MAP). A process that entered one would stay there, but the
 * memory may be a child's as well, which enters it, says so and ends. Where user
 * namespaces are not for everybody the name stays the launcher file's. Through a
 * filter nothing but prctl is tried, which the filter has let pass before.
 */
static u32 how_to_set_exe(const struct caller *c)
{
	return c->may_set_exe || c->filtered ? EXE_SET : EXE_SET_BY_CHILD;
}

/*
 * Leave by a stage, or without one if there cannot be any: then /proc/self/exe
 * stays as it is, and without a gadget the launcher where it is. It comes back if
 * the name must be set and cannot be. Whoever wants the start to be explained is
 * told before: for him a child is sent to find out and to touch nothing.
 */
static struct reason leave_by_stage(const struct caller *c, struct stage *s)
{
	struct text *page = fresh(0, 4096);

	s->how = s->file < 0 ? EXE_STAYS : how_to_set_exe(c);
	s->mm->exe_fd = s->file;
	if (page) {
		memcpy(page, stage_code, stage_end - stage_code);
		if (!failed(sys3(SYS_mprotect, (u64)page, 4096, PROT_READ | PROT_EXEC))) {
			s->at = (u64)page;
			s->len = 4096;
			((void (*)(struct stage *))page)(s);
		}
		sys3(SYS_munmap, (u64)page, 4096, 0);
	}
	if (s->must == EXE_ASK ? s->how != EXE_STAYS : s->must == EXE_MUST)
		NO(EXE_UNSET);
	if (s->must == EXE_ASK)
		return YES;
	sys3(SYS_close, s->file, 0, 0);
	leave(&s->leave);
}

/* A frame from which rt_sigreturn makes one more system call with the
 * program's registers, returning to what stands at rsp. */
static void frame(struct sigframe *f, const struct plan_entry *e, const struct leave *l, u64 mask, u64 rsp)
{
	memset(f, 0, sizeof(*f));
	f->pretcode = e->sig_return;
	f->uc_flags = UC_SIGCONTEXT_SS | UC_STRICT_RESTORE_SS;
	f->ss_flags = SS_DISABLE;
	f->segments = USER_SEGMENTS;
	f->eflags = EFLAGS_IF;
	f->sigmask = mask;
	f->rip = e->gadget;
	f->rsp = rsp;
	f->rbx = l->rbx;
	f->rbp = l->rbp;
	f->r12 = l->r12;
	f->r13 = l->r13;
	f->r14 = l->r14;
	f->r15 = l->r15;
}

static int holds(const struct plan_map *m, u32 count, u64 from, u64 to)
{
	for (; count; count--, m++)
		if (m->addr < to && m->addr + m->len > from)
			return 1;
	return 0;
}

/* Is anything of the image in this range, where the vDSO stood before? */
static int image_in(const struct image *im, u64 from, u64 to)
{
	const struct plan_vdso *v = &im->head->vdso;

	return (v->addr < to && v->addr + v->len > from) || holds(TABLE(im, maps, plan_map), im->head->maps.count, from, to) ||
	       holds(TABLE(im, anon, plan_map), im->head->anon.count, from, to);
}

/* The plan and the launcher, in one call where nothing stands between. */
static void take_away(const struct caller *c, const struct image *im, struct leave *l)
{
	if (c->below == c->start || (im && !image_in(im, c->below, c->start))) {
		l->unmap = lowest(c);
	} else {
		sys3(SYS_munmap, lowest(c), c->below - lowest(c), 0);
		l->unmap = c->start;
	}
	l->unmap_len = c->end - l->unmap;
}

/*
 * /proc/self/exe can be set when the launcher has gone (see struct stage). That
 * needs no stage for those who may: two signal frames on the stack make the two
 * calls that are left, prctl and close, from the program's own text.
 */
static struct reason enter(const struct caller *c, const struct image *im, struct mm_map *mm, long program, u32 must)
{
	const struct plan_entry *e = &im->head->entry;
	struct sigframe set_exe, close_file;
	u64 mask = 0, *slot = c->sp - 1;
	struct leave l = {
		.rsp = (u64)slot, .rbx = e->rbx, .rbp = e->rbp, .r12 = e->r12, .r13 = e->r13,
		.r14 = e->r14, .r15 = e->r15, .gadget = e->gadget,
	};

	*slot = e->rip;
	if (program >= 0 && (!c->may_set_exe || !e->sig_return)) {
		struct stage s = { .leave = l, .mm = mm, .file = program, .must = must };

		take_away(c, im, &s.leave);
		return leave_by_stage(c, &s);
	}
	if (program >= 0) {
		mm->exe_fd = program;
		sys4(SYS_rt_sigprocmask, 0, 0, (u64)&mask, 8);
		frame(&set_exe, e, &l, mask, (u64)&close_file);
		set_exe.rax = SYS_prctl;
		set_exe.rdi = PR_SET_MM;
		set_exe.rsi = PR_SET_MM_MAP;
		set_exe.rdx = (u64)mm;
		set_exe.r10 = sizeof(*mm);
		frame(&close_file, e, &l, mask, (u64)slot);
		close_file.rax = SYS_close;
		close_file.rdi = program;
		l.rsp = (u64)&set_exe;
	}
	take_away(c, im, &l);
	leave(&l);
}

/* ---- the flow ----------------------------------------------------------- */

/*
 * An image may be there in several layouts, of which a start takes one at random.
 * The kernel has placed the stack at random; that neither the stack protector's
 * nor any other secret is made from it makes it good enough, and free.
 */
static struct reason choose_layout(struct caller *c, struct image *im)
{
	const u32 *layouts = (const u32 *)(im->base + im->head->layouts.off);
	u32 pick = ((u64)c->sp >> 4 ^ (u64)c->sp >> 13) % (im->head->layouts.count + 1);
	struct reason no;

	if (!pick)
		return YES;
	no = read_plan(c, string(im, layouts[pick - 1]), im);
	if (no.why)
		NO("a layout of its image is missing or damaged");
	return YES;
}

/* Is there a way to set /proc/self/exe? The plan says whether a child may be tried. */
static int may_try(const struct caller *c, const struct image *im)
{
	return c->may_set_exe || im->head->flags & PLAN_FLAG_SET_EXE;
}

/* Everything that must be true; nothing is touched. */
static struct reason ask(struct caller *c, const char *path, const struct plan_file_id *id, struct image *im,
			 struct rlimit *stack)
{
	struct reason no = read_plan(c, path, im);

	if (!no.why && im->head->layouts.count)
		no = choose_layout(c, im);
	if (!no.why)
		no = ask_machine(c, im);
	if (!no.why)
		no = ask_files(im);
	if (!no.why)
		no = ask_stack(c, im, stack);
	if (!no.why && im->head->flags & PLAN_FLAG_CHECK_EXEC && !opened(c) &&
	    failed(sys4(SYS_faccessat2, AT_FDCWD, (u64)c->program, X_OK, AT_EACCESS)))
		no = (struct reason){ "you may not execute it", c->program };
	if (!no.why && im->head->flags & PLAN_FLAG_NEEDS_EXE && !c->linker && !may_try(c, im))
		no = (struct reason){ EXE_UNSET, 0 };
	if (!no.why)
		no = ask_program(c, im, id);
	return no;
}

/* Take the image away again, so that the dynamic linker finds everything as the
 * kernel made it. */
static void undo(struct caller *c, const struct image *im)
{
	const struct plan_kernel *k = &im->head->kernel;
	const struct plan_map *maps = TABLE(im, maps, plan_map), *anon = TABLE(im, anon, plan_map);
	const struct plan_vdso *v = &im->head->vdso;
	u64 *a;
	u32 i;

	for (a = c->auxv; *a != AT_NULL; a += 2)
		if (*a < AT_COUNT)
			a[1] = c->aux[*a];
	if (k->rseq_addr)
		sys4(SYS_rseq, k->rseq_addr, k->rseq_len, RSEQ_FLAG_UNREGISTER, k->rseq_sig);
	sys3(SYS_arch_prctl, ARCH_SET_FS, 0, 0);
	for (i = 0; c->mapped; i++) {
		const struct plan_map *m = i < im->head->maps.count ? &maps[i] : &anon[i - im->head->maps.count];

		if (held(c, m))
			continue;
		sys3(SYS_munmap, m->addr, m->len, 0);
		c->mapped--;
	}
	while (c->keeps)
		sys3(SYS_close, c->kept[--c->keeps], 0, 0);
	move_vdso(v, v->addr, vdso_start(c, v));
}

/*
 * Put the program in this process's place. It comes back only with the reason
 * why it could not; then nothing but the address space has changed, which an
 * exec discards, and *touched tells whether even that is untouched. Where there is
 * no exec, nothing has changed at all.
 */
static struct reason become(struct caller *c, const char *path, const struct plan_file_id *id, int *touched)
{
	struct image im;
	struct rlimit stack;
	struct mm_map mm;
	struct reason no;
	long program = -1;
	u32 must = EXE_NEED_NOT;
	u64 tid;

	no = ask(c, path, id, &im, &stack);
	if (no.why)
		return no;

	*touched = 1;
	no = move_vdso(&im.head->vdso, vdso_start(c, &im.head->vdso), im.head->vdso.addr);
	if (no.why)
		return no;
	no = map_image(c, &im, &program);
	if (!no.why)
		no = register_thread(&im, &tid);
	if (!no.why) {
		if (c->given < 0)
			name_program(c);
		no = correct(c, &im, &stack, tid);
	}
	if (!no.why) {
		write_auxv(c, &im);
		no = describe(c, &im, &mm);
	}
	if (program >= 0 && c->given < 0 && !may_try(c, &im)) {
		sys3(SYS_close, program, 0, 0);
		program = -1;
	}
	if (im.head->flags & PLAN_FLAG_NEEDS_EXE && !c->may_set_exe)
		must = EXE_MUST;
	if (!no.why && must && c->explain)
		no = enter(c, &im, &mm, program, EXE_ASK);
	if (!no.why && c->explain)
		tell(c, INFO, "resident start", "image", string(&im, im.head->id), 0);
	if (!no.why)
		no = enter(c, &im, &mm, program, must);
	if (c->given >= 0)
		undo(c, &im);
	return no;
}

/* execve, for a script without #! as execvp(3) has it. It comes back with the
 * errno. */
static long execute(const struct caller *c)
{
	long err = -sys3(SYS_execve, (u64)c->program, (u64)c->argv, (u64)c->envp);

	if (err == ENOEXEC) {
		/* The word before argv[0] was argc. */
		c->argv[0] = (char *)c->program;
		c->argv[-1] = "/bin/sh";
		sys3(SYS_execve, (u64)c->argv[-1], (u64)(c->argv - 1), (u64)c->envp);
	}
	return err;
}

/* execve(2): ENOENT is also for what the kernel would have to execute instead. That
 * the file itself is there is not asked through a filter, see ask_filter. */
static void tell_error(const struct caller *c, long err)
{
	const char *why = err == ENOENT ? "not found" : err == EACCES ? "permission denied" : 0;
	struct stat st;

	if (err == ENOENT && !ask_filter().why && !failed(sys3(SYS_stat, (u64)c->program, (u64)&st, 0)))
		why = "the interpreter that it names does not exist";
	tell(c, ERROR, "cannot be executed", why ? why : "errno ", 0, why ? 0 : err);
}

/* Statuses as env(1) has them. */
static _Noreturn void give_up(const struct caller *c, long err)
{
	tell_error(c, err);
	sys3(SYS_exit, err == ENOENT ? 127 : 126, 0, 0);
	__builtin_unreachable();
}

/* Say why the start is a normal one; with --strict it is none. */
static void explain(const struct caller *c, struct reason no)
{
	if (c->strict) {
		tell(c, ERROR, "no resident start", no.why, no.what, 0);
		sys3(SYS_exit, 125, 0, 0);
	}
	if (c->explain)
		tell(c, INFO, "started normally", no.why, no.what, 0);
}

/* Start the program normally. */
static _Noreturn void exec_program(const struct caller *c, struct reason no)
{
	explain(c, no);
	give_up(c, execute(c));
}

static const char *variable(const struct caller *c, const char *name)
{
	char **e;

	for (e = c->envp; *e; e++)
		if (starts(*e, name))
			return *e + length(name);
	return 0;
}

/* Where execvp(3) looks for a name: the folders, of which a path needs none. */
static const char *folders(const struct caller *c, const char *name)
{
	const char *p;

	for (p = name; *p; p++)
		if (*p == '/')
			return "";
	return variable(c, "PATH=");
}

/* Put the name in the first of the folders in t. Gives what follows that folder:
 * a colon, or the end. */
static const char *in_folder(const char *dirs, const char *name, struct text *t)
{
	for (t->len = 0; *dirs && *dirs != ':'; dirs++)
		if (t->len < PATH_LEN)
			t->buf[t->len++] = *dirs;
	if (t->len)
		t->buf[t->len++] = '/';
	add(t, name);
	return dirs;
}

/* Is this one of the links that `residentctl enable` makes for PATH, to a launcher
 * file in the same store? Its folder and what it leads to tell. */
static int is_shim(const char *path)
{
	const char *folder = base_name(path); /* up to and with one slash */
	char target[13];

	while (folder - path > 1 && folder[-2] == '/')
		folder--;
	return folder - path >= 7 && same(folder - 7, "/shims/", 7) &&
	       sys3(SYS_readlink, (u64)path, (u64)target, sizeof(target)) == sizeof(target) &&
	       same(target, "../launchers/", sizeof(target));
}

static int may_execute(const char *path, struct stat *st)
{
	return !failed(sys3(SYS_stat, (u64)path, (u64)st, 0)) && (st->mode & S_IFMT) == S_IFREG &&
	       !failed(sys4(SYS_faccessat2, AT_FDCWD, (u64)path, X_OK, AT_EACCESS));
}

/* The program as execvp(3) would find it, in t. A shim stands for a program that
 * is found without it, but for one in no folder of PATH. */
static int find_program(const struct caller *c, const char *name, struct text *t, struct stat *st)
{
	const char *all = folders(c, name), *dirs;
	int shims;

	if (!all)
		return 0;
	for (shims = 0; shims < 2; shims++) {
		dirs = all;
		do {
			dirs = in_folder(dirs, name, t);
			if (may_execute(t->buf, st) && (shims || !*all || !is_shim(t->buf)))
				return 1;
		} while (*dirs++);
	}
	return 0;
}

/* As find_program and exec_program, with no system call but execve. */
static _Noreturn void exec_by_name(struct caller *c, const char *name, struct text *t, struct reason no)
{
	const char *dirs = folders(c, name);
	long err, denied = 0;

	c->program = name;
	explain(c, no);
	c->program = t->buf;
	if (!dirs)
		dirs = "/bin:/usr/bin"; /* confstr(3), _CS_PATH */
	do {
		dirs = in_folder(dirs, name, t);
		err = execute(c);
		if (err == EACCES)
			denied = err;
		else if (err != ENOENT && err != ENOTDIR)
			give_up(c, err);
	} while (*dirs++);
	give_up(c, denied ? denied : err);
}

/* The stores to look in: the caller's own, then the system's. */
static int store(const struct caller *c, const struct config *cfg, int which, struct text *t)
{
	const char *dir;

	t->len = 0;
	if (cfg) {
		if (which >= 4 || !cfg->stores[which])
			return -1;
		add(t, (const char *)cfg + cfg->stores[which]);
		return 1;
	}
	switch (which) {
	case 0:
		dir = variable(c, "XDG_DATA_HOME=");
		if (dir && *dir == '/') {
			add(t, dir);
		} else {
			dir = variable(c, "HOME=");
			if (!dir || *dir != '/')
				return 0;
			add(t, dir);
			add(t, "/.local/share");
		}
		add(t, "/residentctl");
		return 1;
	case 1:
		add(t, "/var/lib/residentctl");
		return 1;
	}
	return -1;
}

/*
 * Take the first n arguments off the initial stack. The stack pointer has to
 * stay 16-byte aligned, so with an odd n everything moves down by a word.
 */
static void shift(struct caller *c, u64 n)
{
	u64 *from = c->sp + 1 + n, *to = c->sp + 1 + (n & ~1UL), argc = *c->sp - n;

	if (n & 1)
		for (; from < c->auxv_end; from++, to++)
			*to = *from;
	to = c->sp + (n & ~1UL);
	*to = argc;
	look(c, to);
}

/* The store's path of what belongs to a binary, in t. */
static void name_in_store(const struct caller *c, const struct config *cfg, int which, const char *dir,
			  const struct plan_file_id *id, struct text *t)
{
	store(c, cfg, which, t);
	add(t, dir);
	add_number(t, id->dev);
	add(t, "-");
	add_number(t, id->ino);
}

/*
 * Execute the program's launcher file instead of becoming the program here. It
 * stands under each name that the program was made resident by; where its folders
 * are a mirror, a link to the program itself stands under others. What `run` was
 * asked for goes along as one more variable, which the launcher file takes off
 * again; there is room for it, since at least `run` and one option stood before
 * the program's arguments.
 */
static struct reason exec_launcher(struct caller *c, const struct config *cfg, int which,
				   const struct plan_file_id *id, struct text *path)
{
	char **argv = c->argv, **envp = c->envp, **end = 0;
	struct text *t;
	const struct plan_file_id *want;
	const char *program;
	struct image im;
	struct reason no;
	struct stat st;
	u64 top;

	no = read_plan(c, path->buf, &im);
	if (no.why)
		return no;
	program = string(&im, im.head->program);
	want = &TABLE(&im, files, plan_file)->id;
	if (want->dev != id->dev || want->ino != id->ino)
		NO_FOR("this has changed", program);
	name_in_store(c, cfg, which, "/launchers/", id, path);
	top = path->len;
	add(path, c->program);
	if (c->program[0] != '/' || failed(sys3(SYS_stat, (u64)path->buf, (u64)&st, 0)) ||
	    (st.dev == id->dev && st.ino == id->ino)) {
		/* It has no launcher file by the name that it was found by. */
		if (!equal(c->name, base_name(program)))
			NO_FOR("without the capability to set /proc/self/exe it is only started by the name that it was made resident by",
			       program);
		no = ask_origin(c, &im);
		if (no.why)
			return no;
		/* The launcher file starts whatever has the plan's path, resident
		 * or not: that has to be the program that was asked for. */
		if (failed(sys3(SYS_stat, (u64)program, (u64)&st, 0)) || !same_file(&st, want))
			NO_FOR("this has changed", program);
		path->len = top;
		add(path, program);
		if (failed(sys3(SYS_stat, (u64)path->buf, (u64)&st, 0)))
			st.mode = 0;
	}
	if ((st.mode & S_IFMT) != S_IFREG || !trusted(c, &st))
		NO("its launcher file is missing, or not safe: it must belong to root or to you, and nobody else may write it");
	if (c->strict || c->explain) {
		argv--;
		envp--;
		for (end = c->argv; end < c->envp || *end; end++)
			end[-1] = *end;
		_Static_assert(3 * sizeof(*t) <= SCRATCH, "room behind the two paths");
		t = (struct text *)(path->buf + ((path->len + 8) & ~7UL));
		t->len = 0;
		add(t, HANDED);
		add(t, !c->strict ? "e:" : c->explain ? "se:" : "s:");
		add_number(t, sys3(SYS_getpid, 0, 0, 0));
		end[-1] = t->buf;
	}
	sys3(SYS_execve, (u64)path->buf, (u64)argv, (u64)envp);
	if (end)
		for (end--; end >= c->argv; end--)
			*end = end[-1];
	NO("its launcher file cannot be executed");
}

/* Look into one store. */
static struct reason start_from(struct caller *c, const struct config *cfg, int which,
				const struct plan_file_id *id, struct text *path, int *touched)
{
	struct stat st;

	/* Another's store could hold links to files that are trusted but were
	 * never meant as plans. */
	if (failed(sys3(SYS_stat, (u64)path->buf, (u64)&st, 0)))
		NO(NOT_RESIDENT);
	if (!trusted(c, &st))
		NO("the store is not safe: it must belong to root or to you, and nobody else may write it");
	name_in_store(c, cfg, which, "/index/", id, path);
	if (c->may_set_exe && room_for_name(c))
		return become(c, path->buf, id, touched);
	return exec_launcher(c, cfg, which, id, path);
}

/* Can so much be mapped? Nothing is charged for it. */
static int mappable(u64 len, int prot)
{
	long at = sys6(SYS_mmap, 0, len, prot, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (!failed(at))
		sys3(SYS_munmap, at, len, 0);
	return !failed(at);
}

/*
 * What the Go side of residentctl wants of the limits. The runtime reserves some 700
 * MiB for its tables (runtime/mpagealloc_64bit.go, sysInit), and more for the heap's
 * arenas, and ends with the stacks of all goroutines where it does not get them; some
 * 80 MiB of it are writable.
 */
static struct reason ask_memory(void)
{
	if (!mappable(2UL << 30, PROT_NONE))
		NO("residentctl needs 2 GiB of address space (ulimit -v)");
	if (!mappable(128UL << 20, PROT_READ | PROT_WRITE))
		NO("residentctl needs 128 MiB of data (ulimit -d)");
	return YES;
}

/* And descriptors: internal/descriptors, Enough, of the limit to which the runtime
 * raises the soft one. */
static struct reason ask_descriptors(void)
{
	struct rlimit files;
	u64 fd, left = 0;

	if (failed(sys4(SYS_prlimit64, 0, RLIMIT_NOFILE, 0, (u64)&files)))
		return YES;
	for (fd = 0; fd < files.max && left < 32; fd++)
		left += failed(sys3(SYS_fcntl, fd, F_GETFD, 0));
	if (left < 32)
		NO("residentctl needs 32 file descriptors more (ulimit -n)");
	return YES;
}

/* How many words an option of exec or run takes; those before it are understood as
 * well. 0 if it is another. */
static u64 option_words(const char *word)
{
	if (equal(word, "--store") || equal(word, "--after") || equal(word, "--format"))
		return 2;
	return equal(word, "--strict") || equal(word, "--auto") || equal(word, "--quiet") || equal(word, "-q") ||
	       equal(word, "--explain") || starts(word, "--store=") || starts(word, "--after=") || starts(word, "--format=");
}

/*
 * Where limits leave Go's runtime no room: of
 *
 *	residentctl exec|run [OPTION...] [--] COMMAND [ARG...]
 *
 * the command is executed normally, and any other command line fails. It returns where
 * there is room; package internal/descriptors looks for that of other command lines.
 */
static __attribute__((noinline)) void without_go(u64 *sp)
{
	struct caller c = { .given = -1 };
	struct text *path;
	const char *command = 0;
	struct reason no = ask_memory();
	u64 i, n;
	int whole;

	look(&c, sp);
	for (i = 1; i < *sp; i += n) {
		n = option_words(c.argv[i]);
		if (!n) {
			if (command || !(equal(c.argv[i], "exec") || equal(c.argv[i], "run")))
				break;
			command = c.argv[i];
			n = 1;
		}
		c.strict |= equal(c.argv[i], "--strict");
		c.explain |= equal(c.argv[i], "--explain");
	}
	whole = command && i < *sp;
	if (whole && equal(c.argv[i], "--"))
		whole = ++i < *sp;
	else if (whole)
		whole = c.argv[i][0] != '-';
	if (whole && !no.why)
		no = ask_descriptors();
	if (!no.why)
		return;
	if (!whole) {
		c.program = "error";
		tell(&c, INFO, no.why, "raise the limit", 0, 0);
		sys3(SYS_exit, command ? 125 : 4, 0, 0);
	}
	if (!(path = fresh(0, sizeof(*path))))
		return;
	c.argv += i;
	c.program = c.argv[0];
	if (equal(command, "run")) {
		ask_environment(&c); /* whether to explain */
	} else {
		tell(&c, c.strict ? ERROR "no resident starts in " : INFO "no resident starts in ", no.why, "raise the limit", 0, 0);
		if (c.strict)
			sys3(SYS_exit, 125, 0, 0);
	}
	exec_by_name(&c, c.program, path, no);
}

/*
 * residentctl run [--strict] [--explain] PROGRAM [ARG...], before there is a Go
 * runtime. Whatever is not exactly that returns, for the Go side to deal with;
 * nothing has been touched then.
 *
 * A caller who may not say which file it executes would be residentctl in
 * /proc/self/exe, and a program that executes itself again by that name (perl's
 * $^X) would get residentctl. So for such a caller it is the launcher file that
 * becomes the program, at the price of a second exec. The same goes for a
 * program whose path does not fit on the stack that residentctl was given.
 */
static void run_before_go(u64 *sp, const struct config *cfg)
{
	struct caller c = { .given = -1 };
	struct text *program, *path;
	struct stat st;
	struct reason no, other;
	struct plan_file_id id;
	u64 i;
	int which, found, said = 0, touched = 0;

	if (*sp < 3 || !equal(((char **)sp)[2], "run"))
		return;
	look(&c, sp);
	find_strings(&c);
	for (i = 2; i < *sp && c.argv[i][0] == '-'; i++) {
		if (equal(c.argv[i], "--strict"))
			c.strict = 1;
		else if (equal(c.argv[i], "--explain"))
			c.explain = 1;
		else
			return;
	}
	find_self(&c);
	_Static_assert(3 * sizeof(*path) <= SCRATCH, "room");
	if (i == *sp || !(program = scratch(&c)))
		return;
	no = ask_filter();
	if (no.why) {
		shift(&c, i);
		ask_environment(&c); /* whether to explain */
		exec_by_name(&c, c.argv[0], program, no);
	}
	if (!find_program(&c, c.argv[i], program, &st)) {
		sys3(SYS_munmap, (u64)program, SCRATCH, 0);
		return;
	}
	/* Behind it, so that both are on one page where they are short. */
	path = (struct text *)(program->buf + ((program->len + 8) & ~7UL));
	c.own = path + 1;
	c.may_set_exe = may_set_exe();
	c.program = program->buf;
	c.name = base_name(program->buf);
	id = (struct plan_file_id){ .dev = st.dev, .ino = st.ino };
	shift(&c, i);

	no = ask_environment(&c);
	if (no.why)
		exec_program(&c, no);
	no = (struct reason){ NOT_RESIDENT, 0 };
	for (which = 0; !touched && (found = store(&c, cfg, which, path)) >= 0; which++) {
		if (!found)
			continue;
		other = start_from(&c, cfg, which, &id, path, &touched);
		if (other.why != NOT_RESIDENT) {
			no = other;
			said = which;
		}
	}
	/* The paths of all stores were put together in one place. */
	if (no.what == path->buf)
		name_in_store(&c, cfg, said, "/index/", &id, path);
	exec_program(&c, no);
}

/* Residentctl's entry, and that of a front file, which comes from the Go side. */
void launcher_front(u64 *sp, const struct config *cfg)
{
	run_before_go(sp, cfg);
	if (!cfg)
		without_go(sp);
}

/*
 * Which of the program's names is meant, when a launcher file was executed by this
 * path. In the store its path, or that of a link to it, ends with the name; of
 * another link, in a folder for PATH, only the last part tells; else it is the
 * first.
 */
static const char *meant(const char *names, const char *path)
{
	const char *best = names, *n;
	u64 most = 0, whole = length(path), len;
	int base = 0;

	for (n = names; *n; n += len + 1) {
		len = length(n);
		if (len > most && len <= whole && equal(path + whole - len, n)) {
			best = n;
			most = len;
		} else if (!most && !base && equal(base_name(n), base_name(path))) {
			best = n;
			base = 1;
		}
	}
	return best;
}

/* ---- as a link in a folder of PATH ---------------------------------------- */

/* Is the first of the folders the one in which path was found? Shells put the two
 * together with or without a slash more. */
static int found_in(const char *dirs, const char *path)
{
	u64 n = 0, len = base_name(path) - path;

	while (dirs[n] && dirs[n] != ':')
		n++;
	while (n && dirs[n - 1] == '/')
		n--;
	while (len && path[len - 1] == '/')
		len--;
	return n == len && same(dirs, path, n);
}

/*
 * Where path was found among the folders: what follows the first that it can have
 * been, or NULL.
 */
static const char *after_folder(const char *dirs, const char *path)
{
	int found;

	do {
		found = found_in(dirs, path);
		while (*dirs && *dirs != ':')
			dirs++;
		if (found)
			return dirs;
	} while (*dirs++);
	return 0;
}

/*
 * Called through a folder of PATH, a launcher file is what the program was found
 * by, and the folders behind that one are where it would be found without. NULL
 * if it was called by a path or as the interpreter of a script.
 */
static const char *folders_behind(const struct caller *c)
{
	const char *called = (const char *)c->aux[AT_EXECFN], *dirs = variable(c, "PATH=");

	if (!dirs || !equal(base_name(called), base_name(c->program)))
		return 0;
	return after_folder(dirs, called);
}

/*
 * The next candidate behind, in t; 0 at the end. A folder that also stands at or
 * in front of the one that this launcher file was found in has been looked in. So
 * from launcher file to launcher file it goes on in PATH only, and never round.
 */
static int next_behind(const struct caller *c, const char *behind, const char **dirs, struct text *t)
{
	const char *all = variable(c, "PATH=");

	while (*(*dirs)++) {
		*dirs = in_folder(*dirs, base_name(c->program), t);
		if (after_folder(all, t->buf) > behind)
			return 1;
	}
	return 0;
}

/* Room for each of the candidates behind: what is given, if it is enough. NULL if
 * there is none. */
static struct text *room_behind(const struct caller *c, const char *behind, struct short_text *here)
{
	u64 name = length(base_name(c->program)) + 2, n = name;

	for (; *behind; behind++) {
		n = *behind == ':' ? name : n + 1;
		if (n > SHORT)
			return scratch(c);
	}
	return (struct text *)here;
}

/*
 * Is this path the program's, by a folder of another name perhaps? A link of its own to
 * the same file is another name, and may mean something else: python finds by it in
 * which virtual environment it is.
 */
static int is_program(const struct caller *c, const char *path)
{
	struct stat program, st;

	return equal(path, c->program) ||
	       (!failed(sys3(SYS_lstat, (u64)path, (u64)&st, 0)) &&
		!failed(sys3(SYS_lstat, (u64)c->program, (u64)&program, 0)) && program.dev == st.dev && program.ino == st.ino);
}

/* Would the program be found without this launcher file, or is there another one
 * before it? One that is in no folder of PATH is what the link was made for. */
static struct reason ask_path(const struct caller *c, const char *behind, struct text *t)
{
	const char *dirs = behind;
	struct stat st;

	while (next_behind(c, behind, &dirs, t)) {
		if (equal(t->buf, c->program))
			break;
		if (!may_execute(t->buf, &st) || is_shim(t->buf))
			continue;
		if (is_program(c, t->buf))
			break;
		NO_FOR("another program of this name is found before it:", t->buf);
	}
	return YES;
}

static char *append(char *to, const char *from, u64 n)
{
	memcpy(to, from, n);
	to[n] = 0;
	return to + n;
}

/* Those of the folders up to end that are folders of shims, or the others, each with a
 * colon. */
static char *append_folders(const struct caller *c, const char *dirs, const char *end, int shims, char *to)
{
	const char *name = base_name(c->program);

	for (;; dirs++) {
		int shim = found_in(dirs, (const char *)c->aux[AT_EXECFN]);
		const char *from = dirs;
		char *stop;

		while (dirs < end && *dirs != ':')
			dirs++;
		stop = append(to, from, dirs - from);
		if (!shim && !c->filtered) {
			append(append(stop, "/", 1), name, length(name));
			shim = is_shim(to);
		}
		if (shim == shims)
			to = append(stop, ":", 1);
		if (dirs == end)
			return to;
	}
}

/*
 * Another program that is executed may itself look for the next of its name in PATH:
 * version managers do, wrappers, ccache. In front of its folder that would be the shim
 * again, and so on without an end. So the folders of shims that stand before its
 * folder are put right behind it. For every name PATH leads to the same program as
 * before, since a shim starts what is found behind it; what the other program is the
 * wrapper of is still found by its shim; and a shim's place only ever moves backwards.
 * Behind a filter, through which no start is one from an image, they are left out.
 * dirs is what follows the other program's folder.
 */
static char *path_behind(const struct caller *c, const char *dirs)
{
	const char *all = variable(c, "PATH=");
	/* Twice: what is left out again was put together behind the rest. */
	u64 room = sizeof("PATH=") + 2 * length(all) + sizeof("::/") + length(base_name(c->program));
	char *path = (char *)fresh(0, room), *to;

	if (!path)
		return 0;
	to = append_folders(c, all, dirs, 0, append(path, "PATH=", 5));
	if (!c->filtered)
		to = append_folders(c, all, dirs, 1, to);
	if (*dirs)
		append(to, dirs + 1, length(dirs + 1));
	else
		to[-1] = 0; /* the colon */
	return path;
}

/* Is what may be at this path another program, and no shim? */
static int is_other(const struct caller *c, const char *path)
{
	struct stat st;

	if (c->filtered)
		return !equal(path, c->program);
	return may_execute(path, &st) && !is_shim(path) && !is_program(c, path);
}

/* Execute what is found in PATH; dirs is what follows its folder. */
static long execute_found(struct caller *c, const char *path, const char *dirs)
{
	const char *program = c->program;
	char **e, *was, *behind = 0;
	long err;

	if (is_other(c, path))
		behind = path_behind(c, dirs);
	for (e = c->envp; !starts(*e, "PATH="); e++)
		;
	was = *e;
	if (behind)
		*e = behind;
	c->program = path;
	err = execute(c);
	c->program = program;
	*e = was;
	return err;
}

/* Execute what is found behind, as execvp(3) does. Where there is a filter that is with
 * no system call but execve, and for memory. */
static _Noreturn void exec_behind(struct caller *c, const char *behind, struct text *t, struct reason no)
{
	const char *dirs = behind;
	long err, denied = ENOENT;

	c->filtered = ask_filter().why != 0;
	explain(c, no);
	while (next_behind(c, behind, &dirs, t)) {
		err = execute_found(c, t->buf, dirs);
		if (err == EACCES)
			denied = err;
		else if (err != ENOENT && err != ENOTDIR)
			give_up(c, err);
	}
	err = execute(c);
	give_up(c, err == ENOENT || err == ENOTDIR ? denied : err);
}

/* ---- as the kernel's interpreter of the program (binfmt_misc) --------------- */

/*
 * The descriptor that the kernel gives along is taken off the initial stack, and
 * the mark that argv[0] stands behind the program's path (flags O and P in the
 * kernel's Documentation/admin-guide/binfmt-misc.rst): an exec leaves neither.
 */
static void take_descriptor(struct caller *c)
{
	u64 *a, *to = c->auxv;

	for (a = c->auxv; a < c->auxv_end; a += 2) {
		if (*a == AT_EXECFD) {
			c->given = a[1];
			continue;
		}
		to[0] = a[0];
		to[1] = *a == AT_FLAGS ? a[1] & ~(u64)AT_FLAGS_PRESERVE_ARGV0 : a[1];
		to += 2;
	}
	c->auxv_end = to;
	c->aux[AT_FLAGS] &= ~(u64)AT_FLAGS_PRESERVE_ARGV0;
}

/* What the kernel, having mapped the program itself, would have written. */
static void write_loaded(struct caller *c, const struct loaded *l)
{
	u64 *a;

	for (a = c->auxv; *a != AT_NULL; a += 2) {
		switch (*a) {
		case AT_PHDR:	a[1] = l->phdr; break;
		case AT_PHENT:	a[1] = sizeof(struct phdr); break;
		case AT_PHNUM:	a[1] = l->phnum; break;
		case AT_BASE:	a[1] = l->base; break;
		case AT_ENTRY:	a[1] = l->program_entry; break;
		}
	}
}

/* The program's descriptor once more, by its path if that still leads there. */
static long open_again(const struct caller *c, const struct stat *was)
{
	long fd = open_file(c->program);
	struct stat st;

	if (failed(fd))
		return -1;
	if (!failed(sys3(SYS_fstat, fd, (u64)&st, 0)) && st.dev == was->dev && st.ino == was->ino)
		return fd;
	sys3(SYS_close, fd, 0, 0);
	return -1;
}

/* Where the stack ends: with the path that was executed. */
static u64 stack_top(const struct caller *c)
{
	return (c->env_end + length((char *)c->aux[AT_EXECFN]) + 4096) & ~4095UL;
}

/*
 * And where it ends without randomisation, be it switched off for this process
 * (personality(2), ADDR_NO_RANDOMIZE) or for all (kernel.randomize_va_space): with
 * the first half of the address space (arch/x86/include/asm/processor.h, STACK_TOP).
 * A random end is the same once in four million starts.
 */
#define STACK_TOP	0x7ffffffff000UL

/* Start the program normally. It is the kernel's exec that led here, so this is
 * what it would have done. */
static _Noreturn void load(struct caller *c, const struct stat *st, struct reason no)
{
	u64 now = sys3(SYS_brk, 0, 0, 0), *slot = c->sp - 1;
	struct loaded l;
	struct mm_map mm;
	struct stage s = { .leave = { .rsp = (u64)slot }, .mm = &mm, .file = c->given };
	long err;

	explain(c, no);
	err = load_program(c->given, stack_top(c) != STACK_TOP, &l);
	if (err)
		give_up(c, -err);
	if (l.closed)
		s.file = open_again(c, st);
	write_loaded(c, &l);
	if (l.exec_stack) {
		sys3(SYS_mprotect, (u64)c->sp & ~4095UL, stack_top(c) - ((u64)c->sp & ~4095UL),
		     PROT_READ | PROT_WRITE | PROT_EXEC | PROT_GROWSDOWN);
	}
	l.brk += now > c->end ? now - c->end : 0;
	mm = (struct mm_map){
		.start_code = l.start_code, .end_code = l.end_code,
		.start_data = l.start_data, .end_data = l.end_data,
		.start_brk = l.brk, .brk = l.brk, .start_stack = (u64)c->sp,
		.arg_start = c->argv[0] ? (u64)c->argv[0] : c->arg_end, .arg_end = c->arg_end,
		.env_start = c->arg_end, .env_end = c->env_end,
		.auxv = c->auxv, .auxv_size = (u64)c->auxv_end - (u64)c->auxv,
		.exe_fd = -1,
	};
	/* A kernel that does not know it (CONFIG_CHECKPOINT_RESTORE) shows the
	 * launcher's in /proc; the program runs all the same. */
	sys6(SYS_prctl, PR_SET_MM, PR_SET_MM_MAP, (u64)&mm, sizeof(mm), 0, 0);
	*slot = l.entry;
	s.leave.gadget = l.gadget;
	take_away(c, 0, &s.leave);
	leave_by_stage(c, &s);
	__builtin_unreachable();
}

/*
 * An exec of the program, or of another whose first bytes are the same. It is the
 * one that the descriptor shows, whichever path led there, and its image is looked
 * for in the store that the launcher file belongs to. arguments: the launcher
 * file's path, the program's, the program's own. Not inlined: other starts would have
 * its variables on their stack too, and that may be a page more.
 */
static _Noreturn __attribute__((noinline)) void launcher_given(struct caller *c, const struct config *cfg)
{
	const char *index = (const char *)cfg + cfg->plan;
	struct plan_file_id id;
	struct text *t;
	struct reason no, filter;
	struct short_text here;
	struct stat st;
	int touched;

	c->program = c->argv[1];
	shift(c, 2);
	take_descriptor(c);
	no = ask_environment(c);
	if (c->aux[AT_SECURE])
		c->explain = c->strict = 0; /* the environment is not to be trusted */
	filter = ask_filter();
	c->filtered = filter.why != 0;
	if (!no.why)
		no = filter;
	c->may_set_exe = !c->filtered && may_set_exe();
	if (failed(sys3(SYS_fstat, c->given, (u64)&st, 0)))
		no = (struct reason){ "the kernel has not opened it", 0 };
	t = (struct text *)&here;
	if (length(index) + 2 * DIGITS > SHORT && (t = scratch(c)))
		c->own = t + 1;
	if (!no.why && t) {
		id = (struct plan_file_id){ .dev = st.dev, .ino = st.ino };
		t->len = 0;
		add(t, index);
		t->len = base_name(index) - index;
		add_number(t, id.dev);
		add(t, "-");
		add_number(t, id.ino);
		no = become(c, t->buf, &id, &touched);
	}
	load(c, &st, no);
}

/* An exec of a launcher file: its configuration says which program it is for. */
_Noreturn void launcher_file(u64 *sp, const struct config *cfg)
{
	struct caller c = { .given = -1 };
	struct short_text here;
	struct text *t = 0;
	const char *behind;
	struct reason no;
	int touched;

	if (cfg->front) {
		launcher_front(sp, cfg);
		sys3(SYS_exit, 125, 0, 0);
	}
	look(&c, sp);
	find_strings(&c);
	find_self(&c);
	if (c.aux[AT_FLAGS] & AT_FLAGS_PRESERVE_ARGV0)
		launcher_given(&c, cfg);
	c.program = (const char *)cfg + cfg->program;
	if (c.aux[AT_EXECFN])
		c.program = meant(c.program, (const char *)c.aux[AT_EXECFN]);
	no = ask_environment(&c);
	if (!no.why)
		no = ask_filter();
	behind = folders_behind(&c);
	if (behind)
		t = room_behind(&c, behind, &here);
	if (t && t != (struct text *)&here)
		c.own = t + 1;
	if (t && !no.why)
		no = ask_path(&c, behind, t);
	c.may_set_exe = !no.why && may_set_exe();
	if (!no.why)
		no = become(&c, (const char *)cfg + cfg->plan, 0, &touched);
	if (t)
		exec_behind(&c, behind, t, no);
	exec_program(&c, no);
}

/* ---- as a part of a dynamic linker --------------------------------------- */

/* Note the start for whoever makes what is often started resident: a sign (+ from an
 * image, - normal, = normal whatever there is), the program's device and inode, and
 * its path. */
static void note(struct caller *c, char sign, const struct plan_file_id *id, struct text *t)
{
	long fd;

	if (!c->log)
		return;
	fd = sys3(SYS_openat, AT_FDCWD, (u64)c->log, O_WRONLY | O_APPEND | O_CLOEXEC);
	if (failed(fd))
		return;
	t->len = 1;
	t->buf[0] = sign;
	add_number(t, id->dev);
	add(t, "-");
	add_number(t, id->ino);
	add(t, " ");
	add(t, own_path(c));
	add(t, "\n");
	sys3(SYS_write, fd, (u64)t->buf, t->len);
	sys3(SYS_close, fd, 0, 0);
}

/*
 * The kernel has mapped the program and the dynamic linker that the launcher is
 * a part of, so an exec is no way back: the image is put beside them, and only
 * when all of it stands are they taken away. Up to there everything is undone on
 * a doubt. comm, the command line and /proc/self/exe are right already.
 */
static struct reason become_beside(struct caller *c, struct text *path, const struct plan_file_id *id)
{
	const struct plan_vdso *v;
	struct image im;
	struct rlimit stack;
	struct mm_map mm;
	struct reason no;
	u64 tid, away;

	no = ask(c, path->buf, id, &im, &stack);
	if (no.why)
		return no;
	v = &im.head->vdso;
	/* The program stands somewhere else than in the image, all of it by the
	 * same distance, or, not position-independent, at the same place. */
	away = c->aux[AT_PHDR] - im.head->entry.phdr;
	c->program_at = TABLE(&im, maps, plan_map)[TABLE(&im, files, plan_file)->first_map].addr + away;
	c->program_end = im.head->mm.brk_base + away;
	c->in_place = !away;
	if (im.head->flags & PLAN_FLAG_KEEP_BRK || c->program_at >= c->program_end)
		NO("its program break belongs to its image");
	/* A debugger switches randomisation off, and has seen where the program
	 * is. */
	if (!c->in_place && sys3(SYS_personality, 0xffffffff, 0, 0) & ADDR_NO_RANDOMIZE)
		NO("its addresses are not to be random");

	no = move_vdso(v, vdso_start(c, v), v->addr);
	if (no.why)
		return no;
	no = map_image(c, &im, 0);
	if (!no.why)
		no = register_thread(&im, &tid);
	if (!no.why) {
		write_auxv(c, &im);
		no = describe(c, &im, &mm);
	}
	if (no.why) {
		undo(c, &im);
		return no;
	}

	/* From here on there is no way back, and nothing left that can fail but
	 * for want of memory. */
	if (!c->in_place)
		sys3(SYS_munmap, c->program_at, c->program_end - c->program_at, 0);
	else if (!map_over(c, &im))
		no = (struct reason){ "there is no memory at the image's place", 0 };
	if (!no.why)
		no = correct(c, &im, &stack, tid);
	if (no.why) {
		tell(c, ERROR, "cannot be started", no.why, no.what, 0);
		sys3(SYS_exit, 126, 0, 0);
	}
	if (c->explain)
		tell(c, INFO, "resident start", "image", string(&im, im.head->id), 0);
	note(c, '+', id, path);
	enter(c, &im, &mm, -1, EXE_NEED_NOT);
	__builtin_unreachable();
}

/* Do the index links' paths fit into short texts? */
static int short_stores(const struct config *cfg)
{
	int which;

	for (which = 0; which < 4 && cfg->stores[which]; which++)
		if (length((const char *)cfg + cfg->stores[which]) + sizeof("/index/-") + 2 * DIGITS > SHORT)
			return 0;
	return 1;
}

/*
 * Which program may this be? /proc/self/exe knows, but to look there for the first
 * time makes the kernel set up what it shows of a process, 10 us with what it takes
 * to throw it away. The path that was executed tells faster, if it is not a
 * script's: that the kernel has put among the first arguments, two further for each
 * interpreter, of which there are at most five (fs/binfmt_script.c, load_script;
 * fs/binfmt_misc.c, load_misc_binary; fs/exec.c, exec_binprm). Another file may
 * stand there by now, so what is found is only looked for in the stores, and
 * ask_program asks /proc/self/exe.
 */
static int find_out(const struct caller *c, struct plan_file_id *id)
{
	u64 i;

	for (i = 1; i <= 10 && i < *c->sp; i++)
		if (equal(c->argv[i], c->program))
			return identify(OWN, id);
	return (!c->log && *c->sp && identify(c->program, id)) || identify(OWN, id);
}

/*
 * The entry of a dynamic linker that the launcher was added to. It gives the
 * linker's own entry for a normal start. `code` is the launcher's first byte.
 */
u64 launcher_interp(u64 *sp, const struct config *cfg, u64 code)
{
	struct caller c = { .given = -1 };
	struct short_text here;
	struct text *path = 0;
	struct reason no, other;
	struct plan_file_id id;
	u64 entry = code + cfg->entry, *a;
	int which;

	look(&c, sp);
	if (c.aux[AT_ENTRY] == code + INTERP_OFFSET) {
		/* Executed as a program, with which it tells itself by its
		 * entry (glibc elf/rtld.c, dl_main). */
		for (a = c.auxv; *a != AT_NULL; a += 2)
			if (*a == AT_ENTRY)
				a[1] = entry;
		return entry;
	}
	find_strings(&c);
	c.program = (const char *)c.aux[AT_EXECFN];
	c.start = code + cfg->base;
	c.end = c.start + cfg->span;
	/* The kernel has mapped the vDSO after the linker, so most likely right below. */
	c.below = c.start;
	if (c.aux[AT_SYSINFO_EHDR] < c.start && c.aux[AT_SYSINFO_EHDR] > VDSO_DATA)
		c.below = c.aux[AT_SYSINFO_EHDR] - VDSO_DATA;
	c.linker = (const char *)cfg + cfg->linker;
	c.root = cfg->root;
	c.log = cfg->log ? (const char *)cfg + cfg->log : 0;

	no = ask_environment(&c);
	if (!no.why)
		no = ask_filter();
	if (!no.why && !find_out(&c, &id))
		no = (struct reason){ "this cannot be found", OWN };
	if (!no.why) {
		no = (struct reason){ NOT_RESIDENT, 0 };
		path = (struct text *)&here;
		if ((c.log || !short_stores(cfg)) && (path = scratch(&c)))
			c.own = path + 1;
	}
	if (path) {
		for (which = 0; store(&c, cfg, which, path) > 0; which++) {
			name_in_store(&c, cfg, which, "/index/", &id, path);
			other = become_beside(&c, path, &id);
			if (other.why != NOT_RESIDENT)
				no = other;
		}
		note(&c, '-', &id, path);
	} else if (c.log && no.what && !c.aux[AT_SECURE] && !ask_filter().why && identify(OWN, &id) &&
		   (path = scratch(&c))) {
		c.own = path + 1;
		note(&c, '=', &id, path); /* its environment speaks against it */
	}
	if (c.explain)
		tell(&c, INFO, "started normally", no.why, no.what, 0);
	if (c.plan || c.own)
		sys3(SYS_munmap, lowest(&c), c.below - lowest(&c), 0);
	return entry;
}
