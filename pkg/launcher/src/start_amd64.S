/*
 * The three ways into the launcher and the ways out.
 *
 * _start is at the blob's first byte, _front 16 bytes behind it and _interp
 * another 16: the file wrapping jumps to the first, the front door in
 * residentctl calls the second, and the third is the entry of a dynamic linker
 * that the launcher was added to.
 */
	.section .text.start, "ax"
	.globl _start, _front, _interp, leave, stage_code, stage_end

/* An exec of a launcher file. rsp is the initial stack (psABI 3.4.1), which is
 * 16-byte aligned, so a call leaves the alignment that C expects. */
_start:
	mov	%rsp, %rdi
	lea	config(%rip), %rsi
	call	launcher_file
	hlt

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

interp:
	mov	%rsp, %rdi
	lea	config(%rip), %rsi
	lea	_start(%rip), %rdx
	call	launcher_interp
	xor	%edx, %edx
	jmp	*%rax

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

	.balign	16
	.macro	unmap_launcher
	mov	56(%rbx), %rdi
	mov	64(%rbx), %rsi
	mov	$11, %eax		/* munmap */
	syscall
	.endm
	.macro	set_exe
	mov	$35, %edi		/* PR_SET_MM */
	mov	$14, %esi		/* PR_SET_MM_MAP */
	mov	96(%rbx), %rdx
	mov	$104, %r10d		/* sizeof(struct mm_map) */
	xor	%r8d, %r8d
	mov	$157, %eax		/* prctl */
	syscall
	.endm
/*
 * stage(struct stage *), copied to a page of its own: unmap the launcher, have
 * /proc/self/exe name the program, close it, and leave, taking this page away. A
 * child shares the memory and runs while its parent waits in vfork's way, so it
 * must not touch the stack. rbx holds the argument throughout.
 *
 * Where the name must be set, the child tries first with the launcher still there:
 * EBUSY says that nothing else is in the way, anything else that there is no way,
 * and then stage returns. That the program is open for writing is seen only in the
 * end, when it is the end: an exec would have failed too (ETXTBSY).
 */
stage_code:
	push	%rbx
	mov	%rdi, %rbx
	cmpl	$2, 104(%rbx)		/* how */
	jne	4f
	mov	$0x10004100, %edi	/* CLONE_NEWUSER | CLONE_VFORK | CLONE_VM, and no signal at its end */
	xor	%esi, %esi
	xor	%edx, %edx
	xor	%r10d, %r10d
	xor	%r8d, %r8d
	mov	$56, %eax		/* clone */
	syscall
	test	%rax, %rax
	js	3f
	jnz	2f
	cmpl	$0, 112(%rbx)		/* must; from here it is the child */
	je	0f
	set_exe
	cmp	$-16, %eax		/* EBUSY */
	jne	1f
	cmpl	$2, 112(%rbx)		/* that was the question */
	movl	$0, %eax
	je	9f
0:	unmap_launcher
	set_exe
9:	mov	%eax, 104(%rbx)
1:	xor	%edi, %edi
	mov	$60, %eax		/* exit */
	syscall
2:	mov	%eax, %edi
	xor	%esi, %esi
	mov	$0x80000000, %edx	/* __WCLONE */
	xor	%r10d, %r10d
	mov	$61, %eax		/* wait4 */
	syscall
	cmpl	$2, 112(%rbx)
	je	7f
	cmpl	$2, 104(%rbx)		/* the child has changed it */
	jne	5f
3:	cmpl	$0, 112(%rbx)
	jne	7f
4:	unmap_launcher
	cmpl	$1, 104(%rbx)
	jne	6f
	set_exe
	jmp	6f
5:	cmpl	$0, 104(%rbx)
	je	6f
	cmpl	$0, 112(%rbx)
	je	6f
	mov	$126, %edi
	mov	$60, %eax		/* exit */
	syscall
6:	mov	108(%rbx), %edi
	mov	$3, %eax		/* close */
	syscall
	mov	80(%rbx), %rdi
	mov	88(%rbx), %rsi
	mov	0(%rbx), %rsp
	mov	16(%rbx), %rbp
	mov	24(%rbx), %r12
	mov	32(%rbx), %r13
	mov	40(%rbx), %r14
	mov	48(%rbx), %r15
	mov	72(%rbx), %r11
	mov	8(%rbx), %rbx
	xor	%edx, %edx
	xor	%r8d, %r8d
	xor	%r10d, %r10d
	mov	$11, %eax
	test	%r11, %r11
	jz	8f
	jmp	*%r11
7:	pop	%rbx
8:	ret				/* and without a gadget the page stays */
stage_end:

	.section .note.GNU-stack, "", @progbits
