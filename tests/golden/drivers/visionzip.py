"""Features, keys and the class token's row of one layer; dominant patches, centres, targets and tokens."""

from __future__ import annotations

from typing import Any

from recorded import Golden, every, negated

from tessella.core.reduction import Reduction
from tessella.core.registry import make
from tessella.ops import merging
from tessella.testing import ArrayView

FLIPS = {
    "attention": (ArrayView, "class_attention", negated),
    "keys": (merging, "cosine_similarity", negated),
}


def replay(file: Golden) -> None:
    hidden, contextual = file["hidden_states"], int(file.number("contextual"))
    view = ArrayView(
        features=hidden[:, 1:],
        class_features=hidden[:, 0],
        class_attention=file["cls_attention"][..., 1:],
        encoder_keys=file["metric"][:, None, 1:],
    )
    method: Any = make("visionzip", contextual=contextual)
    counts = every(int(file.number("dominant")) + contextual, view)
    dominant = method.dominant(view, counts)
    centres = method.centres(view, counts, dominant)
    patches = dominant.nonzero()[:, 1].reshape(len(hidden), -1)
    file.compare("dominant_patch_indices", patches)
    file.compare("contextual_target_indices", centres)
    file.compare("merge_target_of_patch", method.targets(view, dominant, centres), optional=True)
    reduction: Reduction = method.reduce(view, counts)
    assert int(reduction.keep.sum()) == sum(counts.num_keep), "keep: another number of slots than tokens"
    file.compare("output_tokens", reduction.embeddings)
