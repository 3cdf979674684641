{{- define "gateway.name" -}}
{{- $name := printf "%s-%s" .Release.Name .Chart.Name }}
{{- if contains .Chart.Name .Release.Name }}{{ $name = .Release.Name }}{{ end }}
{{- $name | trunc 50 | trimSuffix "-" }}
{{- end }}

{{- define "gateway.selector" -}}
app.kubernetes.io/name: {{ .root.Chart.Name }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .role }}
{{- end }}

{{- define "gateway.labels" -}}
{{ include "gateway.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version }}
{{- end }}

{{/* The pod of a role: `server`, `worker`, `relay` or `migrate`. */}}
{{- define "gateway.pod" -}}
{{- $values := .root.Values }}
{{- $database := or (ne .role "worker") (not $values.nats) }}
{{- $service := ne .role "migrate" }}
metadata:
  labels: {{- include "gateway.labels" . | nindent 4 }}
  {{- with $values.podAnnotations }}
  annotations: {{- toYaml . | nindent 4 }}
  {{- end }}
spec:
  automountServiceAccountToken: false
  enableServiceLinks: false
  {{- with $values.imagePullSecrets }}
  imagePullSecrets: {{- toYaml . | nindent 4 }}
  {{- end }}
  securityContext:
    runAsNonRoot: true
    runAsUser: 10001
    runAsGroup: 10001
    fsGroup: 10001
    seccompProfile: {type: RuntimeDefault}
  terminationGracePeriodSeconds: {{ if eq .role "worker" }}{{ add $values.worker.drain 10 }}{{ else }}30{{ end }}
  {{- if not $service }}
  restartPolicy: Never
  {{- else }}
  topologySpreadConstraints:
    - maxSkew: 1
      topologyKey: kubernetes.io/hostname
      whenUnsatisfiable: ScheduleAnyway
      labelSelector:
        matchLabels: {{- include "gateway.selector" . | nindent 10 }}
  {{- end }}
  containers:
    - name: gateway
      image: {{ printf "%s:%s" $values.image.repository ($values.image.tag | default .root.Chart.AppVersion) | quote }}
      imagePullPolicy: {{ $values.image.pullPolicy }}
      args: [{{ index (dict "server" "serve" "worker" "work" "relay" "relay" "migrate" "migrate") .role }}]
      securityContext:
        allowPrivilegeEscalation: false
        readOnlyRootFilesystem: true
        capabilities: {drop: [ALL]}
      env:
        - {name: GATEWAY_PUBLIC_URL, value: {{ required "publicUrl: set the URL at which browsers reach the gateway" $values.publicUrl | quote }}}
        - {name: GATEWAY_MASTER_KEY_FILE, value: /run/secrets/gateway/master-key}
        {{- if $database }}
        - {name: GATEWAY_DATABASE_URL_FILE, value: /run/secrets/gateway/database-url}
        {{- end }}
        {{- if eq .role "server" }}
        - {name: GATEWAY_ADMIN_TOKEN_FILE, value: /run/secrets/gateway/admin-token}
        {{- end }}
        {{- if $values.nats }}
        - {name: GATEWAY_QUEUE_FILE, value: /run/secrets/gateway/queue}
        {{- end }}
        {{- if $values.metricsToken }}
        - {name: GATEWAY_METRICS_TOKEN_FILE, value: /run/secrets/gateway/metrics-token}
        {{- end }}
        {{- if $values.retiredMasterKeys }}
        - {name: GATEWAY_RETIRED_MASTER_KEYS_FILE, value: /run/secrets/gateway/retired-master-keys}
        {{- end }}
        {{- if eq .role "worker" }}
        - {name: GATEWAY_DRAIN, value: {{ $values.worker.drain | quote }}}
        {{- end }}
        {{- with $values.otlpEndpoint }}
        - {name: OTEL_EXPORTER_OTLP_ENDPOINT, value: {{ . | quote }}}
        {{- end }}
        {{- range $name, $value := $values.settings }}
        - {name: {{ $name }}, value: {{ $value | quote }}}
        {{- end }}
      {{- if $service }}
      ports:
        {{- if eq .role "server" }}
        - {name: http, containerPort: 8080}
        {{- end }}
        - {name: metrics, containerPort: 9464}
      livenessProbe:
        httpGet: {path: /healthz, port: {{ if eq .role "server" }}http{{ else }}metrics{{ end }}}
        periodSeconds: 10
        timeoutSeconds: 5
        failureThreshold: 6
      {{- if eq .role "server" }}
      readinessProbe:
        httpGet: {path: /readyz, port: http}
        periodSeconds: 5
        timeoutSeconds: 5
      lifecycle:
        preStop: # until the load balancer has removed the pod
          exec: {command: [sleep, "5"]}
      {{- end }}
      resources: {{- toYaml (index $values .role).resources | nindent 8 }}
      {{- end }}
      volumeMounts:
        - {name: secrets, mountPath: /run/secrets/gateway, readOnly: true}
        - {name: data, mountPath: /var/lib/webpush-gateway}
        - {name: tmp, mountPath: /tmp}
  volumes:
    - name: secrets
      secret:
        secretName: {{ required "existingSecret: set the name of the Secret; values.yaml lists its keys" $values.existingSecret }}
        defaultMode: 288
        items:
          - {key: master-key, path: master-key}
          {{- if $database }}
          - {key: database-url, path: database-url}
          {{- end }}
          {{- if eq .role "server" }}
          - {key: admin-token, path: admin-token}
          {{- end }}
          {{- if $values.nats }}
          - {key: queue, path: queue}
          {{- end }}
          {{- if $values.metricsToken }}
          - {key: metrics-token, path: metrics-token}
          {{- end }}
          {{- if $values.retiredMasterKeys }}
          - {key: retired-master-keys, path: retired-master-keys}
          {{- end }}
    - {name: data, emptyDir: {}}
    - {name: tmp, emptyDir: {}}
  {{- with $values.nodeSelector }}
  nodeSelector: {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $values.tolerations }}
  tolerations: {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $values.affinity }}
  affinity: {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end }}
