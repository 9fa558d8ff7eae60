# SPDX-License-Identifier: Apache-2.0
"""Conversion of typical recordings: test cases, detection of wrongly paired actions and pictures, and speed.

    make data-cases

- Cases: the tests of the converters, each a kind of recording that must be converted correctly or refused with a
  reason.
- Wrong pairings: how many of 200 recordings with a random defect are reported, and how many of 200 good ones. Each is
  made of random episodes of a simulated pool, with its own noise and light.
- Speed: frames per second from 640 x 480 JPEG to the model's picture, the median of several runs, compared with plain
  reading by rosbags; and the processor time of a frame, which other programs on the machine change less. The pictures
  are the demo's table and arm with a camera's noise, recorded as `lewm record` does.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import resource
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from mcap.writer import CompressionType
from mcap_ros2.writer import Writer
from rosbags.highlevel import AnyReader
from rosbags.typesys import Stores, get_typestore

from lewm_model.data.clips import Episodes, load_episodes
from lewm_model.data.converters.convert import convert
from lewm_model.data.pairing import pair
from lewm_model.evaluation.figures import Figures, write_figures
from lewm_model.sim.arm import ArmSim
from lewm_model.sim.collect import collect

CASES = ("test_bag.py", "test_lerobot.py", "test_hdf5.py", "test_data_report.py", "test_outputs.py", "test_pairing.py")
POOL, STEPS = 120, 60  # episodes, and steps of each
EPISODES = (10, 40)  # least and greatest number in a recording
SPEED_RUNS = 3
PERIOD_S, RATE_HZ = 10.0, 20.0  # of the motion in the recording whose conversion is timed, and of its camera
NOISE, QUALITY = 2.0, 90  # of the timed pictures: standard deviation in shades of 256, and JPEG's quality
SPOILS = ("lag", "swap", "sign", "unit", "mirrored", "other pictures")


class _Outcomes:
    """Counts the tests of a run."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.failed: list[str] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" or report.failed:
            self.counts["right" if report.passed else "wrong"] += 1
            if not report.passed:
                self.failed.append(report.nodeid)


def count_cases() -> _Outcomes:
    """Runs the tests of the converters."""
    outcomes, folder = _Outcomes(), Path(__file__).parent.parent / "test"
    pytest.main(["-q", "--no-header", *(str(folder / name) for name in CASES)], plugins=[outcomes])
    return outcomes


# ---- wrong pairings --------------------------------------------------------------------------------------------------


def draw(pool: Episodes, rng: np.random.Generator) -> Episodes:
    """A good recording: random episodes of the pool, with noise and light of its own."""
    count = int(rng.integers(*EPISODES, endpoint=True))
    chosen = rng.choice(len(pool.lengths), count, replace=False)
    rows = pool.rows(chosen)
    gain, offset, noise = rng.uniform(0.8, 1.2), rng.uniform(-15, 15), rng.uniform(0, 4)
    pixels = pool.pixels[rows].astype(np.float32)
    pixels = gain * pixels + offset + noise * rng.standard_normal(pixels.shape, dtype=np.float32)
    lengths = pool.lengths[chosen]
    assert pool.proprio is not None
    return replace(
        pool,
        pixels=pixels.clip(0, 255).astype(np.uint8),
        actions=pool.actions[rows],
        proprio=pool.proprio[rows],
        offsets=np.concatenate([[0], np.cumsum(lengths)[:-1]]),
        lengths=lengths,
    )


def spoil(data: Episodes, kind: str, rng: np.random.Generator) -> Episodes:
    """The recording with a defect of this kind."""
    actions, pixels = data.actions.copy(), data.pixels.copy()
    parts = [slice(o, o + n) for o, n in zip(data.offsets, data.lengths, strict=True)]
    some = rng.permutation(len(parts))[: max(2, round(len(parts) * rng.uniform(0.2, 0.8)))]
    if kind == "lag":  # wrong stamps: pictures too early, or far too late
        steps = int(rng.choice([-8, -6, -4, -3, -2, -1, 9, 10]))
        for part in parts:
            rows = np.arange(part.stop - part.start)
            pixels[part] = data.pixels[part][np.clip(rows - steps, 0, len(rows) - 1)]
    elif kind == "swap":
        actions = actions[:, np.roll(np.arange(actions.shape[1]), 1)]
    elif kind == "sign":
        actions[:, rng.integers(actions.shape[1])] *= -1
    elif kind == "unit":
        actions[:, rng.integers(actions.shape[1])] *= rng.choice([180 / np.pi, np.pi / 180, 100.0, 0.01])
    elif kind == "mirrored":
        for e in some:
            pixels[parts[e]] = pixels[parts[e]][:, :, ::-1]
    else:
        for e, other in zip(some, np.roll(some, 1), strict=True):
            length = min(data.lengths[e], data.lengths[other])
            pixels[parts[e].start : parts[e].start + length] = data.pixels[parts[other]][:length]
    return replace(data, actions=actions, pixels=pixels)


def wrong_pairings(pool: Episodes, count: int, seed: int) -> tuple[Figures, dict[str, list[str]]]:
    """Shares of defective and of good recordings that are reported, and a list of the errors."""
    rng = np.random.default_rng(seed)
    mistaken: dict[str, list[str]] = {"missed": [], "complained": []}
    made: Counter[str] = Counter()
    for i in range(count):
        good = draw(pool, rng)
        found = pair(good)
        if found.wrong:
            mistaken["complained"].append("; ".join(found.wrong))
        kind = SPOILS[i % len(SPOILS)]
        made[kind] += 1
        if not pair(spoil(draw(pool, rng), kind, rng)).wrong:
            mistaken["missed"].append(kind)
    missed = Counter(mistaken["missed"])
    figures: Figures = {
        "data.wrong_pairings_noticed": (100 * (1 - len(mistaken["missed"]) / count), "%"),
        "data.good_pairings_complained": (100 * len(mistaken["complained"]) / count, "%"),
    }
    figures |= {
        f"data.wrong_pairings_noticed.{kind.replace(' ', '_')}": (100 * (1 - missed[kind] / n), "%")
        for kind, n in made.items()
    }
    return figures, mistaken


# ---- speed -----------------------------------------------------------------------------------------------------------


def moving_pictures() -> list[bytes]:
    """JPEGs of one period of `angles_at`: the demo's table and arm at 640 x 480, with a camera's noise, as a camera
    driver compresses them.
    """
    rng, pictures = np.random.default_rng(0), []
    with ArmSim() as sim:
        sim.model.vis.global_.offwidth, sim.model.vis.global_.offheight = 640, 480
        sim.cameras = (replace(sim.cameras[0], width=640, height=480),)
        for i in range(round(PERIOD_S * RATE_HZ)):
            sim.reset(joint_positions=angles_at(i / RATE_HZ))
            seen = sim.render() + rng.normal(0.0, NOISE, (480, 640, 3))
            bgr = seen.clip(0, 255).astype(np.uint8)[..., ::-1]
            pictures.append(cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])[1].tobytes())
    return pictures


def angles_at(time_s: float) -> np.ndarray:
    """Shoulder and elbow, (2,) rad, in a motion that repeats itself."""
    turn = 2 * np.pi * time_s / PERIOD_S
    return np.array([0.8 * np.sin(turn) + 0.4 * np.sin(6 * turn), 0.5 + 0.8 * np.sin(2 * turn) * np.sin(5 * turn)])


def write_recording(path: Path, pictures: Sequence[bytes], frames: int) -> None:
    """A recording as `lewm record` writes it: pictures at 20 Hz, joint states at 100 Hz, a command every 0.25 s."""
    store = get_typestore(Stores.ROS2_JAZZY)
    texts = {
        name: store.generate_msgdef(name, ros_version=2)[0]
        for name in (
            "sensor_msgs/msg/CompressedImage",
            "sensor_msgs/msg/JointState",
            "trajectory_msgs/msg/JointTrajectory",
        )
    }
    with open(path, "wb") as stream:
        writer = Writer(stream, chunk_size=2**18, compression=CompressionType.LZ4)  # as in config/record_mcap.yaml
        kinds = {name: writer.register_msgdef(name, text) for name, text in texts.items()}

        def send(topic: str, kind: str, message: Mapping[str, object], at: float) -> None:
            ns = round(at * 1e9)
            writer.write_message(topic, kinds[kind], message, ns, ns)

        def header(at: float) -> dict[str, object]:
            ns = round(at * 1e9)
            return {"stamp": {"sec": ns // 10**9, "nanosec": ns % 10**9}, "frame_id": ""}

        names = ["shoulder", "elbow"]
        for i in range(frames):
            at = 1000.0 + i / RATE_HZ
            for k in range(5):
                t = at - 0.02 + 0.01 * k
                state = {"header": header(t), "name": names, "position": angles_at(t).tolist()}
                state |= {"velocity": [], "effort": []}
                send("/joint_states", "sensor_msgs/msg/JointState", state, t)
            if i % 5 == 0:
                points = []
                for k in range(31):
                    later = {"sec": 0, "nanosec": 20_000_000 * k}
                    point = {"positions": angles_at(at + 0.02 * k).tolist(), "velocities": [], "accelerations": []}
                    points.append({**point, "effort": [], "time_from_start": later})
                command = {"header": header(at), "joint_names": names, "points": points}
                send("/arm_controller/joint_trajectory", "trajectory_msgs/msg/JointTrajectory", command, at)
            message = {"header": header(at), "format": "jpeg", "data": pictures[i % len(pictures)]}
            send("/camera/image_raw/compressed", "sensor_msgs/msg/CompressedImage", message, at + 0.003)
        writer.finish()


def _timed_convert(path: Path, out: Path, size: int, queue: multiprocessing.Queue[tuple[float, ...]]) -> None:
    """Puts seconds, processor seconds, frames and peak memory in MB."""
    begin, begin_cpu = time.perf_counter(), time.process_time()
    report = convert([path], out, image_size=size)
    taken, busy = time.perf_counter() - begin, time.process_time() - begin_cpu
    queue.put((taken, busy, report.frames_used, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024))


def conversion_speed(folder: Path, frames: int, size: int) -> Figures:
    """Frames per second, memory for `frames` and for twice as many, and the speed of rosbags' plain reading."""
    context = multiprocessing.get_context("spawn")
    pictures = moving_pictures()
    peaks, runs = {}, []
    for count in (frames, *[2 * frames] * SPEED_RUNS):  # the speed of the longer one is reported
        path = folder / f"{count}.mcap"
        if not path.exists():
            write_recording(path, pictures, count)
            os.sync()  # a recording that somebody converts has been on the disk for a while
        queue: multiprocessing.Queue[tuple[float, ...]] = context.Queue()
        process = context.Process(target=_timed_convert, args=(path, folder / f"{count}.h5", size, queue))
        process.start()
        taken, busy, used, peaks[count] = queue.get()
        process.join()
        if count > frames:
            runs.append((used / taken, 1e3 * busy / used))
    reads = []
    for _ in range(SPEED_RUNS):
        begin, begin_cpu = time.perf_counter(), time.process_time()
        with AnyReader([folder / f"{2 * frames}.mcap"]) as reader:
            read = sum(connection.msgtype.endswith("CompressedImage") for connection, _, _ in reader.messages())
        taken, busy = time.perf_counter() - begin, time.process_time() - begin_cpu
        reads.append((read / taken, 1e3 * busy / read))
    speed, busy_ms = np.median(runs, axis=0).tolist()
    read_speed, read_ms = np.median(reads, axis=0).tolist()
    figures: Figures = {
        "data.convert_frames_per_s": (speed, "1/s"),
        "data.convert_processor_ms_per_frame": (busy_ms, "ms"),
        "data.rosbags_read_frames_per_s": (read_speed, "1/s"),
        "data.rosbags_read_processor_ms_per_frame": (read_ms, "ms"),
        "data.convert_share_of_read": (100 * speed / read_speed, "%"),
        "data.convert_jpeg_kb": (float(np.mean([len(picture) for picture in pictures])) / 1e3, "kB"),
    }
    figures["data.convert_peak_mb"] = (peaks[2 * frames], "MB")
    figures["data.convert_peak_growth"] = (peaks[2 * frames] / peaks[frames], "")
    return figures


def main() -> None:
    """Runs the parts and writes summary.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("out/data"), help="folder for summary.json")
    parser.add_argument("--parts", nargs="+", default=["cases", "pairings", "speed"], help="cases, pairings, speed")
    parser.add_argument("--recordings", type=int, default=200, help="defective recordings, and as many good ones")
    parser.add_argument("--frames", type=int, default=6000, help="of the recording whose conversion is timed, twice")
    parser.add_argument("--image-size", type=int, default=96, help="pixels of the model's picture")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    figures: Figures = {}
    others: dict[str, object] = {}
    if "cases" in arguments.parts:
        outcomes = count_cases()
        figures["data.cases_right"] = (outcomes.counts["right"], "")
        figures["data.cases"] = (sum(outcomes.counts.values()), "")
        others["cases_failed"] = outcomes.failed
    with tempfile.TemporaryDirectory(prefix="lewm_recordings_") as scratch:
        if "pairings" in arguments.parts:
            pool = Path(scratch) / "pool.h5"
            collect(pool, POOL, STEPS, arguments.seed, image_size=64, workers=2)
            found, mistaken = wrong_pairings(load_episodes(pool), arguments.recordings, arguments.seed)
            figures |= found
            others |= {"mistaken": mistaken}
        if "speed" in arguments.parts:
            figures |= conversion_speed(Path(scratch), arguments.frames, arguments.image_size)
    write_figures(arguments.out / "summary.json", figures, "make data-cases", keep=True, **others)
    for name, (value, unit) in figures.items():
        print(f"{name:45}{value:10.4g} {unit}")
    for what, some in others.items():
        print(what, some)


if __name__ == "__main__":
    main()
