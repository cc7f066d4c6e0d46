"""The command line: ``python -m kclib network --profile quick vgg16_all_0``."""

import argparse
import shlex
import sys

from .errors import InputError


def main(words: list[str] | None = None) -> int:
    """Run one command; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m kclib", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    network = commands.add_parser("network", help="train one network of a profile into the store")
    network.add_argument("--profile", help="default: the one that KC_PROFILE names, or quick")
    network.add_argument("member", help="NAME_SUBSET_SEED, e.g. vgg16_all_0")
    data = commands.add_parser("data", help="fetch the published images that a profile needs")
    data.add_argument("--profile", help="default: the one that KC_PROFILE names, or quick")
    given = parser.parse_args(words)
    try:
        return {"network": _network, "data": _data}[given.command](given)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(
            "interrupted: what was finished is saved; run the same command again to go on.",
            file=sys.stderr,
        )
        return 130


def _network(given) -> int:
    from .book import making  # here, as Ctrl-C may come while it loads

    record = making.train_network(given.member, given.profile)
    print(
        f"{given.member}: accuracy {record['test_accuracy']:.1%} on test images, "
        f"{record['train_accuracy']:.1%} on training images"
    )
    return 0


def _data(given) -> int:
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
