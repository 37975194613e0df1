"""The errors a user can meet. Each message says what was wrong, what was given and what is allowed.

TessellaError
├── BudgetError       (ValueError)    a keep or a scope that cannot be honoured
├── InputError        (ValueError)    a picture, question or folder that cannot be used
├── LayoutError       (ValueError)    visual tokens that do not fit their grid or placeholders
├── MethodError       (ValueError)    a hyper-parameter, pipeline text or method answer that makes no sense
├── RegistryError     (RuntimeError)  two claims to one method id, or a file that registers nothing
├── UnknownMethodError (KeyError)     no method of that id
└── UnsupportedError  (RuntimeError)  this model or decoding mode cannot do what was asked
"""

from __future__ import annotations


class TessellaError(Exception):
    """Root of every error that Tessella raises on purpose."""

    def __str__(self) -> str:
        return " ".join(str(a) for a in self.args)  # KeyError would add quotes


class BudgetError(TessellaError, ValueError):
    """A keep or a scope that cannot be honoured."""


class InputError(TessellaError, ValueError):
    """A picture, question or folder that cannot be used."""


class LayoutError(TessellaError, ValueError):
    """Visual tokens that do not fit their grid or their placeholders."""


class MethodError(TessellaError, ValueError):
    """A hyper-parameter, a pipeline text or a method's answer that makes no sense."""


class RegistryError(TessellaError, RuntimeError):
    """Two claims to one method id, or a method file that registers nothing."""


class UnknownMethodError(TessellaError, KeyError):
    """No method of that id."""


class UnsupportedError(TessellaError, RuntimeError):
    """This model or decoding mode cannot do what was asked."""
