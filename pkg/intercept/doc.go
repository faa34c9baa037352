// Package intercept makes programs start from their images without the user typing run.
//
// A Cover is a copy of the machine's dynamic linker to which the launcher was added, and
// the mounts that put it over the linker's path. In a mount namespace with these mounts,
// every exec of a dynamic program enters the launcher. A program without an image goes
// on to the linker itself, some microseconds later. No file on the system changes, and
// nothing outside the namespace.
//
// A Tree is a command that is executed in such a namespace, with all that it executes.
// It runs in this process's place, or beside it, so that what the tree executes often
// can be made resident meanwhile.
package intercept
