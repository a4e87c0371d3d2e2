"""The pages in a real browser: by mouse, keyboard and camera, wide and narrow, light and dark."""

import base64
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from readme_pictures import CHROMIUM, DRIVER, chrome
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.wait import WebDriverWait
from serving import Server, picture, serving, write_run
from small_models import CLASSES

from resnext_jax import load_run, runs

pytestmark = pytest.mark.skipif(not CHROMIUM or not DRIVER, reason="chromium or its driver is not installed")

PHONE, DESKTOP = (390, 844), (1280, 900)


class Browser:
    """A page of a server, and what a user does on it."""

    def __init__(self, driver: webdriver.Chrome):
        self.driver = driver

    def open(self, url: str, size: tuple[int, int] = DESKTOP, scheme: str = "light") -> None:
        width, height = size
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": size == PHONE}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        media = [{"name": "prefers-color-scheme", "value": scheme}]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": media})
        self.driver.get_log("browser")  # forgets what other pages have left
        self.driver.get(url)

    def __call__(self, script: str, *arguments: object) -> Any:
        return self.driver.execute_script(script, *arguments)

    def find(self, selector: str) -> WebElement:
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def texts(self, selector: str) -> list[str]:
        return [element.text for element in self.driver.find_elements(By.CSS_SELECTOR, selector)]

    def until(self, condition: Callable[[], Any]) -> Any:
        return WebDriverWait(self.driver, 60).until(lambda _: condition())

    def until_status(self, text: str) -> None:
        self.until(lambda: text in self.find("#status").text)

    def complaints(self) -> list[str]:
        """What the browser has logged: errors of the script, and what the page's policy forbids."""
        return [entry["message"] for entry in self.driver.get_log("browser")]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    driver = chrome("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream")
    yield Browser(driver)
    driver.quit()


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    return write_run(tmp_path_factory.mktemp("browser") / "Läsionen", history=HISTORY)


@pytest.fixture(scope="module")
def server(run) -> Iterator[Server]:
    with serving("serve", run, "--batch-size", 1, "--devices", 1, "--max-megabytes", 0.5) as server:
        yield server


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> list[Path]:
    folder = tmp_path_factory.mktemp("images")
    files = [folder / name for name in ("one.jpg", "two <b>.png", "three.webp")]
    for seed, (file, kind) in enumerate(zip(files, ("JPEG", "PNG", "WEBP"), strict=True)):
        file.write_bytes(picture(seed, kind))
    return files


def row(epoch: int, train: float, val: float) -> runs.Row:
    losses = {"train_loss": 3 - 2 * train, "val_loss": 3 - 2 * val}
    return {"epoch": epoch, "step": 4 * epoch, "train_top1": train, "val_top1": val, "seconds": 7.0} | losses


HISTORY = [row(1, 0.5, 0.4), row(2, 0.75, 0.625)]


def choose(browser: Browser, *files: Path) -> None:
    browser.find("#files").send_keys("\n".join(map(str, files)))


def cards(browser: Browser) -> dict[str, list[str]]:
    """The classes of each card, the first one first, or its error."""
    script = """return [...document.querySelectorAll(".card")].map((card) => [
      card.querySelector("h2").textContent,
      [...card.querySelectorAll(".classes .name, .state")].map((each) => each.textContent),
    ])"""
    return dict(browser(script))


def test_several_images_are_classified(browser, server, run, images):
    browser.open(server.url)
    browser.until(lambda: browser.find("#run").text == "Läsionen")
    assert all(name in browser.find("#about").text for name in CLASSES)
    assert "0.5 MB" in browser.find("#limits").text
    assert f"{server.url}predict" in browser.find("#example").get_attribute("textContent")
    choose(browser, *images)
    browser.until_status("3 images classified")
    tops = load_run(run).predict(images).top(3)
    assert cards(browser) == {
        file.name: [name for name, _ in top] for file, top in zip(images, tops, strict=True)
    }
    [(_, probability), *_] = tops[-1]
    assert browser.texts(".value")[0].endswith(f"{100 * probability:.1f} %")  # the last image comes first
    # Every image is shown, everything comes from this server, and nothing is complained about.
    assert browser("return [...document.images].every((image) => image.naturalWidth > 0)")
    loaded = browser("return performance.getEntriesByType('resource').map((entry) => entry.name)")
    assert loaded
    assert all(address.startswith((server.url, f"blob:{server.url}")) for address in loaded)
    assert browser.complaints() == []


def test_one_image_is_told_in_words(browser, server, images):
    browser.open(server.url)
    choose(browser, images[0])
    browser.until_status("one.jpg: ")
    [top, *_] = cards(browser)["one.jpg"]
    assert browser.find("#status").text.startswith(f"one.jpg: {top}, ")
    assert browser.find("#status").aria_role == "status"


def test_a_class_shows_its_heat_map(browser, server, images):
    browser.open(server.url)
    choose(browser, images[0])
    browser.until_status("one.jpg: ")
    names = cards(browser)["one.jpg"]
    seen = set()
    for name, button in zip(
        names, browser.driver.find_elements(By.CSS_SELECTOR, ".classes button"), strict=True
    ):
        button.click()
        pressed = browser(
            "return [...document.querySelectorAll('.classes button')].map((b) => b.ariaPressed)"
        )
        assert [each == "true" for each in pressed] == [each == name for each in names]
        picture = browser.find("figure .map")
        assert picture.get_attribute("alt") == f"Heat map of {name}"
        assert browser.find("figcaption").text == name
        browser.until(lambda: browser("return document.querySelector('.map').naturalWidth > 0"))
        seen.add(picture.get_attribute("src"))
    assert len(seen) == len(names)


def test_a_bad_image_is_told_and_the_others_are_classified(browser, server, images, tmp_path):
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / "large.png").write_bytes(bytes(600_000))
    browser.open(server.url)
    browser.until(lambda: browser.find("#limits").text)
    choose(browser, images[0], tmp_path / "notes.txt", tmp_path / "large.png", images[2])
    browser.until_status("2 of 4 images classified")
    found = cards(browser)
    assert found["notes.txt"][0].startswith("not an image")
    assert found["large.png"] == ["larger than 0.5 MB"]
    assert len(found["one.jpg"]) == len(found["three.webp"]) == 3


GIVE = """
const [kind, name, bytes] = arguments;
const data = new DataTransfer();
data.items.add(new File([Uint8Array.from(bytes)], name, { type: "image/png" }));
const event = kind === "paste"
  ? new ClipboardEvent("paste", { clipboardData: data, bubbles: true })
  : new DragEvent(kind, { dataTransfer: data, bubbles: true, cancelable: true });
document.getElementById("drop").dispatchEvent(event);
"""


def test_images_are_dropped_and_pasted(browser, server):
    browser.open(server.url)
    browser(GIVE, "dragover", "dropped.png", list(picture(1, "PNG")))
    assert browser.find("#drop").get_attribute("class") == "over"
    browser(GIVE, "drop", "dropped.png", list(picture(1, "PNG")))
    browser(GIVE, "paste", "pasted.png", list(picture(2, "PNG")))
    browser.until_status("2 images classified")
    assert list(cards(browser)) == ["pasted.png", "dropped.png"]
    assert browser.find("#drop").get_attribute("class") == ""


def test_a_photo_is_taken(browser, server):
    browser.open(server.url)
    browser.find("#photo").click()
    video = "document.querySelector('video')"
    browser.until(lambda: browser(f"return {video}.videoWidth > 0"))
    browser.find("#shutter").click()
    browser.until_status("photo ")
    [(name, classes)] = cards(browser).items()
    assert name.startswith("photo ")
    assert len(classes) == 3
    assert not browser.find("#camera").is_displayed()
    states = browser(f"return {video}.srcObject.getTracks().map((track) => track.readyState)")
    assert set(states) == {"ended"}  # the camera is off


def test_the_keyboard_reaches_everything(browser, server, images):
    browser.open(server.url)
    choose(browser, images[0])
    browser.until_status("one.jpg: ")
    browser("document.activeElement.blur()")
    reached = []
    for _ in range(5):
        webdriver.ActionChains(browser.driver).send_keys(Keys.TAB).perform()
        element = browser.driver.switch_to.active_element
        reached.append(element.accessible_name)
        shown = element if element.tag_name != "input" else element.find_element(By.XPATH, "..")
        assert shown.value_of_css_property("outline-style") == "solid"  # where the focus is, is seen
    assert reached[:4] == ["How it was trained", "Choose images", "Take a photo", "Clear"]
    assert reached[4].startswith(cards(browser)["one.jpg"][0])  # its classes are buttons
    browser.find("#clear").send_keys(Keys.ENTER)
    assert cards(browser) == {}
    assert browser.driver.switch_to.active_element.get_attribute("id") == "files"


CONTRAST = """
const channel = (c) => (c / 255 <= 0.03928 ? c / 255 / 12.92 : ((c / 255 + 0.055) / 1.055) ** 2.4);
const light = ([r, g, b]) => 0.2126 * channel(r) + 0.7152 * channel(g) + 0.0722 * channel(b);
const numbers = (color) => color.match(/[\\d.]+/g).map(Number);
function ground(element) {
  for (let e = element; e; e = e.parentElement) {
    const color = numbers(getComputedStyle(e).backgroundColor);
    if (color.length === 3 || color[3] === 1) return color;
  }
}
const found = {};
for (const element of document.querySelectorAll("body *")) {
  const own = [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
  if (!own || !element.checkVisibility() || element instanceof SVGElement) continue;
  const lights = [light(numbers(getComputedStyle(element).color)), light(ground(element))];
  const [low, high] = lights.sort((a, b) => a - b);
  found[`${element.tagName} ${element.textContent.slice(0, 20)}`] = (high + 0.05) / (low + 0.05);
}
return found;
"""


@pytest.mark.parametrize("size", [PHONE, DESKTOP], ids=["phone", "desktop"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_pages_fit_the_screen_and_can_be_read(browser, server, images, tmp_path, size, scheme):
    long = tmp_path / f"{'a_very_long_name_' * 8}.jpg"
    long.write_bytes(picture(1))
    (tmp_path / "notes.txt").write_text("no image")
    for path in ("", "watch"):
        browser.open(server.url + path, size, scheme)
        if path:
            browser.until(lambda: browser.texts(".legend span"))
        else:
            choose(browser, long, tmp_path / "notes.txt")
            browser.until_status("1 of 2")
        ground = browser("return getComputedStyle(document.body).backgroundColor")
        dark = sum(json.loads(ground.replace("rgb(", "[").replace(")", "]"))) < 3 * 128
        assert dark == (scheme == "dark")
        assert browser("return document.documentElement.scrollWidth <= innerWidth")
        contrasts = browser(CONTRAST)
        assert len(contrasts) > 5
        assert {text: ratio for text, ratio in contrasts.items() if ratio < 4.5} == {}  # WCAG AA


def test_a_run_under_way_is_watched(browser, tmp_path):
    directory = write_run(tmp_path / "under way", history=[])
    with serving("watch", directory) as server:
        browser.open(server.url)
        browser.until_status("No epoch is done yet")
        assert not browser.find("#classify").is_displayed()
        runs.write_history(directory, HISTORY)
        browser.until_status("Epoch 2 of 3 is done")
        assert "the best is epoch 2: top-1 62.5 %, loss 1.750" in browser.find("#status").text
        assert browser.find("#age").text.endswith(" ago. An epoch takes 7 s.")
        hours_ago = time.time() - 7200
        os.utime(directory / "history.jsonl", (hours_ago, hours_ago))
        browser.until(
            lambda: browser.find("#age").text == "2.0 h ago. An epoch takes 7 s. It seems to have stopped."
        )
        charts = browser.driver.find_elements(By.CSS_SELECTOR, ".chart svg")
        assert [len(chart.find_elements(By.CSS_SELECTOR, "circle:not(.best)")) for chart in charts] == [4, 4]
        assert [len(chart.find_elements(By.CSS_SELECTOR, ".best")) for chart in charts] == [1, 1]
        assert not browser.find("#monitored").is_displayed()
        assert charts[0].accessible_name.endswith("training 75.0 %, validation 62.5 %")
        assert charts[0].aria_role in ("img", "image")
        # An epoch that diverged: it is left out of the curves, and said in the table.
        runs.write_history(directory, [*HISTORY, row(3, 0.5, float("nan"))])
        runs.write_json(directory / "summary.json", {"epochs": 3})
        browser.until_status("Finished after 3 epochs; the best is epoch 2")
        browser.find("summary").click()
        cells = browser.texts("tbody tr:first-child td")
        assert cells[0] == "3"
        assert cells.count("not finite") == 2
        assert browser.complaints() == []
        shutil.rmtree(directory)
        browser.until_status("no run here")


def test_the_last_validation_and_what_is_monitored_are_watched(browser, tmp_path):
    history = [each | {"val_roc_auc": 0.8 + each["epoch"] / 50} for each in HISTORY]
    directory = write_run(tmp_path / "run", history=history)
    config = runs.read_config(directory)
    runs.write_json(directory / runs.CONFIG, config | {"config": {"epochs": 3, "monitor": "roc_auc"}})
    with serving("watch", directory) as server:
        browser.open(server.url)
        browser.until_status("the best is epoch 2: ROC-AUC 0.8400, top-1 62.5 %, loss 1.750")
        assert not browser.find("#pictures").is_displayed()
        chart = browser.find("#monitored")
        assert "ROC-AUC" in chart.text
        assert len(chart.find_elements(By.CSS_SELECTOR, "circle:not(.best)")) == 2
        assert len(chart.find_elements(By.CSS_SELECTOR, ".best")) == 1
        assert chart.find_element(By.CSS_SELECTOR, "svg").accessible_name.endswith("validation 0.8400")
        image = {"name": "<b>1.jpg", "true": "ring", "predicted": "ring", "probability": 0.91}
        image |= {"picture": "data:image/jpeg;base64," + base64.b64encode(picture(1)).decode()}
        images = [image | {"name": "2.jpg", "true": "scales"}, image]
        runs.write_json(directory / runs.PICTURES, {"epoch": 2, "images": images})
        browser.until(lambda: len(browser.texts("#gallery li")) == 2)
        assert browser.texts("#gallery li") == ["ring 91 %\nis scales\n2.jpg", "ring 91 %\n<b>1.jpg"]
        assert "After epoch 2" in browser.find("#pictured").text
        widths = "return [...document.querySelectorAll('#gallery img')].map((each) => each.naturalWidth)"
        browser.until(lambda: browser(widths) == [48, 48])
        assert browser.find("#gallery img").get_attribute("alt") == "2.jpg: an image of scales"
        assert browser.complaints() == []


def test_a_served_run_shows_how_it_was_trained(browser, server):
    browser.open(server.url)
    browser.find("nav a").click()
    browser.until_status("Epoch 2 of 3 is done")
    chart = browser.find(".chart svg")
    webdriver.ActionChains(browser.driver).move_to_element_with_offset(chart, 200, 0).perform()
    browser.until(lambda: "epoch 2" in browser.find(".legend").text)
    assert "validation 62.5 %" in browser.find(".legend").text
    browser.find("#classify").click()
    browser.until(lambda: browser.find("#files"))
