"""Where the book's repository is, and all that depends on it: buttons, links and instructions.

The address stands in the environment where the book is built: ``GITHUB_REPOSITORY`` (owner/name)
and ``GITHUB_REF_NAME`` (the branch, ``main`` if it is not set), which GitHub's runners set. Where
there is none, a book has no button or link that leads to a repository, and speaks of the folder at
hand.
"""

import re
from collections.abc import Mapping
from typing import NamedTuple

from kclib.errors import InputError


class Repository(NamedTuple):
    """A repository on GitHub: ``owner/name``, and the branch that the book is built from."""

    path: str
    branch: str

    @property
    def name(self) -> str:
        """Return the folder that a clone of it is in."""
        return self.path.split("/")[1]

    @property
    def address(self) -> str:
        """Return the address of its page, which also clones it."""
        return f"https://github.com/{self.path}"


def named(environment: Mapping[str, str]) -> Repository | None:
    """Return the repository that environment variables name, if they name one.

    Raises
    ------
    InputError
        If ``GITHUB_REPOSITORY`` is not of the form owner/name.

    Examples
    --------
    >>> named({"GITHUB_REPOSITORY": "someone/a-book"}).address
    'https://github.com/someone/a-book'
    >>> named({}) is None
    True
    """
    path = environment.get("GITHUB_REPOSITORY")
    if not path:
        return None
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", path):
        raise InputError(
            f"GITHUB_REPOSITORY is {path!r}; write owner/name, or leave it unset for a book "
            "without a repository."
        )
    return Repository(path, environment.get("GITHUB_REF_NAME") or "main")


def configured(settings: dict, repository: Repository | None) -> dict:
    """Return a book's settings (``_config.yml``) with what the repository adds to them."""
    history = "history of that file"
    if repository is None:
        words = {"claims_history": f"{history} (`git log results/claims.yaml`)"}
        added = {}
    else:
        link = f"{repository.address}/commits/{repository.branch}/results/claims.yaml"
        words = {"claims_history": f"[{history}]({link})"}
        added = {
            "repository": {"url": repository.address, "branch": repository.branch},
            "launch_buttons": {
                "notebook_interface": "jupyterlab",
                "binderhub_url": "https://mybinder.org",
                "colab_url": "https://colab.research.google.com",
            },
            "html": settings["html"]
            | dict.fromkeys(
                ("use_repository_button", "use_issues_button", "use_edit_page_button"), True
            ),
        }
    return settings | added | {"parse": settings["parse"] | {"myst_substitutions": words}}


def instructions(repository: Repository | None) -> dict[str, str]:
    """Return what pages include: how to get the book, to install kclib, to run it in Colab."""
    if repository is None:
        return {
            "get": "In the folder of this book, the one with the `Makefile`:\n\n"
            "```bash\nmake book\n```\n",
            "install": "In the folder of this book, with the Python of your networks:\n\n"
            "```bash\npython -m pip install .\n```\n",
            "install_report": "In the folder of this book, with the Python of your networks:\n\n"
            '```bash\npython -m pip install ".[report]"\n```\n',
            "hosted": "",
        }
    clone = f"git clone {repository.address}"
    return {
        "get": f"```bash\n{clone}\ncd {repository.name}\nmake book\n```\n",
        "install": f"```bash\npython -m pip install git+{repository.address}\n```\n",
        "install_report": "```bash\npython -m pip install "
        f'"kclib[report] @ git+{repository.address}"\n```\n',
        "hosted": "### In Colab or on Binder\n\n"
        "The rocket at the top of a notebook's page opens it there. Binder installs what "
        "`environment.yml` lists. In Colab, run these lines in a new first cell, then restart the "
        "runtime once so that it finds the package:\n\n"
        f"```ipython3\n!{clone.replace('clone', 'clone --depth 1')}\n"
        f'%pip install --quiet -e "./{repository.name}[book]"\n```\n',
    }
