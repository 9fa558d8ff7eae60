"""The decoder of a bundle: what draws imagined futures. A file and a graph of their own beside those that plan.

    decoder.safetensors   the network (`lewm_model.models.heads.Decoder`), trained on frozen latents
    onnx/decoder.onnx     latents (N, D) -> pictures (N, S, S, 3) float32, RGB in [0, 1]

It is made by `lewm train --decoder`, or later by `lewm decoder BUNDLE DATA`, which changes no other file but
model.json. A robot draws with ONNX Runtime, or with PyTorch where that is not installed.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from lewm_model.bundle.bundle import DECODER, Bundle, BundleError, save_description
from lewm_model.models.signature import SAMPLES, Signature, TensorSpec, onnx_file
from lewm_model.runtime.errors import RuntimeLoadError

if TYPE_CHECKING:
    from lewm_model.data.clips import Episodes

GRAPH = "decoder"


class PictureDecoder:
    """Draws latents. Made by `load_decoder`; used from one thread."""

    def __init__(self, run: Callable[[np.ndarray], np.ndarray], latent_dim: int) -> None:
        self._run, self._latent_dim = run, latent_dim

    def draw(self, latents: np.ndarray) -> np.ndarray:
        """Latents (N, D) -> pictures (N, S, S, 3) uint8 RGB; what is not finite is drawn as a latent of zeros."""
        values = np.nan_to_num(np.asarray(latents, np.float32), posinf=0.0, neginf=0.0)
        if values.ndim != 2 or values.shape[1] != self._latent_dim:
            raise ValueError(f"latents have shape {values.shape}, (N, {self._latent_dim}) is expected")
        if not len(values):  # a graph need not run on nothing
            return self._to_pixels(self._run(np.zeros((1, self._latent_dim), np.float32)))[:0]
        return self._to_pixels(self._run(values))

    @staticmethod
    def _to_pixels(pictures: np.ndarray) -> np.ndarray:
        return np.round(255 * np.clip(pictures, 0.0, 1.0)).astype(np.uint8)


def load_decoder(bundle: Bundle, threads: int = 1) -> PictureDecoder | None:
    """The decoder of a bundle; None where it has none.

    :raises BundleError: its file does not hold one.
    :raises RuntimeLoadError: neither ONNX Runtime nor PyTorch can run it here.
    """
    if DECODER not in bundle.files:
        return None
    dimensions, side = bundle.model.latent_dim, bundle.model.image_size
    try:
        import onnxruntime
    except ImportError:
        return PictureDecoder(_torch_decoder(bundle), dimensions)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # the cores have other work
    path = bundle.path(onnx_file(GRAPH))
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        drawn = session.run(None, {"latents": np.zeros((2, dimensions), np.float32)})[0]
    except Exception as error:  # a class of its own for each kind of fault
        why = str(error).partition("\n")[0]
        raise RuntimeLoadError(f"ONNX Runtime does not run {path}: {why}; run `lewm export {bundle.folder}`") from error
    if drawn.shape != (2, side, side, 3) or drawn.dtype != np.float32:
        raise RuntimeLoadError(
            f"{path} draws {drawn.shape} {drawn.dtype}, pictures of {side} pixels are expected; the graph is of "
            f"another model: run `lewm export {bundle.folder}`"
        )
    return PictureDecoder(lambda latents: session.run(None, {"latents": latents})[0], dimensions)


def _torch_decoder(bundle: Bundle) -> Callable[[np.ndarray], np.ndarray]:
    try:
        import torch
    except ImportError as error:
        raise RuntimeLoadError(f"drawing needs ONNX Runtime ({error}); run `pip install onnxruntime`") from error
    network = load_network(bundle)

    def run(latents: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return network(torch.from_numpy(latents)).numpy()

    return run


def signature(bundle: Bundle) -> Signature:
    """Inputs and outputs of the graph; N pictures are drawn at once."""
    side = bundle.model.image_size
    return Signature(
        GRAPH,
        (TensorSpec("latents", (SAMPLES, bundle.model.latent_dim)),),
        (TensorSpec("pictures", (SAMPLES, side, side, 3)),),
    )


def load_network(bundle: Bundle) -> Any:
    """The decoder as a PyTorch module, in eval mode. Raises BundleError."""
    import torch
    from safetensors.torch import load_file

    from lewm_model.models.heads import Decoder

    path = bundle.path(DECODER)
    try:
        with torch.device("meta"):  # takes no memory, whatever sizes model.json asks for
            network = Decoder(bundle.model)
        network.load_state_dict(load_file(path), assign=True)
    except Exception as error:  # safetensors and torch have errors of their own
        raise BundleError(f"{path} does not fit the bundle: {error}; run `lewm decoder` again") from error
    return network.eval()


def add_decoder(bundle: Bundle, data: Episodes, steps: int, seed: int = 0) -> Bundle:
    """Trains a decoder for a bundle on a recording, measures it on held-out episodes and writes it into the bundle.

    No other file than model.json changes. With the recording that the bundle was trained on, the episodes that were
    held out then are held out again.

    :raises DataError: the recording does not fit the model.
    """
    import torch
    from safetensors.torch import save_file

    from lewm_model.bundle.bundle import load_model
    from lewm_model.data.clips import DataError
    from lewm_model.models.heads import train_decoder
    from lewm_model.runtime.export import export_decoder
    from lewm_model.training.trainer import encode_rows, imagined_views

    if data.image_size != bundle.model.image_size or data.actions.shape[1] != bundle.model.action_dim:
        raise DataError(
            f"{data.source}: pictures of {data.image_size} pixels and {data.actions.shape[1]} actions do not fit the "
            f"bundle's {bundle.model.image_size} pixels and {bundle.model.action_dim}"
        )
    trained_on_it = bundle.training.get("data", {}).get("sha256") == data.sha256
    config: dict[str, Any] = bundle.training["config"] if trained_on_it else {"validation_fraction": 0.05, "seed": seed}
    training, held_out = data.split(config["validation_fraction"], config["seed"])
    model = load_model(bundle)
    episodes = np.concatenate([training, held_out])
    latents = encode_rows(model, data, data.rows(episodes))
    views = imagined_views(model, data, episodes, latents, bundle.actions)
    rows = data.rows(training)
    network = train_decoder(bundle.model, views[:, rows], lambda some: data.pixels[rows[some]], steps, seed)
    measured = _measure(network, views, data, rows, data.rows(held_out))
    save_file({name: value.contiguous() for name, value in network.state_dict().items()}, bundle.folder / DECODER)
    export_decoder(bundle, network)
    provenance = {
        "command": " ".join(["lewm", *sys.argv[1:]]),
        "data": {"source": data.source, "sha256": data.sha256, "held_out_episodes": len(held_out)},
        "steps": steps,
        "seed": seed,
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "torch": torch.__version__,
    }
    return save_description(
        replace(
            bundle,
            training={**bundle.training, "decoder": provenance},
            evaluation={**bundle.evaluation, "decoder": measured},
        )
    )


def _measure(
    network: Any, views: Any, data: Episodes, training: np.ndarray, held_out: np.ndarray
) -> dict[str, float]:
    """Errors on held-out frames, of pictures in [0, 1], beside that of the training frames' mean picture.

    `views` (V, N, D): the first are the encoded latents of the frames, the last imagined the whole horizon ahead.
    `training` and `held_out` are rows.
    """
    import torch

    mean = sum(frames.sum(0, dtype=np.float64) for frames in data.batches(training)) / (255 * len(training))
    squared = {"encoded": 0.0, "imagined": 0.0, "mean_picture": 0.0}
    with torch.inference_mode():
        for part in np.array_split(held_out, -(-len(held_out) // 256)):
            truth = data.pixels[part].astype(np.float64) / 255
            drawn = {
                name: network(views[i, part]).clamp(0, 1).numpy() for name, i in (("encoded", 0), ("imagined", -1))
            }
            for name, picture in {**drawn, "mean_picture": mean}.items():
                squared[name] += float(np.square(picture - truth).sum())
    mse = {f"mse_{name}": value / (len(held_out) * mean.size) for name, value in squared.items()}
    return {
        **mse,
        "psnr_encoded_db": float(-10 * np.log10(mse["mse_encoded"])),
        "share_of_mean_picture": mse["mse_encoded"] / mse["mse_mean_picture"],
        "frames": len(held_out),
    }
