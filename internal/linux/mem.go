package linux

import (
	"bytes"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// PageSize is the size of a page on the architectures that are supported.
const PageSize = 4096

// iovMax is how many ranges process_vm_readv(2) takes at once (UIO_MAXIOV).
const iovMax = 1024

// ReadMem fills buf with the memory of a process from addr on. The caller
// must be allowed to trace it (ptrace(2), "Ptrace access mode checking").
func ReadMem(pid int, addr uint64, buf []byte) error {
	return ReadRanges(pid, []PageRange{{addr, addr + uint64(len(buf))}}, buf)
}

// ReadRanges reads several ranges of a process's memory one after the other
// into buf, which is as long as all of them together.
func ReadRanges(pid int, ranges []PageRange, buf []byte) error {
	for len(ranges) > 0 {
		n := min(len(ranges), iovMax)
		size := 0
		remote := make([]unix.RemoteIovec, n)
		for i, r := range ranges[:n] {
			remote[i] = unix.RemoteIovec{Base: uintptr(r.Start), Len: int(r.Len())}
			size += int(r.Len())
		}
		if size == 0 {
			ranges = ranges[n:]
			continue
		}
		local := []unix.Iovec{{Base: &buf[0]}}
		local[0].SetLen(size)
		got, err := unix.ProcessVMReadv(pid, local, remote, 0)
		if err != nil || got != size {
			// What is mapped PROT_NONE is only readable through /proc.
			if err := readProcMem(pid, ranges[:n], buf); err != nil {
				return err
			}
		}
		ranges, buf = ranges[n:], buf[size:]
	}
	return nil
}

func readProcMem(pid int, ranges []PageRange, buf []byte) error {
	f, err := os.Open(fmt.Sprintf("/proc/%d/mem", pid))
	if err != nil {
		return err
	}
	defer f.Close()
	for _, r := range ranges {
		part := buf[:r.Len()]
		if _, err := io.ReadFull(io.NewSectionReader(f, int64(r.Start), int64(r.Len())), part); err != nil {
			return fmt.Errorf("read memory of process %d at %#x: %w", pid, r.Start, err)
		}
		buf = buf[len(part):]
	}
	return nil
}

// WriteMem writes to the memory of a traced process, also where the process
// itself cannot write (a private page is copied, as a debugger wants it).
func WriteMem(pid int, addr uint64, data []byte) error {
	f, err := os.OpenFile(fmt.Sprintf("/proc/%d/mem", pid), os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := f.WriteAt(data, int64(addr)); err != nil {
		return fmt.Errorf("write memory of process %d at %#x: %w", pid, addr, err)
	}
	return nil
}

// ReadString reads the NUL-terminated string at addr, of at most limit bytes.
func ReadString(pid int, addr uint64, limit int) (string, error) {
	var s []byte
	for len(s) < limit {
		// The string may end right before an unmapped page.
		n := min(limit-len(s), int(PageSize-addr%PageSize), 256)
		part := make([]byte, n)
		if err := ReadMem(pid, addr, part); err != nil {
			return "", err
		}
		if i := bytes.IndexByte(part, 0); i >= 0 {
			return string(append(s, part[:i]...)), nil
		}
		s, addr = append(s, part...), addr+uint64(n)
	}
	return "", fmt.Errorf("string at %#x of process %d is longer than %d bytes", addr-uint64(len(s)), pid, limit)
}
