"""Running a notebook with parameters, in a process of its own, so that it is whole or not there."""

import os
import re
import tempfile
from pathlib import Path

import nbformat
import papermill
from traitlets.config import Config

from ..atomic import replace_file, writable
from ..errors import InputError

_LONGEST = 70  # characters of a folder of sockets: the system allows about 100 for their paths


def run_notebook(notebook: Path, given: dict, output: Path, *, folder: Path) -> None:
    """Run a notebook; ``output`` is written if it ran to its end.

    Parameters
    ----------
    notebook, output : Path
    given : dict
        Parameters, checked.
    folder : Path
        Where its kernel works.

    Raises
    ------
    InputError
        If the notebook refuses what it is given, or its process is ended from outside.
    """
    output = writable(output)
    # Bars belong where this run writes its errors, not in the notebook. Its kernel inherits that
    # place, and keeps it if it need not catch what is written there.
    os.environ.setdefault("KC_PROGRESS", "/dev/stderr")
    # How long a thread waits awake for others, in turns of libgomp's loop (usually 300,000): that
    # time is lost where another process has the core that the other thread needs.
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    for name in ("KC_STORE", "KC_DATA", "KC_RESULTS", "KC_PROGRESS"):
        if named := os.environ.get(name):
            # The kernel works in another folder.
            os.environ[name] = os.path.abspath(os.path.expanduser(named))
    part = output.with_name(f".{os.getpid()}-{output.name}")
    output.parent.mkdir(parents=True, exist_ok=True)
    try:
        # Sockets that are files: of two kernels started at once on free ports, one may die, for
        # a port is found free some time before it is taken.
        with tempfile.TemporaryDirectory(dir=place_for_sockets()) as sockets:
            papermill.execute_notebook(
                notebook,
                part,
                parameters=given,
                kernel_name="python3",
                cwd=folder,
                progress_bar=False,
                # What a kernel that is stopped says of its sockets is nothing for a user.
                extra_arguments=[
                    "--IPKernelApp.log_level=50",
                    "--IPKernelApp.capture_fd_output=False",
                ],
                config=Config(KernelManager={"transport": "ipc", "ip": f"{sockets}/kernel"}),
            )
        replace_file(output, tidied(part).encode())
    except papermill.PapermillExecutionError as error:
        if error.ename in ("InputError", "StoreError"):
            raise InputError(error.evalue) from None
        raise
    except RuntimeError as error:
        if type(error).__name__ != "DeadKernelError":  # of nbclient, which papermill brings along
            raise
        raise InputError(
            f"the process that ran {notebook.stem} was ended from outside, usually because memory "
            "ran out; what was finished is kept. Free memory, or run fewer processes, and run the "
            "same command to go on."
        ) from None
    finally:
        part.unlink(missing_ok=True)


def place_for_sockets() -> str:
    """Return a folder for temporary files whose path leaves room for the names of sockets.

    Raises
    ------
    InputError
        If there is none.
    """
    for folder in (tempfile.gettempdir(), "/tmp"):
        if len(os.fsencode(folder)) <= _LONGEST and os.access(folder, os.W_OK):
            return folder
    raise InputError(
        f"TMPDIR names {tempfile.gettempdir()}, too long a path for sockets, and /tmp cannot be "
        f"written to; set TMPDIR to a folder whose path has at most {_LONGEST} characters."
    )


def tidied(path: Path) -> str:
    """Return an executed notebook without what changes from run to run.

    That is time stamps, and the identifiers and addresses that pandas gives to styled tables.
    """
    notebook = nbformat.read(path, as_version=4)
    notebook.metadata.pop("papermill", None)
    notebook.metadata.pop("widgets", None)
    notebook.metadata.get("language_info", {}).pop("version", None)
    for cell in notebook.cells:
        for name in ("papermill", "execution"):
            cell.metadata.pop(name, None)
        tags = cell.metadata.pop("tags", [])
        if "injected-parameters" in tags:
            tags.append("remove-cell")
            cell.id = "injected-parameters"  # papermill draws one
        if tags:
            cell.metadata.tags = tags
    text = nbformat.writes(notebook) + "\n"
    tables = dict.fromkeys(re.findall(r'<table id=\\"(T_[0-9a-f]{5})\\"', text))
    for number, drawn in enumerate(tables, start=1):
        text = text.replace(drawn, f"T_{number}")
    return re.sub(r"(<pandas\.[\w.]+) at 0x[0-9a-f]+>", r"\1>", text)
