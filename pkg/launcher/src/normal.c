/* Part of launcher.c: a normal start, by execve, and where PATH leads. */

/* execve, for a script without #! as execvp(3) has it. It comes back with the
 * errno. */
static long execute(const struct caller *c)
{
	long err = -sys3(SYS_execve, (u64)c->program, (u64)c->argv, (u64)c->envp);

	if (err == ENOEXEC) {
		/* The word before argv[0] was argc. */
		c->argv[0] = (char *)c->program;
		c->argv[-1] = "/bin/sh";
		sys3(SYS_execve, (u64)c->argv[-1], (u64)(c->argv - 1), (u64)c->envp);
	}
	return err;
}

/* execve(2): ENOENT is also for what the kernel would have to execute instead. That
 * the file itself is there is not asked through a filter, see ask_filter. */
static void tell_error(const struct caller *c, long err)
{
	const char *why = err == ENOENT ? "not found" : err == EACCES ? "permission denied" : 0;
	struct stat st;

	if (err == ENOENT && !ask_filter().why && !failed(sys3(SYS_stat, (u64)c->program, (u64)&st, 0)))
		why = "the interpreter that it names does not exist";
	tell(c, ERROR, "cannot be executed", (struct reason){ why ? why : "errno ", 0 }, why ? 0 : err);
}

/* Statuses as env(1) has them. */
static _Noreturn void give_up(const struct caller *c, long err)
{
	tell_error(c, err);
	sys3(SYS_exit, err == ENOENT ? 127 : 126, 0, 0);
	__builtin_unreachable();
}

/* Say why the start is a normal one; with --strict it is none. */
static void explain(const struct caller *c, struct reason no)
{
	if (c->strict) {
		tell(c, ERROR, "no resident start", no, 0);
		sys3(SYS_exit, 125, 0, 0);
	}
	if (c->explain)
		tell(c, INFO, "started normally", no, 0);
}

/* Start the program normally. */
static _Noreturn void exec_program(const struct caller *c, struct reason no)
{
	explain(c, no);
	give_up(c, execute(c));
}

/* Where execvp(3) looks for a name: the directories, of which a path needs none. */
static const char *directories(const struct caller *c, const char *name)
{
	const char *p;

	for (p = name; *p; p++)
		if (*p == '/')
			return "";
	return variable(c, "PATH=");
}

/* Put the name in the first of the directories in t. Gives what follows that directory:
 * a colon, or the end. */
static const char *in_directory(const char *dirs, const char *name, struct text *t)
{
	for (t->len = 0; *dirs && *dirs != ':'; dirs++)
		if (t->len < PATH_LEN)
			t->buf[t->len++] = *dirs;
	if (t->len)
		t->buf[t->len++] = '/';
	add(t, name);
	return dirs;
}

/* Is this one of the links that `residentctl enable` makes for PATH, to a launcher
 * file in the same store? Its directory and what it leads to tell. */
static int is_shim(const char *path)
{
	const char *directory = base_name(path); /* up to and with one slash */
	char target[13];

	while (directory - path > 1 && directory[-2] == '/')
		directory--;
	return directory - path >= 7 && same(directory - 7, "/shims/", 7) &&
	       sys3(SYS_readlink, (u64)path, (u64)target, sizeof(target)) == sizeof(target) &&
	       same(target, "../launchers/", sizeof(target));
}

static int may_execute(const char *path, struct stat *st)
{
	return !failed(sys3(SYS_stat, (u64)path, (u64)st, 0)) && (st->mode & S_IFMT) == S_IFREG &&
	       !failed(sys4(SYS_faccessat2, AT_FDCWD, (u64)path, X_OK, AT_EACCESS));
}

/* The program as execvp(3) would find it, in t. A shim stands for a program that
 * is found without it, but for one in no directory of PATH. */
static int find_program(const struct caller *c, const char *name, struct text *t, struct stat *st)
{
	const char *all = directories(c, name), *dirs;
	int shims;

	if (!all)
		return 0;
	for (shims = 0; shims < 2; shims++) {
		dirs = all;
		do {
			dirs = in_directory(dirs, name, t);
			if (may_execute(t->buf, st) && (shims || !*all || !is_shim(t->buf)))
				return 1;
		} while (*dirs++);
	}
	return 0;
}

/* As find_program and exec_program, with no system call but execve. */
static _Noreturn void exec_by_name(struct caller *c, const char *name, struct text *t, struct reason no)
{
	const char *dirs = directories(c, name);
	long err, denied = 0;

	c->program = name;
	explain(c, no);
	c->program = t->buf;
	if (!dirs)
		dirs = "/bin:/usr/bin"; /* confstr(3), _CS_PATH */
	do {
		dirs = in_directory(dirs, name, t);
		err = execute(c);
		if (err == EACCES)
			denied = err;
		else if (err != ENOENT && err != ENOTDIR)
			give_up(c, err);
	} while (*dirs++);
	give_up(c, denied ? denied : err);
}
