package fingerprint

import (
	"errors"
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/residentctl/residentctl/pkg/elfinfo"
)

func TestFromProbes(t *testing.T) {
	for _, tc := range []struct {
		name   string
		set    func(tr tree) (probes []Probe, mapped []string)
		libs   []string
		checks []string // those that must not exist begin with "!"
		// directory and its misses
		directories map[string][]string
	}{
		{name: "nothing", set: func(tree) ([]Probe, []string) { return nil, nil }},
		{name: "libraries keep their order", set: func(tr tree) ([]Probe, []string) {
			return tr.probes("lib/libb.so", "lib/liba.so"), tr.paths("lib/liba.so", "lib/libb.so")
		}, libs: []string{"lib/libb.so", "lib/liba.so"}},
		{name: "linked library keeps the opened string", set: func(tr tree) ([]Probe, []string) {
			tr.link("liba.so", "lib/liba.so.1")
			return tr.probes("lib/liba.so.1"), tr.paths("lib/liba.so")
		}, libs: []string{"lib/liba.so.1"}},
		{name: "second string is a check", set: func(tr tree) ([]Probe, []string) {
			tr.link("liba.so", "lib/liba.so.1")
			return tr.probes("lib/liba.so.1", "lib/liba.so", "lib/liba.so.1"), tr.paths("lib/liba.so")
		}, libs: []string{"lib/liba.so.1"}, checks: []string{"lib/liba.so"}},
		{name: "not mapped", set: func(tr tree) ([]Probe, []string) {
			return tr.probes("etc/cache", "etc/cache"), nil
		}, checks: []string{"etc/cache"}},
		{name: "the linker opened again", set: func(tr tree) ([]Probe, []string) {
			tr.link("ld.so", "lib/ld.so.2")
			return tr.probes("lib/ld.so", "lib/ld.so.2"), nil
		}, checks: []string{"lib/ld.so.2"}},
		{name: "existing directory is no dependency", set: func(tr tree) ([]Probe, []string) {
			return []Probe{tr.look("newfstatat", "lib")}, nil
		}},
		{name: "kernel interfaces", set: func(tr tree) ([]Probe, []string) {
			return []Probe{{Call: "openat", Path: "/proc/self/status"}, {Call: "readlink", Path: "/proc/self/exe"},
				{Call: "openat", Path: "/sys/none", Errno: syscall.ENOENT}, {Call: "openat", Path: "/dev"}, {Call: "newfstatat"}}, nil
		}},
		{name: "one miss is a check", set: func(tr tree) ([]Probe, []string) {
			return tr.probes("etc/preload", "etc/preload"), nil
		}, checks: []string{"!etc/preload"}},
		{name: "misses go to the nearest directory", set: func(tr tree) ([]Probe, []string) {
			return tr.probes("empty/liba.so", "empty/v3/liba.so", "empty/v3/x/liba.so"), nil
		}, directories: map[string][]string{"empty": {"empty/liba.so", "empty/v3/liba.so", "empty/v3/x/liba.so"}}},
		{name: "misses beyond a file", set: func(tr tree) ([]Probe, []string) {
			return tr.probes("lib/liba.so/x", "lib/liba.so/y"), nil
		}, directories: map[string][]string{"lib": {"lib/liba.so/x", "lib/liba.so/y"}}},
		{name: "misses beyond a link to a directory", set: func(tr tree) ([]Probe, []string) {
			tr.link("empty", "current")
			return tr.probes("current/x", "current/y"), nil
		}, directories: map[string][]string{"current": {"current/x", "current/y"}}},
		{name: "misses beyond a dangling link", set: func(tr tree) ([]Probe, []string) {
			tr.link("empty/none/v1", "current")
			return tr.probes("current/x", "current/y"), nil
		}, directories: map[string][]string{"": {"current/x", "current/y"}, "empty": {"current/x", "current/y"}}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			tr := newTree(t)
			probes, mapped := tc.set(tr)
			d, err := tr.sort(probes, mapped...)
			if err != nil {
				t.Fatal(err)
			}
			var libs, checks []string
			rel := func(path string) string { return strings.TrimPrefix(strings.TrimPrefix(path, tr.top), "/") }
			for _, f := range d.Libraries {
				libs = append(libs, rel(f.Path))
				if f.ID != tr.id(rel(f.Path)) {
					t.Errorf("%s: identity %+v", f.Path, f.ID)
				}
			}
			for _, c := range d.Checks {
				if c.absent() {
					checks = append(checks, "!"+rel(c.Path))
				} else {
					checks = append(checks, rel(c.Path))
				}
			}
			var directories map[string][]string
			for _, f := range d.Directories {
				if directories == nil {
					directories = map[string][]string{}
				}
				for _, miss := range f.Misses {
					directories[rel(f.Path)] = append(directories[rel(f.Path)], rel(miss))
				}
			}
			for _, diff := range []string{cmp.Diff(tc.libs, libs), cmp.Diff(tc.checks, checks), cmp.Diff(tc.directories, directories)} {
				if diff != "" {
					t.Error(diff)
				}
			}
			if stale := d.Stale(); len(stale) > 0 && !strings.HasPrefix(stale[0], "the kernel") {
				t.Errorf("stale at once: %v", stale)
			}
		})
	}
}

func TestFromProbesRefuses(t *testing.T) {
	isUncheckable := func(err error) bool {
		var refusal *elfinfo.Refusal
		return errors.As(err, &refusal) && refusal.Kind == elfinfo.Uncheckable && refusal.Hint != ""
	}
	for _, tc := range []struct {
		name string
		set  func(tr tree) (probes []Probe, mapped []string)
		want func(err error) bool
	}{
		{"relative path", func(tree) ([]Probe, []string) {
			return []Probe{{Call: "openat", Path: "lib/liba.so", Errno: syscall.ENOENT}}, nil
		}, isRefusal},
		{"link read", func(tr tree) ([]Probe, []string) {
			tr.link("liba.so", "lib/l")
			return []Probe{tr.look("readlinkat", "lib/l")}, nil
		}, isUncheckable},
		{"hit that is gone", func(tr tree) ([]Probe, []string) {
			return []Probe{{Call: "openat", Path: tr.path("lib/none.so")}}, nil
		}, isChanged},
		{"miss that exists", func(tr tree) ([]Probe, []string) {
			return []Probe{{Call: "openat", Path: tr.path("lib/liba.so"), Errno: syscall.ENOENT}}, nil
		}, isChanged},
		{"miss and then hit", func(tr tree) ([]Probe, []string) {
			return []Probe{{Call: "openat", Path: tr.path("etc/cache"), Errno: syscall.ENOENT}, tr.look("openat", "etc/cache")}, nil
		}, isChanged},
		{"hit and then miss", func(tr tree) ([]Probe, []string) {
			return []Probe{tr.look("openat", "etc/cache"), {Call: "openat", Path: tr.path("etc/cache"), Errno: syscall.ENOENT}}, nil
		}, isChanged},
		{"mapped file replaced", func(tr tree) ([]Probe, []string) {
			return nil, []string{tr.path("lib/liba.so") + " (deleted)"}
		}, isChanged},
		{"mapped without being opened", func(tr tree) ([]Probe, []string) {
			return nil, tr.paths("lib/liba.so")
		}, isUncheckable},
		{"strange error", func(tr tree) ([]Probe, []string) {
			return []Probe{{Call: "openat", Path: tr.path("lib/liba.so"), Errno: syscall.EMFILE}}, nil
		}, func(err error) bool { return errors.Is(err, syscall.EMFILE) }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			tr := newTree(t)
			probes, mapped := tc.set(tr)
			if d, err := tr.sort(probes, mapped...); err == nil || !tc.want(err) {
				t.Errorf("FromProbes = %+v, %v", d, err)
			}
		})
	}
}

func isRefusal(err error) bool {
	var r *elfinfo.Refusal
	return errors.As(err, &r) && r.Kind == elfinfo.SearchesHere
}

func isChanged(err error) bool { return errors.Is(err, ErrChanged) }

// What exists but cannot be opened is a check: a new mode shows in its ctime.
func TestFromProbesOfUnreadableFile(t *testing.T) {
	tr := newTree(t)
	d, err := tr.sort([]Probe{{Call: "openat", Path: tr.path("lib/liba.so"), Errno: syscall.EACCES}})
	if err != nil || len(d.Checks) != 1 || d.Checks[0].ID != tr.id("lib/liba.so") {
		t.Fatalf("%+v, %v", d, err)
	}
	if err := os.Chmod(tr.path("lib/liba.so"), 0o700); err != nil {
		t.Fatal(err)
	}
	if staleCheck(d.Checks[0], nil) == "" {
		t.Error("a new mode is not noticed")
	}
}
