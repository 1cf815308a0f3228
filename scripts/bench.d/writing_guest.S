# SPDX-License-Identifier: LGPL-2.1-or-later
# A guest of one sector: the BIOS starts it from the first disk. It writes 4 KiB to each of its two disks, in turn and for
# ever, each time at the next place between 1 and 30 MiB, and tells each pair of completed writes by a byte on the
# serial line: "." or, after an error, "E".
    .code16
    .globl start
start:
    cli
    xor %ax, %ax
    mov %ax, %ds
    mov %ax, %es
    mov %ax, %ss
    mov $0x7c00, %sp
    sti
again:
    mov $'.', %bl
    mov $0x80, %dl
    call write
    mov $0x81, %dl
    call write
    mov $0x3fd, %dx         # wait until the line takes a byte
wait:
    in %dx, %al
    test $0x20, %al
    jz wait
    mov $0x3f8, %dx
    mov %bl, %al
    out %al, %dx
    incw 0x8000             # other bytes than before
    mov sector, %ax
    add $8, %ax
    cmp $0xf000, %ax
    jb next
    mov $2048, %ax
next:
    mov %ax, sector
    jmp again

write:                      # to the disk %dl; %bl becomes E where that fails
    mov $packet, %si
    mov $0x4300, %ax        # int 13h, extended write
    push %bx
    int $0x13
    pop %bx
    jnc written
    mov $'E', %bl
written:
    ret

packet:
    .byte 16, 0
    .word 8                 # sectors
    .word 0x8000, 0         # from there
sector:
    .long 2048, 0

    .org 510
    .word 0xaa55
