package integration

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/residentctl/residentctl/integration/kit"
)

// TestFixtures starts each C and C++ fixture plainly and resident.
func TestFixtures(t *testing.T) {
	secret := kit.Noise{Pattern: regexp.MustCompile(`(?m)^(canary|guard) [0-9a-f]{16}$`), Replacement: "$1"}
	once := []kit.Command{{Name: "plain"}}
	tests := []struct {
		fixture  string
		commands []kit.Command
	}{
		{"c-main", once},
		{"cxx-main", []kit.Command{
			{Name: "no input"},
			{Name: "a pipe", Stdin: "one\ntwo\n"},
			{Name: "stdout closed", Shell: "exec >&-", Normal: kit.Either}, // what examines a start needs it
		}},
		{"args", []kit.Command{
			{Name: "none"},
			{Name: "some", Args: []string{"a", "", "--", "-x", "ä b", "*"}},
			{Name: "many", Args: strings.Fields(strings.Repeat("argument ", 20_000))},
			{Name: "long", Args: []string{strings.Repeat("x", 100_000)}},
			{Name: "large environment", Env: []string{"LARGE=" + strings.Repeat("y", 100_000), "EMPTY=", "A=B=C"}},
			{Name: "linker's variables", Env: []string{"LD_BIND_NOW=1"}},
			{Name: "malloc's variables", Env: []string{"MALLOC_ARENA_MAX=1", "GLIBC_TUNABLES=glibc.malloc.check=0"}},
		}},
		{"tls", once},
		{"threads", []kit.Command{
			{Name: "plain"},
			{Name: "small stacks", Shell: "ulimit -s 1024"},
			{Name: "odd stacks", Shell: "ulimit -s 5001"},
			{Name: "tiny stacks", Shell: "ulimit -s 200"},
			{Name: "no limit", Shell: "ulimit -s unlimited", Normal: kit.NoRoom},
		}},
		{"dlopen", once},
		{"nss", once},
		{"locale", []kit.Command{
			{Name: "C.UTF-8"},
			{Name: "C", Env: []string{"LC_ALL=C"}},
			{Name: "unknown", Env: []string{"LC_ALL=xx_XX.UTF-8"}},
		}},
		{"fork-exec", once},
		{"signals", []kit.Command{
			{Name: "plain"},
			{Name: "ignored", Shell: "trap '' USR2 PIPE"},
		}},
		{"cxx-exceptions", once},
		{"constructors", []kit.Command{
			{Name: "no arguments"},
			{Name: "arguments", Args: []string{"one", "last"}},
		}},
		{"stdio", []kit.Command{
			{Name: "nothing to read"},
			{Name: "a pipe", Stdin: strings.Repeat("a line\n", 30_000)},
			{Name: "files", Shell: "exec <input >output 2>&1", Inputs: map[string]string{"input": "text\n"}, Outputs: []string{"output"},
				Special: map[string]string{kit.BySystemNormally.Name: kit.Either}}, // it says why in the file
			{Name: "closed", Shell: "exec 0<&- 2>&-", Normal: kit.Either},
		}},
		{"stack", []kit.Command{
			{Name: "plain"},
			{Name: "small", Shell: "ulimit -s 512"},
			{Name: "large", Shell: "ulimit -s 20000"},
			{Name: "no limit", Shell: "ulimit -s unlimited", Normal: kit.NoRoom},
		}},
		{"vdso", once},
		{"brk", []kit.Command{
			{Name: "plain"},
			{Name: "no randomisation", Shell: `exec setarch --addr-no-randomize "$@"`, Special: kit.NotToBeRandom},
		}},
		{"secrets", []kit.Command{{Name: "plain", Noise: []kit.Noise{secret}}}},
		{"procself", []kit.Command{
			{Name: "plain"},
			{Name: "arguments", Args: []string{"one", "", "two words"}},
		}},
		{"inherit", []kit.Command{
			{Name: "plain"},
			{Name: "umask, limits, directory", Shell: "umask 027; ulimit -n 77 -c 0 -t 50 -v 4000000; cd /usr"},
			{Name: "descriptors", Shell: "exec 5</dev/null 7>&1 20<>file; exec 2>&-", Normal: kit.Either},
			{Name: "priority, affinity", Shell: "renice -n 5 $$ >/dev/null; taskset -pc 0 $$ >/dev/null; trap '' HUP"},
		}},
		{"rseq", once},
		{"robust", once},
		{"backtrace", once},
	}
	s := kit.SharedStore(t)
	for _, test := range tests {
		t.Run(test.fixture, func(t *testing.T) {
			s.Compare(t, kit.Fixture(t, test.fixture), test.commands)
		})
	}
}

// TestPrograms does real work with real programs, plainly and resident.
func TestPrograms(t *testing.T) {
	// GLib begins its messages with the process's id and the time of day.
	glib := kit.Noise{Pattern: regexp.MustCompile(`\(([\w-]+):\d+\): (.*): \d\d:\d\d:\d\d\.\d{3}:`), Replacement: "($1:PID): $2: TIME:"}
	// Under exec the dynamic linker is some pages longer, so that with randomisation
	// switched off the libraries of a normal start stand lower.
	library := kit.Noise{Pattern: regexp.MustCompile(`0x00007ffff[0-9a-f]{7}`), Replacement: "LIBRARY"}
	inferior := kit.Noise{Pattern: regexp.MustCompile(`\(process \d+\)`), Replacement: "(process PID)"}
	const picture = `<svg xmlns="http://www.w3.org/2000/svg" width="40" height="20">` +
		`<circle cx="10" cy="10" r="8" fill="#08f"/><text x="20" y="15">ab</text></svg>`
	const repository = `-c user.name=A -c user.email=a@example.org -c commit.gpgsign=false `

	tests := []struct {
		program  string
		commands []kit.Command
	}{
		{"perl", []kit.Command{
			{Name: "version", Args: []string{"-v"}},
			{Name: "empty"},
			{Name: "from stdin", Stdin: "print 6 * 7, qq{\\n}; warn 'careful'; exit 3;"},
			{Name: "extension modules", Args: []string{"-e", `
				use strict; use warnings;
				use POSIX qw(floor strftime); use List::Util qw(sum first shuffle); use Encode; use Socket;
				use Data::Dumper; use Time::HiRes; use Digest::SHA qw(sha256_hex); use Storable qw(dclone);
				print floor(3.7), ' ', sum(1..10), ' ', strftime('%Y', gmtime(0)), "\n";
				print length(encode('UTF-16', decode('UTF-8', "\xc3\xa4"))), "\n";
				print inet_ntoa(inet_aton('127.0.0.1')), ' ', sha256_hex('abc'), "\n";
				print Dumper(dclone({ a => [1, 2] })); print scalar(Time::HiRes::time() > 1e9), "\n";`}},
			{Name: "processes", Args: []string{"-e", `
				$| = 1; $SIG{USR1} = sub { print "signal\n" }; kill USR1 => $$;
				my $pid = fork // die; if (!$pid) { print "child\n"; exit 4 } waitpid $pid, 0; print $? >> 8, "\n";
				print ` + "`echo backticks`" + `; open my $p, '-|', 'cat', '/proc/self/comm' or die; print <$p>;
				system 'sh', '-c', 'exit 5'; print $? >> 8, "\n"; kill KILL => $$ if $ARGV[0]; die "over\n"`, "--"}},
			{Name: "its own path", Args: []string{"-e", `print qx{$^X -e 'print 1 + 1'}, " $0\n"; exec $^X, '-e', 'print "again\n"; exit 6'`}},
			{Name: "killed", Args: []string{"-e", "kill KILL => $$"}},
			{Name: "a script", Args: []string{"-w", "script.pl", "x"}, Inputs: map[string]string{
				"script.pl": "print join(',', $0, @ARGV), qq{\\n}; my $u; print $u . qq{\\n}; print sort { $a <=> $b } 3, 1, 2;"}},
			{Name: "no such file", Args: []string{"nowhere.pl"}},
		}},
		{"bash", []kit.Command{
			{Name: "nothing", Args: []string{"-c", ":"}},
			{Name: "pipes", Args: []string{"-c", `set -o pipefail; printf '%s\n' c a b | sort | tr a-z A-Z; false | true; echo $? "${PIPESTATUS[@]}"`}},
			{Name: "traps", Args: []string{"-c", `trap 'echo on exit $?' EXIT; trap 'echo usr1' USR1; kill -USR1 $$; (exit 3); echo $?; exit 8`}},
			{Name: "jobs", Args: []string{"-c", `set -m; sleep 0.01 & wait %1; echo $?; (exit 7) & wait $!; echo $?; jobs; cat < <(echo substitution); coproc cat; echo x >&"${COPROC[1]}"; read -r y <&"${COPROC[0]}"; echo $y`}},
			{Name: "from stdin", Stdin: "a=(1 2 3)\necho ${#a[@]} $((2**40)) ${a[@]/2/x}\nunknown-command-here\n"},
			{Name: "login", Args: []string{"--norc", "--posix", "-c", "echo $0 $1 $BASH; shopt -o posix; type cd", "name", "one"}},
			{Name: "killed", Args: []string{"-c", "kill -TERM $$"}},
			{Name: "syntax error", Args: []string{"-c", "if"}},
			{Name: "printf of a locale", Args: []string{"-c", `x=äöü; echo ${#x} ${x:1:1}; printf '%q %05.1f\n' "$x y" 2.25`}},
		}},
		{"git", []kit.Command{
			{Name: "version", Args: []string{"--version"}},
			{Name: "outside", Args: []string{"status"}},
			{Name: "unknown", Args: []string{"no-such-command"}},
			{Name: "init", Args: []string{"init", "-q", "-b", "main", "."}, Outputs: []string{".git/HEAD", ".git/config"}},
			{Name: "hash", Args: []string{"hash-object", "--stdin"}, Stdin: "text\n"},
			{Name: "config", Args: []string{"config", "--global", "--add", "a.b", "c"}, Outputs: []string{"home/.gitconfig"}},
			{Name: "diff", Args: []string{"diff", "--no-index", "--stat", "-p", "one", "two"}, Inputs: map[string]string{"one": "a\nb\n", "two": "a\nc\n"}},
			// An alias that starts with an exclamation mark is a shell command, which
			// finds this git again through PATH; git itself starts in the directory that it
			// makes.
			{Name: "commit", Args: []string{"-c", "alias.work=!" +
				`git init -q -b main r && cd r && echo text >file && git add file && ` +
				`git ` + repository + `commit -q -m first && git log --format=%H%n%s%n%an --stat && git fsck --full && git gc -q && git status --short --branch`,
				"work"}, Env: []string{"GIT_AUTHOR_DATE=2004-07-04T12:00:00Z", "GIT_COMMITTER_DATE=2004-07-04T12:00:00Z"}},
		}},
		{"python3", []kit.Command{
			{Name: "nothing", Args: []string{"-c", "pass"}},
			{Name: "version", Args: []string{"-VV"}},
			{Name: "from stdin", Stdin: "import sys\nprint(sys.argv, sys.stdin.isatty())\nsys.exit(3)\n"},
			{Name: "extension modules", Args: []string{"-c", `
import ctypes, ctypes.util, decimal, hashlib, json, lzma, math, ssl, sqlite3, struct, zlib
print(json.loads('{"a": [1, 2.5, null]}'), math.pi, decimal.Decimal(1) / 7)
print(hashlib.sha256(b'abc').hexdigest(), ssl.OPENSSL_VERSION, ssl.create_default_context().check_hostname)
print(ctypes.CDLL(None).getpid() > 0, ctypes.CDLL('libm.so.6').abs(-3), zlib.crc32(b'x'))
print(sqlite3.connect(':memory:').execute('select 1 + 1').fetchall(), len(lzma.compress(b'x' * 1000)))`}},
			{Name: "processes and threads", Args: []string{"-c", `
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
			{Name: "where it is", Args: []string{"-c", "import sys, os; print(sys.executable, sys.prefix, sys.path, os.getcwd(), sys.flags, sys.getfilesystemencoding())"}},
			{Name: "exception", Args: []string{"-c", "def f(): f()\ntry: f()\nexcept RecursionError as e: print(e)\n1/0"}},
			{Name: "spawned", Args: []string{"script.py"}, Inputs: map[string]string{"script.py": `
import multiprocessing
def work(n): return n + 1
if __name__ == '__main__':
    with multiprocessing.get_context('spawn').Pool(1) as pool: print(pool.map(work, [1, 2]))
`}},
		}},
		{"gdb", []kit.Command{
			{Name: "version", Args: []string{"--version"}},
			{Name: "scripting", Args: []string{"--batch", "-nx", "-ex", "print 6*7", "-ex", "python print(gdb.VERSION)", "-ex", "show architecture"}},
			{Name: "no such program", Args: []string{"--batch", "-nx", "nowhere"}},
			{Name: "debug a program", Args: []string{"--batch", "-nx", "-iex", "set debuginfod enabled off", "-ex", "break innermost",
				"-ex", "run", "-ex", "backtrace", "-ex", "info sharedlibrary", "-ex", "continue", "PROGRAM"}, Noise: []kit.Noise{inferior, library}},
		}},
		{"ffmpeg", []kit.Command{
			{Name: "version", Args: []string{"-version"}},
			{Name: "frames", Args: []string{"-hide_banner", "-nostdin", "-loglevel", "error", "-f", "lavfi", "-i", "testsrc=size=64x48:rate=10:duration=1", "-frames:v", "10", "-f", "framemd5", "-"}},
			{Name: "encode", Args: []string{"-hide_banner", "-nostdin", "-loglevel", "error", "-f", "lavfi", "-i", "testsrc2=size=64x48:duration=1",
				"-f", "lavfi", "-i", "sine=duration=1", "-threads", "2", "-c:v", "mpeg4", "-c:a", "aac", "-bitexact", "out.mkv"}, Outputs: []string{"out.mkv"}},
			{Name: "from a pipe", Args: []string{"-hide_banner", "-loglevel", "error", "-f", "rawvideo", "-pix_fmt", "gray", "-s", "16x16", "-i", "-", "-f", "md5", "-"}, Stdin: strings.Repeat("x", 16*16*4)},
			{Name: "encoders", Args: []string{"-hide_banner", "-encoders"}},
			{Name: "no such file", Args: []string{"-hide_banner", "-i", "nowhere.mp4"}},
		}},
		{"inkscape", []kit.Command{
			{Name: "version", Args: []string{"--version"}, Noise: []kit.Noise{glib}},
			{Name: "export", Args: []string{"--export-type=png", "--export-filename=out.png", "picture.svg"},
				Inputs: map[string]string{"picture.svg": picture}, Outputs: []string{"out.png"}, Noise: []kit.Noise{glib}},
			{Name: "query", Args: []string{"--query-all", "picture.svg"}, Inputs: map[string]string{"picture.svg": picture}, Noise: []kit.Noise{glib}},
		}},
	}
	s := kit.SharedStore(t)
	for _, test := range tests {
		t.Run(test.program, func(t *testing.T) {
			program := kit.Installed(t, test.program)
			for _, c := range test.commands {
				for i, arg := range c.Args {
					if arg == "PROGRAM" {
						c.Args[i] = kit.Fixture(t, "backtrace")
					}
				}
			}
			s.Compare(t, program, test.commands)
		})
	}
}

// TestThroughPATH finds the programs by name, as a shell does: a directory with a link
// to the launcher file comes first there, and argv[0] is the bare name.
func TestThroughPATH(t *testing.T) {
	s := kit.SharedStore(t)
	for _, test := range []struct{ program, script string }{
		{"perl", `perl -MPOSIX -e 'print "$0 ", POSIX::floor(2.5), "\n"'`},
		{"bash", `bash -c 'echo $0 $((1 + 1))'`},
		{"git", `git init -q . && git status --short --branch`},
		{"python3", `python3 -c 'import json, sys; print(json.dumps(sys.argv), sys.prefix)'`},
	} {
		t.Run(test.program, func(t *testing.T) {
			program := kit.Installed(t, test.program)
			s.Do(t, "add", "--even-if-slower", program)
			links := kit.Dir(t)
			if err := os.Symlink(s.Launcher(program), filepath.Join(links, test.program)); err != nil {
				t.Fatal(err)
			}
			shell := kit.Command{Args: []string{"-c", test.script}}
			want := s.Start(t, kit.Plain, kit.Nobody, "/bin/sh", shell)
			shell.Env = []string{"PATH=" + links + ":/usr/bin:/bin"}
			if diff := cmp.Diff(want, s.Start(t, kit.Plain, kit.Nobody, "/bin/sh", shell)); diff != "" {
				t.Errorf("plain (-) and through PATH (+) differ:\n%s", diff)
			}
		})
	}
}
