# SPDX-License-Identifier: Apache-2.0
"""TensorRT engines of a bundle: built on the target, described by a manifest, checked before they are used.

    <bundle>/engines/<GPU>-sm<NN>-trt<version>-<precision>/
        manifest.json      what the engines were built from and for, and their numerical equivalence
        encoder.plan, rollout-64.plan, proposal.plan
    <bundle>/engines/timing-<GPU>-<version>.cache

Where the bundle's folder is not writable, they are in $XDG_CACHE_HOME/lewm_ros/<hash of the bundle>/.

An engine is used when its manifest fits GPU, TensorRT and ONNX graph, when it loads, and when it passes the check of
numerical equivalence (`lewm_model.runtime.equivalence`). Otherwise it is built again, with the reason in the notes.
fp16 is tried first; the manifest records a precision that fails the check, and the next one is tried.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import logging
import os
import re
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from lewm_model.bundle.bundle import Bundle, BundleError, sha256
from lewm_model.config import PlanConfig, cache_folder
from lewm_model.models.signature import PRECISIONS, onnx_file, signatures
from lewm_model.runtime import equivalence
from lewm_model.runtime.equivalence import Equivalence, Golden
from lewm_model.runtime.errors import RuntimeLoadError
from lewm_model.runtime.tensorrt.backend import EngineError, TensorRTRuntime, import_tensorrt
from lewm_model.runtime.tensorrt.builder import EngineBuildError, Progress, build_plan
from lewm_model.runtime.tensorrt.cuda import Cuda, Gpu

SCHEMA = 1  # of the manifest; engines with another one are built again
MANIFEST = "manifest.json"
MOST_WORKSPACE_BYTES = 2 << 30  # 2 GiB: a Jetson's GPU shares its memory with the CPU
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Manifest:
    """Description of a folder of engines."""

    gpu: str
    compute_capability: str
    multiprocessors: int  # differs between boards of one name, and engines do not run on fewer
    tensorrt: str
    precision: str
    onnx: dict[str, str]  # graph -> SHA-256 of its ONNX file
    plans: dict[str, dict[str, Any]] = field(default_factory=dict)  # name -> graph, samples, sha256, inputs, outputs
    equivalence: dict[str, float] = field(default_factory=dict)
    refused: str = ""  # why the check of numerical equivalence refused these engines; "" where they may be used
    build: dict[str, Any] = field(default_factory=dict)  # duration, reason and driver, for information
    schema: int = SCHEMA

    def mismatch(self, wanted: Manifest) -> str:
        """Why these engines are not the `wanted` ones; "" when they are."""
        for name, what in (
            ("schema", "manifest schema"),
            ("gpu", "GPU"),
            ("compute_capability", "compute capability"),
            ("multiprocessors", "GPU multiprocessors"),
            ("tensorrt", "TensorRT"),
            ("precision", "precision"),
        ):
            mine, here = getattr(self, name), getattr(wanted, name)
            if mine != here:
                return f"the engines were built for {what} {mine}, here it is {here}"
        if self.onnx != wanted.onnx:
            return "the engines were built from other ONNX graphs than the bundle's"
        return ""


class Engines:
    """The engines of one bundle on this machine's GPU.

    :param trt: the module `tensorrt`, or a replacement in tests.
    :param cuda_api: the module `cuda.bindings.runtime`, or a replacement in tests.
    :raises RuntimeLoadError: no TensorRT, no driver, no GPU, or a bundle without graphs.
    """

    def __init__(self, bundle: Bundle, trt: Any = None, cuda_api: Any = None) -> None:
        self.bundle = bundle
        self.trt = import_tensorrt() if trt is None else trt
        self._cuda_api = cuda_api
        cuda = Cuda(cuda_api)
        self.gpu: Gpu = cuda.gpu()
        cuda.release()
        try:
            self.golden: Golden = equivalence.load_golden(bundle)
        except BundleError as error:
            raise RuntimeLoadError(f"{error}; run `lewm export {bundle.folder}` where torch is installed") from error
        self.signatures = signatures(bundle.model, self.golden.horizon, bundle.heads)
        self.root = engine_root(bundle)

    def load(
        self,
        samples: tuple[int, ...] = (PlanConfig().samples,),
        precision: str = "auto",
        build: bool = True,
        rebuild: bool = False,
        progress: Progress | None = None,
    ) -> TensorRTRuntime:
        """The engines, checked and ready to run; builds what is missing or does not fit.

        :param samples: numbers of candidates to build engines for; existing engines are kept as they are.
        :param precision: "fp16", "fp32", or "auto" for the first of them that passes the check.
        :param build: whether to build engines; if not, missing ones are an error.
        :param rebuild: whether to build although the engines fit.
        :param progress: called while engines are built.
        :raises RuntimeLoadError: no precision gives usable engines; the message has the reason for each.
        """
        if precision not in ("auto", *PRECISIONS):
            raise RuntimeLoadError(f"the precision is {precision!r}; it must be auto, {', '.join(PRECISIONS)}")
        problems = []
        with self._locked():
            for one in PRECISIONS if precision == "auto" else (precision,):
                try:
                    runtime = self._load(one, samples, build, rebuild, progress)
                except (RuntimeLoadError, EngineBuildError, OSError) as error:
                    log.warning("%s engines are not used: %s", one, str(error))
                    problems.append(f"{one}: {error}")
                    continue
                runtime.notes[:0] = [f"not in use, {problem}" for problem in problems]
                return runtime
        raise RuntimeLoadError("no engine can be used; " + " | ".join(problems))

    def folder(self, precision: str) -> Path:
        gpu = re.sub(r"[^a-z0-9]+", "-", self.gpu.name.lower()).strip("-")
        capability = self.gpu.compute_capability.replace(".", "")
        return self.root / f"{gpu}-sm{capability}-trt{self.trt.__version__}-{precision}"

    def manifest(self, precision: str) -> Manifest:
        """The manifest that engines of this precision must have. Raises RuntimeLoadError where graphs are missing."""
        files = {graph: onnx_file(graph, precision) for graph in self.signatures}
        missing = [name for name in files.values() if name not in self.bundle.files]
        if missing:
            measured = self.bundle.evaluation.get(precision)
            refused = measured.get("problem") if isinstance(measured, dict) else None
            why = f", its export was refused: {refused}" if refused else "; run `lewm export` where torch is installed"
            raise RuntimeLoadError(f"the bundle has no {missing[0]}{why}")
        return Manifest(
            gpu=self.gpu.name,
            compute_capability=self.gpu.compute_capability,
            multiprocessors=self.gpu.multiprocessors,
            tensorrt=self.trt.__version__,
            precision=precision,
            onnx={graph: self.bundle.files[name] for graph, name in files.items()},
        )

    def _load(
        self, precision: str, samples: tuple[int, ...], build: bool, rebuild: bool, progress: Progress | None
    ) -> TensorRTRuntime:
        folder, wanted = self.folder(precision), self.manifest(precision)
        try:
            if rebuild:
                raise EngineError("a rebuild was asked for")
            found = read_manifest(folder)
            reason = found.mismatch(wanted)
            if reason:
                raise EngineError(reason)
            if found.refused:
                raise RuntimeLoadError(f"refused when built, {found.refused}; `lewm engine --rebuild` tries again")
            runtime = self._open(folder, found)
        except EngineError as error:
            if not build:
                raise RuntimeLoadError(f"{error}; run `lewm engine {self.bundle.folder}`") from error
            log.info("building %s engines for %s: %s", precision, self.gpu.name, error)
            return self._build(folder, wanted, samples, str(error), progress)
        checked = equivalence.measure(runtime, self.golden)
        if checked.problem:
            runtime.close()
            raise RuntimeLoadError(
                f"the engines in {folder} do not compute what they did when they were built, {checked.problem}; "
                "was the driver updated? `lewm engine --rebuild` builds them again"
            )
        return runtime

    def _open(self, folder: Path, manifest: Manifest) -> TensorRTRuntime:
        """Loads the engines of a manifest. Raises EngineError where they have to be built again."""
        plans = {}
        for name, entry in manifest.plans.items():
            path = folder / f"{name}.plan"
            if not path.is_file() or sha256(path) != entry["sha256"]:
                raise EngineError(f"{path} is missing or damaged")
            plans[str(entry["graph"]), int(entry["samples"])] = path.read_bytes()
        if {graph for graph, _ in plans} != set(self.signatures):
            raise EngineError(f"{folder} does not have an engine for each of the graphs {', '.join(self.signatures)}")
        for graph, samples in plans:
            if samples < 1 or (samples > 1 and not self.signatures[graph].dynamic):
                raise EngineError(f"{folder} has the {graph} engine for {samples} candidates, which it cannot take")
        cuda = Cuda(self._cuda_api)
        return TensorRTRuntime(self.bundle, self.golden.horizon, plans, self.trt, cuda, manifest.precision)

    def _build(
        self, folder: Path, wanted: Manifest, samples: tuple[int, ...], reason: str, progress: Progress | None
    ) -> TensorRTRuntime:
        begin = time.monotonic()
        cuda = Cuda(self._cuda_api)
        workspace = min(MOST_WORKSPACE_BYTES, cuda.free_bytes() // 2)
        cuda.release()
        folder.mkdir(parents=True, exist_ok=True)
        (folder / MANIFEST).unlink(missing_ok=True)  # it is written last, and engines without it are not used
        gpu = folder.name.rsplit("-", 1)[0]
        cache = self.root / f"timing-{gpu}.cache"
        timings = cache.read_bytes() if cache.is_file() else b""
        plans: dict[str, dict[str, Any]] = {}
        for graph, signature in self.signatures.items():
            onnx = self.bundle.path(onnx_file(graph, wanted.precision)).read_bytes()
            for count in sorted(set(samples)) if signature.dynamic else [1]:
                name = f"{graph}-{count}" if signature.dynamic else graph
                plan = build_plan(self.trt, onnx, signature, count, workspace, timings, progress)
                timings = plan.timing_cache
                (folder / f"{name}.plan").write_bytes(plan.data)
                fixed = signature.at(count)
                plans[name] = {
                    "graph": graph,
                    "samples": count,
                    "sha256": hashlib.sha256(plan.data).hexdigest(),
                    "inputs": [str(tensor) for tensor in fixed.inputs],
                    "outputs": [str(tensor) for tensor in fixed.outputs],
                }
        _replace(cache, timings)
        manifest = Manifest(**{**asdict(wanted), "plans": plans})
        runtime = self._open(folder, manifest)
        checked: Equivalence = equivalence.measure(runtime, self.golden)
        build = {"seconds": round(time.monotonic() - begin, 1), "reason": reason, "driver": self.gpu.driver}
        manifest = Manifest(
            **{**asdict(manifest), "equivalence": checked.as_dict(), "refused": checked.problem, "build": build}
        )
        _replace(folder / MANIFEST, (json.dumps(asdict(manifest), indent=1) + "\n").encode())
        if checked.problem:
            runtime.close()
            raise RuntimeLoadError(f"refused by the check of numerical equivalence, {checked.problem}")
        runtime.notes.append(f"built {wanted.precision} engines in {build['seconds']} s, because {reason}")
        return runtime

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Lets one process build and the others wait: camera node and planner node start at the same time."""
        self.root.mkdir(parents=True, exist_ok=True)
        with (self.root / ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def engine_root(bundle: Bundle) -> Path:
    """The folder of a bundle's engines: in the bundle, or in the user's cache where the bundle is not writable."""
    inside = bundle.folder / "engines"
    if os.access(inside if inside.is_dir() else bundle.folder, os.W_OK):
        return inside
    return cache_folder(sha256(bundle.folder / "model.json")[:16])


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a folder of engines. Raises EngineError where there is none or it cannot be read."""
    path = folder / MANIFEST
    if not path.is_file():
        raise EngineError(f"there are no engines in {folder}")
    try:
        manifest = Manifest(**json.loads(path.read_text()))
        for name, entry in manifest.plans.items():
            if not re.fullmatch(r"[a-z0-9-]{1,80}", name):
                raise ValueError(f"{name!r} is not a valid name of a plan")
            str(entry["graph"]), int(entry["samples"]), str(entry["sha256"])
    except (OSError, ValueError, TypeError, AttributeError, LookupError, ArithmeticError, RecursionError) as error:
        raise EngineError(f"{path} cannot be read ({type(error).__name__}: {error})") from error
    return manifest


def _replace(path: Path, data: bytes) -> None:
    """Writes a file atomically."""
    temporary = path.with_suffix(".part")
    temporary.write_bytes(data)
    os.replace(temporary, path)
