"""Recorded results: validated rows and claims with their provenance, as JSON and CSV."""

import csv
import hashlib
import io
import json
import platform
import resource
import sys
from collections.abc import Iterable
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from ..atomic import replace_file
from ..errors import InputError
from ..precision import gains_from_bfloat16
from . import sources
from .claims import Outcome
from .environment import RECORDED, hint
from .plans import Plan, code_of_makers
from .store import content_key

Cell = str | int | float | bool | None

#: Profiles of photographs, in the book's order, by how their networks were trained: "plain" as the
#: paper's, without augmentation until the training images are fitted; "strong" with augmentation,
#: stopped before they are.
REGIMES = {"recorded, plain": "plain64", "recorded, strong": "real64"}


#: What is recorded of every network, and shown.
_OF_NETWORKS = ("epochs", "training_seconds", "train_accuracy", "test_accuracy")


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class Provenance(_Strict):
    """How a result came about.

    ``run_seconds`` are those of the run, and of the fits that it found in the store, when they were
    made, which are ``found_seconds``; networks count by themselves, as ``training_seconds`` of
    each. ``joint_fits`` counts the fits by ``solver="joint"`` that the run made itself, and
    ``joint_fit_seconds`` is what they took.
    """

    parameters: dict[str, Cell]
    seeds: list[int]
    data: list[dict[str, Cell]]
    networks: dict[str, dict[str, Cell]]
    versions: dict[str, str]
    hardware: dict[str, Cell]
    code: str
    run_seconds: float = Field(ge=0)
    found_seconds: float = Field(default=0, ge=0)
    joint_fits: int = Field(default=0, ge=0)
    joint_fit_seconds: float = Field(default=0, ge=0)
    peak_memory: float = Field(ge=0, description="GB, of this process")
    date: str

    @model_validator(mode="after")
    def _networks_have_their_numbers(self):
        for name, had in self.networks.items():
            for field in _OF_NETWORKS:
                if not isinstance(had.get(field), int | float):
                    raise ValueError(f"the network {name} has no number {field}")
        return self


class Result(_Strict):
    """The recorded result of one notebook under one profile."""

    artefact: str
    profile: str
    provenance: Provenance
    rows: list[dict[str, Cell]] = Field(min_length=1)
    claims: list[Outcome]
    arrays: str | None = Field(default=None, description="sha256 of the .npz, if there is one")
    digest: str | None = Field(default=None, description="of the rest, in files alone")

    @model_validator(mode="after")
    def _one_profile(self):
        if self.provenance.parameters.get("profile") != self.profile:
            raise ValueError(
                f"the result is of profile {self.profile!r} but its provenance of "
                f"{self.provenance.parameters.get('profile')!r}"
            )
        return self

    def right_answers(self) -> str:
        """Say how many training and test images its trained networks get right, in percent.

        The share of training images says whether they were fitted, as the paper's networks are.
        """
        trained = [had for had in self.provenance.networks.values() if had["epochs"]]
        said = []
        for split in sources.SPLITS if trained else ():
            shares = [100 * had[f"{split}_accuracy"] for had in trained]
            ends = dict.fromkeys(f"{share:.0f}" for share in (min(shares), max(shares)))
            said.append(f"{split} {' to '.join(ends)} %")
        return "; ".join(said)


@hint("KC_RESULTS")
def write(result: Result, folder: Path, arrays: dict | None = None) -> Path:
    """Write ``<folder>/<profile>/<artefact>.json``, ``.csv`` and, for arrays, ``.npz``.

    Returns
    -------
    Path
        The JSON file.
    """
    path = Path(folder) / result.profile / f"{result.artefact}.json"
    if arrays:
        content = io.BytesIO()
        np.savez_compressed(content, **arrays)
        replace_file(path.with_suffix(".npz"), content.getvalue())
        result = result.model_copy(update={"arrays": _sha256(content.getvalue())})
    result = result.model_copy(update={"digest": _digest(result.model_dump(mode="json"))})
    columns = list(dict.fromkeys(name for row in result.rows for name in row))
    table = io.StringIO()
    writer = csv.DictWriter(table, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(result.rows)
    replace_file(path.with_suffix(".csv"), table.getvalue().encode())
    replace_file(path, (result.model_dump_json(indent=1) + "\n").encode())
    return path


def read(path: Path) -> Result:
    """Read a result.

    Raises
    ------
    InputError
        If the file is not a valid result, it or its arrays differ from their digests, or it lies
        under another profile's or artefact's name. Results of earlier versions have no digests.
    """
    mend = "Get it back from git, or delete it and run its notebook again."
    arrays = path.with_suffix(".npz")
    try:
        text = path.read_text()
        result = Result.model_validate_json(text)
        held = result.arrays and _sha256(arrays.read_bytes())
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(map(str, e['loc'])) or 'file'}: {e['msg']}" for e in error.errors()
        )
        raise InputError(f"{path} is not a recorded result: {problems}. {mend}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read: {error}. {mend}") from None
    for file, noted, found in (
        (path, result.digest, _digest(json.loads(text))),
        (arrays, result.arrays, held),
    ):
        if noted not in (None, found):
            raise InputError(f"{file} is damaged: it differs from its digest. {mend}")
    if (result.profile, result.artefact) != (path.parent.name, path.stem):
        raise InputError(
            f"{path} holds the result of {result.artefact!r} under profile {result.profile!r}; "
            "put it in the folder of its profile, under the name of its artefact."
        )
    return result.model_copy(update={"digest": None})


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _digest(content: dict) -> str:
    """Digest what a file says: what a later version adds to results is no part of it."""
    return content_key({name: value for name, value in content.items() if name != "digest"})


def recorded(artefact: str, profile: str) -> Result | None:
    """Return the committed result of a notebook under a profile, if there is one."""
    path = RECORDED / profile / f"{artefact}.json"
    return read(path) if path.exists() else None


def provenance(
    parameters: dict,
    *,
    seeds: Iterable[int],
    networks: dict[str, tuple[Plan, dict]],
    fits: dict[str, tuple[dict, bool]],
    device: str,
    run_seconds: float,
) -> Provenance:
    """Return how a result came about.

    Parameters
    ----------
    parameters : dict
        Of the run.
    seeds : iterable of int
    networks : dict
        From the name of each network that was used to its plan and its record in the store.
    fits : dict
        `kclib.book.making.Workshop.fits`.
    device : str
        What computed.
    run_seconds : float
        That the run took.
    """
    data, used = [], {}
    for name, (plan, record) in sorted(networks.items()):
        for split in ("train", "test"):
            origin = plan.needs[split].settings["origin"]
            data += [origin] if origin not in data else []
        used[name] = {
            "key": plan.key,
            "test_accuracy": record["test_accuracy"],
            "train_accuracy": record["train_accuracy"],
            "parameters": record["parameters"],
            "epochs": len(record["history"]),
            "training_seconds": round(sum(epoch["seconds"] for epoch in record["history"]), 1),
        }
    joint = [record for record, found in fits.values() if record.get("joint") and not found]
    found_seconds = sum(record["seconds"] for record, found in fits.values() if found)
    return Provenance(
        parameters={
            name: ", ".join(map(str, value)) if isinstance(value, list) else value
            for name, value in parameters.items()
        },
        seeds=sorted(set(seeds)),
        data=data,
        networks=used,
        versions=versions(),
        hardware=hardware(device),
        code=code_of_makers(),
        run_seconds=round(run_seconds + found_seconds, 1),
        found_seconds=round(found_seconds, 1),
        joint_fits=len(joint),
        joint_fit_seconds=round(sum(record["fit_seconds"] for record in joint), 1),
        peak_memory=round(peak_memory(), 2),
        date=datetime.now(UTC).date().isoformat(),
    )


def versions() -> dict[str, str]:
    """Return the versions of what computes."""
    return {"python": platform.python_version()} | {
        name: version(name) for name in ("torch", "torchvision", "numpy")
    }


def peak_memory() -> float:
    """Return the most memory that this process held so far, in GB (10^9 bytes)."""
    unit = 1 if sys.platform == "darwin" else 1024  # getrusage's unit differs
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


def hardware(device: str) -> dict[str, Cell]:
    """Return the processor, the threads in use, the accelerator, if any, and the arithmetic.

    ``bfloat16`` says whether the device multiplies such numbers; profiles whose ``mixed`` is true
    train and fit with them then.
    """
    info = Path("/proc/cpuinfo")
    models = [
        line.split(":", 1)[1].strip()
        for line in (info.read_text().splitlines() if info.exists() else ())
        if line.startswith("model name")
    ]
    return {
        "processor": models[0] if models else platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "accelerator": torch.cuda.get_device_name(device) if "cuda" in device else None,
        "bfloat16": gains_from_bfloat16(device),
    }
