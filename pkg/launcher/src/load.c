#include "load.h"

/*
 * Where the kernel puts a position-independent program that has a dynamic linker,
 * with randomisation off, and over how many pages it randomises this: two thirds
 * of the address space (arch/x86/include/asm/elf.h, ELF_ET_DYN_BASE), 2^28 pages
 * (vm.mmap_rnd_bits, of which this is the default).
 */
#define PIE_BASE	0x555555554000UL
#define PIE_RANDOM	28
#define ATTEMPTS	16	/* to find a random place that is free */

/* A part of a file, mapped for a while. */
struct view {
	u64 at, len;
	const char *data;
};

/* The part has to be within the file, whose size is given: beyond it there is
 * nothing to map. */
static long view(long fd, u64 off, u64 len, u64 size, struct view *v)
{
	if (off > size || len > size - off || !len)
		return -ENOEXEC;
	v->len = page_up(off + len) - page_down(off);
	v->at = sys6(SYS_mmap, 0, v->len, PROT_READ, MAP_PRIVATE, fd, page_down(off));
	if (failed(v->at))
		return v->at;
	v->data = (const char *)v->at + off % PAGE;
	return 0;
}

static void unview(const struct view *v)
{
	sys3(SYS_munmap, v->at, v->len, 0);
}

/* An ELF file whose headers are in view. */
struct object {
	long fd;
	u64 size, bias;
	struct ehdr head;
	struct view headers;
	const struct phdr *ph;
};

/* What fs/binfmt_elf.c asks of the headers, load_elf_binary. */
static long open_object(struct object *o, long fd)
{
	struct stat st;
	struct view v;
	long err = sys3(SYS_fstat, fd, (u64)&st, 0);

	o->fd = fd;
	if (failed(err))
		return err;
	o->size = st.size;
	err = view(fd, 0, sizeof(o->head), o->size, &v);
	if (err)
		return err;
	o->head = *(const struct ehdr *)v.data;
	unview(&v);
	if (*(const u32 *)o->head.ident != ELF_MAGIC || o->head.ident[4] != ELFCLASS64 ||
	    (o->head.type != ET_EXEC && o->head.type != ET_DYN) || o->head.machine != EM_X86_64 ||
	    o->head.phentsize != sizeof(struct phdr))
		return -ENOEXEC;
	err = view(fd, o->head.phoff, o->head.phnum * sizeof(struct phdr), o->size, &o->headers);
	o->ph = (const struct phdr *)o->headers.data;
	return err;
}

static const struct phdr *find(const struct object *o, u32 type)
{
	u32 i;

	for (i = 0; i < o->head.phnum; i++)
		if (o->ph[i].type == type)
			return &o->ph[i];
	return 0;
}

/* What all of it takes, from the file's own addresses, and how it is aligned. */
static long measure(const struct object *o, u64 *from, u64 *to, u64 *align)
{
	u32 i;

	*from = ~0UL;
	*to = 0;
	*align = PAGE;
	for (i = 0; i < o->head.phnum; i++) {
		const struct phdr *p = &o->ph[i];

		if (p->type != PT_LOAD)
			continue;
		if (p->filesz > p->memsz || p->vaddr + p->memsz < p->vaddr ||
		    (p->filesz && p->vaddr % PAGE != p->offset % PAGE))
			return -ENOEXEC;
		if (page_down(p->vaddr) < *from)
			*from = page_down(p->vaddr);
		if (page_up(p->vaddr + p->memsz) > *to)
			*to = page_up(p->vaddr + p->memsz);
		if (p->align > *align && !(p->align & (p->align - 1)))
			*align = p->align;
	}
	return *to > *from ? 0 : -ENOEXEC;
}

/* Is this much free there, or anywhere if `at` is 0? Nobody else maps anything in
 * this process, so what is free stays so. */
static long reserve(u64 at, u64 len)
{
	long ret = sys6(SYS_mmap, at, len, PROT_NONE,
			MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | (at ? MAP_FIXED_NOREPLACE : 0), -1, 0);

	if (!failed(ret))
		sys3(SYS_munmap, ret, len, 0);
	return ret;
}

/* Finds a place for a position-independent object: where programs go, or, for a
 * dynamic linker, wherever the kernel would map something. */
static long place(struct object *o, int program, int random, u64 from, u64 to, u64 align)
{
	u64 len = to - from, at = PIE_BASE, noise;
	long ret = -ENOMEM;
	int i;

	if (!program) {
		ret = reserve(0, len + align - PAGE);
		at = (ret + align - 1) & ~(align - 1);
	}
	for (i = 0; program && failed(ret) && i < ATTEMPTS; i++) {
		noise = 0;
		if (random)
			sys3(SYS_getrandom, (u64)&noise, sizeof(noise), 0);
		at = (PIE_BASE + (noise >> (64 - PIE_RANDOM) << 12)) & ~(align - 1);
		ret = reserve(at, len);
	}
	o->bias = at - from;
	return failed(ret) ? ret : 0;
}

/* As fs/binfmt_elf.c, elf_load: what is beyond the file's part of a segment can be
 * read and written whatever the segment's flags are (vm_brk_flags). */
static long map_segment(const struct object *o, const struct phdr *p)
{
	u64 at = o->bias + page_down(p->vaddr), skip = p->vaddr % PAGE;
	u64 filled = o->bias + p->vaddr + p->filesz, end = page_up(o->bias + p->vaddr + p->memsz);
	u64 prot = (p->flags & PF_R ? PROT_READ : 0) | (p->flags & PF_W ? PROT_WRITE : 0) | (p->flags & PF_X ? PROT_EXEC : 0);
	long ret;

	if (p->filesz) {
		ret = sys6(SYS_mmap, at, p->filesz + skip, prot, MAP_PRIVATE | MAP_FIXED, o->fd, p->offset - skip);
		if (failed(ret))
			return ret;
		at = page_up(filled);
		if (p->memsz > p->filesz && p->flags & PF_W)
			memset((void *)filled, 0, at - filled);
	}
	if (p->memsz > p->filesz && at < end) {
		ret = sys6(SYS_mmap, at, end - at, PROT_READ | PROT_WRITE | (prot & PROT_EXEC), MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
		if (failed(ret))
			return ret;
	}
	return 0;
}

static long map_object(struct object *o, int program, int random)
{
	u64 from, to, align;
	long err = measure(o, &from, &to, &align);
	u32 i;

	if (err)
		return err;
	o->bias = 0;
	if (o->head.type == ET_DYN)
		err = place(o, program, random, from, to, align);
	else if (failed(err = reserve(from, to - from)))
		return err;
	else
		err = 0;
	for (i = 0; !err && i < o->head.phnum; i++)
		if (o->ph[i].type == PT_LOAD)
			err = map_segment(o, &o->ph[i]);
	return err;
}

/* As fs/binfmt_elf.c, load_elf_binary, derives it from the program's segments. */
static void describe_program(const struct object *o, struct loaded *l)
{
	const struct phdr *stack = find(o, PT_GNU_STACK);
	u32 i;

	l->start_code = ~0UL;
	for (i = 0; i < o->head.phnum; i++) {
		const struct phdr *p = &o->ph[i];
		u64 start = o->bias + p->vaddr, end = start + p->filesz;

		if (p->type != PT_LOAD)
			continue;
		if (p->offset <= o->head.phoff && o->head.phoff < p->offset + p->filesz)
			l->phdr = start + o->head.phoff - p->offset;
		if (p->flags & PF_X && start < l->start_code)
			l->start_code = start;
		if (p->flags & PF_X && end > l->end_code)
			l->end_code = end;
		if (start > l->start_data)
			l->start_data = start;
		if (end > l->end_data)
			l->end_data = end;
		if (start + p->memsz > l->brk)
			l->brk = start + p->memsz;
	}
	l->brk = page_up(l->brk);
	l->phnum = o->head.phnum;
	l->program_entry = o->bias + o->head.entry;
	l->exec_stack = stack && stack->flags & PF_X;
}

static u64 find_gadget(const struct object *o)
{
	u32 i;

	for (i = 0; i < o->head.phnum; i++) {
		const struct phdr *p = &o->ph[i];
		const unsigned char *s = (const unsigned char *)(o->bias + p->vaddr), *end = s + p->filesz;

		if (p->type != PT_LOAD || !(p->flags & PF_X) || !(p->flags & PF_R))
			continue;
		for (; s + 3 <= end; s++)
			if (s[0] == 0x0f && s[1] == 0x05 && s[2] == 0xc3)
				return (u64)s;
	}
	return 0;
}

/* The dynamic linker that the program names. */
static long load_linker(const struct object *program, const struct phdr *interp, struct loaded *l)
{
	struct object o;
	struct view path;
	long fd, err = view(program->fd, interp->offset, interp->filesz, program->size, &path);

	if (err)
		return err;
	if (path.data[interp->filesz - 1])
		return -ENOEXEC;
	fd = open_file(path.data);
	if (fd == -EMFILE) {
		/* After an exec there would have been one more. */
		sys3(SYS_close, program->fd, 0, 0);
		l->closed = 1;
		fd = open_file(path.data);
	}
	unview(&path);
	if (failed(fd))
		return fd;
	err = open_object(&o, fd);
	if (!err) {
		err = map_object(&o, 0, 0);
		l->base = o.bias;
		l->entry = o.bias + o.head.entry;
		if (!err)
			l->gadget = find_gadget(&o);
		unview(&o.headers);
	}
	sys3(SYS_close, fd, 0, 0);
	return err;
}

long load_program(long fd, int random, struct loaded *l)
{
	struct object o;
	const struct phdr *interp;
	long err = open_object(&o, fd);

	if (err)
		return err;
	memset(l, 0, sizeof(*l));
	err = map_object(&o, 1, random);
	if (!err) {
		describe_program(&o, l);
		l->entry = l->program_entry;
		interp = find(&o, PT_INTERP);
		if (interp)
			err = load_linker(&o, interp, l);
	}
	unview(&o.headers);
	return err;
}
