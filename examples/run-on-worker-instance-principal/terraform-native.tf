# A node pool whose nodes run cloud-init.sh, its dynamic group and its policy. Needs
# terraform-common.tf.
variable "repos_compartment_id" {
  type        = string
  description = "The compartment of the repositories."
}

variable "cluster_id" {
  type = string
}

variable "kubernetes_version" {
  type        = string
  description = "For example v1.34.1."
}

variable "node_image_id" {
  type        = string
  description = "An OKE image of the node's shape."
}

variable "node_subnet_id" {
  type = string
}

variable "availability_domain" {
  type = string
}

resource "oci_identity_dynamic_group" "nodes" {
  provider       = oci.home
  compartment_id = var.tenancy_id
  name           = "oke-nodes"
  description    = "OKE worker nodes that pull from OCIR"
  matching_rule  = "All {instance.compartment.id = '${var.nodes_compartment_id}'}"
}

resource "oci_identity_policy" "read_repos" {
  provider       = oci.home
  compartment_id = var.repos_compartment_id
  name           = "oke-nodes-read-repos"
  description    = "OKE worker nodes pull from OCIR"
  statements = [
    "Allow dynamic-group id ${oci_identity_dynamic_group.nodes.id} to read repos in compartment id ${var.repos_compartment_id}",
  ]
}

resource "oci_containerengine_node_pool" "workers" {
  # A registry token that is older than the dynamic group does not work, and it lives for one hour.
  depends_on = [oci_identity_policy.read_repos]

  cluster_id         = var.cluster_id
  compartment_id     = var.nodes_compartment_id
  name               = "workers"
  kubernetes_version = var.kubernetes_version
  node_shape         = "VM.Standard.E5.Flex"

  node_shape_config {
    ocpus         = 2
    memory_in_gbs = 16
  }

  node_source_details {
    source_type = "IMAGE"
    image_id    = var.node_image_id
  }

  node_config_details {
    size = 3
    placement_configs {
      availability_domain = var.availability_domain
      subnet_id           = var.node_subnet_id
    }
  }

  # Only new nodes run a changed script. With cycling, an update replaces the nodes one by one: their
  # pods are drained and move (enhanced clusters).
  node_metadata = {
    user_data = base64encode(local.cloud_init)
  }

  node_pool_cycling_details {
    is_node_cycling_enabled = true
    maximum_surge           = "1"
    maximum_unavailable     = "0"
  }
}
