"""Which numbers JSON.SET would change: RedisJSON keeps whole numbers from −2⁶³ to 2⁶⁴−1 and doubles, read roughly.

Its parser (serde_json without exact rounding; seen in RedisJSON 2.8) takes the first 19 or 20 digits as a whole number and
multiplies or divides it by a power of ten, so that many numbers of 16 digits and more come out as a neighbour of what they
are: 2.7715077941825975e-163 is kept as …78e-163. document.lua has the same rule; tests/test_document.py runs both against
each other and against the server.
"""

from __future__ import annotations

import math
import re
from typing import Final

_PARTS: Final = re.compile(rb"-?([0-9]+)\.?([0-9]*)[eE]?([+-]?[0-9]*)")
_PLAIN: Final = re.compile(rb"-?(?:[0-9]{1,15}|(?=.{3,16}$)[0-9]+\.[0-9]+)", re.DOTALL)
"""At most 15 digits and no exponent: always kept as it is."""
_LARGEST: Final = b"18446744073709551615"
_SMALLEST: Final = b"9223372036854775808"
_MOST_EXPONENT_DIGITS: Final = 6


def is_changed(token: bytes) -> bool:
    """Whether JSON.SET would keep another number than ``token``, or none for it; False for what is no number at all."""
    if _PLAIN.fullmatch(token):
        return False
    match = _PARTS.fullmatch(token)
    if match is None:
        return False
    whole, fraction, power = match[1], match[2], match[3]
    digits = (whole + fraction).lstrip(b"0")
    if whole == token.lstrip(b"-") and not _is_greater(digits, _SMALLEST if token[:1] == b"-" else _LARGEST):
        return False
    if len(power.lstrip(b"+-").lstrip(b"0")) > _MOST_EXPONENT_DIGITS:
        return bool(digits)
    exponent = int(power or b"0") - len(fraction) if power not in (b"+", b"-") else -len(fraction)
    kept = _as_parsed(digits, exponent)
    return not math.isfinite(kept) or _normal(digits, exponent) != _normal_of(kept)


def _is_greater(digits: bytes, limit: bytes) -> bool:
    return (len(digits), digits) > (len(limit), limit)


def _as_parsed(digits: bytes, exponent: int) -> float:
    """The double that the server makes of digits × 10^exponent."""
    count = len(digits)
    if count >= len(_LARGEST):
        count = 19 if _is_greater(digits[:20], _LARGEST) else 20
    value = float(int(digits[:count] or b"0"))
    exponent += len(digits) - count
    if value and exponent > 308:
        return math.inf
    while value and exponent < -308:
        value /= 1e308
        exponent += 308
    if value == 0:
        return 0.0
    power = float(f"1e{abs(exponent)}")
    return value * power if exponent >= 0 else value / power


def _normal(digits: bytes, exponent: int) -> tuple[bytes, int]:
    """The digits without zeros at their ends, and the power of ten of the last one."""
    kept = digits.rstrip(b"0")
    return kept, exponent + len(digits) - len(kept) if kept else 0


def _normal_of(value: float) -> tuple[bytes, int]:
    """The same of the shortest text that stands for this double, which is what JSON.GET shows."""
    match = _PARTS.fullmatch(repr(value).encode())
    assert match is not None
    return _normal((match[1] + match[2]).lstrip(b"0"), int(match[3] or b"0") - len(match[2]))
