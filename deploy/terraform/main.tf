# The shared service from the chart. `chart` is its path in this repository, to be changed in a copy elsewhere; a chart
# in an OCI registry goes in as oci://registry.example.com/charts/defender-gateway, with `version` beside it.
terraform {
  required_version = ">= 1.5"
  required_providers {
    helm = {
      source  = "hashicorp/helm"
      version = ">= 2.17"
    }
  }
}

resource "helm_release" "defender_gateway" {
  name             = "scans"
  namespace        = "tools"
  create_namespace = true
  chart            = "${path.module}/../helm/defender-gateway"
  values           = [file("${path.module}/values.yaml")]

  # Waits until the pods are ready, and goes back to the release before when they do not get there.
  atomic  = true
  timeout = 300
}
