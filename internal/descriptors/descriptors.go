// Package descriptors ends the process with a clear message if it has next to no
// file descriptors. Importing it is enough.
//
// The Go runtime needs three as soon as a file is opened or a timer is set. If it does
// not get them, it prints the stacks of all goroutines (runtime/netpoll_epoll.go). That
// happens even before main, because protobuf opens a file while it is initialised
// (internal/detrand). Packages whose imports are initialised are initialised in the order
// of their import paths (Go specification, "Program initialization"). So this one, which
// must import no more than os, comes first.
package descriptors

import (
	"os"
	"syscall"
)

// Enough is how many a residentctl, with its children and CRIU's sockets, can do
// its work with. For exec and run the front door asks for as many (pkg/launcher, ask_descriptors).
const Enough = 32

// Exit statuses, as cmd/residentctl has them.
const (
	exitSystem = 4
	exitRun    = 125
)

func init() {
	if free(Enough) < Enough {
		_, _ = os.Stderr.WriteString("residentctl: error: too few file descriptors are left\n" +
			"residentctl: hint: raise the limit of open files (ulimit -n 1024)\n")
		os.Exit(status(os.Args[1:]))
	}
}

// free returns how many descriptors can be opened, up to limit.
func free(limit int) int {
	var open []int
	defer func() {
		for _, fd := range open {
			syscall.Close(fd)
		}
	}()
	for len(open) < limit {
		fd, err := syscall.Open("/dev/null", syscall.O_RDONLY|syscall.O_CLOEXEC, 0)
		if err == syscall.EINTR {
			continue
		}
		if err == syscall.EMFILE || err == syscall.ENFILE {
			break
		}
		if err != nil {
			return limit // it is not for want of descriptors
		}
		open = append(open, fd)
	}
	return len(open)
}

// status is what a command line ends with: run and exec keep the low ones for what
// they execute.
func status(args []string) int {
	for len(args) > 0 && args[0] != "" && args[0][0] == '-' {
		if !hasValue(args[0]) && len(args) > 1 {
			args = args[1:] // the option's value
		}
		args = args[1:]
	}
	if len(args) > 0 && (args[0] == "run" || args[0] == "exec") {
		return exitRun
	}
	return exitSystem
}

func hasValue(option string) bool {
	for _, c := range option {
		if c == '=' {
			return true
		}
	}
	return false
}
