/* Part of launcher.c: as the kernel's interpreter of the program (binfmt_misc). */

/*
 * The descriptor that the kernel gives along is taken off the initial stack, and
 * the mark that argv[0] follows the program's path (flags O and P in the
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
	return page_up(c->env_end + length((char *)c->aux[AT_EXECFN]) + 1);
}

/*
 * And where it ends without randomisation, be it switched off for this process
 * (personality(2), ADDR_NO_RANDOMIZE) or for all (kernel.randomize_va_space): with
 * the first half of the address space (arch/x86/include/asm/processor.h, STACK_TOP).
 * A random end is the same once in four million starts.
 */
#define STACK_TOP	0x7ffffffff000UL

static _Noreturn void load_now(struct caller *c, const struct stat *st);

/*
 * Go on in a copy of the launcher, of whose file then nothing stays mapped: whatever
 * addresses the program wants are free, and /proc/self/exe can name another file at once
 * (kernel/fork.c, replace_mm_exe_file). The code is the same wherever it is. It comes back
 * where memory cannot become code (PR_SET_MDWE, SELinux's execmem).
 */
static void load_in_copy(struct caller *c, const struct stat *st)
{
	void (*next)(struct caller *, const struct stat *) = load_now;
	u64 len = c->end - c->start, at = (u64)fresh(0, len);

	if (!at)
		return;
	memcpy((void *)at, (const void *)c->start, len);
	if (failed(sys3(SYS_mprotect, at, len, PROT_READ | PROT_EXEC))) {
		sys3(SYS_munmap, at, len, 0);
		return;
	}
	next = (void *)((u64)next - c->start + at);
	c->copied = lowest(c);
	c->copied_end = c->end;
	c->start = c->below = at;
	c->end = at + len;
	c->plan = (const char *)at; /* nothing below belongs to it */
	c->own = 0;
	next(c, st);
	__builtin_unreachable();
}

/* Make /proc/self/exe name the program, so that no one can write to its file any more
 * (kernel/fork.c, replace_mm_exe_file, since Linux 5.15; 6.11 and 6.12 deny no writes to
 * what is executed, in any exec). It fails with ETXTBSY while a writer has it open. */
static int set_exe(const struct caller *c)
{
	u64 now = sys3(SYS_brk, 0, 0, 0);
	struct mm_map mm = {
		.start_code = c->start, .end_code = c->end, .start_data = c->start, .end_data = c->end,
		.start_brk = now, .brk = now,
	};
	volatile long err = -EPERM;
	long child;

	describe_stack(c, &mm);
	mm.exe_fd = c->given;
	if (how_to_set_exe(c) == EXE_SET)
		return !failed(describe_to_kernel(&mm));
	child = clone_as_root();
	if (!child) {
		err = describe_to_kernel(&mm);
		sys3(SYS_exit, 0, 0, 0);
	}
	if (!failed(child))
		sys4(SYS_wait4, child, 0, WCLONE, 0);
	return !failed(err);
}

/*
 * Has the file capabilities that count in this user namespace? Of those that count in
 * another one only, which its owner can give it there, the kernel shows a longer form with
 * the id of that one's root (security/commoncap.c, cap_inode_getsecurity).
 */
static int has_capabilities(long fd)
{
	static const char name[] = "security.capability";
	struct { u32 magic, data[4]; } v2; /* linux/capability.h, struct vfs_cap_data */

	return sys4(SYS_fgetxattr, fd, (u64)name, (u64)&v2, sizeof(v2)) == sizeof(v2) &&
	       (v2.magic & VFS_CAP_REVISION_MASK) == VFS_CAP_REVISION_2;
}

/* Does the file still explain the privileges that the kernel has given to this process
 * for it (fs/exec.c, bprm_fill_uid; security/commoncap.c, cap_bprm_creds_from_file)?
 * Each has to be explained: a write takes the bits and capabilities away, and its owner
 * can give only the own id back. There may be none: a tracer without privileges keeps
 * the kernel from giving any. */
static int explains(const struct caller *c, const struct stat *st)
{
	int by_user = c->aux[AT_EUID] != c->aux[AT_UID], by_group = c->aux[AT_EGID] != c->aux[AT_GID];

	if (by_user && !(st->mode & S_ISUID && st->uid == c->aux[AT_EUID]))
		return 0;
	if (by_group && !((st->mode & S_ISGID) && (st->mode & S_IXGRP) && st->gid == c->aux[AT_EGID]))
		return 0;
	return !is_privileged(c) || has_capabilities(c->given);
}

/*
 * Between an exec and now the file could be written: the kernel denies that only of the
 * launcher file, which it executes. With privileges that is not to count. So from here on
 * writing is denied, and only then the file is looked at.
 */
static void deny_writing(struct caller *c)
{
	struct stat st;

	c->exe_is_set = set_exe(c);
	if (!failed(sys3(SYS_fstat, c->given, (u64)&st, 0)) && (st.mode & S_IFMT) == S_IFREG &&
	    ((st.uid == c->root && !(st.mode & 022)) || (c->exe_is_set && explains(c, &st))))
		return;
	tell(c, ERROR, "cannot be executed", (struct reason){ "its file does not account for the privileges that it was given, or can be written to", 0 }, 0);
	sys3(SYS_exit, 126, 0, 0);
}

/* The second half of load, by the launcher's file or in a copy. */
static _Noreturn void load_now(struct caller *c, const struct stat *st)
{
	u64 *slot = c->sp - 1;
	struct loaded l;
	struct mm_map mm;
	struct stage s = { .leave = { .rsp = (u64)slot }, .mm = &mm, .file = c->given };
	long err;

	if (c->copied)
		sys3(SYS_munmap, c->copied, c->copied_end - c->copied, 0);
	if (c->aux[AT_SECURE])
		deny_writing(c);
	err = load_program(c->given, stack_top(c) != STACK_TOP, &l);
	if (err == -EEXIST && !c->copied)
		load_in_copy(c, st); /* the launcher is where the program belongs */
	if (err)
		give_up(c, -err);
	if (l.closed)
		s.file = c->exe_is_set ? -1 : open_again(c, st);
	write_loaded(c, &l);
	if (l.exec_stack) {
		sys3(SYS_mprotect, page_down((u64)c->sp), stack_top(c) - page_down((u64)c->sp),
		     PROT_READ | PROT_WRITE | PROT_EXEC | PROT_GROWSDOWN);
	}
	l.brk += c->break_gap;
	mm = (struct mm_map){
		.start_code = l.start_code, .end_code = l.end_code,
		.start_data = l.start_data, .end_data = l.end_data,
		.start_brk = l.brk, .brk = l.brk,
	};
	describe_stack(c, &mm);
	/* A kernel that does not know it (CONFIG_CHECKPOINT_RESTORE) shows the
	 * launcher's in /proc; the program runs all the same. */
	describe_to_kernel(&mm);
	*slot = l.entry;
	s.leave.gadget = l.gadget;
	take_away(c, 0, &s.leave);
	leave_by_stage(c, &s);
	__builtin_unreachable();
}

/* Start the program normally. It is the kernel's exec that led here, so this is
 * what it would have done. */
static _Noreturn void load(struct caller *c, const struct stat *st, struct reason no)
{
	u64 now = sys3(SYS_brk, 0, 0, 0);

	explain(c, no);
	leave_store(c);
	c->break_gap = now > c->end ? now - c->end : 0;
	if (c->aux[AT_SECURE])
		load_in_copy(c, st);
	load_now(c, st);
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
	struct plan_file_id id;
	struct reason no, filter;
	struct short_text here;
	struct text *name = (struct text *)&here;
	struct stat st;
	int touched;

	c->program = c->argv[1];
	shift(c, 2);
	take_descriptor(c);
	no = ask_environment(c);
	filter = ask_filter();
	c->filtered = filter.why != 0;
	if (!no.why)
		no = filter;
	c->may_set_exe = !c->filtered && may_set_exe();
	if (failed(sys3(SYS_fstat, c->given, (u64)&st, 0)))
		no = (struct reason){ "the kernel has not opened it", 0 };
	if (!no.why)
		no = enter_store(c, (const char *)cfg + cfg->stores->path);
	if (!no.why) {
		id = (struct plan_file_id){ .dev = st.dev, .ino = st.ino };
		name_in_store(name, "index/", &id);
		no = become(c, name->buf, &id, &touched);
	}
	load(c, &st, no);
}
