// Package intercept makes programs start from their images without anybody
// typing run.
//
// A Cover is a copy of the machine's dynamic linker that the launcher was added
// to, and the mounts that put it over the linker's path. In a mount namespace
// with them every exec of a dynamic program enters the launcher; a program
// without an image goes on to the linker itself, some microseconds later. No
// file on the system changes, and nothing outside of the namespace.
//
// A Tree is a command that is executed in such a namespace, with all that it
// executes: in this process's place, or beside it, so that what the tree executes
// often can be made resident meanwhile.
package intercept
