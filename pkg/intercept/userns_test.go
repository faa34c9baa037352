package intercept

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/residentctl/residentctl/internal/problem"
)

// Whatever unshare(1) says, an ordinary user is told what forbids a namespace, and
// what can be done.
func TestWhyNoNamespace(t *testing.T) {
	for _, tc := range []struct {
		name, parameter, value, said string
		want, advice                 string
	}{
		{"limit", "user.max_user_namespaces", "0", "unshare: unshare failed: No space left on device",
			"user.max_user_namespaces is 0", "sysctl user.max_user_namespaces="},
		{"limit around it", "user.max_user_namespaces", "15000", "unshare: unshare failed: No space left on device",
			"no more user namespaces", "around this one"},
		{"mount namespaces", "user.max_mnt_namespaces", "0", "unshare: unshare failed: No space left on device",
			"user.max_mnt_namespaces is 0", "sysctl user.max_mnt_namespaces="},
		{"Debian's", "kernel.unprivileged_userns_clone", "0", "unshare: unshare failed: Operation not permitted",
			"kernel.unprivileged_userns_clone is 0", "sysctl kernel.unprivileged_userns_clone=1"},
		{"AppArmor", "kernel.apparmor_restrict_unprivileged_userns", "1", "unshare: write failed /proc/self/uid_map: Operation not permitted",
			"kernel.apparmor_restrict_unprivileged_userns is 1", "AppArmor profile"},
		{"old unshare", "", "", "unshare: unrecognized option '--map-current-user'", "too old", "util-linux 2.38"},
		{"seccomp", "", "", "unshare: unshare failed: Operation not permitted",
			"(unshare: unshare failed: Operation not permitted)", "a container"},
	} {
		err := whyNoNamespace(tc.said, func(name string) string {
			if name == tc.parameter {
				return tc.value
			}
			return ""
		})
		if !strings.Contains(err.Error(), tc.want) || !strings.Contains(problem.HintOf(err), tc.advice) ||
			!strings.Contains(problem.HintOf(err), "`residentctl enable`") {
			t.Errorf("%s: %v; %s", tc.name, err, problem.HintOf(err))
		}
	}
}

func TestNoMountNamespace(t *testing.T) {
	for err, advice := range map[error]string{
		unix.EPERM: "CAP_SYS_ADMIN", unix.ENOSPC: "user.max_mnt_namespaces", unix.EINVAL: "mount --rbind", unix.ENOSYS: "a container",
	} {
		if got := NoMountNamespace(err); !strings.Contains(problem.HintOf(got), advice) {
			t.Errorf("%v: %v", err, got)
		}
	}
}

// An unshare(1) that fails without a word, or that cannot be executed, leaves no reason
// empty.
func TestNoNamespaceHasAReason(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "unshare"), []byte("#!/bin/sh\nexit 1\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir)
	if _, err := tryNamespace(nil); err == nil || strings.Contains(err.Error(), "()") {
		t.Errorf("%v", err)
	}
}

// PATH may be without them, as a service or a test has made it.
func TestToolWithoutPath(t *testing.T) {
	for _, path := range []string{"", "/nowhere", os.Getenv("PATH")} {
		t.Setenv("PATH", path)
		for _, name := range []string{"unshare", "true"} {
			if got, err := tool(name); err != nil || !filepath.IsAbs(got) {
				t.Errorf("%s with PATH=%s: %q, %v", name, path, got, err)
			}
		}
	}
	if got, err := tool("no-such-tool"); err == nil {
		t.Errorf("no-such-tool is %s", got)
	}
}
