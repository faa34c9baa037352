/* Asks, as the launcher does, whether caches give the answers that a plan has: the plan's
 * file, then the caches'. For each it prints "same", or why not. */
#include "launcher.c"

int printf(const char *, ...);

_Noreturn void leave(const struct leave *l)
{
	for (;;)
		__asm__ volatile("" : : "r"(l));
}

int main(int argc, char **argv)
{
	struct caller c = { 0 };
	struct image im;
	struct stat st;
	long fd;

	if (argc < 3 || failed(fd = open_file(argv[1])) || failed(sys3(SYS_fstat, fd, (u64)&st, 0)))
		return 1;
	/* As read_plan maps it. */
	c.below = 0x200000000000UL;
	c.plan = (const char *)plan_place(&c, st.size);
	if (sys6(SYS_mmap, (u64)c.plan, c.below - SCRATCH - (u64)c.plan, PROT_READ, MAP_PRIVATE | MAP_FIXED_NOREPLACE, fd, 0) !=
	    (long)c.plan)
		return 1;
	im = (struct image){ .base = c.plan, .head = (const struct plan_header *)c.plan };
	for (argv += 2; *argv; argv++) {
		struct reason no = ask_cache(&c, &im, *argv);

		printf("%s%s%s\n", no.why ? no.why : "same", no.why ? " " : "", no.why ? no.what : "");
	}
	return 0;
}
