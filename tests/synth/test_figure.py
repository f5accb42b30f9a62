"""How a person is drawn: bytes, sizes, faces, what stays on the body."""

import numpy as np
import pytest

from mdfpipe.domains import Band
from mdfpipe.synth.figure import SUPERSAMPLING, Pose, draw
from mdfpipe.synth.people import Material, draw_subject

TOWARDS, AWAY = Pose(0.0, 1.0), Pose(np.pi, 1.0)
FEATURES = (Material.EYES, Material.BROW, Material.LIPS)


@pytest.fixture(scope="module")
def subjects():
    return [draw_subject(0, str(number)) for number in range(60)]


@pytest.fixture(scope="module")
def figures(subjects):
    return [(draw(s, TOWARDS, 250), draw(s, AWAY, 250)) for s in subjects]


def data(figure):
    return figure.material.tobytes(), figure.rounding.tobytes(), figure.texture.tobytes(), figure.foot, figure.face


def test_the_same_person_in_the_same_pose_is_the_same_bytes():
    pose = Pose(0.7, 2.0)
    assert data(draw(draw_subject(5, "7"), pose, 180)) == data(draw(draw_subject(5, "7"), pose, 180))


def test_others_look_otherwise(figures):
    assert len({data(towards) for towards, _ in figures}) == len(figures)


def test_every_material_is_worn_by_someone(figures):
    seen = set()
    for pair in figures:
        for figure in pair:
            seen |= set(np.unique(figure.material).tolist())
    assert seen == {int(m) for m in Material}


@pytest.mark.parametrize("height", [60, 130, 250, 400])
@pytest.mark.parametrize("yaw", [0.0, 1.0, 2.2, np.pi, -1.6])
def test_maps_fit_the_person_at_every_size(subjects, height, yaw):
    for subject in subjects[:6]:
        figure = draw(subject, Pose(yaw, 0.4), height)
        rows, columns = figure.material.shape
        assert figure.rounding.shape == figure.texture.shape == figure.material.shape
        assert figure.material.dtype == np.uint8
        assert figure.rounding.dtype == figure.texture.dtype == np.float32
        assert abs(rows / (SUPERSAMPLING * height) - 1) < 0.25
        assert 0.1 < columns / rows < 1.1
        inside = figure.material > 0
        assert not inside[[0, -1]].any()
        assert not inside[:, [0, -1]].any()
        assert figure.rounding.min() >= 0
        assert figure.rounding.max() <= 1
        assert not figure.rounding[~inside].any()
        assert np.abs(figure.texture).max() <= 1
        assert not figure.texture[~inside].any()
        # The feet are on the ground, and the ground is between them.
        assert abs(figure.foot[1] - np.flatnonzero(inside.any(axis=1))[-1]) < 0.09 * SUPERSAMPLING * height
        assert 0 < figure.foot[0] < columns


def test_a_face_is_where_a_face_is(figures):
    for towards, away in figures:
        assert away.face is None
        assert towards.face is not None
        x1, y1, x2, y2 = towards.face
        rows, columns = towards.material.shape
        top = np.flatnonzero(towards.material.any(axis=1))[0]
        assert 0 <= x1 < x2 <= columns
        assert top <= y1 < y2 <= top + (rows - top) / 5 + 2
        assert 0.45 < (x2 - x1) / (y2 - y1) < 1.1
        part = towards.material[int(y1) : int(y2), int(x1) : int(x2)]
        expected = np.isin(part, [Material.SKIN, *FEATURES, Material.BEARD, Material.GLASSES])
        assert expected.mean() > 0.5
        assert not np.isin(away.material, [*FEATURES, Material.BEARD, Material.GLASSES]).any()


@pytest.mark.parametrize(("degrees", "seen"), [(0, True), (60, True), (74, True), (76, False), (120, False)])
@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("turns", [0, 1])
def test_a_face_is_lost_at_75_degrees(subjects, degrees, seen, sign, turns):
    yaw = sign * np.radians(degrees) + 2 * np.pi * turns
    for subject in subjects[:5]:
        assert (draw(subject, Pose(yaw, 0.0), 200).face is not None) is seen


def test_a_face_moves_the_way_its_head_turns(subjects):
    bare = next(s for s in subjects if s.hair == "bald" and s.hat == "none" and s.face.glasses == "none")
    for yaw, sign in ((0.8, 1), (-0.8, -1)):
        figure = draw(bare, Pose(yaw, 0.0), 300)
        lips = np.flatnonzero((figure.material == Material.LIPS).any(axis=0)).mean()
        assert sign * (lips - figure.foot[0]) > 0


def test_the_shape_of_a_face_can_be_seen(subjects):
    """Eyes stand further apart where the subject's do."""
    found = []
    for subject in subjects:
        if subject.face.glasses == "none":
            figure = draw(subject, Pose(0.0, 0.0), 300)
            columns = np.flatnonzero((figure.material == Material.EYES).any(axis=0))
            found.append((subject.face.eye_distance * subject.face.width * subject.head, columns[-1] - columns[0]))
    expected, measured = np.array(found).T
    assert np.corrcoef(expected, measured)[0, 1] > 0.8


def test_what_is_carried_keeps_its_side(subjects):
    """A bag at the body's left is on the image's right from before and on its left from behind."""
    sides = []
    for subject in (draw_subject(0, str(n)) for n in range(120)):
        if subject.carried == "tote":
            for pose, sign in ((TOWARDS, 1), (AWAY, -1)):
                figure = draw(subject, pose, 120)
                columns = np.nonzero(figure.material == Material.BAG)[1]
                sides.append(sign * subject.side * (columns.mean() - figure.foot[0]) > 0)
    assert len(sides) > 10
    assert all(sides)


def test_the_gait_returns_after_a_cycle_and_moves_within_it(subjects):
    start, half, whole = (draw(subjects[0], Pose(1.5, phase), 200) for phase in (0.5, 2.0, 0.5 + 2 * np.pi))
    assert abs(int(start.material.shape[1]) - int(whole.material.shape[1])) <= 1
    assert start.material.shape != half.material.shape or not np.array_equal(start.material, half.material)


def test_cloth_has_its_weave_and_skin_has_none(figures):
    for towards, _ in figures:
        assert not towards.texture[towards.material == Material.EYES].any()
        assert not towards.texture[towards.material == Material.SHOE].any()
        assert towards.texture[towards.material == Material.UPPER_A].std() > 0.02


def test_a_person_is_warmer_than_bag_and_shoes(subjects):
    for subject in subjects:
        level = subject.values[Band.MWIR][:, 0]
        assert level[Material.SKIN] > max(level[Material.SHOE], level[Material.BAG])
