"""Tell LLVM's back end what it can only learn from attributes of functions.

TVM sets none, and its command-line options are global to the process while kernels are compiled in
several threads. So the optimised LLVM IR is printed, given the attributes, and read again:

    before:  attributes #0 = { nounwind "target-cpu"="spacemit-x60" }
    after:   attributes #0 = { nounwind vscale_range(4,4) "target-cpu"="spacemit-x60" }
"""

from __future__ import annotations

import re

from compiler.target import Target

# RISC-V counts vector lengths in blocks of this many bits.
VSCALE_BITS = 64
# An out-of-order core with vectors. In-order cores let LLVM load the next weights before the last
# ones are used; with 24 accumulators and a group of eight there is no register for that.
GROUPED_TUNING = "tt-ascalon-d8"
# LLVM knows no latencies of an unnamed core; most boards have one of this kind.
UNNAMED_TUNING = "sifive-u74"


def attributes(target: Target) -> str:
    """The attributes that all functions for a target need, in LLVM's syntax; "" for none.

    RISC-V vectors: exactly this register width, so that a group of registers is loaded at once and
    its members are used one by one without moving them.

    RISC-V: the core whose latencies instructions are ordered by.

    32-bit ARM: ``minsize`` lets LLVM use ``vmla``, which takes one lane of a vector as its scalar;
    the fused ``vfma`` needs each scalar copied to all lanes first. Loops are already optimised
    here, so that little else changes.
    """
    if target.arch == "riscv64" and target.has_known_vector_length:
        scale = target.vector.bits // VSCALE_BITS
        return f'vscale_range({scale},{scale}) "tune-cpu"="{GROUPED_TUNING}"'
    if target.arch == "riscv64" and target.cpu.startswith("generic"):
        return f'"tune-cpu"="{UNNAMED_TUNING}"'
    return "optsize minsize" if target.arch == "arm" and target.vector.bits else ""


def with_attributes(text: str, target: Target) -> str:
    """LLVM IR with the target's attributes on every function that it defines."""
    added = attributes(target)
    if not added:
        return text
    return re.sub(
        r'^(attributes #\d+ = \{.*?)("target-cpu"=)',
        rf"\g<1>{added} \g<2>",
        text,
        flags=re.MULTILINE,
    )
