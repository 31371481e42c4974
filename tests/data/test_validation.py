"""The expectations, tested by planting one error at a time, and the page that tells what was found."""

from __future__ import annotations

import json
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from cxr_ops.data import manifest, validation
from cxr_ops.errors import DataError, SettingsError
from cxr_ops.labels import FINDINGS
from cxr_ops.params import Params
from cxr_ops.records.validation import Labels

ROWS = 120


@pytest.fixture(scope="module")
def suites(project: Path) -> list[Path]:
    """The suites that params.yaml names."""
    return [project / suite for suite in Params.load(project / "params.yaml").validate_.suites]


def validated(
    frame: pd.DataFrame, suites: list[Path], boxes: pd.DataFrame | None = None, **facts: Any
) -> validation.Validation:
    """What is found of a manifest whose pictures all have digests of their pixels, unlike each other's."""
    facts.setdefault("pixels", pd.Series([f"{n + 10**6:064x}" for n in range(len(frame))], dtype=str))
    return validation.validate(frame, BOXES if boxes is None else boxes, suites, **facts)


def sound(rows: int = ROWS) -> pd.DataFrame:
    """A manifest without an error: two batches, two images a patient, every finding in some images."""
    numbers = np.arange(rows)
    patients = numbers // 2
    frame = pd.DataFrame(
        {
            "image_id": [f"{p + 1:08d}_{n % 2:03d}.png" for n, p in zip(numbers, patients, strict=True)],
            "patient_id": [str(p + 1) for p in patients],
            "sha256": [f"{n:064x}" for n in numbers],
            "source": "nih",
            "batch": np.where(numbers < rows // 2, "first", "second"),
            "view": np.where(numbers % 2 == 0, "PA", "AP"),
            "age": pd.array(20 + patients % 60, dtype="Int64"),
            "sex": np.where(patients % 2 == 0, "F", "M"),
            "width": 1024,
            "height": 1024,
        }
    )
    for at, finding in enumerate(FINDINGS):
        frame[finding] = pd.array((numbers % 16 == at).astype(int), dtype="Int64")
    frame["line"] = frame.groupby("batch").cumcount() + 2
    return frame


BOXES = pd.DataFrame(
    [
        ("00000001_000.png", "Atelectasis", 10.0, 20.0, 100.0, 200.0),
        ("00000001_001.png", "Mass", 924.5, 0.0, 100.0, 9.0),
    ],
    columns=list(manifest.BOX_COLUMNS),
)


def suite_of(kind: str, kwargs: dict[str, object], severity: str, says: str = "x") -> str:
    """A suite of one expectation, as JSON."""
    expectation = {"type": kind, "kwargs": kwargs, "severity": severity, "meta": {"says": says}}
    return json.dumps({"name": "one", "expectations": [expectation]})


def put(column: str, value: object, *rows: int) -> Callable[[pd.DataFrame], pd.DataFrame]:
    """A mutation: `value` into `column` of these rows, or of all."""

    def mutate(frame: pd.DataFrame) -> pd.DataFrame:
        frame = frame.copy()
        if isinstance(value, str) or value is None:
            frame[column] = frame[column].astype(object)
        if rows:
            frame.loc[list(rows), column] = value
        else:
            frame[column] = pd.array([value] * len(frame), dtype=frame[column].dtype)
        return frame

    return mutate


def test_a_sound_manifest_passes(suites: list[Path]) -> None:
    """Without an error every check holds, and no row is named."""
    found = validated(sound(), suites, min_images=ROWS, min_patients=ROWS // 2)
    assert found.passed
    assert found.warnings == []
    assert all(check.rows == () and (check.suite == "size" or not check.found) for check in found.checks)


# Each entry: what is planted (column, value, rows), the check that must fail, and the rows that it must name. Errors of
# a group are planted together, for speed: no two of them concern the same check and the same rows.
PLANTED = {
    "missing": [
        (("image_id", None, [5]), "Every image has an image id.", {5}),
        (("patient_id", None, [15]), "Every image has a patient id.", {15}),
        (("sha256", None, [25]), "Every image has a digest of its file.", {25}),
        (("source", None, [35]), "Every image has a source.", {35}),
        (("batch", None, [45]), "Every image has a batch.", {45}),
    ],
    "out of range": [
        (("image_id", "../a.png", [7]), "An image id is a plain file name that ends in .png, .jpg or .jpeg.", {7}),
        (("patient_id", "a b", [17]), "A patient id is letters, digits, dots, hyphens and underscores.", {17}),
        (("sha256", "ab", [27]), "A digest is 64 hexadecimal digits.", {27}),
        (("source", "N I H", [37]), "A source is a lower-case name.", {37}),
        (("batch", "First!", [47]), "A batch is a lower-case name.", {47}),
        (("view", "side", [57]), "The view position is PA, AP, LL, RL, LATERAL or OTHER, or missing.", {57}),
        (("sex", "male", [66, 67]), "The sex is F or M.", {66, 67}),
        (("age", 414, [77]), "Ages are 0 to 120 years.", {77}),
        (("width", 0, [87]), "Images are 32 to 20,000 pixels wide.", {87}),
        (("height", 50_000, [97]), "Images are 32 to 20,000 pixels high.", {97}),
        (("Hernia", 2, [107]), "Hernia is 1, 0, -1 (uncertain) or missing.", {107}),
    ],
    "repeated and contradictory": [
        (("image_id", "00000002_000.png", [7]), "No image id occurs twice.", {2, 7}),
        (("sha256", f"{2:064x}", [17]), "No file occurs twice: digests differ.", {2, 17}),
        (("sex", "M", [8]), "All images of a patient have one sex.", {8, 9}),
        (("age", -1, [27]), "Ages are 0 to 120 years.", {27}),
        (("Mass", 1, None), "Mass is present in at most 95 % of the images.", None),
    ],
    "a newline at the end": [
        (("image_id", "a.png\n", [7]), "An image id is a plain file name that ends in .png, .jpg or .jpeg.", {7}),
        (("patient_id", "8\n", [17]), "A patient id is letters, digits, dots, hyphens and underscores.", {17}),
        (("sha256", "0" * 64 + "\n", [27]), "A digest is 64 hexadecimal digits.", {27}),
        (("batch", "first\n", [47]), "A batch is a lower-case name.", {47}),
    ],
}


@pytest.mark.parametrize("group", PLANTED)
def test_each_planted_error_is_caught(suites: list[Path], group: str) -> None:
    """Each error planted in a sound manifest fails the check for it, which names the rows and no others."""
    frame = sound()
    for (column, value, rows), _, _ in PLANTED[group]:
        frame = put(column, value, *(rows or ()))(frame)
    found = validated(frame, suites, BOXES.iloc[:0])
    failed = {check.says: set(check.rows) for check in found.failures}
    assert failed == {says: rows or set() for _, says, rows in PLANTED[group]}


def test_one_class_and_unknown_labels_fail(suites: list[Path]) -> None:
    """A data set without any finding, and an image without any known one, do not pass."""
    healthy = sound().assign(**{finding: pd.array([0] * ROWS, dtype="Int64") for finding in FINDINGS})
    says = [check.says for check in validated(healthy, suites).failures]
    assert says == ["Some image has a finding: the labels are not all negative."]
    unknown = sound()
    unknown.loc[3, list(FINDINGS)] = pd.NA
    failures = validated(unknown, suites).failures
    assert [(check.says, check.rows) for check in failures] == [
        ("At least one finding is labelled for every image.", (3,))
    ]
    says = [check.says for check in validated(put("Hernia", pd.NA)(sound()), suites).failures]
    assert says == [
        "Hernia is known for at least 1 % of the images whose source labels it.",
        "Hernia is present in at most 95 % of the images.",  # nothing is known of it, and that does not pass
    ]
    all_ill = sound().assign(**{finding: pd.array([1] * ROWS, dtype="Int64") for finding in FINDINGS})
    assert "No image has more than 10 findings." in [c.says for c in validated(all_ill, suites).failures]


def known_in(count: int, *, positive: int) -> pd.DataFrame:
    """200 images of which `count` have labels of each finding, the first `positive` of them 1."""
    frame = sound(200)
    for finding in FINDINGS:
        labels = [1] * positive + [0] * (count - positive) + [None] * (200 - count)
        frame[finding] = pd.array(labels, dtype="Int64")
    return frame


def of_each(*ends: str) -> set[str]:
    """What the suite says of each of the 14 findings."""
    return {f"{finding.replace('_', ' ')} {end}" for finding in FINDINGS for end in ends}


def test_each_finding_is_expected_to_be_known_and_not_everywhere(suites: list[Path]) -> None:
    """The same is expected of all 14: labels of 1 % of the images, no other value, and at most 95 % positive ones."""
    value, known, present = (
        "is 1, 0, -1 (uncertain) or missing.",
        "is known for at least 1 % of the images whose source labels it.",
        "is present in at most 95 % of the images.",
    )
    given, many = "At least one finding is labelled for every image.", "No image has more than 10 findings."

    def failed(frame: pd.DataFrame) -> set[str]:
        return {check.says for check in validated(frame, suites, BOXES.iloc[:0]).failures} - {given, many}

    assert failed(known_in(2, positive=1)) == set()
    assert failed(known_in(1, positive=0)) == of_each(known) | {
        "Some image has a finding: the labels are not all negative."
    }
    assert failed(known_in(200, positive=190)) == set()
    assert failed(known_in(200, positive=191)) == of_each(present)
    strange = sound()
    for row, finding in enumerate(FINDINGS, 20):
        strange.loc[row, finding] = 2
    found = {check.says: check.rows for check in validated(strange, suites).failures}
    assert found == {f"{name.replace('_', ' ')} {value}": (row,) for row, name in enumerate(FINDINGS, 20)}


def test_a_finding_nowhere_and_nobody_healthy_are_shown(suites: list[Path]) -> None:
    """A finding without any positive image, and fewer than one image in 1,000 without a finding, are warnings."""
    says = "is present in at least one image."
    none = sound().assign(**{name: pd.array([0] * ROWS, dtype="Int64") for name in FINDINGS})
    assert {check.says for check in validated(none, suites).warnings} == of_each(says)
    ill = sound().assign(Mass=pd.array([1] * (ROWS - 10) + [0] * 10, dtype="Int64"))
    ill.loc[ROWS - 10 :, "Edema"] = 1
    (warning,) = validated(ill, suites).warnings
    assert warning.says == "At least one image in 1,000 is without a finding."


def test_uncertain_labels_pass_and_are_counted(suites: list[Path]) -> None:
    """-1 is a label; the page counts it, and neither the share of positives nor what is known of a finding does."""
    frame = sound()
    frame.loc[3, list(FINDINGS)] = -1
    frame.loc[100:, "Hernia"] = -1
    found = validated(frame, suites)
    assert found.passed
    assert found.warnings == []
    assert ">21 uncertain<" in validation.page(found, frame)
    assert "uncertain<" not in validation.page(found, sound())
    frame["Mass"] = pd.array([-1] * 20 + [1] * (ROWS - 20), dtype="Int64")  # a mean of 0.67, were -1 a number
    frame["Hernia"] = pd.array([-1] * ROWS, dtype="Int64")
    assert [check.says for check in validated(frame, suites).failures] == [
        "Mass is present in at most 95 % of the images.",
        "Hernia is known for at least 1 % of the images whose source labels it.",
        "Hernia is present in at most 95 % of the images.",
    ]


def test_one_patient_for_all_images_fails(suites: list[Path]) -> None:
    """An id that is the same in more than 1,000 images is no patient id."""
    frame = sound(1100).assign(patient_id="1", sex="F")
    failed = [check.says for check in validated(frame, suites).failures]
    assert failed == ["No patient has more than 1,000 images: ids are not all the same."]


@pytest.mark.parametrize("nothing", ["", None])
def test_missing_attributes_are_shown_and_pass(suites: list[Path], nothing: str | None) -> None:
    """Images without a view or a sex are shown with their rows; a missing sex contradicts none and is none of two."""
    frame = put("sex", nothing, 8, 64, 65)(put("view", nothing, 55)(sound()))
    found = validated(frame, suites)
    assert found.failures == []
    assert {check.says: check.rows for check in found.warnings} == {
        "Every image has a view position.": (55,),
        "Every image has a sex.": (8, 64, 65),
    }
    assert [group.name for group in validation.groups(frame) if group.kind == "view"] == ["PA", "AP", "unknown"]


def test_other_views_are_counted(suites: list[Path]) -> None:
    """Laterals pass, and are a group like the others."""
    frame = put("view", "LL", 7, 9)(sound())
    counted = {group.name: group.images for group in validation.groups(frame) if group.kind == "view"}
    assert counted == {"PA": 60, "AP": 58, "LL": 2}
    assert validated(frame, suites).passed


def test_a_source_that_labels_few_findings_is_asked_for_those_alone(suites: list[Path]) -> None:
    """Findings that no source labels are a warning, those that one labels must be known in its own batches."""
    few = sound()
    for finding in set(FINDINGS) - {"Pneumonia", "Effusion"}:
        few[finding] = pd.array([pd.NA] * ROWS, dtype="Int64")
    labelled = {"first": ["Pneumonia", "Effusion"], "second": ["Pneumonia", "Effusion"]}
    found = validated(few, suites, labelled=labelled)
    assert found.failures == []
    assert "Hernia" in next(c.found for c in found.warnings if c.says.startswith("Every finding is labelled"))
    assert not validated(few, suites).passed
    nothing = few.assign(Effusion=pd.array([pd.NA] * ROWS, dtype="Int64"))
    says = [check.says for check in validated(nothing, suites, labelled=labelled).failures]
    assert "Effusion is known for at least 1 % of the images whose source labels it." in says
    half = sound()
    half.loc[half["batch"] == "second", "Hernia"] = pd.NA
    assert validated(half, suites, labelled={"second": FINDINGS[:-1]}).passed


def test_warnings_let_the_data_pass(suites: list[Path]) -> None:
    """A finding without positives, and mostly unknown ages, are shown and do not fail."""
    frame = sound().assign(Hernia=pd.array([0] * ROWS, dtype="Int64"), age=pd.array([None] * ROWS, dtype="Int64"))
    found = validated(frame, suites)
    assert found.passed
    assert [check.says for check in found.warnings] == [
        "At least half of the ages are known.",
        "Hernia is present in at least one image.",
    ]
    assert "Hernia is present in at least one image." in validation.page(found, frame)


@pytest.mark.parametrize(
    ("column", "value"),
    [("image_id", "00000099_000.png"), ("finding", "Infiltrate"), ("x", -1.0), ("w", 0.0), ("x", 990.0), ("h", 1100.0)],
)
def test_a_box_must_fit(column: str, value: object) -> None:
    """A box around an unknown finding, of an unknown image or out of its image fails."""
    boxes = BOXES.copy()
    boxes.loc[0, column] = value
    failures = validation.validate(sound(), boxes, []).failures
    assert [check.suite for check in failures] == ["boxes"]
    assert failures[0].found == "1 of 2 boxes are not"


def test_nothing_and_too_little_are_refused(suites: list[Path]) -> None:
    """No rows are an error, though every expectation on rows holds for none; too few images or patients fail."""
    with pytest.raises(DataError, match="empty"):
        validation.validate(sound().iloc[:0], BOXES.iloc[:0], suites)
    found = validation.validate(sound(), BOXES, [], min_images=121, min_patients=61)
    assert [(check.says, check.found) for check in found.failures] == [
        ("There are at least 121 images.", "120 images"),
        ("There are at least 61 patients.", "60 patients"),
    ]


def test_the_error_names_rows_by_batch_line_and_image(suites: list[Path]) -> None:
    """The error says each failed check in words, names twenty rows, and counts the rest."""
    frame = put("view", "side", *range(50, 75))(sound())
    message = str(validation.failure(validated(frame, suites), frame, page=Path("failed.html"), fix="correct them"))
    assert "The view position is PA, AP, LL, RL, LATERAL or OTHER, or missing. Not so: 25 of 120 rows." in message
    assert "first:52  00000026_000.png" in message
    assert "second:2  00000031_000.png" in message
    assert message.count(".png") == 20
    assert "and 5 more" in message


def test_every_failing_row_is_listed(suites: list[Path]) -> None:
    """The table of failures has all rows of each failed check, more than the 200 that great-expectations samples."""
    frame = put("sex", "", 8)(put("view", "side", *range(700))(sound(1500)))
    listed = validation.failing_rows(validated(frame, suites), frame)
    views = listed[listed["expectation"].str.startswith("The view position is")]
    assert views[["batch", "line"]].to_numpy().tolist() == frame.loc[:699, ["batch", "line"]].to_numpy().tolist()
    assert set(views["severity"]) == {"critical"}
    rest = listed.drop(views.index)
    assert rest.to_numpy().tolist() == [["table", "Every image has a sex.", "warning", "first", 10]]


def test_a_picture_needs_a_digest_of_its_own_pixels(suites: list[Path]) -> None:
    """A picture that nobody read, and two of the same pixels, fail with their rows; without any digests all fail."""
    pixels = pd.Series([f"{n:064x}" for n in range(ROWS)], dtype=str)
    pixels[7], pixels[30], pixels[50] = "", pixels[20], "not a digest"
    failures = validated(sound(), suites, pixels=pixels).failures
    assert {check.says: check.rows for check in failures} == {
        "Every picture was read: its pixels have a digest.": (7,),
        "A digest of pixels is 64 hexadecimal digits.": (50,),
        "No picture occurs twice in another encoding: digests of pixels differ.": (20, 30),
    }
    unread = validation.validate(sound(), BOXES, suites).failures
    assert {check.says for check in unread} == {check.says for check in failures}


def test_a_patient_on_two_sides_fails(suites: list[Path]) -> None:
    """A patient whom two batches' own splits put on different sides is named with all images; one side is right."""
    found = validated(sound(), suites, sides={"1": {"train"}, "5": {"train", "test"}, "strange": {"train", "test"}})
    assert [(check.says, check.rows) for check in found.failures] == [
        ("No patient is on two sides of the split: batches that keep a split of their own agree.", (8, 9))
    ]


STATED = ("name", "images", "images_stated", "manifest_sha256", "manifest_sha256_stated")


def test_a_batch_must_be_what_it_states(suites: list[Path]) -> None:
    """Another number of rows, or another manifest, than batch.json states fails and names the batch."""
    good = ("first", 60, 60, "a" * 64, "a" * 64)
    assert validated(sound(), suites, batches=pd.DataFrame([good], columns=list(STATED))).passed
    batches = pd.DataFrame(
        [good, ("cut", 59, 60, "a" * 64, "a" * 64), ("other", 60, 60, "a" * 64, "b" * 64)], columns=list(STATED)
    )
    assert [(check.says, check.found) for check in validated(sound(), suites, batches=batches).failures] == [
        ("Each batch has as many rows as its batch.json says.", "1 of 3: cut"),
        ("The SHA-256 of each batch's manifest is the one in its batch.json.", "1 of 3: other"),
    ]


def test_drift_is_a_warning_or_a_failure_as_the_settings_say(suites: list[Path]) -> None:
    """Every share that has changed is named; what that means is a setting, whatever severity the suite gives it."""
    shares = pd.DataFrame({"name": ["Mass: much", "view PA: same", "sex F: more"], "adjusted_p": [0.001, 0.3, 0.0099]})
    told = validated(sound(), suites, comparisons=shares, drift_alpha=0.01)
    assert told.passed
    assert [check.found for check in told.warnings] == ["2 of 3: Mass: much; sex F: more"]
    failed = validated(sound(), suites, comparisons=shares, drift_alpha=0.01, drift_fails=True)
    assert [check.found for check in failed.failures] == ["2 of 3: Mass: much; sex F: more"]
    assert validated(sound(), suites, comparisons=shares, drift_alpha=0.001, drift_fails=True).warnings == []
    assert validated(sound(), suites, comparisons=shares, drift_alpha=0.001, drift_fails=True).passed


class _Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_stands_alone_and_names_nobody(suites: list[Path]) -> None:
    """The page has no script, no address and no identifier, is well-formed, and has the same bytes each time."""
    frame = put("view", "<script>alert(1)</script>", 7)(sound())
    frame["patient_id"] = ["patient" + name for name in frame["patient_id"]]
    found = validated(frame, suites)
    page = validation.page(found, frame)
    text = validation.record(found, frame).to_bytes().decode()
    for secret in (*frame["image_id"], *frame["patient_id"], *frame["sha256"], "_000.png", "patient1"):
        assert secret not in page
        assert secret not in text
    assert "first:9" in page
    assert "first:9" in text
    assert page == validation.page(found, frame)
    parsed = _Page()
    parsed.feed(page)
    assert parsed.open == []
    assert page.startswith("<!doctype html>")
    assert not {tag for tag, _ in parsed.tags} & {"script", "link", "img", "iframe"}
    assert not any("href" in attributes or "src" in attributes for _, attributes in parsed.tags)
    assert "http" not in page
    assert "url(" not in page


def test_prevalence_is_counted_by_group(suites: list[Path]) -> None:
    """Counts of each group equal those that pandas gives; missing and uncertain findings are not known."""
    frame = sound()
    frame.loc[:9, "Mass"] = pd.NA
    frame.loc[50:70, "Edema"] = -1
    parts = {(part.kind, part.name): part for part in validation.groups(frame)}
    assert set(parts) == {("all", "all"), ("batch", "first"), ("batch", "second")} | {
        (kind, name) for kind, names in (("view", ("PA", "AP")), ("sex", ("F", "M"))) for name in names
    }
    for (kind, name), part in parts.items():
        rows = frame if kind == "all" else frame[frame[kind] == name]
        assert (part.images, part.patients) == (len(rows), rows["patient_id"].nunique())
        for finding in FINDINGS:
            labels = rows[finding].value_counts()
            positive, negative, uncertain = (labels.get(value, 0) for value in (1, 0, -1))
            wanted = Labels(positive=positive, known=positive + negative, uncertain=uncertain)
            assert part.findings[finding] == wanted


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (None, "missing"),
        ("{", "not a suite"),
        ('{"name": "a"}', "not a suite"),
        ('{"name": "a", "expectations": []}', "there must be one"),
        (suite_of("expect_miracles", {}, "critical"), "refuses .expect_miracles"),
        (suite_of("expect_column_values_to_be_in_set", {"colum": "view"}, "critical"), "refuses the suite"),
        (suite_of("expect_column_to_exist", {"column": "view"}, "fatal"), "critical or warning"),
        (suite_of("expect_column_to_exist", {"column": "a"}, "critical").replace('"says"', '"of": "x", "says"'), "'x'"),
    ],
)
def test_a_suite_that_is_none_is_refused(tmp_path: Path, content: str | None, why: str) -> None:
    """A missing suite, one that is not JSON, an unknown expectation or severity is a settings error."""
    path = tmp_path / "suite.json"
    if content is not None:
        path.write_text(content, encoding="utf-8")
    with pytest.raises(SettingsError, match=why):
        validation.validate(sound(), BOXES, [path])


def test_an_expectation_that_cannot_be_evaluated_fails(tmp_path: Path) -> None:
    """An expectation of a column that is not there fails, and says why."""
    suite = suite_of("expect_column_values_to_not_be_null", {"column": "shoe_size"}, "critical", "Shoes are known.")
    path = tmp_path / "suite.json"
    path.write_text(suite, encoding="utf-8")
    (check,) = validation.validate(sound(), BOXES, [path]).failures
    assert (check.says, check.rows) == ("Shoes are known.", ())
    assert "could not be evaluated" in check.found
