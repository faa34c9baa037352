/* Part of launcher.c: as residentctl's own `run`, before there is a Go runtime. */

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
