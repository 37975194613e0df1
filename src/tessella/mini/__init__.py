"""The embedded model: a LLaVA of about three million weights, trained on pictures that the project draws itself."""

from __future__ import annotations

from pathlib import Path


def path() -> Path:
    """The folder that holds the weights; `AutoProcessor` and `AutoModelForImageTextToText` load it unchanged."""
    return Path(__file__).with_name("weights")


def text_tower_path() -> Path:
    """The folder of the text tower that shares a space with the embedded model's encoder."""
    return Path(__file__).with_name("text_tower")
