{{- define "janitor.name" -}}
{{- if contains .Chart.Name .Release.Name }}{{ .Release.Name | trunc 52 | trimSuffix "-" }}
{{- else }}{{ printf "%s-%s" .Release.Name .Chart.Name | trunc 52 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{- /* Another program's pods: include "janitor.selector" (merge (dict "component" "its name") $), and so on. */}}
{{- define "janitor.component" -}}
{{- .component | default (eq .Values.mode "cronjob" | ternary "sweep" "run") }}
{{- end }}

{{- define "janitor.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: {{ include "janitor.component" . }}
{{- end }}

{{- define "janitor.labels" -}}
{{ include "janitor.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
{{- end }}

{{- define "janitor.image" -}}
{{- $image := .Values.image }}
{{- if $image.digest }}{{ printf "%s@%s" $image.repository $image.digest }}
{{- else }}{{ printf "%s:%s" $image.repository ($image.tag | default .Chart.AppVersion) }}
{{- end }}
{{- end }}

{{- define "janitor.serviceAccount" -}}
{{- .Values.serviceAccount.name | default (include "janitor.name" .) }}
{{- end }}

{{- /* The ConfigMap's data, as YAML: settings as strings, and what the chart itself sets. */}}
{{- define "janitor.settings" -}}
{{- $values := .Values }}
{{- $data := dict }}
{{- range $name, $value := $values.settings }}
{{- $_ := set $data $name (kindIs "string" $value | ternary $value ($value | toJson)) }}
{{- end }}
{{- if not (or (hasKey $data "REDIS_HOST") $values.existingSecret) }}
{{- fail "settings.REDIS_HOST is required (or a REDIS_HOST in existingSecret)" }}
{{- end }}
{{- if $values.workloadIdentity.clientId }}
{{- $_ := set $data "REDIS_AUTH" "entra" }}
{{- $_ := set $data "REDIS_ENTRA_CREDENTIAL" "default" }}
{{- end }}
{{- $push := or (hasKey $data "OTEL_EXPORTER_OTLP_ENDPOINT") (hasKey $data "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT") }}
{{- if $values.metrics.prometheus }}
{{- $_ := set $data "OTEL_METRICS_EXPORTER" ($push | ternary "otlp,prometheus" "prometheus") }}
{{- $_ := set $data "OTEL_EXPORTER_PROMETHEUS_HOST" "0.0.0.0" }}
{{- $_ := set $data "OTEL_EXPORTER_PROMETHEUS_PORT" ($values.metrics.port | toJson) }}
{{- end }}
{{- if eq $values.mode "cronjob" }}
{{- if or $values.metrics.prometheus (contains "prometheus" (get $data "OTEL_METRICS_EXPORTER" | default "")) }}
{{- fail "mode cronjob: a pod that ends after one sweep cannot be scraped; push over OTLP (OTEL_EXPORTER_OTLP_ENDPOINT), or use mode deployment" }}
{{- end }}
{{- /* One series for all pods, not one a minute. */}}
{{- $attributes := get $data "OTEL_RESOURCE_ATTRIBUTES" | default "" }}
{{- if and $push (not (contains "service.instance.id=" $attributes)) }}
{{- $instance := printf "service.instance.id=%s.%s" .Release.Namespace (include "janitor.name" .) }}
{{- $_ := set $data "OTEL_RESOURCE_ATTRIBUTES" (list $attributes $instance | compact | join ",") }}
{{- end }}
{{- end }}
{{- $data | toYaml }}
{{- end }}

{{- define "janitor.podMetadata" -}}
labels:
  {{- include "janitor.selector" . | nindent 2 }}
  {{- if .Values.workloadIdentity.clientId }}
  azure.workload.identity/use: "true"
  {{- end }}
  {{- with .Values.podLabels }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
annotations:
  # Other settings make other pods.
  checksum/settings: {{ include "janitor.settings" . | sha256sum }}
  {{- with .Values.podAnnotations }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end }}

{{- define "janitor.podSpec" -}}
{{- if .Values.workloadIdentity.clientId }}
serviceAccountName: {{ include "janitor.serviceAccount" . }}
{{- else if .Values.serviceAccount.name }}
serviceAccountName: {{ .Values.serviceAccount.name }}
{{- end }}
# Workload identity mounts a token of its own.
automountServiceAccountToken: false
# Otherwise a Service named redis would put REDIS_… variables of its own into the environment.
enableServiceLinks: false
# SIGTERM finishes the batch in hand; a round trip has 5 s at most.
terminationGracePeriodSeconds: 30
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .Values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
securityContext:
  runAsNonRoot: true
  runAsUser: 10001
  runAsGroup: 10001
  seccompProfile:
    type: RuntimeDefault
volumes:
  - name: tmp
    emptyDir:
      medium: Memory
      sizeLimit: 8Mi
  {{- with .Values.code.configMap }}
  - name: code
    configMap:
      name: {{ . }}
  {{- end }}
  {{- with .Values.extraVolumes }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end }}

{{- define "janitor.container" -}}
name: janitor
image: {{ include "janitor.image" . }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
envFrom:
  - configMapRef:
      name: {{ include "janitor.name" . }}
  {{- with .Values.existingSecret }}
  - secretRef:
      name: {{ . }}
  {{- end }}
{{- if .Values.code.configMap }}
env:
  - name: PYTHONPATH
    value: /packages:/code
{{- end }}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities:
    drop: ["ALL"]
resources:
  {{- toYaml .Values.resources | nindent 2 }}
volumeMounts:
  - name: tmp
    mountPath: /tmp
  {{- if .Values.code.configMap }}
  - name: code
    mountPath: /code
    readOnly: true
  {{- end }}
  {{- with .Values.extraVolumeMounts }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end }}
