/* Part of launcher.c: finding and reading the plan, and asking whether all is true that
 * must be, but for what the environment alone tells (caller.c). */

/* ---- read the plan ------------------------------------------------------ */

static u64 rotate(u64 x, int n)
{
	return x << n | x >> (64 - n);
}

/* XXH64 with seed 0, of whole 8-byte words (the xxHash specification 0.1.1). */
static u64 checksum(const u64 *p, u64 words)
{
	const u64 P1 = 0x9E3779B185EBCA87UL, P2 = 0xC2B2AE3D27D4EB4FUL, P3 = 0x165667B19E3779F9UL;
	const u64 P4 = 0x85EBCA77C2B2AE63UL, P5 = 0x27D4EB2F165667C5UL;
	u64 total = words * 8, h;

	if (words >= 4) {
		u64 a = P1 + P2, b = P2, d = 0, e = -P1;

		for (; words >= 4; words -= 4, p += 4) {
			a = rotate(a + p[0] * P2, 31) * P1;
			b = rotate(b + p[1] * P2, 31) * P1;
			d = rotate(d + p[2] * P2, 31) * P1;
			e = rotate(e + p[3] * P2, 31) * P1;
		}
		h = rotate(a, 1) + rotate(b, 7) + rotate(d, 12) + rotate(e, 18);
		h = (h ^ rotate(a * P2, 31) * P1) * P1 + P4;
		h = (h ^ rotate(b * P2, 31) * P1) * P1 + P4;
		h = (h ^ rotate(d * P2, 31) * P1) * P1 + P4;
		h = (h ^ rotate(e * P2, 31) * P1) * P1 + P4;
	} else {
		h = P5;
	}
	h += total;
	for (; words; words--, p++)
		h = rotate(h ^ rotate(*p * P2, 31) * P1, 27) * P1 + P4;
	h = (h ^ h >> 33) * P2;
	h = (h ^ h >> 29) * P3;
	return h ^ h >> 32;
}

/*
 * Map the plan below the launcher, so that one munmap takes both away, and
 * check that it is whole. Its bounds were checked when it was written; the sum
 * tells that it is still what was written.
 */
static struct reason read_plan(struct caller *c, const char *name, struct image *im)
{
	struct reason no;
	struct stat st;
	u64 at = 0, room = 0;
	long fd = open_in_store(c, name, O_RDONLY | O_NONBLOCK), ret = -1;
	char target;

	if (fd == -ENOENT && (c->explain || c->strict) &&
	    !failed(sys4(SYS_readlinkat, c->store, (u64)name, (u64)&target, 1)))
		return no_in_store(c, "its image is missing", name);
	if (fd == -ENOENT)
		return no_in_store(c, NOT_RESIDENT, name);
	if (failed(fd))
		return no_in_store(c, "its plan cannot be opened", name);
	if (c->plan)
		sys3(SYS_munmap, (u64)c->plan, c->plan_size, 0);
	c->plan = 0;
	no = check_store(c);
	if (!no.why &&
	    (failed(sys3(SYS_fstat, fd, (u64)&st, 0)) || (st.mode & S_IFMT) != S_IFREG || !trusted(c, &st)))
		no = no_in_store(c, "its plan is not safe: it must belong to root or to you, and nobody else may write it", name);
	if (no.why) {
		sys3(SYS_close, fd, 0, 0);
		return no;
	}
	if (st.size >= (s64)sizeof(*im->head) && st.size <= (s64)PLAN_MAX && st.size % 8 == 0) {
		/* What is beyond the file's end is never touched: nothing must come there but
		 * another ld.so.cache (cache.c). */
		at = plan_place(c, st.size);
		room = c->below - SCRATCH - at;
		ret = sys6(SYS_mmap, at, room, PROT_READ, MAP_PRIVATE | MAP_FIXED_NOREPLACE | MAP_POPULATE, fd, 0);
	}
	sys3(SYS_close, fd, 0, 0);
	if ((u64)ret != at)
		return no_in_store(c, "its plan is damaged or cannot be mapped", name);
	c->plan = im->base = (const char *)at;
	c->plan_size = room;
	im->head = (const struct plan_header *)at;

	if (*(u64 *)im->head->magic != PLAN_MAGIC)
		return no_in_store(c, "its plan is damaged", name);
	if (im->head->version != PLAN_VERSION || (im->head->kind != PLAN_KIND_LINKED && im->head->kind != PLAN_KIND_WARM))
		return no_in_store(c, "its plan is of another version of residentctl", name);
	if (im->head->size != (u64)st.size ||
	    im->head->sum != checksum((const u64 *)at + SUMMED, st.size / 8 - SUMMED))
		return no_in_store(c, "its plan is damaged", name);
	return YES;
}

/* ---- ask what must be true ---------------------------------------------- */

static s64 nanoseconds(s64 sec, s64 nsec)
{
	return sec * 1000000000L + nsec;
}

static int same_times(const struct stat *st, const struct plan_file_id *id)
{
	return st->dev == id->dev && st->ino == id->ino &&
	       nanoseconds(st->mtime, st->mtime_ns) == id->mtime &&
	       nanoseconds(st->ctime, st->ctime_ns) == id->ctime;
}

static int same_file(const struct stat *st, const struct plan_file_id *id)
{
	return same_times(st, id) && (u64)st->size == id->size;
}

/* What tells this boot from others, and costs one stat: internal/linux, BootMark. */
static u64 boot_mark(void)
{
	struct stat st;
	u64 words[4];

	if (failed(sys3(SYS_stat, (u64)"/dev/null", (u64)&st, 0)))
		return 0;
	words[0] = st.dev;
	words[1] = st.ino;
	words[2] = nanoseconds(st.mtime, st.mtime_ns);
	words[3] = nanoseconds(st.ctime, st.ctime_ns);
	return checksum(words, 4);
}

static u64 hexadecimal(const char *s)
{
	u64 n = 0;
	int i;

	for (i = 0; i < 16; i++)
		n = n << 4 | (s[i] <= '9' ? s[i] - '0' : s[i] - 'a' + 10);
	return n;
}

/* The store's stamp: boot id, CPU and vDSO, boot mark, each with a newline
 * (pkg/store, StampBoot). */
#define STAMP_ID	36
#define STAMP_SUM	(STAMP_ID + 1)
#define STAMP_MARK	(STAMP_SUM + 17)
#define STAMP_LEN	(STAMP_MARK + 17)

/* Reads this much of a file that was opened, or was to be. */
static int read_start(long fd, char *to, long len)
{
	long n;

	if (failed(fd))
		return 0;
	n = sys3(SYS_read, fd, (u64)to, len);
	sys3(SYS_close, fd, 0, 0);
	return n == len;
}

/*
 * The image is for one kernel's vDSO, and holds what CPUID said (IFUNC choices,
 * cpu_features), so it is for one kind of CPU. Asking again would trap in a virtual
 * machine, 5 us for each leaf, and to read the vDSO makes the kernel map it, with page
 * tables that have to be moved with it. What was true since this boot still is. After
 * a reboot the stamp in the store says that both were compared; only before that are
 * they compared here. The boot's mark is what is asked for first: its name takes three
 * system calls, 20 us in some virtual machines.
 */
static int compared(const struct caller *c, const struct image *im)
{
	const struct plan_caller *want = &im->head->caller;
	char boot[STAMP_ID], stamp[STAMP_LEN];
	u64 mark = boot_mark();
	int stamped;

	if (mark && mark == want->boot_mark)
		return 1;
	stamped = read_start(open_in_store(c, "boot", O_RDONLY | O_NONBLOCK), stamp, STAMP_LEN) &&
		  hexadecimal(stamp + STAMP_SUM) == want->machine_sum;
	if (stamped && mark && mark == hexadecimal(stamp + STAMP_MARK))
		return 1;
	return read_start(open_file("/proc/sys/kernel/random/boot_id"), boot, STAMP_ID) &&
	       (same(boot, want->boot_id, STAMP_ID) || (stamped && same(boot, stamp, STAMP_ID)));
}

static int same_cpu(const struct image *im)
{
	const struct plan_cpuid *leaf = TABLE(im, cpuid, plan_cpuid);
	u32 i, k;

	for (i = 0; i < im->head->cpuid.count; i++, leaf++) {
		u32 got[4];

		cpuid(leaf->leaf, leaf->subleaf, got);
		for (k = 0; k < 4; k++)
			if ((got[k] ^ leaf->value[k]) & leaf->mask[k])
				return 0;
	}
	return 1;
}

static struct reason ask_machine(const struct caller *c, const struct image *im)
{
	const struct plan_caller *want = &im->head->caller;
	const struct plan_vdso *vdso = &im->head->vdso;
	const u64 *aux = c->aux;

	if (aux[AT_HWCAP] != want->hw_cap || aux[AT_HWCAP2] != want->hw_cap2 ||
	    aux[AT_PAGESZ] != want->page_size || aux[AT_CLKTCK] != want->clock_tick ||
	    aux[AT_FLAGS] != want->flags || aux[AT_MINSIGSTKSZ] != want->min_sig_stack ||
	    aux[AT_RSEQ_FEATURE_SIZE] != want->rseq_size || aux[AT_RSEQ_ALIGN] != want->rseq_align)
		NO("the kernel describes the machine differently than when it was made resident");
	if (!aux[AT_SYSINFO_EHDR] || !aux[AT_RANDOM] || !aux[AT_EXECFN])
		NO("the kernel gave no vDSO or no random bytes");
	if (want->xcr0 && xgetbv() != want->xcr0)
		NO("the CPU is another one");
	if (compared(c, im))
		return YES;
	if (!same((const char *)aux[AT_SYSINFO_EHDR] + vdso->build_off, vdso->build_id, vdso->build_len))
		NO("the kernel is another one (vDSO)");
	if (!same_cpu(im))
		NO("the CPU is another one");
	return YES;
}

static int identify(const char *path, struct plan_file_id *id)
{
	struct stat st;

	if (failed(sys3(SYS_stat, (u64)path, (u64)&st, 0)))
		return 0;
	*id = (struct plan_file_id){
		.dev = st.dev, .ino = st.ino, .size = st.size,
		.mtime = nanoseconds(st.mtime, st.mtime_ns), .ctime = nanoseconds(st.ctime, st.ctime_ns),
	};
	return 1;
}

static const char OWN[] = "/proc/self/exe";

/* Has the kernel opened the program, for an exec of it? */
static int opened(const struct caller *c)
{
	return c->linker || via_binfmt(c);
}

/* Where the program is that the kernel has opened, or would: what /proc says of
 * it. The stack may be too small to hold it. */
static const char *own_path(struct caller *c)
{
	struct text *t = c->own;
	long len, fd = c->given;

	if (!t)
		t = c->own = scratch(c);
	if (!t)
		return "";
	t->len = 0;
	if (c->linker) {
		add(t, OWN);
	} else {
		if (fd < 0)
			fd = sys3(SYS_openat, AT_FDCWD, (u64)c->program, O_PATH | O_CLOEXEC);
		if (failed(fd))
			return "";
		add(t, "/proc/self/fd/");
		add_number(t, fd);
	}
	len = sys3(SYS_readlink, (u64)t->buf, (u64)t->buf, PATH_LEN - 1);
	t->buf[failed(len) ? 0 : len] = 0;
	if (!opened(c))
		sys3(SYS_close, fd, 0, 0);
	return t->buf;
}

/*
 * $ORIGIN is the directory of what /proc/self/exe says, the path with all links
 * resolved (glibc sysdeps/unix/sysv/linux/dl-origin.c, _dl_get_origin; musl
 * ldso/dynlink.c, fixup_rpath). Where that is the one of the image, an exec would
 * find the libraries where the image has them. A path in another way of writing has
 * to be resolved, be it in the same directory or the one that was made resident: either
 * may by now be a link to a hard link in another directory.
 */
static struct reason ask_origin(struct caller *c, const struct image *im)
{
	const char *real = string(im, im->head->real);

	if (!(im->head->flags & PLAN_FLAG_OWN_PATH) || (!opened(c) && equal(c->program, real)) ||
	    same_directory(own_path(c), real))
		return YES;
	NO_FOR("it finds its libraries relative to itself, and was made resident as", string(im, im->head->program));
}

/*
 * Is the image that of the program which is to be started? An inode number may
 * have been given to another program since, so the file's whole identity counts:
 * here for a program that the kernel has mapped, else when it is mapped. Where
 * libraries are searched relative to the program its path counts too.
 */
static struct reason ask_program(struct caller *c, const struct image *im, const struct plan_file_id *id)
{
	const struct plan_file_id *want = &TABLE(im, files, plan_file)->id;
	struct plan_file_id mapped;

	if (id && (id->dev != want->dev || id->ino != want->ino))
		NO_FOR("the store holds another program's image for it", string(im, im->head->program));
	if (c->linker && !identify(OWN, &mapped))
		NO_FOR("this cannot be found", OWN);
	if (c->linker && !same(&mapped, want, sizeof(mapped)))
		NO_FOR("this has changed", c->program);
	return ask_origin(c, im);
}

/* What the dynamic linker looked at and the image does not map, and what it
 * looked for and did not find. */
static struct reason ask_files(const struct caller *c, const struct image *im)
{
	const struct plan_check *check = TABLE(im, checks, plan_check);
	const struct plan_directory *directory = TABLE(im, directories, plan_directory);
	const u32 *miss = (const u32 *)(im->base + im->head->misses.off);
	struct stat st;
	u32 i, k;

	for (i = 0; i < im->head->checks.count; i++, check++) {
		const char *path = string(im, check->path);
		long ret = sys3(SYS_stat, (u64)path, (u64)&st, 0);

		if (check->id.ino ? !failed(ret) && same_file(&st, &check->id) : ret == -ENOENT || ret == -ENOTDIR)
			continue;
		if (!check->answers)
			NO_FOR("this has changed", path);
		TRY(ask_cache(c, im, path));
	}
	for (i = 0; i < im->head->directories.count; i++, directory++) {
		const char *path = string(im, directory->path);

		if (!failed(sys3(SYS_stat, (u64)path, (u64)&st, 0)) && same_times(&st, &directory->id))
			continue;
		if (directory->flags & PLAN_DIRECTORY_EXACT)
			NO_FOR("this has changed", path);
		for (k = 0; k < directory->misses; k++) {
			const char *missing = string(im, miss[directory->first_miss + k]);
			long ret = sys3(SYS_stat, (u64)missing, (u64)&st, 0);

			if (ret != -ENOENT && ret != -ENOTDIR)
				NO_FOR("this now comes first in the search for libraries", missing);
		}
	}
	return YES;
}

static struct reason ask_stack(const struct caller *c, const struct image *im, struct rlimit *stack)
{
	if (failed(sys4(SYS_prlimit64, 0, RLIMIT_STACK, 0, (u64)stack)))
		NO("the stack limit cannot be read");
	if (stack->cur > (u64)c->sp || (u64)c->sp - stack->cur < im->head->caller.maps_end + GUARD_GAP)
		NO("the stack limit leaves no room beside the image");
	return YES;
}
