"""The comparison with the authors' recipe runs end to end, and the page says what it measured."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path

import pytest
import torch
from made_up import a_result

from kclib import fit
from kclib.book import records

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT / "book"), str(ROOT / "bench")]
import before  # noqa: E402
import performance  # noqa: E402
from pages import collect  # noqa: E402


def program(name: str):
    """Return a program, a module like any other but for its name, which kclib has too."""
    spec = spec_from_file_location(f"bench_{name}", ROOT / "bench" / f"{name}.py")
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def bench():
    return program("solver")


def test_the_recipe_is_that_of_fit(bench):
    x, target = bench.synthetic(80, 4, 6)
    *_, (g, seconds) = bench.authors_recipe(x, target, 3)
    fitted = fit(x, target, solver="authors", epochs=3).disentangler
    assert seconds > 0
    for name, value in fitted.state_dict().items():
        torch.testing.assert_close(g.state_dict()[name], value, msg=name)


def test_a_normal_matrix_is_timed_for_every_kernel(bench):
    for kernel_size in (1, 3):
        times = bench.normal_matrices(*bench.synthetic(70, 4, 6), kernel_size, "cpu")
        assert len(times) == 2 and all(seconds > 0 for seconds in times.values())


def test_it_runs_end_to_end_and_the_page_shows_it(bench, tmp_path, monkeypatch):
    monkeypatch.setenv("KC_RESULTS", str(tmp_path))
    monkeypatch.setenv("KC_STORE", str(tmp_path / "store"))
    held = {"images": 70, "channels": 4, "side": 6, "kernel_size": 3, "order": 1}
    monkeypatch.setattr(bench, "HELD", held)
    monkeypatch.setattr(bench, "CHANGED", {"images": (70, 140), "order": (0, 1)})
    assert bench.main(["--profile", "smoke", "--cap", "0.2", "--seeds", "2"]) == 0
    results = collect([tmp_path / "smoke"])
    assert set(results["smoke"]) == {"vgg16_conv4_3", "scaling"}
    ((features, result, methods),) = performance.comparisons(results)
    assert features == "smoke, vgg16 conv4_3"
    assert result.provenance.parameters["cap"] == 0.2
    assert str(tmp_path) not in result.model_dump_json()
    epochs = [row["epochs"] for row in methods["authors"]]
    assert epochs == sorted(set(epochs)) and methods["authors"][-1]["seconds"] >= 0.2
    assert methods["authors, squeezed"][0]["epochs"] == epochs[-1]
    assert [row["epochs"] for row in methods["fast"]] == list(bench.EPOCHS)
    other = methods["fast, other seeds"]
    assert [row["seed"] for row in other] == list(range(1, bench.SEEDS))
    assert methods["fast, default"][0] == performance.fast(methods)
    assert [row["seed"] for row in methods["authors, other seeds"]] == [1]

    performance.write(tmp_path, results, {})
    page = (tmp_path / "performance.md").read_text()
    assert f"{methods['order 0'][0]['residual']:.4f}" in page
    for first, others in (
        (performance.fast(methods), other),
        (methods["authors"][-1], methods["authors, other seeds"]),
    ):
        left = [row["residual"] for row in (first, *others)]
        assert f"{len(left)} seeds: {min(left):.4f} to {max(left):.4f}" in page
    for name in ("curves", "costs"):
        assert f"performance_{name}.png" in page
        assert (tmp_path / f"performance_{name}.png").stat().st_size > 0


def test_matrices_of_layers_are_timed_in_turns_and_the_page_shows_them(tmp_path, monkeypatch):
    layers = program("layers")
    theirs = []

    def stand_in(a, b, taps, images):
        theirs.append(sum(range(10**6)))  # takes some time
        yield "torch_cka"

    if not find_spec("torch_cka"):
        monkeypatch.setattr(layers, "theirs", stand_in)
    monkeypatch.setattr(layers, "IMAGES", 40)
    monkeypatch.setattr(layers, "SIDE", 32)
    monkeypatch.setattr(layers, "BATCH", 20)
    monkeypatch.setattr(layers, "BLOCKS", {"resnet18": (2, 2, 2, 2)} | {"resnet34": (1, 0, 1)})
    path = layers.run(tmp_path)
    results = collect([path.parent])
    [rows] = [result.rows for result in results["quick"].values()]
    methods = ["the two networks alone", "kclib, reading and sums", "kclib", "torch_cka"]
    assert [row["method"] for row in rows] == methods * layers.ROUNDS
    assert all(row["seconds"] > 0 for row in rows)
    table = performance.layers(results)
    assert table.count("\n| ") == 2 + len(methods) - 1 and "40 images of 32 px" in table
    assert not list(performance.comparisons(results))
    assert performance.layers({}) == performance.NOTHING


def test_growth_is_measured_in_processes_of_their_own_and_the_page_fits_exponents(
    tmp_path, monkeypatch
):
    growth = program("growth")
    monkeypatch.setattr(growth, "HELD", {"images": 120, "channels": 4, "side": 5, "layers": 2})
    changed = {
        "fit, 1 x 1": {"images": (120, 240), "channels": (4, 8), "side": (5, 6)},
        "comparison": {"layers": (2, 3)},
    }
    monkeypatch.setattr(growth, "CHANGED", changed)
    # A process of its own could not import this stand-in of a program.
    monkeypatch.setattr(growth, "ProcessPoolExecutor", lambda *_, **__: ThreadPoolExecutor(1))
    measured, asked = growth.measured, []

    def interrupted(*what):
        asked.append(what)
        if len(asked) == 4:
            raise KeyboardInterrupt
        return measured(*what)

    monkeypatch.setattr(growth, "measured", interrupted)
    with pytest.raises(KeyboardInterrupt):
        growth.run(tmp_path)
    path = growth.run(tmp_path)
    assert len(asked) == 8 + 1  # the first three are there
    assert [file.name for file in path.parent.iterdir() if "part" in file.name] == []
    results = collect([path.parent])
    [result] = results["quick"].values()
    assert [row["method"] for row in result.rows] == ["fit, 1 x 1"] * 6 + ["comparison"] * 2
    assert all(row["seconds"] > 0 for row in result.rows)
    for row in result.rows:  # a thread's least memory may be no more than was there
        row["megabytes"] = max(row["megabytes"], 1.0)
    assert performance.growth(results).count("\n| ") == 2 + 4
    performance.write(tmp_path, results, {})
    assert (tmp_path / "performance_growth.png").stat().st_size > 0
    assert "`make bench GROWTH=1`" in performance.growth({})


def test_the_exponent_is_that_of_a_power_law():
    values = [10.0, 20.0, 40.0, 80.0]
    assert performance.exponent(values, [9.0, *(value**2 / 50 for value in values[1:])]) == (
        pytest.approx(2)
    )


def test_memory_that_was_taken_for_a_moment_is_seen():
    code = (
        "import time, torch, growth\n"
        "with growth.Memory() as memory:\n"
        "    taken = torch.ones(25_000_000)\n"
        "    time.sleep(1)\n"  # a busy machine looks late
        "    del taken\n"
        "print(memory.megabytes)"
    )  # in a process of its own, which has no free memory left from other tests
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT / "bench", capture_output=True, text=True, check=True
    )
    assert 90 < float(done.stdout) < 150


def test_every_recorded_comparison_is_on_the_page():
    results = collect([*(records.RECORDED / "bench").glob("*")])
    page = performance.page(results, {})
    for features, *_ in performance.comparisons(results):
        assert page.count(f"| {features} |") == 3


def test_without_a_result_the_page_says_how_to_make_one():
    assert "`make bench`" in performance.page({}, {})


def test_the_full_recipe_is_extrapolated_from_the_epochs_that_ran():
    provenance = a_result().provenance.model_dump()
    provenance["parameters"] |= {"authors_epochs": 1000}
    result = a_result(provenance=provenance)
    methods = {"authors": [{"epochs": 1, "seconds": 9.0}, {"epochs": 10, "seconds": 5.0}]}
    assert performance.full_recipe(result, methods) == 500


def test_the_time_to_our_residual_is_a_bound_where_the_cap_came_first():
    ours = {"seconds": 2.0, "residual": 0.3}
    authors = [{"seconds": 1.0, "residual": 0.9}, {"seconds": 8.0, "residual": 0.31}]
    assert performance.to_our_residual(ours, authors) == "more than 4"
    reached = [*authors, {"seconds": 12.0, "residual": 0.3}, {"seconds": 16.0, "residual": 0.2}]
    assert performance.to_our_residual(ours, reached) == "6"


def test_the_shortest_fast_fit_that_ends_no_higher_than_the_recipe_counts():
    fast = [{"epochs": n, "seconds": 2.0 * n, "residual": 0.3 - n / 100} for n in (1, 2, 4)]
    end = {"seconds": 800.0, "residual": 0.28}
    assert performance.to_their_residual({"fast": fast, "authors": [end]}) == "200 (2)"
    end = {"seconds": 800.0, "residual": 0.2}
    assert "not reached" in performance.to_their_residual({"fast": fast, "authors": [end]})


def test_the_fits_of_the_notebooks_are_counted_and_their_cost_scaled():
    provenance = a_result().provenance.model_dump()
    provenance["parameters"] |= {"authors_epochs": 100}
    shared = {"features": "net tap"}
    rows = [
        shared | {"method": "fast, default", "epochs": 2, "seconds": 1.0, "residual": 0.1},
        shared | {"method": "authors", "epochs": 10, "seconds": 20.0, "residual": 0.5},
    ]
    profile = a_result().profile
    benches = {profile: {"net_tap": a_result(rows=rows, provenance=provenance)}}
    fits = a_result().provenance.model_dump() | {"joint_fits": 3, "joint_fit_seconds": 90.0}
    results = {profile: {name: a_result(provenance=fits) for name in "ab"}}
    said = performance.saved(benches, results)
    assert "6 joint fits" in said and "took 3.0 minutes" in said and "10 hours" in said
    assert performance.saved({}, results) == performance.saved(benches, {}) == ""


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--profile", "quikc"], "no profile 'quikc'. Did you mean 'quick'?"),
        (["--profile", "smoke", "--cap", "0"], "the cap is 0 seconds; allowed: above 0"),
        (["--profile", "smoke", "--cap", "nan"], "the cap is nan seconds"),
        (["--profile", "smoke", "--seeds", "0"], "the number of seeds is 0; allowed: 1 or more"),
        (["--profile", "smoke", "--pairs", "vgg16:conv9"], "no pair 'vgg16:conv9'. Did you mean"),
    ],
)
def test_what_cannot_be_run_is_refused_in_one_line(
    bench, words, said, tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("KC_RESULTS", str(tmp_path))
    assert bench.main(words) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and said in line
    assert not list(tmp_path.iterdir())


def timed(**seconds) -> list[dict]:
    """Return rows of a bench: the unit, and methods by name."""
    return [{"method": name, "seconds": value} for name, value in {"unit": 2.0, **seconds}.items()]


@pytest.fixture
def recorded(tmp_path):
    """Return the path of a result that holds some rows."""

    def write(rows: list[dict]) -> Path:
        return records.write(a_result("quick", rows=rows), tmp_path)

    return write


def test_a_bench_says_what_got_slower_than_before(recorded):
    path = recorded(timed(fit=8.0, other=4.0))
    slower, as_before = before.changes(timed(fit=12.0, other=4.1), path, "unit")
    assert "slower: fit, 1.50 times" in slower and "6 of unit, was 4" in slower
    assert "2 of 3 measurements" in as_before
    faster, _ = before.changes(timed(fit=4.0, other=4.1), path, "unit")
    assert "faster: fit, 0.50 times" in faster


def test_a_machine_of_another_speed_is_no_change(recorded):
    path = recorded(timed(fit=8.0))
    [line] = before.changes([row | {"seconds": 3 * row["seconds"]} for row in timed(fit=8.0)],
                            path, "unit")  # fmt: skip
    assert "2 of 2 measurements take as long" in line


def test_passes_of_the_default_fit_are_found_out_and_other_sizes_are_other_measurements(recorded):
    row = {"features": "made up", "images": 70, "method": "fast, default", "epochs": 4}
    unit = {"method": "unit", "seconds": 1.0}
    path = recorded([unit, row | {"seconds": 5.0}])
    now = [unit, row | {"epochs": 9, "seconds": 10.0}, row | {"images": 140, "seconds": 1.0}]
    slower, rest = before.changes(now, path, "unit")
    assert "slower: made up, 70 images, fast, default, 2.00 times" in slower
    assert "1 of 2 measurements" in rest


def test_without_a_bench_before_there_is_nothing_to_say(tmp_path):
    assert list(before.changes(timed(fit=1.0), tmp_path / "none.json", "unit")) == []
    (tmp_path / "broken.json").write_text("{")
    [line] = before.changes(timed(fit=1.0), tmp_path / "broken.json", "unit")
    assert line.startswith("not compared with the bench before: ")
