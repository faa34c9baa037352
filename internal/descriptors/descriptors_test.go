package descriptors

import (
	"syscall"
	"testing"
)

func TestFree(t *testing.T) {
	var before syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &before); err != nil {
		t.Fatal(err)
	}
	if got := free(Enough); got != Enough {
		t.Errorf("%d are free with a limit of %d", got, before.Cur)
	}
	few := before
	few.Cur = 5
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &few); err != nil {
		t.Fatal(err)
	}
	got := free(Enough)
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &before); err != nil {
		t.Fatal(err)
	}
	if got > 2 {
		t.Errorf("%d are free with a limit of 5", got)
	}
}

func TestStatus(t *testing.T) {
	for _, tc := range []struct {
		args []string
		want int
	}{
		{nil, exitSystem},
		{[]string{"add", "run"}, exitSystem},
		{[]string{"run", "perl"}, exitRun},
		{[]string{"exec", "--auto", "make"}, exitRun},
		{[]string{"--store", "run", "list"}, exitSystem},
		{[]string{"--store", "/s", "run", "perl"}, exitRun},
		{[]string{"--store=/s", "run", "perl"}, exitRun},
		{[]string{"--store"}, exitSystem},
	} {
		if got := status(tc.args); got != tc.want {
			t.Errorf("%q: %d, want %d", tc.args, got, tc.want)
		}
	}
}
