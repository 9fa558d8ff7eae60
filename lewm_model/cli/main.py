# SPDX-License-Identifier: Apache-2.0
"""The command line: `lewm collect`, `lewm train`, `lewm export`, …; `lewm COMMAND --help` describes the options."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from lewm_model import __version__
from lewm_model.cli import bundle, data, evaluation, training

app = typer.Typer(
    help="LeWorldModel for robot arms: record, train, export, check.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
for group in (data, training, bundle, evaluation):
    app.add_typer(group.app)  # without a name: its commands are commands of `lewm` itself


def _tell_version(asked: bool) -> None:
    if asked:
        typer.echo(f"lewm {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_tell_version, is_eager=True, help="print the version and exit")
    ] = False,
) -> None:
    """Options of `lewm` itself."""


def main() -> None:
    """Entry point: errors that a user can correct are one line on stderr instead of a traceback."""
    os.environ.setdefault("OMP_NUM_THREADS", "2")
    try:
        app()
    except (ValueError, RuntimeError, OSError) as error:
        if os.environ.get("LEWM_TRACEBACK"):
            raise
        sys.exit(f"lewm: {error}")


if __name__ == "__main__":
    main()
