package resident

import (
	"github.com/residentctl/residentctl/internal/problem"
	"github.com/residentctl/residentctl/pkg/launcher"
)

// notInside refuses what has to link a program, where the dynamic linker is
// covered: a template would be one of the covering copy.
func notInside() error {
	if launcher.Inside() == nil {
		return nil
	}
	return problem.Newf(problem.System, "the dynamic linker is covered here: this is inside `residentctl exec`").
		WithHint("run it outside; root can also run it inside, with the right to mount (CAP_SYS_ADMIN)")
}
