"""The rule that names bodies by faces again: one pair at a time, in exact fractions."""

from __future__ import annotations

from fractions import Fraction

from mdfpipe.video.labelling import Labels, label_bodies

MEASURE_NAMES = ["ioa_face", "iou", "iomin", "center_in", "head_iou"]


def exact(measure, b, f):
    """One overlap as a Fraction. b and f are lists of whole numbers."""

    def size(x):
        return max(0, x[2] - x[0]) * max(0, x[3] - x[1])

    def common(x, y):
        return size([max(x[0], y[0]), max(x[1], y[1]), min(x[2], y[2]), min(x[3], y[3])])

    if measure == "head_iou":
        b = [b[0], b[1], b[2], b[1] + Fraction(b[3] - b[1], 7)]
    inter = common(b, f)
    if measure == "center_in":
        inside = 2 * b[0] <= f[0] + f[2] < 2 * b[2] and 2 * b[1] <= f[1] + f[3] < 2 * b[3]
        return Fraction(int(size(f) > 0 and inside))
    below = {"ioa_face": size(f), "iomin": min(size(b), size(f))}.get(measure, size(b) + size(f) - inter)
    return Fraction(inter) / below if below else Fraction(0)


def oracle(scene, rules):
    """(status, face, overlap, runner_up) of each body: the rule, word for word."""
    rows = []
    for b_frame, b, _ in scene["bodies"]:
        faces = [j for j, (frame, _, _) in enumerate(scene["faces"]) if frame == b_frame]
        over = {j: exact(rules.measure, b, scene["faces"][j][1]) for j in faces}
        who = {j: scene["faces"][j][2] if scene["faces"][j][2] >= 0 else ("unnamed", j) for j in faces}
        crowd = {
            who[j]
            for j in faces
            if exact(rules.ambiguity_measure, b, scene["faces"][j][1]) > Fraction(str(rules.ambiguity_threshold))
        }

        def merit(j, b=b, over=over):
            f = scene["faces"][j][1]
            near = (f[0] + f[2] - b[0] - b[2]) ** 2 + (f[1] + f[3] - 2 * b[1]) ** 2
            return (-over[j], -exact("iou", b, f), near, j)

        best = min((j for j in faces if over[j] > 0), key=merit, default=-1)
        top = over[best] if best >= 0 else Fraction(0)
        second = max((over[j] for j in faces if best >= 0 and who[j] != who[best]), default=Fraction(0))
        if len(crowd) > 1:
            status = "ambiguous"
        elif best < 0:
            status = "no_face"
        elif top < Fraction(str(rules.min_overlap)):
            status = "below_min_overlap"
        else:
            status = "labelled"
        rows.append([status, best, top, second])
    if rules.assignment == "mutual_best":
        for j in range(len(scene["faces"])):
            claims = [i for i, row in enumerate(rows) if row[0] == "labelled" and row[1] == j]

            def claim(i, j=j):
                return (
                    -rows[i][2],
                    -exact("iou", scene["bodies"][i][1], scene["faces"][j][1]),
                    -scene["bodies"][i][2],
                    i,
                )

            for loser in sorted(claims, key=claim)[1:]:
                rows[loser][0] = "lost_assignment"
    for row in rows:
        if row[0] == "labelled" and scene["faces"][row[1]][2] < 0:
            row[0] = "unnamed_face"
    return rows


def run(scene, rules) -> Labels:
    bodies, faces = scene["bodies"], scene["faces"]
    return label_bodies(
        [b[0] for b in bodies],
        [b[1] for b in bodies],
        [f[0] for f in faces],
        [f[1] for f in faces],
        [f[2] for f in faces],
        rules=rules,
        body_score=[b[2] for b in bodies],
    )


def greatest(options):
    """The greatest (total overlap, total IoU) of all one-to-one choices, by trying them all."""
    found = {frozenset(): (Fraction(0), Fraction(0))}
    for choices in options:
        grown = dict(found)
        for used, total in found.items():
            for j, gain in choices.items():
                if j not in used:
                    value = (total[0] + gain[0], total[1] + gain[1])
                    grown[used | {j}] = max(value, grown.get(used | {j}, value))
        found = grown
    return max(found.values())
