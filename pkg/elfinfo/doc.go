// Package elfinfo says what an ELF file is and whether it can be made
// resident.
//
// The nouns. A File is what its headers and its inode tell: type, dynamic
// linker, needed libraries, build-id, owner, mode. A Refusal is a reason, for
// people, why a program cannot be made resident, with a Kind for programs.
//
// The flow. LookPath finds what the caller's shell would find, Open reads it,
// (*File).CanBeResident decides. Only what the kernel and the dynamic linker
// read is read here: program headers, the dynamic section and notes. Section
// headers are not, since a program runs without them. Nothing that needs a
// process belongs here.
package elfinfo
