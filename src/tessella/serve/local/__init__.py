"""A model in this process: prompts read under their own pipelines, answers written side by side."""

from __future__ import annotations

from .answerer import LocalAnswerer

__all__ = ["LocalAnswerer"]
