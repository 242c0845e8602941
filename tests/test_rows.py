"""report/rows.html: every row with its way, found in a moment, and texts that stay texts, in a real browser."""

import json
import re
from collections import Counter
from pathlib import Path

import pytest
from conftest import error_line
from payloads import BROWSER, PAYLOADS, overflow, watched
from test_report import EXAMPLE, SPENT, iteration, summary

from stages.core.records import content_id, write
from stages.reporting import links, page, plots, rows

pytestmark = pytest.mark.slow
in_browser = pytest.mark.skipif(not BROWSER, reason="needs Chromium, as Debian's package of that name")

SEED = {"id": "a" * 16, "prompt": "What is red?", "response": "A color.", "score": 3.0}
HIGH = {"id": "b" * 16, "prompt": "Which is larger, 3 or 5?", "response": "The answer is 5.", "score": 9.0}
REVIEWS = [{"text": f"Clear and short. score: {score}", "score": score, "written": score} for score in (3.0, 5.0)]


def candidate(prompt, response, seed=SEED, route="new", **more):
    return {
        "id": content_id(prompt, response), "route": route, "prompt": prompt, "response": response, "seed": seed,
        "lineage": {"seed": seed["id"]}, **more,
    }  # fmt: skip


def assessed(prompt, response, score, **more):
    reviews = [{"text": f"I say {score}. score: {score}", "score": score, "written": score}] if score else []
    return candidate(prompt, response, **more) | {"score": score, "judge": "0", "reviews": reviews}


def outcome(row, **steps):
    return {"id": row["id"], "steps": steps}


def write_run(folder, candidates=(), dropped=(), outcomes=(), pairs=(), seeds=(SEED, HIGH)):
    """The files of a run of one iteration that the page reads."""
    user = [{**seed, "iteration": "0", "score": None} for seed in seeds]
    reviewed = [{**seed, "iteration": "0", "judge": "0", "reviews": REVIEWS} for seed in seeds]
    judge = [{"id": "c" * 16, "kind": "judge", "prompt": "Rate this.", "completion": "Right. score: 9", "lineage": {}}]
    files = {
        "0/seed": user, "0/judge": judge, "1/review": reviewed, "1/assess": candidates, "1/dropped": dropped,
        "1/outcomes": outcomes, "1/pairs": pairs,
    }  # fmt: skip
    for name, lines in files.items():
        write(folder / "iterations" / f"{name}.jsonl", lines)


LONG = "The larger one is 82, since it has more tens than 45. The answer is 82."
SHORT = "The larger one is 45, since it has more ones than 82. The answer is 45."
BEST, WORST = assessed("Which is larger, 82 or 45?", LONG, 9.0), assessed("Which is larger, 82 or 45?", SHORT, 1.0)
UNREADABLE = assessed("Name a color.", "Blue.", None) | {"reviews": [{"text": "Hm.", "score": None, "written": None}]}
FLAWED = assessed(HIGH["prompt"], "The answer is 3.", 2.0, seed=HIGH, route="flawed")
TWIN = candidate("Name the color red.", "Red.")
PAIR = {
    "id": "p", "prompt": BEST["prompt"], "chosen": LONG, "rejected": SHORT, "margin": 8.0, "iteration": "1",
    "lineage": {"chosen": {"score": 9.0}, "rejected": {"score": 1.0}},
}  # fmt: skip
OUTCOMES = [
    outcome(BEST, sft=None, pairs=None, seed=None),
    outcome(WORST, sft="not above select.min_sft_score", pairs="the rejected one of its pool", seed="not the best"),
    outcome(UNREADABLE, sft="unscored", seed="unscored"),
    outcome(FLAWED, sft="flawed on purpose", pairs="over the bound", seed="flawed on purpose"),
    outcome(HIGH, pairs="does not lead by more than select.min_margin"),
]


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A run of one iteration with a row of each kind."""
    folder = tmp_path_factory.mktemp("small")
    dropped = [TWIN | {"reason": "instruction like a sibling"}] * 2
    write_run(folder, [BEST, WORST, UNREADABLE, FLAWED], dropped, OUTCOMES, [PAIR, PAIR | {"iteration": "0"}])
    return folder


@pytest.fixture
def run(small, monkeypatch):
    monkeypatch.chdir(small)
    return small


@pytest.fixture(scope="module")
def written(small):
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(small)
        (small / "rows.html").write_text(rows.html(["1"], "It is better."), encoding="utf-8")
    return small / "rows.html"


def steps_by_row(content):
    return {row["name"]: row["steps"] for row in content["rows"]}


# ---- what the page knows ---------------------------------------------------------------------------------------------


def test_every_line_of_the_files_is_a_row_with_a_name_of_its_own_and_its_steps(run):
    content = rows.content(["1"])
    steps = steps_by_row(content)
    assert (len(steps), content["total"]) == (11, 11)
    assert steps[f"1.{BEST['id']}"] == {
        "filter": None, "assess": None, "select sft": None, "select pairs": None, "select seed": None,
    }  # fmt: skip
    assert steps[f"1.{UNREADABLE['id']}"]["assess"] == "no readable verdict"
    assert steps[f"1.{TWIN['id']}"] == steps[f"1.{TWIN['id']}.2"] == {"filter": "instruction like a sibling"}
    lost = "does not lead by more than select.min_margin"
    assert steps[f"1.{HIGH['id']}"] == {"review": None, "routing": None, "select pairs": lost}
    assert steps[f"1.{SEED['id']}"] == {"review": None, "routing": None}
    assert steps[f"0.{SEED['id']}"] == {"seed rows": None}
    assert steps["0." + "c" * 16] == {"judge-training rows": None}


def test_a_seed_that_nothing_was_made_from_says_so(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_run(tmp_path, [FLAWED], seeds=[SEED, HIGH, {**SEED, "id": "d" * 16, "score": None}])
    steps = steps_by_row(rows.content(["1"]))
    assert steps[f"1.{SEED['id']}"]["routing"] == links.NOTHING_MADE
    assert steps[f"1.{HIGH['id']}"]["routing"] is None
    assert steps["1." + "d" * 16] == {"review": "no readable verdict", "routing": "unscored"}


def test_a_seed_and_the_models_own_response_of_the_same_words_have_steps_of_their_own(tmp_path, monkeypatch):
    """The model may find the seed's response by itself; in the pool of its prompt stands the seed."""
    monkeypatch.chdir(tmp_path)
    own = assessed(HIGH["prompt"], HIGH["response"], 9.0, seed=HIGH, route="own") | {"id": HIGH["id"]}
    lost = "the rejected one of its pool"
    write_run(tmp_path, [own], outcomes=[outcome(HIGH, sft=None, pairs=lost, seed="answers a seed's own prompt")])
    steps = [row["steps"] for row in rows.content(["1"])["rows"] if row["name"].startswith(f"1.{HIGH['id']}")]
    assert steps == [
        {"filter": None, "assess": None, "select sft": None, "select seed": "answers a seed's own prompt"},
        {"review": None, "routing": links.NOTHING_MADE, "select pairs": lost},
    ]


def test_a_pair_that_another_iteration_selected_is_not_this_ones(run):
    assert [pair["margin"] for pair in rows.content(["1"])["pairs"]] == [8.0]


def test_texts_that_many_rows_have_are_there_once(run):
    content = rows.content(["1"])
    assert len(content["texts"]) == len(set(content["texts"]))
    assert content["texts"].count(SEED["prompt"]) == 1


def test_a_very_long_text_is_cut_and_the_rest_is_counted(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_run(tmp_path, [assessed("Write.", "x" * 5_000_000, 5.0)])
    content = rows.content(["1"])
    assert list(content["left_out"].values()) == [5_000_000 - rows.LONGEST]
    assert max(map(len, content["texts"])) == rows.LONGEST


def test_the_same_run_gives_the_same_bytes_without_a_path(run, tmp_path, monkeypatch):
    text = rows.html(["1"], "It is better.")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "iterations").symlink_to(run / "iterations")
    assert rows.html(["1"], "It is better.") == text
    assert str(run) not in text


def test_a_missing_file_is_one_line(tmp_path, monkeypatch):
    from stages.core.errors import UserError

    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"iterations/1/assess.jsonl is missing; run dvc repro to make it"):
        rows.content(["1"])


def test_above_a_bound_the_page_has_a_sample_even_over_iterations_and_routes(tmp_path, monkeypatch):
    """Ten flawed candidates are fewer than their share, so the others share the rest."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(rows, "ROWS", 100)
    new = [assessed(f"Prompt {number}", "is so", 5.0) for number in range(300)]
    flawed = [assessed(HIGH["prompt"], f"is {n}", 5.0, seed=HIGH, route="flawed") for n in range(10)]
    seeds = [{**SEED, "id": content_id(str(number)), "prompt": f"Seed {number}"} for number in range(200)]
    write_run(tmp_path, [*new, *flawed], seeds=seeds)
    content = rows.content(["1"])
    shown = Counter((row["iteration"], row["route"]) for row in content["rows"])
    assert shown == {("0", "judge"): 1, ("1", "flawed"): 10, ("0", "seed"): 30, ("1", "seed"): 29, ("1", "new"): 30}
    assert content["total"] == 300 + 10 + 200 + 200 + 1
    names = [row["name"] for row in content["rows"]]
    write_run(tmp_path, [*flawed, *reversed(new)], seeds=list(reversed(seeds)))
    assert {row["name"] for row in rows.content(["1"])["rows"]} == set(names)


def test_long_texts_lower_the_bound(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(rows, "CHARACTERS", 50_000)
    write_run(tmp_path, [assessed(f"Prompt {number}", "so " * 500, 5.0) for number in range(100)])
    content = rows.content(["1"])
    assert 20 < len(content["rows"]) < 40
    assert content["total"] == 105


def test_the_report_says_what_it_lacks_in_one_line(project):
    """results/ is looked for first."""
    assert "is missing; run dvc repro to make it" in error_line(project.stage("stages.report"))


# ---- what leads to it ------------------------------------------------------------------------------------------------


def fitting(content, address):
    """The rows of an address, by the meaning of its filters."""
    from urllib.parse import parse_qs

    wanted = parse_qs(address.partition("#")[2])

    def fits(row):
        step = wanted.get("step", [None])[0]
        return (
            row["iteration"] in wanted.get("iteration", [row["iteration"]])
            and row["route"] in wanted.get("route", [row["route"]])
            and (step is None or step in row["steps"])
            and ("reason" not in wanted or (row["steps"][step] or "kept") in wanted["reason"])
            and ("min" not in wanted or float(wanted["min"][0]) <= row["score"] <= float(wanted["max"][0]))
        )

    return [row for row in content["rows"] if fits(row)]


def test_each_bar_of_the_funnel_and_each_point_of_the_scores_leads_to_as_many_rows(looped, monkeypatch):
    """In a whole run; but for seeds that were passed over, of which no file says why, and seeds that gave nothing."""
    monkeypatch.chdir(looped.folder)
    content = rows.content(["1"])
    funnel = json.loads(Path("report/plots/funnel.json").read_text())
    leading = [bar for bar in funnel if bar["link"] and (bar["step"], bar["outcome"]) != ("routing", "over a limit")]
    assert {bar["step"] for bar in leading} >= {"seed rows", "review", "filter", "assess", "select sft", "select pairs"}
    assert [(bar, len(fitting(content, bar["link"]))) for bar in leading] == [(bar, bar["rows"]) for bar in leading]
    points = json.loads(Path("report/plots/reviews.json").read_text())
    nearest = json.loads(Path("results/1/assess.json").read_text())["scores"]["nearest"]
    assert [len(fitting(content, point["link"])) for point in points[-11:]] == nearest


def test_what_no_file_has_leads_nowhere():
    assert links.funnel_link("1", "responses", ["truncated"]) is None
    assert links.funnel_link("0", "seed rows", ["over seed.limit"]) is None
    assert links.funnel_link("1", "dpo", ["kept"]) is None


def test_the_numbers_and_examples_of_the_report_lead_to_rows():
    content = summary()
    drawn = plots.data(content["iterations"])
    text = page.html(content, drawn, SPENT, {"price_per_row": 1.0, "price_per_hour": 0.05})
    assert '<a href="rows.html#iteration=1&amp;step=filter&amp;reason=kept">9</a>' in text
    row = content_id(EXAMPLE["instruction"], EXAMPLE["response"])
    assert f'href="rows.html#row=1.{row}"' in text
    short = 'xlink:href="rows.html#iteration=1&amp;step=filter&amp;reason=response+too+short"'
    assert text.count(short) == 1
    assert set(re.findall(r'href="(?!#)([^#"]*)', text)) == {"rows.html"}


# ---- in a browser ----------------------------------------------------------------------------------------------------


def listed(tab):
    """The responses in the list."""
    return [text for text in tab.locator(".row bdi").all_inner_texts() if text]


@in_browser
def test_a_link_to_a_row_shows_its_whole_way(written):
    with watched() as (tab, events):
        tab.goto(f"{written.as_uri()}#row=1.{BEST['id']}")
        way = tab.locator("#detail").inner_text()
        marked = {tag: tab.locator(f".sides {tag}").all_inner_texts() for tag in ("ins", "del")}
        tab.get_by_role("link", name="its own way").last.click()
        other = tab.locator("#detail").inner_text()
        tab.go_back()
        again = tab.locator("#detail").inner_text()
    assert events == []
    stations = [
        "Iteration 1, new instruction", SEED["prompt"], SEED["response"], f"new instruction\n{BEST['prompt']}", LONG,
        "filter: kept", "I say 9.0. score: 9.0", "✓ SFT row", "✓ chosen in a pair", "✓ new seed", "pair, margin 8",
        "rejected", "other responses to the same instruction: 1",
    ]  # fmt: skip
    places = [way.find(text) for text in stations]
    assert -1 not in places
    assert places == sorted(places)
    assert marked == {"ins": ["82", "tens", "45", "82"], "del": ["45", "ones", "82", "45"]}
    assert "– no SFT row: not above select.min_sft_score" in other
    assert again == way


@in_browser
def test_every_kind_of_row_can_be_read(written):
    names = {
        f"1.{TWIN['id']}.2": "filter: dropped,\ninstruction like a sibling",
        f"1.{UNREADABLE['id']}": "no score: no readable verdict",
        f"1.{FLAWED['id']}": "response, meant to be flawed",
        f"1.{HIGH['id']}": "rows made from it: 1",
        f"0.{SEED['id']}": "SFT row of the warm start",
        "0." + "c" * 16: "review to learn",
        "9.0": "Row 9.0 is not on this page.",
    }
    with watched() as (tab, events):
        for name, text in names.items():
            tab.goto(f"{written.as_uri()}#row={name}")
            tab.reload()
            tab.get_by_text(text.split("\n")[0]).first.wait_for()
            assert text in tab.locator("#detail").inner_text()
    assert events == []


@in_browser
def test_search_filters_and_order_find_rows(written):
    with watched() as (tab, events):
        tab.goto(written.as_uri())
        count = tab.locator("#count")

        def shown_for(search):
            tab.locator("#search").fill(search)
            return count.inner_text().split(" of ")[0], set(listed(tab))

        assert shown_for("") == ("11", set(listed(tab)))
        assert shown_for("LARGER than") == ("2", {LONG, SHORT})  # words anywhere, whatever their case
        assert shown_for('"more tens"') == ("1", {LONG})
        assert shown_for("say 9.0")[1] == {LONG}  # in a review
        assert shown_for(BEST["id"][:6])[1] == {LONG}
        assert shown_for("nowhere") == ("0", set())
        tab.get_by_role("button", name="Clear search and filters").click()
        tab.get_by_label("step").select_option("filter")
        assert count.inner_text() == "6 of 11 rows"
        choices = tab.get_by_label("outcome there").locator("option").all_inner_texts()
        assert choices == ["all", "kept (4)", "instruction like a sibling (2)"]
        tab.get_by_label("outcome there").select_option("kept")
        tab.get_by_label("route").select_option("new")
        tab.locator("#min").fill("1")
        assert set(listed(tab)) == {LONG, SHORT}
        tab.get_by_label("sort").select_option("lowest score")
        assert listed(tab) == [SHORT, LONG]
        tab.get_by_label("became").select_option("rejected")
        assert listed(tab) == [SHORT]
        address = tab.url
        tab.goto("about:blank")
        tab.goto(address)
        assert listed(tab) == [SHORT]
        assert tab.get_by_label("route").input_value() == "new"
        tab.get_by_role("button", name="Clear").click()
        assert count.inner_text() == "11 of 11 rows"
    assert events == []


@in_browser
def test_the_keyboard_alone_is_enough(written):
    with watched() as (tab, events):
        tab.goto(written.as_uri())
        tab.locator(".row").first.wait_for()
        for key in ("/", *"larger", "ArrowDown", "j"):
            tab.keyboard.press(key)
        assert tab.locator(".row.current bdi").inner_text() == SHORT
        assert tab.url.endswith(f"row=1.{WORST['id']}")
        tab.keyboard.press("k")
        assert tab.locator("[role=option][aria-selected=true] bdi").inner_text() == LONG
        tab.keyboard.press("End")
        tab.keyboard.press("Enter")
        assert tab.evaluate("document.activeElement.id") == "detail"
        tab.keyboard.press("Escape")
        assert tab.evaluate("document.activeElement.id") == "list"
        for key in ("/", "Escape"):
            tab.keyboard.press(key)
        assert tab.locator("#search").input_value() == ""
    assert events == []


@in_browser
def test_a_browser_that_is_too_old_is_told_so(written):
    with watched() as (tab, events):
        tab.add_init_script("delete window.DecompressionStream")
        tab.goto(written.as_uri())
        tab.get_by_text("The rows cannot be shown; a browser of 2024 or later can.").wait_for()
    assert events == ["error DecompressionStream is not defined"]


@in_browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_on_a_phone_a_row_covers_the_list_and_one_gets_back(written, scheme):
    with watched(390, 844, scheme) as (tab, events):
        tab.goto(written.as_uri())
        tab.locator(".row").first.click()
        assert tab.locator("#detail").is_visible()
        assert overflow(tab) <= 0
        tab.get_by_role("button", name="Rows").click()
        assert not tab.locator("#detail").is_visible()
        tab.locator(".row").nth(1).click()
        tab.go_back()
        assert not tab.locator("#detail").is_visible()
        tab.get_by_role("button", name="Filters").click()
        tab.get_by_label("step").select_option("filter")
        assert tab.locator("#toggle").inner_text() == "Filters (1)"
        colours = tab.evaluate("[document.body, document.querySelector('.score')].map(e => getComputedStyle(e).color)")
        ground = tab.evaluate("getComputedStyle(document.body).backgroundColor")
    assert events == []
    dark = [sum(map(int, re.findall(r"\d+", colour)[:3])) > 380 for colour in (*colours, ground)]
    assert dark == ([True, True, False] if scheme == "dark" else [False, False, True])


@in_browser
def test_rows_are_filtered_by_what_a_verifier_said(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    check = {"kind": "answer", "expected": "5"}
    outcomes = {"passed": True, "failed": False, "could not be carried out": None}
    checked = [
        assessed(HIGH["prompt"], f"It {name}.", 9.0) | {"check": check, "passed": passed}
        for name, passed in outcomes.items()
    ]
    write_run(tmp_path, [*checked, BEST, WORST | {"check": check}])
    (tmp_path / "rows.html").write_text(rows.html(["1"], "It is better."), encoding="utf-8")
    with watched() as (tab, events):
        tab.goto((tmp_path / "rows.html").as_uri())
        for name in outcomes:
            tab.get_by_label("verifier").select_option(name)
            assert listed(tab) == [f"It {name}."]
            assert f"verifier: {name}" in tab.locator("#detail").inner_text()
            assert '"expected": "5"' in tab.locator("#detail").inner_text()
        tab.get_by_label("verifier").select_option("not carried out in the loop")
        assert listed(tab) == [SHORT]
    assert events == []


@in_browser
def test_twenty_thousand_rows_are_searched_and_filtered_without_a_pause(tmp_path, monkeypatch):
    """A tenth of a second on an idle machine; the bound is for a busy one. The list has only what can be seen."""
    monkeypatch.chdir(tmp_path)
    words = [content_id(str(number))[:6] for number in range(4000)]
    texts = [" ".join(words[(number * 7 + at * at) % 4000] for at in range(60)) for number in range(20_500)]
    write_run(tmp_path, [assessed(f"Prompt {n}: {text}", text, float(n % 11)) for n, text in enumerate(texts)])
    (tmp_path / "rows.html").write_text(rows.html(["1"], "It is better."), encoding="utf-8")
    timed = """(steps) => steps.map(([id, value, event]) => {
      const start = performance.now(), element = document.getElementById(id)
      element.value = value
      element.dispatchEvent(new Event(event))
      document.body.offsetHeight
      return performance.now() - start })"""
    steps = [
        *(["search", text, "input"] for text in ("a", "a1", "a1 b", "Prompt 1", "")),
        ["step", "filter", "change"], ["sort", "highest score", "change"], ["iteration", "1", "change"],
    ]  # fmt: skip
    with watched() as (tab, events):
        tab.goto((tmp_path / "rows.html").as_uri())
        tab.locator(".row").first.wait_for()
        sample = tab.locator("#size").inner_text()
        took = tab.evaluate(timed, steps)
        tab.evaluate("document.getElementById('list').scrollTop = 600000")
        tab.wait_for_timeout(100)
        assert tab.locator(".row").count() < 60
        assert tab.locator(".row").first.get_attribute("aria-posinset").startswith("93")
    assert events == []
    assert "20,505 rows of 1 iteration and the warm start; this page has 20,000, a sample spread evenly" in sample
    print("milliseconds:", {f"{name} {value}": round(time) for (name, value, _), time in zip(steps, took, strict=True)})
    assert sorted(took)[len(took) // 2] < 500, took


# ---- texts stay texts ------------------------------------------------------------------------------------------------


def as_shown(text):
    """A text as a reader gets it out of a page: blanks and signs that cannot be seen left out."""
    return re.sub(
        r"[\s\x00-\x20\x7f-\xa0\u00ad\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ufff9-\uffff]|U\+\w{4}",
        "",
        text,
    )


def example(text):
    """A sampled row of the report, of this text alone."""
    seed = EXAMPLE["seed"] | {"prompt": text, "response": text, "review": text}
    pair = {"chosen": text, "rejected": text, "margin": 1.0}
    return EXAMPLE | {"instruction": text, "response": text, "review": text, "seed": seed, "pair": pair}


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    """Both pages of a run whose every text is a payload, as the stages' files have it."""
    folder = tmp_path_factory.mktemp("hostile")
    texts = list(PAYLOADS.values())
    seeds = [
        {"id": content_id("seed", str(n)), "prompt": text, "response": text, "score": 3.0}
        for n, text in enumerate(texts)
    ]
    kept, dropped, pairs = [], [], []
    for number, text in enumerate(texts):
        row = {"route": "new", "seed": seeds[number], "lineage": {"seed": seeds[number]["id"]}, "prompt": text}
        reviews = [{"text": text, "score": 9.0, "written": 9.0}]
        judged = {**row, "response": f"{text} yes", "score": 9.0, "judge": "0", "reviews": reviews}
        kept += [
            judged | {"id": content_id(str(number))},
            judged | {"id": content_id(f"no {number}"), "response": f"{text} no"},
        ]
        dropped.append({**row, "response": text, "id": content_id(f"dropped {number}"), "reason": "response too short"})
        pairs.append(PAIR | {"prompt": text, "chosen": f"{text} yes", "rejected": f"{text} no"})
    write_run(folder, kept, dropped, pairs=pairs, seeds=seeds)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        (folder / "rows.html").write_text(rows.html(["1"], "It is better."), encoding="utf-8")
    row = iteration()
    row["select"]["examples"] = [example(text) for text in texts]
    row["filter"]["examples"] = [
        {"route": "new", "prompt": text, "response": text, "reason": "response too short"} for text in texts
    ]
    content = summary(**{"1": row})
    text = page.html(content, plots.data(content["iterations"]), SPENT, {"price_per_row": 1.0, "price_per_hour": 0.05})
    (folder / "report.html").write_text(text, encoding="utf-8")
    return folder


def test_there_are_thirty_payloads_and_more():
    assert len(PAYLOADS) >= 30
    assert len(PAYLOADS["five megabytes"]) > 5_000_000


@in_browser
@pytest.mark.parametrize(("width", "height"), [(1280, 900), (390, 844)])
def test_no_payload_runs_or_breaks_the_layout_of_the_rows(hostile, width, height):
    with watched(width, height) as (tab, events):
        tab.goto((hostile / "rows.html").as_uri())
        tab.locator(".row").first.wait_for()
        boxes = tab.evaluate("[...document.querySelectorAll('.row')].map(row => row.getBoundingClientRect().height)")
        assert set(boxes) == {64}
        for number, (name, payload) in enumerate(PAYLOADS.items()):
            tab.evaluate("name => { location.hash = `row=${name}` }", f"1.{content_id(str(number))}")
            tab.get_by_role("link", name=f"link to row 1.{content_id(str(number))}").wait_for()
            detail = tab.locator("#detail")
            shown = as_shown(detail.locator(".text").first.text_content())
            assert shown == as_shown(payload[: rows.LONGEST]), name
            parts = tab.evaluate(
                """() => { const detail = document.getElementById('detail'), whole = detail.getBoundingClientRect()
                  return [detail.scrollWidth - detail.clientWidth, ...[...detail.querySelectorAll('h3, .text, .badge')]
                    .map(part => part.getBoundingClientRect().right - whole.right)] }"""
            )
            assert max(parts) <= 0, name
            assert overflow(tab) <= 0, name
            assert detail.get_by_text("other responses to the same instruction").is_visible() or "lines" in name
        for address in (
            "#step=toString&reason=__proto__",
            f"#search={PAYLOADS['address']}",
            "#row=<img src=x onerror=alert(1)>",
        ):
            tab.evaluate("hash => { location.hash = hash }", address)
            tab.wait_for_timeout(50)
        tab.locator("#search").fill("onerror=alert(5)")
        assert tab.locator(".row mark").count() > 0
    assert events == []


@in_browser
@pytest.mark.parametrize("width", [1280, 390])
def test_no_payload_runs_or_breaks_the_layout_of_the_report(hostile, width):
    with watched(width) as (tab, events):
        tab.goto((hostile / "report.html").as_uri())
        tab.evaluate("for (const fold of document.querySelectorAll('details')) fold.open = true")
        shown = [as_shown(text) for text in tab.locator("summary bdi").all_text_contents()]
        wanted = [as_shown(page.cut(text)) for text in PAYLOADS.values()]
        assert shown == [text for text in wanted for _ in range(2)]
        assert overflow(tab) <= 0
        assert tab.locator("h2").last.inner_text() == "Sampled rows that the filter dropped"
        assert tab.locator("tr:has(td.data)").count() == len(PAYLOADS)
        assert tab.evaluate("document.querySelectorAll('script, iframe, img, form, base').length") == 0
    assert events == []
    assert (hostile / "report.html").stat().st_size < 5_000_000


@pytest.mark.parametrize("name", ["report.html", "rows.html"])
def test_a_page_may_run_only_its_own_code_whatever_its_data(hostile, written, name):
    """The policy has the hash of the template's script and style, so it does not vary with the run."""

    def policy_of(path):
        return re.search(r'Content-Security-Policy" content="([^"]+)"', path.read_text(encoding="utf-8"))[1]

    policy = policy_of(hostile / name)
    assert policy.startswith("default-src &#39;none&#39;; base-uri &#39;none&#39;")
    assert "unsafe" not in policy
    assert ("script-src" in policy) == (name == "rows.html")
    if name == "rows.html":
        assert policy_of(written) == policy
