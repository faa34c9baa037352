/*
 * residentctl.h - a program says where its own start-up ends
 *
 * A program that reads tables, parses configuration or builds caches before it looks at its
 * arguments calls residentctl_point() after that. Run as usual, the call does nothing. After
 * `residentctl add --warm PROGRAM`, which runs the program up to this call and keeps an image
 * of it, each start goes on from here instead of from main.
 *
 *	int main(int argc, char **argv)
 *	{
 *		struct residentctl_start start;
 *
 *		load_tables();
 *		if (residentctl_point(&start))
 *			residentctl_arguments(&start, &argc, &argv);
 *		...
 *	}
 *
 * In a warm start everything that was computed before is as it was when the image was made.
 * The environment (getenv(3)), descriptors, working directory, umask, limits, ids and the
 * process id are the new process's. What the program has read of these before the point is
 * old, and so is program_invocation_name(3); but where a variable that getenv(3) was called
 * for before the point has another value, the start is a normal one. A signal that the caller
 * ignores stays ignored, whatever handler the program has set. Random numbers that were drawn
 * before are the same in each start: seed generators after the point. There must be no other
 * threads and no open descriptors but the standard ones.
 *
 * The header needs no library. See residentctl_point(3).
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef RESIDENTCTL_H
#define RESIDENTCTL_H

#ifdef __cplusplus
extern "C" {
#endif

#define RESIDENTCTL_POINT	0x52455354	/* an option that prctl(2) does not have */
#define RESIDENTCTL_VERSION	1

/* What the new process begins with; filled in by a warm start. */
struct residentctl_start {
	unsigned long stack;	/* address of argc, argv, NULL, environment, NULL, auxiliary vector */
	unsigned long ignored;	/* bit n-1: the caller left signal n ignored */
	unsigned long flags;	/* RESIDENTCTL_EXPLAIN, RESIDENTCTL_STRICT */
};

#define RESIDENTCTL_EXPLAIN	1UL	/* a normal start is to be explained */
#define RESIDENTCTL_STRICT	2UL	/* and is an error */

/*
 * Returns 1 in a process that was started from an image, once for each start, and 0 in a
 * program that runs as usual.
 */
static inline int residentctl_point(struct residentctl_start *start)
{
#if defined(__linux__) && defined(__x86_64__) && !defined(__ILP32__)
	register long option __asm__("rdi") = RESIDENTCTL_POINT;
	register long version __asm__("rsi") = RESIDENTCTL_VERSION;
	register struct residentctl_start *where __asm__("rdx") = start;
	register long zero1 __asm__("r10") = 0;
	register long zero2 __asm__("r8") = 0;
	long result = 157; /* prctl */

	/*
	 * A start has the stack pointer and the registers that functions preserve, but neither
	 * the others nor what is below the stack pointer (x86-64 psABI, 3.2.2, the red zone).
	 */
	__asm__ volatile("sub $128, %%rsp\n\t"
			 "syscall\n\t"
			 "add $128, %%rsp"
			 : "+a"(result), "+r"(option), "+r"(version), "+r"(where), "+r"(zero1), "+r"(zero2)
			 :
			 : "rcx", "r9", "r11", "memory", "cc", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5",
			   "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11", "xmm12", "xmm13", "xmm14", "xmm15",
			   "st", "st(1)", "st(2)", "st(3)", "st(4)", "st(5)", "st(6)", "st(7)");
	return result == 0;
#else
	(void)start;
	return 0;
#endif
}

/* The arguments of a process for which residentctl_point() has returned 1. */
static inline void residentctl_arguments(const struct residentctl_start *start, int *argc, char ***argv)
{
	long *stack = (long *)start->stack;

	*argc = (int)stack[0];
	*argv = (char **)(stack + 1);
}

#ifdef __cplusplus
}
#endif

#endif
