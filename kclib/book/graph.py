"""The graph of a profile: networks, then notebooks; what each job takes, and what all of them take.

The Snakefile runs it. What a job takes is what recorded runs say of it.
"""

import heapq
import math
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property

from ..errors import InputError
from ..report.command import NOTEBOOK
from . import members, plans, records
from .members import Member
from .profiles import Profile

#: Notebooks that read fits which others make too; side by side they would wait for each other.
AFTER = {
    "table2_orders": ["table1_instability"],
    "table3_refinement": ["table1_instability"],
    "appendix_fairness": ["table3_refinement"],
    "compare_similarity": ["table1_instability"],
    "check_blind_spots": ["fig1_fuzziness_levels", "fig3_blind_spots"],
}
#: What the notebook of `kclib compare` compares where nothing is named.
COMPARED = (Member("vgg16", 0), Member("vgg16", 0, pruned=0.8))
#: Seconds of training, as recorded, below which a network has no job of its own: starting one takes
#: as long. The notebook that needs it first makes it.
SHORT = 5
#: What a cluster is asked for, in units of what was recorded, and at least: another processor is
#: slower, and every job starts a Snakemake and a Python first.
MARGIN, LEAST_MINUTES, LEAST_GB = {"time": 3, "memory": 1.5}, 10, 2
#: What it is asked for a job of which nothing is recorded.
UNKNOWN_HOURS, UNKNOWN_GB = 8, 4


@dataclass(frozen=True)
class Job:
    """A network or a notebook.

    Attributes
    ----------
    needs : tuple of str
        The jobs that come before it.
    seconds : float or None
        That it took when it was recorded.
    memory : float or None
        GB that it held at most.
    """

    needs: tuple[str, ...]
    seconds: float | None
    memory: float | None

    def minutes(self, attempt: int = 1) -> int:
        """Return the minutes that a cluster is asked for, more at each attempt."""
        seconds = self.seconds if self.seconds is not None else UNKNOWN_HOURS * 3600
        margin = MARGIN["time"] if self.seconds is not None else 1
        return max(LEAST_MINUTES, math.ceil(seconds * margin / 60)) * attempt

    def megabytes(self, attempt: int = 1) -> int:
        """Return the memory that a cluster is asked for, more at each attempt."""
        memory = UNKNOWN_GB if self.memory is None else self.memory * MARGIN["memory"]
        return math.ceil(max(LEAST_GB, memory) * 1000) * attempt


@dataclass
class Graph:
    """The jobs of a profile: a network is called as `Member` writes it, a notebook by its name.

    Attributes
    ----------
    profile : Profile
    needed : dict of str to list of Member
        By notebook, its networks: those of the profile's artefacts and that of `kclib compare`.
    value : dict of str to float
        How soon each job is wanted: the highest first, in the order of the profile's artefacts.
    """

    profile: Profile
    needed: dict[str, list[Member]] = field(default_factory=dict)
    value: dict[str, float] = field(default_factory=dict)

    def __post_init__(self):
        for name, needs in self.profile.artefacts.items():
            self.needed[name] = members.members(needs, seed=0)
        self.needed[NOTEBOOK.stem] = list(COMPARED)
        for name in self.needed:
            for job in (*self.needed[name], name):
                self.value.setdefault(str(job), -len(self.value))

    @cached_property
    def networks(self) -> dict[str, Member]:
        """Networks with a job of their own, by key; of photographs, keys need to know the files."""
        found: dict[str, Member] = {}
        for member in dict.fromkeys(one for needed in self.needed.values() for one in needed):
            if str(member) in self.jobs:
                found.setdefault(self.key(member), member)
        return found

    def key(self, member: Member) -> str:
        """Return the key of a network in the store."""
        if member not in self._keys:
            self._keys[member] = plans.network(self.profile, member).key
        return self._keys[member]

    @cached_property
    def _keys(self) -> dict[Member, str]:
        return {}

    @cached_property
    def jobs(self) -> dict[str, Job]:
        """All jobs, with what was recorded of them under this profile."""
        results = {}
        for name in self.profile.artefacts:
            with suppress(InputError):  # of a damaged one the pages tell
                if result := records.recorded(name, self.profile.name):
                    results[name] = result.provenance
        seconds: dict[str, float] = {}
        memory: dict[str, float] = {}
        for had in results.values():
            for name, network in had.networks.items():
                seconds[name] = network["training_seconds"]
                memory[name] = max(had.peak_memory, memory.get(name, 0))

        def own(members: Iterable[Member | None]) -> list[str]:
            return [str(m) for m in members if m and seconds.get(str(m), SHORT) >= SHORT]

        found = {}
        for name, needed in self.needed.items():
            for member in needed:
                for job in own([member]):
                    made_from = tuple(own([member.origin]))
                    found[job] = Job(made_from, seconds.get(job), memory.get(job))
            before = [other for other in AFTER.get(name, ()) if other in self.needed]
            job = Job((*own(needed), *before), None, None)
            if had := results.get(name):
                spared = had.found_seconds if before else 0  # made by the notebooks before it
                job = replace(job, seconds=had.run_seconds - spared, memory=had.peak_memory)
            found[name] = job
        return found

    def recorded(self) -> list[Job]:
        """Return the jobs of which it is known what they take; others count nothing below."""
        return [job for job in self.jobs.values() if job.seconds is not None]

    def total(self) -> float:
        """Return the seconds of all jobs, one after the other."""
        return sum(job.seconds or 0 for job in self.jobs.values())

    @cached_property
    def chains(self) -> dict[str, float]:
        """The seconds of the longest chain of jobs that begins with each.

        If those with the longest begin first, none runs alone for long at the end.
        """
        later: dict[str, list[str]] = {name: [] for name in self.jobs}
        for name, job in self.jobs.items():
            for needed in job.needs:
                later[needed].append(name)
        found: dict[str, float] = {}

        def chain(name: str) -> float:
            if name not in found:
                seconds = self.jobs[name].seconds or 0
                found[name] = seconds + max(map(chain, later[name]), default=0)
            return found[name]

        return {name: chain(name) for name in self.jobs}

    def critical(self) -> float:
        """Return the seconds of the longest chain of jobs: no cluster is faster."""
        return max(self.chains.values())

    def simulated(self, places: int, wanted: dict[str, float] | None = None) -> float:
        """Return the seconds that all jobs take on some places, each for one job at a time.

        A place that is free takes, of the jobs that can begin, the one that is wanted most, as
        Snakemake does: by default as `value` says.
        """
        wanted = self.value if wanted is None else wanted
        waiting = {name: set(job.needs) for name, job in self.jobs.items()}
        running: list[tuple[float, str]] = []
        now = 0.0
        while waiting or running:
            ready = sorted((n for n in waiting if not waiting[n]), key=lambda n: -wanted[n])
            for name in ready[: places - len(running)]:
                heapq.heappush(running, (now + (self.jobs[name].seconds or 0), name))
                del waiting[name]
            now, done = heapq.heappop(running)
            for needs in waiting.values():
                needs.discard(done)
        return now
