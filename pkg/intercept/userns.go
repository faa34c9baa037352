package intercept

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/residentctl/residentctl/internal/linux"
	"github.com/residentctl/residentctl/internal/problem"
)

// Differs says what an ordinary user's command tree cannot do, or sees otherwise,
// in the user namespace that it runs in.
const Differs = `setuid programs (su, sudo) gain nothing, chgrp to a supplementary group fails, other users' files belong to "nobody"`

// namespaceOptions are unshare(1)'s, of util-linux 2.38 or newer: a user namespace
// with the caller's own ids only, in which he may mount.
var namespaceOptions = []string{"--user", "--map-current-user", "--keep-caps", "--mount", "--propagation", "slave"}

// NamespaceCommand returns what runs a command line, which is to be appended to it, in a
// user and mount namespace of an ordinary user's. That is unshare(1)'s work, since a
// process with threads, as each Go program is, cannot enter one (unshare(2),
// EINVAL). Where it is not allowed the error says why: so the caller can
// still execute the command normally, which after unshare has failed he could not.
func NamespaceCommand() ([]string, error) {
	if held := ambient(); held != "" {
		// A service with AmbientCapabilities=, for example, needs them.
		return nil, problem.Errorf("a user namespace would drop your capabilities (CapAmb %s)", held).
			WithHint("give them up first (setpriv --ambient-caps=-all), or use `residentctl enable`, which needs no namespace")
	}
	unshare, err := tryNamespace(nil)
	if err != nil {
		return nil, err
	}
	return append(append([]string{unshare}, namespaceOptions...), "--"), nil
}

// Probe reports whether a command tree of this user, and if that is root one of an
// ordinary user, can have a namespace.
func Probe() (own, ordinary error) {
	if os.Geteuid() != 0 {
		_, own = NamespaceCommand()
		return own, own
	}
	c := exec.Command("/proc/self/exe", "version")
	c.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}
	if err := c.Run(); err != nil {
		own = NoMountNamespace(err)
	}
	const nobody = 65534
	_, ordinary = tryNamespace(&syscall.Credential{Uid: nobody, Gid: nobody})
	return own, ordinary
}

// tryNamespace makes a user namespace that ends at once. It returns the path of
// unshare(1).
func tryNamespace(as *syscall.Credential) (unshare string, err error) {
	if unshare, err = tool("unshare"); err != nil {
		return "", problem.Errorf("unshare(1) was not found in PATH or /usr/bin").WithHint("install util-linux")
	}
	ends, err := tool("true")
	if err != nil {
		return "", problem.Errorf("true(1) was not found in PATH or /usr/bin").WithHint("install coreutils")
	}
	try := exec.Command(unshare, append(slices.Clone(namespaceOptions), "--", ends)...)
	try.Dir = "/"
	try.Env = append(os.Environ(), "LC_ALL=C")
	try.SysProcAttr = &syscall.SysProcAttr{Credential: as}
	if said, err := try.CombinedOutput(); err != nil {
		return "", whyNoNamespace(cmp.Or(strings.TrimSpace(string(said)), err.Error()), sysctl)
	}
	return unshare, nil
}

// tool is the absolute path of a program of the system's, whose directory need not be in
// PATH.
func tool(name string) (string, error) {
	path, err := exec.LookPath(name)
	if err != nil {
		path, err = exec.LookPath(filepath.Join("/usr/bin", name))
	}
	if err != nil {
		return "", err
	}
	return filepath.Abs(path)
}

// MayMakeUserNamespaces reports whether no setting of this machine forbids ordinary
// users to make user namespaces of their own. AppArmor's lets them, takes the
// capabilities away and writes a line into the log.
func MayMakeUserNamespaces() bool {
	return sysctl("user.max_user_namespaces") != "0" && sysctl("kernel.unprivileged_userns_clone") != "0" &&
		sysctl("kernel.apparmor_restrict_unprivileged_userns") != "1"
}

// NoMountNamespace returns what is said when root cannot make a mount namespace.
func NoMountNamespace(err error) error {
	if errno := syscall.Errno(0); errors.As(err, &errno) {
		err = errno // without the name of the program that was to be started in it
	}
	p := problem.Errorf("make a mount namespace: %v", err).WithHint("find out what forbids it: the kernel, a container or a sandbox")
	switch {
	case errors.Is(err, unix.EPERM):
		p.Hint = "give root CAP_SYS_ADMIN, which a container or a service may have dropped"
	case errors.Is(err, unix.ENOSPC):
		p.Hint = "raise sysctl user.max_mnt_namespaces: there are too many"
	case errors.Is(err, unix.EINVAL):
		// mount(2), MS_SLAVE and the like: what is to be shared or not has to be a mount,
		// and the one that a chroot's directory lies in cannot be named inside.
		return problem.Errorf("%s, so mounts cannot be kept inside", linux.PlainChroot).WithHint("%s", linux.MountBeforeRoot)
	}
	return p
}

// sysctl is the value of a kernel parameter, "" where there is none of the name.
func sysctl(name string) string {
	text, err := os.ReadFile("/proc/sys/" + strings.ReplaceAll(name, ".", "/"))
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(text))
}

// whyNoNamespace explains what unshare(1) said in the C locale. Its own words are
// no help: at a limit of 0 it is "No space left on device".
func whyNoNamespace(said string, sysctl func(string) string) error {
	const without = "; or use `residentctl enable`, which needs no namespace"
	for _, forbids := range []struct{ name, value, advice string }{
		{"user.max_user_namespaces", "0", "allow some as root: sysctl user.max_user_namespaces=10000"},
		{"user.max_mnt_namespaces", "0", "allow some as root: sysctl user.max_mnt_namespaces=10000"},
		{"kernel.unprivileged_userns_clone", "0", "allow them as root: sysctl kernel.unprivileged_userns_clone=1"},
		{"kernel.apparmor_restrict_unprivileged_userns", "1",
			"allow them as root, to unshare(1) by an AppArmor profile with `userns,`, or to all: sysctl kernel.apparmor_restrict_unprivileged_userns=0"},
	} {
		if sysctl(forbids.name) == forbids.value {
			return problem.Errorf("ordinary users cannot make user namespaces here (%s is %s)", forbids.name, forbids.value).
				WithHint("%s", forbids.advice+without)
		}
	}
	if strings.Contains(said, "unrecognized option") {
		return problem.Errorf("unshare(1) is too old").WithHint("install util-linux 2.38 or newer" + without)
	}
	if strings.Contains(said, unix.ENOSPC.Error()) || strings.Contains(said, "No space left on device") {
		return problem.Errorf("no more user namespaces can be made here").
			WithHint("raise the limit as root (sysctl user.max_user_namespaces), also in the namespaces around this one" + without)
	}
	return problem.Errorf("no user namespace can be made here (%s)", said).
		WithHint("find out what forbids it: the kernel, a container or a sandbox" + without)
}

// ambient are the capabilities that the caller hands on to every program that he
// executes, as /proc/self/status shows them; "" if there are none. An ordinary user
// has no others that outlive an exec.
func ambient() string {
	var set uint64
	for c := range uintptr(unix.CAP_LAST_CAP + 1) {
		if on, err := unix.PrctlRetInt(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_IS_SET, c, 0, 0); err == nil && on == 1 {
			set |= 1 << c
		}
	}
	if set == 0 {
		return ""
	}
	return fmt.Sprintf("%016x", set)
}
