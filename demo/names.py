"""What the pipeline's programs are called; the names in Redis are those of the example's settings file."""

from __future__ import annotations

PROCESSORS = ("processor-1", "processor-2", "processor-3")
