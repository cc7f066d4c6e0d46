"""Execute one notebook with papermill: ``python notebooks/run.py table1_instability -p seed 3``."""

import argparse
import os
import re
import sys
import tempfile
from pathlib import Path

try:  # Ctrl-C may come in the seconds that these take
    import nbformat
    import papermill
    from traitlets.config import Config

    from kclib.atomic import replace_file, writable
    from kclib.book import parameters
    from kclib.errors import InputError, choose
except KeyboardInterrupt:
    print("interrupted: nothing was begun.", file=sys.stderr)
    sys.exit(130)

FOLDER = Path(__file__).parent
_LONGEST = 70  # characters of a folder of sockets: the system allows about 100 for their paths


def names() -> list[str]:
    """Return the names of all notebooks."""
    return sorted(path.stem for path in FOLDER.glob("[!.]*.ipynb"))


def check(notebook: str, given: dict) -> dict:
    """Return parameters as their types, or refuse what the notebook does not have."""
    known = papermill.inspect_notebook(FOLDER / f"{choose('notebook', notebook, names())}.ipynb")
    for name in given:
        choose(f"parameter of {notebook}", name, known)
    return parameters.checked(given)


def execute(notebook: str, given: dict, output: Path) -> None:
    """Run a notebook with checked parameters; ``output`` is written if it ran to its end."""
    output = writable(output)
    # Bars belong on the terminal of this run, not in the notebook.
    os.environ.setdefault("KC_PROGRESS", f"/proc/{os.getpid()}/fd/2")
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
                FOLDER / f"{notebook}.ipynb",
                part,
                parameters=given,
                kernel_name="python3",
                cwd=FOLDER,
                progress_bar=False,
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
            f"the process that ran {notebook} was ended from outside, usually because memory ran "
            "out; what was finished is in the store. Free memory, or run fewer processes, and run "
            "the same command to go on."
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


def in_place(notebook: str, given: dict) -> Path:
    """Return a notebook's own path, for a run that leaves its parameters as they stand in it."""
    profile = given.pop("profile", None)
    if given:
        raise InputError(
            f"{', '.join(given)} cannot be given without --output: a notebook is refreshed in "
            "place with its own parameters. Name a file for this run with --output."
        )
    if profile:  # by the environment: papermill would put a cell into the notebook
        os.environ["KC_PROFILE"] = profile
    return FOLDER / f"{notebook}.ipynb"


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


def main() -> int:
    """Run one notebook; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("notebook", help=f"one of {', '.join(names())}")
    parser.add_argument("--profile", help="default: the one that KC_PROFILE names, or quick")
    parser.add_argument("--output", type=Path, help="default: refresh the notebook in place")
    parser.add_argument(
        "-p", dest="given", nargs=2, action="append", default=[], metavar=("NAME", "VALUE")
    )
    arguments = parser.parse_args()
    try:
        given = dict(arguments.given)
        if arguments.profile:
            given["profile"] = arguments.profile
        given = check(arguments.notebook, given)
        output = arguments.output or in_place(arguments.notebook, given)
        execute(arguments.notebook, given, output)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(
            "interrupted: what was finished is in the store; run the same command to go on.",
            file=sys.stderr,
        )
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
