"""A small folder in the layout of each kind that can be ingested, with what a manifest must say of its pictures.

Pictures are noise and patients are invented; names, headers and codings are those that the makers of each release use.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from dicoms import ROOT, dicom
from folders import make_folders

from cxr_ops.labels import FINDINGS

CHEXPERT = ("Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Effusion", "Pneumonia", "Pneumothorax")
VINDR = {
    "Atelectasis": "Atelectasis",
    "Cardiomegaly": "Cardiomegaly",
    "Consolidation": "Consolidation",
    "Infiltration": "Infiltration",
    "Pleural effusion": "Effusion",
    "Pleural thickening": "Pleural_Thickening",
    "Pneumothorax": "Pneumothorax",
    "Pulmonary fibrosis": "Fibrosis",
}
NIH_HEADER = (
    "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
    "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y],"
)
PADCHEST_HEADER = (
    ",ImageID,ImageDir,StudyDate_DICOM,PatientID,PatientBirth,PatientSex_DICOM,Projection,BitsStored_DICOM,"
    "WindowCenter_DICOM,WindowWidth_DICOM,PhotometricInterpretation_DICOM,MethodLabel,Labels"
)
_TEXTS = {1: "1.0", 0: "0.0", -1: "-1.0", None: ""}


@dataclass(frozen=True, kw_only=True)
class Told:
    """What a manifest must say of a picture; a finding that `labels` does not name is missing.

    `grey` is what the picture shows, 0 to 255, where its file is not kept as it came.
    """

    file: Path
    patient: str
    view: str
    age: int | None
    sex: str
    labels: Mapping[str, int]
    grey: np.ndarray | None = None


def noise(seed: int, bits: int = 8) -> np.ndarray:
    samples = np.random.default_rng(seed).integers(0, 2**bits, (40, 36))
    return samples.astype(np.uint8 if bits == 8 else np.uint16)


def shown(samples: np.ndarray, bits: int) -> np.ndarray:
    """All the bits of a picture spread over 256 grey values, to the nearest."""
    return np.floor(samples / (2**bits - 1) * 255 + 0.5).astype(np.uint8)


def written(path: Path, pixels: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), pixels)
    return path


def cycled(at: int, names: tuple[str, ...], values: tuple[int | None, ...] = (1, None, -1, 0)) -> dict[str, int]:
    """Labels of the picture `at`: of four in a row each finding is present, missing, uncertain and absent once."""
    found = {name: values[(at + number) % len(values)] for number, name in enumerate(names)}
    return {name: value for name, value in found.items() if value is not None}


def nih(root: Path) -> dict[str, Told]:
    rows, told = [NIH_HEADER], {}
    for at in range(16):
        patient, name = 1 + at // 2, f"{1 + at // 2:08d}_{at % 2:03d}.png"
        labels = {finding: int(number == at) for number, finding in enumerate(FINDINGS)}
        named = FINDINGS[at] if at < 14 else "No Finding"
        sex, view = "FM"[patient % 2], ("PA", "AP")[at % 2]
        rows.append(f"{name},{named},{at % 2},{patient},{40 + patient:03d}Y,{sex},{view},64,64,0.1,0.1")
        file = written(root / "images_001" / "images" / name, noise(at))
        told[name] = Told(file=file, patient=str(patient), view=view, age=40 + patient, sex=sex, labels=labels)
    (root / "Data_Entry_2017.csv").write_text("\n".join(rows) + "\n")
    boxes = ["Image Index,Finding Label,Bbox [x,y,w,h],,,", "00000004_001.png,Nodule,1.5,2,10,12.25,,,"]
    (root / "BBox_List_2017.csv").write_text("\n".join([*boxes, "00099999_000.png,Mass,1,2,3,4,,,"]) + "\n")
    return told


def folder(root: Path) -> dict[str, Told]:
    make_folders(root, patients=10, seed=7)
    told = {}
    for file in sorted(root.rglob("*.jpeg")):
        ill = file.parent.name == "PNEUMONIA"
        patient = file.name.split("_")[0] if ill else f"IM-{file.name.partition('IM-')[2][:4]}"
        told[file.name] = Told(file=file, patient=patient, view="AP", age=None, sex="", labels={"Pneumonia": int(ill)})
    return told


def chexpert(root: Path) -> dict[str, Told]:
    columns = [name.replace("Effusion", "Pleural Effusion") for name in CHEXPERT]
    rows = [",".join(["Path,Sex,Age,Frontal/Lateral,AP/PA,No Finding,Lung Opacity", *columns])]
    told = {}
    for at in range(8):
        patient, lateral, normal = f"patient{1 + at // 2:05d}", at == 1, at == 7
        labels = dict.fromkeys(CHEXPERT, 0) if normal else cycled(at, CHEXPERT)
        place = f"train/{patient}/study1/view{1 + at % 2}_{'lateral' if lateral else 'frontal'}.jpg"
        sex, view = ("Female", "Male")[at // 2 % 2], ("PA", "AP")[at % 2]
        texts = ["1.0" if normal else "", "1.0", *("" if normal else _TEXTS[labels.get(name)] for name in CHEXPERT)]
        side = "Lateral," if lateral else f"Frontal,{view}"
        rows.append(f"CheXpert-v1.0-small/{place},{sex},{50 + at // 2},{side},{','.join(texts)}")
        told[place.replace("/", "-")] = Told(
            file=written(root / place, noise(100 + at)),
            patient=patient,
            view="LATERAL" if lateral else view,
            age=50 + at // 2,
            sex=sex[0],
            labels=labels,
        )
    (root / "train.csv").write_text("\n".join(rows) + "\n")
    return told


def mimic(root: Path) -> dict[str, Told]:
    columns = [name.replace("Effusion", "Pleural Effusion") for name in CHEXPERT]
    labels_of = {1_000_0001 + at: cycled(at, CHEXPERT) for at in range(4)}
    labels = [",".join(["subject_id,study_id", *columns, "No Finding"])]
    people = ["subject_id,gender,anchor_age"]
    rows, told = ["dicom_id,subject_id,study_id,ViewPosition"], {}
    for number, (subject, known) in enumerate(labels_of.items()):
        study, sex = 50_000_001 + number, "FM"[number % 2]
        labels.append(f"{subject},{study},{','.join(_TEXTS[known.get(name)] for name in CHEXPERT)},")
        people.append(f"{subject},{sex},{60 + number}")
        for view in ("PA", "LATERAL" if number == 2 else "AP"):
            dicom_id = f"{number:08d}-{len(told):08d}"
            place = f"files/p{str(subject)[:2]}/p{subject}/s{study}/{dicom_id}.jpg"
            rows.append(f"{dicom_id},{subject},{study},{view}")
            told[f"{dicom_id}.jpg"] = Told(
                file=written(root / place, noise(200 + len(told))),
                patient=f"p{subject}",
                view=view,
                age=60 + number,
                sex=sex,
                labels=known,
            )
    (root / "mimic-cxr-2.0.0-metadata.csv").write_text("\n".join(rows) + "\n")
    (root / "mimic-cxr-2.0.0-chexpert.csv").write_text("\n".join(labels) + "\n")
    (root / "patients.csv").write_text("\n".join(people) + "\n")
    return told


def padchest(root: Path) -> dict[str, Told]:
    rows = [PADCHEST_HEADER]
    names = (("pleural effusion", "Effusion"), ("cardiomegaly", "Cardiomegaly"), ("nodule", "Nodule"))
    told = {}
    for at in range(8):
        name, patient, sex = f"{at}_padchest.png", f"P{at // 2}", "FM"[at // 2 % 2]
        label, finding = names[at % 4] if at % 4 < 3 else ("normal", "")
        inverted, samples = at == 4, noise(300 + at, bits=12)
        lateral = at == 3
        kind = "MONOCHROME1" if inverted else "MONOCHROME2"
        rows.append(
            f"{at},{name},0,20150101,{patient},{1960 + at // 2},{sex},{'L' if lateral else 'PA'},12,,,{kind},"
            f"Physician,['{label}']"
        )
        told[name] = Told(
            file=written(root / "0" / name, samples),
            patient=patient,
            view="LATERAL" if lateral else "PA",
            age=55 - at // 2,
            sex=sex,
            labels={one: int(one == finding) for one in FINDINGS},
            grey=shown(4095 - samples if inverted else samples, 12),
        )
    (root / "PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv").write_text("\n".join(rows) + "\n")
    return told


def vindr(root: Path) -> dict[str, Told]:
    rows, told = ["image_id,class_name,class_id,rad_id,x_min,y_min,x_max,y_max"], {}
    for at in range(8):
        key, samples = f"{at:032x}", noise(400 + at, bits=12)
        labels = cycled(at, tuple(VINDR.values()), (1, 0, -1, 0))
        for number, (name, finding) in enumerate(VINDR.items()):
            readers = {1: ("R8", "R9", "R10"), -1: ("R9",), 0: ()}[labels[finding]]
            rows += [f"{key},{name},{number},{reader},1,2,11,22.5" for reader in readers]
        rows += [f"{key},Nodule/Mass,8,{reader},3,3,8,8" for reader in ("R8", "R9", "R10")]
        data = dicom(samples, uid=f"{ROOT}.4{at}", ViewPosition=None, PatientAge="047Y", PatientSex="M")
        _put(root / "train" / f"{key}.dicom", data)
        told[f"{key}.png"] = Told(
            file=root / "train" / f"{key}.dicom",
            patient=key,
            view="PA",
            age=47,
            sex="M",
            labels=labels,
            grey=shown(samples, 12),
        )
    (root / "train.csv").write_text("\n".join(rows) + "\n")
    return told


def rsna(root: Path) -> dict[str, Told]:
    rows, kinds, mappings, told = ["patientId,x,y,width,height,Target"], ["patientId,class"], [], {}
    for at in range(8):
        key, ill = f"0004cf{at:02x}", at % 4 == 3
        rows.append(f"{key},3.0,4.0,10.0,12.5,1" if ill else f"{key},,,,,0")
        kind = "Lung Opacity" if ill else ("Normal", "No Lung Opacity / Not Normal")[at % 2]
        kinds.append(f"{key},{kind}")
        mappings.append({"subset_img_id": key, "img_id": f"{90_000 + at:08d}_000.png"})
        who: dict[str, Any] = {"PatientName": key, "PatientID": key, "PatientAge": "51", "StudyDate": "19010101"}
        file = root / "stage_2_train_images" / f"{key}.dcm"
        _put(file, dicom(noise(500 + at), bits=8, uid=f"{ROOT}.5{at}", **who))
        told[f"{key}.png"] = Told(
            file=file,
            patient=str(90_000 + at),
            view="PA",
            age=51,
            sex="F",
            labels=dict.fromkeys(FINDINGS, 0) if kind == "Normal" else {"Pneumonia": int(ill)},
            grey=noise(500 + at),
        )
    (root / "stage_2_train_labels.csv").write_text("\n".join(rows) + "\n")
    (root / "stage_2_detailed_class_info.csv").write_text("\n".join(kinds) + "\n")
    (root / "pneumonia-challenge-dataset-mappings_2018.json").write_text(json.dumps(mappings))
    return told


def export(root: Path) -> dict[str, Told]:
    """DICOM files as an archive exports them, with a table of labels."""
    rows, told = ["SOPInstanceUID,patient_id,Pneumonia,Effusion"], {}
    for at in range(8):
        uid, inverted, samples = f"{ROOT}.6{at}", at == 5, noise(600 + at, bits=12)
        labels = cycled(at, ("Pneumonia", "Effusion"))
        if not labels:
            labels = {"Pneumonia": 0}
        rows.append(f"{uid},d-{at // 2},{labels.get('Pneumonia', '')},{labels.get('Effusion', '')}")
        view, kind = ("PA", "AP")[at % 2], "MONOCHROME1" if inverted else "MONOCHROME2"
        _put(root / "study" / f"IM{at:04d}", dicom(samples, uid=uid, ViewPosition=view, PhotometricInterpretation=kind))
        told[f"{uid}.png"] = Told(
            file=root / "study" / f"IM{at:04d}",
            patient=f"d-{at // 2}",
            view=view,
            age=58,
            sex="F",
            labels=labels,
            grey=shown(4095 - samples if inverted else samples, 12),
        )
    (root / "labels.csv").write_text("\n".join(rows) + "\n")
    return told


def table(root: Path) -> dict[str, Told]:
    """A hospital's own export: a table, and a mapping file that says what its columns are."""
    (root / "mapping.yaml").write_text(
        "table: export.csv\nimages: pictures\nimage: file\npatient: pid\nage: years\n"
        "sex: {column: gender, values: {female: F, male: M}}\nview: {column: projection, values: {lat: LATERAL}}\n"
        'findings: {Pneumonia: pneumonia, Effusion: {column: fluid, values: {"yes": 1, "no": 0, "?": -1}}}\n'
        "attributes: [scanner]\n"
    )
    rows, told = ["file,pid,years,gender,projection,pneumonia,fluid,scanner"], {}
    for at in range(8):
        place, lateral = f"{at // 4}/{at}.{'png' if at % 2 else 'jpg'}", at == 6
        labels = cycled(at, ("Pneumonia", "Effusion"))
        fluid = {1: "yes", 0: "no", -1: "?", None: ""}[labels.get("Effusion")]
        sex = ("female", "male")[at // 2 % 2]
        view = "lat" if lateral else ("PA", "AP")[at % 2]
        rows.append(f"{place},c-{at // 2},{30 + at // 2},{sex},{view},{labels.get('Pneumonia', '')},{fluid},GE")
        told[place.replace("/", "-")] = Told(
            file=written(root / "pictures" / place, noise(700 + at)),
            patient=f"c-{at // 2}",
            view="LATERAL" if lateral else view,
            age=30 + at // 2,
            sex=sex[0].upper(),
            labels=labels,
        )
    (root / "export.csv").write_text("\n".join(rows) + "\n")
    return told


def _put(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


# By the kind's name. Each makes a folder that is empty into one of its kind.
RELEASES: dict[str, Callable[[Path], dict[str, Told]]] = {
    "nih": nih,
    "padchest": padchest,
    "vindr": vindr,
    "rsna": rsna,
    "dicom": export,
    "folder": folder,
    "chexpert": chexpert,
    "mimic": mimic,
    "csv": table,
}
