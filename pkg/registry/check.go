package registry

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	bolt "go.etcd.io/bbolt"

	"github.com/residentctl/residentctl/internal/linux"
)

// Fault is one thing that is wrong with a registry.
type Fault struct {
	Kind  FaultKind `json:"kind"`
	Where string    `json:"where"` // bucket and key, or the file
	What  string    `json:"what"`
}

func (f Fault) String() string { return fmt.Sprintf("%s: %s: %s", f.Kind, f.Where, f.What) }

// FaultKind is the kind of a fault.
type FaultKind string

// Kinds of fault.
const (
	FaultPage      FaultKind = "page"      // the file is damaged as a bbolt file
	FaultBucket    FaultKind = "bucket"    // a bucket is missing, or none of ours
	FaultSchema    FaultKind = "schema"    // no version, or not this program's
	FaultOlder     FaultKind = "older"     // an older schema, in which nothing was looked at
	FaultRecord    FaultKind = "record"    // a record is damaged (DamagedError)
	FaultTwice     FaultKind = "twice"     // a binary or a path has two records
	FaultDangling  FaultKind = "dangling"  // an index entry without its record
	FaultUnindexed FaultKind = "unindexed" // a record without its index entry
	FaultIndex     FaultKind = "index"     // an index entry that its record disowns
)

// Where of a Fault that concerns no bucket, and of one in the schema version.
const (
	whereFile = "the file"
	whereMeta = "meta/schema"
)

// At returns the registry at path, whatever state it is in: nothing is opened, made or
// looked at yet. It is for Check.
func At(path string, opts Options) *Registry {
	if opts.Timeout == 0 {
		opts.Timeout = DefaultTimeout
	}
	return &Registry{path: path, opts: opts}
}

// Check reports every fault. Its error says only that the file could not be
// opened or locked. Nothing is changed.
func (r *Registry) Check() ([]Fault, error) {
	_, faults, err := r.Whole()
	return faults, err
}

// Whole is List of a registry that is without a fault, and else Check.
func (r *Registry) Whole() ([]Record, []Fault, error) {
	c, err := r.check()
	if err != nil || len(c.faults) > 0 {
		return nil, c.faults, r.wrap("check registry", err)
	}
	return recordsOf(c.all), nil, nil
}

func (r *Registry) check() (*checker, error) {
	file, err := openLocked(r.path, os.O_RDONLY, r.opts.Timeout)
	c := &checker{}
	if err != nil {
		return c, err
	}
	defer file.Close()
	for _, what := range r.scan(file) {
		c.fault(FaultPage, whereFile, "%s", what)
	}
	if len(c.faults) > 0 {
		return c, nil
	}
	err = withBolt(file, true, func(db *bolt.DB) error {
		return db.View(func(tx *bolt.Tx) error { c.database(tx); return nil })
	})
	if err != nil {
		c.fault(FaultPage, whereFile, "%v", err)
	}
	slices.SortFunc(c.faults, func(a, b Fault) int { return cmp.Compare(a.String(), b.String()) })
	return c, nil
}

type checker struct {
	faults []Fault
	all    []*stored // that are whole
}

func (c *checker) fault(kind FaultKind, where, format string, args ...any) {
	c.faults = append(c.faults, Fault{kind, where, fmt.Sprintf(format, args...)})
}

func (c *checker) database(tx *bolt.Tx) {
	for err := range tx.Check() {
		c.fault(FaultPage, whereFile, "%v", err)
	}
	err := requireSchema(tx)
	switch {
	case errors.Is(err, ErrOlderSchema): // the next writer migrates it
		c.fault(FaultOlder, whereMeta, "%v", err)
		return
	case err != nil:
		c.fault(FaultSchema, whereMeta, "%v", err)
		if errors.Is(err, ErrNewerSchema) {
			return // what the rest should look like is not known
		}
	}
	if !c.buckets(tx) {
		return
	}
	known := c.records(tx)
	for _, bucket := range indexBuckets {
		c.index(tx, bucket, known)
	}
	for _, k := range known {
		c.indexed(tx, k)
	}
	c.paths(tx)
}

func (c *checker) buckets(tx *bolt.Tx) bool {
	ours := make(map[string]bool)
	complete := true
	for _, name := range allBuckets() {
		ours[string(name)] = true
		if tx.Bucket(name) == nil {
			c.fault(FaultBucket, string(name), "missing")
			complete = false
		}
	}
	_ = tx.ForEach(func(name []byte, _ *bolt.Bucket) error {
		if !ours[string(name)] {
			c.fault(FaultBucket, string(name), "unknown")
		}
		return nil
	})
	return complete
}

// A knownRecord is a record and how many index entries lead to it that it wants.
type knownRecord struct {
	key     string
	stored  *stored // nil if it is damaged
	indexed int
}

// records checks each record, and returns all by key.
func (c *checker) records(tx *bolt.Tx) map[string]*knownRecord {
	known := make(map[string]*knownRecord)
	binaries := make(map[linux.Inode]string)
	for _, d := range decodeAll(tx) {
		key, s, where := d.key, d.stored, "records/"+d.key
		known[key] = &knownRecord{key: key, stored: s}
		if d.err != nil {
			known[key].stored = nil
			c.fault(FaultRecord, where, "%v", d.err)
			continue
		}
		c.all = append(c.all, s)
		if s.Image != nil {
			binary := s.Image.Binary.Inode()
			if other, ok := binaries[binary]; ok {
				c.fault(FaultTwice, where, "the same binary as %s", other)
			}
			binaries[binary] = key
		}
	}
	return known
}

// indexed checks that the entries of a record are there, if there are not as many.
func (c *checker) indexed(tx *bolt.Tx, k *knownRecord) {
	if k.stored == nil || k.stored.countEntries() == k.indexed {
		return
	}
	where := "records/" + k.key
	for _, e := range k.stored.entries(k.key) {
		v := tx.Bucket([]byte(e.bucket)).Get([]byte(e.key))
		if v == nil {
			c.fault(FaultUnindexed, where, "not in %s", e)
		} else if string(v) != k.key {
			c.fault(FaultUnindexed, where, "%s leads to %s", e, v)
		}
	}
}

// index checks that each entry leads to a record that wants it. Of a record
// that is damaged (nil) nothing is known.
func (c *checker) index(tx *bolt.Tx, bucket []byte, known map[string]*knownRecord) {
	name, cursor := string(bucket), tx.Bucket(bucket).Cursor()
	for key, value := cursor.First(); key != nil; key, value = cursor.Next() {
		e := indexEntry{name, string(key)}
		switch k := known[string(value)]; {
		case k == nil:
			c.fault(FaultDangling, e.String(), "no record %s", value)
		case k.stored == nil:
		case k.stored.has(k.key, e):
			k.indexed++
		default:
			c.fault(FaultIndex, e.String(), "record %s does not have this", k.key)
		}
	}
}

// paths checks that no path leads to two records.
func (c *checker) paths(tx *bolt.Tx) {
	var last []byte
	cursor := tx.Bucket(pathBucket).Cursor()
	for key, _ := cursor.First(); key != nil; key, _ = cursor.Next() {
		path, _, _ := bytes.Cut(key, []byte{0})
		if last != nil && bytes.Equal(path, last) {
			c.fault(FaultTwice, "by-path/"+string(path), "leads to more than one record")
		}
		last = path
	}
}

func (e indexEntry) String() string {
	return e.bucket + "/" + strings.ReplaceAll(e.key, "\x00", " ")
}
