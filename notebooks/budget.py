"""Give Snakemake a time budget: ``python notebooks/budget.py 20m snakemake --cores 2 ...``.

When the time is over, Snakemake and its jobs get what Ctrl-C would send them. Nothing is lost: a
network goes on from its last epoch, a notebook finds its fits in the store, and the same command
goes on from there. Which jobs come first is the Snakefile's business.
"""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

UNITS = {"s": 1, "m": 60, "h": 3600}
#: Seconds that jobs have to stop before they are killed; the store bears that too.
PATIENCE = 60
USAGE = (
    "allowed: a number with s, m or h, above 0, such as 90s, 20m or 1.5h; then the command to run"
)


def seconds(text: str) -> float:
    """Return a budget such as ``20m`` in seconds; without a unit, in minutes.

    Raises
    ------
    ValueError
        If it is of another form, or not above 0.
    """
    found = re.fullmatch(r"(\d+(?:\.\d*)?|\.\d+)\s*([smh]?)", text.strip())
    if found is None or not float(found[1]):
        raise ValueError(f"the budget is {text!r}; {USAGE}.")
    return float(found[1]) * UNITS[found[2] or "m"]


def run(command: list[str], limit: float, *, patience: float = PATIENCE) -> int | None:
    """Run a command for at most ``limit`` seconds; return its status, or None if time ran out.

    The command has a process group of its own, so that its jobs are interrupted with it. Ctrl-C and
    the end of this process are passed on to them.
    """
    # A shell switches Ctrl-C off for what it runs in the background; the command needs it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    process = subprocess.Popen(command, process_group=0)
    try:
        return process.wait(limit)
    except subprocess.TimeoutExpired:
        stop(process, patience)
        return None
    except KeyboardInterrupt:
        stop(process, patience)
        raise


def stop(process: subprocess.Popen, patience: float) -> None:
    """Interrupt a command and its jobs; kill what has not ended after ``patience`` seconds."""
    for sent in (signal.SIGINT, signal.SIGKILL):
        try:
            os.killpg(process.pid, sent)
            process.wait(patience)
            return
        except subprocess.TimeoutExpired:
            continue
        except ProcessLookupError:
            process.wait()
            return


def state(table: str) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """Return what is done and what is left, by rule, from what ``snakemake --summary`` prints.

    Of a rule with several outputs each job counts once. A network is called by its key in the
    store, a notebook by its name.
    """
    header, *lines = (line.split("\t") for line in table.splitlines() if "\t" in line)
    column = {name: number for number, name in enumerate(header)}
    done: dict[str, list[str]] = {}
    left: dict[str, list[str]] = {}
    for line in lines:
        path, rule = Path(line[column["output_file"]]), line[column["rule"]]
        name = path.parent.name if path.name == "entry.json" else path.stem
        pending = line[column["plan"]] != "no update"
        names = (left if pending else done).setdefault(rule, [])
        if name not in names:
            names.append(name)
    return done, left


def report(done: dict[str, list[str]], left: dict[str, list[str]]) -> str:
    """Say how far a run came: networks by number, notebooks by name."""

    def told(found: dict[str, list[str]]) -> str:
        names = ", ".join(found.get("notebook", [])) or "no notebook"
        networks = len(found.get("network", []))
        return f"{networks} {'network' if networks == 1 else 'networks'}; {names}"

    if not left:
        return "Everything is done."
    return f"Done: {told(done)}.\nLeft: {told(left)}."


def main(words: list[str]) -> int:
    """Run one command within a budget; return the exit status."""
    try:
        limit = seconds(words[0] if words else "")
        if len(words) < 2:
            raise ValueError(f"there is no command after the budget; {USAGE}.")
        status = run(words[1:], limit)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted: run the same command again to go on.", file=sys.stderr)
        return 130
    if status is not None:
        return status
    asked = subprocess.run([*words[1:], "--summary"], capture_output=True, text=True)
    print(f"\nThe budget of {words[0]} is used up; jobs that were running were interrupted.")
    print(report(*state(asked.stdout)) if asked.returncode == 0 else asked.stderr.rstrip())
    print("Run the same command again to go on.")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
