package criuwrap

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/residentctl/residentctl/internal/problem"
)

// requireCRIU skips a test where CRIU cannot work, and fails it where it should:
// RESIDENTCTL_TEST_REQUIRE lists what the machine is known to have.
func requireCRIU(t *testing.T) string {
	t.Helper()
	if testing.Short() {
		t.Skip("takes long")
	}
	path, err := Find()
	if err == nil && os.Geteuid() != 0 {
		err = errors.New("not root")
	}
	if err == nil {
		return path
	}
	if strings.Contains(os.Getenv("RESIDENTCTL_TEST_REQUIRE"), "criu") {
		t.Fatalf("RESIDENTCTL_TEST_REQUIRE has criu, and it cannot be used: %v", err)
	}
	t.Skipf("needs CRIU: %v", err)
	return ""
}

// startStopped starts a program as Dump wants it and stops it when it waits.
func startStopped(t *testing.T, name string, args ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Env = []string{"LC_ALL=C"}
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	waitState(t, cmd.Process.Pid, "ST")
	cmd.Process.Signal(syscall.SIGSTOP)
	waitState(t, cmd.Process.Pid, "T")
	return cmd
}

// waitState waits until a process, past its exec, is in one of the states of
// proc(5) "stat" for a moment.
func waitState(t *testing.T, pid int, states string) {
	t.Helper()
	for range 1000 {
		time.Sleep(5 * time.Millisecond)
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			t.Fatal(err)
		}
		_, rest, _ := strings.Cut(string(stat), ") ")
		if rest != "" && strings.Contains(states, rest[:1]) {
			return
		}
	}
	t.Fatalf("process %d does not come to state %s", pid, states)
}

func dumpOf(t *testing.T, pid int) string {
	t.Helper()
	images := t.TempDir()
	if err := Dump(t.Context(), DumpOptions{PID: pid, ImagesDir: images, WorkDir: t.TempDir()}); err != nil {
		t.Fatalf("%+v", err)
	}
	return images
}

func TestDumpHoldsTheProcess(t *testing.T) {
	requireCRIU(t)
	cmd := startStopped(t, "/bin/sleep", "1000")
	before := snapshot(t, cmd.Process.Pid)
	images := dumpOf(t, cmd.Process.Pid)

	cmd.Wait()
	if status := cmd.ProcessState.Sys().(syscall.WaitStatus); status.Signal() != syscall.SIGKILL {
		t.Errorf("the dumped process ended with %v, not by SIGKILL", status)
	}
	im, err := Open(images)
	if err != nil {
		t.Fatal(err)
	}
	before.compare(t, im)
}

// processSnapshot is what /proc told about a process.
type processSnapshot struct {
	pid  int
	exe  string
	sp   uint64
	auxv []byte
	maps []mapping
}

type mapping struct {
	start, end uint64
	name       string
	content    []byte // nil where it cannot be read
}

func snapshot(t *testing.T, pid int) *processSnapshot {
	t.Helper()
	read := func(name string) []byte {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", pid, name))
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	s := &processSnapshot{pid: pid, auxv: read("auxv")}
	s.exe, _ = os.Readlink(fmt.Sprintf("/proc/%d/exe", pid))
	call := strings.Fields(string(read("syscall"))) // proc(5): ..., sp, pc
	s.sp, _ = strconv.ParseUint(call[len(call)-2], 0, 64)

	mem, err := os.Open(fmt.Sprintf("/proc/%d/mem", pid))
	if err != nil {
		t.Fatal(err)
	}
	defer mem.Close()
	for line := range strings.Lines(string(read("maps"))) {
		var m mapping
		var perms, off, dev, ino string
		fmt.Sscanf(line, "%x-%x %s %s %s %s %s", &m.start, &m.end, &perms, &off, &dev, &ino, &m.name)
		if !strings.HasPrefix(m.name, "[vvar") && m.name != "[vsyscall]" {
			m.content = make([]byte, m.end-m.start)
			if _, err := mem.ReadAt(m.content, int64(m.start)); err != nil {
				t.Fatalf("%s: %v", m.name, err)
			}
		}
		s.maps = append(s.maps, m)
	}
	return s
}

func (s *processSnapshot) compare(t *testing.T, im *Image) {
	if im.PID != s.pid || im.MM.ExeFile != s.exe || im.Regs.SP != s.sp {
		t.Errorf("image of %d, %s, sp %#x; want %d, %s, %#x",
			im.PID, im.MM.ExeFile, im.Regs.SP, s.pid, s.exe, s.sp)
	}
	if im.Regs.FSBase == 0 || im.ClearTIDAddr == 0 || im.RobustHead == 0 || im.RobustLen != 24 {
		t.Errorf("registrations: fs %#x, tid %#x, robust %#x+%d",
			im.Regs.FSBase, im.ClearTIDAddr, im.RobustHead, im.RobustLen)
	}
	for i, word := range im.MM.SavedAuxv {
		if 8*i+8 > len(s.auxv) || word != leUint64(s.auxv[8*i:]) {
			t.Errorf("auxv word %d is %#x", i, word)
			break
		}
	}

	pages, err := os.ReadFile(im.PagesPath)
	if err != nil {
		t.Fatal(err)
	}
	var ends []uint64
	for _, m := range s.maps {
		if strings.HasPrefix(m.name, "[vvar_") {
			ends[len(ends)-1] = m.end // CRIU has both as one
			continue
		}
		ends = append(ends, m.end)
		v := findVMA(im, m.start)
		if v == nil {
			t.Errorf("%s at %#x is not in the image", m.name, m.start)
			continue
		}
		if strings.HasPrefix(m.name, "/") && (v.Path != m.name || !v.File) {
			t.Errorf("%s has path %q in the image", m.name, v.Path)
		}
		if got := v.Stack; got != (m.name == "[stack]") {
			t.Errorf("%s: Stack is %v", m.name, got)
		}
		if m.content == nil {
			continue
		}
		for i, b := range memoryOf(t, im, v, pages) {
			if at := m.start + uint64(i); b != m.content[i] && !inRseq(im, at) {
				t.Errorf("%s: byte %#x differs in the image", m.name, at)
				break
			}
		}
	}
	for i, v := range im.VMAs {
		if len(im.VMAs) != len(ends) || v.End != ends[i] {
			t.Fatalf("%d mappings in the image, %d in the process", len(im.VMAs), len(ends))
		}
	}
}

// inRseq is true for the words in which the kernel keeps the number of the CPU
// that the process runs on, which CRIU makes it do.
func inRseq(im *Image, at uint64) bool {
	return im.Rseq.Addr != 0 && at >= im.Rseq.Addr && at < im.Rseq.Addr+uint64(im.Rseq.Len)
}

func findVMA(im *Image, start uint64) *VMA {
	for i := range im.VMAs {
		if im.VMAs[i].Start == start {
			return &im.VMAs[i]
		}
	}
	return nil
}

// memoryOf puts together what the image says is in a mapping.
func memoryOf(t *testing.T, im *Image, v *VMA, pages []byte) []byte {
	content := make([]byte, v.End-v.Start)
	if v.File {
		file, err := os.ReadFile(v.Path)
		if err != nil {
			t.Fatal(err)
		}
		copy(content, file[v.Offset:])
	}
	for _, run := range im.Pages {
		for i := range run.Pages {
			if at := run.Addr + i*PageSize; at >= v.Start && at < v.End {
				off := run.FileOff + i*PageSize
				copy(content[at-v.Start:], pages[off:off+PageSize])
			}
		}
	}
	return content
}

func leUint64(b []byte) (n uint64) {
	for i := range 8 {
		n |= uint64(b[i]) << (8 * i)
	}
	return n
}

func TestDumpLeavesStopped(t *testing.T) {
	requireCRIU(t)
	cmd := startStopped(t, "/bin/sleep", "1000")
	images := t.TempDir()
	err := Dump(t.Context(), DumpOptions{
		PID: cmd.Process.Pid, ImagesDir: images, WorkDir: t.TempDir(), LeaveStopped: true,
	})
	if err != nil {
		t.Fatalf("%+v", err)
	}
	waitState(t, cmd.Process.Pid, "T")
}

func TestDumpRefuses(t *testing.T) {
	requireCRIU(t)
	ended := exec.Command("/bin/true")
	if err := ended.Run(); err != nil {
		t.Fatal(err)
	}
	running := exec.Command("/bin/sleep", "1000")
	if err := running.Start(); err != nil {
		t.Fatal(err)
	}
	defer running.Wait()
	defer running.Process.Kill()

	traced := exec.Command("/bin/sleep", "1000")
	traced.SysProcAttr = &syscall.SysProcAttr{Ptrace: true}
	runtime.LockOSThread() // it is this thread's tracee
	defer runtime.UnlockOSThread()
	if err := traced.Start(); err != nil {
		t.Fatal(err)
	}
	defer traced.Wait()
	defer traced.Process.Kill()

	for _, tc := range []struct {
		name, want, hint string
		pid              int
	}{
		{"ended", "there is no process", "the process ended", ended.Process.Pid},
		{"running", "is not stopped", "SIGCONT", running.Process.Pid},
		{"traced", "is being traced", "something else is tracing it", traced.Process.Pid},
	} {
		err := Dump(t.Context(), DumpOptions{PID: tc.pid, ImagesDir: t.TempDir(), WorkDir: t.TempDir()})
		var failed *Error
		if !errors.As(err, &failed) || !strings.Contains(err.Error(), tc.want) || !strings.Contains(problem.HintOf(err), tc.hint) {
			t.Errorf("%s: err = %v, want an *Error with %q and a hint with %q", tc.name, err, tc.want, tc.hint)
		}
	}
}

// A directory that cannot be written to stands for all that goes wrong in CRIU.
func TestDumpFails(t *testing.T) {
	requireCRIU(t)
	cmd := startStopped(t, "/bin/sleep", "1000")
	work := t.TempDir()
	err := Dump(t.Context(), DumpOptions{PID: cmd.Process.Pid, ImagesDir: "/proc", WorkDir: work})
	var failed *Error
	if !errors.As(err, &failed) {
		t.Fatalf("err = %v, want an *Error", err)
	}
	if failed.Log != filepath.Join(work, "dump.log") || len(failed.Lines) == 0 {
		t.Errorf("log %q, lines %q", failed.Log, failed.Lines)
	}
	t.Logf("%+v", failed)
}

func TestDumpIsCancelled(t *testing.T) {
	requireCRIU(t)
	cmd := startStopped(t, "/bin/sleep", "1000")
	for _, after := range []time.Duration{0, time.Millisecond, 4 * time.Millisecond} {
		ctx, cancel := context.WithTimeout(t.Context(), after)
		begin := time.Now()
		err := Dump(ctx, DumpOptions{
			PID: cmd.Process.Pid, ImagesDir: t.TempDir(), WorkDir: t.TempDir(), LeaveStopped: true,
		})
		cancel()
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("after %v: err = %v", after, err)
		}
		if took := time.Since(begin); took > time.Second {
			t.Errorf("after %v: returned %v later", after, took)
		}
	}
	noChildren(t, cmd.Process.Pid)
}

// noChildren fails when this process has children other than those given.
func noChildren(t *testing.T, but ...int) {
	t.Helper()
	for _, pid := range childrenOf(os.Getpid()) {
		if !slices.Contains(but, pid) {
			t.Errorf("process %d is left behind", pid)
		}
	}
}

func TestRestore(t *testing.T) {
	requireCRIU(t)
	cmd := startStopped(t, "/bin/sh", "-c", "kill -STOP $$; echo here I am; exit 7")
	pid := cmd.Process.Pid
	images := dumpOf(t, pid)
	cmd.Wait()

	for round := range 2 {
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		got, err := Restore(t.Context(), RestoreOptions{
			ImagesDir: images,
			WorkDir:   t.TempDir(),
			Sibling:   true,
			Inherit:   []InheritedFile{{Key: "dev/null", File: w}},
		})
		w.Close()
		if err != nil {
			t.Fatalf("round %d: %+v", round, err)
		}
		if got != pid {
			t.Errorf("pid %d, want %d", got, pid)
		}
		var status syscall.WaitStatus
		if _, err := syscall.Wait4(pid, &status, 0, nil); err != nil || status.ExitStatus() != 7 {
			t.Errorf("wait4: %v, status %#x", err, status)
		}
		var out bytes.Buffer
		out.ReadFrom(r)
		r.Close()
		if out.String() != "here I am\n" {
			t.Errorf("the process wrote %q", out.String())
		}
	}
}

func TestRestoreStopped(t *testing.T) {
	requireCRIU(t)
	cmd := startStopped(t, "/bin/sleep", "1000")
	pid := cmd.Process.Pid
	images := dumpOf(t, pid)
	cmd.Wait()

	o := RestoreOptions{ImagesDir: images, WorkDir: t.TempDir(), Sibling: true, Stopped: true}
	if _, err := Restore(t.Context(), o); err != nil {
		t.Fatalf("%+v", err)
	}
	waitState(t, pid, "T")
	ours, _ := os.Readlink("/proc/self/ns/time")
	if its, _ := os.Readlink(fmt.Sprintf("/proc/%d/ns/time", pid)); its != ours {
		t.Errorf("it is in time namespace %s, not %s", its, ours)
	}

	// While it is there its pid is taken.
	var failed *Error
	_, err := Restore(t.Context(), o)
	if !errors.As(err, &failed) || !strings.Contains(problem.HintOf(err), "pid") {
		t.Errorf("restored twice: %v", err)
	} else {
		t.Logf("%+v\nerrno %d, hint: %s", failed, failed.Errno, problem.HintOf(err))
	}

	syscall.Kill(pid, syscall.SIGKILL)
	var status syscall.WaitStatus
	if _, err := syscall.Wait4(pid, &status, 0, nil); err != nil || status.Signal() != syscall.SIGKILL {
		t.Errorf("wait4: %v, status %#x", err, status)
	}
	noChildren(t)
}

// It was dumped as the leader of a session, and is restored into the caller's.
func TestRestoreIntoCallersSession(t *testing.T) {
	requireCRIU(t)
	cmd := startStopped(t, "/bin/sleep", "1000")
	pid := cmd.Process.Pid
	images := dumpOf(t, pid)
	cmd.Wait()

	for range 2 { // it leaves the image as it is
		o := RestoreOptions{ImagesDir: images, WorkDir: t.TempDir(), Sibling: true, Stopped: true, CallersSession: true}
		if _, err := Restore(t.Context(), o); err != nil {
			t.Fatalf("%+v", err)
		}
		waitState(t, pid, "T")
		session, err := unix.Getsid(pid)
		own, _ := unix.Getsid(0)
		if err != nil || session != own {
			t.Errorf("it is in session %d, %v, and not in %d", session, err, own)
		}
		if group, err := unix.Getpgid(pid); err != nil || group != unix.Getpgrp() {
			t.Errorf("it is in process group %d, %v, and not in %d", group, err, unix.Getpgrp())
		}
		syscall.Kill(pid, syscall.SIGKILL)
		if _, err := syscall.Wait4(pid, nil, 0, nil); err != nil {
			t.Error(err)
		}
	}
	if im, err := Open(images); err != nil || im.PID != pid {
		t.Errorf("the image is damaged: %v", err)
	}
	noChildren(t)
}

// CRIU can be killed at any point of its work, and neither it nor what it has
// started may be left.
func TestRestoreIsCancelled(t *testing.T) {
	requireCRIU(t)
	// What loses its parent comes to this process, where it can be seen.
	const prSetChildSubreaper = 36 // linux/prctl.h
	syscall.RawSyscall(syscall.SYS_PRCTL, prSetChildSubreaper, 1, 0)
	defer syscall.RawSyscall(syscall.SYS_PRCTL, prSetChildSubreaper, 0, 0)

	cmd := startStopped(t, "/bin/sleep", "1000")
	pid := cmd.Process.Pid
	images := dumpOf(t, pid)
	cmd.Wait()

	for _, sibling := range []bool{true, false} {
		cancelled := 0
		for i := range 25 {
			ctx, cancel := context.WithTimeout(t.Context(), time.Duration(i)*time.Millisecond)
			_, err := Restore(ctx, RestoreOptions{
				ImagesDir: images, WorkDir: t.TempDir(), Sibling: sibling, Stopped: true,
			})
			cancel()
			switch {
			case err == nil:
				syscall.Kill(pid, syscall.SIGKILL)
			case !errors.Is(err, context.DeadlineExceeded):
				t.Errorf("after %d ms: %+v", i, err)
			case sibling && stateOf(pid) != 0:
				t.Errorf("after %d ms: process %d is in state %c", i, pid, stateOf(pid))
			default:
				cancelled++
			}
			for _, orphan := range childrenOf(os.Getpid()) {
				waitState(t, orphan, "Z")
				syscall.Wait4(orphan, nil, 0, nil)
			}
		}
		if cancelled == 0 {
			t.Error("none was cancelled")
		}
	}
}

func TestCheck(t *testing.T) {
	path := requireCRIU(t)
	if err := Check(t.Context(), path); err != nil {
		t.Errorf("%+v", err)
	}
}

func BenchmarkDump(b *testing.B) {
	if _, err := Find(); err != nil {
		b.Skip(err)
	}
	cmd := exec.Command("/bin/sleep", "1000")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	defer cmd.Wait()
	defer cmd.Process.Kill()
	time.Sleep(50 * time.Millisecond)
	cmd.Process.Signal(syscall.SIGSTOP)
	for b.Loop() {
		if err := Dump(b.Context(), DumpOptions{
			PID: cmd.Process.Pid, ImagesDir: b.TempDir(), WorkDir: b.TempDir(), LeaveStopped: true,
		}); err != nil {
			b.Fatalf("%+v", err)
		}
	}
}
