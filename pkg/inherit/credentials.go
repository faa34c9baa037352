package inherit

import (
	"encoding/binary"
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/residentctl/residentctl/internal/linux"
)

// credentials are the lines of /proc/PID/status that say what the process may do, and
// where. An exec leaves them as they are: this program has no privileges of its own that
// an exec of it would have added.
var credentials = []string{
	"Uid", "Gid", "Groups", "NoNewPrivs", "CapBnd", "CapInh", "CapPrm", "CapEff", "CapAmb",
	"Seccomp", "Cpus_allowed", "Mems_allowed",
}

// giveCredentials gives the process this process's credentials, in place of those
// that it was dumped with, and refuses what is different then.
func (g *giving) giveCredentials() error {
	own, its, err := g.statuses()
	if err != nil {
		return err
	}
	if differentLine(own, its) != "" || g.otherSecureBits() {
		if err := g.setCredentials(own, its); err != nil {
			return err
		}
		if own, its, err = g.statuses(); err != nil {
			return err
		}
	}
	if line := differentLine(own, its); line != "" {
		return refuse("start it without --engine criu", "%s in /proc/PID/status is %q instead of the caller's %q", line, its[line], own[line])
	}
	// A change of ids has ended it (prctl(2)).
	_, err = g.Call(unix.SYS_PRCTL, unix.PR_SET_PDEATHSIG, uint64(unix.SIGKILL), 0, 0, 0)
	return err
}

// differentLine is the first of credentials in which the two differ, or "".
func differentLine(own, its map[string]string) string {
	for _, line := range credentials {
		if own[line] != its[line] {
			return line
		}
	}
	return ""
}

func (g *giving) otherSecureBits() bool {
	own, err := unix.PrctlRetInt(unix.PR_GET_SECUREBITS, 0, 0, 0, 0)
	its, errIts := g.Call(unix.SYS_PRCTL, unix.PR_GET_SECUREBITS, 0, 0, 0, 0)
	return err != nil || errIts != nil || uint64(own) != its
}

// setCredentials sets all of them. What takes privileges away comes last.
func (g *giving) setCredentials(own, its map[string]string) error {
	ids, err := numbers(10, own["Uid"], own["Gid"], own["Groups"])
	if err != nil {
		return err
	}
	caps, err := numbers(16, own["CapEff"], own["CapPrm"], own["CapInh"], own["CapAmb"], own["CapBnd"], its["CapBnd"])
	if err != nil {
		return err
	}
	bits, err := unix.PrctlRetInt(unix.PR_GET_SECUREBITS, 0, 0, 0, 0)
	if err != nil {
		return err
	}
	dumpable, err := g.Call(unix.SYS_PRCTL, unix.PR_GET_DUMPABLE, 0, 0, 0, 0)
	if err != nil {
		return err
	}
	for _, set := range []func() error{
		func() error { return g.dropBounding(caps[5] &^ caps[4]) },
		func() error {
			if own["Uid"] == its["Uid"] && own["Gid"] == its["Gid"] && own["Groups"] == its["Groups"] {
				return nil
			}
			return g.setIDs(ids)
		},
		func() error {
			if !g.otherSecureBits() {
				return nil
			}
			return g.prctl(unix.PR_SET_SECUREBITS, uint64(bits))
		},
		func() error { return g.setCapabilities(caps[0], caps[1], caps[2]) },
		func() error { return g.raiseAmbient(caps[3]) },
		func() error {
			if own["NoNewPrivs"] == "0" {
				return nil
			}
			return g.prctl(unix.PR_SET_NO_NEW_PRIVS, 1)
		},
		func() error { return g.prctl(unix.PR_SET_DUMPABLE, dumpable) }, // a change of ids has cleared it
	} {
		if err := set(); err != nil {
			return err
		}
	}
	return nil
}

// numbers are those in texts, one after the other.
func numbers(base int, texts ...string) (all []uint64, err error) {
	for _, text := range texts {
		for _, word := range strings.Fields(text) {
			n, err := strconv.ParseUint(word, base, 64)
			if err != nil {
				return nil, fmt.Errorf("read /proc/self/status: %w", err)
			}
			all = append(all, n)
		}
	}
	return all, nil
}

func (g *giving) prctl(option int, arg uint64) error {
	if _, err := g.Call(unix.SYS_PRCTL, uint64(option), arg, 0, 0, 0); err != nil {
		return fmt.Errorf("prctl %d: %w", option, err)
	}
	return nil
}

func (g *giving) dropBounding(drop uint64) error {
	for n := uint64(0); n < 64; n++ {
		if drop>>n&1 != 0 {
			if err := g.prctl(unix.PR_CAPBSET_DROP, n); err != nil {
				return err
			}
		}
	}
	return nil
}

// setIDs sets the ids: real, effective, saved and file system's of the user and of the
// group, then supplementary groups. The capabilities stay permitted.
func (g *giving) setIDs(ids []uint64) error {
	user, group, groups := ids[:4], ids[4:8], ids[8:]
	var list []byte
	for _, id := range groups {
		list = binary.LittleEndian.AppendUint32(list, uint32(id))
	}
	if err := g.prctl(unix.PR_SET_KEEPCAPS, 1); err != nil {
		return err
	}
	if err := g.setGroups(list); err != nil {
		return fmt.Errorf("set the groups: %w", err)
	}
	for _, call := range []struct {
		nr  uint64
		ids []uint64
	}{
		{unix.SYS_SETRESGID, group[:3]}, {unix.SYS_SETFSGID, group[3:]},
		{unix.SYS_SETRESUID, user[:3]}, {unix.SYS_SETFSUID, user[3:]},
	} {
		if _, err := g.Call(call.nr, call.ids...); err != nil {
			return fmt.Errorf("set the ids %d: %w", call.ids, err)
		}
	}
	return g.prctl(unix.PR_SET_KEEPCAPS, 0)
}

// setGroups sets the supplementary groups, of which there may be more than a page of.
func (g *giving) setGroups(list []byte) error {
	const flags = unix.MAP_PRIVATE | unix.MAP_ANONYMOUS
	size := uint64(len(list)) + 1
	at, err := g.Call(unix.SYS_MMAP, 0, size, unix.PROT_READ|unix.PROT_WRITE, flags, ^uint64(0), 0)
	if err != nil {
		return err
	}
	err = linux.WriteMem(g.PID, at, list)
	if err == nil {
		_, err = g.Call(unix.SYS_SETGROUPS, uint64(len(list)/4), at)
	}
	if err == nil {
		_, err = g.Call(unix.SYS_MUNMAP, at, size)
	}
	return err
}

// setCapabilities is capset(2).
func (g *giving) setCapabilities(effective, permitted, inheritable uint64) error {
	words := []uint64{unix.LINUX_CAPABILITY_VERSION_3, 0,
		effective, permitted, inheritable, effective >> 32, permitted >> 32, inheritable >> 32}
	var data []byte
	for _, w := range words {
		data = binary.LittleEndian.AppendUint32(data, uint32(w))
	}
	addr, err := g.pass(data)
	if err == nil {
		_, err = g.Call(unix.SYS_CAPSET, addr, addr+8)
	}
	if err != nil {
		return fmt.Errorf("set the capabilities: %w", err)
	}
	_, err = g.pass(make([]byte, len(data)))
	return err
}

// raiseAmbient sets the ambient capabilities.
func (g *giving) raiseAmbient(ambient uint64) error {
	_, err := g.Call(unix.SYS_PRCTL, unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)
	for n := uint64(0); n < 64 && err == nil; n++ {
		if ambient>>n&1 != 0 {
			_, err = g.Call(unix.SYS_PRCTL, unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_RAISE, n, 0, 0)
		}
	}
	if err != nil {
		err = fmt.Errorf("set the ambient capabilities: %w", err)
	}
	return err
}
