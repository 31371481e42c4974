"""Records of a batch that was brought: what became of it (`acceptance.json`), and that its ingestion has not ended."""

from __future__ import annotations

from typing import Final, Literal

from cxr_ops.records.base import Kept, Record
from cxr_ops.records.validation import Checked

# In the quarantine of a batch: the record, which is in a batch that entered too; why it was refused; what was wrong.
ACCEPTANCE: Final = "acceptance.json"
REFUSAL: Final = "refusal.txt"
PROBLEMS: Final = "problems.csv"

Outcome = Literal["whole", "quarantine", "refused"]


class Comparison(Record):
    """One share of a batch's patients beside the same share of the data set's.

    `what` names the share; `batch` of `batch_of` patients of the batch have it, `held` of `held_of` patients of the
    data set who are not in the batch. `p` is two-sided, by Fisher's exact test; `adjusted_p` by Holm, over all
    comparisons of the batch.
    """

    what: str
    batch: int
    batch_of: int
    held: int
    held_of: int
    p: float
    adjusted_p: float

    def __str__(self) -> str:
        return (
            f"{self.what}: {self.batch / self.batch_of:.1%} of {self.batch_of:,} patients here, "
            f"{self.held / self.held_of:.1%} of {self.held_of:,} in the data set (adjusted p {self.adjusted_p:.2g})"
        )


class Acceptance(Kept):
    """What became of a batch, and the figures that decided it.

    Attributes:
        batch: its name.
        outcome: `whole`: everything entered; `quarantine`: rows, no more of them than the settings allow, or boxes or
            files that no row names were left out; `refused`: nothing entered.
        rows: of the source's table.
        images: rows that are good; of a batch that was not refused, they entered.
        boxes_left_out: boxes that were wrong themselves.
        problems: how many things were wrong, with rows, files or boxes.
        max_quarantined: the largest share of rows that might be left out.
        drift_alpha: the adjusted p-value below which a share has changed.
        drift: what a changed share means.
        comparisons: every share that was compared; empty where there was no data set yet, or nothing to compare.
        checks: every expectation of the batch itself, and what came of it.
        suites: for the name of each suite, the SHA-256 of its file.
        why: of a refused batch, the reason in words; it may name images.
    """

    batch: str
    outcome: Outcome
    rows: int = 0
    images: int = 0
    boxes_left_out: int = 0
    problems: int = 0
    max_quarantined: float
    drift_alpha: float
    drift: Literal["warning", "failure"]
    comparisons: list[Comparison] = []
    checks: list[Checked] = []
    suites: dict[str, str] = {}
    why: str = ""

    @property
    def quarantined(self) -> int:
        """Rows that were left out."""
        return self.rows - self.images

    @property
    def changed(self) -> list[Comparison]:
        """The shares that have changed."""
        return [one for one in self.comparisons if one.adjusted_p < self.drift_alpha]

    def __str__(self) -> str:
        if self.outcome == "whole":
            return "accepted whole"
        if self.outcome == "refused":
            return "refused"
        share = f"{self.quarantined / self.rows:.1%} of the rows, at most {self.max_quarantined:.1%} are allowed"
        return f"accepted with quarantine ({self.quarantined:,} of {self.rows:,} rows left out: {share})"


class Unfinished(Kept):
    """An ingestion that has begun: `$CXR_HOME/unfinished/<batch>.json`. It goes when that ends, with success or not.

    One that is still there while nobody ingests is of an ingestion that was killed. What it had left to do is finished
    by the next one, if the batch had entered.

    Attributes:
        batch: its name.
        record: SHA-256 of the `batch.json` that is about to enter; "" before that.
        after: the data revision that it is to follow; "" before the first.
        acceptance: what its quarantine gets once it has entered; None where nothing was left out.
    """

    batch: str
    record: str = ""
    after: str = ""
    acceptance: Acceptance | None = None
