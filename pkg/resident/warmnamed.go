package resident

import (
	"path/filepath"

	"github.com/residentctl/residentctl/internal/problem"
	"github.com/residentctl/residentctl/pkg/warm"
)

// nameInterpreter writes the wrapper by which the interpreter at path has a name of its own, and
// returns the wrapper's path: that is the program which is to be resident.
func (m *Manager) nameInterpreter(path string, opts *AddOptions) (string, error) {
	if !warm.IsPython(path) {
		return "", problem.Refusef("%s is not python, and only python can be made warm with modules", path).
			WithHint("name an interpreter by its path or as PATH finds it, for example python3")
	}
	if _, err := ownersUnless(opts.TrustOwner).allow(path); err != nil {
		return "", err
	}
	named := *opts.Warm
	named.Interpreter = path
	opts.Warm = &named
	name := filepath.Base(path) + "-" + opts.Name
	return m.store.NamedPath(name), m.store.WriteNamed(name, path)
}
