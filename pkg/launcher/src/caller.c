/* Part of launcher.c: what is known of the process that has been exec'd, texts and
 * messages, and the first look at it. */
#include "load.h"
#include "plan.h"

#define SCRATCH		20480UL		/* below the launcher, for paths that are put together */
/*
 * How far below the launcher the plan ends. With so much between them one munmap of
 * both spans more than 33 pages and flushes the TLB once, instead of page by page
 * (arch/x86/mm/tlb.c, tlb_single_page_flush_ceiling), which traps in some virtual
 * machines: 17 instead of 50 us.
 */
#define PLAN_GAP	147456UL
#define PLAN_MAX	(16UL << 20)	/* and below that a plan of at most this size */
#define VDSO_DATA	(16 * PAGE)	/* at most so much of the vDSO's mappings is before its code */
#define PATH_LEN	4096
#define SUMMED		(__builtin_offsetof(struct plan_header, program) / 8)
#define INTERP_OFFSET	32	/* of _interp in start_amd64.S */
#define KEPT		2	/* at most as many files stand where a program does: it and CRIU's pages */
#define GUARD_GAP	(256 * PAGE)	/* mm/mmap.c, stack_guard_gap: what the kernel keeps free below a stack */

/* A store, as it was when pkg/launcher wrote the configuration. */
struct config_store {
	u32 path;		/* 0: there are no more */
	u32 pad;
	u64 dev, ino;		/* of its directory, which was checked then */
};
#define STORES		4

/* Follows the launcher in a launcher file; pkg/launcher writes it. */
struct config {
	u64 magic;		/* marks a launcher file for its readers */
	u32 front;		/* treat the arguments as residentctl's own */
	u32 program, plan;	/* offsets from the configuration's start to NUL-terminated strings;
				 * the program may have more names after the first, then an empty one;
				 * the plan is named from the store's directory */
	u32 linker;		/* interp: where the dynamic linker is that this one covers */
	s64 entry, base;	/* interp: its entry and its first byte, from the launcher's */
	u64 span;		/* interp: of the whole mapping of it */
	u32 root;		/* interp: the uid that stat(2) shows for root, 0 but in a user namespace */
	u32 log;		/* interp: the file to note starts in, or 0 */
	u64 room;		/* bytes to leave free below the initial stack; start_amd64.S knows the place */
	struct config_store stores[STORES];
};
_Static_assert(sizeof(struct config) == 160, "pkg/launcher knows the size");
_Static_assert(__builtin_offsetof(struct config, room) == 56, "place");

/* What is known of this process. */
struct text;
struct caller {
	u64 *sp;		/* the initial stack: argc */
	char **argv, **envp;
	u64 *auxv;
	u64 *auxv_end;		/* after AT_NULL */
	u64 aux[AT_COUNT];
	u64 start, end;		/* the launcher's own mappings, to be taken away */
	u64 below;		/* what the launcher maps for itself stands below this */
	const char *linker;	/* interp: what to open instead of the dynamic linker */
	u64 program_at, program_end; /* interp: what the kernel has mapped of the program */
	int in_place;		/* interp: and that is where the image has it too */
	long kept[KEPT];	/* interp: then what is to be mapped over it, in the plan's order */
	u32 keeps;		/* how many files that is */
	const char *log;	/* interp: where to note the start, or 0 */
	const char *only;	/* front: the store that --store names, or 0 */
	const char *dir;	/* the store that is looked in */
	const struct config_store *known; /* what its directory has to be, or 0 */
	long store;		/* a descriptor of it, or -1 */
	int checked;		/* and it has been found to be safe */
	const char *named, *named_in; /* the name of which a reason speaks, and the store that it is in */
	long given;		/* binfmt_misc: a descriptor of the program, else -1 */
	u64 copied, copied_end;	/* binfmt_misc: what the launcher was copied from, still mapped */
	u64 break_gap;		/* and how far the kernel put the break from its end */
	int filtered;		/* binfmt_misc, exec_behind: there is a seccomp filter */
	struct text *own;	/* interp, binfmt_misc: for the program's path, once it is asked for */
	u32 mapped;		/* how much of the image is mapped */
	int by_file;		/* is this an exec of the program's launcher file? */
	u64 room;		/* then so many bytes are free below the initial stack */
	u64 ignored;		/* warm: the signals that the caller ignores, bit n-1 for signal n */
	u32 added;		/* warm: how many arguments stand before the one in argv[0]'s place */
	u64 arg_start, arg_end, env_end; /* where the strings stand */
	const char *program;	/* what an exec would have been given */
	const char *name;	/* comm, if it has to be set */
	int explain, strict;
	u32 root;		/* root's uid as this process sees it */
	int hides_root;		/* interp: is that the overflow uid? 0: not asked yet, -1: no */
	int may_set_exe;	/* may it say which file it executes? */
	int exe_is_set;		/* and it has done so */
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

/* Go on, unless there is a reason not to: that is what the function returns then. */
#define TRY(ask) do { struct reason no_ = (ask); if (no_.why) return no_; } while (0)

/* Is the launcher the kernel's interpreter of the program (binfmt_misc)? */
static int via_binfmt(const struct caller *c)
{
	return c->given >= 0;
}

static const char NOT_RESIDENT[] = "it is not resident";

/* For what is named from the store's directory. That one store has no image is told only
 * where no other says more. */
static struct reason no_in_store(struct caller *c, const char *why, const char *name)
{
	if (why != NOT_RESIDENT || !c->named_in) {
		c->named = name;
		c->named_in = c->dir;
	}
	return (struct reason){ why, name };
}

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

static int same_directory(const char *a, const char *b)
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
 * fresh memory costs a start some microseconds. Code that uses it as a struct text
 * has made sure that the path fits.
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

/* Room for another text, right after this one. */
static struct text *after(struct text *t)
{
	struct text *next = (struct text *)(t->buf + ((t->len + 8) & ~7UL));

	next->len = 0;
	return next;
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
	return page_down(c->below - PLAN_GAP - size);
}

/* The lowest byte of that. */
static u64 lowest(const struct caller *c)
{
	return c->plan ? (u64)c->plan : c->below - SCRATCH;
}

static void tell(const struct caller *c, const char *head, const char *way, struct reason no, long err)
{
	struct text *t = fresh(0, sizeof(*t));

	if (!t)
		return;
	add(t, head);
	add(t, c->program);
	add(t, ": ");
	add(t, way);
	add(t, ": ");
	add(t, no.why);
	if (no.what)
		add(t, " ");
	if (no.what && no.what == c->named) {
		add(t, c->named_in);
		add(t, "/");
	}
	if (no.what)
		add(t, no.what);
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
		u64 from = page_down(ph[i].vaddr), to = page_up(ph[i].vaddr + ph[i].memsz);

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
 * id, so that one that another process has set is not taken for it. */
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

static const char *variable(const struct caller *c, const char *name)
{
	char **e;

	for (e = c->envp; *e; e++)
		if (starts(*e, name))
			return *e + length(name);
	return 0;
}

struct capabilities {
	u32 effective, permitted, inheritable;
};

/* capget(2): 0 if they cannot be read. */
static int read_capabilities(struct capabilities caps[2])
{
	struct { u32 version; int pid; } head = { CAPABILITY_VERSION_3, 0 };

	return !failed(sys3(SYS_capget, (u64)&head, (u64)caps, 0));
}

/* May this process say which file it executes? prctl(2), PR_SET_MM_MAP: in its
 * user namespace CAP_CHECKPOINT_RESTORE, or CAP_SYS_ADMIN before Linux 5.9. */
static int may_set_exe(void)
{
	struct capabilities caps[2];

	return read_capabilities(caps) &&
	       (caps[0].effective >> CAP_SYS_ADMIN & 1 || caps[1].effective >> (CAP_CHECKPOINT_RESTORE - 32) & 1);
}

/* Has the caller capabilities without being root, as a service may (ambient
 * capabilities)? */
static int is_privileged(const struct caller *c)
{
	struct capabilities caps[2];

	return c->aux[AT_EUID] && (!read_capabilities(caps) || caps[0].effective || caps[0].permitted ||
				   caps[1].effective || caps[1].permitted);
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
	int explain = c->explain, strict = c->strict;
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
	if (c->aux[AT_SECURE]) { /* the environment is not to be trusted */
		c->explain = explain;
		c->strict = strict;
	}
	if (unusable)
		NO_FOR("the environment changes how it is linked", unusable);
	if (c->aux[AT_SECURE])
		NO("the caller gives it privileges (AT_SECURE)");
	return YES;
}
