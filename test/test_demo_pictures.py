# SPDX-License-Identifier: Apache-2.0
"""What the demo draws: the path meets the tip, the film plays in a browser, charts show what they are given."""

from types import SimpleNamespace

import av
import cv2
import numpy as np
import pytest
from test_robot_file import ARM, ROBOT, SCENE

from lewm_model.robot.observation import Observation
from lewm_model.runtime.decoder import PictureDecoder
from lewm_model.sim.arm import ArmSim
from lewm_model.sim.pinhole import Pinhole
from lewm_model.sim.world import side_by_side
from lewm_ros.charts import Chart
from lewm_ros.demo_pictures import PANE, Episode, Film


@pytest.mark.parametrize("joints", [(0.0, 0.0), (1.2, -0.9), (-2.0, 0.8)])
def test_the_drawn_path_meets_the_tip_in_the_picture(joints) -> None:
    with ArmSim() as sim:
        sim.reset(joint_positions=joints)
        picture = sim.render().astype(int)
        dark_rows, dark_columns = np.nonzero(picture.max(axis=2) < 30)  # the black disc at the tip
        camera = Pinhole.of_world()
        drawn = camera.project(sim.visible_tip(np.array(joints), camera.rotation[:, 2])[None])[0]
        middle = np.array([dark_columns.mean() + 0.5, dark_rows.mean() + 0.5])
        metres_per_pixel = (2.0 - 0.16) / camera.focal_px
        assert np.linalg.norm(drawn - middle) * metres_per_pixel < 0.008  # m


def test_the_film_is_one_that_browsers_play_and_its_first_frame_is_there_at_once(tmp_path) -> None:
    with ArmSim() as sim:
        task = SimpleNamespace(name="near", subject="end effector", tolerance=lambda sim: 0.0275)
        episode = Episode(SimpleNamespace(task=task), 0, sim.render().copy(), np.arange(5.0), np.full(5, 0.1))
        episode.frames = [(0.05 * i, sim.render().copy()) for i in range(10)]
        episode.plans = [(0.0, np.array([[0.0, 0.0], [0.3, 0.4]]))]
        episode.imagined = [(0.0, np.zeros((3, 4)))]
        decoder = PictureDecoder(lambda latents: np.full((len(latents), 8, 8, 3), 0.5, np.float32), 4)
        seen = (Observation.of_one((64, 64)), decoder)
        with Film(tmp_path / "demo.mp4", 20.0, Pinhole.of_world(), sim, ("near", 0.2), *seen) as film:
            film.add(episode)
    with av.open(str(tmp_path / "demo.mp4")) as file:
        stream = file.streams.video[0]
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
        assert sum(1 for _ in file.decode(stream)) == 10
    content = (tmp_path / "demo.mp4").read_bytes()
    assert content.index(b"moov") < content.index(b"mdat")  # a browser need not load it whole first
    still = cv2.imread(str(tmp_path / "demo.png"))
    assert still is not None and still.shape[1] == round(0.75 * 2 * PANE)


def test_the_film_shows_every_camera_of_a_scene_and_its_goal_in_the_corner(tmp_path) -> None:
    for name, text in (("arm.xml", ARM), ("mine.yaml", ROBOT), ("scene.yaml", SCENE)):
        (tmp_path / name).write_text(text)
    with ArmSim(tmp_path / "scene.yaml") as sim:
        observation = side_by_side(sim.cameras, 48)
        red = np.full((48, 48, 3), (255, 0, 0), np.uint8)
        task = SimpleNamespace(name="space", subject="end effector", tolerance=lambda sim: 0.02)
        goal = np.hstack([observation.cameras[0].picture(sim.render()), red])
        episode = Episode(SimpleNamespace(task=task), 0, goal, np.arange(5.0), np.full(5, 0.1))
        episode.frames = [(0.05 * i, sim.render().copy()) for i in range(10)]
        episode.others = {"wrist": [(0.05 * i, sim.render("wrist").copy()) for i in range(10)]}
        camera = Pinhole.of_world(tmp_path / "scene.yaml")
        with Film(tmp_path / "demo.mp4", 20.0, camera, sim, ("space", 0.2), observation) as film:
            film.add(episode)
    still = cv2.imread(str(tmp_path / "demo.png"))
    assert still.shape[1] == round(0.75 * 3 * PANE)
    corner = still[70:90, -20:].reshape(-1, 3).mean(0)  # BGR
    assert corner[2] > 200 and corner[:2].max() < 60


def test_a_chart_shows_lines_bars_and_limits_where_they_belong() -> None:
    red, blue = (255, 0, 0), (0, 0, 255)
    chart = Chart("a title", "s", "mm", (0.0, 10.0), (0.1, 1000.0), log=True)
    chart.line([0.0, 10.0], [0.1, 1000.0], red)
    chart.bar((4.0, 5.0), 10.0, blue, (5.0, 20.0))
    rows, columns = np.nonzero((chart.picture[..., 0] > 200) & (chart.picture[..., 1:] < 128).all(axis=2))
    assert np.corrcoef(rows, columns)[0, 1] < -0.99  # a straight line on the logarithmic axis
    rows, _ = np.nonzero((chart.picture == blue).all(axis=2))
    assert np.ptp(rows) == pytest.approx((chart.picture.shape[0] - 110) / 2, abs=3)  # two of four powers of ten
