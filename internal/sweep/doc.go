// Package sweep is scripts/sweep: it makes programs resident, and compares how they
// behave when they start from their images and when they start normally. It runs as
// three nested processes:
//
//   - the outer one reads the command line, finds the programs and starts
//   - the world, process 1 of its own namespaces. It makes programs resident in a
//     store on a tmpfs, has them started, compares and reports
//   - a cell for every single start, process 1 of namespaces inside those, in which
//     nothing has happened yet.
//
// # What a program sees in its cell
//
// The root directory is an overlay: the machine's below, and above it a tmpfs that
// ends with the cell. But /usr (and other directories of programs and libraries) is
// bound there read-only, and so is /etc/ld.so.cache. An overlay gives files other
// device numbers, and an image is bound to the numbers of the files that it was made
// of. So CRIU works on plain files too; it runs in the world, outside the cells.
//
// A cell is in new pid, mount, net, ipc and uts namespaces. /dev has null, zero,
// full, random, urandom, tty and pseudo terminals, and no device of the machine.
// /proc/sys and /sys are read-only; /root, /home, /run and /tmp are empty. Root lacks
// the capabilities that reach past all this: to mount, to make devices, to load
// modules, to set the clock. The program is process 101 there, leads a session without
// a terminal, and reads from /dev/null. When it ends, or its time is up, everything
// that it has started is killed with it.
package sweep
