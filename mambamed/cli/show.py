"""Prints the result of each command: tables, and the next command, on stdout."""

from __future__ import annotations

import math
import re
import shutil
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

from rich.console import Console
from rich.table import Table
from rich.text import Text

from mambamed.schema_errors import some_of
from mambamed.terminal import command_line, printable, unescaped

if TYPE_CHECKING:
    from mambamed.answers.bids import BidsSummary
    from mambamed.answers.classification import ClassifySummary
    from mambamed.answers.landmarks import LandmarksSummary
    from mambamed.answers.segmentation import PredictSummary
    from mambamed.converters.convert_points import ConvertSummary
    from mambamed.demonstration import DemoSummary
    from mambamed.documents.schemas import Kind
    from mambamed.evaluation.compare import Comparison
    from mambamed.evaluation.result import Evaluation
    from mambamed.jobs.listing import JobList
    from mambamed.preparation.prepare import PreparedSummary
    from mambamed.recipe import RecipeLine
    from mambamed.report.tables import Table as ReportTable
    from mambamed.run.cost import RecipeCost
    from mambamed.run.doctor import Examination
    from mambamed.run.export import ExportSummary
    from mambamed.run.import_weights import ImportSummary
    from mambamed.run.listing import RunList
    from mambamed.selection.best import BestSummary
    from mambamed.studies.running import StudySummary
    from mambamed.training import TrainSummary
    from mambamed.training.general import NewRecipe
    from mambamed.training.seeds import SeedsSummary
    from mambamed.viewer import ViewSummary


_NUMBER = re.compile(r"[-+±(]?[\d.]|-?(inf|nan)\b")
_WIDE = 140  # columns of a terminal that shows all about a recipe in one line
_BORDER = 3  # of a column: two spaces and a line
_NARROWEST_TEXT = 12  # characters of a column of text on a narrow terminal
_NAMES_SHOWN = 10  # of landmarks, labels or classes
_COLUMNS_SHOWN = 12  # of the scores of a training
SCORE_WORDS = {"dice": "Dice", "error_mm": "MRE mm"}


def prepare(summary: PreparedSummary) -> None:
    """Print the plan, or the findings of a check."""
    if summary.plan is None:
        if summary.findings:
            rows = [[found.case, found.kind, found.line] for found in summary.findings]
            _table("findings", ["case", "kind", "finding"], rows)
        print(f"{summary.cases} cases OK, {len(summary.faults)} faults, {len(summary.warnings)} warnings")
        return
    plan, manifest = summary.plan, summary.manifest
    found = (manifest.foreground, manifest.landmarks, manifest.classes)
    tasks = zip(("segmentation", "landmarks", "classification"), found, strict=True)
    task, names = next((each for each in tasks if each[1]), ("segmentation", ()))
    rows = [
        ["cases", str(summary.cases)],
        ["channels", ", ".join(summary.manifest.channels)],
        [task, some_of(names, most=_NAMES_SHOWN)],
        ["spacing", "unchanged" if plan.keep_spacing else _number(plan.spacing_mm) + " mm"],
        ["median shape", _number(plan.shape_median)],
        ["patch and batch", f"{_number(plan.patch_size)}, {plan.batch_size}"],
        ["normalization", ", ".join(dict.fromkeys(each.scheme for each in plan.normalization))],
    ]
    _table(f"{summary.output}: prepared in {summary.seconds:.1f} s", ["plan", "value"], rows)
    if summary.test_cases:
        print(
            f"{summary.test_cases} of the cases are for test and are not trained on. Give {summary.output} "
            "with --part test as the images to predict them, and as the references to evaluate them."
        )
    if summary.estimate:
        print(summary.estimate)
    print(f"to look at the cases: {command_line('view', summary.output)}")
    _next(summary.next_command)
    if summary.recipe_command:
        print(f"or, to change the recipe first: {summary.recipe_command}")


def train(summary: TrainSummary | SeedsSummary) -> None:
    """Print the scores of each fold or seed, or the cost of one step."""
    if hasattr(summary, "seeds"):
        _train_seeds(cast("SeedsSummary", summary))
        return
    summary = cast("TrainSummary", summary)
    if summary.dry_run is not None:
        cost = summary.dry_run
        rows = [[name, _million(count)] for name, count in cost.parts.items()]
        _table(f"{cost.network}: {_million(cost.parameters)} parameters", ["part", "parameters"], rows)
        print(
            f"one step: batch {cost.batch_size} of {_number(cost.patch_size)}, {cost.gflops:.0f} GFLOPs, "
            f"{cost.seconds:.2g} s, {cost.peak_gib:.1f} GiB, loss {cost.loss:.4f}"
        )
        for line in cost.cost.lines() if cost.cost else ():
            print(line)
    names = list(dict.fromkeys(name for fold in summary.folds for name in fold.scores))
    shown = names if len(names) <= _COLUMNS_SHOWN else []  # more are in summary.csv
    rows = []
    for fold in summary.folds:
        known = [score for score in fold.scores.values() if not math.isnan(score)]
        mean = sum(known) / len(known) if known else math.nan
        state = fold.stopped or "done"
        scores = [_number(fold.scores.get(name, math.nan)) for name in shown]
        steps, minutes = f"{fold.steps}/{fold.planned_steps}", f"{fold.seconds / 60:.1f}"
        rows.append([str(fold.fold), steps, minutes, *scores, _number(mean), state])
    if rows:
        score = summary.folds[0].score_title
        columns = [f"{score} {name}" for name in shown]
        headers = ["fold", "steps", "minutes", *columns, f"mean {score}", "state"]
        _table(f"{summary.run}: scores on whole validation volumes", headers, rows)
    _next(summary.next_command)


def _train_seeds(summary: SeedsSummary) -> None:
    """Print the scores over the seeds."""
    score = summary.score_title
    rows = []
    for line in summary.scores:
        spread = "" if math.isnan(line.sd) else f" ± {line.sd:.4f}"
        rows.append([line.name, f"{_number(line.mean)}{spread}", *(_number(each) for each in line.each)])
    if rows:
        headers = [score, "mean ± SD", *(f"seed {seed}" for seed in summary.seeds)]
        _table(f"{summary.root}: scores on whole validation volumes", headers, rows)
    stopped = summary.runs[-1].folds[-1].stopped
    if stopped:
        print(f"seed {summary.seeds[-1]}: {stopped}")
    _next(summary.next_command)


extend = train


def runs(found: RunList) -> None:
    """Print one line per fold."""
    rows = []
    for line in found.runs:
        word = SCORE_WORDS.get(line.score_name, line.score_name)
        best, epoch = "-" if line.score is None else f"{word} {line.score:.4f}", f"{line.epoch}/{line.epochs}"
        rows.append([str(line.run), str(line.fold), line.network, line.state, epoch, best, line.updated])
    if rows:
        _table(None, ["run", "fold", "network", "state", "epoch", "best patches", "updated"], rows)
    else:
        print("No runs found. Start one with 'mambamed train -d PREPARED'.")


def jobs(found: JobList) -> None:
    """Print one line per job, then what failed."""
    rows = []
    for line in found.lines:
        left = "" if line.seconds_left is None else _duration(line.seconds_left)
        rows.append([line.name, line.state, line.progress, left, _duration(line.seconds), line.host])
    _table(None, ["job", "state", "done", "time left", "ran", "host"], rows)
    for fault in found.failed:
        print(f"failed: {fault}")
    if found.cancelled:
        print(f"cancelled: {', '.join(found.cancelled)}")


def _duration(seconds: float) -> str:
    """A time for people.

    >>> _duration(42), _duration(600), _duration(90000)
    ('42 s', '10 min', '25.0 h')
    """
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def export(summary: ExportSummary) -> None:
    """Print the file and its checksum."""
    folds = ", ".join(map(str, summary.folds))
    print(f"{summary.output}: folds {folds}, {summary.bytes / 1e6:.1f} MB, sha256 {summary.sha256}")
    _next(summary.next_command)


def predict(summary: PredictSummary) -> None:
    """Print the number of masks and their folder."""
    kept = f", {summary.kept} of them kept" if summary.kept else ""
    print(f"{len(summary.cases)} masks in {summary.output}{kept}, {summary.seconds:.0f} s{_part(summary)}")
    _next(summary.next_command)


def landmarks(summary: LandmarksSummary) -> None:
    """Print the number of cases, the absent landmarks and the folder of the points."""
    kept = f", {summary.kept} of them kept" if summary.kept else ""
    absent = f"; {summary.absent} landmarks absent" if summary.absent else ""
    took = f"{summary.seconds:.0f} s{absent}{_part(summary)}"
    print(f"points of {len(summary.cases)} cases in {summary.output}{kept}, {took}")
    _next(summary.next_command)


def convert_points(summary: ConvertSummary) -> None:
    """Print the number of points and their file or folder."""
    print(f"{summary.points} points of {len(summary.cases)} cases in {summary.output}")


def classify(summary: ClassifySummary) -> None:
    """Print the number of cases per class and the path of the table."""
    labels, classes = summary.probabilities.labels, summary.probabilities.classes
    counts = ", ".join(f"{name} {labels.count(name)}" for name in classes)
    calibrated = "calibrated" if summary.probabilities.calibrated else "not calibrated"
    kept = f"{summary.kept} of them kept; " if summary.kept else ""
    took = f"{summary.seconds:.0f} s{_part(summary)}"
    print(f"{len(labels)} cases in {summary.output}: {counts}; {kept}{calibrated}, {took}")
    threshold = summary.probabilities.threshold
    if threshold is not None:
        first, second = classes
        print(f'"{second}" is predicted if its probability is at least {threshold:.4g}, otherwise "{first}"')
    if summary.saliency is not None:
        print(f"saliency maps: {summary.saliency}")
    _next(summary.next_command)


def bids(summary: BidsSummary) -> None:
    """Print the number of sessions and the folder of the derivatives."""
    kept = f", {summary.kept} of them kept" if summary.kept else ""
    print(f"{len(summary.cases)} sessions in {summary.output}{kept}, {summary.seconds:.0f} s")


def evaluate(evaluation: Evaluation) -> None:
    """Print the scores, their conventions and the paths of the tables."""
    _with_notes(evaluation.table)
    if evaluation.paper_table is not None:
        _with_notes(evaluation.paper_table)
    if evaluation.output is not None:
        print(f"written to {evaluation.output}: {', '.join(path.name for path in evaluation.written)}")


def compare(comparison: Comparison) -> None:
    """Print the differences, the tests used and the ranks."""
    _with_notes(comparison.table)
    _with_notes(comparison.ranks)
    if comparison.output is not None:
        print(f"tables: {comparison.output}")


def view(summary: ViewSummary) -> None:
    """Print what was shown, and where the notes are."""
    print(f"shown: {summary.cases} cases ({summary.kind})")
    if summary.notes is not None:
        print(f"notes: {summary.marked} cases in {summary.notes}")


def best(summary: BestSummary) -> None:
    """Print every option that was tested, and what was chosen."""
    _with_notes(summary.table)
    print(f"{summary.ensemble}: {', '.join(summary.chosen)}")
    _next(summary.next_command)


def study(summary: StudySummary) -> None:
    """Print the results and tests, or the cost of a dry run."""
    for table in summary.tables:
        _with_notes(table)
    print(f"{summary.finished} of {summary.runs} runs are finished")
    if summary.written:
        print(f"report: {summary.output / 'report.html'}; {len(summary.written)} files in {summary.output}")
    if summary.next_command:
        _next(summary.next_command)


def import_weights(summary: ImportSummary) -> None:
    """Print what was imported and the next command."""
    rows = [
        ["network", summary.network],
        ["parameters", _million(summary.parameters)],
        ["tensors in the file", str(summary.tensors)],
        ["axis order of the training arrays", summary.axis_order],
        ["folds", ", ".join(map(str, summary.folds))],
        ["run", str(summary.run)],
    ]
    _table("imported weights", ["property", "value"], rows)
    for note in summary.notes:
        print(note)
    _next(command_line("predict", summary.run, "IMAGES", "-o", "masks"))


def demo(summary: DemoSummary) -> None:
    """Print the scores of the phantoms and the paths of all results."""
    evaluate(summary.evaluation)
    places = [
        ["phantoms (BraTS case folders)", str(summary.data)],
        ["prepared dataset", str(summary.prepared)],
        ["run (recipe, plan, checkpoints)", str(summary.run)],
        ["training curves", str(summary.run / "fold_0" / "progress.png")],
        ["predicted masks", str(summary.predictions)],
        ["picture of three test cases", str(summary.picture)],
    ]
    _table("results", ["content", "path"], places)
    print("Now use your own data: a folder with dataset.json, imagesTr and labelsTr, or BraTS case folders.")
    _next("mambamed prepare YOUR_DATA -o prepared/mine")


def doctor(examination: Examination) -> None:
    """Print one line per check, then what to do."""
    rows = [[check.name, check.state, check.fact] for check in examination.checks]
    _table(f"mambamed {examination.version}", ["check", "state", "finding"], rows)
    for check in examination.checks:
        if check.advice:
            print(f"{check.name}: {check.advice}")
    bad = 'Fix the checks marked "bad" before using mambamed.'
    print("This machine is ready." if examination.usable else bad)


def recipes_list(lines: Sequence[RecipeLine]) -> None:
    """Print the shipped recipes, one line each; on a terminal, what does not fit is left out."""
    rows = [("recipe", "task", "network", "data", "description")]
    rows += [(line.name, line.task, line.network, line.data, line.headline) for line in lines]
    space = shutil.get_terminal_size().columns if sys.stdout.isatty() else sys.maxsize
    if space < _WIDE:  # the name has the network and the data in it
        rows = [(name, task, headline) for name, task, _, _, headline in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)][:-1]
    for *cells, headline in rows:
        begin = "".join(f"{cell:{width}}  " for cell, width in zip(cells, widths, strict=True))
        line = printable(begin + headline)
        print(line if len(line) <= space else f"{line[: space - 3]}...")


def recipes_show(cost: RecipeCost) -> None:
    """Print the resolved recipe and the cost of its network."""
    print(cost.text)
    rows = [
        ["parameters", _million(cost.parameters)],
        [f"GFLOPs at {_number(cost.patch_size)}", f"{cost.gflops:.1f}"],
        ["scan state updates", f"{cost.scan_g:.2f} G"],
        ["longest sequence", str(cost.longest_sequence)],
        [f"training memory at batch {cost.batch_size}", f"about {cost.training_gib:.1f} GiB"],
    ]
    _table(f"{cost.recipe}: {cost.network}", ["cost", "value"], rows)
    if cost.paper:
        rows = [[name, str(value)] for name, value in cost.paper.items()]
        _table("results in the paper", ["measure", "value"], rows)
    if cost.training is None:
        print("'mambamed recipes show RECIPE -d PREPARED' measures the hours of a training on this device.")
    else:
        print("\n".join(cost.training.lines()))
    _next(cost.next_command)


def recipes_new(made: NewRecipe) -> None:
    """Print the recipe, or its reasons and the file that holds it."""
    if made.output is None:
        print(made.text, end="")
        return
    print("\n".join((*made.notes, *made.cost.lines())))
    print(f"written to {made.output}")
    _next(made.next_command)


def recipes_check(recipes: Sequence[str]) -> None:
    """Print which recipes are valid."""
    for recipe in recipes:
        print(f"{recipe}: OK")


def schema(found: dict[str, Any] | list[Kind]) -> None:
    """Print the kinds of documents, or the JSON Schema of one."""
    if isinstance(found, dict):
        return recipes_schema(found)
    _table(None, ["kind", "file"], [[line.kind, line.file] for line in found])
    return _next(f"mambamed schema {found[0].kind}")


def recipes_schema(schema: dict[str, Any]) -> None:
    """Print the JSON Schema."""
    from mambamed.io.json_text import json_to_print

    print(json_to_print(schema))


def _table(title: str | None, headers: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table; on a pipe it is as wide as its content needs.

    Columns of numbers are aligned right, text left. On a narrow terminal, text is wrapped, and columns that
    do not fit follow in a further table: no number is broken.
    """
    stream = unescaped(sys.stdout)
    console = Console(file=stream, highlight=False)
    lines = [[*map(_cell, row)] for row in (headers, *rows)]
    columns = [_Column(cells) for cells in zip(*lines, strict=True)]
    space = console.width if console.is_terminal else sys.maxsize
    for number, group in enumerate(_grouped(columns, space)):
        named = None if title is None or number else _cell(title, "table.title")
        table = Table(header_style="bold")
        for column, width in zip(group, _widths(group, space), strict=True):
            justify = "right" if column.is_number else "left"
            table.add_column(column.cells[0], justify=justify, overflow="fold", width=width)
        for row in zip(*(column.cells[1:] for column in group), strict=True):
            table.add_row(*row)
        if not console.is_terminal:
            width = sum(column.widest + _BORDER for column in group) + 1
            console = Console(file=stream, highlight=False, width=max(width, named.cell_len if named else 0))
        with console.capture() as drawn:  # rich would end the process where the pipe is closed
            if named is not None:
                console.print(named)
            console.print(table)
        stream.write(drawn.get())


class _Column:
    """A column of a table: its header and cells, and how narrow it can be."""

    def __init__(self, cells: Sequence[Text]) -> None:
        values = [cell.plain for cell in cells[1:] if cell.plain not in {"", "-"}]
        self.cells = cells
        self.is_number = bool(values) and all(_NUMBER.match(value) for value in values)
        self.widest = max(cell.cell_len for cell in cells)
        words = [Text(word).cell_len for cell in cells for word in cell.plain.split()]
        longest = max(words, default=1)
        self.narrowest = longest if self.is_number else min(longest, _NARROWEST_TEXT)


def _grouped(columns: Sequence[_Column], space: int) -> list[list[_Column]]:
    """The columns in groups that fit next to each other; each group begins with the first column."""
    first, groups = columns[0], [[columns[0]]]
    for column in columns[1:]:
        taken = sum(each.narrowest + _BORDER for each in [*groups[-1], column]) + 1
        if taken > space and len(groups[-1]) > 1:
            groups.append([first])
        groups[-1].append(column)
    return groups


def _widths(columns: Sequence[_Column], space: int) -> list[int]:
    """The widths of columns next to each other: the widest ones give up what does not fit."""
    widths = [column.widest for column in columns]
    excess = sum(widths) + _BORDER * len(columns) + 1 - space
    while excess > 0:
        room = [w - column.narrowest for w, column in zip(widths, columns, strict=True)]
        if max(room) <= 0:
            break
        widest = max((w, k) for k, w in enumerate(widths) if room[k] > 0)[1]
        widths[widest] -= 1
        excess -= 1
    return widths


def _cell(text: str, style: str = "") -> Text:
    """One line shown as it is: names of cases and labels may hold markup or control characters."""
    return Text(printable(text).replace("\n", "\\n"), style=style)


def _with_notes(table: ReportTable) -> None:
    """Print a table and its notes."""
    _table(table.title, table.headers, table.rows)
    for note in table.notes:
        print(note)


def _part(summary: PredictSummary | LandmarksSummary | ClassifySummary) -> str:
    return f" ({summary.part})" if summary.part else ""


def _next(command: str) -> None:
    print(f"next: {command}")


def _number(value: Any) -> str:
    """Format a number for a table.

    >>> _number(0.87654), _number(float("nan")), _number(12), _number((32, 32, 16))
    ('0.8765', '-', '12', '32x32x16')
    """
    if isinstance(value, float):
        return "-" if math.isnan(value) else f"{value:.4f}"
    if isinstance(value, (tuple, list)):
        return "x".join(f"{v:g}" for v in value)
    return str(value)


def _million(count: int) -> str:
    return f"{count / 1e6:.3f} M"
