"""The renderer of the views: escaping, marks, colours, whole pages, and what a browser makes of them."""

import shutil
import subprocess

import pytest
from html_reading import read_html

from skxlmr.inspection import EntityView
from skxlmr.inspection.html import MAX_ROWS, Html, Mark, colors_of, element, marked_text

HOSTILE = [
    "<script>document.title = 'changed'</script>",
    "<img src=x onerror=\"document.title='changed'\">",
    "\"'> <b>bold</b> & &amp; &#60;",
    "</div></mark></body></html>",
    "<!-- a comment",
    "]]> <![CDATA[",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_texts_names_and_attributes_are_escaped(text):
    html = marked_text(text, [Mark(0, 3, text, name=text, title=text)])
    reader = read_html(html)
    assert reader.tags == ["div", "mark", "span", "bdi"]
    assert reader.text == text[:3] + text + text[3:]
    assert ("title", text) in reader.attributes
    assert ("style", text) in reader.attributes


def test_html_is_not_escaped_twice():
    assert element("p", element("b", "<"), Html("<i>x</i>")) == "<p><b>&lt;</b><i>x</i></p>"


def test_control_characters_are_replaced_one_by_one():
    html = marked_text("a\x00b\x1b[0m\x85c\td\n", [Mark(1, 2, "", "NUL")])
    assert read_html(html).text == "a\ufffdNULb\ufffd[0m\ufffdc\td\n"


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("👩‍👩‍👧 met Ada 👍🏽", "Ada"),
        ("تعيش آدا في روما.", "روما"),
        ("𝒜𝒹𝒶 lives in Rome", "lives"),
        ("a\r\n\r\nb c", "c"),
    ],
)
def test_marks_count_characters_of_the_text(text, part):
    start = text.index(part)
    reader = read_html(marked_text(text, [Mark(start, start + len(part), "")]))
    (marked,) = reader.marks
    assert reader.text[slice(*marked)] == part
    assert reader.text == text


def test_each_text_has_its_own_direction():
    html = marked_text("abc", [Mark(0, 1, "", "שם")])
    assert html.startswith('<div dir="auto"')
    assert "<bdi>שם</bdi>" in html


def test_marks_may_touch_and_come_in_any_order():
    assert read_html(marked_text("abcd", [Mark(2, 4, ""), Mark(0, 2, "")])).marks == [(0, 2), (2, 4)]


@pytest.mark.parametrize(
    ("spans", "message"),
    [
        ([(0, 3), (2, 4)], r"row 5: the spans \(0, 3\) and \(2, 4\) overlap"),
        ([(0, 4), (1, 2)], r"row 5: the spans \(0, 4\) and \(1, 2\) overlap"),
        ([(1, 3), (1, 3)], "overlap"),
        ([(2, 2)], r"row 5: the span \(2, 2\) is empty or not within the text, which has 4 characters"),
        ([(3, 5)], r"\(3, 5\) is empty or not within"),
        ([(-1, 2)], r"\(-1, 2\) is empty or not within"),
    ],
)
def test_marks_that_cannot_be_shown_are_refused(spans, message):
    with pytest.raises(ValueError, match=message):
        marked_text("abcd", [Mark(start, end, "") for start, end in spans], "row 5")


def test_colors_of_many_names_differ():
    names = [f"label {i}" for i in range(40)]
    assert len(set(colors_of(names).values())) == len(names)
    assert colors_of(names) == colors_of(names)


def test_notebooks_and_text_show_first_rows_only():
    view = EntityView([f"text {i}" for i in range(MAX_ROWS + 2)], [[] for _ in range(MAX_ROWS + 2)])
    for shown in (view._repr_html_(), str(view), repr(view)):
        assert f"text {MAX_ROWS - 1}" in shown
        assert f"text {MAX_ROWS}" not in shown
        assert "and 2 more rows" in shown
    assert f"text {MAX_ROWS + 1}" in view.to_html()
    assert "more row" not in view.to_html()
    assert "and 21 more rows" in view.to_html(max_rows=1)
    assert len(view) == MAX_ROWS + 2


def test_page_declares_its_encoding():
    page = EntityView(["é"], [[]]).to_html(page=True)
    assert page.startswith('<!DOCTYPE html>\n<html style="color-scheme:light dark"><head><meta charset="utf-8">')
    assert read_html(page).tags[:5] == ["html", "head", "meta", "title", "body"]


@pytest.mark.slow
def test_browser_shows_texts_and_runs_nothing(tmp_path):
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no Chromium on this machine")
    texts = [*HOSTILE, "تعيش آدا في روما.", "👩‍👩‍👧 met Ada"]
    view = EntityView(texts, [[(0, 3, f"<u>{i}</u>")] for i in range(len(texts))])
    (tmp_path / "view.html").write_text(view.to_html(page=True), encoding="utf-8")
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
    command = [browser, *options, f"--user-data-dir={tmp_path / 'profile'}", "--window-size=900,900"]
    address = (tmp_path / "view.html").as_uri()
    dumped = subprocess.run([*command, "--dump-dom", address], capture_output=True, timeout=300, check=True)
    reader = read_html(dumped.stdout.decode())
    assert "<title>EntityView</title>" in dumped.stdout.decode()
    for i, text in enumerate(texts):
        assert f"{text[:3]}<u>{i}</u>{text[3:]}" in reader.text
    picture = tmp_path / "view.png"
    subprocess.run([*command, f"--screenshot={picture}", address], capture_output=True, timeout=300, check=True)
    assert picture.read_bytes().startswith(b"\x89PNG")
