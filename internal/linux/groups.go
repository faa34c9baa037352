package linux

import (
	"fmt"
	"os"
	"os/user"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// Groups are the users other than root that /etc/group and /etc/passwd have in
// each group. Directories of the system can be writable by a group that has none
// (/usr/local/lib, root:staff 2775 on Debian). Members that only another database of
// nsswitch.conf(5) has are not seen: those cannot be listed cheaply, or at all.
type Groups map[uint32][]string

// SystemGroups are the groups of this system, which are read once.
var SystemGroups = sync.OnceValue(func() Groups { return ReadGroups("/etc/group", "/etc/passwd") })

// ReadGroups reads group(5) and passwd(5). A group that is in neither file, or
// all of them if a file cannot be read, counts as one with members.
func ReadGroups(group, passwd string) Groups {
	members := Groups{}
	groups, err := os.ReadFile(group)
	if err != nil {
		return nil
	}
	users, err := os.ReadFile(passwd)
	if err != nil {
		return nil
	}
	root := map[string]bool{}
	primary := map[uint32][]string{}
	for line := range strings.Lines(string(users)) { // name:password:uid:gid:…
		f := strings.Split(strings.TrimSpace(line), ":")
		if len(f) < 4 {
			continue
		}
		gid, err := strconv.ParseUint(f[3], 10, 32)
		if err != nil {
			continue
		}
		if f[2] == "0" {
			root[f[0]] = true
		} else {
			primary[uint32(gid)] = append(primary[uint32(gid)], f[0])
		}
	}
	for line := range strings.Lines(string(groups)) { // name:password:gid:member,member
		f := strings.Split(strings.TrimSpace(line), ":")
		if len(f) < 4 {
			continue
		}
		n, err := strconv.ParseUint(f[2], 10, 32)
		if err != nil {
			continue
		}
		gid := uint32(n)
		members[gid] = append(members[gid], primary[gid]...)
		for name := range strings.SplitSeq(f[3], ",") {
			if name = strings.TrimSpace(name); name != "" && !root[name] {
				members[gid] = append(members[gid], name)
			}
		}
	}
	return members
}

// Empty reports whether a group is known to have no members, so that what it may do only
// root may.
func (g Groups) Empty(gid uint32) bool {
	members, known := g[gid]
	return known && len(members) == 0
}

// Writers names the users other than root who may write to an open file or directory that
// belongs to root, "" for none. What its group may do counts unless empty reports that the
// group has no members. With an ACL, or where it cannot be read, the group's bits are a
// mask, which may stand for any user or group (acl(5)).
func Writers(fd int, st *unix.Stat_t, empty func(gid uint32) bool) string {
	switch {
	case st.Mode&0o002 != 0:
		return "every user"
	case st.Mode&0o020 == 0:
		return ""
	}
	// Of a descriptor made with O_PATH fgetxattr(2) reads nothing.
	acl, err := HasACL(fmt.Sprintf("/proc/self/fd/%d", fd))
	switch {
	case acl || err != nil:
		return "the users in its ACL"
	case empty(st.Gid):
		return ""
	}
	return groupName(st.Gid)
}

// HasACL reports whether a file has an access ACL (acl(5)), so that its group's bits are
// not the group's alone. A file system without ACLs has none.
func HasACL(path string) (bool, error) {
	switch _, err := syscall.Getxattr(path, "system.posix_acl_access", nil); err {
	case nil:
		return true, nil
	case syscall.ENODATA, syscall.ENOTSUP:
		return false, nil
	default:
		return false, fmt.Errorf("read the ACL of %s: %w", path, err)
	}
}

func groupName(gid uint32) string {
	id := strconv.FormatUint(uint64(gid), 10)
	if g, err := user.LookupGroupId(id); err == nil {
		return fmt.Sprintf("group %s (%s)", g.Name, id)
	}
	return "group " + id
}
