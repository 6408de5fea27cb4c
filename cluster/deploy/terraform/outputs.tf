output "head_service_account" {
  description = "For `gcloud auth application-default login --impersonate-service-account=...`."
  value       = google_service_account.head.email
}

output "settings" {
  description = "The section of ironcliw.toml that belongs to what was made here."
  value = join("\n", concat(
    [
      "[cloud]",
      "project = \"${var.project}\"",
      "cluster_name = \"${var.cluster_name}\"",
      "network = \"${google_compute_network.cluster.id}\"",
      "subnetwork = \"${google_compute_subnetwork.cluster.id}\"",
      "service_account = \"${google_service_account.worker.email}\"",
      "external_address = ${!var.cloud_nat}",
      "vpn = \"${var.vpn}\"",
      "token_secret = \"${google_secret_manager_secret.worker["ray-token"].secret_id}\"",
    ],
    var.vpn == "none" ? [] : [
      "vpn_secret = \"${google_secret_manager_secret.worker["vpn-key"].secret_id}\"",
    ],
  ))
}
