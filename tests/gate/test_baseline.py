from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest
from judged import CLASSES, evidence, gate, only

from edgeseg.errors import DataError, OutputError
from edgeseg.gate import Baseline, Outcome, read_baseline, write_baseline
from edgeseg.gate.baseline import counts_for
from edgeseg.metrics.counts import ImageCounts
from edgeseg.metrics.evidence import Evidence


def baseline(found: Evidence) -> Baseline:
    return Baseline(name="x", digest="sha256:0", file_bytes=10, counts=found.candidate.record(), miou=0.7, version="0.1.0")


def test_a_baseline_pairs_image_by_image_with_a_later_run(tmp_path):
    found = evidence(0.02)
    path = tmp_path / "baseline.json"
    write_baseline(path, baseline(found))
    assert list(tmp_path.iterdir()) == [path]
    stored = ImageCounts.of_record(read_baseline(path).counts)
    same = only(gate("miou:-0.1pt", evidence=Evidence.pair(stored, found.candidate)))
    assert same.outcome is Outcome.PASS
    assert same.measured == 0.0
    worse = only(gate("miou:-2pt", evidence=Evidence.pair(stored, evidence(0.1).candidate)))
    assert worse.outcome is Outcome.FAIL


def test_a_baseline_that_cannot_be_used_is_explained(tmp_path):
    path = tmp_path / "baseline.json"
    with pytest.raises(DataError, match="update-baseline"):
        read_baseline(path)
    path.write_text("{}")
    with pytest.raises(DataError, match="not a baseline") as caught:
        read_baseline(path)
    # With rules, --update-baseline reads it as well: only without the file does the next call get further.
    assert caught.value.hint is not None
    assert caught.value.hint.startswith("Delete it")
    write_baseline(path, msgspec.structs.replace(baseline(evidence(0.0)), schema=99))
    with pytest.raises(DataError, match="schema 99"):
        read_baseline(path)
    with pytest.raises(OutputError, match="Cannot write"):
        write_baseline(tmp_path / "no" / "baseline.json", baseline(evidence(0.0)))


def fits(found: Evidence, classes=CLASSES, images=None, **arguments) -> ImageCounts:
    names = list(found.candidate.names) if images is None else images
    return counts_for(baseline(found), Path("b.json"), classes, names, **arguments)


def test_a_baseline_of_something_else_is_told_before_anything_is_run():
    found = evidence(0.0)
    assert np.array_equal(fits(found).confusion, found.candidate.confusion)
    with pytest.raises(
        DataError, match=r"'b\.json' was written with the classes road, tree, pole; now they are road, tree, sky"
    ):
        fits(found, classes=("road", "tree", "sky"))
    names = list(found.candidate.names)
    with pytest.raises(DataError, match="60 images, the evaluation set has 60: 1 are new, 'other' for example; 1 are gone"):
        fits(found, images=["other", *names[1:]])
    with pytest.raises(DataError, match="has 20: 40 are gone"):
        fits(found, images=names[:20])


def test_a_part_of_the_images_is_compared_with_that_part_of_the_baseline():
    found = evidence(0.0)
    chosen = [found.candidate.names[i] for i in (7, 3)]
    part = fits(found, images=chosen, some=True)
    assert part.names == tuple(chosen)
    assert np.array_equal(part.confusion, found.candidate.confusion[[7, 3]])
    with pytest.raises(DataError, match="are new"):
        fits(found, images=["other"], some=True)
