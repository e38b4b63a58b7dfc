"""`eexp compare` and `eexp power`: what is compared, and what is refused. Their numbers: evidence/test_evidence.py."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest
from running import run, spawn, write
from scipy import stats

from eexp.console.method_files import method_files
from eexp.errors import InputError
from eexp.evidence.comparison import compare
from eexp.evidence.intervals import difference, rate
from eexp.evidence.panels import panel_hash
from eexp.evidence.settings import CompareSettings
from eexp.evidence.table import comparison_table, rounded_p


def _episodes(successes: dict[tuple[int, int], bool], env: str = "house", **more) -> list[dict]:
    return [
        {
            "type": "episode",
            "id": f"{env}/{task}/{trial}",
            "env": env,
            "task": {"id": str(task)},
            "seed": trial,
            "success": won,
            "steps": 5 + task % 3,
            "invalid": task % 2,
            **more,
        }
        for (task, trial), won in successes.items()
    ]


def _drawn(n: int, rate: float, seed: int, trials: int = 1) -> dict[tuple[int, int], bool]:
    rng = random.Random(seed)
    return {(task, trial): rng.random() < rate for trial in range(trials) for task in range(n)}


def _array(*runs: dict[tuple[int, int], bool]) -> np.ndarray:
    """Return mean success, runs x tasks, with tasks in the order of their ids as text."""
    tasks = sorted({task for task, _ in runs[0]}, key=str)
    return np.array([[np.mean([won for (t, _), won in one.items() if t == task]) for task in tasks] for one in runs])


def test_one_run_each():
    a, b = _drawn(60, 0.4, 1), _drawn(60, 0.55, 101)
    first, row = compare({"a": [_episodes(a)], "b": [_episodes(b)]})
    won = sum(b[k] and not a[k] for k in a)
    lost = sum(a[k] and not b[k] for k in a)
    assert (row["won"], row["lost"], row["tasks"], row["runs"], row["against"]) == (won, lost, 60, 1, "a")
    assert row["p_exact"] == pytest.approx(stats.binomtest(won, won + lost).pvalue)
    estimate = difference(_array(a), _array(b))
    assert (row["difference_low"], row["difference_high"]) == pytest.approx(estimate.interval())
    assert row["difference"] == pytest.approx((won - lost) / 60) and row["p"] == pytest.approx(estimate.p())
    assert (first["rate"], first["low"], first["high"]) == pytest.approx(rate(_array(a)))
    assert first["panel"] == row["panel"] == panel_hash(_episodes(a)) and "p" not in first
    assert first["mean_steps"] == 6 and first["invalid_actions"] == pytest.approx(30 / 360)
    assert "refused" not in comparison_table([first, row]) and "cut off" not in comparison_table([first, row])
    table = comparison_table([{**first, "invalid_actions": 0.95, "cut_off": 0.5}, row])
    assert "a: 95% of the actions were refused: read `eexp show`" in table and "a: 50% of the answers were cut" in table


def test_several_runs_are_averaged_and_never_the_best_one_taken():
    first = [_drawn(80, 0.3, seed) for seed in range(3)]
    second = [_drawn(80, 0.5, seed) for seed in range(10, 15)]
    row = compare({"a": map(_episodes, first), "b": map(_episodes, second)})[1]
    values = _array(*second)
    assert row["runs"] == 5 and row["episodes"] == 400 and row["rate"] == pytest.approx(values.mean())
    assert row["rates"] == pytest.approx(list(values.mean(1))) and row["rate"] < max(row["rates"])
    estimate = difference(_array(*first), values)
    assert (row["difference_low"], row["difference_high"]) == pytest.approx(estimate.interval())
    assert row["p_exact_least"] == pytest.approx(1 / 56) and row["p_exact"] >= 1 / 56 and "won" not in row
    turned = compare({"b": map(_episodes, second), "a": map(_episodes, reversed(first))})[1]
    assert turned["difference"] == pytest.approx(-row["difference"]) and turned["p"] == pytest.approx(row["p"])


def test_trials_of_a_task_are_not_independent():
    """The interval is over tasks: more trials of the same tasks do not make it a sample of more tasks."""
    a, b = _drawn(20, 0.4, 1, trials=5), _drawn(20, 0.6, 2, trials=5)
    row = compare({"a": [_episodes(a)], "b": [_episodes(b)]})[1]
    by_task = (_array(b) - _array(a))[0]
    half = stats.t.ppf(0.975, 19) * stats.sem(by_task)
    assert row["tasks"] == 20 and row["episodes"] == 100
    assert row["difference_high"] - row["difference_low"] == pytest.approx(2 * half, rel=0.03)
    assert row["pass_at"].keys() == row["pass_all"].keys() == {"1", "2", "4", "5"}
    assert row["pass_at"]["1"] == pytest.approx(row["rate"]) == pytest.approx(row["pass_all"]["1"])
    assert row["pass_at"]["5"] == np.mean([any(b[task, trial] for trial in range(5)) for task in range(20)])
    assert row["pass_all"]["5"] == np.mean([all(b[task, trial] for trial in range(5)) for task in range(20)])
    assert "pass_at" not in compare({"a": [_episodes(_drawn(5, 0.5, 1))]})[0]


def test_pairs_are_by_task_whatever_the_order():
    a, b = _drawn(30, 0.4, 1), _drawn(30, 0.6, 2)
    shuffled = _episodes(b)
    random.Random(0).shuffle(shuffled)
    groups = {"a": [_episodes(a)], "b": [_episodes(b)]}
    assert compare(groups) == compare({"a": [_episodes(a)], "b": [shuffled]})


def test_one_task_gives_no_interval_and_equal_methods_give_one():
    same = _drawn(10, 0.5, 3)
    row = compare({"a": [_episodes(same)], "b": [_episodes(same)]})[1]
    assert (row["difference"], row["p"], row["p_exact"], row["won"], row["lost"]) == (0, 1.0, 1.0, 0, 0)
    assert row["difference_low"] == -row["difference_high"] < 0
    row = compare({"a": [_episodes({(0, 0): False})], "b": [_episodes({(0, 0): True})]})[1]
    assert row["difference"] == 1 and row["difference_low"] is row["p"] is row["detectable"] is None


def test_holm_over_all_methods():
    groups = {str(i): [_episodes(_drawn(100, 0.3 + 0.06 * i, i))] for i in range(4)}
    rows = compare(groups, CompareSettings(baseline="1"))
    compared = [row for row in rows if "against" in row]
    assert [row["name"] for row in compared] == ["0", "2", "3"]
    ordered = sorted(compared, key=lambda row: row["p"])
    assert ordered[0]["p_holm"] == pytest.approx(min(1, 3 * ordered[0]["p"]))
    assert all(row["p_holm"] >= row["p"] and row["p_exact_holm"] >= row["p_exact"] for row in compared)


def test_no_p_is_shown_below_what_the_runs_can_support():
    """Five runs against five cannot give an exact p below 2 of 252, however small the p of the interval."""
    rates = {"a": 0.05, "b": 0.4, "c": 0.5, "d": 0.06}
    groups = {
        name: [_episodes(_drawn(240, rate, 10 * i + seed)) for seed in range(5)]
        for i, (name, rate) in enumerate(rates.items())
    }
    rows = compare(groups)
    _, b, c, d = rows
    assert max(b["p"], c["p"]) < 1e-6 < 2 / 252 < d["p"], "the numbers for programs stay"
    assert b["p_holm_bound"] == c["p_holm_bound"] == pytest.approx(3 * 2 / 252) == b["p_exact_holm"]
    assert d["p_holm_bound"] == d["p_holm"]
    table = comparison_table(rows)
    cells = {line.split()[0]: line for line in table.splitlines() if line[:2] in ("b ", "c ", "d ")}
    assert all(cells[name].split()[-4:-1] == ["<0.0079", "<0.024", "0.0079"] for name in "bc"), table
    assert "<" not in cells["d"] and "<0.0001" not in table
    assert "p: with 5 and 5 runs no p below 0.0079 is shown; Holm: that, corrected" in table
    once = comparison_table(compare({name: runs[:1] for name, runs in groups.items()}))
    assert "<0.0001" in once and "is shown" not in once, "one run each: p is over tasks, for these models alone"


def test_several_looks_widen_the_intervals():
    groups = {"a": [_episodes(_drawn(200, 0.4, 1))], "b": [_episodes(_drawn(200, 0.5, 2))]}
    once, often = compare(groups)[1], compare(groups, CompareSettings(looks=5))[1]
    assert often["p"] > once["p"] and often["p_exact"] > once["p_exact"] and often["looks"] == 5
    assert often["difference_high"] - often["difference_low"] > once["difference_high"] - once["difference_low"]
    assert often["detectable"] > once["detectable"] and often["difference"] == once["difference"]


@pytest.mark.parametrize(
    ("task", "more", "kind"),
    [
        ({"id": "test/3", "split": "test"}, {"kind": "wash"}, "wash"),
        ({"id": "test/3", "split": "test", "kind": "heat"}, {}, "heat"),
        ({"id": "GoTo/3", "split": "test", "level": "GoTo", "seed": 3}, {}, "GoTo"),
        ({"id": "boil/3", "split": "test"}, {}, "boil"),
        ({"id": "test/3", "split": "test"}, {}, None),
        ({"id": "3", "split": "test"}, {}, None),
    ],
)
def test_the_kind_of_a_task_is_read_from_the_episode_the_task_or_its_id(task, more, kind):
    from eexp.evidence.results import kind_for_comparison

    assert kind_for_comparison({"env": "e", "task": task, **more}) == kind


def test_refused_actions():
    """Where every action of one method is refused and none of the other's, and with shares that are drawn."""
    plain = _episodes(_drawn(50, 0.5, 1))
    all_refused = [{**e, "invalid": e["steps"]} for e in plain]
    none_refused = [{**e, "invalid": 0} for e in plain]
    row = compare({"a": [none_refused], "b": [all_refused]})[1]["refused"]
    assert row["mean"] == 1 and row["by_run"] == [1] and row["difference"] == 1
    assert row["difference_low"] > 0.85 and row["p"] < 1e-6
    rng = random.Random(0)
    runs = [[{**e, "invalid": rng.randint(0, e["steps"])} for e in plain] for _ in range(4)]
    row = compare({"a": runs[:2], "b": runs[2:]})[1]["refused"]
    order = sorted(range(50), key=str)  # tasks are in the order of their ids as text
    shares = np.array([[run[i]["invalid"] / run[i]["steps"] for i in order] for run in runs])
    estimate = difference(shares[:2], shares[2:])
    assert (row["difference_low"], row["difference_high"]) == pytest.approx(estimate.interval())
    assert row["p"] == pytest.approx(estimate.p()) and row["mean"] == pytest.approx(shares[2:].mean())


def test_by_kind():
    def of_kinds(successes):
        return [{**e, "kind": "even" if int(e["task"]["id"]) % 2 == 0 else "odd"} for e in _episodes(successes)]

    a, b = _drawn(60, 0.3, 1), _drawn(60, 0.5, 2)
    first, row = compare({"a": [of_kinds(a)], "b": [of_kinds(b)]})
    assert row["kinds"].keys() == {"even", "odd"} and first["kinds"]["odd"].keys() == {"tasks", "rate", "low", "high"}
    odd = {key: {k: won for k, won in wins.items() if k[0] % 2} for key, wins in (("a", a), ("b", b))}
    alone = compare({key: [_episodes(wins)] for key, wins in odd.items()})[1]
    for name in ("tasks", "rate", "low", "difference", "difference_low", "difference_high"):
        assert row["kinds"]["odd"][name] == pytest.approx(alone[name])
    assert "kinds" not in alone


# -- the command -------------------------------------------------------------------------------------------------------


@pytest.fixture
def files(tmp_path) -> Path:
    for name, rate_, seeds in (("il", 0.3, range(3)), ("sr", 0.6, range(10, 13))):
        for i, seed in enumerate(seeds):
            write(tmp_path / f"{name}-s{i}.jsonl", _episodes(_drawn(40, rate_, seed)))
    return tmp_path


def test_the_command(files):
    a, b = files / "il-s0.jsonl", files / "sr-s0.jsonl"
    rows = run("compare", "--json", a, b).ok().records
    assert [r["name"] for r in rows] == ["il-s0", "sr-s0"] and rows[1]["against"] == "il-s0"
    expected = compare({"il-s0": [_episodes(_drawn(40, 0.3, 0))], "sr-s0": [_episodes(_drawn(40, 0.6, 10))]})
    assert rows == json.loads(json.dumps(expected))
    rows = run("compare", "--json", "--baseline", "new", f"old={a}", f"new={b}").ok().records
    assert [r["name"] for r in rows] == ["old", "new"] and rows[0]["against"] == "new" and "against" not in rows[1]
    table = run("compare", a, b).ok().out.decode().splitlines()
    assert table[0].split()[:2] == ["episodes", "success"] and table[1].startswith("il-s0 ")
    assert "95% interval" in table[0] and "these models alone" in table[3] and "McNemar" in table[4]
    assert "99% interval" in run("compare", "--confidence", 0.99, a).ok().out.decode()


def test_patterns_and_repeated_names_are_runs_of_one_method(files):
    named = run("compare", "--json", f"IL={files}/il-s*.jsonl", *(f"SR={files}/sr-s{i}.jsonl" for i in range(3))).ok()
    assert [(r["name"], r["runs"]) for r in named.records] == [("IL", 3), ("SR", 3)]
    text = run("compare", f"IL={files}/il-s*.jsonl", f"SR={files}/sr-s*.jsonl").ok().out.decode()
    assert "with 3 and 3 runs it cannot be below 0.1" in text and "over tasks and training runs" in text
    mixed = run("compare", f"IL={files}/il-s*.jsonl", f"SR={files}/sr-s0.jsonl").ok().out.decode()
    assert "SR: one run, which stands for itself alone" in mixed
    looks = run("compare", f"IL={files}/il-s*.jsonl", f"SR={files}/sr-s*.jsonl", "--looks", 3).ok().out.decode()
    assert "allow for 3 looks" in looks


def test_the_table_follows_the_options(tmp_path):
    a = write(tmp_path / "a.jsonl", _episodes(_drawn(30, 0.4, 1, trials=4)))
    b = write(tmp_path / "b.jsonl", _episodes(_drawn(30, 0.6, 2, trials=4)))
    text = run("compare", a, b).ok().out.decode()
    assert "pass@k" in text and "pass^k" in text and "k=4" in text
    refused = run("compare", a, b, "--refused").ok().out.decode().splitlines()
    assert refused[-3].split()[-4:] == ["share", "difference", "interval", "p"]
    assert refused[-1].split()[1:3] == ["8.5%", "+0.0"]
    assert "difference" not in run("compare", a, "--refused").ok().out.decode()
    assert "no kinds" in run("compare", a, b, "--by-kind").ok().out.decode()
    of_kinds = [{**e, "kind": f"kind {i % 2}"} for i, e in enumerate(_episodes(_drawn(30, 0.5, 1)))]
    kinds = write(tmp_path / "k.jsonl", of_kinds)
    text = run("compare", f"x={kinds}", f"y={kinds}", "--by-kind").ok().out.decode()
    assert "kind of task" in text and "kind 1" in text


def test_pictures(files):
    arguments = ("compare", f"IL={files}/il-s*.jsonl", f"SR={files}/sr-s*.jsonl", "--plot")
    run(*arguments, files / "a.png").ok()
    assert (files / "a.png").read_bytes().startswith(b"\x89PNG")
    for name in ("a.svg", "b.svg"):
        run(*arguments, files / name).ok()
    drawing = (files / "a.svg").read_text()
    assert drawing == (files / "b.svg").read_text() and ">SR (3 runs)<" in drawing and "difference to IL" in drawing
    run("compare", files / "il-s0.jsonl", "--plot", files / "one.svg").ok()
    run(*arguments, files / "a.xyz").one_error(2, "--plot", "xyz")
    run(*arguments, files / "a").one_error(2, f"--plot {files / 'a'}: the name's ending says the format")
    assert not (files / "a").exists()


def test_names_in_a_picture_are_no_formulas_and_may_be_in_any_script(files):
    groups = (rf"$\frac{{1$={files}/il-s0.jsonl", f"\u6a21\u578b={files}/sr-s0.jsonl")
    assert run("compare", *groups, "--plot", files / "a.svg").ok().err == ""
    drawing = (files / "a.svg").read_text()
    assert r"$\frac{1$" in drawing and "\u6a21\u578b" in drawing
    message = run("compare", *groups, "--plot", files / "a.png").ok().err
    assert message in (
        "",
        f"note: --plot {files / 'a.png'}: the font lacks some of the characters in the names; an SVG file shows them\n",
    )


def test_a_picture_without_matplotlib_is_one_line(files, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "matplotlib", None)
    run("compare", files / "il-s0.jsonl", "--plot", files / "a.png").one_error(1, "pip install 'eexp[plot]'")


def test_power_before_a_run(files):
    rows = run("power", "--rate", 0.2, "--tasks", 500, "--runs", 3, "--runs", 5, "--json").ok().records
    assert [(r["tasks"], r["runs"]) for r in rows] == [(500, 3), (500, 5)]
    assert 0 < rows[1]["smallest"] < rows[0]["smallest"] < 0.2 and rows[0]["run_sd_from"] == "assumed"
    rows = run("power", f"IL={files}/il-s*.jsonl", "--json", "--run-sd", 0.01).ok().records
    assert len(rows) == 15 and (rows[0]["rate_from"], rows[0]["run_sd_from"]) == ("from the files", "given")
    text = run("power", f"IL={files}/il-s*.jsonl").ok().out.decode()
    assert "3 runs each" in text and "sd between runs" in text
    nothing = write(files / "nothing.jsonl", _episodes({(i, 0): False for i in range(9)}))
    run("power", nothing).one_error(2, "succeeds in 0%", "give a rate")
    assert "none" in run("power", "--rate", 0.95, "--tasks", 10).ok().out.decode()


def test_files_that_cannot_be_compared_are_refused(tmp_path):
    episodes = _episodes(_drawn(3, 0.3, 1))
    a = write(tmp_path / "a.jsonl", episodes)
    twice = write(tmp_path / "twice.jsonl", episodes + episodes)
    (tmp_path / "other").mkdir()
    namesake = write(tmp_path / "other" / "a.jsonl", episodes)
    run("compare", a, twice).one_error(3, f"{twice}:4: task 0, trial 0 occurs twice (first in {twice}:1)")
    empty = write(tmp_path / "empty.jsonl", [])
    run("compare", f"x={a}", f"x={empty}").one_error(3, f"x ({empty}): no episodes")
    for text in ("", "x=", f"={a}"):
        run("compare", text, a).one_error(2, f"{text!r}: expected FILE or NAME=FILE")
    for option in ("--rate", "--run-sd", "--alike", "--confidence"):
        run("power", a, option, "nan").one_error(2, option, "no finite number")
    run("power", f"x={a}", f"x={empty}").one_error(3, f"{empty}: no episodes")
    run("compare", a, namesake).one_error(2, "two groups are called 'a'")
    run("compare", f"a={a}", namesake).one_error(2, "two groups are called 'a'")
    run("compare", f"x={a}", f"x={a}").one_error(2, "x: ", "is given twice")
    run("compare", f"x={tmp_path}/none*.jsonl").one_error(2, "no file has such a name")
    run("compare", a, "--baseline", "b").one_error(2, "no group is called 'b'; there are: a")
    run("compare").one_error(2, "Missing argument")
    run("power").one_error(2, "Missing argument", "--rate")
    for name, option in (("compare", "--runs"), ("power", "--looks")):
        run(name, a, option, 3).one_error(2, option)
    with pytest.raises(InputError, match="a: no episodes"):
        compare({"a": []})


def test_different_tasks_are_refused_and_named(tmp_path):
    a = write(tmp_path / "a.jsonl", _episodes(_drawn(30, 0.4, 1)))
    fewer = write(tmp_path / "fewer.jsonl", _episodes(_drawn(10, 0.6, 2)))
    run("compare", a, fewer).one_error(
        2, f"20 of 30 tasks are only in {a}, such as house 10", f"{fewer} (panel ", "--common"
    )
    rows = run("compare", a, fewer, "--common", "--json").ok().records
    assert [r["tasks"] for r in rows] == [10, 10] and rows[0]["panel"] == rows[1]["panel"]
    assert rows[0]["episodes"] == 10
    elsewhere = write(tmp_path / "elsewhere.jsonl", _episodes(_drawn(30, 0.4, 1), env="other"))
    for option in ((), ("--common",)):
        run("compare", a, elsewhere, *option).one_error(2, f"{a} was played in house and {elsewhere} in other")
    others = [{**e, "task": {"id": f"other/{i}"}} for i, e in enumerate(_episodes(_drawn(30, 0.4, 1)))]
    run("compare", a, write(tmp_path / "others.jsonl", others), "--common").one_error(
        2, "no task is in all of the files"
    )
    noisy = write(tmp_path / "noisy.jsonl", _episodes(_drawn(30, 0.4, 1), env="noisy:0.1:house"))
    run("compare", a, noisy).one_error(2, f"{a} was played in house and {noisy} in noisy:0.1:house")
    # Without noise or with it, it is the same panel, and `eexp power` has no --common.
    panels = [run("compare", file, "--json").ok().records[0]["panel"] for file in (a, noisy)]
    assert panels[0] == panels[1]
    message = run("power", f"x={a}", f"x={fewer}").one_error(2, f"only in {a}")
    assert "--common" not in message
    changed = [{**e, "task": {**e["task"], "world": 2}} for e in _episodes(_drawn(30, 0.4, 1))]
    renewed = write(tmp_path / "renewed.jsonl", changed)
    run("compare", a, renewed).one_error(2, "30 tasks have the same id but differ", '"world":2')
    run("compare", f"x={a}", f"x={fewer}").one_error(2, f"x ({a})", f"x ({fewer})")
    panels = write(tmp_path / "panels.jsonl", [{**e, "panel": str(i % 2)} for i, e in enumerate(changed)])
    run("compare", panels).one_error(3, "episodes of different panels: 0, 1")


def test_a_lost_episode_is_a_different_panel(tmp_path):
    """A run that lacks the episodes of some tasks is not compared silently."""
    whole = _episodes(_drawn(30, 0.4, 1), panel="0123456789abcdef")
    a = write(tmp_path / "a.jsonl", whole)
    b = write(tmp_path / "b.jsonl", whole[:-1])
    run("compare", a, b).one_error(2, f"1 of 30 tasks are only in {a}", "house 29")


def test_kinds_that_one_file_names_hold_for_all(tmp_path):
    """Older episodes have no kind, and other tools may name the kinds differently."""
    successes = _drawn(20, 0.5, 1)
    plain, named, otherwise = _episodes(successes), _episodes(successes), _episodes(successes)
    for i, (e, f) in enumerate(zip(named, otherwise)):
        e["kind"], f["kind"] = "ab"[i % 2], "xyz"[i % 3]
    files = {
        name: write(tmp_path / f"{name}.jsonl", episodes)
        for name, episodes in {"plain": plain, "named": named, "otherwise": otherwise}.items()
    }
    for order, kinds in ((("plain", "named"), "ab"), (("named", "plain"), "ab"), (("otherwise", "named"), "xyz")):
        rows = run("compare", *(files[name] for name in order), "--json").ok().records
        assert [list(row["kinds"]) for row in rows] == [list(kinds)] * 2
        table = run("compare", *(files[name] for name in order), "--by-kind").ok().out.decode()
        assert all(f"\n{kind} " in table for kind in kinds)


def test_by_kind_counts_trials_as_the_whole_does():
    """The difference of a kind is that of a panel of this kind alone."""
    groups = {name: _episodes(_drawn(20, rate, seed, trials=4)) for name, rate, seed in (("a", 0.3, 1), ("b", 0.5, 2))}
    for episode in (e for episodes in groups.values() for e in episodes):
        episode["kind"] = "ab"[int(episode["task"]["id"]) % 2]
    row = compare({name: [episodes] for name, episodes in groups.items()})[1]
    alone = {name: [[e for e in episodes if e["kind"] == "a"]] for name, episodes in groups.items()}
    of_kind = compare(alone)[1]
    for key in ("rate", "low", "high", "difference", "difference_low", "difference_high"):
        assert row["kinds"]["a"][key] == pytest.approx(of_kind[key])


def test_power_names_the_files_that_it_does_not_use(files):
    names = [files / f"il-s{i}.jsonl" for i in range(2)]
    message = run("power", *names).ok().err
    assert message == "note: power uses the baseline alone, il-s0, and not il-s1\n"
    assert run("power", f"IL={names[0]}", f"IL={names[1]}").ok().err == ""


def test_power_is_still_an_option_of_compare(files):
    names = [f"IL={files}/il-s*.jsonl", "--runs", 3, "--json"]
    old, new = run("compare", *names[:1], "--power", *names[1:]).ok(), run("power", *names).ok()
    assert old.out == new.out and new.err == ""
    assert old.err == "note: `eexp compare --power` is `eexp power` now\n"
    assert "--power" not in run("compare", "--help").ok().out.decode()


def test_names_and_directories_may_hold_an_equals_sign(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lr=0.1").mkdir()
    for file in ("lr=0.1/a.jsonl", "b.jsonl", "c=d.jsonl"):
        write(tmp_path / file, _episodes(_drawn(20, 0.4, 1)))
    assert method_files(("lr=0.1/a.jsonl", "c=d.jsonl")) == {"a": ["lr=0.1/a.jsonl"], "c=d": ["c=d.jsonl"]}
    assert method_files(("lr=0.1=b.jsonl", "IL=lr=0.1/a.jsonl")) == {"lr=0.1": ["b.jsonl"], "IL": ["lr=0.1/a.jsonl"]}
    assert method_files(("IL=lr=*/*.jsonl", "lr=0.1/*.jsonl")) == {"IL": ["lr=0.1/a.jsonl"], "a": ["lr=0.1/a.jsonl"]}
    assert method_files(("x=-", "./lr=1/none.jsonl")) == {"x": ["-"], "none": ["./lr=1/none.jsonl"]}
    run("compare", "./lr=1/none.jsonl").one_error(3, "./lr=1/none.jsonl: No such file")


def test_a_level_of_confidence_keeps_its_digits(files, tmp_path):
    picture = tmp_path / "rates.svg"
    names = [files / f"{name}-s0.jsonl" for name in ("il", "sr")]
    table = run("compare", *names, "--confidence", 0.999, "--plot", picture).ok().out.decode()
    assert "99.9% interval" in table and "99.9% interval" in picture.read_text()
    plan = run("power", "--rate", 0.2, "--confidence", 0.975, "--tasks", 9).ok().out.decode()
    assert "97.5% interval" in plan


def test_a_p_value_shows_its_side_of_five_percent():
    """The interval excludes zero where p is below 0.05, and the table must not say 0.05 then."""
    texts = {0.0496: "0.0496", 0.04997: "0.04997", 0.05: "0.05", 0.0504: "0.05", 0.0123: "0.012", 1.0: "1"}
    assert {p: rounded_p(p) for p in texts} == texts


def test_a_difference_that_cannot_be_found_is_shown_as_none():
    """With runs that contradict each other, not even a difference of 100 points would be found."""
    never, always = ([_episodes({(task, 0): won for task in range(10)})] for won in (False, True))
    row = compare({"a": never * 2, "b": never + always})[1]
    assert row["detectable"] is None and comparison_table([{**row, "against": "b", "name": "b"}]).splitlines()[
        1
    ].endswith(" none")


def test_the_command_runs_as_a_process(files):
    assert spawn("compare", files / "il-s0.jsonl", files / "sr-s0.jsonl").ok().out.count(b"\n") == 5
