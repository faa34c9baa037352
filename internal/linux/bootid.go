package linux

import (
	"fmt"
	"os"
	"strings"
)

// bootIDLen is the length of a UUID in text, RFC 9562 section 4.
const bootIDLen = 36

// BootID is the kernel's name for the time since the machine was started, 36
// characters (random(4), "boot_id").
func BootID() (string, error) {
	const path = "/proc/sys/kernel/random/boot_id"
	b, err := os.ReadFile(path)
	if err != nil {
		return "", fmt.Errorf("read the boot id: %w", err)
	}
	id := strings.TrimSuffix(string(b), "\n")
	if len(id) != bootIDLen {
		return "", fmt.Errorf("read the boot id: %s holds %d characters instead of %d", path, len(id), bootIDLen)
	}
	return id, nil
}
