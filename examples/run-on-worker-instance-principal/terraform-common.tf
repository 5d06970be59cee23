# What terraform-oci-oke.tf and terraform-native.tf need: pinned versions, and cloud-init.sh with your
# values. Copy this file, cloud-init.sh and one or both of the others into your configuration.
terraform {
  required_version = ">= 1.3.0"
  required_providers {
    oci = {
      source  = "oracle/oci"
      version = "8.28.0"
    }
  }
}

# IAM changes are made in the tenancy's home region.
provider "oci" {
  alias  = "home"
  region = var.home_region
}

variable "home_region" {
  type        = string
  description = "The tenancy's home region, for example eu-frankfurt-1."
}

variable "tenancy_id" {
  type = string
}

variable "nodes_compartment_id" {
  type        = string
  description = "The compartment of the nodes."
}

variable "provider_version" {
  type        = string
  default     = "0.1.0"
  description = "The release of the credential provider."
  validation {
    condition     = can(regex("^[0-9]+\\.[0-9]+\\.[0-9]+$", var.provider_version))
    error_message = "Write the version as X.Y.Z."
  }
}

variable "provider_sha256" {
  type        = object({ amd64 = string, arm64 = string })
  default     = { amd64 = "", arm64 = "" }
  description = "The SHA-256 of each binary, from a SHA256SUMS that you verified. Set both or neither."
  validation {
    condition = (
      can(regex("^([0-9a-f]{64})?$", var.provider_sha256.amd64)) &&
      can(regex("^([0-9a-f]{64})?$", var.provider_sha256.arm64)) &&
      (var.provider_sha256.amd64 == "") == (var.provider_sha256.arm64 == "")
    )
    error_message = "Set both values to 64 hexadecimal digits, or neither."
  }
}

variable "provider_base_url" {
  type        = string
  default     = "https://github.com/oracle-devrel/oke-credential-provider-for-ocir/releases/download/v$VERSION"
  description = "The directory with the release's files: GitHub, a mirror (https://) or the image (file:///)."
  validation {
    condition     = can(regex("^(https|file)://(\\$VERSION|[A-Za-z0-9._:/%@+-])+$", var.provider_base_url))
    error_message = "Write an https:// or file:// URL. $VERSION stands for the version."
  }
}

locals {
  # The lines of cloud-init.sh that these variables replace.
  cloud_init_values = {
    VERSION      = var.provider_version
    SHA256_AMD64 = var.provider_sha256.amd64
    SHA256_ARM64 = var.provider_sha256.arm64
    BASE_URL     = var.provider_base_url
  }
  cloud_init = join("\n", [
    for line in split("\n", file("${path.module}/cloud-init.sh")) :
    contains(keys(local.cloud_init_values), split("=", line)[0]) ?
    "${split("=", line)[0]}=${local.cloud_init_values[split("=", line)[0]]}" : line
  ])
}
