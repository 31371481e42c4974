"""DICOM files for tests: drawn with numpy, written with pydicom, compressed with GDCM. No third party's picture."""

from __future__ import annotations

import io
import tempfile
import warnings
from pathlib import Path
from typing import Any

import gdcm
import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ComputedRadiographyImageStorage, ExplicitVRLittleEndian, ImplicitVRLittleEndian

ROOT = "1.2.826.0.1.3680043.8.498"  # of names that pydicom's users draw for tests

# Transfer syntaxes by the name that GDCM has for them.
GDCM = {
    "jpeg": (gdcm.TransferSyntax.JPEGBaselineProcess1, "1.2.840.10008.1.2.4.50"),
    "jpeg12": (gdcm.TransferSyntax.JPEGExtendedProcess2_4, "1.2.840.10008.1.2.4.51"),
    "lossless": (gdcm.TransferSyntax.JPEGLosslessProcess14_1, "1.2.840.10008.1.2.4.70"),
    "jpegls": (gdcm.TransferSyntax.JPEGLSLossless, "1.2.840.10008.1.2.4.80"),
    "jpeg2000": (gdcm.TransferSyntax.JPEG2000Lossless, "1.2.840.10008.1.2.4.90"),
    "rle": (gdcm.TransferSyntax.RLELossless, "1.2.840.10008.1.2.5"),
}


def drawn(seed: int = 0, shape: tuple[int, int] = (40, 36), bits: int = 12) -> np.ndarray:
    """Samples of a picture: a slope with noise, over most of the range."""
    rng = np.random.default_rng(seed)
    slope = np.linspace(0.1, 0.9, shape[0] * shape[1]).reshape(shape) * 2**bits
    return np.clip(slope + rng.normal(0, 2 ** (bits - 6), shape), 0, 2**bits - 1).astype(np.uint16)


def data_set(samples: np.ndarray | None = None, *, uid: str = f"{ROOT}.1", bits: int = 12, **others: Any) -> Dataset:
    """A de-identified data set of CR; `others` are its further elements, None takes one away."""
    samples = drawn(bits=bits) if samples is None else samples
    allocated = 8 if bits <= 8 else 16
    header = Dataset()
    header.SOPClassUID, header.SOPInstanceUID = ComputedRadiographyImageStorage, uid
    header.Modality, header.ViewPosition = "CR", "PA"
    header.PatientSex, header.PatientAge = "F", "058Y"
    header.Rows, header.Columns = samples.shape[-2:]
    header.SamplesPerPixel, header.PhotometricInterpretation = 1, "MONOCHROME2"
    header.BitsAllocated, header.BitsStored, header.HighBit = allocated, bits, bits - 1
    header.PixelRepresentation = int(samples.dtype.kind == "i")
    raw = samples.astype(f"<{samples.dtype.kind}{allocated // 8}").tobytes()
    header.PixelData = raw + b"\0" * (len(raw) % 2)
    for name, value in others.items():
        if value is None:
            del header[name]
        else:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # what others write is not always what the standard wants
                setattr(header, name, value)
    if "PixelData" in header:
        header["PixelData"].VR = "OB" if allocated == 8 else "OW"
    return header


def written(header: Dataset, syntax: str = ExplicitVRLittleEndian) -> bytes:
    """The bytes of a file."""
    header.file_meta = FileMetaDataset()
    header.file_meta.TransferSyntaxUID = pydicom.uid.UID(syntax)
    header.file_meta.MediaStorageSOPInstanceUID = header.get("SOPInstanceUID", ROOT)
    file = io.BytesIO()
    pydicom.dcmwrite(
        file, header, enforce_file_format=True, implicit_vr=syntax == ImplicitVRLittleEndian, little_endian=True
    )
    return file.getvalue()


def dicom(samples: np.ndarray | None = None, **others: Any) -> bytes:
    """The bytes of an uncompressed file; see `data_set`."""
    return written(data_set(samples, **others))


def compressed(data: bytes, coding: str) -> bytes:
    """The same file, compressed by GDCM."""
    with tempfile.TemporaryDirectory() as folder:
        before, after = Path(folder) / "before.dcm", Path(folder) / "after.dcm"
        before.write_bytes(data)
        reader = gdcm.ImageReader()
        reader.SetFileName(str(before))
        assert reader.Read()
        change = gdcm.ImageChangeTransferSyntax()
        change.SetTransferSyntax(gdcm.TransferSyntax(GDCM[coding][0]))
        change.SetInput(reader.GetImage())
        assert change.Change()
        writer = gdcm.ImageWriter()
        writer.SetFileName(str(after))
        writer.SetFile(reader.GetFile())
        writer.SetImage(change.GetOutput())
        assert writer.Write()
        return after.read_bytes()
