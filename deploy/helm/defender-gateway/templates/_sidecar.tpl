{{/*
For your own chart: the gateway as a native sidecar. Put it first in initContainers.

  initContainers:
    {{- include "defender-gateway.sidecar" .Values.defenderGateway | nindent 8 }}
  volumes:
    {{- include "defender-gateway.sidecarVolumes" .Values.defenderGateway | nindent 8 }}

Both take the same values. There are, besides `credentials` (kind, tenantId, clientId, secretName as in values.yaml): `image` (repository, tag, digest), `env` (a list of
variables, such as DEFENDER_GATEWAY_QUOTA_LIMITS; one that is set here as well is replaced), `resources`, `runAsUser` (65532; "" lets
OpenShift choose, and so does null where Helm keeps it), `extraVolumes` and `extraVolumeMounts`, such as for a store's password or a CA bundle.
*/}}
{{- define "defender-gateway.sidecar" -}}
{{- range $key, $_ := . }}
{{- $known := list "credentials" "env" "extraVolumeMounts" "extraVolumes" "image" "resources" "runAsUser" }}
{{- if not (has $key $known) }}
{{- fail (printf "the sidecar takes %s, not %q" (join ", " $known) $key) }}
{{- end }}
{{- end }}
- name: defender-gateway
  restartPolicy: Always
  image: {{ include "defender-gateway.image" (.image | default (dict "repository" "registry.example.com/defender-gateway")) }}
  imagePullPolicy: IfNotPresent
  args: [run]
  {{- $env := list }}
  {{- range $name, $value := dict "ADMIN_LISTEN" "[::]:9901" "SERVER_DRAIN" "10s" "QUOTA_ON_UNKNOWN_PAST" "paced" "CACHE_MAX_SIZE" "16MiB" "TELEMETRY_FORMAT" "json" }}
  {{- $env = append $env (dict "name" (printf "DEFENDER_GATEWAY_%s" $name) "value" $value) }}
  {{- end }}
  {{- $env = concat $env (include "defender-gateway.credentialEnv" .credentials | fromYamlArray) (.env | default list) }}
  env:
    {{- include "defender-gateway.env" $env | nindent 4 }}
  ports:
    - name: gateway-admin
      containerPort: 9901
      protocol: TCP
  startupProbe:
    httpGet: {path: /startupz, port: gateway-admin}
    periodSeconds: 1
    failureThreshold: 60
  livenessProbe:
    httpGet: {path: /livez, port: gateway-admin}
    periodSeconds: 10
    timeoutSeconds: 5
    failureThreshold: 6
  securityContext:
    runAsNonRoot: true
    {{- $user := ternary .runAsUser 65532 (hasKey . "runAsUser") }}
    {{- if not (or (kindIs "invalid" $user) (eq (toString $user) "")) }}
    runAsUser: {{ int64 $user }}
    runAsGroup: {{ int64 $user }}
    {{- end }}
    allowPrivilegeEscalation: false
    readOnlyRootFilesystem: true
    capabilities: {drop: [ALL]}
    seccompProfile: {type: RuntimeDefault}
  resources:
    {{- .resources | default (dict "requests" (dict "cpu" "25m" "memory" "32Mi") "limits" (dict "memory" "128Mi")) | toYaml | nindent 4 }}
  {{- $mounts := .extraVolumeMounts | default list }}
  {{- if include "defender-gateway.credentialVolume" .credentials }}
  {{- $mounts = prepend $mounts (dict "name" "defender-gateway-credentials" "mountPath" "/var/run/secrets/defender-gateway" "readOnly" true) }}
  {{- end }}
  {{- with $mounts }}
  volumeMounts:
    {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end }}

{{/* The volumes that the sidecar needs; empty for kinds of credential without files, unless there are others. */}}
{{- define "defender-gateway.sidecarVolumes" -}}
{{- include "defender-gateway.credentialVolume" .credentials }}
{{- with .extraVolumes }}
{{ toYaml . }}
{{- end }}
{{- end }}
