"""What Azure's typed models say of a resource: which properties there are, of what type, which values they may have."""

from __future__ import annotations

import re
import types
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Any

from azure.mgmt.redisenterprise import models as redis_models
from azure.mgmt.storage import models as storage_models
from azure.mgmt.web import models as web_models

from tests.bicep import Expression, Value, literals_in

Shape = dict[str, "Field"]


@dataclass(frozen=True)
class Field:
    """One property. ``shape`` is a function, since models name each other."""

    kind: str
    """str, int, bool, object, or any."""
    values: frozenset[str] = frozenset()
    shape: Any = None
    is_list: bool = False
    is_read_only: bool = False


# --- the older kind of model: _attribute_map ----------------------------------------------------------------------------------

_ENUMS = {"minimum_tls_version": "TlsVersion", "client_protocol": "Protocol"}


def _old_shape(model: Any) -> Shape:
    shape: Shape = {}
    read_only = {name for name, rule in getattr(model, "_validation", {}).items() if rule.get("readonly")}
    for name, entry in model._attribute_map.items():
        at, (*parents, last) = shape, entry["key"].split(".")
        for parent in parents:
            inner = at.setdefault(parent, Field("object", shape={}))
            at = inner.shape
        at[last] = _old_field(model, name, entry["type"], name in read_only and name != "name")
    return shape


def _old_field(model: Any, name: str, kind: str, is_read_only: bool) -> Field:
    is_list, kind = kind.startswith("["), kind.strip("[]")
    if kind in ("str", "int", "bool"):
        enum = _ENUMS.get(name, "".join(word.title() for word in name.split("_")))
        enum = "SkuName" if (model.__name__, name) == ("Sku", "name") else enum
        found = getattr(redis_models, enum, None)
        values = (
            frozenset(one.value for one in found)
            if isinstance(found, type) and issubclass(found, Enum)
            else frozenset()
        )
        return Field(kind, values, None, is_list, is_read_only)
    inner = getattr(redis_models, kind, None)
    shape = None if inner is None else lambda: _old_shape(inner)
    return Field("any" if shape is None else "object", frozenset(), shape, is_list, is_read_only)


# --- the newer kind: annotations ----------------------------------------------------------------------------------------------


def _new_shape(models: Any, model: Any) -> Shape:
    rest = model()._attr_to_rest_field
    hints: dict[str, Any] = {}
    for one in reversed(model.__mro__):
        hints |= getattr(one, "__annotations__", {})
    shape: Shape = {}
    for name, described in rest.items():
        is_read_only = described._visibility == ["read"] and name not in ("name",)
        shape[described._rest_name] = _new_field(models, hints.get(name, Any), is_read_only)
    return shape


def _new_field(models: Any, hint: Any, is_read_only: bool) -> Field:
    kind, values, inner, is_list = "any", frozenset[str](), None, False
    for part in _parts(models, hint):
        if typing.get_origin(part) is list:
            (item,) = typing.get_args(part)
            of_item = _new_field(models, item, False)
            kind, values, inner, is_list = of_item.kind, of_item.values, of_item.shape, True
        elif isinstance(part, type) and issubclass(part, Enum):
            kind, values = "str", frozenset(one.value for one in part)
        elif part in (str, int, bool) and not values:
            kind = part.__name__
        elif isinstance(part, type) and hasattr(part, "_is_model"):
            kind, inner = "object", lambda part=part: _new_shape(models, part)
    return Field(kind, values, inner, is_list, is_read_only)


def _parts(models: Any, hint: Any) -> Iterator[Any]:
    if isinstance(hint, (str, typing.ForwardRef)):
        name = hint if isinstance(hint, str) else hint.__forward_arg__
        yield getattr(models, name.rpartition(".")[2], Any)
    elif typing.get_origin(hint) in (typing.Union, types.UnionType):
        for part in typing.get_args(hint):
            yield from _parts(models, part)
    else:
        yield hint


SHAPES = {
    "Microsoft.Cache/redisEnterprise": lambda: _old_shape(redis_models.Cluster),
    "Microsoft.Cache/redisEnterprise/databases": lambda: _old_shape(redis_models.Database),
    "Microsoft.Cache/redisEnterprise/databases/accessPolicyAssignments": lambda: _old_shape(
        redis_models.AccessPolicyAssignment
    ),
    "Microsoft.Storage/storageAccounts": lambda: _new_shape(
        storage_models, storage_models.StorageAccountCreateParameters
    ),
    "Microsoft.Storage/storageAccounts/blobServices/containers": lambda: _new_shape(
        storage_models, storage_models.BlobContainer
    ),
    "Microsoft.Web/serverfarms": lambda: _new_shape(web_models, web_models.AppServicePlan),
    "Microsoft.Web/sites": lambda: _new_shape(web_models, web_models.Site),
    "Microsoft.Web/sites/basicPublishingCredentialsPolicies": lambda: _new_shape(
        web_models, web_models.CsmPublishingCredentialsPoliciesEntity
    ),
}
REDIS_SIZES = frozenset(one.value for one in redis_models.SkuName)
OF_BICEP = {"name", "parent", "scope", "dependsOn", "tags", "location"}


def problems(kind: str, body: Value) -> list[str]:
    """What of ``body`` the models know nothing of, or otherwise."""
    return list(_problems(SHAPES[kind](), {name: one for name, one in body.items() if name not in OF_BICEP}, kind))


def _problems(shape: Shape, body: dict[str, Value], where: str) -> Iterator[str]:
    for name, value in body.items():
        if name not in shape:
            yield f"{where}: no property {name}"
        elif shape[name].is_read_only:
            yield f"{where}.{name}: only the platform writes it"
        else:
            yield from _of_field(shape[name], value, f"{where}.{name}")


def _of_field(field: Field, value: Value, where: str) -> Iterator[str]:
    if field.is_list:
        if not isinstance(value, (list, Expression)):
            yield f"{where}: expected a list"
        for item in value if isinstance(value, list) else ():
            yield from _of_value(field, item, where)
    else:
        yield from _of_value(field, value, where)


def _of_value(field: Field, value: Value, where: str) -> Iterator[str]:
    if field.kind == "object":
        shape = field.shape() if callable(field.shape) else field.shape
        if isinstance(value, dict) and not _is_map(value):
            yield from _problems(shape, value, where)
        elif not isinstance(value, (dict, Expression)):
            yield f"{where}: expected an object"
        return
    for literal in literals_in(value):
        kind = type(literal).__name__
        if field.kind in ("str", "int", "bool") and literal is not None and kind != field.kind:
            yield f"{where}: expected {field.kind}, got {kind}"
        elif field.values and isinstance(literal, str) and literal not in field.values:
            yield f"{where}: {literal!r} is none of {', '.join(sorted(field.values))}"


def _is_map(value: dict[str, Value]) -> bool:
    """Keys that are made at deployment, as those of userAssignedIdentities."""
    return any(re.match(r"'\$\{", name) for name in value)
