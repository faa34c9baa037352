package registry

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/cespare/xxhash/v2"
	bolt "go.etcd.io/bbolt"
)

// stored is what is under a key of the records bucket: a wish, and the image that
// serves it. In bytes it is a line and a JSON object:
//
//	RREC2 <XXH64 of key, newline and object, 16 lower-case hex digits>
//	{"wish":{…},"image":{…}}
//
// The sum is compared over the bytes as they are, before anything in them is
// believed. It covers the key, so a record that is under another's key is damaged too.
//
// A wish may be without an image. Only its paths are indexed then.
type stored struct {
	Wish  Wish   `json:"wish"`
	Image *Image `json:"image,omitempty"`
}

// storedMagic begins each record of schema 2.
const storedMagic = "RREC2 "

// storedHeader is how the value of a record with this key and object begins.
func storedHeader(key string, object []byte) []byte {
	sum := xxhash.New()
	_, _ = sum.WriteString(key + "\n")
	_, _ = sum.Write(object)
	return fmt.Appendf(nil, "%s%016x\n", storedMagic, sum.Sum64())
}

// newKey is a key that no record has. It is random: one bit more or less makes no
// other record's key of it. A record keeps it when its image is replaced.
func newKey(tx *bolt.Tx) (string, error) {
	for {
		var b [8]byte
		if _, err := rand.Read(b[:]); err != nil {
			return "", fmt.Errorf("make a key: %w", err)
		}
		key := "record-" + hex.EncodeToString(b[:])
		if tx.Bucket(recordsBucket).Get([]byte(key)) == nil {
			return key, nil
		}
	}
}

func encodeStored(key string, s *stored) ([]byte, error) {
	if err := s.validate(); err != nil {
		return nil, err
	}
	c := *s
	if c.Image != nil {
		image := *c.Image
		image.Created = image.Created.UTC()
		c.Image = &image
	}
	object, err := json.Marshal(&c)
	if err != nil {
		return nil, err
	}
	return append(storedHeader(key, object), object...), nil
}

func decodeStored(key string, value []byte) (*stored, error) {
	length := len(storedHeader("", nil))
	if len(value) < length || !bytes.HasPrefix(value, []byte(storedMagic)) {
		return nil, errors.New("it does not begin like a record")
	}
	object := value[length:]
	if !bytes.Equal(value[:length], storedHeader(key, object)) {
		return nil, errors.New("its checksum does not match")
	}
	var s stored
	object, deps := cutDeps(object)
	if err := json.Unmarshal(object, &s); err != nil {
		return nil, err
	}
	if deps != nil && !json.Valid(deps) {
		return nil, errors.New("its deps are not JSON")
	}
	if deps != nil && s.Image != nil {
		s.Image.Deps = deps
	}
	return &s, s.validate()
}

// cutDeps takes an image's deps out of the object of a record. They are most of it, and what needs
// them decodes them: to find their end takes a tenth of the time. They may be no JSON. In no string
// there is what they begin with, because its quotes would be escaped.
func cutDeps(object []byte) (rest, deps []byte) {
	const key = `,"deps":`
	start := bytes.Index(object, []byte(key+"{"))
	if start < 0 {
		return object, nil
	}
	end := start + len(key) + objectLength(object[start+len(key):])
	return slices.Concat(object[:start], object[end:]), bytes.Clone(object[start+len(key) : end])
}

// objectLength is the length of the JSON object that text begins with; all of it if that does not
// end.
func objectLength(text []byte) int {
	depth, quoted := 0, false
	for i := 0; i < len(text); i++ {
		switch c := text[i]; {
		case c == '"':
			quoted = !quoted
		case quoted && c == '\\':
			i++
		case quoted:
		case c == '{':
			depth++
		case c == '}':
			if depth--; depth == 0 {
				return i + 1
			}
		}
	}
	return len(text)
}

func (s *stored) validate() error {
	if s.Image != nil {
		if err := s.Image.validate(); err != nil {
			return err
		}
	}
	return s.Wish.validate()
}

// record is what is stored, as the methods of a Registry return it.
func (s *stored) record() Record {
	if s.Image == nil {
		return Record{Wish: s.Wish}
	}
	return Record{Wish: s.Wish, Image: *s.Image}
}

// storedOf is a record as it is stored.
func storedOf(r *Record) *stored {
	s := &stored{Wish: r.Wish}
	if r.HasImage() {
		s.Image, s.Wish.Reason = &r.Image, ""
	}
	return s
}
