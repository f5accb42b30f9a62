"""The front door: what a user of the package needs. `docs/python.md` shows it in use."""

from .audit.integrity import verify
from .config import Config, Plugin
from .datasets import Dataset, Listing, VideoEntry
from .domains import Band, Domain
from .errors import ConfigError, DataError, DecodeError, MdfError, ProtocolError, StoreError
from .evaluation.table import Table
from .export.boxes import ExportedBoxes, export_boxes
from .inspecting.inspection import inspect
from .inspecting.run_view import RunView, open
from .learning.data.batches import CropBatch, Draw, Sampler
from .learning.data.crops import Crops
from .learning.own_images import Embedder
from .learning.recipes import Losses, Progress, Recipe
from .learning.system import System
from .learning.train.checkpoint import Checkpoint
from .learning.train.schedule import Group
from .protocol import Protocol
from .reporting.breakdown import Breakdown, breakdown
from .reporting.comparison import Comparison, average, compare
from .reporting.report import Report, report
from .running.execution import Event, Executor
from .running.faces import FoundFaces, find_faces, merge_faces
from .running.runner import Outcome, Runner, run
from .running.scoring import Evaluation, Scored, evaluate, score
from .running.status import status
from .running.synthesis import synthesise
from .stages import Resources, Stage
from .store.parquet import read_table
from .store.run import Receipt, Run
from .store.shipped import studies
from .study.study import Study
from .video.decoders import Decoder
from .video.detectors import Detector
from .video.frames import Boxes, Frames
from .video.labelling import LabelRules, Labels, label_bodies

__version__: str

__all__ = [
    "Band", "Boxes", "Breakdown", "Checkpoint", "Comparison", "Config", "ConfigError", "CropBatch", "Crops",
    "DataError", "Dataset", "DecodeError", "Decoder", "Detector", "Domain", "Draw", "Embedder", "Evaluation",
    "Event", "Executor", "ExportedBoxes", "FoundFaces", "Frames", "Group", "LabelRules", "Labels", "Listing",
    "Losses", "MdfError", "Outcome", "Plugin", "Progress", "Protocol", "ProtocolError", "Receipt", "Recipe",
    "Report", "Resources", "Run", "RunView", "Runner", "Sampler", "Scored", "Stage", "StoreError", "Study",
    "System", "Table", "VideoEntry", "average", "breakdown", "compare", "evaluate", "export_boxes",
    "find_faces", "inspect", "label_bodies", "merge_faces", "open", "read_table", "report", "run", "score",
    "status", "studies", "synthesise", "verify",
]  # fmt: skip
