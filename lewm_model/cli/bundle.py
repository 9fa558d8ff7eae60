# SPDX-License-Identifier: Apache-2.0
"""Commands that build the graphs and engines of a bundle, check it, and convert it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from lewm_model.cli.arguments import BundleArgument, OverwriteOption

app = typer.Typer()


@app.command()
def export(
    bundle: BundleArgument,
    data: Annotated[Path | None, typer.Option(help="recording to take new sample frames from")] = None,
) -> None:
    """Write the ONNX graphs of a bundle anew and check them against PyTorch."""
    from lewm_model.bundle.bundle import load_bundle
    from lewm_model.data.clips import load_episodes
    from lewm_model.runtime.export import export_onnx, sample_frames

    loaded = load_bundle(bundle)
    made = export_onnx(loaded, frames=sample_frames(load_episodes(data), loaded.model) if data else None)
    graphs = sorted(Path(name).stem for name in made.files if name.endswith(".onnx"))
    typer.echo(f"the graphs {', '.join(graphs)} are in {bundle / 'onnx'} and compute what PyTorch does")


@app.command()
def engine(
    bundle: BundleArgument,
    samples: Annotated[
        list[int] | None, typer.Option(help="candidates of a plan; repeat it for more numbers. Default: the planner's")
    ] = None,
    precision: Annotated[
        str, typer.Option(help="fp16, fp32, or auto: fp16 if it is numerically equivalent, else fp32")
    ] = "auto",
    rebuild: Annotated[bool, typer.Option("--rebuild", help="build even if there are engines that fit")] = False,
) -> None:
    """Build the TensorRT engines of a bundle for this machine's GPU, and check their numerical equivalence."""
    from rich.progress import Progress

    from lewm_model.bundle.bundle import load_bundle
    from lewm_model.config import PlanConfig
    from lewm_model.runtime.tensorrt.engines import Engines, read_manifest

    engines = Engines(load_bundle(bundle))
    with Progress() as bars:
        tasks: dict[str, Any] = {}

        def show(what: str, share: float) -> None:
            if what not in tasks:
                tasks[what] = bars.add_task(what, total=1.0)
            bars.update(tasks[what], completed=share)

        runtime = engines.load(tuple(samples or (PlanConfig().samples,)), precision, rebuild=rebuild, progress=show)
    folder = engines.folder(runtime.precision)
    manifest = read_manifest(folder)
    for line in (*runtime.notes, f"{', '.join(manifest.plans)} in {folder}"):
        typer.echo(line)
    typer.echo("against the golden outputs: " + ", ".join(f"{k} {v:.6g}" for k, v in manifest.equivalence.items()))


@app.command()
def bundle(
    bundle: BundleArgument,
    to_swm: Annotated[
        Path | None, typer.Option(help="folder to write the reference's weights.pt and config.json to")
    ] = None,
    overwrite: OverwriteOption = False,
) -> None:
    """Check a bundle and describe it; optionally write it as a checkpoint of the reference code."""
    from lewm_model.bundle.bundle import load_bundle
    from lewm_model.bundle.interchange import export_checkpoint
    from lewm_model.data.outputs import check_output

    loaded = load_bundle(bundle)
    actions = ", ".join(loaded.actions.names)
    high, wide = loaded.model.image_size
    typer.echo(
        f"{bundle}: {len(loaded.files)} files match their hashes; pictures of {high} x {wide} pixels become "
        f"{loaded.model.latent_dim} numbers, {loaded.model.history} frames of context"
    )
    typer.echo(f"actions {actions} every {loaded.actions.control_dt_s} s; heads {', '.join(loaded.heads) or 'none'}")
    if to_swm is not None:
        check_output(to_swm, [bundle], overwrite)
        export_checkpoint(loaded, to_swm)
        typer.echo(f"checkpoint of the reference code written to {to_swm}")
