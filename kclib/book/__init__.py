"""What runs the book: profiles, plans, the store, studies and their records.

It needs the packages of the extra ``book``; the rest of kclib does without.
"""

from importlib.util import find_spec

from ..errors import InputError

_missing = [
    name for name in ("pydantic", "yaml", "tqdm", "platformdirs") if find_spec(name) is None
]
if _missing:
    raise InputError(
        f"kclib.book needs {', '.join(_missing)}, which {'are' if _missing[1:] else 'is'} not "
        'installed; install the extra: pip install "kclib[book]".'
    )
