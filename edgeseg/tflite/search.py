"""The search: which operators of a float graph run in int8, so that the file is fastest and still segments.

1. Ranges: each estimator's plan with everything in int8 is run; the one that does the least damage at the output is kept.
2. Costs: every operator is timed in both domains on the machine at hand (``edgeseg.tflite.probe``).
3. Harm: every source of int8 noise is measured alone at the output (``edgeseg.tflite.harm``).
4. Assignment: for a price per unit of harm, a minimum cut gives the cheapest domains exactly; bisection over the price finds
   the cheapest assignment whose *measured* loss is within the budget.
5. Verdict (``edgeseg.tflite.finals``): the candidates within the budget are scored against masks where there are any, timed
   against the float graph, in turn, and the fastest is taken.

Nothing is accepted on an estimate: costs and harm only propose, the runtime decides. Deterministic but for step 5.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping

from msgspec import structs

from edgeseg.pipeline import OUT_OF_TIME
from edgeseg.quantize.assignment import Choice, Link, assign, cost
from edgeseg.quantize.journal import plan_key
from edgeseg.quantize.observe import Observer
from edgeseg.quantize.plan import Domain, OpPlan, QuantPlan, TensorQuant
from edgeseg.tflite.candidates import Candidate, SearchResult, SearchSettings
from edgeseg.tflite.cost_table import CostTable
from edgeseg.tflite.downstream import Downstream
from edgeseg.tflite.emit import quantize
from edgeseg.tflite.finals import decide
from edgeseg.tflite.graph import TfGraph
from edgeseg.tflite.harm import Harm, HarmMeter, completed
from edgeseg.tflite.judge import Judge, Score
from edgeseg.tflite.planning import Policy, initial_plan
from edgeseg.tflite.preparation import choices_of, links_of
from edgeseg.tflite.runtime import Feed
from edgeseg.tflite.widths import AS_NOW, Estimates, choose_widths

__all__ = ["search"]

log = logging.getLogger("edgeseg.search")


def search(
    graph: TfGraph, observers: Mapping[str, Observer], judge: Judge, costs: CostTable, image: Feed, settings: SearchSettings
) -> SearchResult:
    """Find the plan; see the module's docstring.

    Args:
        graph: float.
        observers: statistics of every float activation.
        judge: holds the images that candidates are scored on.
        costs: of ``graph``'s operators.
        image: what latency is measured with.
    """
    return _Search(graph, observers, judge, costs, image, settings).run()


class _Search:
    def __init__(
        self,
        graph: TfGraph,
        observers: Mapping[str, Observer],
        judge: Judge,
        costs: CostTable,
        image: Feed,
        settings: SearchSettings,
    ) -> None:
        self._graph = graph
        self._estimates = Estimates(observers, settings.effort.estimators)
        self._judge = judge
        self._costs = costs
        self._image = image
        self._settings = settings
        self._tried: dict[tuple[frozenset[str], str], Candidate] = {}
        self._notes: list[str] = []
        self._harm = Harm({}, {})
        self._ranges: dict[str, TensorQuant] = {}
        self._estimator = ""

    def run(self) -> SearchResult:
        settings = self._settings
        settings.progress("ranges")
        self._choose_estimator()
        settings.progress("fastest assignment")
        fastest = self._try(assign(self._choices(), self._links()), "fastest")
        if not self._settings.holds(fastest):
            self._measure_harm(fastest)
            self._bisect()
            self._polish()
        return decide(self._graph, self._image, list(self._tried.values()), self._settings, self._notes)

    # ----------------------------------------------------------------------------------------------- proposals

    def _choose_estimator(self) -> None:
        """The estimator whose ranges cost least with everything in int8 that has a delegated kernel."""
        best: Candidate | None = None
        for name in self._settings.effort.estimators:
            ranges = self._estimates.by(name) | dict(self._settings.fixed)
            plan = initial_plan(self._graph, ranges, policy=Policy.AUTO)
            candidate = self._run(f"all int8, {name}", plan)
            log.info("ranges %s: expected drop %.2f, %.1f dB", name, candidate.score.drop, candidate.score.snr_db)
            if best is None or candidate.score.noise < best.score.noise:
                best, self._ranges, self._estimator = candidate, ranges, name
        assert best is not None
        self._notes.append(f"ranges by {self._estimator}")
        self._tried[(best.int8, self._estimator)] = best

    def _choices(self) -> list[Choice]:
        return choices_of(self._costs, self._harm.weights)

    def _links(self) -> list[Link]:
        return links_of(self._graph, self._costs, self._settings.boundary, self._harm.tensors)

    def _measure_harm(self, fastest: Candidate) -> None:
        """Only what the fastest assignment holds in int8 is measured: a higher price of harm moves operators out of it."""
        settings = self._settings
        # The latest quarter of the time is kept for the steps that make use of the harm.
        reserve = settings.deadline - 0.25 * max(0.0, settings.deadline - time.monotonic())

        def late() -> bool:
            return time.monotonic() > reserve

        meter = HarmMeter(Downstream(self._graph, self._judge.images(settings.effort.harm_images)), settings.journal)
        inside = [op for op in self._graph.ops if op.id in fastest.int8]
        touched = {name for op in inside for name in (*op.inputs, *op.outputs) if name is not None}
        quants = {name: quant for name, quant in fastest.plan.tensors.items() if name in touched}
        sources = sorted(set(quants) - meter.followers(quants), key=list(quants).index)
        found: dict[str, float] = {}
        for index, name in enumerate(sources):
            if late():
                break
            self._say(f"harm of each tensor and operator: {index + 1} of {len(sources)}")
            widest = [] if name in settings.fixed else self._estimates.others(name, self._ranges[name])[:1]
            found[name] = meter.measure(name, [quants[name], *widest], weights=name in fastest.int8)[0]
        tensors = {name: 0.0 for name in quants if name not in sources} | completed(found, sources)
        weighing = [op for op in inside if meter.has_weights(op)]
        for op in weighing:
            if not late():
                meter.weights_of(op)
        self._choose_ranges(tensors, meter, late)
        if late():
            self._notes.append(f"{OUT_OF_TIME} while measuring harm; the rest was taken as average")
        self._harm = Harm(tensors, completed(meter.known_weights(), [op.id for op in weighing]))

    def _choose_ranges(self, harm: dict[str, float], meter: HarmMeter, late: Callable[[], bool]) -> None:
        """Give each tensor its own estimator, by what its range does at the output."""
        free = {name: quant for name, quant in self._ranges.items() if name not in self._settings.fixed}
        chosen = choose_widths(harm, free, self._estimates, meter, AS_NOW, covered=self._settings.effort.covered, stop=late)
        for name, (quant, noise) in chosen.items():
            harm[name], self._ranges[name] = noise, quant
        if chosen:
            self._notes.append(f"{len(chosen)} ranges chosen by the tensor's own harm at the output")
            self._estimator = f"{self._estimator} and others"

    def _bisect(self) -> None:
        """The lowest price of harm whose cheapest assignment is within the budget."""
        choices, links = self._choices(), self._links()
        saving = sum(max(0.0, c.float_us - c.int8_us) for c in choices if math.isfinite(c.int8_us))
        total = sum(c.harm for c in choices) + sum(link.harm for link in links)
        if total <= 0 or saving <= 0:
            return
        low, high = math.log(saving / total) - 7.0, math.log(saving / total) + 9.0
        for step in range(self._settings.effort.steps):
            if self._settings.late:
                self._notes.append(f"{OUT_OF_TIME} during the bisection")
                return
            middle = (low + high) / 2
            self._say(f"assignment {step + 1} of {self._settings.effort.steps}")
            candidate = self._try(assign(choices, links, math.exp(middle)), f"price {math.exp(middle):.3g}")
            if self._settings.holds(candidate):
                high = middle
            else:
                low = middle

    def _polish(self) -> None:
        """From the cheapest assignment within the budget, move float operators back to int8 where that saves time and the
        measured loss allows it, the greatest saving for the least harm first."""
        inside = [one for one in self._tried.values() if self._settings.holds(one)]
        if not inside:
            return
        current = min(inside, key=lambda one: one.predicted_us)
        choices, links = self._choices(), self._links()
        touching: dict[str, float] = {}
        for link in links:
            for end in (link.producer, *link.consumers):
                if not isinstance(end, Domain):
                    touching[end] = touching.get(end, 0.0) + link.harm
        attempts = 0
        by_worth = sorted(
            (c for c in choices if c.op not in current.int8 and math.isfinite(c.int8_us)),
            key=lambda c: (c.float_us - c.int8_us) / (c.harm + touching.get(c.op, 0.0) + 1e-12),
            reverse=True,
        )
        for choice in by_worth:
            if attempts >= 2 * self._settings.effort.steps:
                return
            if self._settings.late:
                self._notes.append(f"{OUT_OF_TIME} while moving operators back to int8")
                return
            grown = current.int8 | {choice.op}
            gain = cost(choices, links, current.int8, 0.0) - cost(choices, links, grown, 0.0)
            if gain <= 0.002 * current.predicted_us:
                continue
            attempts += 1
            self._say(f"polish {attempts}")
            candidate = self._try(grown, f"with {choice.op}")
            if self._settings.holds(candidate):
                current = candidate

    # ----------------------------------------------------------------------------------------------- measuring

    def _say(self, doing: str) -> None:
        """Tell what is being done, and the best mixture so far."""
        inside = [one for one in self._tried.values() if self._settings.holds(one)]
        told = ""
        if inside:
            best = min(inside, key=lambda one: one.predicted_us)
            share = best.predicted_us / cost(self._choices(), self._links(), frozenset(), 0.0)
            told = f"; best so far {share:.2f} of the float time (predicted), expected loss {best.score.drop:.2f} points"
        self._settings.progress(doing + told)

    def _try(self, int8: frozenset[str], name: str) -> Candidate:
        key = (int8, self._estimator)
        if key not in self._tried:
            floats = {op.id for op in self._graph.ops} - int8
            plan = initial_plan(self._graph, self._ranges, policy=Policy.FULL, float_ops=floats)
            self._tried[key] = self._run(name, self._with_reasons(plan))
            found = self._tried[key]
            log.info(
                "%s: %d int8, predicted %.2f ms, expected drop %.2f, %.1f dB",
                name,
                len(int8),
                found.predicted_us / 1e3,
                found.score.drop,
                found.score.snr_db,
            )
        return self._tried[key]

    def _run(self, name: str, plan: QuantPlan) -> Candidate:
        int8 = frozenset(entry.op for entry in plan.ops if entry.domain is not Domain.FLOAT)
        predicted = cost(self._choices(), self._links(), int8, 0.0)
        measured = self._settings.journal.once(
            plan_key(plan),
            lambda: self._judge.score_of(quantize(self._graph, plan), lambda why: self._notes.append(f"{name}: {why}")).values,
        )
        score = Score(*measured)
        return Candidate(name, plan, score, predicted, int8)

    def _with_reasons(self, plan: QuantPlan) -> QuantPlan:
        """Say of each operator that could run in int8 and does not, what int8 would save and cost."""
        return structs.replace(plan, ops=tuple(map(self._explained, plan.ops)))

    def _explained(self, entry: OpPlan) -> OpPlan:
        if entry.domain is not Domain.FLOAT or entry.why != "asked to stay float":
            return entry
        one = self._costs.ops[entry.op]
        harm = self._harm.weights.get(entry.op, 0.0) + self._harm.tensors.get(entry.op, 0.0)
        if not math.isfinite(one.int8_us):
            why, saves = "the delegate has no int8 kernel for it", None
        else:
            saves = round(one.float_us - one.int8_us, 1)
            why = "int8 is no faster here" if saves <= 0 else "its noise or its conversions cost more than int8 saves"
        noise = round(-10.0 * math.log10(harm), 1) if harm > 0 else None
        return structs.replace(entry, why=why, saves_us=saves, noise_db=noise)
