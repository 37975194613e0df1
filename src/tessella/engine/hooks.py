"""Hooks on a model that leave no trace: removed on exit, and inert in a deep copy of the model."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from types import MethodType
from typing import Any, TypeVar

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

F = TypeVar("F", bound=Callable[..., Any])


def idle(*args: Any, **kwargs: Any) -> None:
    """What a hook becomes in a copy of the model: nothing."""


def untraced(function: F) -> F:
    """A function that `torch.compile` calls as it is: a run's decisions belong to no compiled graph."""
    return torch.compiler.disable(function)  # type: ignore[no-any-return]


class Hook:
    """A callable that turns into `idle` when the model is copied or pickled."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function

    @untraced
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._function(*args, **kwargs)

    def __deepcopy__(self, memo: dict[int, Any]) -> Callable[..., None]:
        return idle

    def __reduce__(self) -> str:
        return "idle"


class Override:
    """An instance attribute that stands in for a method or function of a module until it is removed.

    In a copy of the module the original comes back.
    """

    def __init__(self, module: nn.Module, name: str, original: Any, function: Callable[..., Any]) -> None:
        self._module, self._name, self._original, self._function = module, name, original, function
        self._had_own = name in vars(module)
        self.__wrapped__ = original  # transformers reads signatures
        setattr(module, name, self)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._function(self._original, *args, **kwargs)

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        twin = memo.get(id(self._module))
        if isinstance(self._original, MethodType) and twin is not None:
            return MethodType(self._original.__func__, twin)
        return copy.deepcopy(self._original, memo)

    def remove(self) -> None:
        if vars(self._module).get(self._name) is not self:
            return
        if self._had_own:
            setattr(self._module, self._name, self._original)
        else:
            delattr(self._module, self._name)


class Hooks:
    """All hooks and overrides of one run."""

    def __init__(self) -> None:
        self._handles: list[RemovableHandle | Override] = []

    def before(self, module: nn.Module, function: Callable[..., Any]) -> None:
        """Call `function(module, args, kwargs)` in front of a module."""
        self._handles.append(module.register_forward_pre_hook(Hook(function), with_kwargs=True))

    def after(self, module: nn.Module, function: Callable[..., Any], always: bool = False) -> None:
        """Call `function(module, args, kwargs, output)` behind a module; with `always` after an exception too."""
        self._handles.append(module.register_forward_hook(Hook(function), with_kwargs=True, always_call=always))

    def override(
        self, module: nn.Module, name: str, original: Any, function: Callable[..., Any], traced: bool = False
    ) -> None:
        """Call `function(original, *args)` wherever `module.name(*args)` is called.

        `traced` leaves what it calls to `torch.compile`.
        """
        self._handles.append(Override(module, name, original, function if traced else untraced(function)))

    def remove(self) -> None:
        for handle in reversed(self._handles):
            handle.remove()
        self._handles.clear()


def bind(function: Callable[..., Any], value: Any) -> Callable[..., Any]:
    """`function` with its first argument given."""

    def bound(*args: Any, **kwargs: Any) -> Any:
        return function(value, *args, **kwargs)

    return bound


def by_name(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """The arguments of a call, every one by its name."""
    if not args:
        return dict(kwargs)
    named = dict(inspect.signature(function).bind_partial(*args, **kwargs).arguments)
    rest = named.pop("kwargs", {})
    return {**named, **rest}
