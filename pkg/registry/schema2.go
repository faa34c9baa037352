package registry

import (
	"encoding/json"

	bolt "go.etcd.io/bbolt"
)

// deps2 is what schema 2 has of the paths on which an image depends, in Deps.
type deps2 struct {
	Checks      []struct{ Path string }
	Directories []struct {
		Path   string
		Misses []string
	} `json:"folders"`
}

// migrateTo3 enters in each record on which paths its image depends beside the libraries, and
// these in the index. A damaged record stays as it is.
func migrateTo3(tx *bolt.Tx) error {
	if _, err := tx.CreateBucketIfNotExists(lookupBucket); err != nil {
		return err
	}
	for _, kv := range pairs(tx, recordsBucket, "") {
		s, err := decodeStored(kv[0], []byte(kv[1]))
		if err != nil || s.Image == nil {
			continue
		}
		was := s.Image.Lookups
		s.Image.Lookups = lookups2(s.Image.Deps)
		if s.Image.validate() != nil {
			s.Image.Lookups = was
		}
		if err := insert(tx, kv[0], s); err != nil {
			return err
		}
	}
	return nil
}

func lookups2(raw json.RawMessage) (paths []string) {
	var deps deps2
	if json.Unmarshal(raw, &deps) != nil {
		return nil
	}
	for _, c := range deps.Checks {
		paths = append(paths, c.Path)
	}
	for _, f := range deps.Directories {
		paths = append(append(paths, f.Path), f.Misses...)
	}
	return paths
}
