// Package linkstop starts a program under ptrace and stops it just after dynamic
// linking: it is relocated, and no constructor has run.
//
// The nouns. The template is the process that will be dumped. The twin is a copy of it,
// made before the first instruction of the dynamic linker: the same addresses, but
// another pid, initial stack, AT_RANDOM and stack limit. If a word differs between the
// two after linking, it belongs to the process, not to the program. It becomes a
// plan.Fixup if its value shows what it is; otherwise the program is refused. The binder
// is a third such process, in which everything is bound at once: the addresses of its
// functions are put into the template. A probe is a path that the dynamic linker looked
// at.
//
// There are two stop points (plan.Stop). StopLinked is the return address of the first
// call in glibc's entry code (sysdeps/x86_64/dl-machine.h, RTLD_START): there rax is the
// program's entry, rsp the initial stack pointer, and every other register is dead.
// StopEntry is the program's own entry, AT_ENTRY. musl's dynamic linker jumps there before
// any constructor (ldso/dynlink.c, __dls3), whereas glibc's has by then run those of the
// libraries.
//
// The flow is Template.stop, one list. Package ptrace stops processes: one OS thread
// (ptrace.Tracer) makes every call and outlives the template, and every error path kills
// and reaps all processes.
//
// The template runs with an empty environment (the binder with LD_BIND_NOW). glibc's
// dynamic linker reads only LD_*, GLIBC_TUNABLES and MALLOC_* of an environment, and
// musl's only LD_*. With any of those set, a program is not started from an image anyway.
//
// It needs Linux 5.9 (close_range).
package linkstop
