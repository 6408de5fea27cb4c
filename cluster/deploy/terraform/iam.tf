# The head may do to machines what cluster/gce asks of the API, call by call, and no more. The list
# is compared with those calls in tests/unit/cluster/deploy/test_permissions.py.

resource "google_service_account" "head" {
  account_id   = "${var.cluster_name}-head"
  display_name = "Ironcliw head: launches and deletes workers"
}

resource "google_service_account" "worker" {
  account_id   = "${var.cluster_name}-worker"
  display_name = "Ironcliw worker: reads its two secrets and writes logs"
}

resource "google_project_iam_custom_role" "head" {
  role_id     = "${replace(var.cluster_name, "-", "_")}_head"
  title       = "Ironcliw head"
  description = "What the client of cluster/gce calls."
  permissions = [
    "compute.advice.capacity",
    "compute.disks.create",
    "compute.disks.setLabels",
    "compute.globalOperations.list",
    "compute.images.get",
    "compute.images.getFromFamily",
    "compute.images.useReadOnly",
    "compute.instances.create",
    "compute.instances.delete",
    "compute.instances.get",
    "compute.instances.getSerialPortOutput",
    "compute.instances.list",
    "compute.instances.setLabels",
    "compute.instances.setMetadata",
    "compute.instances.setServiceAccount",
    "compute.machineTypes.get",
    "compute.projects.get",
    "compute.regions.get",
    "compute.subnetworks.use",
    "compute.subnetworks.useExternalIp",
    "compute.zoneOperations.get",
    "compute.zones.list",
  ]
}

resource "google_project_iam_member" "head" {
  project = var.project
  role    = google_project_iam_custom_role.head.id
  member  = google_service_account.head.member
}

# a baked image of another project
resource "google_project_iam_member" "head_image" {
  count   = var.image_project == null ? 0 : 1
  project = var.image_project
  role    = "roles/compute.imageUser"
  member  = google_service_account.head.member
}

# to start a worker as the worker's account; of this one account, not of the project's
resource "google_service_account_iam_member" "head_uses_worker" {
  service_account_id = google_service_account.worker.name
  role               = "roles/iam.serviceAccountUser"
  member             = google_service_account.head.member
}

resource "google_service_account_iam_member" "people_act_as_head" {
  for_each           = toset(var.head_members)
  service_account_id = google_service_account.head.name
  role               = "roles/iam.serviceAccountTokenCreator"
  member             = each.value
}

resource "google_project_iam_member" "worker_logs" {
  project = var.project
  role    = "roles/logging.logWriter"
  member  = google_service_account.worker.member
}
