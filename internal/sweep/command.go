package sweep

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Exit statuses.
const (
	exitEqual       = 0
	exitDifferent   = 1
	exitUsage       = 2
	exitImpossible  = 4 // as residentctl's: the machine lacks something
	exitInterrupted = 128 + int(syscall.SIGINT)
)

// The processes inside the outer one are told by their first argument.
const (
	worldArgument = "world"
	cellArgument  = "cell"
)

// options is the command line, and the order to the world.
type options struct {
	Residentctl string        // the command under test
	Files       []file        // what to sweep
	Jobs        int           // starts at once
	Timeout     time.Duration // of one start
	User        uint32        // who starts the programs; root makes them resident
	JSON        bool          // print JSON at the end, and nothing else
	Keep        string        // a directory for the outputs of what differs, or ""
	SelfTest    bool
	Control     bool   // plain starts in place of resident ones
	Dir         string // the mount point of the world's tmpfs
}

// Main runs the command with these arguments, in whichever of the three processes, and
// returns its exit status.
func Main(args []string) int {
	if len(args) == 1 && args[0] == worldArgument {
		return world()
	}
	if len(args) == 1 && args[0] == cellArgument {
		return cell()
	}
	o, err := parse(args)
	switch {
	case errors.Is(err, flag.ErrHelp):
		fmt.Print(usage)
		return exitEqual
	case err != nil:
		fmt.Fprintf(os.Stderr, "sweep: error: %v\nsweep: hint: see scripts/sweep --help\n", err)
		return exitUsage
	}
	return outer(o)
}

const usage = `usage: scripts/sweep [OPTION...]

Makes the dynamic programs in /usr/bin, /usr/sbin and /usr/libexec resident, each
under all its names. Starts them plainly and resident: with --version, with --help,
and with no argument and no input. Compares standard output, standard error and exit
status. Needs root and CRIU, and does not change the machine's own files.

  --jobs N            make N starts at once (2)
  --timeout TIME      end a start after this time (10s), or up to four times
                      that if only the time may differ
  --programs LIST     use only these programs: paths or names, separated by commas
  --match REGEX       use only programs whose path matches
  --slice K/N         use only every Nth program, starting with the Kth
  --user N            start the programs as the user with this number (0)
  --json              print one JSON object
  --keep DIR          write the outputs that differ into this directory
  --control           compare plain starts with plain starts: nothing may differ
  --self-test         plant differences, each of which the sweep must find
  --residentctl PATH  use this residentctl instead of bin/residentctl

Exit status: 0 nothing differs, 1 something does, 2 usage, 4 it cannot run here.
`

// parse reads the command line and finds the programs.
func parse(args []string) (*options, error) {
	var o options
	f := flag.NewFlagSet("sweep", flag.ContinueOnError)
	f.SetOutput(io.Discard)
	f.IntVar(&o.Jobs, "jobs", 2, "")
	f.DurationVar(&o.Timeout, "timeout", 10*time.Second, "")
	programs := f.String("programs", "", "")
	match := f.String("match", "", "")
	slice := f.String("slice", "", "")
	user := f.Uint("user", 0, "")
	f.BoolVar(&o.JSON, "json", false, "")
	f.StringVar(&o.Keep, "keep", "", "")
	f.BoolVar(&o.Control, "control", false, "")
	f.BoolVar(&o.SelfTest, "self-test", false, "")
	f.StringVar(&o.Residentctl, "residentctl", "bin/residentctl", "")
	if err := f.Parse(args); err != nil {
		return nil, err
	}
	if f.NArg() > 0 {
		return nil, fmt.Errorf("unexpected argument %s", f.Arg(0))
	}
	if o.Jobs < 1 || o.Timeout <= 0 || *user > 1<<31 {
		return nil, errors.New("--jobs and --timeout must be positive, and --user must be the number of a user")
	}
	o.User = uint32(*user)
	for _, path := range []*string{&o.Residentctl, &o.Keep} {
		if *path == "" {
			continue
		}
		var err error
		if *path, err = filepath.Abs(*path); err != nil {
			return nil, err
		}
	}
	files, err := findPrograms()
	if err != nil {
		return nil, err
	}
	if *programs != "" {
		if files, err = only(files, strings.Split(*programs, ",")); err != nil {
			return nil, err
		}
	}
	if *match != "" {
		expression, err := regexp.Compile(*match)
		if err != nil {
			return nil, err
		}
		files = matching(files, expression.MatchString)
	}
	if *slice != "" {
		if files, err = slicing(files, *slice); err != nil {
			return nil, err
		}
	}
	if len(files) == 0 {
		return nil, errors.New("no program to sweep")
	}
	o.Files = files
	return &o, nil
}

// slicing keeps every Nth file from the Kth on.
func slicing(files []file, slice string) ([]file, error) {
	first, every, _ := strings.Cut(slice, "/")
	k, err1 := strconv.Atoi(first)
	n, err2 := strconv.Atoi(every)
	if err1 != nil || err2 != nil || k < 1 || n < k {
		return nil, fmt.Errorf("--slice %s is not K/N with 1 ≤ K ≤ N", slice)
	}
	var kept []file
	for i := k - 1; i < len(files); i += n {
		kept = append(kept, files[i])
	}
	return kept, nil
}

// outer starts the world and returns its exit status.
func outer(o *options) int {
	if err := possible(o); err != nil {
		fmt.Fprintf(os.Stderr, "sweep: error: %v\n", err)
		return exitImpossible
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	status, err := startWorld(ctx, o)
	switch {
	case ctx.Err() != nil:
		return exitInterrupted
	case err != nil:
		fmt.Fprintf(os.Stderr, "sweep: error: %v\n", err)
		return exitImpossible
	}
	return status
}

func possible(o *options) error {
	if os.Geteuid() != 0 {
		return errors.New("only root can make the namespaces, and programs resident for all users")
	}
	if _, err := os.Stat(o.Residentctl); err != nil {
		return fmt.Errorf("the command under test: %w (scripts/build makes it)", err)
	}
	if o.Keep != "" {
		return os.MkdirAll(o.Keep, 0o755)
	}
	return nil
}

// startWorld runs the world to its end. All that it has started ends with it,
// and it ends with this process.
func startWorld(ctx context.Context, o *options) (int, error) {
	var err error
	if o.Dir, err = os.MkdirTemp("", "residentctl-sweep-"); err != nil {
		return 0, err
	}
	// What is mounted there was seen by the world alone, which is over then.
	defer os.RemoveAll(o.Dir)
	if err := os.Chmod(o.Dir, 0o755); err != nil {
		return 0, err
	}
	order, err := json.Marshal(o)
	if err != nil {
		return 0, err
	}
	c := exec.CommandContext(ctx, "/proc/self/exe", worldArgument)
	c.Stdin = bytes.NewReader(order)
	c.Stdout, c.Stderr = os.Stdout, os.Stderr
	c.SysProcAttr = newNamespaces()
	err = c.Run()
	var ended *exec.ExitError
	if errors.As(err, &ended) && ended.Exited() {
		return ended.ExitCode(), nil
	}
	if err != nil {
		return 0, fmt.Errorf("start in new namespaces: %w", err)
	}
	return exitEqual, nil
}

// newNamespaces has a child begin in namespaces of its own.
func newNamespaces() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWPID | syscall.CLONE_NEWNS | syscall.CLONE_NEWNET | syscall.CLONE_NEWIPC | syscall.CLONE_NEWUTS,
		// By the end of the thread that cloned it, prctl(2); exec.Cmd's are kept.
		Pdeathsig: syscall.SIGKILL,
	}
}
