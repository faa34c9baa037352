package criuwrap

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/residentctl/residentctl/internal/linux"
	"github.com/residentctl/residentctl/internal/owners"
	"github.com/residentctl/residentctl/internal/problem"
)

// PathVariable names the environment variable with the path of the CRIU to use.
// When it is set no other is looked for.
const PathVariable = "RESIDENTCTL_CRIU"

// ConfigFile is the machine's own configuration of CRIU, which CRIU reads at each start
// (criu/config.c, GLOBAL_CONFIG_DIR).
const ConfigFile = "/etc/criu/default.conf"

// Minimum is the oldest CRIU that is good enough. Older ones do not start on
// Linux 6.13 and newer, where the vDSO's data is two mappings.
var Minimum = Release{Major: 4, Minor: 1}

// Advice says how to get a CRIU that will do.
var Advice = fmt.Sprintf("install CRIU %v or newer (scripts/setup does), or name one in %s", Minimum, PathVariable)

// ErrNoCRIU is returned where there is no criu program.
var ErrNoCRIU error = &problem.Problem{Kind: problem.System, Err: errors.New("criu was not found"), Hint: Advice}

// Release is CRIU's version number.
type Release struct{ Major, Minor, Sublevel int }

func (r Release) String() string {
	if r.Sublevel == 0 {
		return fmt.Sprintf("%d.%d", r.Major, r.Minor)
	}
	return fmt.Sprintf("%d.%d.%d", r.Major, r.Minor, r.Sublevel)
}

// Less orders releases by age.
func (r Release) Less(o Release) bool {
	if r.Major != o.Major {
		return r.Major < o.Major
	}
	if r.Minor != o.Minor {
		return r.Minor < o.Minor
	}
	return r.Sublevel < o.Sublevel
}

// Find returns the path of the first criu that is at least Minimum: the one
// that PathVariable names, else one in PATH, /usr/local/sbin or /usr/sbin, which
// are not in an ordinary user's PATH on Debian. Root executes, and finds, only one
// that root alone can change: the environment, which a user's may be (sudo -E), must not
// choose what root executes. Its error is ErrNoCRIU, wraps an *owners.Refusal, names a
// version that is too old, or says why the only one there did not run.
func Find() (string, error) {
	candidates := []string{os.Getenv(PathVariable)}
	if candidates[0] == "" {
		candidates = []string{"/usr/local/sbin/criu", "/usr/sbin/criu"}
		if path, err := exec.LookPath("criu"); err == nil {
			candidates = append([]string{path}, candidates...)
		}
	}
	rule := owners.New()
	var first error
	for _, candidate := range candidates {
		path, err := try(candidate, rule)
		if err == nil {
			return path, nil
		}
		// A program that exists but cannot be used says more than one that
		// is not there.
		if first == nil || errors.Is(first, ErrNoCRIU) {
			first = err
		}
	}
	return "", first
}

// try returns the absolute path of a candidate of Find's that will do. Nothing of one
// that the rule refuses is executed.
func try(candidate string, rule *owners.Rule) (path string, err error) {
	if !strings.ContainsRune(candidate, '/') {
		if candidate, err = exec.LookPath(candidate); err != nil {
			return "", fmt.Errorf("%w (%v)", ErrNoCRIU, err)
		}
	}
	if path, err = filepath.Abs(candidate); err != nil {
		return "", err
	}
	if _, err := os.Stat(path); errors.Is(err, os.ErrNotExist) {
		return "", fmt.Errorf("%w (looked for %s)", ErrNoCRIU, path)
	}
	var refused *owners.Refusal
	if _, err := rule.Check(path); errors.As(err, &refused) {
		return "", problem.Newf(problem.System, "%w", refused).
			WithHint("name a CRIU in %s that only root can change; to trust %[2]s: chown root %[2]s and chmod go-w %[2]s", PathVariable, refused.At)
	} else if err != nil {
		return "", err
	}
	v, err := Version(path)
	if err == nil && v.Less(Minimum) {
		err = problem.Newf(problem.System, "%s is version %v, and %v or newer is needed", path, v, Minimum).WithHint("%s", Advice)
	}
	return path, err
}

// Source: print_version in CRIU's crtools.c. A build from git adds a line with
// the commit.
var versionLine = lazily(`(?m)^Version: (\d{1,4})\.(\d{1,4})(?:\.(\d{1,4}))?`)

// How long the version and the check may take. They are variables for the tests.
var (
	versionTimeout = 10 * time.Second
	checkTimeout   = time.Minute
)

// pipeDelay is how long the end of the output is waited for after the program's own
// end: a process that has left the program's tree may hold it.
const pipeDelay = time.Second

// execute runs the criu at path. When ctx ends it is killed with all that it has
// started.
func execute(ctx context.Context, path string, stdout, stderr io.Writer, args ...string) error {
	cmd := exec.Command(path, args...)
	cmd.Env, cmd.Stdout, cmd.Stderr, cmd.WaitDelay = environment(), stdout, stderr, pipeDelay
	if err := cmd.Start(); err != nil {
		return err
	}
	waitEnd(ctx, cmd.Process.Pid)
	return cmd.Wait()
}

// answered are the versions that Version was told, by the file: Find asks too.
var answered sync.Map // of linux.FileID to Release

// Version asks the criu at path for its version, once as long as it is the same file. Its
// error wraps ErrNoCRIU if there is no such program, and is an *Error if it does not answer.
func Version(path string) (Release, error) {
	id, statErr := linux.StatID(path)
	if v, known := answered.Load(id); known && statErr == nil {
		return v.(Release), nil
	}
	v, err := askVersion(path)
	if err == nil && statErr == nil {
		answered.Store(id, v)
	}
	return v, err
}

func askVersion(path string) (Release, error) {
	ctx, cancel := context.WithTimeout(context.Background(), versionTimeout)
	defer cancel()
	var out bytes.Buffer
	err := execute(ctx, path, &out, nil, "--version")
	switch {
	case notThere(err):
		return Release{}, fmt.Errorf("%w (looked for %s)", ErrNoCRIU, path)
	case err != nil && ctx.Err() != nil:
		return Release{}, noAnswer("--version", versionTimeout, "")
	case err != nil:
		return Release{}, &Error{Op: "--version", err: fmt.Errorf("%s: %w", path, err)}
	}
	m := versionLine().FindSubmatch(out.Bytes())
	if m == nil {
		return Release{}, &Error{Op: "--version", err: fmt.Errorf("%s does not name a version of CRIU", path)}
	}
	number := func(i int) int {
		n, _ := strconv.Atoi(string(m[i])) // an absent sublevel is 0
		return n
	}
	return Release{number(1), number(2), number(3)}, nil
}

// notThere reports whether a command did not start for want of its program; os/exec
// opens the null device for it too.
func notThere(err error) bool {
	var path *os.PathError
	return errors.Is(err, exec.ErrNotFound) ||
		errors.Is(err, os.ErrNotExist) && !(errors.As(err, &path) && path.Path == os.DevNull)
}

// Check has the criu at path try out what it needs of the kernel. Its error is
// an *Error with CRIU's complaints and no log.
func Check(ctx context.Context, path string) error {
	ctx, cancel := context.WithTimeoutCause(ctx, checkTimeout, errNoAnswer)
	defer cancel()
	var out bytes.Buffer
	err := execute(ctx, path, &out, &out, "check", "--unprivileged")
	switch {
	case err == nil:
		return nil
	case errors.Is(context.Cause(ctx), errNoAnswer):
		return noAnswer("check", checkTimeout, "")
	case ctx.Err() != nil:
		return fmt.Errorf("criu check: %w", context.Cause(ctx))
	case notThere(err):
		return fmt.Errorf("%w (looked for %s)", ErrNoCRIU, path)
	}
	return &Error{Op: "check", Lines: errorLines(out.Bytes()), err: err}
}
