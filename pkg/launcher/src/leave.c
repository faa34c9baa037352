/* Part of launcher.c: taking the launcher away, and going on in the program. */

struct leave {			/* start_amd64.S knows the order */
	u64 rsp, rbx, rbp, r12, r13, r14, r15, unmap, unmap_len, gadget;
};
_Static_assert(__builtin_offsetof(struct leave, gadget) == 72, "order");
_Noreturn void leave(const struct leave *);

/*
 * What is left to do when the launcher's own pages are gone: only then does the kernel let
 * /proc/self/exe name another file (kernel/fork.c, replace_mm_exe_file: EBUSY). It is done
 * on a page of its own.
 */
struct stage {
	struct leave leave;
	struct mm_map *mm;
	int file;		/* the program, to be closed, or -1 */
	int how, must;
	int tried;		/* by the child, for which the launcher was unmapped */
	int possible;		/* as far as the child could see, with the launcher still there */
	long err;		/* of what it has tried */
};
enum { EXE_STAYS, EXE_SET, EXE_SET_BY_CHILD };
enum { EXE_NEED_NOT, EXE_MUST, EXE_ASK };
#define EXE_UNSET	"it looks at itself through /proc/self/exe, which the kernel does not let you set"

/* A function that runs where it has been copied to calls nothing that stays behind. */
#define ON_STAGE __attribute__((section(".text.stage"), noinline)) static
extern const char stage_start[], stage_end[];

/*
 * Has a child set the name, as root of a user namespace: prctl(2), PR_SET_MM_MAP. The
 * process itself would stay in one that it entered, but the memory may be a child's as
 * well. It shares the stack too, and runs while its parent waits. In the parent this
 * gives its id, or -errno.
 */
IN_LINE long clone_as_root(void)
{
	return sys6(SYS_clone, CLONE_NEWUSER | CLONE_VFORK | CLONE_VM, 0, 0, 0, 0, 0);
}

IN_LINE void unmap_launcher(const struct stage *s)
{
	sys3(SYS_munmap, s->leave.unmap, s->leave.unmap_len, 0);
}

/*
 * Leaves by the page at `page`, taking it away. It comes back, with the launcher still
 * there, if the name must be set and a child cannot, and always if that is all that is
 * asked. Where it must be set the child tries first with the launcher still there: EBUSY
 * says that nothing else is in the way. That the program is open for writing is seen only
 * in the end, when it is the end: an exec would have failed too (ETXTBSY).
 */
ON_STAGE void stage(struct stage *s, u64 page)
{
	long child = 0;

	if (s->how == EXE_SET_BY_CHILD) {
		child = clone_as_root();
		if (!child) {
			s->possible = s->must == EXE_NEED_NOT || describe_to_kernel(s->mm) == -EBUSY;
			if (s->possible && s->must != EXE_ASK) {
				unmap_launcher(s);
				s->err = describe_to_kernel(s->mm);
				s->tried = 1;
			}
			sys3(SYS_exit, 0, 0, 0);
		}
		if (!failed(child))
			sys4(SYS_wait4, child, 0, WCLONE, 0);
		if (s->must != EXE_NEED_NOT && !s->tried)
			return;
		if (s->must != EXE_NEED_NOT && s->err)
			sys3(SYS_exit, 126, 0, 0);
	}
	if (!s->tried)
		unmap_launcher(s);
	if (s->how == EXE_SET)
		describe_to_kernel(s->mm);
	sys3(SYS_close, s->file, 0, 0);
	s->leave.unmap = page;
	s->leave.unmap_len = PAGE;
	leave(&s->leave);
}

/*
 * A caller without the capability to set /proc/self/exe has a child do it. Where ordinary
 * users cannot make user namespaces, the name stays the launcher file's. Through a filter
 * nothing but prctl is tried, which the filter has let pass before.
 */
static int how_to_set_exe(const struct caller *c)
{
	return c->may_set_exe || c->filtered ? EXE_SET : EXE_SET_BY_CHILD;
}

/*
 * Leave by a stage, or without one if there cannot be any: then /proc/self/exe
 * stays as it is, and without a gadget the launcher where it is. It comes back if
 * the name must be set and cannot be. If the start is to be explained, it is
 * explained before: for that a child finds out, and touches nothing.
 */
static struct reason leave_by_stage(const struct caller *c, struct stage *s)
{
	u64 page = (u64)fresh(0, PAGE);
	void (*on_page)(struct stage *, u64) = stage;

	s->how = s->file < 0 || c->exe_is_set ? EXE_STAYS : how_to_set_exe(c);
	s->mm->exe_fd = s->file;
	if (page) {
		memcpy((void *)page, stage_start, stage_end - stage_start);
		on_page = (void *)((u64)on_page - (u64)stage_start + page);
		if (!failed(sys3(SYS_mprotect, page, PAGE, PROT_READ | PROT_EXEC)))
			on_page(s, page);
		sys3(SYS_munmap, page, PAGE, 0);
	}
	if (s->must == EXE_ASK && s->possible)
		return YES;
	if (s->must != EXE_NEED_NOT)
		NO(EXE_UNSET);
	sys3(SYS_close, s->file, 0, 0);
	leave(&s->leave);
}

/* A frame from which rt_sigreturn makes one more system call with the
 * program's registers, returning to what is at rsp. */
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

/* Is anything of the image in this range, where the vDSO stood before? */
static int image_in(const struct image *im, u64 from, u64 to)
{
	const struct plan_vdso *v = &im->head->vdso;

	return (v->addr < to && v->addr + v->len > from) || reach(TABLE(im, maps, plan_map), im->head->maps.count, from, to) ||
	       reach(TABLE(im, anon, plan_map), im->head->anon.count, from, to);
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
	u64 mask = 0, *slot = (e->rsp ? (u64 *)e->rsp : c->sp) - 1;
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
