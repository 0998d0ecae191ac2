"""What the files of this room hand each other, and what they raise. Sizes are bytes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal, Protocol

import msgspec
from msgspec import Struct

from gpustack_fast.errors import GpustackFastError

__all__ = [
    "Adapter",
    "Done",
    "Download",
    "Failed",
    "Hub",
    "Inspected",
    "Job",
    "Manifest",
    "Message",
    "Model",
    "ModelStoreError",
    "RemoteFile",
    "Report",
    "Repository",
    "Stored",
    "decode_message",
    "readable_size",
]

Hub = Literal["huggingface", "model_scope"]


class Adapter(Protocol):
    """An adapter (LoRA) of a model, as far as its files go; see `config.AdapterConfig`."""

    @property
    def lora_name(self) -> str: ...
    @property
    def source(self) -> str | None: ...
    @property
    def repository(self) -> str | None: ...
    @property
    def local_path(self) -> str | None: ...


class Model(Protocol):
    """A model's configuration, as far as its files go; see `config.ModelConfig`."""

    @property
    def name(self) -> str: ...
    @property
    def source(self) -> str | None: ...
    @property
    def local_path(self) -> str | None: ...
    @property
    def huggingface_repo_id(self) -> str | None: ...
    @property
    def huggingface_filename(self) -> str | None: ...
    @property
    def model_scope_model_id(self) -> str | None: ...
    @property
    def model_scope_file_path(self) -> str | None: ...
    @property
    def lora_list(self) -> Sequence[Adapter]: ...
    @property
    def env(self) -> Mapping[str, str]: ...


class ModelStoreError(GpustackFastError):
    """A model's files cannot be had. The text has the cause and the next step."""

    def __init__(self, message: str, *, may_pass: bool = False, wait: float = 0.0) -> None:
        super().__init__(message)
        self.may_pass = may_pass
        """Whether a later try may succeed although nobody has changed anything."""
        self.wait = wait
        """Seconds before which no try will."""


class Repository(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A repository at a hub, and what is wanted of it."""

    hub: Hub
    name: str
    """`ORG/NAME`, or a bare name of an early model."""
    revision: str
    """A branch, a tag or a commit."""
    files: str = ""
    """A pattern of file names, as a shell has them; empty: what a whole model needs."""

    @property
    def folder(self) -> str:
        """Its name as a folder."""
        return self.name.replace("/", "--")

    @property
    def reference(self) -> str:
        """As a command line takes it."""
        return f"{self.hub}:{self.name}{':' if self.files else ''}{self.files}"


class RemoteFile(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A file as the hub describes it."""

    name: str
    """With its folders: `1_Pooling/config.json`."""
    size: int
    sha256: str = ""
    """Of large files, which Git LFS keeps; empty: `git_sha1` has to do."""
    git_sha1: str = ""
    """As Git reckons it, of small files."""

    @property
    def hash(self) -> str:
        return self.sha256 or self.git_sha1


class Manifest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a repository has at one commit."""

    repository: str
    commit: str
    files: list[RemoteFile]


class Job(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the process that downloads is asked for, as a line of JSON."""

    repository: Repository
    folder: str
    """Of the hub's repositories: `MODELS_DIR/huggingface`."""
    stage: Literal["inspect", "fetch"]
    renew: bool
    """Whether the revision is looked up although it stands for a commit already."""


class Download(Struct, frozen=True, kw_only=True, tag="download", forbid_unknown_fields=True):
    """How far a download is."""

    repository: str
    done: int = 0
    """Bytes that are there, those of earlier tries too."""
    total: int = 0
    """Bytes of all that is wanted; 0: not known yet."""
    note: str = ""
    """Why nothing comes at the moment, as a clause; empty: it comes."""


class Done(Struct, frozen=True, kw_only=True, tag="done", forbid_unknown_fields=True):
    """All that was asked for is there."""

    commit: str
    unverified: int
    """Files that came now and that the hub gives no hash for."""


class Failed(Struct, frozen=True, kw_only=True, tag="failed", forbid_unknown_fields=True):
    """It is not, for this reason."""

    message: str
    may_pass: bool
    wait: float = 0.0
    """As of ModelStoreError."""


Message = Download | Done | Failed
"""A line of JSON from the process that downloads."""
Report = Callable[[Download], None]


class Inspected(Struct, frozen=True, kw_only=True):
    """What is known of a model before its weights are there."""

    folder: Path
    """Where its small files are (and of GGUF files at least the first bytes), or one GGUF file."""
    filename: str
    """The GGUF file in it, of a split one the first part; empty: it is no GGUF model."""
    sizes: Mapping[str, int]
    """Of every file of the model, whether it is there, its beginning is, or nothing of it is."""


class Stored(Struct, frozen=True, kw_only=True):
    """A repository in the store, at one commit."""

    hub: Hub
    repository: str
    revisions: Sequence[str]
    """That stand for this commit; none: an older one."""
    commit: str
    size: int
    """On the disk, with what is on its way."""
    complete: bool


def readable_size(size: float) -> str:
    """Bytes for a person: `14.2 GB`."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


def decode_message(line: bytes) -> Message:
    """Reads a line of the process that downloads. Raises msgspec.DecodeError."""
    message: Message = msgspec.json.decode(line, type=Message)
    return message
