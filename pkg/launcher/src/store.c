/* Part of launcher.c: which stores there are, whose files count, and reaching into a
 * store: always by a descriptor of its directory, which was looked at, so that a name
 * above it that leads elsewhere by now changes nothing. */

/*
 * The directory of one of the stores to look in, NULL where there is none of that
 * number: those of the configuration, or the one that --store names, or the caller's own
 * and then the system's. Root has no store of its own that HOME or XDG_DATA_HOME would
 * name: sudo(8) may have left them an ordinary user's.
 */
static const char *store_dir(struct caller *c, const struct config *cfg, u32 which, struct text *t)
{
	const char *dir;

	if (cfg) {
		c->known = &cfg->stores[which];
		return c->known->path ? (const char *)cfg + c->known->path : 0;
	}
	if (c->only)
		return which ? 0 : c->only;
	if (which == 1)
		return "/var/lib/residentctl";
	if (which > 1 || !c->aux[AT_EUID])
		return 0;
	t->len = 0;
	dir = variable(c, "XDG_DATA_HOME=");
	if (dir && *dir == '/') {
		add(t, dir);
	} else {
		dir = variable(c, "HOME=");
		if (!dir || *dir != '/')
			return 0;
		add(t, dir);
		add(t, "/.local/share");
	}
	add(t, "/residentctl");
	return t->buf;
}

/* The name in a store of what belongs to a binary. */
static void name_in_store(struct text *t, const char *dir, const struct plan_file_id *id)
{
	t->len = 0;
	add(t, dir);
	add_number(t, id->dev);
	add(t, "-");
	add_number(t, id->ino);
}

static void leave_store(struct caller *c)
{
	if (c->store >= 0)
		sys3(SYS_close, c->store, 0, 0);
	c->store = -1;
}

/* Go on in the store in dir. */
static struct reason enter_store(struct caller *c, const char *dir)
{
	leave_store(c);
	c->dir = dir;
	c->checked = 0;
	c->store = sys3(SYS_openat, AT_FDCWD, (u64)dir, O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (c->store == -ENOENT || c->store == -ENOTDIR)
		return no_in_store(c, NOT_RESIDENT, "");
	if (c->store < 0)
		return no_in_store(c, "its store cannot be opened", "");
	return YES;
}

/*
 * A file in the store, by its name from the store's directory. Links lead on within
 * the store only: index/ is full of them. EAGAIN says that something was renamed
 * meanwhile, anywhere in the system (openat2(2)).
 */
static long open_in_store(const struct caller *c, const char *name, u64 flags)
{
	struct open_how how = { flags | O_CLOEXEC, 0, RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS };
	long fd = -EAGAIN;
	int i;

	for (i = 0; i < 16 && fd == -EAGAIN; i++)
		fd = sys4(SYS_openat2, c->store, (u64)name, (u64)&how, sizeof(how));
	return fd;
}

/*
 * Is this still a user namespace in which root's files show as the overflow uid's, as in
 * the one that `residentctl exec` made? That one maps a single id (user_namespaces(7),
 * uid_map). In any namespace that maps more, the uid may be a true user's, who can put
 * files where this linker was copied to.
 */
static int hides_root(struct caller *c)
{
	char map[64];
	long n = -1, i = 0, fields = 0, fd;

	if (c->hides_root)
		return c->hides_root > 0;
	c->hides_root = -1;
	fd = open_file("/proc/self/uid_map");
	if (!failed(fd)) {
		n = sys3(SYS_read, fd, (u64)map, sizeof(map));
		sys3(SYS_close, fd, 0, 0);
	}
	/* "         0       1000          1\n", and nothing else */
	while (i < n && fields < 3) {
		while (i < n && map[i] == ' ')
			i++;
		if (fields == 2 && !(i + 2 == n && map[i] == '1' && map[i + 1] == '\n'))
			return 0;
		fields++;
		while (i < n && map[i] >= '0' && map[i] <= '9')
			i++;
	}
	if (fields == 3)
		c->hides_root = 1;
	return fields == 3;
}

/* An image is code by another name: only root's and the caller's own count. With
 * capabilities only root's do: the user's files are no more to be trusted than the user. */
static int trusted(struct caller *c, const struct stat *st)
{
	if (st->mode & 022)
		return 0;
	if (st->uid == c->root && (!c->root || hides_root(c)))
		return 1;
	return st->uid == c->aux[AT_EUID] && !is_privileged(c);
}

/* Another's store could hold links to files that are trusted but were never meant as
 * plans. The one that was checked when the configuration was written is still to be
 * the same. */
static struct reason check_store(struct caller *c)
{
	struct stat st;

	if (c->checked)
		return YES;
	if (failed(sys3(SYS_fstat, c->store, (u64)&st, 0)) || !trusted(c, &st))
		return no_in_store(c, "the store is not safe: it must belong to root or to you, and nobody else may write it", "");
	if (c->known && (st.dev != c->known->dev || st.ino != c->known->ino))
		return no_in_store(c, "another directory is now at the store's path", "");
	c->checked = 1;
	return YES;
}
