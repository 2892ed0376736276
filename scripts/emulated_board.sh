#!/usr/bin/env bash
# A stand-in for an AArch64 board: an arm64 Debian userland with Python and TVM under qemu-user.
#
#   emulated_board.sh prepare               download and unpack what is missing (130 MB)
#   emulated_board.sh rpc PORT [TRACKER:PORT KEY]
#                                           TVM's RPC server, registered at a tracker if one is given
#   emulated_board.sh tracker PORT          TVM's RPC tracker
#   emulated_board.sh sshd PORT FOLDER      an SSH server for the current user, whose AArch64 programs
#                                           run emulated; FOLDER gets its keys, a ssh_config with the
#                                           host "board", and the board's home folder
#   emulated_board.sh python ARGUMENT...    the board's Python
#
# Everything listens on 127.0.0.1 only and runs until it is killed. The userland lies in
# build/emulated-board (or $EDGECC_BOARD). Needs qemu-user, apt and dpkg, pip; sshd needs
# openssh-server. The machine's own apt and dpkg are read, never changed.
set -euo pipefail
here=$(cd "$(dirname "$0")/.." && pwd)
board=${EDGECC_BOARD:-$here/build/emulated-board}
host_python=${PYTHON:-python3}
packages=(python3.11-minimal libpython3.11-stdlib libstdc++6)
wheels=(apache-tvm==0.27.0.post1 apache-tvm-ffi==0.1.14.post1 numpy ml_dtypes psutil
  tornado typing_extensions cloudpickle)
emulator=(qemu-aarch64 -cpu cortex-a72 -L "$board/root")

die() {
  echo "emulated_board.sh: $*" >&2
  exit 1
}

need() {
  command -v "$1" >/dev/null || die "$1 is missing; install the Debian package $2"
}

# A private state, as if this machine were an arm64 one with nothing installed.
private_apt() {
  local state=$1
  shift
  apt-get -qq -o APT::Architecture=arm64 -o APT::Architectures::=arm64 \
    -o APT::Sandbox::User="$(id -un)" -o Debug::NoLocking=1 \
    -o Dir::State="$state/state" -o Dir::State::status="$state/status" \
    -o Dir::Cache="$state/cache" -o Dir::Etc::sourcelist="$state/sources.list" \
    -o Dir::Etc::sourceparts=- "$@"
}

unpack_debian() {
  local root=$1 state=$2 keyring=/usr/share/keyrings/debian-archive-keyring.gpg package
  [ -r "$keyring" ] || die "$keyring is missing; install the package debian-archive-keyring"
  mkdir -p "$state/state/lists/partial" "$state/cache/archives/partial" "$root"
  : >"$state/status"
  echo "deb [signed-by=$keyring] http://deb.debian.org/debian bookworm main" >"$state/sources.list"
  private_apt "$state" update
  private_apt "$state" install -y --download-only --no-install-recommends "${packages[@]}"
  for package in "$state"/cache/archives/*.deb; do
    dpkg -x "$package" "$root"
  done
}

unpack_wheels() {
  "$host_python" -m pip install --quiet --disable-pip-version-check --root-user-action=ignore --no-deps --no-compile \
    --target "$1" --only-binary=:all: --implementation cp --python-version 3.11 \
    --platform manylinux_2_28_aarch64 --platform manylinux_2_27_aarch64 \
    --platform manylinux2014_aarch64 "${wheels[@]}"
}

# Programs that the board's Python starts are this script again: the kernel can't start AArch64 ones.
# And a process ends with the one that started it, or a killed server would keep its port.
write_python() {
  cat >"$1/sitecustomize.py" <<'PYTHON'
import ctypes
import os
import signal
import sys

sys.executable = os.environ["EDGECC_BOARD_PYTHON"]
ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
PYTHON
  printf '#!/bin/sh\nexec "%s" python "$@"\n' "$here/scripts/emulated_board.sh" >"$1/board-python"
  chmod +x "$1/board-python"
}

prepare() ( # a subshell: the lock goes with it
  need qemu-aarch64 qemu-user
  need apt-get apt
  need dpkg dpkg
  mkdir -p "$(dirname "$board")"
  exec 9>"$board.lock"
  flock 9
  contents="${packages[*]} ${wheels[*]}"
  [ "$(cat "$board/contents" 2>/dev/null)" != "$contents" ] || exit 0
  rm -rf "$board"
  work=$(mktemp -d "$board.XXXXXX")
  trap 'rm -rf "$work"' EXIT
  unpack_debian "$work/root" "$work/apt"
  unpack_wheels "$work/site"
  write_python "$work/site"
  rm -rf "$work/apt"
  echo "$contents" >"$work/contents"
  mv "$work" "$board" # complete, or not there
)

board_python() {
  # Modules that are compiled already import in a third of the time.
  unset PYTHONDONTWRITEBYTECODE
  # The runtime alone: without the compiler `import tvm` takes half the time.
  export PYTHONHOME=$board/root/usr PYTHONPATH=$board/site TVM_USE_RUNTIME_LIB=1
  export EDGECC_BOARD_PYTHON=$board/site/board-python EDGECC_BOARD=$board
  exec "${emulator[@]}" "$board/root/usr/bin/python3.11" "$@"
}

rpc_server() {
  local port=$1 tracker=${2:-} key=${3:-}
  board_python -m tvm.exec.rpc_server --host 127.0.0.1 --port "$port" --port-end $((port + 1)) \
    ${tracker:+--tracker "$tracker" --key "$key"}
}

rpc_tracker() {
  board_python -m tvm.exec.rpc_tracker --host 127.0.0.1 --port "$1" --port-end $(($1 + 1))
}

# Runs what an SSH client asks for: a program of the board emulated, all else by the host's shell.
write_shell() {
  cat >"$1/shell" <<SHELL
#!/bin/sh
cd "$1/home" || exit 1
export HOME="$1/home"
case \$SSH_ORIGINAL_COMMAND in
  ./.cache/edgecc/*) exec ${emulator[*]@Q} "\$SSH_ORIGINAL_COMMAND" ;;
  *) exec sh -c "\$SSH_ORIGINAL_COMMAND" ;;
esac
SHELL
  chmod 700 "$1/shell"
}

ssh_server() {
  local port=$1 folder server
  need ssh-keygen openssh-client
  server=$(command -v sshd || echo /usr/sbin/sshd)
  [ -x "$server" ] || die "sshd is missing; install the Debian package openssh-server"
  mkdir -p "$2/home"
  folder=$(cd "$2" && pwd)
  [ "$(id -u)" != 0 ] || mkdir -p -m 755 /run/sshd # sshd wants it when root starts it
  for key in host_key id_ed25519; do
    [ -f "$folder/$key" ] || ssh-keygen -q -t ed25519 -N '' -f "$folder/$key"
  done
  write_shell "$folder"
  cp "$folder/id_ed25519.pub" "$folder/authorized_keys"
  echo "[127.0.0.1]:$port $(cut -d' ' -f1,2 "$folder/host_key.pub")" >"$folder/known_hosts"
  cat >"$folder/sshd_config" <<CONFIG
ListenAddress 127.0.0.1:$port
HostKey $folder/host_key
AuthorizedKeysFile $folder/authorized_keys
AuthenticationMethods publickey
AllowUsers $(id -un)
PermitRootLogin prohibit-password
StrictModes no
UsePAM no
PidFile none
ForceCommand $folder/shell
CONFIG
  cat >"$folder/ssh_config" <<CONFIG
Host board 127.0.0.1
  HostName 127.0.0.1
  Port $port
  User $(id -un)
  IdentityFile $folder/id_ed25519
  IdentitiesOnly yes
  UserKnownHostsFile $folder/known_hosts
CONFIG
  exec "$server" -D -e -f "$folder/sshd_config"
}

usage() {
  sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//p}' "$0"
  exit 2
}

command=${1:-}
[ $# = 0 ] || shift
case $command:$# in
  prepare:0 | rpc:[13] | tracker:1 | sshd:2 | python:*) prepare ;;
  *) usage ;;
esac
case $command in
  rpc) rpc_server "$@" ;;
  tracker) rpc_tracker "$@" ;;
  sshd) ssh_server "$@" ;;
  python) board_python "$@" ;;
esac
