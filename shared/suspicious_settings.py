"""Variables that look meant for the janitor and are not read: misspelt, or another program's. Told by name, never by value."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator, Mapping
from typing import Final

from shared.setting_rules import NOT_SUPPORTED
from shared.settings import DEFAULTS

logger = logging.getLogger("monitor")

_OF_OTHERS: Final = (
    "OTEL_", "AZURE_", "FUNCTIONS_", "AZUREFUNCTIONS", "AZUREWEBJOBS", "APPLICATIONINSIGHTS_", "WEBSITE_", "KUBERNETES_",
)  # fmt: skip
_OF_OURS: Final = (
    "REDIS_", "STREAM_", "HASH_", "INDEX_", "DEAD_LETTER_", "REAP_", "RECOVERY_", "RECOVERED_", "SETTLE_", "SWEEP_",
)  # fmt: skip
_IN_PLACE_OF_A_URL: Final = "set REDIS_HOST, REDIS_PASSWORD, REDIS_USERNAME and REDIS_TLS instead"
_INSTEAD: Final = {
    "REDIS_URL": _IN_PLACE_OF_A_URL,
    "REDIS_URI": _IN_PLACE_OF_A_URL,
    "REDIS_CONNECTION_STRING": _IN_PLACE_OF_A_URL,
    "REDIS_PORT": "name the port in REDIS_HOST, as host:port",
    "REDIS_SSL": "set REDIS_TLS instead",
    "REDIS_USE_SSL": "set REDIS_TLS instead",
    "REDIS_USER": "set REDIS_USERNAME instead",
    "REDIS_PASS": "set REDIS_PASSWORD instead",
    "REDIS_KEY": "set REDIS_PASSWORD instead",
    "REDIS_ACCESS_KEY": "set REDIS_PASSWORD instead",
}
# What Kubernetes and Docker links put beside a service; redis, index or stream may be its name.
_OF_A_SERVICE: Final = r"\w+_SERVICE_(HOST|PORT(_\w+)?)|\w+_PORT_\d+_(TCP|UDP|SCTP)(_PROTO|_PORT|_ADDR)?"
_ADDRESSES: Final = ("tcp://", "udp://", "sctp://")
_LIKENESS: Final = 0.85
_MOST_LETTERS_APART: Final = 4

_told: set[str] = set()


def suspicious_settings(environment: Mapping[str, str]) -> list[str]:
    """A warning for each variable that somebody may have set in the belief that it is read. No value is in it."""
    return list(_warnings(environment))


def warn_of_suspicious_settings(environment: Mapping[str, str] | None = None) -> None:
    """Log each warning once in the life of the process. ``environment``: by default, the process's."""
    for warning in _warnings(os.environ if environment is None else environment):
        if warning not in _told:
            _told.add(warning)
            logger.warning("%s", warning)


def _warnings(environment: Mapping[str, str]) -> Iterator[str]:
    for variable in sorted(environment):
        name, value = variable.upper(), environment[variable].strip()
        is_ours = variable in DEFAULTS or variable in NOT_SUPPORTED
        if is_ours or not value or name.startswith(_OF_OTHERS) or not re.fullmatch(r"\w+", name, re.ASCII):
            continue
        advice = _advice(name)
        if advice is not None and not _is_of_a_service(name, value):
            yield f"{variable} is set, but no setting has this name: {advice}"


def _advice(name: str) -> str | None:
    """What to do about it; None: it is somebody else's."""
    if name in _INSTEAD:
        return _INSTEAD[name]
    meant = _meant(name)
    if meant is not None:
        return f"is {meant} meant?"
    return "see the table of settings, or remove it" if name.startswith(_OF_OURS) else None


def _is_of_a_service(name: str, value: str) -> bool:
    is_address = name.endswith("_PORT") and value.startswith(_ADDRESSES)
    return is_address or re.fullmatch(_OF_A_SERVICE, name) is not None


def _meant(name: str) -> str | None:
    """The setting that is spelt nearly so."""
    letters = set(name)
    near = [
        setting
        for setting in DEFAULTS
        if (setting[0] == name[0] or setting[-1] == name[-1])
        and abs(len(setting) - len(name)) <= _MOST_LETTERS_APART
        and len(letters.symmetric_difference(setting)) <= 3
    ]
    if not near:
        return None
    import difflib  # a cold start pays for imports

    return next(iter(difflib.get_close_matches(name, near, 1, _LIKENESS)), None)
