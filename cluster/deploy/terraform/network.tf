# A network without the rules that a default network has: nothing comes in that is not let in here.
# Ray's services listen on every address of a worker once it has one beyond loopback, the external
# one among them. It is this file that keeps them from the internet.

resource "google_compute_network" "cluster" {
  name                    = var.cluster_name
  auto_create_subnetworks = false
  depends_on              = [google_project_service.needed]
}

resource "google_compute_subnetwork" "cluster" {
  name          = var.cluster_name
  region        = var.region
  network       = google_compute_network.cluster.id
  ip_cidr_range = var.subnet_range
  # IPv4 alone: the rules below would not hold for an external IPv6 address
  stack_type               = "IPV4_ONLY"
  private_ip_google_access = true
}

resource "google_compute_firewall" "deny_ingress" {
  name          = "${var.cluster_name}-deny-ingress"
  network       = google_compute_network.cluster.id
  direction     = "INGRESS"
  priority      = 65000
  source_ranges = ["0.0.0.0/0"]

  deny {
    protocol = "all"
  }
}

resource "google_compute_firewall" "vpn" {
  count                   = var.vpn == "none" ? 0 : 1
  name                    = "${var.cluster_name}-vpn"
  network                 = google_compute_network.cluster.id
  direction               = "INGRESS"
  priority                = 1000
  source_ranges           = var.vpn_source_ranges
  target_service_accounts = [google_service_account.worker.email]

  allow {
    protocol = "udp"
    ports    = [var.vpn == "tailscale" ? 41641 : var.vpn_port]
  }
}

# Without a VPN the head is a VM here: head and workers reach each other, and nobody else does.
resource "google_compute_firewall" "inside" {
  count     = var.vpn == "none" ? 1 : 0
  name      = "${var.cluster_name}-inside"
  network   = google_compute_network.cluster.id
  direction = "INGRESS"
  priority  = 1000
  source_service_accounts = [
    google_service_account.head.email,
    google_service_account.worker.email,
  ]
  target_service_accounts = [
    google_service_account.head.email,
    google_service_account.worker.email,
  ]

  allow {
    protocol = "tcp"
  }
}

resource "google_compute_router" "cluster" {
  count   = var.cloud_nat ? 1 : 0
  name    = var.cluster_name
  region  = var.region
  network = google_compute_network.cluster.id
}

resource "google_compute_router_nat" "cluster" {
  count                              = var.cloud_nat ? 1 : 0
  name                               = var.cluster_name
  region                             = var.region
  router                             = google_compute_router.cluster[0].name
  nat_ip_allocate_option             = "AUTO_ONLY"
  source_subnetwork_ip_ranges_to_nat = "ALL_SUBNETWORKS_ALL_IP_RANGES"
}
