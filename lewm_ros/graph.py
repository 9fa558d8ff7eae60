# SPDX-License-Identifier: Apache-2.0
"""Starts nodes as processes, brings them up and talks to them, for the demo, validation and tests.

It does the work of a launch file where ROS 2's launch system need not be installed.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import math
import os
import random
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import rclpy
import yaml
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState, GetState
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.parameter import Parameter

from lewm_model.config import resource

SHARED_MEMORY = Path("/dev/shm")
FIRST_PORT, DOMAIN_PORTS = 7400, 250  # of domain 0, and per domain: the RTPS specification's PB and DG
STARTING_S = 10.0  # age up to which a segment may be of a process that has not locked it yet


class GraphError(RuntimeError):
    """A node ended, refused or did not answer; the message ends with the last lines of its log."""


def reserve_domain() -> socket.socket:
    """Sets ROS_DOMAIN_ID to one that no other process on this machine has reserved; closing the socket releases it.

    The socket's name is abstract, not a file: it needs no writable folder, is seen by all users and is freed with the
    process. Domains above 101 collide with the ephemeral ports of Linux, 0 is the default domain.
    """
    for domain in random.sample(range(1, 102), k=101):
        reserved = socket.socket(socket.AF_UNIX)
        try:
            reserved.bind(f"\0lewm_ros_domain_{domain}")
        except OSError:
            reserved.close()
            continue
        os.environ["ROS_DOMAIN_ID"] = str(domain)
        os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
        return reserved
    raise GraphError("every ROS domain (1 to 101) is reserved on this machine; wait for another demo or test to end")


def home_for_ros(spare: Path) -> None:
    """Sets ROS_HOME to `spare` where HOME is missing or not writable.

    ROS does not start without a folder for its logs.
    """
    if os.environ.get("ROS_HOME"):
        return
    own = Path(os.path.expanduser("~")) / ".ros"
    try:
        if not own.is_absolute():
            raise FileNotFoundError("no home")
        (own / "log").mkdir(parents=True, exist_ok=True)
        if os.access(own, os.W_OK) and os.access(own / "log", os.W_OK) and os.environ.get("HOME"):
            return
    except OSError:
        pass
    os.environ["ROS_HOME"] = str(spare)


def set_environment() -> None:
    """Sets environment variables for this process and the nodes, unless the user has. Call before rclpy.init."""
    profiles = str(resource("config", "fastdds.xml"))
    defaults = {
        "AMENT_PREFIX_PATH": sys.prefix,
        "RMW_IMPLEMENTATION": "rmw_fastrtps_cpp",
        "FASTRTPS_DEFAULT_PROFILES_FILE": profiles,
        "FASTDDS_DEFAULT_PROFILES_FILE": profiles,
        "OMP_NUM_THREADS": "1",
    }
    for name, value in defaults.items():
        os.environ.setdefault(name, value)


def end_with_parent() -> None:
    """Called in a child process: Linux then sends it SIGTERM when its parent ends, however that ends."""
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG


def free_shared_memory() -> None:
    """Removes what killed processes left of Fast DDS's shared memory: the ports of this ROS domain, at which a
    successor may receive nothing for seconds, and segments, of several MB each.

    Fast DDS's own tool is not used. It looks at the ports of all domains, and removes one of whose two locks one is
    free. A port has both for a moment while others look whether it is in use; its node then is never heard of again.
    """
    first = FIRST_PORT + DOMAIN_PORTS * int(os.environ.get("ROS_DOMAIN_ID") or 0)
    for file in SHARED_MEMORY.glob("fastrtps_*"):
        found = re.fullmatch(r"fastrtps_(?:port(\d+)|[0-9a-z]{16})", file.name)
        if found is None:
            continue
        port = found[1]
        with contextlib.suppress(OSError):  # removed meanwhile, in use, or another user's
            new = time.time() - file.stat().st_mtime < STARTING_S
            if new if port is None else not first <= int(port) < first + DOMAIN_PORTS:
                continue
            locks = [lock for end in ("el", "sl") if (lock := file.with_name(f"{file.name}_{end}")).exists()]
            for lock in locks:
                with lock.open("rb") as stream:
                    fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if locks:
                for left in (*locks, file, file.with_name(f"sem.{file.name}_mutex")):
                    left.unlink(missing_ok=True)


class Graph:
    """Processes of nodes, and `node` in this process to talk to them. A context manager that ends all at its exit.

    A node is named by its module, after its namespace if any: "camera_node", "left/camera_node". Callbacks of `node`
    run in `spin_until` and `call`, in the thread that calls those.

    :param simulated_time: whether `node` and all others take the time from /clock.
    """

    def __init__(self, name: str, logs: Path, simulated_time: bool = False) -> None:
        self.logs = logs
        self._clock = {"use_sim_time": True} if simulated_time else {}
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._commands: dict[str, list[str]] = {}  # command line of each node
        self._clients: dict[str, Any] = {}
        logs.mkdir(parents=True, exist_ok=True)
        free_shared_memory()
        home_for_ros(logs.resolve() / "ros_home")
        rclpy.init()
        clock = [Parameter(key, value=value) for key, value in self._clock.items()]
        self.node: Node = rclpy.create_node(name, parameter_overrides=clock)
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(self.node)

    def __enter__(self) -> Graph:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in self._processes.values():
            process.send_signal(signal.SIGINT)
        for process in self._processes.values():
            try:
                process.wait(timeout=5.0)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._executor.shutdown()
        self.node.destroy_node()
        rclpy.try_shutdown()

    def start(
        self,
        name: str,
        parameters: Mapping[str, Any],
        base: Path | None = None,
        remappings: Mapping[str, str] | None = None,
        package: str = "lewm_ros",
    ) -> None:
        """Starts the node as a process; its output goes to `<logs>/<name>.log`.

        :param parameters: by full name; they override those of the params file `base`.
        :param remappings: from topic and service names in the code of the node to new ones.
        :param package: of the node's module.
        """
        namespace, _, module = name.rpartition("/")
        file = self.logs / f"{name}.yaml"
        file.parent.mkdir(parents=True, exist_ok=True)
        values = {"/**": {"ros__parameters": {**self._clock, **parameters}}}
        file.write_text(yaml.safe_dump(values, default_flow_style=None))
        files = [argument for path in (base, file) if path for argument in ("--params-file", str(path))]
        names = {"__ns": f"/{namespace}", **(remappings or {})}
        remaps = [argument for old, new in names.items() for argument in ("--remap", f"{old}:={new}")]
        self.run(name, [sys.executable, "-m", f"{package}.{module}", "--ros-args", *files, *remaps])

    def run(self, name: str, command: list[str]) -> None:
        """Starts any other process like a node; its output goes to `<logs>/<name>.log`."""
        self._commands[name] = command
        (self.logs / f"{name}.log").unlink(missing_ok=True)
        self.start_again(name)

    def start_again(self, name: str) -> None:
        """Restarts a node that has ended, with the same arguments; its log is continued."""
        with (self.logs / f"{name}.log").open("ab") as log:
            self._processes[name] = subprocess.Popen(
                self._commands[name], stdout=log, stderr=subprocess.STDOUT, preexec_fn=end_with_parent
            )

    def kill(self, name: str) -> None:
        """Ends a node's process at once, without a chance to end in order (SIGKILL)."""
        self._processes[name].kill()
        self._processes[name].wait()
        free_shared_memory()  # now, since a second later others replace the ports that it had locked
        self.forget(name)

    def process(self, name: str) -> subprocess.Popen[bytes]:
        """The process of a node that was started."""
        return self._processes[name]

    def forget(self, name: str) -> None:
        """Removes a process that was ended on purpose, so that its end is no error; it can be started again."""
        del self._processes[name]

    def log(self, name: str) -> str:
        """What a node's process has printed so far."""
        return (self.logs / f"{name}.log").read_text(errors="replace")

    def spin_until(self, condition: Callable[[], Any], timeout_s: float, what: str) -> None:
        """Handles callbacks until the condition holds.

        :param what: what is waited for, for the error message.
        :raises GraphError: it does not hold within `timeout_s`, or a process ended.
        """
        end = time.monotonic() + timeout_s
        while not condition():
            for name, process in self._processes.items():
                if process.poll() is not None:
                    raise GraphError(f"{name} ended with {process.returncode}:\n{self._tail(name)}")
            if time.monotonic() > end:
                tails = "\n".join(f"--- {name}\n{self._tail(name)}" for name in self._processes)
                raise GraphError(f"waited {timeout_s} s for {what}; the nodes said:\n{tails}")
            self._executor.spin_once(timeout_sec=0.05)

    def spin_for(self, duration_s: float) -> None:
        """Handles callbacks for a while."""
        end = time.monotonic() + duration_s
        self.spin_until(lambda: time.monotonic() >= end, duration_s + 60.0, "time to pass")

    def call(
        self, kind: Any, services: Mapping[str, Any], timeout_s: float = 30.0, again_s: float = math.inf
    ) -> dict[str, Any]:
        """Calls services of one type at the same time: requests by service name -> responses by service name.

        :param again_s: calls again after this time without an answer; only for calls that may be made twice. The
            services of a killed node stay visible for a while, and a request to them is lost.
        :raises GraphError: no answer within `timeout_s`.
        """
        for name in services:
            self.spin_until(self._client(kind, name).service_is_ready, timeout_s, f"the service {name}")
        answers: dict[str, Any] = {}
        asked_s = -math.inf

        def answered() -> bool:
            nonlocal asked_s
            if time.monotonic() - asked_s > again_s or asked_s == -math.inf:
                asked_s = time.monotonic()
                for name in services.keys() - answers.keys():
                    future = self._client(kind, name).call_async(services[name])
                    future.add_done_callback(lambda done, name=name: answers.setdefault(name, done.result()))
            return len(answers) == len(services)

        self.spin_until(answered, timeout_s, f"an answer of {', '.join(services)}")
        return answers

    def _client(self, kind: Any, name: str) -> Any:
        if name not in self._clients:
            self._clients[name] = self.node.create_client(kind, name)
        return self._clients[name]

    def wait_for(self, *names: str, timeout_s: float = 30.0) -> None:
        """Waits until nodes answer. It asks repeatedly: the services of a killed node stay visible for a while, and a
        request to them is lost.
        """
        answered: set[str] = set()

        def ask() -> None:
            for name in set(names) - answered:
                self._client(ChangeState, f"/{name}/change_state")
                client = self._client(GetState, f"/{name}/get_state")
                if client.service_is_ready():
                    future = client.call_async(GetState.Request())
                    future.add_done_callback(lambda _, name=name: answered.add(name))

        timer = self.node.create_timer(0.2, ask)
        self.spin_until(lambda: answered >= set(names), timeout_s, f"{', '.join(names)} to answer")
        self.node.destroy_timer(timer)

    def change_state(self, transition: str, *names: str) -> list[str]:
        """Requests a lifecycle transition ("configure", "activate", ...) of nodes; returns those that refused."""
        number = getattr(Transition, f"TRANSITION_{transition.upper()}")
        requests = {f"/{name}/change_state": ChangeState.Request(transition=Transition(id=number)) for name in names}
        answers = self.call(ChangeState, requests)
        return [name for name in names if not answers[f"/{name}/change_state"].success]

    def bring_up(self, *names: str) -> None:
        """Configures and activates nodes.

        :raises GraphError: a node refused; with the end of its log.
        """
        self.wait_for(*names)
        for transition in ("configure", "activate"):
            refused = self.change_state(transition, *names)
            if refused:
                raise GraphError(f"{refused[0]} refused to {transition}:\n{self._tail(refused[0])}")

    def _tail(self, name: str) -> str:
        return "\n".join(self.log(name).splitlines()[-15:])
