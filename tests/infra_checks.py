"""Checks of infra/ and azure.yaml that need neither Azure nor the Bicep compiler; each gives the problems that it finds."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from deploy import alert_rules
from shared.settings import DEFAULTS
from tests import azure_models
from tests.bicep import Declared, Document, Expression, expressions_in, literals_in, parsed

ROOT = Path(__file__).parent.parent
VERSIONS = {
    "Microsoft.Authorization/roleAssignments": "2022-04-01",
    "Microsoft.Cache/redisEnterprise": "2025-07-01",
    "Microsoft.Cache/redisEnterprise/databases": "2025-07-01",
    "Microsoft.Cache/redisEnterprise/databases/accessPolicyAssignments": "2025-07-01",
    "Microsoft.Insights/actionGroups": "2023-01-01",
    "Microsoft.Insights/components": "2020-02-02",
    "Microsoft.Insights/scheduledQueryRules": "2023-12-01",
    "Microsoft.ManagedIdentity/userAssignedIdentities": "2023-01-31",
    "Microsoft.Network/privateDnsZones": "2020-06-01",
    "Microsoft.Network/privateDnsZones/virtualNetworkLinks": "2020-06-01",
    "Microsoft.Network/privateEndpoints": "2024-05-01",
    "Microsoft.Network/privateEndpoints/privateDnsZoneGroups": "2024-05-01",
    "Microsoft.Network/virtualNetworks": "2024-05-01",
    "Microsoft.Network/virtualNetworks/subnets": "2024-05-01",
    "Microsoft.OperationalInsights/workspaces": "2023-09-01",
    "Microsoft.Resources/resourceGroups": "2024-03-01",
    "Microsoft.Storage/storageAccounts": "2023-05-01",
    "Microsoft.Storage/storageAccounts/blobServices": "2023-05-01",
    "Microsoft.Storage/storageAccounts/blobServices/containers": "2023-05-01",
    "Microsoft.Web/serverfarms": "2024-04-01",
    "Microsoft.Web/sites": "2024-04-01",
    "Microsoft.Web/sites/basicPublishingCredentialsPolicies": "2024-04-01",
    "Microsoft.Web/sites/config": "2024-04-01",
}
"""Type → the API version that its properties were read in."""
REQUIRED = {
    "Microsoft.Authorization/roleAssignments": (
        "scope", "properties.principalId", "properties.principalType", "properties.roleDefinitionId",
    ),
    "Microsoft.Cache/redisEnterprise": ("location", "sku.name", "properties.publicNetworkAccess", "properties.minimumTlsVersion"),
    "Microsoft.Cache/redisEnterprise/databases": ("properties.port", "properties.modules", "properties.accessKeysAuthentication"),
    "Microsoft.Cache/redisEnterprise/databases/accessPolicyAssignments": (
        "properties.accessPolicyName", "properties.user.objectId",
    ),
    "Microsoft.Insights/actionGroups": ("location", "properties.groupShortName", "properties.enabled"),
    "Microsoft.Insights/components": ("location", "kind", "properties.Application_Type", "properties.WorkspaceResourceId"),
    "Microsoft.Insights/scheduledQueryRules": (
        "location", "properties.scopes", "properties.severity", "properties.evaluationFrequency", "properties.windowSize",
        "properties.overrideQueryTimeRange", "properties.criteria", "properties.actions", "properties.autoMitigate",
    ),
    "Microsoft.Storage/storageAccounts": ("location", "kind", "sku.name", "properties.allowSharedKeyAccess"),
    "Microsoft.Web/serverfarms": ("location", "sku.name", "properties.reserved"),
    "Microsoft.Web/sites": (
        "location", "kind", "identity.type", "properties.serverFarmId", "properties.httpsOnly",
        "properties.functionAppConfig.deployment.storage.authentication.userAssignedIdentityResourceId",
        "properties.functionAppConfig.runtime.version", "properties.functionAppConfig.scaleAndConcurrency.instanceMemoryMB",
    ),
}  # fmt: skip
MUST_BE: dict[str, dict[str, object]] = {
    "Microsoft.Cache/redisEnterprise": {"properties.minimumTlsVersion": "1.2"},
    "Microsoft.Cache/redisEnterprise/databases": {
        "properties.accessKeysAuthentication": "Disabled",
        "properties.clientProtocol": "Encrypted",
        "properties.clusteringPolicy": "EnterpriseCluster",
        "properties.evictionPolicy": "NoEviction",
        "properties.port": 10000,
    },
    "Microsoft.Cache/redisEnterprise/databases/accessPolicyAssignments": {"properties.accessPolicyName": "default"},
    "Microsoft.Insights/components": {"properties.DisableLocalAuth": True},
    "Microsoft.Insights/scheduledQueryRules": {"kind": "LogAlert", "properties.autoMitigate": True},
    "Microsoft.Storage/storageAccounts": {
        "properties.allowSharedKeyAccess": False,
        "properties.allowBlobPublicAccess": False,
        "properties.minimumTlsVersion": "TLS1_2",
        "properties.supportsHttpsTrafficOnly": True,
    },
    "Microsoft.Web/serverfarms": {"sku.name": "FC1", "sku.tier": "FlexConsumption", "properties.reserved": True},
    "Microsoft.Web/sites": {
        "properties.httpsOnly": True,
        "properties.siteConfig.minTlsVersion": "1.2",
        "properties.functionAppConfig.deployment.storage.authentication.type": "UserAssignedIdentity",
        "properties.functionAppConfig.runtime.name": "python",
    },
    "Microsoft.Web/sites/basicPublishingCredentialsPolicies": {"properties.allow": False},
}
MODULES_NEEDED = {"RediSearch", "RedisJSON"}
ROLES = {
    "blobDataOwner": "b7e6dc6d-f1e8-4753-8033-0f276bb0955b",
    "metricsPublisher": "3913510d-42f4-4e42-8a64-420c390055eb",
}
"""Storage Blob Data Owner, Monitoring Metrics Publisher."""
OF_THE_PLATFORM = {
    "AzureWebJobsStorage__blobServiceUri",
    "AzureWebJobsStorage__clientId",
    "AzureWebJobsStorage__credential",
    "APPLICATIONINSIGHTS_AUTHENTICATION_STRING",
    "APPLICATIONINSIGHTS_CONNECTION_STRING",
    "AzureFunctionsJobHost__telemetryMode",
    "PYTHON_APPLICATIONINSIGHTS_ENABLE_TELEMETRY",
}
NAMESPACES = {"subscription", "resourceGroup", "environment", "az", "sys"}
FUNCTIONS = {
    "concat", "empty", "guid", "loadJsonContent", "split", "subscriptionResourceId", "toLower", "union", "uniqueString",
}  # fmt: skip
KEYS = re.compile(
    r"\blist(Keys|Account|ConnectionStrings|Secrets|\w*Keys)\b|AccountKey=|SharedAccessKey|accessKeys\b(?!Auth)"
)
Problems = Iterator[str]


@dataclass(frozen=True)
class Infra:
    """Every file that matters, by its path from the root; a seeded fault is another text of one of them."""

    texts: dict[str, str]

    @property
    def documents(self) -> dict[str, Document]:
        return {path: parsed(Path(path), text) for path, text in self.texts.items() if path.endswith(".bicep")}

    def json(self, path: str) -> Any:
        return json.loads(self.texts[path])

    def resources(self, kind: str) -> list[Declared]:
        found = [one for document in self.documents.values() for one in document.resources.values()]
        return [one for one in found if one.type == kind and not one.is_existing]


def on_disk() -> Infra:
    paths = [*(ROOT / "infra").rglob("*"), ROOT / "azure.yaml"]
    return Infra({path.relative_to(ROOT).as_posix(): path.read_text() for path in paths if path.is_file()})


def at(value: Any, path: str) -> Any:
    """What is at ``a.b.c``; ``...`` if nothing is."""
    for part in path.split("."):
        if not isinstance(value, dict) or part not in value:
            return ...
        value = value[part]
    return value


# --- the language -----------------------------------------------------------------------------------------------------------


def syntax(infra: Infra) -> Problems:
    for document in infra.documents.values():
        yield from document.errors
    for path, document in infra.documents.items():
        scope = "subscription" if path == "infra/main.bicep" else None
        if document.target_scope != scope:
            yield f"{path}: targetScope is {document.target_scope}, expected {scope}"


def references(infra: Infra) -> Problems:
    for path, document in infra.documents.items():
        known = {*document.params, *document.variables, *document.resources, *document.modules, *FUNCTIONS, *NAMESPACES}
        used: set[str] = set()
        for where, value, more in _values(document):
            for expression in expressions_in(value):
                used |= expression.names
                for name in expression.names - known - more:
                    yield f"{path}: {where} names {name}, which is not declared"
        for name in {*document.params, *document.variables} - used:
            yield f"{path}: {name} is declared and never used"


def _values(document: Document) -> Iterator[tuple[str, Any, set[str]]]:
    for name, value in {**document.variables, **document.outputs}.items():
        yield name, value, set()
    for one in (*document.resources.values(), *document.modules.values()):
        loop = {one.loop[0]} if one.loop else set()
        yield one.symbol, one.body, loop
        yield one.symbol, [one.condition, one.loop and one.loop[1]], set()


def modules(infra: Infra) -> Problems:
    """Each module is a file of ours, is given what it asks for and nothing else, and has the outputs that are read."""
    for path, document in infra.documents.items():
        for one in document.modules.values():
            file = f"infra/{one.what}"
            if file not in infra.documents:
                yield f"{path}: {one.what} is no file of ours"
                continue
            wanted = infra.documents[file].params
            given = set(one.body["params"])
            yield from (
                f"{path}: {one.symbol} is not given {name}"
                for name, (_, _, has) in wanted.items()
                if name not in given and not has
            )
            yield from (f"{path}: {one.symbol} has no parameter {name}" for name in given - set(wanted))
            if not {"name", "scope"} <= one.body.keys():
                yield f"{path}: {one.symbol} has no name or no scope"
        yield from _missing_outputs(infra, path, document)


def _missing_outputs(infra: Infra, path: str, document: Document) -> Problems:
    for _, value, _ in _values(document):
        for expression in expressions_in(value):
            for module, output in expression.outputs:
                one = document.modules.get(module)
                file = infra.documents.get(f"infra/{one.what}") if one else None
                if file is None or output not in file.outputs:
                    yield f"{path}: {module} has no output {output}"


# --- the resources ------------------------------------------------------------------------------------------------------------


def versions(infra: Infra) -> Problems:
    for path, document in infra.documents.items():
        for one in document.resources.values():
            if VERSIONS.get(one.type) != one.version:
                yield f"{path}: {one.type}@{one.version}, expected {VERSIONS.get(one.type, 'another type')}"


def properties(infra: Infra) -> Problems:
    for kind in azure_models.SHAPES:
        for one in infra.resources(kind):
            yield from azure_models.problems(kind, one.body)
    size = infra.documents["infra/main.bicep"].params["redisSku"][1]
    if size not in azure_models.REDIS_SIZES:
        yield f"redisSku: there is no size {size}"


def required(infra: Infra) -> Problems:
    for kind, names in REQUIRED.items():
        resources = infra.resources(kind)
        if not resources:
            yield f"{kind}: there is none"
        for one in resources:
            yield from (f"{kind} {one.symbol}: {name} is required" for name in names if at(one.body, name) is ...)


def safety(infra: Infra) -> Problems:
    for kind, rules in MUST_BE.items():
        for one in infra.resources(kind):
            for name, wanted in rules.items():
                if at(one.body, name) != wanted:
                    yield f"{kind} {one.symbol}: {name} is {at(one.body, name)}, expected {wanted}"
    (database,) = infra.resources("Microsoft.Cache/redisEnterprise/databases")
    if {module["name"] for module in database.body["properties"]["modules"]} != MODULES_NEEDED:
        yield f"the database has other modules than {MODULES_NEEDED}"
    for path, text in infra.texts.items():
        code = re.sub(r"//.*", "", text) if path.endswith(".bicep") else text
        yield from (f"{path}: {found.group()} is a way to a key" for found in KEYS.finditer(code))


def networks(infra: Infra) -> Problems:
    """With a network of its own, neither storage nor Redis is to be had from outside, and each has its endpoint and zone."""
    for kind in ("Microsoft.Storage/storageAccounts", "Microsoft.Cache/redisEnterprise"):
        for one in infra.resources(kind):
            access = at(one.body, "properties.publicNetworkAccess")
            if literals_in(access) != ["Disabled", "Enabled"] or "vnetEnabled" not in access.names:
                yield f"{kind}: publicNetworkAccess does not follow vnetEnabled"
    groups = [at(part, "properties.groupIds") for one in infra.resources("Microsoft.Network/privateEndpoints")
              for part in at(one.body, "properties.privateLinkServiceConnections")]  # fmt: skip
    if sorted(groups) != [["blob"], ["redisEnterprise"]]:
        yield f"private endpoints are for {groups}"
    delegated = [at(part, "properties.serviceName") for one in infra.resources("Microsoft.Network/virtualNetworks/subnets")
                 for part in at(one.body, "properties").get("delegations", [])]  # fmt: skip
    if delegated != ["Microsoft.App/environments"]:
        yield f"subnets are delegated to {delegated}"


def roles(infra: Infra) -> Problems:
    found = {
        name: value
        for document in infra.documents.values()
        for name, value in document.variables.items()
        if name in ROLES
    }
    if found != ROLES:
        yield f"roles are {found}"
    for one in infra.resources("Microsoft.Cache/redisEnterprise/databases/accessPolicyAssignments"):
        name = one.body["name"]
        plain = (
            re.sub(r"\$\{uniqueString\(\w+\)\}", "a1b2c3d4e5f6g", name.text.strip("'"))
            if isinstance(name, Expression)
            else name
        )
        if not re.fullmatch(r"[A-Za-z0-9]{1,60}", plain):
            yield f"{plain} is no name of an access policy assignment"


# --- what they agree on ---------------------------------------------------------------------------------------------------------


def parameters(infra: Infra) -> Problems:
    declared, given = infra.documents["infra/main.bicep"].params, infra.json("infra/main.parameters.json")["parameters"]
    if set(declared) != set(given):
        yield f"parameters in one file only: {sorted(set(declared) ^ set(given))}"
    for name, (kind, default, has_default) in declared.items():
        written = re.fullmatch(r"\$\{\w+(?:=(.*))?\}", given.get(name, {}).get("value", ""))
        if written is None:
            yield f"{name} is not taken from azd's environment"
        elif has_default and written[1] is not None and written[1] != _written(default):
            yield f"{name}: {written[1]!r} in the parameters file, {default!r} in main.bicep"
        elif kind == "bool" and written[1] not in ("true", "false"):
            yield f"{name} has no default that is a bool"


def _written(default: object) -> str:
    return {True: "true", False: "false"}[default] if isinstance(default, bool) else str(default)


def settings(infra: Infra) -> Problems:
    app = infra.documents["infra/modules/app.bicep"]
    platform = set(app.variables["platformSettings"])
    ours = set(infra.documents["infra/main.bicep"].modules["app"].body["params"]["settings"])
    if platform != OF_THE_PLATFORM:
        yield f"the platform's settings differ: {sorted(platform ^ OF_THE_PLATFORM)}"
    if "FUNCTIONS_WORKER_RUNTIME" in platform | ours:
        yield "FUNCTIONS_WORKER_RUNTIME is refused on Flex Consumption"
    yield from (f"{name} is no setting of ours" for name in ours - set(DEFAULTS))
    needed = {name for name, default in DEFAULTS.items() if default is None}
    yield from (f"{name} is required" for name in needed - ours)
    given = at(infra.documents["infra/main.bicep"].modules["app"].body, "params.settings")
    if given.get("REDIS_AUTH") != "entra" or "REDIS_PASSWORD" in ours or "REDIS_ENTRA_CLIENT_ID" not in ours:
        yield "the app does not log in to Redis by its identity"
    authentication = app.variables["platformSettings"]["APPLICATIONINSIGHTS_AUTHENTICATION_STRING"].text
    if authentication != "'ClientId=${identityClientId};Authorization=AAD'":
        yield f"Application Insights is told {authentication}"


def names(infra: Infra) -> Problems:
    """The services in azure.yaml are the tags in infra, and each is packed from the folder that make azure-package writes."""
    azure = yaml.safe_load(infra.texts["azure.yaml"])
    tagged = set(re.findall(r"'azd-service-name': '([^']+)'", "".join(infra.texts.values())))
    if set(azure["services"]) != tagged:
        yield f"services {sorted(azure['services'])}, tags {sorted(tagged)}"
    if "'azd-env-name': environmentName" not in infra.texts["infra/main.bicep"]:
        yield "resource groups lack the tag azd-env-name"
    for name, service in azure["services"].items():
        if (service["project"], service["language"], service["host"]) != ("build/azure", "py", "function"):
            yield f"{name}: {service}"
    if "make azure-package EXTRAS=" not in azure["hooks"]["prepackage"]["run"]:
        yield "nothing makes build/azure before it is packed"


def alerts(infra: Infra) -> Problems:
    if infra.texts["infra/alerts.json"] != alert_rules.text():
        yield "infra/alerts.json is not what deploy/azure/stream-janitor.kql gives: make manifests"
    for alert in infra.json("infra/alerts.json"):
        if alert_rules.LOOKS_BACK.get(alert["looksBack"], 0) < alert_rules.longest_ago_min(alert["query"]):
            yield f"{alert['name']} looks back further than {alert['looksBack']}"
    (rule,) = infra.resources("Microsoft.Insights/scheduledQueryRules")
    if "alert.looksBack" not in str(at(rule.body, "properties.overrideQueryTimeRange")):
        yield "the rules do not look back as far as their queries"
    if "componentId" not in str(at(rule.body, "properties.scopes")):
        yield "the rules' scope is not the Application Insights component"
    if infra.documents["infra/main.bicep"].params["alertsEnabled"][1] is not False:
        yield "alerts are on before there is a stream"


CHECKS: tuple[Callable[[Infra], Problems], ...] = (
    syntax, references, modules, versions, properties, required, safety, networks, roles, parameters, settings, names, alerts,
)  # fmt: skip
