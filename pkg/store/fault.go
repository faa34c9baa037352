package store

import (
	"fmt"
	"os"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
)

// FaultEnv names the environment variable that Fault looks at.
const FaultEnv = "RESIDENTCTL_FAULT"

// FaultList is a value of FaultEnv with which Fault writes each point that the process
// comes to, as a line of its own after FaultEnv and "=", to standard error.
const FaultList = "list"

// FaultStop begins a value of FaultEnv with which Fault stops the process, by SIGSTOP,
// whenever it comes to the point whose name follows. What a test does meanwhile, until it
// sends SIGCONT, happens at exactly that point.
const FaultStop = "stop:"

// FaultPoints are the steps of this package at which Fault is called. Each
// leaves a store in which nothing is wrong but garbage in staging/.
var FaultPoints = []string{
	"before-mkdir",             // the directory that the store, or one above it, is to be in is open
	"after-mkdir",              // a directory of the store, or one above it, is made
	"after-stage",              // a staging directory is made and locked
	"before-publish",           // the image is made, nothing is on the disk for sure
	"after-sync",               // its files are on the disk
	"after-publish",            // it is in images/
	"before-replace",           // new files for an image are in staging/, on the disk
	"after-replace",            // the first of them is in the image
	"before-link",              // the index link is made, in staging/
	"after-link",               // it is in index/
	"after-unlink",             // it is gone
	"before-launcher",          // the launcher file is made, in staging/
	"after-launcher",           // it is in launchers/
	"before-stamp",             // the boot stamp is made, in staging/
	"after-stamp",              // it is in its place
	"before-note",              // a note is made, in staging/
	"after-note",               // it is in its place
	"before-remove-image",      // a staging directory to move it to is made
	"after-remove-image",       // the image is in staging/
	"before-remove-launchers",  // a staging directory to move them to is made
	"after-remove-launchers",   // they are in staging/
	"before-shim",              // the link for PATH is made, in staging/
	"after-shim",               // it is in shims/
	"after-remove-shim",        // it is gone
	"before-named",             // the wrapper of an interpreter's name is made, in staging/
	"after-named",              // it is in named/
	"after-remove-named",       // it is gone
	"before-system-link",       // the note that it is enabled for the system is made, in staging/
	"after-system-link",        // it is in system/
	"after-remove-system-link", // it is gone
}

// PurgePoints are those at which a store is being removed.
var PurgePoints = []string{
	"before-purge-registry",  // purge: all but the registry and staging/ is gone
	"after-purge-registry",   // and the registry
	"before-purge-directory", // and staging/
}

// Fault ends the process as kill -9 would, if the environment says that it is
// to end at the point name. It is how tests, of other packages too, see to it
// that a process may die anywhere.
func Fault(name string) {
	switch os.Getenv(FaultEnv) {
	case FaultStop + name:
		runtime.LockOSThread()
		// To this thread, so that it does not get further before it is stopped.
		_ = unix.Tgkill(os.Getpid(), unix.Gettid(), syscall.SIGSTOP)
		runtime.UnlockOSThread()
	case name:
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
		select {} // the signal may find another thread first
	case FaultList:
		fmt.Fprintf(os.Stderr, "%s=%s\n", FaultEnv, name)
	}
}
