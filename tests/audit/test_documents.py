"""Bill of materials, model card and list of software, by the bundle that `tests/golden/` keeps."""

from __future__ import annotations

import csv
import io
import json
import lzma
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from cxr_ops.audit import archive, documents
from cxr_ops.audit.entries import Entry
from cxr_ops.audit.material import EVALUATION, PACKAGES, Material
from cxr_ops.records.evidence import Evaluation

GOLDEN = Path(__file__).parents[1] / "golden" / "next" / "bundle.tar.xz"
LOCK = b"numpy==2.4.0 \\\n    --hash=sha256:00\ntorch==2.13.0 ; sys_platform == 'linux' \\\n    --hash=sha256:01\n"
LOCK += b"numpy==2.5.5 ; python_full_version >= '3.12' \\\n    --hash=sha256:02\n"
# Elements of the schema v0.2 of the Coalition for Health AI, in the order that it asks for.
ELEMENTS = {
    "AppliedModelCard": (
        "BasicInfo ReleaseInfo ModelSummary UsesAndDirections Warnings TrustIngredients KeyMetrics Resources "
        "Bibliography"
    ),
    "ReleaseInfo": "ReleaseStage ReleaseDate ReleaseVersion GlobalAvailability RegulatoryApproval",
    "UsesAndDirections": (
        "IntendedUseAndWorkflow PrimaryIntendedUsers HowToUse TargetedPatientPopulation CautionedOutOfScopeSettings"
    ),
    "AISystemFacts": (
        "OutcomesAndOutputs ModelType FoundationModels InputDataSource OutputAndInputDataTypes "
        "DevelopmentDataCharacterization BiasMitigationApproaches OngoingMaintenance Security Transparency"
    ),
    "KeyMetrics": "UsefulnessUsabilityEfficacy FairnessEquity SafetyReliability",
    "SafetyReliability": (
        "MetricGoal Results Interpretation TestType TestingDataDescription ValidationProcessAndJustification"
    ),
    "MetricResult": "Label ValueJson",
    "Resources": "EvaluationReferences PeerReviewedPublications PatientConsentOrDisclosure",
}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    path = tmp_path_factory.mktemp("golden") / "bundle.tar"
    path.write_bytes(lzma.decompress(GOLDEN.read_bytes()))
    return {**archive.unpack(path)[1], PACKAGES: LOCK}


@pytest.fixture(scope="module")
def papers(files: dict[str, bytes]) -> dict[str, bytes]:
    names = sorted(name for name in files if name.startswith("ledger/"))
    entries = [Entry.model_validate_json(files[name]) for name in names]
    run = json.loads(files["bundle.json"])["run"]
    made = documents.make(Material(run=run, files=files, entries=entries))
    return {name.removeprefix(documents.FOLDER): data for name, data in made.items()}


@pytest.fixture(scope="module")
def evaluation(files: dict[str, bytes]) -> Evaluation:
    return Evaluation.model_validate_json(files[EVALUATION])


def test_the_bill_of_materials_names_model_data_and_packages(
    papers: dict[str, bytes], files: dict[str, bytes], evaluation: Evaluation
) -> None:
    """The model with its digest and AUCs, each batch with the digest of its record, each package of the lock file."""
    bill = json.loads(papers["sbom.cdx.json"])
    model = bill["metadata"]["component"]
    assert (bill["specVersion"], model["type"]) == ("1.6", "machine-learning-model")
    assert model["hashes"] == [{"alg": "SHA-256", "content": evaluation.challenger}]
    aucs = {one["slice"]: one for one in model["modelCard"]["quantitativeAnalysis"]["performanceMetrics"]}
    for row in evaluation.findings:
        assert aucs[row.finding]["value"] == f"{row.challenger.value:.4f}"
        assert aucs[row.finding]["confidenceInterval"]["lowerBound"] == f"{row.challenger.ci[0]:.4f}"
    parts = {one["bom-ref"]: one for one in bill["components"]}
    assert {"pkg:pypi/numpy@2.4.0", "pkg:pypi/torch@2.13.0", "data/batch-1", "cxr-ops"} == set(parts)
    assert (
        parts["data/batch-1"]["hashes"][0]["content"]
        == json.loads(files["run/inputs.json"])["data"]["batches"]["batch-1"]
    )
    known = {*parts, "model"}
    assert {one["ref"] for one in bill["dependencies"]} | {
        ref for one in bill["dependencies"] for ref in one["dependsOn"]
    } == known


def test_the_bill_of_materials_fits_the_schema(papers: dict[str, bytes]) -> None:
    """CycloneDX's own validator finds nothing."""
    validator = JsonStrictValidator(SchemaVersion.V1_6)
    text = papers["sbom.cdx.json"].decode()
    assert validator.validate_str(text) is None
    for right, wrong in (('"type": "data"', '"type": "datum"'), ('"purl"', '"pearl"'), ('"urn:uuid:', '"uuid:')):
        assert right in text
        assert validator.validate_str(text.replace(right, wrong)) is not None


def test_the_card_has_the_elements_of_the_schema_in_their_order(papers: dict[str, bytes]) -> None:
    """XML and JSON hold the same, under the names of the Applied Model Card."""
    root = ET.fromstring(papers["model-card.xml"])
    space = "{https://mc.chai.org/v0.2/schema.xsd}"
    card = json.loads(papers["model-card.json"])["AppliedModelCard"]

    def compare(element: ET.Element, value: object) -> None:
        name = element.tag.removeprefix(space)
        children = [child.tag.removeprefix(space) for child in element]
        if name in ELEMENTS:
            assert children == ELEMENTS[name].split()
        if isinstance(value, dict):
            assert set(children) == set(value)
            for key, one in value.items():
                found = element.findall(f"{space}{key}")
                for child, part in zip(found, one if isinstance(one, list) else [one], strict=True):
                    compare(child, part)
        else:
            assert (element.text or "") == value

    compare(root, card)


def test_what_only_a_person_can_say_is_a_marked_blank(papers: dict[str, bytes], evaluation: Evaluation) -> None:
    """Users, developer, risks and population are blanks in every form; figures are those of the evidence."""
    card = json.loads(papers["model-card.json"])["AppliedModelCard"]
    assert card["BasicInfo"]["ModelDeveloper"] == documents.BLANK
    assert card["UsesAndDirections"]["PrimaryIntendedUsers"] == documents.BLANK
    assert card["Warnings"]["ClinicalRiskLevel"] == documents.BLANK
    text = papers["model-card.md"].decode()
    assert text.count(documents.BLANK) > 10
    mass = next(row for row in evaluation.findings if row.finding == "Mass").challenger
    assert f"| AUC, Mass | {mass.value:.3f} | {mass.ci[0]:.3f} to {mass.ci[1]:.3f} |" in text
    assert "Not for clinical use." in text


def test_the_list_of_software_has_a_row_for_each_package(papers: dict[str, bytes]) -> None:
    """Title and version from the lock file, and a blank for what IEC 62304 asks people to say."""
    rows = list(csv.DictReader(io.StringIO(papers["software.csv"].decode())))
    assert [(row["title"], row["version"]) for row in rows[1:]] == [("numpy", "2.4.0"), ("torch", "2.13.0")]
    assert rows[0]["title"] == "cxr-ops"
    assert {row["known anomalies evaluated"] for row in rows} == {documents.BLANK}
