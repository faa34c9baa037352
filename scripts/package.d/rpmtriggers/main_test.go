package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"reflect"
	"strings"
	"testing"
)

// small is a package with one tag and a payload.
func small() []byte {
	header := writeHeader(tagImmutable, []entry{stringsEntry(1000, "name"), numbersEntry(1006, 7)})
	signature := writeHeader(tagSignatures, []entry{
		{sigTagSHA256, typeString, 1, []byte(strings.Repeat("0", 64) + "\x00")},
		numbersEntry(sigTagSize, uint32(len(header)+len("payload"))), numbersEntry(sigTagPayloadSize, 9),
	})
	lead := append([]byte{0xed, 0xab, 0xee, 0xdb}, make([]byte, leadSize-4)...)
	return bytes.Join([][]byte{lead, pad(signature, 8), header, []byte("payload")}, nil)
}

func TestAddTriggers(t *testing.T) {
	more := triggers("in\n", "postun\n", []string{"/usr/lib", "/bin"})
	rpm, err := addTriggers(small(), more)
	if err != nil {
		t.Fatal(err)
	}
	signature, size, err := readHeader(rpm[leadSize:])
	if err != nil {
		t.Fatal(err)
	}
	rest := rpm[leadSize+(size+7)/8*8:]
	entries, size, err := readHeader(rest)
	if err != nil {
		t.Fatal(err)
	}
	want := append([]entry{stringsEntry(1000, "name"), numbersEntry(1006, 7)}, more...)
	if !reflect.DeepEqual(entries, want) {
		t.Errorf("got %v, want %v", entries, want)
	}
	if got := string(rest[size:]); got != "payload" {
		t.Errorf("the payload is %q", got)
	}
	wantSignature := []entry{
		{sigTagSHA256, typeString, 1, []byte(fmt.Sprintf("%x\x00", sha256.Sum256(rest[:size])))},
		numbersEntry(sigTagSize, uint32(len(rest))), numbersEntry(sigTagPayloadSize, 9),
	}
	if !reflect.DeepEqual(signature, wantSignature) {
		t.Errorf("the signature is %v, want %v", signature, wantSignature)
	}
}

// TestTriggers: the entries are those that rpmbuild 4.18 writes.
func TestTriggers(t *testing.T) {
	want := []entry{
		stringsEntry(5076, "in", "postun"), stringsEntry(5077, "/bin/sh", "/bin/sh"),
		stringsEntry(5079, "/usr/bin", "/usr/bin", "/usr/lib", "/usr/lib"), numbersEntry(5080, 0, 1, 0, 1),
		stringsEntry(5081, "", "", "", ""), numbersEntry(5082, 65536, 262144, 65536, 262144), numbersEntry(5085, 1000000, 1000000),
	}
	if got := triggers("in", "postun", []string{"/usr/lib", "/usr/bin"}); !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestRefused(t *testing.T) {
	signed := small()
	binary.BigEndian.PutUint32(signed[leadSize+introSize+indexSize:], 268) // RPMSIGTAG_RSA
	twice, err := addTriggers(small(), triggers("", "", []string{"/"}))
	if err != nil {
		t.Fatal(err)
	}
	for name, rpm := range map[string][]byte{"signed": signed, "twice": twice, "empty": nil, "cut off": small()[:250]} {
		if _, err := addTriggers(rpm, triggers("", "", []string{"/"})); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func FuzzAddTriggers(f *testing.F) {
	f.Add(small())
	more := triggers("in", "postun", []string{"/usr"})
	f.Fuzz(func(t *testing.T, rpm []byte) {
		changed, err := addTriggers(rpm, more)
		if err != nil {
			return
		}
		if _, err := addTriggers(changed, more); err == nil {
			t.Error("added twice")
		}
	})
}
