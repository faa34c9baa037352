package inherit

import (
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/residentctl/residentctl/internal/linux"
	"github.com/residentctl/residentctl/internal/problem"
	"github.com/residentctl/residentctl/pkg/launcher"
)

// refuse is what of the caller cannot be given to a restored process.
func refuse(hint, format string, args ...any) error {
	return problem.Refusef(format, args...).WithHint("%s", hint)
}

// refused returns a problem if an exec by this process, with this environment, would link
// the program otherwise than it was linked for its image. The launcher asks the same
// (pkg/launcher/src/caller.c, ask_environment).
func refused(env []string) error {
	const normally = "start it without --engine criu"
	for _, v := range env {
		if launcher.KeepsNormal(v) {
			return refuse(normally, "the environment changes how it is linked %s", v)
		}
	}
	auxv, err := ownAuxv()
	if err != nil {
		return err
	}
	if auxv.Value(linux.ATSecure) != 0 {
		return refuse(normally, "the caller gives it privileges (AT_SECURE)")
	}
	own, err := readStatus("self")
	if err != nil {
		return err
	}
	if own["Seccomp"] != "0" {
		return refuse(normally, "the caller's system calls are filtered (seccomp)")
	}
	if noNewCode, err := unix.PrctlRetInt(unix.PR_GET_MDWE, 0, 0, 0, 0); err == nil && noNewCode != 0 {
		return refuse(normally, "CRIU must make memory executable, which PR_SET_MDWE forbids the caller")
	}
	return nil
}

// ownAuxv is this process's auxiliary vector.
func ownAuxv() (auxv linux.Auxv, err error) {
	pairs, err := unix.Auxv()
	if err != nil {
		return nil, fmt.Errorf("read the auxiliary vector: %w", err)
	}
	for _, p := range pairs {
		auxv = append(auxv, linux.AuxEntry{Type: uint64(p[0]), Value: uint64(p[1])})
	}
	return auxv, nil
}
