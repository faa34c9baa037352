// Package sweep is scripts/sweep: it makes programs resident and compares how
// they behave with how they behave otherwise. There are three processes of it, one
// in the other:
//
//   - the outer one reads the command line, finds the programs and starts
//   - the world, process 1 of namespaces of its own, which makes programs resident
//     in a store on a tmpfs, has them started, compares and reports
//   - a cell for every single start, process 1 of namespaces inside those, in which
//     nothing has happened yet.
//
// # What a program sees in its cell
//
// The root directory is an overlay: below it lies the machine's, above it a tmpfs that
// ends with the cell. But /usr (and what else holds programs and libraries) is bound
// there read-only, and so is /etc/ld.so.cache: an overlay gives files other device
// numbers, and an image is bound to the numbers of the files that it was made of.
// So CRIU, too, works on plain files; it works in the world, outside the cells.
//
// A cell is in new pid, mount, net, ipc and uts namespaces. /dev has null, zero,
// full, random, urandom, tty and pseudo terminals, no device of the machine;
// /proc/sys and /sys are read-only; /root, /home, /run and /tmp are empty; the
// capabilities by which root gets through all this (to mount, to make devices, to
// load modules, to set the clock) are taken away. A program is process 101 there,
// leads a session without a terminal, reads from /dev/null, and dies with
// everything that it has started when it is over or its time is up.
package sweep
