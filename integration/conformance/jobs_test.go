package conformance

import (
	"fmt"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"github.com/residentctl/residentctl/integration/kit"
)

// TestJobControl: an interactive bash in a terminal of its own, plain and
// resident, with a job that is plain and resident: started, stopped, continued in
// the background and the foreground, interrupted.
func TestJobControl(t *testing.T) {
	s := kit.SharedStore(t)
	job, bash := kit.Fixture(t, "job"), kit.Installed(t, "bash")
	s.Add(t, job)
	s.Add(t, bash)
	ways := kit.ReadyWays(t, s, job, bash)
	for _, u := range kit.Users {
		for _, w := range ways {
			s.RequireResident(t, w, u, job, kit.Command{})
			s.RequireResident(t, w, u, bash, kit.Command{Args: []string{"-c", ":"}})
		}
	}
	for _, u := range kit.Users {
		for _, shell := range append([]kit.Way{kit.Plain}, ways...) {
			for _, w := range []kit.Way{kit.Plain, kit.ByLauncher, kit.ByRun, kit.ByCRIU} {
				if shell.Around != nil && w.Name != kit.Plain.Name {
					continue // its jobs are resident without it
				}
				if w.Restores && (u != kit.Root || shell.Name != kit.Plain.Name) {
					continue // two shells could not have such a job at the same time
				}
				t.Run(fmt.Sprintf("%s job of %s bash, %s", w.Name, shell.Name, u.Name), func(t *testing.T) {
					t.Parallel()
					path, argv0, args := shell.Command(s, u, bash, "--norc", "--noprofile", "--noediting", "-i")
					if w.Restores { // the job's process id is free where there are few others
						args = append([]string{"--pid", "--fork", "--mount-proc", path}, args...)
						path, argv0 = "/usr/bin/unshare", "unshare"
					}
					failures, expected := "failures: 0", "\x00"
					if w.Restores { // the group is residentctl's
						failures, expected = "failures: 1", "FAILED: getpgrp() == getpid()"
					}
					jobPath, _, jobArgs := w.Argv(s, job)
					term := kit.OpenTerminal(t, func(c *exec.Cmd) error { return shell.Start(s, u, c) }, &exec.Cmd{
						Path: path,
						Args: append([]string{argv0}, args...),
						Env:  append(s.Environment("/"), "PS1=prompt> ", "HISTFILE="),
						Dir:  "/",
						SysProcAttr: &syscall.SysProcAttr{Setsid: true, Setctty: true,
							Credential: &syscall.Credential{Uid: u.ID, Gid: u.ID}},
					})
					start := strings.Join(append([]string{jobPath}, jobArgs...), " ")

					term.Expect("prompt> ")
					term.Send(start + "\n")
					term.Expect(`in the foreground: 1\s+ok: .*\s+size 24x80\s+job is ready`)
					term.StopAndContinue()

					term.Send(start + " handle\n")
					term.Expect("job is ready")
					term.Resize(30, 100)
					term.Expect("got SIGWINCH")
					term.Send("\x03") // ^C
					term.Expect("got SIGINT")
					term.Send("echo status=$?\n")
					term.Expect("status=3")

					term.Send(start + "\n")
					term.Expect(`size 30x100\s+job is ready`)
					term.Send("\x03")
					term.Expect("prompt> ")
					term.Send("echo status=$?\n")
					term.Expect("status=130")

					term.Send(start + " &\n")
					term.Expect(`in the foreground: 0`)
					term.Until("jobs -s\n", `Stopped`)
					term.Send("fg\n")
					term.Expect("got SIGCONT")
					term.Send("quit\n")
					term.Expect(failures)
					term.Send("exit 7\n")
					if got := term.Wait(); got != "exit status 7" {
						t.Errorf("bash ended with %s", got)
					}
					all := term.Seen.String()
					if strings.Contains(strings.ReplaceAll(all, expected, ""), "FAILED: ") {
						t.Errorf("the job is not what it should be:\n%s", all)
					}
				})
			}
		}
	}
}
