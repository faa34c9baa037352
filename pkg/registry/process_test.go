package registry

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"
)

// Other processes are this test binary again: helperEnv says what it does, to
// the registry that helperPath names.
const (
	helperEnv  = "REGISTRY_TEST_HELPER"
	helperPath = "REGISTRY_TEST_PATH"
)

func TestMain(m *testing.M) {
	switch path := os.Getenv(helperPath); os.Getenv(helperEnv) {
	case "":
		os.Exit(m.Run())
	case "put":
		helperPut(path)
	case "read":
		helperRead(path)
	}
}

// helperPut changes the registry until it is killed.
func helperPut(path string) {
	r, err := Open(path, Options{})
	exitOn(err)
	for n := 0; ; n++ {
		ino := uint64(1 + n%50)
		_, err := r.Put(record(n+os.Getpid()*1000000, fmt.Sprintf("/bin/p%d", ino), ino, manyLibraries(n%60)...))
		exitOn(err)
		if n == 5 {
			fmt.Println("going")
		}
	}
}

// helperRead reads until its standard input is closed.
func helperRead(path string) {
	done := make(chan bool)
	go func() { bufio.NewReader(os.Stdin).ReadByte(); close(done) }()
	r, err := Open(path, Options{ReadOnly: true})
	exitOn(err)
	for n := 0; ; n++ {
		select {
		case <-done:
			return
		default:
		}
		all, err := r.List()
		exitOn(err)
		if len(all) == 0 {
			exitOn(errors.New("empty"))
		}
		if n == 0 {
			fmt.Println("going")
		}
	}
}

func exitOn(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func manyLibraries(n int) (libs []string) {
	for i := range n {
		libs = append(libs, fmt.Sprintf("/usr/lib/x86_64-linux-gnu/lib%d.so.1", i))
	}
	return libs
}

func helper(t *testing.T, what, path string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), helperEnv+"="+what, helperPath+"="+path)
	cmd.Stderr = os.Stderr
	return cmd
}

// startHelper starts one and waits until it is at work.
func startHelper(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil {
		t.Fatalf("helper said %q, %v", line, err)
	}
}

func TestKilledWriter(t *testing.T) {
	if testing.Short() {
		t.Skip("takes long")
	}
	path := filepath.Join(t.TempDir(), "registry.db")
	for round := range 20 {
		cmd := helper(t, "put", path)
		startHelper(t, cmd)
		time.Sleep(time.Duration(round) * 700 * time.Microsecond)
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = cmd.Wait() // killed, as wanted
		r, err := Open(path, Options{})
		if err != nil {
			t.Fatal(err)
		}
		mustBeSound(t, r)
		mustPut(t, r, record(round, "/bin/after", 1000))
	}
}

func TestManyReadersOneWriter(t *testing.T) {
	if testing.Short() {
		t.Skip("takes long")
	}
	r := newRegistry(t)
	mustPut(t, r, record(0, "/bin/first", 1000))

	var processes []*exec.Cmd
	for range 4 {
		cmd := helper(t, "read", r.Path())
		in, err := cmd.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		defer in.Close()
		startHelper(t, cmd)
		processes = append(processes, cmd)
		t.Cleanup(func() { _ = cmd.Process.Kill() })
		defer func() {
			in.Close()
			if err := cmd.Wait(); err != nil {
				t.Errorf("reader: %v", err)
			}
		}()
	}

	stop := make(chan bool)
	var group sync.WaitGroup
	defer group.Wait()
	defer close(stop)
	for range 4 {
		group.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if _, err := r.ByPath("/bin/first"); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	start := time.Now()
	for n := range 60 {
		mustPut(t, r, record(n+1, fmt.Sprintf("/bin/p%d", n%7), uint64(1+n%7), manyLibraries(n)...))
	}
	t.Logf("60 puts beside %d reading processes and 4 goroutines: %v", len(processes), time.Since(start))
}

// Two processes that find no registry both end up with the same one.
func TestCreatedAtOnce(t *testing.T) {
	for range 10 {
		path := filepath.Join(t.TempDir(), "registry.db")
		var group sync.WaitGroup
		for i := range 4 {
			group.Go(func() {
				r, err := Open(path, Options{})
				if err != nil {
					t.Error(err)
					return
				}
				if _, err := r.Put(record(i, fmt.Sprintf("/bin/p%d", i), uint64(i+1))); err != nil {
					t.Error(err)
				}
			})
		}
		group.Wait()
		r, err := Open(path, Options{})
		if err != nil {
			t.Fatal(err)
		}
		if all, err := r.List(); len(all) != 4 || err != nil {
			t.Errorf("%d entries, %v", len(all), err)
		}
	}
}
