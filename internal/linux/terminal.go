package linux

import (
	"errors"
	"fmt"
	"os"
	"os/exec"

	"golang.org/x/sys/unix"
)

// OpenTerminal opens a pseudo-terminal of 24 lines and 80 columns (pty(7)), and does not make it
// anyone's controlling terminal.
func OpenTerminal() (master, terminal *os.File, err error) {
	m, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err == nil {
		if terminal, err = openPeer(m); err != nil {
			m.Close()
		}
	}
	if err != nil {
		return nil, nil, fmt.Errorf("make a pseudo-terminal: %w", err)
	}
	return m, terminal, nil
}

// GiveTerminal makes these of a command's standard streams, bit 0 for 0, a terminal.
func GiveTerminal(cmd *exec.Cmd, terminal *os.File, streams uint32) {
	if streams&(1<<0) != 0 {
		cmd.Stdin = terminal
	}
	if streams&(1<<1) != 0 {
		cmd.Stdout = terminal
	}
	if streams&(1<<2) != 0 {
		cmd.Stderr = terminal
	}
}

// openPeer unlocks the other side of a pseudo-terminal and opens it. It leaves the master as it
// is, so that closing it ends a Read.
func openPeer(master *os.File) (*os.File, error) {
	conn, err := master.SyscallConn()
	if err != nil {
		return nil, err
	}
	var number int
	var failed error
	err = conn.Control(func(fd uintptr) {
		if failed = unix.IoctlSetPointerInt(int(fd), unix.TIOCSPTLCK, 0); failed != nil {
			return
		}
		if failed = unix.IoctlSetWinsize(int(fd), unix.TIOCSWINSZ, &unix.Winsize{Row: 24, Col: 80}); failed != nil {
			return
		}
		number, failed = unix.IoctlGetInt(int(fd), unix.TIOCGPTN)
	})
	if err = errors.Join(err, failed); err != nil {
		return nil, err
	}
	return os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|unix.O_NOCTTY, 0)
}
