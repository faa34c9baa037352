// Package registry holds which programs should be resident: one bbolt file with a record
// for each.
//
// The nouns. A Record consists of a wish, which says what is to be resident and how, and
// an image, which says which binary it was made of and what it depends on. A wish may be
// without an image, and stays until it is deleted. A binary has at most one record, and
// so has a path: if a path now leads to another binary, that replaces the earlier one. A
// record is stored with a checksum, under a random key. An index entry leads from an
// image id, a path, a library or an inode to a key. Records and index entries change in
// one transaction, and Check reports where they disagree.
//
// A record whose checksum does not match is damaged (DamagedError). It is reported, it
// can be replaced and forgotten, and nothing that it says is acted on.
//
// The flow. A Registry holds a path, not an open database: each method opens the file,
// takes bbolt's lock, does one transaction and closes the file. So a Registry can be kept
// across a dump without blocking others. Before bbolt sees the file, its pages are read
// and checked (pages.go), because bbolt trusts every offset that it finds in its
// memory-mapped file.
//
// A start never reads the registry.
package registry
