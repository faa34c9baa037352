/* Part of launcher.c: as the kernel's interpreter of the program (binfmt_misc). */

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
