"""What a model, its processor and the machine are, for settings and runs."""

from __future__ import annotations

import hashlib
import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

WEIGHTS = "*.safetensors"
OTHER_FILES = ("*.json", "*.jinja", "*.model", "*.txt")
PACKAGES = ("torch", "transformers", "pillow", "numpy")  # those that can change an answer


def identify_model(model: Any, name: str) -> dict[str, str]:
    """Name, class, digests of the files in a model's folder, or the revision of one from the hub.

    Of a folder only its last name is taken, so that a copy elsewhere is the same model.
    """
    folder = Path(model.config._name_or_path)
    facts = {"model": Path(name).name if Path(name).is_dir() else name, "model_class": type(model).__name__}
    if folder.is_dir():
        facts["weights"] = digest_files(sorted(folder.glob(WEIGHTS)))
        facts["model_files"] = digest_files(sorted({f for pattern in OTHER_FILES for f in folder.glob(pattern)}))
    else:
        facts["revision"] = str(getattr(model.config, "_commit_hash", None))
    return facts


def identify_tower(tower: Any) -> str:
    """SHA-256 over the names and values of a text tower's tensors."""
    digest = hashlib.sha256()
    for name, values in tower.state_dict().items():
        digest.update(f"{name}\0{values.dtype}\0{tuple(values.shape)}\0".encode())
        digest.update(values.float().cpu().numpy().tobytes())
    return digest.hexdigest()


def identify_processor(processor: Any) -> dict[str, str]:
    """Classes of the processor, and which library resizes pictures."""
    name = type(processor.image_processor).__name__
    by_pil = name.endswith("Pil") or not _version("torchvision")
    return {
        "processor": type(processor).__name__,
        "image_processor": name,
        "image_back_end": "PIL" if by_pil else "torchvision",
    }


def identify_execution(model: Any) -> dict[str, str]:
    """Dtype, kind of device and attention of a loaded model."""
    return {
        "dtype": str(model.dtype).removeprefix("torch."),
        "device": model.device.type,
        "attention": str(model.config._attn_implementation),
    }


def versions() -> dict[str, str | None]:
    """Versions of Tessella and of the packages that can change an answer."""
    from .. import __version__

    return {"tessella": __version__, **{name: _version(name) for name in PACKAGES}}


def describe_run() -> dict[str, Any]:
    """Facts of the machine and of the code, which change times but no answers."""
    import torch

    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "machine": platform.machine(),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "accelerators": gpus,
        "versions": versions(),
        **_commit(),
    }


def digest_files(files: list[Path]) -> str:
    """SHA-256 over names and contents; each file is read in pieces."""
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.name.encode() + b"\0")
        with file.open("rb") as content:
            while piece := content.read(1 << 20):
                digest.update(piece)
    return digest.hexdigest()


def _commit() -> dict[str, Any]:
    """The commit of this source tree and whether it is clean; empty where these files are in no repository."""
    here = Path(__file__).parents[1]

    def git(*args: str) -> str:
        return subprocess.run(["git", *args], cwd=here, capture_output=True, text=True, check=True, timeout=10).stdout

    try:
        git("ls-files", "--error-unmatch", "__init__.py")  # not some other repository that holds an installation
        return {
            "commit": git("rev-parse", "HEAD").strip(),
            "clean": not git("status", "--porcelain", "--", ".").strip(),
        }
    except (OSError, subprocess.SubprocessError):
        return {}


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
