#!/usr/bin/env bash
# Bakes an image for workers: Python, Ray and the packages of this head, the VPN's program and the
# compiled kernels. Run it in the repository, as the head's user, with gcloud logged in:
#
#   PATH=.venv/bin:$PATH cluster/deploy/image/bake.sh [NAME]
#
# It takes project, zone, network and VPN from the settings, starts one VM of 4 vCPUs for 10 to 30
# minutes (some 0.05 USD), and deletes it; should this program die, GCE deletes it after an hour.
# Nobody logs in to the VM: it gets a startup script, and tells on its serial console how it went.
set -euo pipefail

command -v gcloud >/dev/null || {
  echo 'gcloud is not installed: https://cloud.google.com/sdk/docs/install' >&2
  exit 1
}
name=${1:-ironcliw-worker-$(date -u +%Y%m%d-%H%M%S)}
vm=$name-bake
poll=${POLL_SECONDS:-10}
files=$(mktemp -d)
trap 'rm -rf "$files"' EXIT
python -m cluster.vm.image "$files" native_ops
# PROJECT, ZONE, NETWORK, SUBNETWORK, DISK_GB, LABELS, READY
# shellcheck disable=SC1091
source "$files/facts.sh"

compute() { gcloud compute --project "$PROJECT" --quiet "$@"; }

clean_up() {
  rm -rf "$files"
  compute instances delete "$vm" --zone "$ZONE" >/dev/null 2>&1 || true
}
trap clean_up EXIT

metadata=()
for file in "$files"/*; do
  key=$(basename "$file")
  [[ $key == facts.sh ]] || metadata+=("$key=$file")
done
network=(--network "${NETWORK##*/}")
[[ -z $SUBNETWORK ]] || network+=(--subnet "${SUBNETWORK##*/}")

echo "starting $vm in $ZONE"
compute instances create "$vm" --zone "$ZONE" --machine-type e2-standard-4 \
  --image-family debian-12 --image-project debian-cloud --boot-disk-size "${DISK_GB}GB" \
  --no-service-account --no-scopes "${network[@]}" \
  --max-run-duration 1h --instance-termination-action DELETE \
  --metadata-from-file "$(IFS=, && echo "${metadata[*]}")" >/dev/null

console=
until [[ $console == *"$READY"* ]]; do
  sleep "$poll"
  status=$(compute instances describe "$vm" --zone "$ZONE" --format 'value(status)')
  console=$(compute instances get-serial-port-output "$vm" --zone "$ZONE" 2>/dev/null ||
    printf '%s' "$console")
  case $status in
    PROVISIONING | STAGING | RUNNING) ;;
    *)
      printf '%s\n' "$console" | tail -n 40 >&2
      echo "$vm is $status and not ready: the last lines of its console are above" >&2
      exit 1
      ;;
  esac
done

echo "making the image $name"
compute instances stop "$vm" --zone "$ZONE" >/dev/null
compute images create "$name" --source-disk "$vm" --source-disk-zone "$ZONE" \
  --family ironcliw-worker --labels "$LABELS" >/dev/null
cat <<END
done; in ironcliw.toml:

[cloud]
image = "projects/$PROJECT/global/images/$name"
image_is_baked = true
END
