package conformance

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

	"github.com/residentctl/residentctl/integration/kit"
)

// A task is a command line of a program.
type task struct{ kit.Command }

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
			program := kit.Installed(t, test.program)
			s := kit.SharedStore(t)
			compareTasks(t, s, program, test.tasks(t))
		})
	}
}

// compareTasks is Compare. These starts take long, so through a shim and by CRIU it is the
// first task only, as it is for root under exec and by binfmt_misc, where he needs no user
// namespace.
func compareTasks(t *testing.T, s *kit.Store, program string, tasks []task) {
	t.Helper()
	var commands []kit.Command
	for _, k := range tasks {
		if k.Shell != "" {
			k.Normal = kit.Either // it does something with what the program has made
		}
		commands = append(commands, k.Command)
	}
	s.CompareFirst(t, program, commands, func(w kit.Way, u kit.User) int {
		if w.Name == kit.ByShim.Name || w.Restores || w.Normal != "" || u == kit.Root && (w.Name == kit.ByExec.Name || w.Name == kit.BySystem.Name) {
			return 1
		}
		return len(commands)
	})
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
	object := kit.Noise{Pattern: regexp.MustCompile(`/tmp/cc\w{6}\.`), Replacement: "/tmp/ccXXXXXX."}
	return []task{
		{Command: kit.Command{Name: "version", Args: []string{"--version"}}},
		{Command: kit.Command{Name: "compile, link and run", Inputs: inputs, Outputs: []string{"hello"}, Shell: andThen("./hello one"),
			Args: []string{"-O2", "-g", "-o", "hello", "hello.c", "twice.c", "-lm"}, Noise: []kit.Noise{object}}},
		{Command: kit.Command{Name: "optimise while linking", Inputs: inputs, Shell: andThen("./hello one"),
			Args: []string{"-O2", "-flto=2", "-o", "hello", "hello.c", "twice.c", "-lm"}}},
		{Command: kit.Command{Name: "a library", Inputs: inputs, Outputs: []string{"libtwice.so"}, Shell: andThen("nm -D --defined-only libtwice.so"),
			Args: []string{"-pipe", "-shared", "-fPIC", "-o", "libtwice.so", "twice.c"}}},
		{Command: kit.Command{Name: "from stdin", Stdin: "#define F(x) x + x\nF(1)\n", Args: []string{"-E", "-P", "-"}}},
		{Command: kit.Command{Name: "where things are", Args: []string{"-print-search-dirs"}}},
		{Command: kit.Command{Name: "errors", Inputs: map[string]string{"bad.c": "int f(void) { return x }\n"}, Args: []string{"-Wall", "-c", "bad.c"}}},
		{Command: kit.Command{Name: "undefined", Inputs: inputs, Args: []string{"hello.c"}, Noise: []kit.Noise{object}}},
		{Command: kit.Command{Name: "no input"}},
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
		{Command: kit.Command{Name: "version", Args: []string{"--version"}}},
		{Command: kit.Command{Name: "compile, link and run", Inputs: map[string]string{"hello.cc": hello}, Outputs: []string{"hello"},
			Args: []string{"-std=c++17", "-o", "hello", "hello.cc"}, Shell: andThen("./hello")}},
		{Command: kit.Command{Name: "errors", Inputs: map[string]string{"bad.cc": "template <class T> T f(T); auto x = f<int>();\nint y = f(1, 2);\n"},
			Args: []string{"-fsyntax-only", "bad.cc"}}},
	}
}

// make executes shells, itself for sub-directories, and itself again when a makefile
// has been made again.
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
		{Command: kit.Command{Name: "version", Args: []string{"--version"}}},
		{Command: kit.Command{Name: "parallel", Args: []string{"-j2"}, Inputs: inputs, Outputs: []string{"c", "gen.mk"}}},
		{Command: kit.Command{Name: "dry run", Args: []string{"-n", "CC=mycc"}, Inputs: inputs}},
		{Command: kit.Command{Name: "compile", Args: []string{"-s", "-j2", "run"}, Inputs: map[string]string{
			"Makefile": "run: hello ; ./hello\nhello: main.o part.o\nmain.o part.o: part.h\n",
			"main.c":   "#include \"part.h\"\nint main(void) { return part(); }\n",
			"part.c":   "#include <stdio.h>\n#include \"part.h\"\nint part(void) { return puts(\"part\") < 0; }\n",
			"part.h":   "int part(void);\n",
		}, Outputs: []string{"hello"}}},
		{Command: kit.Command{Name: "failures", Args: []string{"-k"}, Inputs: map[string]string{
			"Makefile": "all: a b c\na: ; exit 3\nb: ; kill -TERM $$$$\nc: nowhere\n"}}},
		{Command: kit.Command{Name: "functions", Args: []string{"-f", "-"}, Stdin: "$(info $(sort c b a) $(shell echo $$PPID | wc -w) $(MAKEFLAGS))\nall:;@echo $(MAKE) $(CURDIR)\n"}},
		{Command: kit.Command{Name: "nothing to do"}},
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
	after := kit.Noise{Pattern: regexp.MustCompile(`after \d+ ms`), Replacement: "after N ms"}
	return []task{
		{Command: kit.Command{Name: "version", Args: []string{"--version"}}},
		{Command: kit.Command{Name: "file", Args: []string{"-sS", "file:///etc/passwd"}}},
		{Command: kit.Command{Name: "no such file", Args: []string{"-sS", "file:///nowhere"}}},
		{Command: kit.Command{Name: "http", Args: []string{"-sSi", "-w", "%{http_code} %{size_download}\n", "--data-binary", "@-", open.URL + "/a?b"}, Stdin: "posted"}},
		{Command: kit.Command{Name: "https", Args: []string{"-sS", "--cacert", "ca.pem", "-o", "out", secret.URL, "-w", "%{ssl_verify_result}"}, Inputs: certificate, Outputs: []string{"out"}}},
		{Command: kit.Command{Name: "not trusted", Args: []string{"-sS", secret.URL}}},
		// Two threads resolve names, and one transfer does not wait for the other.
		{Command: kit.Command{Name: "parallel", Args: []string{"-sSZ", "--no-progress-meter", "-o", "one", open.URL + "/1", "-o", "two", "file:///etc/passwd"}, Outputs: []string{"one", "two"}}},
		{Command: kit.Command{Name: "no such host", Args: []string{"-sS", "http://host.invalid/"}, Noise: []kit.Noise{after}}},
		{Command: kit.Command{Name: "refused", Args: []string{"-sS", "http://127.0.0.1:1/"}, Noise: []kit.Noise{after}}},
		{Command: kit.Command{Name: "usage", Args: []string{"--no-such-option"}}},
	}
}

// opensslTasks use no server; the key is made once, for what must be the same
// twice.
func opensslTasks(t *testing.T) []task {
	key, err := exec.Command(kit.Installed(t, "openssl"), "genrsa", "2048").Output()
	if err != nil {
		t.Fatalf("make a key: %v", err)
	}
	inputs := map[string]string{"key.pem": string(key), "text": "some text\n"}
	pemText := kit.Noise{Pattern: regexp.MustCompile(`(?m)^[A-Za-z0-9+/=]+\n`), Replacement: ""}
	return []task{
		{Command: kit.Command{Name: "version", Args: []string{"version", "-a"}}},
		{Command: kit.Command{Name: "digest", Args: []string{"dgst", "-sha3-256", "-hmac", "key"}, Stdin: "abc"}},
		{Command: kit.Command{Name: "a module", Args: []string{"dgst", "-provider", "legacy", "-provider", "default", "-md4", "text"}, Inputs: inputs}},
		{Command: kit.Command{Name: "encrypt", Args: []string{"enc", "-aes-256-cbc", "-pbkdf2", "-S", "0102030405060708", "-k", "secret", "-in", "text", "-out", "out"}, Inputs: inputs, Outputs: []string{"out"}}},
		{Command: kit.Command{Name: "decrypt", Args: []string{"enc", "-d", "-aes-128-ctr", "-K", "00112233445566778899aabbccddeeff", "-iv", "00"}, Stdin: "encrypted"}},
		{Command: kit.Command{Name: "make a key", Args: []string{"genrsa", "1024"}, Noise: []kit.Noise{pemText}}},
		{Command: kit.Command{Name: "make a curve's key", Args: []string{"genpkey", "-algorithm", "ed25519"}, Noise: []kit.Noise{pemText}}},
		{Command: kit.Command{Name: "sign", Args: []string{"dgst", "-sha256", "-sign", "key.pem", "-out", "out", "text"}, Inputs: inputs, Outputs: []string{"out"}}},
		{Command: kit.Command{Name: "examine a key", Args: []string{"rsa", "-in", "key.pem", "-check", "-noout", "-text"}, Inputs: inputs}},
		{Command: kit.Command{Name: "providers", Args: []string{"list", "-providers", "-verbose"}}},
		{Command: kit.Command{Name: "random", Args: []string{"rand", "-hex", "8"}, Noise: []kit.Noise{{Pattern: regexp.MustCompile(`[0-9a-f]{16}`), Replacement: "random"}}}},
		{Command: kit.Command{Name: "no such command", Args: []string{"nowhere"}}},
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
		{Command: kit.Command{Name: "version", Args: []string{"--version"}}},
		{Command: kit.Command{Name: "memory", Args: []string{":memory:", sql + `select * from v; select sqlite_version(), json_extract('{"a":[1,2]}', '$.a[1]');
			select id, sum(n) over (order by id) from t limit 3; explain query plan select * from t where n = 1;`}}},
		{Command: kit.Command{Name: "a file", Args: []string{"-batch", "t.db"}, Stdin: sql + "pragma integrity_check; vacuum;\n.schema\n", Outputs: []string{"t.db"}}},
		{Command: kit.Command{Name: "full text", Args: []string{"-json", ":memory:", `create virtual table f using fts5(x);
			insert into f values ('some words'), ('other words'); select * from f('words NOT some');`}}},
		{Command: kit.Command{Name: "import and shell", Args: []string{":memory:"}, Inputs: map[string]string{"in.csv": "a,b\n1,\"x, y\"\n"},
			Stdin: ".import --csv in.csv t\n.mode column\n.headers on\nselect * from t;\n.shell echo from a shell\n.dump\n"}},
		{Command: kit.Command{Name: "an error", Args: []string{":memory:", "select * from nowhere"}}},
		{Command: kit.Command{Name: "not a database", Args: []string{"text", "select 1"}, Inputs: map[string]string{"text": "this is text and no database at all\n"}}},
	}
}

func nodeTasks(*testing.T) []task {
	const where = `console.log(process.execPath, process.argv[0], process.argv0)`
	return []task{
		{Command: kit.Command{Name: "version", Args: []string{"--version"}}},
		{Command: kit.Command{Name: "modules", Args: []string{"-e", `
			const crypto = require('crypto'), fs = require('fs'), zlib = require('zlib'), os = require('os');
			console.log(crypto.createHash('sha256').update('abc').digest('hex'), crypto.randomBytes(8).length);
			fs.writeFileSync('out', zlib.gzipSync('x'.repeat(1000)).length + '\n'); console.log(fs.readdirSync('.'));
			console.log(os.EOL.length, process.argv.length, process.title.length > 0, process.cwd(), new Intl.NumberFormat('de').format(1234.5));
			crypto.pbkdf2('a', 'b', 1000, 16, 'sha1', (e, k) => console.log(e, k.toString('hex')));
			process.on('exit', c => console.log('exit', c)); process.exitCode = 4;`}, Outputs: []string{"out"}}},
		{Command: kit.Command{Name: "compiled code", Args: []string{"-e", `
			let n = 0; for (let i = 0; i < 3e6; i++) n = (n * 31 + i) | 0; console.log(n);
			const w = new WebAssembly.Module(Uint8Array.from([0,97,115,109,1,0,0,0,1,7,1,96,2,127,127,1,127,3,2,1,0,7,7,1,3,97,100,100,0,0,10,9,1,7,0,32,0,32,1,106,11]));
			console.log(new WebAssembly.Instance(w).exports.add(2, 3));`}}},
		{Command: kit.Command{Name: "workers", Args: []string{"worker.mjs"}, Inputs: map[string]string{"worker.mjs": `
			import { Worker, isMainThread, parentPort, workerData } from 'node:worker_threads';
			import { fileURLToPath } from 'node:url';
			if (isMainThread) { const all = [1, 2].map(n => new Promise(r => new Worker(fileURLToPath(import.meta.url), { workerData: n }).on('message', r)));
				console.log(await Promise.all(all)); } else parentPort.postMessage(workerData * 21);`}}},
		{Command: kit.Command{Name: "processes", Args: []string{"-e", `
			const { spawnSync, fork } = require('child_process');
			const r = spawnSync('sh', ['-c', 'cat; echo err >&2; exit 5'], { input: 'in' }); console.log(r.status, String(r.stdout), String(r.stderr));
			console.log(String(spawnSync(process.execPath, ['-p', '6*7']).stdout));
			fork('child.js').on('message', m => console.log(m)).on('exit', c => { console.log(c); process.kill(process.pid, 'SIGTERM'); setTimeout(() => {}, 9e3) });`},
			Inputs: map[string]string{"child.js": "process.send({ from: 'child' }, () => process.exit(6));"}}},
		{Command: kit.Command{Name: "from stdin", Stdin: "setTimeout(() => console.log('later'), 5); Promise.resolve(1).then(console.log)"}},
		{Command: kit.Command{Name: "exception", Args: []string{"-e", "function f() { throw new Error('thrown') }\nf()"}}},
		{Command: kit.Command{Name: "no such file", Args: []string{"./nowhere.js"}}},
		{Command: kit.Command{Name: "its own path", Args: []string{"-e", where}}},
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
	classes := kit.Dir(t)
	inputs := map[string]string{}
	for name, source := range map[string]string{"Work": javaSource, "Where": javaWhere} {
		file := filepath.Join(classes, name+".java")
		if err := os.WriteFile(file, []byte(source), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	compile := exec.Command(kit.Installed(t, "javac"), "Work.java", "Where.java")
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
		{Command: kit.Command{Name: "version", Args: []string{"-version"}}},
		{Command: kit.Command{Name: "a class", Args: []string{"-cp", ".", "Work", "one", "two words"}, Inputs: inputs, Outputs: []string{"out"}}},
		{Command: kit.Command{Name: "another collector", Args: []string{"-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xmx64m", "-Xss512k", "Work"}, Inputs: inputs, Outputs: []string{"out"}}},
		{Command: kit.Command{Name: "no such class", Args: []string{"Nowhere"}}},
		{Command: kit.Command{Name: "usage", Args: []string{"--no-such-option"}}},
		{Command: kit.Command{Name: "its own path", Args: []string{"-Xint", "Where"}, Inputs: inputs}},
	}
}

// Without gems ruby starts in a third of the time.
func rubyTasks(*testing.T) []task {
	return []task{
		{Command: kit.Command{Name: "version", Args: []string{"-v"}}},
		{Command: kit.Command{Name: "extension modules", Args: []string{"-e", `
			require 'json'; require 'digest'; require 'zlib'; require 'socket'; require 'stringio'; require 'rbconfig'; require 'etc'; require 'tempfile'
			puts JSON.generate(JSON.parse('{"a": [1, 2.5, null]}')), Digest::SHA256.hexdigest('abc'), Zlib.crc32('x'), RbConfig.ruby, $0, $PROGRAM_NAME
			a, b = UNIXSocket.pair; a.write 'sent'; a.close; puts b.read, Etc.getpwuid.name, 'ä'.encode('UTF-16LE').bytes.inspect, 2**100
			puts Fiber.new { |x| Fiber.yield x + 1; 0 }.resume(1), ObjectSpace.each_object(Class).count > 100; GC.start; exit 4`}}},
		{Command: kit.Command{Name: "threads", Args: []string{"--disable=gems", "-e", `
			q = Queue.new; t = 4.times.map { |i| Thread.new { q << i * i; Thread.current[:v] = i } }; t.each(&:join)
			p q.size.times.map { q.pop }.sort, t.map { |x| x[:v] }; m = Mutex.new; n = 0; 3.times.map { Thread.new { 100.times { m.synchronize { n += 1 } } } }.each(&:join); p n
			def deep(n) = deep(n + 1); begin; deep(0); rescue SystemStackError => e; puts e.message; end
			r = Thread.new { Thread.stop; :woken }; sleep 0.01 until r.stop?; r.run; p r.value`}}},
		{Command: kit.Command{Name: "processes", Args: []string{"-e", `
			$stdout.sync = true; trap('USR1') { puts 'signal' }; Process.kill 'USR1', $$; sleep 0.01
			Process.wait fork { puts 'child'; exit! 5 }; p $?.exitstatus, ` + "`echo backticks`" + `; system RbConfig.ruby, '--disable=gems', '-e', 'puts :again'; $0 = 'a new name'
			p File.read("/proc/#{$$}/cmdline").start_with?('a new name'); Process.kill 'TERM', $$; sleep 5`}}},
		{Command: kit.Command{Name: "from stdin", Stdin: "puts ARGV.inspect, __FILE__; raise ArgumentError, 'raised'\n"}},
		{Command: kit.Command{Name: "a library", Args: []string{"--disable=gems", "-I.", "-rpart", "-W", "-e", "p Part::N; Part.missing"}, Inputs: map[string]string{"part.rb": "module Part; N = 6 * 7; end\n"}}},
		{Command: kit.Command{Name: "lines", Args: []string{"--disable=gems", "-ne", "print if /b/"}, Stdin: "abc\nxyz\nb\n"}},
		{Command: kit.Command{Name: "syntax error", Args: []string{"--disable=gems", "-e", "def"}}},
	}
}

func vimTasks(*testing.T) []task {
	batch := func(args ...string) []string {
		return append([]string{"-u", "NONE", "-i", "NONE", "-n", "-N", "-es"}, args...)
	}
	inputs := map[string]string{"text": "one\ntwo\nthree\nfour\n"}
	return []task{
		{Command: kit.Command{Name: "version", Args: []string{"--version"}}},
		{Command: kit.Command{Name: "edit", Args: batch("-c", "%s/o/0/g", "-c", "sort", "-c", "g/t/m0", "-c", "normal! GofiveX", "-c", "wq", "text"), Inputs: inputs, Outputs: []string{"text"}}},
		{Command: kit.Command{Name: "from stdin", Args: batch("text"), Stdin: "2,3d\n$put ='x' . 6 * 7\n%print\nw! out\ncq 3\n", Inputs: inputs, Outputs: []string{"text", "out"}}},
		{Command: kit.Command{Name: "filters", Args: batch("-c", "%!sort -r", "-c", "r !echo from a shell", "-c", "w! out", "-c", "q!", "text"), Inputs: inputs, Outputs: []string{"out"}}},
		{Command: kit.Command{Name: "a script", Args: batch("-S", "work.vim"), Outputs: []string{"out", "undo"}, Inputs: map[string]string{"work.vim": `
			let d = {'a': [1, 2.5], 'b': map(range(3), 'v:val * v:val')}
			call writefile([string(d), json_encode(d), sha256('abc'), system('echo shell'), strftime('%Y', 0), getcwd(), v:progname], 'out')
			call setline(1, ['ä', repeat('x', 5)])
			write undo
			try | throw 'thrown' | catch | call writefile([v:exception], 'out', 'a') | endtry
			qall!`}}},
		{Command: kit.Command{Name: "a job", Args: batch("-c", "let j = job_start(['sh', '-c', 'echo done'], {'out_io': 'file', 'out_name': 'out'})",
			"-c", "while job_status(j) ==# 'run' | sleep 5m | endwhile", "-c", "qall!"), Outputs: []string{"out"}}},
		{Command: kit.Command{Name: "highlighting", Args: []string{"-u", "NONE", "-i", "NONE", "-n", "-N", "-es", "-c", "syntax on", "-c", "set filetype=c", "-c", "runtime! syntax/2html.vim", "-c", "w! out", "-c", "qall!", "text.c"},
			Inputs: map[string]string{"text.c": "int main(void) { return 0; }\n"}, Outputs: []string{"out"}}},
		{Command: kit.Command{Name: "an error", Args: batch("-c", "no_such_command", "-c", "q", "text"), Inputs: inputs}},
		{Command: kit.Command{Name: "its own path", Args: batch("-c", "call writefile([v:progpath], 'out')", "-c", "qall!"), Outputs: []string{"out"}}},
	}
}
