"""Trains the demo's YOLOv10-N, one class, on rendered people: `scripts/train-demo-detector`.

Its data are drawn with seeds of their own, so no preset shows it a subject, a place or a path that it was trained on.
Both heads are trained throughout: the one-to-one head, which the pipeline uses, sees the features detached, so
its gradients never reach the backbone; at the end it is trained alone for a while, because it learns more slowly.
The file holds tensors only: an fp16 state_dict. It says "synthetic data only".
"""

from __future__ import annotations

import argparse
import math
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
WEIGHTS = ROOT / "weights" / "mdfpipe_synth_weights" / "yolov10n-synthetic.pt"
SIZE = (192, 320)  # of the input, height and width
TRAIN_SEED, TEST_SEED = 90_001, 90_002
THREADS = 2
NOTE = "synthetic data only: trained on rendered people, of no use on real ones"


@dataclass
class Frames:
    """pictures: (H, W, 3) uint8; boxes: (n, 6) xyxy pixels, share seen, face annotated or not; domain of each."""

    pictures: list[Any]
    boxes: list[Any]
    domain: list[str]


def main() -> None:
    options = arguments()
    sys.path.insert(0, str(ROOT))
    started = time.perf_counter()
    held_out = load(options.work / "test", "demo", TEST_SEED, 12, stride=4)
    if options.report_only:
        report(options.out, held_out, options.score)
        return
    train = load(options.work / "train", "study", TRAIN_SEED, options.subjects, stride=1)
    said(started, f"{len(train.pictures)} frames to train on, {len(held_out.pictures)} held out")
    import torch

    torch.manual_seed(0)
    torch.set_num_threads(THREADS)
    model = untrained()
    fit(model, train, options.steps, options.batch, options.rate, started, alone=False)
    fit(model, train, options.head_steps, options.batch, options.rate / 2, started, alone=True)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    save(model, options.out)
    said(started, f"wrote {options.out} ({options.out.stat().st_size / 1e6:.1f} MB): {NOTE}")
    report(options.out, held_out, options.score)
    said(started, "done")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/train-demo-detector", description=__doc__)
    parser.add_argument("--work", type=Path, default=ROOT / "build" / "demo-detector", help="where its data are drawn")
    parser.add_argument("--out", type=Path, default=WEIGHTS)
    parser.add_argument("--subjects", type=int, default=40, help="of each gallery, to train on")
    parser.add_argument("--steps", type=int, default=3000, help="of both heads")
    parser.add_argument("--head-steps", type=int, default=500, help="of the one-to-one head alone")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--score", type=float, default=0.25, help="threshold of the report")
    parser.add_argument("--report-only", action="store_true", help="train nothing; report on --out")
    return parser.parse_args()


def said(started: float, text: str) -> None:
    print(f"[{(time.perf_counter() - started) / 60:5.1f} min] {text}", flush=True)


# --- data ----------------------------------------------------------------------------------------------------------


def load(folder: Path, preset: str, seed: int, subjects: int, stride: int) -> Frames:
    """Draw a data set and decode it as the pipeline does."""
    import numpy as np

    from mdfpipe.running.crew import each
    from mdfpipe.store.run import read_table
    from mdfpipe.synth.write import write_dataset
    from mdfpipe.video.decoders.auto import Auto
    from mdfpipe.video.normalise import Normalise

    write_dataset(folder, preset, seed=seed, subjects=subjects, share=partial(each, workers=os.cpu_count() or 1))
    truth = read_table(folder / "truth" / "bodies.parquet").to_pylist()
    rows: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for row in truth:
        if row["visible"] >= 0.15:
            rows.setdefault((row["video_id"], row["frame"]), []).append(row)
    policy, found = Normalise(), Frames([], [], [])
    for path in sorted((folder / "videos").glob("*/*")):
        video_id = path.relative_to(folder).with_suffix("").as_posix()
        decoder = Auto().candidates(path)[0]
        batches = list(decoder.frames(path, stride=stride, batch=8, threads=1))
        deep = batches[0].pixels.dtype != np.uint8
        window = policy.window(iter(batches), 16) if deep else (0.0, 255.0)
        for batch in batches:
            for number, picture in zip(batch.index.tolist(), policy.apply(batch.pixels, *window), strict=True):
                here = rows.get((video_id, number), [])
                boxes = [[r["x1"], r["y1"], r["x2"], r["y2"], r["visible"], r["face_annotated"]] for r in here]
                found.pictures.append(picture)
                found.boxes.append(np.array(boxes, np.float32).reshape(-1, 6))
                found.domain.append(path.parent.name)
    return found


def batches(data: Frames, size: int, steps: int, seed: int) -> Iterator[tuple[Any, dict[str, Any]]]:
    """Augmented inputs (B, 3, H, W) float 0..1 and targets, epoch after epoch, in an order of the seed's."""
    import numpy as np
    import torch

    generator = np.random.default_rng(seed)
    order: list[int] = []
    for _ in range(steps):
        if len(order) < size:
            order += generator.permutation(len(data.pictures)).tolist()
        chosen, order = order[:size], order[size:]
        images, index, boxes = [], [], []
        for place, number in enumerate(chosen):
            image, xyxy = augmented(data.pictures[number], data.boxes[number], generator)
            images.append(image)
            boxes.append(xyxy)
            index += [place] * len(xyxy)
        stacked = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float().div_(255)
        corners = torch.from_numpy(np.concatenate(boxes))
        centre, extent = (corners[:, :2] + corners[:, 2:]) / 2, corners[:, 2:] - corners[:, :2]
        scale = torch.tensor([SIZE[1], SIZE[0]])
        target = torch.cat([centre / scale, extent / scale], 1).float()
        yield (
            stacked.contiguous(memory_format=torch.channels_last),
            {"batch_idx": torch.tensor(index), "cls": torch.zeros(len(index), 1), "bboxes": target},
        )


def augmented(picture: Any, boxes: Any, generator: Any) -> tuple[Any, Any]:
    """Zoom, shift, mirror, tone, polarity: an input (H, W, 3) uint8 and its boxes (n, 4)."""
    import cv2
    import numpy as np

    height, width = picture.shape[:2]
    fit = min(SIZE[0] / height, SIZE[1] / width)
    zoom = fit * (np.exp(generator.uniform(-0.35, 0.35)) if generator.random() < 0.7 else 1.0)
    mirror = generator.random() < 0.5
    shift = generator.uniform(-0.12, 0.12, 2) * [SIZE[1], SIZE[0]] if generator.random() < 0.7 else np.zeros(2)
    x = SIZE[1] / 2 + shift[0] - zoom * width / 2
    y = SIZE[0] / 2 + shift[1] - zoom * height / 2
    matrix = np.array([[zoom, 0, x], [0, zoom, y]])
    if mirror:
        matrix[0] = [-zoom, 0, SIZE[1] - x]
    how = cv2.INTER_AREA if zoom < 1 else cv2.INTER_LINEAR
    if zoom < 0.8:  # warpAffine does not average: shrink first
        small = cv2.resize(picture, None, fx=zoom, fy=zoom, interpolation=how)
        scaled = matrix.copy()
        scaled[:, :2] = np.sign(matrix[:, :2])
        image = cv2.warpAffine(small, scaled, (SIZE[1], SIZE[0]), borderValue=(114, 114, 114))
    else:
        image = cv2.warpAffine(picture, matrix, (SIZE[1], SIZE[0]), borderValue=(114, 114, 114))
    gain, offset = generator.uniform(0.6, 1.4), generator.uniform(-40, 40)
    image = cv2.convertScaleAbs(image, alpha=gain, beta=max(offset, 0)) if offset > 0 else image
    if generator.random() < 0.1:
        image = 255 - image
    if generator.random() < 0.2:
        image = np.repeat(image.mean(axis=2, keepdims=True).astype(np.uint8), 3, axis=2)
    corners = boxes[:, :4].reshape(-1, 2, 2) @ matrix[:, :2].T + matrix[:, 2]
    low, high = corners.min(axis=1), corners.max(axis=1)
    whole = (high - low).prod(axis=1)
    low, high = np.clip(low, 0, [SIZE[1], SIZE[0]]), np.clip(high, 0, [SIZE[1], SIZE[0]])
    kept = ((high - low).prod(axis=1) > 0.25 * whole) & ((high - low).min(axis=1) > 3)
    return np.ascontiguousarray(image), np.concatenate([low, high], axis=1)[kept].astype(np.float32)


# --- the network ---------------------------------------------------------------------------------------------------


def untrained() -> Any:
    """YOLOv10-N with one class."""
    from types import SimpleNamespace

    from mdfpipe.video.ultralytics import _library

    model = _library().DetectionModel("yolov10n.yaml", nc=1, verbose=False)
    model.args = SimpleNamespace(box=7.5, cls=0.5, dfl=1.5, epochs=1)
    return model


def fit(model: Any, data: Frames, steps: int, size: int, rate: float, started: float, alone: bool) -> None:
    """Train both heads, or the one-to-one head alone with everything else fixed, for `steps` batches."""
    import torch
    from ultralytics.utils.loss import v8DetectionLoss

    head = model.model[-1]
    model.train()
    if alone:
        model.eval()
        model.requires_grad_(False)
        head.train()
        for part in (head.one2one_cv2, head.one2one_cv3):
            part.requires_grad_(True)
    model.to(memory_format=torch.channels_last)
    many, one = v8DetectionLoss(model, tal_topk=10), v8DetectionLoss(model, tal_topk=7, tal_topk2=1)
    weights = [p for p in model.parameters() if p.requires_grad]
    decayed = [p for p in weights if p.ndim > 1]
    plain = [p for p in weights if p.ndim <= 1]
    optimiser = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.01}, {"params": plain, "weight_decay": 0.0}], lr=rate, betas=(0.9, 0.99)
    )
    warm = max(steps // 20, 1)
    average = averaged(model)
    shown = [0.0, 0.0]
    for step, (images, target) in enumerate(batches(data, size, steps, seed=1 + alone)):
        factor = min(1.0, (step + 1) / warm) * (0.5 + 0.5 * math.cos(math.pi * step / steps)) + 0.01
        for group in optimiser.param_groups:
            group["lr"] = rate * factor
        with torch.autocast("cpu", torch.bfloat16):
            outputs = model(images)
        outputs = {branch: as_float(output) for branch, output in outputs.items()}
        losses = [one.loss(outputs["one2one"], target)[0].sum() / size]
        if not alone:
            losses.append(many.loss(outputs["one2many"], target)[0].sum() / size)
        total = torch.stack(losses).sum()
        optimiser.zero_grad(set_to_none=True)
        torch.autograd.backward(total)
        torch.nn.utils.clip_grad_norm_(weights, 10.0)
        optimiser.step()
        average.update_parameters(model)
        shown = [s * 0.95 + 0.05 * float(v.detach()) for s, v in zip(shown, [*losses, torch.zeros(())], strict=False)]
        if step % 50 == 49:
            pace = (step + 1) * size
            said(
                started,
                f"step {step + 1}/{steps}  one-to-one {shown[0]:.2f}  one-to-many {shown[1]:.2f}  ({pace} images)",
            )
    model.load_state_dict(average.module.state_dict())


def averaged(model: Any) -> Any:
    """A running average of the weights, BN statistics included: it is what is kept."""
    import torch

    def blend(kept: Any, new: Any, count: Any) -> Any:
        decay = min(0.998, (1 + float(count)) / (10 + float(count)))
        return kept * decay + new * (1 - decay) if kept.dtype.is_floating_point else new

    return torch.optim.swa_utils.AveragedModel(model, avg_fn=blend, use_buffers=True)


def as_float(output: dict[str, Any]) -> dict[str, Any]:
    return {name: [f.float() for f in v] if isinstance(v, list) else v.float() for name, v in output.items()}


def save(model: Any, place: Path) -> None:
    import torch

    from mdfpipe.store.owner import temporary

    state = {k: v.half() if v.dtype.is_floating_point else v for k, v in model.state_dict().items()}
    document = {"model": state, "arch": "yolov10n", "classes": ["person"], "note": NOTE}
    unfinished = temporary(place)
    torch.save(document, unfinished)
    unfinished.replace(place)


# --- how good ------------------------------------------------------------------------------------------------------


def report(weights: Path, data: Frames, score: float) -> None:
    """Recall and precision per domain on the held-out frames, by the detector that the pipeline runs."""
    import numpy as np

    from mdfpipe.video.detectors.yolo import Yolo
    from mdfpipe.video.frames import Frames as Batch
    from mdfpipe.video.geometry import iou

    detector = Yolo(weights=str(weights), image_size=SIZE[1], min_score=0.05)
    run = detector.open(ROOT, "held-out", device="cpu", threads=THREADS)
    tally: dict[tuple[str, float], list[int]] = {}
    for number, (picture, truth, domain) in enumerate(zip(data.pictures, data.boxes, data.domain, strict=True)):
        found = run(Batch(picture[None], np.array([number]), np.array([0.0])))[0]
        for threshold in sorted({0.1, 0.15, 0.2, score, 0.35, 0.5}):
            boxes = found.xyxy[found.score >= threshold]
            overlap = iou(boxes[:, None], truth[None, :, :4])
            wanted = (truth[:, 4] >= 0.5) & (truth[:, 5] > 0)
            found_boxes, taken = 0, np.zeros(len(truth), bool)
            for row in overlap:
                free = np.where(taken, 0, row)
                if free.size and free.max() >= 0.5:
                    taken[free.argmax()] = True
                    found_boxes += 1
            t = tally.setdefault((domain, threshold), [0, 0, 0, 0])
            for place, value in enumerate((int((taken & wanted).sum()), int(wanted.sum()), found_boxes, len(boxes))):
                t[place] += value
    print("domain      score   recall                precision    (IoU >= 0.5; face annotated, half visible)")
    for (domain, threshold), (got, of, hits, made) in sorted(tally.items()):
        print(
            f"{domain:10}  {threshold:.2f}    {got}/{of} = {got / max(of, 1):.3f}    "
            f"{hits}/{made} = {hits / max(made, 1):.3f}"
        )


if __name__ == "__main__":
    main()
