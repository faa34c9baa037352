package linux

import (
	"fmt"
	"math"
	"os"
	"strings"
)

// OverflowUID returns the user that stat(2) shows for those that a user namespace does not know:
// user_namespaces(7), "Unmapped user and group IDs".
func OverflowUID() (uint32, error) {
	text, err := os.ReadFile("/proc/sys/kernel/overflowuid")
	if err != nil {
		return 0, err
	}
	var uid uint32
	_, err = fmt.Sscan(string(text), &uid)
	return uid, err
}

// HidesOwner reports whether the owner that stat(2) shows may be another one, whom this
// process's user namespace does not know.
func HidesOwner(uid uint32) bool {
	overflow, err := OverflowUID()
	if err != nil || uid != overflow {
		return false
	}
	ids, err := os.ReadFile("/proc/self/uid_map")
	return err == nil && !mapsAll(string(ids))
}

// mapsAll reports whether a uid_map has all users: all numbers but the last, which
// stands for none (user_namespaces(7), "User and group ID mappings").
func mapsAll(ids string) bool {
	var all uint64
	for line := range strings.Lines(ids) {
		var from, to, count uint64
		if _, err := fmt.Sscan(line, &from, &to, &count); err == nil {
			all += count
		}
	}
	return all >= math.MaxUint32
}

// MapsOneUser reports whether this process's user namespace knows a single user, so
// that its root can become nobody else (user_namespaces(7)).
func MapsOneUser() bool {
	ids, err := os.ReadFile("/proc/self/uid_map")
	return err == nil && mapsOne(string(ids))
}

// mapsOne reports whether a uid_map has one user.
func mapsOne(ids string) bool {
	var from, to, count uint64
	_, err := fmt.Sscan(ids, &from, &to, &count)
	return err == nil && count == 1 && strings.Count(ids, "\n") == 1
}
