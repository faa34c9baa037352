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
// for its image is still in use.
//
// A damaged record that goes is not returned: what its image was cannot be known
// for certain. Now that no record has that image, gc finds it.
func (r *Registry) Put(rec Record) (replaced []Record, err error) { return r.PutAll([]Record{rec}) }

// PutAll is Put for several records, of which either all are entered or none.
func (r *Registry) PutAll(records []Record) (replaced []Record, err error) {
	for i := range records {
		if err := records[i].validate(); err != nil {
			return nil, fmt.Errorf("enter %s: %w", records[i].Program, err)
		}
	}
	err = r.update(func(tx *bolt.Tx) error {
		replaced = nil
		for i := range records {
			old, err := put(tx, &records[i])
			if err != nil {
				return err
			}
			replaced = append(replaced, old...)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return replaced, nil
}

func put(tx *bolt.Tx, rec *Record) (replaced []Record, err error) {
	if err := refuseTakenID(tx, rec); err != nil {
		return nil, err
	}
	key, same, err := dropBinary(tx, rec)
	if err != nil {
		return nil, err
	}
	bare, err := takePaths(tx, rec)
	if err != nil {
		return nil, err
	}
	if key == "" {
		if key, err = newKey(tx); err != nil {
			return nil, err
		}
	}
	return append(same, bare...), insert(tx, key, storedOf(rec))
}

// refuseTakenID refuses an image id that is another binary's, or a damaged record's:
// of that it is not known whose it is.
func refuseTakenID(tx *bolt.Tx, rec *Record) error {
	key := string(tx.Bucket(idBucket).Get([]byte(rec.ID)))
	if key == "" {
		return nil
	}
	if s, err := load(tx, key); err != nil || s.Image == nil || s.Image.Binary.Inode() != rec.Binary.Inode() {
		return fmt.Errorf("%w: %s is that of %s", ErrDuplicateID, rec.ID, key)
	}
	return nil
}

// dropBinary deletes the records of rec's binary. It returns the key of a whole one,
// which the new record is to have.
func dropBinary(tx *bolt.Tx, rec *Record) (key string, dropped []Record, err error) {
	for _, m := range matches(tx, inodeBucket, rec.Binary.Inode().String()+"\x00") {
		s, err := load(tx, m.key)
		if err == nil && !s.has(m.key, m.entry) {
			// Another record's: only the index is wrong.
			if err := deleteEntry(tx, m.entry); err != nil {
				return "", nil, err
			}
			continue
		}
		if err == nil {
			key = m.key
			if s.Image.ID != rec.ID {
				dropped = append(dropped, s.record())
			}
		}
		if err := drop(tx, m.key); err != nil {
			return "", nil, err
		}
	}
	return key, dropped, nil
}

// takePaths takes rec's names away from other records, and deletes those that have
// none left.
func takePaths(tx *bolt.Tx, rec *Record) (dropped []Record, err error) {
	for _, name := range rec.Names() {
		for _, m := range matches(tx, pathBucket, name+"\x00") {
			old, err := takePath(tx, m, name)
			if err != nil {
				return nil, err
			}
			if old != nil && old.Image != nil {
				dropped = append(dropped, old.record())
			}
		}
	}
	return dropped, nil
}

// takePath takes a name away from the record that m leads to, and returns what was
// deleted for it. Of a damaged record only the indexes are known: it stays while
// they have other names of it.
func takePath(tx *bolt.Tx, m match, name string) (deleted *stored, err error) {
	if err := deleteEntry(tx, m.entry); err != nil {
		return nil, err
	}
	old, err := load(tx, m.key)
	switch {
	case err != nil && len(entriesOf(tx, m.key, pathBucket)) > 0:
		return nil, nil
	case err != nil:
		return nil, drop(tx, m.key)
	case !old.has(m.key, m.entry):
		return nil, nil
	}
	if err := drop(tx, m.key); err != nil {
		return nil, err
	}
	rest := slices.DeleteFunc(old.Wish.Names(), func(n string) bool { return n == name })
	if len(rest) == 0 {
		return old, nil
	}
	old.Wish.Program, old.Wish.Paths = rest[0], rest[1:]
	return nil, insert(tx, m.key, old)
}

// Delete takes out the entry with this image id, all digits of it, and returns what
// it was. A damaged one is left alone (a *DamagedError): see Forget.
func (r *Registry) Delete(id string) (deleted Record, err error) {
	err = r.update(func(tx *bolt.Tx) error {
		entry := indexEntry{string(idBucket), id}
		key := tx.Bucket(idBucket).Get([]byte(id))
		if key == nil {
			return fmt.Errorf("%w: id %s", ErrNotFound, id)
		}
		old, err := loadMatch(tx, match{entry, string(key)})
		if err != nil {
			return err
		}
		deleted = old.record()
		return drop(tx, string(key))
	})
	return deleted, err
}
