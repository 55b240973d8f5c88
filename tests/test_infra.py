"""infra/ and azure.yaml: what can be known of them without Azure and without the Bicep compiler; faults that would be found."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("yaml")
pytest.importorskip("tree_sitter_bicep", reason="no parser of Bicep: pip install -e '.[deploy]'")
pytest.importorskip("azure.mgmt.web", reason="no models of Azure's resources: pip install -e '.[deploy]'")

from tests import infra_checks
from tests.infra_checks import CHECKS, Infra, on_disk
from tests.test_package import ROOT, ignored, uploaded

pytestmark = pytest.mark.more
MAIN, APP, REDIS, ACCESS, STORAGE = (
    f"infra/{name}.bicep"
    for name in ("main", "modules/app", "modules/redis", "modules/redis-access", "modules/storage")
)
MONITORING, ALERTS, NETWORK = (f"infra/modules/{name}.bicep" for name in ("monitoring", "alerts", "network"))
PARAMETERS, AZURE = "infra/main.parameters.json", "azure.yaml"

FAULTS: dict[str, tuple[str, str, str, str]] = {
    # name: file, what stands there, what would, the check that finds it
    "a brace is missing": (REDIS, "name: sku\n  }", "name: sku", "syntax"),
    "another scope": (MAIN, "'subscription'", "'resourceGroup'", "syntax"),
    "a name that nobody declared": (APP, "serverFarmId: plan.id", "serverFarmId: farm.id", "references"),
    "a parameter that nobody uses": (STORAGE, "param tags object", "param tags object\nparam unused string", "references"),
    "a module is not given what it asks for": (MAIN, "    tags: tags\n    sku", "    sku", "modules"),
    "a module is given more": (MAIN, "    sku: redisSku", "    sku: redisSku\n    tier: 'x'", "modules"),
    "an output that there is not": (MAIN, "identity.outputs.clientId", "identity.outputs.appId", "modules"),
    "a module from the registry": (MAIN, "'modules/identity.bicep'", "'br/public:avm/res/managed-identity:0.1'", "modules"),
    "an API version of another year": (REDIS, "redisEnterprise@2025-07-01", "redisEnterprise@2024-10-01", "versions"),
    "a misspelt property": (STORAGE, "allowBlobPublicAccess", "allowPublicBlobAccess", "properties"),
    "a policy that there is not": (REDIS, "'NoEviction'", "'NoEvict'", "properties"),
    "a size that there is not": (MAIN, "'Balanced_B0'", "'Balanced_X0'", "properties"),
    "a number in quotes": (REDIS, "port: 10000", "port: '10000'", "properties"),
    "a property that the platform writes": (REDIS, "port: 10000", "port: 10000\n    redisVersion: '7.4'", "properties"),
    "a runtime that there is not": (APP, "name: 'python'", "name: 'snake'", "properties"),
    "storage by key": (STORAGE, "allowSharedKeyAccess: false", "allowSharedKeyAccess: true", "safety"),
    "TLS 1.0": (STORAGE, "'TLS1_2'", "'TLS1_0'", "safety"),
    "Redis by key": (REDIS, "accessKeysAuthentication: 'Disabled'", "accessKeysAuthentication: 'Enabled'", "safety"),
    "no search": (REDIS, "name: 'RediSearch'", "name: 'RedisBloom'", "safety"),
    "a key is read": (APP, "blobEndpoint\n", "listKeys(app.id, '2024-04-01').keys[0].value\n", "safety"),
    "Insights by key": (MONITORING, "DisableLocalAuth: true", "DisableLocalAuth: false", "safety"),
    "a password to publish with": (APP, "allow: false", "allow: true", "safety"),
    "a required property is gone": (REDIS, "    publicNetworkAccess: vnetEnabled ? 'Disabled' : 'Enabled'\n", "", "required"),
    "Redis stays open": (REDIS, "vnetEnabled ? 'Disabled' : 'Enabled'", "'Enabled'", "networks"),
    "a subnet for another service": (NETWORK, "Microsoft.App/environments", "Microsoft.Web/serverFarms", "networks"),
    "another role": (STORAGE, "b7e6dc6d-f1e8", "ba92f5b4-2d11", "roles"),
    "a name with a dash": (ACCESS, "'app${", "'app-${", "roles"),
    "a parameter in one file only": (PARAMETERS, '"redisSku"', '"redisSize"', "parameters"),
    "another default": (PARAMETERS, "MIN_IDLE_TIME_SEC=60", "MIN_IDLE_TIME_SEC=6", "parameters"),
    "a setting that there is not": (MAIN, "STREAM_NAME: streamName", "STREAM: streamName", "settings"),
    "what Flex refuses": (APP, "  PYTHON_APP", "  FUNCTIONS_WORKER_RUNTIME: 'python'\n  PYTHON_APP", "settings"),
    "a password beside the identity": (MAIN, "REDIS_AUTH: 'entra'", "REDIS_PASSWORD: 'x'", "settings"),
    "a service without its tag": (AZURE, "  janitor:", "  sweeper:", "names"),
    "a package that nobody makes": (AZURE, "make azure-package EXTRAS", "echo EXTRAS", "names"),
    "a rule that looks back five minutes": (ALERTS, "alert.looksBack", "alert.windowSize", "alerts"),
    "alerts before there is a stream": (MAIN, "param alertsEnabled bool = false", "param alertsEnabled bool = true", "alerts"),
    "rules of another day": ("infra/alerts.json", "ago(10m)", "ago(20m)", "alerts"),
}  # fmt: skip


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_nothing_is_wrong_that_can_be_known_here(check: object) -> None:
    assert callable(check)
    assert list(check(on_disk())) == []


@pytest.mark.parametrize("name", FAULTS)
def test_a_seeded_fault_is_found(name: str) -> None:
    """The negative controls."""
    path, right, wrong, check = FAULTS[name]
    texts = on_disk().texts
    assert right in texts[path], "the fault cannot be seeded"
    infra = Infra({**texts, path: texts[path].replace(right, wrong, 1)})
    assert list(getattr(infra_checks, check)(infra)) != []


def test_every_check_finds_a_seeded_fault() -> None:
    assert {check.__name__ for check in CHECKS} == {fault[3] for fault in FAULTS.values()}


def test_neither_infra_nor_azds_file_is_in_the_functions_package() -> None:
    assert not [path for path in uploaded() if path.parts[0] in ("infra", "azure.yaml", "build", ".azure")]
    assert all(ignored().match_file(name) for name in ("infra/main.bicep", "azure.yaml", ".azure/dev/.env"))
    assert Path(ROOT / "azure.yaml").exists()
