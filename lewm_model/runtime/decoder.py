# SPDX-License-Identifier: Apache-2.0
"""The decoder of a bundle, which draws latents as pictures. Its file and graph are separate from those for planning.

    decoder.safetensors   the network (`lewm_model.models.heads.Decoder`), trained on frozen latents
    onnx/decoder.onnx     latents (N, D) -> pictures (N, H, W, 3) float32, RGB in [0, 1]

It is trained by `lewm train --decoder`, or later by `lewm decoder BUNDLE DATA`, which changes no other file except
model.json. It runs in ONNX Runtime, or in PyTorch where that is not installed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from lewm_model.bundle.bundle import DECODER, Bundle, BundleError
from lewm_model.models.signature import SAMPLES, Signature, TensorSpec, onnx_file
from lewm_model.runtime.errors import RuntimeLoadError

GRAPH = "decoder"  # name of its ONNX file


class PictureDecoder:
    """Draws latents. Made by `load_decoder`; used from one thread."""

    def __init__(self, run: Callable[[np.ndarray], np.ndarray], latent_dim: int) -> None:
        self._run, self._latent_dim = run, latent_dim

    def draw(self, latents: np.ndarray) -> np.ndarray:
        """Latents (N, D) -> pictures (N, H, W, 3) uint8 RGB; values that are not finite count as 0.

        :raises ValueError: the latents have another shape.
        """
        values = np.nan_to_num(np.asarray(latents, np.float32), posinf=0.0, neginf=0.0)
        if values.ndim != 2 or values.shape[1] != self._latent_dim:
            raise ValueError(f"latents have shape {values.shape}, (N, {self._latent_dim}) is expected")
        if not len(values):  # a graph need not accept an empty batch
            return self._to_pixels(self._run(np.zeros((1, self._latent_dim), np.float32)))[:0]
        return self._to_pixels(self._run(values))

    @staticmethod
    def _to_pixels(pictures: np.ndarray) -> np.ndarray:
        return np.round(255 * np.clip(pictures, 0.0, 1.0)).astype(np.uint8)


def load_decoder(bundle: Bundle, threads: int = 1) -> PictureDecoder | None:
    """The decoder of a bundle; None where it has none.

    :raises BundleError: its file is damaged or does not fit.
    :raises RuntimeLoadError: neither ONNX Runtime nor PyTorch can run it on this machine.
    """
    if DECODER not in bundle.files:
        return None
    dimensions, size = bundle.model.latent_dim, bundle.model.image_size
    try:
        import onnxruntime
    except ImportError:
        return PictureDecoder(_torch_decoder(bundle), dimensions)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # leaves the cores to others
    path = bundle.path(onnx_file(GRAPH))
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        drawn = session.run(None, {"latents": np.zeros((2, dimensions), np.float32)})[0]
    except Exception as error:  # ONNX Runtime has no common class of errors
        why = str(error).partition("\n")[0]
        raise RuntimeLoadError(f"ONNX Runtime does not run {path}: {why}; run `lewm export {bundle.folder}`") from error
    if drawn.shape != (2, *size, 3) or drawn.dtype != np.float32:
        raise RuntimeLoadError(
            f"{path} draws {drawn.shape} {drawn.dtype}, pictures of {size[0]} x {size[1]} pixels are expected; it is "
            f"of another model, run `lewm export {bundle.folder}`"
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
    """Inputs and outputs of the decoder's graph."""
    return Signature(
        GRAPH,
        (TensorSpec("latents", (SAMPLES, bundle.model.latent_dim)),),
        (TensorSpec("pictures", (SAMPLES, *bundle.model.image_size, 3)),),
    )


def load_network(bundle: Bundle) -> Any:
    """The decoder as a PyTorch module in eval mode, on the CPU. Raises BundleError."""
    import torch
    from safetensors.torch import load_file

    from lewm_model.models.heads import Decoder

    path = bundle.path(DECODER)
    try:
        with torch.device("meta"):  # allocates nothing, whatever sizes model.json states
            network = Decoder(bundle.model)
        network.load_state_dict(load_file(path), assign=True)
    except Exception as error:  # safetensors and torch raise many kinds
        raise BundleError(f"{path} does not fit the bundle: {error}; run `lewm decoder` again") from error
    return network.eval()
