package integration

import (
	"crypto/tls"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"testing"

	"github.com/residentctl/residentctl/pkg/intercept"
)

// A task is a command line of a program.
type task struct{ command }

// cannotSetExe is why ordinary users cannot set /proc/self/exe, "" where they can. prctl(2),
// PR_SET_MM_MAP: that takes a capability, which is had in a user namespace.
var cannotSetExe = func() string {
	if intercept.MayMakeUserNamespaces() {
		return ""
	}
	return "ordinary users may not make user namespaces"
}()

// TestMorePrograms does real work with compilers, tools and language runtimes,
// plainly and resident.
func TestMorePrograms(t *testing.T) {
	for _, test := range []struct {
		program string
		tasks   func(t *testing.T) []task
	}{
		{"gcc", gccTasks},
		{"g++", gxxTasks},
		{"make", makeTasks},
		{"curl", curlTasks},
		{"openssl", opensslTasks},
		{"sqlite3", sqliteTasks},
		{"node", nodeTasks},
		{"java", javaTasks},
		{"ruby", rubyTasks},
		{"vim", vimTasks},
	} {
		t.Run(test.program, func(t *testing.T) {
			program := installed(t, test.program)
			s := sharedStore(t)
			s.compareTasks(t, program, test.tasks(t))
		})
	}
}

// compareTasks makes the program resident and compares every task in every way
// for every user. These starts take long, so through a shim it is the first only, as
// it is for root under exec and by binfmt_misc, where he needs no user namespace.
func (s *store) compareTasks(t *testing.T, program string, tasks []task) {
	t.Helper()
	s.do(t, "add", "--even-if-slower", program)
	type start struct {
		way, user string
		task      int
	}
	// Plain starts come before all others, as in compare.
	plainly := map[start]outcome{}
	ways := waysTo(t, program, everyWay)
	for _, w := range ways {
		for _, u := range users {
			for i, k := range w.tasks(u, tasks) {
				id := start{w.reference().name, u.name, i}
				if _, there := plainly[id]; !there {
					plainly[id] = s.start(t, w.reference(), u, program, k.command)
				}
			}
		}
	}
	first := tasks[0].command
	for _, w := range append(ways, strictly) {
		t.Run(w.name, func(t *testing.T) {
			w.ready(t, s, program)
			for _, u := range users {
				s.requireResident(t, w, u, program, first)
				for i, k := range w.tasks(u, tasks) {
					t.Run(k.name+", "+u.name, func(t *testing.T) {
						diff := w.diff(u, k.command, plainly[start{w.reference().name, u.name, i}], s.start(t, w, u, program, k.command))
						if diff != "" {
							t.Errorf("plain (-) and %s (+) differ:\n%s", w.name, diff)
						}
					})
				}
			}
		})
	}
}

// tasks are those that a user does by this way.
func (w way) tasks(u user, all []task) []task {
	switch {
	case w.name == strictly.name:
		return nil // as run
	case w.name == byShim.name, w.normal != "", u == root && (w.name == byExec.name || w.name == bySystem.name):
		return all[:1]
	}
	return all
}

// andThen is a shell's prelude: the program first, and then, if it succeeded, the
// script, whose status counts.
func andThen(script string) string {
	return `(exec -a "$0" "$@") || exit; ` + script + "\nexit"
}

// The compilers execute cc1, as, collect2 and ld, which they find from argv[0].
func gccTasks(*testing.T) []task {
	const hello = `
#include <math.h>
#include <stdio.h>
int twice(int);
int main(int argc, char **argv) { printf("%s %d %.3f\n", argv[argc - 1], twice(21), pow(argc, .5)); return 7; }
`
	inputs := map[string]string{"hello.c": hello, "twice.c": "int twice(int n) { return 2 * n; }\n"}
	object := noise{regexp.MustCompile(`/tmp/cc\w{6}\.`), "/tmp/ccXXXXXX."}
	return []task{
		{command: command{name: "version", args: []string{"--version"}}},
		{command: command{name: "compile, link and run", inputs: inputs, outputs: []string{"hello"}, shell: andThen("./hello one"),
			args: []string{"-O2", "-g", "-o", "hello", "hello.c", "twice.c", "-lm"}, noise: []noise{object}}},
		{command: command{name: "optimise while linking", inputs: inputs, shell: andThen("./hello one"),
			args: []string{"-O2", "-flto=2", "-o", "hello", "hello.c", "twice.c", "-lm"}}},
		{command: command{name: "a library", inputs: inputs, outputs: []string{"libtwice.so"}, shell: andThen("nm -D --defined-only libtwice.so"),
			args: []string{"-pipe", "-shared", "-fPIC", "-o", "libtwice.so", "twice.c"}}},
		{command: command{name: "from stdin", stdin: "#define F(x) x + x\nF(1)\n", args: []string{"-E", "-P", "-"}}},
		{command: command{name: "where things are", args: []string{"-print-search-dirs"}}},
		{command: command{name: "errors", inputs: map[string]string{"bad.c": "int f(void) { return x }\n"}, args: []string{"-Wall", "-c", "bad.c"}}},
		{command: command{name: "undefined", inputs: inputs, args: []string{"hello.c"}, noise: []noise{object}}},
		{command: command{name: "no input"}},
	}
}

func gxxTasks(*testing.T) []task {
	const hello = `
#include <cstdio>
#include <stdexcept>
#include <vector>
template <class T> T sum(const std::vector<T> &v) { T n{}; for (auto &x : v) n += x; return n; }
int main() try { std::printf("%.2f\n", sum<double>({1, 2.5})); throw std::runtime_error("thrown"); }
catch (const std::exception &e) { std::puts(e.what()); return 3; }
`
	return []task{
		{command: command{name: "version", args: []string{"--version"}}},
		{command: command{name: "compile, link and run", inputs: map[string]string{"hello.cc": hello}, outputs: []string{"hello"},
			args: []string{"-std=c++17", "-o", "hello", "hello.cc"}, shell: andThen("./hello")}},
		{command: command{name: "errors", inputs: map[string]string{"bad.cc": "template <class T> T f(T); auto x = f<int>();\nint y = f(1, 2);\n"},
			args: []string{"-fsyntax-only", "bad.cc"}}},
	}
}

// make executes shells, itself for sub-folders, and itself again when a makefile
// has been made anew.
func makeTasks(*testing.T) []task {
	const parallel = `
all: c
	@cat c; $(MAKE) --no-print-directory -f Sub inner
a b: ; @echo $@ from $(origin CC) >$@
c: a b ; @cat a b >$@
`
	inputs := map[string]string{
		"Makefile": parallel,
		"Sub":      "include gen.mk\ninner: one two ; @echo $(MADE) level $(MAKELEVEL)\none two: ; @sleep 0.01\ngen.mk: ; @echo MADE = again >$@\n",
	}
	return []task{
		{command: command{name: "version", args: []string{"--version"}}},
		{command: command{name: "parallel", args: []string{"-j2"}, inputs: inputs, outputs: []string{"c", "gen.mk"}}},
		{command: command{name: "dry run", args: []string{"-n", "CC=mycc"}, inputs: inputs}},
		{command: command{name: "compile", args: []string{"-s", "-j2", "run"}, inputs: map[string]string{
			"Makefile": "run: hello ; ./hello\nhello: main.o part.o\nmain.o part.o: part.h\n",
			"main.c":   "#include \"part.h\"\nint main(void) { return part(); }\n",
			"part.c":   "#include <stdio.h>\n#include \"part.h\"\nint part(void) { return puts(\"part\") < 0; }\n",
			"part.h":   "int part(void);\n",
		}, outputs: []string{"hello"}}},
		{command: command{name: "failures", args: []string{"-k"}, inputs: map[string]string{
			"Makefile": "all: a b c\na: ; exit 3\nb: ; kill -TERM $$$$\nc: nowhere\n"}}},
		{command: command{name: "functions", args: []string{"-f", "-"}, stdin: "$(info $(sort c b a) $(shell echo $$PPID | wc -w) $(MAKEFLAGS))\nall:;@echo $(MAKE) $(CURDIR)\n"}},
		{command: command{name: "nothing to do"}},
	}
}

// curlTasks fetch files, and from servers with and without TLS of this process.
func curlTasks(t *testing.T) []task {
	answer := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header()["Date"] = nil
		body, _ := io.ReadAll(r.Body)
		fmt.Fprintf(w, "%s %s %q %d\n", r.Method, r.URL, body, r.ProtoMajor)
	})
	open := httptest.NewServer(answer)
	secret := httptest.NewUnstartedServer(answer)
	secret.EnableHTTP2 = true
	secret.TLS = &tls.Config{MinVersion: tls.VersionTLS12}
	secret.Config.ErrorLog = log.New(io.Discard, "", 0) // one client does not trust it
	secret.StartTLS()
	t.Cleanup(open.Close)
	t.Cleanup(secret.Close)
	certificate := map[string]string{
		"ca.pem": string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: secret.Certificate().Raw})),
	}
	after := noise{regexp.MustCompile(`after \d+ ms`), "after N ms"}
	return []task{
		{command: command{name: "version", args: []string{"--version"}}},
		{command: command{name: "file", args: []string{"-sS", "file:///etc/passwd"}}},
		{command: command{name: "no such file", args: []string{"-sS", "file:///nowhere"}}},
		{command: command{name: "http", args: []string{"-sSi", "-w", "%{http_code} %{size_download}\n", "--data-binary", "@-", open.URL + "/a?b"}, stdin: "posted"}},
		{command: command{name: "https", args: []string{"-sS", "--cacert", "ca.pem", "-o", "out", secret.URL, "-w", "%{ssl_verify_result}"}, inputs: certificate, outputs: []string{"out"}}},
		{command: command{name: "not trusted", args: []string{"-sS", secret.URL}}},
		// Two threads resolve names, and one transfer does not wait for the other.
		{command: command{name: "parallel", args: []string{"-sSZ", "--no-progress-meter", "-o", "one", open.URL + "/1", "-o", "two", "file:///etc/passwd"}, outputs: []string{"one", "two"}}},
		{command: command{name: "no such host", args: []string{"-sS", "http://host.invalid/"}, noise: []noise{after}}},
		{command: command{name: "refused", args: []string{"-sS", "http://127.0.0.1:1/"}, noise: []noise{after}}},
		{command: command{name: "usage", args: []string{"--no-such-option"}}},
	}
}

// opensslTasks use no server; the key is made once, for what must be the same
// twice.
func opensslTasks(t *testing.T) []task {
	key, err := exec.Command(installed(t, "openssl"), "genrsa", "2048").Output()
	if err != nil {
		t.Fatalf("make a key: %v", err)
	}
	inputs := map[string]string{"key.pem": string(key), "text": "some text\n"}
	pemText := noise{regexp.MustCompile(`(?m)^[A-Za-z0-9+/=]+\n`), ""}
	return []task{
		{command: command{name: "version", args: []string{"version", "-a"}}},
		{command: command{name: "digest", args: []string{"dgst", "-sha3-256", "-hmac", "key"}, stdin: "abc"}},
		{command: command{name: "a module", args: []string{"dgst", "-provider", "legacy", "-provider", "default", "-md4", "text"}, inputs: inputs}},
		{command: command{name: "encrypt", args: []string{"enc", "-aes-256-cbc", "-pbkdf2", "-S", "0102030405060708", "-k", "secret", "-in", "text", "-out", "out"}, inputs: inputs, outputs: []string{"out"}}},
		{command: command{name: "decrypt", args: []string{"enc", "-d", "-aes-128-ctr", "-K", "00112233445566778899aabbccddeeff", "-iv", "00"}, stdin: "encrypted"}},
		{command: command{name: "make a key", args: []string{"genrsa", "1024"}, noise: []noise{pemText}}},
		{command: command{name: "make a curve's key", args: []string{"genpkey", "-algorithm", "ed25519"}, noise: []noise{pemText}}},
		{command: command{name: "sign", args: []string{"dgst", "-sha256", "-sign", "key.pem", "-out", "out", "text"}, inputs: inputs, outputs: []string{"out"}}},
		{command: command{name: "examine a key", args: []string{"rsa", "-in", "key.pem", "-check", "-noout", "-text"}, inputs: inputs}},
		{command: command{name: "providers", args: []string{"list", "-providers", "-verbose"}}},
		{command: command{name: "random", args: []string{"rand", "-hex", "8"}, noise: []noise{{regexp.MustCompile(`[0-9a-f]{16}`), "random"}}}},
		{command: command{name: "no such command", args: []string{"nowhere"}}},
	}
}

func sqliteTasks(*testing.T) []task {
	const sql = `
create table t(id integer primary key, name text unique, n real);
with recursive c(i) as (select 1 union all select i + 1 from c where i < 2000)
	insert into t select i, 'name ' || (i * 7919 % 2003), i / 3.0 from c;
create index byn on t(n);
create view v as select count(*) as c, round(sum(n), 3) as s from t;
`
	return []task{
		{command: command{name: "version", args: []string{"--version"}}},
		{command: command{name: "memory", args: []string{":memory:", sql + `select * from v; select sqlite_version(), json_extract('{"a":[1,2]}', '$.a[1]');
			select id, sum(n) over (order by id) from t limit 3; explain query plan select * from t where n = 1;`}}},
		{command: command{name: "a file", args: []string{"-batch", "t.db"}, stdin: sql + "pragma integrity_check; vacuum;\n.schema\n", outputs: []string{"t.db"}}},
		{command: command{name: "full text", args: []string{"-json", ":memory:", `create virtual table f using fts5(x);
			insert into f values ('some words'), ('other words'); select * from f('words NOT some');`}}},
		{command: command{name: "import and shell", args: []string{":memory:"}, inputs: map[string]string{"in.csv": "a,b\n1,\"x, y\"\n"},
			stdin: ".import --csv in.csv t\n.mode column\n.headers on\nselect * from t;\n.shell echo from a shell\n.dump\n"}},
		{command: command{name: "an error", args: []string{":memory:", "select * from nowhere"}}},
		{command: command{name: "not a database", args: []string{"text", "select 1"}, inputs: map[string]string{"text": "this is text and no database at all\n"}}},
	}
}

func nodeTasks(*testing.T) []task {
	const where = `console.log(process.execPath, process.argv[0], process.argv0)`
	return []task{
		{command: command{name: "version", args: []string{"--version"}}},
		{command: command{name: "modules", args: []string{"-e", `
			const crypto = require('crypto'), fs = require('fs'), zlib = require('zlib'), os = require('os');
			console.log(crypto.createHash('sha256').update('abc').digest('hex'), crypto.randomBytes(8).length);
			fs.writeFileSync('out', zlib.gzipSync('x'.repeat(1000)).length + '\n'); console.log(fs.readdirSync('.'));
			console.log(os.EOL.length, process.argv.length, process.title.length > 0, process.cwd(), new Intl.NumberFormat('de').format(1234.5));
			crypto.pbkdf2('a', 'b', 1000, 16, 'sha1', (e, k) => console.log(e, k.toString('hex')));
			process.on('exit', c => console.log('exit', c)); process.exitCode = 4;`}, outputs: []string{"out"}}},
		{command: command{name: "compiled code", args: []string{"-e", `
			let n = 0; for (let i = 0; i < 3e6; i++) n = (n * 31 + i) | 0; console.log(n);
			const w = new WebAssembly.Module(Uint8Array.from([0,97,115,109,1,0,0,0,1,7,1,96,2,127,127,1,127,3,2,1,0,7,7,1,3,97,100,100,0,0,10,9,1,7,0,32,0,32,1,106,11]));
			console.log(new WebAssembly.Instance(w).exports.add(2, 3));`}}},
		{command: command{name: "workers", args: []string{"worker.mjs"}, inputs: map[string]string{"worker.mjs": `
			import { Worker, isMainThread, parentPort, workerData } from 'node:worker_threads';
			import { fileURLToPath } from 'node:url';
			if (isMainThread) { const all = [1, 2].map(n => new Promise(r => new Worker(fileURLToPath(import.meta.url), { workerData: n }).on('message', r)));
				console.log(await Promise.all(all)); } else parentPort.postMessage(workerData * 21);`}}},
		{command: command{name: "processes", args: []string{"-e", `
			const { spawnSync, fork } = require('child_process');
			const r = spawnSync('sh', ['-c', 'cat; echo err >&2; exit 5'], { input: 'in' }); console.log(r.status, String(r.stdout), String(r.stderr));
			console.log(String(spawnSync(process.execPath, ['-p', '6*7']).stdout));
			fork('child.js').on('message', m => console.log(m)).on('exit', c => { console.log(c); process.kill(process.pid, 'SIGTERM'); setTimeout(() => {}, 9e3) });`},
			inputs: map[string]string{"child.js": "process.send({ from: 'child' }, () => process.exit(6));"}}},
		{command: command{name: "from stdin", stdin: "setTimeout(() => console.log('later'), 5); Promise.resolve(1).then(console.log)"}},
		{command: command{name: "exception", args: []string{"-e", "function f() { throw new Error('thrown') }\nf()"}}},
		{command: command{name: "no such file", args: []string{"./nowhere.js"}}},
		{command: command{name: "its own path", args: []string{"-e", where}}},
	}
}

// javaSource and javaWhere are compiled once for javaTasks.
const javaSource = `
import java.nio.file.*; import java.util.*; import java.util.concurrent.*; import java.util.stream.*;
public class Work {
    record Pair(int a, String b) {}
    public static void main(String[] args) throws Exception {
        System.out.println(Arrays.toString(args) + " " + new Pair(1, "x") + " " + IntStream.range(0, 100_000).parallel().mapToLong(i -> i * i).sum());
        ExecutorService pool = Executors.newFixedThreadPool(3);
        for (Future<Integer> f : pool.invokeAll(List.<Callable<Integer>>of(() -> 1, () -> 2))) System.out.println(f.get());
        pool.shutdown();
        System.out.println(HexFormat.of().formatHex(java.security.MessageDigest.getInstance("SHA-256").digest("abc".getBytes())));
        Process p = new ProcessBuilder("sh", "-c", "echo from a shell; exit 4").redirectErrorStream(true).start();
        System.out.print(new String(p.getInputStream().readAllBytes())); System.out.println(p.waitFor());
        Files.writeString(Path.of("out"), String.format("%05.1f%n", 2.25));
        System.out.println(System.getProperty("java.home") + " " + System.getProperty("sun.boot.library.path") + " " + java.net.InetAddress.getByName("127.0.0.1"));
        Runtime.getRuntime().addShutdownHook(new Thread(() -> System.out.println("hook")));
        try { deep(0); } catch (StackOverflowError e) { System.out.println("overflow"); }
        Object o = null;
        try { o.hashCode(); } catch (NullPointerException e) { System.out.println("null"); }
        System.gc();
        System.exit(3);
    }
    static int deep(int n) { return deep(n + 1) + 1; }
}
`

const javaWhere = `
public class Where {
    public static void main(String[] args) { System.out.println(ProcessHandle.current().info().command().get()); }
}
`

// The launcher of a JVM looks for its libraries from /proc/self/exe, and if they
// are not there from its own first library; $ORIGIN of its DT_RUNPATH is the
// dynamic linker's, of when the image was made.
func javaTasks(t *testing.T) []task {
	classes := folder(t)
	inputs := map[string]string{}
	for name, source := range map[string]string{"Work": javaSource, "Where": javaWhere} {
		file := filepath.Join(classes, name+".java")
		if err := os.WriteFile(file, []byte(source), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	compile := exec.Command(installed(t, "javac"), "Work.java", "Where.java")
	compile.Dir = classes
	if output, err := compile.CombinedOutput(); err != nil {
		t.Fatalf("javac: %v\n%s", err, output)
	}
	files, err := filepath.Glob(filepath.Join(classes, "*.class"))
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		class, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		inputs[filepath.Base(file)] = string(class)
	}
	return []task{
		{command: command{name: "version", args: []string{"-version"}}},
		{command: command{name: "a class", args: []string{"-cp", ".", "Work", "one", "two words"}, inputs: inputs, outputs: []string{"out"}}},
		{command: command{name: "another collector", args: []string{"-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xmx64m", "-Xss512k", "Work"}, inputs: inputs, outputs: []string{"out"}}},
		{command: command{name: "no such class", args: []string{"Nowhere"}}},
		{command: command{name: "usage", args: []string{"--no-such-option"}}},
		{command: command{name: "its own path", args: []string{"-Xint", "Where"}, inputs: inputs}},
	}
}

// Without gems ruby starts in a third of the time.
func rubyTasks(*testing.T) []task {
	return []task{
		{command: command{name: "version", args: []string{"-v"}}},
		{command: command{name: "extension modules", args: []string{"-e", `
			require 'json'; require 'digest'; require 'zlib'; require 'socket'; require 'stringio'; require 'rbconfig'; require 'etc'; require 'tempfile'
			puts JSON.generate(JSON.parse('{"a": [1, 2.5, null]}')), Digest::SHA256.hexdigest('abc'), Zlib.crc32('x'), RbConfig.ruby, $0, $PROGRAM_NAME
			a, b = UNIXSocket.pair; a.write 'sent'; a.close; puts b.read, Etc.getpwuid.name, 'ä'.encode('UTF-16LE').bytes.inspect, 2**100
			puts Fiber.new { |x| Fiber.yield x + 1; 0 }.resume(1), ObjectSpace.each_object(Class).count > 100; GC.start; exit 4`}}},
		{command: command{name: "threads", args: []string{"--disable=gems", "-e", `
			q = Queue.new; t = 4.times.map { |i| Thread.new { q << i * i; Thread.current[:v] = i } }; t.each(&:join)
			p q.size.times.map { q.pop }.sort, t.map { |x| x[:v] }; m = Mutex.new; n = 0; 3.times.map { Thread.new { 100.times { m.synchronize { n += 1 } } } }.each(&:join); p n
			def deep(n) = deep(n + 1); begin; deep(0); rescue SystemStackError => e; puts e.message; end
			r = Thread.new { Thread.stop; :woken }; sleep 0.01 until r.stop?; r.run; p r.value`}}},
		{command: command{name: "processes", args: []string{"-e", `
			$stdout.sync = true; trap('USR1') { puts 'signal' }; Process.kill 'USR1', $$; sleep 0.01
			Process.wait fork { puts 'child'; exit! 5 }; p $?.exitstatus, ` + "`echo backticks`" + `; system RbConfig.ruby, '--disable=gems', '-e', 'puts :again'; $0 = 'a new name'
			p File.read("/proc/#{$$}/cmdline").start_with?('a new name'); Process.kill 'TERM', $$; sleep 5`}}},
		{command: command{name: "from stdin", stdin: "puts ARGV.inspect, __FILE__; raise ArgumentError, 'raised'\n"}},
		{command: command{name: "a library", args: []string{"--disable=gems", "-I.", "-rpart", "-W", "-e", "p Part::N; Part.missing"}, inputs: map[string]string{"part.rb": "module Part; N = 6 * 7; end\n"}}},
		{command: command{name: "lines", args: []string{"--disable=gems", "-ne", "print if /b/"}, stdin: "abc\nxyz\nb\n"}},
		{command: command{name: "syntax error", args: []string{"--disable=gems", "-e", "def"}}},
	}
}

func vimTasks(*testing.T) []task {
	batch := func(args ...string) []string {
		return append([]string{"-u", "NONE", "-i", "NONE", "-n", "-N", "-es"}, args...)
	}
	inputs := map[string]string{"text": "one\ntwo\nthree\nfour\n"}
	return []task{
		{command: command{name: "version", args: []string{"--version"}}},
		{command: command{name: "edit", args: batch("-c", "%s/o/0/g", "-c", "sort", "-c", "g/t/m0", "-c", "normal! GofiveX", "-c", "wq", "text"), inputs: inputs, outputs: []string{"text"}}},
		{command: command{name: "from stdin", args: batch("text"), stdin: "2,3d\n$put ='x' . 6 * 7\n%print\nw! out\ncq 3\n", inputs: inputs, outputs: []string{"text", "out"}}},
		{command: command{name: "filters", args: batch("-c", "%!sort -r", "-c", "r !echo from a shell", "-c", "w! out", "-c", "q!", "text"), inputs: inputs, outputs: []string{"out"}}},
		{command: command{name: "a script", args: batch("-S", "work.vim"), outputs: []string{"out", "undo"}, inputs: map[string]string{"work.vim": `
			let d = {'a': [1, 2.5], 'b': map(range(3), 'v:val * v:val')}
			call writefile([string(d), json_encode(d), sha256('abc'), system('echo shell'), strftime('%Y', 0), getcwd(), v:progname], 'out')
			call setline(1, ['ä', repeat('x', 5)])
			write undo
			try | throw 'thrown' | catch | call writefile([v:exception], 'out', 'a') | endtry
			qall!`}}},
		{command: command{name: "a job", args: batch("-c", "let j = job_start(['sh', '-c', 'echo done'], {'out_io': 'file', 'out_name': 'out'})",
			"-c", "while job_status(j) ==# 'run' | sleep 5m | endwhile", "-c", "qall!"), outputs: []string{"out"}}},
		{command: command{name: "highlighting", args: []string{"-u", "NONE", "-i", "NONE", "-n", "-N", "-es", "-c", "syntax on", "-c", "set filetype=c", "-c", "runtime! syntax/2html.vim", "-c", "w! out", "-c", "qall!", "text.c"},
			inputs: map[string]string{"text.c": "int main(void) { return 0; }\n"}, outputs: []string{"out"}}},
		{command: command{name: "an error", args: batch("-c", "no_such_command", "-c", "q", "text"), inputs: inputs}},
		{command: command{name: "its own path", args: batch("-c", "call writefile([v:progpath], 'out')", "-c", "qall!"), outputs: []string{"out"}}},
	}
}
