# SPDX-License-Identifier: Apache-2.0
"""Fault injection with the shipped model over real DDS: `make faults`.

    python -m validation.faults --runs 50 --seed 0 [--only kill_camera --only nan_latent]

Simulated arm, camera node and planner node run as three processes. In every run a fault is injected while the arm moves
towards one of two distant goals. The fault lasts until its effect has been seen, or 4 s, and is then removed. Counted
are, for each fault:

- violations: published commands that violate a limit (`lewm_ros.safety.find_violation`) or jump from the one before,
  and joint states of the simulated arm outside its limits (by more than 0.02 rad, or 5 % of a speed). A command that
  was sent up to 0.15 s after it had diverged from the one before is counted separately, as a late command.
- late: where the fault must lead to a hold, more than 1.0 s from the injection until the commanded motion rests for as
  long as the fault lasts. That is the 0.5 s after which a frame is stale (shield.frame_timeout_s), and a stop from any
  speed.
- unrecovered: the arm does not move towards its goal again within 10 s after the fault was removed. A person helps only
  where the design requires it: a latched stop (also after a clock jump, or when the arm reappears elsewhere) is reset
  and enabled; a restarted planner is disarmed and is enabled. A killed node is restarted and brought up before the 10 s
  begin.
- uncommanded: the arm is commanded to move although its goal was cancelled or refused.
- largest step: the greatest jump of the simulated controller's command caused by one message, rad.
- unnamed: neither diagnostics nor ~/status named the cause while it lasted. A fault that needs no hold has to be named
  only where it led to a warning; a killed planner cannot name anything.

With --jobs 2 two sets of nodes run at the same time and share the faults; overload is run last, alone.

Writes summary.json, runs.jsonl (a line at the end of each run), failures.json with every run that failed one of these,
and the logs of the nodes.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from sensor_msgs.msg import Image, JointState
from std_msgs.msg import Header

from lewm_model.evaluation.figures import Figures, write_figures
from lewm_ros.camera_node import NEWEST_FRAME
from lewm_ros.graph import GraphError, end_with_parent, free_shared_memory
from lewm_ros.messages import latent_to_message, nanoseconds, time_message
from validation.rig import AT_GOAL_RAD, PARAMETERS, STEP_S, Rig, start_rig

POSES = np.array([[-1.6, 1.2], [1.6, -1.2]])  # rad, of the two goals
LATE_MS = 1000.0
RECOVERY_S = 10.0
PERSON_S = 1.0  # reaction time of a person
LONGEST_S = 4.0  # greatest duration of a fault
LOOK_S = 0.3  # how long a hold is watched before the fault is removed
MOVING_RAD_S = 0.4  # commanded speed at which a fault is injected
FAR_RAD = 1.2  # least distance from the goal at the injection
NEARER_RAD = 0.1  # decrease of the distance that counts as moving towards the goal
STEP_RAD = 0.005  # greatest jump of the controller's command that passes
HOGS = 2  # busy processes beside the nodes

End = Callable[[], None]


@dataclass(frozen=True)
class Fault:
    """A fault.

    :param inject: causes it, given the rig, a random generator and the number of the run; returns a function to end it.
    :param holds: whether the arm must come to rest.
    :param lasts_s: least duration.
    :param words: phrases, one of which in a warning or error names the cause; empty: it need not be named.
    :param person: what a person has to do afterwards: "" for nothing, "enable", or "reset" (and then enable).
    """

    name: str
    inject: Callable[[Rig, np.random.Generator, int], End]
    holds: bool
    words: tuple[str, ...] = ()
    person: str = ""
    lasts_s: float = 1.0
    commands: bool = False  # relay the commands, too
    quiet: bool = False  # inject at rest; the arm must not move until the fault is removed


@dataclass
class Run:
    """The observations of one injection. Times are seconds since the injection."""

    fault: str
    number: int
    seed: int
    hold_ms: float | None = None  # None: no rest while the fault lasted
    lasted_s: float = 0.0
    recovered_s: float | None = None  # since the fault was removed
    time_lost_s: float = 0.0  # by a simulation that could not keep up; its arm then lags behind its commands
    violations: list[str] = field(default_factory=list)
    late: bool = False
    late_commands: int = 0
    unnamed: bool = False
    uncommanded: bool = False
    step_rad: float = 0.0  # the largest of the simulated controller so far
    messages: list[tuple[float, str, int, str]] = field(default_factory=list)  # (time, node, level, text)
    note: str = ""
    start: int = 0  # number of the start of the nodes: their logs are in logs/<start>

    @property
    def failed(self) -> bool:
        bad = bool(self.violations) or self.late or self.unnamed or self.uncommanded or self.step_rad > STEP_RAD
        return bad or self.recovered_s is None


# ---- the faults ------------------------------------------------------------------------------------------------------


def kill(name: str) -> Callable[[Rig, np.random.Generator, int], End]:
    """Kills a node with SIGKILL; the fault ends with a new process, brought up."""

    def inject(rig: Rig, rng: np.random.Generator, number: int) -> End:
        rig.graph.kill(name)

        def end() -> None:
            rig.graph.start_again(name)
            rig.graph.bring_up(name)
            if name == "sim_node":  # it restarts with the arm at zero
                seen = rig.joints_seen
                rig.graph.spin_until(lambda: rig.joints_seen > seen + 2, 20.0, "joint states")

        return end

    return inject


def relayed(name: str, **options: float) -> Callable[..., End]:
    """A fault of the messages between simulation and nodes, made by the relay."""

    def inject(rig: Rig, rng: np.random.Generator, number: int) -> End:
        rig.disturb(name, int(rng.integers(2**31)), number, **options)
        return rig.pass_all

    return inject


def gripper_publishes(rig: Rig, rng: np.random.Generator, number: int) -> End:
    """A gripper's driver publishes its joint on joint_states, too."""
    return publishes_too(rig, ["finger"])


def zeros_published(rig: Rig, rng: np.random.Generator, number: int) -> End:
    """Another node publishes zeros for the joints of the arm."""
    return publishes_too(rig, list(rig.limits.names))


def publishes_too(rig: Rig, names: list[str]) -> End:
    node = rig.graph.node
    publisher = node.create_publisher(JointState, "joint_states", 10)

    def publish() -> None:
        publisher.publish(
            JointState(header=Header(stamp=time_message(time.time_ns())), name=names, position=[0.0] * len(names))
        )

    timer = node.create_timer(0.02, publish)

    def end() -> None:
        node.destroy_timer(timer)
        node.destroy_publisher(publisher)

    return end


def goal_resurrected(rig: Rig, rng: np.random.Generator, number: int) -> End:
    """The goal is cancelled; then the camera node is restarted, and the latched goal delivered to it again."""
    rig.trigger("cancel")
    rig.come_to_rest()
    rig.graph.kill("camera_node")
    rig.graph.start_again("camera_node")
    rig.graph.bring_up("camera_node")
    return lambda: rig.show_goal(rig.farthest_goal())


def bad_goal(rig: Rig, rng: np.random.Generator, number: int) -> End:
    """After a cancelled goal, an invalid one is sent: black, half a picture, other colours, noise."""
    rig.trigger("cancel")
    rig.come_to_rest()
    picture = rig.picture(rig.farthest_goal())
    if number % 4 == 0:
        picture[:] = 0
    elif number % 4 == 1:
        picture[len(picture) // 2 :] = 0
    elif number % 4 == 2:
        picture = picture[..., ::-1]
    else:
        picture = rng.integers(0, 256, picture.shape, dtype=np.uint8)
    rig.show_picture(np.ascontiguousarray(picture))
    return lambda: rig.show_goal(rig.farthest_goal())


def parameter_typo(rig: Rig, rng: np.random.Generator, number: int) -> End:
    """The planner is restarted with a misspelt parameter; it must not come up."""
    typo = ("deadman_buton", "Workspace.lower", "shield.frame_timeout", "planner_node.ros__parameters.seed")[number % 4]
    rig.graph.kill("planner_node")
    rig.graph.start("planner_node", {**rig.planner_parameters, typo: 5}, PARAMETERS)
    try:
        rig.graph.wait_for("planner_node")
        refused = bool(rig.graph.change_state("configure", "planner_node"))
    except GraphError:  # it ended with a sentence
        rig.graph.forget("planner_node")
        refused = True
    if not refused:
        rig.violations.append(f"the unknown parameter {typo} is accepted")

    def end() -> None:
        with contextlib.suppress(KeyError):
            rig.graph.kill("planner_node")
        rig.graph.start("planner_node", rig.planner_parameters, PARAMETERS)
        rig.graph.bring_up("planner_node")

    return end


def nan_latent(rig: Rig, rng: np.random.Generator, number: int) -> End:
    """Another node publishes NaN on `latent`, with the stamps of the camera node's frames."""
    node, size = rig.graph.node, rig.latent_size
    latents = node.create_publisher(Image, "latent", NEWEST_FRAME)

    def on_frame(message: Image) -> None:
        latents.publish(latent_to_message(np.full(size, np.nan), nanoseconds(message.header.stamp)))

    frames = node.create_subscription(Image, "camera/image_raw", on_frame, NEWEST_FRAME)

    def end() -> None:
        node.destroy_subscription(frames)
        node.destroy_publisher(latents)

    return end


def goal_change(rig: Rig, rng: np.random.Generator, number: int) -> End:
    """The goal changes while a plan for the previous one is being made, and twice more."""
    other = 1 - rig.goal
    for goal in (other, 1 - other, other):
        rig.show_goal(goal)
        rig.graph.spin_for(float(rng.uniform(0.03, 0.3)))
    return lambda: None


def overload(rig: Rig, rng: np.random.Generator, number: int) -> End:
    """Busy processes on the only processor left to camera and planner node.

    The simulated arm keeps the others, since a real arm's controller does not run on the planner's processor.
    """
    processors = os.sched_getaffinity(0)
    one = {min(processors)}
    nodes = [rig.graph.process(name).pid for name in ("camera_node", "planner_node")]
    command = [sys.executable, "-S", "-c", "while True: pass"]
    hogs = [subprocess.Popen(command, preexec_fn=end_with_parent) for _ in range(HOGS)]
    for pid in (*nodes, *(hog.pid for hog in hogs)):
        run_on(pid, one)

    def end() -> None:
        for hog in hogs:
            hog.kill()
        for hog in hogs:
            hog.wait()
        for pid in nodes:
            run_on(pid, processors)

    return end


def run_on(pid: int, processors: set[int]) -> None:
    """Pins every thread of a process to these processors."""
    for thread in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(ProcessLookupError):  # the thread has ended meanwhile
            os.sched_setaffinity(int(thread.name), processors)


def stop_pressed(rig: Rig, rng: np.random.Generator, number: int) -> End:
    rig.trigger("stop")
    return lambda: None


NO_FRAME = ("camera frame", "no frame")
FAULTS = (
    Fault("kill_sim", kill("sim_node"), True, (*NO_FRAME, "joint state"), "reset"),
    Fault("kill_camera", kill("camera_node"), True, NO_FRAME),
    Fault("kill_planner", kill("planner_node"), True, person="enable"),
    Fault("camera_stop", relayed("camera_stop"), True, NO_FRAME),
    Fault("camera_freeze", relayed("camera_freeze"), True, ("surprise",), lasts_s=2.5),  # to see whether it moves again
    Fault("camera_covered", relayed("camera_covered"), True, ("surprise",), lasts_s=2.5),
    Fault("thing_appears", relayed("thing_appears"), True, ("surprise",)),
    Fault("frame_loss", relayed("frame_loss"), False, lasts_s=2.0),
    Fault("frame_stalls", relayed("frame_stalls"), False, lasts_s=2.0),
    Fault("image_corrupt", relayed("image_corrupt"), True, ("bytes", "pixels")),
    Fault("image_encoding", relayed("image_encoding"), True, ("encoding",)),
    Fault("nan_latent", nan_latent, False, ("nan",)),
    Fault("joints_stop", relayed("joints_stop"), True, ("joint state",)),
    Fault("clock_jump", relayed("clock_jump"), True, ("clock", "stamp"), "reset"),
    Fault("commands_lost_1", relayed("commands_lost", share=0.01), False, lasts_s=2.0, commands=True),
    Fault("commands_lost_5", relayed("commands_lost", share=0.05), False, lasts_s=2.0, commands=True),
    Fault("commands_lost_30", relayed("commands_lost", share=0.3), False, lasts_s=2.0, commands=True),
    Fault("commands_late", relayed("commands_late"), False, lasts_s=2.0, commands=True),
    Fault("commands_reordered", relayed("commands_reordered"), False, lasts_s=2.0, commands=True),
    Fault("clock_still", relayed("clock_still"), True, ("clock", "stamp")),
    Fault("gripper_publishes", gripper_publishes, False, lasts_s=2.0),
    Fault("zeros_published", zeros_published, True, ("more than one node",)),
    Fault("goal_resurrected", goal_resurrected, False, lasts_s=2.0, quiet=True),
    Fault("bad_goal", bad_goal, False, ("goal",), lasts_s=2.0, quiet=True),
    Fault("parameter_typo", parameter_typo, True, person="enable"),
    Fault("goal_change", goal_change, False),
    Fault("overload", overload, False, lasts_s=2.0),
    Fault("stop_pressed", stop_pressed, True, ("stop",), "reset"),
)


def said(rig: Rig, begin_s: float) -> list[tuple[float, str, int, str]]:
    """The recent reports of the nodes: (s since `begin_s`, node, level, text)."""
    return [(round(r.time_s - begin_s, 2), r.node, r.level, r.message) for r in rig.reports]


# ---- one run ---------------------------------------------------------------------------------------------------------


def set_off(rig: Rig, rng: np.random.Generator) -> None:
    """Sends the arm towards the farther goal and waits until it moves.

    :raises GraphError: it does not move.
    """
    rig.show_goal(rig.farthest_goal())
    before = rig.distance_rad()

    def on_its_way() -> bool:
        left = rig.distance_rad()
        return rig.speed() > MOVING_RAD_S and FAR_RAD < left < before - NEARER_RAD

    rig.graph.spin_until(on_its_way, RECOVERY_S, "the arm to be on its way")
    rig.graph.spin_for(float(rng.uniform(0.0, 0.25)))  # any moment within an action block


def attempt(rig: Rig, fault: Fault, number: int, seed: int) -> Run:
    """One injection, from a moving arm to one that moves again.

    :raises GraphError: a node ended or does not answer, or the arm did not move before the fault.
    """
    run = Run(fault.name, number, seed)
    rng = np.random.default_rng((seed, number, zlib.crc32(fault.name.encode())))
    rig.violations.clear()
    set_off(rig, rng)
    begin_s, lost_s, late, step_rad = rig.now_s, rig.time_lost_s, rig.motion.late, rig.largest_step_rad
    rig.reports.clear()
    end = fault.inject(rig, rng, number)
    injected_s = rig.now_s

    def named() -> bool:
        return any(report.level and any(w in report.message.lower() for w in fault.words) for report in rig.reports)

    def seen() -> bool:
        now_s = rig.now_s
        if now_s - begin_s > LONGEST_S:
            return True
        if now_s - begin_s < fault.lasts_s or (fault.words and not named()):
            return False
        rest_s = rig.motion.rest_since(begin_s, now_s) if fault.holds else begin_s
        return rest_s is not None and now_s - rest_s > LOOK_S

    rig.graph.spin_until(seen, 2 * LONGEST_S, "a fault to be seen")
    removed_s = rig.now_s
    run.lasted_s = removed_s - begin_s
    run.uncommanded = fault.quiet and bool((rig.motion.speeds(np.arange(injected_s, removed_s, STEP_S)) > 0.0).any())
    rest_s = rig.motion.rest_since(begin_s, removed_s)
    run.hold_ms = None if rest_s is None else 1e3 * (rest_s - begin_s)
    run.late = fault.holds and (run.hold_ms is None or run.hold_ms > LATE_MS)
    if fault.words:
        run.unnamed = not named()
    else:
        # An arm that only turns round, or comes to the end of a plan, is at rest for a moment, too.
        held = rest_s is not None and removed_s - rest_s > LOOK_S
        held = held and rig.distance_rad() > AT_GOAL_RAD and not fault.quiet
        run.unnamed = not fault.holds and held and not any(report.level for report in rig.reports)
    end()

    if rig.distance_rad() < FAR_RAD / 2:
        rig.show_goal(1 - rig.goal)
    farthest, commands, asked_s = rig.distance_rad(), rig.commands_seen, rig.now_s

    def recovered() -> bool:
        nonlocal farthest, asked_s
        if fault.person and rig.speed() == 0.0 and rig.now_s - asked_s > PERSON_S:
            asked_s = rig.now_s
            refusal = rig.enable()
            if refusal and "reset" in refusal and fault.person == "reset":
                rig.trigger("reset")
                rig.enable()
        farthest = max(farthest, rig.distance_rad())
        nearer = rig.distance_rad() < farthest - NEARER_RAD
        return nearer and rig.commands_seen >= commands + 2 and rig.planner_state == "armed"

    try:
        rig.graph.spin_until(recovered, RECOVERY_S - (rig.now_s - removed_s), "the arm to move again")
        run.recovered_s = rig.now_s - removed_s
    except GraphError as error:
        run.note = str(error)
    run.violations = list(dict.fromkeys(rig.violations))
    run.late_commands = rig.motion.late - late
    run.time_lost_s = rig.time_lost_s - lost_s
    run.step_rad = rig.largest_step_rad if rig.largest_step_rad > step_rad else 0.0
    run.messages = said(rig, begin_s)
    return run


# ---- all of them -----------------------------------------------------------------------------------------------------


def measure(
    faults: Sequence[Fault],
    runs: int,
    seed: int,
    out: Path,
    console: Console,
    planner: Mapping[str, Any] | None = None,
) -> list[Run]:
    """Injects each fault `runs` times. The nodes are restarted only after a run without recovery, and where commands
    have to be relayed, or no longer.

    :param planner: parameters of planner_node that override those of config/plan.yaml.
    :raises GraphError: the nodes do not start.
    """
    jobs = [(fault, number) for fault in faults for number in range(runs)]
    out.mkdir(parents=True, exist_ok=True)
    (out / "runs.jsonl").unlink(missing_ok=True)
    done: list[Run] = []
    starts = 0
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as progress:
        bar = progress.add_task("faults", total=len(jobs))
        while len(done) < len(jobs):
            starts += 1
            commands, logs = jobs[len(done)][0].commands, out / "logs" / str(starts)
            with start_rig("faults", logs, POSES, seed, sensors=True, commands=commands, planner=planner) as rig:
                rig.show_goal(0)
                rig.arm()
                for fault, number in jobs[len(done) :]:
                    if fault.commands != commands:
                        break
                    progress.update(bar, description=fault.name)
                    try:
                        run = attempt(rig, fault, number, seed)
                    except GraphError as error:
                        run = Run(fault.name, number, seed, messages=said(rig, rig.now_s), note=str(error))
                    run.start = starts
                    done.append(run)
                    with (out / "runs.jsonl").open("a") as file:
                        file.write(json.dumps(asdict(run)) + "\n")
                    progress.advance(bar)
                    if run.failed:
                        console.print(f"{fault.name} {number}: {complaint(run)}", style="red", highlight=False)
                    if run.recovered_s is None:
                        break
    return done


def own_shared_memory() -> list[str]:
    """The beginning of a command line that gives a process and its children a /dev/shm of their own.

    Fast DDS numbers a part of its ports through all ROS domains, so that nodes of one set take those of another's
    killed nodes. Empty where this user may not make a mount namespace.
    """
    apart = ["unshare", "--mount", *(["--map-root-user"] if os.geteuid() else []), "sh", "-c"]
    apart += ['mount -t tmpfs tmpfs /dev/shm && exec "$@"', "sh"]
    with contextlib.suppress(OSError):
        if subprocess.run([*apart, "true"], stderr=subprocess.DEVNULL).returncode == 0:
            return apart
    return []


def measure_side_by_side(
    faults: Sequence[Fault], runs: int, seed: int, out: Path, console: Console, jobs: int
) -> list[Run]:
    """As `measure`, by `jobs` processes of this program, each with its own nodes and, where allowed, /dev/shm.

    :raises GraphError: one of them ended early.
    """
    loud = [fault for fault in faults if fault.inject is overload]  # it would affect the other processes, too
    quiet = [fault for fault in faults if fault not in loud]
    shares = [quiet[number::jobs] for number in range(jobs)]
    apart = own_shared_memory()
    done: list[Run] = []
    for batch in ([share for share in shares if share], [loud] if loud else []):
        folders = [out / f"job_{share[0].name}" for share in batch]
        processes = []
        for share, folder in zip(batch, folders, strict=True):
            only = [argument for fault in share for argument in ("--only", fault.name)]
            command = [*apart, sys.executable, "-m", "validation.faults", "--runs", str(runs), "--seed", str(seed)]
            command += ["--out", str(folder), *only]
            processes.append(subprocess.Popen(command, preexec_fn=end_with_parent))
        for process in processes:
            process.wait()
        for share, folder in zip(batch, folders, strict=True):
            file = folder / "runs.jsonl"
            lines = file.read_text().splitlines() if file.is_file() else []
            found = [Run(**json.loads(line)) for line in lines]
            if len(found) != len(share) * runs:
                raise GraphError(f"{folder} has {len(found)} of {len(share) * runs} runs; look at what it printed")
            done += found
    console.rule("together")
    return done


def complaint(run: Run) -> str:
    """What failed in a run, in a line; empty where nothing did."""
    hold = "not at rest" if run.hold_ms is None else f"at rest after {run.hold_ms:.0f} ms"
    parts = [
        *run.violations[:1],
        *([f"late: {hold}"] if run.late else []),
        *(["unnamed"] if run.unnamed else []),
        *(["moved uncommanded"] if run.uncommanded else []),
        *([f"a step of {run.step_rad:.4f} rad"] if run.step_rad > STEP_RAD else []),
        *([f"unrecovered: {run.note.splitlines()[0] if run.note else ''}"] if run.recovered_s is None else []),
    ]
    return "; ".join(parts)


def summarise(faults: Sequence[Fault], done: Sequence[Run], path: Path, command: str) -> dict[str, Any]:
    """Writes the figures, and a row for each fault; returns what the file holds."""
    rows: list[dict[str, Any]] = []
    for fault in faults:
        runs = [run for run in done if run.fault == fault.name]
        holds = [run.hold_ms for run in runs if fault.holds and run.hold_ms is not None]
        recoveries = [run.recovered_s for run in runs if run.recovered_s is not None]
        rows.append(
            {
                "fault": fault.name,
                "runs": len(runs),
                "hold_ms_p50": float(np.percentile(holds, 50)) if holds else None,
                "hold_ms_p99": float(np.percentile(holds, 99)) if holds else None,
                "recovered_s_p50": float(np.percentile(recoveries, 50)) if recoveries else None,
                "late": sum(run.late for run in runs),
                "violations": sum(bool(run.violations) for run in runs),
                "unrecovered": sum(run.recovered_s is None for run in runs),
                "unnamed": sum(run.unnamed for run in runs),
                "late_commands": sum(run.late_commands for run in runs),
                "uncommanded": sum(run.uncommanded for run in runs),
                "largest_step_rad": max((run.step_rad for run in runs), default=0.0),
            }
        )
    must_hold = {fault.name for fault in faults if fault.holds}
    holds = [run.hold_ms for run in done if run.fault in must_hold and run.hold_ms is not None]
    figures: Figures = {
        "faults.runs": (len(done), "injections"),
        "faults.kinds": (len(faults), "faults"),
        "faults.limit_violations": (sum(row["violations"] for row in rows), "runs"),
        "faults.late_holds": (sum(row["late"] for row in rows), "runs"),
        "faults.unrecovered": (sum(row["unrecovered"] for row in rows), "runs"),
        "faults.unnamed": (sum(row["unnamed"] for row in rows), "runs"),
        "faults.late_commands": (sum(row["late_commands"] for row in rows), "commands"),
        "faults.uncommanded_motions": (sum(row["uncommanded"] for row in rows), "runs"),
        "faults.largest_step_rad": (max(row["largest_step_rad"] for row in rows), "rad"),
        "faults.hold_ms_p50": (float(np.percentile(holds, 50)) if holds else None, "ms"),
        "faults.hold_ms_p99": (float(np.percentile(holds, 99)) if holds else None, "ms"),
    }
    return write_figures(path, figures, command, faults=rows)


def report(console: Console, summary: Mapping[str, Any]) -> None:
    """Prints the table."""
    table = Table(title=f"faults; a hold is late after {LATE_MS:.0f} ms from injection to commanded rest")
    counts = ("late", "violations", "unrecovered", "unnamed", "late_commands", "uncommanded")
    for column in (
        "fault",
        "runs",
        "held p50 ms",
        "p99 ms",
        *(name.replace("_", " ") for name in counts),
        "back p50 s",
    ):
        table.add_column(column, justify="left" if column == "fault" else "right")

    def text(value: float | None, form: str) -> str:
        return "-" if value is None else format(value, form)

    for row in summary["faults"]:
        table.add_row(
            row["fault"],
            str(row["runs"]),
            text(row["hold_ms_p50"], ".0f"),
            text(row["hold_ms_p99"], ".0f"),
            *(str(row[name]) for name in counts),
            text(row["recovered_s_p50"], ".1f"),
        )
    console.print(table)
    for figure in summary["figures"]:
        console.print(f"{figure['name']} {figure['value']} {figure['unit']}", highlight=False)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=50, help="injections of each fault (default 50)")
    parser.add_argument("--seed", type=int, default=0, help="of the injection times and the planner (default 0)")
    names = [fault.name for fault in FAULTS]
    parser.add_argument("--only", action="append", choices=names, help="this fault; may be repeated (default: all)")
    parser.add_argument("--jobs", type=int, default=1, help="sets of nodes at the same time (default 1)")
    parser.add_argument("--out", type=Path, default=Path("out/faults"), help="folder for the results")
    options = parser.parse_args(arguments)
    if options.runs < 1 or options.jobs < 1:
        parser.error("--runs and --jobs must be 1 or more")
    faults = [fault for fault in FAULTS if not options.only or fault.name in options.only]
    command = f"make faults RUNS={options.runs} SEED={options.seed}"
    if options.jobs > 1:
        command += f" JOBS={options.jobs}"
    if options.only:
        only = " ".join(f"--only {name}" for name in options.only)
        command = f"python -m validation.faults --runs {options.runs} --seed {options.seed} {only}"
    console = Console(width=None if sys.stdout.isatty() else 130)
    try:
        if options.jobs > 1:
            done = measure_side_by_side(faults, options.runs, options.seed, options.out, console, options.jobs)
        else:
            done = measure(faults, options.runs, options.seed, options.out, console)
    except GraphError as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        sys.exit(130)
    finally:
        free_shared_memory()
    summary = summarise(faults, done, options.out / "summary.json", command)
    failures = [run for run in done if run.failed]
    (options.out / "failures.json").write_text(json.dumps([asdict(run) for run in failures], indent=1) + "\n")
    report(console, summary)
    if failures:
        sys.exit(f"{len(failures)} runs failed; see {options.out}/failures.json")


if __name__ == "__main__":
    main()
