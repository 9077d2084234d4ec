"""The ``cryoprism`` program: its commands, and errors in one line with a remedy and an exit code."""

from __future__ import annotations

import os
import signal
import sys
import warnings
from collections.abc import Sequence
from types import FrameType
from typing import Annotated, Any, TextIO

import typer

from . import (
    assess,
    classify,
    ctf_refine,
    demo,
    explain,
    extract,
    impact,
    initial_model,
    novelty,
    pick,
    process,
    prove,
    reconstruct,
    refine,
    resolution,
    restore,
    sandbox,
    simulate,
    synthesize,
    train_picker,
    weights,
)
from ._errors import describe, one_line

__all__ = ["EXIT_INTERRUPTED", "EXIT_PARTIAL", "EXIT_USER_ERROR", "app", "main"]

#: Everything asked for was done, but some micrographs could not be read; they are named in the summary.
EXIT_PARTIAL = 1
#: Nothing more can be done before the user changes something; the error says what.
EXIT_USER_ERROR = 2
#: Stopped by Ctrl-C.
EXIT_INTERRUPTED = 130
_EXIT_TERMINATED = 143

app = typer.Typer(
    name="cryoprism",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)


def _show_version(value: bool) -> None:
    if value:
        from cryoprism import __version__

        typer.echo(f"CryoPrism {__version__}")
        raise typer.Exit


@app.callback()
def _cryoprism(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", callback=_show_version, is_eager=True)
    ] = False,
) -> None:
    """CryoPrism: one causal model of the cryo-electron microscope.

    It estimates what damaged each micrograph, says what that cost in bits, and restores what the data allow.

    Exit codes: 0 all done, 1 some micrographs could not be read (named in the summary), 2 an error with its remedy,
    130 stopped by Ctrl-C.
    """


app.command("restore", short_help="Estimate the causes, restore the images, explain the losses.")(restore.restore)
app.command("process", short_help="Go from micrographs to a map in one go.")(process.process)
app.command("simulate", short_help="Make micrographs or movies with known causes.")(simulate.simulate)
app.command("synthesize", short_help="Make labelled micrographs that look like a session's own.")(synthesize.synthesize)
app.command("explain", short_help="Say which causes took how much information.")(explain.explain)
app.command("pick", short_help="Find the particles on micrographs.")(pick.pick)
app.command("extract", short_help="Cut particles out of micrographs.")(extract.extract)
app.command("train-picker", short_help="Train the learned picker, or adapt it to clicks.")(train_picker.train_picker)
app.command("classify", short_help="Sort particles into classes of like views.")(classify.classify)
app.command("reconstruct", short_help="Make a map and half maps from particles with poses.")(reconstruct.reconstruct)
app.command("resolution", short_help="Say how well a map is resolved, from its half maps.")(resolution.resolution)
app.command("initial-model", short_help="Make a first map from particles alone.")(initial_model.initial_model)
app.command("refine", short_help="Find poses and make a map from particles.")(refine.refine)
app.command("ctf-refine", short_help="Refine defocus and beam tilt of particles with poses.")(ctf_refine.ctf_refine)
app.command("assess", short_help="Judge a model: consistent, new, of weight, repeatable, in one score.")(assess.assess)
app.add_typer(novelty.app, name="novelty", short_help="Say whether anything of this shape has been seen.")
app.add_typer(sandbox.app, name="sandbox", short_help="Run foreign code between walls and within limits.")
app.add_typer(impact.app, name="impact", short_help="Forecast citations from public bibliographic dumps.")
app.add_typer(weights.app, name="weights", short_help="Learn and explain the weights of the score.")
app.command("prove", short_help="Prove that a model is consistent, or show what is wrong.")(prove.prove)
app.command("demo", short_help="Simulate, restore and compare with the truth.")(demo.demo)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit; ``arguments`` stand in for those of the process.

    Raises
    ------
    SystemExit
        Always, with the exit code.
    """
    _tune_the_environment()
    code = _run(arguments)
    if arguments is None:
        # All is done and written: Ctrl-C while Python takes its libraries down must not hide how it ended.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    sys.exit(code)


def _tune_the_environment() -> None:
    """Set what torch and OpenMP read when they are first imported; what the user has set stays."""
    # Threads that wait actively take the cores from the other workers.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # Large pages: half the time on a 4096² image goes into page faults otherwise.
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")


def _run(arguments: Sequence[str] | None) -> int:
    show = warnings.showwarning
    warnings.showwarning = _show_warning
    terminate = signal.signal(signal.SIGTERM, _terminated)
    try:
        result: Any = app(
            args=None if arguments is None else list(arguments), prog_name="cryoprism", standalone_mode=False
        )
    except (KeyboardInterrupt, typer.Abort):
        result = EXIT_INTERRUPTED
    except Exception as error:
        if type(error).__name__ == "NoArgsIsHelpError":
            _say(str(error.format_message()))  # type: ignore[attr-defined]
            return EXIT_USER_ERROR
        line = describe(error)
        if line is None:
            raise
        _say(f"Error: {line}")
        return EXIT_USER_ERROR
    finally:
        warnings.showwarning = show
        signal.signal(signal.SIGTERM, terminate)
    if result == EXIT_INTERRUPTED:  # typer gives this number for Ctrl-C
        _say(
            "\nStopped. What was finished is kept; the same command with the same --out and --only-do-unfinished "
            "continues."
        )
    return result if isinstance(result, int) else 0


def _terminated(number: int, frame: FrameType | None) -> None:
    raise SystemExit(_EXIT_TERMINATED)


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    if category.__name__ == "CryoPrismWarning":
        _say(f"Warning: {one_line(str(message))}")
    else:
        # Other libraries' warnings are for developers; run.log has them.
        _say(f"Warning: {category.__name__}: {one_line(str(message))}")


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
