# Worker pools of the module oracle-terraform-modules/oke with this folder's cloud-init.sh.
module "oke" {
  source = "oracle-terraform-modules/oke/oci"
  # ... your cluster ...

  worker_pools = {
    workers = {
      size       = 3
      cloud_init = [{ content = file("${path.module}/cloud-init.sh") }]
      # The module's own script would run OKE's a second time, without our kubelet flags.
      disable_default_cloud_init = true
    }
  }
}
