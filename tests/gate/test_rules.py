from __future__ import annotations

import pytest

from edgeseg.errors import UsageError
from edgeseg.gate import parse_rule, parse_rules
from edgeseg.gate.rules import RuleKind, Unit


@pytest.mark.parametrize(
    ("text", "kind", "limit", "unit"),
    [
        ("miou:-0.5pt", RuleKind.MIOU, -0.005, Unit.CHANGE),
        ("miou:0.5pt", RuleKind.MIOU, -0.005, Unit.CHANGE),
        ("miou:0pt", RuleKind.MIOU, 0.0, Unit.CHANGE),
        (" worst_class : -2 pt ", RuleKind.WORST_CLASS, -0.02, Unit.CHANGE),
        ("boundary:-1PT", RuleKind.BOUNDARY, -0.01, Unit.CHANGE),
        ("boundary_f:-1pt", RuleKind.BOUNDARY_F, -0.01, Unit.CHANGE),
        ("small_objects:-.5pt", RuleKind.SMALL_OBJECTS, -0.005, Unit.CHANGE),
        ("latency:+5%", RuleKind.LATENCY, 1.05, Unit.RATIO),
        ("latency:1.05x", RuleKind.LATENCY, 1.05, Unit.RATIO),
        ("speedup:1.2x", RuleKind.SPEEDUP, 1.2, Unit.RATIO),
        ("speedup:+20%", RuleKind.SPEEDUP, 1.2, Unit.RATIO),
        ("size:4MB", RuleKind.SIZE, 4e6, Unit.BYTES),
        ("size:512KiB", RuleKind.SIZE, 2**19, Unit.BYTES),
        ("size:0.3x", RuleKind.SIZE, 0.3, Unit.RATIO),
        ("memory:200MB", RuleKind.MEMORY, 2e8, Unit.BYTES),
    ],
)
def test_rules_are_read(text, kind, limit, unit):
    rule = parse_rule(text)
    assert (rule.kind, rule.unit) == (kind, unit)
    assert rule.limit == pytest.approx(limit)
    assert rule.text == text.strip()


def test_a_class_may_have_any_name():
    rule = parse_rule("class.Traffic light:-2pt")
    assert (rule.kind, rule.class_name) == (RuleKind.CLASS, "Traffic light")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("miuo:-0.5pt", "Did you mean 'miou'"),
        ("worst-class:-2pt", "Did you mean 'worst_class'"),
        ("Latency:+5%", "Did you mean 'latency'"),
        ("qqq:1", "There are: miou"),
        ("miou", "Write it like miou:-0.5pt"),
        ("miou:", "Write it like miou:-0.5pt"),
        ("miou:-0.5", "Write it like miou:-0.5pt"),
        ("miou:-0.5%", "not in points"),
        ("miou:+0.5pt", "asks for a gain"),
        ("latency:-5%", "Write it like latency:\\+5%"),
        ("latency:5pt", "Write it like latency:\\+5%"),
        ("latency:105%", "Write it like latency:\\+5%"),
        ("speedup:0x", "Write it like speedup:1.2x"),
        ("size:4", "Write it like size:4MB"),
        ("size:-4MB", "Write it like size:4MB"),
        ("memory:2x", "Write it like memory:200MB"),
        ("miou:1.2.3pt", "no limit that can be read"),
        ("class:-2pt", "class.Pole:-2pt"),
        ("class.:-2pt", "class.Pole:-2pt"),
    ],
)
def test_a_wrong_rule_is_explained(text, words):
    with pytest.raises(UsageError, match=words) as caught:
        parse_rule(text)
    assert caught.value.exit_code == 2


def test_several_rules_may_stand_in_one_text():
    assert [rule.text for rule in parse_rules(("miou:-1pt, size:4MB", "speedup:1.2x"))] == [
        "miou:-1pt",
        "size:4MB",
        "speedup:1.2x",
    ]
