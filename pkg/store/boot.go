package store

import (
	"fmt"
	"os"
)

// bootIDLen is the length of /proc/sys/kernel/random/boot_id without its newline.
const bootIDLen = 36

// StampBoot notes in which boot of the machine which CPU and vDSO were found
// (fingerprint.MachineSum). The launcher reads the file as it is: the boot id, a
// newline, machineSum as 16 hex digits, a newline.
func (s *Store) StampBoot(bootID string, machineSum uint64) error {
	path := s.in(bootName)
	if len(bootID) != bootIDLen {
		return wrap("write", path, fmt.Errorf("boot id %q has not %d characters", bootID, bootIDLen))
	}
	data := formatBoot(bootID, machineSum)
	return wrap("write", path, s.replace(path, "stamp", func(path string) error {
		return writeFile(path, []byte(data), 0o644)
	}))
}

func formatBoot(bootID string, machineSum uint64) string {
	return fmt.Sprintf("%s\n%016x\n", bootID, machineSum)
}

// ReadBoot is what StampBoot wrote last; fs.ErrNotExist if it never did.
func (s *Store) ReadBoot() (bootID string, machineSum uint64, err error) {
	path := s.in(bootName)
	data, err := os.ReadFile(path)
	if err != nil {
		return "", 0, wrap("read", path, err)
	}
	if len(data) > bootIDLen {
		bootID = string(data[:bootIDLen])
		_, err = fmt.Sscanf(string(data[bootIDLen:]), "\n%16x\n", &machineSum)
	}
	if err != nil || formatBoot(bootID, machineSum) != string(data) {
		return "", 0, wrap("read", path, fmt.Errorf("not a boot stamp: %.60q", data))
	}
	return bootID, machineSum, nil
}
