"""The Kubernetes manifests are valid, agree with each other, and fit the commands and images that they run."""

import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from tests.unit.docker.commands import parsed
from tests.unit.docker.kustomizations import KUBERNETES, Object, containers, folders, pod, read, render
from tests.waiting import PATIENCE

DOCKER = KUBERNETES.parent
VERSIONS = ["1.30", "1.37"]  # the first with the preStop action `sleep` by default, and the latest of the package
KSERVE = {"ServingRuntime", "InferenceService"}
# No package has the schema of the Prometheus Operator: only the names of this kind are checked.
WITHOUT_SCHEMA = {"ServiceMonitor"}
SERVE = render(KUBERNETES / "overlays/serve-production")
TRAIN, TRAIN_NODES = render(KUBERNETES / "train"), render(KUBERNETES / "train-nodes")
EVERY_FOLDER = pytest.mark.parametrize("folder", folders())


def one(kind: str, objects: list[Object]) -> Object:
    (found,) = (each for each in objects if each["kind"] == kind)
    return found


def selects(selector: Mapping[str, str], labels: Mapping[str, str]) -> bool:
    return bool(selector) and selector.items() <= labels.items()


def image_user() -> int:
    """The user of both kinds of images."""
    users = {
        user
        for file in ("serve", "train")
        for user in re.findall(r"^USER (\d+):", (DOCKER / f"{file}.Dockerfile").read_text("utf-8"), re.MULTILINE)
    }
    assert len(users) == 1
    return int(users.pop())


@EVERY_FOLDER
@pytest.mark.parametrize("version", VERSIONS)
def test_every_object_fits_the_published_schema_of_kubernetes(folder: str, version: str) -> None:
    for each in render(KUBERNETES / folder):
        if each["kind"] not in KSERVE | WITHOUT_SCHEMA:
            kubernetes_validate.validate(each, version, strict=True)


def test_a_misspelt_field_does_not_fit_the_schema() -> None:
    deployment = one("Deployment", SERVE)
    spec = deployment["spec"] | {"replica": 2}
    with pytest.raises(kubernetes_validate.ValidationError, match="replica"):
        kubernetes_validate.validate(deployment | {"spec": spec}, VERSIONS[-1], strict=True)


def test_the_pods_of_the_runtime_of_kserve_fit_the_schema_of_pods() -> None:
    spec = one("ServingRuntime", render(KUBERNETES / "kserve"))["spec"]
    of_pod = {name: spec[name] for name in ("containers", "volumes")}
    kubernetes_validate.validate({"apiVersion": "v1", "kind": "Pod", "spec": of_pod}, VERSIONS[-1], strict=True)


def test_the_objects_of_kserve_fit_its_models() -> None:
    kserve = pytest.importorskip("kserve", reason="kserve brings 300 MB of packages: install it for this test")
    models = {"InferenceService": "V1beta1InferenceService", "ServingRuntime": "V1alpha1ServingRuntime"}

    def build(name: str, value: Any) -> Any:
        """Builds a model from JSON. Its constructor raises errors for unknown fields and missing ones."""
        if (inner := re.fullmatch(r"list\[(\w+)\]", name)) is not None:
            return [build(inner[1], each) for each in value]
        model = getattr(kserve.models, name, None)
        if model is None:  # a plain value, or an object of Kubernetes
            return value
        names = {field: attribute for attribute, field in model.attribute_map.items()}
        fields = {names[field]: build(model.openapi_types[names[field]], inner) for field, inner in value.items()}
        return model(**fields)

    for each in render(KUBERNETES / "kserve"):
        built = build(models[each["kind"]], each)
        assert built.spec is not None
        with pytest.raises(KeyError, match="replica"):
            build(models[each["kind"]], each | {"spec": each["spec"] | {"replica": 1}})


@EVERY_FOLDER
def test_kubectl_renders_the_objects_that_these_tests_check(folder: str) -> None:
    commands = {"kubectl": ["kubectl", "kustomize"], "kustomize": ["kustomize", "build"]}
    found = [command for name, command in commands.items() if shutil.which(name)]
    if not found:
        pytest.skip("neither kubectl nor kustomize is on the PATH")
    done = subprocess.run(
        [*found[0], str(KUBERNETES / folder)], capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert done.returncode == 0, done.stderr

    def key(each: Object) -> tuple[str, str]:
        return each["kind"], each["metadata"]["name"]

    rendered = sorted(yaml.safe_load_all(done.stdout), key=key)
    assert rendered == sorted(render(KUBERNETES / folder), key=key)


@EVERY_FOLDER
def test_pods_run_without_root_and_write_to_volumes_only(folder: str) -> None:
    for each in render(KUBERNETES / folder):
        for container in containers(each):
            of_pod, own = pod(each), container["securityContext"]
            assert of_pod is not None
            security = of_pod.get("securityContext", {}) | own
            assert security["runAsNonRoot"] is True
            assert security["runAsUser"] == image_user()
            assert security["readOnlyRootFilesystem"] is True
            assert security["allowPrivilegeEscalation"] is False
            assert security["capabilities"] == {"drop": ["ALL"]}
            assert security["seccompProfile"] == {"type": "RuntimeDefault"}
            mounts = {mount["mountPath"]: mount for mount in container["volumeMounts"]}
            assert "/tmp" in mounts
            assert {mount["name"] for mount in mounts.values()} == {volume["name"] for volume in of_pod["volumes"]}
            assert container["resources"]["requests"].keys() == {"cpu", "memory"}
            assert "memory" in container["resources"]["limits"]


@EVERY_FOLDER
def test_commands_and_images_are_those_of_the_project(folder: str) -> None:
    images = {"ganctl-serve-native": "serve", "ganctl-train": "train"}
    for each in render(KUBERNETES / folder):
        for container in containers(each):
            command = images[container["image"].rpartition("/")[2].partition(":")[0]]
            if "command" not in container:  # else see the test of the script
                assert container["args"][0] == command
                parsed(container["args"])


def test_selectors_and_references_name_what_exists() -> None:
    deployment, service = one("Deployment", SERVE), one("Service", SERVE)
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    ports = {port["name"] for port in containers(deployment)[0]["ports"]}
    for selector in (
        deployment["spec"]["selector"]["matchLabels"],
        service["spec"]["selector"],
        one("PodDisruptionBudget", SERVE)["spec"]["selector"]["matchLabels"],
        one("NetworkPolicy", SERVE)["spec"]["podSelector"]["matchLabels"],
        *(
            each["labelSelector"]["matchLabels"]
            for each in deployment["spec"]["template"]["spec"]["topologySpreadConstraints"]
        ),
    ):
        assert selects(selector, labels)
    assert {port["targetPort"] for port in service["spec"]["ports"]} == ports
    allowed = [port["port"] for rule in one("NetworkPolicy", SERVE)["spec"]["ingress"] for port in rule["ports"]]
    assert sorted(allowed) == sorted(ports)
    monitor = one("ServiceMonitor", SERVE)
    assert selects(monitor["spec"]["selector"]["matchLabels"], service["metadata"]["labels"])
    assert {each["port"] for each in monitor["spec"]["endpoints"]} <= {
        port["name"] for port in service["spec"]["ports"]
    }
    (rule,) = one("Ingress", SERVE)["spec"]["rules"]
    (path,) = rule["http"]["paths"]
    assert path["backend"]["service"] == {"name": service["metadata"]["name"], "port": {"name": "http"}}
    target = one("HorizontalPodAutoscaler", SERVE)["spec"]["scaleTargetRef"]
    assert target == {"apiVersion": "apps/v1", "kind": "Deployment", "name": deployment["metadata"]["name"]}


def test_the_ports_of_the_server_are_those_of_the_container() -> None:
    (container,) = containers(one("Deployment", SERVE))
    port = parsed(container["args"])["port"]
    assert {each["name"]: each["containerPort"] for each in container["ports"]} == {"http": port, "metrics": port + 2}


def test_every_probe_asks_for_the_health_of_the_open_inference_protocol() -> None:
    for tls, objects in ((False, render(KUBERNETES / "serve")), (True, SERVE), (False, render(KUBERNETES / "kserve"))):
        (container,) = (container for each in objects for container in containers(each))
        probes = {name: probe["httpGet"] for name, probe in container.items() if name.endswith("Probe")}
        assert {"readinessProbe", "livenessProbe"} <= probes.keys()
        for name, probe in probes.items():
            assert probe["path"] == ("/v2/health/live" if name == "livenessProbe" else "/v2/health/ready")
            assert probe["port"] in ("http", 8080)
            assert probe.get("scheme") == ("HTTPS" if tls else None), "an HTTP probe of an HTTPS server fails"


def test_a_pod_has_time_to_start_and_to_drain() -> None:
    from ganctl.serving.hosts.native.server import _START_SECONDS

    found = pod(one("Deployment", SERVE))
    assert found is not None
    (container,) = found["containers"]
    pause = container["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert pause >= 5, "proxies of the cluster need some seconds to learn that the pod is going away"
    assert found["terminationGracePeriodSeconds"] >= pause + parsed(container["args"])["drain_seconds"] + 5
    startup = container["startupProbe"]
    assert startup["periodSeconds"] * startup["failureThreshold"] >= _START_SECONDS


def test_keys_and_certificates_are_mounted_where_the_server_reads_them() -> None:
    found = pod(one("Deployment", SERVE))
    assert found is not None
    (container,) = found["containers"]
    given = parsed(container["args"])
    secrets = {volume["name"]: volume["secret"]["secretName"] for volume in found["volumes"] if "secret" in volume}
    folders = {
        mount["mountPath"]: secrets[mount["name"]] for mount in container["volumeMounts"] if mount["name"] in secrets
    }
    files = {Path(given[name]).name: folders[str(Path(given[name]).parent)] for name in ("keys", "tls_cert", "tls_key")}
    assert files == {"keys.txt": "ganctl-keys", "tls.crt": "ganctl-tls", "tls.key": "ganctl-tls"}


def test_the_metric_of_the_autoscaler_is_made_by_the_rule_of_the_adapter() -> None:
    (metric,) = one("HorizontalPodAutoscaler", SERVE)["spec"]["metrics"]
    (rule,) = read(KUBERNETES / "prometheus-adapter.yaml")["rules"]["custom"]
    assert rule["name"]["as"] == metric["pods"]["metric"]["name"]
    series = rule["seriesQuery"].partition("{")[0]
    assert re.search(rule["name"]["matches"], series)
    assert set(re.findall(r"\w+(?=\{)", rule["metricsQuery"])) == {series, series.replace("_count", "_sum")}


def test_no_number_of_replicas_competes_with_the_autoscaler() -> None:
    assert "replicas" not in one("Deployment", SERVE)["spec"]


@pytest.mark.parametrize("objects", [TRAIN, TRAIN_NODES], ids=["train", "train-nodes"])
def test_a_new_pod_resumes_the_training_from_the_volume(objects: list[Object]) -> None:
    found, claim = pod(one("Job", objects)), one("PersistentVolumeClaim", objects)
    assert found is not None
    (container,) = found["containers"]
    (volume,) = (each for each in found["volumes"] if "persistentVolumeClaim" in each)
    assert volume["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
    (folder,) = (mount["mountPath"] for mount in container["volumeMounts"] if mount["name"] == volume["name"])
    arguments = [argument for argument in container["args"] if argument != "train"]
    given = parsed(["train", *arguments])
    assert given["resume"] == "auto"
    assert Path(folder) in Path(given["run_dir"]).parents


def test_a_training_that_cannot_succeed_is_not_repeated() -> None:
    from ganctl.training.errors import CheckpointError, ConfigError, DataError, FolderInUse

    fail, ignore = one("Job", TRAIN)["spec"]["podFailurePolicy"]["rules"]
    assert fail["action"] == "FailJob"
    assert set(fail["onExitCodes"]["values"]) == {each.exit_code for each in (ConfigError, DataError, CheckpointError)}
    assert FolderInUse.exit_code not in fail["onExitCodes"]["values"], "the pod of a lost node may still end"
    assert fail["onExitCodes"]["containerName"] == containers(one("Job", TRAIN))[0]["name"]
    assert ignore["action"] == "Ignore", "an eviction is no failure"
    assert one("Job", TRAIN)["spec"]["backoffLimit"] > 0


@pytest.mark.parametrize("index", [0, 1])
def test_the_pods_of_several_nodes_meet_at_the_first_one(index: int, tmp_path: Path) -> None:
    job, service = one("Job", TRAIN_NODES), one("Service", TRAIN_NODES)
    (container,) = containers(job)
    torchrun = tmp_path / "torchrun"
    torchrun.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    torchrun.chmod(0o755)
    variables = {each["name"]: each["value"] for each in container["env"]}
    variables |= {"JOB_COMPLETION_INDEX": str(index), "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(
        [*container["command"], *container["args"]], env=variables, capture_output=True, text=True, check=True
    )
    arguments = done.stdout.splitlines()
    at = arguments.index("-m")
    options = dict(argument.removeprefix("--").split("=", 1) for argument in arguments[:at])
    assert arguments[at + 1 : at + 3] == ["ganctl", "train"]
    parsed(arguments[at + 2 :])
    assert options["rdzv-backend"] == "c10d"
    assert options["rdzv-conf"].startswith(f"is_host={int(index == 0)},")
    assert options["nproc-per-node"] == "1"
    name = job["metadata"]["name"]
    (port,) = service["spec"]["ports"]
    assert options["rdzv-endpoint"] == f"{name}-0.{service['metadata']['name']}:{port['port']}"
    spec = job["spec"]
    assert spec["completionMode"] == "Indexed"
    assert int(options["nnodes"]) == spec["completions"] == spec["parallelism"]
    assert spec["template"]["spec"]["subdomain"] == service["metadata"]["name"]
    assert service["spec"]["clusterIP"] == "None"
    assert service["spec"]["publishNotReadyAddresses"] is True
    assert selects(service["spec"]["selector"], spec["template"]["metadata"]["labels"])


@pytest.mark.parametrize("folder", ["train-gpu", "train-nodes-gpu"])
def test_the_overlay_requests_a_gpu_and_its_nodes(folder: str) -> None:
    found = pod(one("Job", render(KUBERNETES / "overlays" / folder)))
    assert found is not None
    assert found["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == 1
    assert found["nodeSelector"] == {"nvidia.com/gpu.present": "true"}
    assert {each["key"] for each in found["tolerations"]} == {"nvidia.com/gpu"}
    plain = pod(one("Job", render(KUBERNETES / folder.removesuffix("-gpu"))))
    assert plain is not None
    assert "nvidia.com/gpu" not in plain["containers"][0]["resources"]["limits"]


def test_kserve_serves_the_model_under_the_name_of_its_service() -> None:
    objects = render(KUBERNETES / "kserve")
    runtime, service = one("ServingRuntime", objects), one("InferenceService", objects)
    model = service["spec"]["predictor"]["model"]
    assert model["runtime"] == runtime["metadata"]["name"]
    assert model["protocolVersion"] in runtime["spec"]["protocolVersions"]
    assert model["modelFormat"]["name"] in {each["name"] for each in runtime["spec"]["supportedModelFormats"]}
    (container,) = runtime["spec"]["containers"]
    assert container["name"] == "kserve-container"
    assert parsed(container["args"])["sources"] == ("{{.Name}}=/mnt/models/digits.mar",)
