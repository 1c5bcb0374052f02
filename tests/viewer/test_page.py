"""The page in a real browser: what is drawn, what is under the cross, what leaves the machine."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import PIL.Image
import pytest

from mambamed import classify, evaluate, prepare, train
from mambamed.io.points import write_points
from mambamed.io.probabilities import Probabilities, write_probabilities
from mambamed.viewer import open_subject
from tests.real_data import DATA
from tests.viewer import scenes
from tests.viewer.browser import Browser, find_browser

pytestmark = pytest.mark.skipif(find_browser() is None, reason="no Chromium (apt-get install chromium)")
SKULLS, ORGANS, BRATS, STROKE = (
    DATA / name for name in ("mouse_skull_landmarks", "ct_organs", "brats_tcia", "stroke_severity")
)


SMALL = (720, 420)  # without a graphics card, every pixel costs time

# Volumes arrive when `holds[name]` is called, if it is true; each knows the name that it was asked by.
HELD = """
window.holds = {t1c: true};
window.settled = () => new Promise((done) => setTimeout(done, 300));
const load = mambamed.load.bind(mambamed);
mambamed.load = async (volume, signal) => {
  const made = await load(volume, signal);
  if (holds[volume.name]) await new Promise((done) => { holds[volume.name] = done; });
  made.asked = volume.name;
  return made;
};
"""


@pytest.fixture(scope="module")
def browser():
    browser = Browser(*SMALL)
    yield browser
    browser.close()


def open_page(browser: Browser, server) -> None:
    """Open a page and wait until its first case is drawn."""
    browser.open("about:blank")
    browser.open(server.url)
    browser.wait("window.mambamed?.shown && !mambamed.scene.waiting", 120)


def check_calm(browser: Browser, server) -> None:
    """Nothing was asked of anybody else, and nothing went wrong."""
    assert list(browser.complaints) == []
    assert [a for a in browser.requests if not a.startswith((server.url, "data:", "about:"))] == []


def drawn_lines(browser: Browser) -> int:
    """Number of pixels that the lines on top of the planes cover."""
    return browser.run(
        "(() => { const c = document.getElementById('lines'); const d = c.getContext('2d')"
        ".getImageData(0, 0, c.width, c.height).data; let n = 0; for (let i = 3; i < d.length; i += 4)"
        " n += d[i] > 0; return n; })()"
    )


def bright_pixels(browser: Browser) -> int:
    """Number of pixels of the volumes' canvas that are not black."""
    return browser.run(
        "new Promise((done) => { const { nv } = mambamed.scene; nv.constructor.prototype.drawScene.call(nv);"
        " const { gl } = nv; const d = new Uint8Array(gl.canvas.width * gl.canvas.height * 4);"
        " gl.readPixels(0, 0, gl.canvas.width, gl.canvas.height, gl.RGBA, gl.UNSIGNED_BYTE, d);"
        " let n = 0; for (let i = 0; i < d.length; i += 4) n += d[i] + d[i + 1] + d[i + 2] > 60; done(n); })"
    )


def test_an_evaluation_shows_its_worst_case_first(browser, tmp_path) -> None:
    evaluation = scenes.mask_evaluation(tmp_path)
    rows = [line.split(",") for line in (evaluation / "cases.csv").read_text().splitlines()[1:]]
    worst = min((row for row in rows if row[2]), key=lambda row: float(row[2]))[0]
    with scenes.viewed(evaluation) as server:
        open_page(browser, server)
        assert browser.run("mambamed.state.id") == worst
        assert bright_pixels(browser) > 5000 and drawn_lines(browser) > 1000
        assert browser.run("document.getElementById('filter').getBoundingClientRect().top") < 100
        truth = np.asarray(nib.load(tmp_path / "data" / worst / f"{worst}-seg.nii.gz").dataobj)
        answer = np.asarray(nib.load(tmp_path / "predictions" / f"{worst}.nii.gz").dataobj)
        counts = browser.run("mambamed.state.layers.differences().counts")
        differs = truth != answer
        assert counts == [
            int((differs & (answer == 0)).sum()),
            int((differs & (truth == 0)).sum()),
            int((differs & (truth > 0) & (answer > 0)).sum()),
        ]
        browser.run(HELD)
        browser.press("2")
        browser.press("3")
        browser.wait("mambamed.scene.volume.asked === 't2w'")
        browser.run("holds['t1c'](), settled()")
        assert browser.run("mambamed.scene.volume.asked") == "t2w"
        browser.run("holds.prediction = true")
        browser.press("ArrowDown")
        browser.wait("typeof holds.prediction === 'function'")
        browser.run("holds.old = holds.prediction; delete holds.prediction")
        browser.press("ArrowDown")
        browser.wait("mambamed.shown")
        browser.run("holds.old(), settled()")
        assert browser.run("mambamed.state.id") == "HEAD-0002"
        assert browser.run("mambamed.state.layers.masks") == []  # it has none
        check_calm(browser, server)
        browser.open(server.url + "report.html")  # each row leads to its case in the window of the viewer
        browser.wait("document.querySelectorAll('table.sortable tbody a').length > 0")
        browser.run("window.name = 'viewer'")
        name = browser.run("document.querySelector('table.sortable tbody tr:last-child a').textContent")
        browser.run("document.querySelector('table.sortable tbody tr:last-child a').scrollIntoView()")
        browser.click("table.sortable tbody tr:last-child a")
        assert name.startswith("HEAD-")
        browser.wait(f"window.mambamed?.state.id === {json.dumps(name)}")


@pytest.fixture(scope="module")
def oblique(tmp_path_factory):
    """Image, mask and server of an oblique case."""
    image, mask = scenes.oblique_case(tmp_path_factory.mktemp("oblique"))
    with scenes.viewed(image, references=mask) as server:
        yield image, mask, server


def test_the_voxel_under_the_cross_is_that_of_nibabel(browser, oblique) -> None:
    image, mask, server = oblique
    open_page(browser, server)
    for point in scenes.world_points(20):
        browser.run(f"mambamed.scene.moveTo({point.tolist()})")
        under = browser.run("mambamed.under")
        assert np.allclose(under["mm"], point, atol=0.01)
        assert under["value"] == scenes.nibabel_value(image, point)
        assert under["labels"][0]["value"] == scenes.nibabel_value(mask, point)
    drawn = browser.run("mambamed.scene.nv.volumes[0].getValue(...mambamed.under.voxel)")
    assert drawn == under["value"]  # NiiVue shows the same voxel
    check_calm(browser, server)


def test_labels_and_layers_can_be_switched(browser, oblique) -> None:
    """On the page that is open already, unless this test runs alone."""
    server = oblique[2]
    if not browser.run("location.href").startswith(server.url):
        open_page(browser, server)
    browser.run("mambamed.goLargest(), mambamed.lines.draw()")
    before = drawn_lines(browser)
    browser.press("o")
    browser.run("mambamed.lines.draw()")
    assert drawn_lines(browser) < before
    assert browser.run("new Set(mambamed.state.layers.filled().indices).size") == 3
    browser.run("document.querySelector('.labels input').click()")
    browser.wait("new Set(mambamed.state.layers.filled().indices).size === 2")
    browser.press("f")
    browser.wait("mambamed.state.layers.filled() === null && mambamed.scene.fill === null")
    check_calm(browser, server)


def test_pairs_of_landmarks_have_their_distance(browser, tmp_path) -> None:
    scenes.tiny_image(tmp_path / "images" / "a.nii.gz")
    (tmp_path / "found").mkdir()
    (tmp_path / "truth").mkdir()
    write_points(tmp_path / "found" / "a.mrk.json", {"apex": (43.0, 64.0, 40.0), "base": (60.0, 60.0, 60.0)})
    write_points(tmp_path / "truth" / "a.mrk.json", {"apex": (40.0, 60.0, 40.0), "base": None})
    with scenes.viewed(
        tmp_path / "found", images=tmp_path / "images", references=tmp_path / "truth"
    ) as server:
        open_page(browser, server)
        rows = browser.run("[...document.querySelectorAll('.points tr')].map((row) => row.innerText)")
        assert [row.split() for row in rows] == [["apex", "5.00"], ["base", "spurious"]]  # 3-4-5 triangle
        assert np.allclose(browser.run("mambamed.under.mm"), (40, 60, 40), atol=0.01)
        browser.press("n")
        browser.wait("mambamed.state.chosen === 1")
        assert np.allclose(browser.run("mambamed.under.mm"), (60, 60, 60), atol=0.01)
        check_calm(browser, server)


@pytest.fixture(scope="module")
def heated(tmp_path_factory):
    """Server of a classified image with a saliency map, and the file of its notes."""
    folder = tmp_path_factory.mktemp("heated")
    image = scenes.tiny_image(folder / "images" / "a.nii.gz")
    table = folder / "preds.csv"
    write_probabilities(table, Probabilities(("left", "right"), ("a",), np.array([[0.2, 0.8]]), None, False))
    heat = np.zeros((16, 20, 14), np.float32)
    heat[5, 11, 6], heat[5, 12, 6] = 1.0, 0.5
    (folder / "preds_saliency").mkdir()
    nib.save(nib.Nifti1Image(heat, nib.load(image).affine), folder / "preds_saliency" / "a.nii.gz")
    notes = folder / "preds.csv.notes.csv"
    with scenes.served(open_subject([table], folder / "images", None), notes) as server:
        yield server, notes


def test_saliency_is_shown_at_its_maximum(browser, heated) -> None:
    server, _ = heated
    open_page(browser, server)
    assert np.allclose(browser.run("mambamed.under.mm"), (40, 88, 48), atol=0.01)  # 8 mm voxels
    assert browser.run("[mambamed.scene.heat.cal_min, mambamed.scene.heat.cal_max]") == [0.2, 1]
    assert "right" in browser.run("document.querySelector('#table tbody').innerText")
    check_calm(browser, server)


def test_a_note_is_saved_and_shown_in_the_table(browser, heated) -> None:
    """On the page that is open already, unless this test runs alone."""
    server, notes = heated
    if not browser.run("location.href").startswith(server.url):
        open_page(browser, server)
    browser.click("#panel input[type=text]")
    browser.type("left lobe")
    browser.run("mambamed.panel.draw(mambamed.state, mambamed.notes)")  # as when a volume arrives
    browser.type(" is gone")
    browser.mouse("mousePressed", "button.doubtful")  # leaves the text, which is saved before the release
    browser.wait("mambamed.notes.entries.a?.note")
    browser.run("mambamed.panel.draw(mambamed.state, mambamed.notes)")
    browser.mouse("mouseReleased", "button.doubtful")
    browser.wait("document.querySelector('#table td.doubtful') !== null")
    check_calm(browser, server)
    assert notes.read_text() == "case,mark,note\na,doubtful,left lobe is gone\n"


def test_a_run_shows_its_training_and_then_its_cases(browser, tmp_path) -> None:
    evaluation = scenes.mask_evaluation(tmp_path)
    with scenes.run_in_training(tmp_path / "run") as run, scenes.viewed(run) as server:
        browser.open("about:blank")
        browser.open(server.url)
        browser.wait("document.querySelectorAll('#training[open] svg').length === 4")
        assert "training: epoch 3 of 5, about 20 s left" in browser.run(
            "document.getElementById('training').innerText"
        )
        shutil.copytree(evaluation, run / "fold_1")
        browser.run("mambamed.training.refresh()")
        browser.click("#training button")
        browser.click("#added button")
        browser.wait("window.mambamed?.state.id?.startsWith('HEAD-')")
        check_calm(browser, server)


def test_thousands_of_cases_are_listed_and_filtered(browser, tmp_path) -> None:
    folder = tmp_path / "predictions"
    folder.mkdir()
    for number in range(2000):
        (folder / f"case_{number:04d}.nii.gz").touch()
    scenes.tiny_image(folder / "case_0000.nii.gz")
    with scenes.viewed(folder, images=folder) as server:
        open_page(browser, server)
        assert browser.run("document.getElementById('count').textContent") == "2000 cases"
        assert browser.run("document.querySelectorAll('#table tbody tr').length") < 100
        browser.run(
            "(() => { const f = document.getElementById('filter'); f.value = '017';"
            " f.dispatchEvent(new Event('input')); })()"
        )
        # 0017, 0170 to 0179, 1017
        assert browser.run("document.getElementById('count').textContent") == "12 of 2000"
        browser.run("mambamed.table.step(1)")  # an empty file
        browser.wait(
            "document.querySelector('#panel .remarks, #message.fault')?.textContent.includes('is empty')"
        )


def real(name: str) -> pytest.MarkDecorator:
    """Skip a test where its dataset is absent."""
    return pytest.mark.skipif(not (DATA / name).is_dir(), reason="no real data, see MAMBAMED_TEST_DATA")


@pytest.fixture
def large(browser):
    """The browser with a page that people can look at."""
    browser.resize(960, 600)
    yield browser
    browser.resize(*SMALL)


def colors(browser: Browser, picture: Path) -> int:
    """Number of colors in a screenshot, which is kept as a file for people."""
    browser.screenshot(picture)
    with PIL.Image.open(picture) as image:
        return len(image.convert("RGB").getcolors(2**24))


@pytest.mark.slow
@pytest.mark.data
@real("ct_organs")
def test_organs_in_ct_have_a_window_and_their_volumes(large, tmp_path) -> None:
    mask = ORGANS / "example_seg.nii.gz"
    with scenes.viewed(ORGANS / "example_ct_sm.nii.gz", references=mask) as server:
        open_page(large, server)
        labels = np.unique(np.asarray(nib.load(mask).dataobj))
        assert large.run("document.querySelectorAll('.labels input').length") == len(labels) - 1 > 15
        assert large.run("[mambamed.scene.base.cal_min, mambamed.scene.base.cal_max]") == [-160, 240]
        assert bright_pixels(large) > 20000 and colors(large, tmp_path / "organs.png") > 1000
        check_calm(large, server)


@pytest.mark.slow
@pytest.mark.data
@real("mouse_skull_landmarks")
def test_a_skull_has_its_45_landmarks(large, tmp_path) -> None:
    with scenes.viewed(SKULLS / "landmarks", images=SKULLS / "images") as server:
        open_page(large, server)
        assert large.run("document.querySelectorAll('.points tr').length") == 45
        assert bright_pixels(large) > 5000 and drawn_lines(large) > 1000
        assert colors(large, tmp_path / "skull.png") > 300
        check_calm(large, server)


@pytest.mark.slow
@pytest.mark.data
@real("brats_tcia")
def test_a_brats_case_shows_four_channels_and_two_masks(large, tmp_path) -> None:
    predictions = sorted((BRATS / "algorithms").iterdir())[0]
    with scenes.viewed(predictions, images=BRATS / "training", references=BRATS / "training") as server:
        open_page(large, server)
        assert large.run("mambamed.channels.map((c) => c.name)") == ["t2f", "t1c", "t2w", "t1n"]
        assert large.run("mambamed.scene.volume.dims") == [240, 240, 155]
        large.press("2")
        large.wait("mambamed.channel === 1 && document.getElementById('message').textContent === ''", 120)
        assert bright_pixels(large) > 20000 and drawn_lines(large) > 2000
        assert colors(large, tmp_path / "brats.png") > 1000
        check_calm(large, server)


@pytest.mark.slow
@pytest.mark.data
@real("stroke_severity")
def test_a_classifier_shows_where_it_looked(large, tmp_path, monkeypatch) -> None:
    """From the evaluation alone, seen from another folder: its image, saliency map and probabilities."""
    data = tmp_path / "stroke_severity"
    (data / "images").mkdir(parents=True)
    lines = (STROKE / "participants.tsv").read_text().splitlines()
    people = [line.split("\t") for line in lines[1:] if line.split("\t")[2] in {"left", "right"}][:20]
    for name, *_ in people:
        (data / "images" / f"{name}.nii.gz").symlink_to(STROKE / "images" / f"{name}.nii.gz")
    rows = "".join(f"{name}\t{side}\n" for name, _, side, *_ in people)
    (data / "participants.tsv").write_text(f"participant_id\tside\n{rows}")
    monkeypatch.chdir(tmp_path)
    recipe = "stroke_side_nnmamba"
    prepare(data, Path("prepared"), class_column="side", recipe=recipe, qc=False)
    train(recipe, "prepared", "run", set=["training.epochs=1", "training.steps_per_epoch=10"])
    classify("run", "prepared", "classes/preds.csv", saliency=True, part="test")
    evaluate("classes/preds.csv", "stroke_severity/participants.tsv", "evaluation", only_predicted=True)
    monkeypatch.chdir("/")
    with scenes.viewed(tmp_path / "evaluation") as server:
        open_page(large, server)
        case = large.run("mambamed.state.id")
        heat = nib.load(tmp_path / "classes" / "preds_saliency" / f"{case}.nii.gz")
        values = np.asarray(heat.dataobj)
        highest = nib.affines.apply_affine(heat.affine, np.unravel_index(int(values.argmax()), values.shape))
        assert np.allclose(large.run("mambamed.under.mm"), highest, atol=0.01)
        values = np.asarray(nib.load(data / "images" / f"{case}.nii.gz").dataobj)
        black, white = large.run("[mambamed.scene.base.cal_min, mambamed.scene.base.cal_max]")
        assert black == 0 and white > 0.5 * values.max()  # also of a lesion of few voxels
        assert "preds: left" in large.run("document.getElementById('panel').innerText")
        assert bright_pixels(large) > 300 and colors(large, tmp_path / "stroke.png") > 100
        check_calm(large, server)
