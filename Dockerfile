# The janitor away from Azure: `python -m monitor run`, in an image that holds what it needs to run and nothing to build with.
#
#   docker build --tag stream-janitor:0.1.0 .
#   docker run --read-only --tmpfs /tmp --cap-drop ALL --security-opt no-new-privileges \
#     --stop-timeout 30 --env-file settings.env stream-janitor:0.1.0
#
# settings.env: NAME=value lines, the names as in the README's table. One sweep: … stream-janitor:0.1.0 sweep
# It has what its manifests use: OTLP, metrics to pull, Entra logins. More packages: docker build --build-arg PACKAGES="httpx==…" …
# Less: --build-arg EXTRAS="". Another base, by digest: --build-arg BASE=python@sha256:…
ARG BASE=python:3.13-slim-bookworm
FROM ${BASE} AS base

FROM base AS build
WORKDIR /build
COPY requirements.txt requirements-cli.txt requirements-entra.txt requirements-telemetry.txt requirements-prometheus.txt ./
ARG EXTRAS="-r requirements-telemetry.txt -r requirements-prometheus.txt -r requirements-entra.txt"
ARG PACKAGES=""
# Without the timer's library: only function_app.py knows Azure.
# hadolint ignore=SC2086
RUN sed -i '/^azure-functions/d' requirements.txt \
 && python -m pip install --disable-pip-version-check --no-cache-dir --no-compile --target /packages \
      ${EXTRAS} -r requirements-cli.txt ${PACKAGES}
COPY shared /janitor/shared
COPY stream_janitor /janitor/stream_janitor
COPY monitor /janitor/monitor
# The root is read-only later, so this is the time to compile; unchecked, as files may get other times on their way.
RUN python -m compileall -q --invalidation-mode unchecked-hash /packages /janitor

FROM base
# Nothing that installs is left.
RUN python -m pip uninstall --yes --quiet --root-user-action ignore pip \
 && python -c "import ensurepip, pathlib, shutil; shutil.rmtree(pathlib.Path(ensurepip.__file__).parent)"
COPY --from=build /packages /packages
COPY --from=build /janitor /janitor
ENV PYTHONPATH=/packages \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    HOME=/tmp
WORKDIR /janitor
USER 10001:10001
# An attempt was finished within three intervals; says nothing of Redis or the backlog.
HEALTHCHECK --interval=20s --timeout=10s --start-period=30s --retries=3 \
  CMD ["python", "-m", "monitor.heartbeat", "/tmp/heartbeat"]
ENTRYPOINT ["python", "-m", "monitor"]
CMD ["run", "--heartbeat", "/tmp/heartbeat"]
