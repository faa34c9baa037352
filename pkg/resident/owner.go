package resident

import (
	"errors"

	"github.com/residentctl/residentctl/internal/linux"
	"github.com/residentctl/residentctl/internal/owners"
	"github.com/residentctl/residentctl/internal/problem"
)

// To make a program resident, or to link it again, is to execute parts of it: its
// dynamic linker, and the resolvers (IFUNC) of the program and its libraries. Root
// executes them only if no other user can decide what they are (package owners).

// An ownerRule is the rule of package owners for programs.
type ownerRule struct{ *owners.Rule }

// check returns problem.Untrusted where the rule refuses a path, and else the identity of
// the file that it leads to, the zero one if there is none.
func (o *ownerRule) check(path string) (linux.FileID, error) {
	id, err := o.Check(path)
	var refused *owners.Refusal
	if errors.As(err, &refused) {
		err = problem.Newf(problem.Untrusted, "%w", refused).
			WithHint("give --trust-owner if you trust %s with what root executes", refused.Who)
	}
	return id, err
}
