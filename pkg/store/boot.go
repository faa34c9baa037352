package store

import (
	"fmt"
	"os"
)

// bootIDLen is the length of /proc/sys/kernel/random/boot_id without its newline.
const bootIDLen = 36

// Boot is a boot of the machine, and the CPU and vDSO that were found in it.
type Boot struct {
	ID         string // linux.BootID
	MachineSum uint64 // fingerprint.MachineSum
	Mark       uint64 // linux.BootMark
}

// StampBoot notes in which boot of the machine which CPU and vDSO were found. The
// launcher reads the file as it is: the boot id and the two numbers as 16 hex digits,
// each with a newline.
func (s *Store) StampBoot(b Boot) error {
	path := s.in(bootName)
	if len(b.ID) != bootIDLen {
		return wrap("write", path, fmt.Errorf("boot id %q has not %d characters", b.ID, bootIDLen))
	}
	return wrap("write", path, s.replace(path, "stamp", func(path string) error {
		return writeFile(path, []byte(b.String()), 0o644)
	}))
}

// String returns what the stamp of the boot holds.
func (b Boot) String() string {
	return fmt.Sprintf("%s\n%016x\n%016x\n", b.ID, b.MachineSum, b.Mark)
}

// ReadBoot returns what StampBoot wrote last; fs.ErrNotExist if it never did.
func (s *Store) ReadBoot() (Boot, error) {
	path := s.in(bootName)
	data, err := os.ReadFile(path)
	if err != nil {
		return Boot{}, wrap("read", path, err)
	}
	var b Boot
	if len(data) > bootIDLen {
		b.ID = string(data[:bootIDLen])
		_, err = fmt.Sscanf(string(data[bootIDLen:]), "\n%16x\n%16x\n", &b.MachineSum, &b.Mark)
	}
	if err != nil || b.String() != string(data) {
		return Boot{}, wrap("read", path, fmt.Errorf("not a boot stamp: %.80q", data))
	}
	return b, nil
}
