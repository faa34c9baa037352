package resident

import (
	"golang.org/x/sys/unix"

	"github.com/residentctl/residentctl/pkg/plan"
)

// A WarmImage is what a start from a warm image has and compares beyond that of a linked one.
type WarmImage struct {
	Executable string   `json:"executable"`            // that is mapped
	Args       []string `json:"args,omitempty"`        // what takes argv[0]'s place
	ProgramArg bool     `json:"program_arg,omitempty"` // the program's path follows them
	// Environment are the variables, NAME=value, that a start must have, and Unset the
	// beginnings of those that it must not have besides.
	Environment []string `json:"environment"`
	Unset       []string `json:"unset"`
	// Terminals are the sets of standard streams of which one must be those that are terminals;
	// none if that does not matter.
	Terminals  [][]string `json:"terminals,omitempty"`
	StackLimit uint64     `json:"stack_limit,string"` // the soft limit that a start must have, bytes; 2^64-1 is none
	// OldStack is the template's stack, which stays beside the process's own.
	OldStack       Address       `json:"old_stack"`
	OldStackLength uint64        `json:"old_stack_length"`
	Signals        []ImageSignal `json:"signals"`
	Populated      uint64        `json:"populated"` // mapped in advance, bytes
}

// An ImageSignal is a signal's action that a start sets unless the caller ignores the signal.
type ImageSignal struct {
	Signal  int     `json:"signal"`
	Name    string  `json:"name"`
	Handler Address `json:"handler"`      // 1 ignores it
	In      string  `json:"in,omitempty"` // as ImageMap.Of
}

// warm describes what only a warm image has.
func (i *inspecting) warm() {
	p := i.plan
	if p.Kind != plan.KindWarm {
		return
	}
	w := &WarmImage{
		Executable: p.Exe().Path, Args: p.Args, ProgramArg: p.Flags&plan.FlagProgramArg != 0, StackLimit: p.Warm.StackLimit,
		Environment: []string{}, Unset: []string{}, Signals: []ImageSignal{},
	}
	for _, c := range p.Env {
		if c.Kind == plan.EnvExact {
			w.Environment = append(w.Environment, c.Text)
		} else {
			w.Unset = append(w.Unset, c.Text)
		}
	}
	for set, count := range p.Warm.LayoutCounts {
		if asked := p.Warm.Terminals; asked != 0 && count > 0 && uint32(set)&^asked == 0 {
			w.Terminals = append(w.Terminals, streamNames(uint32(set)))
		}
	}
	for _, m := range p.Anon {
		if m.Flags&unix.MAP_GROWSDOWN != 0 {
			w.OldStack, w.OldStackLength = Address(m.Addr), m.Len
		}
	}
	for _, s := range p.Signals {
		w.Signals = append(w.Signals, ImageSignal{int(s.Signal), unix.SignalName(unix.Signal(s.Signal)), Address(s.Handler), i.at(s.Handler)})
	}
	for _, m := range p.Populate {
		w.Populated += m.Len
	}
	i.WarmImage = w
}
