// Package linkstop starts a program under ptrace and stops it just after
// dynamic linking: relocated, no constructor run.
//
// The nouns. The template is the process that will be dumped. The twin is its
// copy, made before the first instruction of the dynamic linker: the same
// addresses, but another pid, initial stack, AT_RANDOM and stack limit. A word
// that differs between the two when both have been linked belongs to the
// process, not to the program: it becomes a plan.Fixup if what it is can be
// told by its value, and else the program is refused. The binder is a third such
// process, in which everything is bound at once: its addresses of functions are
// put into the template. A probe is a path that the dynamic linker looked at.
//
// Two stop points are known (plan.Stop). StopLinked is the return address of the first
// call in glibc's entry code (sysdeps/x86_64/dl-machine.h, RTLD_START): there
// rax is the program's entry, rsp the initial stack pointer, and every other
// register is dead. StopEntry is the program's own entry, AT_ENTRY: musl's
// dynamic linker jumps there before any constructor (ldso/dynlink.c, __dls3),
// whereas glibc's has by then run the libraries'.
//
// The flow is Template.stop, one list. Processes are stopped by package ptrace: one
// OS thread (ptrace.Tracer) makes every call and outlives the template, and every
// error path kills and reaps all processes.
//
// The template runs with an empty environment (the binder with LD_BIND_NOW): of an
// environment glibc's dynamic linker reads LD_*, GLIBC_TUNABLES and MALLOC_*, musl's LD_*, and with
// any of those set a program is not started from an image anyway.
//
// It needs Linux 5.9 (close_range).
package linkstop
