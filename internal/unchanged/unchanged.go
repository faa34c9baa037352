// Package unchanged stops a package's tests, with one line, when the machine changes
// under them. An image is made of the libraries that the machine has. A package manager
// that replaces one of them, or runs ldconfig(8), makes the image stale, and each test
// would fail for no reason of its own.
//
// The tests cannot be shielded instead. A file mounted over ld.so.cache in a mount
// namespace is unmounted when it is replaced outside by rename (Linux 3.18,
// detach_mounts), and an overlay gives files other device numbers than those that the
// tests are about.
package unchanged

import (
	"errors"
	"fmt"
	"os"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Stopped is how the line begins; scripts/test.d/events looks for it.
const Stopped = "tests stopped: the machine changed under "

// grace is how long tests have after the line to clean up after themselves.
const grace = 20 * time.Second

// Run is m.Run, and then cleanup (nil: nothing), for a TestMain; it returns the exit
// status. When one of Files changes meanwhile, it prints a line that says so, and no
// test prints anything more. The tests that run may then take 20 s to end, and with
// Check they end sooner; the exit status is 1 whatever they find.
func Run(m interface{ Run() int }, cleanup func()) int {
	return run(m, cleanup, Files(), grace)
}

// stopped is closed when the machine has changed.
var stopped = make(chan struct{})

func isStopped() bool {
	select {
	case <-stopped:
		return true
	default:
		return false
	}
}

// Check ends a test of a package that has been stopped.
func Check(t testing.TB) {
	t.Helper()
	if isStopped() {
		t.FailNow()
	}
}

func run(m interface{ Run() int }, cleanup func(), files []string, grace time.Duration) int {
	if cleanup == nil {
		cleanup = func() {}
	}
	cleanup = sync.OnceFunc(cleanup)
	defer cleanup()
	// What changes after the snapshot is an event of the watch, which is older.
	w, err := newWatch(files)
	if err != nil {
		fmt.Fprintf(os.Stderr, "watch the files that tests depend on: %v\n", err)
		if errors.Is(err, unix.EMFILE) {
			fmt.Fprintln(os.Stderr, "hint: raise fs.inotify.max_user_instances")
		}
		return 1
	}
	before := take(files)
	// look reports whether the tests are stopped, which it does when something has changed.
	var mu sync.Mutex
	look := func() bool {
		mu.Lock()
		defer mu.Unlock()
		if isStopped() {
			return true
		}
		change := before.change(take(files))
		if change == "" {
			return false
		}
		silence(fmt.Sprintf("%s%s: %s at %s: start them again\n", Stopped, running(), change, time.Now().Format(time.TimeOnly)))
		close(stopped) // what ends by Check prints nothing
		return true
	}
	go func() {
		for w.wait() {
			if look() {
				time.Sleep(grace)
				cleanup()
				os.Exit(1)
			}
		}
	}()
	code := m.Run()
	mu.Lock() // not while the line is being printed
	over := isStopped()
	mu.Unlock()
	// The tests may have failed before the change was looked at.
	if over || code != 0 && look() {
		return 1
	}
	return code
}

// silence prints the last line of this process.
func silence(line string) {
	null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	if err != nil {
		fmt.Print(line)
		return
	}
	defer null.Close()
	out, err := unix.FcntlInt(1, unix.F_DUPFD_CLOEXEC, 3)
	for fd := 1; fd <= 2 && err == nil; fd++ {
		err = unix.Dup3(int(null.Fd()), fd, 0)
	}
	if err != nil {
		fmt.Print(line)
		return
	}
	_, _ = unix.Write(out, []byte(line))
	_ = unix.Close(out)
}

var testFunction = regexp.MustCompile(`(?m)^\S+\.(Test[^a-z\s(]\w*)\(`)

// running names the tests that are running, by the functions that are being
// executed: TestMain's m has no list of them.
func running() string {
	stacks := make([]byte, 1<<20)
	stacks = stacks[:runtime.Stack(stacks, true)]
	var names []string
	for _, match := range testFunction.FindAllSubmatch(stacks, -1) {
		if name := string(match[1]); name != "TestMain" {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	if names = slices.Compact(names); len(names) == 0 {
		return "the tests"
	}
	return strings.Join(names, ", ")
}
