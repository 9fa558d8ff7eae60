"""The command line: `lewm collect`, `lewm train`, `lewm export`, …; `lewm COMMAND --help` tells the options."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

app = typer.Typer(
    help="LeWorldModel for robot arms: record, train, export, check.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
BundleArgument = Annotated[Path, typer.Argument(help="bundle folder, the one with model.json")]


@app.command()
def collect(
    out: Annotated[Path, typer.Argument(help="HDF5 file to write")],
    episodes: Annotated[int, typer.Option(help="episodes to record")] = 400,
    steps: Annotated[int, typer.Option(help="low-level actions in an episode, 20 in a second")] = 100,
    seed: int = 0,
    world: Annotated[Path | None, typer.Option(help="SDF file; default is worlds/tabletop.sdf")] = None,
    image_size: Annotated[int, typer.Option(help="pixels, square")] = 64,
    workers: Annotated[int, typer.Option(help="processes that simulate")] = 2,
) -> None:
    """Record episodes of smooth random motion in the simulator."""
    from lewm_model.collect import collect as record

    out.parent.mkdir(parents=True, exist_ok=True)
    record(out, episodes, steps, seed, world, image_size, workers)


@app.command()
def train(
    data: Annotated[Path, typer.Argument(help="recording, HDF5")],
    out: Annotated[Path, typer.Argument(help="bundle folder to write")],
    size: Annotated[str, typer.Option(help="small (two CPU cores) or reference (the paper's, one GPU)")] = "small",
    config: Annotated[Path | None, typer.Option(help="YAML with `model:` and `train:` values that differ")] = None,
    run: Annotated[Path | None, typer.Option(help="folder of logs and checkpoints; default is runs/<bundle name>")] = None,
    seed: Annotated[int | None, typer.Option(help="overrides the configuration's")] = None,
) -> None:
    """Train a world model from a recording; run the same command again to resume after a kill."""
    from lewm_model.config import MODEL_SIZES, TRAIN_SIZES, ConfigError, ModelConfig, TrainConfig, from_dict, load_yaml
    from lewm_model.data.clips import load_episodes
    from lewm_model.export import export_onnx
    from lewm_model.train import train as run_training

    if size not in MODEL_SIZES:
        raise ConfigError(f"--size is {size!r}; it must be one of {', '.join(MODEL_SIZES)}")
    values: dict[str, Any] = load_yaml(config) if config else {}
    unknown = sorted(set(values) - {"model", "train"})
    if unknown:
        raise ConfigError(f"{config} has a section {unknown[0]!r}; it may have `model` and `train`")
    seeded = {} if seed is None else {"seed": seed}
    model_config = from_dict(ModelConfig, values.get("model", {}), MODEL_SIZES[size])
    train_config = from_dict(TrainConfig, {**values.get("train", {}), **seeded}, TRAIN_SIZES[size])
    bundle = run_training(load_episodes(data), out, run or Path("runs") / out.name, model_config, train_config)
    export_onnx(bundle)
    typer.echo(f"bundle written to {out}")


@app.command()
def export(bundle: BundleArgument) -> None:
    """Write the ONNX graphs of a bundle anew and check them against PyTorch."""
    from lewm_model.bundle import load_bundle
    from lewm_model.export import export_onnx

    export_onnx(load_bundle(bundle))


def main() -> None:
    """Entry point: what a user can mend is one line on stderr, not a traceback."""
    os.environ.setdefault("OMP_NUM_THREADS", "2")
    try:
        app()
    except (ValueError, RuntimeError, OSError) as error:
        if os.environ.get("LEWM_TRACEBACK"):
            raise
        sys.exit(f"lewm: {error}")


if __name__ == "__main__":
    main()
