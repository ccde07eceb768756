"""Resource handles of variables, for ops that read or update them in place."""

from __future__ import annotations

from typing import Any


def handle_of(variable: Any) -> Any:
    """The resource handle of a variable, of a distributed one that of this replica."""
    on_device = getattr(variable, "_get_on_device_or_primary", None)
    if on_device is not None:
        variable = on_device()
    return variable.handle
