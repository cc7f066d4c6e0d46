"""The command line: ``python -m kclib network --profile quick vgg16_all_0``."""

import argparse
import sys

from .errors import InputError


def main() -> int:
    """Run one command; return the exit status."""
    try:
        return run()
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(
            "interrupted: the epochs that were finished are saved; "
            "run the same command again to go on.",
            file=sys.stderr,
        )
        return 130


def run() -> int:
    """Run one command; raise what `main` says in one line."""
    from . import profiles  # here, as Ctrl-C may come while they load
    from .members import Member
    from .study import Study

    parser = argparse.ArgumentParser(prog="python -m kclib", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    network = commands.add_parser("network", help="train one network of a profile into the store")
    network.add_argument("--profile", default="quick", help=f"one of {', '.join(profiles.names())}")
    network.add_argument("--artefact", default="table1_instability", help="that needs it")
    network.add_argument("member", help="NAME_PART_SEED, e.g. vgg16_all_0")
    given = parser.parse_args()
    _, record = Study(given.artefact, profile=given.profile).network(Member.parse(given.member))
    print(
        f"{given.member}: accuracy {record['test_accuracy']:.1%} on test images, "
        f"{record['train_accuracy']:.1%} on training images"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
