# SPDX-License-Identifier: Apache-2.0
"""Training of the decoder, which turns latents into pictures for people (`lewm_model.runtime.decoder`), on the frozen
latents of a bundle.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from tqdm import tqdm

from lewm_model.bundle.bundle import DECODER, Bundle, load_model
from lewm_model.bundle.held_out import not_trained_on, trained_on
from lewm_model.bundle.update import update
from lewm_model.config import ModelConfig, TrainConfig
from lewm_model.data.clips import DataError, Episodes
from lewm_model.models.distributed import device_of
from lewm_model.models.heads import Decoder
from lewm_model.runtime.export import export_decoder
from lewm_model.training.latents import encode_rows, imagined_views

PICTURES = 32  # in an optimiser step
SQUARED = 4.0  # weight of the squared error beside the absolute one, of pictures in [0, 1]
OBJECTS, DIFFERS = 8.0, 0.1  # additional weight of pixels that differ from the background by more than DIFFERS of 1
BACKGROUND_FRAMES = 500  # random frames whose median is the background
HELD_OUT = 0.05  # share of the episodes, of a recording from which the bundle's training held none out


def add_decoder(bundle: Bundle, data: Episodes, steps: int, seed: int = 0) -> Bundle:
    """Trains a decoder for a bundle on a recording, measures it on held-out episodes and adds it to the bundle.

    Of the bundle's other files only model.json changes. Episodes that the bundle's training held out are held out here
    as well.

    :raises DataError: the recording does not fit the model.
    :raises ExportError: the decoder's ONNX graph computes something else than the decoder; the bundle stays as it was.
    """
    if data.image_size != bundle.model.image_size or data.actions.shape[1] != bundle.model.action_dim:
        raise DataError(
            f"{data.source}: pictures of {data.image_size[0]} x {data.image_size[1]} pixels and "
            f"{data.actions.shape[1]} actions do not fit the bundle's {bundle.model.image_height} x "
            f"{bundle.model.image_width} pixels and {bundle.model.action_dim}"
        )
    held_out = not_trained_on(bundle, data)
    if len(held_out) in (0, len(data.lengths)):
        held_out = data.split(HELD_OUT, seed)[1]
    training = np.setdiff1d(np.arange(len(data.lengths)), held_out)
    device = device_of(TrainConfig())
    model = load_model(bundle).to(device)
    episodes = np.concatenate([training, held_out])
    latents = encode_rows(model, data, data.rows(episodes))
    views = imagined_views(model, data, episodes, latents, bundle.actions)
    rows = data.rows(training)
    network = train_decoder(bundle.model, views[:, rows], lambda some: data.pixels[rows[some]], steps, seed, device)
    measured = _measure(network, views, data, rows, data.rows(held_out))
    provenance = {
        "command": " ".join(["lewm", *sys.argv[1:]]),
        "data": {"path": data.path, "sha256": data.sha256, "held_out_episodes": len(held_out)},
        "steps": steps,
        "seed": seed,
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "torch": torch.__version__,
    }

    def change(draft: Bundle) -> Bundle:
        save_file({name: value.contiguous() for name, value in network.state_dict().items()}, draft.folder / DECODER)
        export_decoder(draft, network)
        return replace(
            draft,
            training={**trained_on(draft.training, data, held_out), "decoder": provenance},
            evaluation={**draft.evaluation, "decoder": measured},
        )

    return update(bundle, change)


def train_decoder(
    c: ModelConfig,
    views: Tensor,
    pixels: Callable[[np.ndarray], np.ndarray],
    steps: int,
    seed: int,
    device: str = "cpu",
) -> Decoder:
    """Trains a decoder on frozen latents.

    The absolute error keeps edges sharp; the squared error makes the arm appear early in the training. Pixels that
    differ from the background weigh more: without that, an object of a few pixels would not be drawn at all.

    :param views: (V, N, D), of each of N frames the encoded latent and what the model imagined for it
        (`lewm_model.training.latents.imagined_views`), so that the decoder draws imagined latents as well.
    :param pixels: gives the frames (…, H, W, 3) uint8 of some of the N numbers, since not all fit into memory.
    """
    torch.manual_seed(seed)
    decoder = Decoder(c)
    frames = views.shape[1]
    some = torch.from_numpy(pixels(torch.randperm(frames)[:BACKGROUND_FRAMES].numpy()))
    decoder.background.copy_(some.float().median(0).values / 255)
    decoder.to(device)
    optimiser = torch.optim.AdamW(decoder.parameters(), lr=3e-3, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 3e-3, steps, pct_start=0.1)
    for _ in tqdm(range(steps), "decoder", unit="step", mininterval=2):
        row, view = torch.randint(frames, (PICTURES,)), torch.randint(len(views), (PICTURES,))
        wanted = torch.from_numpy(pixels(row.numpy())).to(device).float() / 255
        error = (decoder(views[view, row].to(device)) - wanted).abs()
        objects = (wanted - decoder.background).abs().amax(-1, keepdim=True) > DIFFERS
        loss = ((1.0 + OBJECTS * objects) * (error + SQUARED * error.square())).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    return decoder.cpu().eval()


def _measure(
    network: nn.Module, views: Tensor, data: Episodes, training: np.ndarray, held_out: np.ndarray
) -> dict[str, float]:
    """Errors on held-out frames, of pictures in [0, 1], beside the error of the mean picture of the training frames.

    `views` (V, N, D): the first are the encoded latents of the frames, the last those imagined the whole horizon ahead.
    `training` and `held_out` are row numbers of frames.
    """
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
