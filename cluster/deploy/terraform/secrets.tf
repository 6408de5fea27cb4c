# The secrets without their values: a value here would stand in the state file for everybody who
# reads it. `README.md` says how to add one.

resource "google_project_service" "needed" {
  for_each           = toset(["compute.googleapis.com", "iam.googleapis.com", "secretmanager.googleapis.com"])
  service            = each.value
  disable_on_destroy = false
}

resource "google_secret_manager_secret" "worker" {
  for_each = toset(
    var.vpn == "none" ? ["ray-token"] : ["ray-token", "vpn-key"]
  )
  secret_id  = "${var.cluster_name}-${each.value}"
  depends_on = [google_project_service.needed]

  replication {
    user_managed {
      replicas {
        location = var.region
      }
    }
  }
}

# each of the two by name: the account reads no other secret of the project
resource "google_secret_manager_secret_iam_member" "worker_reads" {
  for_each  = google_secret_manager_secret.worker
  secret_id = each.value.id
  role      = "roles/secretmanager.secretAccessor"
  member    = google_service_account.worker.member
}
