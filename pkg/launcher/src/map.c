/* Part of launcher.c: mapping the image, registering it with the kernel, correcting its
 * words. */

/* ---- map ---------------------------------------------------------------- */

/*
 * The vDSO goes first: until now it is the only mapping that the kernel placed
 * in the area where libraries stand, and could lie where the image goes. Its
 * code reaches its data pages relative to itself, so all move by one delta. The
 * kernel moves several mappings in one call since Linux 6.17; before it answers
 * EFAULT, having done nothing.
 */
static struct reason move_vdso(const struct plan_vdso *v, u64 from, u64 to)
{
	int i;

	if (from == to)
		return YES;
	if (from < to + v->len && to < from + v->len)
		NO("the vDSO would be moved over itself");
	if (!failed(sys6(SYS_mremap, from, v->len, v->len, MREMAP_MAYMOVE | MREMAP_FIXED, to, 0)))
		return YES;
	for (i = 0; i < 4 && v->parts[i]; i++) {
		if (failed(sys6(SYS_mremap, from, v->parts[i], v->parts[i], MREMAP_MAYMOVE | MREMAP_FIXED, to, 0)))
			NO("the vDSO cannot be moved");
		from += v->parts[i];
		to += v->parts[i];
	}
	return YES;
}

/* Where the kernel put the first of the vDSO's mappings. */
static u64 vdso_start(const struct caller *c, const struct plan_vdso *v)
{
	return c->aux[AT_SYSINFO_EHDR] - (v->code - v->addr);
}

/* Does any of the mappings reach into this range? */
static int reach(const struct plan_map *m, u32 count, u64 from, u64 to)
{
	for (; count; count--, m++)
		if (m->addr < to && m->addr + m->len > from)
			return 1;
	return 0;
}

/* Does the kernel hold a place of theirs already, with the program that it mapped? */
static int held(const struct caller *c, const struct plan_map *m, u32 count)
{
	return c->in_place && reach(m, count, c->program_at, c->program_end);
}

/* Maps in two passes: first what the kernel has not mapped itself, then, over
 * it, what it has (only a dynamic linker meets a program that is mapped). */
static int map(struct caller *c, const struct plan_map *m, long fd, int over)
{
	u32 flags = over ? (m->flags & ~MAP_FIXED_NOREPLACE) | MAP_FIXED : m->flags;

	if (held(c, m, 1) != over)
		return 1;
	if ((u64)sys6(SYS_mmap, m->addr, m->len, m->prot, flags, fd, m->off) != m->addr)
		return 0;
	c->mapped++;
	return 1;
}

static int map_all(struct caller *c, const struct plan_map *m, u32 count, long fd, int over)
{
	for (; count; count--, m++)
		if (!map(c, m, fd, over))
			return 0;
	return 1;
}

/* What the kernel has opened is closed when it is certain that the program is
 * started from its image. */
static void done_with(const struct caller *c, long fd)
{
	if (fd != c->given)
		sys3(SYS_close, fd, 0, 0);
}

/*
 * Inside of `residentctl exec` the dynamic linker's path leads to a copy, which ends
 * with the path that leads to the linker itself (pkg/launcher, Cover). Gives a
 * descriptor of what is there for the copy's, or the same one; what it has to be is
 * for the caller to compare.
 */
static long uncover(long fd, struct stat *st)
{
	char here[SHORT], *end = here, *path, *more = 0;
	u64 room = sizeof(here);
	long original = -1;

	for (;;) {
		if (sys4(SYS_pread64, fd, (u64)end, room, st->size - room) != (long)room || end[room - 1])
			break;
		for (path = end + room - 1; path > end && path[-1]; path--)
			;
		if (path > end || more) {
			if (*path == '/')
				original = open_file(path);
			break;
		}
		if (!(more = (char *)fresh(0, PATH_LEN)))
			break;
		end = more;
		room = PATH_LEN;
	}
	if (more)
		sys3(SYS_munmap, (u64)more, PATH_LEN, 0);
	if (failed(original))
		return fd;
	sys3(SYS_close, fd, 0, 0);
	sys3(SYS_fstat, original, (u64)st, 0);
	return original;
}

static struct reason no_file(struct caller *c, const struct plan_file *f, const char *why, const char *path)
{
	if (f->flags & PLAN_FILE_PAGES)
		return no_in_store(c, why, path);
	NO_FOR(why, path);
}

/* Files are opened by the path that the dynamic linker used, compared, mapped
 * and closed. Two are kept: the executable, for /proc/self/exe, and what is mapped over
 * that. */
static struct reason map_image(struct caller *c, const struct image *im, long *program)
{
	const struct plan_file *f = TABLE(im, files, plan_file);
	const struct plan_map *maps = TABLE(im, maps, plan_map);
	struct stat st;
	long pages = -1;
	int copied = 1;
	u32 i;

	for (i = 0; i < im->head->files.count; i++, f++) {
		const char *path = string(im, f->path);
		int mapped, keep = held(c, &maps[f->first_map], f->maps);
		long fd;

		if (f->flags & PLAN_FILE_LINKER && c->linker)
			path = c->linker;
		else if (f->flags & PLAN_FILE_PROGRAM && !c->linker)
			path = c->program; /* it may have several names */
		if (f->flags & PLAN_FILE_PAGES)
			fd = open_in_store(c, path, O_RDONLY | O_NONBLOCK);
		else
			fd = f->flags & PLAN_FILE_PROGRAM && via_binfmt(c) ? c->given : open_file(path);
		if (failed(fd))
			return no_file(c, f, "this cannot be opened", path);
		if (failed(sys3(SYS_fstat, fd, (u64)&st, 0)))
			st.ino = 0;
		else if (f->flags & PLAN_FILE_LINKER && !same_file(&st, &f->id))
			fd = uncover(fd, &st);
		if (!same_file(&st, &f->id)) {
			done_with(c, fd);
			return no_file(c, f, "this has changed", path);
		}
		if (f->flags & PLAN_FILE_PAGES && !trusted(c, &st)) {
			done_with(c, fd);
			return no_file(c, f, "its image is not safe: it must belong to root or to you, and nobody else may write it", path);
		}
		mapped = map_all(c, &maps[f->first_map], f->maps, fd, 0);
		if (program && f->flags & PLAN_FILE_EXE)
			*program = fd;
		else if (f->flags & PLAN_FILE_PAGES && im->head->copies.count)
			pages = fd;
		else if (keep && c->keeps < KEPT)
			c->kept[c->keeps++] = fd, keep = 0;
		else
			done_with(c, fd);
		if (!mapped || keep)
			return no_file(c, f, "this cannot be mapped at its place", path);
	}
	leave_store(c);
	if (!map_all(c, TABLE(im, anon, plan_map), im->head->anon.count, -1, 0))
		NO("there is no memory at the image's place");
	if (pages >= 0) {
		copied = copy_pages(im, pages);
		sys3(SYS_close, pages, 0, 0);
	}
	if (!copied)
		NO("its image cannot be read");
	return YES;
}

/* The second pass. By now the names may lead elsewhere, or nowhere. */
static int map_over(struct caller *c, const struct image *im)
{
	const struct plan_file *f = TABLE(im, files, plan_file);
	const struct plan_map *maps = TABLE(im, maps, plan_map);
	u32 i;

	for (i = 0; i < c->keeps; f++) {
		if (!held(c, &maps[f->first_map], f->maps))
			continue;
		if (!map_all(c, &maps[f->first_map], f->maps, c->kept[i], 1))
			return 0;
		sys3(SYS_close, c->kept[i++], 0, 0);
	}
	return map_all(c, TABLE(im, anon, plan_map), im->head->anon.count, -1, 1);
}

/* ---- register ----------------------------------------------------------- */

/* What the dynamic linker had told the kernel. Gives the thread's id. */
static struct reason register_thread(const struct image *im, u64 *tid)
{
	const struct plan_kernel *k = &im->head->kernel;

	*tid = k->tid_addr ? sys3(SYS_set_tid_address, k->tid_addr, 0, 0) : sys3(SYS_getpid, 0, 0, 0);
	if (k->robust_head && failed(sys3(SYS_set_robust_list, k->robust_head, k->robust_len, 0)))
		NO("the robust list cannot be registered");
	if (k->rseq_addr && failed(sys4(SYS_rseq, k->rseq_addr, k->rseq_len, 0, k->rseq_sig)))
		NO("restartable sequences cannot be registered");
	if (failed(sys3(SYS_arch_prctl, ARCH_SET_FS, k->fs_base, 0)))
		NO("the thread pointer cannot be set");
	return YES;
}

/* ---- correct the words -------------------------------------------------- */

/* The default size of thread stacks, as glibc derives it from the limit:
 * nptl/pthread_early_init.h, __pthread_initialize_minimal_internal. */
static u64 thread_stack(const struct rlimit *stack)
{
	if (stack->cur == RLIM_INFINITY)
		return 2UL << 20;
	if (stack->cur < 16384)
		return 16384;
	return page_up(stack->cur);
}

static struct reason correct(const struct caller *c, const struct image *im, const struct rlimit *stack, u64 tid)
{
	const struct plan_fixup *f = TABLE(im, fixups, plan_fixup);
	const struct plan_protect *p = TABLE(im, protects, plan_protect);
	const u64 *random = (const u64 *)c->aux[AT_RANDOM];
	u64 value[PLAN_FIX_KINDS];
	u32 i;

	value[PLAN_FIX_SP] = (u64)c->sp;
	value[PLAN_FIX_ARGV] = (u64)c->argv;
	value[PLAN_FIX_ENVP] = (u64)c->envp;
	value[PLAN_FIX_AUXV] = (u64)c->auxv;
	value[PLAN_FIX_PLATFORM] = c->aux[AT_PLATFORM];
	value[PLAN_FIX_RANDOM] = c->aux[AT_RANDOM];
	value[PLAN_FIX_EXECFN] = c->aux[AT_EXECFN];
	value[PLAN_FIX_ARGC] = *c->sp;
	value[PLAN_FIX_TID] = tid;
	value[PLAN_FIX_CANARY] = random[0] & ~0xffUL;	/* sysdeps/unix/sysv/linux/dl-osinfo.h */
	value[PLAN_FIX_GUARD] = random[1];
	value[PLAN_FIX_STACK_SIZE] = thread_stack(stack);
	value[PLAN_FIX_IGNORED] = c->ignored;
	value[PLAN_FIX_FLAGS] = (c->explain ? PLAN_START_EXPLAIN : 0) | (c->strict ? PLAN_START_STRICT : 0);

	for (i = 0; i < im->head->fixups.count; i++, f++) {
		if (f->size == 4)
			*(u32 *)f->addr = value[f->kind];
		else
			*(u64 *)f->addr = value[f->kind];
	}
	for (i = 0; i < im->head->protects.count; i++, p++)
		if (failed(sys3(SYS_mprotect, p->addr, p->len, p->prot)))
			NO("its read-only data cannot be protected");
	return YES;
}

/* Where the path that an exec would have left on the stack can stand: in the
 * place of the launcher's, or of the arguments that were residentctl's. 0 where
 * neither is as long. A launcher file in the store is, its path ends with the
 * program's. */
static char *room_for_name(const struct caller *c, const char *path)
{
	char *old = (char *)c->aux[AT_EXECFN];
	u64 room = length(old), len = length(path);
	u64 freed = c->argv[0] ? (u64)c->argv[0] - c->arg_start : 0;

	if (len <= room)
		return old + room - len;
	return len < freed ? (char *)c->arg_start : 0;
}

/* As the interpreter of a script the launcher leaves the script's path, which
 * is what an exec would have left. */
static void name_program(struct caller *c, const struct image *im)
{
	const char *path = executed(c, im);
	char *to = room_for_name(c, path);

	if (!to || (!c->name && !equal(base_name((char *)c->aux[AT_EXECFN]), base_name(c->program))))
		return;
	memcpy(to, path, length(path) + 1);
	c->aux[AT_EXECFN] = (u64)to;
	if (path != c->program)
		c->name = base_name(path);
}

static void write_auxv(struct caller *c, const struct image *im)
{
	const struct plan_entry *e = &im->head->entry;
	u64 *a;

	for (a = c->auxv; *a != AT_NULL; a += 2) {
		switch (*a) {
		case AT_PHDR:		a[1] = e->phdr; break;
		case AT_PHENT:		a[1] = e->phent; break;
		case AT_PHNUM:		a[1] = e->phnum; break;
		case AT_BASE:		a[1] = e->base; break;
		case AT_ENTRY:		a[1] = e->program_entry; break;
		case AT_EXECFN:		a[1] = c->aux[AT_EXECFN]; break;
		case AT_SYSINFO_EHDR:	a[1] = im->head->vdso.code; break;
		}
	}
}

IN_LINE long describe_to_kernel(struct mm_map *mm)
{
	return sys6(SYS_prctl, PR_SET_MM, PR_SET_MM_MAP, (u64)mm, sizeof(*mm), 0, 0);
}

/* What /proc shows of the initial stack. The executed file stays as it is. */
static void describe_stack(const struct caller *c, struct mm_map *mm)
{
	mm->start_stack = (u64)c->sp;
	mm->arg_start = c->argv[0] ? (u64)c->argv[0] : c->arg_end;
	mm->arg_end = mm->env_start = c->arg_end;
	mm->env_end = c->env_end;
	mm->auxv = c->auxv;
	mm->auxv_size = (u64)c->auxv_end - (u64)c->auxv;
	mm->exe_fd = -1;
}

/*
 * What /proc shows of the process, and the program break. The kernel has
 * randomised a break for the launcher: the program's gets the same distance
 * from its own data, so it is as random as this system wants it.
 */
static struct reason describe(const struct caller *c, const struct image *im, struct mm_map *mm)
{
	const struct plan_mm *p = &im->head->mm;
	u64 start = p->brk_base, brk = p->brk;

	if (!(im->head->flags & PLAN_FLAG_KEEP_BRK)) {
		u64 now = sys3(SYS_brk, 0, 0, 0), end = c->program_end ? c->program_end : c->end;

		start += now > end ? now - end : 0;
		brk = start;
	}
	*mm = (struct mm_map){
		.start_code = p->start_code, .end_code = p->end_code,
		.start_data = p->start_data, .end_data = p->end_data,
		.start_brk = start, .brk = brk,
	};
	describe_stack(c, mm);
	if (failed(describe_to_kernel(mm)))
		NO("the kernel does not let the memory map be described (PR_SET_MM_MAP)");
	if (c->name && failed(sys3(SYS_prctl, PR_SET_NAME, (u64)c->name, 0)))
		NO("the process's name cannot be set");
	return YES;
}
