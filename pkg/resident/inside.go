package resident

import "github.com/residentctl/residentctl/pkg/launcher"

// InsideError refuses what has to link a program, where the dynamic linker is
// covered: a template would be one of the covering copy.
type InsideError struct{}

func (*InsideError) Error() string {
	return "the dynamic linker is covered here: this is inside of a `residentctl exec`"
}

// Hint says what can be done about it.
func (*InsideError) Hint() string {
	return "do it outside; root can do it inside too, with the right to mount (CAP_SYS_ADMIN)"
}

func notInside() error {
	if launcher.Inside() != nil {
		return &InsideError{}
	}
	return nil
}
