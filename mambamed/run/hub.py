"""Models on the Hugging Face Hub: `hf://org/name` or `hf://org/name@revision`.

One file of a repository is read, `model.mambamed`; its other files are never fetched, and no name in it is
trusted. Weights are safetensors. The SHA-256 that the hub states for the file is compared with the file in
the cache, also offline, and the digests of its members as of any model file.

The library `huggingface_hub` is configured by its own variables: HF_HOME (cache), HF_HUB_OFFLINE, HF_TOKEN,
HF_ENDPOINT. mambamed neither asks for a token nor stores one.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mambamed
from mambamed.errors import ModelError, RunError
from mambamed.run.provenance import sha256_of

FILE = "model.mambamed"
_CARD = "README.md"
# A path has one slash where the reference had two.
_REFERENCE = re.compile(r"hf:[/\\]{1,2}(\w[\w.-]*)[/\\](\w[\w.-]*?)(?:@(\w[\w./-]*))?")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_MARK = re.compile(r"<!-- mambamed card ([0-9a-f]{64}) -->\n?\Z")


@dataclass(frozen=True)
class Reference:
    """A repository of the hub, and a branch, tag or commit."""

    repository: str
    revision: str | None = None

    def __str__(self) -> str:
        return f"hf://{self.repository}{f'@{self.revision}' if self.revision else ''}"

    @classmethod
    def of(cls, text: str | Path) -> Reference | None:
        """Read a reference; None for anything else.

        >>> Reference.of("hf://org/name@v1")
        Reference(repository='org/name', revision='v1')
        >>> Reference.of("runs/brats") is None
        True

        Raises:
            ModelError: it begins with hf: and is none.
        """
        if not str(text).startswith("hf:"):
            return None
        found = _REFERENCE.fullmatch(str(text))
        if found is None or ".." in str(text):
            raise ModelError(f"{text}: expected hf://org/name or hf://org/name@revision. Correct the name.")
        return cls(f"{found[1]}/{found[2]}", found[3])


def local_model(model: Path) -> Path:
    """The file of a model on the hub, downloaded into the library's cache; any other path as it is.

    Raises:
        ModelError: there is no such model, or the file differs from what the hub states.
        RunError: the hub cannot be reached.
    """
    reference = Reference.of(model)
    if reference is None:
        return model
    hub = _library(reference)
    try:
        path = Path(
            hub.hf_hub_download(
                reference.repository,
                FILE,
                revision=reference.revision,
                library_name="mambamed",
                library_version=mambamed.__version__,
            )
        )
    except Exception as error:  # the library raises errors of several kinds and of its HTTP client
        raise _fault(reference, error) from error
    stated = path.resolve().name  # the cache names a large file by the SHA-256 that the hub states
    if _SHA256.fullmatch(stated) and sha256_of(path) != stated:
        raise ModelError(
            f"{reference}: {path.resolve()}: corrupt: its sha256 is not its name. Delete the file."
        )
    return path


def push_model(target: str, file: Path, card: str, say: Callable[[str], None]) -> Reference:
    """Upload a model file and its card; a new repository is private.

    A README.md that somebody edited on the hub is kept.

    Raises:
        ModelError: `target` is no reference.
        RunError: the hub cannot be reached or refuses.
    """
    reference = Reference.of(target)
    if reference is None:
        raise ModelError(
            f"--push {target}: expected hf://org/name or hf://org/name@branch. Correct the name."
        )
    hub = _library(reference)
    api = hub.HfApi(library_name="mambamed", library_version=mambamed.__version__)
    repository, branch = reference.repository, reference.revision
    try:
        if not api.repo_exists(repository):
            api.create_repo(repository, private=True, exist_ok=True)
            say(f"{reference}: created as a private repository; its settings on the hub can make it public")
        if branch:
            api.create_branch(repository, branch=branch, exist_ok=True)
        operations = [hub.CommitOperationAdd(FILE, str(file))]
        if _is_edited(hub, api, reference):
            say(f"{reference}: {_CARD} was edited on the hub, so it is kept")
        else:
            digest = hashlib.sha256(card.encode()).hexdigest()
            marked = f"{card}<!-- mambamed card {digest} -->\n"
            operations.append(hub.CommitOperationAdd(_CARD, marked.encode()))
        message = f"Upload a model of mambamed {mambamed.__version__}"
        api.create_commit(repository, operations, commit_message=message, revision=branch)
    except Exception as error:  # see above
        raise _fault(reference, error) from error
    return reference


def _is_edited(hub: Any, api: Any, reference: Reference) -> bool:
    """Whether the repository has a card that is not what `push_model` wrote."""
    place = {"revision": reference.revision} if reference.revision else {}
    if not api.file_exists(reference.repository, _CARD, **place):
        return False
    text = Path(hub.hf_hub_download(reference.repository, _CARD, **place)).read_text("utf-8", "replace")
    mark = _MARK.search(text)
    return mark is None or hashlib.sha256(text[: mark.start()].encode()).hexdigest() != mark[1]


def _library(reference: Reference) -> Any:
    try:
        import huggingface_hub
        from huggingface_hub.utils import disable_progress_bars
    except ImportError as error:
        raise ModelError(f"{reference}: requires {error.name}. Run pip install 'mambamed[hub]'.") from error
    disable_progress_bars()
    return huggingface_hub


def _fault(reference: Reference, error: Exception) -> ModelError | RunError:
    """One line for what the library raised."""
    kinds = {kind.__name__ for kind in type(error).__mro__}
    if "GatedRepoError" in kinds:
        return ModelError(f"{reference}: access must be granted on the hub. Ask there, then 'hf auth login'.")
    if "RepositoryNotFoundError" in kinds:
        return ModelError(
            f"{reference}: no such repository, or it is private. Check the name, or 'hf auth login'."
        )
    if "RevisionNotFoundError" in kinds:
        return ModelError(f"{reference}: no such revision. Check the name after @.")
    if "RemoteEntryNotFoundError" in kinds:
        return ModelError(
            f"{reference}: has no {FILE}. Give a repository that 'mambamed export --push' wrote."
        )
    if kinds & {"LocalEntryNotFoundError", "OfflineModeIsEnabled"}:
        return RunError(
            f"{reference}: is not in the cache, and the hub cannot be reached (or HF_HUB_OFFLINE is set). "
            "Connect once, then it works offline."
        )
    line = " ".join(str(error).split())[:300].rstrip(".")
    if "HFValidationError" in kinds:
        return ModelError(f"{reference}: is no name of a repository: {line}. Correct the name.")
    return RunError(f"{reference}: {type(error).__name__}: {line}. Check the connection and permissions.")
