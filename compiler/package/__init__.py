"""Program -> a package folder: library, header, manifest, golden data, receipt; and its proof."""

from compiler.package.entry import Quantization
from compiler.package.manifest import Package, open_package
from compiler.package.verify import Verification, verify_package
from compiler.package.write import Golden, write_package

__all__ = [
    "Golden",
    "Package",
    "Quantization",
    "Verification",
    "open_package",
    "verify_package",
    "write_package",
]
