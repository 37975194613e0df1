"""What this installation is made of and what works in it."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable
from importlib import metadata
from typing import TYPE_CHECKING, Any

from ..core.errors import TessellaError

if TYPE_CHECKING:
    from ..bench.pace import Progress
    from .families import Matrix

PACKAGES = (
    "torch",
    "transformers",
    "pillow",
    "numpy",
    "safetensors",
    "tokenizers",
    "torchvision",
    "accelerate",
    "peft",
)


def examine(check_model: bool = True) -> dict[str, Any]:
    """Versions, devices and back ends; with `check_model` also whether the embedded model answers a question."""
    from .. import __version__

    out: dict[str, Any] = {
        "tessella": __version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "packages": {name: _version(name) for name in PACKAGES},
        **_torch_facts(),
        "image_back_end": "torchvision" if _version("torchvision") else "PIL",
        "methods": _count_methods(),
    }
    if check_model:
        out["embedded_model"] = _try_model()
    return out


def examine_families(tell: Callable[[Progress], None] | None = None) -> Matrix:
    """Which method runs on which family, from real runs; `tell` gets the progress."""
    from .families import family_matrix, try_method

    return family_matrix(try_method, tell)


def is_healthy(report: dict[str, Any]) -> bool:
    """True if everything that was examined works."""
    return bool(report.get("embedded_model", {"ok": True})["ok"]) and report["methods"]["broken"] == {}


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _torch_facts() -> dict[str, Any]:
    import torch
    from torch.backends import cuda

    devices = [f"cuda:{i} {torch.cuda.get_device_name(i)}" for i in range(torch.cuda.device_count())]
    return {
        "devices": ["cpu", *devices],
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "attention": {
            "sdpa_math": cuda.math_sdp_enabled(),
            "sdpa_flash": cuda.flash_sdp_enabled(),
            "sdpa_memory_efficient": cuda.mem_efficient_sdp_enabled(),
            "flash_attn_package": _version("flash-attn"),
        },
        "bfloat16_matmul": _works_in_bfloat16(),
    }


def _works_in_bfloat16() -> bool:
    import torch

    try:
        one = torch.ones(2, 2, dtype=torch.bfloat16)
        return bool((one @ one == 2).all())
    except RuntimeError:
        return False


def _count_methods() -> dict[str, Any]:
    """How many methods there are, and those whose files cannot be imported."""
    from ..core.registry import load_class, method_modules

    broken = {}
    for name in method_modules():
        try:
            load_class(name)
        except Exception as error:  # a third party's file may raise anything
            broken[name] = f"{type(error).__name__}: {error}"
    return {"registered": len(method_modules()), "broken": broken}


def _try_model() -> dict[str, Any]:
    """Load the embedded model and ask it one question with all tokens and with a ninth."""
    from ..loading import load
    from .answering import ask
    from .demo import bundled

    try:
        start = time.perf_counter()
        model, processor = load("mini")
        loaded = time.perf_counter() - start
        example = bundled()[0]
        full = ask(model, processor, example.image, example.question, max_new_tokens=8)
        part = ask(model, processor, example.image, example.question, keep="1/9", max_new_tokens=8)
    except TessellaError as error:
        return {"ok": False, "reason": str(error)}
    except Exception as error:  # whatever is wrong, the rest of the report is worth printing
        return {"ok": False, "reason": f"{type(error).__name__}: {error}"}
    return {
        "ok": True,
        "load_seconds": round(loaded, 2),
        "question": example.question,
        "expected": example.answer,
        "answer_full": full.answer,
        "answer_ninth": part.answer,
        "tokens": [full.report["tokens_kept"], part.report["tokens_kept"]],
        "device": str(model.device),
        "attention": model.config._attn_implementation,
    }
