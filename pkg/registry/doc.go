// Package registry is the truth about which programs should be resident: one
// bbolt file with a record for each.
//
// The nouns. A Record says which binary an image was made of and what the image
// depends on. Its key is the binary's identity (device and inode) and a digest
// over the contents of the binary and of every library. A binary has at most
// one record, and so has a path: what a path leads to now replaces what it led
// to before. An index entry leads from an image id, a path or a library to a
// key; record and index entries change in one transaction, and Check says where
// they disagree.
//
// The flow. A Registry holds a path, not an open database: each method opens
// the file, takes bbolt's lock, does one transaction and closes the file. So a
// Registry can be kept across a dump without being in anybody's way. Before
// bbolt sees the file its pages are read and checked (pages.go), because bbolt
// believes every offset that it finds in its memory-mapped file.
//
// Nothing on the path of an invocation reads the registry.
package registry
