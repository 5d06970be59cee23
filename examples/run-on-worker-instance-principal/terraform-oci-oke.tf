# Worker pools of the module oracle-terraform-modules/oke that run cloud-init.sh from this directory.
module "oke" {
  source = "oracle-terraform-modules/oke/oci"
  # ... your cluster ...

  worker_pools = {
    workers = {
      size       = 3
      cloud_init = [{ content = file("${path.module}/cloud-init.sh") }]
      # Otherwise the module's own script runs OKE's script again, without the provider's flags.
      disable_default_cloud_init = true
    }
  }
}
