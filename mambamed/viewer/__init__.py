"""`mambamed view`: look at cases, masks, landmarks and saliency in a browser on this machine."""

from __future__ import annotations

import threading
import webbrowser
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

from mambamed.converters import prepared
from mambamed.converters.point_sets import holds_points
from mambamed.errors import DatasetError, RecipeError
from mambamed.evaluation.classification import holds_probabilities
from mambamed.io.tables import NOTES
from mambamed.progress import Progress, Silence
from mambamed.viewer.answers import Answers
from mambamed.viewer.content import Subject
from mambamed.viewer.notes import Notes
from mambamed.viewer.server import Server

Serving = Callable[[Server], None]


@dataclass(frozen=True)
class ViewSummary:
    """What was shown.

    Attributes:
        url: address of the page, which ends with the command.
        cases: number of cases.
        notes: file of the notes, if there are any.
        marked: number of cases with a note.
    """

    url: str
    kind: str
    cases: int
    notes: Path | None = None
    marked: int = 0


def open_subject(places: Sequence[Path], images: Path | None, references: Path | None) -> Subject:
    """What a path is: a run, an evaluation, a prepared dataset, predictions, a dataset, or an image.

    Args:
        places: several only for predictions of several models.
        images: image, folder of images, or prepared dataset.
        references: reference masks or points, as for `evaluate`.

    Raises:
        MambamedError: nothing that can be shown.
    """
    from mambamed.viewer import datasets, evaluated, predicted, trained, unlabelled

    for place in (*places, *([references] if references else [])):
        if not place.exists():
            raise DatasetError(f"{place}: no such file or folder. Check the path.")
    place = places[0]
    if len(places) > 1:
        return predicted.predictions_subject(places, images, references)
    if trained.is_run(place):
        return trained.run_subject(place, images, references)
    if evaluated.is_evaluation(place):
        return evaluated.evaluation_subject(place, images, references)
    if prepared.recognizes(place):
        return datasets.prepared_subject(place)
    if images is None and references is not None and unlabelled.holds_series(place):
        return unlabelled.unlabelled_subject(place, references)
    if images is not None or (references is not None and place.is_dir()):
        return predicted.predictions_subject(places, images, references)
    if holds_probabilities(place) or holds_points(place) or (place / "run.json").is_file():
        return predicted.predictions_subject(places, images, references)
    if place.is_file() and place.suffix.lower() not in {".csv", ".tsv", ".json"}:
        return datasets.image_subject(place, references)
    return datasets.dataset_subject(place)


def view(
    places: Sequence[Path],
    *,
    images: Path | None = None,
    references: Path | None = None,
    port: int = 0,
    browser: bool = True,
    notes: bool = False,
    progress: Progress | None = None,
    serve: Serving | None = None,
) -> ViewSummary:
    """Serve the page until Ctrl-C.

    Args:
        places, images, references: see `open_subject`.
        port: 0: any free one.
        browser: whether to open the page.
        notes: let a person mark cases; saved as `<place>.notes.csv` next to what is shown.
        progress: optional callback that receives progress updates.
        serve: runs the server (default: until Ctrl-C).

    Raises:
        MambamedError: nothing that can be shown, or the port is in use.
    """
    progress = progress or Silence()
    if serve is None and not browser and isinstance(progress, Silence):
        raise RecipeError(
            "--no-browser: the address of the page is not printed with --quiet or --json. Remove one of the "
            "options."
        )
    shown = open_subject(places, images, references)
    with ExitStack() as stack:
        book = None
        if notes:
            place = shown.folder.resolve()
            book = stack.enter_context(Notes.opened(place.with_name(place.name + NOTES), shown.inputs))
        server = stack.enter_context(Server(Answers(shown, book), port))
        for line in how_to_open(server):
            progress.say(line)
        if book is not None:
            progress.say(f"notes are saved in {book.path}")
        if browser:
            threading.Thread(target=webbrowser.open, args=(server.url,), daemon=True).start()
        (serve or _until_interrupted)(server)
        marked = len(book.entries()) if book is not None else 0
        return ViewSummary(
            server.url, shown.kind, len(server.answers.shown.ids), book.path if book else None, marked
        )


def how_to_open(server: Server) -> list[str]:
    """What a person needs to know to see the page."""
    number = server.server_port
    return [
        f"open {server.url}",
        f"from another computer: ssh -N -L {number}:127.0.0.1:{number} USER@THIS-MACHINE, then the same "
        "address there",
        "press Ctrl-C to stop",
    ]


def _until_interrupted(server: Server) -> None:
    with suppress(KeyboardInterrupt):
        server.serve_forever()
