/*
 * Counts how often a command and all that it starts execute some files.
 *
 *	starts RESULT PROGRAM [LAUNCHER IMAGE] -- COMMAND [ARG...]
 *
 * PROGRAM and LAUNCHER are counted when they are executed, IMAGE when it is
 * opened, which a start from it does once. RESULT becomes one line with the three
 * counts. The exit status is the command's, whose processes all end with it.
 *
 * The counts are exact: fanotify(7) reports each event with the process that
 * caused it, and the queue has no limit. Events are only joined while they wait
 * when process, file and event are the same, which two starts never share but
 * where a launcher falls back: its exec of PROGRAM is another file's event.
 * FAN_OPEN_EXEC needs Linux 5.0, and all of it root.
 */
#define _GNU_SOURCE
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/fanotify.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

enum { PROGRAM, LAUNCHER, IMAGE, FILES };

static struct stat files[FILES];
static unsigned long counts[FILES];

/* Others on this machine execute the program too: it gets a mount of its own, which
 * only the command sees, and that is watched. */
static void own_mount(const char *path)
{
	if (unshare(CLONE_NEWNS | CLONE_NEWPID) || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) ||
	    mount(path, path, NULL, MS_BIND, NULL))
		err(125, "mount %s", path);
}

static void watch(int fan, int which, const char *path)
{
	uint64_t events = which == IMAGE ? FAN_OPEN : FAN_OPEN_EXEC;

	if (which == PROGRAM)
		own_mount(path);
	if (stat(path, &files[which]))
		err(125, "%s", path);
	if (fanotify_mark(fan, FAN_MARK_ADD | (which == PROGRAM ? FAN_MARK_MOUNT : 0), events, AT_FDCWD, path))
		err(125, "watch %s", path);
}

static void count(int fd)
{
	struct stat st;
	int i;

	if (fstat(fd, &st))
		err(125, "fstat");
	for (i = 0; i < FILES; i++)
		if (st.st_dev == files[i].st_dev && st.st_ino == files[i].st_ino)
			counts[i]++;
	close(fd);
}

/* Take what waits in the queue. */
static void drain(int fan)
{
	static char buffer[65536] __attribute__((aligned(8)));
	struct fanotify_event_metadata *event;
	ssize_t n;

	while ((n = read(fan, buffer, sizeof(buffer))) > 0)
		for (event = (void *)buffer; FAN_EVENT_OK(event, n); event = FAN_EVENT_NEXT(event, n))
			if (event->fd >= 0)
				count(event->fd);
	if (n < 0 && errno != EAGAIN && errno != EINTR)
		err(125, "read events");
}

/*
 * The first process of a pid namespace (pid_namespaces(7)): when it ends, and it
 * does when the one that counts does, the kernel ends all that the command left.
 */
static int init(char **argv)
{
	int status = 0;
	pid_t pid, command;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL))
		err(125, "mount /proc");
	command = fork();
	if (command < 0)
		err(125, "fork");
	if (command == 0) {
		execvp(argv[0], argv);
		err(127, "%s", argv[0]);
	}
	do
		pid = wait(&status);
	while (pid != command);
	return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}

static void ignore(int sig)
{
	(void)sig; /* it only interrupts ppoll */
}

int main(int argc, char **argv)
{
	struct sigaction child = { .sa_handler = ignore };
	struct pollfd ready = { .events = POLLIN };
	sigset_t blocked, before;
	int named = 0, status;
	FILE *result;
	pid_t pid;

	while (2 + named < argc && strcmp(argv[2 + named], "--"))
		named++;
	if (named < 1 || named > FILES || 3 + named >= argc)
		errx(125, "usage: starts RESULT PROGRAM [LAUNCHER IMAGE] -- COMMAND [ARG...]");
	ready.fd = fanotify_init(FAN_CLASS_NOTIF | FAN_CLOEXEC | FAN_NONBLOCK | FAN_UNLIMITED_QUEUE, O_RDONLY | O_CLOEXEC);
	if (ready.fd < 0)
		err(125, "fanotify_init");
	for (int i = 0; i < named; i++)
		watch(ready.fd, i, argv[2 + i]);

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	sigemptyset(&blocked);
	sigaddset(&blocked, SIGCHLD);
	sigprocmask(SIG_BLOCK, &blocked, &before);
	sigaction(SIGCHLD, &child, NULL);
	pid = fork();
	if (pid < 0)
		err(125, "fork");
	if (pid == 0) {
		sigprocmask(SIG_SETMASK, &before, NULL);
		_exit(init(argv + 3 + named));
	}
	while (waitpid(pid, &status, WNOHANG) == 0) {
		ppoll(&ready, 1, NULL, &before);
		drain(ready.fd);
	}
	drain(ready.fd);

	result = fopen(argv[1], "w");
	if (!result || fprintf(result, "%lu %lu %lu\n", counts[0], counts[1], counts[2]) < 0 || fclose(result))
		err(125, "%s", argv[1]);
	return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}
