"""Events: what is withdrawn or corrected, and what stays as it was."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from cxr_ops.data import events, manifest
from cxr_ops.errors import DataError
from cxr_ops.labels import FINDINGS
from cxr_ops.records.data import Event, event_name

TOLD = {"by": "dr_lee", "reason": "read again"}


def data_set() -> tuple[pd.DataFrame, pd.DataFrame]:
    """Six images: two of each of the patients 1, 01 and 2, in the batches a and b, and two boxes."""
    rows = [(f"{patient}-{n}.png", patient, "ab"[n]) for patient in ("1", "01", "2") for n in (0, 1)]
    frame = pd.DataFrame(rows, columns=["image_id", "patient_id", "batch"])
    for finding in FINDINGS:
        frame[finding] = pd.array([0] * 6, dtype="Int64")
    frame.loc[frame["image_id"] == "1-0.png", ["Mass", "Nodule"]] = 1
    boxes = pd.DataFrame(
        [("1-0.png", "Mass", 1.0, 1.0, 2.0, 2.0), ("1-0.png", "Nodule", 3.0, 3.0, 2.0, 2.0)],
        columns=list(manifest.BOX_COLUMNS),
    )
    return frame, boxes


def corrected(*rows: tuple[str, str, str], before: events.Applied | None = None) -> Event:
    """The event of rows of image, finding and new label."""
    table = [(line, {"image_id": image, finding: label}) for line, (image, finding, label) in enumerate(rows, 2)]
    now = before or events.apply(*data_set(), [])
    return events.correction(event_name(1), now, table, "fixes.csv", **TOLD)


def test_nothing_happens_without_events() -> None:
    """A data set without events is its batches."""
    frame, boxes = data_set()
    now = events.apply(frame, boxes, [])
    pd.testing.assert_frame_equal(now.frame, frame)
    pd.testing.assert_frame_equal(now.boxes, boxes)
    assert now.withdrawn.empty
    assert list(events.apply(frame, boxes[:0], []).boxes) == list(manifest.BOX_COLUMNS)


def test_a_withdrawn_patient_is_that_patient_alone() -> None:
    """Ids are compared as text: 01 is not 1; the patient's images go and are remembered with their batches."""
    frame, boxes = data_set()
    event = events.withdrawal(event_name(1), frame, [], ["01"], **TOLD)
    assert (event.patients, event.images) == (["01"], ["01-0.png", "01-1.png"])
    now = events.apply(frame, boxes, [event])
    assert now.frame["image_id"].tolist() == ["1-0.png", "1-1.png", "2-0.png", "2-1.png"]
    assert now.withdrawn.to_numpy().tolist() == [["01-0.png", "01", "a"], ["01-1.png", "01", "b"]]
    assert len(now.boxes) == 2
    assert events.withdrawn_patients([event]) == {"01": "event.00001"}


def test_an_images_boxes_go_with_it() -> None:
    """The boxes of a withdrawn image go; its patient's other image stays."""
    frame, boxes = data_set()
    now = events.apply(frame, boxes, [events.withdrawal(event_name(1), frame, [], ["1-0.png"], **TOLD)])
    assert now.boxes.empty
    assert "1-1.png" in set(now.frame["image_id"])


@pytest.mark.parametrize(("label", "value"), [("0", 0), ("-1", -1), ("missing", pd.NA)])
def test_a_box_goes_with_its_finding_alone(label: str, value: object) -> None:
    """A correction of Mass to anything but 1 takes the Mass box, and leaves the Nodule box and all other labels."""
    frame, boxes = data_set()
    now = events.apply(frame, boxes, [corrected(("1-0.png", "Mass", label))])
    expected = frame.copy()
    expected.loc[0, "Mass"] = value
    pd.testing.assert_frame_equal(now.frame, expected)
    assert now.boxes["finding"].tolist() == ["Nodule"]


def test_a_correction_to_positive_leaves_all_boxes() -> None:
    """A label that becomes 1 takes no box away, and the last of two corrections has the word."""
    frame, boxes = data_set()
    first = corrected(("1-0.png", "Mass", "0"), ("2-0.png", "Hernia", "1"))
    assert len(events.apply(frame, boxes, [corrected(("2-0.png", "Hernia", "1"))]).boxes) == 2
    second = corrected(("1-0.png", "Mass", "1"), before=events.apply(frame, boxes, [first]))
    now = events.apply(frame, boxes, [first, second])
    assert len(now.boxes) == 2
    assert now.frame.loc[now.frame["image_id"] == "2-0.png", "Hernia"].item() == 1
    assert second.labels[0].was == 0


def test_all_that_is_wrong_with_a_correction_is_listed() -> None:
    """Unknown and withdrawn images, labels that are none, images named twice and rows that change nothing."""
    frame, boxes = data_set()
    before = events.apply(frame, boxes, [events.withdrawal(event_name(1), frame, [], ["2"], **TOLD)])
    rows = [
        ("1-0.png", "Mass", "1"),
        ("9-9.png", "Mass", "1"),
        ("2-0.png", "Mass", "1"),
        ("1-1.png", "Mass", "yes"),
        ("01-0.png", "Mass", "1"),
        ("01-0.png", "Mass", "0"),
        ("01-1.png", "Mass", ""),
    ]
    with pytest.raises(DataError) as caught:
        corrected(*rows, before=before)
    told = str(caught.value)
    for part in (
        "6 problems; nothing was relabelled",
        "line 2: 1-0.png has these labels already",
        "line 3: the image '9-9.png' is not in the data set",
        "line 4: the image '2-0.png' is withdrawn",
        "line 5: Mass is 'yes', not 1, 0, -1, missing or empty",
        "line 7: 01-0.png stands on line 6 too",
        "line 8: 01-1.png has these labels already",
        "the nearest id to 9-9.png is",
    ):
        assert part in told


def test_all_that_is_wrong_with_a_withdrawal_is_listed() -> None:
    """Unknown ids, among them a known one written otherwise, and what is withdrawn already."""
    frame, _ = data_set()
    first = events.withdrawal(event_name(1), frame, [], ["1", "2-0.png"], **TOLD)
    with pytest.raises(DataError) as caught:
        events.withdrawal(event_name(2), frame, [first], ["001", "1", "2-0.png", "2"], **TOLD)
    assert str(caught.value).startswith("3 problems; nothing was withdrawn\n  001 is the id of no patient")
    assert "the nearest id to 001 is 01: cxr-ops data show 01" in str(caught.value.fix)
    assert "the patient 1 was withdrawn by event.00001" in str(caught.value)
    assert "the image 2-0.png is withdrawn already" in str(caught.value)
    rest = events.withdrawal(event_name(2), frame, [first], ["2"], **TOLD)
    assert rest.images == ["2-1.png"]


def test_an_id_of_a_patient_and_of_an_image_is_asked_for() -> None:
    """Where a patient's id is an image's too, the error says what to type, and either may be said."""
    frame, _ = data_set()
    owner = frame.loc[frame["image_id"] == "2-1.png", "patient_id"].iloc[0]
    frame = frame.replace({"patient_id": {owner: "2-1.png"}})
    with pytest.raises(DataError, match=r"say which, with --patient 2-1\.png or --image 2-1\.png"):
        events.withdrawal(event_name(1), frame, [], ["2-1.png"], **TOLD)
    one = events.withdrawal(event_name(1), frame, [], images=["2-1.png"], **TOLD)
    assert (one.patients, one.images) == ([], ["2-1.png"])
    whole = events.withdrawal(event_name(1), frame, [], patients=["2-1.png"], **TOLD)
    assert whole.patients == ["2-1.png"]
    assert whole.images == frame.loc[frame["patient_id"] == "2-1.png", "image_id"].tolist()
    with pytest.raises(DataError, match="1 is the id of no image"):
        events.withdrawal(event_name(1), frame, [], images=["1"], **TOLD)


def test_an_event_that_is_missing_is_noticed(tmp_path: Path) -> None:
    """Events are read in the order of their numbers; a gap, or a folder of another name, is an error."""
    frame, _ = data_set()
    for number, who in enumerate(["1", "2"], 1):
        event = events.withdrawal(event_name(number), frame, [], [who], **TOLD)
        event.write(tmp_path / event.name / "event.json")
    assert [one.patients for one in events.read_events(events.event_folders(tmp_path))] == [["1"], ["2"]]
    (tmp_path / "event.00001").rename(tmp_path / "aside")
    with pytest.raises(DataError, match=r"event\.00001 is missing, and event\.00002 is there"):
        events.event_folders(tmp_path)
    (tmp_path / "event.00001").mkdir()  # as a purge leaves it in a checkout
    with pytest.raises(DataError, match=r"event\.json of event\.00001 is missing") as missing:
        manifest.read_digests(tmp_path)
    assert missing.value.fix == "cxr-ops open"
    (tmp_path / "event.00001").rmdir()
    (tmp_path / "event.00002").rename(tmp_path / "event.00001")
    with pytest.raises(DataError, match=r"the event calls itself event\.00002"):
        events.read_events(events.event_folders(tmp_path))
