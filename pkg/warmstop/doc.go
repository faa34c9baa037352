// Package warmstop runs a program under ptrace through its own start-up and stops it where it
// says that it is ready: at the point.
//
// The point is a system call that every kernel refuses, prctl(0x52455354, 1, &start, 0, 0):
// EINVAL for a program that runs as usual. A program calls it by include/residentctl.h, python
// by the shim of package warm, in a child that it has forked for that. So whatever survives
// fork(2) survives a start from the image.
//
// The template is the process that makes the call; all others that it made are killed. Its
// stack is moved before its first instruction, to where no other start can have its own: there
// it stays in each start, beside that start's own initial stack. What the program looked at
// until then is noted, and what it did that an image cannot repeat.
package warmstop
