"""The joints of a walking person, in body coordinates: what clothes hang on and limbs are drawn between."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mdfpipe.synth.people import Subject

Array = NDArray[np.float64]

ANKLE = 0.036  # above the sole
LEFT_RIGHT = (1, -1)


class Joints:
    """The joints of a subject at a phase of the gait, in body coordinates, the lower sole on the ground."""

    def __init__(self, subject: Subject, phase: float) -> None:
        self.subject = subject
        leg = subject.leg
        # Cloth around both legs shortens the step.
        swing = subject.leg_swing * (1 - 0.5 * max(subject.hem, subject.lower_length * (subject.lower == "skirt")))
        thigh, shank = 0.52 * (leg - ANKLE), 0.48 * (leg - ANKLE)
        legs: dict[int, Array] = {}
        pitch: dict[int, float] = {}
        for side in LEFT_RIGHT:
            p = phase if side > 0 else phase + np.pi
            hip_angle = 0.85 * swing * np.sin(p) + 0.10 * swing
            bend = 0.06 + subject.knee * max(np.cos(p + 0.35), 0.0) ** 1.5 + 0.10 * max(-np.sin(p), 0.0)
            hip = np.array([side * 0.48 * subject.hip, 0.0, 0.0])
            knee = hip + thigh * np.array([0.0, -np.cos(hip_angle), np.sin(hip_angle)])
            low = hip_angle - bend
            ankle = knee + shank * np.array([-side * 0.004, -np.cos(low), np.sin(low)])
            # The foot lags behind the shank: heel up at push-off, toes up as it lands.
            pitch[side] = 0.55 * low + 0.12 * max(np.sin(p), 0.0)
            forward = np.array([side * 0.14, np.sin(pitch[side]), np.cos(pitch[side])])
            down = np.array([0.0, -np.cos(pitch[side]), np.sin(pitch[side])])
            heel = ankle + (ANKLE - 0.018) * down - 0.028 * forward
            toe = ankle + (ANKLE - 0.014) * down + 0.098 * forward
            legs[side] = np.array([hip, knee, ankle, heel, toe])
        lowest = min(float(min(joints[3, 1] - 0.018, joints[4, 1] - 0.014)) for joints in legs.values())
        self.legs = {side: joints - np.array([0.0, lowest, 0.0]) for side, joints in legs.items()}
        self.hip = -lowest
        self.drop = self.hip - leg  # how much the walk lowers the hips
        self.chin = 1 - subject.head + self.drop
        self.shoulder = 1 - subject.head - 0.062 + self.drop
        self.neck = np.array([0.0, self.shoulder + 0.035, self.lean(self.shoulder)])
        self.arms = {side: self._arm(side, phase) for side in LEFT_RIGHT}

    def lean(self, y: float) -> float:
        """How far forward the trunk's axis is at a height."""
        return self.subject.lean * (y - self.hip)

    def _arm(self, side: int, phase: float) -> Array:
        """(4, 3): shoulder, elbow, wrist, fingertips."""
        subject = self.subject
        p = phase if side < 0 else phase + np.pi
        swing = subject.arm_swing
        if subject.carried == "tote" and side == subject.side:
            swing = 0.06
        angle = 0.75 * swing * np.sin(p) - 0.02
        bend = 0.12 + 0.45 * swing * (0.5 + 0.5 * np.sin(p))
        out = 0.05 + 1.6 * subject.elbow_out
        x = side * (subject.shoulder - 0.5 * subject.arm_radius)
        start = np.array([x, self.shoulder - 0.018, self.lean(self.shoulder)])
        upper, lower = 0.172, 0.142
        elbow = start + upper * np.array([side * out, -np.cos(angle), np.sin(angle)])
        wrist = elbow + lower * np.array([side * (0.02 - 0.5 * out), -np.cos(angle + bend), np.sin(angle + bend)])
        tip = wrist + 0.062 * np.array([-side * 0.06, -np.cos(angle + bend + 0.15), np.sin(angle + bend + 0.15)])
        return np.array([start, elbow, wrist, tip])
