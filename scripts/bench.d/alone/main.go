// Command alone writes a launcher file that maps everything as an image's own does, and then
// ends with SIGSEGV in place of its last jump. It is for timing the launcher alone.
//
//	alone [-no-populate] STORE INDEX NAME
//
// INDEX is the path of the image's plan. The launcher file is NAME/launcher, and its plan is beside
// it; NAME is a directory of the store that must not be there.
package main

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/residentctl/residentctl/pkg/launcher"
	"github.com/residentctl/residentctl/pkg/plan"
	"github.com/residentctl/residentctl/pkg/store"
)

func main() {
	noPopulate := flag.Bool("no-populate", false, "leave out the pages that are populated before the jump")
	flag.Parse()
	if flag.NArg() != 3 {
		fmt.Fprintln(os.Stderr, "usage: alone [-no-populate] STORE INDEX NAME")
		os.Exit(2)
	}
	if err := alone(flag.Arg(0), flag.Arg(1), flag.Arg(2), *noPopulate); err != nil {
		fmt.Fprintln(os.Stderr, "alone:", err)
		os.Exit(1)
	}
}

func alone(dir, index, name string, noPopulate bool) error {
	s, err := store.Open(dir)
	if err != nil {
		return err
	}
	raw, err := os.ReadFile(index)
	if err != nil {
		return err
	}
	p, err := plan.Decode(raw)
	if err != nil {
		return err
	}
	if noPopulate {
		dropPopulating(p)
	}
	if raw, err = p.EncodeToNowhere(); err != nil {
		return err
	}
	into := filepath.Join(dir, name)
	if err := os.Mkdir(into, 0o700); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(into, "plan"), raw, 0o600); err != nil {
		return err
	}
	file, err := launcher.File(plan.LauncherPlace(len(raw), p), s.ForLaunchers(), name+"/plan", p.Path, p.StackRoom())
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(into, "launcher"), file, 0o700)
}

// dropPopulating has a start leave every page to be faulted in when it is touched.
func dropPopulating(p *plan.Plan) {
	p.Populate = nil
	drop := func(maps []plan.Map) {
		for i := range maps {
			maps[i].Flags &^= unix.MAP_POPULATE
		}
	}
	for _, f := range p.Files {
		drop(f.Maps)
	}
	drop(p.Anon)
}
