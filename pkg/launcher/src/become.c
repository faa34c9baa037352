/* Part of launcher.c: the flow of a resident start. */

/*
 * An image may be there in several layouts, of which a start takes one at random. A warm
 * image may have others for each set of standard streams that are terminals.
 * The kernel has placed the stack at random; that neither the stack protector's
 * nor any other secret is made from it makes it good enough, and free.
 */
static struct reason choose_layout(struct caller *c, struct image *im)
{
	const u32 *layouts = (const u32 *)(im->base + im->head->layouts.off);
	u32 first = 0, count = im->head->layouts.count + 1, pick;
	struct reason no;

	if (im->head->kind == PLAN_KIND_WARM) {
		const struct plan_warm *w = &im->head->warm;
		u32 now = terminals(w->terminals);

		first = w->first_layouts[now];
		count = w->layout_counts[now];
		if (!count)
			NO("other standard streams are terminals than in its image");
	}
	pick = first + ((u64)c->sp >> 4 ^ (u64)c->sp >> 13) % count;
	if (!pick)
		return YES;
	no = read_plan(c, string(im, layouts[pick - 1]), im);
	if (no.why)
		NO("a layout of its image is missing or damaged");
	return YES;
}

/* Is there a way to set /proc/self/exe? The plan reports whether a child may be tried. */
static int may_try(const struct caller *c, const struct image *im)
{
	return c->may_set_exe || im->head->flags & PLAN_FLAG_SET_EXE;
}

/*
 * Must /proc/self/exe be set? What looks at itself is started normally where it cannot.
 * As a part of a dynamic linker the kernel has set it; under binfmt_misc it could be set
 * in a normal start no more than here.
 */
static int must_set_exe(const struct caller *c, const struct image *im)
{
	return im->head->flags & PLAN_FLAG_NEEDS_EXE && !c->may_set_exe && !opened(c);
}

/* Everything that must be true; nothing is touched. */
static struct reason ask(struct caller *c, const char *name, const struct plan_file_id *id, struct image *im,
			 struct rlimit *stack)
{
	u32 flags;

	TRY(read_plan(c, name, im));
	if (im->head->kind == PLAN_KIND_WARM && !c->by_file)
		NO(by_file_only);
	if (im->head->layouts.count || im->head->kind == PLAN_KIND_WARM)
		TRY(choose_layout(c, im));
	flags = im->head->flags;
	TRY(ask_machine(c, im));
	TRY(ask_files(c, im));
	TRY(ask_stack(c, im, stack));
	if (im->head->kind == PLAN_KIND_WARM)
		TRY(ask_warm(c, im, stack));
	if (flags & PLAN_FLAG_CHECK_EXEC && !opened(c) &&
	    failed(sys4(SYS_faccessat2, AT_FDCWD, (u64)c->program, X_OK, AT_EACCESS)))
		NO_FOR("you may not execute it", c->program);
	if (must_set_exe(c, im) && !may_try(c, im))
		NO(EXE_UNSET);
	return ask_program(c, im, id);
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

		if (held(c, m, 1))
			continue;
		sys3(SYS_munmap, m->addr, m->len, 0);
		c->mapped--;
	}
	while (c->keeps)
		sys3(SYS_close, c->kept[--c->keeps], 0, 0);
	move_vdso(v, v->addr, vdso_start(c, v));
}

/* Everything but the last jump. */
static struct reason prepare(struct caller *c, const struct image *im, const struct rlimit *stack, struct mm_map *mm,
			     long *program)
{
	u64 tid;

	TRY(map_image(c, im, program));
	TRY(register_thread(im, &tid));
	if (im->head->args.count)
		rebuild(c, im);
	if (!via_binfmt(c))
		name_program(c, im);
	TRY(correct(c, im, stack, tid));
	write_auxv(c, im);
	return describe(c, im, mm);
}

/* And that, if the name that /proc/self/exe has to have can be had. */
static struct reason jump(struct caller *c, const struct image *im, struct mm_map *mm, long program)
{
	u32 must = must_set_exe(c, im) ? EXE_MUST : EXE_NEED_NOT;

	if (must && c->explain)
		TRY(enter(c, im, mm, program, EXE_ASK));
	if (c->explain)
		tell(c, INFO, "resident start", (struct reason){ "image", string(im, im->head->id) }, 0);
	return enter(c, im, mm, program, must);
}

/*
 * Put the program in this process's place. It comes back only with the reason
 * why it could not; then nothing but the address space has changed, which an
 * exec discards, and *touched reports whether even that is untouched. Where there is
 * no exec, nothing has changed at all.
 */
static struct reason become(struct caller *c, const char *name, const struct plan_file_id *id, int *touched)
{
	struct image im;
	struct rlimit stack;
	struct mm_map mm;
	struct reason no;
	long program = -1;

	TRY(ask(c, name, id, &im, &stack));
	*touched = 1;
	TRY(move_vdso(&im.head->vdso, vdso_start(c, &im.head->vdso), im.head->vdso.addr));
	no = prepare(c, &im, &stack, &mm, &program);
	if (program >= 0 && !via_binfmt(c) && !may_try(c, &im)) {
		sys3(SYS_close, program, 0, 0);
		program = -1;
	}
	if (!no.why) {
		wake(c, &im);
		no = jump(c, &im, &mm, program);
	}
	fall_back(c, &im);
	if (via_binfmt(c))
		undo(c, &im);
	return no;
}
