package resident

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/residentctl/residentctl/internal/linux"
	"github.com/residentctl/residentctl/internal/owners"
	"github.com/residentctl/residentctl/internal/plural"
	"github.com/residentctl/residentctl/internal/problem"
	"github.com/residentctl/residentctl/pkg/criuwrap"
	"github.com/residentctl/residentctl/pkg/elfinfo"
	"github.com/residentctl/residentctl/pkg/linkstop"
	"github.com/residentctl/residentctl/pkg/store"
)

// kernel tries out what is needed of the kernel, by this user.
func (c *checker) kernel(ctx context.Context) {
	if release, err := linux.Kernel(); err == nil {
		c.ok(AreaKernel, "release", release)
	}
	self, err := os.Executable()
	if err != nil {
		c.fault(AreaKernel, "ptrace", err.Error(), "check that /proc is mounted")
		return
	}
	for _, f := range linkstop.ProbeKernel(ctx, self) {
		switch {
		case f.Err == nil:
			c.ok(AreaKernel, f.Name, f.Detail)
		case f.Optional:
			c.note(AreaKernel, f.Name, f.Err.Error(), f.Without)
		default:
			c.fault(AreaKernel, f.Name, f.Err.Error(), f.Without)
		}
	}
}

// criu looks for CRIU and has it check the kernel itself.
func (c *checker) criu(ctx context.Context) (path string, ok bool) {
	get := criuwrap.Advice
	path, err := criuwrap.Find()
	var v criuwrap.Release
	if err == nil {
		v, err = criuwrap.Version(path)
	}
	if err != nil {
		if _, missing := os.Stat(os.DevNull); missing != nil {
			get = os.DevNull + " is missing: mount /dev, or make it with mknod(1)"
		}
		if refused := (*owners.Refusal)(nil); errors.As(err, &refused) {
			get = problem.HintOf(err)
		}
		c.fault(AreaCRIU, "program", err.Error(), get)
		return "", false
	}
	c.ok(AreaCRIU, "program", fmt.Sprintf("%v (%s)", v, path))
	if _, err := os.Lstat(criuwrap.ConfigFile); err == nil {
		c.note(AreaCRIU, "configuration", criuwrap.ConfigFile+" is there, and CRIU obeys it when residentctl starts it too",
			"remove what a dump should not do, such as action-script")
	}
	if err := criuwrap.MayDump(path); err != nil {
		c.note(AreaCRIU, "for this user", "resident programs start, but nothing can be added: "+err.Error(), problem.HintOf(err))
		return path, false
	}
	if err := criuwrap.Check(ctx, path); err != nil {
		advice := problem.HintOf(err)
		if advice == "" {
			advice = fmt.Sprintf("see what `%s check` says; %s", path, get)
		}
		c.fault(AreaCRIU, "its own check", complaints(err), advice)
		return path, false
	}
	c.ok(AreaCRIU, "its own check", "`criu check` finds nothing missing")
	c.ordinaryUsers(path)
	return path, true
}

// complaints are all that `criu check` had to say, in one line.
func complaints(err error) string {
	var failed *criuwrap.Error
	if errors.As(err, &failed) && len(failed.Lines) > 0 {
		return "criu check: " + strings.Join(failed.Lines, "; ")
	}
	return problem.Text(err)
}

// ordinaryUsers reports whether users other than root can add programs.
func (c *checker) ordinaryUsers(criu string) {
	const what = "for ordinary users"
	if err := criuwrap.AnybodyMayDump(criu); err != nil {
		c.note(AreaCRIU, what, "they can start resident programs, but not add any: "+err.Error(), problem.HintOf(err))
		return
	}
	c.ok(AreaCRIU, what, "they can add to stores of their own")
}

// trialPrograms are small programs, one of which is on every machine.
var trialPrograms = []string{"true", "cat", "ls", "sh"}

// trialProgram is the path of a program that can be made resident.
func trialProgram() (string, error) {
	var failed []error
	for _, name := range trialPrograms {
		path, err := elfinfo.LookPath(name)
		if err != nil {
			failed = append(failed, err)
			continue
		}
		f, err := elfinfo.Open(path)
		if err == nil {
			err = f.CanBeResident()
		}
		if err == nil {
			return path, nil
		}
		failed = append(failed, fmt.Errorf("%s: %w", path, err))
	}
	return "", errors.Join(failed...)
}

// trial makes a small program resident in a store of its own, which shows that
// template, CRIU's dump, the reading of its images, and a start work together.
func (c *checker) trial(ctx context.Context, criu string) {
	program, err := trialProgram()
	if err != nil {
		c.note(AreaTrial, "program", err.Error(), "install one of these programs to try it out with")
		return
	}
	work, err := store.StageTemporary()
	if err != nil {
		c.fault(AreaTrial, "directory", err.Error(), problem.HintOf(err))
		return
	}
	defer func() { _ = work.Discard() }()
	// Other users are to start from it. Nothing in it is a secret.
	if err := os.Chmod(work.Dir, 0o755); err != nil {
		c.fault(AreaTrial, "directory", err.Error(), "")
		return
	}
	m, err := Open(filepath.Join(work.Dir, "residentctl"), true)
	if errors.Is(err, store.ErrNoExec) {
		c.note(AreaTrial, "store", "not tried: programs cannot be executed from "+os.TempDir(), "set TMPDIR to a directory from which they can")
		return
	}
	if err != nil {
		c.fault(AreaTrial, "store", err.Error(), problem.HintOf(err))
		return
	}
	began := time.Now()
	added, err := m.Add(ctx, program, AddOptions{EvenIfSlower: true})
	if err != nil {
		c.fault(AreaTrial, "add "+program, err.Error(), trialAdvice(err))
		return
	}
	c.ok(AreaTrial, "add "+program, fmt.Sprintf("stopped, dumped, compiled and tried in %d ms", time.Since(began).Milliseconds()))
	c.imageFormat(m.store.ImageDir(added.Record.ID))
	c.starts(ctx, m, added.Record.Program, m.Launcher(added.Record))
}

func trialAdvice(err error) string {
	var criu *criuwrap.Error
	switch hint := problem.HintOf(err); {
	case errors.Is(err, errTrial) && hint == trialHint: // which leads here
		return "report it with the output of `residentctl version`: resident starts do not work on this kernel"
	case hint != "":
		return hint
	case errors.As(err, &criu):
		return "see CRIU's log"
	case errors.Is(err, syscall.EPERM), errors.Is(err, syscall.ENOSYS):
		return "find out what forbids it: the kernel, a container or a sandbox"
	}
	return ""
}

// imageFormat reads back what CRIU wrote. From CRIU 4.2 on a pagemap entry has
// its page count in another field, and a reader that does not know it finds an
// image empty.
func (c *checker) imageFormat(dir string) {
	const what = "format of images"
	im, err := criuwrap.Open(dir)
	if err != nil {
		c.fault(AreaTrial, what, err.Error(), otherCRIU)
		return
	}
	var pages uint64
	for _, r := range im.Pages {
		pages += r.Pages
	}
	info, err := os.Stat(im.PagesPath)
	if err != nil {
		c.fault(AreaTrial, what, err.Error(), "")
		return
	}
	if pages == 0 || pages*criuwrap.PageSize != uint64(info.Size()) {
		c.fault(AreaTrial, what, fmt.Sprintf("the page map lists %s, but the file of pages has %s", plural.Count(pages, "page"), plural.Count(info.Size(), "byte")), otherCRIU)
		return
	}
	c.ok(AreaTrial, what, fmt.Sprintf("%s in %s, as many as in the file", plural.Count(pages, "page"), plural.Count(len(im.Pages), "run")))
}

// starts starts the program from its image, as this user and as an ordinary one.
func (c *checker) starts(ctx context.Context, m *Manager, program, launcher string) {
	const nobody = 65534
	const advice = "report it with the output of `residentctl version`; programs are executed normally"
	users := []struct {
		what string
		uid  uint32
	}{{"a start by this user", uint32(os.Geteuid())}}
	if os.Geteuid() == 0 {
		users = append(users, struct {
			what string
			uid  uint32
		}{"a start by an ordinary user", nobody})
	}
	for _, u := range users {
		// A shell and a cat with nothing to read end at once.
		cmd := exec.CommandContext(ctx, launcher)
		cmd.Args[0] = program
		cmd.Env = []string{"RESIDENTCTL_EXPLAIN=1"}
		cmd.Dir = "/"
		cmd.WaitDelay = time.Second
		if u.uid != uint32(os.Geteuid()) {
			cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: u.uid, Gid: u.uid}}
		}
		var said strings.Builder
		cmd.Stderr = &said
		err := cmd.Run()
		line, _, _ := strings.Cut(said.String(), "\n")
		switch {
		case errors.Is(err, fs.ErrPermission) && cmd.Process == nil && cmd.SysProcAttr != nil:
			c.note(AreaTrial, u.what, "not tried: other users cannot enter "+os.TempDir(), "set TMPDIR to a directory that they can enter")
		case err != nil:
			c.fault(AreaTrial, u.what, fmt.Sprintf("%v: %s", err, line), advice)
		case !strings.Contains(line, ": resident start: "):
			c.fault(AreaTrial, u.what, line, advice)
		default:
			c.ok(AreaTrial, u.what, "it started from its image and ended as expected")
		}
	}
}
