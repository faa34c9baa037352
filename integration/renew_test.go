package integration

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/residentctl/residentctl/integration/kit"
)

// noCRIU is an environment in which nothing can be dumped.
var noCRIU = []string{"RESIDENTCTL_CRIU=/nonexistent"}

// without runs a command of residentctl's in an environment with these additions.
func without(t *testing.T, s *kit.Store, env []string, args ...string) (output string, err error) {
	t.Helper()
	c := s.Command(args...)
	c.Env = append(os.Environ(), env...)
	raw, err := c.CombinedOutput()
	return string(raw), err
}

// renewStore has a program of its own resident, and gives the id of its image.
func renewStore(t *testing.T, options ...string) (s *kit.Store, program, id string) {
	t.Helper()
	kit.RequireCRIU(t)
	s = kit.NewStore(t, kit.Dir(t))
	program = filepath.Join(kit.Dir(t), "args")
	kit.CopyFile(t, kit.Fixture(t, "args"), program)
	kit.Chmod(t, program, 0o755)
	s.Do(t, append(append([]string{"add", "--even-if-slower"}, options...), program)...)
	return s, program, strings.TrimSpace(s.Do(t, "list", "-q"))
}

// TestRefreshRenews: where only times of files have changed, starts are normal until a
// refresh, which needs no CRIU and keeps the image.
func TestRefreshRenews(t *testing.T) {
	for name, change := range map[string]func(t *testing.T, program string){
		"hard link": func(t *testing.T, program string) {
			if err := os.Link(program, program+".backup"); err != nil {
				t.Fatal(err)
			}
		},
		"chmod":            func(t *testing.T, program string) { kit.Chmod(t, program, 0o755) },
		"new modification": touch,
		"written again": func(t *testing.T, program string) {
			content, err := os.ReadFile(program)
			if err == nil {
				err = os.WriteFile(program, content, 0)
			}
			if err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			s, program, id := renewStore(t, "--layouts", "2")
			change(t, program)
			s.WantNormalStart(t, kit.Root, program, kit.Command{Args: []string{"one"}})
			if plan := s.Do(t, "gc"); !strings.Contains(plan, "refresh") {
				t.Errorf("gc does not keep it for refresh: %s", plan)
			}
			if output, err := without(t, s, noCRIU, "refresh"); err != nil || !strings.Contains(output, "renewed") {
				t.Fatalf("refresh: %v\n%s", err, output)
			}
			s.WantResident(t, program)
			if now := strings.TrimSpace(s.Do(t, "list", "-q")); now != id {
				t.Errorf("the image is %s, and was %s", now, id)
			}
			wantClean(t, s)
		})
	}
}

// TestRefreshMakesAgain: where more than times has changed, only another image will do.
func TestRefreshMakesAgain(t *testing.T) {
	for name, change := range map[string]func(t *testing.T, program string){
		"content": alter,
		"inode": func(t *testing.T, program string) {
			if err := replaceByCopy(program); err != nil {
				t.Fatal(err)
			}
		},
		"readers": func(t *testing.T, program string) { kit.Chmod(t, program, 0o711) },
	} {
		t.Run(name, func(t *testing.T) {
			s, program, id := renewStore(t)
			change(t, program)
			if output, err := without(t, s, noCRIU, "refresh"); err == nil {
				t.Fatalf("refresh without CRIU: %s", output)
			}
			if name != "inode" { // which has no launcher file
				s.WantNormalStart(t, kit.Root, program, kit.Command{})
			}
			s.Do(t, "refresh")
			s.WantResident(t, program)
			if now := strings.TrimSpace(s.Do(t, "list", "-q")); now == id {
				t.Error("the image is the old one")
			}
			wantClean(t, s)
		})
	}
}

// TestRefreshKeepsOffSetuid: a mode changes nothing but the ctime, and can make a program
// one that only an exec gives its privileges.
func TestRefreshKeepsOffSetuid(t *testing.T) {
	s, program, _ := renewStore(t)
	kit.Chmod(t, program, 0o755|os.ModeSetuid)
	output, err := without(t, s, nil, "refresh")
	if err == nil || !strings.Contains(output, "setuid") {
		t.Errorf("refresh: %v\n%s", err, output)
	}
	s.WantNormalStart(t, kit.Root, program, kit.Command{})
}

// TestRefreshWaitsForWriters: a file that is open for writing may change without a new
// time, so it is not believed.
func TestRefreshWaitsForWriters(t *testing.T) {
	s, program, id := renewStore(t)
	touch(t, program)
	f, err := os.OpenFile(program, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	output, err := without(t, s, noCRIU, "refresh")
	if err == nil || !strings.Contains(output, "open for writing") {
		t.Errorf("refresh: %v\n%s", err, output)
	}
	f.Close()
	s.Do(t, "refresh")
	s.WantResident(t, program)
	if now := strings.TrimSpace(s.Do(t, "list", "-q")); now != id {
		t.Errorf("the image is %s, and was %s", now, id)
	}
}

// TestStartsWhileRenewed: starts that happen while an image is being renewed are normal or
// resident, and right.
func TestStartsWhileRenewed(t *testing.T) {
	s, program, _ := renewStore(t)
	stop := time.Now().Add(2 * time.Second)
	renewals := make(chan error, 1)
	go func() {
		for time.Now().Before(stop) {
			now := time.Now()
			if err := os.Chtimes(program, now, now); err != nil {
				renewals <- err
				return
			}
			if output, err := s.Command("refresh").CombinedOutput(); err != nil && !strings.Contains(string(output), "changed") {
				renewals <- err
				return
			}
		}
		renewals <- nil
	}()
	for time.Now().Before(stop) {
		output, err := exec.Command(s.Launcher(program), "one").CombinedOutput()
		if err != nil || !strings.Contains(string(output), "argc 2") {
			t.Fatalf("a start: %v\n%s", err, output)
		}
	}
	if err := <-renewals; err != nil {
		t.Fatal(err)
	}
}

// TestExecRenews: exec renews what needs new times only, the first time that it sees a store
// and when a file of the system has other times than then. Else it looks at nothing.
func TestExecRenews(t *testing.T) {
	s, program, id := renewStore(t)
	start := func() (stderr string) {
		t.Helper()
		output, err := without(t, s, append(noCRIU, "RESIDENTCTL_EXPLAIN=1", "RESIDENTCTL_FAULT=no-hurry"), "exec", program)
		if err != nil {
			t.Fatalf("%v\n%s", err, output)
		}
		return output
	}
	want := func(what, say string) {
		t.Helper()
		if output := start(); !strings.Contains(output, say) {
			t.Errorf("%s: %s", what, output)
		}
	}
	resident := "resident start: image " + id
	touch(t, program)
	want("at first", resident)
	want("once more", resident)
	touch(t, program)
	want("with the system as it was", "started normally: this has changed")

	note := filepath.Join(s.Dir, "seen")
	raw, err := os.ReadFile(note)
	if err != nil || !strings.Contains(string(raw), `"/etc/ld.so.cache":{`) || !strings.Contains(string(raw), "ld-linux") || !strings.Contains(string(raw), "libc.so.6") {
		t.Fatalf("%v: %s", err, raw)
	}
	info, err := os.Stat(note)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info, err)
	}
	// As after ldconfig: the cache is not the one of the note.
	other := strings.Replace(string(raw), `"/etc/ld.so.cache":{"dev":`, `"/etc/ld.so.cache":{"dev":1`, 1)
	if err := os.WriteFile(note, []byte(other), 0o600); err != nil {
		t.Fatal(err)
	}
	want("after ldconfig", resident)

	// Another program's content is nothing that exec could renew.
	alter(t, program)
	kit.Remove(t, note)
	want("altered", "started normally: this has changed")
}

// TestExecRenewsOnlyItsOwn: a store that the caller must not write to stays as it is.
func TestExecRenewsOnlyItsOwn(t *testing.T) {
	s, program, _ := renewStore(t)
	touch(t, program)
	alice, _ := kit.NewAccounts(t)
	r := alice.Does(t, "exec", "-q", "--store", s.Dir, "--", "/bin/true")
	if r.Code != 0 {
		t.Errorf("%v", r)
	}
	if out := s.Do(t, "list"); !strings.Contains(out, "stale") {
		t.Errorf("it is current: %s", out)
	}
	if _, err := os.Stat(filepath.Join(s.Dir, "seen")); err == nil {
		t.Error("there is a note")
	}
}
