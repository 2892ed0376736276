#!/bin/sh
# Builds digits.c against a package, with zig's C compiler, for this machine or another.
#
#   python -m compiler build --target host -o build/digits-host
#   examples/c/build.sh build/digits-host
#   build/digits-host/digits examples/c/seven.pgm
#
#   python -m compiler build --target arm_cortex_a72 -o build/digits-a72
#   examples/c/build.sh build/digits-a72 aarch64-linux-gnu.2.28
#   qemu-aarch64 -L /usr/aarch64-linux-gnu build/digits-a72/digits examples/c/seven.pgm
set -eu
if [ $# -lt 1 ]; then
  echo "usage: $0 PACKAGE [ZIG_TRIPLE [PROGRAM]]" >&2
  exit 2
fi
package=$1
triple=${2:-$(uname -m)-linux-gnu.2.28}
program=${3:-$package/digits}
# The program looks for libdigits.so in its own folder, so the two can be copied to a device.
exec "${PYTHON:-python3}" -m ziglang cc -target "$triple" -std=c11 -O2 -Wall -Wextra -Werror \
  "$(dirname "$0")/digits.c" -I "$package" -L "$package" -ldigits -lpthread -ldl \
  -Wl,-rpath,'$ORIGIN' -o "$program"
