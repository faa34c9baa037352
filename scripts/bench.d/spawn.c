/*
 * Starts a command in several ways and tells how long each takes.
 *
 *	spawn measure [OPTION...] ROUNDS WAY COMMAND [ARG...] [-- WAY COMMAND [ARG...]]...
 *	spawn serve COMMAND [ARG...]
 *	spawn resident COMMAND [ARG...]
 *	spawn faults COMMAND [ARG...]
 *
 * measure: every round runs every way once, in a new random order, so that what
 * disturbs the machine disturbs all of them; the ratio is taken within a round,
 * against the first way. A start is vfork, execve and wait4, with stdin, stdout
 * and stderr on /dev/null; nothing else happens between the two looks at the
 * clock. Prints a line per way, separated by tabs:
 *
 *	way  rounds  total  median  p25  p75  ratio's median  p25  p75
 *
 * with times in microseconds. A way that ends otherwise than the first one is an
 * error, and so is an exit status that changes. The options are:
 *
 *	--also WAY  three numbers more, of the ratio to that way
 *	--first     stop the clock at the first byte that a command writes to stdout
 *	--any-end   how the ways end does not matter
 *
 * A command that begins `in PREFIX... do` is started by a process that PREFIX...
 * has executed, to stand in a namespace for instance, and that looks at the clock
 * itself. Then every way has such a process of its own (serve: a byte on stdin is
 * a start, its time and status come out), so that none is at an advantage.
 *
 * resident: runs the command under ptrace up to its end and succeeds when it
 * then has an image's pages mapped, with 1 when it has none.
 *
 * faults: prints how many page faults the command took from its exec to the first byte
 * that it writes to stdout. It has to wait for input then. Pages that the kernel
 * populated count as none (perf_event_open(2), PERF_COUNT_SW_PAGE_FAULTS).
 */
#define _GNU_SOURCE
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/perf_event.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { WAYS = 16, WARM_UP = 2 };

extern char **environ;

static const char *also; /* the way of --also */
static int until_first, any_end;

struct way {
	const char *name;
	char **prefix;	/* NULL-terminated; of the process that starts it */
	char **argv;
	int count;	/* of argv */
	int ask, answer; /* that process's ends of pipes, or -1 */
	double *us;	/* one per round */
	double *ratio;	/* to another way's, of the same round */
};

struct answer {
	double us;
	int status;
};

static double now_us(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1e6 + t.tv_nsec / 1e3;
}

static int wait_for(pid_t pid)
{
	int status;

	while (wait4(pid, &status, 0, NULL) < 0)
		if (errno != EINTR)
			err(2, "wait4");
	return status;
}

/* start executes argv, with out as its stdout unless that is -1. */
static pid_t start(char **argv, int out)
{
	pid_t pid = vfork();

	if (pid == 0) {
		if (out < 0 || dup2(out, 1) == 1)
			execve(argv[0], argv, environ);
		_exit(127);
	}
	if (pid < 0)
		err(2, "vfork");
	return pid;
}

static const char *describe(int status)
{
	static char text[2][40];
	static int turn;
	char *s = text[turn ^= 1];

	if (WIFSIGNALED(status))
		snprintf(s, sizeof(text[0]), "signal %d", WTERMSIG(status));
	else
		snprintf(s, sizeof(text[0]), "exit status %d", WEXITSTATUS(status));
	return s;
}

static unsigned long long seed;

/* below returns a random number in [0, n): xorshift64, good enough for an order. */
static int below(int n)
{
	seed ^= seed << 13;
	seed ^= seed >> 7;
	seed ^= seed << 17;
	return seed % n;
}

static int ascending(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

/* quantile of n sorted values, between two of them if need be. */
static double quantile(const double *v, int n, double q)
{
	double at = q * (n - 1);
	int i = at;

	return i + 1 < n ? v[i] + (at - i) * (v[i + 1] - v[i]) : v[i];
}

/* report_ratio to another way. The times are still in the order of the rounds. */
static void report_ratio(FILE *out, struct way *w, const struct way *to, int rounds)
{
	for (int i = 0; i < rounds; i++)
		w->ratio[i] = w->us[i] / to->us[i];
	qsort(w->ratio, rounds, sizeof(double), ascending);
	fprintf(out, "\t%.4f\t%.4f\t%.4f", quantile(w->ratio, rounds, .5), quantile(w->ratio, rounds, .25),
		quantile(w->ratio, rounds, .75));
}

static void report_times(FILE *out, const struct way *w, int rounds)
{
	double total = 0, *us = malloc(rounds * sizeof(double));

	if (!us)
		err(2, "malloc");
	memcpy(us, w->us, rounds * sizeof(double));
	for (int i = 0; i < rounds; i++)
		total += us[i];
	qsort(us, rounds, sizeof(double), ascending);
	fprintf(out, "%s\t%d\t%.1f\t%.2f\t%.2f\t%.2f", w->name, rounds, total,
		quantile(us, rounds, .5), quantile(us, rounds, .25), quantile(us, rounds, .75));
	free(us);
}

/* quiet puts the three standard descriptors on /dev/null and returns the old stdout. */
static FILE *quiet(void)
{
	int out = fcntl(1, F_DUPFD_CLOEXEC, 3), complain = fcntl(2, F_DUPFD_CLOEXEC, 3);
	int null = open("/dev/null", O_RDWR);

	if (out < 0 || complain < 0 || null < 0)
		err(2, "standard descriptors");
	for (int fd = 0; fd < 3; fd++)
		dup2(null, fd);
	if (null > 2)
		close(null);
	stderr = fdopen(complain, "w");
	return fdopen(out, "w");
}

static struct answer start_timed(char **argv)
{
	double begin = now_us();
	int status = wait_for(start(argv, -1));

	return (struct answer){ .us = now_us() - begin, .status = status };
}

/* start_until_first starts argv and takes the time until it writes to stdout. */
static struct answer start_until_first(char **argv)
{
	struct answer a;
	int out[2];
	double begin;
	char byte;
	pid_t pid;

	if (pipe2(out, O_CLOEXEC))
		err(2, "pipe");
	begin = now_us();
	pid = start(argv, out[1]);
	close(out[1]);
	if (read(out[0], &byte, 1) != 1)
		errx(1, "%s: it has written nothing", argv[0]);
	a.us = now_us() - begin;
	a.status = wait_for(pid);
	close(out[0]);
	return a;
}

/* serve starts argv for every byte that arrives. */
static int serve(char **argv)
{
	int ask = fcntl(0, F_DUPFD_CLOEXEC, 3);
	FILE *out = quiet();
	char byte;

	if (ask < 0)
		err(2, "stdin");
	while (read(ask, &byte, 1) == 1) {
		struct answer a = start_timed(argv);

		if (write(fileno(out), &a, sizeof(a)) != sizeof(a))
			err(2, "write");
	}
	return 0;
}

/* employ starts a way's own process. */
static void employ(struct way *w)
{
	int ask[2], answer[2], n = 0;
	char **p, **argv = calloc(w->count + 64, sizeof(char *));
	char self[4096];
	ssize_t len = readlink("/proc/self/exe", self, sizeof(self) - 1);

	if (!argv || len < 0 || pipe2(ask, O_CLOEXEC) || pipe2(answer, O_CLOEXEC))
		err(2, "%s", w->name);
	self[len] = 0;
	for (p = w->prefix; p && *p; p++) {
		if (n == 32)
			errx(2, "%s: too many words", w->name);
		argv[n++] = *p;
	}
	argv[n++] = self;
	argv[n++] = "serve";
	memcpy(argv + n, w->argv, w->count * sizeof(char *));
	switch (fork()) {
	case -1:
		err(2, "fork");
	case 0:
		if (dup2(ask[0], 0) < 0 || dup2(answer[1], 1) < 0)
			err(2, "dup2");
		execv(argv[0], argv);
		err(2, "%s", argv[0]);
	}
	close(ask[0]);
	close(answer[1]);
	w->ask = ask[1];
	w->answer = answer[0];
	free(argv);
}

static struct answer start_way(struct way *w)
{
	struct answer a;

	if (w->ask < 0)
		return until_first ? start_until_first(w->argv) : start_timed(w->argv);
	if (write(w->ask, "", 1) != 1 || read(w->answer, &a, sizeof(a)) != sizeof(a))
		errx(2, "%s: the process that starts it has ended", w->name);
	return a;
}

static void measure(int rounds, char **argv)
{
	struct way ways[WAYS], *second = NULL;
	int count = 0, order[WAYS], expected = 0, apart = 0;
	FILE *out;

	while (*argv) {
		struct way *w = &ways[count];

		if (count == WAYS)
			errx(2, "more than %d ways", WAYS);
		*w = (struct way){ .name = *argv++, .ask = -1, .answer = -1 };
		if (*argv && !strcmp(*argv, "in")) {
			w->prefix = ++argv;
			while (*argv && strcmp(*argv, "do"))
				argv++;
			if (!*argv || argv == w->prefix)
				errx(2, "%s: `in` without a command or `do`", w->name);
			*argv++ = NULL;
			apart = 1;
		}
		w->argv = argv;
		w->us = calloc(rounds, sizeof(double));
		w->ratio = calloc(rounds, sizeof(double));
		if (!w->us || !w->ratio)
			err(2, "calloc");
		order[count] = count;
		if (also && !strcmp(w->name, also))
			second = w;
		count++;
		while (*argv && strcmp(*argv, "--"))
			argv++;
		w->count = argv - w->argv;
		if (!w->count)
			errx(2, "%s: no command", w->name);
		if (*argv)
			*argv++ = NULL;
	}
	if (!count)
		errx(2, "nothing to measure");
	if (also && !second)
		errx(2, "%s is not among the ways", also);
	if (apart && until_first)
		errx(2, "--first is for ways without `in`");
	for (int i = 0; apart && i < count; i++)
		employ(&ways[i]);

	out = quiet();
	for (int round = -WARM_UP; round < rounds; round++) {
		for (int i = count - 1; i > 0; i--) {
			int j = below(i + 1), swap = order[i];

			order[i] = order[j];
			order[j] = swap;
		}
		/* The first way sets what the others must end like. */
		if (round == -WARM_UP)
			expected = start_way(&ways[0]).status;
		for (int i = 0; i < count; i++) {
			struct way *w = &ways[order[i]];
			struct answer a = start_way(w);

			if (a.status != expected && !any_end)
				errx(1, "%s (%s): %s, and %s gave %s", w->argv[0], w->name, describe(a.status),
				     ways[0].name, describe(expected));
			if (round >= 0)
				w->us[round] = a.us;
		}
	}
	for (int i = 0; i < count; i++) {
		report_times(out, &ways[i], rounds);
		report_ratio(out, &ways[i], &ways[0], rounds);
		if (second)
			report_ratio(out, &ways[i], second, rounds);
		fputc('\n', out);
	}
	if (fclose(out))
		err(2, "write");
	for (int i = 0; apart && i < count; i++) {
		close(ways[i].ask);
		wait(NULL);
	}
}

/* has_image: does the process map a file that CRIU calls pages-N.img? */
static int has_image(pid_t pid)
{
	char path[32], line[4600];
	int found = 0;
	FILE *maps;

	snprintf(path, sizeof(path), "/proc/%d/maps", (int)pid);
	maps = fopen(path, "r");
	if (!maps && errno == ENOENT)
		return 0; /* killed meanwhile, by another thread's exec */
	if (!maps)
		err(2, "%s", path);
	while (fgets(line, sizeof(line), maps)) {
		char *name = strrchr(line, '/');

		if (name && !strncmp(name, "/pages-", 7) && strstr(name, ".img"))
			found = 1;
	}
	fclose(maps);
	return found;
}

/*
 * Every thread is traced: what executes the program need not be the first one of
 * its process, and goes on in the first one's place (ptrace(2), "execve(2) under
 * ptrace").
 */
static int resident(char **argv)
{
	int status, found = 0, begin[2];
	pid_t pid, tid;
	char byte;

	if (!argv[0])
		errx(2, "resident: no command");
	fclose(quiet());
	if (pipe2(begin, O_CLOEXEC))
		err(2, "pipe");
	pid = fork();
	if (pid < 0)
		err(2, "fork");
	if (pid == 0) {
		close(begin[1]);
		if (read(begin[0], &byte, 1) == 0) /* its other end is closed */
			execve(argv[0], argv, environ);
		_exit(127);
	}
	if (ptrace(PTRACE_SEIZE, pid, NULL, PTRACE_O_TRACEEXIT | PTRACE_O_TRACECLONE | PTRACE_O_EXITKILL))
		err(2, "PTRACE_SEIZE");
	close(begin[1]);
	while ((tid = waitpid(-1, &status, __WALL)) > 0) {
		int event = status >> 16;

		if (!WIFSTOPPED(status)) {
			if (tid == pid)
				break;
			continue;
		}
		/* ptrace(2): the memory is still there in this stop. The last one counts. */
		if (event == PTRACE_EVENT_EXIT)
			found = has_image(tid);
		if (ptrace(PTRACE_CONT, tid, NULL, event ? 0 : WSTOPSIG(status)) && errno != ESRCH)
			err(2, "PTRACE_CONT");
	}
	return !found;
}

/* count_faults opens the counter of a process that has not executed its program yet. */
static int count_faults(pid_t pid)
{
	struct perf_event_attr attr = {
		.type = PERF_TYPE_SOFTWARE, .size = sizeof(attr), .config = PERF_COUNT_SW_PAGE_FAULTS,
		.disabled = 1, .enable_on_exec = 1,
	};
	int counter = syscall(SYS_perf_event_open, &attr, pid, -1, -1, PERF_FLAG_FD_CLOEXEC);

	if (counter < 0)
		err(2, "perf_event_open");
	return counter;
}

static int faults(char **argv)
{
	int begin[2], in[2], out[2], counter;
	unsigned long long count;
	char byte;
	pid_t pid;

	if (pipe2(begin, O_CLOEXEC) || pipe2(in, O_CLOEXEC) || pipe2(out, O_CLOEXEC))
		err(2, "pipe");
	pid = fork();
	if (pid < 0)
		err(2, "fork");
	if (pid == 0) {
		close(begin[1]);
		if (read(begin[0], &byte, 1) == 0 && dup2(in[0], 0) == 0 && dup2(out[1], 1) == 1)
			execve(argv[0], argv, environ);
		_exit(127);
	}
	counter = count_faults(pid);
	close(begin[1]);
	close(out[1]);
	if (read(out[0], &byte, 1) != 1)
		errx(1, "%s: it has written nothing", argv[0]);
	if (read(counter, &count, sizeof(count)) != sizeof(count))
		err(2, "read the counter");
	close(in[0]);
	close(in[1]);
	wait_for(pid);
	printf("%llu\n", count);
	return 0;
}

static int usage(void)
{
	errx(2, "usage: spawn measure [--also WAY] [--first] [--any-end] ROUNDS WAY COMMAND [ARG...] [-- WAY COMMAND [ARG...]]... | "
		"spawn serve COMMAND [ARG...] | spawn resident COMMAND [ARG...] | spawn faults COMMAND [ARG...]");
}

int main(int argc, char **argv)
{
	seed = (unsigned long long)now_us() * 2654435761u | 1;
	if (argc >= 3 && !strcmp(argv[1], "resident"))
		return resident(argv + 2);
	if (argc >= 3 && !strcmp(argv[1], "serve"))
		return serve(argv + 2);
	if (argc >= 3 && !strcmp(argv[1], "faults"))
		return faults(argv + 2);
	if (argc < 2 || strcmp(argv[1], "measure"))
		return usage();
	for (argv += 2; *argv && !strncmp(*argv, "--", 2); argv++) {
		if (!strcmp(*argv, "--first"))
			until_first = 1;
		else if (!strcmp(*argv, "--any-end"))
			any_end = 1;
		else if (!strcmp(*argv, "--also") && argv[1])
			also = *++argv;
		else
			return usage();
	}
	if (!argv[0] || !argv[1] || !argv[2] || atoi(argv[0]) <= 0)
		return usage();
	measure(atoi(argv[0]), argv + 1);
	return 0;
}
