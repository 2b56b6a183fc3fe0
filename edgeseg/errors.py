"""Every error edgeseg raises on purpose.

::

    EdgesegError                 exit 1   something that was asked for could not be done
    ├── UsageError               exit 2   the request itself is wrong (flags, arguments)
    │   └── SpecError            exit 2   edgeseg.toml says something impossible
    ├── ModelError               exit 1   the model file cannot be read or run
    ├── DataError                exit 1   images, masks or calibration sets are missing or wrong
    ├── StageError               exit 1   a stage of the converter chain could not do its work
    │   └── StageTimeout         exit 1   ... within its time limit
    ├── ArtifactError            exit 1   an artifact is incomplete, altered or not an artifact
    ├── OutputError              exit 1   a result could not be written (permissions, disk full)
    ├── CheckFailed              exit 3   a comparison or a gate said no
    └── EnvironmentLack          exit 4   this machine lacks something (extra, driver, program)

Every error carries ``hint``: one sentence that says what to do about it. The command line prints message and hint
as one paragraph, without a traceback, and exits with ``exit_code``.
"""

from __future__ import annotations

from typing import ClassVar

__all__ = [
    "ArtifactError",
    "CheckFailed",
    "DataError",
    "EdgesegError",
    "EnvironmentLack",
    "ModelError",
    "OutputError",
    "SpecError",
    "StageError",
    "StageTimeout",
    "UsageError",
    "missing_extra",
]


class EdgesegError(Exception):
    """Base of all errors raised on purpose.

    Args:
        message: what went wrong and where, one or two sentences, no trailing newline.
        hint: what to do about it.
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, *, hint: str) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} {self.hint}".strip()


class UsageError(EdgesegError):
    """The request itself is wrong."""

    exit_code = 2


class SpecError(UsageError):
    """edgeseg.toml (or the flags that stand for it) says something impossible."""


class ModelError(EdgesegError):
    """The model file cannot be read, is of a kind that is refused, or does not run."""


class DataError(EdgesegError):
    """Images, masks or calibration sets are missing, unreadable or do not fit the spec."""


class StageError(EdgesegError):
    """A stage of the converter chain could not do its work.

    Args:
        stage: the stage's name, as ``edgeseg compile`` prints it.
    """

    def __init__(self, message: str, *, hint: str, stage: str) -> None:
        super().__init__(f"Stage '{stage}': {message}", hint=hint)
        self.stage = stage


class StageTimeout(StageError):
    """A stage was ended because it ran past its time limit."""


class ArtifactError(EdgesegError):
    """A folder is not an artifact, is incomplete, or its bytes do not match its manifest."""


class OutputError(EdgesegError):
    """A result could not be written."""


class CheckFailed(EdgesegError):
    """A comparison between stages, or a gate, said no."""

    exit_code = 3


class EnvironmentLack(EdgesegError):
    """This machine lacks something that the request needs."""

    exit_code = 4


def missing_extra(module: str, extra: str, purpose: str) -> EnvironmentLack:
    """The one error for an optional dependency that is not installed.

    >>> missing_extra("onnx2tf", "tflite", "to lower a graph to TFLite").exit_code
    4
    """
    return EnvironmentLack(
        f"The Python package '{module}' is needed {purpose}, and it is not installed.",
        hint=f"Install it with: pip install 'edgeseg[{extra}]'",
    )
