/* Part of launcher.c: whether another /etc/ld.so.cache answers as the one did that the
 * image was made with. It is read as pkg/ldcache reads it, where the formats, the search
 * and their sources in glibc are explained; TestCacheIsReadAsGoReadsIt compares both. */

/* The plan, once it is mapped. */
struct image {
	const char *base;		/* its first byte */
	const struct plan_header *head;
};

#define TABLE(im, name, type) ((const struct type *)((im)->base + (im)->head->name.off))

static const char *string(const struct image *im, u32 off)
{
	return im->base + im->head->strings.off + off;
}

#define CACHE_MAX	(4UL << 20)
#define OLD_MAGIC	"ld.so-1.7.0"
#define OLD_HEADER	16
#define OLD_LIB		12UL
#define NEW_MAGIC	"glibc-ld.so.cache1.1"
#define X86_64		0x303		/* the only flags of which entries count */
#define LITTLE_ENDIAN	2
#define EXTENSIONS	0xeaa42174U
#define SUBDIRS		1		/* the extension that names glibc-hwcaps subdirectories */

/* Not put into ask_files, which is smaller without. */
#define APART	static __attribute__((noinline))

struct cache_lib {			/* struct file_entry_new */
	u32 flags, key, value, os_version;
	u64 hwcap;
};

struct cache_head {			/* struct cache_file_new, and a word of struct cache_file */
	char magic[12];
	u32 old_count;
	char more_magic[4];
	u32 count, strings;
	unsigned char flags, pad[3];
	u32 extensions, unused[3];
	struct cache_lib libs[];
};
_Static_assert(sizeof(struct cache_head) == 48 && sizeof(struct cache_lib) == 24, "the format's sizes");

struct cache {
	const char *base;		/* the file's bytes */
	u64 size;
	u64 text_end;			/* after the last NUL: a string before it has an end */
	u64 unmap;			/* how many bytes have to be unmapped, or 0 */
	u64 at;				/* the offset of the new format, from which keys and values count */
	const struct cache_lib *libs;
	const u32 *subdirs;		/* the offsets of their names */
	u32 count, subdir_count;
};

/* The string at an offset, or 0 if that is outside or the string has no end. */
static const char *text_at(const struct cache *k, u64 off)
{
	return off < k->text_end ? k->base + off : 0;
}

/* Like strcmp(3), < 0. */
static int below(const char *a, const char *b)
{
	while (*a && *a == *b)
		a++, b++;
	return (unsigned char)*a < (unsigned char)*b;
}

static int parse_subdirs(struct cache *k, u64 from, u64 len)
{
	const char *name, *last = "";
	u32 i;

	if (k->subdirs || !len || from % 4 || len % 4)
		return 0;
	k->subdirs = (const u32 *)(k->base + from);
	k->subdir_count = len / 4;
	for (i = 0; i < k->subdir_count; i++, last = name)
		if (!(name = text_at(k, k->subdirs[i])) || !below(last, name))
			return 0;
	return 1;
}

static int parse_extensions(struct cache *k, u64 at)
{
	const u32 *p = (const u32 *)(k->base + at);
	u32 n;

	if (!at)
		return 1;
	if (at % 4 || at + 8 > k->size || *p != EXTENSIONS)
		return 0;
	n = p[1];
	if (n > (k->size - at - 8) / 16)
		return 0;
	for (p += 2; n; n--, p += 4) {
		if ((u64)p[2] + p[3] > k->size)
			return 0;
		if (*p == SUBDIRS && !parse_subdirs(k, p[2], p[3]))
			return 0;
	}
	return 1;
}

APART int parse_cache(struct cache *k)
{
	const struct cache_head *head = (const struct cache_head *)k->base;

	if (k->size <= sizeof(*head))
		return 0;
	for (k->text_end = k->size; k->text_end && k->base[k->text_end - 1]; k->text_end--)
		;
	if (same(head, OLD_MAGIC, sizeof(OLD_MAGIC) - 1))
		k->at = (OLD_HEADER + head->old_count * OLD_LIB + 7) & ~7UL;
	if (k->size <= k->at + sizeof(*head))
		return 0;
	head = (const struct cache_head *)(k->base + k->at);
	k->libs = head->libs;
	k->count = head->count;
	return same(head, NEW_MAGIC, sizeof(NEW_MAGIC) - 1) &&
	       k->count <= (k->size - k->at - sizeof(*head)) / sizeof(*k->libs) &&
	       (!head->flags || (head->flags & 3) == LITTLE_ENDIAN) && parse_extensions(k, head->extensions);
}

static int is_digit(char c)
{
	return c >= '0' && c <= '9';
}

static u32 number(const char **s)
{
	u32 n = 0;

	for (; is_digit(**s); ++*s)
		n = n * 10 + (**s - '0');
	return n;
}

static int compare_names(const char *a, const char *b)
{
	while (*a) {
		if (is_digit(*a) && is_digit(*b)) {
			u32 x = number(&a), y = number(&b);

			if (x != y)
				return (int)(x - y);
		} else if (is_digit(*a)) {
			return 1;
		} else if (is_digit(*b)) {
			return -1;
		} else if (*a != *b) {
			return *a - *b;
		} else {
			a++, b++;
		}
	}
	return -*b;
}

/* Compares a name with that of an entry. 0 in *good: the cache is damaged. */
static int compare_lib(const struct cache *k, const char *name, s64 i, int *good)
{
	const char *key = text_at(k, k->at + k->libs[i].key);

	if (!key)
		*good = 0;
	return key ? compare_names(name, key) : 0;
}

/* The entries of a name are those from *first to before *end. Gives 0 if the cache is
 * damaged there. */
static int find_libs(const struct cache *k, const char *name, s64 *first, s64 *end)
{
	s64 left = 0, right = (s64)k->count - 1;
	int good = 1;

	*first = *end = 0;
	while (left <= right) {
		s64 middle = (left + right) / 2;
		int order = compare_lib(k, name, middle, &good);

		if (order < 0) {
			left = middle + 1;
		} else if (order > 0) {
			right = middle - 1;
		} else {
			*first = middle;
			*end = middle + 1;
			while (good && *first > 0 && !compare_lib(k, name, *first - 1, &good))
				--*first;
			while (good && *end <= right && !compare_lib(k, name, *end, &good))
				++*end;
			break;
		}
	}
	return good;
}

static int is_subdir(u64 hwcap)
{
	return (hwcap >> 32 & ~0x3ffUL) == 1UL << 30;
}

static int same_lib(const struct cache *k, const struct cache_lib *lib, const struct image *im,
		    const struct plan_cache_entry *want)
{
	const char *path = text_at(k, k->at + lib->value), *subdir = "";
	u64 hwcap = lib->hwcap;

	if (is_subdir(hwcap)) {
		u32 index = hwcap;

		if (index >= k->subdir_count)
			return 0;
		subdir = k->base + k->subdirs[index];
		hwcap ^= index;
	}
	return path && lib->os_version == want->os_version && hwcap == want->hw_cap &&
	       equal(path, string(im, want->path)) && equal(subdir, string(im, want->subdir));
}

APART int same_answer(const struct cache *k, const struct image *im, const struct plan_answer *answer)
{
	const struct plan_cache_entry *want = TABLE(im, entries, plan_cache_entry) + answer->first_entry;
	u32 left = answer->entries;
	s64 i, end;

	if (!find_libs(k, string(im, answer->name), &i, &end))
		return 0;
	for (; i < end; i++) {
		const struct cache_lib *lib = &k->libs[i];

		if (lib->flags != X86_64)
			continue;
		if (!left || !same_lib(k, lib, im, want))
			return 0;
		left--;
		/* The dynamic linker takes this one in any case. */
		if (!want->hw_cap && !want->os_version)
			break;
		want++;
	}
	return !left;
}

/*
 * The cache is mapped, not read: that costs a third where page faults are slow. A process that cuts
 * it off in place ends this one with SIGBUS, as a normal start, whose dynamic linker
 * maps it too (glibc elf/dl-misc.c, _dl_sysdep_read_whole_file); ldconfig(8) replaces it
 * by rename(2) (elf/cache.c, save_cache).
 *
 * It is mapped after the plan, where the address space belongs to that and is empty, and
 * goes with it: an munmap of its own would take longer than everything else (see
 * PLAN_GAP). A larger one, of some 1,800 libraries, has to be unmapped.
 */
static int map_cache(const struct caller *c, const char *path, struct cache *k)
{
	long fd = open_file(path), ret = -1;
	u64 len, place = 0;
	struct stat st;

	if (failed(fd))
		return 0;
	if (!failed(sys3(SYS_fstat, fd, (u64)&st, 0)) && (st.mode & S_IFMT) == S_IFREG && st.size > 0 &&
	    st.size <= (s64)CACHE_MAX) {
		len = page_up(st.size);
		if (len <= PLAN_GAP - SCRATCH)
			place = c->below - SCRATCH - len;
		ret = sys6(SYS_mmap, place, len, PROT_READ, MAP_PRIVATE | MAP_POPULATE | (place ? MAP_FIXED : 0), fd, 0);
	}
	sys3(SYS_close, fd, 0, 0);
	if (failed(ret))
		return 0;
	*k = (struct cache){ .base = (const char *)ret, .size = st.size, .unmap = place ? 0 : len };
	return 1;
}

static struct reason ask_cache(const struct caller *c, const struct image *im, const char *path)
{
	const struct plan_answer *answer = TABLE(im, answers, plan_answer);
	const char *other = 0;
	struct cache k;
	u32 i;
	int good;

	if (!map_cache(c, path, &k))
		NO_FOR("this has changed", path);
	good = parse_cache(&k);
	for (i = 0; good && !other && i < im->head->answers.count; i++, answer++)
		if (!same_answer(&k, im, answer))
			other = string(im, answer->name);
	if (k.unmap)
		sys3(SYS_munmap, (u64)k.base, k.unmap, 0);
	if (other)
		NO_FOR("ld.so.cache has another answer for", other);
	if (!good)
		NO_FOR("this has changed", path);
	return YES;
}
