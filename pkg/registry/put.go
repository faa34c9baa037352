package registry

import (
	"cmp"
	"fmt"
	"path/filepath"
	"slices"

	bolt "go.etcd.io/bbolt"
)

// Put enters a record, with or without an image. It takes the place of every record of
// the same binary (device and inode), and its paths are taken away from other records: a
// path leads to one file. A record that has no path left goes. What went is returned, so
// that the caller can remove its image and index link, if it had them; a record with the
// same id as the new one is changed in place and not returned, for its image is still in
// use.
//
// Put ends no wish: the names of a record of the same binary that the new one does not
// have stay, with their ways in, as a record without an image.
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
	binaryKey, same, err := dropBinary(tx, rec)
	if err != nil {
		return nil, err
	}
	pathKey, bare, err := takePaths(tx, rec)
	if err != nil {
		return nil, err
	}
	key := cmp.Or(binaryKey, pathKey)
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
	if !rec.HasImage() {
		return nil
	}
	key := string(tx.Bucket(idBucket).Get([]byte(rec.ID)))
	if key == "" {
		return nil
	}
	if s, err := load(tx, key); err != nil || s.Image == nil || s.Image.Binary.Inode() != rec.Binary.Inode() {
		return fmt.Errorf("%w: %s is that of %s", ErrDuplicateID, rec.ID, key)
	}
	return nil
}

// dropBinary deletes the records of rec's binary, but for names that rec does not have.
// It returns the key of a whole one, which the new record is to have.
func dropBinary(tx *bolt.Tx, rec *Record) (key string, dropped []Record, err error) {
	if !rec.HasImage() {
		return "", nil, nil
	}
	for _, m := range matches(tx, inodeBucket, rec.Binary.Inode().String()+"\x00") {
		s, err := load(tx, m.key)
		if err == nil && !s.has(m.key, m.entry) {
			// Another record's: only the index is wrong.
			if err := deleteEntry(tx, m.entry); err != nil {
				return "", nil, err
			}
			continue
		}
		if dropErr := drop(tx, m.key); dropErr != nil {
			return "", nil, dropErr
		}
		if err != nil {
			continue
		}
		key = m.key
		if s.Image.ID != rec.ID {
			dropped = append(dropped, s.record())
		}
		if err := keepRest(tx, s.Wish, rec); err != nil {
			return "", nil, err
		}
	}
	return key, dropped, nil
}

// keepRest enters what rec does not have of a wish that its record was of.
func keepRest(tx *bolt.Tx, w Wish, rec *Record) error {
	rest, ok := w.Without(func(name string) bool { return slices.Contains(rec.Names(), name) })
	if !ok {
		return nil
	}
	key, err := newKey(tx)
	if err != nil {
		return err
	}
	rest.Reason = fmt.Sprintf("%s is not the same file as %s any more", rest.Program, rec.Program)
	return insert(tx, key, &stored{Wish: rest})
}

// takePaths takes rec's names away from other records, and deletes those that have
// none left. It returns the key of one of these, and the whole ones.
func takePaths(tx *bolt.Tx, rec *Record) (key string, dropped []Record, err error) {
	for _, name := range rec.Names() {
		for _, m := range matches(tx, pathBucket, name+"\x00") {
			old, err := takePath(tx, m, name)
			if err != nil {
				return "", nil, err
			}
			if old != nil {
				key, dropped = m.key, append(dropped, old.record())
			}
		}
	}
	return key, dropped, nil
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
	rest, ok := old.Wish.Without(func(n string) bool { return n == name })
	if !ok {
		return old, nil
	}
	old.Wish = rest
	return nil, insert(tx, m.key, old)
}

// Delete takes out the entry with this image id, all digits of it, and returns what
// it was. One without an image is named by an absolute path of its program. A damaged
// one is left alone (a *DamagedError): see Forget.
func (r *Registry) Delete(name string) (deleted Record, err error) {
	err = r.update(func(tx *bolt.Tx) error {
		all, bad := loadAll(tx, exactly(tx, name))
		switch {
		case len(bad) > 0:
			return bad[0]
		case len(all) == 0:
			return fmt.Errorf("%w: %s", ErrNotFound, name)
		}
		deleted = all[0]
		return drop(tx, exactly(tx, name)[0].key)
	})
	return deleted, err
}

// exactly is where the entry of an image id, or of an absolute path, is.
func exactly(tx *bolt.Tx, name string) []match {
	if filepath.IsAbs(name) {
		return matches(tx, pathBucket, name+"\x00")
	}
	if key := tx.Bucket(idBucket).Get([]byte(name)); key != nil {
		return []match{{indexEntry{string(idBucket), name}, string(key)}}
	}
	return nil
}
