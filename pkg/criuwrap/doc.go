// Package criuwrap contains all that residentctl knows about CRIU. It finds CRIU's
// program, dumps a stopped process with it, restores an image with it, and reads the
// image's files into plain structs. Nothing else imports go-criu.
//
// The nouns. An image is the directory of files that one dump wrote. Its memory is in
// one pages-N.img, raw 4 KiB pages one after the other; the pagemap says where in the
// process each run of them belongs. A working directory holds what CRIU writes while
// it works: its log and its statistics.
//
// The flow. Find returns a CRIU that is new enough. Dump and Restore start it as
// `criu swrk`, a server of one request on a socket, with its own environment and a
// time limit. They use only the message definitions of go-criu. A failure becomes an
// *Error with the relevant lines of the log. Open reads an image with its own reader,
// because go-criu's allocates whatever size it finds in the file. Here each length and
// each address is checked first, so callers can rely on an Image that was returned.
//
// Every request is made in CRIU's unprivileged mode, also root's. That mode leaves out
// the cgroups, the login uid and, at a restore, the time namespace, none of which may
// come from the image here. Nor does it run iptables to load kernel modules. A user
// other than root needs CAP_CHECKPOINT_RESTORE.
package criuwrap
