/* Part of launcher.c: as a part of a dynamic linker. */

/* The name of a variable of the environment; the end of one that is long is cut. */
static void add_name(struct text *t, const char *variable)
{
	u64 i;

	for (i = 0; i < 40 && variable[i] && variable[i] != '='; i++)
		t->buf[t->len++] = variable[i];
}

/*
 * Note the start for the process that makes resident what is often started: a sign (+ from an
 * image, - normal, = normal whatever there is), the program's device and inode, a space,
 * why the start is normal (with = the variable that speaks against it), a tab, and the
 * program's path.
 */
static void note(struct caller *c, char sign, const struct plan_file_id *id, struct reason no, struct text *t)
{
	long fd;

	if (!c->log)
		return;
	/* Not openat2: valgrind, which comes here with the environment that speaks against
	 * an image, says of each call that it does not know it. */
	fd = sys3(SYS_openat, AT_FDCWD, (u64)c->log, O_WRONLY | O_APPEND | O_NOFOLLOW | O_CLOEXEC);
	if (failed(fd))
		return;
	t->len = 1;
	t->buf[0] = sign;
	add_number(t, id->dev);
	add(t, "-");
	add_number(t, id->ino);
	add(t, " ");
	if (sign == '=')
		add_name(t, no.what);
	else if (no.why)
		add(t, no.why);
	add(t, "\t");
	add(t, own_path(c));
	add(t, "\n");
	sys3(SYS_write, fd, (u64)t->buf, t->len);
	sys3(SYS_close, fd, 0, 0);
}

/* The image and what the kernel has to know, beside what is there. */
static struct reason put_beside(struct caller *c, const struct image *im, struct mm_map *mm, u64 *tid)
{
	TRY(map_image(c, im, 0));
	TRY(register_thread(im, tid));
	write_auxv(c, im);
	return describe(c, im, mm);
}

/* The program that the kernel has mapped goes, and the words are corrected. From here on
 * there is no way back, and nothing left that can fail but for want of memory. */
static struct reason take_over(struct caller *c, const struct image *im, const struct rlimit *stack, u64 tid)
{
	if (!c->in_place)
		sys3(SYS_munmap, c->program_at, c->program_end - c->program_at, 0);
	else if (!map_over(c, im))
		NO("there is no memory at the image's place");
	return correct(c, im, stack, tid);
}

/*
 * The kernel has mapped the program and the dynamic linker that the launcher is
 * a part of, so an exec is no way back: the image is put beside them, and only
 * when all of it stands are they taken away. Up to there everything is undone on
 * a doubt. comm, the command line and /proc/self/exe are right already.
 */
static struct reason become_beside(struct caller *c, struct text *name, const struct plan_file_id *id)
{
	const struct plan_vdso *v;
	struct image im;
	struct rlimit stack;
	struct mm_map mm;
	struct reason no;
	u64 tid, away;

	TRY(ask(c, name->buf, id, &im, &stack));
	v = &im.head->vdso;
	/* The program stands somewhere else than in the image, all of it by the
	 * same distance, or, not position-independent, at the same place. */
	away = c->aux[AT_PHDR] - im.head->entry.phdr;
	c->program_at = TABLE(&im, maps, plan_map)[TABLE(&im, files, plan_file)->first_map].addr + away;
	c->program_end = im.head->mm.brk_base + away;
	c->in_place = !away;
	if (im.head->flags & PLAN_FLAG_KEEP_BRK || c->program_at >= c->program_end)
		NO("its program break belongs to its image");
	/* A debugger switches randomisation off. It has seen where the program is, and has
	 * set breakpoints in it. */
	if (sys3(SYS_personality, 0xffffffff, 0, 0) & ADDR_NO_RANDOMIZE)
		NO("address space randomisation is off for it");

	TRY(move_vdso(v, vdso_start(c, v), v->addr));
	no = put_beside(c, &im, &mm, &tid);
	if (no.why) {
		undo(c, &im);
		return no;
	}
	no = take_over(c, &im, &stack, tid);
	if (no.why) {
		tell(c, ERROR, "cannot be started", no, 0);
		sys3(SYS_exit, 126, 0, 0);
	}
	if (c->explain)
		tell(c, INFO, "resident start", (struct reason){ "image", string(&im, im.head->id) }, 0);
	note(c, '+', id, YES, name);
	enter(c, &im, &mm, -1, EXE_NEED_NOT);
	__builtin_unreachable();
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
	struct caller c = { .given = -1, .store = -1 };
	struct short_text here;
	struct text *name = 0;
	struct reason no, other;
	struct plan_file_id id;
	u64 entry = code + cfg->entry, *a;
	char sign = '-';
	u32 which;

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
		name = (struct text *)&here;
		if (c.log && (name = scratch(&c)))
			c.own = name + 1;
	}
	if (name) {
		for (which = 0; which < STORES && cfg->stores[which].path; which++) {
			other = enter_store(&c, store_dir(&c, cfg, which, 0));
			name_in_store(name, "index/", &id);
			if (!other.why)
				other = become_beside(&c, name, &id);
			if (other.why != NOT_RESIDENT)
				no = other;
		}
		leave_store(&c);
	} else if (c.log && no.what && !c.aux[AT_SECURE] && !ask_filter().why && identify(OWN, &id) &&
		   (name = scratch(&c))) {
		c.own = name + 1;
		sign = '='; /* its environment speaks against it */
	}
	if (c.explain)
		tell(&c, INFO, "started normally", no, 0);
	if (name)
		note(&c, sign, &id, no, name); /* over what has been told by now */
	if (c.plan || c.own)
		sys3(SYS_munmap, lowest(&c), c.below - lowest(&c), 0);
	return entry;
}
