/* Part of launcher.c: as a link in a directory of PATH. */

/* Is the first of the directories the one in which path was found? Shells put the two
 * together with or without a slash more. */
static int found_in(const char *dirs, const char *path)
{
	u64 n = 0, len = base_name(path) - path;

	while (dirs[n] && dirs[n] != ':')
		n++;
	while (n && dirs[n - 1] == '/')
		n--;
	while (len && path[len - 1] == '/')
		len--;
	return n == len && same(dirs, path, n);
}

/*
 * Where path was found among the directories: what follows the first that it can have
 * been, or NULL.
 */
static const char *after_directory(const char *dirs, const char *path)
{
	int found;

	do {
		found = found_in(dirs, path);
		while (*dirs && *dirs != ':')
			dirs++;
		if (found)
			return dirs;
	} while (*dirs++);
	return 0;
}

/*
 * Called through a directory of PATH, a launcher file is what the program was found
 * by, and the directories after that one are where it would be found without. NULL
 * if it was called by a path or as the interpreter of a script.
 */
static const char *directories_behind(const struct caller *c)
{
	const char *called = (const char *)c->aux[AT_EXECFN], *dirs = variable(c, "PATH=");

	if (!dirs || !equal(base_name(called), base_name(c->program)))
		return 0;
	return after_directory(dirs, called);
}

/*
 * The next candidate after it, in t; 0 at the end. A directory that is also at or
 * before the one that this launcher file was found in has been searched already. So
 * from launcher file to launcher file it goes on in PATH only, and never round.
 */
static int next_behind(const struct caller *c, const char *behind, const char **dirs, struct text *t)
{
	const char *all = variable(c, "PATH=");

	while (*(*dirs)++) {
		*dirs = in_directory(*dirs, base_name(c->program), t);
		if (after_directory(all, t->buf) > behind)
			return 1;
	}
	return 0;
}

/* Room for each of the candidates after it: what is given, if it is enough. NULL if
 * there is none. */
static struct text *room_behind(const struct caller *c, const char *behind, struct short_text *here)
{
	u64 name = length(base_name(c->program)) + 2, n = name;

	for (; *behind; behind++) {
		n = *behind == ':' ? name : n + 1;
		if (n > SHORT)
			return scratch(c);
	}
	return (struct text *)here;
}

/*
 * Is this path the program's, by a directory of another name perhaps? A link of its own to
 * the same file is another name, and may mean something else: python finds by it in
 * which virtual environment it is.
 */
static int is_program(const struct caller *c, const char *path)
{
	struct stat program, st;

	return equal(path, c->program) ||
	       (!failed(sys3(SYS_lstat, (u64)path, (u64)&st, 0)) &&
		!failed(sys3(SYS_lstat, (u64)c->program, (u64)&program, 0)) && program.dev == st.dev && program.ino == st.ino);
}

/* Would the program be found without this launcher file, or is there another one
 * before it? One that is in no directory of PATH is what the link was made for. */
static struct reason ask_path(const struct caller *c, const char *behind, struct text *t)
{
	const char *dirs = behind;
	struct stat st;

	while (next_behind(c, behind, &dirs, t)) {
		if (equal(t->buf, c->program))
			break;
		if (!may_execute(t->buf, &st) || is_shim(t->buf))
			continue;
		if (is_program(c, t->buf))
			break;
		NO_FOR("another program of this name is found before it:", t->buf);
	}
	return YES;
}

static char *append(char *to, const char *from, u64 n)
{
	memcpy(to, from, n);
	to[n] = 0;
	return to + n;
}

/* Those of the directories up to end that are directories of shims, or the others, each with a
 * colon. */
static char *append_directories(const struct caller *c, const char *dirs, const char *end, int shims, char *to)
{
	const char *name = base_name(c->program);

	for (;; dirs++) {
		int shim = found_in(dirs, (const char *)c->aux[AT_EXECFN]);
		const char *from = dirs;
		char *stop;

		while (dirs < end && *dirs != ':')
			dirs++;
		stop = append(to, from, dirs - from);
		if (!shim && !c->filtered) {
			append(append(stop, "/", 1), name, length(name));
			shim = is_shim(to);
		}
		if (shim == shims)
			to = append(stop, ":", 1);
		if (dirs == end)
			return to;
	}
}

/*
 * Another program that is executed may itself look for the next of its name in PATH:
 * version managers do, wrappers, ccache. Before its directory that would be the shim
 * again, and so on without an end. So the directories of shims that come before its
 * directory are put right after it. For every name PATH leads to the same program as
 * before, since a shim starts what is found after it; what the other program is the
 * wrapper of is still found by its shim; and a shim's place only ever moves backwards.
 * With a filter, through which no start is one from an image, they are left out.
 * dirs is what follows the other program's directory.
 */
static char *path_behind(const struct caller *c, const char *dirs)
{
	const char *all = variable(c, "PATH=");
	/* Twice: what is left out again was put together after the rest. */
	u64 room = sizeof("PATH=") + 2 * length(all) + sizeof("::/") + length(base_name(c->program));
	char *path = (char *)fresh(0, room), *to;

	if (!path)
		return 0;
	to = append_directories(c, all, dirs, 0, append(path, "PATH=", 5));
	if (!c->filtered)
		to = append_directories(c, all, dirs, 1, to);
	if (*dirs)
		append(to, dirs + 1, length(dirs + 1));
	else
		to[-1] = 0; /* the colon */
	return path;
}

/* Is what may be at this path another program, and no shim? */
static int is_other(const struct caller *c, const char *path)
{
	struct stat st;

	if (c->filtered)
		return !equal(path, c->program);
	return may_execute(path, &st) && !is_shim(path) && !is_program(c, path);
}

/* Execute what is found in PATH; dirs is what follows its directory. */
static long execute_found(struct caller *c, const char *path, const char *dirs)
{
	const char *program = c->program;
	char **e, *was, *behind = 0;
	long err;

	if (is_other(c, path))
		behind = path_behind(c, dirs);
	for (e = c->envp; !starts(*e, "PATH="); e++)
		;
	was = *e;
	if (behind)
		*e = behind;
	c->program = path;
	err = execute(c);
	c->program = program;
	*e = was;
	return err;
}

/* Execute what is found after it, as execvp(3) does. Where there is a filter that is with
 * no system call but execve, and for memory. */
static _Noreturn void exec_behind(struct caller *c, const char *behind, struct text *t, struct reason no)
{
	const char *dirs = behind;
	long err, denied = ENOENT;

	c->filtered = ask_filter().why != 0;
	explain(c, no);
	while (next_behind(c, behind, &dirs, t)) {
		err = execute_found(c, t->buf, dirs);
		if (err == EACCES)
			denied = err;
		else if (err != ENOENT && err != ENOTDIR)
			give_up(c, err);
	}
	err = execute(c);
	give_up(c, err == ENOENT || err == ENOTDIR ? denied : err);
}
