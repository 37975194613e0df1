"""What our own tests and those of third-party methods use: views made of arrays, the contract suite, tiny models."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .array_view import ArrayView
from .contract import CHECKS, check_method

if TYPE_CHECKING:
    from .family_contract import FAMILY_CHECKS, FAMILY_METHOD_CHECKS, check_family
    from .model_contract import MODEL_CHECKS, check_on_model

__all__ = [
    "CHECKS",
    "FAMILY_CHECKS",
    "FAMILY_METHOD_CHECKS",
    "MODEL_CHECKS",
    "ArrayView",
    "check_family",
    "check_method",
    "check_on_model",
]

_ON_MODELS = {
    "MODEL_CHECKS": "model_contract",
    "check_on_model": "model_contract",
    "FAMILY_CHECKS": "family_contract",
    "FAMILY_METHOD_CHECKS": "family_contract",
    "check_family": "family_contract",
}


def __getattr__(name: str) -> Any:
    """The checks on models bring transformers with them, so they are imported on first use."""
    if name not in _ON_MODELS:
        raise AttributeError(f"module 'tessella.testing' has no attribute {name!r}")
    return getattr(import_module(f".{_ON_MODELS[name]}", __name__), name)
