package integration

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/residentctl/residentctl/integration/kit"
	"github.com/residentctl/residentctl/pkg/criuwrap"
)

// Exit statuses, as `residentctl help` documents them.
const (
	statusDone   = 0
	statusFailed = 1
	statusStore  = 3
	statusSystem = 4
)

// A badState is something that is wrong with the store or the machine.
type badState struct {
	name string
	// spoil makes it so, and gives what a command line is to be wrapped in and
	// what to add to its environment.
	spoil func(t *testing.T, s *kit.Store) (wrapper, env []string)
	want  map[string]int // the exit status by the command's first word
	// doubtful: programs start, but not all from their images.
	doubtful bool
}

// TestBadStates: whatever is wrong, each command says so clearly with its
// documented status, and programs start all the same. Each day it is half of the commands.
func TestBadStates(t *testing.T) {
	brokenStore := map[string]int{"add": statusStore, "list": statusStore, "remove": statusStore, "gc": statusStore, "check": statusStore}
	noCRIU := map[string]int{"add": statusSystem, "list": statusDone, "gc": statusDone, "check": statusSystem, "remove": statusDone}
	registry := func(s *kit.Store) string { return filepath.Join(s.Dir, "registry.db") }
	states := []badState{
		{name: "cut-off registry", want: brokenStore, spoil: func(t *testing.T, s *kit.Store) (_, _ []string) {
			truncate(t, registry(s), 1, 8)
			return nil, nil
		}},
		{name: "empty registry", want: brokenStore, spoil: func(t *testing.T, s *kit.Store) (_, _ []string) {
			truncate(t, registry(s), 0, 1)
			return nil, nil
		}},
		{name: "another file for a registry", want: brokenStore, spoil: func(t *testing.T, s *kit.Store) (_, _ []string) {
			kit.CopyFile(t, "/bin/sh", registry(s))
			return nil, nil
		}},
		{name: "corrupt pages in the registry", want: brokenStore, spoil: func(t *testing.T, s *kit.Store) (_, _ []string) {
			for page := int64(2); page < 8; page++ {
				for i := range int64(64) {
					overwrite(t, registry(s), page*4096+i, 0xa5)
				}
			}
			return nil, nil
		}},
		{
			name: "damaged record", // of the program; another one can be added, and it can be removed
			want: map[string]int{"add": statusDone, "list": statusStore, "gc": statusStore, "check": statusStore, "remove": statusDone},
			spoil: func(t *testing.T, s *kit.Store) (_, _ []string) {
				data, err := os.ReadFile(registry(s))
				if err == nil {
					err = os.WriteFile(registry(s), bytes.ReplaceAll(data, []byte(`"kind":"linked"`), []byte(`"kind":"linjed"`)), 0o600)
				}
				if err != nil {
					t.Fatal(err)
				}
				return nil, nil
			},
		},
		{name: "store that others may write to", doubtful: true, want: brokenStore, spoil: func(t *testing.T, s *kit.Store) (_, _ []string) {
			kit.Chmod(t, s.Dir, 0o777)
			return nil, nil
		}},
		{
			name: "read-only store",
			want: map[string]int{"add": statusStore, "list": statusDone, "remove": statusStore, "gc": statusStore, "check": statusStore},
			spoil: func(t *testing.T, s *kit.Store) (_, _ []string) {
				// Something for gc to remove, which check complains about.
				if err := os.Mkdir(filepath.Join(s.Dir, "images", "0123456789abcdef"), 0o755); err != nil {
					t.Fatal(err)
				}
				return []string{"unshare", "-m", "sh", "-c", `mount --bind "$0" "$0" && mount -o remount,bind,ro "$0" && exec "$@"`, s.Dir}, nil
			},
		},
		{
			name: "no space",
			want: map[string]int{"add": statusStore, "list": statusDone, "gc": statusDone},
			spoil: func(t *testing.T, s *kit.Store) (_, _ []string) {
				// The store as it is, on a small file system that is full then.
				return []string{"unshare", "-m", "sh", "-c", `
					dir=$0; hold=$(mktemp -d) && mount --bind "$dir" "$hold" && mount -t tmpfs -o size=4m,mode=755 tmpfs "$dir" &&
					cp -a "$hold/." "$dir/" && umount "$hold" && rmdir "$hold" && { cat /dev/zero >"$dir/images/filling" 2>/dev/null; mv "$dir/images/filling" "$dir/filling"; exec "$@"; }`, s.Dir}, nil
			},
			doubtful: true, // copied files are others than those in the plan
		},
		{
			name:     "lower layer of an overlay",
			want:     map[string]int{"add": statusDone, "list": statusDone, "remove": statusDone},
			doubtful: true, // its files are others than those in the plan
			spoil: func(t *testing.T, s *kit.Store) (_, _ []string) {
				return []string{"unshare", "-m", "sh", "-c", `
					mkdir -p "$0/up" "$0/work" && mount -t overlay -o "lowerdir=$1,upperdir=$0/up,workdir=$0/work" overlay "$1" && shift && exec "$@"`,
					kit.Dir(t), s.Dir}, nil
			},
		},
		{name: "no CRIU", want: noCRIU, spoil: func(*testing.T, *kit.Store) (_, env []string) {
			return nil, []string{"RESIDENTCTL_CRIU=/no/such/criu"}
		}},
		{name: "old CRIU", want: noCRIU, spoil: func(t *testing.T, _ *kit.Store) (_, env []string) {
			return nil, []string{"RESIDENTCTL_CRIU=" + script(t, "echo Version: 3.17")}
		}},
		{name: "CRIU that does not start", want: noCRIU, spoil: func(t *testing.T, _ *kit.Store) (_, env []string) {
			return nil, []string{"RESIDENTCTL_CRIU=" + script(t, "exit 1")}
		}},
		{name: "CRIU that fails", want: noCRIU, spoil: func(t *testing.T, _ *kit.Store) (_, env []string) {
			return nil, []string{"RESIDENTCTL_CRIU=" + script(t, `[ "$1" = --version ] && exec echo Version: 4.1.1; exit 1`)}
		}},
		{name: "CRIU that is killed", want: noCRIU, spoil: func(t *testing.T, _ *kit.Store) (_, env []string) {
			return nil, []string{"RESIDENTCTL_CRIU=" + script(t, `[ "$1" = --version ] && exec echo Version: 4.1.1; kill -9 $$`)}
		}},
		{name: "CRIU whose images cannot be read", want: noCRIU, spoil: func(t *testing.T, s *kit.Store) (_, env []string) {
			return nil, []string{"RESIDENTCTL_CRIU=" + afterCRIU(t, `find "`+s.Dir+`/staging" "`+os.TempDir()+`" -name pstree.img -exec truncate -s 8 {} +`)}
		}},
		{name: "CRIU that is told to leave what it dumps", want: map[string]int{"add": statusDone, "check": statusDone},
			spoil: func(*testing.T, *kit.Store) (wrapper, _ []string) { return configuredCRIU("leave-running"), nil }},
		{name: "small stack", want: map[string]int{"add": statusFailed, "list": statusDone, "gc": statusDone, "check": statusSystem, "remove": statusDone},
			spoil: func(*testing.T, *kit.Store) (wrapper, _ []string) {
				return []string{"bash", "-c", `ulimit -Ss 100; ulimit -Hs 200; exec "$0" "$@"`}, nil
			}},
		{name: "small files", want: noCRIU, spoil: func(*testing.T, *kit.Store) (wrapper, _ []string) {
			return []string{"bash", "-c", `ulimit -f 64; exec "$0" "$@"`}, nil
		}},
		{name: "no null device", want: noCRIU, spoil: func(*testing.T, *kit.Store) (wrapper, _ []string) {
			return []string{"unshare", "-m", "sh", "-c", `mount -t tmpfs tmpfs /dev && exec "$0" "$@"`}, nil
		}},
		// Under any filter of system calls a launcher starts programs normally.
		{name: "no ptrace, EPERM", doubtful: true, want: noCRIU, spoil: withoutPtrace(syscall.EPERM)},
		{name: "no ptrace, ENOSYS", doubtful: true, want: noCRIU, spoil: withoutPtrace(syscall.ENOSYS)},
	}
	slice := kit.Today(t, 3)
	for i, state := range states {
		t.Run(state.name, func(t *testing.T) {
			t.Setenv("TMPDIR", kit.Dir(t))
			s := kit.NewStore(t, kit.Dir(t))
			program, other := kit.Fixture(t, "args"), kit.Fixture(t, "secrets")
			s.Do(t, "add", "--even-if-slower", program)
			s.WantResident(t, program)
			launcher := s.Launcher(program)
			wrapper, env := state.spoil(t, s)

			// remove comes last, since it may work.
			for j, words := range [][]string{{"add", "--even-if-slower", other}, {"list"}, {"gc"}, {"check"}, {"remove", program}} {
				want, specified := state.want[words[0]]
				if specified && words[0] == "remove" {
					wantStarted(t, wrapper, env, s, program, launcher, state.doubtful)
				}
				if specified && slice.Has(i, j) {
					wantStatus(t, s, want, wrapper, env, words...)
				}
			}
			wantRun(t, s, wrapper, env, other)
			wantNoProcess(t, other, s.Dir)
		})
	}
}

// configuredCRIU has a command find a line in CRIU's configuration file.
func configuredCRIU(line string) (wrapper []string) {
	return []string{"unshare", "-m", "sh", "-c", `etc=$(mktemp -d) && mount -t tmpfs tmpfs "$etc" && cp -a /etc/. "$etc" && mkdir -p "$etc/criu" &&
		echo ` + line + ` >"$etc/criu/default.conf" && mount --bind "$etc" /etc && umount "$etc" && rmdir "$etc" && exec "$0" "$@"`}
}

// TestCheckNamesCRIUsConfiguration: CRIU obeys it whatever residentctl wants.
func TestCheckNamesCRIUsConfiguration(t *testing.T) {
	kit.RequireCRIU(t)
	t.Setenv("TMPDIR", kit.Dir(t))
	s := kit.NewStore(t, kit.Dir(t))
	cmd, stderr := wrapped(s, configuredCRIU("leave-running"), nil, s.Residentctl, "--store", s.Dir, "check")
	stdout, err := cmd.Output()
	if err != nil || !strings.Contains(string(stdout), "note   criu: configuration: /etc/criu/default.conf") {
		t.Errorf("%v\n%s%s", err, stdout, stderr)
	}
}

// script is a program that stands for CRIU.
func script(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(kit.Dir(t), "criu")
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+text+"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

// afterCRIU is CRIU, with something that happens at the end of each dump.
func afterCRIU(t *testing.T, does string) string {
	t.Helper()
	kit.RequireCRIU(t)
	criu, err := criuwrap.Find()
	if err != nil {
		t.Fatal(err)
	}
	return script(t, `"`+criu+`" "$@"; status=$?; if [ "$1" = swrk ]; then `+does+`; fi; exit $status`)
}

// withoutPtrace is a sandbox, such as a container's, in which ptrace(2) fails.
func withoutPtrace(errno syscall.Errno) func(*testing.T, *kit.Store) (wrapper, env []string) {
	return func(t *testing.T, _ *kit.Store) (wrapper, env []string) {
		sandbox := filepath.Join(kit.Temporary, "noptrace")
		kit.Compile(t, sandbox, kit.FixtureSource("noptrace"))
		return []string{sandbox, fmt.Sprint(int(errno))}, nil
	}
}

// wrapped is a command in a wrapper, with a limit of time.
func wrapped(s *kit.Store, wrapper, env []string, argv ...string) (*exec.Cmd, *strings.Builder) {
	argv = append(append([]string{}, wrapper...), argv...)
	path := argv[0]
	if found, err := exec.LookPath(path); err == nil {
		path = found
	}
	cmd := exec.Command("timeout", append([]string{"--signal=KILL", "60", path}, argv[1:]...)...)
	cmd.Env = append(append(s.Environment(s.DataHome), "TMPDIR="+os.TempDir()), env...)
	cmd.WaitDelay = 5 * time.Second
	var stderr strings.Builder
	cmd.Stderr = &stderr
	return cmd, &stderr
}

// wantStatus runs a command of residentctl's. One that fails gives one reason, in
// words, and what to do about it.
func wantStatus(t *testing.T, s *kit.Store, want int, wrapper, env []string, words ...string) {
	t.Helper()
	cmd, stderr := wrapped(s, wrapper, env, append([]string{s.Residentctl, "--store", s.Dir}, words...)...)
	stdout, _ := cmd.Output()
	if got := cmd.ProcessState.ExitCode(); got != want {
		t.Errorf("%s: status %d, want %d\n%s%s", words[0], got, want, stdout, stderr)
	}
	wantClear(t, words[0], want, string(stdout), stderr.String())
}

// wantClear holds that a failure is told in the form that all have.
func wantClear(t *testing.T, command string, status int, stdout, stderr string) {
	t.Helper()
	for _, leak := range []string{"panic", "goroutine ", "runtime error", "SIGSEGV", "(nil)", "%!"} {
		if strings.Contains(stdout+stderr, leak) {
			t.Errorf("%s: it says %q:\n%s%s", command, leak, stdout, stderr)
		}
	}
	if status == statusDone {
		return
	}
	if strings.Count(stderr, "residentctl: error: ") != 1 {
		t.Errorf("%s: not one error:\n%s", command, stderr)
	}
	if command != "check" && !strings.Contains(stderr, "residentctl: hint: ") {
		t.Errorf("%s: no hint:\n%s", command, stderr)
	}
	if command == "check" && !strings.Contains(stdout, "\n       -> ") && !strings.Contains(stderr, "residentctl: hint: ") {
		t.Errorf("check: no advice:\n%s", stdout)
	}
}

// wantStarted fails unless the program starts by run and by its launcher file,
// and from its image unless that is doubtful.
func wantStarted(t *testing.T, wrapper, env []string, s *kit.Store, program, launcher string, doubtful bool) {
	t.Helper()
	want := ": resident start: "
	if doubtful {
		want = "" // it may not even be possible to say why
	}
	for _, argv := range [][]string{{s.Residentctl, "--store", s.Dir, "run", program}, {launcher}} {
		cmd, stderr := wrapped(s, wrapper, append(env, "RESIDENTCTL_EXPLAIN=1"), argv...)
		stdout, err := cmd.Output()
		if err != nil || !strings.Contains(string(stdout), "argc 1") || !strings.Contains(stderr.String(), want) {
			t.Errorf("%s: %v, want %q to stand in its standard error\n%s%s", argv[0], err, want, stdout, stderr)
		}
	}
}

// wantRun fails unless a program that is not resident runs.
func wantRun(t *testing.T, s *kit.Store, wrapper, env []string, program string) {
	t.Helper()
	cmd, stderr := wrapped(s, wrapper, env, s.Residentctl, "--store", s.Dir, "run", program)
	if stdout, err := cmd.Output(); err != nil {
		t.Errorf("run %s: %v\n%s%s", program, err, stdout, stderr)
	}
}

// TestFewDescriptors: with any limit of open files a command works or says
// clearly that the limit is too low, and a program that starts plainly starts. Each day it
// is two of six commands.
func TestFewDescriptors(t *testing.T) {
	t.Setenv("TMPDIR", kit.Dir(t))
	s := kit.NewStore(t, kit.Dir(t))
	program, other := kit.Fixture(t, "secrets"), kit.Fixture(t, "args")
	s.Do(t, "add", "--even-if-slower", program)
	launcher := s.Launcher(program)
	low, slice := 0, kit.Today(t, 4)
	for i, limit := range []int{3, 4, 5, 6, 7, 8, 12, 16, 24, 32, 34, 35, 36, 38, 40, 48, 64, 100} {
		wrapper := []string{"sh", "-c", fmt.Sprintf(`ulimit -n %d; exec "$@"`, limit), "sh"}
		t.Run(fmt.Sprint("limit ", limit), func(t *testing.T) {
			plainly, _ := wrapped(s, wrapper, nil, program)
			if plainly.Run() == nil {
				wantRun(t, s, wrapper, nil, program)
				cmd, stderr := wrapped(s, wrapper, nil, launcher)
				if err := cmd.Run(); err != nil {
					t.Errorf("launcher file: %v\n%s", err, stderr)
				}
			}
			for j, words := range [][]string{{"add", "--even-if-slower", other}, {"list"}, {"gc"}, {"check"}, {"verify", "--engine", "criu", program}, {"remove", other}} {
				if !slice.Has(i, j) {
					continue
				}
				cmd, stderr := wrapped(s, wrapper, nil, append([]string{s.Residentctl, "--store", s.Dir}, words...)...)
				stdout, err := cmd.Output()
				status := cmd.ProcessState.ExitCode()
				switch {
				case err == nil:
				case words[0] == "remove" && strings.Contains(stderr.String(), "no such entry"):
				case status != statusSystem:
					t.Errorf("%s: status %d, want %d\n%s%s", words[0], status, statusSystem, stdout, stderr)
				default:
					low++
				}
				wantClear(t, words[0], min(status, 1), string(stdout), stderr.String())
			}
			wantNoProcess(t, other, s.Dir)
		})
	}
	if low == 0 {
		t.Error("no limit was too low")
	}
	s.Do(t, "gc")
	wantClean(t, s)
	s.Do(t, "add", "--even-if-slower", other)
	s.WantResident(t, other)
}
