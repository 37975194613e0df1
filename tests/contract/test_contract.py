"""Every registered method keeps the contract, and the suite notices when one does not."""

from __future__ import annotations

import pytest

from tessella.core.pipeline import example_of
from tessella.core.registry import make, methods
from tessella.testing import CHECKS, check_method

VARIANTS = {
    "random(stratified=True)": make("random", stratified=True),
    "random@4": make("random", at_layer=4),
    "uniform(mode='stride1d')": make("uniform", mode="stride1d"),
    "uniform(mode='border_less')": make("uniform", mode="border_less"),
    "pool(space='projected')": make("pool", space="projected"),
    "hiprune(alpha=1.0)": make("hiprune", alpha=1.0),
    "hiprune(wrap=False)": make("hiprune", alpha=0.8, wrap=False),
    "visionzip(contextual=0)": make("visionzip", contextual=0),
    "prumerge(plus=False)": make("prumerge", plus=False),
    "prumerge(order='raster')": make("prumerge", attention="multihead", order="raster"),
    "feather@2(stride=2)": make("feather", at_layer=2, second_layer=5, stride=2),
    "fastv@3": make("fastv", at_layer=3),
    "fastervlm(cls_fallback='received')": make("fastervlm", cls_fallback="received"),
    "fopru(strategy='row')": make("fopru", strategy="row"),
    "vtc_cls(ensemble='min')": make("vtc_cls", ensemble="min"),
    "flashvlm(text_scope='question')": make("flashvlm", text_scope="question", per_round=1),
    "holov(variant='code')": make("holov", variant="code"),
    "globalcom2(thumb_order='score')": make("globalcom2", thumb_order="score"),
    "zoo_prune(estimator='jvp')": make("zoo_prune", estimator="jvp"),
    "mmtok(text='clean')": make("mmtok", text="clean", extra_text="a red star"),
    "todre(fading=False)": make("todre", fading=False, rule="k_center", pivot="nearest_mean"),
    "aot(mass='row')": make("aot", mass="row", tolerance=None),
    "compose(allocate)": make("compose", score=make("fastervlm"), allocate=make("holov")),
    "compose(merge)": make("compose", score=make("vtc_cls"), select=make("agilepruner"), merge=make("visionzip")),
    "compose(prumerge)": make("compose", score=make("fopru"), merge=make("prumerge")),
}
METHODS = {**{i: example_of(i).parts[0].method for i in methods()}, **VARIANTS}


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("name", METHODS)
def test_contract(name: str, check: str) -> None:
    CHECKS[check](METHODS[name])


def test_check_method_names_method_and_check(monkeypatch: pytest.MonkeyPatch) -> None:
    check_method(make("random"))
    monkeypatch.setattr(type(make("random")), "id", "another_name")
    with pytest.raises(AssertionError, match="another_name, check 'card': class Random is not spelled like"):
        check_method(make("random"))
