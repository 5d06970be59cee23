# Worker pools of the module oracle-terraform-modules/oke that run cloud-init.sh. Needs
# terraform-common.tf.
#
# disable_default_cloud_init is necessary: otherwise the module's own script runs OKE's script again,
# without the provider's flags. It drops more than that. The parts below keep it.
module "oke" {
  source    = "oracle-terraform-modules/oke/oci"
  version   = "5.4.3"
  providers = { oci = oci, oci.home = oci.home }

  tenancy_id     = var.tenancy_id
  compartment_id = var.nodes_compartment_id
  # ... your cluster ...

  worker_pools = {
    oracle-linux = {
      size                       = 3
      disable_default_cloud_init = true
      cloud_init                 = [local.default_parts, local.join_part]
    }
    # Ubuntu's images lack OKE's node package. On an image with the package, leave ubuntu_part out.
    ubuntu = {
      size                       = 3
      image_type                 = "custom"
      image_id                   = var.ubuntu_image_id
      disable_default_cloud_init = true
      cloud_init                 = [local.default_parts, local.ubuntu_part, local.join_part]
    }
  }
}

variable "ubuntu_image_id" {
  type = string
}

variable "ubuntu_kubernetes_version" {
  type        = string
  description = "The version of the cluster, for example 1.34.1: OKE's packages are named after it."
  validation {
    condition     = can(regex("^1\\.[0-9]+\\.[0-9]+$", var.ubuntu_kubernetes_version))
    error_message = "Write the version as 1.Y.Z, without a v."
  }
}

locals {
  # The module's cloudinit.tf: time zone, root file system.
  default_parts = {
    filename     = "10-defaults.yml"
    content_type = "text/cloud-config"
    content = jsonencode({
      timezone      = "Etc/UTC"
      growpart      = { mode = "auto", devices = ["/"], ignore_growroot_disabled = false }
      resize_rootfs = true
      bootcmd       = ["if [ -f /usr/libexec/oci-growfs ]; then /usr/libexec/oci-growfs -y; fi"]
    })
  }

  # The module's cloudinit-ubuntu.sh.tftpl, without its last line (oke bootstrap): cloud-init.sh runs
  # that. As in Oracle's instructions, apt does not verify this repository's signature.
  ubuntu_part = {
    filename     = "50-oke-package.sh"
    content_type = "text/x-shellscript"
    content      = <<-EOT
      #!/bin/bash
      . /etc/os-release
      cat >/etc/apt/sources.list.d/oke-node-client.sources <<EOF
      Enabled: yes
      Types: deb
      URIs: https://odx-oke.objectstorage.us-sanjose-1.oci.customer-oci.com/n/odx-oke/b/okn-repositories/o/prod/ubuntu-$VERSION_CODENAME/kubernetes-${regex("^1\\.[0-9]+", var.ubuntu_kubernetes_version)}
      Suites: stable
      Components: main
      Trusted: yes
      EOF
      apt-get -o DPkg::Lock::Timeout=300 update -y
      apt-get -o DPkg::Lock::Timeout=300 install -y oci-oke-node-all-${var.ubuntu_kubernetes_version}
    EOT
  }

  # cloud-init runs scripts in the order of their file names.
  join_part = {
    filename     = "60-join.sh"
    content_type = "text/x-shellscript"
    content      = local.cloud_init
  }
}
