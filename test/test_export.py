# SPDX-License-Identifier: Apache-2.0
"""A bundle's graphs compute what the model computes, in fp32 and in fp16, and golden outputs go with them."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from awake import awake_bundle, exported_folder, pictures
from safetensors.torch import save_file
from tiny import tiny_model

from lewm_model.bundle.bundle import Bundle, BundleError, load_bundle, save_description
from lewm_model.config import ModelConfig
from lewm_model.models.heads import Decoder
from lewm_model.models.signature import SAMPLES, onnx_file, signatures
from lewm_model.runtime import RuntimeLoadError, decoder, equivalence, export
from lewm_model.runtime.onnx_backend import OnnxRuntime
from lewm_model.runtime.torch_backend import TorchRuntime

MODELS = {
    "conv-1": tiny_model(),
    "all-1": tiny_model(readout="all"),
    "patch-3": tiny_model(stem="patch", patch_size=8, activation="gelu", history=3),
}


@pytest.fixture(params=MODELS)
def bundle(request: pytest.FixtureRequest) -> Bundle:
    return load_bundle(exported_folder(MODELS[request.param]))


def random_rollout(model: ModelConfig, samples: int, horizon: int = 2) -> tuple[np.ndarray, ...]:
    rng = np.random.default_rng(3)
    shapes = (
        (model.history, model.latent_dim),
        (model.history - 1, model.block_dim),
        (samples, horizon, model.block_dim),
        (model.latent_dim,),
    )
    context, past, candidates, goal = (rng.standard_normal(shape).astype(np.float32) for shape in shapes)
    return context, past, candidates, goal


def test_onnx_runtime_and_pytorch_agree_on_pictures_rollouts_and_proposals(bundle: Bundle) -> None:
    torch_runtime, onnx_runtime = TorchRuntime(bundle), OnnxRuntime(bundle)
    noise = np.random.default_rng(0).integers(0, 256, (2, *pictures(bundle.model).shape[1:]), np.uint8)
    for picture in (*pictures(bundle.model), *noise):
        np.testing.assert_allclose(onnx_runtime.encode(picture), torch_runtime.encode(picture), rtol=0, atol=1e-5)
    for samples in (1, 7, 64):
        inputs = random_rollout(bundle.model, samples)
        for found, wanted in zip(onnx_runtime.rollout(*inputs), torch_runtime.rollout(*inputs), strict=True):
            assert found.shape == wanted.shape and found.dtype == np.float32
            np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)
    context, _, _, goal = random_rollout(bundle.model, 1)
    blocks = [runtime.propose(context[:1], goal, np.array([20.0])) for runtime in (onnx_runtime, torch_runtime)]
    np.testing.assert_allclose(*blocks, atol=1e-5)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_every_graph_has_the_names_shapes_and_types_of_its_signature(bundle: Bundle, precision: str) -> None:
    for name, signature in signatures(bundle.model, 2, bundle.heads).items():
        model = onnx.load(str(bundle.path(onnx_file(name, precision))))
        onnx.checker.check_model(model, full_check=True)
        assert [entry.version for entry in model.opset_import if entry.domain == ""] == [18]
        for tensors, wanted in ((model.graph.input, signature.inputs), (model.graph.output, signature.outputs)):
            found = {}
            for tensor in tensors:
                kind = tensor.type.tensor_type
                shape = tuple(size.dim_value if size.HasField("dim_value") else SAMPLES for size in kind.shape.dim)
                found[tensor.name] = (shape, onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type).name)
            assert found == {tensor.name: (tensor.shape, tensor.dtype) for tensor in wanted}


def test_the_picture_is_cast_before_anything_else_because_tensorrt_takes_uint8_only_there(bundle: Bundle) -> None:
    graph = onnx.load(str(bundle.path("onnx/encoder.onnx"))).graph
    assert [node.op_type for node in graph.node if "image" in node.input] == ["Cast"]


def test_half_precision_graphs_compute_in_half_and_normalise_in_single(bundle: Bundle) -> None:
    for name in ("encoder", "rollout"):
        graph = onnx.load(str(bundle.path(onnx_file(name, "fp16")))).graph
        types = {tensor.name: tensor.data_type for tensor in graph.initializer}
        products = [n for n in graph.node if n.op_type in ("MatMul", "Gemm", "Conv")]
        norms = [n for n in graph.node if n.op_type == "LayerNormalization"]
        assert norms and products
        weights = [types[i] for node in norms for i in node.input if i in types]
        assert set(weights) <= {onnx.TensorProto.FLOAT}
        inside = [types[i] for node in products for i in node.input if i in types]
        half = inside.count(onnx.TensorProto.FLOAT16)
        # The stem, the projector and the head that gives the costs stay in single precision.
        assert half >= (4 * bundle.model.encoder_depth if name == "encoder" else len(inside) / 2)


def test_half_precision_graphs_rank_candidates_as_the_golden_outputs_do(bundle: Bundle) -> None:
    found = equivalence.measure(OnnxRuntime(bundle, precision="fp16"), equivalence.load_golden(bundle))
    assert found.problem == ""
    assert found.rank_correlation > 0.99 and found.shared_elites >= 27
    assert bundle.evaluation["fp16"]["rank_correlation"] == pytest.approx(found.rank_correlation, abs=1e-3)


def test_golden_outputs_hold_the_sample_frames_and_what_fp32_makes_of_them(bundle: Bundle) -> None:
    golden = equivalence.load_golden(bundle)
    np.testing.assert_array_equal(golden.frames, pictures(bundle.model))
    assert golden.horizon == 2 and len(golden.answers.blocks) == len(golden.frames) - 1
    found = equivalence.measure(TorchRuntime(bundle), golden)
    assert found.problem == "" and found.latent_error < 1e-4 and found.shared_elites == equivalence.ELITES


def test_a_second_export_keeps_sample_frames_and_decoder_and_leaves_out_half_precision_that_misses_the_gate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(exported_folder(MODELS["conv-1"]), tmp_path / "bundle")
    network = Decoder(MODELS["conv-1"])
    save_file(network.state_dict(), tmp_path / "bundle" / decoder.DECODER)
    before = save_description(load_bundle(tmp_path / "bundle"))
    frames = equivalence.load_golden(before).frames
    monkeypatch.setattr(equivalence, "LEAST_RANK_CORRELATION", 1.1)
    export.export_onnx(before, horizon=1)
    after = load_bundle(tmp_path / "bundle")
    np.testing.assert_array_equal(equivalence.load_golden(after).frames, frames)
    assert equivalence.load_golden(after).horizon == 1
    assert "onnx/encoder.onnx" in after.files and "onnx/encoder.fp16.onnx" not in after.files
    assert "rank correlation" in after.evaluation["fp16"]["problem"]
    latents = np.ones((1, after.model.latent_dim), np.float32)
    with torch.inference_mode():
        drawn = network(torch.from_numpy(latents)).clamp(0, 1).numpy()
    np.testing.assert_allclose(decoder.load_decoder(after).draw(latents), 255 * drawn, atol=1)


def test_a_graph_that_differs_from_pytorch_is_refused_and_the_bundle_stays_loadable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = awake_bundle(tmp_path / "bundle", MODELS["conv-1"], ())
    monkeypatch.setattr(export, "TOLERANCE", -1.0)
    with pytest.raises(export.ExportError, match=r"encoder\.onnx differs from PyTorch by"):
        export.export_onnx(bundle)
    assert not any(name.endswith(".onnx") for name in load_bundle(tmp_path / "bundle").files)
    with pytest.raises(RuntimeLoadError, match="run `lewm export"):
        OnnxRuntime(load_bundle(tmp_path / "bundle"))


def test_the_gate_sees_wrong_latents_reordered_costs_and_nan() -> None:
    bundle = load_bundle(exported_folder(MODELS["conv-1"]))
    golden, runtime = equivalence.load_golden(bundle), OnnxRuntime(bundle)

    class Wrong:
        def __init__(self, **changes: object) -> None:
            self.changes = changes

        def encode(self, image: np.ndarray) -> np.ndarray:
            return runtime.encode(image) * self.changes.get("sign", 1) + self.changes.get("offset", 0.0)

        def rollout(self, *inputs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            distances, latents = runtime.rollout(*inputs)
            return distances[:: int(self.changes.get("order", 1))], latents * self.changes.get("scale", 1.0)

        def propose(self, *inputs: np.ndarray) -> np.ndarray:
            return runtime.propose(*inputs) + self.changes.get("block", 0.0)

    assert equivalence.measure(Wrong(), golden).problem == ""
    for change, complaint in (
        ({"sign": -1}, "cosine"),
        ({"offset": 0.3}, "standard deviations"),
        ({"order": -1}, "rank correlation"),
        ({"scale": np.nan}, "cosine nan"),
        ({"block": 0.1}, "proposed blocks"),
    ):
        assert complaint in equivalence.measure(Wrong(**change), golden).problem, change


def test_a_bundle_without_golden_outputs_says_so(tmp_path: Path) -> None:
    bundle = awake_bundle(tmp_path, MODELS["conv-1"], ())
    with pytest.raises(BundleError, match=r"has no onnx/golden\.safetensors"):
        equivalence.load_golden(replace(bundle))


def test_graphs_do_not_tell_where_they_were_exported(bundle: Bundle) -> None:
    for name in signatures(bundle.model, 2, bundle.heads):
        content = bundle.path(onnx_file(name)).read_bytes()
        assert b".py" not in content and str(Path(export.__file__).parent).encode() not in content
