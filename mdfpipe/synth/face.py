"""The head: skull, face, hair, hat. A face is drawn on the skull: it shifts and narrows as the head turns."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from mdfpipe.synth.people import Material, Subject
from mdfpipe.synth.wardrobe import Array, Canvas, Tube

TURNED_AWAY = np.radians(75)  # yaw beyond which a face is no longer one
_SIDE = 1.35  # angle at which the face ends and the ear begins

# Level from the crown down, half width (without the jaw), front and back of the skull: shares of the half sizes.
_SKULL = np.array(
    [
        (0.00, 0.16, 0.15, 0.16),
        (0.01, 0.33, 0.31, 0.33),
        (0.04, 0.54, 0.50, 0.55),
        (0.10, 0.76, 0.71, 0.79),
        (0.20, 0.92, 0.86, 0.98),
        (0.35, 1.00, 0.93, 1.08),
        (0.50, 1.00, 0.93, 1.06),
        (0.62, 0.97, 0.95, 0.94),
        (0.76, 0.90, 0.95, 0.66),
        (0.87, 0.76, 0.93, 0.36),
        (0.95, 0.58, 0.88, 0.12),
        (1.00, 0.34, 0.72, -0.05),
    ]
)


class Head:
    """The head of a subject, placed: `neck` is the point (3,) where the neck leaves the shoulders.

    chin: height of the chin, body heights.
    """

    def __init__(self, subject: Subject, chin: float, neck: ArrayLike) -> None:
        self.subject, self.face = subject, subject.face
        self.height = subject.head
        self.half = subject.face.width * subject.head / 2  # half width
        self.deep = 0.56 * subject.head * (0.75 + 0.25 * subject.face.width / 0.7)
        self.neck = np.asarray(neck, float)
        forward = self.neck[2] + 0.012
        level, wide, front, back = _SKULL.T
        wide = wide.copy()
        low = level > 0.55
        share = np.interp(level[low], [0.55, 0.76, 0.95, 1.0], [1.0, subject.face.jaw, 0.5 + 0.5 * subject.face.jaw, 1])
        wide[low] *= share
        wide[level > 0.9] = np.array([0.5 + subject.face.chin * 0.35, subject.face.chin * 0.8]) * subject.face.jaw
        self.skull = Tube(
            level,
            chin + (1 - level) * self.height,
            wide * self.half,
            (front + back) / 2 * self.deep,
            forward + (front - back) / 2 * self.deep,
        )
        self.forward = forward

    # --- order: behind() before the trunk, draw() at the head's turn -----------------------------------------------

    def behind(self, canvas: Canvas) -> None:
        """Hair that hangs down the back, where the body hides it."""
        if canvas.cosine > -0.15:
            self._hanging(canvas)

    def draw(self, canvas: Canvas) -> tuple[float, float, float, float] | None:
        """Draw neck and head; return the face's box (x1, y1, x2, y2) in canvas pixels, None if turned away."""
        subject = self.subject
        part = canvas.piece(0.7 * self.half)
        throat = canvas.piece(0.5 * self.half)
        chin = self.skull.points(0.86, 0.0)
        chin[2] = self.forward - 0.1 * self.deep
        canvas.limb([self.neck - (0, 0.02, 0), chin], (0.62 * self.half, 0.55 * self.half), Material.SKIN, throat)
        if canvas.cosine > -0.35 and subject.hat != "hood":
            self._curtains(canvas)
        if subject.hat == "hood":
            self._lining(canvas)
        self.skull.panel(canvas, Material.SKIN, (0.0, 1.0), part=part)
        self._ears(canvas)
        self._nose_profile(canvas, part)
        if subject.hat != "hood":
            self._hair(canvas)
        self._features(canvas)
        if subject.hat != "none":
            self._hat(canvas)
        if canvas.cosine <= -0.15:
            self._hanging(canvas)
        if abs(np.arctan2(canvas.sine, canvas.cosine)) > TURNED_AWAY:
            return None
        outline = self.skull.outline(canvas, (max(self.face.hairline - 0.06, 0.1), 1.0), (-_SIDE, _SIDE))
        if outline is None:
            return None
        (x1, y1), (x2, y2) = outline.min(axis=0), outline.max(axis=0)
        return float(x1), float(y1), float(x2), float(y2)

    # --- face ------------------------------------------------------------------------------------------------------

    def _place(self, across: ArrayLike, level: ArrayLike, grow: float = 1.0) -> Array:
        """Points on the skin (..., 3): `across` is a share of the half width, + to the body's left."""
        return self.skull.points(level, np.arcsin(np.clip(across, -0.98, 0.98)), grow)

    def _patch(
        self, canvas: Canvas, across: ArrayLike, level: ArrayLike, material: Material, grow: float = 1.0
    ) -> None:
        """A polygon on the skin, where it faces the camera. Corners that do not are moved to the edge."""
        angle, t = np.arcsin(np.clip(across, -0.98, 0.98)), np.asarray(level, float)
        middle = self.skull.middle(canvas, t)
        turned = (angle - middle + np.pi) % (2 * np.pi) - np.pi
        if np.abs(turned).min() > 1.45:
            return
        angle = middle + np.clip(turned, -1.5, 1.5)
        canvas.fill(canvas.project(self.skull.points(t, angle, grow)), material)

    def _features(self, canvas: Canvas) -> None:
        if canvas.cosine < -0.3:
            return
        face = self.face
        bar = np.array([-1, 1, 1, -1])
        self._beard(canvas)
        for side in (-1, 1):
            eye = side * face.eye_distance
            almond = np.array([-1, -0.5, 0.1, 0.7, 1, 0.6, 0, -0.6])
            lid = np.array([0.25, -0.7, -1, -0.75, 0, 0.7, 0.95, 0.8])
            self._patch(
                canvas, eye + side * almond * face.eye_width, face.eye_level + lid * face.eye_height, Material.EYES
            )
            # The iris is as dark as the brow: it shows where the white is bright.
            iris, turn = 0.42 * face.eye_width, np.linspace(0, 2 * np.pi, 9)[:-1]
            round_x, round_y = eye + iris * np.cos(turn), face.eye_level + 0.9 * face.eye_height * np.sin(turn)
            self._patch(canvas, round_x, round_y, Material.BROW)
            span = side * np.linspace(-1.15, 1.35, 5) * face.eye_width
            arch = face.eye_level - face.brow_gap - np.linspace(-1, 1, 5) * face.brow_slope
            arch = arch - 0.012 * np.sin(np.linspace(0, np.pi, 5))
            thick = face.brow_thickness * np.array([1, 1.05, 1, 0.8, 0.35])
            x = np.concatenate([eye + span, eye + span[::-1]])
            self._patch(canvas, x, np.concatenate([arch - thick, (arch + thick)[::-1]]), Material.BROW)
        lip = np.array([-1, -0.45, -0.12, 0, 0.12, 0.45, 1, 0.5, 0, -0.5])
        edge = np.array([0.1, -0.8, -0.95, -0.7, -0.95, -0.8, 0.1, 1.0, 1.25, 1.0])
        self._patch(canvas, lip * face.mouth_width, face.mouth_level + edge * face.mouth_height, Material.LIPS)
        if face.glasses != "none":
            for side in (-1, 1):
                self._lens(canvas, side * face.eye_distance)
            inner = max(face.eye_distance - 0.27, 0.05)
            bridge = face.eye_level - 0.025 + np.array([-1, -1, 1, 1]) * 0.012
            self._patch(canvas, bar * inner, bridge, Material.GLASSES)
            for side in (-1, 1):
                outer = np.linspace(face.eye_distance + 0.25, 0.97, 4)
                temple = np.concatenate([outer, outer[::-1]]) * side
                level = face.eye_level - 0.03 + np.repeat([-0.011, 0.011], 4)
                self._patch(canvas, temple, level, Material.GLASSES, 1.01)

    def _lens(self, canvas: Canvas, across: float) -> None:
        """One glass of the spectacles: a ring, filled in where they are dark."""
        turn = np.linspace(0, 2 * np.pi, 21)[:-1]
        power = 1.0 if self.face.glasses == "round" else 0.5
        x = np.sign(np.cos(turn)) * np.abs(np.cos(turn)) ** power * 0.27
        y = np.sign(np.sin(turn)) * np.abs(np.sin(turn)) ** power * (0.085 if power == 1.0 else 0.068)
        if self.face.glasses == "dark":
            self._patch(canvas, across + x, self.face.eye_level + 0.01 + y, Material.GLASSES)
            return
        x, y = np.append(x, x[0]), np.append(y, y[0])
        ring_x = np.concatenate([x, (x * 0.80)[::-1]])
        ring_y = np.concatenate([y, (y * 0.72)[::-1]])
        self._patch(canvas, across + ring_x, self.face.eye_level + 0.01 + ring_y, Material.GLASSES)

    def _beard(self, canvas: Canvas) -> None:
        face = self.face
        if face.beard == "none":
            return
        top = face.nose_end + 0.3 * (face.mouth_level - face.nose_end)
        wide = face.mouth_width * 1.15
        if face.beard == "full":
            x = np.array([-0.97, -0.93, -0.7, -0.45, 0, 0.45, 0.7, 0.93, 0.97])
            cheek = face.mouth_level - 0.03
            y = np.array([0.55, 0.60, cheek, top + 0.01, top, top + 0.01, cheek, 0.6, 0.55])
            chin_x, chin_y = np.array([0.98, 0.98, 0.9, -0.9, -0.98, -0.98]), np.array([0.7, 0.87, 1.0, 1.0, 0.87, 0.7])
            self._patch(canvas, np.concatenate([x, chin_x]), np.concatenate([y, chin_y]), Material.BEARD, 1.02)
            return
        low = face.mouth_level
        moustache_x = np.array([-wide, -0.5 * wide, 0, 0.5 * wide, wide, 0.6 * wide, 0, -0.6 * wide])
        moustache_y = np.array([low, top, top - 0.005, top, low, low - 0.012, low - 0.02, low - 0.012])
        self._patch(canvas, moustache_x, moustache_y, Material.BEARD)
        if face.beard == "goatee":
            half = max(0.26, 0.7 * face.mouth_width)
            for side in (-1, 1):
                x = side * np.array([wide, 1.25 * wide, 1.1 * wide, half, half])
                self._patch(canvas, x, np.array([low, low, 0.95, 0.99, 0.93]), Material.BEARD)
            x = np.array([-half, half, 1.2 * half, 0.4, -0.4, -1.2 * half])
            y = np.array([low + 0.055, low + 0.055, low + 0.08, 1.0, 1.0, low + 0.08])
            self._patch(canvas, x, y, Material.BEARD)

    def _nose(self, level: float, relief: float) -> Array:
        point = self.skull.points(level, 0.0)
        point[2] += relief * self.deep
        return point

    def _nose_profile(self, canvas: Canvas, part: int) -> None:
        """The nose in profile, outside the face."""
        face = self.face
        if canvas.cosine < -0.2:
            return
        levels = [face.eye_level - 0.02, face.nose_end - 0.05, face.nose_end - 0.01, face.nose_end + 0.02]
        ridge = [self._nose(t, r * face.nose_relief) for t, r in zip(levels, (0.1, 0.95, 0.9, 0.0), strict=True)]
        root = [self.skull.points(t, 0.0) - (0, 0, 0.1 * self.deep) for t in (levels[-1], levels[0])]
        canvas.fill(canvas.project(np.array(ridge + root)), Material.SKIN, part)

    def relief(self, canvas: Canvas, rounding: NDArray[np.float32]) -> None:
        """Shade the relief of a face, nose and sockets, in the map of roundings (h, w)."""
        if canvas.cosine < 0.1:
            return
        face = self.face
        # Only the head's surroundings are looked at: the canvas is much larger.
        middle = canvas.project(self.skull.points(0.5, 0.0))
        reach = 0.8 * self.height * canvas.scale
        corner = np.maximum(np.floor(middle - reach), 0).astype(int)
        skin = np.zeros((int(2 * reach) + 1, int(2 * reach) + 1), np.uint8)
        width, end = face.nose_width, face.nose_end

        def shade(across: ArrayLike, level: ArrayLike, value: int) -> None:
            corners = canvas.project(self._place(across, level)) - corner
            cv2.fillPoly(skin, [np.rint(corners * 16).astype(np.int32)], value, cv2.LINE_8, 4)

        for side in (-1, 1):
            inner = side * np.array([0.10, 0.26, 0.30, 0.14])
            shade(inner, np.array([-0.05, -0.04, 0.03, 0.05]) + face.eye_level, 110)
            flank = side * np.array([0.35 * width, 0.55 * width, 1.05 * width, 0.75 * width])
            shade(flank, np.array([face.eye_level, face.eye_level, end - 0.02, end - 0.01]), 120)
        under = end + np.array([-0.03, -0.012, -0.012, -0.03, 0.025, 0.03, 0.025])
        shade(np.array([-1, -0.8, 0.8, 1, 0.7, 0, -0.7]) * width, under, 255)
        shade(np.array([-0.5, 0.5, 0.4, -0.4]), 0.045 + face.mouth_level + np.array([0.0, 0.0, 0.022, 0.022]), 90)
        window = np.s_[corner[1] : corner[1] + skin.shape[0], corner[0] : corner[0] + skin.shape[1]]
        skin = skin[: rounding[window].shape[0], : rounding[window].shape[1]]
        depth = np.asarray(skin / np.float32(255), np.float32)
        if canvas.scale > 250:
            depth = np.asarray(cv2.GaussianBlur(depth, (0, 0), 0.0215 * canvas.scale * self.height), np.float32)
        rounding[window] *= 1 - 0.95 * depth * (canvas.material[window] == Material.SKIN)

    # --- ears, hair, hat -------------------------------------------------------------------------------------------

    def _ears(self, canvas: Canvas) -> None:
        level = 0.55
        turn = np.linspace(0, 2 * np.pi, 13)[:-1]
        for side in (-1, 1):
            centre = self.skull.points(level, side * 1.62)
            if canvas.nearness((side, 0, -0.5)) < -0.75:
                continue
            x = (centre[0] + side * 0.03 * self.half) + side * 0.10 * self.half * np.cos(turn)
            y = centre[1] + self.face.ear * self.height * np.sin(turn)
            points = np.column_stack([x, y, centre[2] + 0.20 * self.deep * np.cos(turn)])
            canvas.fill(canvas.project(points), Material.SKIN, canvas.piece(0.12 * self.half))

    def _hair(self, canvas: Canvas) -> None:
        kind, face = self.subject.hair, self.face
        if kind == "bald":
            return
        if kind == "afro" and self.subject.hat != "none":
            kind = "short"  # pressed down
        if kind == "afro":
            self._afro(canvas, canvas.piece(0.8 * self.half * 1.30))
            return
        line, grow, is_short = face.hairline, self.subject.hair_volume, kind in ("short", "bun", "ponytail")
        part = canvas.piece(0.8 * self.half * grow)
        sideburn, nape, behind = (0.50, 0.80, 2.2) if is_short else (0.98, 1.0, 1.5)

        def edge(t: Array) -> Array:
            """Angle from the front at which hair begins, by level."""
            return np.interp(t, [line, line + 0.08, 0.42, sideburn, nape], [0.35, 0.85, 1.12, 1.36, behind])

        skull = self.skull
        crown = Tube(skull.levels, skull.y + 0.03 * self.height * (1 - skull.levels), skull.rx, skull.rz, skull.z)
        crown.panel(canvas, Material.HAIR, (0.0, line + 0.005), part=part, grow=grow)
        crown.sides(canvas, Material.HAIR, (line, nape), edge, part, grow)
        if kind == "bun" and self.subject.hat == "none":
            top = self.skull.points(0.04, np.pi) + np.array([0, 0.012, 0.2 * self.deep])
            canvas.ball(top, (0.5 * self.half, 0.46 * self.half), Material.HAIR, canvas.piece(0.4 * self.half))

    def _afro(self, canvas: Canvas, part: int) -> None:
        """A ball of hair around the skull, open where the face is."""
        face = self.face
        centre = self.skull.points(0.36, 0.0)
        centre[2] = self.forward - 0.12 * self.deep
        radius = (1.48 * self.half, 0.60 * self.height)
        window = canvas.material.copy(), canvas.part.copy()
        canvas.ball(centre, radius, Material.HAIR, part)
        outline = self.skull.outline(canvas, (face.hairline + 0.02, 1.0), (-1.2, 1.2))
        if outline is None or canvas.cosine < -0.2:
            return
        mask = np.zeros_like(canvas.material)
        cv2.fillPoly(mask, [np.rint(outline * 16).astype(np.int32)], 1, cv2.LINE_8, 4)
        for new, old in zip((canvas.material, canvas.part), window, strict=True):
            np.copyto(new, old, where=mask > 0)

    def _curtains(self, canvas: Canvas) -> None:
        """Bob and long hair at both sides of the face, in front of the shoulders."""
        if self.subject.hair not in ("bob", "long"):
            return
        drop = 0.10 if self.subject.hair == "bob" else 0.55
        part = canvas.piece(0.3 * self.half)
        for side in (-1, 1):
            top = self.skull.points(0.45, side * 1.75, 1.02)
            bottom = top - (side * -0.004, (0.5 + drop) * self.height, -0.01)
            canvas.limb([top, bottom], (0.26 * self.half, 0.22 * self.half), Material.HAIR, part, cloth="hair")

    def _hanging(self, canvas: Canvas) -> None:
        kind = self.subject.hair
        back = self.skull.points(0.35, np.pi)
        if self.subject.hat == "hood":
            return
        if kind == "ponytail":
            part = canvas.piece(0.2 * self.half)
            tip = back - (0, 1.35 * self.height, 0.015)
            knot = back - (0, 0.3 * self.height, 0.02)
            thick = 0.34 * self.half
            canvas.limb([back, knot], (0.24 * self.half, thick), Material.HAIR, part)
            canvas.limb([knot, tip], (thick, 0.12 * self.half), Material.HAIR, part, cloth="hair")
        elif kind in ("bob", "long"):
            part = canvas.piece(0.7 * self.half)
            end = 1.06 if kind == "bob" else 1.75
            count = 3 if kind == "bob" else 4
            levels = np.array([0.4, 0.8, 1.06, end])[:count]
            y = self.skull.y[-1] + (1 - levels) * self.height
            wide = self.half * np.array([1.05, 1.12, 1.15, 1.2])[:count] * self.subject.hair_volume
            deep = self.deep * np.array([0.75, 0.6, 0.5, 0.35])[:count]
            tube = Tube(levels, y, wide, deep, self.forward - self.deep * 0.5)
            tube.panel(canvas, Material.HAIR, (float(levels[0]), float(levels[-1])), part=part)

    def _hat(self, canvas: Canvas) -> None:
        kind, skull = self.subject.hat, self.skull
        part = canvas.piece(0.8 * self.half)
        if kind == "hood":
            self._hood(canvas, part)
            return
        edge, lift = {"cap": (0.20, 0.05), "beanie": (0.28, 0.09), "brim": (0.16, 0.10)}[kind]
        y = skull.y + lift * self.height * np.clip(1 - skull.levels / 0.4, 0, 1)
        around = np.interp(skull.levels, [0, 0.1, 0.3], [1.25 if kind == "brim" else 1.1, 1.1, 1.0])
        crown = Tube(skull.levels, y, skull.rx * around, skull.rz * around, skull.z)
        grow = max(1.10, self.subject.hair_volume + 0.03)
        turn = np.linspace(0, 2 * np.pi, 29)[:-1]
        rim_y, rim_x, rim_z, z = crown.at(edge)
        if kind == "brim":
            reach = 0.62 * self.half
            x, depth = (rim_x * grow + reach) * np.sin(turn), z + (rim_z * grow + reach) * np.cos(turn)
            flat = np.stack([x, rim_y + (0.035 * np.abs(np.sin(turn)) - 0.02) * self.height, depth], -1)
            canvas.fill(canvas.project(flat), Material.HAT, canvas.piece(0.3 * self.half))
        crown.panel(canvas, Material.HAT, (0.0, edge), part=part, grow=grow)
        if kind in ("beanie", "brim"):
            crown.panel(canvas, Material.DETAIL, (edge - (0.07 if kind == "beanie" else 0.05), edge), grow=grow + 0.01)
        if kind == "cap":
            ahead = 0.75 * self.deep
            arc = np.linspace(-1.25, 1.25, 13)
            back = np.stack([rim_x * grow * np.sin(arc), np.full(13, rim_y), z + rim_z * grow * np.cos(arc)], -1)
            tip = back + np.stack([np.zeros(13), -0.055 * self.height * np.cos(arc), ahead * np.cos(arc) ** 0.7], -1)
            if canvas.cosine > -0.2:
                visor = canvas.project(np.concatenate([back, tip[::-1]]))
                canvas.fill(visor, Material.HAT, canvas.piece(0.2 * self.half))

    def _hood_shape(self) -> Tube:
        size = np.array([0.10, 0.45, 0.72, 0.95, 1.12, 1.22, 1.26, 1.24, 1.18, 1.10])
        levels = np.array([0.0, 0.02, 0.07, 0.16, 0.30, 0.45, 0.60, 0.80, 0.95, 1.12])
        y = self.skull.y[-1] + (1 - levels) * self.height + 0.07 * self.height * np.clip(1 - levels / 0.5, 0, 1)
        return Tube(levels, y, size * self.half, size * self.deep * 0.98, self.forward - 0.12 * self.deep)

    def _lining(self, canvas: Canvas) -> None:
        """The inside of a hood, between the head and the far rim."""
        hood, part = self._hood_shape(), canvas.piece(0.3 * self.half)
        levels = np.linspace(0.14, 1.1, 9)
        for side in (-1, 1):
            rim = hood.points(levels, side * _hood_edge(levels))
            axis = self.skull.points(levels, 0.0, 0.0)
            axis[:, 1] = rim[:, 1]
            canvas.fill(canvas.project(np.concatenate([rim, axis[::-1]])), Material.HAT, part)

    def _hood(self, canvas: Canvas, part: int) -> None:
        """A hood up over the head: all of it but the face."""
        hood = self._hood_shape()
        hood.panel(canvas, Material.HAT, (0.0, 0.13), part=part)
        hood.sides(canvas, Material.HAT, (0.12, 1.12), _hood_edge, part)


def _hood_edge(levels: Array) -> Array:
    """Angle from the front at which a hood begins."""
    return np.asarray(
        np.interp(levels, [0.12, 0.17, 0.26, 0.50, 0.80, 0.97, 1.12], [0, 0.45, 0.75, 0.88, 0.86, 0.7, 0.45])
    )
