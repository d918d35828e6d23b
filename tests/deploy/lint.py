#!/usr/bin/env python3
"""Finds mistakes in rendered Kubernetes manifests that no schema knows.

    lint.py FILE...          prints `FILE: KIND/NAME: RULE: what is wrong`; exit status 1 when there is any
    lint.py --rules          prints the rules

Rules speak about the gateway's container (named `defender-gateway`) and about whatever else is in its pod. See tests/deploy/corpus for
a mistake of every kind.
"""
import re
import sys
import tomllib

import yaml

GATEWAY = "defender-gateway"
PREFIX = "DEFENDER_GATEWAY_"
# Whatever redirects the pod's traffic has to be there first; the gateway's own calls go through it.
MESH = {"istio-init", "istio-validation", "istio-proxy", "linkerd-init", "linkerd-network-validator", "linkerd-proxy"}
RULES = {}


def rule(name):
    def keep(check):
        RULES[name] = check
        return check
    return keep


class Pod:
    """A pod template, with what it needs to know of the rest of the render."""

    def __init__(self, owner, template, world):
        self.owner, self.world = owner, world
        self.meta, self.spec = template.get("metadata") or {}, template.get("spec") or {}
        self.labels, self.annotations = self.meta.get("labels") or {}, self.meta.get("annotations") or {}
        self.init = self.spec.get("initContainers") or []
        self.app = self.spec.get("containers") or []
        self.all = self.init + self.app
        self.volumes = {v.get("name"): v for v in self.spec.get("volumes") or []}
        self.gateway = next((c for c in self.all if c.get("name") == GATEWAY), None)
        self.is_sidecar = self.gateway is not None and self.gateway in self.init
        # In somebody else's pod, be it as a native sidecar or as an ordinary container.
        self.is_guest = self.is_sidecar or (self.gateway is not None and len(self.app) > 1)
        self.namespace = (owner.get("metadata") or {}).get("namespace")

    def env(self):
        """The gateway's variables that have a literal value, with $(NAME) of the namespace filled in."""
        values = {}
        for e in self.gateway.get("env") or []:
            if (e.get("valueFrom") or {}).get("fieldRef", {}).get("fieldPath") == "metadata.namespace":
                values[e["name"]] = self.namespace or "default"
            elif "value" in e:
                values[e["name"]] = re.sub(r"\$\((\w+)\)", lambda m: str(values.get(m[1], m[0])), str(e["value"]))
        return values

    def config_map(self):
        path = self.env().get(PREFIX + "CONFIG", "/etc/defender-gateway/gateway.toml")
        for mount in self.gateway.get("volumeMounts") or []:
            if path.startswith(mount.get("mountPath", "?").rstrip("/") + "/"):
                source = (self.volumes.get(mount.get("name")) or {}).get("configMap")
                if source:
                    return source.get("name"), path.rsplit("/", 1)[1]
        return None, None

    def settings(self):
        """The configuration as the gateway will see it: defaults, file, variables. None when the file is elsewhere or no TOML."""
        name, key = self.config_map()
        found = self.world.find("ConfigMap", name, self.namespace) if name else None
        try:
            file = tomllib.loads((found or {}).get("data", {}).get(key, ""))
        except tomllib.TOMLDecodeError:
            file = {}
        env = self.env()

        # An address that is no secret may come from a ConfigMap.
        for e in self.gateway.get("env") or []:
            ref = (e.get("valueFrom") or {}).get("configMapKeyRef")
            if ref:
                source = self.world.find("ConfigMap", ref.get("name"), self.namespace) or {}
                env.setdefault(e.get("name"), (source.get("data") or {}).get(ref.get("key"), ""))

        def of(section, key, default):
            value = env.get(f"{PREFIX}{section}_{key}".upper(), file.get(section, {}).get(key, default))
            return value.split(",") if isinstance(default, list) and isinstance(value, str) else value
        return {
            "listen": of("server", "listen", ["127.0.0.1:8080"]), "hosts": of("server", "hosts", []),
            "admin": of("admin", "listen", "127.0.0.1:9901"), "linger": of("server", "linger", "0s"),
            "drain": of("server", "drain", "25s"), "quit": of("admin", "quit", False) in (True, "true"),
            "store": of("store", "url", ""),
        }


class World:
    def __init__(self, documents):
        self.documents = documents
        self.pods = [Pod(d, t, self) for d in documents for t in templates(d)]

    def find(self, kind, name, namespace):
        for d in self.documents:
            m = d.get("metadata") or {}
            if d.get("kind") == kind and m.get("name") == name and m.get("namespace") == namespace:
                return d
        return None


def templates(d):
    spec = d.get("spec") or {}
    if d.get("kind") in ("Deployment", "StatefulSet", "DaemonSet", "Job", "ReplicaSet"):
        yield spec.get("template") or {}
    elif d.get("kind") == "CronJob":
        yield ((spec.get("jobTemplate") or {}).get("spec") or {}).get("template") or {}
    elif d.get("kind") == "Pod":
        yield d


def probes(c):
    return [(kind, c[kind]) for kind in ("startupProbe", "livenessProbe", "readinessProbe") if c.get(kind)]


def ports(c):
    return c.get("ports") or []


def seconds(text):
    m = re.fullmatch(r"(\d+)(ms|s|m|h|d)", str(text))
    return int(m[1]) * {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400}[m[2]] if m else 0


def port_of(address):
    m = re.search(r":(\d+)$", str(address))
    return int(m[1]) if m else None


def is_loopback(address):
    return str(address).startswith(("127.", "[::1]", "unix:"))


def is_native(c):
    return c.get("restartPolicy") == "Always"


# What is true of every pod -------------------------------------------------------------------------------------------------------

@rule("plain-init-probe")
def _(p):
    for c in p.init:
        if probes(c) and not is_native(c):
            yield f"{c.get('name')} is an ordinary init container; probes are for sidecars and app containers"


@rule("mount-without-volume")
def _(p):
    claims = {t.get("metadata", {}).get("name") for t in (p.owner.get("spec") or {}).get("volumeClaimTemplates") or []}
    for c in p.all:
        for m in c.get("volumeMounts") or []:
            if m.get("name") not in p.volumes and m.get("name") not in claims:
                yield f"{c.get('name')} mounts {m.get('name')}, which is no volume of the pod"


@rule("volume-without-mount")
def _(p):
    used = {m.get("name") for c in p.all for m in c.get("volumeMounts") or []}
    for name in p.volumes:
        if name not in used:
            yield f"nobody mounts the volume {name}"


@rule("port-name-unknown")
def _(p):
    for c in p.all:
        names = {port.get("name") for port in ports(c)}
        for kind, probe in probes(c):
            for how in ("httpGet", "tcpSocket"):
                port = (probe.get(how) or {}).get("port")
                if isinstance(port, str) and port not in names:
                    yield f"{c.get('name')}: {kind} asks the port {port}, which this container does not have"


@rule("name-twice")
def _(p):
    for what, names in [
        ("container", [c.get("name") for c in p.all]),
        ("port", [port.get("name") for c in p.all for port in ports(c) if port.get("name")]),
        *[(f"variable of {c.get('name')}", [e.get("name") for e in c.get("env") or []]) for c in p.all],
    ]:
        for name in sorted({n for n in names if names.count(n) > 1}):
            yield f"{what} {name} is there twice"


@rule("port-name-long")
def _(p):
    for c in p.all:
        for port in ports(c):
            if len(port.get("name", "")) > 15:
                yield f"{c.get('name')}: the port name {port['name']} has more than 15 characters"


@rule("selector")
def _(p):
    wanted = ((p.owner.get("spec") or {}).get("selector") or {}).get("matchLabels") or {}
    if p.owner.get("kind") in ("Deployment", "StatefulSet", "DaemonSet") and not wanted.items() <= p.labels.items():
        yield "the selector's labels are not all on the pod template"


@rule("probe-host")
def _(p):
    for c in p.all:
        hooks = [(name, hook) for name, hook in (c.get("lifecycle") or {}).items() if isinstance(hook, dict)]
        for kind, probe in probes(c) + hooks:
            if any((probe.get(how) or {}).get("host") for how in ("httpGet", "tcpSocket")):
                yield f"{c.get('name')}: {kind} names a host; 127.0.0.1 there is the node's, and Pod Security forbids it"


@rule("sub-path")
def _(p):
    for c in p.all:
        for m in c.get("volumeMounts") or []:
            source = p.volumes.get(m.get("name")) or {}
            if (m.get("subPath") or m.get("subPathExpr")) and {"configMap", "secret", "projected"} & source.keys():
                yield f"{c.get('name')} mounts {m.get('name')} by subPath; it will never see an update"


@rule("image-tag")
def _(p):
    for c in p.all:
        image = c.get("image", "")
        if "@sha256:" not in image and (":" not in image.rsplit("/", 1)[-1] or image.endswith(":latest")):
            yield f"{c.get('name')}: the image {image or '(none)'} names no fixed version"


# What is true of a pod with a gateway --------------------------------------------------------------------------------------------

def gateway_rule(name):
    def keep(check):
        RULES[name] = lambda p: check(p, p.gateway) if p.gateway is not None else ()
        return check
    return keep


def sidecar_rule(name):
    def keep(check):
        RULES[name] = lambda p: check(p, p.gateway) if p.is_sidecar else ()
        return check
    return keep


def guest_rule(name):
    def keep(check):
        RULES[name] = lambda p: check(p, p.gateway) if p.is_guest else ()
        return check
    return keep


@sidecar_rule("sidecar-order")
def _(p, g):
    before = [c.get("name") for c in p.init[:p.init.index(g)] if c.get("name") not in MESH]
    if before:
        yield f"{', '.join(map(str, before))} would start before the gateway; list `- name: {GATEWAY}` first in your patch"


@sidecar_rule("sidecar-restart")
def _(p, g):
    if not is_native(g):
        yield "an init container without restartPolicy: Always; the application would wait for its end for ever"


@guest_rule("sidecar-classic")
def _(p, g):
    if g in p.app and not p.settings()["quit"]:
        yield ("an ordinary container beside the application: started and stopped with it in no order, and a Job would never end. "
               "Where native sidecars are unknown, admin.quit lets the application end it")


@guest_rule("default-container")
def _(p, g):
    name = p.annotations.get("kubectl.kubernetes.io/default-container")
    if name is None and p.app[0] is g:
        yield "`kubectl logs` and `exec` would mean the gateway: list it last, or name the application's container in an annotation"
    elif name is not None and name not in [c.get("name") for c in p.all if c is not g]:
        yield f"kubectl.kubernetes.io/default-container names {name}, which is no container of the application"


@guest_rule("sidecar-readiness")
def _(p, g):
    if g.get("readinessProbe"):
        yield "a readiness probe of a sidecar counts for the pod and takes the application out of its Service"


@guest_rule("sidecar-pre-stop")
def _(p, g):
    if (g.get("lifecycle") or {}).get("preStop"):
        yield "a preStop hook runs at the start of the pod's end, while the application still needs the gateway"


@guest_rule("sidecar-host-network")
def _(p, g):
    if p.spec.get("hostNetwork"):
        yield "hostNetwork makes the pod's loopback the node's: every pod of its kind there could use this gateway"


@guest_rule("sidecar-open")
def _(p, g):
    for address in p.settings()["listen"]:
        if not is_loopback(address):
            yield f"the gateway of a pod listens on {address}; other pods could use its permission"


@guest_rule("sidecar-port-clash")
def _(p, g):
    s = p.settings()
    own = {port_of(a): a for a in [*s["listen"], s["admin"]] if port_of(a)}
    for c in p.all:
        for port in ports(c):
            if c is not g and port.get("containerPort") in own:
                yield f"{c.get('name')} has port {port['containerPort']} as well as the gateway ({own[port['containerPort']]})"


@guest_rule("token-for-all")
def _(p, g):
    if p.labels.get("azure.workload.identity/use") == "true":
        skipped = [n.strip() for n in p.annotations.get("azure.workload.identity/skip-containers", "").split(";")]
        for c in p.all:
            if c is not g and c.get("name") not in skipped:
                yield f"{c.get('name')} would get the token too; name it in azure.workload.identity/skip-containers"
        if GATEWAY in skipped:
            yield "skip-containers names the gateway, which needs the token"


@gateway_rule("probes")
def _(p, g):
    for kind, path in (("startupProbe", "/startupz"), ("livenessProbe", "/livez"), ("readinessProbe", "/readyz")):
        probe = g.get(kind)
        if probe is None:
            if kind != "readinessProbe" or not p.is_guest:
                yield f"has no {kind}"
            continue
        get = probe.get("httpGet")
        if get and get.get("path") != path:
            yield f"{kind} asks {get.get('path')} instead of {path}"
        number = next((q.get("containerPort") for q in ports(g) if q.get("name") == (get or {}).get("port")), (get or {}).get("port"))
        admin = p.settings()["admin"]
        if isinstance(number, int) and number != port_of(admin):
            yield f"{kind} asks port {number}; health is served on {admin}"


@gateway_rule("admin-loopback")
def _(p, g):
    admin = p.settings()["admin"]
    if is_loopback(admin) and any("httpGet" in probe for _, probe in probes(g)):
        yield f"health is served on {admin}; the kubelet connects to the pod's address"


@gateway_rule("secret-mode")
def _(p, g):
    group = (p.spec.get("securityContext") or {}).get("fsGroup")
    for m in g.get("volumeMounts") or []:
        source = p.volumes.get(m.get("name")) or {}
        for kind in ("secret", "configMap", "projected"):
            if kind in source:
                items = [i for s in [source[kind], *(source[kind].get("sources") or [])]
                         for i in [*(s.get("items") or []), *[i for k in ("secret", "configMap") for i in (s.get(k) or {}).get("items") or []]]]
                for mode in {source[kind].get("defaultMode", 0o644), *(i["mode"] for i in items if "mode" in i)}:
                    if not mode & (0o040 if group is not None else 0o004):
                        yield f"the files of {m['name']} have mode {mode:04o}, which the gateway's user cannot read"
                    if mode & 0o022:
                        yield f"the files of {m['name']} have mode {mode:04o}, which others can write"


@gateway_rule("secret-in-env")
def _(p, g):
    for e in g.get("env") or []:
        name = e.get("name", "")
        if name in ("AZURE_CLIENT_SECRET", PREFIX + "CREDENTIALS_CLIENT_SECRET"):
            yield f"{name} puts the secret into the environment; mount it as a file"
        if name == PREFIX + "STORE_URL" and "secretKeyRef" in (e.get("valueFrom") or {}):
            yield f"{name} comes from a Secret: keep the password out of the address, and mount it as a file (store.password_file)"
        if re.search(r"://[^/@]*:[^/@]+@", str(e.get("value", ""))):
            yield f"{name} holds a password in the manifest"


@gateway_rule("secret-shared")
def _(p, g):
    mounted = {m.get("name") for m in g.get("volumeMounts") or []}
    for c in p.all:
        for m in c.get("volumeMounts") or []:
            source = p.volumes.get(m.get("name")) or {}
            if c is not g and m.get("name") in mounted and {"secret", "projected"} & source.keys():
                yield f"{c.get('name')} mounts the gateway's credential {m['name']}"


@gateway_rule("restricted")
def _(p, g):
    own, pod = g.get("securityContext") or {}, p.spec.get("securityContext") or {}
    for key, want in (("allowPrivilegeEscalation", False), ("readOnlyRootFilesystem", True)):
        if own.get(key) is not want:
            yield f"securityContext.{key} is not {str(want).lower()}"
    if "ALL" not in ((own.get("capabilities") or {}).get("drop") or []) or (own.get("capabilities") or {}).get("add"):
        yield "securityContext.capabilities does not drop ALL, or adds some"
    if own.get("runAsNonRoot", pod.get("runAsNonRoot")) is not True:
        yield "runAsNonRoot is not true"
    if own.get("runAsUser", pod.get("runAsUser", 65532)) == 0:
        yield "runs as root"
    seccomp = (own.get("seccompProfile") or pod.get("seccompProfile") or {}).get("type")
    if seccomp not in ("RuntimeDefault", "Localhost"):
        yield "has no seccomp profile"
    for key in ("hostPID", "hostIPC"):
        if p.spec.get(key):
            yield f"the pod has {key}"
    if own.get("privileged") or any("hostPath" in v for v in p.volumes.values()):
        yield "is privileged or the pod mounts a hostPath"


@gateway_rule("resources")
def _(p, g):
    r = g.get("resources") or {}
    requests, limits = r.get("requests") or {}, r.get("limits") or {}
    if "memory" not in requests or "cpu" not in requests or "memory" not in limits:
        yield "needs requests for cpu and memory, and a limit for memory"
    if "cpu" in limits:
        yield "has a CPU limit, which delays answers while the node has time to spare"


@gateway_rule("grace")
def _(p, g):
    s, grace = p.settings(), p.spec.get("terminationGracePeriodSeconds", 30)
    hook = ((g.get("lifecycle") or {}).get("preStop") or {}).get("sleep", {}).get("seconds", 0)
    needed = hook + seconds(s["linger"]) + seconds(s["drain"]) + 2
    if needed > grace:
        yield f"needs {needed:g} s to stop (linger {s['linger']}, drain {s['drain']}, 2 s), but is killed after {grace} s"


@gateway_rule("config")
def _(p, g):
    name, key = p.config_map()
    if name is None:
        if PREFIX + "CONFIG" in p.env():
            yield f"{PREFIX}CONFIG names a file that no ConfigMap mounted here holds"
        return
    found = p.world.find("ConfigMap", name, p.namespace)
    if found is None:
        yield f"the ConfigMap {name} is not in this render"
    elif key not in (found.get("data") or {}):
        yield f"the ConfigMap {name} has no {key}"
    else:
        try:
            tomllib.loads(found["data"][key])
        except tomllib.TOMLDecodeError as error:
            yield f"{key} of {name}: {error}"


@gateway_rule("config-reference")
def _(p, g):
    for e in g.get("env") or []:
        ref = (e.get("valueFrom") or {}).get("configMapKeyRef")
        if ref and not ref.get("optional"):
            found = p.world.find("ConfigMap", ref.get("name"), p.namespace)
            if found is None or ref.get("key") not in (found.get("data") or {}):
                yield f"{e.get('name')} comes from {ref.get('key')} of the ConfigMap {ref.get('name')}, which is not in this render"


def policies(p, direction):
    """The NetworkPolicies of this render that are about the pod."""
    for d in p.world.documents:
        spec, namespace = d.get("spec") or {}, (d.get("metadata") or {}).get("namespace")
        if d.get("kind") == "NetworkPolicy" and namespace == p.namespace and selects(spec.get("podSelector"), p.labels):
            if direction in (spec.get("policyTypes") or ["Ingress", *(["Egress"] if "egress" in spec else [])]):
                yield spec


def doors(p):
    """The ports where callers ask, but for those that only the pod itself can reach."""
    return set() if p.is_guest else {port_of(a) for a in p.settings()["listen"] if not is_loopback(a)}


def admitted(p, port):
    """The rules of those policies about a port."""
    for policy in policies(p, "Ingress"):
        for r in policy.get("ingress") or []:
            # What a name admits is up to the network plug-in: in the worst case, every port.
            if not r.get("ports") or any(q.get("port") in (None, port) or isinstance(q["port"], str) for q in r["ports"]):
                yield r


def is_everywhere(peer):
    """Whether a peer is every address, or every pod of the cluster."""
    block = (peer.get("ipBlock") or {}).get("cidr")
    return block.endswith("/0") if block else peer.get("namespaceSelector") == {} and not peer.get("podSelector")


@gateway_rule("open-needs-lock")
def _(p, g):
    if doors(p) and not any(True for _ in policies(p, "Ingress")):
        yield "callers are not authenticated, and no NetworkPolicy limits who they are"


@gateway_rule("lock-open")
def _(p, g):
    if any(not r.get("from") or any(is_everywhere(peer) for peer in r["from"]) for door in doors(p) for r in admitted(p, door)):
        yield "callers are not authenticated, and the NetworkPolicy lets everybody in"


@gateway_rule("lock-without-door")
def _(p, g):
    for door in doors(p) if any(True for _ in policies(p, "Ingress")) else ():
        if not any(True for _ in admitted(p, door)):
            yield f"the NetworkPolicy lets nobody in to port {door}, where callers ask"


@gateway_rule("metadata-service")
def _(p, g):
    for policy in policies(p, "Egress"):
        for r in policy.get("egress") or []:
            wanted = [q.get("port") for q in r.get("ports") or []]
            if not r.get("to") and {None, 80, 443} & {*wanted}:
                yield "the NetworkPolicy lets calls out to every address, the node's metadata service included"
            for block in filter(None, ((peer.get("ipBlock") or {}) for peer in r.get("to") or [])):
                if block.get("cidr") == "0.0.0.0/0" and "169.254.169.254/32" not in (block.get("except") or []):
                    yield "the NetworkPolicy lets calls out to the node's metadata service among all addresses"


@gateway_rule("shared-token")
def _(p, g):
    if not p.is_guest:
        if p.spec.get("automountServiceAccountToken") is not False:
            yield "automountServiceAccountToken is not false; the gateway never talks to the Kubernetes API"
        if p.spec.get("enableServiceLinks") is not False:
            yield "enableServiceLinks is not false; a Service of the same name would set variables with our prefix"


@gateway_rule("any-system")
def _(p, g):
    if not p.is_guest and (p.spec.get("nodeSelector") or {}).get("kubernetes.io/os") != "linux":
        yield "without a nodeSelector for kubernetes.io/os it may land on a node with Windows, where it never starts"


@gateway_rule("service-link-name")
def _(p, g):
    for e in g.get("env") or []:
        if re.fullmatch(PREFIX + r"(PORT|HOST|SERVICE_\w+|PORT_\d+_\w+)", e.get("name", "")):
            yield f"{e['name']} is a name that Kubernetes sets for a Service"


@gateway_rule("replicas")
def _(p, g):
    spec = p.owner.get("spec") or {}
    shared = bool(p.settings()["store"]) or PREFIX + "STORE_URL" in [e.get("name") for e in g.get("env") or []]
    if p.owner.get("kind") == "Deployment" and not p.is_guest and not shared:
        if (spec.get("replicas") or 1) > 1:
            yield "several replicas without a store each spend the whole quota"
        elif (spec.get("strategy") or {}).get("type") != "Recreate":
            yield "one replica without a store needs strategy Recreate: during an update two would spend the quota"


@gateway_rule("egress-store")
def _(p, g):
    """A policy for the way out lets the store's port through. Those of Sentinel's servers are Sentinel's to say."""
    rules = [r for policy in policies(p, "Egress") for r in [{"ports": []}, *(policy.get("egress") or [])]]
    store = p.settings()["store"]
    if store and rules:
        through = {q.get("port") for r in rules for q in r.get("ports") or []}
        needed = {int(port) for port in re.findall(r":(\d+)", store)} or {6379}
        for port in sorted(needed - through):
            yield f"the store is at port {port}, which no rule for the way out lets through"


# What is true of the render as a whole -------------------------------------------------------------------------------------------

def selects(selector, labels):
    if selector is None:
        return False
    for e in selector.get("matchExpressions") or []:
        has = labels.get(e.get("key"))
        good = {"In": has in (e.get("values") or []), "NotIn": has not in (e.get("values") or []),
                "Exists": has is not None, "DoesNotExist": has is None}.get(e.get("operator"), False)
        if not good:
            return False
    return (selector.get("matchLabels") or {}).items() <= labels.items()


def by_name(d):
    for direction in ("ingress", "egress"):
        for q in [q for r in d["spec"].get(direction) or [] for q in r.get("ports") or []]:
            if isinstance(q.get("port"), str):
                yield d, "policy-port-name", f"names the port {q['port']}: OVN-Kubernetes opens every port for a name, others none"


def way_out(d):
    for r in d["spec"].get("egress") or []:
        numbers = {q.get("port") for q in r.get("ports") or []}
        if not numbers and not r.get("to"):
            yield d, "egress-open", "a rule without ports and addresses lets everything out"
        if 53 in numbers and 5353 not in numbers:
            yield d, "egress-dns", "OpenShift's DNS pods listen on 5353, and its policies look at the pod's port"


def whole(world):
    for d in world.documents:
        kind, spec, meta = d.get("kind"), d.get("spec") or {}, d.get("metadata") or {}
        if kind == "NetworkPolicy":
            yield from by_name(d)
            yield from way_out(d)
        if kind not in ("Service", "PodDisruptionBudget", "PodMonitor"):
            continue
        selector = {"matchLabels": spec.get("selector") or {}} if kind == "Service" else spec.get("selector")
        if kind == "Service" and not spec.get("selector"):
            continue
        chosen = [p for p in world.pods if p.namespace == meta.get("namespace") and selects(selector, p.labels)]
        if not chosen:
            yield d, "selects-nothing", "selects no pod of this render"
        for p in chosen:
            names = {q.get("name") for c in p.all for q in ports(c)}
            wanted = [q.get("targetPort", q.get("port")) for q in spec.get("ports") or []] if kind == "Service" else [
                e.get("port") for e in spec.get("podMetricsEndpoints") or []]
            for name in wanted:
                if isinstance(name, str) and name not in names:
                    yield d, "port-name-unknown", f"the port {name} is no port of {p.owner.get('kind')}/{p.owner['metadata']['name']}"
            if kind == "Service" and p.gateway in p.app and p.gateway is not None and any(
                    name in [q.get("name") for q in ports(p.gateway)] + [port_of(a) for a in p.settings()["listen"]] for name in wanted):
                s, name, ns = p.settings(), meta.get("name"), meta.get("namespace") or "default"
                for host in (name, f"{name}.{ns}", f"{name}.{ns}.svc"):
                    if host not in s["hosts"]:
                        yield d, "host-unknown", f"callers who say {host} are answered 421; add it to server.hosts"
                numbers = {q.get("name"): q.get("containerPort") for q in ports(p.gateway)}
                reached = {port_of(a) for a in s["listen"] if not is_loopback(a)}
                if not {numbers.get(name, name) for name in wanted} <= reached:
                    yield d, "service-to-loopback", f"the gateway behind this Service is reached at {sorted(reached) or 'loopback only'}"


WHOLE = {"policy-port-name", "selects-nothing", "host-unknown", "service-to-loopback", "egress-dns", "egress-open"}


def lint(text):
    """All findings in the documents of `text`: (place, rule, message)."""
    world = World([d for d in yaml.safe_load_all(text) if isinstance(d, dict)])
    place = lambda d: f"{d.get('kind')}/{(d.get('metadata') or {}).get('name')}"
    found = [(place(p.owner), name, message) for p in world.pods for name, check in RULES.items() for message in check(p)]
    return found + [(place(d), name, message) for d, name, message in whole(world)]


def main(paths):
    if paths == ["--rules"]:
        print("\n".join(sorted(RULES.keys() | WHOLE)))
        return 0
    bad = 0
    for path in paths:
        with open(path, encoding="utf-8") as file:
            for place, name, message in lint(file.read()):
                print(f"{path}: {place}: {name}: {message}")
                bad += 1
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
