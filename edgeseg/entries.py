"""What takes part in a benchmark: each file, in each way that it was asked to run, with what it is fed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np

from edgeseg.bench.device import CPU, Device, DeviceKind
from edgeseg.data.calibration import load_prepared, open_calibration
from edgeseg.data.pairs import open_evaluation
from edgeseg.errors import DataError, ModelError, UsageError
from edgeseg.facts import probe
from edgeseg.graph import Format
from edgeseg.inspection import file_format
from edgeseg.model import load_model
from edgeseg.preprocess import Prepared, decide, load_image, prepare, restore
from edgeseg.session import Float32, ModelInput, Session
from edgeseg.spec import ClassesSpec, ColorOrder, InputSpec, Layout, ModelSpec, OutputKind, OutputSpec, PreprocessSpec
from edgeseg.spec_file import load_spec, spec_beside
from edgeseg.subject import LoadOptions, Subject, open_subject
from edgeseg.targets.torch_variant import EAGER, TorchVariant
from edgeseg.untold import Untold, noise_input, open_untold

__all__ = ["Entry", "EntryOptions", "Feeding", "entries_of", "open_bare", "picture_of", "subject_or_bare"]


@dataclass(frozen=True)
class EntryOptions:
    """How files are loaded and run.

    Attributes:
        load: how to load models and foreign files.
        device: the CPU or a GPU of this machine.
        torch: the ways to run a trained model.
        shape: of the input in the file's own order, where neither the file nor an edgeseg.toml tells.
        image: the picture to run on; by default the first evaluation image, else the first calibration image, else noise.
        region: its region mask, for a spec with ``crop_to_region``.
        end_to_end: time decoding, preprocessing and the decision as well.
    """

    load: LoadOptions = field(default_factory=LoadOptions)
    device: Device = CPU
    torch: tuple[TorchVariant, ...] = (EAGER,)
    shape: tuple[int, ...] | None = None
    image: Path | None = None
    region: Path | None = None
    end_to_end: bool = False


@dataclass(frozen=True)
class Feeding:
    """What an entry is fed. ``text``: in words."""

    x: ModelInput
    text: str
    preprocess: Callable[[], ModelInput] | None = None
    postprocess: Callable[[Float32], object] | None = None


@dataclass(frozen=True)
class Entry:
    """One row of the benchmark. ``open(threads)`` gives a Session and can be pickled.

    Attributes:
        file: the file that ships.
        optional: one way among several to run a model, which may be impossible here: it is left out with the reason.
        simulated: why another runtime runs it than the one it is meant for, or empty.
    """

    name: str
    path: Path
    file: Path
    open: Callable[[int], Session]
    feeding: Feeding
    optional: bool = False
    simulated: str = ""


def subject_or_bare(path: Path, spec: ModelSpec | Path | None, options: EntryOptions) -> Subject | Untold:
    """The file with its edgeseg.toml; where there is none, what the file itself tells.

    Raises:
        EdgesegError: as ``open_subject`` and ``open_bare`` raise.
    """
    found = spec_beside(path, Path.cwd())
    if spec is not None or path.is_dir() or not path.exists() or (found is not None and _meant_for(found, path, options)):
        return open_subject(path, spec, options.load)
    return open_bare(path, options)


def _meant_for(spec: Path, path: Path, options: EntryOptions) -> bool:
    """Whether an edgeseg.toml that nobody named is for this file: one beside it is; one of the current folder may be of another
    network, and is for a converted file from elsewhere only if that takes an input of its sizes."""
    form = file_format(path)
    if form is None or spec.resolve().parent == path.resolve().parent:
        return True
    try:
        bare = open_untold(path, form, shape=options.shape, output_name=options.load.output_name)
    except UsageError:
        return True  # it leaves sizes open, so the spec tells them
    return sorted(bare.shape) == sorted(load_spec(spec).input.shape)


def open_bare(path: Path, options: EntryOptions) -> Subject | Untold:
    """A file without an edgeseg.toml: as it is, or for a trained model with a spec that says no more than its sizes.

    Raises:
        UsageError: nothing tells the size of the input.
        ModelError: it cannot be loaded or does not take one image.
    """
    form = file_format(path)
    if form is not None:
        return open_untold(path, form, shape=options.shape, output_name=options.load.output_name)
    load = options.load
    model = load_model(path, factory=load.factory, trust_pickle=load.trust_pickle, output_name=load.output_name)
    given = options.shape
    if given is not None and len(given) != 4:
        raise UsageError(f"--shape {','.join(map(str, given))} has not four sizes.", hint="Write --shape 1,3,512,512.")
    facts = probe(model, shape=None if given is None else (given[0], given[1], given[2], given[3]))
    if facts.input_shape is None or facts.channels is None:
        raise UsageError(f"'{path}' does not say the size of its input.", hint="Give it: --shape 1,3,512,512 (N,C,H,W).")
    single = facts.channels == 1
    names = ("background", "foreground") if single else tuple(f"class{index}" for index in range(facts.channels))
    spec = ModelSpec(
        input=InputSpec(shape=facts.input_shape),
        preprocess=PreprocessSpec(color=ColorOrder.GRAY if facts.input_shape[1] == 1 else ColorOrder.RGB),
        output=OutputSpec(
            kind=OutputKind.SIGMOID if single else OutputKind.LOGITS, stride=facts.stride or 1, name=load.output_name
        ),
        classes=ClassesSpec(names=names),
    )
    return open_subject(path, spec, load)


def entries_of(things: Sequence[Subject | Untold], options: EntryOptions) -> tuple[list[Entry], str]:
    """Every way to run every file, in order, and in words what they are fed.

    Raises:
        DataError: the picture cannot be decoded or does not fit a spec.
    """
    told = next((thing for thing in things if isinstance(thing, Subject)), None)
    picture, region = picture_of(told, options)
    names = _names(things)
    entries: list[Entry] = []
    for thing, name in zip(things, names, strict=True):
        if isinstance(thing, Untold):
            shape = "x".join(map(str, thing.shape))
            feeding = Feeding(thing.x, f"noise {shape}: no edgeseg.toml is for it")
            entries.append(_placed(Entry(name, thing.path, thing.path, thing.open, feeding), thing, options))
        else:
            entries.extend(_of_subject(thing, name, _fed(thing, picture, region, options), options))
    return entries, picture.name if picture is not None else "noise"


def _of_subject(subject: Subject, name: str, feeding: Feeding, options: EntryOptions) -> Iterator[Entry]:
    file = subject.artifact.model_path if subject.artifact else subject.path
    entry = Entry(name, subject.path, file, subject.open, feeding, simulated=subject.simulated)
    if not subject.is_model:
        yield _placed(entry, subject, options)
        return
    # The loaded network cannot be sent to the process that measures memory; its path can.
    several = len(options.torch) > 1
    for variant in options.torch:
        yield replace(
            entry,
            name=name if variant == EAGER and not several else f"{name} {variant.label}",
            open=partial(_open_variant, subject.path, subject.spec, options.load, options.device, variant),
            optional=several,
        )


def _placed(entry: Entry, thing: Subject | Untold, options: EntryOptions) -> Entry:
    """A file that is no model, on the device that was asked for."""
    if options.device.kind is not DeviceKind.CUDA:
        return entry
    pixels = thing.artifact.manifest.pixels if isinstance(thing, Subject) and thing.artifact else options.load.pixels
    return replace(entry, open=partial(_open_on_gpu, entry.file, pixels, options.device.index), optional=True)


def _open_variant(
    path: Path, spec: ModelSpec, load: LoadOptions, device: Device, variant: TorchVariant, threads: int
) -> Session:
    model = load_model(
        path, factory=load.factory, trust_pickle=load.trust_pickle, output_name=load.output_name or spec.output.name
    )
    if device.kind is DeviceKind.CUDA:
        from edgeseg.targets.torch_cuda import CudaMode, CudaOptions, open_torch_cuda

        options = CudaOptions(
            mode=CudaMode(variant.precision), compiled=variant.compiled, graph=variant.graph, device=device.index
        )
        return open_torch_cuda(model, spec, options)
    from edgeseg.targets.torch_ref import open_torch

    return open_torch(model, spec, threads=threads, variant=variant)


def _open_on_gpu(file: Path, pixels: bool, index: int, threads: int) -> Session:
    del threads  # the GPU's are its own
    if file.suffix == ".engine":
        from edgeseg.targets.tensorrt import EngineOptions, open_tensorrt

        return open_tensorrt(file, pixels=pixels, options=EngineOptions(device=index))
    if file_format(file) is Format.ONNX:
        from edgeseg.targets.torch_cuda import open_onnx_cuda

        return open_onnx_cuda(file, pixels=pixels, device=index)
    raise ModelError(f"{file.name} runs on LiteRT, which edgeseg runs on the CPU.", hint="Measure it without --device cuda.")


def _names(things: Sequence[Subject | Untold]) -> list[str]:
    """The files' names; where two are the same, their paths."""
    names = [thing.name if isinstance(thing, Subject) else thing.path.name for thing in things]
    return [name if names.count(name) == 1 else str(thing.path) for thing, name in zip(things, names, strict=True)]


def _fed(subject: Subject, picture: Path | None, region: Path | None, options: EntryOptions) -> Feeding:
    """The picture of the run. Where nobody named one and this subject, of another input size, cannot take it: one of its own."""
    try:
        return _feeding(subject.spec, picture, region, options)
    except DataError:
        if options.image is not None:
            raise
        own, own_region = picture_of(subject, options)
        if own is None or own == picture:
            raise
        feeding = _feeding(subject.spec, own, own_region, options)
        size = f"{subject.spec.input.height}x{subject.spec.input.width}"
        return replace(feeding, text=f"{own.name}, a picture of its own, for it takes {size} and not the size of the others")


def _feeding(spec: ModelSpec, picture: Path | None, region: Path | None, options: EntryOptions) -> Feeding:
    if picture is not None:
        prepared, text = load_prepared(picture, spec, region), picture.name
    else:
        noise = noise_input((1, spec.input.height, spec.input.width, 3), Layout.NHWC).pixels[0]
        everywhere = np.ones(noise.shape[:2], np.bool_)
        prepared, text = prepare(noise, spec, everywhere), "noise: there are no evaluation or calibration images"
    if not options.end_to_end:
        return Feeding(prepared.input, text)
    return Feeding(
        prepared.input,
        text,
        partial(_preprocess, picture, spec, region) if picture is not None else None,
        partial(_decision, prepared, spec),
    )


def _preprocess(picture: Path, spec: ModelSpec, region: Path | None) -> ModelInput:
    return load_prepared(picture, spec, region).input


def _decision(prepared: Prepared, spec: ModelSpec, logits: Float32) -> object:
    return decide(restore(logits, prepared.placement, spec), spec)


def picture_of(subject: Subject | None, options: EntryOptions) -> tuple[Path | None, Path | None]:
    """The image of every run and its region mask: the one given, or the first that the spec's data sets have."""
    if options.image is not None:
        load_image(options.image)
        return options.image, options.region
    if subject is None:
        return None, None
    try:
        sample = next(iter(open_evaluation(subject.spec, subject.base)))
        return sample.image_path, sample.region_path
    except (UsageError, DataError):
        pass  # No evaluation set here: any other picture of the model's world will do.
    try:
        calibration = open_calibration(subject.spec, subject.base, count=1)
    except (UsageError, DataError):
        return None, None  # said in what the entry is fed
    return calibration.paths[0], calibration.regions[0] if calibration.regions else None
