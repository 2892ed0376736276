# From the reset vector to 64-bit C with AVX-512 switched on: the last 512 bytes of the ROM. What
# does not change lies in the ROM, page tables too; memory below 4 GiB is mapped to itself.
    .section .boot, "ax"
    .globl boot
boot:
    .code16
start16:
    cli
    lgdtl %cs:gdt_pointer - boot + 0xfe00
    movl %cr0, %eax
    orb $1, %al                   # PE
    movl %eax, %cr0
    ljmpl $8, $start32

    .code32
start32:
    movw $24, %ax
    movw %ax, %ds
    movw %ax, %es
    movw %ax, %ss
    movl $pml4, %eax
    movl %eax, %cr3
    movl $0x40620, %eax           # PAE, OSFXSR, OSXMMEXCPT, OSXSAVE
    movl %eax, %cr4
    movl $0xc0000080, %ecx        # EFER
    xorl %edx, %edx
    movl $0x100, %eax             # LME
    wrmsr
    movl $0x80000013, %eax        # PG, MP, PE; the FPU is not emulated, the caches are on
    movl %eax, %cr0
    ljmpl $16, $start64

    .code64
start64:
    movl $13, %eax                # which of x87, SSE, AVX, masks, zmm and zmm16 to zmm31 there are
    xorl %ecx, %ecx
    cpuid
    andl $0xe7, %eax
    xorl %ecx, %ecx
    xorl %edx, %edx
    xsetbv                        # into XCR0
    # Bochs 2.7 loads the image (guest.c) as if the emulated memory was in one piece, but gives it
    # out in blocks of 128 KiB as they are touched: touched in order, they are where the image is.
    movl $0x100000, %esi
    movq 16(%rsi), %rcx           # image.end
touch:
    movb (%rsi), %al
    addq $0x20000, %rsi
    subq $0x20000, %rcx
    ja touch
    movl $stack_end, %esp
    call guest_main
    movw $0x8900, %dx             # Bochs ends when it reads this word here
    leaq shutdown(%rip), %rsi
    movl $8, %ecx
    rep outsb
    cli
    hlt
shutdown:
    .ascii "Shutdown"

    .balign 8
gdt:
    .quad 0
    .quad 0x00cf9b000000ffff      # code, 32 bits
    .quad 0x00af9b000000ffff      # code, 64 bits
    .quad 0x00cf93000000ffff      # data
gdt_pointer:
    .word . - gdt - 1
    .long gdt

    .org 0x1f0                    # where a CPU starts
    .code16
    jmp start16
    .balign 16

    .section .tables, "a"         # accessed and dirty are set, so that nothing is written here
pml4:
    .quad pdpt + 0x23
    .balign 4096
pdpt:
    .quad 0x00000000000000e3, 0x00000000400000e3, 0x00000000800000e3, 0x00000000c00000e3
    .balign 4096
