// Package criuwrap is all that residentctl knows of CRIU. It finds CRIU's
// program, dumps a stopped process with it, restores an image with it, and
// reads the image's files into plain structs. Nothing else imports go-criu.
//
// The nouns. An image is the directory of files that one dump wrote. Its memory
// is in one pages-N.img, raw 4 KiB pages one after the other, and the pagemap
// tells where in the process each run of them belongs. A working directory takes
// what CRIU says while it works: the log, and its statistics.
//
// The flow. Find answers with a CRIU that is new enough. Dump and Restore start
// it as `criu swrk`, a server of one request on a socket, with an environment of its
// own and for a limited time. Of go-criu only the messages' definitions are used.
// What goes wrong becomes an *Error with the telling lines of the log. Open
// reads an image with a reader of its own, because go-criu's allocates whatever
// size it finds in the file: here each length is checked first, and each
// address, so that an Image that was returned can be worked with blindly.
//
// Every request is made in CRIU's unprivileged mode, root's too. It leaves out
// the cgroups, the login uid and, at a restore, the time namespace, none of
// which may come from the image here, and it does not run iptables to load
// kernel modules. A user other than root needs CAP_CHECKPOINT_RESTORE.
package criuwrap
