/* Part of launcher.c: what only a start from a warm image does. */

static const char by_file_only[] = "a warm image starts by its launcher file only";

#define OTHER_ENVIRONMENT "the environment differs from that of its image:"

/* ---- ask ------------------------------------------------------------------ */

/* Is the variable the one that the text, NAME=value, names? */
static int names(const char *text, const char *variable)
{
	for (; *text == *variable; text++, variable++)
		if (*text == '=')
			return 1;
	return 0;
}

static int is_named(const struct image *im, const char *variable)
{
	const struct plan_variable *v = TABLE(im, env, plan_variable);
	u32 i;

	for (i = 0; i < im->head->env.count && v->kind == PLAN_ENV_EXACT; i++, v++)
		if (names(string(im, v->text), variable))
			return 1;
	return 0;
}

static struct reason ask_variables(const struct caller *c, const struct image *im)
{
	const struct plan_variable *v = TABLE(im, env, plan_variable);
	u32 i;

	for (i = 0; i < im->head->env.count; i++, v++) {
		const char *text = string(im, v->text);
		char **e = c->envp;

		if (v->kind == PLAN_ENV_EXACT) {
			while (*e && !names(text, *e))
				e++;
			if (!*e || !equal(*e, text))
				NO_FOR(OTHER_ENVIRONMENT, *e ? *e : text);
			continue;
		}
		for (; *e; e++)
			if (starts(*e, text) && !is_named(im, *e))
				NO_FOR(OTHER_ENVIRONMENT, *e);
	}
	return YES;
}

/* An exec keeps what is ignored, and only that. */
static u64 ignored_signals(void)
{
	struct { u64 handler, flags, restorer, mask; } now; /* asm/signal.h, struct sigaction */
	u64 ignored = 0;
	int n;

	for (n = 1; n <= 64; n++)
		if (!failed(sys4(SYS_rt_sigaction, n, 0, (u64)&now, 8)) && now.handler == SIG_IGN)
			ignored |= 1UL << (n - 1);
	return ignored;
}

/* The strings that take argv[0]'s place. */
static u32 args_count(const struct image *im)
{
	return im->head->args.count + (im->head->flags & PLAN_FLAG_PROGRAM_ARG ? 1 : 0);
}

static const char *arg(const struct caller *c, const struct image *im, u32 i)
{
	return i < im->head->args.count ? string(im, ((const u32 *)(im->base + im->head->args.off))[i]) : c->program;
}

/* What the last exec of a plain start is given. */
static const char *executed(const struct caller *c, const struct image *im)
{
	return im->head->warm.executed ? string(im, im->head->warm.executed) : c->program;
}

static u64 args_size(const struct caller *c, const struct image *im)
{
	u64 size = 0;
	u32 i;

	for (i = 0; i < args_count(im); i++)
		size += length(arg(c, im, i)) + 1;
	return size;
}

/* AT_RANDOM's bytes and AT_PLATFORM's string, which stand below the arguments. */
struct below_args {
	char random[16], platform[48];
};

/* What rebuild takes below the initial stack at most: pkg/plan, StackRoom. */
static u64 stack_room(const struct caller *c, const struct image *im)
{
	return args_size(c, im) + 8 * args_count(im) + sizeof(struct below_args) + 2 * 16;
}

/* Which of these standard streams are terminals: isatty(3). */
static u32 terminals(u32 streams)
{
	char termios[64]; /* asm-generic/termbits.h, struct termios */
	u32 fd, found = 0;

	for (fd = 0; fd < 3; fd++)
		if (streams >> fd & 1 && !failed(sys3(SYS_ioctl, fd, TCGETS, (u64)termios)))
			found |= 1U << fd;
	return found;
}

/* Reading it is setting it (umask(2)); nobody shares it with a process that has just been
 * executed. */
static u32 umask_now(void)
{
	u32 mask = sys3(SYS_umask, 077, 0, 0);

	sys3(SYS_umask, mask, 0, 0);
	return mask;
}

static struct reason ask_warm(struct caller *c, const struct image *im, const struct rlimit *stack)
{
	const struct plan_warm *w = &im->head->warm;
	char cpus[sizeof(w->cpus)];
	struct stat st;
	struct { char sysname[65], nodename[65], others[4][65]; } host; /* linux/utsname.h, struct new_utsname */

	TRY(ask_variables(c, im));
	if (stack->cur != w->stack_limit)
		NO("the stack limit is another one");
	if ((u64)sys3(SYS_getpid, 0, 0, 0) == w->pid)
		NO("it has the process id of its image's template");
	if (w->cpus_len && (sys3(SYS_sched_getaffinity, 0, sizeof(cpus), (u64)cpus) != (long)w->cpus_len ||
			    !same(cpus, w->cpus, w->cpus_len)))
		NO("it may run on other CPUs than its image");
	if (w->net_ns && (failed(sys3(SYS_stat, (u64)"/proc/self/ns/net", (u64)&st, 0)) || st.ino != w->net_ns))
		NO("it is in another network namespace than its image was");
	if (w->host[0] && (failed(sys3(SYS_uname, (u64)&host, 0, 0)) || !equal(host.nodename, (const char *)w->host)))
		NO("the host has another name");
	if (w->umask && umask_now() != (w->umask & ~PLAN_UMASK_COMPARED))
		NO("the umask is another one");
	if (im->head->args.count && stack_room(c, im) > c->room)
		NO("its launcher file leaves no room for its arguments");
	c->ignored = ignored_signals();
	return YES;
}

/* ---- map ------------------------------------------------------------------ */

/* What no file can back: a stack that grows. */
static int copy_pages(const struct image *im, long fd)
{
	const struct plan_map *m = TABLE(im, copies, plan_map);
	u32 i;

	for (i = 0; i < im->head->copies.count; i++, m++)
		if (sys4(SYS_pread64, fd, m->addr, m->len, m->off) != (long)m->len)
			return 0;
	return 1;
}

/* Since Linux 5.14. Without it the pages come one by one. */
static void populate(const struct image *im)
{
	const struct plan_map *m = TABLE(im, populate, plan_map);
	u32 i;

	for (i = 0; i < im->head->populate.count; i++, m++)
		sys3(SYS_madvise, m->addr, m->len, MADV_POPULATE_WRITE);
}

/* ---- the initial stack ------------------------------------------------------ */

/*
 * Make the initial stack that of an exec of a script (fs/binfmt_script.c, load_script):
 * the plan's arguments in the place of argv[0]. Their strings end where argv[1]'s begins,
 * so that /proc/self/cmdline shows them as one. They may reach down over what the kernel
 * has put below, which then stands below them; and below that the vector. It never
 * moves up, and start_amd64.S has left room for it.
 */
static void rebuild(struct caller *c, const struct image *im)
{
	u64 dropped = *c->sp ? 1 : 0, argc = *c->sp - dropped, *from = c->sp + 1 + dropped, *to, *a;
	u64 words = c->auxv_end - from, count = args_count(im), i;
	char *text = (char *)(argc ? *from : c->arg_end) - args_size(c, im);
	struct below_args kept = { { 0 }, { 0 } }, *block;
	const char *platform = (const char *)c->aux[AT_PLATFORM];

	memcpy(kept.random, (const void *)c->aux[AT_RANDOM], sizeof(kept.random));
	for (i = 0; platform && platform[i] && i < sizeof(kept.platform) - 1; i++)
		kept.platform[i] = platform[i];
	block = (struct below_args *)(text - sizeof(*block));
	if ((u64)block > (u64)c->auxv_end)
		block = (struct below_args *)c->auxv_end;
	block = (struct below_args *)((u64)block & ~15UL);
	to = (u64 *)(((u64)block - 8 * (1 + count + words)) & ~15UL);

	for (a = c->auxv; *a != AT_NULL; a += 2) {
		if (*a == AT_RANDOM)
			a[1] = (u64)block->random;
		else if (*a == AT_PLATFORM)
			a[1] = (u64)block->platform;
	}
	memcpy(to + 1 + count, from, 8 * words);
	memcpy(block, &kept, sizeof(kept));
	to[0] = count + argc;
	for (i = 0; i < count; i++) {
		u64 n = length(arg(c, im, i)) + 1;

		memcpy(text, arg(c, im, i), n);
		to[1 + i] = (u64)text;
		text += n;
	}
	look(c, to);
	c->arg_start = (u64)c->argv[0];
	c->added = count - 1;
}

/* ---- signals -------------------------------------------------------------- */

/* What the caller ignores stays ignored. Or all is as an exec leaves it. */
static void set_signals(const struct caller *c, const struct image *im, int undo)
{
	const struct plan_signal_action *a = TABLE(im, signals, plan_signal_action);
	const u64 none[4] = { SIG_DFL };
	u32 i;

	for (i = 0; i < im->head->signals.count; i++, a++)
		if (!(c->ignored >> (a->signal - 1) & 1))
			sys4(SYS_rt_sigaction, a->signal, undo ? (u64)none : (u64)&a->handler, 0, 8);
}

/* The last that is done before the jump. */
static void wake(const struct caller *c, const struct image *im)
{
	populate(im);
	set_signals(c, im, 0);
}

/* It was not to be: an exec would keep what is ignored now, and wants the arguments of
 * the program. Of a script the kernel takes the first away, whatever it is. */
static void fall_back(struct caller *c, const struct image *im)
{
	set_signals(c, im, 1);
	c->argv += c->added;
	c->added = 0;
}
