# Makes of a plain Debian VM what `image.py` describes: an image for workers. Behind `install.sh`.
#
# Whoever started the VM reads its serial console: the last line says that the image is ready, and
# the VM then waits to be stopped. Where something fails it powers itself off instead.

WHAT='baking the image'

install_kernels() {
  [[ $KERNELS == true ]] || return 0
  log 'compiling the kernels'
  apt-get update -q
  apt-get install -qy g++
  rm -rf "$OPT/kernels" && mkdir -p "$OPT/kernels"
  metadata instance/attributes/ironcliw-kernels | base64 -d | tar -xzC "$OPT/kernels"
  "$OPT/uv" pip install --python "$PYTHON" --constraints "$OPT/constraints.txt" \
    cmake ninja scikit-build-core
  # with the torch that is installed, not with another one that would be downloaded to build with
  PATH=$BIN:$PATH "$OPT/uv" pip install --python "$PYTHON" --no-deps --no-build-isolation \
    "$OPT/kernels"
  "$PYTHON" -c 'import torch, _ironcliw_native'
}

forget_this_vm() { # what two machines must not have in common, and what only takes room
  if command -v systemctl >/dev/null && systemctl is-active --quiet tailscaled; then
    systemctl stop tailscaled
  fi
  rm -rf "$ROOT/var/lib/tailscale" "$OPT/cache" "$OPT/kernels" "$OPT/uv.tar.gz"
  rm -rf "$ROOT"/var/lib/apt/lists/*
}

mkdir -p "$OPT"
log 'baking the image'
install_python
install_vpn
install_kernels
forget_this_vm
sync
log 'the image is ready'
