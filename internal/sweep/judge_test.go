package sweep

import (
	"testing"

	"github.com/residentctl/residentctl/internal/linux"
)

func TestJudge(t *testing.T) {
	out := func(text string) outcome { return outcome{Stdout: text, Status: "exit status 0"} }
	ended := func(status string) outcome { return outcome{Status: status} }
	late := func(text string) outcome { return outcome{Stdout: text, Status: statusTimeout} }
	outs := func(texts ...string) (all []outcome) {
		for _, text := range texts {
			all = append(all, out(text))
		}
		return all
	}
	normally := outcome{Normally: "stale", Status: "exit status 0"}

	tests := []struct {
		name              string
		plains, residents []outcome
		want              kind
		settled, noise    bool
	}{
		{"the same", outs("a\n"), outs("a\n"), equal, true, false},
		{"different once", outs("a\n"), outs("b\n"), equal, false, false},
		{"different to the end", outs("a\n", "a\n", "a\n", "a\n", "a\n"), outs("b\n", "b\n", "b\n", "b\n", "b\n"), different, true, true},
		{"different in one start", outs("a\n", "a\n", "a\n", "a\n", "a\n"), outs("b\n", "a\n", "a\n", "a\n", "a\n"), different, true, true},
		{"a process id", outs("pid 7.\n", "pid 12.\n"), outs("pid 8.\n", "pid 101.\n"), equal, true, true},
		{"a padded size", outs("   7 KB\n", "  12 KB\n"), outs("   9 KB\n", " 101 KB\n"), equal, true, true},
		{"seconds", outs("0.001 s\n", "3.6e-05 s\n"), outs("1.5 s\n", "2 s\n"), equal, true, true},
		{"a time of day", outs("at 10:01:02\n", "at 10:01:03\n"), outs("at 10:59:59\n", "at 11:00:00\n"), equal, true, true},
		{"an address", outs("at 0x7f12ab\n", "at 0x7f34cd\n"), outs("at 0x7fffff\n", "at 0xabc\n"), equal, true, true},
		{"a temporary name", outs("/tmp/x.a1B/f\n", "/tmp/x.Zz9/f\n"), outs("/tmp/x.qqq/f\n", "/tmp/x.w1w/f\n"), equal, true, true},
		{"a UUID", outs("437e-4123-89ab\n", "b37e-4f23-1234\n"), outs("0000-0000-ffff\n", "aaaa-1111-2222\n"), equal, true, true},
		{"a word for a number", outs("pid 7\n", "pid 8\n"), outs("pid nil\n", "pid nil\n"), different, false, true},
		{"another number than the noise", outs("7 of 3\n", "8 of 3\n"), outs("7 of 4\n", "8 of 4\n"), different, false, true},
		{"less than the noise", outs("7 x\n", "8 x\n"), outs("7\n", "8\n"), different, false, true},
		{"more than the noise", outs("7\n", "8\n"), outs("7 x\n", "8 x\n"), different, false, true},
		{"plain starts of several lengths", outs("a\n", "a b\n", "a\n", "a\n", "a\n"), outs("c\n", "c\n", "c\n", "c\n", "c\n"), noisy, true, true},
		{"plain starts that end in several ways", []outcome{ended("exit status 0"), ended("exit status 1")}, outs("", ""), noisy, false, true},
		{"killed", outs("a\n", "a\n"), []outcome{ended("killed by SIGSEGV"), ended("killed by SIGSEGV")}, different, false, true},
		{"both time out", []outcome{ended(statusTimeout)}, []outcome{ended(statusTimeout)}, timeout, true, false},
		{"time out earlier and later", []outcome{late("a\n"), late("a\nb\n")}, []outcome{late("a\nb\nc\n"), late("a\nb")}, timeout, true, true},
		{"time out otherwise", []outcome{late("a\n"), late("a\nb\n")}, []outcome{late("a\nc\n"), late("a\nc\n")}, different, false, true},
		{"time out without a word", []outcome{late("a\n"), late("a\nb\n")}, []outcome{late(""), late("")}, different, false, true},
		{"one times out", []outcome{ended(statusTimeout), ended(statusTimeout)}, outs("", ""), different, false, true},
		{"both flood", []outcome{ended(statusFlood)}, []outcome{ended(statusFlood)}, equal, true, false},
		{"no resident start", outs(""), []outcome{normally}, different, true, false},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			v, settled := judge("/usr/bin/x", nil, test.plains, test.residents)
			if v.Kind != test.want || settled != test.settled || v.Noise != test.noise {
				t.Errorf("%s, settled %v, noise %v; want %s, %v, %v\n%s", v.Kind, settled, v.Noise, test.want, test.settled, test.noise, v.What)
			}
			if (v.Kind == different || v.Kind == noisy) && v.What == "" {
				t.Error("it does not say what differs")
			}
		})
	}
}

// TestMayDiffer: only without arguments, and never in the exit status.
func TestMayDiffer(t *testing.T) {
	plains := []outcome{{Stdout: "a"}, {Stdout: "a"}}
	listed := []outcome{{Stdout: "a image"}, {Stdout: "a image"}}
	killed := []outcome{{Stdout: "a image"}, {Status: "killed by SIGSEGV"}}
	for _, test := range []struct {
		args      []string
		residents []outcome
		want      kind
	}{
		{nil, listed, known},
		{[]string{"--help"}, listed, different},
		{nil, killed, different},
	} {
		if v, _ := judge("/usr/bin/lsof", test.args, plains, test.residents); v.Kind != test.want {
			t.Errorf("%q: %s, want %s", test.args, v.Kind, test.want)
		}
	}
}

func TestReasonOf(t *testing.T) {
	for refusal, want := range map[string]string{
		"/usr/bin/su is setuid": "is setuid",
		"/usr/bin/su: word at 0x7f12 in /usr/lib/libx-1.so: 0x1, in the twin 0x2, and 3 more": "word at N in PATH: N, in the twin N, and N more",
	} {
		if got := reasonOf(refusal, "/usr/bin/su"); got != want {
			t.Errorf("reasonOf(%q) = %q, want %q", refusal, got, want)
		}
	}
}

func TestSlicing(t *testing.T) {
	files := make([]file, 5)
	for i := range files {
		files[i].Inode.Ino = uint64(i)
	}
	seen := map[uint64]int{}
	for _, slice := range []string{"1/2", "2/2"} {
		kept, err := slicing(files, slice)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range kept {
			seen[f.Inode.Ino]++
		}
	}
	for _, f := range files {
		if seen[f.Inode.Ino] != 1 {
			t.Errorf("file %d is in %d of the two slices", f.Inode.Ino, seen[f.Inode.Ino])
		}
	}
	for _, slice := range []string{"", "1", "0/2", "3/2", "a/b", "1/2/3"} {
		if _, err := slicing(files, slice); err == nil {
			t.Errorf("--slice %q was taken", slice)
		}
	}
}

func TestOnly(t *testing.T) {
	files := []file{{Inode: linux.Inode{Ino: 1}, Names: []string{"/usr/bin/a", "/usr/bin/b"}}, {Inode: linux.Inode{Ino: 2}, Names: []string{"/usr/sbin/a"}}}
	kept, err := only(files, []string{"/usr/bin/a", "b"})
	if err != nil || len(kept) != 1 || len(kept[0].Names) != 2 {
		t.Errorf("only gave %v, %v", kept, err)
	}
	if kept, err = only(files, []string{"a"}); err != nil || len(kept) != 2 {
		t.Errorf("only gave %v, %v", kept, err)
	}
	if _, err = only(files, []string{"a", "c"}); err == nil {
		t.Error("a name that does not exist was taken")
	}
}
