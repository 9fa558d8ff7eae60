# SPDX-License-Identifier: Apache-2.0
"""Speed and success of the planner, compared with the authors' own in one run: `make bench`.

    python -m benchmarks.planner --goals 200 --parts exact matmul decision success dinowm curve memory int8

Times are CPU time of one thread, which other programs on the machine hardly lengthen; actions that are compared are run
in turn, and ratios are of medians. Simulation time stands still during planning and no plan is cut short, so that
success does not depend on the machine; planning times are measured separately. Each part writes <part>.json, and
summary.json is made of all that are in the folder, so that parts can be run one by one.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import onnxruntime
import torch
from rich.progress import track

from benchmarks import reference
from benchmarks.dinowm import BESIDE, FEATURES, TOKENS, DinoWMShape
from benchmarks.measuring import (
    Graph,
    console,
    decision_ms,
    decisions_ms,
    in_turns,
    product_rate,
    products,
    quietly,
    reference_size,
    show,
    unhurried,
)
from benchmarks.open_loop import cem_planner, reach_open_loop
from lewm_model.bundle.bundle import Bundle, load_bundle, load_model
from lewm_model.config import PlanConfig, resource
from lewm_model.evaluation.figures import Figures, write_figures
from lewm_model.evaluation.statistics import Rate, compare, first_hit, held
from lewm_model.evaluation.success import PLANNERS
from lewm_model.evaluation.timing import _Loop
from lewm_model.models.lewm import LeWM
from lewm_model.models.objective import mean_and_final
from lewm_model.models.rollout import FastRollout
from lewm_model.planning.solvers import ELITES, HORIZON, ITERATIONS, SAMPLES, reference_cem
from lewm_model.runtime.equivalence import load_golden
from lewm_model.runtime.onnx_backend import OnnxRuntime
from lewm_model.sim.arm import ArmSim
from lewm_model.tasks.reach import NEAR
from lewm_model.tasks.task import Attempt, Outcome, Trial, attempt, baselines, draw_trials

PARTS = ("exact", "matmul", "decision", "success", "dinowm", "curve", "memory", "int8")
CANDIDATE_S = 5e-5  # about the CPU time of a candidate with the demo's model
PLANS = 10_000  # of the part "memory"
DEADLINES_S, DEADLINE_GOALS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5), 25  # of the part "curve"
# The settings of the robot, and the same search without early termination.
OURS = {"ours": PlanConfig(), "ours_all_iterations": PlanConfig(tolerated=0.0)}
DECISION_GOALS = 20  # of the part "decision"


# ---- the parts: each prints a table and returns its figures and further results --------------------------------------


@torch.inference_mode()
def exact(bundle: Bundle, out: Path, _: argparse.Namespace) -> tuple[Figures, dict[str, Any]]:
    """The reference's planner at the reference's size: its code and ours with the same noise."""
    model = reference_size()
    theirs, fast, graph = reference.counterpart(model), FastRollout(model), Graph(model, out)
    images = np.random.default_rng(0).integers(0, 256, (2, 224, 224, 3), np.uint8)
    pixels = reference.pixels(model, images[None])
    latents = model.encode(torch.from_numpy(images))
    now, goal = latents[:1].numpy(), latents[1].numpy()

    def solve() -> np.ndarray:
        solver = reference.solver(theirs, 2, 5, HORIZON, SAMPLES, ELITES, ITERATIONS, seed=0)
        info = {"pixels": pixels[:, :1], "goal": pixels[:, 1:], "action": torch.zeros(1, 1, 10)}
        return quietly(lambda: solver.solve(info))["actions"][0].numpy()

    def with_graph() -> np.ndarray:
        encoded = model.encode(torch.from_numpy(images)).numpy()
        return reference_cem(lambda c: graph.costs(encoded[:1], encoded[1], c), noise())

    def noise() -> Callable[[], np.ndarray]:
        generator = torch.Generator().manual_seed(0)
        return lambda: torch.randn(SAMPLES, HORIZON, 10, generator=generator).numpy()

    whole = {}
    for name, plan in (("reference", solve), ("graph", with_graph)):
        begin = time.process_time()
        whole[name] = plan(), time.process_time() - begin
    difference = float(np.abs(whole["graph"][0] - whole["reference"][0]).max())

    candidates = noise()()
    naive = {"pixels": pixels[:, None, :1].expand(1, SAMPLES, -1, -1, -1, -1), "goal": pixels[:, None, 1:]}
    naive["emb"], naive["goal_emb"] = (torch.from_numpy(x).expand(1, SAMPLES, 1, -1) for x in (now[0], goal))
    times = in_turns(
        {
            "stable-worldmodel, get_cost": lambda: theirs.get_cost(dict(naive), torch.from_numpy(candidates)[None]),
            "ours, PyTorch": lambda: fast(torch.from_numpy(now), None, torch.from_numpy(candidates)),
            "ours, ONNX Runtime": lambda: graph.costs(now, goal, candidates),
        }
    )
    slow, torch_ms, graph_ms = times.values()
    profile = profiled(lambda: fast(torch.from_numpy(now), None, torch.from_numpy(candidates)))
    before = profiled(lambda: theirs.get_cost(dict(naive), torch.from_numpy(candidates)[None]))
    show(
        f"one iteration: {SAMPLES} candidates x {HORIZON} blocks, 18 M parameters, 1 thread, CPU time",
        ("", "ms", "times the reference's speed"),
        [(name, value, slow / value) for name, value in times.items()],
    )
    show(
        f"a whole plan of {ITERATIONS} iterations, pictures encoded",
        ("", "s"),
        [(name, seconds) for name, (_, seconds) in whole.items()],
    )
    show(
        "where the time goes, share of it",
        ("", "reference", "ours, PyTorch"),
        [(name, before.get(name, 0.0), share) for name, share in profile.items()],
    )
    console.print(f"greatest difference of an action {difference:.2g}")
    figures: Figures = {
        "exact_ratio": (slow / graph_ms, "times"),
        "exact_ratio_torch": (slow / torch_ms, "times"),
        "exact_ratio_whole_plan": (whole["reference"][1] / whole["graph"][1], "times"),
        "exact_action_max_abs": (difference, "standard deviations of the actions"),
    }
    # A decision with the settings of the robot: a picture to encode, and three frames of context.
    robot = OURS["ours_all_iterations"]
    planner = _ReferenceSizeRuntime(bundle, model, Graph(model, out, frames=3))
    second = decision_ms(planner, robot, images, repeats=5) / 1e3
    console.print(
        f"one decision at this size with {robot.samples} x {robot.iterations} candidates: {second:.2f} s of CPU"
    )
    figures["reference_decision_s"] = (second, "s of CPU time, one thread")
    kept = {"times_ms": times, "profile_reference": before, "profile_ours": profile}
    return figures, kept


@torch.inference_mode()
def matmul(bundle: Bundle, out: Path, _: argparse.Namespace) -> tuple[Figures, dict[str, Any]]:
    """An iteration at the reference's size, compared with the matrix products in it alone."""
    model = reference_size()
    fast, graph = FastRollout(model), Graph(model, out)
    now, candidates = torch.randn(1, 192), torch.randn(SAMPLES, HORIZON, 10)
    shapes = products(fast, lambda: fast(now, None, candidates))
    rates = {shape: product_rate(*shape) for shape in sorted(set(shapes))}
    times = in_turns(
        {
            "ours, ONNX Runtime": lambda: graph.costs(now.numpy(), now[0].numpy(), candidates.numpy()),
            "ours, PyTorch": lambda: fast(now, None, candidates),
        }
    )
    rates = {shape: max(rate, product_rate(*shape)) for shape, rate in rates.items()}
    square = product_rate(1024, 1024, 1024)
    work = sum(math.prod(shape) for shape in shapes)
    bare_ms = sum(math.prod(shape) / rates[shape] for shape in shapes) * 1e3
    show(
        f"matrix products: {work / SAMPLES / 1e6:.1f} M multiply-adds a candidate, 1 thread, CPU time",
        ("", "ms", "share of the time that the matrix products alone need"),
        [
            *((name, value, bare_ms / value) for name, value in times.items()),
            ("matrix products of these shapes", bare_ms, 1.0),
            ("as many multiply-adds in a product 1024 x 1024 x 1024", work / square * 1e3, ""),
        ],
    )
    graph_ms, torch_ms = times.values()
    return {
        "gemm_fraction": (bare_ms / graph_ms, "share"),
        "gemm_fraction_torch": (bare_ms / torch_ms, "share"),
        "gemm_fraction_of_square": (work / square * 1e3 / graph_ms, "share"),
        "multiply_adds_a_candidate": (work / SAMPLES, "multiply-adds"),
    }, {"times_ms": times, "rates": {str(shape): rate for shape, rate in rates.items()}}


class _ReferenceSizeRuntime:
    """The robot's planner on the paper's network; actions and limits are those of the demo's bundle."""

    backend = "onnxruntime"

    def __init__(self, bundle: Bundle, model: LeWM, graph: Graph) -> None:
        self.bundle = replace(bundle, model=model.config, heads=(), calibration=None)
        self.model, self.graph, self.notes = model, graph, list[str]()

    @torch.inference_mode()
    def encode(self, image: np.ndarray) -> np.ndarray:
        return self.model.encode(torch.from_numpy(image)[None])[0].numpy()

    def rollout(
        self, context: np.ndarray, past_actions: np.ndarray, candidates: np.ndarray, goal: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        inputs = {"context": context, "past_actions": past_actions, "goal": goal}
        distances, latents = self.graph.session.run(
            None, {**inputs, "candidates": np.ascontiguousarray(candidates, np.float32)}
        )
        return distances, latents


def profiled(action: Callable[[], Any]) -> dict[str, float]:
    """Share of the time that each group of PyTorch operations takes."""
    kinds = {
        "aten::addmm": "products", "aten::mm": "products", "aten::bmm": "products", "aten::gelu": "GELU",
        "aten::native_layer_norm": "norms", "aten::mul": "sums and products of elements",
        "aten::add": "sums and products of elements", "aten::sub": "sums and products of elements",
        "aten::copy_": "copies and biases", "aten::cat": "copies and biases", "aten::stack": "copies and biases",
        "aten::_scaled_dot_product_flash_attention_for_cpu": "attention", "aten::sum": "attention",
        "aten::_softmax": "attention",
    }  # fmt: skip
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as found:
        action()
    times: dict[str, float] = dict.fromkeys([*dict.fromkeys(kinds.values()), "rest"], 0.0)
    for entry in found.key_averages():
        times[kinds.get(entry.key, "rest")] += entry.self_cpu_time_total
    return {name: value / sum(times.values()) for name, value in times.items()}


@torch.inference_mode()
def decision(bundle: Bundle, out: Path, options: argparse.Namespace) -> tuple[Figures, dict[str, Any]]:
    """With the demo's model: the reference's planner, its own code at its default budget, and the robot's planner."""
    model, runtime, frames = load_model(bundle), OnnxRuntime(bundle), load_golden(bundle).frames
    theirs = reference.planning_counterpart(model)
    pixels = reference.pixels(model, frames[None])
    info = {"pixels": pixels[:, :1], "goal": pixels[:, -1:], "action": torch.zeros(1, 1, bundle.model.block_dim)}
    solver = reference.solver(
        theirs, bundle.model.action_dim, bundle.model.frameskip, HORIZON, SAMPLES, ELITES, ITERATIONS, seed=0
    )
    graph = Graph(model, out)
    plan = cem_planner(lambda z, goal, candidates: graph.costs(z[None], goal, candidates), bundle.model.block_dim, 0)
    wanted = quietly(lambda: solver.solve(info))["actions"][0].numpy()
    found = plan(runtime.encode(frames[0]), runtime.encode(frames[-1]))
    difference = float(np.abs(found - wanted).max())
    times = in_turns(
        {
            "stable-worldmodel": lambda: quietly(lambda: solver.solve(info)),
            "its planner on our rollout": lambda: plan(runtime.encode(frames[0]), runtime.encode(frames[-1])),
        }
    )
    # How many iterations a decision of ours takes depends on where arm and goal are, so it is measured in the loop.
    with unhurried(), ArmSim() as sim:
        goals = draw_trials(NEAR, DECISION_GOALS, options.seed, sim)
        for name, config in OURS.items():
            with decisions_ms(runtime) as each:
                for number, goal in enumerate(goals):
                    attempt(goal, sim, runtime, config, options.seed + number)
            times[name] = float(np.mean(each))
    slow = times["stable-worldmodel"]
    show(
        f"one decision for the demo's arm, pictures encoded, 1 thread, CPU time; ours: mean on {DECISION_GOALS} goals",
        ("", "ms", "times the reference's speed"),
        [(name, value, slow / value) for name, value in times.items()],
    )
    console.print(f"with the same noise the exact planner's actions differ by {difference:.2g} at most")
    return {
        "decision_ratio": (slow / times["ours"], "times"),
        "decision_ratio_all_iterations": (slow / times["ours_all_iterations"], "times"),
        "decision_ms": (times["ours"], "ms of CPU time, one thread"),
        "decision_reference_ms": (slow, "ms of CPU time, one thread"),
        "decision_action_max_abs": (difference, "standard deviations of the actions"),
    }, {"times_ms": times}


class Contest:
    """The planners of the part "success" on one simulated arm; one in each process."""

    mine: Contest | None = None

    def __init__(self) -> None:
        torch.set_num_threads(1)
        self.sim, self.bundle = ArmSim(), load_bundle(resource("models", "reach"))
        self.runtime = OnnxRuntime(self.bundle)
        with TemporaryDirectory() as folder:
            self.graph = Graph(load_model(self.bundle), Path(folder))

    @torch.inference_mode()
    def outcomes(self, goal: Trial, seed: int) -> dict[str, Outcome]:
        found = {}
        with unhurried():
            for name, config in OURS.items():
                found[name] = attempt(goal, self.sim, self.runtime, config, seed).outcome
        plan = cem_planner(
            lambda z, goal, candidates: self.graph.costs(z[None], goal, candidates), self.bundle.model.block_dim, seed
        )
        return found | {"reference": reach_open_loop(goal, self.sim, self.runtime, plan)}


def one_trial(goal: Trial, seed: int) -> dict[str, Outcome]:
    Contest.mine = Contest.mine or Contest()
    return Contest.mine.outcomes(goal, seed)


def success(bundle: Bundle, out: Path, options: argparse.Namespace) -> tuple[Figures, dict[str, Any]]:
    """Held-out goals 25 control steps away, budget 50: the robot's planner and the reference's, on the same goals."""
    with ArmSim() as sim:
        goals = draw_trials(NEAR, options.goals, options.seed, sim)
        tolerance = NEAR.tolerance(sim)
        seeds = range(options.seed, options.seed + len(goals))
        with ProcessPoolExecutor(options.workers, get_context("spawn")) as pool:
            found = list(track(pool.map(one_trial, goals, seeds), "success", len(goals), console=console))
        outcomes = {name: [result[name] for result in found] for name in (*OURS, "reference")}
        outcomes |= dict(baselines(goals, sim, options.seed))
    rows, figures = [], Figures()
    for name, known in outcomes.items():
        end = Rate(sum(outcome.final_error <= tolerance for outcome in known), len(known))
        error = float(np.median([outcome.final_error for outcome in known])) * 1e3
        rows.append((name, str(held(known)), str(end), str(first_hit(known)), error))
        low, high = held(known).interval
        for key, value in (("", held(known).percent), ("_low", low), ("_high", high), ("_at_end", end.percent)):
            figures[f"success_held_{name}{key}"] = (value, "%")
    show(
        f"{options.goals} goals 25 control steps away, seed {options.seed}, 95 % intervals",
        ("", "held for the last 0.5 s", "at the end", "ever", "median error at the end, mm"),
        rows,
    )
    pair = compare("ours", "reference", list(zip(outcomes["ours"], outcomes["reference"], strict=True)))
    every = "ours_all_iterations"
    alike = compare("ours", every, list(zip(outcomes["ours"], outcomes[every], strict=True)))
    for each in (pair, alike):
        console.print(str(each), highlight=False)
    figures["success_held_more"] = (pair.difference[0], "points more than the reference")
    return figures, {"outcomes": {name: [asdict(outcome) for outcome in known] for name, known in outcomes.items()}}


@torch.inference_mode()
def dinowm(bundle: Bundle, out: Path, _: argparse.Namespace) -> tuple[Figures, dict[str, Any]]:
    """Planning with 196 tokens a frame and with one, both as in the authors' code: every frame at every step."""
    model, few = reference_size(), 2
    theirs, dino, fast = reference.counterpart(model), DinoWMShape().eval(), FastRollout(model)
    candidates = torch.randn(1, SAMPLES, HORIZON, 10)
    latent = torch.randn(1, SAMPLES, 1, 192)
    info = {"pixels": torch.zeros(1, SAMPLES, 1), "goal": torch.zeros(1, 1), "emb": latent, "goal_emb": latent}
    frame, beside = torch.randn(TOKENS, FEATURES), torch.randn(few, HORIZON, BESIDE)
    times = in_turns(
        {
            "DINO-WM's shape": lambda: dino.rollout(frame, beside),
            "LeWM, stable-worldmodel": lambda: theirs.get_cost(dict(info), candidates),
            "LeWM, ours": lambda: fast(latent[0, :1, 0], None, candidates[0]),
        },
        rounds=3,
    )
    each = dict(
        zip(times, (times["DINO-WM's shape"] / few, *(t / SAMPLES for t in list(times.values())[1:])), strict=True)
    )
    slow = each["DINO-WM's shape"]
    show(
        f"a candidate of {HORIZON} blocks ({few} candidates at once for DINO-WM's shape, {SAMPLES} for LeWM), CPU time",
        ("", "ms", f"s for a plan of {SAMPLES} x {ITERATIONS}, scaled", "ratio", "tokens in a frame"),
        [
            (name, value, value * SAMPLES * ITERATIONS / 1e3, slow / value, TOKENS if value == slow else 1)
            for name, value in each.items()
        ],
    )
    return {
        "dinowm_time_ratio": (slow / each["LeWM, stable-worldmodel"], "times"),
        "dinowm_time_ratio_ours": (slow / each["LeWM, ours"], "times"),
        "dinowm_token_ratio": (TOKENS / 1, "times"),
    }, {"ms_a_candidate": each}


def settings(longest_s: float) -> dict[str, list[PlanConfig]]:
    """The settings of each sampler on the curve, from fast to slow, up to `longest_s` estimated from CANDIDATE_S."""
    budgets = [(16, 1), (32, 1), (32, 3), (64, 3), (64, 6), (128, 10), (300, 30), (1000, 100)]
    allowed = [(s, i) for s, i in budgets if s * i * CANDIDATE_S <= longest_s]
    found = {
        sampler: [
            PlanConfig(sampler, samples=s, iterations=i, elites=max(2, s // 8), tolerated=0.0) for s, i in allowed
        ]
        for sampler in ("cem", "icem", "mppi")
    }
    found["proposal only"] = [PLANNERS["proposal"]]
    verified = PlanConfig(iterations=1, elites=2, tolerated=0.0)
    found["proposal + verify"] = [replace(verified, samples=s) for s in (4, 8, 16, 64, 256)]
    return found


def curve(bundle: Bundle, out: Path, options: argparse.Namespace) -> tuple[Figures, dict[str, Any]]:
    """Success against time for each sampler; slow settings are tried on fewer goals, as the intervals show."""
    runtime, frames = OnnxRuntime(bundle), load_golden(bundle).frames
    points: list[dict[str, Any]] = []
    with ArmSim() as sim, unhurried():
        drawn = draw_trials(NEAR, options.curve_goals, options.seed, sim)
        for name, configs in settings(options.longest).items():
            for config in configs:
                repeats = int(np.clip(2e5 / (config.samples * config.iterations), 3, 15))
                ms = decision_ms(runtime, config, frames, repeats)
                fewest = min(20 if ms < 1000 else 10, options.curve_goals)
                goals = int(np.clip(options.curve_goals * 40 / ms, fewest, options.curve_goals))
                results: list[Attempt] = [
                    attempt(goal, sim, runtime, config, options.seed + i) for i, goal in enumerate(drawn[:goals])
                ]
                found = [result.outcome for result in results]
                low, high = held(found).interval
                points.append(
                    {
                        "planner": name,
                        "samples": config.samples,
                        "iterations": config.iterations,
                        "ms": ms,
                        "goals": goals,
                        "held": held(found).percent,
                        "low": low,
                        "high": high,
                        "error_mm": float(np.median([outcome.final_error for outcome in found])) * 1e3,
                    }
                )
                console.print({key: round(v, 1) if isinstance(v, float) else v for key, v in points[-1].items()})
    show(
        "success against time: near goals held, CPU time of a decision",
        tuple(points[0]),
        [tuple(p.values()) for p in points],
    )
    deadlines = [under_deadline(runtime, seconds, drawn, frames, options.seed) for seconds in DEADLINES_S]
    show(
        "the robot's planner, as many iterations as a wall-clock deadline allows",
        tuple(deadlines[0]),
        [tuple(row.values()) for row in deadlines],
    )
    _plot(points, out / "curve.png")
    figures: Figures = {
        "curve_" + "_".join(str(p[k]) for k in ("planner", "samples", "iterations")).replace(" ", "_"): (p["held"], "%")
        for p in points
    }
    for row in deadlines:
        for name, unit in (("held", "%"), ("iterations", ""), ("most_iterations_over", "iterations")):
            figures[f"deadline_{row['deadline_ms']:g}_ms_{name}"] = (row[name], unit)
    return figures, {"points": points, "deadlines": deadlines}


def under_deadline(
    runtime: Any, deadline_s: float, goals: Sequence[Trial], frames: np.ndarray, seed: int
) -> dict[str, float]:
    """Iterations that fit into a deadline, the most by which a plan overran it, and the near goals held with it.

    The time of an iteration of 64 candidates is measured in the same process just before. The simulated arm waits for
    each command as long as a real one would, so a long deadline loses near goals.
    """
    config = replace(PlanConfig(), deadline_s=deadline_s, iterations=10**6, tolerated=0.0)
    repeats = int(np.clip(2.0 / deadline_s, 10, 50))
    with unhurried():
        one, more = (decision_ms(runtime, replace(config, sampler="cem", iterations=i), frames) for i in (1, 4))
    loop = _Loop(runtime, config, frames[-1])
    decisions = [loop.step(frames[i % len(frames)]) for i in range(repeats)]
    over_s = np.array([decision.plan_s for decision in decisions]) - deadline_s
    with ArmSim() as sim:
        tried = goals[:DEADLINE_GOALS]
        results = [attempt(goal, sim, runtime, config, seed + i).outcome for i, goal in enumerate(tried)]
    low, high = held(results).interval
    return {
        "deadline_ms": 1e3 * deadline_s,
        "iterations": float(np.median([decision.iterations for decision in decisions])),
        "over_ms": 1e3 * float(np.median(over_s)),
        "most_iterations_over": 1e3 * float(over_s.max()) / ((more - one) / 3),
        "goals": len(results),
        "held": held(results).percent,
        "low": low,
        "high": high,
    }


def _plot(points: list[dict[str, Any]], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    axes = pyplot.figure(figsize=(8, 4.5)).subplots()
    for name in dict.fromkeys(point["planner"] for point in points):
        mine = sorted((p for p in points if p["planner"] == name), key=lambda p: p["ms"])
        held_, low, high = (np.array([p[key] for p in mine]) for key in ("held", "low", "high"))
        axes.errorbar(
            [p["ms"] for p in mine],
            held_,
            np.maximum((held_ - low, high - held_), 0.0),
            fmt="o-",
            capsize=2,
            label=name,
        )
    axes.set(xscale="log", xlabel="time of a decision, ms", ylabel="near goals held, %", ylim=(0, 102))
    axes.grid(alpha=0.3)
    axes.legend()
    axes.figure.savefig(path, dpi=110, bbox_inches="tight")


def memory(bundle: Bundle, out: Path, options: argparse.Namespace) -> tuple[Figures, dict[str, Any]]:
    """Resident memory over many plans."""
    runtime, frames = OnnxRuntime(bundle), load_golden(bundle).frames
    loop = _Loop(runtime, replace(PlanConfig(), iterations=2, samples=16, elites=4), frames[-1])
    samples = []
    for number in track(range(options.plans), "memory", console=console):
        loop.step(frames[number % len(frames)])
        if number % (options.plans // 20 or 1) == 0:
            samples.append(_resident_mib())
    early, late = float(np.median(samples[2:6])), float(np.median(samples[-4:]))
    console.print(f"resident memory over {options.plans} plans: {early:.1f} MiB early, {late:.1f} MiB late")
    return {"memory_growth_mib": (late - early, "MiB")}, {"resident_mib": samples}


def _resident_mib() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def int8(bundle: Bundle, out: Path, _: argparse.Namespace) -> tuple[Figures, dict[str, Any]]:
    """The trained rollout with 8-bit weights, quantised by ONNX Runtime: speed, and whether the elites stay."""
    from onnxruntime.quantization import quantize_dynamic

    golden, path = load_golden(bundle), out / "rollout.int8.onnx"
    quantize_dynamic(
        str(bundle.path("onnx/rollout.onnx")), str(path), per_channel=True, reduce_range=True,
        op_types_to_quantize=["MatMul", "Gemm"],
    )  # fmt: skip
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    sessions = {
        name: onnxruntime.InferenceSession(str(p), options, providers=["CPUExecutionProvider"])
        for name, p in (("fp32", bundle.path("onnx/rollout.onnx")), ("int8", path))
    }
    path.unlink()
    inputs = {
        "context": golden.answers.latents[:1],
        "candidates": golden.candidates,
        "goal": golden.answers.latents[-1],
    }
    costs = {name: mean_and_final(s.run(None, inputs)[0]) for name, s in sessions.items()}
    elites = [set(np.argsort(cost)[:ELITES].tolist()) for cost in costs.values()]
    times = in_turns({name: partial(s.run, None, inputs) for name, s in sessions.items()}, rounds=15)
    shared = len(elites[0] & elites[1])
    show("8-bit weights, 300 candidates of the trained model", ("", "ms"), list(times.items()))
    console.print(f"{shared} of {ELITES} elites are the same")
    return {
        "int8_ratio": (times["fp32"] / times["int8"], "times"),
        "int8_shared_elites": (shared, f"of {ELITES}"),
    }, {"times_ms": times}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--goals", type=int, default=200, help="of the part success")
    parser.add_argument("--curve-goals", type=int, default=100, help="of each setting of the curve, at most")
    parser.add_argument("--longest", type=float, default=5.0, help="s that a decision of the curve may take, about")
    parser.add_argument("--plans", type=int, default=PLANS, help="of the part memory")
    parser.add_argument("--workers", type=int, default=2, help="processes of the part success")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("out/bench"))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    bundle = load_bundle(resource("models", "reach"))
    for part in options.parts:
        console.rule(part)
        figures, kept = globals()[part](bundle, options.out, options)
        changed = "".join(
            f" --{name.replace('_', '-')} {value}"
            for name, value in vars(options).items()
            if name not in ("parts", "out") and value != parser.get_default(name)
        )
        write_figures(
            options.out / "summary.json",
            {f"bench.{name}": found for name, found in figures.items()},
            f"python -m benchmarks.planner --parts {part}{changed}",
            keep=True,
        )
        (options.out / f"{part}.json").write_text(json.dumps(kept, indent=1) + "\n")


if __name__ == "__main__":
    main()
