package registry

import (
	"fmt"
	"slices"

	bolt "go.etcd.io/bbolt"
)

// Put enters a record. It takes the place of every record of the same binary
// (device and inode), and its paths are taken away from records of other
// binaries: a path leads to one file. A record that has no path left goes. What
// went is returned, so that the caller can remove its image and index link; a
// record with the same id as the new one is changed in place and not returned,
// for its image is still in use. Of an entry that could not be decoded only
// the fields that the indexes hold are returned.
func (r *Registry) Put(rec Record) (replaced []Record, err error) {
	if err := rec.validate(); err != nil {
		return nil, fmt.Errorf("enter %s: %w", rec.Program, err)
	}
	err = r.update(func(tx *bolt.Tx) error {
		if err := refuseTakenID(tx, &rec); err != nil {
			return err
		}
		same, err := dropBinary(tx, &rec)
		if err != nil {
			return err
		}
		bare, err := takePaths(tx, &rec)
		if err != nil {
			return err
		}
		replaced = append(same, bare...)
		return insert(tx, &rec)
	})
	if err != nil {
		return nil, err
	}
	return replaced, nil
}

func refuseTakenID(tx *bolt.Tx, rec *Record) error {
	key := string(tx.Bucket(idBucket).Get([]byte(rec.ID)))
	prefix := inodePrefix(rec.Binary.Dev, rec.Binary.Ino)
	if key != "" && (len(key) < len(prefix) || key[:len(prefix)] != prefix) {
		return fmt.Errorf("%w: %s is %s", ErrDuplicateID, rec.ID, key)
	}
	return nil
}

// dropBinary deletes the records of rec's binary.
func dropBinary(tx *bolt.Tx, rec *Record) (dropped []Record, err error) {
	for _, kv := range pairs(tx, recordsBucket, inodePrefix(rec.Binary.Dev, rec.Binary.Ino)) {
		old, err := drop(tx, kv[0])
		if err != nil {
			return nil, err
		}
		if old.ID != rec.ID {
			dropped = append(dropped, old)
		}
	}
	return dropped, nil
}

// takePaths takes rec's names away from the records of other binaries, and
// deletes those that have none left or that cannot be decoded.
func takePaths(tx *bolt.Tx, rec *Record) (dropped []Record, err error) {
	for _, name := range rec.Names() {
		for _, kv := range pairs(tx, pathBucket, name+"\x00") {
			if tx.Bucket(recordsBucket).Get([]byte(kv[1])) == nil {
				if err := tx.Bucket(pathBucket).Delete([]byte(kv[0])); err != nil {
					return nil, err
				}
				continue
			}
			old, err := drop(tx, kv[1])
			if err != nil {
				return nil, err
			}
			rest := slices.DeleteFunc(old.Names(), func(n string) bool { return n == name })
			if len(rest) == 0 || old.validate() != nil {
				dropped = append(dropped, old)
				continue
			}
			old.Program, old.Paths = rest[0], rest[1:]
			if err := insert(tx, &old); err != nil {
				return nil, err
			}
		}
	}
	return dropped, nil
}

// Delete takes out the entry with this id, all digits of it, and returns what
// it was. An entry that cannot be decoded can be deleted too.
func (r *Registry) Delete(id string) (deleted Record, err error) {
	err = r.update(func(tx *bolt.Tx) error {
		key := tx.Bucket(idBucket).Get([]byte(id))
		if key == nil {
			return fmt.Errorf("%w: id %s", ErrNotFound, id)
		}
		deleted, err = drop(tx, string(key))
		return err
	})
	return deleted, err
}
