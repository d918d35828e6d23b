{{- define "defender-gateway.name" -}}
{{- $own := .Values.nameOverride | default "defender-gateway" -}}
{{- if .Values.fullnameOverride }}{{ .Values.fullnameOverride | trunc 50 | trimSuffix "-" }}
{{- else if contains $own .Release.Name }}{{ .Release.Name | trunc 50 | trimSuffix "-" }}{{ else }}{{ printf "%s-%s" (.Release.Name | trunc 40 | trimSuffix "-") $own | trunc 60 | trimSuffix "-" }}{{ end }}
{{- end }}

{{- define "defender-gateway.selector" -}}
app.kubernetes.io/name: defender-gateway
app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end }}

{{- define "defender-gateway.labels" -}}
{{ include "defender-gateway.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end }}

{{/* Labels or annotations from several maps, each name once: the last map that has it counts. */}}
{{- define "defender-gateway.merged" -}}
{{- $all := dict -}}
{{- range . }}{{ $all = mergeOverwrite $all (. | default dict) }}{{ end -}}
{{- toYaml $all }}
{{- end }}

{{- define "defender-gateway.serviceAccount" -}}
{{- if .Values.serviceAccount.create }}{{ .Values.serviceAccount.name | default (include "defender-gateway.name" .) }}{{ else }}{{ .Values.serviceAccount.name | default "default" }}{{ end }}
{{- end }}

{{- define "defender-gateway.replicas" -}}
{{ if gt (int .Values.replicaCount) 0 }}{{ .Values.replicaCount }}{{ else }}{{ .Values.replicas }}{{ end }}
{{- end }}

{{/* What a key is set to, by a variable or else by `config`, with commas between several: (dict "root" . "section" SECTION "key" KEY). */}}
{{- define "defender-gateway.setting" -}}
{{- $value := get (get .root.Values.config .section | default dict) .key -}}
{{- if kindIs "slice" $value }}{{ $value = join "," $value }}{{ end -}}
{{- $name := printf "DEFENDER_GATEWAY_%s_%s" .section .key | upper -}}
{{- range concat .root.Values.env .root.Values.extraEnv }}{{ if eq .name $name }}{{ $value = .value | default (ternary "said elsewhere" "" (hasKey . "valueFrom")) }}{{ end }}{{ end -}}
{{- $value }}
{{- end }}

{{/* Whether there is a store, wherever its address is given; empty if not. */}}
{{- define "defender-gateway.hasStore" -}}
{{- .Values.store.url | default (include "defender-gateway.setting" (dict "root" . "section" "store" "key" "url")) -}}
{{- end }}

{{/* The ports at which others reach a listener, with commas between several, each once: (dict "root" . "section" SECTION "port" DEFAULT). */}}
{{- define "defender-gateway.ports" -}}
{{- $listen := include "defender-gateway.setting" (dict "root" .root "section" .section "key" "listen") | default (printf ":%d" .port) -}}
{{- $ports := list -}}
{{- range splitList "," $listen -}}
{{- if not (regexMatch "^ *(unix:|127[.]|\\[::1\\])" .) }}{{ $ports = append $ports (regexFind "[0-9]+$" (trim .)) }}{{ end -}}
{{- end -}}
{{- $ports | uniq | compact | join "," | required (printf "%s.listen has no address that other pods reach: %s" .section $listen) }}
{{- end }}

{{/* The first of them, which the Service and the probes are for. */}}
{{- define "defender-gateway.port" -}}
{{- include "defender-gateway.ports" . | splitList "," | first }}
{{- end }}

{{/* Variables, each name once: of several with one name the last counts, at the place of the first. */}}
{{- define "defender-gateway.env" -}}
{{- $byName := dict -}}
{{- range . }}{{ $_ := set $byName .name . }}{{ end -}}
{{- $out := list -}}
{{- $done := dict -}}
{{- range . }}{{ if not (hasKey $done .name) }}{{ $_ := set $done .name true }}{{ $out = append $out (get $byName .name) }}{{ end }}{{ end -}}
{{- toYaml $out }}
{{- end }}

{{/* Whole seconds of a duration such as 90s or 2m, rounded up. */}}
{{- define "defender-gateway.seconds" -}}
{{- if not (regexMatch "^[0-9]+(ms|s|m|h)$" (toString .)) }}{{ fail (printf "%v is no duration such as 20s" .) }}{{ end -}}
{{- $number := regexFind "^[0-9]+" (toString .) | int -}}
{{- if hasSuffix "ms" . }}{{ div (add $number 999) 1000 }}
{{- else if hasSuffix "s" . }}{{ $number }}
{{- else if hasSuffix "m" . }}{{ mul $number 60 }}
{{- else }}{{ mul $number 3600 }}{{ end -}}
{{- end }}

{{/* How long the kubelet waits. Killing earlier than linger + drain + 2 s would cut requests off. */}}
{{- define "defender-gateway.grace" -}}
{{- $linger := include "defender-gateway.seconds" (include "defender-gateway.setting" (dict "root" . "section" "server" "key" "linger") | default "0s") | int -}}
{{- $drain := include "defender-gateway.seconds" (include "defender-gateway.setting" (dict "root" . "section" "server" "key" "drain") | default "25s") | int -}}
{{- $needed := add $linger $drain 2 | int -}}
{{- $asked := .Values.terminationGracePeriodSeconds | int -}}
{{- if eq $asked 0 }}{{ add $needed 1 }}
{{- else if lt $asked $needed }}{{ fail (printf "terminationGracePeriodSeconds is %d; linger + drain + 2 s need %d" $asked $needed) }}
{{- else }}{{ $asked }}{{ end -}}
{{- end }}

{{/* A value as TOML, which writes texts, flags and lists as JSON does, but not tables. */}}
{{- define "defender-gateway.tomlValue" -}}
{{- $parts := list -}}
{{- if kindIs "map" . -}}
{{- range $name, $value := . }}{{ $parts = append $parts (printf "%s = %s" (toJson $name) (include "defender-gateway.tomlValue" $value)) }}{{ end -}}
{ {{ join ", " $parts }} }
{{- else if kindIs "slice" . -}}
{{- range . }}{{ $parts = append $parts (include "defender-gateway.tomlValue" .) }}{{ end -}}
[{{ join ", " $parts }}]
{{- else if kindIs "float64" . }}{{ int64 . }}{{ else }}{{ toJson . }}{{ end -}}
{{- end }}

{{/* What is wrong where a file of the chart, a link in the repository, is empty or holds its own target. */}}
{{- define "defender-gateway.linkLost" -}}
{{ . }} is a link, which was lost on the way to this chart (Flux's GitRepository leaves links out, as does Git with core.symlinks=false): install what `helm package` makes
{{- end }}

{{/* gateway.toml. */}}
{{- define "defender-gateway.toml" -}}
{{- /* Variables that the chart sets for its own values win over the file, so the same in the file would be lost without a word. */ -}}
{{- $elsewhere := dict "credentials.kind" "credentials.kind" }}
{{- if .Values.stateVolume }}{{ $_ := set $elsewhere "quota.state_file" "stateVolume" }}{{ end }}
{{- if .Values.store.url }}{{ $_ := set $elsewhere "store.url" "store.url" }}{{ end }}
{{- range $section, $keys := .Values.config }}
[{{ $section }}]
{{- range $key, $value := $keys }}
{{- if and (eq $section "server") (has $key (list "hosts" "allow_non_loopback")) }}{{ fail (printf "config.server.%s is set by this chart; service.extraHosts adds names" $key) }}{{ end }}
{{- with get $elsewhere (printf "%s.%s" $section $key) }}{{ fail (printf "config.%s.%s is set by %s" $section $key .) }}{{ end }}
{{- if and (eq $section "credentials") (eq $key "client_secret") }}{{ fail "a client secret does not belong into values; put it into a Secret and name it in credentials.secretName" }}{{ end }}
{{ $key }} = {{ include "defender-gateway.tomlValue" $value }}
{{- end }}
{{ end }}
{{- end }}

{{/* The variables of the credential: (dict "kind" … "tenantId" … "clientId" …). */}}
{{- define "defender-gateway.credentialEnv" -}}
{{- $folder := "/var/run/secrets/defender-gateway" -}}
{{- $kinds := dict "clientSecret" "client_secret" "certificate" "certificate" "workloadIdentity" "workload_identity" "workloadIdentityProjected" "workload_identity" "managedIdentity" "managed_identity" -}}
{{- if not (hasKey $kinds .kind) }}{{ fail (printf "credentials.kind %q is none of %s" .kind (keys $kinds | sortAlpha | join ", ")) }}{{ end -}}
{{- if and (has .kind (list "clientSecret" "certificate" "workloadIdentityProjected")) (not (and .tenantId .clientId)) }}{{ fail (printf "credentials.kind %s needs tenantId and clientId" .kind) }}{{ end -}}
- name: DEFENDER_GATEWAY_CREDENTIALS_KIND
  value: {{ get $kinds .kind }}
{{- with .tenantId }}
- name: DEFENDER_GATEWAY_CREDENTIALS_TENANT_ID
  value: {{ . | quote }}
{{- end }}
{{- with .clientId }}
- name: DEFENDER_GATEWAY_CREDENTIALS_CLIENT_ID
  value: {{ . | quote }}
{{- end }}
{{- if eq .kind "clientSecret" }}
- name: DEFENDER_GATEWAY_CREDENTIALS_CLIENT_SECRET_FILE
  value: {{ $folder }}/client-secret
{{- else if eq .kind "certificate" }}
- name: DEFENDER_GATEWAY_CREDENTIALS_CERTIFICATE_FILE
  value: {{ $folder }}/tls.crt
- name: DEFENDER_GATEWAY_CREDENTIALS_PRIVATE_KEY_FILE
  value: {{ $folder }}/tls.key
{{- else if eq .kind "workloadIdentityProjected" }}
- name: DEFENDER_GATEWAY_CREDENTIALS_FEDERATED_TOKEN_FILE
  value: {{ $folder }}/federated-token
{{- end }}
{{- end }}

{{/* The volume of the credential; empty for kinds without files. */}}
{{- define "defender-gateway.credentialVolume" -}}
{{- if has .kind (list "clientSecret" "certificate") -}}
- name: defender-gateway-credentials
  secret:
    secretName: {{ .secretName | quote }}
    # Files belong to root: only `other` reaches the gateway's user. The volume is mounted in its container alone.
    defaultMode: 0444
{{- else if eq .kind "workloadIdentityProjected" -}}
- name: defender-gateway-credentials
  projected:
    defaultMode: 0444
    sources:
      - serviceAccountToken:
          path: federated-token
          audience: api://AzureADTokenExchange
          expirationSeconds: 3600
{{- end }}
{{- end }}

{{- define "defender-gateway.image" -}}
{{- if .digest }}{{ .repository }}@{{ .digest }}{{ else }}{{ .repository }}:{{ .tag | default "0.1.0" }}{{ end -}}
{{- end }}
