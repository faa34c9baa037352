/*
 * The three ways into the launcher and the ways out.
 *
 * _start is at the blob's first byte, _front 16 bytes after it and _interp
 * another 16: the file wrapping jumps to the first, the front door in
 * residentctl calls the second, and the third is the entry of a dynamic linker
 * that the launcher was added to.
 */
	.section .text.start, "ax"
	.globl _start, _front, _interp, leave

/* An exec of a launcher file. */
_start:
	jmp	file

	.balign	16
/* Called from residentctl's entry with rdi = the initial stack, before there
 * is a Go runtime. It returns when the command line is not a plain `run`. */
_front:
	xor	%esi, %esi
	jmp	launcher_front

	.balign	16
/* As a part of a dynamic linker, entered in its place. When there is no start
 * from an image, it is entered as the kernel would have: rsp as it was. */
_interp:
	jmp	interp

/* rsp is the initial stack (psABI 3.4.1), which is 16-byte aligned, so a call leaves the
 * alignment that C expects. Below it stays the room that the configuration asks for, where
 * the stack of a script is put together (warm.c). */
file:
	mov	%rsp, %rdi
	lea	config(%rip), %rsi
	sub	56(%rsi), %rsp
	call	launcher_file
	hlt

interp:
	mov	%rsp, %rdi
	lea	config(%rip), %rsi
	lea	_start(%rip), %rdx
	call	launcher_interp
	xor	%edx, %edx
	jmp	*%rax

	.section .text.stage, "ax"
	.balign	16
/*
 * leave(struct leave *): load what the program is to find in its registers and
 * unmap the launcher through a `syscall; ret` in the program's own text. The
 * ret takes the next address from the new stack. What still exists: the
 * program's memory, and the stack. Nothing can fail visibly from here on.
 */
leave:
	mov	%rdi, %rax
	mov	0(%rax), %rsp
	mov	8(%rax), %rbx
	mov	16(%rax), %rbp
	mov	24(%rax), %r12
	mov	32(%rax), %r13
	mov	40(%rax), %r14
	mov	48(%rax), %r15
	mov	56(%rax), %rdi
	mov	64(%rax), %rsi
	mov	72(%rax), %r11
	xor	%edx, %edx		/* at a program's entry this would be a function to register with atexit */
	mov	$11, %eax		/* munmap */
	test	%r11, %r11
	jz	1f
	jmp	*%r11
1:	ret				/* there is none: what was to be unmapped stays */

	.section .note.GNU-stack, "", @progbits
