// Package ldcache reads /etc/ld.so.cache, in which ldconfig(8) lists libraries for
// glibc's dynamic linker.
//
// A Cache holds the file's bytes, and Lookup returns the entries that the dynamic linker
// considers for a name. If these are equal, its decision is the same: the rest of it
// depends on the machine and on the files that the entries name.
//
// The formats are those that glibc 2.31 to 2.41 write: "glibc-ld.so.cache1.1", alone or,
// by default before 2.32, after the older "ld.so-1.7.0". The older one alone, which only
// `ldconfig -c old` writes, is not read. The launcher reads the same formats in the same
// way (pkg/launcher/src/cache.c); a test compares the two.
package ldcache
