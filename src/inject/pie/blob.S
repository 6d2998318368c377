/* SPDX-License-Identifier: Apache-2.0 */
/* The interpreter as bytes: what is written into a vessel. */
	.section .rodata
	.globl inject_blob_start, inject_blob_end
inject_blob_start:
	.incbin "interp.bin"
inject_blob_end:
	.section .note.GNU-stack, "", @progbits
