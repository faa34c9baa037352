package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

var (
	directories = []string{"plain", "with a space", "ü/deep/deeper", strings.Repeat("long", 50)}
	umasks      = []int{0o022, 0o027, 0o077, 0}
	children    = []string{"", "cat", "sh", "fork", "pipeline", "cat", "sh", "python"}
	ends        = []string{"0", "0", "0", "1", "7", "raise", "kill"}
	words       = []string{"", "a", "-x", "--help", "two words", "line\nline", "ünïcödé", "\xff\xfe", "*", "$HOME", "'\""}
)

// timeLimit is how long a start may take, on a busy machine and with others at once.
const timeLimit = 2 * time.Minute

// A start is one, and what is chosen for it.
type start struct {
	words       []string
	stdin       []byte
	directory   string
	name        string // of the directory
	umask       int
	child       string
	end         string
	environment string
	extra       int // descriptors beside the first three
	create      string
}

func newStart(random *rand.Rand, dir string) *start {
	name := directories[random.IntN(len(directories))]
	s := &start{
		name: name, directory: filepath.Join(dir, name), umask: umasks[random.IntN(len(umasks))],
		child: children[random.IntN(len(children))], end: ends[random.IntN(len(ends))],
		environment: strconv.FormatUint(random.Uint64(), 36), extra: random.IntN(4),
		create: "new-" + strconv.FormatUint(random.Uint64(), 36),
	}
	for range random.IntN(6) {
		s.words = append(s.words, words[random.IntN(len(words))])
	}
	if random.IntN(20) == 0 {
		s.words = append(s.words, strings.Repeat("x", 100_000))
	}
	if random.IntN(3) > 0 { // else it is empty
		s.stdin = make([]byte, random.IntN(200_000)) // more than a pipe holds
		for i := range s.stdin {
			s.stdin[i] = byte(random.Uint32())
		}
	}
	return s
}

// arguments are what the script is given.
func (s *start) arguments() []string {
	args := []string{"--create", s.create, "--end", s.end, "--descriptors", strconv.Itoa(s.extra), "--child=" + s.child, "--"}
	return append(args, s.words...)
}

// A result is how a start has ended.
type result struct {
	pid            int
	err            error // it could not be made
	status         syscall.WaitStatus
	stdout, stderr string
	saw            seen
}

// seen is what the script reports.
type seen struct {
	Argv        []string
	PID         int
	Parent      int
	Directory   string
	Name        string
	Mode        int
	Stdin       string
	Environment string
	Extra       []string
	Descriptors int
	Child       string
	Unique      []string
	Warm        bool
}

// setUmask is held from setting this process's umask to the exec of what inherits it.
var setUmask sync.Mutex

// make starts the file and waits for its end. It calls wait before it gives input.
func (s *start) make(ctx context.Context, file string, wait func()) *result {
	r := &result{}
	ctx, cancel := context.WithTimeout(ctx, timeLimit)
	defer cancel()
	cmd := exec.CommandContext(ctx, file, s.arguments()...)
	cmd.Dir = s.directory
	cmd.Env = append(os.Environ(), "SOAK="+s.environment, "PWD="+s.directory)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	var input io.WriteCloser
	var extra []*os.File
	if input, r.err = cmd.StdinPipe(); r.err == nil {
		if extra, r.err = s.extraFiles(); r.err == nil {
			cmd.ExtraFiles = extra
			r.err = s.execute(cmd)
		}
	}
	for _, f := range extra {
		f.Close()
	}
	wait()
	if r.err != nil {
		return r
	}
	r.pid = cmd.Process.Pid
	_, _ = input.Write(s.stdin) // what it has not read is wrong by its digest
	input.Close()
	_ = cmd.Wait() // the status says it
	if cmd.ProcessState != nil {
		r.status = cmd.ProcessState.Sys().(syscall.WaitStatus)
	}
	r.stdout, r.stderr = stdout.String(), stderr.String()
	first, rest, _ := strings.Cut(r.stdout, "\n")
	if r.err = json.Unmarshal([]byte(first), &r.saw); r.err == nil {
		r.stdout = rest
	}
	_ = os.Remove(filepath.Join(s.directory, s.create))
	return r
}

func (s *start) execute(cmd *exec.Cmd) error {
	setUmask.Lock()
	defer setUmask.Unlock()
	before := syscall.Umask(s.umask)
	defer syscall.Umask(before)
	return cmd.Start()
}

// extraFiles are pipes that hold a number each.
func (s *start) extraFiles() (files []*os.File, err error) {
	for i := range s.extra {
		r, w, err := os.Pipe()
		if err != nil {
			return files, err
		}
		files = append(files, r)
		_, err = fmt.Fprint(w, i)
		w.Close()
		if err != nil {
			return files, err
		}
	}
	return files, nil
}

// compare returns in what a result is not what it must be.
func (s *start) compare(r *result) (wrong []string) {
	if r.err != nil {
		return []string{fmt.Sprintf("%v; its standard error: %s", r.err, r.stderr)}
	}
	check := func(what string, got, want any) {
		if g, w := fmt.Sprint(got), fmt.Sprint(want); g != w {
			wrong = append(wrong, fmt.Sprintf("%s: got %.200s, want %.200s", what, g, w))
		}
	}
	saw, digest := r.saw, hashed(s.stdin)
	argv := []string{}
	for _, word := range s.words {
		argv = append(argv, hex.EncodeToString([]byte(word)))
	}
	check("arguments", saw.Argv, argv)
	check("process id", saw.PID, r.pid)
	check("parent", saw.Parent, os.Getpid())
	check("directory", saw.Directory, s.directory)
	check("file in it", saw.Name, s.name)
	check("mode", strconv.FormatInt(int64(saw.Mode), 8), strconv.FormatInt(0o666&^int64(s.umask), 8))
	check("input", saw.Stdin, digest)
	check("environment", saw.Environment, s.environment)
	check("descriptors' contents", saw.Extra, slices.Collect(numbers(s.extra)))
	check("number of descriptors", saw.Descriptors, 3+s.extra)
	check("child", saw.Child, s.childSays(r.pid, digest))
	out, status, complaint := s.ends()
	check("rest of the output", strconv.Quote(r.stdout), strconv.Quote(out))
	check("status", r.status, status)
	if complaint == "" || !strings.HasSuffix(r.stderr, complaint) {
		check("standard error", strconv.Quote(r.stderr), strconv.Quote(complaint))
	}
	return wrong
}

// ends is what the end of the script must bring: output, status and the last line on standard
// error.
func (s *start) ends() (out string, status syscall.WaitStatus, complaint string) {
	switch s.end {
	case "raise":
		return "", 1 << 8, "RuntimeError: soak\n"
	case "kill":
		return "", syscall.WaitStatus(syscall.SIGKILL), ""
	}
	n, _ := strconv.Atoi(s.end)
	return "the end\n", syscall.WaitStatus(n << 8), ""
}

// childSays is what the script's child must say.
func (s *start) childSays(pid int, digest string) string {
	switch s.child {
	case "cat":
		return digest
	case "sh":
		return fmt.Sprintf("%d %s %04o", pid, s.directory, s.umask)
	case "python":
		return fmt.Sprintf("%d %s word", pid, s.directory)
	case "pipeline":
		return "0 ['a', 'b', 'c']"
	case "fork":
		return fmt.Sprintf("%d 5", pid)
	}
	return ""
}

func numbers(n int) func(yield func(string) bool) {
	return func(yield func(string) bool) {
		for i := range n {
			if !yield(strconv.Itoa(i)) {
				return
			}
		}
	}
}

func hashed(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}
