"""Execute one notebook with papermill: ``python notebooks/run.py table1_instability -p seed 3``."""

import argparse
import os
import sys
from pathlib import Path

try:  # Ctrl-C may come in the seconds that these take
    import papermill

    from kclib.book import parameters
    from kclib.errors import InputError, choose
    from kclib.report.running import place_for_sockets, run_notebook  # noqa: F401
except KeyboardInterrupt:
    print("interrupted: nothing was begun.", file=sys.stderr)
    sys.exit(130)

FOLDER = Path(__file__).parent


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
    run_notebook(FOLDER / f"{notebook}.ipynb", given, output, folder=FOLDER)


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
