"""lance label: a page on which people label rows by keys, blind to the judge, and of which nothing is lost."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread

import httpx
import pytest
from conftest import ROOT, error_line
from labelled import candidate, seed_row, write_iteration

from stages.commands.label.command import file_name
from stages.commands.label.rows import drawn, guide, shown
from stages.commands.label.server import Server
from stages.core.errors import UserError
from stages.core.params import Params, load
from stages.core.records import read, write
from stages.data.labels import Label, LabelFile, read_labels

BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
needs_browser = pytest.mark.skipif(not BROWSER, reason="needs Chromium, as Debian's package of that name")
ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT)}

HOSTILE = (
    "<script>window.taken = 1</script>",
    "</script><script>window.taken = 1</script>",
    "<!-- <script>window.taken = 1",
    "]]><![CDATA[<script>window.taken = 1</script>]]>",
    "<img src=x onerror='window.taken = 1'>",
    "<svg/onload=window.taken=1>",
    "<svg><animate onbegin=window.taken=1 attributeName=x dur=1s>",
    "<iframe srcdoc='<script>parent.taken = 1</script>'></iframe>",
    "<iframe src='javascript:parent.taken=1'></iframe>",
    "<a href='javascript:window.taken=1' autofocus onfocus=window.taken=1>x</a>",
    "<input autofocus onfocus=window.taken=1>",
    "<details open ontoggle=window.taken=1>x</details>",
    "<video><source onerror=window.taken=1></video>",
    "<object data='data:text/html,<script>parent.taken=1</script>'></object>",
    "<embed src='http://evil.example/x.swf'>",
    "<link rel=stylesheet href='http://evil.example/x.css'>",
    "<meta http-equiv=refresh content='0;url=http://evil.example/'>",
    "<base href='http://evil.example/'>",
    "<form action='http://evil.example/'><button>Skip</button></form>",
    "</style><style>body { display: none }</style>",
    "<div style='position:fixed;inset:0;background:red'>over all</div>",
    "<template><script>window.taken = 1</script></template>",
    "<math><mtext><style><img src=x onerror=window.taken=1></style>",
    "{{ 7 * 7 }} {% raw %} ${window.taken = 1} <%= 7 %> #{7} /*ITEMS*/ __proto__",
    "\\u003cscript>window.taken = 1\\u003c/script> &lt;script&gt; &#60;b&#62;",
    "\"); window.taken = 1; //\n'; window.taken = 1; `${window.taken = 1}`",
    "line\u2028separator\u2029paragraph\x01\x07\x1b[31m\x7f\x9f\ufeff\ufffe",
    "before \u202e reversed \u2066 isolated \u2067 never ended",
    "Z" + "\u0300\u0489" * 3_000 + " zalgo",
    "هذا نص عربي طويل ينتهي بعلامة؟ (mixed) 123",
    "東京の人口は何人ですか。" * 40,
    "👩‍👩‍👧‍👦🏳️‍🌈" * 300,
    "\n" * 3_000 + "far below",
    "unbroken" * 640_000,  # 5 MB
)


@pytest.fixture
def run(tmp_path, monkeypatch) -> Path:
    """A project with the rows of two iterations."""
    shutil.copytree(ROOT / "prompts", tmp_path / "prompts")
    shutil.copy(ROOT / "params.yaml", tmp_path)
    for key in ("1", "2"):
        write_iteration(tmp_path, key, 60)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def params() -> Params:
    values = load(Path("params.yaml"))
    return Params("label", list(values), values)


def page_data(url) -> dict:
    text = httpx.get(url).text
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)[1])


# ---- rows ------------------------------------------------------------------------------------------------------------


def test_rows_are_drawn_evenly_over_scores_routes_and_iterations(run):
    """Most of the scores are 9, and they are drawn no more often than the others."""
    rows = drawn(params(), 66, 0)
    scores, routes = Counter(round(row.score) for row in rows), Counter(row.route for row in rows)
    assert set(scores) == set(range(11))
    assert max(scores.values()) - min(scores.values()) <= 3
    assert min(routes["seed"], routes["new"]) >= 20
    assert sorted(Counter(row.iteration for row in rows).values()) == [33, 33]


def test_an_iteration_without_rows_of_a_route_has_not_fewer_of_the_others(run):
    """As where the seeds of all iterations are those of the first one."""
    assessed = run / "iterations/2/assess.jsonl"
    write(assessed, [row for row in read(assessed, dict) if row["route"] == "new"])
    shutil.copy(run / "iterations/1/review.jsonl", run / "iterations/2")
    drawn_from = Counter((row.iteration, row.route) for row in drawn(params(), 60, 0))
    assert min(drawn_from[kind] for kind in (("1", "seed"), ("1", "new"), ("2", "new"))) >= 15


def test_pairs_are_drawn_evenly_over_margins_and_iterations(run):
    """Those below select.min_margin, too, or nobody could tell what a lower one would do."""
    rows = drawn(params(), 0, 20)
    margins = Counter(round(row.margin) for row in rows)
    assert min(margins) == 1
    assert max(margins.values()) - min(margins.values()) <= 2
    assert sorted(Counter(row.iteration for row in rows).values()) == [10, 10]


def test_everybody_is_shown_the_same_rows_and_more_of_them_begin_with_the_same(run):
    assert drawn(params(), 30, 10) == drawn(params(), 30, 10)
    assert drawn(params(), 60, 0)[:30] == drawn(params(), 30, 0)
    other = params()
    other._values["random_state"] = 1
    assert drawn(other, 30, 0) != drawn(params(), 30, 0)


def test_a_row_that_two_iterations_have_is_shown_once(run):
    shutil.copytree(run / "iterations/1", run / "iterations/3")
    rows = drawn(params(), 10_000, 10_000)
    assert len(rows) == len({row.key for row in rows})
    assert {row.iteration for row in rows} == {"1", "2"}


def test_the_page_knows_nothing_of_the_judge_and_the_order_of_a_pair_says_nothing(run):
    rows = drawn(params(), 40, 40)
    seen = [shown(row) for row in rows]
    assert all(set(item) == {"shown", "prompt", "responses"} for item in seen)
    chosen_first = sum(item["shown"][0] == row.chosen_id for item, row in zip(seen[40:], rows[40:], strict=True))
    assert 8 < chosen_first < 32


def test_people_are_told_what_the_judge_is_told(run):
    assert guide("micro") == {"guide": "Rate this from 0 to 10.", "parts": []}
    assert "Clarity. Question: It is unambiguous" in guide("lance")["guide"]
    assert guide("lance")["parts"] == ["Question score (0–5)", "Response score (0–5)"]


def test_without_a_run_there_is_nothing_to_label(run):
    shutil.rmtree(run / "iterations")
    with pytest.raises(UserError, match="iterations/ has no rows that a judge has scored; run dvc repro first"):
        drawn(params(), 10, 10)


def test_a_run_whose_scores_are_no_judges_has_nothing_to_label(run):
    for path in run.glob("iterations/*/*.jsonl"):
        write(path, [{**row, "judge": "verifier", "reviews": []} for row in read(path, dict)])
    with pytest.raises(UserError, match=r"no row to label: a judge has scored 0 responses .*review\.by: judge"):
        drawn(params(), 10, 10)


# ---- the file --------------------------------------------------------------------------------------------------------

ONE, TWO = "0123456789abcdef", "fedcba9876543210"


def label(value, *ids) -> Label:
    return Label(shown=list(ids or [ONE]), label=value)


def test_the_last_label_of_a_row_counts_and_undo_takes_it_back(tmp_path):
    kept = LabelFile(tmp_path / "ana.jsonl")
    for one in (
        label(3),
        label(8),
        label("first", ONE, TWO),
        label("second", TWO, ONE),
        label(1, TWO),
        label("undo", TWO),
    ):
        kept.add(one)
    assert len(kept.path.read_text().splitlines()) == 6
    labels = read_labels(tmp_path)["ana"]
    assert {key: given.label for key, given in labels.items()} == {(ONE,): 8, (ONE, TWO): "second"}
    assert labels[ONE, TWO].share_of(ONE) == 1.0
    assert labels[ONE, TWO].share_of(TWO) == 0.0
    assert LabelFile(kept.path).labels == kept.labels
    assert (TWO,) not in kept.labels


def test_who_only_skipped_has_said_nothing(tmp_path):
    LabelFile(tmp_path / "ana.jsonl").add(label("skip"))
    assert read_labels(tmp_path) == {}
    assert read_labels(tmp_path / "missing") == {}


@pytest.mark.parametrize("cut", range(1, 49, 6))
def test_a_line_that_was_cut_short_is_healed_and_costs_no_other(tmp_path, cut):
    kept = LabelFile(tmp_path / "ana.jsonl")
    kept.add(label(7))
    kept.add(label(2, TWO))
    kept.path.write_bytes(kept.path.read_bytes()[:-cut])
    assert read_labels(tmp_path)["ana"][(ONE,)].label == 7  # measured while it is written
    healed = LabelFile(kept.path)
    healed.add(label(5, TWO))
    assert {key: given.label for key, given in read_labels(tmp_path)["ana"].items()} == {(ONE,): 7, (TWO,): 5}
    lines = kept.path.read_text().splitlines()
    assert [json.loads(line)["label"] for line in lines] == ([7, 2, 5] if cut == 1 else [7, 5])


@pytest.mark.parametrize(
    "line", ["<<<<<<< HEAD", '{"shown": ["x"], "label": 3}', f'{{"shown": ["{ONE}"], "label": 11}}',
             f'{{"shown": ["{ONE}"], "label": "first"}}', f'{{"shown": ["{ONE}", "{TWO}"], "label": 3}}',
             f'{{"shown": ["{ONE}"], "label": 3.5}}', f'{{"shown": ["{ONE}"], "label": true}}']
)  # fmt: skip
def test_a_line_that_is_no_label_is_named(tmp_path, line):
    (tmp_path / "ana.jsonl").write_text(f'{{"shown": ["{ONE}"], "label": 3}}\n{line}\n')
    with pytest.raises(UserError, match=r"ana\.jsonl, line 2: no label \(.*\); correct or delete the line"):
        read_labels(tmp_path)


def test_on_a_full_disk_a_label_is_refused_and_the_file_stays_whole(tmp_path):
    code = (
        "import resource, signal\nfrom pathlib import Path\nfrom stages.data.labels import Label, LabelFile\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\nresource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))\n"
        f"kept = LabelFile(Path('ana.jsonl'))\nlabel = Label(shown=['{ONE}'], label=7)\nkept.add(label)\n"
        "kept.add(label)\n"
        "try:\n    kept.add(label)\nexcept OSError as error:\n    print('refused')\n"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True)
    assert result.stdout == "refused\n", result.stderr
    lines = (tmp_path / "ana.jsonl").read_text().splitlines(keepends=True)
    assert len(lines) == 2
    assert all(line.endswith("}\n") for line in lines)


@pytest.mark.parametrize(
    ("name", "stem"), [("Ana Lu", "ana-lu"), ("josé", "josé"), ("小林", "小林"), ("a.b_c-d", "a.b_c-d")]
)
def test_a_person_has_a_file(name, stem):
    assert file_name(name) == stem


@pytest.mark.parametrize("name", ["../params", "a/b", ".hidden", "", "  ", "a" * 61, "a\0b"])
def test_a_name_that_no_file_can_have_is_refused(name):
    with pytest.raises(UserError, match="use letters, digits"):
        file_name(name)


# ---- the server ------------------------------------------------------------------------------------------------------


@contextmanager
def serving(rows=6, pairs=2, name="ana") -> Iterator[Server]:
    items = drawn(params(), rows, pairs)
    content = {"name": name, **guide("micro"), "items": [shown(item) for item in items]}
    server = Server(0, content, {item.key for item in items}, LabelFile(Path("labels", f"{name}.jsonl")))
    Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


def test_only_the_page_with_its_token_and_its_host_is_answered(run):
    with serving() as server:
        origin = server.url.removesuffix(server.path)
        assert httpx.get(server.url).status_code == 200
        for path in ("/", "/favicon.ico", server.path[:-1], server.path[:-2] + "/", server.path + "x",
                     "/../params.yaml", server.path + "../labels/ana.jsonl", "/é/"):  # fmt: skip
            assert httpx.get(origin + path).status_code == 404, path
        for method in ("HEAD", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "BREW"):
            assert httpx.request(method, server.url).status_code == 404, method
        for host in ("evil.example", "127.0.0.1", "127.0.0.1:1", f"evil.example:{server.server_address[1]}", ""):
            assert httpx.get(server.url, headers={"Host": host}).status_code == 403, host
            assert httpx.post(server.url, headers={"Host": host}, json={}).status_code == 403, host
        assert server.server_address[0] == "127.0.0.1"
        assert len(server.path) > 32
    with serving() as other:
        assert other.path != server.path


def test_only_labels_of_the_rows_shown_are_kept(run):
    with serving() as server:
        item, pair = server.content["items"][0], server.content["items"][-1]
        fitting = {"shown": item["shown"], "label": 7}
        for wrong in ({"shown": [ONE], "label": 7}, {**fitting, "label": 11}, {**fitting, "label": "<b>"},
                      {**fitting, "more": 1}, {"shown": pair["shown"], "label": 4}, [], None, "x" * 2_000):  # fmt: skip
            assert httpx.post(server.url, json=wrong).status_code == 403, wrong
        body = json.dumps(fitting)
        form = {"Content-Type": "text/plain"}  # what a form of another page could send
        assert httpx.post(server.url, content=body, headers=form).status_code == 403
        assert not Path("labels/ana.jsonl").exists()
        assert httpx.post(server.url, json=fitting).status_code == 204
        assert httpx.post(server.url, json={"shown": pair["shown"][::-1], "label": "first"}).status_code == 204
        assert len(Path("labels/ana.jsonl").read_text().splitlines()) == 2
        assert page_data(server.url)["labels"] == [fitting, {"shown": pair["shown"][::-1], "label": "first"}]


def test_the_page_may_run_its_own_script_alone_and_load_nothing(run):
    with serving() as server:
        headers = httpx.get(server.url).headers
    policy = headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe" not in policy
    assert headers["Cache-Control"] == "no-store"
    assert headers["Referrer-Policy"] == "no-referrer"
    assert "Python" not in headers["Server"]


# ---- in a browser, by keys -------------------------------------------------------------------------------------------


@contextmanager
def labelling(folder: Path, name: str, *options: str) -> Iterator[tuple[subprocess.Popen, str]]:
    """`lance label` as a person starts it, and the address that it prints."""
    command = [sys.executable, "-m", "stages.commands.lance", "label", "--name", name, *options]
    process = subprocess.Popen(
        command, cwd=folder, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        line = process.stdout.readline()
        address = re.search(r"http://127\.0\.0\.1:\d+/\S+/", line)
        assert address, line + process.stderr.read()
        yield process, address[0]
    finally:
        process.kill()
        process.communicate()


@contextmanager
def browser():
    from playwright.sync_api import sync_playwright

    flags = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking"]
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=BROWSER, args=flags)
        yield opened
        opened.close()


def count_is(tab, done):
    tab.wait_for_function("done => document.getElementById('count').textContent.startsWith(`${done} of`)", arg=done)


def press(tab, keys, done=0):
    """Press keys one by one, each when the one before is saved; `done` labels are there already."""
    for number, key in enumerate(keys, done + 1):
        tab.keyboard.press(key)
        count_is(tab, number)


def said(name) -> list[dict]:
    return [json.loads(line) for line in Path("labels", f"{name}.jsonl").read_text().splitlines()]


@pytest.mark.slow
@needs_browser
def test_two_people_label_the_same_rows_by_keys_with_undo_and_skip(run):
    keys = ["0", "1", "5", "9", "x", "s", "a", "t", "ArrowRight"]
    labels = [0, 1, 5, 9, 10, "skip", "first", "tie", "second"]
    options = ("--rows", "6", "--pairs", "3")
    with (
        labelling(run, "Ana", *options) as (ana, one),
        labelling(run, "ben", *options) as (_, two),
        browser() as opened,
    ):
        tabs = [opened.new_context().new_page() for _ in range(2)]
        tabs[0].goto(one)
        tabs[1].goto(two)
        assert page_data(one)["items"] == page_data(two)["items"]
        press(tabs[0], keys)
        assert tabs[0].get_by_text("Done, thank you.").is_visible()
        press(tabs[1], keys[:3])
        tabs[1].keyboard.press("u")
        count_is(tabs[1], 2)
        assert tabs[1].get_by_text("Undone: 5").is_visible()
        tabs[1].keyboard.press("Backspace")
        count_is(tabs[1], 1)
        press(tabs[1], ["3", "8", "Numpad7"], 1)
        tabs[1].keyboard.down("9")
        count_is(tabs[1], 5)
        tabs[1].keyboard.down("9")  # held: says nothing of the next row
        press(tabs[1], ["s"], 5)
        tabs[0].get_by_role("button", name="Go through the skipped row").click()
        press(tabs[0], ["4"], 8)
        ana.send_signal(signal.SIGINT)
        assert ana.communicate(timeout=10)[0] == (
            "\n9 of 9 rows labelled; commit labels/ana.jsonl, and dvc repro measures the judge by it\n"
        )
        assert ana.returncode == 0
    items = [item["shown"] for item in map(shown, drawn(params(), 6, 3))]
    assert said("ana")[:9] == [{"shown": key, "label": one} for key, one in zip(items, labels, strict=True)]
    assert said("ana")[9:] == [{"shown": items[5], "label": 4}]
    assert [line["label"] for line in said("ben")] == [0, 1, 5, "undo", "undo", 3, 8, 7, 9, "skip"]
    assert {name: len(labels) for name, labels in read_labels().items()} == {"ana": 9, "ben": 5}


@pytest.mark.slow
@needs_browser
def test_a_closed_page_and_a_killed_server_lose_nothing(run):
    with labelling(run, "ana", "--rows", "20") as (process, address), browser() as opened:
        tab = opened.new_page()
        tab.goto(address)
        press(tab, "2345")
        tab.close()
        tab = opened.new_page()
        tab.goto(address)
        count_is(tab, 4)
        press(tab, "67", 4)
        fourth = tab.locator("#prompt").text_content()
        process.kill()
        process.wait()
        tab.keyboard.press("9")
        tab.get_by_text("Not saved: lance label does not answer.").wait_for()
        assert tab.locator("#prompt").text_content() == fourth
        with Path("labels/ana.jsonl").open("a") as torn:
            torn.write('{"shown": ["0123')
        with labelling(run, "ana", "--rows", "20") as (_, again):
            tab.goto(again)
            count_is(tab, 6)
            assert tab.locator("#prompt").text_content() == fourth
            press(tab, "u", 4)
            press(tab, "81", 5)
    assert [line["label"] for line in said("ana")] == [2, 3, 4, 5, 6, 7, "undo", 8, 1]


@pytest.mark.slow
@needs_browser
def test_five_hundred_rows_are_labelled_by_keys(run):
    keys = "0123456789x"
    with labelling(run, "ana", "--rows", "450", "--pairs", "50") as (_, address), browser() as opened:
        tab = opened.new_page()
        tab.goto(address)
        pressed = [keys[number % 11] for number in range(450)] + ["abt"[number % 3] for number in range(50)]
        press(tab, pressed)
        assert tab.get_by_text("Done, thank you.").is_visible()
    assert len(said("ana")) == 500
    assert len(read_labels()["ana"]) == 500


@pytest.mark.slow
@needs_browser
@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
def test_texts_are_shown_as_they_are_and_run_nothing(run, width, scheme):
    seed = seed_row("x", 5.0)
    rows = [candidate("new", "Task <b>x</b>", text, float(n % 11), seed) for n, text in enumerate(HOSTILE)]
    for key in ("1", "2"):
        shutil.rmtree(run / "iterations" / key)
    write(run / "iterations/1/review.jsonl", [])
    write(run / "iterations/1/assess.jsonl", rows)
    trouble, requests = [], []
    with labelling(run, "Ana Lucía de la Fuente y Monterrey", "--pairs", "6") as (_, address), browser() as opened:
        tab = opened.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
        tab.on("console", lambda message: trouble.append(message.text))
        tab.on("pageerror", lambda error: trouble.append(str(error)))
        tab.on("dialog", lambda dialog: trouble.append(dialog.message))
        tab.on("request", lambda request: requests.append(request.url))
        tab.goto(address)
        seen = []
        for number in range(len(HOSTILE)):
            text = tab.locator("#responses .text")
            seen.append(text.text_content())
            if "zalgo" not in seen[-1]:  # a single sign
                assert text.evaluate("text => text.scrollWidth <= text.clientWidth"), "beyond the side"
            assert tab.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth") <= 0
            count = tab.locator("#count").bounding_box()
            assert count["x"] + count["width"] <= width
            footer = tab.locator("footer").bounding_box()
            assert footer["y"] + footer["height"] <= 801
            assert tab.get_by_role("button", name="Skip").is_visible()
            press(tab, "7", number)
        assert tab.locator("#responses .card").count() == 2
        assert tab.evaluate("window.taken") is None
        assert tab.locator("main img, main svg, main script, main style, main b").count() == 0
        style = "getComputedStyle(document.body)"
        colours = tab.evaluate(f"[{style}.backgroundColor, {style}.color]")
    *short, line = HOSTILE
    assert set(seen) == {*short, f"{line[:100_000]}\n\n… (5,020,000 more characters)"}
    assert trouble == []
    assert set(requests) == {address}
    ground, ink = (sum(map(int, re.findall(r"\d+", colour)[:3])) for colour in colours)
    assert (ground < ink) == (scheme == "dark")


def test_mistakes_on_the_command_line_are_one_line(run):
    def attempt(*options):
        command = [sys.executable, "-m", "stages.commands.lance", "label", *options]
        return subprocess.run(command, cwd=run, env=ENVIRONMENT, capture_output=True, text=True)

    assert "--name ../x: use letters" in error_line(attempt("--name", "../x"))
    with serving() as server:
        port = str(server.server_address[1])
        assert f"--port {port}: Address already in use" in error_line(attempt("--name", "ben", "--port", port))
    seed = json.loads(Path("iterations/1/review.jsonl").read_text().splitlines()[0])
    LabelFile(Path("labels/ana.jsonl")).add(Label(shown=[seed["id"]], label=int(seed["score"])))
    assert "--reviews prompts: Is a directory; name a file" in error_line(attempt("--reviews", "prompts"))
    shutil.rmtree("labels")
    Path("labels").write_text("")
    assert "labels/ana.jsonl cannot be written: File exists;" in error_line(attempt("--name", "ana"))
