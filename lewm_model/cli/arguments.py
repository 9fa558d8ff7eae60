# SPDX-License-Identifier: Apache-2.0
"""Arguments and options that several commands have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

BundleArgument = Annotated[Path, typer.Argument(help="bundle folder, the one with model.json")]
OverwriteOption = Annotated[bool, typer.Option("--overwrite", help="replace an earlier output of this program")]
