"""What this build contains and which CPU target its kernels use."""

from __future__ import annotations

from feedfast._core import build_info, cpu_target, force_cpu_target, supported_cpu_targets

__all__ = ["build_info", "cpu_target", "force_cpu_target", "supported_cpu_targets"]
