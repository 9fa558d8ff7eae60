# SPDX-License-Identifier: Apache-2.0
"""Commands that train models, and that calibrate, adapt or import them or add a decoder."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Any

import typer

from lewm_model.cli.arguments import BundleArgument, OverwriteOption

DECODER_STEPS = 2500  # optimiser steps by default
app = typer.Typer()


def _sections(path: Path | None, known: tuple[str, ...]) -> dict[str, Any]:
    """The sections of a configuration file; {} without one.

    :raises ConfigError: the file cannot be read, or has a section that is not known.
    """
    from lewm_model.config import ConfigError, load_yaml

    values: dict[str, Any] = load_yaml(path) if path else {}
    unknown = sorted(set(values) - set(known))
    if unknown:
        names = " and ".join(f"`{name}`" for name in known)
        raise ConfigError(f"{path} has a section {unknown[0]!r}; it may have {names}")
    return values


@app.command()
def train(
    data: Annotated[Path, typer.Argument(help="recording, HDF5")],
    out: Annotated[Path, typer.Argument(help="bundle folder to write")],
    size: Annotated[str, typer.Option(help="small (two CPU cores) or reference (the paper's, one GPU)")] = "small",
    config: Annotated[
        Path | None, typer.Option(help="YAML with values of `model:`, `train:` and `calibration:`")
    ] = None,
    run: Annotated[
        Path | None, typer.Option(help="folder of logs and checkpoints; default is runs/<bundle name>")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="replaces the configuration's")] = None,
    decoder: Annotated[
        bool, typer.Option(help="also train a decoder, which draws imagined futures, as `lewm decoder` does")
    ] = False,
    control_dt_s: Annotated[float | None, typer.Option(help="time from row to row, s, of a file that lacks it")] = None,
    task: Annotated[str, typer.Option(help="task of the model: reach, push, reach_SCENE, or a description")] = "",
    overwrite: OverwriteOption = False,
) -> None:
    """Train a world model on a recording, which decides its action and picture size; run it again to resume."""
    from lewm_model.bundle.bundle import Bundle
    from lewm_model.bundle.held_out import is_trained_on
    from lewm_model.bundle.update import create
    from lewm_model.config import (
        MODEL_SIZES,
        TRAIN_SIZES,
        CalibrationConfig,
        ConfigError,
        TrainConfig,
        from_dict,
    )
    from lewm_model.data.clips import DataError, load_episodes
    from lewm_model.data.outputs import check_output
    from lewm_model.models.distributed import device_of, joined, rank
    from lewm_model.runtime import RuntimeLoadError, load_runtime
    from lewm_model.runtime.export import export_onnx, sample_frames
    from lewm_model.training.calibration import calibrate as run_calibration
    from lewm_model.training.decoder import add_decoder
    from lewm_model.training.trainer import fit, model_config_for
    from lewm_model.training.trainer import train as run_training

    if size not in MODEL_SIZES:
        raise ConfigError(f"--size is {size!r}; it must be one of {', '.join(MODEL_SIZES)}")
    values = _sections(config, ("model", "train", "calibration"))
    seeded = {} if seed is None else {"seed": seed}
    train_config = from_dict(TrainConfig, {**values.get("train", {}), **seeded}, TRAIN_SIZES[size])
    limits = from_dict(CalibrationConfig, values.get("calibration", {}))
    episodes = load_episodes(data, control_dt_s)
    if not episodes.control_dt_s > 0.0:
        raise DataError(f"{data} does not say how much time lies between its rows; give it with --control-dt-s")
    model_config = model_config_for(episodes, size, values.get("model", {}))
    check_output(out, [data], overwrite or is_trained_on(out, episodes))  # the same command resumes
    run = run or Path("runs") / out.name
    with joined(device_of(train_config)):
        if rank() > 0:  # of torchrun's processes only the first writes the bundle
            fit(episodes, run, model_config, train_config)
            return

        def make(draft: Path) -> Bundle:
            made = run_training(episodes, draft, run, model_config, train_config, task)
            typer.echo("calibrating on episodes that it was not trained on ...")
            try:
                made = run_calibration(made, episodes, limits)
            except DataError as error:
                typer.echo(f"not calibrated, so no goal counts as reached and no frame as surprising: {error}")
            typer.echo("writing the ONNX graphs and checking that they are numerically equivalent ...")
            made = export_onnx(made, frames=sample_frames(episodes, model_config))
            return add_decoder(made, episodes, DECODER_STEPS) if decoder else made

        bundle = create(out, make)
    typer.echo(f"bundle written to {out}; next: lewm doctor model {out}, or make demo MODEL={out}")
    try:
        for note in load_runtime(bundle, "tensorrt").notes:
            typer.echo(note)
    except RuntimeLoadError as error:
        typer.echo(f"no TensorRT engines for this machine: {error}")


@app.command()
def adapt(
    bundle: BundleArgument,
    data: Annotated[Path, typer.Argument(help="recording (HDF5) of the new scene; five minutes are enough")],
    out: Annotated[Path, typer.Argument(help="bundle folder to write")],
    replay: Annotated[
        Path | None, typer.Option(help="recording (HDF5) of the old scene, so that it is not forgotten")
    ] = None,
    run: Annotated[
        Path | None, typer.Option(help="folder of logs and checkpoints; default is runs/<bundle name>")
    ] = None,
    config: Annotated[Path | None, typer.Option(help="YAML with values of `adapt:`")] = None,
    steps: Annotated[int | None, typer.Option(help="optimiser steps, replaces the configuration's")] = None,
    overwrite: OverwriteOption = False,
) -> None:
    """Make a bundle that fits another scene: another table, another lamp, a slightly moved camera."""
    from lewm_model.bundle.bundle import load_bundle
    from lewm_model.config import AdaptConfig, from_dict
    from lewm_model.data.clips import load_episodes
    from lewm_model.data.outputs import check_output
    from lewm_model.training.adapt import adapt as run_adaptation

    given = {} if steps is None else {"steps": steps}
    settings = from_dict(AdaptConfig, {**_sections(config, ("adapt",)).get("adapt", {}), **given})
    check_output(out, [path for path in (bundle, data, replay) if path], overwrite)
    old = load_episodes(replay) if replay else None
    run = run or Path("runs") / out.name
    found = run_adaptation(load_bundle(bundle), load_episodes(data), out, run, old, settings).calibration
    assert found is not None
    typer.echo(f"bundle written to {out}; a goal counts as reached up to a distance of {found.reached:.3g}")
    if old is None:
        typer.echo("without --replay it may have forgotten the old scene")


@app.command()
def distil(
    bundle: BundleArgument,
    plain: Annotated[Path, typer.Argument(help="recording (HDF5) of the scene as it is, made by `lewm collect`")],
    varied: Annotated[Path, typer.Argument(help="the same recording made with --vary")],
    out: Annotated[Path, typer.Argument(help="bundle folder to write")],
    usual: Annotated[
        Path | None, typer.Option("--calibration", help="recording (HDF5) to calibrate with; default is PLAIN")
    ] = None,
    teacher: Annotated[
        Path | None, typer.Option(help="bundle that BUNDLE was distilled from, to distil it for longer")
    ] = None,
    config: Annotated[Path | None, typer.Option(help="YAML with values of `train:`")] = None,
    overwrite: OverwriteOption = False,
) -> None:
    """Make a bundle that was trained in one light see in any: only its encoder learns, what it plans with stays."""
    from lewm_model.bundle.bundle import load_bundle
    from lewm_model.config import TRAIN_SIZES, TrainConfig, from_dict
    from lewm_model.data.clips import load_episodes
    from lewm_model.data.outputs import check_output
    from lewm_model.runtime.export import export_onnx, sample_frames
    from lewm_model.training.distil import distil as run

    settings = from_dict(TrainConfig, _sections(config, ("train",)).get("train", {}), TRAIN_SIZES["small"])
    check_output(out, [path for path in (bundle, plain, varied, usual, teacher) if path], overwrite)
    known = load_episodes(plain)
    recordings = known, load_episodes(varied), load_episodes(usual) if usual else known
    made = run(load_bundle(bundle), *recordings, out, settings, load_bundle(teacher) if teacher else None)
    made = export_onnx(made, frames=sample_frames(known, made.model))
    errors = made.evaluation["distillation_error"]
    typer.echo(f"bundle written to {out}; of a latent's variance of about 1, its held-out frames err by")
    for where, error in errors.items():
        typer.echo(f"  {error:.3f} {where.replace('_', ' ')}")
    typer.echo(f"next: lewm doctor model {out}")


@app.command()
def policy(
    bundle: BundleArgument,
    data: Annotated[list[Path], typer.Argument(help="recordings (HDF5) of play, of any looks; all are learned from")],
    calibration: Annotated[Path, typer.Option(help="recording (HDF5) of the scene as it is, to calibrate with")],
    config: Annotated[Path | None, typer.Option(help="YAML with values of `train:`, else the bundle's own")] = None,
) -> None:
    """Train a bundle's policy and temporal distance anew on recordings of play, calibrate and export it."""
    from lewm_model.bundle.bundle import BundleError, load_bundle
    from lewm_model.config import TRAIN_SIZES
    from lewm_model.data.clips import load_episodes
    from lewm_model.models.signature import POLICY
    from lewm_model.runtime.export import export_onnx
    from lewm_model.training.calibration import calibrate as run_calibration
    from lewm_model.training.heads import retrain_policy_heads
    from lewm_model.training.trainer import trained_with

    before = load_bundle(bundle)
    if POLICY not in before.heads:
        raise BundleError(f"the bundle {bundle} has no policy; train it with train.policy_steps above 0")
    settings = trained_with(before, _sections(config, ("train",)).get("train", {}), TRAIN_SIZES["small"])
    usual = load_episodes(calibration)
    made = retrain_policy_heads(before, [load_episodes(path) for path in data], settings)
    found = export_onnx(run_calibration(made, usual)).calibration
    assert found is not None
    typer.echo(f"a goal counts as reached up to {found.reached:.3g} control steps; next: lewm doctor model {bundle}")


@app.command()
def calibrate(
    bundle: BundleArgument,
    data: Annotated[Path, typer.Argument(help="recording (HDF5), of the robot's own camera if there is one")],
    config: Annotated[Path | None, typer.Option(help="YAML with values of `calibration:`")] = None,
) -> None:
    """Measure again when a goal counts as reached and a frame as surprising, on episodes held out of the training."""
    from lewm_model.bundle.bundle import load_bundle
    from lewm_model.config import CalibrationConfig, from_dict
    from lewm_model.data.clips import load_episodes
    from lewm_model.monitoring.novelty import WINDOW
    from lewm_model.monitoring.vigilance import SURPRISING
    from lewm_model.training.calibration import calibrate as run

    settings = from_dict(CalibrationConfig, _sections(config, ("calibration",)).get("calibration", {}))
    calibrated = run(load_bundle(bundle), load_episodes(data), settings)
    found = calibrated.calibration
    assert found is not None and found.new_pixels is not None and found.uncommon_pixels is not None
    typer.echo(f"a goal counts as reached up to a distance of {found.reached:.3g}, as left beyond {found.left:.3g}")
    assert found.false_positive_interval is not None
    low, high = found.false_positive_interval
    typer.echo(
        f"{found.false_positive_rate:.2%} of {found.frames} frames are surprising by limits from others "
        f"(95 %: {low:.2%} to {high:.2%})"
    )
    least = SURPRISING * found.new_pixels
    if least < WINDOW**2:
        typer.echo(f"a new object is noticed if it covers more than {least:.0f} adjacent pixels of the model's picture")
    else:
        typer.echo("the pictures differ so much that no new object is noticed in them; record more episodes")
    hidden = SURPRISING * found.uncommon_pixels[1] / math.prod(calibrated.model.image_size)
    typer.echo(f"what hides {hidden:.1%} of the picture is noticed, unless it has the colours that it hides")


@app.command()
def decoder(
    bundle: BundleArgument,
    data: Annotated[Path, typer.Argument(help="recording (HDF5), best the one that the bundle was trained on")],
    steps: Annotated[int, typer.Option(help="optimiser steps")] = DECODER_STEPS,
    seed: int = 0,
) -> None:
    """Train a decoder, which draws the futures that a bundle imagines, on its frozen latents; nothing else changes."""
    from lewm_model.bundle.bundle import load_bundle
    from lewm_model.data.clips import load_episodes
    from lewm_model.training.decoder import add_decoder

    found = add_decoder(load_bundle(bundle), load_episodes(data), steps, seed).evaluation["decoder"]
    typer.echo(
        f"{found['psnr_encoded_db']:.1f} dB on {found['frames']} held-out frames, "
        f"{found['share_of_mean_picture']:.1%} of the mean picture's squared error"
    )


@app.command("import")
def import_(
    source: Annotated[Path, typer.Argument(help="folder with weights.pt and config.json, or a state dict (.pt)")],
    out: Annotated[Path, typer.Argument(help="bundle folder to write")],
    data: Annotated[
        Path | None, typer.Option(help="recording that it was trained on, for action statistics and heads")
    ] = None,
    actions: Annotated[Path | None, typer.Option(help="JSON file with `actions` as in a bundle's model.json")] = None,
    config: Annotated[Path | None, typer.Option(help="YAML with `model:` sizes that the checkpoint lacks")] = None,
    control_dt_s: Annotated[
        float | None, typer.Option(help="time from row to row, s, if the recording lacks it")
    ] = None,
    overwrite: OverwriteOption = False,
) -> None:
    """Turn a checkpoint of the reference code (stable-worldmodel, le-wm) into a bundle."""
    import numpy as np

    from lewm_model.bundle.bundle import Bundle, load_model
    from lewm_model.bundle.interchange import import_checkpoint, read_actions
    from lewm_model.bundle.update import create
    from lewm_model.config import TrainConfig, load_yaml
    from lewm_model.data.clips import load_episodes
    from lewm_model.data.outputs import check_output
    from lewm_model.runtime.export import export_onnx, sample_frames
    from lewm_model.training.heads import add_heads

    check_output(out, [path for path in (source, data, actions, config) if path], overwrite)
    episodes = load_episodes(data, control_dt_s) if data else None
    spec = read_actions(actions) if actions else None
    sizes = load_yaml(config).get("model", {}) if config else {}

    def make(draft: Path) -> Bundle:
        made = import_checkpoint(source, draft, spec, episodes, sizes)
        if episodes is None:
            return export_onnx(made)
        every = np.arange(len(episodes.lengths))
        made = add_heads(made, load_model(made), episodes, every, TrainConfig())
        return export_onnx(made, frames=sample_frames(episodes, made.model))

    create(out, make)
    typer.echo(f"bundle written to {out}")
    typer.echo(
        "it is not calibrated: no goal counts as reached and no frame as surprising until "
        f"`lewm calibrate {out} RECORDING.h5`, with a recording that the model was not trained on"
    )
    if episodes is None:
        typer.echo("without --data it has no heads")
