"""What lmms-eval reads at its start, through the entry point `lmms_eval.models`: where its model `tessella` is."""

from __future__ import annotations

from typing import Any

_HOME = "tessella.integrations.lmms_eval_models"


def manifest() -> Any:
    """lmms-eval's `ModelManifest`. Nothing of ours is imported before the model is asked for."""
    from lmms_eval.models.registry_v2 import ModelManifest

    return ModelManifest(
        model_id="tessella", chat_class_path=f"{_HOME}.TessellaChat", simple_class_path=f"{_HOME}.TessellaSimple"
    )
