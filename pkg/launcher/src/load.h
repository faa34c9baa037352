/*
 * An exec without the kernel: maps a program and its dynamic linker where and as
 * an exec would have.
 */
#ifndef LOAD_H
#define LOAD_H

#include "sys.h"

struct loaded {
	u64 entry;		/* where to go on: the dynamic linker's, or the program's if it has none */
	u64 gadget;		/* of a `syscall; ret` in the dynamic linker, or 0 */
	u64 phdr, phnum, base, program_entry; /* for the auxiliary vector */
	u64 start_code, end_code, start_data, end_data, brk; /* for PR_SET_MM_MAP */
	int exec_stack;		/* PT_GNU_STACK asks for it */
	int closed;		/* the descriptor had to make room for another */
};

/* Maps what the descriptor shows, which stays open if it can. Without `random` it goes
 * where an exec would put it with ADDR_NO_RANDOMIZE. Gives 0 or -errno; after an
 * error there is no telling what is mapped. */
long load_program(long fd, int random, struct loaded *l);

#endif
