package linkstop

import (
	"fmt"
	"strings"

	"github.com/residentctl/residentctl/pkg/fingerprint"
)

// An Allow is told each path at which the dynamic linker looks, found or not, and, if
// it has been opened, a path in /proc by which the same file can be opened again; else
// opened is "". Nothing has been read or mapped of the file then, and none of its code
// has run. An error ends the process and is returned.
type Allow func(path, opened string) error

// allowed asks about a call that has come back with a result.
func (r *recorder) allowed(p fingerprint.Probe, result int64) error {
	if r.allow == nil {
		return nil
	}
	opened := ""
	if result >= 0 && strings.HasPrefix(p.Call, "open") {
		opened = fmt.Sprintf("/proc/%d/fd/%d", r.pid, result)
	}
	return r.allow(p.Path, opened)
}
