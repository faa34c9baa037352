package linux

import (
	"os"
	"os/exec"
	"strings"
	"testing"
)

// Every thread of a process in the background is, and so is what any of them starts.
func TestBackground(t *testing.T) {
	if os.Getenv("BACKGROUND_CHILD") == "" {
		cmd := exec.Command("/proc/self/exe", "-test.run=^TestBackground$", "-test.v")
		cmd.Env = append(os.Environ(), "BACKGROUND_CHILD=1")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%v\n%s", err, out)
		}
		return
	}
	if err := Background(); err != nil {
		t.Fatal(err)
	}
	tasks, err := os.ReadDir("/proc/self/task")
	if err != nil || len(tasks) < 2 {
		t.Fatalf("%d threads, %v", len(tasks), err)
	}
	files := []string{"/proc/self/stat"}
	for _, task := range tasks {
		files = append(files, "/proc/self/task/"+task.Name()+"/stat")
	}
	for _, file := range files {
		wantIdle(t, file, func() (string, error) { raw, err := os.ReadFile(file); return string(raw), err })
	}
	wantIdle(t, "a child", func() (string, error) {
		out, err := exec.Command("cat", "/proc/self/stat").Output()
		return string(out), err
	})
	if out, err := exec.Command("ionice").Output(); err == nil && strings.TrimSpace(string(out)) != "idle" {
		t.Errorf("the class of I/O of a child is %s", out)
	}
}

// wantIdle wants SCHED_IDLE in a line of proc_pid_stat(5), field 41.
func wantIdle(t *testing.T, what string, stat func() (string, error)) {
	t.Helper()
	line, err := stat()
	fields := strings.Fields(line[strings.LastIndexByte(line, ')')+1:])
	if err != nil || len(fields) < 39 || fields[38] != "5" {
		t.Errorf("%s: policy in %q, %v", what, line, err)
	}
}
