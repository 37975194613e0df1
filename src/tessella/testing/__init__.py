"""What our own tests and those of third-party methods use: views made of arrays, and the contract suite."""

from .array_view import ArrayView

__all__ = ["ArrayView"]
