# SPDX-License-Identifier: Apache-2.0
"""Tools of `benchmarks.planner`: CPU times, a network of the paper's size, its ONNX graph, rates of matrix products."""

from __future__ import annotations

import contextlib
import io
import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import onnxruntime
import torch
from onnx import TensorProto, helper, numpy_helper
from rich.console import Console
from rich.table import Table
from torch import nn

from lewm_model.config import ModelConfig, PlanConfig
from lewm_model.evaluation.timing import _Loop
from lewm_model.models.graphs import RolloutGraph
from lewm_model.models.lewm import LeWM
from lewm_model.models.objective import final
from lewm_model.models.signature import ROLLOUT, signatures
from lewm_model.planning import planner as controller
from lewm_model.planning.solvers import HORIZON, Solution
from lewm_model.runtime.export import export_graph

ROUNDS = 7  # of actions that are run in turn and compared
console = Console()


def cpu_ms(action: Callable[[], Any]) -> float:
    """CPU time of this process, all threads, while the action runs."""
    begin = time.process_time()
    action()
    return (time.process_time() - begin) * 1e3


def in_turns(actions: dict[str, Callable[[], Any]], rounds: int = ROUNDS) -> dict[str, float]:
    """Median CPU time of each action, ms, run in turn; a first round warms up and is not counted."""
    times: dict[str, list[float]] = {name: [] for name in actions}
    for number in range(rounds + 1):
        for name, action in actions.items():
            duration = cpu_ms(action)
            if number:
                times[name].append(duration)
    return {name: float(np.median(values)) for name, values in times.items()}


def reference_size() -> LeWM:
    """The paper's network with random weights, also in the modulations: at their initial 0 actions have no effect."""
    torch.manual_seed(0)
    model = LeWM(ModelConfig()).eval()
    with torch.no_grad():
        for layer in model.predictor.transformer.layers:
            for parameter in layer.adaLN_modulation[1].parameters():
                parameter.normal_(std=0.1)
    return model


class Graph:
    """A model's rollout, with the squared latent distance to the goal, as an ONNX graph on ONNX Runtime."""

    def __init__(self, model: LeWM, folder: Path, frames: int = 1) -> None:
        wanted = signatures(replace(model.config, history=frames), HORIZON)[ROLLOUT]
        path = folder / f"rollout-{model.config.latent_dim}-{frames}.onnx"
        export_graph(RolloutGraph(model, None), wanted, path)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        path.unlink()

    def costs(self, context: np.ndarray, goal: np.ndarray, candidates: np.ndarray) -> np.ndarray:
        """context (1, D), goal (D,), candidates (S, H, E) -> squared latent distances at the end (S,)."""
        inputs = {"context": context, "goal": goal, "candidates": candidates}
        return final(self.session.run(["distances"], inputs)[0])


def products(module: nn.Module, run: Callable[[], Any]) -> list[tuple[int, int, int]]:
    """Sizes (rows, inputs, outputs) of the matrix product of every linear layer of `module` that `run` uses."""
    found: list[tuple[int, int, int]] = []

    def note(layer: nn.Linear, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        found.append((output.numel() // layer.out_features, layer.in_features, layer.out_features))

    hooks = [part.register_forward_hook(note) for part in module.modules() if isinstance(part, nn.Linear)]
    run()
    for hook in hooks:
        hook.remove()
    return found


def product_rate(m: int, k: int, n: int) -> float:
    """Multiply-adds per second of CPU time of a matrix product (m, k) x (k, n): the best of several runs in PyTorch and
    ONNX Runtime.
    """
    a, b, out = torch.randn(m, k), torch.randn(k, n), torch.empty(m, n)
    tensors = [helper.make_tensor_value_info(x, TensorProto.FLOAT, size) for x, size in (("a", (m, k)), ("o", (m, n)))]
    node = helper.make_node("MatMul", ["a", "b"], ["o"])
    graph = helper.make_graph([node], "product", tensors[:1], tensors[1:], [numpy_helper.from_array(b.numpy(), "b")])
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9).SerializeToString()
    session = onnxruntime.InferenceSession(made, options, providers=["CPUExecutionProvider"])
    inputs, repeats = {"a": a.numpy()}, max(1, int(1e8 / (m * k * n)))
    best = math.inf
    for _ in range(8):
        best = min(best, cpu_ms(lambda: [torch.mm(a, b, out=out) for _ in range(repeats)]))
        best = min(best, cpu_ms(lambda: [session.run(None, inputs) for _ in range(repeats)]))
    return m * k * n * repeats / best * 1e3


@contextlib.contextmanager
def unhurried() -> Iterator[None]:
    """Searches have no deadline."""
    search = controller.search

    def without_deadline(*arguments: Any, **more: Any) -> Solution:
        return search(*arguments[:-1], math.inf, **more)  # type: ignore[call-arg]

    controller.search = without_deadline
    try:
        yield
    finally:
        controller.search = search


def decision_ms(runtime: Any, config: PlanConfig, frames: np.ndarray, repeats: int = 15) -> float:
    """Median CPU time of a decision, ms: encoding a picture and planning a motion."""
    with unhurried():
        loop = _Loop(runtime, config, frames[-1])
        times = [cpu_ms(partial(loop.step, frames[i % len(frames)])) for i in range(repeats + 2)]
    return float(np.median(times[2:]))


@contextlib.contextmanager
def decisions_ms(runtime: Any) -> Iterator[list[float]]:
    """Yields a list that gets the CPU time, ms, of each decision made meanwhile: encoding a picture and planning."""
    plan, encode = controller.Planner.plan, runtime.encode
    found: list[float] = []
    encoding_s = [0.0]

    def timed_encode(picture: np.ndarray) -> np.ndarray:
        begin_s = time.thread_time()
        latent: np.ndarray = encode(picture)
        encoding_s[0] = time.thread_time() - begin_s
        return latent

    def timed_plan(self: controller.Planner) -> controller.Decision | None:
        begin_s = time.thread_time()
        decision = plan(self)
        if decision is not None and decision.iterations:  # it did not rest at its goal
            found.append(1e3 * (encoding_s[0] + time.thread_time() - begin_s))
        return decision

    runtime.encode, controller.Planner.plan = timed_encode, timed_plan  # type: ignore[method-assign]
    try:
        yield found
    finally:
        controller.Planner.plan = plan  # type: ignore[method-assign]
        del runtime.encode


def quietly(action: Callable[[], Any]) -> Any:
    """Runs an action without its output: the reference's solver prints how long it took."""
    with contextlib.redirect_stdout(io.StringIO()):
        return action()


def show(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Prints a table."""
    table = Table(*columns, title=title, title_justify="left")
    for row in rows:
        table.add_row(*(f"{value:.4g}" if isinstance(value, float) else str(value) for value in row))
    console.print(table)
