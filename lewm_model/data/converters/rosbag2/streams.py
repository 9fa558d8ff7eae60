# SPDX-License-Identifier: Apache-2.0
"""Everything of a recording but the pixels: the messages of one arm and its cameras, in order, on one clock.

The stamps in the headers of pictures and joint states are that clock, as far as both agree, judged by when they were
recorded. Where a clock steps back, in the order of recording, a section of the recording ends: no episode reaches from
one section into the next.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from lewm_model.data.converters.columns import Columns
from lewm_model.data.converters.conversion import Conversion
from lewm_model.data.converters.rosbag2.files import CDR, LOST, TopicMessage, messages
from lewm_model.data.converters.rosbag2.messages import (
    COMMAND,
    COMPRESSED,
    IMAGE,
    LATEST_NS,
    MARKER,
    NS_PER_S,
    REFERENCE,
    STATE,
    Command,
    Frame,
    State,
    Topics,
    decoded,
    header_stamp_ns,
    is_image,
    is_reference,
    matches,
    obstacle,
    read,
    reference,
)
from lewm_model.data.converters.rosbag2.repeated import CommandReader, NamesReader, StateReader
from lewm_model.data.errors import DataError

CLOCKS = ("header", "recorder")
STEP_BACK_S = 0.1  # recorders write messages out of order by less, so a clock that goes back farther was set back
STATE_STEP_BACK_S = 0.01  # the same of joint states, which come from one publisher, in order
PAUSE_S = 2.0  # without any message: the recorder was paused, and what was commanded meanwhile is not known
# How far the camera's stamps may lie before and behind the arm's: more behind, because pictures take longer to arrive.
AHEAD_S, BEHIND_S = 0.1, 0.5
CLOCK_WINDOW = 20  # pictures over which the difference of the clocks is taken, as a median: single messages are late
# The types of messages that are converted, by what they are for.
ROLES = {"pictures": (IMAGE, COMPRESSED), "joint states": (STATE,), "commands": (COMMAND,)}

ANY = ("recorder", "")  # the recorder's clock on any topic
Moment = tuple[int, int]  # (number of the section, log_ns)


class Section(NamedTuple):
    """The messages of one arm and its cameras while no clock stepped back, on one clock."""

    frames: list[Frame]  # of the first camera
    others: list[list[Frame]]  # of each other camera
    joints: list[State]
    commands: list[Command]
    references: list[State]  # of the controller, positions (A,)


@dataclass
class Streams:
    """A recording's messages."""

    sections: list[Section]
    markers: list[tuple[Moment, str]]
    image_topics: list[str]  # of each camera

    @property
    def period_s(self) -> float:
        """Median time from picture to picture, s; 0.0 of fewer than two."""
        frames = [[frame for frame in one.frames if frame.stamp_ns >= 0] for one in self.sections]
        return _interval_s(frames, 0.5)

    @property
    def state_periods_s(self) -> tuple[float, float]:
        """Time from joint state to joint state, or of the controller's references if these are fewer, s: the median,
        and what 95 % do not exceed; 0.0 of fewer than two.
        """
        kinds = [one.joints for one in self.sections], [one.references for one in self.sections]
        usual, longest = ([_interval_s(kind, share) for kind in kinds] for share in (0.5, 0.95))
        return max(usual), max(longest)


def _interval_s(sections: Sequence[Sequence[Frame | State]], share: float) -> float:
    """The quantile of the times between stamps that follow one another, s; 0.0 of fewer than two."""
    intervals = np.concatenate([np.empty(0), *(np.diff([one.stamp_ns for one in some]) for some in sections)])
    return float(np.quantile(intervals[intervals > 0], share)) / NS_PER_S if (intervals > 0).any() else 0.0


def joint_names(files: Sequence[Path], topics: Topics) -> tuple[str, ...]:
    """The joints that most commands are for, else the controller's; () where neither was recorded."""
    counts: Counter[tuple[str, ...]] = Counter()
    controlled: tuple[str, ...] = ()
    orders: dict[tuple[str, ...], tuple[str, ...]] = {}
    read_names = NamesReader()
    for message in messages(files, wanted=lambda _, kind: kind in (COMMAND, REFERENCE)):
        role = _role(message, topics, ())
        if role == "command" and (found := read_names(message)):
            key = tuple(sorted(found))
            counts[key] += 1
            orders.setdefault(key, found)
        elif role == "reference" and not controlled:
            controlled = read_names(message)
    return orders[counts.most_common(1)[0][0]] if counts else controlled


def unused_commands(files: Sequence[Path]) -> dict[str, str]:
    """The topics that may hold commands, with why they cannot be used, "" where they can."""
    said = {message.topic: obstacle(message, [COMMAND]) for message in messages(files)}
    return {topic: why for topic, why in said.items() if why is not None}


def read_streams(
    source: Path,
    files: Sequence[Path],
    topics: Topics,
    images: Sequence[str],
    columns: Columns,
    clock: str,
    report: Conversion,
) -> Streams:
    """Reads a recording once; of the pictures only the stamps.

    :param source: the recording as the user calls it.
    :param images: topic of each camera.
    :param clock: one of CLOCKS.
    :raises DataError: a topic is missing or ambiguous, or clocks do not agree.
    """
    found = _collect(files, topics, images, columns, report)
    roles = _roles(found, topics, images, source, report)
    report.gaps += found.steps_back
    _check_joints(found, roles.state, columns, source)
    _prefer_whole(found, roles.state, report)
    sections = [_on_one_clock(one.section(roles), clock, source) for one in found.sections]
    return Streams(sections, found.markers[roles.marker], roles.images)


# ---- the roles of messages -------------------------------------------------------------------------------------------

_Kind = tuple[str, str, str, bool]  # topic, type, encoding and whether it can be decoded; all of a kind have one role


def _kind(message: TopicMessage) -> _Kind:
    return message.topic, message.type, message.encoding, message.decode is None


def _role(message: TopicMessage, topics: Topics, images: Sequence[str]) -> str:
    """What a message is converted to; "" for one that has no part in it. Compares names, so ask it once of a kind."""
    topic, kind = message.topic, message.type
    if message.encoding != CDR:
        return ""
    if any(is_image(message, image) for image in images):
        return "picture"
    if kind == STATE and matches(topic, topics.joint_states):
        return "joint state"
    if kind == COMMAND and matches(topic, topics.command):
        return "command"
    if kind == REFERENCE and message.decode is None and matches(topic, topics.reference):
        return "unread reference"
    if is_reference(message, topics):
        return "reference"
    return "marker" if kind == MARKER and matches(topic, topics.episode) else ""


# ---- all topics that could be meant ----------------------------------------------------------------------------------


class _Roles(NamedTuple):
    """The topics that are used; "" for what was not recorded."""

    images: list[str]
    state: str
    command: str
    reference: str
    marker: str


@dataclass
class _ByTopic:
    """The messages of a section, by topic, in order of recording."""

    frames: dict[str, list[Frame]] = field(default_factory=lambda: defaultdict(list))
    joints: dict[str, list[State]] = field(default_factory=lambda: defaultdict(list))
    commands: dict[str, list[Command]] = field(default_factory=lambda: defaultdict(list))
    references: dict[str, list[State]] = field(default_factory=lambda: defaultdict(list))
    lost: list[Command] = field(default_factory=list)  # where commands of any topic may have been lost

    def section(self, roles: _Roles) -> Section:
        """The messages of these topics."""
        first, *others = (self.frames[topic] for topic in roles.images)
        commands = sorted(self.commands[roles.command] + self.lost, key=lambda told: told.log_ns)
        return Section(first, others, self.joints[roles.state], commands, self.references[roles.reference])


@dataclass
class _Found:
    """What was found on all topics that could be meant."""

    sections: list[_ByTopic]
    markers: dict[str, list[tuple[Moment, str]]]
    seen: dict[str, dict[str, str]]  # role -> topic -> why it cannot be used, "" where it can
    steps_back: list[str]  # clocks that stepped back, in words


def _collect(
    files: Sequence[Path], topics: Topics, images: Sequence[str], columns: Columns, report: Conversion
) -> _Found:
    """Everything on topics that could be meant, and what else is there that a user may have meant."""
    found = _Found([_ByTopic()], defaultdict(list), {role: {} for role in ROLES}, [])
    numbers: Counter[str] = Counter()
    latest_ns: dict[tuple[str, str], int] = {}  # of each clock
    roles: dict[_Kind, str] = {}
    unread: set[str] = set()  # topics of controllers whose messages cannot be decoded
    lost = Command(0, 0, np.empty(0), np.empty((0, len(columns.names))), None)
    wanted_joints = columns.names + columns.held
    read_states, read_commands = StateReader(columns), CommandReader(columns)

    def follow(what: str, of: str, now_ns: int, slack_s: float) -> None:
        """Begins another section where a clock steps back by more than `slack_s`."""
        before_ns = latest_ns.get((what, of), now_ns)
        if now_ns >= before_ns:
            latest_ns[what, of] = now_ns
        elif (back_s := (before_ns - now_ns) / NS_PER_S) > slack_s:
            found.steps_back.append(f"the clock of the {what} on {of} went back by {back_s:.2f} s")
            found.sections.append(_ByTopic())
            latest_ns.clear()
            latest_ns[what, of] = now_ns

    for message in messages(files, report.problems):
        topic, log_ns = message.topic, message.log_ns
        if message.type == LOST:
            found.sections[-1].lost.append(lost._replace(log_ns=min(log_ns, LATEST_NS)))
            continue
        role = roles.get(kind := _kind(message))
        if role is None:
            role = roles[kind] = _role(message, topics, images)
            for what, wanted in ROLES.items():
                said = None if topic in found.seen[what] else obstacle(message, wanted)
                if said is not None:
                    found.seen[what][topic] = said
        plausible = 0 <= log_ns < LATEST_NS
        if plausible:
            newest_ns = latest_ns.get(ANY, log_ns)
            if log_ns - newest_ns > PAUSE_S * NS_PER_S:
                found.sections[-1].lost.append(lost._replace(log_ns=newest_ns))
            # Of each topic, since a file may hold one topic after the other, or repeat a latched message.
            follow("recorder", topic, log_ns, STEP_BACK_S)
            latest_ns[ANY] = max(log_ns, latest_ns.get(ANY, log_ns))
        if role == "picture":
            stamp_ns = -1  # a picture that cannot be read is still counted: pictures are numbered
            if plausible:
                try:
                    stamp_ns = header_stamp_ns(message.data)
                    follow("pictures", topic, stamp_ns, 0.0)
                except ValueError:
                    pass
            found.sections[-1].frames[topic].append(Frame(numbers[topic], log_ns, stamp_ns))
            numbers[topic] += 1
        elif role == "joint state":
            states = read_states(message, report.left_out)
            for each in states:
                positions, of = each.positions.tolist(), topic
                if sum(positions) != sum(positions):  # NaN: of some joints, by a node of its own
                    there = [name for name, at in zip(wanted_joints, positions, strict=True) if at == at]
                    of = f"{topic} of {', '.join(there)}"
                follow("joint states", of, each.stamp_ns, STATE_STEP_BACK_S)
                found.sections[-1].joints[topic].append(each)
            if not states and not found.seen["joint states"].get(topic):
                found.seen["joint states"][topic] = _joints_of(message)
        elif role == "command":
            found.sections[-1].commands[topic] += read_commands(message, report.left_out)
        elif role == "unread reference":
            unread.add(topic)
        elif role == "reference":
            found.sections[-1].references[topic] += read(message, reference, columns, report.left_out)
        elif role == "marker":
            moment = (len(found.sections) - 1, log_ns)
            texts = read(message, lambda fields, log_ns, columns: str(fields.data), columns, report.left_out)
            found.markers[topic] += [(moment, text) for text in texts]
    report.problems += [
        f"{topic} was not read, as the recording has no definition of its messages (SQLite of Humble has none, MCAP "
        "has): actions come from the commands, also where the controller was told otherwise"
        for topic in sorted(unread)
    ]
    return found


def _joints_of(message: TopicMessage) -> str:
    """Which joints a JointState message is of, in words; "" where it cannot be read."""
    names = getattr(decoded(message), "name", None)
    return f"of the joints {', '.join(map(str, names))}" if isinstance(names, list) and names else ""


# ---- the topics that are meant ---------------------------------------------------------------------------------------


def _roles(found: _Found, topics: Topics, images: Sequence[str], source: Path, report: Conversion) -> _Roles:
    """Which topics are used.

    :raises DataError: one is missing, or there are several that could be meant.
    """
    frames, joints, commands, references = (
        {topic for one in found.sections for topic in getattr(one, kind)}
        for kind in ("frames", "joints", "commands", "references")
    )
    image_topics = [_image_topic(frames, wanted, source, found.seen["pictures"], report) for wanted in images]
    state_topic = _only(joints, topics.joint_states, "joint states", source, found.seen["joint states"], report)
    command_topic = reference_topic = ""
    if references:
        reference_topic = _only(references, topics.reference, "controller states", source, {}, report)
        report.note(f"actions come from what the controller demanded of the arm, on {reference_topic}")
    if commands or not references:
        command_topic = _only(commands, topics.command, "commands", source, found.seen["commands"], report)
    marker = _only(found.markers, topics.episode, "episode markers", source, {}, report) if found.markers else ""
    return _Roles(image_topics, state_topic, command_topic, reference_topic, marker)


def _image_topic(found: set[str], wanted: str, source: Path, others: dict[str, str], report: Conversion) -> str:
    """The topic that a camera's pictures are on."""
    fitting = [topic for topic in found if matches(topic, wanted) or matches(topic, f"{wanted}/compressed")]
    raw = [topic for topic in fitting if not topic.endswith("/compressed")]  # raw pictures lost nothing to compression
    exact = [topic for topic in fitting if topic.strip("/") == wanted.strip("/")]
    chosen = _only(exact or raw or fitting, wanted, "pictures", source, others, report)
    if len(fitting) > 1:
        report.note(f"pictures: {chosen} was taken of {', '.join(sorted(fitting))}")
    return chosen


def _only(
    found: Iterable[str], wanted: str, what: str, source: Path, others: dict[str, str], report: Conversion
) -> str:
    """The one topic of a role: the only one, or the one with exactly the name `wanted`.

    :raises DataError: there is none, or more; lists those that were found, or `others`, with why they cannot be used.
    """
    topics = sorted(found)
    exact = [topic for topic in topics if topic.strip("/") == wanted.strip("/")]
    if len(topics) == 1:
        return topics[0]
    if exact:
        report.note(f"{what}: {exact[0]} was taken of {', '.join(topics)}")
        return exact[0]
    if topics:
        raise DataError(f"{source} has {what} on {' and '.join(topics)}; say which to take, with its whole name")
    listed = ", ".join(f"{topic} ({said})" if said else topic for topic, said in sorted(others.items()))
    raise DataError(f"{source} has no {what} on a topic {wanted!r}; of their type it has {listed or 'none'}")


def _check_joints(found: _Found, topic: str, columns: Columns, source: Path) -> None:
    """Raises DataError for joints that no message says the position of."""
    unknown = np.ones(len(columns.names + columns.held), bool)
    for one in found.sections:
        for each in one.joints[topic]:
            unknown &= np.isnan(each.positions)
    missing = [name for name, never in zip(columns.names + columns.held, unknown, strict=True) if never]
    if missing:
        others = [name for name in columns.names if name not in missing]
        raise DataError(
            f"{source}: the joint states on {topic} do not have {', '.join(missing)}; choose others, as with --joints "
            f"{','.join(others)}, or record a topic that has them and name it with --joint-states-topic"
        )


def _prefer_whole(found: _Found, topic: str, report: Conversion) -> None:
    """Leaves out the states of some joints where others on the topic have all of them."""
    states = [each for one in found.sections for each in one.joints[topic]]
    parts = sum(bool(np.isnan(each.positions).any()) for each in states)
    if 0 < parts < len(states):
        report.left_out["JointState messages: of some of the joints"] += parts
        for one in found.sections:
            one.joints[topic] = [each for each in one.joints[topic] if not np.isnan(each.positions).any()]


# ---- one clock -------------------------------------------------------------------------------------------------------


def _on_one_clock(section: Section, clock: str, source: Path) -> Section:
    """The same with stamps of one clock: those of the headers, or the times of arrival at the recorder.

    :raises DataError: the headers' stamps are of clocks that do not agree.
    """
    first, *others = (
        _of_one_camera(section._replace(frames=frames), clock, source) for frames in (section.frames, *section.others)
    )
    return first._replace(others=[other.frames for other in others])


def _of_one_camera(section: Section, clock: str, source: Path) -> Section:
    """`_on_one_clock` where only the first camera's frames count."""
    frames, others, joints, commands, references = section
    readable = [frame for frame in frames if frame.stamp_ns >= 0]
    if len(readable) < 2 or len(joints) < 2:
        return section
    advice = "or convert with --clock recorder, which goes by the time of arrival"
    pictures, states = (
        np.array([(one.log_ns, one.log_ns - one.stamp_ns) for one in some]) for some in (readable, joints)
    )  # (N, 2) ns: when they were recorded, and how long after their stamps
    without = [
        what
        for what, some in (("pictures", readable), ("joint states", joints))
        if some[0].stamp_ns == some[-1].stamp_ns
    ]
    if clock == "recorder":
        late_ns = 0 if "joint states" in without else int(np.median(states[:, 1]))
        return Section(
            [frame._replace(stamp_ns=frame.log_ns) if frame.stamp_ns >= 0 else frame for frame in frames],
            others,
            [one._replace(stamp_ns=one.log_ns) for one in joints],
            [told._replace(stamp_ns=told.stamp_ns + late_ns if told.stamp_ns and late_ns else 0) for told in commands],
            [one._replace(stamp_ns=one.log_ns) for one in references],
        )
    if without:
        raise DataError(
            f"{source}: the {' and the '.join(without)} have no stamps; let their driver write them, {advice}"
        )
    begin = pictures[0, 0]
    delays_ns = np.interp(pictures[:, 0] - begin, states[:, 0] - begin, states[:, 1])
    apart_s = (pictures[:, 1] - delays_ns) / NS_PER_S
    windows = np.array_split(apart_s, max(1, len(apart_s) // CLOCK_WINDOW))
    medians = [float(np.median(some)) for some in windows]
    worst = min(medians) if min(medians) < -AHEAD_S else max(medians)
    if not -AHEAD_S <= worst <= BEHIND_S:
        raise DataError(
            f"{source}: the camera's stamps lie {abs(worst):.2f} s {'ahead of' if worst < 0 else 'behind'} the arm's, "
            f"judged by when both were recorded; set both machines by one clock (chrony, PTP), {advice}"
        )
    return section
