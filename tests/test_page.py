"""The page of a study: what it says is what the records say, in a real browser; nothing users wrote does anything."""

from __future__ import annotations

import http.client
import itertools
import json
import re
import signal
import statistics
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
from large import large_study
from PIL import Image
from records import editing, result_file
from test_report import VALUES, study

from roadmap.base.errors import Refused
from roadmap.report.__main__ import main
from roadmap.report.columns import table_columns
from roadmap.report.page import environment, render, report_of, write_page
from roadmap.report.page.axis import axis
from roadmap.report.page.payload import block
from roadmap.report.page.server import open_server
from roadmap.report.records import load
from roadmap.report.report import Report
from roadmap.report.statistics import analyse

ROOT = Path(__file__).parent.parent
DIGITS = ROOT / "experiments" / "digits"
HOSTILE = [
    "</script><script>alert(1)</script>", "<img src=x onerror=alert(1)>", '"><svg onload=alert(1)>', "<!--<script>",
    "a\u2028b\u2029c", "\x1b[31mred", "\u202egnp.exe", "' onfocus=alert(1) autofocus x='", "javascript:alert(1)",
    "&lt;b&gt; &amp;", "]]>", "{{7*7}}", "__proto__", "</title><h1>gone</h1>",
]  # fmt: skip


def hostile(folder):
    """A study in which everything that a user writes is an attack."""
    words = itertools.cycle(HOSTILE)
    study(folder, VALUES, labels=dict(zip("abcd", HOSTILE, strict=False)))
    about = json.loads((folder / "study.json").read_text())
    about.update(question=HOSTILE[0], study=HOSTILE[-1], recipe=HOSTILE[1])
    for row, word in zip(about["rows"], HOSTILE, strict=False):
        row.update(label=word, group=word, toggles=HOSTILE)
        row["runs"] = [f"{word}-{seed}" for seed in about["seeds"]]
    (folder / "study.json").write_text(json.dumps(about))
    runs, history = {row["name"]: row["runs"] for row in about["rows"]}, [[2.0, 2.1, 10.0], [float("nan"), 1.1, 20.0]]
    with editing(folder) as lines:
        for line in lines:
            line.update(run=runs[line["step"]["name"]][line["seed"]], git={word: word for word in HOSTILE})
            line.update(history=history, device=next(words), versions={HOSTILE[0]: next(words)})
    return folder


# --- without a browser -----------------------------------------------------------------------------------------------


def test_the_same_records_give_the_same_page(tmp_path):
    pages = [write_page(report_of(study(tmp_path / name, VALUES))).read_bytes() for name in ("one", "two")]
    assert pages[0] == pages[1]
    assert str(tmp_path).encode() not in pages[0]


def test_the_page_is_small_and_needs_nothing(tmp_path):
    text = write_page(report_of(DIGITS), tmp_path / "page.html").read_text()
    assert len(text.encode()) < 400_000
    assert not re.search(
        r"\b(src|srcset|action|style|on\w+)=|@import|url\((?!#)", re.sub(r"<script>.*?</script>", "", text, flags=re.S)
    )
    assert "default-src 'none'" in text
    assert "connect-src 'none'" in text
    assert "unsafe" not in text


def test_the_cells_are_those_of_the_table():
    found = load(DIGITS)
    rows, columns = Report.of(found).rows, table_columns(found.plan)
    page = render(Report.of(found))
    body = re.search(r'<table id="rows".*?<tbody>(.*?)</tbody>', page, re.S)[1]
    cells = [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", line) for line in re.findall(r"<tr[^>]*>(.*?)</tr>", body)]
    plain = [[re.sub(r"<span.*?</span>", "", cell).replace("&lt;", "<") for cell in line] for line in cells]
    shown = [column for column in columns if any(column.text(row) for row in rows)]
    assert plain == [[column.text(row) for column in shown] for row in rows]


def test_text_is_escaped_by_construction():
    written = environment.from_string('<p title="{{ one }}">{{ other }}</p>').render
    assert written(one='"&', other="<b>") == '<p title="&#34;&amp;">&lt;b&gt;</p>'
    assert written(one="", other="\x1b\u202e") == '<p title="">\\x1b\\u202e</p>'
    written = block({"a": HOSTILE, "n": float("nan")})
    assert not set("<>&\u2028\u2029\x1b") & set(written)
    assert json.loads(written)["n"] is None


def test_a_hostile_study_adds_no_element(tmp_path):
    def tags(page):
        return re.findall(r"<[a-z!][a-z0-9]*", page)

    page = write_page(report_of(hostile(tmp_path / "bad"))).read_text()
    assert "<img" not in page
    assert page.count("<script") == 2
    assert tags(page).count("<h1") == 1
    assert not set(re.findall(r'href="([a-z]+:)', page))


@pytest.mark.parametrize("values", [(0.0,), (5.0, 5.0), (99.99, 100.0), (1e-6, 3e-6), (-3.0, 4.0), ()])
def test_axes_hold_their_values(values):
    found = axis(values, most=100.0)
    assert all(-1e-9 <= found.at(value) <= 1 + 1e-9 for value in values if value >= 0)
    assert 2 <= len(found.ticks) <= 16


def test_missing_and_diverged_runs_are_named(tmp_path):
    page = write_page(report_of(study(tmp_path, {**VALUES, "b": [60.0, None], "c": [None] * 3, "side": []}))).read_text()
    assert "7 of 15 runs done" in page
    assert "Diverged: b (seed 1); c (seeds 0, 1, 2)." in page
    assert "Missing: b (seed 2); side (seeds 0, 1, 2)." in page


def test_a_study_without_a_result_shows_its_plan(tmp_path):
    folder = study(tmp_path, {})
    (folder / "records.jsonl").unlink()
    page = render(report_of(folder))
    assert "0 of 15 runs done" in page
    assert page.count("no result") == 5


def test_links_lead_to_the_records(tmp_path):
    folder = study(tmp_path / "study", VALUES)
    run = folder / "runs" / "a-s0-0"
    run.mkdir(parents=True)
    for name in ("log.txt", "config.yaml"):
        (run / name).write_text("x")
    links = dict.fromkeys(re.findall(r'href="([^#"]+)"', write_page(report_of(folder), tmp_path / "elsewhere.html").read_text()))
    assert list(links) == ["study/runs/a-s0-0/log.txt", "study/runs/a-s0-0/config.yaml", "study/records.jsonl"]
    assert all((tmp_path / link).is_file() for link in links)


def report(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["report", *map(str, arguments)])
    return main()


def test_the_command_writes_page_and_chosen_columns(tmp_path, monkeypatch, capsys):
    folder = study(tmp_path, VALUES)
    report(monkeypatch, folder, "--html", "--columns", "top1,label")
    assert (folder / "page.html").is_file()
    assert "page.html: the page" in capsys.readouterr().out
    first = (folder / "table.md").read_text().splitlines()[0]
    assert [cell.strip() for cell in first.split("|")[1:-1]] == ["digits 32 px, 3 epochs: top-1, %", "step"]
    assert "multiply-adds" not in (folder / "table.tex").read_text()
    report(monkeypatch, folder)
    assert "multiply-adds" in (folder / "table.md").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--columns", "labl"], "no column 'labl'; allowed: label, .* Did you mean 'label'"),
        (["--columns", "top1,top1"], "each once"),
        (["--html", "/nowhere/page.html"], "not a file in a folder that is there"),
    ],
)
def test_what_cannot_be_written_is_refused_first(tmp_path, monkeypatch, arguments, message):
    folder = study(tmp_path, VALUES)
    with pytest.raises(Refused, match=message):
        report(monkeypatch, folder, *arguments)
    assert not (folder / "table.md").exists()


# --- the server ------------------------------------------------------------------------------------------------------


@contextmanager
def serving(folder):
    """A server on a free port; yields the port."""
    with open_server(folder, "127.0.0.1", 0) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        try:
            yield server.server_port
        finally:
            server.shutdown()


def get(port, path, host=None, method="GET"):
    """Ask with the path exactly as it is; returns status and content."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.putrequest(method, path, skip_host=True)
    connection.putheader("Host", host or f"127.0.0.1:{port}")
    connection.endheaders()
    answer = connection.getresponse()
    content = answer.read().decode()
    connection.close()
    return answer.status, content


@pytest.fixture
def running(tmp_path):
    """A study of which one run is done, with a secret beside it and links to that."""
    folder = study(tmp_path / "study", VALUES)
    lines = (folder / "records.jsonl").read_text().splitlines()
    run = folder / "runs" / "a-s0-0"
    run.mkdir(parents=True)
    (run / "result.json").write_text(result_file(lines[0]))
    (run / "history.jsonl").write_text('{"train_loss": 1.5, "val_loss": 1.0, "top1": 50.0}\n')
    (tmp_path / "secret.txt").write_text("secret")
    (run / "log.txt").symlink_to(tmp_path / "secret.txt")
    (run / "other.txt").write_text("secret")
    (folder / "runs" / "a-s1-0").symlink_to(tmp_path)
    (tmp_path / "config.yaml").write_text("secret")
    return folder


BAD_PATHS = [
    "/../secret.txt", "/%2e%2e/secret.txt", "/runs/../../secret.txt", "/runs/a-s0-0/../../../secret.txt", "//etc/passwd", "/runs",
    "/runs/", "/runs/a-s0-0/", "/runs/a-s0-0/log.txt", "/runs/a-s0-0/other.txt", "/runs/a-s1-0/config.yaml", "/study.json",
    "/runs/a-s0-0%2f..%2f..%2fsecret.txt", "/runs/..%2f..%2f/result.json", "/runs/a-s0-0/result.json/",
    "/runs/a-s0-0/result.json%00",     "/claim", "/runs/\\..\\secret.txt", "/.git/config",
]  # fmt: skip


def test_the_server_gives_out_the_study_and_nothing_else(running):
    with serving(running) as port:
        assert get(port, "/")[0] == 200
        status, content = get(port, "/runs/a-s0-0/result.json")
        assert (status, json.loads(content)["run"]) == (200, "a-s0-0")
        assert get(port, "/records.jsonl")[0] == 200
        assert get(port, "/", method="HEAD") == (200, "")
        assert get(port, "/", method="POST")[0] == 501
        for path in BAD_PATHS:
            status, content = get(port, path)
            assert status in (400, 404), path
            assert "secret" not in content, path


@pytest.mark.parametrize("host", ["evil.example", "evil.example:80", "127.0.0.1.evil.example", "", "[", "localhost@evil.example"])
def test_the_server_answers_to_no_other_name(running, host):
    with serving(running) as port:
        assert get(port, "/", host=host or " ")[0] == 421
        assert get(port, "/", host=f"localhost:{port}")[0] == 200


def test_a_taken_port_is_refused(running):
    with serving(running) as port, pytest.raises(Refused, match=f"--port {port}: is taken"):
        open_server(running, "127.0.0.1", port)
    with pytest.raises(Refused, match="0 to 65535"):
        open_server(running, "127.0.0.1", 70000)
    with pytest.raises(Refused, match=r"no study\.json"):
        open_server(running.parent, "127.0.0.1", 0)


HOLD = """
import sys, pathlib, roadmap.base.claims
with roadmap.base.claims.claim(pathlib.Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_the_server_shows_what_is_running(running):
    run = running / "runs" / "b-s0-0"
    run.mkdir()
    (run / "history.jsonl").write_text('{"train_loss": 0.75, "val_loss": NaN, "top1": 50.0}\n{"train_l')
    with serving(running) as port:
        state = get(port, "/state.json")[1]
        assert "b, seed 0</b>: stopped, 1 of 3 epochs done, last training loss 0.7500" in get(port, "/")[1]
        with subprocess.Popen([sys.executable, "-c", HOLD, run / "claim"], stdin=-1, stdout=-1, text=True, cwd=ROOT) as process:
            assert process.stdout.readline() == "held\n"
            assert get(port, "/state.json")[1] != state
            assert "running, 1 of 3 epochs done, last training loss 0.7500, process" in get(port, "/")[1]
            process.stdin.close()


def test_a_study_that_cannot_be_shown_says_why(running):
    (running / "study.json").write_text("{")
    with serving(running) as port:
        assert "study.json cannot be read" in get(port, "/")[1]


def test_ctrl_c_ends_quietly(running):
    command = [sys.executable, "-m", "roadmap.serve", running, "--port", "0"]
    with subprocess.Popen(command, stdout=-1, stderr=-1, text=True, cwd=ROOT) as process:
        assert "http://127.0.0.1:" in process.stdout.readline()
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=20)
    assert (process.returncode, said) == (0, "")


# --- in a browser ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    return write_page(report_of(DIGITS), tmp_path_factory.mktemp("page") / "page.html").as_uri()


@pytest.fixture
def page(chromium, digits):
    """The digits' page, open; at the end it has asked for nothing else and complained of nothing."""
    chromium.width(1200)
    chromium.open(digits)
    yield chromium
    assert chromium.js("document.title")  # everything reported so far has been read
    assert chromium.requests() == [digits]
    assert chromium.complaints() == []


def column(page, key):
    """The cells of a column as they stand, of the rows that are shown."""
    return page.js(
        f"""[...document.querySelectorAll('#rows tbody tr:not([hidden])')].map(row => {{
            const head = document.querySelector('#rows th[data-key="{key}"]');
            const cell = row.cells[head.cellIndex];
            return cell.dataset.value === undefined ? cell.textContent : Number(cell.dataset.value);
        }})"""
    )


def focus(page, selector):
    page.js(f"document.querySelector({json.dumps(selector)}).focus()")


def set_value(page, selector, value):
    page.js(f"""(control => {{
        control.value = {json.dumps(value)};
        control.dispatchEvent(new Event('input', {{bubbles: true}}));
    }})(document.querySelector({json.dumps(selector)}))""")


def aria_sort(page, key):
    return page.js(f"""document.querySelector('#rows th[data-key="{key}"]').ariaSort""")


def test_sorting_by_keyboard(page):
    original = column(page, "label")
    focus(page, "#sort-rows-delta")
    for key, order in (("Enter", "ascending"), (" ", "descending")):
        page.key(key)
        values = column(page, "delta")
        assert aria_sort(page, "delta") == order
        assert values[-1] == ""  # of the first step; last either way
        assert values[:-1] == sorted(values[:-1], reverse=order == "descending")
        assert len(values) == 16
    page.key("Enter")
    assert (aria_sort(page, "delta"), column(page, "label")) == ("none", original)
    page.click("#sort-rows-label")
    by_name = f"{json.dumps(original)}.sort((a, b) => a.localeCompare(b, 'en', {{numeric: true}}))"
    assert column(page, "label") == page.js(by_name) != original
    assert aria_sort(page, "label") == "ascending"


def test_filtering(page):
    focus(page, "#filter")
    page.type("KERNEL")
    assert column(page, "label") == [
        "kernel sz. → 5",
        "kernel sz. → 7",
        "kernel sz. → 9 (side branch)",
        "kernel sz. → 11 (side branch)",
    ]
    assert page.js("document.querySelector('#count').textContent") == "4 of 16 rows"
    page.click("#resolved")
    resolved = [e.effect.label for e in analyse(load(DIGITS)).estimates if e.resolved]
    assert column(page, "label") == [label for label in resolved if "kernel" in label]
    set_value(page, "#filter", "")
    assert column(page, "label") == resolved
    page.click("#resolved")
    page.js(
        "(s => { s.value = 'ResNeXt'; s.dispatchEvent(new Event('input', {bubbles: true})) })(document.querySelector('#group'))"
    )
    assert column(page, "label") == ["depth conv", "width ↑"]


def test_hidden_columns_and_single_seeds(page):
    visible = "[...document.querySelectorAll('#rows thead th')].filter(c => c.checkVisibility()).map(c => c.dataset.key)"
    before = page.js(visible)
    page.click("#choose > summary")
    page.click("#column-params_m")
    assert page.js(visible) == [key for key in before if key != "params_m"]
    assert page.js(
        "[...document.querySelectorAll('#rows tbody tr')].every(r => [...r.cells].filter(c => !c.hidden).length === 10)"
    )
    page.key("Escape")
    assert not page.js("document.querySelector('#choose').open")
    seen = "document.querySelector('#rows .single').checkVisibility()"
    assert not page.js(seen)
    page.click("#single")
    assert page.js(seen)
    first = next(iter(load(DIGITS).results.values())).score
    assert page.js("document.querySelector('#rows .single').textContent").startswith(f"seed 0: {first:.2f}, seed 1: ")


def test_values_at_focus_and_pointer_are_those_of_the_records(page):
    analysis = analyse(load(DIGITS))
    focus(page, ".chart .row")
    for row in analysis.rows:
        said = page.js("document.querySelector('#tip').hidden ? '' : document.querySelector('#tip').textContent")
        assert f"top-1, %: {row.mean:.2f} ± {row.std:.2f} (n = 5)" in said
        assert all(f"seed {seed}: {value:.2f}" in said for seed, value in row.by_seed.items())
        assert page.js("document.activeElement.ariaLabel") == said.replace("\n", "; ")
        page.key("ArrowDown")
    page.key("Escape")
    assert page.js("document.querySelector('#tip').hidden")
    page.hover("#point-5 circle")
    page.js("new Promise(done => (document.dispatchEvent(new Event('scroll')), requestAnimationFrame(() => done(0))))")
    assert page.js("document.querySelector('#tip').textContent").startswith("inverting dims\n")
    page.hover("h1")


def test_bars_are_as_long_as_the_means(page):
    """The drawn length against the axis' own numbers."""
    measured = page.js("""(() => {
        const ticks = [...document.querySelectorAll('.scale:not(.paper-scale) .bar text')];
        const place = t => (r => [Number(t.textContent), r.x + r.width / 2])(t.getBoundingClientRect());
        const [a, b] = [place(ticks[0]), place(ticks.at(-1))];
        return [...document.querySelectorAll('.row .bar')].map(bar =>
            a[0] + (bar.querySelector('rect').getBoundingClientRect().right - a[1]) / (b[1] - a[1]) * (b[0] - a[0]));
    })()""")
    assert measured == pytest.approx([row.mean for row in analyse(load(DIGITS)).rows], abs=0.05)
    assert page.js("getComputedStyle(document.querySelector('.paper')).display") == "none"
    page.click("#paper")
    assert page.js("document.querySelectorAll('.row .paper').length") == 16
    assert page.js("document.querySelector('.paper-scale .axis-name').checkVisibility()")
    assert "ImageNet-1K, 300 epochs: not comparable" in page.js("document.querySelector('.paper-scale').textContent")


def test_curves_of_chosen_rows(page):
    drawn = "[...document.querySelectorAll('#plot polyline')].map(l => Number(l.dataset.row))"
    assert page.js(drawn) == [0, 15]
    page.click("#clear")
    assert page.js("document.querySelector('#plot').textContent") == "Choose rows to draw their curves."
    page.click("#curve-5")
    assert page.js(drawn) == [5]
    analysis, found = analyse(load(DIGITS)), load(DIGITS)
    row = analysis.rows[5]
    readout = "document.querySelector('#readout li').textContent"
    assert page.js(readout) == f"inverting dims: {row.mean:.2f} ± {row.std:.2f} (n = 5)"
    focus(page, "#plot")
    page.key("Home")
    assert page.js(readout) == "inverting dims: no value"  # the digits are evaluated after epochs 2 and 3
    page.key("ArrowRight")
    second = [found.histories[result.run][1][2] for result in found.of(row.variant.name)]
    assert page.js(readout).startswith(f"inverting dims: {statistics.fmean(second):.2f} ± ")
    page.key("ArrowLeft")
    set_value(page, "#metric", "0")
    losses = [found.histories[result.run][0][0] for result in found.of(row.variant.name)]
    assert page.js(readout).startswith(f"inverting dims: {statistics.fmean(losses):.4f} ± ")


def difference(page, first, second):
    set_value(page, "#run-first", first)
    set_value(page, "#run-second", second)
    return page.js("[...document.querySelectorAll('#difference tbody tr')].map(r => [...r.cells].map(c => c.textContent))")


def test_differences_between_two_runs(page):
    results = {result.step.name: result for result in load(DIGITS).results.values() if result.seed == 0}
    one, other = results["kernel_5"], results["kernel_7"]
    assert difference(page, one.run, other.run) == [["model.kernel_size", "5", "7"], ["step", "kernel_5", "kernel_7"]]
    assert difference(page, one.run, one.run) == []
    assert page.js("document.querySelector('#difference').textContent").startswith("No difference: all ")


def test_every_control_has_a_name_and_the_keyboard_passes_through(page):
    nameless = page.js("""[...document.querySelectorAll('button, input, select, summary, a, [tabindex]')].filter(e =>
        !(e.ariaLabel || e.textContent.trim() || e.labels?.[0]?.textContent.trim())).map(e => e.outerHTML)""")
    assert nameless == []
    tree = page.ask("Accessibility.getFullAXTree")["nodes"]
    roles = ("button", "checkbox", "combobox", "searchbox", "link", "image", "region", "table")
    assert [n for n in tree if n.get("role", {}).get("value") in roles and not n["ignored"] and not n["name"].get("value")] == []
    levels = page.js("[...document.querySelectorAll('h1, h2, h3, h4')].map(h => Number(h.tagName[1]))")
    assert levels[0] == 1
    assert all(b - a <= 1 for a, b in itertools.pairwise(levels))
    page.js("document.activeElement.blur()")
    seen = []
    for _ in range(70):
        page.key("Tab")
        seen.append(page.js("document.activeElement.id || document.activeElement.className || document.activeElement.tagName"))
        outline = page.js("(e => !!e.closest('svg') || getComputedStyle(e).outlineStyle !== 'none')(document.activeElement)")
        assert outline or seen[-1] == "BODY", seen[-1]
    assert seen[0] == "skip"
    assert {"paper", "bar-0", "filter", "sort-rows-p", "point-0", "curve-3", "plot", "run-second"} <= set(seen)
    assert seen.count("bar-0") <= 2  # one stop for the figure, not sixteen; and the way around leads back


def covered(page, selector):
    """Pairs of elements that are seen and of which one lies on another, by their texts."""
    return page.js(
        f"""(boxes => boxes.flatMap((a, i) => boxes.slice(i + 1).filter((b) =>
            Math.min(a.r.right, b.r.right) - Math.max(a.r.left, b.r.left) > 1 &&
            Math.min(a.r.bottom, b.r.bottom) - Math.max(a.r.top, b.r.top) > 1).map((b) => [a.t, b.t])))
        ([...document.querySelectorAll({json.dumps(selector)})].map((e) => ({{t: e.textContent, r: e.getBoundingClientRect()}}))
            .filter((e) => e.r.width && e.r.height))"""
    )


@pytest.mark.parametrize("rows", [12, 30])
@pytest.mark.parametrize("width", [390, 760, 1200])
def test_long_names_lie_on_nothing(chromium, tmp_path, rows, width):
    write_page(Report.read(large_study(tmp_path, rows, references=2, length=60)))
    chromium.width(width)
    chromium.open(f"file://{tmp_path}/page.html")
    assert chromium.js("document.documentElement.scrollWidth") <= width
    assert covered(chromium, ".point .name, .point .number") == [] or rows == 30  # of thirty, some points lie on each other
    assert covered(chromium, ".point .name") == []
    assert covered(chromium, ".row > .name, .row > .value, .bracket") == []
    listed = chromium.js("[...document.querySelectorAll('.names li')].filter(e => e.offsetParent).length")
    assert listed == rows + 2


def test_a_table_that_scrolls_sideways_says_so(page, tmp_path):
    def edge():
        page.picture(tmp_path / "edge.png", whole=False)
        box = page.js("(r => [r.right, r.top, r.height])(document.querySelector('#rows-box').getBoundingClientRect())")
        pixels = Image.open(tmp_path / "edge.png").convert("L")
        return [
            pixels.getpixel((round(box[0]) - 3, y))
            for y in range(round(box[1] + 0.4 * box[2]), round(box[1] + 0.9 * box[2]), 7)
            if y < 880
        ]

    page.width(390)
    page.middle("#rows-box")
    assert page.js("getComputedStyle(document.querySelector('.swipe')).display") == "block"
    shaded = statistics.median(edge())
    page.js("document.querySelector('#rows-box').scrollLeft = 1e6")
    assert statistics.median(edge()) - shaded > 20  # nothing more comes
    page.width(1200)
    assert page.js("getComputedStyle(document.querySelector('.swipe')).display") == "none"


@pytest.mark.parametrize("width", [320, 360, 768])
def test_no_sideways_scrolling_on_a_small_screen(page, width):
    page.width(width)
    for mark in ("#paper", "#single", "#choose > summary", "#all-runs > summary"):
        page.click(mark)
        assert page.js("document.documentElement.scrollWidth <= document.documentElement.clientWidth"), mark
    assert page.js("(b => b.scrollWidth > b.clientWidth)(document.querySelector('#rows-box'))")


CONTRAST = """(() => {
    const canvas = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
    const linear = v => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4;
    const light = colour => {
        canvas.fillStyle = colour;
        canvas.fillRect(0, 0, 1, 1);
        const [r, g, b] = [...canvas.getImageData(0, 0, 1, 1).data].map(v => linear(v / 255));
        return .2126 * r + .7152 * g + .0722 * b;
    };
    const clear = 'rgba(0, 0, 0, 0)';
    const ground = e => {
        while (getComputedStyle(e).backgroundColor === clear) e = e.parentElement;
        return getComputedStyle(e).backgroundColor;
    };
    const written = e => [...e.childNodes].some(n => n.nodeType === 3 && n.data.trim()) && e.checkVisibility();
    const ratio = e => {
        const svg = e.namespaceURI.endsWith('svg'), style = getComputedStyle(e);
        const circle = e.matches('.number') && e.parentElement.querySelector('circle');
        const colours = [svg ? style.fill : style.color, circle ? getComputedStyle(circle).fill : ground(e)];
        const [a, b] = colours.map(light).sort((x, y) => y - x);
        return (a + .05) / (b + .05);
    };
    const all = [...document.querySelectorAll('main *, .skip')].filter(e => written(e) && !e.closest('option, .unseen'));
    return [all.length > 300, ...all.map(e => [e.outerHTML.slice(0, 80), ratio(e)]).filter(([, r]) => !(r >= 4.5))];
})()"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_contrast(page, scheme):
    page.ask("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
    page.click("#paper")
    page.hover("h1")
    assert page.js(f"matchMedia('(prefers-color-scheme: {scheme})').matches")
    assert page.js(CONTRAST) == [True]
    page.ask("Emulation.setEmulatedMedia", features=[])


def test_it_can_be_read_without_scripts(chromium, digits):
    chromium.ask("Emulation.setScriptExecutionDisabled", value=True)
    try:
        chromium.width(1200)
        chromium.open(digits)
        tree = chromium.ask("Accessibility.getFullAXTree")["nodes"]
        names = [node["name"]["value"] for node in tree if not node["ignored"] and node.get("name", {}).get("value")]
        row = analyse(load(DIGITS)).rows[5]
        assert any(name.startswith(f"inverting dims; top-1, %: {row.mean:.2f} ± {row.std:.2f}") for name in names)
        effect = analyse(load(DIGITS)).estimate(row.variant.name)
        low, high = effect.interval
        assert f"{effect.value:+.2f} [{low:+.2f}, {high:+.2f}]" in names
        assert "clear" not in names  # no control that would do nothing
        assert not any(node.get("role", {}).get("value") in ("searchbox", "combobox") for node in tree if not node["ignored"])
    finally:
        chromium.ask("Emulation.setScriptExecutionDisabled", value=False)


def test_a_hostile_study_is_inert(chromium, tmp_path):
    file = write_page(report_of(hostile(tmp_path)))
    chromium.width(1000)
    chromium.open(file.as_uri())
    assert chromium.js("document.querySelector('h1').textContent") == HOSTILE[0]
    chromium.js("document.querySelector('#group').value = document.querySelector('#group').options[2].value")
    chromium.js("document.querySelectorAll('#pills input').forEach(box => box.click())")
    chromium.js("document.querySelectorAll('#pills input').forEach(box => box.checked || box.click())")
    focus(chromium, ".chart .row")
    chromium.key("ArrowDown")
    assert HOSTILE[1] in chromium.js("document.querySelector('#tip').textContent")
    assert chromium.js("document.querySelectorAll('#plot polyline').length") == 5
    assert HOSTILE[0] in chromium.js("document.querySelector('#difference').textContent")
    assert chromium.js(
        "[document.scripts.length, document.images.length, document.querySelectorAll('h1, [onload], [onfocus]').length]"
    ) == [2, 0, 1]
    assert chromium.complaints() == []
    assert chromium.requests() == [file.as_uri()]
    chromium.js(
        "document.body.insertAdjacentHTML('beforeend', '<img src=x onerror=\"window.hit = 1\">')"
    )  # the policy holds by itself
    time.sleep(0.2)
    assert chromium.js("window.hit ?? 0") == 0


def test_the_served_page_takes_over_new_results_and_keeps_its_state(chromium, running):
    lines = (running / "records.jsonl").read_text().splitlines()
    with serving(running) as port:
        chromium.width(1000)
        chromium.open(f"http://127.0.0.1:{port}/")
        assert chromium.js("document.querySelector('#status').textContent").startswith("1 of 15 runs done")
        chromium.click("#sort-rows-label"), chromium.click("#sort-rows-label"), chromium.click("#curve-1")
        chromium.js("document.querySelector('#choose').open = true")
        chromium.click("#column-gmacs")
        focus(chromium, "#filter")
        chromium.type("side br")
        focus(chromium, "#bar-1")
        chromium.js("window.scrollTo(0, 150); window.before = 1")
        run = running / "runs" / "d-s0-0"
        run.mkdir()
        (run / "result.json").write_text(result_file(lines[12]))
        chromium.until("document.querySelector('#status').textContent.startsWith('2 of 15 runs done')", 6)
        assert chromium.js("[document.activeElement.id, window.scrollY, window.before]") == ["bar-1", 150, 1]
        assert (aria_sort(chromium, "label"), chromium.js("document.querySelector('#filter').value")) == ("descending", "side br")
        assert chromium.js("document.querySelector('#rows th[data-key=gmacs]').hidden")
        assert chromium.js("document.querySelector('#curve-1').checked")
        assert column(chromium, "label") == ["side (side branch)"]
        set_value(chromium, "#filter", "")
        assert column(chromium, "label") == ["side (side branch)", "d", "c", "b", "a"]
        assert 70.0 in column(chromium, "top1")
        assert [c for c in chromium.complaints() if "favicon" not in json.dumps(c)] == []
        assert {url.split("/", 3)[2] for url in chromium.requests()} == {f"127.0.0.1:{port}"}


@pytest.mark.storm
def test_the_served_page_comes_back_after_a_fault(chromium, running):
    plan = (running / "study.json").read_text()
    with serving(running) as port:
        chromium.open(f"http://127.0.0.1:{port}/")
        (running / "study.json").write_text("{")
        chromium.until("document.querySelector('main').textContent.includes('study.json cannot be read')", 8)
        (running / "study.json").write_text(plan)
        chromium.until("document.querySelectorAll('#rows tbody tr').length === 5", 8)
    chromium.until("document.querySelector('#lost')?.textContent === 'The server does not answer; trying again.'", 8)


@pytest.mark.storm
def test_a_long_study_stays_usable(chromium, tmp_path):
    """Sixty rows, five seeds, three hundred epochs: below 12 MB, and a sort within a second."""

    folder = study(tmp_path, VALUES, seeds=1)
    about = json.loads((folder / "study.json").read_text())
    line = json.loads((folder / "records.jsonl").read_text().splitlines()[0])
    about["rows"] = [
        {**about["rows"][0], "name": f"r{i}", "label": f"row {i}", "runs": [f"r{i}-{s}" for s in range(5)]} for i in range(60)
    ]
    about.update(effects=[], seeds=list(range(5)), epochs=300)
    curve = [[1 / (i + 1), 2 / (i + 1), 70 + i / 30] for i in range(300)]
    lines = [
        {**line, "run": f"r{i}-{s}", "seed": s, "top1": 70 + i / 7 + s, "history": curve} for i in range(60) for s in range(5)
    ]
    (folder / "study.json").write_text(json.dumps(about))
    (folder / "records.jsonl").write_text("".join(json.dumps(one) + "\n" for one in lines))
    file = write_page(report_of(folder))
    assert file.stat().st_size < 12e6
    chromium.open(file.as_uri())
    chromium.js("document.querySelectorAll('#pills input').forEach(box => box.checked || box.click())")
    assert chromium.js("document.querySelectorAll('#plot polyline').length") == 60
    start = time.monotonic()
    chromium.click("#sort-rows-top1")
    assert aria_sort(chromium, "top1") == "ascending"
    assert time.monotonic() - start < 1
