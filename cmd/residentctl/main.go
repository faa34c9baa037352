// Residentctl makes programs resident: it starts them from an image that was
// taken when their libraries were loaded and relocated.
//
// The plain form `residentctl run PROGRAM …` never comes here. It is dealt with
// by package front, which runs before there is a Go runtime.
package main

import (
	"os"
	"runtime"

	_ "github.com/residentctl/residentctl/internal/descriptors"
	_ "github.com/residentctl/residentctl/pkg/launcher/front"
)

// What a process has of its main thread alone, such as pending signals and the death
// signal of prctl(2), only an exec by that thread hands on. Locked here, main keeps it.
func init() { runtime.LockOSThread() }

func main() { os.Exit(execute(os.Args, os.Stdout, os.Stderr)) }
