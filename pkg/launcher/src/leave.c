/* Part of launcher.c: taking the launcher away, and going on in the program. */

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

	s->how = s->file < 0 || c->exe_is_set ? EXE_STAYS : how_to_set_exe(c);
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
