"""The command line: ``kclib compare A B --images photos/``, ``kclib network vgg16_all_0``."""

import argparse
import shlex
import sys

from .errors import InputError
from .report import command as compare


def main(words: list[str] | None = None) -> int:
    """Run one command; return the exit status."""
    parser = argparse.ArgumentParser(prog="kclib", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    compare.add_to(commands)
    network = commands.add_parser("network", help="train one network of a profile into the store")
    network.add_argument("--profile", help="default: the one that KC_PROFILE names, or quick")
    network.add_argument("member", help="NAME_SUBSET_SEED, e.g. vgg16_all_0")
    network.set_defaults(run=_train)
    data = commands.add_parser("data", help="fetch the published images that a profile needs")
    data.add_argument("--profile", help="default: the one that KC_PROFILE names, or quick")
    data.set_defaults(run=_data)
    given = parser.parse_args(words)
    try:
        return given.run(given)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        if given.command == "compare":
            said = compare.stopped(given)
        else:
            said = "interrupted: what was finished is saved; run the same command again to go on."
        print(said, file=sys.stderr)
        return 130


def _train(given: argparse.Namespace) -> int:
    from .book import making  # here, as Ctrl-C may come while it loads

    record = making.train_network(given.member, given.profile)
    print(
        f"{given.member}: accuracy {record['test_accuracy']:.1%} on test images, "
        f"{record['train_accuracy']:.1%} on training images"
    )
    return 0


def _data(given: argparse.Namespace) -> int:
    from .book import environment, fetching, parameters, profiles

    name = parameters.checked({"profile": given.profile})["profile"]
    profile, where = profiles.load(name), ""
    if any(profile.data_of(network).name != "creatures" for network in profile.networks):
        folder = environment.data_folder(make=True).resolve()
        where = f"KC_DATA={shlex.quote(str(folder))} "
        if needed := fetching.missing(profile):
            print(fetching.announced(needed, folder), flush=True)
            fetching.fetch(needed, folder)
    print(f"Nothing is left to fetch for {name}. Next:\n  {where}make book PROFILE={name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
