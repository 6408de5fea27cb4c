# Boots a worker VM: Python and Ray, the VPN, Ray's token, then the agent, which stays. Run again at
# every boot, behind `install.sh`.

json() { # KEY...: a string inside the object on stdin
  "$JSON_PYTHON" -c 'import json, sys
found = json.load(sys.stdin)
for key in sys.argv[1:]:
    found = found[key]
sys.stdout.write(found)' "$@"
}

secret() { # NAME: the latest version; neither it nor the bearer is an argument of a process
  local bearer
  bearer=$(metadata instance/service-accounts/default/token | json access_token)
  printf 'header = "Authorization: Bearer %s"\n' "$bearer" |
    fetch --config - "$SECRETS/projects/$PROJECT/secrets/$1/versions/latest:access" |
    json payload data | base64 -d
}

keep() { # FILE: stdin into a file that root alone reads
  (umask 077 && cat >"$1.new")
  mv "$1.new" "$1"
}

join_vpn() { # sets NODE_IP
  install_vpn
  case $VPN in
    none) NODE_IP=$(metadata instance/network-interfaces/0/ip) ;;
    tailscale)
      secret "$VPN_SECRET" | keep "$RUN/vpn-key"
      retry 5 tailscale up --auth-key="file:$RUN/vpn-key" --hostname="$NAME" --timeout=60s
      rm -f "$RUN/vpn-key"
      # in its userspace mode a node cannot reach its own address, and Ray needs that
      [[ -d /sys/class/net/tailscale0 ]] || fail 'tailscale runs without a kernel interface'
      NODE_IP=$(tailscale ip -4)
      ;;
    wireguard)
      secret "$VPN_SECRET" | keep /etc/wireguard/ironcliw.conf
      [[ -d /sys/class/net/ironcliw ]] || retry 5 wg-quick up ironcliw
      NODE_IP=$(ip -4 -o address show dev ironcliw | awk '{split($4, a, "/"); print a[1]; exit}')
      ;;
  esac
  [[ -n $NODE_IP ]] || fail "no address from VPN $VPN"
}

fetch_token() {
  if [[ -n $TOKEN_SECRET ]]; then
    secret "$TOKEN_SECRET" | tr -d '\r\n' | keep "$RUN/token"
  else
    metadata instance/attributes/ironcliw-token | tr -d '\r\n' | keep "$RUN/token"
  fi
  [[ -s $RUN/token ]] || fail "Ray's token is empty"
}

write_agent() {
  rm -rf "$OPT/agent"
  metadata instance/attributes/ironcliw-agent | "$PYTHON" -c 'import json, pathlib, sys
for name, text in json.load(sys.stdin).items():
    path = pathlib.Path(sys.argv[1], name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")' "$OPT/agent"
}

write_runner() { # the agent with its environment, for systemd or for us
  local -a names=(
    PATH RAY_AUTH_MODE RAY_AUTH_TOKEN_PATH RAY_CLOUD_INSTANCE_ID RAY_NODE_TYPE_NAME
    RAY_CLOUD_INSTANCE_TYPE_NAME RAY_OVERRIDE_RESOURCES RAY_OVERRIDE_LABELS
    RAY_DEFAULT_PYTHON_VERSION_MATCH_LEVEL RAY_USAGE_STATS_ENABLED
    RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S RAY_gcs_rpc_server_reconnect_timeout_s
    RAY_worker_niceness RAY_enable_worker_prestart RAY_object_manager_pull_timeout_ms
    IRONCLIW_HANDOVER_DIR
  )
  local name options
  export PATH=$BIN:$PATH RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=$RUN/token
  export RAY_CLOUD_INSTANCE_ID=$NAME RAY_USAGE_STATS_ENABLED=0 RAY_worker_niceness=0
  # an actor that comes from a lost machine finds a process that has imported Ray already (0.9 s)
  export RAY_enable_worker_prestart=1
  # the agent drains; with its own drain `ray start` would overwrite the deadline on SIGTERM
  export RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S=0
  export IRONCLIW_HANDOVER_DIR=$RUN/handover
  read -ra options <<<"$RAY_OPTIONS"
  {
    printf '#!/bin/bash\ncd %q\n' "$OPT/agent"
    for name in "${names[@]}"; do
      printf 'export %s=%q\n' "$name" "${!name}"
    done
    printf 'exec'
    printf ' %q' "$PYTHON" -m cluster.vm.agent --metadata-url "$METADATA" \
      --handover "$IRONCLIW_HANDOVER_DIR" --power-off "$POWER_OFF" -- \
      ray start --address "$HEAD" --node-ip-address "$NODE_IP" --disable-usage-stats \
      --log-color false --block "${options[@]}"
    printf '\n'
  } >"$RUN/agent.sh"
}

run_agent() {
  if [[ -z $ROOT && -d /run/systemd/system ]]; then
    # systemd stops units before the network, and waits: the agent's last seconds are safe
    systemd-run --unit=ironcliw-agent --collect \
      --property=After='network-online.target tailscaled.service' \
      --property=KillMode=process --property=TimeoutStopSec=130 \
      --property=FailureAction=poweroff --property=StandardOutput=journal+console \
      --property=StandardError=journal+console bash "$RUN/agent.sh"
  else
    bash "$RUN/agent.sh"
  fi
}

if [[ -z $ROOT ]] && systemctl is-active --quiet ironcliw-agent; then
  log 'the agent runs already'
  exit 0
fi
mkdir -p "$OPT" "$RUN"
chmod 700 "$RUN"
JSON_PYTHON=$(command -v python3 || printf '%s' "$PYTHON")
NAME=$(metadata instance/name)
log "VM $NAME starts"
install_python
join_vpn
fetch_token
write_agent
write_runner
log "starting the agent for the head at $HEAD"
run_agent
