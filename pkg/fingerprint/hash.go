package fingerprint

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"sync"
	"syscall"

	"github.com/residentctl/residentctl/internal/linux"
	"github.com/residentctl/residentctl/internal/problem"
)

// ErrChanged says that a file changed while it was being recorded. Trying
// again may well succeed.
var ErrChanged error = problem.Newf(problem.Program, "changed while it was being recorded").
	WithHint("try again; something was being installed or upgraded")

// hashed remembers the hashes of this process, FileID to hexadecimal string:
// programs share most of their libraries.
var hashed sync.Map

// HashFile returns the identity and the SHA-256 of the regular file that path
// leads to. They belong together: a file that changes meanwhile is
// ErrChanged. Within one process a file is read once per identity.
func HashFile(path string) (File, error) {
	id, err := StatID(path)
	if err != nil {
		return File{}, err
	}
	if sum, ok := hashed.Load(id); ok {
		return File{Path: path, ID: id, SHA256: sum.(string)}, nil
	}
	return readFile(path)
}

// readFile is HashFile without memory.
func readFile(path string) (File, error) {
	at, _, err := look(path)
	if err != nil {
		return File{}, err
	}
	// O_NONBLOCK, or opening a pipe would wait for its writer.
	f, err := os.OpenFile(at, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return File{}, err
	}
	defer f.Close()
	var st syscall.Stat_t
	if err := linux.EINTR(func() error { return syscall.Fstat(int(f.Fd()), &st) }); err != nil {
		return File{}, fmt.Errorf("stat %s: %w", path, err)
	}
	if st.Mode&syscall.S_IFMT != syscall.S_IFREG {
		return File{}, fmt.Errorf("hash %s: not a regular file", path)
	}
	before := linux.IDOf(&st)
	now, err := linux.CoarseNow()
	if err != nil {
		return File{}, err
	}
	sum := sha256.New()
	buf := make([]byte, 256<<10)
	if _, err := io.CopyBuffer(sum, struct{ io.Reader }{f}, buf); err != nil {
		return File{}, fmt.Errorf("hash %s: %w", path, err)
	}
	// By path, so that a file that was replaced is noticed like one that was
	// written to.
	after, err := StatID(path)
	if err != nil {
		return File{}, err
	}
	if after != before {
		return File{}, fmt.Errorf("%s %w", path, ErrChanged)
	}
	file := File{Path: path, ID: before, SHA256: hex.EncodeToString(sum.Sum(nil))}
	// A change within the same tick would leave the same identity: see Settle.
	if before.Ctime < now {
		hashed.Store(before, file.SHA256)
	}
	return file, nil
}

// hashWorkers is how many files are read at a time. Two saturate the disk of a
// small machine, and leave the rest to others.
const hashWorkers = 2

// each calls f for every index below n from hashWorkers goroutines and returns
// the first error. It stops early on an error or at the context's end.
func each(ctx context.Context, n int, f func(i int) error) error {
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	next := make(chan int)
	var wg sync.WaitGroup
	for range min(hashWorkers, n) {
		wg.Go(func() {
			for i := range next {
				if err := f(i); err != nil {
					stop(err)
				}
			}
		})
	}
feed:
	for i := range n {
		select {
		case next <- i:
		case <-ctx.Done():
			break feed
		}
	}
	close(next)
	wg.Wait()
	return context.Cause(ctx)
}
