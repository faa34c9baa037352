package registry

import (
	"fmt"
	"strconv"

	bolt "go.etcd.io/bbolt"
)

// schemaVersion is what this program writes.
//
//   - Version 1: records as JSON without a checksum, under the binary's device and
//     inode and the digest; indexes by id, path and library, of which the last two
//     end in the image's id.
//   - Version 2: records as in stored.go, under keys that say nothing; an index by
//     inode, and indexes that end in the record's key.
//   - Version 3: an index of further paths on which images depend.
const schemaVersion = 3

var (
	metaBucket    = []byte("meta")
	recordsBucket = []byte("records")
	schemaKey     = []byte("schema")
)

// migrations bring a registry of version n to version n+1, each in the
// transaction that first writes to it.
var migrations = map[int]func(*bolt.Tx) error{1: migrateTo2, 2: migrateTo3}

func initSchema(tx *bolt.Tx) error {
	for _, name := range allBuckets() {
		if _, err := tx.CreateBucketIfNotExists(name); err != nil {
			return err
		}
	}
	return setSchema(tx, schemaVersion)
}

func allBuckets() [][]byte {
	return append([][]byte{metaBucket, recordsBucket}, indexBuckets...)
}

func setSchema(tx *bolt.Tx, version int) error {
	return tx.Bucket(metaBucket).Put(schemaKey, []byte(strconv.Itoa(version)))
}

func schemaOf(tx *bolt.Tx) (int, error) {
	meta := tx.Bucket(metaBucket)
	if meta == nil {
		return 0, errNotARegistry
	}
	version, err := strconv.Atoi(string(meta.Get(schemaKey)))
	if err != nil || version < 1 {
		return 0, corruptf("schema version %q", meta.Get(schemaKey))
	}
	return version, nil
}

// requireSchema is for readers: the registry must be of this very version.
func requireSchema(tx *bolt.Tx) error {
	version, err := schemaOf(tx)
	if err != nil {
		return err
	}
	if version < schemaVersion {
		return fmt.Errorf("%w: schema %d, this one reads %d", ErrOlderSchema, version, schemaVersion)
	}
	if err := refuseNewer(version, schemaVersion); err != nil {
		return err
	}
	return requireBuckets(tx)
}

func refuseNewer(version, mine int) error {
	if version > mine {
		return fmt.Errorf("%w: schema %d, this one reads up to %d", ErrNewerSchema, version, mine)
	}
	return nil
}

func requireBuckets(tx *bolt.Tx) error {
	for _, name := range allBuckets() {
		if tx.Bucket(name) == nil {
			return corruptf("bucket %q is missing", name)
		}
	}
	return nil
}

// migrate is for writers: it brings the registry to version to, a step at a
// time.
func migrate(tx *bolt.Tx, to int, steps map[int]func(*bolt.Tx) error) error {
	version, err := schemaOf(tx)
	if err != nil {
		return err
	}
	if err := refuseNewer(version, to); err != nil {
		return err
	}
	for ; version < to; version++ {
		step := steps[version]
		if step == nil {
			return fmt.Errorf("%w: no way from schema %d to %d", ErrOlderSchema, version, version+1)
		}
		if err := step(tx); err != nil {
			return fmt.Errorf("bring schema %d to %d: %w", version, version+1, err)
		}
		if err := setSchema(tx, version+1); err != nil {
			return err
		}
	}
	return requireBuckets(tx)
}
