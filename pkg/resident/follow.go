package resident

import (
	"context"
	"errors"
	"os"
	"syscall"

	"github.com/residentctl/residentctl/pkg/binfmt"
	"github.com/residentctl/residentctl/pkg/elfinfo"
	"github.com/residentctl/residentctl/pkg/ptrace"
)

// Follow returns the dynamic program that the one at path, an absolute path, is or becomes.
// A wrapper or script is executed for that, for root only if root alone can change it or
// the owner is trusted: else it is problem.Untrusted.
func Follow(ctx context.Context, path string, trustOwner bool) (string, error) {
	if _, err := ownersUnless(trustOwner).allow(path); err != nil {
		return "", err
	}
	return follow(ctx, path)
}

// follow returns the dynamic program that the program at path is or becomes. One
// that is dynamic itself is not run for that.
func follow(ctx context.Context, path string) (string, error) {
	file, err := elfinfo.Open(path)
	var refusal *elfinfo.Refusal
	switch {
	case err == nil && (file.Interp != "" || file.Setuid() || file.Setgid()):
		return path, nil
	case errors.As(err, &refusal) && refusal.Kind != elfinfo.Script && refusal.Kind != elfinfo.NotELF:
		return "", err
	case err != nil && refusal == nil:
		return "", err
	}
	if os.Geteuid() == 0 {
		back, err := binfmt.Aside(ctx, nil)
		if err != nil {
			return "", err
		}
		defer back()
	}
	to, followErr := ptrace.Follow(ctx, path, ptrace.FollowOptions{})
	if err != nil && (errors.Is(followErr, syscall.ENOEXEC) || errors.Is(followErr, syscall.EACCES)) {
		return "", err // neither ELF nor anything that the kernel has a handler for
	}
	return to, followErr
}
