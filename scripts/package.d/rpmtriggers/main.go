// Command rpmtriggers adds file triggers to an rpm package, which nfpm cannot:
//
//	rpmtriggers PACKAGE.rpm IN POSTUN PREFIX…
//
// IN is a file with the script for paths that a transaction has installed
// (%transfiletriggerin), POSTUN one for paths that it has removed
// (%transfiletriggerpostun), both for all paths that begin with a PREFIX. A package with
// an OpenPGP signature is refused: sign it afterwards.
package main

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"slices"
)

func main() {
	if len(os.Args) < 5 {
		fmt.Fprintln(os.Stderr, "usage: rpmtriggers PACKAGE.rpm IN POSTUN PREFIX…")
		os.Exit(2)
	}
	if err := run(os.Args[1], os.Args[2], os.Args[3], os.Args[4:]); err != nil {
		fmt.Fprintf(os.Stderr, "rpmtriggers: error: add triggers to %s: %v\n", os.Args[1], err)
		os.Exit(1)
	}
}

func run(path, in, postun string, prefixes []string) error {
	rpm, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	var scripts []string
	for _, file := range []string{in, postun} {
		script, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		scripts = append(scripts, string(script))
	}
	rpm, err = addTriggers(rpm, triggers(scripts[0], scripts[1], prefixes))
	if err != nil {
		return err
	}
	return os.WriteFile(path, rpm, 0o644)
}

// triggers are the entries as rpmbuild writes them: for each prefix, by its name, one
// condition for each script, which an index names.
func triggers(in, postun string, prefixes []string) []entry {
	var names, versions []string
	var indexes, flags []uint32
	for _, prefix := range slices.Sorted(slices.Values(prefixes)) {
		names = append(names, prefix, prefix)
		versions = append(versions, "", "")
		indexes = append(indexes, 0, 1)
		flags = append(flags, triggerIn, triggerPostun)
	}
	return []entry{
		stringsEntry(tagScripts, in, postun),
		stringsEntry(tagScriptProg, "/bin/sh", "/bin/sh"),
		stringsEntry(tagName, names...),
		numbersEntry(tagIndex, indexes...),
		stringsEntry(tagVersion, versions...),
		numbersEntry(tagFlags, flags...),
		numbersEntry(tagPriorities, defaultPriority, defaultPriority),
	}
}

// addTriggers returns the package with these entries in its main header, and size and
// digest in the signature's.
func addTriggers(rpm []byte, more []entry) ([]byte, error) {
	if len(rpm) < leadSize || !bytes.HasPrefix(rpm, []byte{0xed, 0xab, 0xee, 0xdb}) {
		return nil, errors.New("it is no rpm package")
	}
	signature, size, err := readHeader(rpm[leadSize:])
	if err != nil {
		return nil, fmt.Errorf("signature: %w", err)
	}
	mainAt := leadSize + (size+7)/8*8
	if mainAt > len(rpm) {
		return nil, errors.New("it ends in the signature")
	}
	entries, size, err := readHeader(rpm[mainAt:])
	if err != nil {
		return nil, fmt.Errorf("header: %w", err)
	}
	if slices.ContainsFunc(entries, func(e entry) bool { return e.tag == tagScripts }) {
		return nil, errors.New("it has file triggers")
	}
	payload := rpm[mainAt+size:]
	header := writeHeader(tagImmutable, append(entries, more...))
	if signature, err = sign(signature, header, len(payload)); err != nil {
		return nil, err
	}
	return slices.Concat(rpm[:leadSize], pad(writeHeader(tagSignatures, signature), 8), header, payload), nil
}

// sign returns the signature's entries for another main header. The size of the payload
// before compression stays.
func sign(entries []entry, header []byte, payload int) ([]entry, error) {
	signed := slices.Clone(entries)
	for i, e := range signed {
		switch e.tag {
		case sigTagSize:
			signed[i] = numbersEntry(e.tag, uint32(len(header)+payload))
		case sigTagSHA256:
			signed[i] = stringsEntry(e.tag, fmt.Sprintf("%x", sha256.Sum256(header)))
			signed[i].kind = typeString
		case sigTagPayloadSize:
		default:
			return nil, fmt.Errorf("the signature has tag %d, which is not known", e.tag)
		}
	}
	return signed, nil
}
