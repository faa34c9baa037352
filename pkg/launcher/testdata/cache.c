/* Asks, as the launcher does, whether caches give the answers that a plan has: the plan's
 * file, then the caches'. For each it prints "same", or why not. With -n NUMBER in front it
 * asks each so often, and prints how many nanoseconds one took. */
#include "launcher.c"

int printf(const char *, ...);

_Noreturn void leave(const struct leave *l)
{
	for (;;)
		__asm__ volatile("" : : "r"(l));
}

static u64 now(void)
{
	u64 t[2];

	sys3(228, 1, (u64)t, 0); /* clock_gettime, CLOCK_MONOTONIC */
	return t[0] * 1000000000UL + t[1];
}

static u64 decimal(const char *s)
{
	u64 n = 0;

	for (; is_digit(*s); s++)
		n = n * 10 + (*s - '0');
	return n;
}

int main(int argc, char **argv)
{
	struct caller c = { 0 };
	struct image im;
	struct stat st;
	u64 times = 1, i;
	long fd;

	if (argc > 3 && equal(argv[1], "-n")) {
		times = decimal(argv[2]);
		argv += 2;
	}
	if (!argv[1] || failed(fd = open_file(argv[1])) || failed(sys3(SYS_fstat, fd, (u64)&st, 0)))
		return 1;
	/* Room below it, as below a plan. */
	c.plan = (const char *)sys6(SYS_mmap, 0x200000000000UL, st.size, PROT_READ, MAP_PRIVATE | MAP_FIXED_NOREPLACE, fd, 0);
	if (failed((long)c.plan))
		return 1;
	im = (struct image){ .base = c.plan, .head = (const struct plan_header *)c.plan };
	for (argv += 2; *argv; argv++) {
		struct reason no = { 0, 0 };
		u64 began = now();

		for (i = 0; i < times; i++)
			no = ask_cache(&c, &im, *argv);
		if (times > 1)
			printf("%lu ns\n", (now() - began) / times);
		printf("%s%s%s\n", no.why ? no.why : "same", no.why ? " " : "", no.why ? no.what : "");
	}
	return 0;
}
