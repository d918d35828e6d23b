#!/usr/bin/env python3
"""Renders every manifest of deploy/, in every combination that people will use, and examines what comes out:
our linter, the schemas of Kubernetes 1.29 to the newest known, kubectl's own types, checkov's posture checks, and the gateway's own
`check` of the configuration as its container would see it.

    render.py BINARY     exit status 1 when anything is wrong; renders stay in target/deploy/render
"""
import functools
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys

import kubernetes_validate
import yaml

import lint

ROOT = pathlib.Path(__file__).resolve().parents[2]
OUT = ROOT / "target/deploy/render"
KUSTOMIZE = ROOT / "deploy/kubernetes"
CHART = ROOT / "deploy/helm/defender-gateway"
TERRAFORM = ROOT / "deploy/terraform"
FLOOR = (1, 29)
# Kinds for which no schema is at hand, with what does their work.
CUSTOM = {"PodMonitor": ("selector", "podMetricsEndpoints"), "PrometheusRule": ("groups",), "CiliumNetworkPolicy": ("endpointSelector", "egress")}
# What checkov asks for and we do not want, with the reason.
UNWANTED = {
    "CKV_K8S_11": "a CPU limit delays answers while the node has time to spare",
    "CKV_K8S_15": "tags are versions and never move, so pulling always would only cost",
    "CKV_K8S_43": "the digest is known to whoever builds the image; kustomize and the chart take one",
    "CKV2_K8S_6": "the NetworkPolicy of a sidecar's pod is the application's; the shared service has one, which our linter wants",
}
CREDENTIALS = ["client-secret", "certificate", "workload-identity", "workload-identity-projected", "managed-identity"]
STORE = {"name": "defender-gateway-store", "literals": ["url=rediss://gateway@redis.example.com:6380/0"]}
IDENTITY = {"name": "defender-gateway-identity", "literals": ["tenant-id=tenant.example", "client-id=11111111-2222-3333-4444-555555555555"]}
# What the webhook puts into the container of a pod that it has mutated.
WEBHOOK = {"AZURE_CLIENT_ID": "11111111-2222-3333-4444-555555555555", "AZURE_TENANT_ID": "tenant.example",
           "AZURE_AUTHORITY_HOST": "https://login.microsoftonline.com/", "AZURE_FEDERATED_TOKEN_FILE": "federated-token"}

wrong = []


def workloads():
    """One of every kind, each with an init container of its own."""
    pod = {"metadata": {"labels": {"app": "a"}, "annotations": {"azure.workload.identity/skip-containers": "migrate;app"}},
           "spec": {"restartPolicy": "Always", "initContainers": [{"name": "migrate", "image": "registry.example.com/a:1"}],
                    "containers": [{"name": "app", "image": "registry.example.com/a:1"}]}}
    once = {**pod, "spec": {**pod["spec"], "restartPolicy": "Never"}}
    select = {"selector": {"matchLabels": {"app": "a"}}, "template": pod}
    for kind, api, spec in [("Deployment", "apps/v1", select), ("StatefulSet", "apps/v1", {**select, "serviceName": "a"}),
                            ("DaemonSet", "apps/v1", select), ("Job", "batch/v1", {"template": once}),
                            ("CronJob", "batch/v1", {"schedule": "* * * * *", "jobTemplate": {"spec": {"template": once}}})]:
        yield {"apiVersion": api, "kind": kind, "metadata": {"name": f"a-{kind.lower()}", "labels": {"defender-gateway": "sidecar"}},
               "spec": spec}


def kustomize(folder):
    done = subprocess.run(["kubectl", "kustomize", str(folder)], capture_output=True, text=True, timeout=60)
    if done.returncode:
        wrong.append(f"{folder}: {done.stderr.strip()}")
    return done.stdout


def combination(name, resources, components, **more):
    """Renders a kustomization that is written for the purpose."""
    folder = OUT / name
    folder.mkdir(parents=True)
    up = os.path.relpath(KUSTOMIZE, folder)
    files = {"app.yaml": yaml.safe_dump_all(workloads())} if resources is None else {}
    for path, text in files.items():
        (folder / path).write_text(text)
    content = {"apiVersion": "kustomize.config.k8s.io/v1beta1", "kind": "Kustomization", "namespace": "elsewhere",
               "resources": list(files) or [f"{up}/{r}" for r in resources],
               "components": [f"{up}/components/{c}" for c in components], "configMapGenerator": [IDENTITY, *([STORE] if "store" in components else [])], **more}
    (folder / "kustomization.yaml").write_text(yaml.safe_dump(content))
    return kustomize(folder)


@functools.cache
def versions():
    folder = pathlib.Path(kubernetes_validate.__file__).parent / "kubernetes-json-schema"
    found = {tuple(map(int, re.match(r"v(\d+)\.(\d+)", f.name).groups())) for f in folder.iterdir() if f.name.startswith("v")}
    return [f"{major}.{minor}" for major, minor in sorted(found) if (major, minor) >= FLOOR]


@functools.cache
def schema(text):
    """What the schemas say about a document."""
    document, problems = yaml.safe_load(text), []
    for member in CUSTOM.get(document.get("kind"), ()):
        if not document["spec"].get(member):
            problems.append(f"spec.{member} is missing")
    for version in versions() if document.get("kind") not in CUSTOM else []:
        try:
            kubernetes_validate.validate(document, version, strict=True)
        except kubernetes_validate.ValidationError as error:
            problems.append(f"Kubernetes {version}: {'.'.join(map(str, error.path))}: {error.message}")
    return problems


def check_config(name, pod, binary):
    """`defender-gateway check`, with the file and the variables of the container."""
    folder = OUT / "check"
    folder.mkdir(exist_ok=True)
    data = ROOT / "tests/data/sim"
    for file, source in {"client-secret": None, "federated-token": None, "password": None, "tls.crt": "app-cert.pem", "tls.key": "app-key.pem"}.items():
        (folder / file).write_text((data / source).read_text() if source else "value")
    config_map, key = pod.config_map()
    found = pod.world.find("ConfigMap", config_map, pod.namespace) or {}
    (folder / "gateway.toml").write_text((found.get("data") or {}).get(key, ""))
    env = {k: re.sub("/(var/run/secrets|run)/defender-gateway(-store)?(?=/)", str(folder), v) for k, v in pod.env().items()}
    env = {k: v.replace("/var/lib/defender-gateway/", f"{folder}/") for k, v in env.items()}
    env["DEFENDER_GATEWAY_CONFIG"] = str(folder / "gateway.toml")
    for entry in pod.gateway.get("env") or []:
        reference = (entry.get("valueFrom") or {}).get("configMapKeyRef")
        if reference:
            identity = pod.world.find("ConfigMap", reference["name"], pod.namespace) or {}
            value = (identity.get("data") or {}).get(reference["key"])
            if value:
                env[entry["name"]] = value
    if pod.labels.get("azure.workload.identity/use") == "true":
        env.update({**WEBHOOK, "AZURE_FEDERATED_TOKEN_FILE": str(folder / "federated-token")})
    elif not any(n.startswith("DEFENDER_GATEWAY_CREDENTIALS") for n in env):
        env.update({"AZURE_TENANT_ID": "t.example", "AZURE_CLIENT_ID": "c", "AZURE_CLIENT_SECRET": "s"})
    # What the examples hold in place of ids, which `check` refuses.
    env = {k: v.replace("00000000-0000-0000-0000-000000000000", "11111111-2222-3333-4444-555555555555") for k, v in env.items()}
    done = subprocess.run([binary, "check"], env=env, capture_output=True, text=True, timeout=20)
    if done.returncode:
        wrong.append(f"{name}: {pod.owner['kind']}: the gateway refuses its configuration:\n{done.stderr.strip()}")
    kind = env.get("DEFENDER_GATEWAY_CREDENTIALS_KIND")
    if kind and kind not in done.stdout:
        wrong.append(f"{name}: sign-in is not by {kind}:\n{done.stdout}")


def typed(name, documents):
    """kubectl reads all of it into its own types, which know quantities."""
    pods = [d for d in documents if any(True for _ in lint.templates(d))]
    command = ["kubectl", "set", "env", "--local", "--kubeconfig=/dev/null", "--filename=-", "--output=name", "UNUSED=1"]
    done = subprocess.run(command, input=yaml.safe_dump_all(pods), capture_output=True, text=True, timeout=60)
    if pods and (done.returncode or len(done.stdout.split()) != len(pods)):
        wrong.append(f"{name}: kubectl reads {len(done.stdout.split())} of {len(pods)} workloads: {done.stderr.strip()}")


class Unique(yaml.SafeLoader):
    """Refuses a mapping that has a key twice, of which others silently take the last."""

    def construct_mapping(self, node, deep=False):
        keys = [key.value for key, _ in node.value]
        if len(set(keys)) < len(keys):
            raise yaml.YAMLError(f"a key is there twice:{node.start_mark}")
        return super().construct_mapping(node, deep)


def examine(name, text, binary, gateways):
    """Everything about one render; `gateways` is how many pods must have one."""
    OUT.mkdir(parents=True, exist_ok=True)
    (OUT / f"{name}.yaml").write_text(text)
    wrong.extend(f"{name}: {' '.join(finding)}" for finding in lint.lint(text))
    try:
        documents = [d for d in yaml.load_all(text, Unique) if d]
    except yaml.YAMLError as error:
        wrong.append(f"{name}: {error}")
        return []
    typed(name, [d for d in documents if d.get("kind") not in CUSTOM])
    for document in documents:
        label = f"{name}: {document.get('kind')}/{document['metadata']['name']}"
        wrong.extend(f"{label}: {problem}" for problem in schema(yaml.safe_dump(document)))
    pods = [p for p in lint.World(documents).pods if p.gateway is not None]
    for pod in pods:
        # The API server refuses duplicate names under server-side apply.
        for field, key in (("env", "name"), ("ports", "containerPort"), ("volumeMounts", "mountPath")):
            names = [entry[key] for entry in pod.gateway.get(field) or []]
            wrong.extend(f"{name}: {field} has {n} twice" for n in set(names) if names.count(n) > 1)
    if len(pods) != gateways:
        wrong.append(f"{name}: {len(pods)} pods have a gateway instead of {gateways}")
    for pod in pods:
        check_config(name, pod, binary)
    return documents


def kustomizations(binary):
    for overlay, gateways in {"sidecar": 1, "job": 2, "shared": 1, "classic": 1, "trial": 1}.items():
        examine(f"overlay-{overlay}", kustomize(KUSTOMIZE / "overlays" / overlay), binary, gateways)
    for credential in CREDENTIALS:
        examine(f"sidecar-{credential}", combination(f"k/sidecar-{credential}", None, ["sidecar", credential]), binary, 5)
        text = combination(f"k/shared-{credential}", ["base/shared"], ["one-replica", credential, "podmonitor"])
        examine(f"shared-{credential}", text, binary, 1)
    everything = ["sidecar", "store", "client-secret", "podmonitor", "openshift", "unix-socket"]
    documents = examine("sidecar-everything", combination("k/sidecar-everything", None, everything), binary, 5)
    fixed = [1 for p in lint.World(documents).pods if "runAsUser" in p.gateway["securityContext"]]
    if fixed:
        wrong.append("sidecar-everything: components/openshift leaves a fixed user id")
    if any(p.settings()["listen"] != ["unix:/run/defender-gateway/gateway.sock"] for p in lint.World(documents).pods):
        wrong.append("sidecar-everything: components/unix-socket leaves the port")
    text = combination("k/shared-everything", ["base/shared"], ["store", "certificate", "podmonitor", "openshift", "cilium"])
    documents = examine("shared-everything", text, binary, 1)
    wide = [d for d in documents if d["kind"] == "NetworkPolicy" and re.search(r"(0\.0\.0\.0|::)/0", str(d["spec"]["egress"]))]
    if wide:
        wrong.append("shared-everything: components/cilium leaves port 443 open to all addresses")
    # Of a query that goes elsewhere it learns nothing, and shuts the address that was asked for.
    seen = [peer["matchLabels"].get("k8s-app") for d in documents if d["kind"] == "CiliumNetworkPolicy"
            for rule in d["spec"]["egress"] for peer in rule.get("toEndpoints") or []]
    if seen != ["kube-dns", "node-local-dns"]:
        wrong.append(f"shared-everything: components/cilium sees DNS queries to {seen} only")
    # The trap that the README warns of, and the way around it.
    late = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "a-deployment"},
            "spec": {"template": {"spec": {"initContainers": [{"name": "migrate", "image": "registry.example.com/a:2"}]}}}}
    text = combination("k/late", None, ["sidecar"])
    (OUT / "k/later").mkdir()
    for name, first in (("late", []), ("mended", [{"name": "defender-gateway"}])):
        containers = first + late["spec"]["template"]["spec"]["initContainers"]
        patch = {**late, "spec": {"template": {"spec": {"initContainers": containers}}}}
        content = {"resources": ["../late"], "patches": [{"patch": yaml.safe_dump(patch)}]}
        (OUT / "k/later/kustomization.yaml").write_text(yaml.safe_dump(content))
        found = {rule for _, rule, _ in lint.lint(kustomize(OUT / "k/later"))}
        if found != ({"sidecar-order"} if name == "late" else set()):
            wrong.append(f"a {name} patch of an init container: found {found}")


def same_sidecar():
    """The patch for CronJobs is the patch for the others, deeper; the configurations are those of config/."""
    folder = KUSTOMIZE / "components/sidecar"
    plain = yaml.safe_load((folder / "sidecar.yaml").read_text())["spec"]["template"]
    deeper = yaml.safe_load((folder / "sidecar-cronjob.yaml").read_text())["spec"]["jobTemplate"]["spec"]["template"]
    if plain != deeper:
        wrong.append("components/sidecar: sidecar.yaml and sidecar-cronjob.yaml differ")
    if (folder / "gateway.toml").read_text() != (ROOT / "config/sidecar.toml").read_text():
        wrong.append("components/sidecar/gateway.toml differs from config/sidecar.toml")
    read = lambda path: lint.tomllib.loads(path.read_text())
    base, full = read(KUSTOMIZE / "base/shared/gateway.toml"), read(ROOT / "config/shared.toml")
    del full["store"], full["server"]["hosts"]
    if base != full:
        wrong.append(f"base/shared/gateway.toml differs from config/shared.toml:\n  {base}\n  {full}")


def helm(*args, fine=True):
    done = subprocess.run(["helm", *args], capture_output=True, text=True, timeout=60)
    if (done.returncode == 0) != fine:
        wrong.append(f"helm {' '.join(args)}: {done.stdout} {done.stderr}")
    return done.stdout if fine else done.stderr


def charts(binary):
    values = [*sorted((CHART / "ci").glob("*-values.yaml")), TERRAFORM / "values.yaml"]
    for file in values:
        name = "terraform" if file.parent == TERRAFORM else file.name.removesuffix("-values.yaml")
        common = ["-f", str(file), "--namespace", "elsewhere"]
        helm("lint", "--strict", str(CHART), *common)
        text = helm("template", "r", str(CHART), "--kube-version", "1.29.0", *common)
        examine(f"helm-{name}", text, binary, 1)
        if text != helm("template", "r", str(CHART), "--kube-version", "1.29.0", *common):
            wrong.append(f"helm-{name}: two renders differ")
    for number, refused in enumerate(yaml.safe_load((CHART / "ci/refused.yaml").read_text())):
        file = OUT / f"refused-{number}.yaml"
        file.write_text(yaml.safe_dump(refused["values"]))
        said = helm("template", "r", str(CHART), "-f", str(file), fine=False)
        if refused["says"] not in said:
            wrong.append(f"refused values {refused['values']}: expected {refused['says']!r} in:\n{said}")
    # Of versions that change limits in place, which earlier ones would show as a difference for ever.
    for version, wanted in (("1.32.9", False), ("1.33.0", True)):
        text = helm("template", "r", str(CHART), "--kube-version", version)
        examine(f"helm-on-{version}", text, binary, 1)
        if ("restartPolicy: RestartContainer" in text) != wanted:
            wrong.append(f"helm-on-{version}: resizePolicy is {'missing' if wanted else 'there'}")
    # Names of digits alone are names as well.
    numbers = ["--set-string", "credentials.kind=certificate,credentials.tenantId=tenant.example,credentials.secretName=4,store.secretName=5",
               "--set-string", "credentials.clientId=11111111-2222-3333-4444-555555555555,fullnameOverride=3,priorityClassName=6",
               "--set", "store.url=redis://redis.example.com,prometheusRule.enabled=true,dashboard.enabled=true,podMonitor.enabled=true"]
    text = helm("template", "1", str(CHART), "--namespace", "2", *numbers)
    documents = examine("helm-numbers", text, binary, 1)
    for name in {type(value) for d in documents for value in (d["metadata"]["name"], d["metadata"]["namespace"])} - {str}:
        wrong.append(f"helm-numbers: a name is of the type {name}")
    # People's own charts use the named template; this one is the proof.
    user = OUT / "user-chart"
    shutil.copytree(ROOT / "deploy/helm/example-app", user)
    (user / "charts").mkdir()
    shutil.copytree(CHART, user / "charts/defender-gateway")
    # Prometheus finds its sidecars although the chart's own service is off.
    monitored = ["--set", "defender-gateway.podMonitor.enabled=true", "--set", "defender-gateway.prometheusRule.enabled=true"]
    text = helm("template", "r", str(user), "--namespace", "shop", *monitored)
    examine("helm-example-app", text, binary, 1)
    rendered = {document["kind"]: document for document in yaml.safe_load_all(text) if document}
    wanted = rendered["PodMonitor"]["spec"]["selector"]["matchLabels"].items()
    if "PrometheusRule" not in rendered or not wanted <= rendered["Deployment"]["spec"]["template"]["metadata"]["labels"].items():
        wrong.append(f"helm-example-app: the monitors of {sorted(rendered)} do not find the sidecar")
    documented(user, binary)
    if "imagee" not in helm("template", "r", str(user), "--set", "defenderGateway.imagee=x", fine=False):
        wrong.append("helm-example-app: a misspelt value is ignored")
    return len(values)


def documented(user, binary):
    """A sidecar with a store as the README has it, and on OpenShift, which refuses fixed user ids."""
    blocks = re.findall(r"^```yaml\n(.*?)^```", (ROOT / "deploy/helm/README.md").read_text(), re.M | re.S)
    (OUT / "store.yaml").write_text(next(block for block in blocks if "extraVolumeMounts" in block))
    common = ["template", "r", str(user), "--namespace", "shop", "--values", str(OUT / "store.yaml")]
    # Helm 4 loses a null that somebody gives, and keeps an empty word.
    for none in ("null", ""):
        documents = examine("helm-example-store", helm(*common, "--set", f"defenderGateway.runAsUser={none}"), binary, 1)
        for pod in lint.World(documents).pods:
            if {"runAsUser", "runAsGroup"} & pod.gateway["securityContext"].keys():
                wrong.append(f"helm-example-store: `runAsUser: {none}` leaves a fixed user id")
    for number in (65532, 1000):
        text = helm(*common, *(["--set", f"defenderGateway.runAsUser={number}"] if number != 65532 else []))
        if text.count(f"runAsUser: {number}\n") != 1:
            wrong.append(f"helm-example-store: the user id is not {number}")


def lost_links():
    """A chart that lost its links on the way says so in place of alerts and a dashboard without content."""
    chart = OUT / "lost-links"
    shutil.copytree(CHART, chart)
    for file, value in (("rules.yaml", "prometheusRule"), ("defender-gateway.json", "dashboard")):
        copy = chart / "files" / file
        for content in (None, os.readlink(CHART / "files" / file)):
            copy.unlink() if content is None else copy.write_text(content)
            if "was lost on the way" not in helm("template", "r", str(chart), "--set", f"{value}.enabled=true", fine=False):
                wrong.append(f"a chart whose {file} holds {content} renders")


def terraform():
    """The release is of this chart with these values, and written as Terraform wants it; validating would need its registry."""
    text = (TERRAFORM / "main.tf").read_text()
    paths = re.findall(r'"\$\{path\.module\}/(.+?)"', text)
    if sorted((TERRAFORM / path).resolve() for path in paths) != [CHART, TERRAFORM / "values.yaml"]:
        wrong.append(f"deploy/terraform/main.tf names {paths} in place of the chart and its values")
    if shutil.which("terraform"):
        done = subprocess.run(["terraform", "fmt", "-check", "-diff", str(TERRAFORM)], capture_output=True, text=True, timeout=60)
        if done.returncode:
            wrong.append(f"terraform fmt: {done.stdout}{done.stderr}")


def posture():
    """What checkov thinks of the examples that people copy, and of the chart."""
    folder = OUT / "posture"
    folder.mkdir()
    for file in [*OUT.glob("overlay-*.yaml"), *OUT.glob("helm-default.yaml")]:
        # The trial is for a look: its application has no probes.
        if "trial" not in file.name:
            shutil.copy(file, folder)
    command = ["checkov", "--skip-download", "--compact", "--quiet", "--framework", "kubernetes", "--skip-check", ",".join(UNWANTED),
               "--directory", str(folder), "--output", "json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    try:
        found = json.loads(done.stdout)
        wrong.extend(f"checkov: {f['check_id']} {f['check_name']}: {f['resource']} in {f['file_path']}"
                     for f in found["results"]["failed_checks"])
        passed = found["summary"]["passed"]
    except (ValueError, KeyError, TypeError) as error:
        wrong.append(f"checkov did not report: {error!r}\n{done.stdout[-500:]}\n{done.stderr[-500:]}")
        return 0
    if passed < 100 or found["summary"]["parsing_errors"]:
        wrong.append(f"checkov looked at too little: {found['summary']}")
    return passed


def main(binary):
    shutil.rmtree(OUT, ignore_errors=True)
    OUT.mkdir(parents=True)
    same_sidecar()
    kustomizations(binary)
    charts(binary)
    lost_links()
    terraform()
    passed = posture()
    print("\n".join(wrong) or f"{len(list(OUT.glob('*.yaml')))} renders are right for Kubernetes {versions()[0]} to {versions()[-1]}; "
          f"checkov passes {passed} checks of the examples")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
