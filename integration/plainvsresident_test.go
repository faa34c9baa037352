package integration

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestFixtures starts each C and C++ fixture plainly and resident.
func TestFixtures(t *testing.T) {
	secret := noise{regexp.MustCompile(`(?m)^(canary|guard) [0-9a-f]{16}$`), "$1"}
	once := []command{{name: "plain"}}
	tests := []struct {
		fixture  string
		commands []command
	}{
		{"c-main", once},
		{"cxx-main", []command{
			{name: "no input"},
			{name: "a pipe", stdin: "one\ntwo\n"},
			{name: "stdout closed", shell: "exec >&-", normal: either}, // what examines a start needs it
		}},
		{"args", []command{
			{name: "none"},
			{name: "some", args: []string{"a", "", "--", "-x", "ä b", "*"}},
			{name: "many", args: strings.Fields(strings.Repeat("argument ", 20_000))},
			{name: "long", args: []string{strings.Repeat("x", 100_000)}},
			{name: "large environment", env: []string{"LARGE=" + strings.Repeat("y", 100_000), "EMPTY=", "A=B=C"}},
			{name: "linker's variables", env: []string{"LD_BIND_NOW=1"}},
			{name: "malloc's variables", env: []string{"MALLOC_ARENA_MAX=1", "GLIBC_TUNABLES=glibc.malloc.check=0"}},
		}},
		{"tls", once},
		{"threads", []command{
			{name: "plain"},
			{name: "small stacks", shell: "ulimit -s 1024"},
			{name: "odd stacks", shell: "ulimit -s 5001"},
			{name: "tiny stacks", shell: "ulimit -s 200"},
			{name: "no limit", shell: "ulimit -s unlimited", normal: noRoom},
		}},
		{"dlopen", once},
		{"nss", once},
		{"locale", []command{
			{name: "C.UTF-8"},
			{name: "C", env: []string{"LC_ALL=C"}},
			{name: "unknown", env: []string{"LC_ALL=xx_XX.UTF-8"}},
		}},
		{"fork-exec", once},
		{"signals", []command{
			{name: "plain"},
			{name: "ignored", shell: "trap '' USR2 PIPE"},
		}},
		{"cxx-exceptions", once},
		{"constructors", []command{
			{name: "no arguments"},
			{name: "arguments", args: []string{"one", "last"}},
		}},
		{"stdio", []command{
			{name: "nothing to read"},
			{name: "a pipe", stdin: strings.Repeat("a line\n", 30_000)},
			{name: "files", shell: "exec <input >output 2>&1", inputs: map[string]string{"input": "text\n"}, outputs: []string{"output"},
				special: map[string]string{bySystemNormally.name: either}}, // it says why in the file
			{name: "closed", shell: "exec 0<&- 2>&-", normal: either},
		}},
		{"stack", []command{
			{name: "plain"},
			{name: "small", shell: "ulimit -s 512"},
			{name: "large", shell: "ulimit -s 20000"},
			{name: "no limit", shell: "ulimit -s unlimited", normal: noRoom},
		}},
		{"vdso", once},
		{"brk", []command{
			{name: "plain"},
			{name: "no randomisation", shell: `exec setarch --addr-no-randomize "$@"`, special: notToBeRandom},
		}},
		{"secrets", []command{{name: "plain", noise: []noise{secret}}}},
		{"procself", []command{
			{name: "plain"},
			{name: "arguments", args: []string{"one", "", "two words"}},
		}},
		{"inherit", []command{
			{name: "plain"},
			{name: "umask, limits, folder", shell: "umask 027; ulimit -n 77 -c 0 -t 50 -v 4000000; cd /usr"},
			{name: "descriptors", shell: "exec 5</dev/null 7>&1 20<>file; exec 2>&-", normal: either},
			{name: "priority, affinity", shell: "renice -n 5 $$ >/dev/null; taskset -pc 0 $$ >/dev/null; trap '' HUP"},
		}},
		{"rseq", once},
		{"robust", once},
		{"backtrace", once},
	}
	s := sharedStore(t)
	for _, test := range tests {
		t.Run(test.fixture, func(t *testing.T) {
			s.compare(t, fixture(t, test.fixture), test.commands)
		})
	}
}

// TestPrograms does real work with real programs, plainly and resident.
func TestPrograms(t *testing.T) {
	// GLib begins its messages with the process's id and the time of day.
	glib := noise{regexp.MustCompile(`\(([\w-]+):\d+\): (.*): \d\d:\d\d:\d\d\.\d{3}:`), "($1:PID): $2: TIME:"}
	// Under exec the dynamic linker is some pages longer, so that with randomisation
	// switched off the libraries of a normal start stand lower.
	library := noise{regexp.MustCompile(`0x00007ffff[0-9a-f]{7}`), "LIBRARY"}
	inferior := noise{regexp.MustCompile(`\(process \d+\)`), "(process PID)"}
	const picture = `<svg xmlns="http://www.w3.org/2000/svg" width="40" height="20">` +
		`<circle cx="10" cy="10" r="8" fill="#08f"/><text x="20" y="15">ab</text></svg>`
	const repository = `-c user.name=A -c user.email=a@example.org -c commit.gpgsign=false `

	tests := []struct {
		program  string
		commands []command
	}{
		{"perl", []command{
			{name: "version", args: []string{"-v"}},
			{name: "empty"},
			{name: "from stdin", stdin: "print 6 * 7, qq{\\n}; warn 'careful'; exit 3;"},
			{name: "extension modules", args: []string{"-e", `
				use strict; use warnings;
				use POSIX qw(floor strftime); use List::Util qw(sum first shuffle); use Encode; use Socket;
				use Data::Dumper; use Time::HiRes; use Digest::SHA qw(sha256_hex); use Storable qw(dclone);
				print floor(3.7), ' ', sum(1..10), ' ', strftime('%Y', gmtime(0)), "\n";
				print length(encode('UTF-16', decode('UTF-8', "\xc3\xa4"))), "\n";
				print inet_ntoa(inet_aton('127.0.0.1')), ' ', sha256_hex('abc'), "\n";
				print Dumper(dclone({ a => [1, 2] })); print scalar(Time::HiRes::time() > 1e9), "\n";`}},
			{name: "processes", args: []string{"-e", `
				$| = 1; $SIG{USR1} = sub { print "signal\n" }; kill USR1 => $$;
				my $pid = fork // die; if (!$pid) { print "child\n"; exit 4 } waitpid $pid, 0; print $? >> 8, "\n";
				print ` + "`echo backticks`" + `; open my $p, '-|', 'cat', '/proc/self/comm' or die; print <$p>;
				system 'sh', '-c', 'exit 5'; print $? >> 8, "\n"; kill KILL => $$ if $ARGV[0]; die "over\n"`, "--"}},
			{name: "its own path", args: []string{"-e", `print qx{$^X -e 'print 1 + 1'}, " $0\n"; exec $^X, '-e', 'print "again\n"; exit 6'`}},
			{name: "killed", args: []string{"-e", "kill KILL => $$"}},
			{name: "a script", args: []string{"-w", "script.pl", "x"}, inputs: map[string]string{
				"script.pl": "print join(',', $0, @ARGV), qq{\\n}; my $u; print $u . qq{\\n}; print sort { $a <=> $b } 3, 1, 2;"}},
			{name: "no such file", args: []string{"nowhere.pl"}},
		}},
		{"bash", []command{
			{name: "nothing", args: []string{"-c", ":"}},
			{name: "pipes", args: []string{"-c", `set -o pipefail; printf '%s\n' c a b | sort | tr a-z A-Z; false | true; echo $? "${PIPESTATUS[@]}"`}},
			{name: "traps", args: []string{"-c", `trap 'echo on exit $?' EXIT; trap 'echo usr1' USR1; kill -USR1 $$; (exit 3); echo $?; exit 8`}},
			{name: "jobs", args: []string{"-c", `set -m; sleep 0.01 & wait %1; echo $?; (exit 7) & wait $!; echo $?; jobs; cat < <(echo substitution); coproc cat; echo x >&"${COPROC[1]}"; read -r y <&"${COPROC[0]}"; echo $y`}},
			{name: "from stdin", stdin: "a=(1 2 3)\necho ${#a[@]} $((2**40)) ${a[@]/2/x}\nunknown-command-here\n"},
			{name: "login", args: []string{"--norc", "--posix", "-c", "echo $0 $1 $BASH; shopt -o posix; type cd", "name", "one"}},
			{name: "killed", args: []string{"-c", "kill -TERM $$"}},
			{name: "syntax error", args: []string{"-c", "if"}},
			{name: "printf of a locale", args: []string{"-c", `x=äöü; echo ${#x} ${x:1:1}; printf '%q %05.1f\n' "$x y" 2.25`}},
		}},
		{"git", []command{
			{name: "version", args: []string{"--version"}},
			{name: "outside", args: []string{"status"}},
			{name: "unknown", args: []string{"no-such-command"}},
			{name: "init", args: []string{"init", "-q", "-b", "main", "."}, outputs: []string{".git/HEAD", ".git/config"}},
			{name: "hash", args: []string{"hash-object", "--stdin"}, stdin: "text\n"},
			{name: "config", args: []string{"config", "--global", "--add", "a.b", "c"}, outputs: []string{"home/.gitconfig"}},
			{name: "diff", args: []string{"diff", "--no-index", "--stat", "-p", "one", "two"}, inputs: map[string]string{"one": "a\nb\n", "two": "a\nc\n"}},
			// An alias that starts with an exclamation mark is a shell command, which
			// finds this git again through PATH; git itself starts in the folder that it
			// makes.
			{name: "commit", args: []string{"-c", "alias.work=!" +
				`git init -q -b main r && cd r && echo text >file && git add file && ` +
				`git ` + repository + `commit -q -m first && git log --format=%H%n%s%n%an --stat && git fsck --full && git gc -q && git status --short --branch`,
				"work"}, env: []string{"GIT_AUTHOR_DATE=2004-07-04T12:00:00Z", "GIT_COMMITTER_DATE=2004-07-04T12:00:00Z"}},
		}},
		{"python3", []command{
			{name: "nothing", args: []string{"-c", "pass"}},
			{name: "version", args: []string{"-VV"}},
			{name: "from stdin", stdin: "import sys\nprint(sys.argv, sys.stdin.isatty())\nsys.exit(3)\n"},
			{name: "extension modules", args: []string{"-c", `
import ctypes, ctypes.util, decimal, hashlib, json, lzma, math, ssl, sqlite3, struct, zlib
print(json.loads('{"a": [1, 2.5, null]}'), math.pi, decimal.Decimal(1) / 7)
print(hashlib.sha256(b'abc').hexdigest(), ssl.OPENSSL_VERSION, ssl.create_default_context().check_hostname)
print(ctypes.CDLL(None).getpid() > 0, ctypes.CDLL('libm.so.6').abs(-3), zlib.crc32(b'x'))
print(sqlite3.connect(':memory:').execute('select 1 + 1').fetchall(), len(lzma.compress(b'x' * 1000)))`}},
			{name: "processes and threads", args: []string{"-c", `
import multiprocessing, os, signal, subprocess, sys, threading
from concurrent.futures import ThreadPoolExecutor
def square(n): return n * n
print(list(ThreadPoolExecutor(4).map(square, range(5))))
with multiprocessing.get_context('fork').Pool(2) as pool: print(pool.map(square, range(5)))
print(subprocess.run(['sh', '-c', 'echo out; exit 4'], capture_output=True))
print(subprocess.run([sys.executable, '-c', 'import os; print(os.environ["LANG"])'], capture_output=True))
signal.signal(signal.SIGUSR1, lambda *a: print('signal')); os.kill(os.getpid(), signal.SIGUSR1)
t = threading.Thread(target=print, args=('thread',)); t.start(); t.join()
sys.stdout.flush(); os.kill(os.getpid(), signal.SIGTERM)`}},
			{name: "where it is", args: []string{"-c", "import sys, os; print(sys.executable, sys.prefix, sys.path, os.getcwd(), sys.flags, sys.getfilesystemencoding())"}},
			{name: "exception", args: []string{"-c", "def f(): f()\ntry: f()\nexcept RecursionError as e: print(e)\n1/0"}},
			{name: "spawned", args: []string{"script.py"}, inputs: map[string]string{"script.py": `
import multiprocessing
def work(n): return n + 1
if __name__ == '__main__':
    with multiprocessing.get_context('spawn').Pool(1) as pool: print(pool.map(work, [1, 2]))
`}},
		}},
		{"gdb", []command{
			{name: "version", args: []string{"--version"}},
			{name: "scripting", args: []string{"--batch", "-nx", "-ex", "print 6*7", "-ex", "python print(gdb.VERSION)", "-ex", "show architecture"}},
			{name: "no such program", args: []string{"--batch", "-nx", "nowhere"}},
			{name: "debug a program", args: []string{"--batch", "-nx", "-iex", "set debuginfod enabled off", "-ex", "break innermost",
				"-ex", "run", "-ex", "backtrace", "-ex", "info sharedlibrary", "-ex", "continue", "PROGRAM"}, noise: []noise{inferior, library}},
		}},
		{"ffmpeg", []command{
			{name: "version", args: []string{"-version"}},
			{name: "frames", args: []string{"-hide_banner", "-nostdin", "-loglevel", "error", "-f", "lavfi", "-i", "testsrc=size=64x48:rate=10:duration=1", "-frames:v", "10", "-f", "framemd5", "-"}},
			{name: "encode", args: []string{"-hide_banner", "-nostdin", "-loglevel", "error", "-f", "lavfi", "-i", "testsrc2=size=64x48:duration=1",
				"-f", "lavfi", "-i", "sine=duration=1", "-threads", "2", "-c:v", "mpeg4", "-c:a", "aac", "-bitexact", "out.mkv"}, outputs: []string{"out.mkv"}},
			{name: "from a pipe", args: []string{"-hide_banner", "-loglevel", "error", "-f", "rawvideo", "-pix_fmt", "gray", "-s", "16x16", "-i", "-", "-f", "md5", "-"}, stdin: strings.Repeat("x", 16*16*4)},
			{name: "encoders", args: []string{"-hide_banner", "-encoders"}},
			{name: "no such file", args: []string{"-hide_banner", "-i", "nowhere.mp4"}},
		}},
		{"inkscape", []command{
			{name: "version", args: []string{"--version"}, noise: []noise{glib}},
			{name: "export", args: []string{"--export-type=png", "--export-filename=out.png", "picture.svg"},
				inputs: map[string]string{"picture.svg": picture}, outputs: []string{"out.png"}, noise: []noise{glib}},
			{name: "query", args: []string{"--query-all", "picture.svg"}, inputs: map[string]string{"picture.svg": picture}, noise: []noise{glib}},
		}},
	}
	s := sharedStore(t)
	for _, test := range tests {
		t.Run(test.program, func(t *testing.T) {
			program := installed(t, test.program)
			for _, c := range test.commands {
				for i, arg := range c.args {
					if arg == "PROGRAM" {
						c.args[i] = fixture(t, "backtrace")
					}
				}
			}
			s.compare(t, program, test.commands)
		})
	}
}

// TestThroughPATH finds the programs by name, as a shell does: a folder with a link
// to the launcher file comes first there, and argv[0] is the bare name.
func TestThroughPATH(t *testing.T) {
	s := sharedStore(t)
	for _, test := range []struct{ program, script string }{
		{"perl", `perl -MPOSIX -e 'print "$0 ", POSIX::floor(2.5), "\n"'`},
		{"bash", `bash -c 'echo $0 $((1 + 1))'`},
		{"git", `git init -q . && git status --short --branch`},
		{"python3", `python3 -c 'import json, sys; print(json.dumps(sys.argv), sys.prefix)'`},
	} {
		t.Run(test.program, func(t *testing.T) {
			program := installed(t, test.program)
			s.do(t, "add", "--even-if-slower", program)
			links := folder(t)
			if err := os.Symlink(s.launcher(program), filepath.Join(links, test.program)); err != nil {
				t.Fatal(err)
			}
			shell := command{args: []string{"-c", test.script}}
			want := s.start(t, plain, nobody, "/bin/sh", shell)
			shell.env = []string{"PATH=" + links + ":/usr/bin:/bin"}
			if diff := cmp.Diff(want, s.start(t, plain, nobody, "/bin/sh", shell)); diff != "" {
				t.Errorf("plain (-) and through PATH (+) differ:\n%s", diff)
			}
		})
	}
}

// sanitized are the names of the fixtures with a sanitizer's runtime.
var sanitized = regexp.MustCompile(`/instrumented-.*(sanitizer|undefined)`)

// compare makes the program resident and compares every command in every way for
// every user; of programs of the distribution only the first through a shim.
func (s *store) compare(t *testing.T, program string, commands []command) {
	t.Helper()
	s.do(t, "add", "--even-if-slower", program)
	type start struct {
		way, user string
		command   int
	}
	// Plain starts come before all others: a way may be set up for the whole machine.
	plainly := map[start]outcome{}
	ways := waysTo(t, program, everyWay)
	those := func(w way) []command {
		switch {
		case w.name == strictly.name:
			return nil // as run
		case (w.name == byShim.name || w.normal != "") && !strings.HasPrefix(program, temporary):
			return commands[:1]
		}
		return commands
	}
	for _, w := range ways {
		for _, u := range users {
			for i, c := range those(w) {
				w, id := w.reference(), start{w.reference().name, u.name, i}
				if _, there := plainly[id]; there {
					continue
				}
				plainly[id] = s.start(t, w, u, program, c)
				if o := plainly[id]; strings.Contains(o.Stdout, "FAILED: ") || o.Status == "exit status 125" {
					t.Fatalf("%s, %s: the fixture fails in a plain start:\n%s%s", c.name, u.name, o.Stdout, o.Stderr)
				}
			}
		}
	}
	for _, w := range append(ways, strictly) {
		t.Run(w.name, func(t *testing.T) {
			w.ready(t, s, program)
			for _, u := range users {
				// A sanitizer's reports want /proc/self/exe: a normal start where the
				// kernel does not let it be set.
				if u == root || w.name == byExec.name || !sanitized.MatchString(program) {
					s.requireResident(t, w, u, program, commands[0])
				}
				for i, c := range those(w) {
					t.Run(c.name+", "+u.name, func(t *testing.T) {
						want := plainly[start{w.reference().name, u.name, i}]
						if diff := w.diff(u, c, want, s.start(t, w, u, program, c)); diff != "" {
							t.Errorf("plain (-) and %s (+) differ:\n%s", w.name, diff)
						}
						if c.shell == "" {
							return // the first tells for all
						}
						switch normal := special(w, c.normal, c.special); normal {
						case either:
						case "":
							s.requireResident(t, w, u, program, c)
						default:
							c.env = append(slices.Clip(c.env), "RESIDENTCTL_EXPLAIN=1")
							got := s.start(t, w, u, program, c).Stderr
							if how, why := explanationOf(got, program); how != "started normally" || !strings.Contains(why, normal) {
								t.Errorf("%s: %q, want a start that is %s\n%s", w.name, how+": "+why, kind(normal), got)
							}
						}
					})
				}
			}
		})
	}
}

// installed is the distribution's program of that name, whatever PATH may name
// first. It skips a test whose program is not on this machine.
func installed(t *testing.T, name string) string {
	t.Helper()
	for _, folder := range []string{"/usr/bin/", "/bin/"} {
		if _, err := os.Stat(folder + name); err == nil {
			return folder + name
		}
	}
	t.Skipf("%s is not on this machine", name)
	return ""
}
