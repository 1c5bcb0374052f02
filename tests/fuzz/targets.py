"""What is fuzzed: the readers of files that may come from a stranger, and healthy files to begin with.

A target takes bytes and reads them; what it raises other than `MambamedError`, a warning of Python's, or an
answer that cannot be, is a fault of ours.
"""

from __future__ import annotations

import contextlib
import functools
import gzip
import hashlib
import io
import json
import math
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch

from mambamed.converters import convert
from mambamed.documents.evaluation import read_summary
from mambamed.documents.foreign.acdc import AcdcInfo
from mambamed.documents.point_files import read_point_table, read_points
from mambamed.documents.prepared import Fingerprint
from mambamed.documents.schemas import KINDS
from mambamed.documents.splits import Splits
from mambamed.errors import MambamedError
from mambamed.io.dicom_seg import write_segmentation
from mambamed.io.images import read_image
from mambamed.io.json_files import read_json
from mambamed.io.ledger import LEDGER_NAME, Ledger
from mambamed.io.points import write_points
from mambamed.io.rtstruct import write_rtstruct
from mambamed.io.seg_nrrd import write_seg_nrrd
from mambamed.io.segments import read_contents, read_parts
from mambamed.recipe import load_recipe
from mambamed.run.checkpoint import read_checkpoint
from mambamed.run.export import export_model, open_model
from mambamed.run.model import load_network
from mambamed.run.tensors import read_tensors
from mambamed.run.torch_files import read_torch_file
from tests.answers.stubs import stub_run
from tests.documents.examples import EXAMPLES
from tests.documents.examples import SAMPLES as DOCUMENTS
from tests.documents.foreign.test_mutations import SAMPLES, make_dataset
from tests.documents.test_schemas import FILES
from tests.faults.fault_files import ACCEPTED, AFFINE, REJECTED, WARNED, nifti, packed
from tests.fuzz.mutations import mutated, mutated_json, mutated_pickle
from tests.io.pydicom_series import write_axial

TESTS = Path(__file__).resolve().parents[1]
_SMALL = np.arange(60, dtype=np.int16).reshape(5, 4, 3)
_POINTS = {"nose": (1.0, -2.5, 3.0), "chin": (4.0, 5.0, -6.25), "left eye": (0.0, 0.5, 7.0)}
_NETWORKS_BUILT = 64  # one model of so many that open; building a network takes 10 ms


@dataclass(frozen=True)
class Target:
    """One reader.

    Attributes:
        seeds: healthy files, and some that once were at fault.
        attempt: reads a file of these bytes in this folder.
        shaped: the file of mutated bytes; mutating what is packed would only show that it is checked.
        changed: mutates a seed, with parts of the others.
    """

    seeds: list[bytes]
    attempt: Callable[[bytes, Path], None]
    shaped: Callable[[bytes, np.random.Generator], bytes] = lambda data, random: data
    changed: Callable[[bytes, list[bytes], np.random.Generator], bytes] = mutated

    def input(self, number: int, seed: int = 0) -> bytes:
        """The bytes of an input by its number; the seeds themselves come first."""
        if number < len(self.seeds):
            return self.seeds[number]
        random = np.random.default_rng([seed, number])
        chosen = self.seeds[int(random.integers(len(self.seeds)))]
        return self.shaped(self.changed(chosen, self.seeds, random), random)


def _kept(name: str) -> list[bytes]:
    """Inputs that once were at fault."""
    return [path.read_bytes() for path in sorted((TESTS / "fuzz" / "seeds").glob(f"{name}_*"))]


def _nifti() -> Target:
    plain = [nifti(_SMALL), nifti(_SMALL.astype(np.float32), scl_slope=0.5), nifti(_SMALL.astype(">i2"))]
    rows = [row.data for row in (*ACCEPTED, *WARNED, *REJECTED) if 0 < len(row.data) < 8000]
    seeds = [*plain, packed(_SMALL), *rows, *_kept("nifti")]

    def shaped(data: bytes, random: np.random.Generator) -> bytes:
        return gzip.compress(data, 1, mtime=0) if random.random() < 0.4 else data

    def attempt(data: bytes, folder: Path) -> None:
        path = folder / ("a.nii.gz" if data[:2] == b"\x1f\x8b" else "a.nii")
        path.write_bytes(data)
        image = read_image(path)
        assert image.array.ndim == 3 and image.array.size > 0
        assert np.isfinite(image.affine).all() and abs(np.linalg.det(image.affine)) > 0
        assert image.array.dtype.kind != "f" or np.isfinite(image.array).all()

    return Target(seeds, attempt, shaped)


def _segmentations(kind: str) -> Target:
    """Segmentations with named segments, placed on a grid of 5 x 4 x 6 voxels."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_axial(folder / "ct", [3.0 * n for n in range(6)], SliceThickness=3)
        image = read_image(folder / "ct")
        labels = np.zeros(image.array.shape, np.uint8)
        labels[1:3, 1:3, 1:4], labels[3:, :2, 2:] = 1, 2
        names, colors, path = {"one": (1,), "two": (2,)}, [(1.0, 0.0, 0.0)] * 2, folder / "a.dcm"
        if kind == "slicer":
            write_seg_nrrd(folder / "a.seg.nrrd", labels, image.affine, names, colors)
            write_seg_nrrd(folder / "b.seg.nrrd", labels, image.affine, {**names, "both": (1, 2)}, colors * 2)
        elif kind == "seg":
            write_segmentation(path, labels, folder / "ct", {"background": 0, "one": 1, "two": 2}, "x")
        else:
            write_rtstruct(path, labels, folder / "ct", names, colors, "x")
        seeds = [path.read_bytes() for path in sorted(folder.glob("[ab].*"))]

    def attempt(data: bytes, folder: Path) -> None:
        path = folder / ("a.seg.nrrd" if kind == "slicer" else "a.dcm")
        path.write_bytes(data)
        known = set(read_contents(path).values)
        for resample in (False, True):
            for part in read_parts(path, labels.shape, image.affine, resample):
                assert part.name in known and part.mask.dtype == bool
                ends = np.add(part.start, part.mask.shape)
                assert min(part.start) >= 0 and (ends <= labels.shape).all()

    return Target([*seeds, *_kept(kind)], attempt)


_POINT_KINDS = (".mrk.json", ".fcsv", ".csv", ".json", ".tsv")


def _points() -> Target:
    """The first byte says the kind of the file."""
    seeds = []
    with tempfile.TemporaryDirectory() as folder:
        for number, kind in enumerate(_POINT_KINDS[:4]):
            path = Path(folder) / f"a{kind}"
            write_points(path, _POINTS, {"nose": 0.5})
            seeds.append(bytes([number]) + path.read_bytes())
    seeds += [
        b"\x02case,landmark,x,y,z\na,nose,1,2,3\nb,nose,,,\nb,chin,4,5,6\n",
        b"\x04case\tlandmark\tx_voxel\ty_voxel\tz_voxel\na\tnose\t1\t2\t3\n",
        b'\x02landmark;l;p;s\n"no;se";1;2;3\n\'=1;4;5;6\n',
        b'\x03{"a": {"nose": [1, 2, 3], "chin": {"coordinates": [4, 5, 6]}}, "b": {"nose": null}}',
        b'\x03{"nose": [1, 2, 3], "chin": {"coordinates": [null, null, null]}}',
        *_kept("points"),
    ]

    def attempt(data: bytes, folder: Path) -> None:
        kind = _POINT_KINDS[(data[0] if data else 0) % len(_POINT_KINDS)]
        path = folder / f"a{kind}"
        path.write_bytes(data[1:])
        if kind in {".csv", ".json", ".tsv"}:
            with contextlib.suppress(MambamedError):
                read_point_table(path)
        for place in read_points(path, AFFINE).values():
            assert place is None or (len(place) == 3 and all(map(math.isfinite, place)))

    return Target(seeds, attempt)


def _recipe() -> Target:
    recipes = TESTS.parent / "recipes"
    whole = (recipes / "brats_nnmamba.yaml").read_bytes()
    seeds = [
        b"network: {name: nnmamba, channels: 4}\ntraining: {epochs: 2, optimizer: {lr: 3e-4}}\n",
        b"task: landmarks\ndataset:\n  landmarks: [a, b]\n  mirror_pairs: [[a, b]]\n"
        b"network:\n  name: unet\nmeasures: {width: [a, b]}\n",
        b"extends: brats_nnmamba\nname: mine\n"
        b"training:\n  patch_size: [96, 96, 96]\n  augment: {mirror: [x]}\n",
        b"dataset:\n  split: {train: 0.7, val: 0.1, test: 0.2}\n  regions: {WT: [1, 2, 3]}\n"
        b'  labels: {"background": 0, ET: 3}\nnetwork: {name: segmamba}\nevaluation: {sdr_mm: [2, 2.5]}\n',
        b"# text\nnetwork:\n  name: 'x'\npaper: {dice: 0.9, by: \"A \\u00e9\"}\n"
        b"preprocess: {spacing: [1, 1, 1.5]}\n",
        b"task: classification\ndataset: {covariates: {age: number, sex: [F, M]}}\nnetwork: {name: resnet}\n",
        *([whole] if len(whole) < 1500 else []),
        *_kept("recipe"),
    ]

    def attempt(data: bytes, folder: Path) -> None:
        path = folder / "a.yaml"
        path.write_bytes(data)
        load_recipe(path, [data[-20:].decode("utf-8", "replace")] if data[-1:] == b"]" else ())

    return Target(seeds, attempt)


def _checkpoint() -> Target:
    """Of safetensors, half of the inputs with the length of the header as it is."""
    seeds = [_model_parts()["fold_0/checkpoint_best.safetensors"][:3000], *_kept("checkpoint")]
    tensors = {"network.w": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}}
    document = {**tensors, "__metadata__": {"mambamed": '{"format": 1, "step": 3, "score": 0.5}'}}
    seeds += [_framed(json.dumps(document).encode(), bytes(24)), _model_parts()["small"]]

    def shaped(data: bytes, random: np.random.Generator) -> bytes:
        end = data.rfind(b"}") + 1
        return _framed(data[8:end], data[end:]) if end > 8 and random.random() < 0.7 else data

    def attempt(data: bytes, folder: Path) -> None:
        path = folder / "a.safetensors"
        path.write_bytes(data)
        read_checkpoint(path)

    return Target(seeds, attempt, shaped)


def _framed(header: bytes, tensors: bytes) -> bytes:
    return struct.pack("<Q", len(header)) + header + tensors


_parts: dict[str, bytes] = {}


def _model_parts() -> dict[str, bytes]:
    """The members of a small model, by name, the file itself, and a checkpoint of one tensor."""
    if not _parts:
        with tempfile.TemporaryDirectory() as folder:
            run = stub_run(Path(folder) / "run", patch_size=(8, 8, 8))
            file = export_model(run.root, Path(folder) / "model.mambamed").output
            with zipfile.ZipFile(file) as archive:
                _parts.update({name: archive.read(name) for name in archive.namelist()})
            _parts["file"] = file.read_bytes()
        metadata = {"__metadata__": {"mambamed": '{"format": 1}'}}
        _parts["small"] = _framed(
            json.dumps(
                {"network.w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}, **metadata}
            ).encode(),
            bytes(4),
        )
    return _parts


_DOCUMENTS = ("recipe.yaml", "plan.json", "dataset.json", "card.md", "fold_0/thresholds.json")


def _model() -> Target:
    """One-file models: a document changed and everything else in order, or the file's own bytes changed.

    A seed is the number of a document and its text, or 255 and a whole file.
    """
    parts = _model_parts()
    seeds = [bytes([number]) + parts[name] for number, name in enumerate(_DOCUMENTS[:3])]
    seeds += [b'\x04{"thresholds": {"nose": 0.25}, "cases": 3}', b"\xff" + parts["file"], *_kept("model")]
    small = {**parts, "fold_0/checkpoint_best.safetensors": parts["small"]}
    seeds.append(b"\xff" + _zipped(small, "card.md", b"small"))

    def attempt(data: bytes, folder: Path) -> None:
        path, which = folder / "a.mambamed", data[0] if data else 0
        if which >= 250:
            path.write_bytes(data[1:])
        else:
            name = _DOCUMENTS[which % len(_DOCUMENTS)]
            build = zlib.crc32(data) % _NETWORKS_BUILT == 0
            path.write_bytes(_zipped(parts if build else small, name, data[1:]))
        run = open_model(path)
        if run.folds and run.weights(0).size > 1000 and zlib.crc32(data) % _NETWORKS_BUILT == 0:
            load_network(run, 0)

    return Target(seeds, attempt)


def _zipped(parts: dict[str, bytes], changed: str, data: bytes) -> bytes:
    """A model file with one member changed, and an index that knows it."""
    members = {n: d for n, d in parts.items() if n not in {"file", "small", "model.json"}} | {changed: data}
    listed = {n: {"bytes": len(d), "sha256": hashlib.sha256(d).hexdigest()} for n, d in members.items()}
    index = {"format": 1, "version": "0", "run": "stub", "members": listed}
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, content in {**members, "model.json": json.dumps(index).encode()}.items():
            archive.writestr(zipfile.ZipInfo(name), content)
    return stream.getvalue()


def _torch() -> Target:
    """Files of torch.save: the pickle changed, by instructions or bytes, and the rest in order; or any byte.

    A seed is a byte and a pickle, or 255 and a whole file.
    """
    storage = torch.arange(24.0)
    views = {"a": storage.reshape(4, 6), "b": storage.reshape(4, 6).t()[1:3], "c": torch.ones(2).half()}
    contents = [views, {"state_dict": views, "epoch": 3, "more": [1.5, None, {"x": (1, 2)}]}]
    packed_files = []
    for content in contents:
        stream = io.BytesIO()
        torch.save(content, stream)
        packed_files.append(stream.getvalue())
    archives = [zipfile.ZipFile(io.BytesIO(data)) for data in packed_files]
    members = [{name: archive.read(name) for name in archive.namelist()} for archive in archives]
    pickles = [next(d for n, d in each.items() if n.endswith("data.pkl")) for each in members]
    seeds = [bytes([number]) + each for number, each in enumerate(pickles)]
    seeds += [b"\xff" + packed_files[0], *_kept("torch")]

    def changed(seed: bytes, others: list[bytes], random: np.random.Generator) -> bytes:
        if seed[0] != 255 and random.random() < 0.7:
            return seed[:1] + mutated_pickle(seed[1:], random)
        return seed[:1] + mutated(seed[1:], [other[1:] for other in others], random)

    def attempt(data: bytes, folder: Path) -> None:
        path, which = folder / "a.pth", data[0] if data else 0
        if which == 255:
            path.write_bytes(data[1:])
        else:
            with zipfile.ZipFile(path, "w") as archive:
                for name, content in members[which % len(members)].items():
                    archive.writestr(
                        zipfile.ZipInfo(name), data[1:] if name.endswith("data.pkl") else content
                    )
        for tensor in read_torch_file(path).values():
            tensor.contiguous().sum()

    return Target(seeds, attempt, changed=changed)


def _tensors() -> Target:
    """Headers of safetensors files."""
    shapes = {"a": [2, 3], "b": [4], "c": []}
    header: dict[str, Any] = {"__metadata__": {"x": "y"}}
    end = 0
    for name, shape in shapes.items():
        first, end = end, end + 4 * math.prod(shape)
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [first, end]}
    seeds = [json.dumps(header).encode(), *_kept("tensors")]

    def attempt(data: bytes, folder: Path) -> None:
        path = folder / "a.safetensors"
        path.write_bytes(_framed(data, bytes(end)))
        _, tensors = read_tensors(path)
        for tensor in tensors.values():
            tensor.sum()

    return Target(seeds, attempt, changed=mutated_json)


def _ledger() -> Target:
    lines = b'{"format": 1, "kind": "run", "source": "/data/x"}\n"run.json"\n"fold_0/log.csv"\n'
    seeds = [lines, lines + b'{"removed": "run.json"}\n{"source": "/y"}\n"a"', *_kept("ledger")]

    def attempt(data: bytes, folder: Path) -> None:
        path = folder / "ledger" / LEDGER_NAME
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)
        ledger = Ledger(path.parent).refresh()
        with contextlib.suppress(OSError):  # a name that is too long
            ledger.foreign([*ledger.names, "fold_0/checkpoint"])

    return Target(seeds, attempt, changed=mutated_json)


def _acdc() -> Target:
    seeds = [b"ED: 1\nES: 12\nGroup: DCM\nHeight: 184.0\nNbFrame: 30\nWeight: 95.0\n", *_kept("acdc")]

    def attempt(data: bytes, folder: Path) -> None:
        path = folder / "Info.cfg"
        path.write_bytes(data)
        info = AcdcInfo.read(path)
        assert info.frame("ED", path) >= 0 and info.frame("ES", path) >= 0

    return Target(seeds, attempt)


def _participants() -> Target:
    """Tables of BIDS, of participants and of the sessions of one."""
    table = b"participant_id\tage\tdiagnosis\nsub-01\t34\tAD\nsub-02\t40\tn/a\n"
    seeds = [b"\0" + table, b"\x01session_id\tage\tgroup\nses-1\t3\tCN\n", *_kept("participants")]

    def attempt(data: bytes, folder: Path) -> None:
        source = folder / "bids"
        for name in ("sub-01/ses-1", "sub-02"):
            if not (anatomy := source / name / "anat").is_dir():
                anatomy.mkdir(parents=True)
                (anatomy / f"{name.replace('/', '_')}_T1w.nii.gz").write_bytes(packed(_SMALL))
        (source / "participants.tsv").write_bytes(table)
        sessions = source / "sub-01" / "sub-01_sessions.tsv"
        sessions.unlink(missing_ok=True)
        (sessions if data[:1] == b"\x01" else source / "participants.tsv").write_bytes(data[1:])
        convert(source, "bids")

    return Target(seeds, attempt)


def _own(kind: str) -> Target:
    """A document that mambamed writes, read as its commands read it."""
    _, content = KINDS[kind]
    readers: dict[str, Callable[[Path], object]] = {
        "splits": lambda path: Splits.read_for(path, {f"c{n}": f"c{n}" for n in range(10)}, "subject"),
        "fingerprint": lambda path: Fingerprint.checked({"cases": read_json(path)}, path),
        "evaluation": read_summary,
    }
    read = readers.get(kind) or content.read
    files = [path for pattern in FILES.get(kind, "").split() for path in sorted(DOCUMENTS.glob(pattern))]
    examples = [example for model, example in EXAMPLES if model is content or model in get_args(content)]
    seeds = [path.read_bytes() for path in files if path.stat().st_size < 20_000]
    seeds += [json.dumps(example).encode() for example in examples]

    def attempt(data: bytes, folder: Path) -> None:
        path = folder / "a.json"
        path.write_bytes(data)
        read(path)

    return Target([*seeds, *_kept(f"own_{kind}")], attempt, changed=mutated_json)


def _foreign(name: str) -> Target:
    """A document of another program, in a dataset that is otherwise in order."""
    content, file_name, kind = SAMPLES[name]

    def attempt(data: bytes, folder: Path) -> None:
        root = folder / name
        if not root.is_dir():
            make_dataset(root)
            if name in {"order", "channels"}:
                (root / "points.csv").write_text("case,landmark,x,y,z\na,nose,1,2,3\n")
        (root / file_name).write_bytes(data)
        convert({"json": root / file_name, "csv": root / "table.csv"}.get(kind, root), kind)

    return Target([json.dumps(content).encode(), *_kept(f"foreign_{name}")], attempt, changed=mutated_json)


TARGETS: dict[str, Callable[[], Target]] = {
    "nifti": _nifti,
    "slicer": functools.partial(_segmentations, "slicer"),
    "seg": functools.partial(_segmentations, "seg"),
    "rtstruct": functools.partial(_segmentations, "rtstruct"),
    "points": _points,
    "recipe": _recipe,
    "checkpoint": _checkpoint,
    "model": _model,
    "torch": _torch,
    "tensors": _tensors,
    "ledger": _ledger,
    "acdc": _acdc,
    "participants": _participants,
    **{
        f"own {kind}": functools.partial(_own, kind)
        for kind in KINDS
        if kind not in {"recipe", "files", "event"}  # no command reads events
    },
    **{f"foreign {name}": functools.partial(_foreign, name) for name in SAMPLES},
}
