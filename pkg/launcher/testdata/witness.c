/*
 * A program without a C library that says how it finds its process. Its file
 * can be exec'd, and since it is linked at a fixed place and has no data, a
 * test can write a plan for it by hand. r12 is 0 after an exec (the kernel
 * clears the registers) and what the plan says after a resident start. A warm one
 * begins at `warm`, with a stack of its own.
 */
#include "sys.h"
#include "plan.h"

#define SYS_readlink	89
#define SYS_kill	62
#define SYS_fcntl	72
#define F_GETFD		1
#define ARCH_GET_FS	0x1003

#define WORDS		((const u64 *)0x20000000)	/* one word for each kind of fix-up */
#define WORDS_FS	0x20001000UL
#define FRESH		0x20002000UL
#define STACK_END	0x7d0000010000UL	/* of a warm image's own */
#define WARM_KINDS	(1 << PLAN_FIX_SP | 1 << PLAN_FIX_ARGV | 1 << PLAN_FIX_ENVP | 1 << PLAN_FIX_AUXV | \
			 1 << PLAN_FIX_TID | 1 << PLAN_FIX_IGNORED | 1 << PLAN_FIX_FLAGS)

__asm__(".globl _start, warm, handler, gadget, sig_return\n"
	"warm:	mov %rax, %rcx\n"
	"	mov %rsp, %r8\n"
	"	mov 0x20000000, %rdi\n"
	"	mov %r12, %rsi\n"
	"	mov %rbx, %rdx\n"
	"	call run\n"
	"handler: jmp handled\n"
	"_start:	mov %rsp, %rdi\n"
	"	xor %r8d, %r8d\n"
	"	mov %r12, %rsi\n"
	"	mov %rbx, %rdx\n"
	"	call run\n"
	"gadget:	syscall\n"
	"	ret\n"
	"sig_return:	mov $15, %rax\n"
	"	syscall\n");

static void put(const char *s)
{
	u64 n = 0;

	while (s[n])
		n++;
	sys3(SYS_write, 1, (u64)s, n);
}

static void number(const char *name, u64 n)
{
	char text[20];
	int i = 19;

	text[i] = 0;
	text[--i] = '\n';
	do
		text[--i] = "0123456789abcdef"[n & 15];
	while (n >>= 4);
	put(name);
	put(" ");
	put(text + i);
}

static void string(const char *name, const char *s)
{
	put(name);
	put(" ");
	put(s);
	put("\n");
}

static void file(const char *name, const char *path)
{
	char text[4096];
	long fd = open_file(path), n, i;

	put(name);
	put(" ");
	while ((n = sys3(SYS_read, fd, (u64)text, sizeof(text))) > 0) {
		for (i = 0; i < n; i++)
			if (!text[i])
				text[i] = '|';
		sys3(SYS_write, 1, (u64)text, n);
	}
	put("\n");
	sys3(SYS_close, fd, 0, 0);
}

static void link(const char *name, const char *path)
{
	char text[4097];
	long n = sys3(SYS_readlink, (u64)path, (u64)text, 4096);

	text[n < 0 ? 0 : n] = 0;
	string(name, text);
}

static int same_text(const char *a, const char *b)
{
	while (*a && *a == *b)
		a++, b++;
	return *a == *b;
}

__attribute__((used)) void handled(int signal)
{
	number("handled", signal);
}

/* Signals that are not as an exec leaves them, and the mask. */
static void signals(void)
{
	u64 now[4], mask = 0;
	int n;

	for (n = 1; n <= 64; n++) {
		if (failed(sys4(SYS_rt_sigaction, n, 0, (u64)now, 8)) || !now[0])
			continue;
		number(now[0] == SIG_IGN ? "signal-ignored" : "signal-handled", n);
	}
	sys4(SYS_rt_sigprocmask, 0, 0, (u64)&mask, 8);
	number("mask", mask);
}

static int present(u64 addr)
{
	long fd = open_file("/proc/self/pagemap");
	u64 entry = 0;

	sys4(SYS_pread64, fd, (u64)&entry, 8, addr / 4096 * 8);
	sys3(SYS_close, fd, 0, 0);
	return entry >> 63;
}

/* What a warm start has besides. */
static void warm_state(u64 rax, u64 rsp)
{
	const u64 *page = (const u64 *)(STACK_END - 4096);
	u64 kilobytes;

	number("rax", rax);
	number("rsp", rsp);
	number("ignored", WORDS[PLAN_FIX_IGNORED]);
	number("flags", WORDS[PLAN_FIX_FLAGS]);
	number("copied", page[0]);
	number("corrected", page[256] == WORDS[PLAN_FIX_SP]);
	number("populated", present(FRESH) | present(FRESH + 4096) << 1);
	for (kilobytes = 4; kilobytes <= 256; kilobytes += 4)
		*(volatile char *)(STACK_END - kilobytes * 1024) = 1;
	put("stack-grows\n");
	sys3(SYS_kill, sys3(SYS_getpid, 0, 0, 0), 10, 0);
}

static void words(u64 *sp, u64 argc, char **envp, u64 *auxv, const u64 *aux, u32 kinds)
{
	const u64 *random = (const u64 *)aux[AT_RANDOM];
	struct rlimit stack;
	u64 want[PLAN_FIX_KINDS], fs;
	int i;

	sys4(SYS_prlimit64, 0, RLIMIT_STACK, 0, (u64)&stack);
	sys3(SYS_arch_prctl, ARCH_GET_FS, (u64)&fs, 0);
	want[PLAN_FIX_SP] = (u64)sp;
	want[PLAN_FIX_ARGV] = (u64)(sp + 1);
	want[PLAN_FIX_ENVP] = (u64)envp;
	want[PLAN_FIX_AUXV] = (u64)auxv;
	want[PLAN_FIX_PLATFORM] = aux[AT_PLATFORM];
	want[PLAN_FIX_RANDOM] = aux[AT_RANDOM];
	want[PLAN_FIX_EXECFN] = aux[AT_EXECFN];
	want[PLAN_FIX_ARGC] = argc;
	want[PLAN_FIX_TID] = sys3(SYS_getpid, 0, 0, 0);
	want[PLAN_FIX_CANARY] = random[0] & ~0xffUL;
	want[PLAN_FIX_GUARD] = random[1];
	want[PLAN_FIX_STACK_SIZE] = (stack.cur + 4095) & ~4095UL;
	want[PLAN_FIX_IGNORED] = WORDS[PLAN_FIX_IGNORED];
	want[PLAN_FIX_FLAGS] = WORDS[PLAN_FIX_FLAGS];
	for (i = 0; i < PLAN_FIX_KINDS; i++)
		if (kinds >> i & 1 && WORDS[i] != want[i])
			number("wrong-word", i);
	if (fs != WORDS_FS)
		number("wrong-fs", fs);
}

__attribute__((used)) void run(u64 *sp, u64 r12, u64 rbx, u64 rax, u64 rsp)
{
	u64 aux[AT_COUNT] = { 0 }, argc = *sp, brk, *auxv, *a;
	char **envp = (char **)(sp + 1 + argc + 1), **e;
	u64 i;

	for (e = envp; *e; e++)
		;
	auxv = (u64 *)e + 1;
	for (a = auxv; *a; a += 2)
		if (*a < AT_COUNT)
			aux[*a] = a[1];

	number("resident", r12);
	number("rbx", rbx);
	number("stack-alignment", (u64)sp & 15);
	number("argc", argc);
	for (i = 0; i < argc; i++)
		string("argv", ((char **)(sp + 1))[i]);
	for (e = envp; *e; e++)
		string("env", *e);
	number("aux-phdr", aux[AT_PHDR]);
	number("aux-phnum", aux[AT_PHNUM]);
	number("aux-entry", aux[AT_ENTRY]);
	number("aux-base", aux[AT_BASE]);
	number("aux-pagesz", aux[AT_PAGESZ]);
	number("aux-secure", aux[AT_SECURE]);
	number("aux-vdso", aux[AT_SYSINFO_EHDR]);
	number("vdso-magic", *(u32 *)aux[AT_SYSINFO_EHDR]);
	string("execfn", (char *)aux[AT_EXECFN]);
	string("platform", (char *)aux[AT_PLATFORM]);
	if (aux[AT_RANDOM] < (u64)a || aux[AT_RANDOM] + 16 > (u64)((char **)(sp + 1))[0] || !*(u64 *)aux[AT_RANDOM])
		put("random-misplaced\n");
	signals();
	file("comm", "/proc/self/comm");
	file("cmdline", "/proc/self/cmdline");
	file("environ", "/proc/self/environ");
	link("exe", "/proc/self/exe");
	for (i = 3; i < 64; i++)
		if (!failed(sys3(SYS_fcntl, i, F_GETFD, 0)))
			number("open", i);
	brk = sys3(SYS_brk, 0, 0, 0);
	number("brk", brk);
	if (sys3(SYS_brk, brk + 8192, 0, 0) != (long)brk + 8192)
		put("brk-stuck\n");
	else
		*(volatile u64 *)(brk + 4096) = 1;
	sys3(SYS_brk, brk, 0, 0);
	if (r12)
		words(sp, argc, envp, auxv, aux, rsp ? WARM_KINDS : (1 << PLAN_FIX_IGNORED) - 1);
	if (rsp)
		warm_state(rax, rsp);
	file("maps", "/proc/self/maps");
	sys3(SYS_exit, argc > 1 && same_text(((char **)(sp + 1))[1], "--fail") ? 42 : 0, 0, 0);
}
