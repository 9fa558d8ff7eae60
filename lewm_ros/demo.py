# SPDX-License-Identifier: Apache-2.0
"""The whole loop on this machine: a simulated arm and camera, camera node and planner node as three processes over DDS.

    python -m lewm_ros.demo --task reach --goals 10 --seed 0

For each goal the world is put at its start, the goal goes to `goal_image` as a picture and in no other form, the
planner is enabled, and the error is watched until the budget is over: that of the end effector in the joint states, or
of the object whose pose the simulator tells. The budget begins when the first command of the goal arrives on the wire.
A goal is held when the error stays within the task's tolerance in the last 0.5 s of the budget. The same starts and
goals are then given to an arm that holds still and to one that moves randomly, in the same simulator without ROS; when
reaching, some are given once more to a planner that looks and plans only while the arm rests.

Leaves summary.json, summary.png, velocity.png, demo.mp4, demo.png, failures/ and the nodes' logs in --out, or in a new
folder out/demo-DATE-TIME that out/demo leads to as soon as the run is complete: runs at the same time do not mix, and
one that is broken off changes nothing of an older one.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from lewm_model.bundle.bundle import BundleError, load_bundle
from lewm_model.bundle.verdict import verdict
from lewm_model.config import resource
from lewm_model.robot.observation import Observation
from lewm_model.tasks.registry import Suite, reach_in, suite_named
from lewm_model.tasks.task import Trial
from lewm_ros.graph import Graph, GraphError, reserve_domain, set_environment

LEAVES = ("summary.json", "summary.png", "velocity.png", "demo.mp4", "demo.png", "failures", "logs")
FILMED = 4  # goals of each kind that the film shows
STOPPING = 5  # one in so many goals is also tried by an arm that stops to plan
REST_S = 0.1  # that the arm stays where it was put before its start counts
PLACED_M = 0.002  # from where it was put, an object has come to rest there


def process_age_s() -> float:
    """How long ago this process was started, s."""
    with open("/proc/self/stat") as file:
        started_ticks = int(file.read().rpartition(")")[2].split()[19])
    with open("/proc/uptime") as file:
        uptime_s = float(file.read().split()[0])
    return uptime_s - started_ticks / os.sysconf("SC_CLK_TCK")


class Robot:
    """The demo's side of the topics: gives starts and goals, and remembers what the nodes say."""

    def __init__(self, graph: Graph, sim: Any, settle_s: float) -> None:
        from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
        from geometry_msgs.msg import PoseStamped
        from sensor_msgs.msg import Image, JointState
        from trajectory_msgs.msg import JointTrajectory

        from lewm_model.sim.world import side_by_side
        from lewm_ros.camera_node import LATCHED, NEWEST_FRAME
        from lewm_ros.command_topics import ARM, joined
        from lewm_ros.messages import joint_state_message, message_to_pose, nanoseconds
        from lewm_ros.sim_node import WORLD, topic_name

        names, objects = sim.names, sim.objects
        self.graph, self.names, self._settle_s = graph, names, settle_s
        self.commands: list[tuple[int, Any]] = []  # received ns, message
        self.joint_states: list[tuple[int, np.ndarray, np.ndarray]] = []  # stamp ns, rad, rad/s
        self.object_poses: dict[str, list[tuple[int, np.ndarray]]] = {name: [] for name in objects}  # stamp ns, (7,)
        cameras = side_by_side(sim.cameras, 1).cameras
        self.pictures: dict[str, list[Any]] = {camera.name: [] for camera in cameras}  # image messages
        self.plans: list[tuple[int, Any]] = []  # received ns, message
        self.imagined: list[tuple[int, Any]] = []  # the same
        self.status: dict[str, dict[str, str]] = {}  # newest diagnostics of each node
        self.frames_encoded: list[tuple[float, int]] = []  # (steady s, count), from each diagnostics of the camera node
        self.state = ""  # of the planner's shield
        self.resets = 0
        self._goal_ns = self.latent_ns = 0
        node = graph.node
        self._goals = node.create_publisher(Image, "goal_image", LATCHED)
        self._poses = node.create_publisher(JointState, "/sim_node/set_joint_state", 1)
        self._object_poses = {
            name: node.create_publisher(PoseStamped, f"/sim_node/{topic_name(name)}/set_pose", 1) for name in objects
        }
        self._joint_state_message = joint_state_message

        def on_joint_state(message: Any) -> None:
            order = [message.name.index(name) for name in names]
            self.joint_states.append(
                (
                    nanoseconds(message.header.stamp),
                    np.array(message.position)[order],
                    np.array(message.velocity)[order],
                )
            )

        halves: dict[int, dict[str, Any]] = {}  # by stamp, what of arm and gripper has arrived, by topic

        def on_command(topic: str, message: Any) -> None:
            stamp_ns = nanoseconds(message.header.stamp)
            parts = halves.setdefault(stamp_ns, {})
            parts[topic] = message
            if len(parts) == len(topics):
                self.commands.append((time.time_ns(), joined([parts[each] for each in topics])))
                del halves[stamp_ns]

        def on_object_pose(name: str, message: Any) -> None:
            self.object_poses[name].append((nanoseconds(message.header.stamp), message_to_pose(message, WORLD)))

        def on_goal_latent(message: Any) -> None:
            self._goal_ns = nanoseconds(message.header.stamp)

        def on_latent(message: Any) -> None:
            self.latent_ns = nanoseconds(message.header.stamp)

        def on_status(message: Any) -> None:
            self.state = {pair.key: pair.value for pair in message.values}["state"]

        def on_diagnostics(message: Any) -> None:
            for status in message.status:
                values = {pair.key: pair.value for pair in status.values}
                self.status[status.name] = values
                if "frames_encoded" in values:
                    self.frames_encoded.append((time.monotonic(), int(values["frames_encoded"])))

        topics = [ARM] if len(sim.parts) == 1 else [ARM, sim.robot.gripper.topic]
        for topic in topics:
            node.create_subscription(JointTrajectory, topic, partial(on_command, topic), 10)
        node.create_subscription(JointState, "joint_states", on_joint_state, 50)
        for name in objects:
            topic = f"/sim_node/{topic_name(name)}/pose"
            node.create_subscription(PoseStamped, topic, partial(on_object_pose, name), 50)
        node.create_subscription(Image, "goal_latent", on_goal_latent, LATCHED)
        node.create_subscription(Image, "latent", on_latent, NEWEST_FRAME)
        for camera in cameras:
            node.create_subscription(Image, camera.topic, self.pictures[camera.name].append, NEWEST_FRAME)
        node.create_subscription(
            JointTrajectory,
            "/planner_node/plan",
            lambda message: self.plans.append((time.time_ns(), message)),
            NEWEST_FRAME,
        )
        node.create_subscription(
            Image,
            "/planner_node/imagined",
            lambda message: self.imagined.append((time.time_ns(), message)),
            NEWEST_FRAME,
        )
        node.create_subscription(DiagnosticStatus, "/planner_node/status", on_status, LATCHED)
        node.create_subscription(DiagnosticArray, "/diagnostics", on_diagnostics, 10)

    def camera_rate_hz(self) -> float:
        """Frames that the camera node encoded in a second, over the whole run."""
        (began, first), (ended, last) = self.frames_encoded[0], self.frames_encoded[-1]
        return (last - first) / (ended - began)

    def enable(self, on: bool) -> str | None:
        """Arms or disarms the planner; returns why it refuses, or None."""
        from std_srvs.srv import SetBool

        answer = self.graph.call(SetBool, {"/planner_node/enable": SetBool.Request(data=on)})["/planner_node/enable"]
        return None if answer.success else str(answer.message)

    def place(self, joints: np.ndarray) -> None:
        """Disarms, lets the motion end, and puts the arm at rest at `joints` (A,) rad."""
        self.enable(False)
        # The planner says so after it has sent a last command, which may wait for the plan that it is making.
        self.graph.spin_until(lambda: self.state in ("disarmed", "stopped"), 10.0, "the planner to be disarmed")
        self.graph.spin_for(REST_S)  # that command may be on its way
        self.graph.spin_until(lambda: time.time_ns() > self._motion_end_ns(), 10.0, "the motion to end")
        self.commands.clear()
        self.joint_states.clear()
        message = self._joint_state_message(self.names, joints, np.zeros(len(joints)), time.time_ns())

        def there() -> bool:
            newest = self.joint_states[-1:]
            return any(np.abs(q - joints).max() < 1e-3 and np.abs(v).max() < 1e-2 for _, q, v in newest)

        self._poses.publish(message)
        self.graph.spin_until(there, 10.0, "the arm to be at its start")

    def place_object(self, name: str, pose: np.ndarray) -> None:
        """Puts an object at a pose (7,), at rest; after `place`, which puts all back where the world has them."""
        from lewm_ros.messages import pose_message
        from lewm_ros.sim_node import WORLD

        seen = self.object_poses[name]
        seen.clear()
        self._object_poses[name].publish(pose_message(pose, time.time_ns(), WORLD))
        self.graph.spin_until(
            lambda: seen and np.linalg.norm(seen[-1][1][:2] - pose[:2]) < PLACED_M,
            10.0,
            f"{name} to be at its start",
        )

    def _motion_end_ns(self) -> int:
        """When the arm rests, whichever of the commands it executes: a stop ends before the plan that it replaces."""
        from lewm_ros.messages import nanoseconds

        return max(
            (
                nanoseconds(message.header.stamp) + nanoseconds(message.points[-1].time_from_start)
                for _, message in self.commands
            ),
            default=0,
        )

    def forget(self) -> None:
        """Drops what the nodes have said until now, except the commands."""
        said: list[list[Any]] = [self.joint_states, self.plans, self.imagined]
        for kept in (*said, *self.object_poses.values(), *self.pictures.values()):
            kept.clear()

    def show_goal(self, picture: np.ndarray) -> None:
        """Sends a goal picture (H, W, 3) and waits until it is a latent, and so are frames of the arm at rest."""
        from lewm_ros.messages import rgb_to_message

        stamp_ns = time.time_ns()
        self._goals.publish(rgb_to_message(picture, stamp_ns))
        fresh_ns = stamp_ns + round(1e9 * (REST_S + self._settle_s))
        self.graph.spin_until(lambda: self._goal_ns == stamp_ns, 10.0, "the goal's latent")
        self.graph.spin_until(lambda: self.latent_ns >= fresh_ns, 20.0, "latents of the arm at its start")

    def stop_and_plan(self) -> None:
        """Configures the planner anew, to look and plan only while the arm rests."""
        from rcl_interfaces.srv import SetParameters
        from rclpy.parameter import Parameter

        self.enable(False)
        for transition in ("deactivate", "cleanup"):
            self.graph.change_state(transition, "planner_node")
        values = [Parameter("plan.while_moving", value=False).to_parameter_msg()]
        self.graph.call(SetParameters, {"/planner_node/set_parameters": SetParameters.Request(parameters=values)})
        self.graph.bring_up("planner_node")

    def go(self) -> int:
        """Enables and waits for the first command; returns when it arrived, ns.

        :raises GraphError: the planner refuses, or says nothing.
        """
        from std_srvs.srv import Trigger

        before, end_s = len(self.commands), time.monotonic() + 10.0
        refusal = self.enable(True)
        while refusal is not None:
            if time.monotonic() > end_s:
                raise GraphError(f"the planner refuses to be enabled: {refusal}")
            if "reset" in refusal:
                self.resets += 1
                self.graph.call(Trigger, {"/planner_node/reset": Trigger.Request()})
            else:
                self.graph.spin_for(0.1)  # a node that has just come up does not know all the others yet
            refusal = self.enable(True)
        self.graph.spin_until(lambda: len(self.commands) > before, 10.0, "the first command")
        return self.commands[before][0]


def run(
    suite: Suite, goals: int, seed: int, rate_hz: float, model: Path, out: Path, command: str, light: str = "constant"
) -> dict[str, Any]:
    """Runs the demo and returns what summary.json holds.

    :param goals: of each task of the suite.
    :param light: "changing": the simulated light, table and camera never rest; goal pictures show the world as it was.
    :raises GraphError: a node fails.
    :raises BundleError: the model cannot be loaded, was trained for another task, or is a NO-GO.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    bundle = load_bundle(model)
    bundle.must_be_for(suite.name)
    judged = verdict(bundle, suite.plan)
    if judged.no_go is not None:
        raise BundleError(f"{judged.no_go}. Train it on, or try another one")
    console = Console()
    reserved = reserve_domain()
    set_environment()
    with Graph(suite.demo, out / "logs") as graph, reserved:
        # The nodes start first: they load while this process imports, draws trials and makes its first picture.
        nodes_started_s = process_age_s()
        parameters = resource("config", suite.parameters)
        graph.start("sim_node", {"rate": rate_hz, "light": light, "world": str(suite.world_file)}, parameters)
        graph.start("camera_node", {"model": str(model)}, parameters)
        robot_file = {"robot": suite.robot} if suite.robot else {}
        graph.start("planner_node", {"model": str(model), "seed": seed, **robot_file}, parameters)
        from lewm_model.runtime.decoder import load_decoder
        from lewm_model.sim.arm import ArmSim
        from lewm_model.sim.pinhole import Pinhole
        from lewm_model.tasks.task import baselines, draw_trials
        from lewm_ros.demo_pictures import Film
        from lewm_ros.demo_report import Results, report

        with ArmSim(suite.world_file) as sim:
            robot = Robot(graph, sim, (bundle.model.history - 1) * bundle.actions.block_s)
            trials = {task.name: draw_trials(task, goals, seed, sim) for task in suite.tasks}
            main = trials[suite.tasks[-1].name]
            sim.render()
            graph.bring_up("sim_node", "camera_node", "planner_node")
            graph.spin_until(lambda: robot.joint_states and robot.latent_ns, 30.0, "joint states and latents")
            graph.start("panel_node", {"model": str(model), "port": 0})  # looks on, when the others are up
            panel = panel_addresses(graph)

            first_command_s = 0.0
            episodes = []
            stopping = main[: max(1, goals // STOPPING)] if suite.stopping else []
            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
            still = (suite.tasks[-1].name, suite.picture_s)
            seen = (bundle.observation, load_decoder(bundle), bundle.actions.block_s)
            film_of = (Pinhole.of_world(suite.world_file), sim, still, *seen)
            with Film(out / "demo.mp4", rate_hz, *film_of) as film, Progress(*columns, console=console) as progress:
                bar = progress.add_task("goals", total=goals * len(suite.tasks) + len(stopping))
                for name, number in ((name, i) for name in trials for i in range(goals)):
                    episode = pursue(robot, sim, bundle.observation, trials[name][number], number)
                    if address := next(panel, None):
                        progress.console.print(f"watch it in a browser while it runs: {address}", soft_wrap=True)
                    if not first_command_s and robot.commands:
                        first_command_s = process_age_s() - (time.time_ns() - robot.commands[0][0]) / 1e9
                    if number < FILMED:
                        film.add(episode)
                    episodes.append(episode)
                    good = [e.outcome.held for e in episodes if e.outcome and e.name == name]
                    progress.update(bar, advance=1, description=f"{name} {sum(good)}/{len(good)} held")
                    episode.frames, episode.plans, episode.imagined = episode.frames[-1:], [], []
                    episode.others = {}
                robot.enable(False)
                graph.spin_for(1.2)  # the last diagnostics
                status = {name: dict(values) for name, values in robot.status.items()}
                camera_rate_hz = robot.camera_rate_hz()
                if stopping:
                    robot.stop_and_plan()
                stopped = []
                for number, trial in enumerate(stopping):
                    stopped.append(pursue(robot, sim, bundle.observation, trial, number))
                    progress.update(bar, advance=1, description="stopping to plan")
            robot.enable(False)
            console.print("the same starts and goals without a planner ...", style="dim")
            outcomes = {(name, "planner"): [e.outcome for e in episodes if e.name == name] for name in trials}
            for name, some in trials.items():
                for policy, reached in baselines(some, sim, seed):
                    outcomes[name, policy] = list(reached)
            results = Results(
                suite=suite,
                light=light,
                episodes=episodes,
                stopped=stopped,
                outcomes=outcomes,
                limits=sim.limits,
                tolerance_m={task.name: task.tolerance(sim) for task in suite.tasks},
                diameter_m=2 * sim.reach_m,
                planner=status.get("planner_node", {}),
                camera=status.get("camera_node", {}),
                simulator=status.get("sim_node", {}),
                camera_rate_hz=camera_rate_hz,
                first_command_s=first_command_s,
                nodes_started_s=nodes_started_s,
                resets=robot.resets,
            )
    summary = report(results, console, out, command)
    if not any(episode.commands for episode in episodes):
        raise GraphError(f"the arm was never commanded: {episodes[0].note}")
    return summary


def panel_addresses(graph: Graph) -> Iterator[str | None]:
    """The address of the panel, once, as soon as it is known."""
    told = "the panel is at "
    while told not in (said := graph.log("panel_node")):
        yield None
    yield said.split(told)[1].split()[0]


def pursue(robot: Robot, sim: Any, observation: Observation, trial: Trial, number: int) -> Any:
    """Puts the world at the trial's start, shows its goal, enables, and waits until the budget is over.

    Returns the episode (lewm_ros.demo_pictures): what happened.
    """
    from lewm_model.planning.motion import Trajectory
    from lewm_model.sim.world import State
    from lewm_model.tasks.task import Outcome, score
    from lewm_ros.commanded import Command
    from lewm_ros.demo_pictures import Episode
    from lewm_ros.messages import message_to_array, message_to_rgb, message_to_trajectory, nanoseconds

    sim.put(trial.goal)
    # One camera's picture goes as the camera makes it, several as the model sees them.
    several = len(observation.cameras) > 1
    episode = Episode(trial, number, sim.picture(observation) if several else sim.render().copy())
    robot.place(trial.start.joints)
    for name, pose in trial.start.objects.items():
        robot.place_object(name, pose)
    robot.show_goal(episode.goal_picture)
    robot.forget()
    lost = Outcome(False, False, trial.before)  # of an arm that is never commanded
    try:
        begin_ns = robot.go()
    except GraphError as error:
        episode.outcome, episode.note = lost, str(error).splitlines()[0]
        return episode
    end_ns = begin_ns + round(1e9 * trial.budget_s)
    robot.graph.spin_until(
        lambda: robot.joint_states and robot.joint_states[-1][0] >= end_ns, trial.budget_s + 10.0, "the budget to pass"
    )
    for received_ns, message in robot.commands:
        if begin_ns <= received_ns <= end_ns:
            stamp_s = (nanoseconds(message.header.stamp) - begin_ns) / 1e9
            points = message_to_trajectory(message, robot.names)
            assert points.velocities is not None, "the planner sends velocities"
            trajectory = Trajectory(stamp_s + points.times_s, points.positions, points.velocities)
            episode.commands.append(Command((received_ns - begin_ns) / 1e9, trajectory))
    poses = {name: dict(robot.object_poses[name]) for name in trial.task.objects}  # by stamp, that of the joints
    seen = [
        (stamp, State(joints, {name: known[stamp] for name, known in poses.items()}))
        for stamp, joints, _ in robot.joint_states
        if all(stamp in known for known in poses.values())
    ]
    episode.times_s = np.array([(stamp - begin_ns) / 1e9 for stamp, _ in seen])
    episode.errors_m = np.array([trial.task.error(state, trial.goal, sim) for _, state in seen])
    try:
        episode.outcome = score(episode.times_s, episode.errors_m, trial.budget_s, trial.task.tolerance(sim))
    except ValueError as error:
        episode.outcome, episode.note = lost, str(error)
    seen_by = {
        name: [((nanoseconds(message.header.stamp) - begin_ns) / 1e9, message_to_rgb(message)) for message in messages]
        for name, messages in robot.pictures.items()
    }
    episode.frames, episode.others = seen_by.pop(sim.cameras[0].name), seen_by
    episode.imagined = [((at - begin_ns) / 1e9, message_to_array(message)[..., 0]) for at, message in robot.imagined]
    episode.plans = [
        ((at - begin_ns) / 1e9, np.array([point.positions for point in message.points])) for at, message in robot.plans
    ]
    return episode


def new_folder(shared: Path) -> Path:
    """A folder beside `shared` for the results of one run: its name with date and time."""
    stamped = f"{shared.name}-{time.strftime('%Y%m%d-%H%M%S')}"
    for name in (stamped, *(f"{stamped}-{i}" for i in range(2, 100))):
        with suppress(FileExistsError):
            (shared.parent / name).mkdir(parents=True)
            return shared.parent / name
    raise FileExistsError(f"{shared.parent} has 99 runs of this second; start again")


def emptied(out: Path) -> Path:
    """A folder without what an earlier run left there; whatever else it holds stays."""
    for name in LEAVES:
        path = out / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    out.mkdir(parents=True, exist_ok=True)
    return out


def lead_to(shared: Path, folder: Path) -> None:
    """Makes `shared` a link to the folder of a complete run, in one move."""
    if shared.is_dir() and not shared.is_symlink():  # of a version that wrote there
        shared.rename(new_folder(shared))
    link = folder.with_name(f"{folder.name}.link")
    link.symlink_to(folder.name)
    link.replace(shared)


@contextmanager
def ending_in_a_sentence() -> Iterator[None]:
    """Ends the program with the reason where a node fails or the model cannot be loaded."""
    try:
        yield
    except (GraphError, BundleError, FileNotFoundError) as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        sys.exit(130)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m lewm_ros.demo", description="A simulated arm does what goal pictures show, over real ROS 2."
    )
    parser.add_argument("--task", default="reach", help="reach, push or reach_SCENE (default reach)")
    parser.add_argument(
        "--scene", type=Path, help="scene file of yours, which a model of that --task reaches in (needs --model)"
    )
    parser.add_argument("--goals", type=int, default=10, help="goals of each kind of the task (default 10)")
    parser.add_argument("--seed", type=int, default=0, help="of the goals and of the planner (default 0)")
    parser.add_argument("--rate", type=float, default=20.0, help="camera pictures per second (default 20)")
    parser.add_argument(
        "--light", choices=("constant", "changing"), default="constant", help="changing: table and camera, too"
    )
    parser.add_argument("--model", type=Path, help="model bundle (default: the shipped one of the task)")
    parser.add_argument("--out", type=Path, help="folder for what it leaves (default: a new one)")
    options = parser.parse_args(arguments)
    if options.goals < 1 or options.rate <= 0:
        parser.error("--goals must be 1 or more and --rate above 0")
    try:
        suite = (
            suite_named(options.task) if options.scene is None else reach_in(options.task, str(options.scene.resolve()))
        )
    except ValueError as error:
        parser.error(str(error))
    if not suite.model and options.model is None:
        parser.error(f"no model is shipped for {suite.name}; give one with --model (of make: MODEL)")
    name = suite.demo.replace("_", "-")
    command = f"make {name} GOALS={options.goals} SEED={options.seed} RATE={options.rate:g}"
    if suite.robot:
        task, _, robot = suite.name.partition("_")
        command += f" ROBOT={robot} TASK={task}"
        name = f"{name}-{robot}-{task}"
    if options.light != "constant":
        command += f" LIGHT={options.light}"
        name += f"-{options.light}-light"
    if options.model:
        command = (
            f"python -m lewm_ros.demo --task {suite.name} --goals {options.goals} --seed {options.seed} "
            f"--light {options.light} --model {options.model}{f' --scene {options.scene}' if options.scene else ''}"
        )
    with ending_in_a_sentence():
        model = options.model or resource("models", suite.model)
        shared = Path("out") / name
        folder = emptied(options.out) if options.out else new_folder(shared)
        run(suite, options.goals, options.seed, options.rate, model.resolve(), folder, command, options.light)
        if not options.out:
            lead_to(shared, folder)


if __name__ == "__main__":
    main()
