/*
 * namespace FILE PROGRAM [ARG...]: execute a program in a user namespace with the
 * same ids, a mount namespace, and a binfmt_misc of its own (since Linux 6.7), to
 * which the lines of FILE are given ("-": none), so that the machine's stays as it
 * is. Installed setuid root; the program runs as who called it.
 */
#define _GNU_SOURCE
#include <err.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/wait.h>
#include <unistd.h>

#define BINFMT "/proc/sys/fs/binfmt_misc"

static void put(const char *path, const char *text, size_t len)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC);

	if (fd < 0 || write(fd, text, len) != (ssize_t)len)
		err(125, "%s", path);
	close(fd);
}

/* Only a process outside may map all ids (user_namespaces(7)). */
static void map_ids(pid_t of)
{
	static const char *const files[] = { "uid_map", "gid_map" };
	static const char all[] = "0 0 4294967295\n";

	for (int i = 0; i < 2; i++) {
		char path[64];

		snprintf(path, sizeof(path), "/proc/%d/%s", of, files[i]);
		put(path, all, strlen(all));
	}
}

static void enter(void)
{
	int go[2], status;
	pid_t self = getpid(), child;
	char byte = 0;

	if (pipe2(go, O_CLOEXEC))
		err(125, "pipe");
	child = fork();
	if (child < 0)
		err(125, "fork");
	if (child == 0) {
		close(go[1]);
		if (read(go[0], &byte, 1) == 1)
			map_ids(self);
		_exit(0);
	}
	close(go[0]);
	if (unshare(CLONE_NEWUSER | CLONE_NEWNS))
		err(125, "unshare");
	if (write(go[1], &byte, 1) != 1)
		err(125, "pipe");
	close(go[1]);
	if (waitpid(child, &status, 0) != child || status)
		errx(125, "the ids could not be mapped");
	if (mount(NULL, "/", NULL, MS_REC | MS_SLAVE, NULL) || mount("binfmt_misc", BINFMT, "binfmt_misc", 0, NULL))
		err(125, "mount");
}

/* The environment as it was given: the C library takes out what could harm a setuid
 * program (ld.so(8), secure-execution mode). */
static char **environment(void)
{
	static char text[1 << 20];
	static char *all[1 << 15];
	char *p = text;
	int fd = open("/proc/self/environ", O_RDONLY | O_CLOEXEC), n = 0;
	ssize_t got, len = 0;

	if (fd < 0)
		err(125, "/proc/self/environ");
	while ((got = read(fd, text + len, sizeof(text) - 1 - len)) > 0)
		len += got;
	close(fd);
	if (got || len == sizeof(text) - 1)
		errx(125, "the environment is too large");
	for (; p < text + len; p += strlen(p) + 1) {
		if (n == (int)(sizeof(all) / sizeof(all[0])) - 1)
			errx(125, "there are too many variables");
		all[n++] = p;
	}
	return all;
}

int main(int argc, char **argv)
{
	uid_t uid = getuid();
	gid_t gid = getgid();
	char **env = environment();

	if (argc < 3)
		errx(125, "usage: namespace FILE PROGRAM [ARG...]");
	enter();
	if (strcmp(argv[1], "-")) {
		static char line[2048];
		FILE *f = fopen(argv[1], "re");

		if (!f)
			err(125, "%s", argv[1]);
		while (fgets(line, sizeof(line), f))
			put(BINFMT "/register", line, strcspn(line, "\n"));
		fclose(f);
	}
	if (setresgid(gid, gid, gid) || setresuid(uid, uid, uid))
		err(125, "setresuid");
	execve(argv[2], argv + 2, env);
	err(127, "%s", argv[2]);
}
