"""The command ``kclib compare A B --images photos/ --out report/``."""

import argparse
import json
import os
import shlex
import shutil
import sys
from pathlib import Path

from ..atomic import writable
from ..errors import InputError

NOTEBOOK = Path(__file__).with_name("own_networks.ipynb")
_TEXT = """\
networks: torchvision:NAME, timm:NAME, hf:NAME_OR_FOLDER, or a function that
  returns a module, package.module:function or file.py:function (its code is run)
images: a folder of images, sub-folders being classes, or of texts (.txt); a list
  file; a pack; arrays (.npy, .npz, .safetensors); file.py:function"""


def add_to(commands) -> None:
    """Add the command to a parser's subcommands."""
    parser = commands.add_parser(
        "compare",
        help="compare two networks on your images and write a report",
        description="Which layer of one network holds what a layer of the other knows: a report.",
        epilog=_TEXT,
        formatter_class=lambda prog: argparse.RawDescriptionHelpFormatter(
            prog, max_help_position=26, width=84
        ),
        usage="kclib compare A B --images DIR [--out report] [options]",
    )
    parser.set_defaults(run=run)
    add = parser.add_argument
    add("a", metavar="A", help="a network; B another one")
    add("b", metavar="B", help=argparse.SUPPRESS)
    add("--images", metavar="DIR", help="what both are shown")
    add("--images-b", metavar="DIR", help="other versions of the same files, for B")
    add("--out", metavar="DIR", default="report", help="where the report goes (default: report)")
    add("--again", metavar="NET", help="a second training run of B: the usual spread")
    add("--again-a", metavar="NET", help="likewise of A")
    said = "weights of A (likewise -b, -again, -again-a): .safetensors,\nstate dict, or random"
    for name in ("a", "b", "again", "again-a"):
        add(f"--weights-{name}", metavar="FILE", help=said if name == "a" else argparse.SUPPRESS)
    add("--taps-a", metavar="X,Y", help="layers of A (likewise --taps-b); default: a handful")
    add("--taps-b", metavar="X,Y", help=argparse.SUPPRESS)
    add("--list-taps", action="store_true", help="list layers with shapes and cost, and stop")
    add(
        "--pair", nargs=2, action="append", metavar=("X", "Y"),
        help="look closely at A's layer X and B's Y (repeatable)",
    )  # fmt: skip
    add("--size", type=int, metavar="PX", help="side of images (default: each network's own)")
    add("--order", type=int, default=2, metavar="K", help="highest order, 0 to 5 (default: 2)")
    add("--kernel-size", type=int, default=1, metavar="N", help="of chosen pairs, 1 or 3")
    add("--batch", type=int, default=64, metavar="N", help="images at a time (default: 64)")
    add("--seed", type=int, default=0, metavar="N", help="default: 0")
    add("--device", metavar="NAME", help="such as cuda:1 (default: a GPU, else the CPU)")


def run(given: argparse.Namespace) -> int:
    """Run the command; return the exit status."""
    parameters = _parameters(given)
    if given.list_taps:
        return _list_taps(parameters)
    if given.images is None:
        raise InputError("what are the networks to be shown? Say --images FOLDER.")
    folder = writable(Path(given.out) / "index.html").parent
    try:
        from .running import run_notebook
    except ImportError as error:
        raise InputError(
            f"the report needs the package {error.name}; install what it needs: "
            'python -m pip install "kclib[report]".'
        ) from None
    try:
        run_notebook(NOTEBOOK, parameters, folder / NOTEBOOK.name, folder=Path.cwd())
    except BaseException:
        _remove_if_empty(folder)
        raise
    shown = json.loads((folder / "report.json").read_text())
    for sentence in shown["at a glance"]:
        print(sentence)
    print(f"Done in {shown['what was done']['seconds']} s: open {folder / 'index.html'}")
    return 0


def stopped(given: argparse.Namespace) -> str:
    """Say what an interrupted command leaves."""
    return f"interrupted: what was finished is kept in {given.out}; run the same command to go on."


def _parameters(given: argparse.Namespace) -> dict:
    """Return the notebook's parameters."""
    words = {key: value for key, value in vars(given).items() if key not in _NOT_PARAMETERS}
    for key in ("taps_a", "taps_b"):
        if words[key]:
            words[key] = [tap.strip() for tap in words[key].split(",") if tap.strip()]
    words["pairs"] = words.pop("pair")
    words["device"] = given.device or os.environ.get("KC_DEVICE")
    words["command"] = shlex.join(["kclib", *sys.argv[1:]])
    return words


_NOT_PARAMETERS = ("command", "run", "list_taps")


def _remove_if_empty(folder: Path) -> None:
    if folder.is_dir() and not any(folder.iterdir()):
        shutil.rmtree(folder)


def _list_taps(given: dict) -> int:
    """List the layers of both networks."""
    from PIL import Image

    from .items import Items, items_of
    from .models import model_of
    from .stages import places

    if given["images"]:
        items: Items = items_of(given["images"], fewest=1)
        kind, sized, got = items.kind, items.sized, items.get(range(min(3, len(items))))
        if kind != "tensor":
            got = [item for item in got if item is not None]
    else:
        kind, sized, got = "image", False, [Image.effect_noise((256, 256), 64).convert("RGB")] * 3
    for title, name in (("A", given["a"]), ("B", given["b"])):
        weights = given[f"weights_{title.lower()}"]
        texts = got if kind == "text" else None
        how = {"size": given["size"], "kind": kind, "sized": sized, "texts": texts}
        model = model_of(name, weights=weights, **how)
        print(f"{title}: {name}; * is read by default")
        print(f"  {'tap':40} {'module':20} {'C x H x W':>16} {'weights':>12} {'MB':>8} {'s':>7}")
        for place in places(model.network, model.prepare(got)):
            shape = " x ".join(map(str, place.shape))
            mark = "*" if place.chosen else " "
            print(
                f"{mark} {place.tap:40} {place.kind:20} {shape:>16} {place.parameters:>12,} "
                f"{place.memory:>8,.1f} {place.seconds:>7,.1f}"
            )
    print("MB: of features of 1,000 items; s: of a fit of order 2 to them, on one core.")
    return 0
