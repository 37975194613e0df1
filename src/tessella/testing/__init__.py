"""What our own tests and those of third-party methods use: views made of arrays, the contract suite, tiny models."""

from typing import TYPE_CHECKING, Any

from .array_view import ArrayView
from .contract import CHECKS, check_method

if TYPE_CHECKING:
    from .model_contract import MODEL_CHECKS, check_on_model

__all__ = ["CHECKS", "MODEL_CHECKS", "ArrayView", "check_method", "check_on_model"]


def __getattr__(name: str) -> Any:
    """The checks on models bring transformers with them, so they are imported on first use."""
    if name not in ("MODEL_CHECKS", "check_on_model"):
        raise AttributeError(f"module 'tessella.testing' has no attribute {name!r}")
    from . import model_contract

    return getattr(model_contract, name)
