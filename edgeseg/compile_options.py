"""What a compile is asked to do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from edgeseg.errors import UsageError
from edgeseg.quantize.plan import read_plan
from edgeseg.spec import Head, IoType, Target, TuneFor
from edgeseg.stages.policy import parse_policy
from edgeseg.trt.build import BuildSettings

__all__ = ["CompileOptions"]


@dataclass(frozen=True)
class CompileOptions:
    """Everything ``edgeseg compile`` takes beside the model, the spec and the target; the defaults suit every model.

    Attributes:
        output: the artifact's folder; by default ``build/<model>-<target>`` in the current folder.
        io: element type of a tflite-int8 file's input and output; float32 where None, int8 for integer-only hardware.
        images: calibration images (folders or globs) in place of the spec's.
        masks: their masks (folder or glob) in place of the spec's; where there are any, what INT8 loses is measured on them too.
        count, seed: how many of them, and which, in place of the spec's.
        factory: ``package.module:function`` that builds the architecture of a state_dict.
        trust_pickle: run the code inside a pickled model file. Never implied by anything else.
        output_name: which of several outputs holds the logits.
        lowering: ``auto``, ``direct`` or ``onnx2tf``: how the ONNX graph becomes a TFLite graph.
        lowering_limit_s: longest run of onnx2tf, seconds.
        use_cache: give the artifact back without work when nothing has changed.
        plan: an edited ``quantization.json`` to carry out.
        policy: ``auto`` (measure), ``full`` (everything that has an INT8 kernel) or ``float-ops=KIND,...``.
        effort: ``quick``, ``normal`` or ``max``: how much is measured; for tflite-int8, ``max`` learns weights too.
        budget: largest loss of mIoU the search may accept, in points.
        search_limit_s: seconds the search may take.
        tune_for: what a tflite-int8 file is made fast for: see ``TuneFor``.
        head: what the file gives: see ``Head``.
        engine: how a TensorRT engine is built; without ``timing_cache``, measurements are kept in edgeseg's cache.
    """

    output: str | Path | None = None
    io: IoType | None = None
    images: tuple[str, ...] = ()
    masks: str | None = None
    count: int | None = None
    seed: int | None = None
    factory: str | None = None
    trust_pickle: bool = False
    output_name: str | None = None
    lowering: str = "auto"
    lowering_limit_s: float = 900.0
    use_cache: bool = True
    plan: Path | None = None
    policy: str = "auto"
    effort: str = "normal"
    budget: float = 0.3
    search_limit_s: float = 600.0
    tune_for: TuneFor = TuneFor.HERE
    head: Head = Head.LOGITS
    engine: BuildSettings = field(default_factory=BuildSettings)
    command: tuple[str, ...] = ()
    progress: Callable[[str], None] = field(default=lambda _: None, compare=False)

    @property
    def shown_io(self) -> IoType:
        """The element type of the file's input and output."""
        natural = IoType.INT8 if self.tune_for is TuneFor.INTEGER_ONLY else IoType.FLOAT32
        return self.io or natural

    def check(self, target: Target) -> None:
        """Refuse what contradicts itself, before any work.

        Raises:
            UsageError: there is no such policy, an option does not fit the target or another option, or the plan is none or of
                another target.
        """
        parse_policy(self.policy, self.tune_for)
        self._check_element_type(target)
        if self.plan is not None:
            self._check_plan(self.plan, target)
        elif self.policy != "auto" and not target.is_int8:
            raise UsageError(f"--policy is for INT8 targets, not for {target}.", hint=_int8_instead(target))
        if self.head is not Head.LOGITS and target.runtime == "tensorrt":
            raise UsageError(f"{target} gives logits only.", hint=f"Leave --output {self.head} out, or choose another target.")
        if self.tune_for is TuneFor.HERE:
            return
        if target is not Target.TFLITE_INT8:
            raise UsageError(
                f"--tune-for {self.tune_for} is for tflite-int8, not for {target}.",
                hint="Leave it out, or give --target tflite-int8.",
            )
        if self.tune_for is TuneFor.INTEGER_ONLY and self.io is IoType.FLOAT32:
            raise UsageError(
                "Integer-only hardware cannot take or give float32.", hint="Give --io int8 or --io uint8, or leave it out."
            )
        given = "--plan" if self.plan is not None else f"--policy {self.policy}"
        if self.tune_for is not TuneFor.INTEGER_ONLY and given != "--policy auto":
            raise UsageError(
                f"--tune-for {self.tune_for} chooses by the stored operator costs, and {given} leaves nothing to choose.",
                hint=f"Leave one of the two out; a plan that was made with --tune-for {self.tune_for} is carried out without it.",
            )

    def _check_element_type(self, target: Target) -> None:
        if self.io in {None, IoType.FLOAT32} or target is Target.TFLITE_INT8:
            return
        raise UsageError(
            f"{target} takes and gives float32; --io {self.io} is for tflite-int8.",
            hint="Leave --io out, or give --target tflite-int8.",
        )

    def _check_plan(self, path: Path, target: Target) -> None:
        if not target.is_int8:
            raise UsageError(f"--plan is for INT8 targets, not for {target}.", hint=_int8_instead(target))
        if self.policy != "auto":
            raise UsageError(
                f"--plan says of every operator what it runs in, and so does --policy {self.policy}.",
                hint="Leave one of the two out; the plan can be edited.",
            )
        if self.effort == "max" and target is Target.TFLITE_INT8:
            raise UsageError(
                "--effort max learns weights, and a plan is carried out with those it names.",
                hint="Leave --effort out, or --plan.",
            )
        plan = read_plan(path)
        if plan.runtime != target.runtime:
            raise UsageError(
                f"'{path}' is a plan for {plan.runtime}, not for {target}.",
                hint=f"Give the quantization.json of an artifact made for {target}.",
            )


def _int8_instead(target: Target) -> str:
    return f"Leave it out, or give --target {target.runtime}-int8."
