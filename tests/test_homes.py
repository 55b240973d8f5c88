"""The janitor's other homes: what the image would hold runs from there, and the manifests are valid and say what they should.

There is no container engine here: the Dockerfile is read, and its build stage is done in a folder.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from demo.redis import RedisServer
from monitor import heartbeat
from monitor.cli.sweeps import Heartbeat
from shared.settings import DEFAULTS, Settings
from tests.cli import Ran, eventually, finished, piped
from tests.conftest import Scene, new_scene, raw_client
from tests.installed import installed

kubernetes_validate = pytest.importorskip("kubernetes_validate")
yaml = pytest.importorskip("yaml")

ROOT = Path(__file__).parent.parent
MANIFESTS = ROOT / "deploy" / "kubernetes"
LONGEST_ROUND_TRIP_S = 5

Manifest = dict[str, Any]


# --- the Dockerfile, read ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Instruction:
    stage: int
    word: str
    rest: str


def instructions() -> list[Instruction]:
    text = "\n".join(line for line in (ROOT / "Dockerfile").read_text().splitlines() if not line.startswith("#"))
    found: list[Instruction] = []
    for line in filter(None, text.replace("\\\n", " ").splitlines()):
        word, rest = line.split(None, 1)
        stage = (found[-1].stage if found else -1) + (word == "FROM")
        found.append(Instruction(stage, word, rest))
    return found


def of_final_stage(word: str) -> list[str]:
    last = instructions()[-1].stage
    return [one.rest for one in instructions() if one.stage == last and one.word == word]


def test_base_images_are_named_by_version_and_slim() -> None:
    stages = {"base", "build"}
    (base,) = [one.rest for one in instructions() if one.stage < 0]
    name, default = base.split("=", 1)
    images = [one.rest.split()[0].replace(f"${{{name}}}", default) for one in instructions() if one.word == "FROM"]
    assert [image for image in images if image not in stages] == ["python:3.13-slim-bookworm"]


def test_the_image_runs_as_a_user_by_number_who_owns_nothing_in_it() -> None:
    (user,) = of_final_stage("USER")
    assert re.fullmatch(r"[1-9]\d{3,}:[1-9]\d{3,}", user), "runAsNonRoot can check numbers only"
    final = [one.word for one in instructions() if one.stage == instructions()[-1].stage]
    assert final.index("USER") > max(number for number, word in enumerate(final) if word in ("COPY", "RUN"))
    assert not any("--chown" in one or "--chmod" in one for one in of_final_stage("COPY"))


def test_nothing_that_builds_or_installs_is_left_and_nothing_is_fetched_but_packages() -> None:
    runs = " ".join(of_final_stage("RUN"))
    assert "pip uninstall" in runs
    assert "ensurepip" in runs
    assert "install" not in runs.replace("uninstall", "").replace("nothing that installs", "")
    words = {one.word for one in instructions()}
    assert words <= {"FROM", "WORKDIR", "COPY", "ARG", "RUN", "ENV", "USER", "HEALTHCHECK", "ENTRYPOINT", "CMD"}
    assert not any(tool in one.rest for one in instructions() for tool in ("apt-get", "curl", "wget", "gcc"))


def test_commands_are_in_exec_form_so_that_signals_reach_the_janitor() -> None:
    assert json.loads(of_final_stage("ENTRYPOINT")[0]) == ["python", "-m", "monitor"]
    assert json.loads(of_final_stage("CMD")[0])[0] == "run"
    assert json.loads(of_final_stage("HEALTHCHECK")[0].split("CMD", 1)[1])[:3] == ["python", "-m", "monitor.heartbeat"]


def extras_of_image() -> list[str]:
    """The files of requirements that the image has by default, beside the command line's."""
    (extras,) = [
        one.rest.split("=", 1)[1] for one in instructions() if one.word == "ARG" and one.rest.startswith("EXTRAS=")
    ]
    return [word for word in shlex.split(shlex.split(extras)[0]) if word != "-r"]


def test_the_image_has_what_its_manifests_can_ask_for() -> None:
    """OTLP, metrics to pull, workload identity."""
    wanted = {"requirements-telemetry.txt", "requirements-prometheus.txt", "requirements-entra.txt"}
    assert set(extras_of_image()) == wanted
    (copied,) = [one.rest for one in instructions() if one.word == "COPY" and one.rest.endswith("./")]
    assert wanted <= set(copied.split())


def environment_of_image() -> dict[str, str]:
    return dict(part.split("=", 1) for rest in of_final_stage("ENV") for part in shlex.split(rest))


def sent_to_the_builder(folder: Path) -> None:
    """Copy what .dockerignore leaves of the project into ``folder``."""
    for top in ROOT.iterdir():
        if top.is_dir() and is_kept_back(Path(top.name, "any")):
            continue
        for path in [top] if top.is_file() else top.rglob("*"):
            relative = path.relative_to(ROOT)
            if path.is_file() and not is_kept_back(relative):
                (folder / relative).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(path, folder / relative)


def is_kept_back(path: Path) -> bool:
    """What .dockerignore says: the last pattern that fits the path, or a folder above it, counts (moby's patternmatcher)."""
    kept_back = False
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        if line and not line.startswith("#"):
            pattern = re.escape(line.lstrip("!")).replace(r"\*\*/", "(?:.*/)?").replace(r"\*", "[^/]*")
            if any(re.fullmatch(pattern, one.as_posix()) for one in (path, *path.parents)):
                kept_back = not line.startswith("!")
    return kept_back


@pytest.mark.parametrize(
    "path", ["local.settings.json", ".git/config", ".env", "tests/conftest.py", "monitor/__pycache__/a.pyc"]
)
def test_secrets_history_and_tests_do_not_go_to_the_builder(path: str) -> None:
    assert is_kept_back(Path(path))
    assert not is_kept_back(Path("monitor/settle.lua"))


@pytest.fixture(scope="session")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the image's root would have beside Python: the build stage, done by hand."""
    context, root = tmp_path_factory.mktemp("context"), tmp_path_factory.mktemp("image")
    sent_to_the_builder(context)
    build = [one for one in instructions() if one.stage == 1]
    (edit, install), (compile_all,) = (one.rest.split("&&") for one in build if one.word == "RUN")
    for copy in (one.rest.split() for one in build if one.word == "COPY"):
        for source in copy[:-1]:
            target = context / source if copy[-1] == "./" else root / copy[-1].lstrip("/")
            if target != context / source:
                shutil.copytree(context / source, target)
            assert target.exists()
    in_context = context / "build"
    in_context.mkdir()
    for path in context.glob("requirements*.txt"):
        shutil.copy(path, in_context / path.name)
    subprocess.run(["sh", "-c", edit], cwd=in_context, check=True)
    words = shlex.split(install)
    assert words[words.index("--target") + 1] == "/packages"
    assert words[-4:] == ["${EXTRAS}", "-r", "requirements-cli.txt", "${PACKAGES}"]
    files = [f"-r{in_context / name}" for name in (*extras_of_image(), "requirements-cli.txt")]
    (root / "packages").symlink_to(installed(tmp_path_factory, "image", *files))
    words = shlex.split(compile_all)[1:]
    assert words[-1] == "/janitor"
    subprocess.run([sys.executable, *words[:-2], str(root / "janitor")], check=True)
    return root


def started_in(image: Path, environment: dict[str, str], arguments: list[str]) -> subprocess.Popen[str]:
    """As the container would: the image's environment and files, no site-packages, nothing of this machine's environment."""
    inside = {**environment_of_image(), "PYTHONPATH": str(image / "packages"), **environment}
    return subprocess.Popen(
        [sys.executable, "-S", *arguments], cwd=image / "janitor", env=inside, text=True,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def files_in(folder: Path) -> set[Path]:
    return set(folder.rglob("*"))


def test_the_image_holds_the_janitor_and_no_secrets_tests_or_azure(image: Path) -> None:
    names = {path.relative_to(image).as_posix() for path in files_in(image / "janitor")}
    assert {"janitor/monitor/settle.lua", "janitor/shared/settings.py"} <= names
    assert {name.split("/")[1] for name in names} == {"monitor", "shared", "stream_janitor"}
    assert not (image / "packages" / "azure" / "functions").exists()


# --- the manifests ----------------------------------------------------------------------------------------------------------


def manifests_for(mode: str) -> list[Manifest]:
    return [dict(one) for path in (MANIFESTS / mode).iterdir() for one in yaml.safe_load_all(path.read_text())]


def manifests() -> dict[str, Manifest]:
    return {one["kind"]: one for mode in MODES for one in manifests_for(mode)}


def pod_of(kind: str) -> Manifest:
    spec: Manifest = manifests()[kind]["spec"]
    template: Manifest = spec["jobTemplate"]["spec"]["template"] if kind == "CronJob" else spec["template"]
    return template


def container_of(kind: str) -> Manifest:
    (container,) = pod_of(kind)["spec"]["containers"]
    return dict(container)


MODES = {"deployment": "Deployment", "cronjob": "CronJob"}
WORKLOADS = pytest.mark.parametrize("kind", ["Deployment", "CronJob"])


def test_every_manifest_is_valid() -> None:
    assert set(manifests()) == {"ConfigMap", "Deployment", "CronJob", "PodDisruptionBudget"}
    for mode in MODES:
        for manifest in manifests_for(mode):
            kubernetes_validate.validate(manifest, kubernetes_validate.latest_version(), strict=True)


@pytest.mark.parametrize("mode", MODES)
def test_applying_a_folder_starts_one_kind_of_janitor_and_no_placeholder_password(mode: str) -> None:
    kinds = [manifest["kind"] for manifest in manifests_for(mode)]
    assert set(kinds) & set(MODES.values()) == {MODES[mode]}
    assert "Secret" not in kinds
    assert not list(MANIFESTS.glob("*.yaml")), "kubectl apply -f deploy/kubernetes/ starts nothing"


@pytest.mark.parametrize("mode", MODES)
def test_nothing_is_preset_that_needs_more_rights(mode: str) -> None:
    (config,) = [one["data"] for one in manifests_for(mode) if one["kind"] == "ConfigMap"]
    assert not set(config) & {"RECOVERY_RATE_LIMIT", "RECOVERED_CHANNEL", "REAP_CONSUMERS_AFTER_SEC", "ACK_REPLICAS"}


def test_control_a_misspelt_field_is_found() -> None:
    deployment = manifests()["Deployment"]
    deployment["spec"]["template"]["spec"]["terminationGracePeriod"] = 30
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(deployment, kubernetes_validate.latest_version(), strict=True)


@WORKLOADS
def test_pods_are_not_root_and_may_nothing(kind: str) -> None:
    pod, container = pod_of(kind)["spec"], container_of(kind)
    user, group = (int(number) for number in of_final_stage("USER")[0].split(":"))
    assert pod["securityContext"] == {
        "runAsNonRoot": True, "runAsUser": user, "runAsGroup": group, "seccompProfile": {"type": "RuntimeDefault"},
    }  # fmt: skip
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]},
    }  # fmt: skip
    assert (pod["automountServiceAccountToken"], pod["enableServiceLinks"]) == (False, False)
    assert set(container["resources"]) == {"requests", "limits"}
    assert "memory" in container["resources"]["limits"]
    assert [mount["mountPath"] for mount in container["volumeMounts"]] == ["/tmp"]
    assert [set(volume) for volume in pod["volumes"]] == [{"name", "emptyDir"}]


@WORKLOADS
def test_pods_read_every_setting_from_the_config_map_and_the_password_from_the_secret(kind: str) -> None:
    container = container_of(kind)
    config = manifests()["ConfigMap"]
    assert container["envFrom"] == [
        {"configMapRef": {"name": config["metadata"]["name"]}},
        {"secretRef": {"name": "stream-janitor"}},
    ]
    assert "env" not in container
    assert set(config["data"]) <= set(DEFAULTS) - {"REDIS_PASSWORD"}
    Settings.from_env({**config["data"], "REDIS_PASSWORD": "from the secret"})


@WORKLOADS
def test_selectors_and_names_fit(kind: str) -> None:
    labels = pod_of(kind)["metadata"]["labels"]
    if kind == "Deployment":
        spec = manifests()[kind]["spec"]
        assert spec["selector"]["matchLabels"] == labels
        assert spec["replicas"] == 3
        (spread,) = pod_of(kind)["spec"]["topologySpreadConstraints"]
        assert spread["labelSelector"]["matchLabels"] == labels
    assert labels["app.kubernetes.io/component"] == container_of(kind)["args"][0]
    assert re.fullmatch(r"[a-z-]+:\d+\.\d+\.\d+", container_of(kind)["image"]), "an image by version"
    assert container_of("Deployment")["image"] == container_of("CronJob")["image"]


def test_liveness_is_a_finished_attempt_and_never_redis_or_the_backlog() -> None:
    container = container_of("Deployment")
    health = json.loads(of_final_stage("HEALTHCHECK")[0].split("CMD", 1)[1])
    assert container["args"] == json.loads(of_final_stage("CMD")[0])
    assert container["livenessProbe"]["exec"]["command"] == health
    assert container["startupProbe"]["exec"]["command"] == health
    assert container["readinessProbe"]["exec"]["command"] == [*health[:-1], "--ready", health[-1]]
    assert health[-1] == container["args"][-1], "the file that is written is the one that is looked at"


def test_pods_have_the_time_to_finish_what_is_in_hand() -> None:
    for kind in ("Deployment", "CronJob"):
        assert pod_of(kind)["spec"]["terminationGracePeriodSeconds"] >= 2 * LONGEST_ROUND_TRIP_S
    job = manifests()["CronJob"]["spec"]
    budget_s = float(container_of("CronJob")["args"][-1])
    assert budget_s + LONGEST_ROUND_TRIP_S < job["jobTemplate"]["spec"]["activeDeadlineSeconds"] < 60
    assert job["concurrencyPolicy"] == "Forbid"


# --- the image's files and the manifests' commands, run -----------------------------------------------------------------------


def settings_of(scene: Scene, **changes: str) -> dict[str, str]:
    """What a pod's environment is made of, with this scene's names in place of the example's."""
    config = manifests()["ConfigMap"]["data"]
    return {**config, **scene.environment, **changes}


def probe(image: Path, command: list[str], environment: dict[str, str]) -> Ran:
    assert command[0] == "python"
    return finished(started_in(image, environment, command[1:]))


def test_the_cron_jobs_sweep_runs_from_the_image_and_leaves_no_file(image: Path, scene: Scene) -> None:
    scene.add_tweets(5)
    scene.abandon()
    before = files_in(image / "janitor")
    ran = finished(started_in(image, settings_of(scene), ["-m", "monitor", *container_of("CronJob")["args"]]))
    assert (ran.code, scene.pending()) == (0, 0), ran
    assert "5 processed" in ran.out
    assert files_in(image / "janitor") == before


@pytest.fixture
def passing_server() -> Iterator[RedisServer]:
    with RedisServer(search=False) as server:
        yield server


def test_a_pod_sweeps_lives_through_redis_being_away_and_ends_on_sigterm(
    image: Path, passing_server: RedisServer, tmp_path: Path
) -> None:
    raw = raw_client(passing_server)
    scene = new_scene(raw, passing_server.environment, INDEX_SCHEMA="off", MONITOR_SCHEDULE="* * * * * *")
    scene.add_tweets(5)
    scene.abandon()
    container, environment = container_of("Deployment"), settings_of(scene)
    beats = tmp_path / "heartbeat"
    arguments, alive, ready = (
        [str(beats) if word == "/tmp/heartbeat" else word for word in words]
        for words in (
            container["args"],
            container["livenessProbe"]["exec"]["command"],
            container["readinessProbe"]["exec"]["command"],
        )
    )
    with started_in(image, environment, ["-m", "monitor", *arguments]) as janitor:
        try:
            eventually(lambda: scene.pending() == 0)
            assert probe(image, alive, {}).code == 0
            eventually(lambda: probe(image, ready, {}).code == 0)
            raw.close()
            passing_server.kill()
            for _ in range(2):  # attempts go on
                seen = beats.read_text()
                eventually(lambda seen=seen: beats.read_text() != seen)
            assert probe(image, alive, {}).code == 0
            eventually(lambda: probe(image, ready, {}).code == 1)
            janitor.send_signal(signal.SIGSTOP)  # hangs
            eventually(lambda: heartbeat.left_s(beats) < 0)
            assert probe(image, alive, {}).code == 1
            janitor.send_signal(signal.SIGCONT)
            janitor.send_signal(signal.SIGTERM)
            out, err = janitor.communicate(timeout=LONGEST_ROUND_TRIP_S + 5)
        finally:
            janitor.kill()
    assert janitor.returncode == 0, err
    assert "5 processed" in out
    assert "no connection to Redis" in err


# --- the heartbeat ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("later_s", "code"), [(9.999, 0), (10.0, 1), (10.001, 1)])
def test_a_beat_lasts_as_long_as_it_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, later_s: float, code: int
) -> None:
    monkeypatch.setattr(time, "monotonic", lambda: 1000.0)
    heartbeat.beat(tmp_path / "beat", 10.0)
    monkeypatch.setattr(time, "monotonic", lambda: 1000.0 + later_s)
    assert heartbeat.main([str(tmp_path / "beat")]) == code
    assert [path.name for path in tmp_path.iterdir()] == ["beat"]


@pytest.mark.parametrize("text", [None, "", "soon", "nan"])
def test_without_a_beat_nobody_is_alive(tmp_path: Path, text: str | None, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "beat"
    if text is not None:
        path.write_text(text)
    assert heartbeat.main([str(path)]) == 1
    assert capsys.readouterr().err
    assert heartbeat.main([]) == 2


@pytest.mark.parametrize(
    ("schedule", "interval_s", "least_s", "most_s"),
    [
        ("*/20 * * * * *", 20.0, 60, 60),
        ("00:01:00", 60.0, 180, 180),
        ("0 0 9 * * 1-5", 86_400.0, 3 * 86_400, 6 * 86_400),  # over a weekend three fires take five days
    ],
)
def test_a_beat_lasts_for_three_intervals_of_the_schedule(
    tmp_path: Path, schedule: str, interval_s: float, least_s: float, most_s: float
) -> None:
    assert Heartbeat(tmp_path / "beat", schedule, interval_s).beat() is None
    assert least_s - 1 < heartbeat.left_s(tmp_path / "beat") <= most_s + 0.001


def test_a_heartbeat_that_cannot_be_written_is_wrong_usage(scene: Scene, tmp_path: Path) -> None:
    ran = piped(scene.environment, "run", "--heartbeat", str(tmp_path / "missing" / "beat"))
    assert (ran.code, ran.out) == (2, "")
    assert "No such file" in ran.err


def test_a_probe_imports_the_standard_library_only() -> None:
    program = (
        "import sys, monitor.heartbeat; print([name for name in sys.modules if name in ('redis', 'click', 'shared')])"
    )
    run = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert run.stdout == "[]\n"
