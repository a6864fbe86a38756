"""The command `ridge`: gathers the subcommands and turns every refusal into one line and an exit code."""

import sys

import typer

from ridgepoint.cli import batch, calibrate, fit, load, mix, promises, records, results, targets, validate, why
from ridgepoint.cli.options import INTERRUPTED
from ridgepoint.errors import RidgeError

__all__ = ["app", "main"]

app = typer.Typer(
    name="ridge",
    help="Will it be faster? Bet before you run: predict, then measure, then keep the score.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command("why")(why.why)
app.command("mix")(mix.mix)
app.command("predict")(results.predict)
app.command("measure")(results.measure)
app.command("compare")(results.compare)
app.command("calibrate")(calibrate.calibrate)
app.command("score")(records.score)
app.command("report")(records.report)
app.command("export")(records.export)
app.command("import")(records.import_)
app.command("targets")(targets.targets)
app.command("fit")(fit.fit)
app.command("batch")(batch.batch)
app.command("load")(load.load)
app.command("validate")(validate.validate)
app.command("promises")(promises.promises)


def main() -> None:
    """Exit code 0 fine, 1 an asserted bound failed, 2 bad usage or input, 130 interrupted."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # a terminal that cannot show µ shows a question mark
    try:
        code = app(standalone_mode=False)
    except RidgeError as error:
        _line(str(error))
        raise SystemExit(error.exit_code) from None
    except (KeyboardInterrupt, typer.Abort):  # some versions of typer return INTERRUPTED instead
        code = INTERRUPTED
    except BrokenPipeError:
        raise SystemExit(0) from None
    except OSError as error:  # a file that the user named, or the folder of the store
        _line(f"{error.filename}: {error.strerror}" if error.filename else str(error))
        raise SystemExit(2) from None
    except Exception as error:
        if not hasattr(error, "format_message"):
            raise
        if getattr(error, "exit_code", 1) == 0 or type(error).__name__ == "NoArgsIsHelpError":
            sys.stderr.write(error.format_message() + "\n")  # type: ignore[attr-defined]
        else:
            _line(error.format_message())  # type: ignore[attr-defined]
        raise SystemExit(2) from None
    if code == INTERRUPTED:
        _line("interrupted")
    raise SystemExit(code if isinstance(code, int) else 0)


def _line(text: str) -> None:
    sys.stderr.write("ridge: " + " ".join(text.split()) + "\n")
