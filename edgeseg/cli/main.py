"""The command ``edgeseg``: finds the verb, runs it, turns errors into one paragraph and an exit code."""

from __future__ import annotations

import difflib
import importlib
import os
import shutil
import sys
import textwrap
import traceback

import click

from edgeseg import __version__
from edgeseg.cli.stopping import check_stopped, leave, listen
from edgeseg.errors import EdgesegError

__all__ = ["cli", "entry"]

_VERBS = {
    "init": "Look into a model and write edgeseg.toml.",
    "compile": "Turn a trained model into a checked file for one target.",
    "eval": "mIoU of the file that ships against the PyTorch model.",
    "bench": "Latency of files against each other, with intervals and a noise verdict.",
    "drift": "What compiling did to the predictions, stage by stage, with intervals.",
    "gate": "May this file ship? Rules with intervals; exit code 0, 3 or 5.",
    "report": "One HTML page: verdict, speed against quality, pictures.",
    "inspect": "What is inside an artifact, .tflite or .onnx file.",
    "explain": "Why each float region of an INT8 artifact is float.",
    "check-trt": "Hold an ONNX file against NVIDIA's rules for Q/DQ networks.",
    "targets": "What can be built on this machine.",
    "doctor": "What is missing on this machine, and the command that installs it.",
    "demo": "The whole chain on the embedded model and images.",
    "calib": "Find what is wrong with the calibration images: lint.",
    "data": "Calibration data sets: list, show, prepare.",
    "cache": "The compile cache: show, clear.",
}
"""Verb to its one-line help. Each lives in a module of its name, loaded only when it is called."""


class _Verbs(click.Group):
    """Loads a verb's module when it is called, so that ``edgeseg --help`` imports nothing heavy."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        del ctx
        return list(_VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        del ctx
        if cmd_name not in _VERBS:
            return None
        command = importlib.import_module(f"edgeseg.cli.{cmd_name.replace('-', '_')}").command
        assert isinstance(command, click.Command)
        return command

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0] if args else ""
        if name not in _VERBS and not name.startswith("-"):
            near = difflib.get_close_matches(name, _VERBS, n=1)
            suggestion = f" Did you mean '{near[0]}'?" if near else f" Verbs: {', '.join(_VERBS)}."
            raise click.UsageError(f"No such verb '{name}'.{suggestion}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        del ctx
        with formatter.section("Verbs"):
            formatter.write_dl(list(_VERBS.items()))


@click.group(cls=_Verbs, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="edgeseg")
def cli() -> None:
    """From a trained PyTorch segmentation model to an INT8 file that still segments, with evidence.

    Exit codes: 0 done, 1 failed, 2 wrong usage, 3 a check or gate said no, 4 this machine lacks something,
    5 a gate could not decide.
    Shell completion: eval "$(_EDGESEG_COMPLETE=bash_source edgeseg)" (or zsh_source, fish_source).
    """


def _say(message: str, hint: str) -> None:
    width = min(shutil.get_terminal_size((110, 24)).columns, 110)
    text = f"edgeseg: {message} {hint}".strip()
    click.echo(textwrap.fill(text, width=width, break_long_words=False, break_on_hyphens=False), err=True)


def _run() -> object:
    try:
        return cli.main(prog_name="edgeseg", standalone_mode=False)
    except click.exceptions.Abort as error:
        raise KeyboardInterrupt from error
    except Exception:
        check_stopped()  # a library may make an error of its own out of an interrupt
        raise


def entry() -> None:
    """Console entry point. Never shows a traceback for what a user can mend; ``EDGESEG_TRACEBACK=1`` shows it always."""
    listen()
    try:
        code = _run()
        sys.exit(code if isinstance(code, int) else 0)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        sys.exit(error.exit_code)
    except click.ClickException as error:
        context = getattr(error, "ctx", None)
        _say(error.format_message(), f"See: {context.command_path} --help" if context else "")
        sys.exit(error.exit_code)
    except EdgesegError as error:
        if os.environ.get("EDGESEG_TRACEBACK"):
            traceback.print_exc()
        _say(error.message, error.hint)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        click.echo("edgeseg: stopped.", err=True)
        leave()
    except BrokenPipeError:
        # The reader of our output went away (| head); what is left to say has nowhere to go.
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115, PTH123 - must stay open until the interpreter has flushed it
        sys.exit(1)
