from __future__ import annotations

import json
import math
from dataclasses import replace
from xml.etree import ElementTree

import msgspec
import numpy as np
import pytest
import scipy.stats
from judged import CLASSES, evidence, gate, only
from scripted import MACHINE

from edgeseg.bench.memory import MemoryUse
from edgeseg.bench.noise import Disturbance, NoiseFinding, NoiseVerdict
from edgeseg.bench.statistics import PairedRuns
from edgeseg.errors import UsageError
from edgeseg.gate import (
    GateInputs,
    GateResult,
    InconclusivePolicy,
    Outcome,
    TimedFile,
    decide,
    parse_rules,
)
from edgeseg.gate.formats import to_json, to_junit, to_markdown
from edgeseg.metrics.counts import CountSettings, ImageCounts
from edgeseg.metrics.evidence import Evidence

DOUBTFUL = 0.012  # with a spread of 0.06 over 60 images, a drop that may or may not be beyond 2 points


@pytest.mark.parametrize(
    ("drop", "outcome", "code"),
    [(0.0, Outcome.PASS, 0), (0.1, Outcome.FAIL, 3), (DOUBTFUL, Outcome.INCONCLUSIVE, 5)],
)
def test_miou_has_three_outcomes(drop, outcome, code):
    found = evidence(drop, spread=0.06 if drop == DOUBTFUL else 0.02)
    result = gate("miou:-2pt", evidence=found)
    finding = only(result)
    assert result.outcome is finding.outcome is outcome
    assert result.exit_code() == code
    true_change = 100 * (found.delta(0).candidate - found.delta(0).reference)
    assert 100 * finding.measured == pytest.approx(true_change)
    assert finding.interval.low <= finding.measured <= finding.interval.high
    assert (result.images, result.rounds) == (60, None)


def repeated(counts: ImageCounts, times: int) -> ImageCounts:
    """The same images several times over, under new names: the same figures from more evidence."""
    many = counts.select(np.tile(np.arange(len(counts.names)), times))
    return replace(many, names=tuple(f"image{i}" for i in range(len(many.names))))


def test_the_number_of_images_that_would_decide_decides():
    few = evidence(DOUBTFUL, spread=0.06)
    finding = only(gate("miou:-2pt", evidence=few))
    assert finding.outcome is Outcome.INCONCLUSIVE
    assert finding.needed_what == "images"
    assert f"about {finding.needed} images" in finding.reason
    for times, decided in ((finding.needed / 60 * 0.7, False), (finding.needed / 60 * 1.3, True)):
        whole = round(times)
        sides = [repeated(side, whole) for side in (few.reference, few.candidate)]
        again = only(gate("miou:-2pt", evidence=Evidence.pair(*sides)))
        assert again.measured == pytest.approx(finding.measured)
        assert (again.outcome is not Outcome.INCONCLUSIVE) is decided, whole


def test_a_figure_at_the_limit_is_never_decided():
    found = evidence(DOUBTFUL)
    change = 100 * found.delta(0).change
    finding = only(gate(f"miou:{change:.10f}pt", evidence=found))
    assert finding.outcome is Outcome.INCONCLUSIVE
    assert finding.needed is None
    assert "no number of images" in finding.reason


def test_policy_turns_inconclusive_into_pass_or_fail():
    result = gate("miou:-2pt", evidence=evidence(DOUBTFUL, spread=0.06))
    assert [result.exit_code(policy) for policy in InconclusivePolicy] == [5, 3, 0]
    failed = gate("miou:-2pt", "size:1MB", evidence=evidence(DOUBTFUL, spread=0.06), file_bytes=2_000_000)
    assert failed.outcome is Outcome.FAIL
    assert failed.exit_code(InconclusivePolicy.PASS) == 3


def test_worst_class_names_the_class_that_lost():
    found = evidence(0.15, only=2)
    result = gate("worst_class:-2pt", "class.road:-2pt", "class.pole:-2pt", evidence=found)
    worst, road, pole = result.findings
    assert (worst.outcome, worst.subject) == (Outcome.FAIL, "pole")
    assert road.outcome is Outcome.PASS or road.measured < 0  # errors of poles are false positives of other classes
    assert pole.outcome is Outcome.FAIL
    # Judged among three classes, the interval is wider than judged alone.
    assert worst.interval.low < pole.interval.low
    assert worst.interval.confidence > pole.interval.confidence
    assert "pole" in worst.reason


def test_a_rare_class_is_left_out_by_name_unless_it_looks_bad():
    fine = only(gate("worst_class:-4pt", evidence=evidence(0.0, spread=0.001, rare=5)))
    assert fine.outcome is Outcome.PASS
    assert "Not judged, in fewer than 10 images: pole" in fine.reason
    bad = only(gate("worst_class:-4pt", evidence=evidence(0.5, only=2, rare=5)))
    assert (bad.outcome, bad.subject) == (Outcome.INCONCLUSIVE, "pole")
    assert "too few" in bad.reason


def test_too_few_images_are_inconclusive_however_bad():
    finding = only(gate("miou:-2pt", evidence=evidence(0.3, images=8)))
    assert finding.outcome is Outcome.INCONCLUSIVE
    assert "too few" in finding.reason


def ratio(factor: float, noise: float = 0.02, rounds: int = 40):
    rng = np.random.default_rng(0)
    base = 1e7 * rng.lognormal(0, 0.2, rounds)
    return PairedRuns(base, base * factor * rng.lognormal(0, noise, rounds))


@pytest.mark.parametrize(
    ("rule", "factor", "outcome"),
    [
        ("latency:+5%", 1.0, Outcome.PASS),
        ("latency:+5%", 1.3, Outcome.FAIL),
        ("latency:+5%", 1.05, Outcome.INCONCLUSIVE),
        ("speedup:1.2x", 0.5, Outcome.PASS),
        ("speedup:1.2x", 1.0, Outcome.FAIL),
        ("speedup:1.2x", 1 / 1.2, Outcome.INCONCLUSIVE),
    ],
)
def test_latency_and_speedup(rule, factor, outcome):
    result = gate(rule, latency=ratio(factor))
    finding = only(result)
    assert finding.outcome is outcome
    assert finding.interval.low <= finding.measured <= finding.interval.high
    expected = factor if rule.startswith("latency") else 1 / factor
    assert finding.measured == pytest.approx(expected, rel=0.02)
    assert result.rounds == 40


def test_sizes_and_memory_are_exact():
    memory = MemoryUse(interpreter=10_000_000, loaded=50_000_000, peak=90_000_000, runs=3)
    inputs = {"file_bytes": 1_000_000, "base_bytes": 4_000_000, "memory": memory}
    outcomes = [f.outcome for f in gate("size:1MB", "size:0.9MB", "size:0.25x", "size:0.2x", "memory:80MB", **inputs).findings]
    assert outcomes == [Outcome.PASS, Outcome.FAIL, Outcome.PASS, Outcome.FAIL, Outcome.PASS]


def test_fewer_rounds_than_twenty_decide_nothing_about_time():
    finding = only(gate("latency:+5%", latency=ratio(3.0, rounds=19)))
    assert (finding.outcome, finding.needed, finding.needed_what) == (Outcome.INCONCLUSIVE, 20, "rounds")
    assert only(gate("latency:+5%", latency=ratio(3.0, rounds=20))).outcome is Outcome.FAIL


def even(factor: float, rounds: int) -> PairedRuns:
    """Ratios at evenly spaced quantiles of a lognormal distribution around ``factor``: the same figure however many there are."""
    spread = scipy.stats.norm.ppf((np.arange(rounds) + 0.5) / rounds)
    noise = np.exp(0.12 * np.random.default_rng(3).permutation(spread))
    return PairedRuns(np.full(rounds, 1e7), 1e7 * factor * noise)


@pytest.mark.parametrize(("rule", "factor"), [("latency:+5%", 1.04), ("latency:+5%", 1.06), ("speedup:1.2x", 1 / 1.21)])
def test_the_number_of_rounds_that_would_decide_decides(rule, factor):
    finding = only(gate(rule, latency=even(factor, 60)))
    assert (finding.outcome, finding.needed_what) == (Outcome.INCONCLUSIVE, "rounds")
    outcomes = [only(gate(rule, latency=even(factor, round(share * finding.needed)))).outcome for share in (0.5, 2.0)]
    assert outcomes[0] is Outcome.INCONCLUSIVE
    assert outcomes[1] is (Outcome.FAIL if factor == 1.06 else Outcome.PASS)


def test_needed_images_of_a_rare_class_are_those_that_show_it_often_enough():
    """A pole is in 5 of 60 images: 120 images show it 10 times."""
    found = evidence(0.5, only=2, rare=5)
    finding = only(gate("class.pole:-4pt", evidence=found))
    assert (finding.outcome, finding.needed) == (Outcome.INCONCLUSIVE, 120)
    sides = [repeated(side, 2) for side in (found.reference, found.candidate)]
    assert only(gate("class.pole:-4pt", evidence=Evidence.pair(*sides))).interval is not None


def apart(errors: np.ndarray) -> ImageCounts:
    """``errors`` (N, 3) as in ``counts``, in images of one size, and taken for a class that has no truth: the IoU of each class is
    then 1 - its mean error, whatever becomes of the others."""
    wrong = (100_000 * errors).round().astype(np.int64)
    confusion = np.zeros((len(errors), 3, 4), np.int64)
    confusion[:, range(3), range(3)] = 100_000 - wrong
    confusion[:, :, 3] = wrong
    zeros = np.zeros((len(errors), 4, 3), np.int64)
    names = tuple(f"image{i}" for i in range(len(errors)))
    return ImageCounts(CountSettings(classes=CLASSES), names, confusion, zeros[:, :2], zeros, zeros[:, :2])


@pytest.mark.parametrize(
    ("scores", "fails"),
    [
        ((3.1, 2.6, 0.8), (True, True, False)),  # both beyond 2.39, the normal quantile of 2.5 % / 3
        ((3.1, 2.32, 0.8), (True, True, False)),  # the second is judged among two: beyond 2.24
        ((3.1, 2.32, 2.1), (True, True, True)),  # the last alone: beyond 1.96
        ((3.1, 2.1, 2.1), (True, False, False)),
        ((2.32, 2.1, 0.8), (False, False, False)),
    ],
)
def test_rules_are_corrected_as_holm_says(scores, fails):
    """Each class's change is ``score`` standard errors, of 400 images, beyond a limit of 0."""
    noise = np.random.default_rng(0).normal(size=(400, 3))
    noise = (noise - noise.mean(axis=0)) / noise.std(axis=0, ddof=1)
    change = 0.02 * (noise + np.array(scores) / math.sqrt(400))
    found = Evidence.pair(apart(np.full((400, 3), 0.3)), apart(0.3 + change), resamples=4000)
    result = gate(*(f"class.{name}:0pt" for name in CLASSES), evidence=found)
    assert tuple(finding.outcome is Outcome.FAIL for finding in result.findings) == fails


def test_many_rules_together_fail_as_seldom_as_one_does():
    """Every class is exactly at its limit; each rule on its own would fail some gates."""
    rules = [f"class.{name}:0pt" for name in CLASSES]
    rng = np.random.default_rng(11)
    trials, together, alone = 400, 0, 0
    for _ in range(trials):
        sides = [apart(rng.uniform(0.05, 0.15, (40, 3))) for _ in range(2)]
        found = Evidence.pair(*sides, resamples=400)
        together += gate(*rules, evidence=found).outcome is Outcome.FAIL
        alone += any(gate(rule, evidence=found).outcome is Outcome.FAIL for rule in rules)
    assert together / trials <= 0.045  # 2.5 %, and two standard errors of 400 trials
    assert alone / trials > 0.045


@pytest.mark.parametrize("rule", ["miou:-1pt", "latency:+5%", "size:1MB", "memory:1MB", "boundary:-1pt"])
def test_what_was_not_measured_is_never_a_pass(rule):
    with pytest.raises(UsageError, match="needs"):
        gate(rule)


def test_a_gate_needs_rules_and_classes_that_exist():
    with pytest.raises(UsageError, match="no rule"):
        gate()
    with pytest.raises(UsageError, match="road, tree, pole"):
        gate("class.rode:-1pt", evidence=evidence(0.0))


def timed_file(quiet: bool) -> TimedFile:
    found = NoiseFinding(kind=Disturbance.SPREAD, what="times spread by 30 %", advice="Close other programs.")
    noise = NoiseVerdict(quiet=quiet, findings=() if quiet else (found,))
    return TimedFile(name="x", runtime="onnxruntime 1", threads=1, median_ns=1e7, noise=noise)


def test_what_disturbed_the_times_is_told_where_it_kept_them_from_being_judged():
    loud = gate("latency:+5%", latency=ratio(1.05), machine=MACHINE, timed=(timed_file(False),))
    assert loud.advice == ("x: times spread by 30 %. Close other programs.",)
    assert loud.advice[0] in to_markdown(loud)
    document = json.loads(to_json(loud))
    assert document["machine"]["cpu"] == MACHINE.cpu
    assert document["timed"][0]["noise"]["quiet"] is False
    assert gate("latency:+5%", latency=ratio(1.0), timed=(timed_file(False),)).advice == ()


def full_result() -> GateResult:
    return gate(
        "miou:-2pt",
        "worst_class:-30pt",
        "latency:+5%",
        "size:1kB",
        evidence=evidence(DOUBTFUL, spread=0.06),
        latency=ratio(1.0),
        file_bytes=10_000,
    )


def test_json_has_a_schema_and_comes_back():
    result = full_result()
    assert msgspec.json.decode(msgspec.json.encode(result), type=GateResult) == result
    document = json.loads(to_json(result))
    assert document["schema"] == 2
    assert document["outcome"] == "fail"
    assert [entry["outcome"] for entry in document["findings"]] == ["inconclusive", "pass", "pass", "fail"]
    assert document["findings"][0]["rule"]["limit"] == -0.02


@pytest.mark.parametrize(
    ("policy", "failures", "skipped"),
    [(InconclusivePolicy.REPORT, 1, 1), (InconclusivePolicy.FAIL, 2, 0), (InconclusivePolicy.PASS, 1, 0)],
)
def test_junit_counts_agree_with_its_cases(policy, failures, skipped):
    root = ElementTree.fromstring(to_junit(full_result(), policy))
    (suite,) = root
    assert root.tag == "testsuites"
    assert suite.attrib["tests"] == "4" == str(len(suite.findall("testcase")))
    assert (int(suite.attrib["failures"]), len(suite.findall("testcase/failure"))) == (failures, failures)
    assert (int(suite.attrib["skipped"]), len(suite.findall("testcase/skipped"))) == (skipped, skipped)
    assert [case.attrib["name"] for case in suite] == ["miou:-2pt", "worst_class:-30pt", "latency:+5%", "size:1kB"]


def test_names_cannot_break_xml_or_markdown():
    result = decide(parse_rules(("size:1MB",)), GateInputs(file_bytes=1), candidate='a|<b>"\x00', against="c\nd")
    assert ElementTree.fromstring(to_junit(result)).find(".//testcase").attrib["classname"] == 'a|<b>"\ufffd'
    table = to_markdown(result).splitlines()
    assert table[2] == '`a\\|<b>"\x00` against `c d`'


def test_markdown_shows_every_rule():
    text = to_markdown(full_result())
    assert text.startswith("### edgeseg gate: ❌ fail\n")
    assert text.count("\n| `") == 4
    assert "60 images, 40 rounds, 95% intervals" in text


def test_a_class_absent_everywhere_is_not_judged():
    found = evidence(0.0, spread=0.001)
    for side in (found.reference, found.candidate):
        side.confusion[:, 2, :], side.confusion[:, :, 2] = 0, 0
    again = Evidence.pair(found.reference, found.candidate)
    assert math.isnan(again.delta(5).change)
    assert only(gate("worst_class:-4pt", evidence=again)).outcome is Outcome.PASS


def test_many_classes_that_are_not_judged_do_not_bury_the_verdict():
    names = tuple(f"class{index}" for index in range(60))
    confusion = np.zeros((12, 60, 60), np.int64)
    confusion[:, 0, 0] = 1000
    for c in range(1, 60):
        confusion[0, c, c] = 50
    zeros = np.zeros((12, 4, 60), np.int64)
    same = ImageCounts(
        CountSettings(classes=names), tuple(f"i{i}" for i in range(12)), confusion, zeros[:, :2], zeros, zeros[:, :2]
    )
    found = only(gate("worst_class:-2pt", evidence=Evidence.pair(same, same, resamples=100)))
    assert found.outcome is Outcome.PASS
    assert found.reason.endswith("class1, class2, class3, class4, class5, class6, class7, class8, 51 others.")
