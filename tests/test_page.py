"""The page of the service as people use it: a real service, a real browser."""

from __future__ import annotations

import base64
import re
import urllib.request
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import expect
from serving import Served

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from conftest import Run
    from playwright.sync_api import Browser, JSHandle, Page, Request, Route

expect.set_options(timeout=30_000)

KEY = "a-key-of-the-tests-0123456789"
SENTENCE = "Accuracy of correct matches by correspondence to other classes: "
HOSTILE = (
    "<img src=x onerror=alert(1)>",
    '"><script>alert(1)</script>',
    "a\u202eb\nc",
    "غرفة",
    "x" * 250,
)


@contextmanager
def serving(index: Path, *options: str) -> Iterator[str]:
    """Run `imgsearch serve` and give its address; it ends without a fault."""
    served = Served(index, *options)
    try:
        yield served.url
    finally:
        assert served.end() == 0


@pytest.fixture(scope="module")
def service(rooms: Path) -> Iterator[str]:
    """Serve the demo's base set to everybody on this machine."""
    with serving(rooms) as address:
        yield address


@contextmanager
def opened(browser: Browser, **options: Any) -> Iterator[Page]:  # noqa: ANN401 - Playwright's own
    """Open a tab that fails the test on any error of the page itself, and on any dialog."""
    troubles: list[str] = []
    context = browser.new_context(**{"viewport": {"width": 1280, "height": 800}, **options})
    tab = context.new_page()

    def hear(message: Any) -> None:  # noqa: ANN401 - Playwright's own
        # The browser itself tells of each answer above 399; those are what some tests are about.
        if message.type in {"error", "warning"} and "Failed to load" not in message.text:
            troubles.append(message.text)

    tab.on("console", hear)
    tab.on("pageerror", lambda error: troubles.append(str(error)))
    tab.on("dialog", lambda dialog: troubles.append(dialog.message))
    yield tab
    context.close()
    assert troubles == []


@pytest.fixture
def tab(browser: Browser) -> Iterator[Page]:
    """Return a tab 1280 pixels wide."""
    with opened(browser) as page:
        yield page


@pytest.fixture(scope="module")
def stranger(photos: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a picture that is not in the index, as small as a test wants."""
    from PIL import Image

    file = tmp_path_factory.mktemp("stranger") / "my room.jpg"
    with Image.open(photos[4]) as photo:
        photo.thumbnail((300, 300))
        photo.save(file)
    return file


def carried(tab: Page, *files: Path, kind: str = "image/jpeg") -> JSHandle:
    """Make what a hand or a clipboard carries."""
    given = [[file.name, base64.b64encode(file.read_bytes()).decode()] for file in files]
    return tab.evaluate_handle(
        """([files, type]) => {
            const carried = new DataTransfer();
            for (const [name, data] of files) {
                const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
                carried.items.add(new File([bytes], name, { type }));
            }
            return carried;
        }""",
        [given, kind],
    )


def drop(tab: Page, *files: Path) -> None:
    """Drop files somewhere on the page."""
    hand = carried(tab, *files)
    for event in ("dragenter", "dragover", "drop"):
        tab.dispatch_event("footer", event, {"dataTransfer": hand})


def wait_for_answer(tab: Page, matches: int = 5) -> None:
    """Wait until so many matches are shown and nothing is under way."""
    expect(tab.locator("#tiles .tile")).to_have_count(matches)
    expect(tab.locator("#found")).not_to_have_attribute("aria-busy", "true")


def shown(tab: Page) -> list[tuple[int, str]]:
    """Return row, score and probability of each match that is shown, in order."""
    return [
        (int(parse_qs(urlsplit(href).query)["row"][0]), score.removeprefix("Score "))
        for href, score in tab.evaluate(
            """[...document.querySelectorAll("#tiles .tile")].map((tile) =>
                [tile.href, tile.querySelector(".score").textContent])"""
        )
    ]


def posts(tab: Page) -> list[str]:
    """Begin to note the paths that something is sent to."""
    found: list[str] = []

    def hear(request: Request) -> None:
        if request.method == "POST":
            found.append(urlsplit(request.url).path)

    tab.on("request", hear)
    return found


def given(tab: Page) -> dict[str, list[str]]:
    """Return the words of the address."""
    return parse_qs(urlsplit(tab.url).query)


def expected(run: Callable[..., Run], *words: object) -> list[tuple[int, str]]:
    """Return what the command line finds, as the page writes it."""
    (answer,) = run("search", *words, "--json").json["queries"]
    return [(match["row"], written(match)) for match in answer["matches"]]


def written(match: dict[str, Any]) -> str:
    """Return the score of a match, and its probability where there is one."""
    likely = match["probability"]
    return f"{match['score']:.4f}" + ("" if likely is None else f" · {likely:.2%} likely")


# The first look


def test_page_is_light_and_all_its_own(tab: Page, service: str) -> None:
    """Page, styles and scripts are under 100 KB and come from the service, none of them inline."""
    sizes: dict[str, int] = {}
    tab.on("response", lambda answer: sizes.update({answer.url: len(answer.body())}))
    html = urllib.request.urlopen(service).read().decode()  # noqa: S310 - our own service
    tab.goto(service)
    expect(tab.locator("#samples .tile").first).to_be_visible()
    tab.wait_for_load_state("networkidle")
    assert all(url.startswith(service) for url in sizes if not url.startswith("data:"))
    own = {url for url in sizes if url == service + "/" or "/static/" in url}
    assert {Path(urlsplit(url).path).suffix for url in own} == {"", ".css", ".js"}
    assert sum(sizes[url] for url in own) < 100_000
    assert "<style" not in html
    assert not re.search(r"<[^>]+\s(style|on\w+)=", html)
    assert re.findall(r"<script[^>]*>([^<]*)", html) == [""]


def test_start_offers_a_way_in(tab: Page, service: str) -> None:
    """Before a question there are the ways to ask one, and a picture of each class to take."""
    tab.goto(service)
    expect(tab.get_by_role("heading", name="Which pictures look like yours?")).to_be_visible()
    expect(tab.locator("#limits")).to_have_text("JPEG, PNG, WebP, GIF, BMP, AVIF, up to 20 MB")
    expect(tab.locator("#answer")).to_be_hidden()
    labels = tab.locator("#samples .name")
    expect(labels.first).to_be_visible()
    names = labels.all_inner_texts()
    assert len(names) == len(set(names)) > 5
    tab.locator("#samples .tile").first.click()
    wait_for_answer(tab)
    assert given(tab)["row"]


# Ways in


def test_drop(
    tab: Page, service: str, stranger: Path, rooms: Path, imgsearch: Callable[..., Run]
) -> None:
    """A file dropped anywhere is asked; the matches are those of the command line, in order."""
    tab.goto(service)
    hand = carried(tab, stranger)
    tab.dispatch_event("footer", "dragenter", {"dataTransfer": hand})
    expect(tab.locator("#drop")).to_be_visible()
    tab.dispatch_event("footer", "drop", {"dataTransfer": hand})
    expect(tab.locator("#drop")).to_be_hidden()
    wait_for_answer(tab)
    assert shown(tab) == expected(imgsearch, rooms, stranger)
    expect(tab.locator("#asked-text")).to_contain_text("my room.jpg")
    preview = tab.get_by_role("img", name="Your picture, my room.jpg")
    assert str(preview.get_attribute("src")).startswith("blob:")
    # Without a class there is nothing right or wrong, only shares.
    assert tab.locator("#tiles .mark").count() == 0
    expect(tab.locator("#accuracy")).to_be_hidden()
    shares = [float(text.rstrip("%")) for text in tab.locator("#shares b").all_inner_texts()]
    assert sum(shares) == pytest.approx(100)
    assert "row" not in given(tab)


def test_drop_of_several_takes_the_first(
    tab: Page, service: str, stranger: Path, photos: list[Path]
) -> None:
    """Of several files the first is asked, and it is said that the others are not."""
    tab.goto(service)
    drop(tab, stranger, photos[0], photos[1])
    wait_for_answer(tab)
    expect(tab.locator("#asked-text")).to_contain_text("my room.jpg")


def test_paste(tab: Page, service: str, stranger: Path) -> None:
    """A picture that is pasted is asked."""
    tab.goto(service)
    hand = carried(tab, stranger)
    tab.evaluate(
        """(carried) => document.body.dispatchEvent(new ClipboardEvent("paste", {
            clipboardData: carried, bubbles: true, cancelable: true }))""",
        hand,
    )
    wait_for_answer(tab)


def test_choose(
    tab: Page, service: str, stranger: Path, rooms: Path, imgsearch: Callable[..., Run]
) -> None:
    """A file that is chosen is asked, and so is one from a camera."""
    tab.goto(service)
    tab.set_input_files("#choose", stranger)
    wait_for_answer(tab)
    assert shown(tab) == expected(imgsearch, rooms, stranger)
    assert tab.locator("#shoot").get_attribute("capture") == "environment"
    tab.goto(service)
    tab.set_input_files("#shoot", stranger)
    wait_for_answer(tab)


# Going on


def test_click_on_a_result(
    tab: Page, service: str, rooms: Path, imgsearch: Callable[..., Run]
) -> None:
    """A result becomes the query, with its own class: marks, colours and the accuracy follow."""
    tab.goto(f"{service}/?row=0")
    wait_for_answer(tab)
    tab.locator("#tiles .tile").nth(1).click()
    row = given(tab)["row"][0]
    expect(tab.locator("#asked-text")).to_contain_text(f"Picture {row} of the index")
    wait_for_answer(tab)
    (answer,) = imgsearch("search", rooms, f"row:{row}", "--json").json["queries"]
    assert shown(tab) == [(match["row"], written(match)) for match in answer["matches"]]
    right = [match["label"] == answer["label"] for match in answer["matches"]]
    tiles = tab.locator("#tiles .tile")
    for i, is_right in enumerate(right):
        said = "right class" if is_right else "wrong class"
        expect(tiles.nth(i).locator(".mark")).to_contain_text(said)
        colour = tiles.nth(i).locator(".pic").evaluate("it => getComputedStyle(it).borderColor")
        assert colour == ("rgb(11, 99, 165)" if is_right else "rgb(194, 65, 12)")
    accuracy = answer["correspondence"]["accuracy"]
    expect(tab.locator("#accuracy")).to_contain_text(f"{SENTENCE}{100 * accuracy:.2f}%")
    expect(tab.locator("#chance")).to_contain_text("chance")
    expect(tab.locator("#status")).to_contain_text(f"{100 * accuracy:.2f}%")


def test_back_forward_and_reload(tab: Page, service: str, stranger: Path) -> None:
    """Back and forward bring each question and its answer, an uploaded picture's too."""
    sent = posts(tab)
    tab.goto(service)
    drop(tab, stranger)
    wait_for_answer(tab)
    first = shown(tab)
    tab.locator("#tiles .tile").first.click()
    expect(tab.locator("#asked-text")).to_contain_text("of the index")
    wait_for_answer(tab)
    second, address = shown(tab), tab.url
    tab.go_back()
    expect(tab.locator("#asked-text")).to_contain_text("my room.jpg")
    wait_for_answer(tab)
    assert shown(tab) == first
    # A setting after the way back still needs no new upload.
    tab.locator("#k").fill("3")
    tab.locator("#k").press("Enter")
    wait_for_answer(tab, 3)
    assert shown(tab) == first[:3]
    tab.go_back()
    wait_for_answer(tab)
    tab.go_back()
    expect(tab.get_by_role("heading", name="Which pictures look like yours?")).to_be_visible()
    tab.goto(address)
    wait_for_answer(tab)
    assert shown(tab) == second
    tab.reload()
    wait_for_answer(tab)
    assert shown(tab) == second
    assert sent == ["/v1/search", "/v1/search/vector"]


def test_way_back_leads_to_the_same_place(tab: Page, service: str) -> None:
    """Back scrolls to where one was; what is new begins at its top."""
    tab.goto(f"{service}/?row=3&k=25")
    wait_for_answer(tab, 25)
    last = tab.locator("#tiles .tile").last
    last.scroll_into_view_if_needed()
    place = tab.evaluate("scrollY")
    assert place > 500
    last.click()
    expect(tab.locator("#asked-text")).not_to_contain_text("Picture 3 of")
    wait_for_answer(tab, 25)
    assert tab.evaluate("scrollY") == 0
    tab.go_back()
    expect(tab.locator("#asked-text")).to_contain_text("Picture 3 of")
    assert tab.evaluate("scrollY") == pytest.approx(place, abs=2)


def test_upload_is_not_kept_over_a_reload_and_that_is_said(
    tab: Page, service: str, stranger: Path
) -> None:
    """After a reload the page asks for the picture again."""
    tab.goto(service)
    drop(tab, stranger)
    wait_for_answer(tab)
    tab.reload()
    expect(tab.get_by_role("alert")).to_contain_text("Choose it again")
    expect(tab.get_by_role("heading", name="Which pictures look like yours?")).to_be_visible()


def test_settings_without_a_new_upload(
    tab: Page,
    service: str,
    stranger: Path,
    rooms: Path,
    imgsearch: Callable[..., Run],
) -> None:
    """Class, scope, k and least score change the answer; the picture is sent once."""
    sent = posts(tab)
    tab.goto(service)
    drop(tab, stranger)
    wait_for_answer(tab)
    same = tab.get_by_role("radio", name="its own class")
    expect(same).to_be_disabled()
    field = tab.get_by_role("combobox", name="Class of the query")
    field.click()
    field.press_sequentially("living")
    expect(tab.get_by_role("option")).to_have_count(1)
    field.press("ArrowDown")
    field.press("Enter")
    expect(tab.locator("#accuracy")).to_contain_text(SENTENCE)
    assert given(tab)["label"] == ["living room"]
    expect(same).to_be_enabled()
    for name, scope in (("its own class", "same"), ("other classes", "other")):
        tab.get_by_role("radio", name=name).check()
        expect(tab.locator("#accuracy")).to_be_hidden()
        wait_for_answer(tab)
        assert given(tab)["scope"] == [scope]
        words = (rooms, stranger, "--label", "living room", "--scope", scope)
        assert shown(tab) == expected(imgsearch, *words)
    tab.locator("#least").fill("0.4")
    tab.locator("#least").press("Enter")
    enough = expected(imgsearch, *words, "--min-score", "0.4")
    wait_for_answer(tab, len(enough))
    assert shown(tab) == enough
    # Without its class the query cannot be asked at that scope any longer.
    tab.get_by_role("button", name="Take the class away").click()
    expect(tab.get_by_role("radio", name="all pictures")).to_be_checked()
    assert given(tab)["scope"] == ["all"]
    assert sent == ["/v1/search"] + ["/v1/search/vector"] * (len(sent) - 1)


# What can go wrong


def test_broken_file(tab: Page, service: str, stranger: Path, tmp_path: Path) -> None:
    """A picture that is cut off is sent, refused, and the service's own sentence is shown."""
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(stranger.read_bytes()[:2000])
    tab.goto(service)
    with tab.expect_response("**/v1/search") as answer:
        drop(tab, broken)
    assert answer.value.status == 415
    message = answer.value.json()["message"]
    expect(tab.get_by_role("alert")).to_contain_text(message[1:])
    assert tab.locator("#tiles .tile").count() == 0
    drop(tab, stranger)
    wait_for_answer(tab)
    expect(tab.get_by_role("alert")).to_be_empty()


def test_unfit_files_are_refused_before_they_are_sent(
    tab: Page, service: str, tmp_path: Path
) -> None:
    """What is too large, empty or no picture is told from the file itself; nothing is sent."""
    sent = posts(tab)
    tab.goto(service)
    for name, content, said in (
        ("big.jpg", b"\xff\xd8\xff" + bytes(20_000_001), "the service takes up to 20 MB"),
        ("empty.jpg", b"", "is empty"),
        ("notes.jpg", b"only words", "is not a picture that the service can read"),
        ("scan.tif", b"II*\0" + bytes(100), "is a TIFF file; the service takes JPEG"),
    ):
        file = tmp_path / name
        file.write_bytes(content)
        tab.set_input_files("#choose", file)
        expect(tab.get_by_role("alert")).to_contain_text(f"“{name}”")
        expect(tab.get_by_role("alert")).to_contain_text(said)
    assert sent == []


def test_nothing_found(tab: Page, service: str) -> None:
    """Where nothing reaches the least score the page says so and offers a way on."""
    tab.goto(f"{service}/?row=3&min_score=0.999")
    expect(tab.get_by_role("heading", name="No match")).to_be_visible()
    expect(tab.locator("#tiles")).to_contain_text("No picture reaches a score of 0.999")
    tab.get_by_role("button", name="Take any score").click()
    wait_for_answer(tab)
    assert "min_score" not in given(tab)


def test_row_that_is_not_there(tab: Page, service: str) -> None:
    """An address with a row that the index lacks, or with no number, gets a sentence."""
    tab.goto(f"{service}/?row=999999")
    expect(tab.get_by_role("alert")).to_contain_text("There is no row 999999")
    tab.goto(f"{service}/?row=%3Cb%3E")
    expect(tab.get_by_role("alert")).to_contain_text("“<b>” is no row")


def test_busy_and_gone(tab: Page, service: str) -> None:
    """A busy service and a lost connection are told apart, and asking again is one click."""
    busy = {"error": "OverloadedError", "message": "too many", "detail": {}}

    def refuse(route: Route) -> None:
        route.fulfill(status=429, json=busy, headers={"Retry-After": "3"})

    tab.route("**/similar*", refuse)
    tab.goto(f"{service}/?row=3")
    expect(tab.get_by_role("alert")).to_contain_text("busy at the moment. Try again in 3 seconds")
    tab.unroute("**/similar*")
    tab.get_by_role("button", name="Try again").click()
    wait_for_answer(tab)
    tab.context.set_offline(True)
    tab.get_by_role("radio", name="other classes").check()
    expect(tab.get_by_role("alert")).to_contain_text("cannot be reached")
    tab.context.set_offline(False)
    tab.get_by_role("button", name="Try again").click()
    wait_for_answer(tab)
    assert given(tab)["scope"] == ["other"]
    expect(tab.get_by_role("alert")).to_be_empty()


def test_names_stay_text(tab: Page, service: str) -> None:
    """Labels and paths that look like markup, turn the line or never end are shown as text."""

    def spoil(route: Route) -> None:
        answer = route.fetch()
        data = answer.json()
        for match, name in zip(data["queries"][0]["matches"], HOSTILE, strict=True):
            match["label"] = match["path"] = name
        route.fulfill(response=answer, json=data)

    tab.route("**/similar*", spoil)
    tab.goto(f"{service}/?row=3")
    wait_for_answer(tab)
    labels = tab.locator("#tiles .name").all_inner_texts()
    assert labels == [HOSTILE[0], HOSTILE[1], "a\\u202eb\\nc", HOSTILE[3], HOSTILE[4]]
    assert tab.locator("#tiles script, #tiles img[src=x]").count() == 0
    assert tab.evaluate("document.documentElement.scrollWidth") <= 1280


# With a key


def test_key(browser: Browser, rooms: Path, stranger: Path) -> None:
    """A service with a key asks for it once; pictures come with it, too, and are let go of."""
    with serving(rooms, "--api-key", KEY) as service, opened(browser) as tab:
        tab.goto(f"{service}/?row=3")
        form = tab.get_by_role("dialog", name="API key")
        expect(form).to_be_visible()
        form.get_by_label("Key", exact=True).fill("wrong-key-of-the-tests")
        form.get_by_role("button", name="Use this key").click()
        expect(form).to_contain_text("did not take this key")
        form.get_by_label("Key", exact=True).fill(KEY)
        form.get_by_label("Key", exact=True).press("Enter")
        wait_for_answer(tab)
        expect(form).to_be_hidden()
        picture = tab.locator("#tiles img").first
        expect(picture).to_have_attribute("src", re.compile("^blob:"))
        kept = picture.get_attribute("src")
        assert tab.evaluate("sessionStorage.getItem('imgsearch-key')") == KEY
        assert tab.evaluate("localStorage.length") == 0
        drop(tab, stranger)
        expect(tab.locator("#asked-text")).to_contain_text("my room.jpg")
        wait_for_answer(tab)
        lost = tab.evaluate(
            """(url) => new Promise((resolve) => {
                const image = new Image();
                image.onload = () => resolve(false);
                image.onerror = () => resolve(true);
                image.src = url;
            })""",
            kept,
        )
        assert lost
        tab.goto(f"{service}/?view=classes")
        expect(tab.locator(".matrix")).to_be_visible()
        tab.reload()
        expect(tab.locator(".matrix")).to_be_visible()
        expect(form).to_be_hidden()


def test_key_can_be_left_out(browser: Browser, rooms: Path) -> None:
    """Whoever cancels the form is told why nothing is shown, and can still give the key."""
    with serving(rooms, "--api-key", KEY) as service, opened(browser) as tab:
        tab.goto(f"{service}/?row=3")
        tab.get_by_role("button", name="Cancel").click()
        expect(tab.get_by_role("alert")).to_contain_text("answers only with a key")
        tab.get_by_role("button", name="Enter the key").click()
        tab.get_by_label("Key", exact=True).fill(KEY)
        tab.get_by_role("button", name="Use this key").click()
        wait_for_answer(tab)


# Classes


def test_classes_and_a_cell(
    tab: Page, service: str, rooms: Path, imgsearch: Callable[..., Run]
) -> None:
    """Classes, figures and matrix are those of `evaluate`; a cell opens its pictures."""
    report = imgsearch("evaluate", rooms, "--json").json
    tab.goto(service)
    tab.get_by_role("link", name="Classes").click()
    low, high = report["intervals"]["precision_at_k"]
    lead = tab.locator(".lead")
    expect(lead).to_contain_text(f"{100 * report['overall']['precision_at_k']:.2f}%")
    expect(lead).to_contain_text(f"95% interval {100 * low:.2f}% to {100 * high:.2f}%")
    expect(lead).to_contain_text(f"chance {100 * report['chance']['precision_at_k']:.2f}%")
    for label, figures in report["per_class"].items():
        line = tab.locator("table.classes tbody tr").filter(
            has=tab.get_by_role("link", name=label, exact=True)
        )
        expect(line).to_contain_text(f"{100 * figures['precision_at_k']:.2f}%")
        expect(line).to_contain_text(f"chance {100 * figures['chance']['precision_at_k']:.2f}%")
    names, shares = (report["correspondence"][key] for key in ("labels", "matrix"))
    cells = tab.locator(".matrix tbody tr").evaluate_all(
        "rows => rows.map(row => [...row.cells].slice(1).map(cell => cell.textContent))"
    )
    assert cells == [[f"{100 * share:.2f}" for share in row] for row in shares]
    i, j = next(
        (i, j)
        for i, row in enumerate(shares)
        for j, share in enumerate(row)
        if i != j and share > 0
    )
    tab.locator(".matrix tbody tr").nth(i).locator("td").nth(j).locator("a").click()
    assert given(tab) == {"view": ["classes"], "cell": [names[i]], "with": [names[j]]}
    expect(tab.locator(".cases > li").first).to_be_visible()
    queries = tab.locator(".cases > li > .tile")
    rows = [
        int(parse_qs(urlsplit(str(one.get_attribute("href"))).query)["row"][0])
        for one in queries.all()
    ]
    wanted = {
        int(query["query"].removeprefix("row:"))
        for query in report["queries"]
        if query["label"] == names[i] and any(m["label"] == names[j] for m in query["matches"])
    }
    assert set(rows) == wanted
    found = tab.locator(".cases .tiles .name").all_inner_texts()
    assert set(found) == {names[j]}
    queries.first.click()
    wait_for_answer(tab)
    assert given(tab)["row"] == [str(rows[0])]
    tab.go_back()
    tab.go_back()
    expect(tab.locator(".matrix")).to_be_visible()


def test_class_page(tab: Page, service: str, rooms: Path, imgsearch: Callable[..., Run]) -> None:
    """A class shows its pictures and its figures; a picture leads to its search, Search back."""
    counts = imgsearch("info", rooms, "--json").json["classes"]
    label = max(counts, key=counts.__getitem__)
    tab.goto(f"{service}/?view=classes")
    tab.locator("table.classes").get_by_role("link", name=label, exact=True).click()
    expect(tab.get_by_role("heading", name=label)).to_be_visible()
    expect(tab.locator("#classes .tile")).to_have_count(counts[label])
    expect(tab.locator("#classes > .soft")).to_contain_text("accuracy")
    tab.locator("#classes .tile").first.click()
    wait_for_answer(tab)
    address = tab.url
    tab.get_by_role("link", name="Classes").click()
    expect(tab.locator(".matrix")).to_be_visible()
    tab.get_by_role("link", name="Search", exact=True).click()
    wait_for_answer(tab)
    assert tab.url == address


def test_many_classes(tab: Page, service: str) -> None:
    """With 5,000 classes the page holds few elements at once, and a class is found by its name."""
    classes = {f"class {i:04d}": 4 for i in range(5000)}
    figure = {"precision_at_k": 0.5}
    evaluation = {
        "ready": True, "k": 5, "n_queries": 2000, "sampled": True, "overall": figure,
        "intervals": {"precision_at_k": [0.4, 0.6]}, "chance": figure, "per_class": {
            "class 0007": {"n": 1, **figure, "chance": figure, "intervals": {}}
        },
        "correspondence": {"labels": list(classes), "matrix": None},
        "confusions": [{"query_label": "class 0007", "match_label": "class 0001", "share": 0.4}],
    }  # fmt: skip

    def widen(route: Route) -> None:
        answer = route.fetch()
        route.fulfill(response=answer, json={**answer.json(), "classes": classes, "count": 20_000})

    tab.route("**/v1/index", widen)
    tab.route("**/v1/evaluation?*", lambda route: route.fulfill(json=evaluation))
    tab.goto(f"{service}/?view=classes")
    expect(tab.locator(".lead")).to_contain_text("2,000 of 20,000 pictures")
    assert tab.locator(".matrix").count() == 0
    assert tab.evaluate("document.querySelectorAll('*').length") < 2000
    expect(tab.locator(".pairs")).to_contain_text("class 0007")
    tab.get_by_label("Find a class").fill("0007")
    expect(tab.locator("table.classes tbody tr")).to_have_count(1)
    tab.goto(f"{service}/?row=3")
    wait_for_answer(tab)
    field = tab.get_by_role("combobox", name="Class of the query")
    field.click()
    expect(tab.get_by_role("option").first).to_be_visible()
    assert tab.get_by_role("option").count() == 50
    expect(tab.locator("#label-more")).to_contain_text("4,950 more")
    field.press("Escape")
    expect(tab.locator("#label-pop")).to_be_hidden()


def test_index_without_model_or_classes(
    browser: Browser,
    tmp_path: Path,
    imgsearch: Callable[..., Run],
) -> None:
    """An imported index is asked by its own pictures; where one is gone, that is said."""
    vectors = np.random.default_rng(1).normal(size=(70, 8)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    np.save(tmp_path / "v.npy", vectors)
    lines = ["path,label", *(f"{i}.jpg," for i in range(70))]
    (tmp_path / "items.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    index = tmp_path / "imported"
    assert imgsearch("import", tmp_path / "v.npy", tmp_path / "items.csv", index).code == 0
    with serving(index) as service, opened(browser) as tab:
        tab.goto(service)
        expect(tab.get_by_role("heading", name="Which pictures look alike?")).to_be_visible()
        assert tab.locator("input[type=file]").count() == 0
        tab.locator("#samples .tile").first.click()
        wait_for_answer(tab)
        expect(tab.locator("#tiles").get_by_text("no picture").first).to_be_visible()
        tab.get_by_role("link", name="Pictures").click()
        expect(tab.locator("#classes .tile")).to_have_count(60)
        tab.get_by_role("button", name="Show 10 more").click()
        expect(tab.locator("#classes .tile")).to_have_count(70)
        expect(tab.get_by_role("button", name="Show")).to_have_count(0)


# For everybody


def test_by_keyboard(tab: Page, service: str) -> None:
    """All is reached by keys: past the head, to a result and its search, through the matrix."""
    tab.goto(f"{service}/?row=3")
    wait_for_answer(tab)
    tab.keyboard.press("Tab")
    assert tab.evaluate("document.activeElement.textContent") == "Skip to the content"
    outline = tab.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid"
    tab.locator("#tiles .tile").first.focus()
    tab.keyboard.press("Enter")
    expect(tab.locator("#found-title")).to_be_focused()
    wait_for_answer(tab)
    tab.goto(f"{service}/?view=classes")
    stop = tab.locator(".matrix a[tabindex='0']")
    expect(stop).to_have_count(1)
    stop.focus()
    tab.keyboard.press("ArrowRight")
    href = str(tab.evaluate("document.activeElement.getAttribute('href')"))
    assert "cell=" in href
    expect(stop).to_have_count(1)
    tab.keyboard.press("Enter")
    expect(tab.locator(".cases > li").first).to_be_visible()
    assert urlsplit(tab.url).query == href.removeprefix("?")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_phone(browser: Browser, service: str, scheme: str) -> None:
    """On 360 pixels nothing is wider than the screen, and a match is in sight at once."""
    screen = {"width": 360, "height": 740}
    with opened(
        browser, viewport=screen, color_scheme=scheme, is_mobile=True, has_touch=True
    ) as tab:
        for words, ready in (
            ("", "#samples .tile"),
            ("?row=3", "#tiles .tile"),
            ("?view=classes", ".matrix"),
            ("?view=classes&label=bedroom", "#classes .tile"),
            ("?view=classes&cell=bedroom&with=bedroom", ".cases .tile"),
        ):
            tab.goto(f"{service}/{words}")
            expect(tab.locator(ready).first).to_be_visible()
            assert tab.evaluate("document.documentElement.scrollWidth") <= 360
            if words == "?row=3":
                tab.locator("#settings summary").click()
                expect(tab.get_by_role("radio", name="other classes")).to_be_visible()
                assert tab.evaluate("document.documentElement.scrollWidth") <= 360
                tab.locator("#settings summary").click()
                box = tab.locator("#tiles .pic").first.bounding_box()
                assert box
                assert box["y"] + box["height"] / 2 < 740
                expect(tab.locator("label[for=shoot]")).to_be_visible()
        expect(tab.locator("label[for=shoot]")).to_be_hidden()
        tab.goto(service)
        expect(tab.locator("label[for=shoot]")).to_be_visible()


def test_dark(browser: Browser, service: str) -> None:
    """The page follows the system's dark mode."""
    with opened(browser, color_scheme="dark") as tab:
        tab.goto(service)
        colours = tab.evaluate(
            """["backgroundColor", "color"].map((name) => getComputedStyle(document.body)[name])"""
        )
        assert colours == ["rgb(18, 21, 25)", "rgb(232, 235, 239)"]


def test_reduced_motion(browser: Browser, service: str) -> None:
    """Who wants no motion gets none."""
    with opened(browser, reduced_motion="reduce") as tab:
        tab.goto(f"{service}/?row=3")
        wait_for_answer(tab)
        assert tab.evaluate("document.getAnimations().length") == 0
        moving = tab.locator("#found").evaluate("it => getComputedStyle(it).transitionDuration")
        assert moving == "0s"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious(
    browser: Browser, service: str, stranger: Path, scheme: str
) -> None:
    """In every state of the page axe finds no serious and no critical fault."""
    axe = Axe()

    def check(tab: Page) -> None:
        found = axe.run(tab).response["violations"]
        assert [
            (fault["id"], [node["html"] for node in fault["nodes"]])
            for fault in found
            if fault["impact"] in {"serious", "critical"}
        ] == []

    with opened(browser, color_scheme=scheme) as tab:
        tab.goto(service)
        expect(tab.locator("#samples .tile").first).to_be_visible()
        check(tab)
        drop(tab, stranger)
        wait_for_answer(tab)
        check(tab)
        for words, ready in (
            ("?row=3", "#tiles .tile"),
            ("?row=3&min_score=1", ".nothing"),
            ("?row=99999", ".box"),
            ("?view=classes", ".matrix"),
            ("?view=classes&label=bedroom", "#classes .tile"),
            ("?view=classes&cell=bedroom&with=bedroom", ".cases .tile"),
        ):
            tab.goto(f"{service}/{words}")
            expect(tab.locator(ready).first).to_be_visible()
            check(tab)
        tab.goto(f"{service}/?row=3")
        wait_for_answer(tab)
        tab.get_by_role("combobox", name="Class of the query").click()
        expect(tab.get_by_role("option").first).to_be_visible()
        check(tab)
        tab.evaluate("document.querySelector('#key').showModal()")
        check(tab)


def test_the_description_is_drawn_from_here(tab: Page, service: str) -> None:
    """/docs loads its style sheet from the service and nothing else, and has no serious fault."""
    loaded: list[str] = []
    failed: list[int] = []
    tab.on("request", lambda request: loaded.append(request.url))
    tab.on("response", lambda answer: failed.append(answer.status) if not answer.ok else None)
    tab.goto(f"{service}/docs", wait_until="networkidle")
    assert (loaded, failed) == ([f"{service}/docs", f"{service}/static/docs.css"], [])
    expect(tab.get_by_role("heading", name="POST /v1/search", exact=True)).to_be_visible()
    expect(tab.locator("#ErrorBody")).to_contain_text("message")
    found = Axe().run(tab).response["violations"]
    assert [one["id"] for one in found if one["impact"] in {"serious", "critical"}] == []
