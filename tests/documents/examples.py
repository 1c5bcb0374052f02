"""A valid example of every document, as `read_json` gives it, with every optional key in it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mambamed.documents.base import Model
from mambamed.documents.ensemble import EnsembleFile
from mambamed.documents.evaluation import (
    ClassificationSummary,
    ComparisonFile,
    LandmarksSummary,
    SegmentationSummary,
)
from mambamed.documents.event import ErrorEvent, MessageEvent, ProgressEvent, ResultEvent
from mambamed.documents.fault import FaultReport
from mambamed.documents.jobs import JobRequest, JobState
from mambamed.documents.manifest import DatasetManifest
from mambamed.documents.plan import Plan
from mambamed.documents.prediction import PointFile, PredictionRecord
from mambamed.documents.prepared import CaseRecord, Fingerprint, PreparedIndex
from mambamed.documents.program import Program
from mambamed.documents.run import (
    Calibration,
    CheckpointFacts,
    CompileTimes,
    ModelIndex,
    RunRecord,
    Thresholds,
)
from mambamed.documents.splits import Splits
from mambamed.documents.study import Study, StudyRecord
from mambamed.io.json_files import read_json

SAMPLES = Path(__file__).parent / "samples" / "0.1.0"


def _read(name: str, **more: Any) -> Any:
    return read_json(SAMPLES / name) | more


def _plan() -> Any:
    schemes = [{"scheme": scheme} for scheme in ("zscore", "zscore_nonzero", "minmax", "rgb", "none")]
    plan = _read("segmentation/run/plan.json", axes="stored", like_nnunet=True)
    return plan | {"normalization": [*plan["normalization"], *schemes]}


ACCOUNT = {"files_read": 3, "other": [{"kind": "unreadable DICOM", "count": 2, "files": ["x.dcm"]}]}


def _index() -> Any:
    index = _read("classification/prepared/dataset.json", group_by="subject")
    landmarks = read_json(SAMPLES / "landmarks/prepared/dataset.json")
    first = index["cases"][0] | {"points": landmarks["cases"][0]["points"]}
    images = {"c0": [{"path": "/data/all.nii.gz", "volume": 0, "files": ["/data/1.dcm", "/data/2.dcm"]}]}
    return index | {"cases": [first, *index["cases"][1:]], "images": images, "account": ACCOUNT}


def _run() -> Any:
    run = _read("segmentation/run/run.json")
    fold = run["folds"]["0"] | {"score": {"name": "dice", "higher_is_better": True}, "finished": True}
    fold["sessions"][0] |= {"processes": "2 processes", "recipe": "recipe evaluation.metrics: changed"}
    fold |= {"training_cases": 4, "training_subjects": 3}
    cost = {"device": "cuda", "seconds": 60.5, "cpu_seconds": 90.0, "processes": 2, "peak_gib": 10.5}
    fold["sessions"][0]["cost"] = cost
    return run | {"folds": {"0": fold}}


def _prediction() -> Any:
    record = _read("classification/prediction/classes.run.json", settings={"device": "cpu"})
    stamp = ["c0.nii.gz", 10167, 1795936758053880490]
    case = record["cases"]["c0"] | {"sha256": "0" * 64, "input": [stamp], "covariates": {"age": "50"}}
    case |= {"missing": ["FLAIR"]}
    failed = record["cases"].pop("bad")
    numbers = {"expected_dice": 0.9, "entropy": 0.25, "disagreement": 0.5}
    case["uncertainty"] = {"liver": numbers}
    return (
        record
        | {"account": ACCOUNT}
        | {"cases": {"c0": case | {"probabilities": [0.25, 0.75], "fault": "none"}, "bad": failed}}
    )


def _facts() -> Any:
    scaler = {"scale": 65536.0, "growth_factor": 2.0, "backoff_factor": 0.5, "growth_interval": 2000}
    more = {"step": 2, "epoch": 1, "score": 0.5, "imported_from": "w.pth", "axis_order": "zyx"}
    facts = _read("segmentation/run/fold_0/checkpoint_last.json", exported="last", **more)
    return facts | {"scaler": scaler | {"_growth_tracker": 0}}


def _comparison() -> Any:
    test = {"pairs": 3, "mean_difference": 0.5, "interval": [0.1, 0.9], "wilcoxon_p": 0.5, "permutation_p": 1}
    names = {"region": "liver", "metric": "dice", "first": "a", "second": "b"}
    corrected = {"delong_p": float("nan"), "wilcoxon_holm": 1, "permutation_holm": 1, "delong_holm": 1.0}
    return {"format": 1, "differences": [{**names, "means": [0.25, 0.75], "test": test, **corrected}]}


ENSEMBLE = {
    "format": 1,
    "members": [{"model": "../runs/a", "weight": 2.0, "checkpoints": {"fold_0": "0" * 64}}],
    "checkpoint": "best",
    "postprocess": {"fill_holes": ["WT"], "largest_component": ["TC"], "min_mm3": {"ET": 10.0}},
    "thresholds": {"ET": 0.4},
    "metric": "dice",
    "choices": [
        {"stage": "runs", "option": "a + b", "subjects": 9, "before": 0.8, "after": 0.9}
        | {"interval": [0.05, 0.15], "p": 0.01, "taken": True}
    ],
}
STUDY = {
    "name": "Hippocampus",
    "datasets": {"hippo": {"prepared": "prepared/hippo", "set": {"network.channels": 8}, "part": "test"}},
    "recipes": {
        "a": {"recipe": "{dataset}_a", "datasets": ["hippo"], "set": {"training.ema": 0.5}, "twin": True},
        "b": {"recipe": "b.yaml", "init_from": "hippo/a-none"},
    },
    "twins": True,
    "set": {"training.augment.mirror": ["x"]},
    "folds": [0, 1],
    "seeds": [0, 3],
    "budget": {"hours": 0.5},
    "compare_with": "a",
    "level": 0.9,
}


def _study() -> Any:
    names = {"dataset": "hippo", "region": "average", "metric": "dice"}
    run = {"dataset": "hippo", "recipe": "a", "seed": 0, "command": "mambamed train a", "folds": [0]}
    run |= {"finished": True, "hours": 0.5, "complete": False, "device": "cpu", "peak_gib": 1.5}
    run |= {"parameters": 1000, "steps": 100}
    score = {"recipe": "a", "seeds": {"0": 0.5, "3": float("nan")}, "mean": 0.5, "sd": 0.1}
    score |= {"interval": [0.4, 0.6], "rank": 1.5, "units": 3, "paper": 0.9}
    test = {"first": "a", "second": "b", "subjects": 3, "difference": 0.1, "seeds": {"0": 0.1}}
    test |= {"interval": [0.0, 0.2], "wilcoxon_holm": 0.5, "permutation_holm": 1.0, "delong_holm": 1.0}
    rows = {"runs": [run], "scores": [names | score], "differences": [names | test]}
    return {"format": 1, "study": STUDY, **rows}


def _program() -> Any:
    """With the parts of all tasks, although a program has one."""
    file = {"name": "model.onnx", "bytes": 10, "sha256": "0123456789abcdef" * 4}
    plan = _plan()
    preparation = {"axes": "ras", "crop": "nonzero", "keep_spacing": False, "spacing_mm": [1.0, 1.0, 2.0]}
    preparation |= {"normalization": plan["normalization"]}
    windows = {"kind": "sliding", "patch_size": [16, 16, 16], "overlap": 0.5, "gaussian": True}
    windows |= {"mirror_axes": [0, 2], "mirror_order": [0, 2, 1], "like_nnunet": False}
    masks = {"labels": {"background": 0, "tumor": 1}, "regions": {"whole": [1]}, "decision": "largest"}
    masks |= {"values": [0, 1], "order": [0]}
    masks |= {"postprocess": {"fill_holes": ["a"], "largest_component": ["a"], "min_mm3": {"a": 2.0}}}
    points = {"names": ["tip"], "reading": "softmax", "method": "gaussian", "sigma_voxels": [1.0, 1.0, 2.0]}
    points |= {"offsets": True, "thresholds": {"tip": 0.5}}
    classes = {"names": ["left", "right"], "temperature": 1.5, "threshold": 0.5}
    return {
        "format": 1, "version": "0.2.0", "run": "brats", "task": "segmentation", "network": "nnmamba",
        "program": "onnx", "opset": 20, "files": [file], "folds": [0, "all"], "checkpoint": "best",
        "largest_difference": 1e-6, "input": "image", "output": "logits", "outputs": 2,
        "channels": {"T1": "mri"}, "preparation": preparation, "windows": windows, "masks": masks,
        "points": points, "classes": classes,
    }  # fmt: skip


MORE = {"landmarks": ["tip"], "classes": ["left", "right"], "covariate_ranges": {"age": [20.0, 90.5]}}
LOSS = {"voxels": 30, "in_crop": 29, "kept": 10, "components": 2, "components_lost": 1}
START = {"host": "node7", "process": 4711, "id": "101", "began": 1.5, "seen": 2.5, "ended": 3.5}
START |= {"ending": "failed", "exit_code": 2, "fault": "r.yaml: wrong. Correct it."}
JOB = {"name": "fold_0", "words": ["train"], "again": ["--resume"], "folder": "/data", "on": "slurm"}
JOB |= {"resources": {"time": "1:00:00"}, "limit_seconds": 3600.0, "submissions": ["101"]}
FAULT = {"kind": "RunError", "messages": ["disk full"], "exit_code": 1}
PROGRESS = {"event": "progress", "stage": "predicting", "unit": "cases", "done": 1, "total": 2}
PROGRESS |= {"fraction": 0.75, "seconds": 6.0, "seconds_left": 2.0, "facts": {"case": "c1", "loss": 0.5}}
EXAMPLES: list[tuple[type[Model], Any]] = [
    (DatasetManifest, _read("segmentation/run/dataset.json", **MORE)),
    (Plan, _plan()),
    (PreparedIndex, _index()),
    (CaseRecord, _read("segmentation/prepared/cases/c1.json", losses={"1": LOSS})),
    (Fingerprint, {"cases": read_json(SAMPLES / "segmentation/prepared/fingerprint.json")}),
    (Splits, {"folds": [{"train": ["c0"], "val": ["c1"], "test": ["c2"]}]}),
    (RunRecord, _run()),
    (Thresholds, _read("landmarks/run/fold_0/thresholds.json")),
    (Calibration, _read("classification/run/fold_0/calibration.json", temperature=1.5)),
    (CheckpointFacts, _facts()),
    (ModelIndex, _read("landmarks/model.json")),
    (CompileTimes, {"format": 1, "seconds": {"0123456789abcdef": [1.0, 0.5]}}),
    (PredictionRecord, _prediction()),
    (PointFile, _read("landmarks/prediction/c1.json")),
    (SegmentationSummary, _read("summary_segmentation.json", task="segmentation")),
    (LandmarksSummary, _read("summary_landmarks.json", task="landmarks")),
    (ClassificationSummary, _read("summary_classification.json", task="classification")),
    (ComparisonFile, _comparison()),
    (JobRequest, {"format": 1, **JOB}),
    (JobState, {"format": 1, "starts": [START]}),
    (EnsembleFile, ENSEMBLE),
    (Program, _program()),
    (Study, STUDY),
    (StudyRecord, _study()),
    (FaultReport, {"error": FAULT}),
    (ErrorEvent, {"event": "error", "error": FAULT}),
    (MessageEvent, {"event": "message", "text": "device cpu: asked for"}),
    (ProgressEvent, PROGRESS),
    (ResultEvent, {"event": "result", "result": {"faults": []}}),
]
