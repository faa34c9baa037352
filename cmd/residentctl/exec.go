package main

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/residentctl/residentctl/pkg/intercept"
	"github.com/residentctl/residentctl/pkg/launcher"
)

// execLauncher executes a launcher that looks in these stores and understands
// run's command line, in this process's place. From there on everything is as
// if the front door had been taken. It returns only if that cannot be.
func execLauncher(o startLine, dirs []string) error {
	if why := frontRefuses(o); why != nil {
		return why
	}
	stores, err := intercept.LookIn(counting(dirs))
	if len(stores) == 0 && err != nil {
		return err
	}
	code, err := launcher.Front(stores)
	if err != nil {
		return err
	}
	fd, err := memoryFile(code)
	if err != nil {
		return fmt.Errorf("make a launcher in memory: %w", err)
	}
	defer syscall.Close(fd)
	// syscall.Exec also puts the limit of open files back, which Go raises.
	err = syscall.Exec(fmt.Sprintf("/proc/self/fd/%d", fd), frontArgs(o), intercept.Environment())
	return fmt.Errorf("execute the launcher: %w", err)
}

// frontRefuses names the command lines that launcher_front leaves to Go.
func frontRefuses(o startLine) error {
	name := o.argv[0]
	if strings.HasPrefix(name, "-") {
		return errors.New("its name begins with a dash")
	}
	if _, set := os.LookupEnv("PATH"); !set && !strings.Contains(name, "/") {
		return errors.New("PATH is not set")
	}
	return nil
}

// frontArgs is the command line in the form that launcher_front reads.
func frontArgs(o startLine) []string {
	args := []string{"residentctl", "run"}
	if o.strict {
		args = append(args, "--strict")
	}
	if o.explain {
		args = append(args, "--explain")
	}
	return append(args, o.argv...)
}

// memoryFile is a descriptor of an unnamed executable file that is closed by
// the exec.
func memoryFile(content []byte) (fd int, err error) {
	const name = "residentctl"
	// MFD_EXEC is wanted where vm.memfd_noexec is 1 and unknown before Linux 6.3.
	fd, err = unix.MemfdCreate(name, unix.MFD_CLOEXEC|unix.MFD_EXEC)
	if errors.Is(err, unix.EINVAL) {
		fd, err = unix.MemfdCreate(name, unix.MFD_CLOEXEC)
	}
	if err != nil {
		return -1, err
	}
	for len(content) > 0 && err == nil {
		var n int
		n, err = syscall.Write(fd, content)
		if n > 0 {
			content = content[n:]
		}
		if errors.Is(err, syscall.EINTR) {
			err = nil
		}
	}
	if err != nil {
		syscall.Close(fd)
		return -1, err
	}
	return fd, nil
}
