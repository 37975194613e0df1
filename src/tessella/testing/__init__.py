"""What our own tests and those of third-party methods use: views made of arrays, and the contract suite."""

from .array_view import ArrayView
from .contract import CHECKS, check_method

__all__ = ["CHECKS", "ArrayView", "check_method"]
