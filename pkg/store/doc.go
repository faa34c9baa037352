// Package store is the directory in which everything lasting lives.
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
// <dev> and <ino> are st_dev and st_ino of stat(2) in decimal: the launcher
// computes the same names. A Staging is a directory in staging/ that its maker
// holds locked with flock(2) for as long as it works there.
//
// The flow. Whatever appears outside of staging/ was made whole in a Staging,
// brought to the disk, and renamed into place; what goes is renamed away first.
// So a start never sees anything half done, and a process that is killed leaves
// garbage in staging/ at worst. The order between an image, its record and its
// index link is that of package resident.
//
// The system's store is read by everybody, and shows nobody more of a program
// than the program's own mode does: the registry and staging/ are the owner's
// alone, an image and the launcher files of a program are for those who may read
// or execute it, and index/ and launchers/, whose names are programs' devices and
// inodes, can be looked into by all and listed by the owner.
//
// An image is code by another name. A store that anybody but its owner could
// write to, or that belongs to a stranger, is refused.
package store
