"""What methods keep: sets, overlaps beside chance, maps of regions, and spectra against plain decompositions."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import tessella
from instrument_samples import noise_samples
from tessella.core.errors import InputError
from tessella.instruments.kept import KeptSets, Places, read_kept
from tessella.instruments.overlap import chance_jaccard, draw_overlap, explain_overlap, overlap_of
from tessella.instruments.regions import as_matrix, draw_regions, explain_regions, regions_of
from tessella.instruments.spectrum import draw_spectrum, explain_spectrum, measure_spectrum
from tessella.samples import batches, load_samples
from tessella.testing.families import tiny_family


def grid_places(rows: int, columns: int, grid: tuple[int, int] | None = None) -> Places:
    down, across = np.divmod(np.arange(rows * columns), columns)
    ones = np.ones(rows * columns, dtype=bool)
    return Places((down + 0.5) / rows, (across + 0.5) / columns, ones, grid or (rows, columns))


def sets_of(masks: dict[str, list[list[int]]], places: list[Places]) -> KeptSets:
    return KeptSets(
        {name: tuple(np.array(m, dtype=bool) for m in rows) for name, rows in masks.items()}, tuple(places), {}
    )


def test_sets_are_what_a_run_keeps():
    family = tiny_family("qwen2_5_vl")
    model, processor = family.model(), family.processor()
    samples = noise_samples(3, family.sizes)
    sets = read_kept(model, processor, samples, ["random:4", "fastv@2:3"], batch=2)
    for name in sets.kept:
        found = []
        for _, inputs in batches(model, processor, samples, 2):
            with torch.no_grad(), tessella.reduce(model, name) as run:
                model(**inputs)
            found += [images[0].tolist() for images in run.kept]
        assert [np.flatnonzero(m).tolist() for m in sets.kept[name]] == found
    assert [m.sum() for m in sets.kept["fastv@2:3"]] == [3, 3, 3]
    first = sets.places[0]
    rows, columns = first.grid
    np.testing.assert_allclose(first.down[: columns + 1], [0.5 / rows] * columns + [1.5 / rows])
    np.testing.assert_allclose(first.across[:2], [0.5 / columns, 1.5 / columns])


def test_tiles_of_a_mosaic_lie_where_they_are_in_the_picture():
    family = tiny_family("llava_next")
    sets = read_kept(family.model(), family.processor(), noise_samples(1, ((56, 28),)), ["random:8"])
    (place,) = sets.places
    assert place.grid is None
    assert not place.is_patch.all()
    mosaic = place.is_patch & (np.arange(len(place.down)) >= 16)  # behind the thumbnail of 4 x 4
    assert np.unique(place.across[:16]).tolist() == [0.125, 0.375, 0.625, 0.875]
    assert len(np.unique(place.across[mosaic])) == 8
    assert 0 < place.down[place.is_patch].min() < place.down[place.is_patch].max() < 1


def test_methods_that_read_other_pictures_have_no_set():
    model, processor = tessella.load("mini")
    sets = read_kept(model, processor, load_samples("mini:2"), ["downsample:49", "random:49"])
    assert list(sets.kept) == ["random:49"]
    assert sets.left_out["downsample:49"].startswith("it reads other pictures")
    with pytest.raises(InputError, match="no method keeps tokens that can be compared: downsample:49"):
        read_kept(model, processor, load_samples("mini:1"), ["downsample:49"])


def test_overlap_of_sets_made_up():
    masks = {"a": [[1, 1, 0, 0], [1, 0, 0, 0]], "b": [[0, 1, 1, 0], [1, 0, 0, 0]], "c": [[0, 0, 0, 0], [0, 1, 1, 1]]}
    overlap = overlap_of(sets_of(masks, [grid_places(2, 2)] * 2))
    assert overlap.jaccard[0] == pytest.approx((1, (1 / 3 + 1) / 2, 0))
    assert overlap.shared[0] == pytest.approx((1, (1 / 2 + 1) / 2, (1 + 0) / 2))
    two = chance_jaccard(4, 2, 2)
    assert two == pytest.approx((0 * 1 + 4 * (1 / 3) + 1 * 1) / 6)
    assert overlap.chance[0][1] == pytest.approx((two + chance_jaccard(4, 1, 1)) / 2)
    assert (overlap.kept, overlap.num_visual) == ((1.5, 1.5, 1.5), 4)
    words = explain_overlap(overlap).seen
    assert words.startswith("a and b have most in common, measured against chance: 0.67, where random sets")
    figure = draw_overlap(overlap)
    assert [t.get_text() for t in figure.axes[0].texts][:3] == ["1.00", "0.67", f"chance {overlap.chance[0][1]:.2f}"]
    with pytest.raises(InputError, match=r"an overlap is between two methods or more; got a\."):
        overlap_of(sets_of({"a": masks["a"]}, [grid_places(2, 2)] * 2))


def test_chance_is_what_random_sets_have():
    rng = np.random.default_rng(0)
    num, first, second = 30, 12, 5
    found = []
    for _ in range(4000):
        a, b = (set(rng.permutation(num)[:k].tolist()) for k in (first, second))
        found.append(len(a & b) / len(a | b))
    error = np.std(found) / len(found) ** 0.5
    assert chance_jaccard(num, first, second) == pytest.approx(np.mean(found), abs=4 * error)
    assert chance_jaccard(4, 3, 3) == pytest.approx(1 / 4 + 3 / 4 * 2 / 4)
    assert chance_jaccard(10, 0, 3) == 0
    assert chance_jaccard(10, 0, 0) == 1
    assert chance_jaccard(100_000, 50_000, 50_000) == pytest.approx(1 / 3, rel=1e-3)


def test_maps_of_sets_made_up():
    masks = {"top": [[1, 1, 0, 0, 0, 0]] * 2, "mixed": [[1, 0, 1, 0, 1, 0], [1, 0, 0, 1, 1, 0]]}
    regions = regions_of(sets_of(masks, [grid_places(3, 2)] * 2))
    assert (regions.rows, regions.columns, regions.is_relative) == (3, 2, False)
    top, mixed = regions.methods
    assert as_matrix(top).tolist() == [[0, 0], [1, 1], [1, 1]]
    assert as_matrix(mixed).tolist() == [[0, 1], [0.5, 0.5], [0, 1]]
    assert (top.top, top.bottom, top.left, top.mean) == (0, 1, pytest.approx(2 / 3), pytest.approx(2 / 3))
    assert (mixed.left, mixed.right) == (pytest.approx(1 / 6), pytest.approx(5 / 6))
    assert "top: top half 0%, bottom half 100%" in explain_regions(regions).seen
    figure = draw_regions(regions)
    drawn = [a for a in figure.axes if a.images]
    assert [a.get_title(loc="left") for a in drawn] == ["top\n67% dropped", "mixed\n50% dropped"]
    assert {image.get_clim() for a in drawn for image in a.images} == {(0, 1)}


def test_pictures_of_different_grids_share_a_relative_map():
    masks = {"a": [[1, 1, 0, 0], [0] * 8]}
    regions = regions_of(sets_of(masks, [grid_places(2, 2), grid_places(4, 2)]))
    assert (regions.rows, regions.columns, regions.is_relative) == (12, 12, True)
    matrix = as_matrix(regions.methods[0])
    assert (matrix[3, 3], matrix[3, 9], matrix[9, 3]) == (0, 0, 1)  # tokens of the first picture
    assert (matrix[1, 3], matrix[10, 9]) == (1, 1)  # of the second one
    assert np.isnan(matrix[0, 0])
    assert regions.to_dict()["methods"][0]["dropped"][0][0] is None


def test_spectra_against_plain_decompositions():
    family = tiny_family("llava")
    model, processor = family.model(), family.processor()
    samples = noise_samples(2, ((28, 28),))
    spectrum = measure_spectrum(model, processor, samples, ["fastv@2:5", "random:1"], batch=2)
    full, fastv, one = spectrum.methods
    assert (spectrum.layer, full.method, full.kept, fastv.kept) == (2, "none", 16, 5)
    kept = read_kept(model, processor, samples, ["fastv@2:5"]).kept["fastv@2:5"]
    ranks, entropies, shares = [], [], []
    for (_, inputs), mask in zip(batches(model, processor, samples, 1), kept, strict=True):
        with torch.no_grad():
            tokens = model.get_image_features(pixel_values=inputs["pixel_values"]).pooler_output[0].double().numpy()
            rows = family.model(attention="eager")(**inputs, output_attentions=True).attentions[2]
        attention = rows[0, :, -1].mean(dim=0)[inputs["input_ids"][0] == model.config.image_token_id].double().numpy()
        some = tokens[mask] - tokens[mask].mean(axis=0)
        values = np.linalg.svd(some, compute_uv=False)[: len(some) - 1]
        for out, weights in ((ranks, values), (entropies, attention[mask])):
            p = weights / weights.sum()
            out.append(float(-(p * np.log(p)).sum()))
        shares.append(attention[mask].sum() / attention.sum())
    assert fastv.rank[0] == pytest.approx(np.mean(np.exp(ranks)), rel=1e-4)
    assert fastv.entropy[0] == pytest.approx(np.mean(entropies), rel=1e-4)
    assert fastv.evenness[0] == pytest.approx(np.mean(entropies) / np.log(5), rel=1e-4)
    assert fastv.attention[0] == pytest.approx(np.mean(shares), rel=1e-4)
    assert full.attention == pytest.approx((1, 1, 1))
    assert (one.rank, one.entropy, one.kept) == (None, None, 1)
    assert "random:1 keeps 1 tokens: fewer than two of each prompt" in explain_spectrum(spectrum).seen
    figure = draw_spectrum(spectrum)
    assert [t.get_text() for t in figure.axes[0].get_yticklabels()] == ["none (16)", "fastv@2:5 (5)", "random:1 (1)"]
