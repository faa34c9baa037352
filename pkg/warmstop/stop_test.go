package warmstop

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/residentctl/residentctl/internal/fixture"
	"github.com/residentctl/residentctl/internal/linux"
	"github.com/residentctl/residentctl/internal/problem"
	"github.com/residentctl/residentctl/pkg/fingerprint"
	"github.com/residentctl/residentctl/pkg/plan"
)

// build compiles a program that does what before says, and then calls the point.
func build(t *testing.T, before string, flags ...string) string {
	t.Helper()
	include, err := filepath.Abs("../../include")
	if err != nil {
		t.Fatal(err)
	}
	return fixture.Build(t, `#define _GNU_SOURCE
#include <fcntl.h>
#include <fenv.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sched.h>
#include <dirent.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <time.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <netinet/in.h>
#include <unistd.h>
#include "residentctl.h"
static void on_signal(int s) { (void)s; }
static void *wait_forever(void *p) { for (;;) pause(); return p; }
int main(int argc, char **argv)
{
	static struct residentctl_start start;
	(void)on_signal; (void)wait_forever;
	`+before+`
	if (residentctl_point(&start)) return 1;
	return 0;
}
`, append([]string{"-I" + include, "-pthread", "-Wno-unused-result"}, flags...)...)
}

// stop runs a program to its point, in an empty directory.
func stop(t *testing.T, path string, opts Options) (*Template, error) {
	t.Helper()
	fixture.NoChildren(t)
	opts.Path, opts.Argv = path, []string{path, "an argument"}
	if opts.Env == nil {
		opts.Env = []string{"HOME=/nowhere"}
	}
	if opts.Dir == "" {
		opts.Dir = t.TempDir()
	}
	template, err := Stop(t.Context(), opts)
	if err == nil {
		t.Cleanup(func() { _ = template.Kill() })
	}
	return template, err
}

func TestStop(t *testing.T) {
	path := build(t, "signal(SIGUSR1, on_signal); signal(SIGPIPE, SIG_IGN); (void)argc; (void)argv;")
	template, err := stop(t, path, Options{})
	if err != nil {
		t.Fatal(err)
	}
	kinds := map[uint32]int{}
	for _, f := range template.Fixups {
		kinds[f.Kind]++
	}
	for _, kind := range []uint32{plan.FixSP, plan.FixIgnored, plan.FixFlags, plan.FixTID, plan.FixAuxv} {
		if kinds[kind] != 1 {
			t.Errorf("%d fix-ups of kind %d", kinds[kind], kind)
		}
	}
	if kinds[plan.FixEnvp] == 0 {
		t.Error("no fix-up of the environment")
	}
	stack := template.OldStack()
	if !Moved(stack.Start) || !stack.Contains(template.Regs.Rsp) || !stack.Contains(template.Stack.SP) {
		t.Errorf("the stack is at %v, rsp %#x, arguments at %#x", stack, template.Regs.Rsp, template.Stack.SP)
	}
	cmdline, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", template.PID))
	if want := path + "\x00an argument\x00"; err != nil || string(cmdline) != want {
		t.Errorf("its command line is %q, %v; want %q", cmdline, err, want)
	}
	var signals []uint32
	for _, s := range template.Signals {
		signals = append(signals, s.Signal)
	}
	if !slices.Equal(signals, []uint32{uint32(unix.SIGUSR1), uint32(unix.SIGPIPE)}) || template.Signals[1].Handler != 1 {
		t.Errorf("signals %+v", template.Signals)
	}
	if err := template.Detach(); err != nil {
		t.Fatal(err)
	}
	if state, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", template.PID)); err != nil || !strings.Contains(string(state), ") T ") {
		t.Errorf("detached it is not stopped: %s, %v", state, err)
	}
}

// As the python shim does it: a child that was forked for the point, in a session of its own,
// while other threads of its parent run.
func TestStopInForkedChild(t *testing.T) {
	path := build(t, `pthread_t thread; (void)argc; (void)argv;
	pthread_create(&thread, 0, wait_forever, 0);
	int child = fork();
	if (child) { waitpid(child, 0, 0); return 0; }
	setsid();`)
	template, err := stop(t, path, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if sid, err := unix.Getsid(template.PID); err != nil || sid != template.PID {
		t.Errorf("process %d is in session %d, %v", template.PID, sid, err)
	}
}

func TestStopRefuses(t *testing.T) {
	for _, tc := range []struct{ name, before, want string }{
		{"a thread", "pthread_t thread; pthread_create(&thread, 0, wait_forever, 0);", "2 threads"},
		{"an open file", `open("/dev/zero", O_RDONLY);`, "/dev/zero open (descriptor 3)"},
		{"a child", "if (!fork()) for (;;) pause();", "child processes"},
		{"blocked signals", "sigset_t s; sigfillset(&s); sigprocmask(SIG_BLOCK, &s, 0);", "blocks signals"},
		{"writable code", "mmap(0, 4096, PROT_READ|PROT_WRITE|PROT_EXEC, MAP_PRIVATE|MAP_ANONYMOUS, -1, 0);", "both writable and executable"},
		{"shared memory", "mmap(0, 4096, PROT_READ|PROT_WRITE, MAP_SHARED|MAP_ANONYMOUS, -1, 0);", "shared memory"},
		{"an alternate stack", "static char s[1 << 16]; stack_t a = { .ss_sp = s, .ss_size = sizeof s }; sigaltstack(&a, 0);", "alternate signal stack"},
		{"rounding", "fesetround(FE_DOWNWARD);", "floating-point units"},
		{"a umask", "umask(0123);", "changes its umask"},
		{"an alarm", "alarm(100);", "timers"},
		{"an interval timer", "struct itimerval i = { .it_value.tv_sec = 100 }; setitimer(ITIMER_PROF, &i, 0);", "timers"},
		{"a timer", "timer_t id; timer_create(CLOCK_MONOTONIC, 0, &id);", "timers"},
		{"another environment", `setenv("A", "B", 1);`, "another environment"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			path := build(t, "(void)argc; (void)argv; "+tc.before, "-lm")
			_, err := stop(t, path, Options{})
			if err == nil || !strings.Contains(err.Error(), tc.want) || problem.KindOf(err) != problem.Refused {
				t.Errorf("error %v (%v), want %q", err, problem.KindOf(err), tc.want)
			}
		})
	}
}

func TestStopBeforePoint(t *testing.T) {
	path := fixture.Build(t, fixture.Hello)
	_, err := stop(t, path, Options{})
	if err == nil || !strings.Contains(err.Error(), "ended before it came to its point (exit status 0)") || problem.HintOf(err) == "" {
		t.Errorf("error %v", err)
	}
	waiting := build(t, "(void)argc; (void)argv; pause();")
	_, err = stop(t, waiting, Options{Timeout: 100 * time.Millisecond})
	if err == nil || !strings.Contains(err.Error(), "does not come to its point after 100ms") {
		t.Errorf("error %v", err)
	}
}

// Nothing of what a program has started outlives it, in whatever session it is.
func TestNothingIsLeft(t *testing.T) {
	path := build(t, "(void)argc; (void)argv; if (!fork()) { setsid(); for (;;) pause(); } _exit(0);")
	if _, err := stop(t, path, Options{}); err == nil || !strings.Contains(err.Error(), "ended before it came to its point") {
		t.Errorf("error %v", err)
	}
	fixture.NoChildren(t)
	if err := Run(t.Context(), Options{Path: path, Argv: []string{path}, Dir: t.TempDir()}, false); err != nil {
		t.Error(err)
	}
}

func TestStopFinds(t *testing.T) {
	scratch := t.TempDir()
	for _, tc := range []struct{ name, before, what, detail string }{
		{"exec", `if (!vfork()) { execl("/bin/true", "true", (char *)0); _exit(1); } wait(0);`, FoundExec, "executes /usr/bin/true"},
		{"write", `close(open("` + scratch + `/made", O_WRONLY|O_CREAT, 0600));`, FoundWrite, "writes " + scratch + "/made"},
		{"mkdir", `mkdir("` + scratch + `/directory", 0700);`, FoundWrite, "writes " + scratch + "/directory"},
		{"rename", `rename("` + scratch + `/directory", "` + scratch + `/renamed");`, FoundWrite, "writes " + scratch + "/renamed"},
		{"network", `struct sockaddr_in a = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK), .sin_port = htons(9) };
			int s = socket(AF_INET, SOCK_DGRAM, 0); connect(s, (void *)&a, sizeof a); close(s);`, FoundNetwork, "uses a socket"},
		{"directory", `DIR *d = opendir("."); readdir(d); closedir(d);`, FoundHere, "reads its working directory"},
		{"above", `access("../x", F_OK);`, FoundHere, "looks at ../x in its working directory"},
		{"random", `prctl(0x52455354, 2, "a.module", 0, 0); char bytes[8]; getrandom(bytes, 8, 0); prctl(0x52455354, 2, 0, 0, 0);`, FoundRandom, "draws random bytes"},
		{"umask", `prctl(0x52455354, 2, "a.module", 0, 0); umask(umask(0)); prctl(0x52455354, 2, 0, 0, 0);`, FoundUmask, "asks for the umask"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			template, err := stop(t, build(t, "(void)argc; (void)argv; "+tc.before), Options{})
			if err != nil {
				t.Fatal(err)
			}
			if len(template.Findings) != 1 || template.Findings[0].What != tc.what || template.Findings[0].Detail != tc.detail {
				t.Errorf("findings %+v", template.Findings)
			}
			if want := map[bool]string{true: "a.module"}[strings.Contains(tc.before, "a.module")]; len(template.Findings) > 0 && template.Findings[0].Module != want {
				t.Errorf("module %q, want %q", template.Findings[0].Module, want)
			}
		})
	}
}

// What is no finding, but is compared at each start.
func TestStopNotes(t *testing.T) {
	dir := t.TempDir()
	path := build(t, `(void)argc; (void)argv;
	cpu_set_t set; sched_getaffinity(0, sizeof set, &set);
	close(socket(AF_INET6, SOCK_STREAM, 0));
	access("settings", F_OK); access("`+dir+`/missing", F_OK);
	close(open("/etc/passwd", O_RDONLY)); DIR *d = opendir("`+dir+`"); readdir(d); closedir(d);
	char target[64]; readlink("/bin", target, sizeof target);
	prctl(0x52455354, 2, "a.module", 0, 0); isatty(1); prctl(0x52455354, 2, 0, 0, 0); isatty(2);`)
	template, err := stop(t, path, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if len(template.Findings) > 0 {
		t.Errorf("findings %+v", template.Findings)
	}
	if !template.ReadCPUs || !template.ReadNetwork || template.ReadCache || template.ReadTerminals != 1<<1 {
		t.Errorf("CPUs %v, network %v, cache %v, terminals %b", template.ReadCPUs, template.ReadNetwork, template.ReadCache, template.ReadTerminals)
	}
	if !slices.Equal(template.Missed, []string{"settings"}) || !slices.Contains(template.Listed, dir) {
		t.Errorf("missed %q, listed %q", template.Missed, template.Listed)
	}
	probes := map[string]unix.Errno{}
	for _, p := range template.Probes {
		probes[p.Path] = p.Errno
	}
	for path, want := range map[string]unix.Errno{dir + "/missing": unix.ENOENT, "/etc/passwd": 0, "/bin": 0} {
		if got, ok := probes[path]; !ok || got != want {
			t.Errorf("%s: %v, %v", path, got, ok)
		}
	}
}

func TestNoteLeavesCachesOut(t *testing.T) {
	r := newRecorder(1, Options{Dir: "/here"})
	for _, path := range []string{
		"/usr/lib/python3/json/__pycache__", "/a/__pycache__/x.cpython-311.pyc", "/a/__pycache__x/y", "/a/x.pyc", "/here", "/here/.",
	} {
		r.note(fingerprint.Probe{Call: "stat", Path: path})
	}
	var got []string
	for _, p := range r.probes {
		got = append(got, p.Path)
	}
	if want := []string{"/a/__pycache__x/y", "/a/x.pyc"}; !slices.Equal(got, want) || len(r.found) > 0 {
		t.Errorf("%q, %v; want %q", got, r.found, want)
	}
}

// A file that may not be read ends the program.
func TestStopAllows(t *testing.T) {
	path := build(t, `(void)argc; (void)argv; close(open("/etc/passwd", O_RDONLY));`)
	refused := problem.Newf(problem.Untrusted, "not that one")
	_, err := stop(t, path, Options{Allow: func(path, opened string) error {
		if path == "/etc/passwd" {
			if !linux.SameFile(opened, path) {
				t.Errorf("%s is not what was opened", opened)
			}
			return refused
		}
		return nil
	}})
	if problem.KindOf(err) != problem.Untrusted {
		t.Errorf("error %v", err)
	}
}

func TestStopEndsWithContext(t *testing.T) {
	fixture.NoChildren(t)
	path := build(t, "(void)argc; (void)argv; if (!fork()) pause(); pause();")
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if _, err := Stop(ctx, Options{Path: path, Argv: []string{path}, Dir: "/"}); err == nil {
		t.Error("it came to its point")
	}
}

func TestWritten(t *testing.T) {
	fixture.NoChildren(t)
	path := fixture.Build(t, `#include <sys/mman.h>
#include <unistd.h>
int main(void)
{
	char *p = mmap((void *)0x123450000000, 8 * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
	volatile char sum = p[0];
	p[2 * 4096] = 1 + sum;
	p[3 * 4096] = 1;
	if (!fork())
		p[5 * 4096] = 1;
	return 0;
}
`)
	const at = 0x123450000000
	pages, err := Written(t.Context(), Options{Path: path, Argv: []string{path}, Dir: "/"}, []linux.PageRange{{Start: at, End: at + 8*4096}})
	if err != nil {
		t.Fatal(err)
	}
	pages = slices.DeleteFunc(pages, func(r linux.PageRange) bool { return r.Start == at }) // the zero page may count as its own
	if want := []linux.PageRange{{Start: at + 2*4096, End: at + 4*4096}}; !slices.Equal(pages, want) {
		t.Errorf("pages %v, want %v", pages, want)
	}
}

// TestVariables: what is asked for by getenv(3) is known, by whichever thread or child, and the
// text of the C library is as it was afterwards.
func TestVariables(t *testing.T) {
	path := build(t, `(void)argc; (void)argv;
	getenv("ONE"); secure_getenv("TWO"); getenv("ONE");
	int child = fork();
	if (child) { waitpid(child, 0, 0); return 0; }
	setsid(); getenv("THREE");
	static char text[64]; memcpy(text, (char *)getenv, sizeof(text));
	if (*(unsigned char *)getenv != 0xcc) return 1;`)
	template, err := stop(t, path, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if got := slices.DeleteFunc(slices.Clone(template.Variables), func(v string) bool { return len(v) > 5 }); !slices.Equal(got, []string{"ONE", "TWO", "THREE"}) {
		t.Errorf("it has read %q", template.Variables)
	}
	var text []linux.Mapping
	for _, m := range template.Maps {
		if m.Prot&unix.PROT_EXEC != 0 && !m.Kernel() {
			text = append(text, m)
		}
	}
	if own, err := linux.AnonPages(template.PID, text); err != nil || len(own) > 0 {
		t.Errorf("pages of the text that are its own: %v, %v", own, err)
	}
}

// TestTerminals: the streams that are to be a terminal are one until the point, and then no more.
func TestTerminals(t *testing.T) {
	path := build(t, `(void)argc; (void)argv; struct winsize size;
	if (isatty(0) || !isatty(1) || !isatty(2) || ioctl(1, TIOCGWINSZ, &size) || size.ws_col != 80) return 3;
	if (tcgetpgrp(1) != -1) return 4;
	write(1, "shown", 5); static char much[1 << 16]; write(2, much, sizeof(much));`)
	template, err := stop(t, path, Options{Terminals: 1<<1 | 1<<2})
	if err != nil {
		t.Fatal(err)
	}
	if template.ReadTerminals != 7 {
		t.Errorf("it has asked for %b", template.ReadTerminals)
	}
	if want := []Finding{
		{What: FoundTerminal, Detail: "asks for the size of the terminal"}, {What: FoundTerminal, Detail: "asks for the job in the foreground"},
	}; !slices.Equal(template.Findings, want) {
		t.Errorf("findings %+v, want %+v", template.Findings, want)
	}
	for fd := range 3 {
		if to, err := os.Readlink(fmt.Sprintf("/proc/%d/fd/%d", template.PID, fd)); to != os.DevNull || err != nil {
			t.Errorf("descriptor %d is %s, %v", fd, to, err)
		}
	}
}
