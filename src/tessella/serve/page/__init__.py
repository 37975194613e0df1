"""The page of a server: a picture, a question, several methods side by side, and results that can be shared."""

from .endpoints import build_page

__all__ = ["build_page"]
