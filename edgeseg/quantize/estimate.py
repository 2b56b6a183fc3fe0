"""Choose ranges, and which operators stay float, by what they do to the network's output.

No runtime and no graph here: a plan goes in, ``evaluate`` says how good it is (higher is better), a better plan comes out. Both
searches are greedy, deterministic and bounded by a number of evaluations, which is what they cost.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import msgspec
import numpy as np
import numpy.typing as npt

from edgeseg.errors import DataError
from edgeseg.quantize.plan import Domain, OpPlan, QuantPlan, TensorQuant

__all__ = ["Refined", "Trial", "decision_snr", "in_float", "refine", "relax"]

Evaluate = Callable[[QuantPlan], float]
Options = Mapping[str, Mapping[str, TensorQuant]]

_SPLIT = 6  # parts of the first look for sensitive operators
_SHARE = 0.6  # of a part's gain that a half of it must carry to be taken alone


@dataclass(frozen=True)
class Trial:
    """One evaluation: what was tried, its score, and whether it became the plan."""

    change: str
    score: float
    kept: bool


@dataclass(frozen=True)
class Refined:
    """``score`` is the plan's; ``reached`` is False only where ``relax`` ran out of evaluations below its floor. ``stopped``: more
    would have been evaluated if ``stop`` had allowed it."""

    plan: QuantPlan
    score: float
    trials: tuple[Trial, ...]
    reached: bool = True
    stopped: bool = False


def decision_snr(
    reference: Iterable[npt.NDArray[np.floating]], candidate: Iterable[npt.NDArray[np.floating]], *, class_axis: int = 1
) -> float:
    """Signal-to-noise ratio, dB, of what decides: each pixel's logits less their mean over the classes.

    Adding the same to all classes of a pixel changes no decision and counts neither as signal nor as noise. One channel is
    taken as it is. ``inf`` where both are equal, ``-inf`` where the candidate is not finite.

    >>> a = np.float32([[1, -1]]).reshape(1, 2, 1, 1)
    >>> round(decision_snr([a], [a * np.float32(1.1) + 5]), 1)
    20.0
    """
    signal = noise = 0.0
    for wanted, got in zip(reference, candidate, strict=True):
        exact, error = wanted.astype(np.float64), got.astype(np.float64) - wanted
        if wanted.shape[class_axis] > 1:
            exact -= exact.mean(axis=class_axis, keepdims=True)
            error -= error.mean(axis=class_axis, keepdims=True)
        signal += float(np.vdot(exact, exact))
        noise += float(np.vdot(error, error))
    if not math.isfinite(noise):
        return -math.inf
    if noise == 0:
        return math.inf
    return 10 * math.log10(signal / noise) if signal else -math.inf


def refine(
    plan: QuantPlan,
    options: Options,
    evaluate: Evaluate,
    *,
    budget: int = 16,
    estimators: Sequence[str] | None = None,
    margin_db: float = 0.02,
    priority: Mapping[str, float] | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> Refined:
    """Choose each tensor's quantization among its options by the score of the whole plan.

    First each estimator for all tensors; then, from the best, the next best ones for a stretch of the network at a time, ever
    shorter down to single tensors, most sensitive first. A change that does not raise the score is undone. Tensors with equal
    options share a scale and change together.

    Args:
        options: tensor to {estimator: quantization}; tensors without an entry stay as they are.
        evaluate: a plan's score, higher is better.
        budget: evaluations at most, the one of ``plan`` included (at least 1).
        estimators: the names tried; all that the options have where None.
        margin_db: what a change must gain to be kept. The more choices are judged on few images, the more it has to be.
        priority: tensor to how much its quantization is expected to hurt, for the order of single tensors.
        stop: once it says so nothing more is evaluated than ``plan`` itself.

    Raises:
        DataError: the score of the plan that is given is not a number.
    """
    search = _Search(evaluate, budget, margin_db, stop)
    search.start(plan)
    units = _units(plan, options)
    if not units:
        return search.result()
    scores: dict[str, float] = {}
    names = estimators or tuple(dict.fromkeys(name for unit in units for name in options[unit[0]]))
    for estimator in names:
        scores[estimator] = search.attempt(_switched(plan, options, units, estimator), f"all tensors by {estimator}")
    ranked = sorted((name for name in scores if not math.isnan(scores[name])), key=lambda name: -scores[name])[:3]
    size = math.ceil(len(units) / 2)
    while size > 1 and not search.spent:
        for begin in range(0, len(units), size):
            for estimator in ranked:
                stretch = units[begin : begin + size]
                change = f"'{stretch[0][0]}' to '{stretch[-1][0]}' by {estimator}"
                search.attempt(_switched(search.plan, options, stretch, estimator), change)
        size = math.ceil(size / 2) if size > 2 and len(units) / size < 8 else 1
    hurt = priority or {}
    for unit in sorted(units, key=lambda unit: -max(hurt.get(name, 0.0) for name in unit)):
        for estimator in names:
            if search.spent:
                return search.result()
            search.attempt(_switched(search.plan, options, [unit], estimator), f"'{unit[0]}' by {estimator}")
    return search.result()


def relax(
    plan: QuantPlan,
    evaluate: Evaluate,
    floor: float,
    *,
    units: Sequence[str] | None = None,
    rebuild: Callable[[frozenset[str]], QuantPlan] | None = None,
    budget: int = 24,
    stop: Callable[[], bool] = lambda: False,
) -> Refined:
    """Put the operators whose int8 costs most back to float until the score reaches ``floor``.

    The int8 operators are looked at in stretches of the network; the stretch whose return to float gains most is halved as long
    as one half carries most of the gain, then stays float; and again, until the floor or the budget is reached.

    Args:
        units: the operators that may return to float, in execution order; all int8 ones where None.
        rebuild: the plan with these operators in float, where more follows from that than ``in_float`` does.
        budget: evaluations at most, the one of ``plan`` included.
        stop: as for ``refine``.

    Returns:
        The plan, with ``reached`` False where the floor was not reached; its float operators' ``why`` says what they gained.
    """
    make = rebuild or (lambda ops: in_float(plan, ops, "its int8 form costs accuracy"))
    left = list(units if units is not None else (entry.op for entry in plan.ops if entry.domain is Domain.INT8))
    search = _Search(evaluate, budget, stop=stop)
    search.start(plan)
    chosen: frozenset[str] = frozenset()
    gains: dict[str, str] = {}
    while search.score < floor and left and not search.spent:
        base = search.score
        parts = _parts(left, _SPLIT)
        stretch, score = _best(search, make, chosen, parts)
        while len(stretch) > 1 and not search.spent:
            half, half_score = _best(search, make, chosen, _parts(stretch, 2))
            if half_score - base < _SHARE * (score - base):
                break
            stretch, score = half, half_score
        if score <= base:
            break
        chosen |= set(stretch)
        left = [op for op in left if op not in chosen]
        why = f"its int8 form costs {score - base:.1f} dB at the output"
        gains |= dict.fromkeys(stretch, why if len(stretch) == 1 else f"{why}, with {len(stretch) - 1} operator(s) beside it")
        search.adopt(make(chosen), score, f"{len(stretch)} operator(s) from '{stretch[0]}' in float")
    explained = tuple(
        msgspec.structs.replace(entry, why=gains[entry.op]) if entry.op in gains else entry for entry in search.plan.ops
    )
    return search.result(msgspec.structs.replace(search.plan, ops=explained), reached=search.score >= floor)


def in_float(plan: QuantPlan, ops: Iterable[str], why: str) -> QuantPlan:
    """The plan with these operators in float."""
    chosen = set(ops)

    def changed(entry: OpPlan) -> OpPlan:
        return msgspec.structs.replace(entry, domain=Domain.FLOAT, why=why) if entry.op in chosen else entry

    return msgspec.structs.replace(plan, ops=tuple(changed(entry) for entry in plan.ops))


@dataclass
class _Search:
    """The best plan so far, and the evaluations spent on it. A plan that was scored before costs nothing."""

    evaluate: Evaluate
    budget: int
    margin: float = 0.0
    stop: Callable[[], bool] = lambda: False
    stopped: bool = False
    plan: QuantPlan = field(init=False)
    score: float = field(init=False)
    trials: list[Trial] = field(default_factory=list)
    known: dict[bytes, float] = field(default_factory=dict)

    @property
    def spent(self) -> bool:
        """Asked only where there is more to evaluate."""
        if len(self.known) >= self.budget:
            return True
        self.stopped = self.stopped or self.stop()
        return self.stopped

    def start(self, plan: QuantPlan) -> None:
        self.plan, self.score = plan, self.evaluate(plan)
        self.known[self._key(plan)] = self.score
        if math.isnan(self.score):
            raise DataError("The plan's score is not a number.", hint="Check that the float model's output is finite.")
        self.trials.append(Trial("as given", self.score, kept=True))

    def measure(self, plan: QuantPlan) -> float:
        """NaN where the budget is spent."""
        key = self._key(plan)
        if key not in self.known:
            if self.spent:
                return math.nan
            self.known[key] = self.evaluate(plan)
        return self.known[key]

    @staticmethod
    def _key(plan: QuantPlan) -> bytes:
        return msgspec.json.encode((plan.tensors, [(entry.op, entry.domain) for entry in plan.ops]))

    def attempt(self, plan: QuantPlan, change: str) -> float:
        fresh = len(self.known)
        score = self.measure(plan)
        better = score > self.score + self.margin
        if better:
            self.plan, self.score = plan, score
        if len(self.known) > fresh:
            self.trials.append(Trial(change, score, kept=better))
        return score

    def adopt(self, plan: QuantPlan, score: float, change: str) -> None:
        self.plan, self.score = plan, score
        self.trials.append(Trial(change, score, kept=True))

    def result(self, plan: QuantPlan | None = None, *, reached: bool = True) -> Refined:
        return Refined(plan or self.plan, self.score, tuple(self.trials), reached, self.stopped)


def _units(plan: QuantPlan, options: Options) -> list[list[str]]:
    """Tensors that must change together, in the plan's order."""
    groups: dict[tuple[tuple[str, TensorQuant], ...], list[str]] = {}
    for name in plan.tensors:
        if name in options:
            groups.setdefault(tuple(options[name].items()), []).append(name)
    return list(groups.values())


def _switched(plan: QuantPlan, options: Options, units: Iterable[Sequence[str]], estimator: str) -> QuantPlan:
    chosen = {name: options[name][estimator] for unit in units for name in unit if estimator in options[name]}
    return msgspec.structs.replace(plan, tensors={**plan.tensors, **chosen})


def _parts(names: Sequence[str], count: int) -> list[list[str]]:
    size = math.ceil(len(names) / count)
    return [list(names[begin : begin + size]) for begin in range(0, len(names), size)]


def _best(
    search: _Search, make: Callable[[frozenset[str]], QuantPlan], chosen: frozenset[str], parts: Sequence[list[str]]
) -> tuple[list[str], float]:
    """The part whose return to float scores best. Unmeasured parts (budget) do not count."""
    scores = [search.measure(make(chosen | set(part))) for part in parts]
    order = [-math.inf if math.isnan(score) else score for score in scores]
    place = int(np.argmax(order))
    return parts[place], order[place]
