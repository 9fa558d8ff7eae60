# SPDX-License-Identifier: Apache-2.0
"""Checkpoints of the reference code become bundles and go back; what must not be loaded is refused and never run."""

import importlib
import json
import pickle
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_reference import patches
from tiny import dot_recording, tiny_bundle, tiny_train
from typer.testing import CliRunner

from benchmarks import reference
from lewm_model.bundle.bundle import load_bundle, load_heads, load_model
from lewm_model.bundle.held_out import held_out_episodes
from lewm_model.bundle.interchange import (
    InterchangeError,
    export_checkpoint,
    hydra_config,
    import_checkpoint,
    read_state,
)
from lewm_model.cli.main import app
from lewm_model.config import MODEL_SIZES, ModelConfig
from lewm_model.data.clips import DataError, load_episodes
from lewm_model.robot.actions import ActionSpec
from lewm_model.training.heads import add_heads

ACTIONS = ActionSpec.of_one_kind(
    ("a", "b"), "joint_velocity", "rad/s", 0.05, 5, (0.1, 0.2), (1.5, 2.0), (-2.0, -2.0), (2.0, 2.0)
)


def built(config: Any) -> Any:
    """What Hydra would build from a `config.json` with the reference's own classes; `vit_hf` becomes a ViTModel."""
    if not isinstance(config, dict) or "_target_" not in config:
        return config
    module, name = config["_target_"].rsplit(".", 1)
    values = {key: built(value) for key, value in config.items() if not key.startswith("_")}
    if name == "vit_hf":
        vit = importlib.import_module("transformers.models.vit")
        size = values.pop("size")
        values = {"tiny": {"hidden_size": 192, "num_hidden_layers": 12, "num_attention_heads": 3}}[size] | values
        values = {"intermediate_size": 4 * values["hidden_size"]} | values
        mask, _ = values.pop("use_mask_token"), values.pop("pretrained")
        return vit.ViTModel(vit.ViTConfig(**values), add_pooling_layer=False, use_mask_token=mask)
    if module.startswith("torch"):
        return getattr(importlib.import_module(module), name)
    short = module.removeprefix("stable_worldmodel.")
    return getattr(reference.module("wm.lewm.lewm" if short == "wm.lewm" else short), name)(**values)


def checkpoint(folder: Path, config: ModelConfig) -> dict[str, torch.Tensor]:
    """A checkpoint folder as the reference's save_pretrained leaves it, with random weights."""
    torch.manual_seed(1)
    network = built(hydra_config(config))
    folder.mkdir(parents=True)
    torch.save(network.state_dict(), folder / "weights.pt")
    (folder / "config.json").write_text(json.dumps(hydra_config(config)))
    return network.state_dict()


@pytest.mark.parametrize("config", [patches(), ModelConfig()], ids=["tiny", "reference"])
def test_a_checkpoint_becomes_a_bundle_and_comes_back_unchanged(tmp_path: Path, config: ModelConfig) -> None:
    weights = checkpoint(tmp_path / "run", config)
    bundle = import_checkpoint(tmp_path / "run", tmp_path / "bundle", ACTIONS)
    assert bundle.model == config and load_bundle(tmp_path / "bundle").actions == ACTIONS
    export_checkpoint(bundle, tmp_path / "back")
    again = torch.load(tmp_path / "back" / "weights.pt", weights_only=True)
    assert again.keys() == weights.keys() and all(torch.equal(again[name], weights[name]) for name in weights)
    built(json.loads((tmp_path / "back" / "config.json").read_text())).load_state_dict(again)
    twice = import_checkpoint(tmp_path / "back", tmp_path / "twice")  # with the actions.json in the folder
    assert (twice.model, twice.actions) == (bundle.model, bundle.actions)


def test_a_plain_state_dict_tells_its_sizes_itself_and_older_and_newer_names_are_read(tmp_path: Path) -> None:
    config = patches(encoder_width=64, encoder_heads=1, predictor_heads=1, predictor_head_dim=64, dropout=0.1)
    weights = checkpoint(tmp_path / "run", config)
    renamed = {
        name.replace("encoder.encoder.layer.", "encoder.layers.")
        .replace("attention.attention.query", "attention.q_proj")
        .replace("attention.attention.key", "attention.k_proj")
        .replace("attention.attention.value", "attention.v_proj")
        .replace("attention.output.dense", "attention.o_proj")
        .replace("intermediate.dense", "mlp.fc1")
        .replace("output.dense", "mlp.fc2"): value
        for name, value in weights.items()
    }
    wrapped = {"state_dict": {**{f"model.{k}": v for k, v in weights.items()}, "sigreg.t": torch.zeros(17)}}
    for number, state in enumerate((weights, renamed, wrapped)):
        torch.save(state, tmp_path / f"{number}.pt")
        bundle = import_checkpoint(tmp_path / f"{number}.pt", tmp_path / f"bundle{number}", ACTIONS)
        assert bundle.model == config
        assert torch.equal(load_model(bundle).encoder.cls_token, weights["encoder.embeddings.cls_token"])


class Malicious:
    """What unpickling runs: it creates a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return Path.touch, (self.path,)  # type: ignore[return-value]


@pytest.mark.parametrize("writer", ["torch", "pickle"])
def test_a_pickled_object_is_refused_with_the_reason_and_never_executed(tmp_path: Path, writer: str) -> None:
    trace, file = tmp_path / "executed", tmp_path / "weights.pt"
    if writer == "torch":
        torch.save(Malicious(trace), file)
    else:
        file.write_bytes(pickle.dumps(Malicious(trace)))
    with pytest.raises(InterchangeError, match=r"holds a pickled Python object.*could run any code"):
        import_checkpoint(file, tmp_path / "bundle", ACTIONS)
    assert not trace.exists() and not (tmp_path / "bundle").exists()
    torch.load(file, weights_only=False) if writer == "torch" else pickle.loads(file.read_bytes())
    assert trace.exists(), "the file is harmless, so the test shows nothing"


def test_no_class_that_a_configuration_names_is_looked_up(tmp_path: Path) -> None:
    checkpoint(tmp_path / "run", patches())
    config = hydra_config(patches())
    config["encoder"]["_target_"] = "os.system"
    (tmp_path / "run" / "config.json").write_text(json.dumps(config))
    with pytest.raises(InterchangeError, match="encoder is a system; only vit_hf"):
        import_checkpoint(tmp_path / "run", tmp_path / "bundle", ACTIONS)


def test_what_does_not_fit_is_refused_with_a_sentence(tmp_path: Path) -> None:
    run = tmp_path / "run"
    weights = checkpoint(run, patches())

    def refused(message: str, source: Path = run, **options: Any) -> None:
        with pytest.raises(InterchangeError, match=message):
            import_checkpoint(source, tmp_path / "bundle", **options)
        assert not (tmp_path / "bundle" / "model.json").exists()

    refused("does not say what its actions are.*--data")
    refused("action blocks of 10 numbers, but 1 joints x frameskip 5 are 5", actions=ActionSpec.of_one_kind(
        ("a",), "joint_velocity", "rad/s", 0.05, 5, (0.0,), (1.0,), (-1.0,), (1.0,)))  # fmt: skip
    refused("there is no checkpoint at", tmp_path / "nothing")
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "lewm_object.ckpt").write_bytes(b"")
    refused("lewm_object.ckpt only, a pickled object", tmp_path / "old")
    (tmp_path / "text.pt").write_text("hello")
    refused("text.pt", tmp_path / "text.pt")
    (tmp_path / "alone").mkdir()
    torch.save(weights, tmp_path / "alone" / "w.pt")
    refused("the tensors do not tell encoder_heads", tmp_path / "alone" / "w.pt", actions=ACTIONS)
    torch.save({**weights, "encoder.pooler.dense.bias": torch.zeros(3)}, run / "weights.pt")
    refused("has 'encoder.pooler.dense.bias'", actions=ACTIONS)
    torch.save({**weights, "pred_proj.net.0.bias": weights["pred_proj.net.0.bias"] / 0}, run / "weights.pt")
    refused("pred_proj.net.0.bias holds NaN", actions=ACTIONS)
    torch.save({k: v for k, v in weights.items() if k != "encoder.layernorm.bias"}, run / "weights.pt")
    refused("lacks 'encoder.layernorm.bias'", actions=ACTIONS)
    torch.save(weights, run / "weights.pt")
    for part, change, message in (
        ("projector", {"norm_fn": {"_target_": "torch.nn.LayerNorm"}}, "projector has the norm"),
        ("predictor", {"num_frames": 2}, "history is 2, the tensors in weights.pt say 3"),
        ("encoder", {"_target_": "stable_pretraining.backbone.utils.resnet9"}, "encoder is a resnet9"),
    ):
        config = hydra_config(patches())
        config[part] |= change
        (run / "config.json").write_text(json.dumps(config))
        refused(message, actions=ACTIONS)


def test_a_bundle_with_a_convolutional_stem_has_no_counterpart_and_that_is_said(tmp_path: Path) -> None:
    with pytest.raises(InterchangeError, match="the stem is 'conv'; the reference's encoder has linear patches only"):
        export_checkpoint(tiny_bundle(tmp_path), tmp_path / "out")
    assert MODEL_SIZES["small"]["stem"] == "conv" and not (tmp_path / "out").exists()


def test_the_commands_import_and_write_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = checkpoint(tmp_path / "run", patches())
    (tmp_path / "actions.json").write_text(json.dumps(asdict(ACTIONS)))
    exported = []
    monkeypatch.setattr("lewm_model.runtime.export.export_onnx", lambda bundle: exported.append(bundle) or bundle)

    def lewm(*arguments: object) -> str:
        result = CliRunner().invoke(app, [*map(str, arguments)], catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return result.output

    lewm("import", tmp_path / "run", tmp_path / "bundle", "--actions", tmp_path / "actions.json")
    assert len(exported) == 1
    assert "heads none" in lewm("bundle", tmp_path / "bundle", "--to-swm", tmp_path / "back")
    again = read_state(tmp_path / "back" / "weights.pt")
    assert all(torch.equal(again[name], weights[name]) for name in weights)
    assert json.loads((tmp_path / "back" / "actions.json").read_text()) == json.loads(json.dumps(asdict(ACTIONS)))


def test_with_the_recording_it_gets_its_statistics_and_heads(tmp_path: Path) -> None:
    checkpoint(tmp_path / "run", patches())
    data = load_episodes(dot_recording(tmp_path / "dots.h5"))
    bundle = import_checkpoint(tmp_path / "run", tmp_path / "bundle", data=data)
    actions = data.actions[np.isfinite(data.actions).all(1)]
    assert bundle.actions.std == pytest.approx(actions.std(0)) and bundle.actions.frameskip == 5
    bundle = add_heads(bundle, load_model(bundle), data, np.arange(12), tiny_train())
    assert set(load_heads(load_bundle(bundle.folder))) == {"displacement", "proposal"}
    with pytest.raises(DataError, match="the model was trained on all of its episodes; give a recording"):
        held_out_episodes(bundle, data)


@pytest.mark.parametrize("wrapper", ["module.{}", "_orig_mod.{}", "module._orig_mod.{}", "model._orig_mod.{}"])
def test_weights_saved_from_a_wrapped_model_are_the_same_weights(tmp_path: Path, wrapper: str) -> None:
    state = checkpoint(tmp_path / "plain", ModelConfig())
    wrapped = {wrapper.format(name): value for name, value in state.items()}
    torch.save(wrapped, tmp_path / "wrapped.pt")
    found = read_state(tmp_path / "wrapped.pt")
    assert set(found) == set(read_state(tmp_path / "plain" / "weights.pt"))
    assert all(torch.equal(found[name], value) for name, value in read_state(tmp_path / "plain" / "weights.pt").items())
