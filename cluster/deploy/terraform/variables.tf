variable "project" {
  description = "GCP project; the setting cloud.project."
  type        = string
}

variable "region" {
  description = "Region of all zones in the setting cloud.zones."
  type        = string
  default     = "us-central1"
}

variable "cluster_name" {
  description = "Prefix of every name here; the setting cloud.cluster_name."
  type        = string
  default     = "ironcliw"

  validation {
    # names of service accounts have 30 characters at most, and "-worker" is put behind
    condition     = can(regex("^[a-z]([-a-z0-9]{0,21}[a-z0-9])?$", var.cluster_name))
    error_message = "cluster_name must be 1 to 23 lower-case letters, digits and hyphens, and begin with a letter."
  }
}

variable "vpn" {
  description = "How head and workers reach each other; the setting cloud.vpn. With `none` the head is a VM in this network."
  type        = string
  default     = "tailscale"

  validation {
    condition     = contains(["tailscale", "wireguard", "none"], var.vpn)
    error_message = "vpn must be tailscale, wireguard or none."
  }
}

variable "vpn_port" {
  description = "UDP port of WireGuard; Tailscale always takes 41641 first."
  type        = number
  default     = 51820
}

variable "vpn_source_ranges" {
  description = "Who may send packets to the VPN's port. Both VPNs answer only who has a key; a home with a fixed address can be named here."
  type        = list(string)
  default     = ["0.0.0.0/0"]
}

variable "subnet_range" {
  description = "Addresses of the subnetwork; must not overlap the network at home."
  type        = string
  default     = "10.77.128.0/20"
}

variable "cloud_nat" {
  description = "A gateway for workers without an external address (cloud.external_address = false). It costs money by the hour."
  type        = bool
  default     = false
}

variable "image_project" {
  description = "Project of a baked image that is not in this project; unset: none is needed."
  type        = string
  default     = null
}

variable "head_members" {
  description = "Who may act as the head's service account, e.g. [\"user:me@example.org\"]: no key file is needed then."
  type        = list(string)
  default     = []
}
