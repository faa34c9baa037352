// Package store manages the directory in which everything that lasts is kept.
//
// The nouns. A Store is a directory with a fixed layout:
//
//	registry.db                        which programs should be resident (package registry)
//	images/<id>/                       CRIU's files, which never change; the plan and about.json, which a renewal replaces
//	index/<dev>-<ino>                  what a start looks up: a link to ../images/<id>/plan
//	launchers/<dev>-<ino>/<path>       the launcher file of one program
//	shims/                             directories of links for PATH
//	staging/                           work in progress; what is not locked is garbage
//	boot                               for which boot and CPU the images were checked
//
// <dev> and <ino> are st_dev and st_ino of stat(2) in decimal: the launcher computes the
// same names. A Staging is a directory in staging/ that its maker keeps locked with
// flock(2) while working there.
//
// The flow. Everything that appears outside staging/ is completed in a Staging, brought
// to the disk, and renamed into place; everything that is removed is renamed away first.
// So a start never sees anything incomplete, and a process that is killed leaves at worst
// garbage in staging/. Package resident defines the order between an image, its record
// and its index link.
//
// All users read the system's store, and it shows none of them more of a program than the
// program's own mode does. The registry and staging/ belong to the owner alone. An image
// and the launcher files of a program are for those who may read or execute it. index/ and
// launchers/, whose names are programs' devices and inodes, can be searched by all users
// and listed by the owner.
//
// An image is code by another name. A store that users other than its owner could write
// to, or that belongs to a stranger, is refused.
package store
