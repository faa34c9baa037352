// Package elfinfo describes an ELF file and decides whether it can be made resident.
//
// The nouns. A File is what its headers and its inode say: type, dynamic linker, needed
// libraries, build-id, owner, mode. A Refusal is why a program cannot be made resident:
// a reason for people, and a Kind for programs.
//
// The flow. LookPath finds what the caller's shell would find, Open reads it, and
// (*File).CanBeResident decides. This package reads only what the kernel and the dynamic
// linker read: program headers, the dynamic section and notes. It ignores section
// headers, since a program runs without them. Nothing that needs a process belongs here.
package elfinfo
