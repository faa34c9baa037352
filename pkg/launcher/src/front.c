/* Part of launcher.c: as residentctl's own `run`, before there is a Go runtime. */

/* The launcher file at this name in the store, if it is one that counts. */
static int is_launcher_file(struct caller *c, const char *name)
{
	long fd = open_in_store(c, name, O_PATH);
	struct stat st;
	int is;

	if (failed(fd))
		return 0;
	is = !failed(sys3(SYS_fstat, fd, (u64)&st, 0)) && (st.mode & S_IFMT) == S_IFREG && trusted(c, &st);
	sys3(SYS_close, fd, 0, 0);
	return is;
}

/*
 * Execute the program's launcher file instead of becoming the program here. There is
 * one under each name that the program was made resident by. What `run` was asked for
 * goes along as one more variable, which the launcher file takes off again; there is
 * room for it, since at least `run` and one option stood before the program's arguments.
 */
static struct reason exec_launcher(struct caller *c, const struct plan_file_id *id, struct text *name)
{
	char **argv = c->argv, **envp = c->envp, **end = 0;
	struct text *t;
	const struct plan_file_id *want;
	const char *program;
	struct image im;
	struct stat st;
	u64 top;

	TRY(read_plan(c, name->buf, &im));
	program = string(&im, im.head->program);
	want = &TABLE(&im, files, plan_file)->id;
	if (want->dev != id->dev || want->ino != id->ino)
		NO_FOR("the store holds another program's image for it", program);
	name_in_store(name, "launchers/", id);
	top = name->len;
	add(name, c->program);
	if (c->program[0] != '/' || !is_launcher_file(c, name->buf)) {
		/* It has no launcher file by the name that it was found by. */
		if (!equal(c->name, base_name(program)))
			NO_FOR("without the capability to set /proc/self/exe it only starts by the name that it was made resident by",
			       program);
		TRY(ask_origin(c, &im));
		/* The launcher file starts whatever has the plan's path, resident
		 * or not: that has to be the program that was asked for. */
		if (failed(sys3(SYS_stat, (u64)program, (u64)&st, 0)) || !same_file(&st, want))
			NO_FOR("this has changed", program);
		name->len = top;
		add(name, program);
		if (!is_launcher_file(c, name->buf))
			NO("its launcher file is missing, or not safe: it must belong to root or to you, and nobody else may write it");
	}
	if (c->strict || c->explain) {
		argv--;
		envp--;
		for (end = c->argv; end < c->envp || *end; end++)
			end[-1] = *end;
		t = after(name);
		add(t, HANDED);
		add(t, !c->strict ? "e:" : c->explain ? "se:" : "s:");
		add_number(t, sys3(SYS_getpid, 0, 0, 0));
		end[-1] = t->buf;
	}
	sys6(SYS_execveat, c->store, (u64)name->buf, (u64)argv, (u64)envp, 0, 0);
	if (end)
		for (end--; end >= c->argv; end--)
			*end = end[-1];
	NO("its launcher file cannot be executed");
}

/* Look into one store. */
static struct reason start_from(struct caller *c, const char *dir, const struct plan_file_id *id, struct text *name,
				int *touched)
{
	struct reason no;

	TRY(enter_store(c, dir));
	name_in_store(name, "index/", id);
	if (c->may_set_exe && room_for_name(c, c->program)) {
		no = become(c, name->buf, id, touched);
		if (no.why != by_file_only)
			return no;
	}
	return exec_launcher(c, id, name);
}

static int is_roots(const char *dir)
{
	struct stat st;

	return !failed(sys3(SYS_lstat, (u64)dir, (u64)&st, 0)) && (st.mode & S_IFMT) == S_IFDIR && !st.uid &&
	       (!(st.mode & 022) || st.mode & S_ISVTX);
}

/*
 * May a store that --store names be used by root? All directories that lead to it have
 * to be root's, and others must not be able to replace what is in them: then what this
 * path leads to is root's choice, and stays. For others, and where that is not so, or
 * is not to be seen at a glance (links, groups without members), 0: the Go side looks
 * more closely, and says what is wrong.
 */
static int is_only_roots(const char *dir, struct text *t)
{
	u64 i;

	t->len = 0;
	add(t, dir);
	if (*dir != '/' || !is_roots("/"))
		return 0;
	for (i = 1; i <= t->len; i++) {
		char was = t->buf[i];
		int is;

		if (was && was != '/')
			continue;
		t->buf[i] = 0;
		is = is_roots(t->buf);
		t->buf[i] = was;
		if (!is)
			return 0;
	}
	return 1;
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
		NO("residentctl needs 32 more file descriptors (ulimit -n)");
	return YES;
}

/* How many words an option of exec or run takes; those before it are understood as
 * well. 0 if it is another. */
static u64 option_words(const char *word)
{
	if (equal(word, "--store") || equal(word, "--after") || equal(word, "--format"))
		return 2;
	return equal(word, "--strict") || equal(word, "--auto") || equal(word, "--quiet") || equal(word, "-q") ||
	       equal(word, "--no-background") || equal(word, "--explain") || starts(word, "--store=") || starts(word, "--after=") || starts(word, "--format=");
}

/*
 * Where limits leave Go's runtime no room: of
 *
 *	residentctl exec|run [OPTION...] [--] COMMAND [ARG...]
 *
 * the command is executed normally, and any other command line fails. It returns where
 * there is room; package internal/descriptors looks for that of other command lines.
 */
static __attribute__((noinline)) void without_go(u64 *sp, u64 first)
{
	struct caller c = { .given = -1, .store = -1 };
	struct text *path;
	const char *command = 0;
	struct reason no = ask_memory();
	u64 i, n;
	int whole;

	look(&c, sp);
	for (i = first; i < *sp; i += n) {
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
		tell(&c, INFO, no.why, (struct reason){ "raise the limit", 0 }, 0);
		sys3(SYS_exit, command ? 125 : 4, 0, 0);
	}
	if (!(path = fresh(0, sizeof(*path))))
		return;
	c.argv += i;
	c.program = c.argv[0];
	if (equal(command, "run")) {
		ask_environment(&c); /* whether to explain */
	} else {
		tell(&c, c.strict ? ERROR "no resident starts in " : INFO "no resident starts in ", no.why,
		     (struct reason){ "raise the limit", 0 }, 0);
		if (c.strict)
			sys3(SYS_exit, 125, 0, 0);
	}
	exec_by_name(&c, c.program, path, no);
}

/* What --store in this argument, or with it, names, and how many arguments that takes:
 * 0 if it is another option. */
static u64 store_option(char **argv, const char **dir)
{
	if (starts(argv[0], "--store=") && argv[0][8]) {
		*dir = argv[0] + 8;
		return 1;
	}
	if (!equal(argv[0], "--store") || !argv[1] || !*argv[1])
		return 0;
	*dir = argv[1];
	return 2;
}

/* The arguments up to the program's: 0 if they are not those of a plain `run`. */
static u64 run_options(struct caller *c, const struct config *cfg)
{
	u64 i = 1, n, run = 0;

	for (; i < *c->sp; i += n) {
		const char *word = c->argv[i];

		if (!run && equal(word, "run")) {
			run = n = 1;
			continue;
		}
		if (run && *word != '-')
			return i;
		n = cfg ? 0 : store_option(c->argv + i, &c->only); /* which has its stores */
		if (!n && run && equal(word, "--strict"))
			n = c->strict = 1;
		if (!n && run && equal(word, "--explain"))
			n = c->explain = 1;
		if (!n)
			return 0;
	}
	return 0;
}

/* Is it a script? Of some of those the Go side can say more than that they are not
 * resident. */
static int is_script(const char *path)
{
	char begin[2] = { 0 };
	long fd = open_file(path);

	if (failed(fd))
		return 0;
	sys3(SYS_read, fd, (u64)begin, sizeof(begin));
	sys3(SYS_close, fd, 0, 0);
	return begin[0] == '#' && begin[1] == '!';
}

/*
 * residentctl [--store DIR] run [--strict] [--explain] [--store DIR] PROGRAM [ARG...],
 * before there is a Go runtime. Whatever is not exactly that returns, for the Go side
 * to deal with; nothing has been touched then.
 *
 * A caller that cannot set /proc/self/exe would see residentctl in
 * /proc/self/exe, and a program that executes itself again by that name (perl's
 * $^X) would get residentctl. So for such a caller it is the launcher file that
 * becomes the program, at the price of a second exec. The same goes for a
 * program whose path does not fit on the stack that residentctl was given.
 */
static void run_before_go(u64 *sp, const struct config *cfg)
{
	struct caller c = { .given = -1, .store = -1 };
	struct text *program, *home, *name;
	struct stat st;
	struct reason no, other;
	struct plan_file_id id;
	u64 i;
	u32 which;
	int touched = 0;

	look(&c, sp);
	i = run_options(&c, cfg);
	if (!i)
		return;
	find_strings(&c);
	find_self(&c);
	_Static_assert(4 * sizeof(*name) <= SCRATCH, "room");
	if (!(program = scratch(&c)))
		return;
	no = ask_filter();
	if (no.why) {
		shift(&c, i);
		ask_environment(&c); /* whether to explain */
		exec_by_name(&c, c.argv[0], program, no);
	}
	if ((c.only && !c.aux[AT_EUID] && !is_only_roots(c.only, program)) ||
	    !find_program(&c, c.argv[i], program, &st) ||
	    (!cfg && (c.explain || c.strict) && is_script(program->buf))) {
		sys3(SYS_munmap, (u64)program, SCRATCH, 0);
		return;
	}
	/* One after the other, so that all are on one page where they are short. */
	home = after(program);
	c.own = 0;
	c.may_set_exe = may_set_exe();
	c.program = program->buf;
	c.name = base_name(program->buf);
	id = (struct plan_file_id){ .dev = st.dev, .ino = st.ino };
	shift(&c, i);

	no = ask_environment(&c);
	if (no.why)
		exec_program(&c, no);
	no = (struct reason){ NOT_RESIDENT, 0 };
	for (which = 0; !touched && which < STORES; which++) {
		const char *dir = store_dir(&c, cfg, which, home);

		if (!dir)
			continue;
		name = after(home);
		c.own = name + 1;
		other = start_from(&c, dir, &id, name, &touched);
		if (other.why != NOT_RESIDENT)
			no = other;
	}
	exec_program(&c, no);
}

/* Residentctl's entry, and that of a front file, which comes from the Go side. Called as
 * resident(8), it has another command line, in which "run" is the name of a program. */
void launcher_front(u64 *sp, const struct config *cfg)
{
	/* The word is there already; there is little room for code. */
	const char *resident = NOT_RESIDENT + sizeof(NOT_RESIDENT) - sizeof("resident");
	u64 first = *sp && equal(base_name((const char *)sp[1]), resident) ? *sp : 1;

	if (first == 1)
		run_before_go(sp, cfg);
	if (!cfg)
		without_go(sp, first);
}
