package registry

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	bolt "go.etcd.io/bbolt"

	"github.com/residentctl/residentctl/internal/linux"
	"github.com/residentctl/residentctl/internal/problem"
)

// DamagedError is an ErrCorrupt of one record. What it says of the record beside the
// key is what the indexes say, and is for people and for looking: nothing may be
// removed because of it. What belongs to a damaged record is no garbage until the
// record has been replaced (Put) or forgotten (Forget).
type DamagedError struct {
	Key      string
	IDs      []string      // of its image
	Names    []string      // paths of its program
	Binaries []linux.Inode // of its program
	Err      error         // what is wrong with it
}

func (e *DamagedError) Error() string {
	return fmt.Sprintf("the record %s is damaged: %v", e.Key, e.Err)
}
func (e *DamagedError) Unwrap() error { return e.Err }

// Is makes it an ErrCorrupt.
func (e *DamagedError) Is(target error) bool { return target == ErrCorrupt }

// Of says in one line what the indexes say of it, "" if nothing.
func (e *DamagedError) Of() string {
	var known []string
	if len(e.Names) > 0 {
		known = append(known, strings.Join(e.Names, ", "))
	}
	if len(e.IDs) > 0 {
		known = append(known, "image "+strings.Join(e.IDs, ", "))
	}
	return strings.Join(known, ": ")
}

// AsProblem names the ways out.
func (e *DamagedError) AsProblem() *problem.Problem {
	program := "PROGRAM"
	if len(e.Names) > 0 {
		program = e.Names[0]
	}
	return (&problem.Problem{Kind: problem.Store}).
		WithHint("run `residentctl add %s` to enter it again, or `residentctl remove %s` to forget it; until then gc removes nothing", program, e.Key)
}

// damaged is what the indexes say of a damaged record.
func damaged(tx *bolt.Tx, key string, err error) *DamagedError {
	d := &DamagedError{Key: key, Err: err}
	for _, e := range entriesOf(tx, key, idBucket, pathBucket, inodeBucket) {
		switch b, ok := linux.ParseInode(e.name()); {
		case e.bucket == string(idBucket):
			d.IDs = append(d.IDs, e.key)
		case e.bucket == string(pathBucket):
			d.Names = append(d.Names, e.name())
		case ok:
			d.Binaries = append(d.Binaries, b)
		}
	}
	slices.Sort(d.IDs)
	slices.Sort(d.Names)
	return d
}

// faulty is all that kept a method from reading the registry whole, in one line.
type faulty []error

func (f faulty) Error() string {
	if len(f) == 1 {
		return f[0].Error()
	}
	return fmt.Sprintf("%v, and %d more", f[0], len(f)-1)
}
func (f faulty) Unwrap() []error { return f }

func allFaults(faults []error) error {
	if len(faults) == 0 {
		return nil
	}
	return faulty(faults)
}

// Damaged returns the damaged records that an error of this package is about.
func Damaged(err error) (all []*DamagedError) {
	var several faulty
	if !errors.As(err, &several) {
		several = faulty{err}
	}
	for _, err := range several {
		var one *DamagedError
		if errors.As(err, &one) {
			all = append(all, one)
		}
	}
	return all
}

// Forget takes out a damaged record, by its key, and all index entries that lead to
// it. One that is not damaged is left alone, and an error.
func (r *Registry) Forget(key string) error {
	return r.update(func(tx *bolt.Tx) error {
		_, err := load(tx, key)
		switch {
		case err == nil:
			return fmt.Errorf("the record %s is not damaged", key)
		case tx.Bucket(recordsBucket).Get([]byte(key)) == nil && len(entriesOf(tx, key, indexBuckets...)) == 0:
			return fmt.Errorf("%w: %s", ErrNotFound, key)
		}
		return drop(tx, key)
	})
}
