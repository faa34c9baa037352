package registry

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime/debug"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/residentctl/residentctl/internal/linux"

	bolt "go.etcd.io/bbolt"
)

// DefaultTimeout is how long a method waits for another process's transaction.
const DefaultTimeout = 5 * time.Second

// Options say how a registry is used.
type Options struct {
	ReadOnly bool
	// Existing: none is made. One that is missing reads as empty, and stays
	// missing: a reader of a store must not make what add makes, or
	// a registry that was lost could not be told from one that never was.
	Existing bool
	// Timeout is how long each method waits for the lock; 0 is DefaultTimeout.
	Timeout time.Duration
	// Mode is that of a file which Open makes; 0 is 0600: it names every
	// program, and who can open a file can keep it locked. An existing one
	// that lets others read loses those bits, unless it is opened for reading
	// only; one that others may write to is ErrUnsafe.
	Mode fs.FileMode
}

// Registry is a registry file. Nothing is open between two calls, so there is
// nothing to close. Its methods may be called from any goroutine.
type Registry struct {
	path string
	opts Options

	mu      sync.Mutex
	scanned linux.FileID // the file when its pages were last checked, and found good
}

// Open checks the registry at path. When it is missing it is made, unless it is
// only to be used if it exists; with ReadOnly alone the error is fs.ErrNotExist.
// A registry of an older schema is brought up to date, unless it is opened for
// reading only. Otherwise nothing is written. Only writers wait for a lock that
// readers hold.
func Open(path string, opts Options) (*Registry, error) {
	if opts.Timeout == 0 {
		opts.Timeout = DefaultTimeout
	}
	if opts.Mode == 0 {
		opts.Mode = 0o600
	}
	r := &Registry{path: path, opts: opts}
	err := r.view(nothing)
	if opts.ReadOnly {
		return r.orFail(err)
	}
	if errors.Is(err, fs.ErrNotExist) {
		if err = r.create(); err == nil {
			err = r.view(nothing) // another's may have come first
		}
	}
	if errors.Is(err, ErrOlderSchema) {
		err = r.update(nothing)
	}
	if err == nil {
		err = r.wrap("set the mode of", r.tighten())
	}
	return r.orFail(err)
}

// tighten removes the permissions that the file's mode has too much.
func (r *Registry) tighten() error {
	info, err := os.Stat(r.path)
	if r.opts.Existing && errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil || info.Mode().Perm()&^r.opts.Mode == 0 {
		return err
	}
	return os.Chmod(r.path, info.Mode().Perm()&r.opts.Mode)
}

func nothing(*bolt.Tx) error { return nil }

func (r *Registry) orFail(err error) (*Registry, error) {
	if err != nil {
		return nil, err
	}
	return r, nil
}

// Path returns where the registry is.
func (r *Registry) Path() string { return r.path }

// view does one transaction that changes nothing. Where a missing registry is an
// empty one there is none to do.
func (r *Registry) view(fn func(*bolt.Tx) error) error {
	err := r.session(os.O_RDONLY, func(db *bolt.DB) error {
		return db.View(func(tx *bolt.Tx) error {
			if err := requireSchema(tx); err != nil {
				return err
			}
			return fn(tx)
		})
	})
	if r.opts.Existing && errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return r.wrap("read registry", err)
}

// update does one transaction that may change something, on the newest schema.
func (r *Registry) update(fn func(*bolt.Tx) error) error {
	if r.opts.ReadOnly {
		return r.wrap("write registry", ErrReadOnly)
	}
	err := r.session(os.O_RDWR, func(db *bolt.DB) error {
		return db.Update(func(tx *bolt.Tx) error {
			if err := migrate(tx, schemaVersion, migrations); err != nil {
				return err
			}
			return fn(tx)
		})
	})
	return r.wrap("write registry", err)
}

func (r *Registry) wrap(doing string, err error) error {
	if err == nil {
		return nil
	}
	// bbolt hands this one on as text only (db.grow).
	if !errors.Is(err, syscall.EFBIG) && strings.HasSuffix(err.Error(), syscall.EFBIG.Error()) {
		err = fmt.Errorf("grow the file: %w", syscall.EFBIG)
	}
	return Failed(doing, r.path, err)
}

// session opens the file, locks it, checks its pages, and passes it to bbolt for
// as long as fn runs.
func (r *Registry) session(flag int, fn func(*bolt.DB) error) error {
	file, err := openLocked(r.path, flag, r.opts.Timeout)
	if err != nil {
		return err
	}
	// bbolt closes it too, but not when it panics; the lock goes with it.
	defer file.Close()
	if faults := r.scan(file); len(faults) > 0 {
		return corruptf("%s", summary(faults))
	}
	return withBolt(file, flag == os.O_RDONLY, fn)
}

// scan checks the pages of a file, unless it is as it was when nothing was wrong with them.
func (r *Registry) scan(file *os.File) []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	now, err := linux.FstatID(int(file.Fd()))
	if err == nil && now == r.scanned {
		return nil
	}
	faults := scanPages(file)
	if err == nil && len(faults) == 0 {
		r.scanned = now
	}
	return faults
}

// withBolt passes an open and locked file to bbolt. What goes wrong in a
// memory-mapped file (a page that the disk cannot read, a file that was cut
// short) comes as SIGBUS, and what bbolt does not expect it answers with a
// panic: both become ErrCorrupt. The database is not closed then, for its locks
// may be held; its mapping stays until the process ends.
func withBolt(file *os.File, readOnly bool, fn func(*bolt.DB) error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if p := recover(); p != nil {
			err = corruptf("%v", p)
		}
	}()
	db, err := bolt.Open(file.Name(), 0, &bolt.Options{
		OpenFile:     func(string, int, fs.FileMode) (*os.File, error) { return file, nil },
		ReadOnly:     readOnly,
		Timeout:      time.Second, // the lock is ours already
		FreelistType: bolt.FreelistMapType,
		NoStatistics: true,
	})
	if err != nil {
		return err
	}
	return errors.Join(fn(db), db.Close())
}
