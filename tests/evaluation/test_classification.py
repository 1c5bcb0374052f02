"""Probability tables against classes, with scikit-learn's numbers beside ours."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sklearn import metrics as sklearn

from mambamed.errors import DatasetError
from mambamed.evaluation import evaluate, read_evaluation
from mambamed.evaluation.classification import evaluate_probabilities, holds_probabilities
from mambamed.evaluation.compare import compare
from mambamed.evaluation.options import EvaluateOptions
from mambamed.io.json_files import read_json, write_json
from mambamed.io.probabilities import Probabilities, write_probabilities
from mambamed.metrics.classification import BINARY_METRICS, ClassMetric
from mambamed.metrics.statistics import bootstrap_interval
from mambamed.recipe import load_recipe
from mambamed.viewer import open_subject

CASES = tuple(f"c{i:02}" for i in range(40))


def binary(seed: int, threshold: float = 0.4) -> tuple[Probabilities, np.ndarray]:
    truth = np.arange(40) % 2
    positive = np.clip(0.5 + 0.3 * (truth - 0.5) + np.random.default_rng(seed).normal(0, 0.2, 40), 0, 1)
    values = np.column_stack([1 - positive, positive])
    return Probabilities(("NC", "AD"), CASES, values, threshold, True), truth


def write_classes(path: Path, names: list[str], column: str = "class", ids: str = "case") -> Path:
    lines = [f"{case},{name},{case[:2]}" for case, name in zip(CASES, names, strict=True)]
    path.write_text("\n".join([f"{ids},{column},subject", *lines]))
    return path


@pytest.fixture
def reference(tmp_path) -> Path:
    return write_classes(tmp_path / "classes.csv", ["NC", "AD"] * 20)


def test_a_table_is_scored_as_scikit_learn_scores_it(tmp_path, reference) -> None:
    table, truth = binary(0)
    write_probabilities(tmp_path / "p.csv", table)
    (run,) = evaluate_probabilities(tmp_path / "p.csv", reference).runs
    positive = table.values[:, 1]
    called = positive >= 0.4
    expected = {
        "accuracy": sklearn.accuracy_score(truth, called),
        "balanced_accuracy": sklearn.balanced_accuracy_score(truth, called),
        "sensitivity": sklearn.recall_score(truth, called),
        "specificity": sklearn.recall_score(truth, called, pos_label=0),
        "precision": sklearn.precision_score(truth, called),
        "f1": sklearn.f1_score(truth, called),
        "auc": sklearn.roc_auc_score(truth, positive),
        "average_precision": sklearn.average_precision_score(truth, positive),
        "brier": sklearn.brier_score_loss(truth, positive),
    }
    for name, value in expected.items():
        assert run.scores.values[name] == pytest.approx(value), name
    low, high = run.intervals["auc"]
    assert low < run.scores.values["auc"] < high


def test_several_tables_are_seeds_and_the_papers_table_has_their_mean_and_sd(tmp_path, reference) -> None:
    folder, areas = tmp_path / "seeds", []
    folder.mkdir()
    for seed in range(3):
        table, truth = binary(seed)
        write_probabilities(folder / f"seed{seed}.csv", table)
        areas.append(100 * sklearn.roc_auc_score(truth, table.values[:, 1]))
    paper = {"ACC": 89.41, "ACC SD": 0.85, "AUC": 95.81, "AUC SD": 0.59, "source": "Table 3"}
    found = evaluate_probabilities(
        folder, reference, output=tmp_path / "out", table="classification", paper=paper
    )
    assert found.paper_table is not None
    assert found.paper_table.headers == ["method", "ACC", "SEN", "SPE", "PRE", "F1", "AUC"]
    ours, theirs = found.paper_table.rows
    assert ours[-1] == f"{np.mean(areas):.2f} ± {np.std(areas, ddof=1):.2f}"
    assert theirs == ["paper (Table 3)", "89.41 ± 0.85", "-", "-", "-", "-", "95.81 ± 0.59"]
    names = {path.name for path in found.written}
    assert names >= {"cases.csv", "summary.csv", "summary.json", "table_classification.tex"}
    rows = read_json(tmp_path / "out" / "summary.json")["summaries"]
    (area,) = [row["mean"] for row in rows if row["metric"] == "auc"]
    assert 100 * area == pytest.approx(np.mean(areas))


def test_three_classes_are_scored_as_equals(tmp_path) -> None:
    random = np.random.default_rng(0)
    truth = np.arange(40) % 3
    values = random.dirichlet([1, 1, 1], 40) * 0.5 + 0.5 * np.eye(3)[truth]
    write_probabilities(tmp_path / "p.csv", Probabilities(("T1", "T2", "FLAIR"), CASES, values, None, False))
    names = [("T1", "T2", "FLAIR")[k] for k in truth]
    found = evaluate_probabilities(tmp_path / "p.csv", write_classes(tmp_path / "classes.csv", names))
    scores = found.runs[0].scores
    assert scores.values["accuracy"] == pytest.approx(sklearn.accuracy_score(truth, values.argmax(1)))
    expected = sklearn.roc_auc_score(truth, values, multi_class="ovr", average="macro")
    assert scores.values["auc_macro"] == pytest.approx(expected)
    assert any("not calibrated" in note for note in found.table.notes)


@pytest.mark.parametrize("ids", ["case", "Case_ID", "ID", "participant_id"])
def test_the_case_column_has_one_of_four_names_in_any_capitals(tmp_path, ids) -> None:
    write_probabilities(tmp_path / "p.csv", binary(0)[0])
    table = write_classes(tmp_path / "classes.csv", ["NC", "AD"] * 20, ids=ids)
    assert not evaluate_probabilities(tmp_path / "p.csv", table).faults


def test_classes_are_found_in_the_column_that_holds_them(tmp_path) -> None:
    path = tmp_path / "participants.tsv"
    lines = [f"{case}\t{name}\t60" for case, name in zip(CASES, ["NC", "AD"] * 20, strict=True)]
    path.write_text("\n".join(["participant_id\tdiagnosis\tage", *lines]))
    write_probabilities(tmp_path / "p.csv", binary(0)[0])
    found = evaluate_probabilities(tmp_path / "p.csv", path)
    assert found.settings["reference"] == "column diagnosis of participants.tsv"
    assert not found.faults


def test_a_prepared_dataset_is_a_reference(tmp_path) -> None:
    image = {"shape": [8, 8, 8], "channels": 1, "has_label": False}
    cases = [{"id": c, "class": ("NC", "AD")[i % 2], "subject": c} | image for i, c in enumerate(CASES)]
    index = {"name": "d", "channels": {"a": "mri"}, "classes": ["NC", "AD"], "cases": cases}
    write_json(tmp_path / "dataset.json", index | {"prepared_format": 1})
    write_probabilities(tmp_path / "p.csv", binary(0)[0])
    assert evaluate_probabilities(tmp_path / "p.csv", tmp_path).runs[0].scores.cases == 40
    assert evaluate_probabilities(tmp_path / "p.csv", tmp_path, cases=CASES[:6]).runs[0].scores.cases == 6


def test_missing_and_strange_cases_are_named_and_the_rest_is_scored(tmp_path, reference) -> None:
    table = binary(0)[0]
    fewer = Probabilities(
        table.classes, ("ghost", *table.cases[1:-1]), table.values[:-1], table.threshold, True
    )
    write_probabilities(tmp_path / "p.csv", fewer)
    found = evaluate_probabilities(tmp_path / "p.csv", reference)
    lines = [str(fault) for fault in found.faults]
    assert any(line.startswith("c00: has no row") for line in lines)
    assert any("ghost: is not in" in line for line in lines)
    assert found.runs[0].scores.cases == 40
    assert list(found.runs[0].missing) == ["c00", "c39"]
    asked = evaluate_probabilities(tmp_path / "p.csv", reference, only_predicted=True)
    assert [str(fault).split(":")[0] for fault in asked.faults] == [str(tmp_path / "p.csv")]


def test_cases_of_a_class_that_is_not_asked_about_are_no_faults(tmp_path) -> None:
    names = ["NC", "AD"] * 19 + ["MCI", "MCI"]
    reference = write_classes(tmp_path / "classes.csv", names)
    table = binary(0)[0]
    some = Probabilities(table.classes, CASES[:38], table.values[:38], 0.5, True)
    write_probabilities(tmp_path / "p.csv", some)
    assert not evaluate_probabilities(tmp_path / "p.csv", reference).faults
    write_probabilities(tmp_path / "all.csv", table)
    found = evaluate_probabilities(tmp_path / "all.csv", reference)
    assert not found.faults
    assert found.runs[0].scores.cases == 38
    assert "2 cases of another class (MCI) were not asked about: left out" in found.table.notes


def test_what_cannot_be_compared_is_refused(tmp_path, reference) -> None:
    write_probabilities(tmp_path / "p.csv", binary(0)[0])
    with pytest.raises(DatasetError, match="no column holds them"):
        evaluate_probabilities(
            tmp_path / "p.csv", write_classes(tmp_path / "o.csv", ["x", "y"] * 20, column="kind")
        )
    with pytest.raises(DatasetError, match=r"duplicate case c0\..* add a column session_id"):
        evaluate_probabilities(
            tmp_path / "p.csv", write_classes(tmp_path / "o.csv", ["NC", "AD"] * 20, ids="who")
        )
    both = tmp_path / "both"
    both.mkdir()
    write_probabilities(both / "a.csv", binary(0)[0])
    other = Probabilities(("x", "y"), CASES, binary(0)[0].values, 0.5, True)
    write_probabilities(both / "b.csv", other)
    (tmp_path / "o.csv").write_text("who,class\nc00,NC\n")
    with pytest.raises(DatasetError, match="no column case, case_id, id or participant_id"):
        evaluate_probabilities(tmp_path / "p.csv", tmp_path / "o.csv")
    with pytest.raises(DatasetError, match="Evaluate tables of the same classes together"):
        evaluate_probabilities(both, reference)


def test_tables_of_probabilities_are_told_from_other_tables(tmp_path, reference) -> None:
    assert not holds_probabilities(reference)
    assert not holds_probabilities(tmp_path / "nowhere")
    write_probabilities(tmp_path / "p.csv", binary(0)[0])
    assert holds_probabilities(tmp_path / "p.csv")


def test_a_metric_is_a_function_and_a_line(tmp_path, reference, monkeypatch) -> None:
    """It is in the tables, the files and the comparison."""
    loss = ClassMetric(
        "log loss",
        lambda a: float(np.mean(np.where(a.truth, -np.log(a.p + 0.01), -np.log(1.01 - a.p)))),
        "LOSS",
        per_case=lambda p, truth, correct: -np.log(p[truth] + 0.01),
        higher_is_better=False,
    )
    monkeypatch.setitem(BINARY_METRICS, "log_loss", loss)
    for seed in range(2):
        write_probabilities(tmp_path / "p.csv", binary(seed)[0])
        folder = tmp_path / f"seed{seed}"
        found = evaluate_probabilities(tmp_path / "p.csv", reference, output=folder, table="classification")
        expected = sklearn.log_loss(binary(seed)[1], binary(seed)[0].values, labels=[0, 1])
        assert found.runs[0].scores.values["log_loss"] == pytest.approx(expected, abs=0.3)
    assert found.table.rows[-1][0] == "log loss"
    assert found.paper_table is not None
    assert found.paper_table.headers[-1] == "LOSS"
    document = read_json(folder / "summary.json")
    assert document["runs"]["p"]["log_loss"] == found.runs[0].scores.values["log_loss"]
    assert [row["metric"] for row in document["summaries"]][-1] == "log_loss"
    compared = compare([tmp_path / "seed0", tmp_path / "seed1"])
    (difference,) = [d for d in compared.differences if d.metric == "log_loss"]
    assert difference.means[1] == pytest.approx(found.runs[0].scores.values["log_loss"])


def test_a_missing_case_counts_as_wrong(tmp_path, reference) -> None:
    """Five of forty cases are classified, all correctly; for scikit-learn the others are of a third class."""
    truth = np.arange(40) % 2
    values = np.column_stack([1.0 - truth, truth])[:5]
    write_probabilities(tmp_path / "p.csv", Probabilities(("NC", "AD"), CASES[:5], values, 0.5, True))
    found = evaluate_probabilities(
        tmp_path / "p.csv", reference, output=tmp_path / "e", table="classification"
    )
    scores = found.runs[0].scores
    assert scores.cases == 40
    assert scores.values["accuracy"] == 5 / 40
    predicted = np.append(truth[:5], np.full(35, 2))
    recall = sklearn.recall_score(truth, predicted, labels=[0, 1], average=None)
    assert [scores.values["specificity"], scores.values["sensitivity"]] == pytest.approx(recall)
    f1 = sklearn.f1_score(truth, predicted, labels=[1], average="macro")
    assert scores.values["f1"] == pytest.approx(f1)
    assert scores.values["precision"] == 1
    assert scores.values["auc"] == 1  # over the five, as the note says
    assert any("35 of 40 cases have no prediction and count as wrong; AUC" in n for n in found.table.notes)
    assert found.paper_table is not None
    assert found.paper_table.rows[0][1] == "12.50"
    summary = read_json(tmp_path / "e" / "summary.json")
    assert summary["runs"]["p"]["missing"] == 35
    rows = (tmp_path / "e" / "cases.csv").read_text().splitlines()
    assert len(rows) == 41
    assert rows[-1] == "c39,p,AD,,0,,,c3"


def test_missing_cases_of_three_classes_count_as_wrong(tmp_path) -> None:
    names = ["a", "b", "c"] * 13 + ["a"]
    reference = write_classes(tmp_path / "classes.csv", names)
    truth = np.array(["abc".index(name) for name in names])
    values = np.random.default_rng(0).dirichlet(np.ones(3), 40)[:30]
    write_probabilities(tmp_path / "p.csv", Probabilities(("a", "b", "c"), CASES[:30], values, None, True))
    scores = evaluate_probabilities(tmp_path / "p.csv", reference).runs[0].scores
    predicted = np.append(values.argmax(1), np.full(10, 3))
    expected = {
        "accuracy": sklearn.accuracy_score(truth, predicted),
        "recall_macro": sklearn.recall_score(truth, predicted, labels=[0, 1, 2], average="macro"),
        "precision_macro": sklearn.precision_score(truth, predicted, labels=[0, 1, 2], average="macro"),
        "f1_macro": sklearn.f1_score(truth, predicted, labels=[0, 1, 2], average="macro"),
    }
    for name, value in expected.items():
        assert scores.values[name] == pytest.approx(value), name


def test_a_model_that_skips_cases_is_compared_as_wrong_in_them(tmp_path, reference) -> None:
    table = binary(0)[0]
    fewer = Probabilities(table.classes, CASES[:10], table.values[:10], table.threshold, True)
    for name, each in (("all", table), ("some", fewer)):
        write_probabilities(tmp_path / f"{name}.csv", each)
        evaluate_probabilities(tmp_path / f"{name}.csv", reference, output=tmp_path / name)
    found = compare([tmp_path / "all", tmp_path / "some"])
    accuracy = next(d for d in found.differences if d.metric == "accuracy")
    correct = np.mean(
        [label == name for label, name in zip(table.labels[:10], ["NC", "AD"] * 5, strict=True)]
    )
    assert accuracy.means[1] == pytest.approx(correct * 10 / 40)
    # The ten cases of both are of one subject.
    assert next(d for d in found.differences if d.metric == "auc").test.pairs == 1


def test_the_report_shows_curve_matrix_and_wrong_cases(tmp_path, reference) -> None:
    table, truth = binary(0)
    write_probabilities(
        tmp_path / "p.csv", Probabilities(table.classes, CASES[:39], table.values[:39], 0.4, True)
    )
    found = evaluate_probabilities(tmp_path / "p.csv", reference, output=tmp_path / "e", report=True)
    assert tmp_path / "e" / "report.html" in found.written
    page = (tmp_path / "e" / "report.html").read_text()
    predicted = (table.values[:39, 1] >= 0.4).astype(int)
    matrix = sklearn.confusion_matrix(truth[:39], predicted)
    for name, row in zip(("NC", "AD"), matrix.tolist(), strict=True):
        missing = int(name == "AD")
        cells = "".join(f"<td>{count}</td>" for count in (*row, missing, sum(row) + missing))
        assert f'<th scope="row">reference {name}</th>{cells}' in page
    wrong = [case for case, t, p in zip(CASES, truth, predicted, strict=False) if t != p]
    assert f"Misclassified cases: {len(wrong) + 1} of 40" in page
    assert all(f'<th scope="row">{case}</th>' in page for case in [*wrong, "c39"])
    area = sklearn.roc_auc_score(truth[:39], table.values[:39, 1])
    assert f"AD, AUC {area:.4g}" in page
    false, true, _ = sklearn.roc_curve(truth[:39], table.values[:39, 1], drop_intermediate=False)
    points = " ".join(f"{56 + 300 * x:.1f},{308 - 300 * y:.1f}" for x, y in zip(false, true, strict=True))
    assert points in page


def test_the_results_of_a_paper_are_shown_for_a_recipe_that_has_them(tmp_path, reference) -> None:
    write_probabilities(tmp_path / "p.csv", binary(0)[0])
    found = evaluate(tmp_path / "p.csv", reference, EvaluateOptions(recipe=load_recipe("adni_nnmamba")))
    assert found.paper_table is not None
    assert "89.41 ± 0.85" in found.paper_table.rows[1]  # nnMamba, arXiv 2402.03526v2, Table 3
    write_probabilities(tmp_path / "p.csv", replace(binary(0)[0], classes=("left", "right")))
    sides = write_classes(tmp_path / "sides.csv", ["left", "right"] * 20)
    plain = evaluate(tmp_path / "p.csv", sides, EvaluateOptions(recipe=load_recipe("stroke_side_nnmamba")))
    assert plain.paper_table is None


@pytest.mark.parametrize(
    ("classes", "names"),
    [(("0", "1"), ["0.0", "1.0"]), (("0.0", "1.0"), ["0", "1"]), (("NC", "AD"), ["nc", "Ad"])],
)
def test_classes_are_compared_as_numbers_or_by_their_spelling(tmp_path, classes, names) -> None:
    plain, truth = binary(0)
    write_probabilities(tmp_path / "p.csv", replace(plain, classes=classes))
    table = write_classes(tmp_path / "classes.csv", names * 20)
    found = evaluate_probabilities(tmp_path / "p.csv", table)
    assert found.classes == classes and not found.faults
    area = sklearn.roc_auc_score(truth, plain.values[:, 1])
    assert found.runs[0].scores.values["auc"] == pytest.approx(area)
    write_classes(tmp_path / "classes.csv", ["10", "11"] * 20)
    with pytest.raises(DatasetError, match=r"no column holds them|no case has one of the classes"):
        evaluate_probabilities(tmp_path / "p.csv", table)


def test_the_classes_of_the_recipe_are_those_of_the_table_in_their_order(tmp_path, reference) -> None:
    recipe = load_recipe("adni_nnmamba")  # NC, AD
    table = binary(0)[0]
    write_probabilities(tmp_path / "p.csv", replace(table, classes=("nc", "ad")))
    assert not evaluate(tmp_path / "p.csv", reference, EvaluateOptions(recipe=recipe)).faults
    write_probabilities(tmp_path / "p.csv", replace(table, classes=("AD", "NC")))
    with pytest.raises(DatasetError, match=r"disagree: AD, NC \(the table\) \| NC, AD \(the recipe\)"):
        evaluate(tmp_path / "p.csv", reference, EvaluateOptions(recipe=recipe))


def test_visits_of_a_table_are_cases_of_persons(tmp_path) -> None:
    """Each case of `binary` as a visit in BIDS' columns: four persons' worth of rows are not independent."""
    plain, _ = binary(0)
    visits = tuple(f"sub-{n // 4}_ses-{n % 4}" for n in range(40))
    write_probabilities(tmp_path / "p.csv", replace(plain, cases=visits))
    rows = [f"sub-{n // 4},ses-{n % 4},{('NC', 'AD')[n % 2]}" for n in range(40)]
    tables = {"visits": "participant_id,session_id,class", "persons": "patient,visit,class"}
    found = []
    for name, header in tables.items():
        (tmp_path / f"{name}.csv").write_text("\n".join([header, *rows]))
        found.append(evaluate_probabilities(tmp_path / "p.csv", tmp_path / f"{name}.csv"))
    for each in found:
        assert not each.faults
        assert "40 cases of 10 subjects: intervals and tests are by subject" in each.table.notes
        assert any("AUC's interval: by subject (Obuchowski 1997)" in note for note in each.table.notes)
        expected = bootstrap_interval(
            [a == b for a, b in zip(plain.labels, ["NC", "AD"] * 20, strict=True)],
            [n // 4 for n in range(40)],
        )
        assert each.runs[0].intervals["accuracy"] == pytest.approx(expected)
    assert any(
        "one case per visit (columns participant_id and session_id)" in n for n in found[0].table.notes
    )


def test_an_unknown_class_is_no_other_class(tmp_path) -> None:
    write_probabilities(tmp_path / "p.csv", binary(0)[0])
    classes = ["n/a", "sMCI", *["NC", "AD"] * 19]
    found = evaluate_probabilities(tmp_path / "p.csv", write_classes(tmp_path / "c.csv", classes))
    assert [str(fault) for fault in found.faults] == [
        f"{tmp_path}/p.csv: c00: has no class in column class of c.csv. Add it."
    ]
    assert any(note.startswith("1 cases of another class (sMCI)") for note in found.table.notes)


@pytest.mark.parametrize(
    ("classes", "columns"),
    [
        (("left", "right"), ["p_left", "p_right"]),
        (("subject", "case"), ["p_subject", "p_case"]),
        (("NC", "AD"), ["NC", "AD"]),  # as in version 0.1.0
        (("p_right", "right"), ["p_p_right", "p_right"]),
    ],
)
def test_classes_may_be_named_like_columns(tmp_path, classes, columns) -> None:
    """The AUC is scikit-learn's, and the same when the evaluation is read back."""
    table, truth = binary(0)
    write_probabilities(tmp_path / "p.csv", replace(table, classes=classes))
    reference = write_classes(tmp_path / "classes.csv", list(classes) * 20)
    out = tmp_path / "out"
    evaluate_probabilities(tmp_path / "p.csv", reference, classes=classes, output=out, report=True)
    header = (out / "cases.csv").read_text().splitlines()[0].split(",")
    assert header == ["case", "run", "reference", "label", "right", *columns, "subject"]
    known = read_evaluation(out, "first")
    (chances,) = known.probabilities
    right = [known.truth[case] == classes[1] for case in chances]
    expected = sklearn.roc_auc_score(truth, table.values[:, 1])
    assert sklearn.roc_auc_score(right, [*chances.values()]) == pytest.approx(expected)
    shown = open_subject([out], None, None)
    assert shown.rows[0][0] == classes[0] and shown.rows[0][3] == pytest.approx(table.values[0, 0])
    facts = shown.open_case(0).facts
    assert facts == pytest.approx({f"p: {name}": table.values[0, k] for k, name in enumerate(classes)})
