"""The graph of a profile's jobs: what a cluster is asked for, and what all of it takes."""

import pytest
from made_up import a_result

from kclib.book import graph, profiles, records
from kclib.book.graph import Graph, Job

SMOKE, QUICK = profiles.load("smoke"), profiles.load("quick")


@pytest.fixture
def made_up(monkeypatch):
    """A graph of three networks and two notebooks, of known seconds."""
    found = Graph(SMOKE)
    jobs = {
        "a": Job((), 10.0, 1.0),
        "b": Job((), 20.0, 2.0),
        "c": Job(("a",), 30.0, None),
        "first": Job(("a", "b"), 5.0, 3.0),
        "second": Job(("c", "first"), 1.0, 0.1),
    }
    monkeypatch.setattr(Graph, "jobs", jobs)
    found.value = {name: -k for k, name in enumerate(jobs)}
    return found


def test_one_place_takes_the_sum_and_many_the_longest_chain(made_up):
    assert made_up.total() == made_up.simulated(1) == 66
    assert made_up.critical() == made_up.simulated(64) == 41  # a, c, second


@pytest.mark.parametrize(("wanted", "seconds"), [(-9, 60), (9, 61)])
def test_two_places_begin_what_is_wanted_most(made_up, monkeypatch, wanted, seconds):
    """Last, d begins at 25, when first is done: 60. First, d ends at 35, a and b at 30, c at 60."""
    monkeypatch.setattr(Graph, "jobs", made_up.jobs | {"d": Job((), 35.0, 1.0)})
    made_up.value["d"] = wanted
    assert made_up.simulated(2) == seconds


def test_the_longest_chain_of_jobs_can_begin_first(made_up):
    """With d of 3 s begun after b: a, c and second take 41 s, and b, first and d beside them 28."""
    made_up.jobs["d"] = Job((), 3.0, None)
    chains = {"a": 41, "b": 26, "c": 31, "first": 6, "second": 1, "d": 3}
    assert made_up.chains == chains
    late = {name: -seconds for name, seconds in chains.items()}
    assert made_up.simulated(2, chains) == 41 < made_up.simulated(2, late) == 44


def test_a_recorded_job_is_asked_for_with_a_margin_that_grows():
    job = Job((), 3600.0, 4.0)
    assert (job.minutes(), job.megabytes()) == (180, 6000)
    assert (job.minutes(3), job.megabytes(2)) == (540, 12000)
    short = Job((), 1.0, 0.3)
    assert (short.minutes(), short.megabytes()) == (graph.LEAST_MINUTES, 1000 * graph.LEAST_GB)


def test_of_a_job_that_is_not_recorded_much_is_asked():
    job = Job((), None, None)
    assert job.minutes() == 60 * graph.UNKNOWN_HOURS
    assert job.megabytes() == 1000 * graph.UNKNOWN_GB


def test_every_job_of_a_profile_is_there_with_its_needs():
    found = Graph(QUICK)
    assert set(QUICK.artefacts) < set(found.jobs) < set(found.value)
    for name, job in found.jobs.items():
        for needed in job.needs:
            assert needed in found.jobs
            # What is needed first is wanted first, but for a notebook that another one waits for.
            assert found.value[needed] > found.value[name] or needed in QUICK.artefacts
    assert set(map(str, found.networks.values())) == set(found.jobs) - set(found.needed)


def test_a_network_that_takes_less_than_a_start_has_no_job_of_its_own(monkeypatch):
    usual = records.recorded

    def recorded(name, profile):
        result = usual(name, profile)
        for network, had in result.provenance.networks.items():
            small = network.startswith("groups") or "pruned" in network
            had["training_seconds"] = graph.SHORT + (-0.1 if small else 0.1)
        return result

    monkeypatch.setattr(records, "recorded", recorded)
    jobs = Graph(QUICK).jobs
    assert not [name for name in jobs if name.startswith("groups")]
    assert not jobs["check_groups"].needs
    assert "vgg16_all_0" in jobs["table1_instability"].needs
    assert "vgg16_all_0_pruned0.8" not in jobs and "vgg16_all_0" in jobs["fig4_compression"].needs


def test_a_network_of_which_nothing_is_recorded_has_a_job(monkeypatch):
    monkeypatch.setattr(records, "recorded", lambda *_: None)
    assert "groups_plain_all_0" in Graph(QUICK).jobs


def test_times_are_those_that_were_recorded():
    found = Graph(SMOKE)
    assert len(found.recorded()) > len(found.jobs) / 2
    assert 0 < found.critical() <= found.simulated(8) <= found.simulated(1)
    assert found.simulated(1) == pytest.approx(found.total())


def test_fits_of_the_notebooks_before_it_are_no_part_of_a_job(monkeypatch):
    def recorded(name, profile):
        had = a_result(profile, artefact=name)
        spared = had.provenance.model_copy(update={"run_seconds": 100.0, "found_seconds": 60.0})
        return had.model_copy(update={"provenance": spared})

    monkeypatch.setattr(records, "recorded", recorded)
    jobs = Graph(SMOKE).jobs
    assert jobs["table2_orders"].seconds == 40 and jobs["table1_instability"].seconds == 100


def test_a_profile_of_photographs_is_planned_without_them(monkeypatch):
    monkeypatch.delenv("KC_DATA", raising=False)
    found = Graph(profiles.load("real64"))
    assert found.critical() > 0 and found.jobs
