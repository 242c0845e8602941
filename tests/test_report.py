"""report: the verdict in one sentence, the funnel with its reasons, warnings, costs, plots, and a page that draws."""

import re
import shutil
from pathlib import Path

import pytest
import yaml
from conftest import ROOT, error_line

from stages.core.records import write_json
from stages.report import iteration_metrics, metrics, summarise
from stages.reporting import page, plots
from stages.reporting.card import eval_results
from stages.reporting.costs import costs
from stages.reporting.page import cost_cells, html, rounded
from stages.reporting.summary import Scores, funnel, verdict, warnings
from stages.reporting.table import cells, markdown

BROWSER = shutil.which("chromium") or shutil.which("google-chrome")


def tally(rows_in=10, out=10, **dropped):
    return {"in": rows_in, "out": out, "dropped": dropped}


def score(percent, stderr=3.0):
    return {"score": percent, "stderr": stderr, "items": 100, "benchmarks": {}}


ATTACK = "<script>document.body.innerHTML = 'taken'</script> {{ 7 * 7 }}"  # generated text is untrusted
EXAMPLE = {
    "route": "new", "seed": {"id": "s", "prompt": "What?", "response": "is so", "score": 2.0, "review": "score: 2"},
    "instruction": ATTACK, "response": "is red", "score": 9.0, "review": "Right. score: 9", "sft": True,
    "pair": {"chosen": "is red", "rejected": "is blue", "margin": 7.0},
}  # fmt: skip


def warm_start():
    return {
        "parent": None, "test": score(60.0), "validation": score(61.0), "judging": score(98.0), "gain": None,
        "prepare": {
            "seed": tally(10, 9, duplicate=1), "judge": tally(), "words": {"instruction": 6.0, "response": 5.0},
        },
        "sft": {"rows": tally(9, 8, **{"does not fit the context": 1}), "log": [{"step": 1, "loss": 0.5}]},
    }  # fmt: skip


def iteration(**changes):
    log = [{"step": step, "loss": 0.7 - step / 10, "margin": step / 10, "accuracy": 0.5} for step in (1, 2, 3)]
    row = {
        "parent": "0",
        "test": score(70.0),
        "validation": score(71.0),
        "judging": score(90.0),
        "gain": {"points": 10.0, "low": 4.0, "high": 16.0},
        "review": {"rows": tally()},
        "generate": {
            "seed": tally(), "new_instructions": tally(), "responses": tally(8, 7, truncated=1),
            "flawed_responses": tally(),
        },
        "filter": {
            "rows": tally(12, 9, **{"response too short": 3}),
            "diversity": {"distance": 0.3, "near_duplicates": 0.1, "distinct_1": 0.2, "distinct_2": None},
            "words": {"instruction": 6.0, "response": 5.0},
            "examples": [{"route": "new", "prompt": ATTACK, "response": "is", "reason": "response too short"}],
        },
        "assess": {
            "rows": tally(9, 9), "verdicts": {"asked": 9, "written": 9, "readable": 9},
            "scores": {"mean": 6.0, "spread": 3.0, "nearest": [1, 2, 1, 0, 0, 0, 1, 0, 0, 3, 1]},
        },
        "select": {
            "sft": {"total": 5, "new": 3, **tally(9, 3, unscored=6)}, "pairs": {"total": 4, "new": 4, **tally()},
            "seed": {"total": 20, "new": 2, **tally()}, "examples": [EXAMPLE],
        },
        "sft": {"rows": tally(), "log": log},
        "dpo": {"rows": tally(), "log": log},
        "measure": {"judge_right": {"percent": 88.0, "of": 9}, "pairs_in_order": {"percent": None, "of": 0}},
    }  # fmt: skip
    return row | changes


RULES = {"decline": "validation fell", "few pairs": "there are < 50"}


def summary(best="1", **rows):
    iterations = {"0": warm_start(), "1": iteration(), **rows}
    texts = {
        "alarms": [],
        "unmeasured": ["duplicates in iteration 1"],
        "rules": RULES,
        "warnings": [],
        "verdict": "It is better.",
    }
    return {"best": best, "iterations": iterations, **texts}


# ---- words and numbers -----------------------------------------------------------------------------------------------


def test_the_verdict_names_the_best_its_gain_with_the_interval_and_what_declined():
    sentence = verdict(summary(**{"2": iteration(parent="1")}), declined=["2"])
    assert sentence == (
        "Iteration 1 is best on validation: test +10.0 [+4.0, +16.0] points over the warm start; iteration 2 declined."
    )


def test_a_gain_that_may_be_chance_is_called_that():
    chance = iteration(gain={"points": 1.0, "low": -2.0, "high": 4.0})
    assert "[-2.0, +4.0] points over the warm start, which may be chance." in verdict(summary(**{"1": chance}), [])


def test_a_gain_without_an_interval_says_so_everywhere():
    """As with a benchmark that has one group of items."""
    content = summary(**{"1": iteration(gain={"points": 1.0, "low": None, "high": None})})
    assert "test +1.0 [no interval] points over the warm start, which may be chance." in verdict(content, [])
    assert (metrics(content)["best"]["low"], metrics(content)["best"]["high"]) == (None, None)
    assert "| +1.0 [no interval] |" in markdown(content)
    prices = {"price_per_row": 1.0, "price_per_hour": 0.05}
    assert "points over the warm start, without an interval" in html(content, {}, SPENT, prices)


def test_what_a_group_of_items_alone_cannot_tell_is_not_said_to_be_well(monkeypatch):
    """Contract: a rule that could not be checked is not among those that found nothing."""
    rows = [
        {"id": f"{part}{n}", "group": "g", "benchmark": "bias", "part": part, "score": 1.0}
        for part in ("test", "validation")
        for n in range(3)
    ]
    monkeypatch.setattr("stages.reporting.summary.read", lambda path, kind: rows)
    scores = Scores({"1": {"parent": "0"}}, {"bias"})
    monkeypatch.setattr("stages.report.collect", lambda iterations: (summary(), scores))
    monkeypatch.setattr("stages.report.alarms.detect", lambda *_: [])
    thresholds = yaml.safe_load((ROOT / "params.yaml").read_text())["alarms"]
    content = summarise({"iterations": {"1": {"parent": "0"}}, "alarms": thresholds})
    assert content["unmeasured"][:2] == ["decline in iteration 1", "oscillation in iteration 1"]
    assert not any("few pairs" in line for line in content["unmeasured"])
    assert "none of decline, oscillation, " in markdown(content)
    assert "that were measured\n- not measured: decline in iteration 1\n" in markdown(content)
    assert [line.partition(":")[0] for line in content["warnings"][-2:]] == [
        "gains have no interval",
        "changes of validation have no interval",
    ]


def pairs_judged(percent: float, stderr: float):
    """The judging score of two kinds of pairs."""
    kinds = {"judging gsm8k": score(percent - 10, 5.0), "judging half a response": score(percent + 10, 5.0)}
    return score(percent, stderr) | {"benchmarks": kinds, "chance": 50.0}


def test_how_a_model_judges_pairs_is_shown_by_kind_with_its_interval_and_chance_is_named():
    content = summary()
    rows = content["iterations"]
    assert "## Judging" not in markdown(content)
    rows["0"]["judging"], rows["1"]["judging"] = pairs_judged(52.0, 4.0), pairs_judged(85.0, 9.0)
    text = markdown(content)
    assert "| iteration | all | gsm8k | half a response |" in text
    assert "| 0 | 52.0 [44.2, 59.8] | 42.0 ± 5.0 | 62.0 ± 5.0 |" in text
    assert "| 1 | 85.0 [67.4, 100.0] | 75.0 ± 5.0 | 95.0 ± 5.0 |" in text
    assert "<td>85.0 [67.4, 100.0]</td>" in html(content, {}, SPENT, {"price_per_row": 1.0, "price_per_hour": 0.05})
    (warning,) = (line for line in warnings(rows) if "chance" in line)
    assert warning.startswith("iteration 0: its model scores the better of two responses higher in 52.0 [44.2, 59.8] %")


def test_scores_by_other_metrics_are_shown_beside_a_benchmarks_own():
    gsm8k = score(40.0) | {"also": {"exact_match,strict-match": score(10.0, 2.0)}}
    test = score(50.0) | {"benchmarks": {"arc": score(60.0), "gsm8k": gsm8k}}
    content = summary(**{"0": warm_start() | {"test": test}, "1": iteration(test=test)})
    assert "| iteration | gsm8k | gsm8k: exact_match,strict-match |" in markdown(content)
    assert "| 1 | 40.0 ± 3.0 | 10.0 ± 2.0 |" in markdown(content)
    page_text = html(content, {}, SPENT, {"price_per_row": 1.0, "price_per_hour": 0.05})
    assert "<th>gsm8k: exact_match,strict-match</th>" in page_text
    assert "<td>10.0 ± 2.0</td>" in page_text
    assert "Other metrics" not in markdown(summary())
    values = {result.metric_value: result.dataset_name for result in eval_results(test, "leaderboard")}
    assert values[40.0] == "gsm8k, test part"
    assert values[10.0] == "gsm8k by exact_match,strict-match, test part"


def test_no_gain_is_stated_plainly():
    assert verdict(summary(best="0"), ["1"]) == (
        "No iteration beats the warm start on validation; iteration 1 declined."
    )


def test_a_stopped_chain_is_reported():
    stopped = iteration(parent="1", review={"rows": tally(0, 0), "stopped": True})
    assert verdict(summary(**{"2": stopped}), ["1"]).endswith("iteration 1 declined; the chain was stopped before 2.")
    assert warnings({"2": stopped}) == ["iteration 2: did not run, since the chain was stopped (evaluate.stop_on)"]


def test_metrics_are_those_of_the_best_and_the_last_iteration():
    values = metrics(summary(**{"2": iteration(parent="1", test=score(65.0))}))
    assert values["best"] == {
        "iteration": "1", "test": 70.0, "gain": 10.0, "low": 4.0, "high": 16.0, "judge": 90.0,
        "kept": 9, "distance": 0.3, "sft": 5, "pairs": 4,
    }  # fmt: skip
    assert (values["last"]["iteration"], values["last"]["test"]) == ("2", 65.0)


def test_the_warm_start_has_metrics_too():
    assert iteration_metrics(warm_start())["gain"] == 0.0


def test_a_healthy_iteration_has_no_warning():
    assert warnings({"1": iteration()}) == []


@pytest.mark.parametrize(
    ("changes", "warning"),
    [
        ({"dpo": {"passed_on": "no pairs were found"}}, "iteration 1: dpo copied its input model: no pairs were found"),
        ({"sft": {"rows": tally(9, 7, **{"does not fit the context": 2})}}, "iteration 1: 2 rows of sft did not fit"),
        (
            {"review": {"rows": tally(9, 6, **{"no readable verdict": 3})}},
            "iteration 1: 3 of 9 rows in review have no score: no readable verdict 3",
        ),
        (
            {"assess": iteration()["assess"] | {"claims": 2}},
            "iteration 1: 2 rows of assess were judged without something that could be taken for a verdict",
        ),
        (
            {"prepare": {"seed": tally(), "judge": tally(), "noted": {"id not read": 1234}}},
            "iteration 1: 1,234 rows of prepare: id not read",
        ),
        (
            {"evaluate": {"reasoning": {"completions": 5, "answers": 3}}},
            "iteration 1: 5 completions of evaluate had reasoning before their answer",
        ),
        (
            {"review": {"rows": tally(), "on_scores": 0.12}},
            "iteration 1: in review only 12% of the judge's probability",
        ),
    ],
)
def test_what_was_lost_is_a_warning(changes, warning):
    (line,) = warnings({"1": iteration(**changes)})
    assert line.startswith(warning)


def test_completions_with_reasoning_are_a_warning_and_no_step_of_the_funnel():
    generated = iteration()["generate"] | {"reasoning": {"completions": 5, "answers": 3}}
    (line,) = warnings({"1": iteration(generate=generated)})
    assert line.startswith("iteration 1: 5 completions of generate had reasoning before their answer")
    assert line.endswith("2 of them had no answer")
    assert funnel(iteration(generate=generated)) == funnel(iteration())


def test_an_empty_filter_is_a_warning():
    nothing = iteration()["filter"] | {"rows": tally(3, 0, x=3)}
    assert warnings({"1": iteration(filter=nothing)}) == ["iteration 1: the filter kept no rows"]


def test_the_summary_shows_scores_errors_and_every_reason():
    text = markdown(summary())
    assert "| 70.0 ± 3.0 | +10.0 [+4.0, +16.0] |" in text
    assert "| filter | 12 | 9 | response too short 3 |" in text
    assert text.startswith("# It is better.")
    assert "- none of decline, few pairs that were measured\n- not measured: duplicates in iteration 1\n" in text


def test_the_funnel_has_every_step_of_the_pipeline():
    assert list(funnel(warm_start())) == ["seed rows", "judge-training rows", "sft"]
    assert list(funnel(iteration())) == [
        "review", "routing", "new instructions", "responses", "flawed responses", "filter", "assess",
        "select sft", "select pairs", "select seed", "sft", "dpo",
    ]  # fmt: skip


def test_what_select_leaves_out_is_a_step_of_the_funnel_and_what_it_could_not_decide_a_warning():
    """As where select.agreement and select.max_spread are on."""
    counts = {
        "candidates": tally(9, 4, **{"agreement below select.agreement": 5}),
        "agreement": {"instructions": 3, "below": 1, "above": 0, "unknown": 1},
        "spread": {"rows": 4, "undecided": 0, "unknown": 2},
    }
    row = iteration(select=iteration()["select"] | {"screening": counts})
    steps = list(funnel(row))
    assert steps[steps.index("select sft") - 1] == "select candidates"
    assert "| select candidates | 9 | 4 | agreement below select.agreement 5 |" in markdown(summary(**{"1": row}))
    assert [line[:64] for line in warnings({"1": row})] == [
        "iteration 1: select.agreement did not decide about 1 of 3 instru",
        "iteration 1: select.max_spread did not decide about 2 of 4 rows,",
    ]
    counts["agreement"]["unknown"] = counts["spread"]["unknown"] = 0
    assert warnings({"1": row}) == []


def test_the_report_says_on_which_scale_scores_were_compared():
    assert "(review.scale: absolute)" in markdown(summary())
    ranked, ranks = iteration(), {"ranks": {"scores": 20, "same": 0.1}}
    for stage in ("generate", "select"):
        ranked[stage] = ranked[stage] | ranks
    text = markdown(summary(**{"1": ranked}))
    assert "(review.scale: quantile)" in text
    assert "ranks |" not in text  # no step of the funnel


def test_what_has_no_ground_truth_is_a_dash():
    assert cells("1", iteration())[-2:] == ["88.0", "–"]


def test_a_report_without_results_names_the_missing_file(project):
    assert "results/0/evaluate.json is missing" in error_line(project.stage("stages.report"))


# ---- what it cost ----------------------------------------------------------------------------------------------------

HOUR = {"seconds": 3600.0, "tokens": 5}
CALLS = {**HOUR, "prompt_tokens": 3}


def spent(folder, monkeypatch, files):
    """`costs` of these files of costs/."""
    for path, cost in files.items():
        write_json(folder / "costs" / f"{path}.json", cost)
    monkeypatch.chdir(folder)
    return costs(["0", "1"])


def test_every_stage_costs_its_seconds_times_its_own_devices(tmp_path, monkeypatch):
    one, four = {"device": "GPU", "devices": 1}, {"device": "GPU", "devices": 4}
    files = {"0/sft": HOUR | one, "1/sft": HOUR | four, "1/review": CALLS | {"device": "GPU", "devices": 2}}
    total = spent(tmp_path, monkeypatch, files)
    assert total["iterations"]["0"] == {"hours": 1.0, "tokens": 5, "stages": {"sft": 1.0}}
    assert total["iterations"]["1"] == {"hours": 6.0, "tokens": 13, "stages": {"review": 2.0, "sft": 4.0}}
    assert (total["device"], total["hours"], total["tokens"]) == ("GPU", 7.0, 18)


@pytest.mark.parametrize(
    ("trained_on", "hours"), [({"device": "GPU", "devices": 8}, 1.0), ({"device": "CPU", "devices": 2}, 2.0)]
)
def test_an_endpoint_with_unknown_devices_counts_as_one_gpu_or_as_the_cores(tmp_path, monkeypatch, trained_on, hours):
    total = spent(tmp_path, monkeypatch, {"0/sft": HOUR | trained_on, "1/review": CALLS})
    assert total["iterations"]["1"]["hours"] == hours
    assert total["assumed"]["devices"] == hours


def test_hours_of_gpus_and_of_cores_are_labelled_as_both(tmp_path, monkeypatch):
    files = {"0/sft": HOUR | {"device": "CPU", "devices": 2}, "1/sft": HOUR | {"device": "GPU", "devices": 1}}
    assert spent(tmp_path, monkeypatch, files)["device"] == "CPU+GPU"


# ---- plots -----------------------------------------------------------------------------------------------------------


def test_the_funnels_bars_add_up_to_the_rows_of_each_step():
    records = plots.data(summary()["iterations"])["funnel"]
    of_filter = [record for record in records if (record["iteration"], record["step"]) == ("1", "filter")]
    assert {record["outcome"]: record["rows"] for record in of_filter} == {"kept": 9, "length": 3}


def test_every_reason_for_a_drop_has_a_colour():
    """A reason that the funnel does not know would be drawn as "other"."""
    reasons = set()
    modules = [*(ROOT / "stages").glob("*.py"), *(ROOT / "stages/data").glob("*.py")]
    for path in [*modules, ROOT / "stages/inference/sampler.py"]:
        code = path.read_text()
        reasons |= set(re.findall(r'\.drop\(\s*"([^"]+)"', code))
        reasons |= set(re.findall(r'(?m)^[A-Z_]+ = "(\w+ [^"]+)"$', code))
        reasons |= {reason.replace("{what}", "response") for reason in re.findall(r'f"(\{what\} [a-z ]+)"', code)}
    assert len(reasons) > 15
    starts = tuple(plots.OUTCOMES)
    assert {reason for reason in reasons if not reason.startswith(starts)} == set()


def test_an_interval_of_a_score_ends_where_scores_end():
    records = plots.data(summary(**{"1": iteration(test=score(99.0), judging=score(1.0))})["iterations"])["scores"]
    ends = {record["part"]: (record["low"], record["high"]) for record in records if record["iteration"] == "1"}
    assert ends == {"test": (93.12, 100.0), "validation": (65.12, 76.88), "judging": (0.0, 6.88)}


def test_an_iteration_has_the_same_colour_in_every_plot():
    rows = summary(**{"1": iteration(dpo={"passed_on": "no pairs were found"}), "2": iteration(), "b": iteration()})
    pictures = plots.pictures(plots.data(rows["iterations"]))
    lines = r'aria-label="[^"]*iteration: (\w+)[^"]*"[^>]* d="[^>]*stroke="(#\w+)"'
    drawn = {name: dict(re.findall(lines, pictures[name])) for name in ("loss", "reviews", "rewards")}
    assert {name: set(colours) for name, colours in drawn.items()} == {
        "loss": {"0", "1", "2", "b"}, "reviews": {"1", "2", "b"}, "rewards": {"2", "b"},
    }  # fmt: skip
    assert len(set(drawn["loss"].values())) == 4
    assert drawn["loss"].items() >= drawn["reviews"].items() >= drawn["rewards"].items()


def test_many_iterations_have_different_colours_and_stand_in_their_order():
    many = {str(key): iteration(parent=str(key - 1)) for key in range(1, 13)}
    pictures = plots.pictures(plots.data(summary(**many)["iterations"]))
    lines = r'aria-label="[^"]*iteration: (\w+)[^"]*"[^>]* d="[^>]*stroke="(#\w+)"'
    assert len(set(dict(re.findall(lines, pictures["loss"])).values())) == 13
    assert re.findall(r">iteration (\d+)<", pictures["funnel"]) == [str(key) for key in range(13)]


def test_a_plot_of_nothing_is_not_drawn():
    off = summary(**{"1": iteration(dpo={"passed_on": "dpo.enabled is false"})})
    assert "rewards" not in plots.pictures(plots.data(off["iterations"]))


def test_dvc_and_the_page_draw_the_same_plots():
    import yaml

    declared = yaml.safe_load((ROOT / "dvc.yaml").read_text())["plots"]
    drawn = plots.data(summary()["iterations"])
    settings = {Path(path).stem: values for entry in declared for path, values in entry.items()}
    assert list(settings) == ["scores", "reviews", "funnel", *list(drawn)[3:]]
    for name, values in settings.items():
        assert Path(values["template"]).stem == name
        assert {values["x"], values["y"]} <= set(drawn[name][0])
    assert set(page.CAPTIONS) == set(drawn)


# ---- the page --------------------------------------------------------------------------------------------------------

SPENT = {
    "device": "CPU", "assumed": {"device": "CPU", "devices": 2}, "hours": 0.5, "tokens": 3_000_000,
    "iterations": {key: {"hours": 0.25, "tokens": 1_500_000, "stages": {"sft": 0.25}} for key in ("0", "1")},
}  # fmt: skip


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    content = summary()
    text = html(content, plots.data(content["iterations"]), SPENT, {"price_per_row": 1.0, "price_per_hour": 0.05})
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(text, encoding="utf-8")
    return path


def test_the_page_is_self_contained_and_escapes_the_data(written):
    text = written.read_text(encoding="utf-8")
    assert "<script" not in text
    assert "{{ 7 * 7 }}" in text
    assert not re.search(r'(?:src|href)="(?!#|rows\.html)', text)
    assert "compared with $7 by hand" in text  # 3 SFT rows and 4 pairs at a dollar each


def test_the_judging_score_is_labelled_as_the_iterations_own_on_the_benchmark(written):
    tile = "<b>90.0 %</b><span>judging score of iteration 1, on the benchmark&#39;s judging task</span>"
    assert tile in written.read_text(encoding="utf-8")


def test_what_costs_little_does_not_cost_nothing():
    spent = {"hours": 0.0004, "tokens": 10, "stages": {"sft": 0.0004}}
    cells = cost_cells("1", iteration(), spent, {"price_per_row": 1.0, "price_per_hour": 2.0})
    assert cells == ["1", "< 0.001", "", "", "", "< 0.001", "", "", "10", "7", "< 0.01", "7"]
    assert [rounded(value, 2, "$") for value in (0.0, 0.004, 0.01, 1234.5)] == [
        "$0.00",
        "< $0.01",
        "$0.01",
        "$1,234.50",
    ]


def test_the_page_and_the_summary_name_every_alarm_that_was_looked_for(written):
    assert "- none of decline, few pairs that were measured\n" in markdown(summary())
    text = written.read_text(encoding="utf-8")
    assert "None of those that were measured: no iteration meets any of the rules below." in text
    assert "Not measured: duplicates in iteration 1." in text
    assert "<dt>decline</dt><dd>validation fell</dd>" in text
    assert "<dt>few pairs</dt><dd>there are &lt; 50</dd>" in text


@pytest.mark.slow
@pytest.mark.skipif(not BROWSER, reason="needs Chromium, as Debian's package of that name")
@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (1280, "dark"), (390, "light")])
def test_every_plot_is_drawn_in_a_browser_without_a_network(written, width, scheme):
    from playwright.sync_api import sync_playwright

    requests, messages = [], []
    with sync_playwright() as playwright:
        flags = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking"]
        browser = playwright.chromium.launch(executable_path=BROWSER, args=flags)
        tab = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
        tab.on("request", lambda request: requests.append(request.url))
        tab.on("console", lambda message: messages.append(message.text))
        tab.goto(written.as_uri())
        drawn = tab.evaluate(
            """() => Object.fromEntries([...document.querySelectorAll('figure')].map(figure => {
                 const marks = [...figure.querySelectorAll('.role-mark path, .role-mark rect, .role-mark line')]
                 const seen = marks.filter(mark => { const box = mark.getBBox(); return box.width + box.height > 1 })
                 const box = figure.querySelector('svg').getBoundingClientRect()
                 return [figure.id, {marks: seen.length, width: box.width, height: box.height}] }))"""
        )
        wider = tab.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        colours = tab.evaluate(
            """() => [getComputedStyle(document.querySelector('figure')).backgroundColor,
                      ...[...document.querySelectorAll('figure svg text')].map(text => getComputedStyle(text).fill)]"""
        )
        browser.close()
    assert requests == [written.as_uri()]
    assert messages == []
    assert wider <= 0
    assert set(drawn) == {f"plot-{name}" for name in page.CAPTIONS}
    assert all(plot["marks"] >= 2 and plot["width"] > 200 and plot["height"] > 100 for plot in drawn.values()), drawn
    background, *texts = [sum(map(int, re.findall(r"\d+", colour)[:3])) for colour in colours]
    assert all((text > background) == (scheme == "dark") for text in texts)
