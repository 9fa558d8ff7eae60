# SPDX-License-Identifier: Apache-2.0
"""Checks the panel's page in a headless Chromium, as people use it who see little or have no mouse, for
`validation.panel`.

The list of controls is taken from the page: one that is added and that `check` does not operate is a fault.
"""

from __future__ import annotations

import base64
import json
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import h5py
import numpy as np

from lewm_model.data.converters.rosbag2.files import read_messages
from lewm_ros.goals import GoalLibrary

SIZES = {"wide": (1400, 1500), "narrow": (390, 1800)}
THEMES = ("light", "dark")
CHROMIUM = "Debian's packages chromium and chromium-driver"
SCRIPT = Path(__file__).with_suffix(".js").read_text()
WAIT_S, LONG_S = 60.0, 240.0  # for an effect on a busy machine; for an examination of it, or a report
RECORDING = "before.h5"
# Keys as WebDriver has them.
BACKSPACE, TAB, ENTER, END, LEFT, UP, DOWN = "\ue003", "\ue004", "\ue007", "\ue010", "\ue012", "\ue013", "\ue015"
ROBOT_FILE = "joints:\n  shoulder: {lower: -2.6, upper: 2.6, velocity: 1.5, acceleration: 9.0, jerk: 150.0}\n"
ROBOT_FILE += "cameras:\n  above: {height: 64, width: 64}  # over the table\n"


@dataclass(frozen=True)
class Folders:
    """What a panel is started with that the check looks into."""

    goals: Path
    recordings: Path
    robot_file: Path
    out: Path

    @classmethod
    def make(cls, out: Path, pictures: list[np.ndarray]) -> Folders:
        """Empty ones but for goals, a robot file, and a recording of two episodes of three pictures."""
        folders = cls(out / "goals", out / "recordings", out / "robot.yaml", out)
        for folder in (folders.goals, folders.recordings):
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
        for i, picture in enumerate(pictures):
            cv2.imwrite(str(folders.goals / f"goal_{i}.png"), cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
        folders.robot_file.write_text(ROBOT_FILE)
        with h5py.File(folders.recordings / RECORDING, "w") as file:
            file["ep_len"], file["ep_offset"] = [3, 3], [0, 3]
            file["pixels"] = np.stack(pictures[:6])
            file.attrs["control_dt_s"] = 0.5
        return folders

    def parameters(self) -> dict[str, str]:
        """Of panel_node."""
        return {
            "goal_folder": str(self.goals.resolve()),
            "recordings": str(self.recordings.resolve()),
            "robot_file": str(self.robot_file.resolve()),
        }


class Page:
    """The page in a browser, operated by keyboard; what is wrong is collected in `faults`."""

    def __init__(self, driver: Any, out: Path) -> None:
        self.driver, self._out = driver, out
        self.faults: list[str] = []
        self.known: set[str] = set()  # controls that the page has had
        self.operated: set[str] = set()  # those with an effect that was seen
        self.screenshots: list[str] = []
        self._window = "wide, light"

    # ---- looking -----------------------------------------------------------------------------------------------------

    def js(self, expression: str) -> Any:
        """The value of a JavaScript expression in the page."""
        return self.driver.execute_script(f"{SCRIPT}; return ({expression});")

    def fault(self, text: str) -> None:
        """Notes a fault, once."""
        if text not in self.faults:
            print(f"fault: {text}", flush=True)
            self.faults.append(text)

    def until(self, condition: str, what: str, timeout_s: float = WAIT_S) -> bool:
        """Waits until a JavaScript condition holds in the page; it is a fault where it does not."""
        end = time.monotonic() + timeout_s
        while not self.js(condition):
            if time.monotonic() > end:
                said = self.js(
                    "[at('state').textContent, at('reason').textContent, at('notice').textContent].join('; ')"
                )
                self.fault(f"waited {timeout_s:g} s for {what}; the page says: {said}")
                return False
            time.sleep(0.05)
        return True

    def open(self, address: str, token: str) -> None:
        """Opens the page and waits for the first state and picture."""
        self.driver.get(f"{address}#token={token}")
        self.until("said !== null && said.state !== 'no planner'", "the state of the planner")
        self.until("at('camera').naturalWidth > 0", "the camera's picture")
        self.until("document.querySelector('#gallery button') !== null", "the gallery")

    def show(self, theme: str, size: str) -> None:
        """Sets the window. Not by the window's own size: Chromium makes no window narrower than 500 pixels."""
        width, height = SIZES[size]
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        feature = {"features": [{"name": "prefers-color-scheme", "value": theme}]}
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", feature)
        self._window = f"{size}, {theme}"
        time.sleep(0.5)  # until the curves are drawn anew, with the next state

    def look(self, name: str, whole: bool = False) -> None:
        """Takes a screenshot of the window or the whole page, and checks what can be seen without operating it."""
        for text in [*self.js("spilt()"), *self.js("faint()"), *self._nameless()]:
            self.fault(f"{name} ({self._window}): {text}")
        if whole:
            self.driver.execute_script("scrollTo(0, 0)")  # else the header would be in the midst of the picture
        taken = self.driver.execute_cdp_cmd("Page.captureScreenshot", {"captureBeyondViewport": whole})
        (self._out / f"{name}.png").write_bytes(base64.b64decode(taken["data"]))
        self.screenshots.append(f"{name}.png")

    def _nameless(self) -> list[str]:
        """Controls and pictures for which a screen reader has no name, by Chromium's accessibility tree."""
        marked = {found["number"]: found for found in self.js("mark()")}
        document = self.driver.execute_cdp_cmd("DOM.getDocument", {"depth": -1})
        tree = self.driver.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
        said = {n["backendDOMNodeId"]: n for n in tree if "backendDOMNodeId" in n and not n["ignored"]}
        names = {
            number: said.get(backend, {}).get("name", {}).get("value", "").strip()
            for number, backend in _marked(document["root"])
        }
        still = set(self.js("marked()"))
        return [
            f"{found['name']} has no name for a screen reader"
            for number, found in marked.items()
            if number in still and number in names and not names[number] and not found["decorates"]
        ]

    def check_tab(self) -> None:
        """Tab alone must reach every enabled control, and each must show that it has the keyboard."""
        wanted = {found["number"]: found["name"] for found in self.js("mark()") if found["tab"]}
        reached: set[int] = set()
        for _ in range(3 * len(wanted)):
            self.keys(TAB)
            found = self.js("focused()")
            if found is None:
                continue
            if found["number"] >= 0:
                reached.add(found["number"])
                for text in found["faults"]:
                    self.fault(f"{self._window}: {found['name']} {text}")
            else:
                self.fault(f"{self._window}: Tab leads to {found['name']}, which is no known control")
            if reached >= set(wanted):
                break
        for number in set(wanted) - reached:
            self.fault(f"{self._window}: Tab does not reach {wanted[number]}")

    # ---- operating ---------------------------------------------------------------------------------------------------

    def keys(self, keys: str) -> None:
        """Presses keys, wherever the keyboard is."""
        from selenium.webdriver import ActionChains

        ActionChains(self.driver).send_keys(keys).perform()

    def go(self, css: str) -> str:
        """Goes to a control by Tab alone; returns what it is called, "" where Tab does not lead there."""
        self.known |= set(self.js("controls()"))
        name = self.js(f"called(document.querySelector({json.dumps(css)}))")
        there = f"document.activeElement === document.querySelector({json.dumps(css)})"
        number = "tabbed().indexOf"
        to, at = self.js(f"[{number}(document.querySelector({json.dumps(css)})), {number}(document.activeElement)]")
        if to > at:
            self.keys(TAB * (to - at))
        for _ in range(200):
            if self.js(there):
                return str(name)
            self.keys(TAB)
        self.fault(f"{self._window}: Tab does not reach {name}")
        return ""

    def press(self, css: str, effect: str, keys: str = ENTER, timeout_s: float = WAIT_S) -> bool:
        """Goes to a control and presses keys (Enter); it is operated where the effect, a condition, comes."""
        if not (name := self.go(css)):
            return False
        self.keys(keys)
        good = self.until(effect, f"{effect} after {name}", timeout_s)
        if good:
            self.operated.add(name)
        return good

    def command(self, css: str, effect: str = "true", said: str = "", timeout_s: float = WAIT_S) -> bool:
        """Presses a button whose command panel_node notes in the events, as `said` and what it answers."""
        number, said = self.js("lastEvent"), said or css.split("=")[-1].strip("#]")
        noted = f"events.some((e) => e.number > {number} && e.text.startsWith({json.dumps(said + ': ')}))"
        return self.press(css, f"{noted} && ({effect})", timeout_s=timeout_s)

    def type(self, css: str, text: str, effect: str = "true") -> bool:
        """Replaces what is in a field; an empty text clears it."""
        quoted = json.dumps(css)
        if not (name := self.go(css)):
            return False
        self.driver.execute_script(f"document.querySelector({quoted}).select()")
        self.keys(text or BACKSPACE)
        wanted = f"document.querySelector({quoted}).value === {json.dumps(text)} && ({effect})"
        good = self.until(wanted, f"{wanted} after {name}")
        if good:
            self.operated.add(name)
        return good

    def arm(self, state: str = "armed") -> None:
        """Arms until the planner has a state, again and again: on a busy machine frames may be late, and it refuses."""
        end = time.monotonic() + WAIT_S
        while time.monotonic() < end:
            if not self.go("[data-command=arm]"):
                return
            self.keys(ENTER)
            waited = time.monotonic() + 3.0
            while time.monotonic() < waited:
                if self.js("said.state") == state:
                    self.operated.add("arm")
                    return
                time.sleep(0.05)
        self.fault(f"arm: the planner was not {state} within {WAIT_S:g} s; {self.js('at(`notice`).textContent')}")

    def finish(self) -> None:
        """What the browser complained about. A refusal (409) is an answer, which the page shows."""
        for line in self.driver.get_log("browser"):
            if line["level"] == "SEVERE" and "status of 409" not in line["message"]:
                self.fault(f"the browser says: {line['message']}")


def _marked(node: dict[str, Any]) -> Iterator[tuple[int, int]]:
    """Number in the page and in the accessibility tree of each marked element of a DOM tree."""
    attributes = node.get("attributes", [])
    pairs = dict(zip(attributes[::2], attributes[1::2], strict=True))
    if "data-check" in pairs:
        yield int(pairs["data-check"]), node["backendNodeId"]
    for child in node.get("children", []):
        yield from _marked(child)


@contextmanager
def opened(out: Path) -> Iterator[Page | None]:
    """A page in a headless Chromium; None where that is not installed."""
    chromium, chromedriver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or chromedriver is None:
        yield None
        return
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(chromedriver))
    try:
        driver.execute_cdp_cmd("Accessibility.enable", {})
        page = Page(driver, out)
        yield page
    finally:
        driver.quit()


def check(page: Page, folders: Folders) -> None:
    """Looks at the open page of a panel that nobody commands, and operates all but the dead-man's button."""
    for theme in THEMES:
        for size in SIZES:
            page.show(theme, size)
            page.look(f"{theme}-{size}")
    page.show("light", "wide")
    page.press("#take", "said.commander === me && !at('controls').disabled")
    if page.js("document.activeElement.id") != "give":
        page.fault("after the command is taken, the keyboard is not at the button that gives it back")
    page.press("#stop", "said.state === 'stopped'")
    page.command("[data-command=reset]", "said.state === 'disarmed'")
    _open_details(page)
    for size in SIZES:
        page.show("light", size)
        page.check_tab()
    page.show("light", "wide")
    for part in (_arm, _goals, _record, _recorded, _region, _sequence, _machine, _look_armed, _stop):
        print(f"panel: {part.__name__[1:]}", flush=True)
        part(page, folders)
    page.press("#give", "said.commander === null && at('controls').disabled")
    if page.js("document.activeElement.id") != "take":
        page.fault("after the command is given back, the keyboard is not at the button that takes it")
    page.finish()


def check_deadman(page: Page) -> None:
    """The dead-man's button of a panel and a planner that have one: the arm moves while Enter or a finger holds it."""
    page.show("light", "narrow")
    page.press("#take", "said.commander === me && !at('controls').disabled")
    page.command("[data-command=reset]", "said.state === 'disarmed'")
    page.look("deadman")
    page.command("#gallery button", "true", "goal")
    name = page.go("#deadman")
    with _enter(page):
        page.until("said.held && at('deadman').getAttribute('aria-pressed') === 'true'", "the button to be held")
    page.until("!said.held", "the dead-man's button to be let go")
    page.arm("holding")
    page.go("#deadman")
    good = _moves_while_held(page, _enter, "Enter")
    page.command("#gallery button:nth-of-type(2)", "true", "goal")
    if _moves_while_held(page, _finger, "a finger") and good:
        page.operated.add(name)
    page.finish()


@contextmanager
def _enter(page: Page) -> Iterator[None]:
    """The Enter key is down, wherever the keyboard is."""
    from selenium.webdriver import ActionChains

    ActionChains(page.driver).key_down(ENTER).perform()
    yield
    ActionChains(page.driver).key_up(ENTER).perform()


@contextmanager
def _finger(page: Page) -> Iterator[None]:
    """A finger is on the dead-man's button, at first; then it slides over its edge, as fingers do."""
    page.driver.execute_script("document.getElementById('deadman').scrollIntoView({block: 'center'})")
    box = page.js("at('deadman').getBoundingClientRect().toJSON()")
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2

    def touch(kind: str, *points: dict[str, float]) -> None:
        page.driver.execute_cdp_cmd("Input.dispatchTouchEvent", {"type": kind, "touchPoints": list(points)})

    touch("touchStart", {"x": x, "y": y})
    touch("touchMove", {"x": x, "y": box["bottom"] + 20.0})
    yield
    touch("touchEnd")


def _moved(page: Page) -> str:
    """A JavaScript condition: a joint is elsewhere than now, by more than 0.05 rad."""
    where = page.js("said.joints.map((joint) => joint.position)")
    return f"said.joints.some((joint, i) => Math.abs(joint.position - {json.dumps(where)}[i]) > 0.05)"


def _moves_while_held(page: Page, hold: Callable[[Page], AbstractContextManager[None]], what: str) -> bool:
    """Whether the arm, which is armed and holds, moves while the dead-man's button is held, and then holds again."""
    moved = _moved(page)
    with hold(page):
        good = page.until(moved, f"the arm to move while {what} holds the dead-man's button")
    let_go = "!said.held && at('state').textContent === 'holding'"
    return page.until(let_go, f"the arm to hold once {what} has let go") and good


def unoperated(page: Page) -> list[str]:
    """Controls that the page has had and that were not operated with success."""
    return [f"the control {name} was not operated with success" for name in sorted(page.known - page.operated)]


def _open_details(page: Page) -> None:
    for i in range(page.js("document.querySelectorAll('summary').length")):
        page.js(f"document.querySelectorAll('summary')[{i}].dataset.number = {i}")
        page.press(f"summary[data-number='{i}']", f"document.querySelectorAll('summary')[{i}].parentElement.open")


def _arm(page: Page, folders: Folders) -> None:
    page.command("#dry-run", "said.dry_run && at('dry-run').checked", "dry_run")
    page.command("#dry-run", "!said.dry_run && !at('dry-run').checked", "dry_run")
    page.command("#gallery button:nth-child(2)", "said.goal.includes('accepted') && said.blocks > 0", "goal")
    moved = _moved(page)
    page.arm()
    page.until(f"{moved} || at('state').textContent === 'goal reached'", "the arm to move, or to be there")
    if not page.js(moved):  # it was left at this goal
        page.command("#gallery button:nth-child(1)", "said.goal.includes('accepted')", "goal")
    page.until(moved, "the arm to move")
    page.press("#speed", "said.speed === 0.95 && at('speed-said').textContent === '95 %'", LEFT)
    page.press("#speed", "said.speed === 1", END)
    page.command("[data-command=hold]", "said.speed === 0 && at('state').textContent === 'holding'")
    page.command("[data-command=hold]", "said.speed === 1")
    page.press("#play", "!playing && at('play').textContent === 'Play'")
    page.press("#play", "playing && at('play').textContent === 'Pause'")
    last_but_one = "!playing && moment === Number(at('moment').value) && moment === at('moment').max - 1"
    page.press("#moment", last_but_one, END + LEFT)
    page.press("#play", "playing")
    page.command("[data-command=cancel]", "at('goal-said').textContent.includes('dropped')")
    page.press("#preview", "at('preview').checked")
    page.command("#gallery button:nth-child(3)", "said.state === 'disarmed' && said.goal.includes('accepted')", "goal")
    page.press("#preview", "!at('preview').checked")
    page.arm()
    page.command("[data-command=disarm]", "said.state === 'disarmed'")


def _goals(page: Page, folders: Folders) -> None:
    from selenium.webdriver.common.by import By

    time.sleep(1.0)  # a picture is captured when it has been steady; names of those that are kept are a second apart
    kept = page.js("document.querySelectorAll('#gallery button').length")
    page.command("[data-command=capture]", f"document.querySelectorAll('#gallery button').length > {kept}")
    time.sleep(1.1)
    # Enter must open the chooser of files, which no keyboard of ours can operate: it is kept shut.
    asking = "(e) => { e.preventDefault(); at('upload').dataset.asked = 1; }"
    page.js(f"at('upload').addEventListener('click', {asking}, {{ once: true }})")
    name = page.go("#upload")
    page.keys(ENTER)
    asked = page.until("at('upload').dataset.asked", "Enter to open the chooser of files")
    kept, number = page.js("document.querySelectorAll('#gallery button').length"), page.js("lastEvent")
    page.driver.find_element(By.ID, "upload").send_keys(str((folders.goals / "goal_3.png").resolve()))
    sent = f"document.querySelectorAll('#gallery button').length > {kept} && said.goal.includes('accepted')"
    noted = f"events.some((e) => e.number > {number} && e.text.startsWith('upload: '))"
    if page.until(f"{sent} && {noted}", "the picture that was sent to be the goal") and asked:
        page.operated.add(name)


def _record(page: Page, folders: Folders) -> None:
    page.command("#record", "said.recording !== null && at('record').textContent === 'End the recording'")
    file = folders.recordings / str(page.js("said.recording ? said.recording.file : 'none'"))
    page.until("said.marks_heard", "the recorder to listen to the marks")
    for mark in ("success", "failure", "end", "discard"):
        page.command("[data-mark=start]", "said.episode !== ''", "mark")
        page.command(f"[data-mark={mark}]", "said.episode === ''", "mark")
    page.command("#record", "said.recording === null && at('record').textContent === 'Record'")
    page.until("at('recording').options.length === 2", "the new recording to be in the list")
    marks = [bytes(m.data) for m in read_messages(file) if m.topic.endswith("episode")] if file.is_file() else []
    for wanted in (b"start: attempt 4", b"end: success", b"end: failure", b"discard"):
        if not any(wanted in mark for mark in marks):
            page.fault(f"the recording {file.name} has no mark {wanted.decode()}")


def _recorded(page: Page, folders: Folders) -> None:
    page.press("#recording", f"at('recording').value !== '{RECORDING}'", END + UP)
    page.press("#recording", f"at('recording').value === '{RECORDING}'", END)
    page.type("#second", "0.5")
    page.type("#episode", "1")
    page.press("#look", "!at('frame').hidden && at('frame').naturalWidth > 0")
    time.sleep(1.1)
    before = set(GoalLibrary(str(folders.goals)).names())
    page.command("#recorded", "said.goal.includes('accepted')")
    library = GoalLibrary(str(folders.goals))
    made = [library.picture(name) for name in set(library.names()) - before]
    if len(made) != 1 or not np.array_equal(made[0], library.picture("goal_4")):
        page.fault("the goal from a recording is not the picture at 0.5 s of its episode 1")


def _region(page: Page, folders: Folders) -> None:
    from selenium.webdriver import ActionChains
    from selenium.webdriver.common.by import By

    for name, value in (("top", 4), ("left", 6), ("height", 40), ("width", 50)):
        page.type(f"#{name}", str(value))
    page.until("!at('region').hidden", "the region in the camera's picture")
    page.press("#crop", "at('crop-said').textContent === 'cameras: {above: {crop: [4, 6, 40, 50]}}'")
    if folders.robot_file.read_text() != ROBOT_FILE:
        page.fault("to show a region has changed the robot file")
    page.press("#write", "at('crop-said').textContent.includes('record and train with it')")
    if "crop: [4, 6, 40, 50]" not in folders.robot_file.read_text():
        page.fault("the region is not in the robot file")
    view = page.driver.find_element(By.ID, "camera")
    page.driver.execute_script("arguments[0].scrollIntoView({ block: 'center' })", view)
    mouse = ActionChains(page.driver).move_to_element_with_offset(view, -40, -30).click_and_hold()
    mouse.move_by_offset(60, 50).release().perform()
    scale = "at('camera').naturalHeight / at('camera').getBoundingClientRect().height"
    drawn = f"Math.abs(at('height').value - 50 * {scale}) < 3 && Math.abs(at('width').value - 60 * {scale}) < 3"
    page.until(drawn, f"the region that was drawn with the mouse to be in the fields ({drawn})")


def _sequence(page: Page, folders: Folders) -> None:
    stations = "document.querySelectorAll('#stations li').length"
    page.arm()
    page.press("#collect", "at('collect').checked")
    for i, count in ((1, 1), (2, 2), (3, 3)):
        page.press(f"#gallery button:nth-child({i})", f"{stations} === {count}")
    page.press("#stations li:first-child button", f"{stations} === 2")
    if page.js("document.activeElement === document.body"):
        page.fault("after a goal is removed from the sequence, the keyboard is nowhere")
    page.type("#stations li:first-child input", "1.5")
    page.type("#timeout", "30")
    page.command("#follow", "said.sequence === 'goal 1 of 2' && at('sequence-said').textContent !== ''", "sequence")
    page.command("[data-command=cancel]", "said.sequence === ''")
    page.press("#clear", f"{stations} === 0")
    page.press("#collect", "!at('collect').checked")
    page.command("[data-command=disarm]", "said.state === 'disarmed'")


def _machine(page: Page, folders: Folders) -> None:
    listed = "[...document.querySelectorAll('#events li')].map((e) => e.textContent.toLowerCase())"
    page.type(
        "#search", "mark: attempt 1", f"{listed}.length > 0 && {listed}.every((e) => e.includes('mark: attempt 1'))"
    )
    if page.js("said.state") == "stopped":
        page.fault("a space in the search has stopped the arm")
    page.type("#search", "e", f"{listed}.length > 10")
    page.press("#events", "at('events').scrollTop > 0", DOWN + DOWN)
    page.press(
        "#doctor", "at('findings').children.length > 0 && / of /.test(at('doctor-said').textContent)", timeout_s=LONG_S
    )
    page.type("#search", "", f"{listed}.length > 10")
    windows = page.driver.window_handles
    name = page.go("a[href=report]")
    page.keys(ENTER)
    end = time.monotonic() + LONG_S
    while time.monotonic() < end and len(page.driver.window_handles) == len(windows):
        time.sleep(0.2)
    opened = [window for window in page.driver.window_handles if window not in windows]
    title = ""
    for window in opened:
        page.driver.switch_to.window(window)
        while time.monotonic() < end and not (title := page.driver.title):
            time.sleep(0.2)
        page.driver.close()
    page.driver.switch_to.window(windows[0])
    if title:
        page.operated.add(name)
    else:
        page.fault("the report of the model has not been shown")


def _look_armed(page: Page, folders: Folders) -> None:
    for theme in THEMES:
        for size in SIZES:
            page.show(theme, size)
            page.look(f"{theme}-{size}-open", whole=True)
    page.driver.execute_script("document.querySelectorAll('details').forEach((each) => { each.open = false; })")
    page.arm()
    for i, theme in enumerate(THEMES):
        for j, size in enumerate(SIZES):
            page.show(theme, size)
            # One goal after the other, so that the arm moves in the picture.
            page.press(f"#gallery button:nth-last-child({2 * i + j + 1})", "said.goal.includes('accepted')")
            page.until("at('state').textContent === 'armed'", "the arm to move to the next goal")
            page.driver.execute_script("scrollTo(0, 0); at('events').scrollTop = 0")
            time.sleep(0.7)
            page.look(f"{theme}-{size}-armed")
    page.show("light", "wide")


def _stop(page: Page, folders: Folders) -> None:
    page.go("[data-command=arm]")
    page.keys(" ")
    page.until("said.state === 'stopped'", "the space bar to stop the arm")
    time.sleep(0.5)
    if page.js("said.state") != "stopped":
        page.fault("the space bar has pressed the button that had the keyboard")
    page.look("stopped")
    page.command("[data-command=reset]", "said.state === 'disarmed'")
    page.go("#take" if page.js("said.commander") != page.js("me") else "#give")
    page.keys(" ")
    page.until("said.state === 'stopped'", "the space bar to stop a disarmed arm")
    if page.js("said.commander !== me"):
        page.fault("the space bar has given the command back")
