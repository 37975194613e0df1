"""Tiny models of every supported family: a real architecture with random weights, its real processor, and inputs."""

from __future__ import annotations

from .base import TinyFamily, lacking_families, tiny_families, tiny_family

__all__ = ["TinyFamily", "lacking_families", "tiny_families", "tiny_family"]
