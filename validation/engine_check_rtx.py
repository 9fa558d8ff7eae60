# SPDX-License-Identifier: Apache-2.0
"""The part of `make engine-check` that runs in .venv-rtx: builds with our code and the real `tensorrt_rtx`."""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import tensorrt_rtx as trt
from cuda.bindings import runtime

from lewm_model.config import ModelConfig, from_dict
from lewm_model.models.signature import Signature, signatures
from lewm_model.runtime.errors import RuntimeLoadError
from lewm_model.runtime.tensorrt import cuda
from lewm_model.runtime.tensorrt.backend import Engine
from lewm_model.runtime.tensorrt.builder import EngineBuildError, build_plan, make_logger


def signature(row: dict[str, Any]) -> Signature:
    return signatures(from_dict(ModelConfig, row["model"]), row["horizon"], row["heads"])[row["graph"]]


def build(folder: Path, row: dict[str, Any]) -> dict[str, Any]:
    """Builds one engine; `problem` is "" when that works."""
    steps: list[float] = []
    begin = time.monotonic()
    try:
        plan = build_plan(
            trt,
            (folder / row["file"]).read_bytes(),
            signature(row),
            row["samples"],
            progress=lambda _, share: steps.append(share),
        )
    except EngineBuildError as error:
        return {**row, "problem": str(error)}
    complete = len(plan.data) > 10_000 and steps and steps[-1] == 1.0
    problem = "" if complete else f"{len(plan.data)} bytes of engine, progress {steps[-1:]}"
    return {
        **row,
        "build_s": round(time.monotonic() - begin, 1),
        "engine_mb": round(len(plan.data) / 1e6, 1),
        "problem": problem,
    }


def refuse(name: str, says: list[str], action: Callable[[], Any]) -> dict[str, Any]:
    """Runs an action that must fail; `problem` is "" when it fails with a message that contains `says`."""
    try:
        action()
    except (EngineBuildError, RuntimeLoadError) as error:
        missing = [text for text in says if text not in str(error)]
        problem = f"the message does not say {missing}" if missing else ""
        return {"control": name, "message": str(error), "problem": problem}
    return {"control": name, "message": "", "problem": "it was not refused"}


def cuda_names() -> list[str]:
    """Checks that cuda-python has every function of CUDA's runtime that our code calls."""
    source = Path(cuda.__file__ or "").read_text()
    names = set(re.findall(r"\bcuda[A-Z]\w+", source)) - set(cuda.ADVICE)
    enumerations = (runtime.cudaError_t, runtime.cudaMemcpyKind, runtime.cudaStreamCaptureMode)
    known = set(dir(runtime)).union(*(set(dir(enumeration)) for enumeration in enumerations))
    return sorted(names - known)


def main() -> None:
    jobs_file, found_file = Path(sys.argv[1]), Path(sys.argv[2])
    if missing := cuda_names():
        sys.exit(f"cuda-python has no {', '.join(missing)}, which lewm_model/runtime/tensorrt/cuda.py uses")
    jobs = json.loads(jobs_file.read_text())
    folder = jobs_file.parent
    graphs = []
    for row in jobs["graphs"]:
        print(f"building {row['file']}", flush=True)
        graphs.append(build(folder, row))
    encoder = signatures(from_dict(ModelConfig, jobs["control_model"]), 1)["encoder"]

    def build_control(file: str) -> Callable[[], Any]:
        return lambda: build_plan(trt, (folder / file).read_bytes(), encoder)

    controls = [refuse(row["file"], row["says"], build_control(row["file"])) for row in jobs["controls"]]
    logger = make_logger(trt)
    deserialiser = trt.Runtime(logger)
    controls += [
        refuse(
            "an engine that does not deserialise",
            ["TensorRT does not read the encoder engine"],
            lambda: Engine(trt, deserialiser, logger, None, b"no engine", encoder),  # type: ignore[arg-type]
        ),
        refuse("cuda-python without a driver or GPU", ["cudaGetDeviceCount failed with cudaError"], cuda.Cuda),
    ]
    found_file.write_text(json.dumps({"version": trt.__version__, "graphs": graphs, "controls": controls}))


if __name__ == "__main__":
    main()
