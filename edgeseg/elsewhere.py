"""Another machine that has edgeseg: a benchmark is the same verb, run there on the files sent along; other verbs run here, on a
session there."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from dataclasses import replace as with_fields
from functools import partial
from pathlib import Path

import msgspec

from edgeseg.bench.device import Device, DeviceKind
from edgeseg.bench.result import BenchResult
from edgeseg.bench.settings import BenchSettings
from edgeseg.entries import EntryOptions, picture_of, subject_or_bare
from edgeseg.errors import EnvironmentLack, OutputError, UsageError
from edgeseg.remote.protocol import Open
from edgeseg.remote.session import RemoteSession
from edgeseg.remote.ssh import RemoteOptions, run_there
from edgeseg.report.result import BenchReport
from edgeseg.session import Session
from edgeseg.spec import ModelSpec
from edgeseg.spec_file import SPEC_NAME, dump_spec
from edgeseg.subject import LoadOptions, Subject
from edgeseg.untold import Untold

__all__ = ["Errand", "bench_by_ssh", "moved"]

_RESULT = "bench.json"


@dataclass(frozen=True)
class Errand:
    """What is run there. ``journals``: where the samples of a number of threads go here, as they come; None: nowhere."""

    threads: tuple[int, ...]
    settings: BenchSettings
    entry: EntryOptions
    profile: bool = False
    journals: Callable[[int], Path] | None = None
    remote: RemoteOptions = field(default_factory=RemoteOptions)


def bench_by_ssh(paths: Sequence[Path], spec: ModelSpec | Path | None, errand: Errand) -> BenchReport:
    """Measure files on the machine of ``errand.entry.device``. Names and paths in the report are those of this machine.

    Raises:
        UsageError: a model that needs Python code of this machine.
        EnvironmentLack: see ``edgeseg.remote.ssh.run_there``.
    """
    _check_sendable(errand.entry.load)
    things = [subject_or_bare(path, spec, errand.entry) for path in paths]
    with tempfile.TemporaryDirectory(prefix="edgeseg-errand-") as folder:
        files, places = _files(things, spec is not None, Path(folder))
        arguments = _arguments(things, list(places), spec is not None, files, errand)
        document = run_there(errand.entry.device, files, arguments, errand.remote, _receiver(errand))
    try:
        report = msgspec.json.decode(document, type=BenchReport)
    except msgspec.MsgspecError as error:
        raise EnvironmentLack(
            f"{errand.entry.device.text} gave a result that is not understood here: {error}.",
            hint="Install the same edgeseg on both machines.",
        ) from error
    runs = tuple(_with_own_paths(run, places) for run in report.runs)
    return msgspec.structs.replace(report, device=errand.entry.device.text, runs=runs)


def moved(subject: Subject, device: Device, remote: RemoteOptions | None = None, load: LoadOptions | None = None) -> Subject:
    """The subject with ``open`` giving a session on another machine; on ``cpu`` the subject itself.

    Raises:
        UsageError: a device that gives no session, or a model that needs Python code of this machine.
    """
    if device.kind is DeviceKind.CPU:
        return subject
    if device.kind is not DeviceKind.SSH:
        raise UsageError(
            f"Predictions are not taken from {device.text}.",
            hint="There are cpu and ssh://user@host; bench takes the others too.",
        )
    load = load or LoadOptions()
    _check_sendable(load)
    return with_fields(subject, open=partial(_open_there, subject, device, remote or RemoteOptions(), load))


def _open_there(subject: Subject, device: Device, remote: RemoteOptions, load: LoadOptions, threads: int) -> Session:
    place = f"subject/{subject.path.resolve().name}"
    files = {place: subject.path}
    with tempfile.TemporaryDirectory(prefix="edgeseg-errand-") as folder:
        if subject.artifact is None:
            files[SPEC_NAME] = Path(folder) / SPEC_NAME
            files[SPEC_NAME].write_text(dump_spec(subject.spec), encoding="utf-8")
        order = Open(
            subject=place,
            spec=SPEC_NAME if subject.artifact is None else None,
            threads=threads,
            pixels=subject.pixels,
            output_name=load.output_name,
            bytes=0,
        )
        return RemoteSession(device, remote, files, order)


def _check_sendable(load: LoadOptions) -> None:
    if load.factory is not None or load.trust_pickle:
        raise UsageError(
            "A model that needs code of this machine (--factory, --trust-pickle) cannot be sent to another.",
            hint="Send the .pt2 or the artifact of the same model.",
        )


def _files(things: Sequence[Subject | Untold], one_spec: bool, folder: Path) -> tuple[dict[str, Path], dict[str, Path]]:
    """Every file to send by its place there, and the places of the subjects with where they lie here."""
    files: dict[str, Path] = {}
    places: dict[str, Path] = {}
    for index, thing in enumerate(things):
        place = f"subjects/{index}/{thing.path.resolve().name}"
        files[place] = places[place] = thing.path
        if isinstance(thing, Subject) and (one_spec or thing.artifact is None):
            written = folder / f"{index}.toml"
            written.write_text(dump_spec(thing.spec), encoding="utf-8")
            files[SPEC_NAME if one_spec else f"subjects/{index}/{SPEC_NAME}"] = written
    return files, places


def _arguments(
    things: Sequence[Subject | Untold], places: Sequence[str], one_spec: bool, files: dict[str, Path], errand: Errand
) -> list[str]:
    entry = errand.entry
    arguments = ["bench", *places, "--json", "-o", _RESULT, "--threads", ",".join(map(str, errand.threads))]
    arguments += ["--budget", str(errand.settings.budget_seconds), "--rounds", str(errand.settings.min_rounds)]
    arguments += ["--torch", ",".join(variant.label for variant in entry.torch)]
    arguments += ["--memory" if errand.settings.memory else "--no-memory"]
    switches = (("--end-to-end", entry.end_to_end), ("--profile", errand.profile), ("--pixels", entry.load.pixels))
    arguments += [flag for flag, wanted in switches if wanted]
    if one_spec:
        arguments += ["--spec", SPEC_NAME]
    if entry.shape is not None:
        arguments += ["--shape", ",".join(map(str, entry.shape))]
    if entry.load.output_name is not None:
        arguments += ["--output-name", entry.load.output_name]
    told = next((thing for thing in things if isinstance(thing, Subject)), None)
    for flag, picture in zip(("--image", "--region"), picture_of(told, entry), strict=True):
        if picture is not None:
            place = f"{flag.removeprefix('--')}/{picture.name}"
            files[place] = picture
            arguments += [flag, place]
    return arguments


def _receiver(errand: Errand) -> Callable[[str, bytes], None]:
    """Appends the samples that come to the journals here."""
    begun: set[Path] = set()

    def receive(name: str, piece: bytes) -> None:
        if errand.journals is None:
            return
        threads = int(name.removeprefix(f"{_RESULT}.").removesuffix("t.jsonl"))
        path = errand.journals(threads)
        try:
            with path.open("ab" if path in begun else "wb") as stream:
                stream.write(piece)
        except OSError as error:
            raise OutputError(
                f"Cannot write samples to '{path}': {error.strerror}.", hint="Choose another --output."
            ) from error
        begun.add(path)

    return receive


def _with_own_paths(run: BenchResult, places: Mapping[str, Path]) -> BenchResult:
    def own(text: str) -> str:
        for place, path in places.items():
            if text == place or text.startswith((f"{place}/", f"{place} ")):
                return f"{path}{text.removeprefix(place)}"
        return text

    replace = msgspec.structs.replace
    candidates = []
    for one in run.candidates:
        facts = one.facts
        info = with_fields(facts.info, file=own(facts.info.file))
        candidates.append(replace(one, facts=replace(facts, name=own(facts.name), info=info)))
    comparisons = tuple(replace(one, base=own(one.base), candidate=own(one.candidate)) for one in run.comparisons)
    return replace(run, candidates=tuple(candidates), comparisons=comparisons)
