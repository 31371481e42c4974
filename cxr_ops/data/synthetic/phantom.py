"""Phantom frontal chest radiographs: drawn anatomy, the 14 findings each in its own place, and the two view positions.

A picture is a map of attenuation, made of a body, air in two lungs, and what absorbs more than air: bones, vessels,
heart and findings. Attenuation becomes grey values as on a radiograph: what absorbs more is brighter. Nothing here was
learnt from, or copied out of, a patient's image. The pictures exercise software; nobody learns medicine from them.

Points are given in the chest's own frame: x is 0 in the midline and -1 and 1 at the inner walls of the chest (the
patient's right is on the left, as on any radiograph), y is 0 at the apex of the lungs and 1 at the diaphragm's dome.

The same random streams give the same pixels with the same numpy and OpenCV on the same kind of processor.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from cxr_ops.labels import FINDINGS

Map = NDArray[
    np.floating[Any]
]  # size x size, float32; air and opacity are fractions 0..1, attenuation is in lengths of soft tissue
Points = NDArray[np.float64]  # ... x 2, in the chest's frame
Box = tuple[float, float, float, float]  # x, y of the top left corner, width, height; in pixels

RIGHT, LEFT = -1, 1  # sides of the patient


@dataclass(frozen=True, kw_only=True)
class Lesion:
    """Where a person's finding is, and of what kind, in whatever image it shows.

    Args:
        side: RIGHT or LEFT.
        up: from 0 to 1, along whatever direction the finding may vary in height.
        out: from 0 to 1, from the hilum to the chest wall.
        extent: from 0 to 1, small to large.
        seed: of its random outline.
    """

    side: int
    up: float
    out: float
    extent: float
    seed: int


@dataclass(frozen=True, kw_only=True)
class Person:
    """What stays the same from one radiograph of a person to the next."""

    female: bool
    half_width: float
    height: float
    girth: float
    heart: float
    spine: float
    ribs: float
    rib_phase: float
    dome: float
    breast: float
    markings: float
    vessels: tuple[tuple[float, Points], ...]
    lesions: dict[str, Lesion]


@dataclass(frozen=True, kw_only=True)
class Visit:
    """What differs from one radiograph of a person to the next, findings aside."""

    portable: bool
    shift: tuple[float, float]
    tilt: float
    zoom: float
    breath: float
    mean: float
    deviation: float
    gamma: float
    noise: float
    grain: float
    bubble: float
    marker: int


@dataclass(frozen=True, kw_only=True)
class Radiograph:
    """A picture and where its findings are.

    Args:
        pixels: 8-bit grey, size x size.
        boxes: name of the finding and its box, at least one for each finding that is present.
    """

    pixels: NDArray[np.uint8]
    boxes: tuple[tuple[str, Box], ...]


def draw_person(rng: np.random.Generator, *, female: bool) -> Person:
    """Draw a person's anatomy, and where each finding would be if the person had it."""
    lesions = {}
    for finding in FINDINGS:
        side = RIGHT if rng.random() < 0.5 else LEFT
        up, out, extent = rng.random(3).tolist()
        lesions[finding] = Lesion(side=side, up=up, out=out, extent=extent, seed=int(rng.integers(2**31)))
    return Person(
        female=female,
        half_width=rng.uniform(0.31, 0.385) - (0.01 if female else 0.0),
        height=rng.uniform(0.53, 0.67),
        girth=rng.uniform(0.85, 1.2),
        heart=rng.uniform(0.86, 1.06),
        spine=rng.uniform(-0.05, 0.05),
        ribs=rng.uniform(0.8, 1.25),
        rib_phase=rng.uniform(0.0, 0.1),
        dome=rng.uniform(-0.02, 0.04),
        breast=rng.uniform(0.3, 1.0),
        markings=rng.uniform(0.75, 1.25),
        vessels=tuple(_vessels(rng)),
        lesions=lesions,
    )


def draw_visit(rng: np.random.Generator, *, portable: bool) -> Visit:
    """Draw how one radiograph is taken. Nothing of it depends on the findings.

    A portable radiograph (AP) is taken in bed: less breath, more tilt. Mean and deviation of the grey values, contrast,
    noise and grain are drawn in the same way for both views, so that none of them tells anything.
    """
    slack = 1.5 if portable else 1.0
    return Visit(
        portable=portable,
        shift=(rng.normal(0, 0.016 * slack), rng.normal(0, 0.018 * slack)),
        tilt=rng.normal(0, 1.8 * slack),
        zoom=rng.uniform(0.90, 1.06),
        breath=rng.uniform(-0.08, 0.0) if portable else rng.uniform(-0.03, 0.05),
        mean=rng.uniform(112, 148),
        deviation=rng.uniform(48, 66),
        gamma=rng.uniform(0.75, 1.4),
        noise=float(np.exp(rng.uniform(np.log(0.5), np.log(6.0)))),
        grain=rng.uniform(0.3, 0.9),
        bubble=rng.uniform(0.0, 1.0),
        marker=int(rng.integers(4)),
    )


def render(person: Person, visit: Visit, findings: Iterable[str], rng: np.random.Generator, size: int) -> Radiograph:
    """Draw a radiograph.

    Args:
        person: whose.
        visit: how it is taken.
        findings: names of those that are present; each is drawn, and each has a box.
        rng: stream of this image, for noise and for how severe each finding is.
        size: side of the picture in pixels.
    """
    severity_rng, noise_rng = rng.spawn(2)
    attenuation, boxes = attenuate(person, visit, findings, severity_rng, size)
    return Radiograph(pixels=_expose(attenuation, visit, noise_rng), boxes=boxes)


def attenuate(
    person: Person, visit: Visit, findings: Iterable[str], rng: np.random.Generator, size: int
) -> tuple[Map, tuple[tuple[str, Box], ...]]:
    """Draw the map of attenuation before exposure and noise, and the boxes of the findings; see `render`."""
    # A severity is drawn for every finding, present or not, so that adding one changes nothing of the others.
    drawn = dict(zip(FINDINGS, rng.uniform(0.35, 1.0, len(FINDINGS)).tolist(), strict=True))
    severity = {finding: drawn[finding] for finding in _ORDER if finding in set(findings)}
    scene = _build(person, visit, severity, size)
    shapes = {finding: _DRAW[finding](scene, person.lesions[finding], value) for finding, value in severity.items()}
    boxes = ((finding, _box(shape)) for finding in FINDINGS for shape in shapes.get(finding, ()))
    return _compose(scene), tuple(boxes)


# --------------------------------------------------------------------------------------------- frame and tools


@functools.lru_cache(maxsize=4)
def _grid(size: int) -> tuple[Map, Map]:
    """Pixel centres, 0 to 1, as a row of x and a column of y."""
    line = (np.arange(size, dtype=np.float32) + 0.5) / size
    return line[None, :], line[:, None]


@dataclass(frozen=True, kw_only=True)
class _Frame:
    """Where the chest lies in the picture, in fractions of its side; `tilt` is in degrees."""

    x: float
    y: float
    half_width: float
    height: float
    tilt: float
    size: int

    def place(self, points: Points) -> Points:
        """Move points from the chest's frame to pixels."""
        cos, sin = self._turn()
        x = points[..., 0] * self.half_width
        y = (points[..., 1] - 0.5) * self.height
        u = self.x + x * cos - y * sin
        v = self.y + 0.5 * self.height + x * sin + y * cos
        return np.stack([u, v], axis=-1) * self.size

    def _turn(self) -> tuple[float, float]:
        return math.cos(math.radians(self.tilt)), math.sin(math.radians(self.tilt))

    def canvas(self) -> NDArray[np.uint8]:
        """An empty picture to draw on."""
        return np.zeros((self.size, self.size), np.uint8)

    def coordinates(self) -> tuple[Map, Map]:
        """Each pixel's x and y in the chest's frame; the inverse of `place`."""
        u, v = _grid(self.size)
        cos, sin = self._turn()
        du, dv = u - self.x, v - (self.y + 0.5 * self.height)
        x = (du * cos + dv * sin) / self.half_width
        y = (dv * cos - du * sin) / self.height + 0.5
        return x, y


_SHIFT = 4  # OpenCV takes points in 1/16 pixel


def _fixed(frame: _Frame, points: Points) -> NDArray[np.int32]:
    fixed: NDArray[np.int32] = np.round((frame.place(points) - 0.5) * 2**_SHIFT).astype(np.int32)
    return fixed


def _fill(frame: _Frame, points: Points, soft: float = 0.004) -> Map:
    """A filled outline, 0 to 1, with an edge that is `soft` wide in fractions of the picture's side."""
    canvas = frame.canvas()
    cv2.fillPoly(canvas, [_fixed(frame, points)], 255, lineType=cv2.LINE_AA, shift=_SHIFT)
    return _soften(canvas, soft)


def _lines(
    frame: _Frame, paths: Points | Sequence[Points], width: float, canvas: NDArray[np.uint8], value: int = 255
) -> None:
    thickness = max(1, round(width * frame.size))
    # One array for all paths of the same length: placing them one by one takes longer than drawing them.
    fixed = list(_fixed(frame, paths)) if isinstance(paths, np.ndarray) else [_fixed(frame, path) for path in paths]
    cv2.polylines(canvas, fixed, False, value, thickness, lineType=cv2.LINE_AA, shift=_SHIFT)


def _soften(canvas: NDArray[np.uint8], sigma: float) -> Map:
    """What was drawn, as fractions 0 to 1, blurred."""
    return _blur(canvas.astype(np.float32) / 255, sigma)


def _blur(image: Map, sigma: float) -> Map:
    """Gaussian blur; sigma in fractions of the side. A wide one works on a quarter of the size: it looks the same."""
    pixels = sigma * image.shape[0]
    if pixels < 0.3:
        return image
    if pixels > 6 and image.shape[0] % 4 == 0:
        side = image.shape[0]
        small = cv2.resize(image, (side // 4, side // 4), interpolation=cv2.INTER_AREA)
        small = cv2.GaussianBlur(small, (0, 0), pixels / 4)
        blurred: Map = cv2.resize(small, (side, side), interpolation=cv2.INTER_LINEAR)
    else:
        blurred = cv2.GaussianBlur(image, (0, 0), pixels)
    return blurred


def _clouds(rng: np.random.Generator, size: int, grain: float) -> Map:
    """Smooth noise of mean 0 and deviation about 1 whose spots are about `grain` of the side wide."""
    cells = max(4, round(1 / grain)) + 3
    coarse = rng.standard_normal((cells, cells), dtype=np.float32)
    fine: Map = cv2.resize(coarse, (size, size), interpolation=cv2.INTER_CUBIC)
    return fine * 1.35  # interpolation between cells loses a quarter of the deviation


def _ramp(x: Map, start: float, stop: float) -> Map:
    """0 before start, 1 after stop, smooth between; start may lie after stop."""
    t = x - start  # then in place: memory is what this costs
    t *= 1 / (stop - start)
    np.clip(t, 0, 1, out=t)
    slope = 3 - 2 * t
    t *= t
    t *= slope
    return t


def _smooth(corners: Sequence[tuple[float, float]], *, closed: bool = True, steps: int = 8) -> Points:
    """Catmull-Rom curve through corners; a corner given twice stays sharp."""
    p = np.asarray(corners, float)
    ring = np.concatenate([p[-1:], p, p[:2]] if closed else [p[:1], p, p[-1:]])
    p0, p1, p2, p3 = ring[:-3, None], ring[1:-2, None], ring[2:-1, None], ring[3:, None]
    t = np.linspace(0, 1, steps, endpoint=False)[None, :, None]
    curve = 0.5 * (2 * p1 + (p2 - p0) * t + (2 * p0 - 5 * p1 + 4 * p2 - p3) * t**2 + (3 * p1 - p0 - 3 * p2 + p3) * t**3)
    points = curve.reshape(-1, 2)
    return points if closed else np.concatenate([points, p[-1:]])


def _box(shape: Map) -> Box:
    """The box around where a shape is at least a third as strong as at its strongest."""
    strong = shape >= shape.max() / 3
    columns, rows = np.flatnonzero(strong.any(axis=0)), np.flatnonzero(strong.any(axis=1))
    left, top = int(columns[0]), int(rows[0])
    return float(left), float(top), float(columns[-1] + 1 - left), float(rows[-1] + 1 - top)


# --------------------------------------------------------------------------------------------------- anatomy


@dataclass(kw_only=True)
class _Scene:
    """What a finding changes.

    Args:
        frame: where the chest lies.
        x: of each pixel, in the chest's frame.
        y: of each pixel, in the chest's frame.
        sides: the shape of each lung.
        lungs: the shape of both.
        bases: y of the dome of the diaphragm, by side.
        heart: the shape of heart and great vessels.
        body: thickness of soft tissue.
        air: how much of the chest's depth is air.
        markings: how well vessels show in the air.
        vessels: their attenuation.
        added: attenuation of all that lies over or under the rest.
    """

    frame: _Frame
    x: Map
    y: Map
    sides: dict[int, Map]
    lungs: Map
    bases: dict[int, float]
    heart: Map
    body: Map
    air: Map
    markings: Map
    vessels: Map
    added: Map

    def add(self, attenuation: Map) -> None:
        """Lay something over or under the rest."""
        self.added = self.added + attenuation

    def fill_air(self, opacity: Map) -> None:
        """Put water or cells where air was; opacity 0 to 1."""
        self.air = self.air * (1 - np.clip(opacity, 0, 1))


def _vessels(rng: np.random.Generator) -> Iterable[tuple[float, Points]]:
    """Vessels of both lungs, as a width and n x 5 x 2 points for each generation, from the hila outwards."""
    side = np.repeat([RIGHT, LEFT], 8)
    start = np.stack([side * 0.22, np.where(side == RIGHT, 0.50, 0.46)], axis=1) + rng.normal(0, 0.02, (16, 2))
    angle = np.tile(np.linspace(-1.3, 1.4, 8), 2) + rng.normal(0, 0.12, 16)
    length = rng.uniform(0.22, 0.36, 16)
    width = 0.012
    for _ in range(4):
        bends = angle[:, None] + np.cumsum(rng.normal(0, 0.17, (len(angle), 4)), axis=1)
        steps = np.stack([side[:, None] * np.cos(bends), 0.75 * np.sin(bends)], axis=2) * length[:, None, None] / 4
        paths = np.concatenate([start[:, None], start[:, None] + np.cumsum(steps, axis=1)], axis=1)
        yield width, paths
        # Each vessel ends in two thinner ones, one to either side.
        side, start = np.repeat(side, 2), np.repeat(paths[:, -1], 2, axis=0)
        turn = rng.uniform(0.15, 0.6, len(side)) * np.tile([1, -1], len(angle))
        angle = np.repeat(bends[:, -1], 2) + turn
        length = np.repeat(length, 2) * rng.uniform(0.55, 0.85, len(side))
        width *= 0.62


def _lung(side: int, base: float, wall: float, flat: float) -> Points:
    """Outline of one lung; `flat` is 0 for a round dome of the diaphragm and 1 for a flat one."""
    corner = base + 0.17 * (1 - 0.5 * flat)
    rise = 0.05 * (1 - flat)
    right = [
        (0.30, 0.015), (0.47, 0.02), (0.66, 0.14), (0.83 * wall, 0.34), (0.95 * wall, 0.60), (1.0 * wall, 0.85),
        (1.0 * wall, corner), (1.0 * wall, corner), (0.88 * wall, base + 0.055 - 0.3 * rise), (0.62, base - rise),
        (0.36, base - 0.4 * rise), (0.16, base + 0.05), (0.16, base + 0.05), (0.13, 0.78), (0.14, 0.5), (0.17, 0.25),
        (0.20, 0.09),
    ]  # fmt: skip
    return _smooth([(side * x, y) for x, y in right])


def _heart(scale: float, base: float, magnified: float) -> Points:
    """Outline of heart and great vessels; `scale` widens the heart, `magnified` widens all of it."""
    w, m = scale * magnified, magnified
    drop = base - 1.0
    return _smooth(
        [
            (0.10 * m, -0.25), (0.11 * m, 0.12), (0.20 * m, 0.20), (0.215 * m, 0.28), (0.15 * m, 0.35),
            (0.21 * m, 0.43), (0.29 * w, 0.53 + 0.3 * drop), (0.45 * w, 0.69 + 0.6 * drop), (0.60 * w, 0.86 + drop),
            (0.59 * w, 0.99 + drop), (0.40 * w, 1.08 + drop), (0.0, 1.08 + drop), (-0.19 * w, 1.05 + drop),
            (-0.27 * w, 0.92 + drop), (-0.28 * w, 0.76 + drop), (-0.20 * m, 0.60 + 0.5 * drop), (-0.13 * m, 0.46),
            (-0.15 * m, 0.28), (-0.12 * m, 0.1), (-0.10 * m, -0.25),
        ]
    )  # fmt: skip


def _body(frame: _Frame, girth: float) -> Map:
    """Thickness of soft tissue from neck to belly, 1 in the middle of the chest."""
    half = 1.12 + 0.16 * (girth - 0.85)
    outline = [
        (0.26, -0.6), (0.27, -0.24), (0.45, -0.15), (0.95, -0.07), (1.45, 0.06), (1.75, 0.35), (1.72, 0.62),
        (1.36, 0.42), (half + 0.08, 0.50), (half, 0.75), (half, 1.1), (half + 0.06, 2.0),
    ]  # fmt: skip
    both = outline + [(-x, y) for x, y in reversed(outline)]
    mask = _fill(frame, _smooth(both), 0.004)
    thicker = 0.80 + 0.32 * _grid(frame.size)[1]  # the belly is thicker than the shoulders
    return mask * thicker * (0.25 + 0.48 * _blur(mask, 0.03) + 0.32 * _blur(mask, 0.12))


def _ribs(frame: _Frame, person: Person) -> Map:
    """Ribs behind, which fall outwards, and fainter ones in front, which fall inwards; their edges are brightest."""
    behind, front = [], []
    t = np.linspace(0, 1, 12)
    for n in range(10):
        y = -0.06 + 0.108 * n + person.rib_phase * 0.6
        reach = float(np.interp(y + 0.12, [0.0, 0.12, 0.3, 0.6, 1.0], [0.55, 0.72, 0.92, 1.03, 1.06]))
        for side in (RIGHT, LEFT):
            x = 0.07 + (reach - 0.07) * np.sin(t * np.pi / 2)
            behind.append(np.stack([side * x, y - 0.05 * np.sin(t * np.pi * 0.8) + 0.17 * t**2.2], axis=1))
            if 0 < n < 8:
                x = reach - (reach - 0.42) * t**1.1
                front.append(np.stack([side * x, y + 0.12 + 0.20 * t - 0.05 * t**2], axis=1))
    rib = frame.canvas()
    _lines(frame, np.array(behind), 0.021, rib, 170)
    _lines(frame, np.array(behind), 0.012, rib, 118)
    faint = np.zeros_like(rib)
    _lines(frame, np.array(front), 0.022, faint, 75)
    _lines(frame, np.array(front), 0.014, faint, 52)
    return _soften(rib + faint, 0.0028) * person.ribs


def _shoulders(frame: _Frame, visit: Visit) -> Map:
    """Clavicles, shoulder blades and heads of the upper arms; only AP leaves the blades over the lungs."""
    bones = frame.canvas()
    rise = -0.05 if visit.portable else 0.0
    for side in (RIGHT, LEFT):
        clavicle = [(0.10, 0.13 + rise / 2), (0.34, 0.10 + rise), (0.66, 0.045 + rise), (1.02, -0.01 + rise)]
        path = _smooth([(side * x, y) for x, y in clavicle], closed=False)
        _lines(frame, [path], 0.026, bones, 150)
        _lines(frame, [path], 0.014, bones, 105)
        out = 0.0 if visit.portable else 0.28
        blade = [(0.80, 0.10), (1.16, 0.06), (1.10, 0.30), (0.92, 0.52), (0.78, 0.42), (0.74, 0.22)]
        cv2.fillPoly(
            bones, [_fixed(frame, _smooth([(side * (x + out), y) for x, y in blade]))], 52, cv2.LINE_AA, _SHIFT
        )
        border = _smooth([(side * (x + out), y) for x, y in blade[2:]], closed=False)
        _lines(frame, [border], 0.008, bones, 95)
        head = [(1.26, 0.0), (1.40, 0.06), (1.42, 0.18), (1.30, 0.22), (1.2, 0.14)]
        cv2.fillPoly(bones, [_fixed(frame, _smooth([(side * x, y) for x, y in head]))], 80, cv2.LINE_AA, _SHIFT)
    return _soften(bones, 0.003)


def _spine(x: Map, y: Map, bend: float) -> Map:
    """Vertebrae and the discs between them, with the windpipe's air in front of the upper ones."""
    off = np.abs(x - bend * np.sin(3 * y))
    discs = 0.10 + 0.025 * np.cos(2 * math.pi / 0.105 * y)
    windpipe = _ramp(off, 0.065, 0.04) * _ramp(y, 0.42, 0.33)
    column: Map = _ramp(off, 0.145, 0.095) * discs - 0.10 * windpipe
    return column


def _belly(scene: _Scene, visit: Visit, person: Person) -> Map:
    """Liver and spleen under the diaphragm, and the stomach's air on the left."""
    below = _ramp(scene.y, 0.86, 1.12) * (1 - scene.lungs) * np.minimum(scene.body, 1)
    added: Map = 0.26 * below
    if visit.bubble > 0.35:
        base = scene.bases[LEFT]
        x, y = scene.x - 0.46, scene.y - (base + 0.10 + 0.06 * visit.bubble)
        reach = 0.10 + 0.12 * visit.bubble
        round_ = _ramp((x / reach) ** 2 + (y / 0.055) ** 2, 1.2, 0.65)
        added = added - 0.26 * round_ * (1 - scene.lungs)
    if person.female:
        lower = _ramp(scene.y, 0.5, 0.95)
        for side in (RIGHT, LEFT):
            x, y = (scene.x - side * 0.58) / 0.5, (scene.y - 0.80) / 0.27
            added = added + 0.15 * person.breast * _ramp(x * x + y * y, 1.1, 0.55) * lower
    return added


def _build(person: Person, visit: Visit, severity: dict[str, float], size: int) -> _Scene:
    """Draw the anatomy, with those findings that change its shape: heart size, overinflation, loss of volume."""
    overinflated = severity.get("Emphysema", 0.0)
    base = 1.0 + visit.breath + (0.03 + 0.09 * overinflated if overinflated else 0.0)
    bases = {RIGHT: base, LEFT: base + 0.03 + person.dome}
    if "Atelectasis" in severity:
        bases[person.lesions["Atelectasis"].side] -= 0.02 + 0.08 * severity["Atelectasis"]
    flat = 0.2 + 0.8 * overinflated if overinflated else 0.0
    wall = 1.0 + 0.03 * overinflated
    apex = 0.155 + visit.shift[1]
    frame = _Frame(
        x=0.5 + visit.shift[0],
        y=apex,
        half_width=person.half_width * visit.zoom,
        # Whoever takes the picture sees to it that the diaphragm is on it.
        height=min(person.height * visit.zoom, (0.90 - apex) / max(bases.values())),
        tilt=visit.tilt,
        size=size,
    )
    x, y = frame.coordinates()
    heart_scale = person.heart
    if "Cardiomegaly" in severity:
        heart_scale = 1.14 + 0.32 * severity["Cardiomegaly"] + 0.4 * (person.heart - 0.96)
    if overinflated:
        heart_scale *= 0.93 - 0.10 * overinflated
    outline = _heart(heart_scale, sum(bases.values()) / 2, 1.13 if visit.portable else 1.0)
    heart = _fill(frame, outline, 0.006)
    sides = {side: _fill(frame, _lung(side, bases[side], wall, flat), 0.004) for side in (RIGHT, LEFT)}
    lungs = np.maximum(sides[RIGHT], sides[LEFT])
    depth = 0.72 + 0.28 * _blur(lungs, 0.06)
    air = lungs * depth * (1 - 0.93 * heart) * (1.0 + 0.10 * overinflated)
    canvas = frame.canvas()
    for width, paths in reversed(person.vessels):
        _lines(frame, paths, width, canvas, round(min(255, 40 + 17000 * width)))
    vessels = _soften(canvas, 0.0035)
    scene = _Scene(
        frame=frame, x=x, y=y, sides=sides, lungs=lungs, bases=bases, heart=heart,
        body=_body(frame, person.girth), air=air,
        markings=np.full((size, size), person.markings * (1 - 0.5 * overinflated), np.float32),
        vessels=vessels, added=np.zeros((size, size), np.float32),
    )  # fmt: skip
    scene.added = _ribs(frame, person) * 0.20 + _shoulders(frame, visit) * 0.30 + _spine(x, y, person.spine)
    scene.added = scene.added * np.minimum(1, scene.body * 2) + _belly(scene, visit, person) + heart * 0.10
    return scene


def _compose(scene: _Scene) -> Map:
    """Sum all that absorbs, along the beam."""
    vessels = scene.vessels * scene.markings * np.clip(scene.air, 0, 1)
    attenuation: Map = scene.body - 0.62 * scene.air + 0.26 * vessels + scene.added
    return attenuation


# -------------------------------------------------------------------------------------------------- findings
#
# Each draws itself into the scene and returns one shape for each box. Air that is replaced hides the vessels in it, and
# keeps ribs and heart in view: that is how a finding in the lung differs from one before or behind it.


def _inside(scene: _Scene, side: int, up: float, out: float) -> tuple[float, float]:
    """A place in a lung, in the chest's frame: up is 0 at the dome and 1 at the apex, out is 0 at the hilum."""
    base = scene.bases[side]
    y = base - 0.08 - up * (base - 0.20)
    wall = float(np.interp(y, [0.05, 0.15, 0.35, 0.6, 1.0], [0.52, 0.66, 0.82, 0.93, 0.98]))
    inner = 0.24 if side == RIGHT else float(np.interp(y, [0.3, 0.5, 0.75, 1.0], [0.26, 0.32, 0.48, 0.58]))
    return side * (inner + (wall - inner) * out), y


def _distance(scene: _Scene, x: float, y: float, stretch: float = 1.0) -> Map:
    """Distance from a place, in half widths of the chest; `stretch` above 1 makes what is near taller."""
    aspect = scene.frame.height / scene.frame.half_width / stretch
    return np.sqrt((scene.x - x) ** 2 + ((scene.y - y) * aspect) ** 2)


def _atelectasis(scene: _Scene, lesion: Lesion, severity: float) -> list[Map]:
    """Plates of airless lung above a raised dome."""
    rng = np.random.default_rng(lesion.seed)
    canvas = scene.frame.canvas()
    base = scene.bases[lesion.side]
    for n in range(2 + (lesion.extent > 0.5)):
        y = base - 0.07 - 0.085 * n - 0.05 * lesion.up
        fall = rng.uniform(-0.04, 0.08)
        near, far = rng.uniform(0.30, 0.42), rng.uniform(0.72, 0.92)
        path = [(near, y), ((near + far) / 2, y + 0.3 * fall - 0.012), (far, y + fall)]
        curve = _smooth([(lesion.side * px, py) for px, py in path], closed=False)
        _lines(scene.frame, [curve], rng.uniform(0.013, 0.021), canvas)
    plates = _soften(canvas, 0.0035) * scene.sides[lesion.side]
    scene.fill_air(plates * (0.45 + 0.45 * severity))
    scene.add(plates * 0.05)
    return [plates]


def _cardiomegaly(scene: _Scene, _lesion: Lesion, _severity: float) -> list[Map]:
    """Drawn with the anatomy: the heart is wider than half of the chest."""
    return [scene.heart * _ramp(scene.y, 0.44, 0.5)]


def _effusion(scene: _Scene, lesion: Lesion, severity: float) -> list[Map]:
    """Fluid at the base, higher at the wall than in the middle: the angle is blunt, the dome is lost."""
    depth = 0.05 + 0.30 * severity * (0.4 + 0.6 * lesion.extent)
    across = np.clip(scene.x * lesion.side, 0, 1)
    level = scene.bases[lesion.side] + 0.04 - depth * (0.30 + 0.75 * across**2)
    fluid = _ramp(scene.y - level, -0.02, 0.035) * scene.sides[lesion.side]
    scene.fill_air(fluid * 0.97)
    scene.add(fluid * 0.10)
    return [fluid]


def _infiltration(scene: _Scene, lesion: Lesion, severity: float) -> list[Map]:
    """Ill-defined speckled patches, scattered through the middle and lower zones of one lung or of both."""
    rng = np.random.default_rng(lesion.seed)
    patches = np.zeros_like(scene.air)
    for n in range(5 + round(3 * lesion.extent)):
        side = lesion.side if n < 4 else -lesion.side
        x, y = _inside(scene, side, rng.uniform(0.02, 0.72), rng.uniform(0.05, 0.95))
        patches = np.maximum(patches, _ramp(_distance(scene, x, y), rng.uniform(0.2, 0.3), 0.0) * rng.uniform(0.7, 1.0))
    speckle = _ramp(_clouds(rng, scene.frame.size, 0.018), -0.3, 1.2)
    shape = patches * scene.lungs * (1 - scene.heart)
    scene.fill_air(shape * (0.2 + 0.8 * speckle) * (0.38 + 0.42 * severity))
    return [shape]


def _mass(scene: _Scene, lesion: Lesion, severity: float) -> list[Map]:
    """A lobed, sharp, dense disc more than 3 cm wide."""
    rng = np.random.default_rng(lesion.seed)
    x, y = _inside(scene, lesion.side, 0.12 + 0.74 * lesion.up, 0.25 + 0.5 * lesion.out)
    radius = 0.15 + 0.10 * lesion.extent
    shape = np.zeros_like(scene.air)
    for angle in rng.uniform(0, 2 * math.pi, 3):
        dx, dy = 0.3 * radius * math.cos(angle), 0.2 * radius * math.sin(angle)
        shape = np.maximum(shape, _ramp(_distance(scene, x + dx, y + dy), radius * 1.04, radius * 0.80))
    scene.fill_air(shape * (0.72 + 0.28 * severity))
    scene.add(shape * (0.06 + 0.07 * severity))
    return [shape]


def _nodule(scene: _Scene, lesion: Lesion, severity: float) -> list[Map]:
    """One to three round sharp spots less than 3 cm wide."""
    rng = np.random.default_rng(lesion.seed)
    shapes = []
    for n in range(1 + int(3 * lesion.extent)):
        side = lesion.side if n == 0 else (RIGHT if rng.random() < 0.5 else LEFT)
        x, y = _inside(scene, side, rng.uniform(0.08, 0.9), rng.uniform(0.2, 0.85))
        radius = rng.uniform(0.058, 0.088)
        shape = _ramp(_distance(scene, x, y), radius * 1.15, radius * 0.8)
        scene.fill_air(shape * (0.75 + 0.25 * severity))
        scene.add(shape * (0.07 + 0.09 * severity))
        shapes.append(shape)
    return shapes


def _pneumonia(scene: _Scene, lesion: Lesion, severity: float) -> list[Map]:
    """One fuzzy lower or middle segment, with the air of its bronchi still dark in it."""
    rng = np.random.default_rng(lesion.seed)
    x, y = _inside(scene, lesion.side, 0.02 + 0.38 * lesion.up, 0.3 + 0.3 * lesion.out)
    radius = 0.34 + 0.14 * lesion.extent
    edge = _distance(scene, x, y, 0.9) + 0.05 * _clouds(rng, scene.frame.size, 0.05)
    shape = _ramp(edge, radius, radius * 0.35) * scene.sides[lesion.side]
    canvas = scene.frame.canvas()
    for angle in np.linspace(-0.6, 1.3, 5) + rng.normal(0, 0.15, 5):
        run = np.linspace(0.1, 1.0, 6)[:, None] * np.array([lesion.side * np.cos(angle), 0.6 * np.sin(angle)]) * 0.5
        _lines(scene.frame, [run + np.array([x - lesion.side * 0.2, y - 0.06])], 0.009, canvas)
    bronchi = _soften(canvas, 0.003)
    scene.fill_air(shape * (1 - 0.65 * bronchi) * (0.55 + 0.40 * severity))
    return [shape]


def _pneumothorax(scene: _Scene, lesion: Lesion, severity: float) -> list[Map]:
    """Air between lung and wall, from the apex down: black and empty, bounded by the fine line of the pleura."""
    depth = 0.07 + 0.17 * severity * (0.4 + 0.6 * lesion.extent)
    base = scene.bases[lesion.side]
    outline = _lung(lesion.side, base, 1.0, 0.0)
    hilum = np.array([lesion.side * 0.2, 0.62])
    shrink = 1 - depth * np.interp(outline[:, 1], [0.0, 0.5, 1.0], [1.6, 1.0, 0.35])
    outline = hilum + (outline - hilum) * shrink[:, None]
    inner = _fill(scene.frame, outline, 0.003)
    canvas = scene.frame.canvas()
    side = scene.sides[lesion.side]
    _lines(scene.frame, [np.concatenate([outline, outline[:1]])], 0.005, canvas)
    free = 1 - scene.heart
    gap = side * (1 - inner) * free * _ramp(scene.y, base + 0.02, base - 0.15) * _ramp(np.abs(scene.x), 0.2, 0.3)
    line = _soften(canvas, 0.002) * side * _ramp(scene.y, base - 0.05, base - 0.2)
    scene.markings = scene.markings * (1 - gap)
    scene.air = np.maximum(scene.air, gap * 1.12) - 0.12 * side * inner * scene.air
    scene.add(line * free * _ramp(np.abs(scene.x), 0.22, 0.32) * 0.13)
    return [gap]


def _consolidation(scene: _Scene, lesion: Lesion, severity: float) -> list[Map]:
    """An even, dense part of an upper lobe that ends sharply at the fissure below it."""
    rng = np.random.default_rng(lesion.seed)
    floor = 0.40 + 0.13 * lesion.up
    top = floor - 0.20 - 0.16 * lesion.extent
    fissure = floor + 0.05 * (scene.x * lesion.side - 0.5)
    edge = scene.y + 0.03 * _clouds(rng, scene.frame.size, 0.07)
    across = scene.x * lesion.side
    shape = _ramp(scene.y - fissure, 0.008, -0.008) * _ramp(edge, top - 0.05, top + 0.06) * _ramp(across, 0.16, 0.34)
    shape = shape * scene.sides[lesion.side]
    scene.fill_air(shape * (0.45 + 0.45 * severity))
    scene.add(shape * 0.04)
    return [shape]


def _edema(scene: _Scene, lesion: Lesion, severity: float) -> list[Map]:
    """Haze around both hila like a bat's wings, wide vessels, and short lines at the walls of the bases."""
    rng = np.random.default_rng(lesion.seed)
    reach = 0.42 + 0.16 * lesion.extent
    wings = np.zeros_like(scene.air)
    for side in (RIGHT, LEFT):
        wings = np.maximum(wings, _ramp(_distance(scene, side * 0.34, 0.52, 1.3), reach, 0.08))
    wings = wings * scene.lungs * (1 - scene.heart)
    canvas = scene.frame.canvas()
    for side in (RIGHT, LEFT):
        for y in scene.bases[side] - 0.02 - np.arange(6) * 0.042:
            line = np.array([[side * 0.97, y], [side * rng.uniform(0.80, 0.86), y + 0.012]])
            _lines(scene.frame, [line], 0.004, canvas)
    mottle = 0.8 + 0.2 * np.clip(_clouds(rng, scene.frame.size, 0.03), -1, 1)
    scene.fill_air(wings * mottle * (0.26 + 0.36 * severity))
    scene.markings = scene.markings * (1 + severity)
    scene.add(_soften(canvas, 0.002) * scene.lungs * 0.16)
    return [wings]


def _emphysema(scene: _Scene, _lesion: Lesion, _severity: float) -> list[Map]:
    """Drawn with the anatomy: long dark lungs with few vessels, flat domes, a narrow heart."""
    return [scene.lungs]


def _fibrosis(scene: _Scene, lesion: Lesion, severity: float) -> list[Map]:
    """A net of fine bright strands, densest at the bases and walls of both lungs."""
    rng = np.random.default_rng(lesion.seed)
    strands = np.exp(-((_clouds(rng, scene.frame.size, 0.024) / 0.30) ** 2))
    low = _ramp(scene.y, 0.35, 0.85) * (0.35 + 0.65 * _ramp(np.abs(scene.x), 0.35, 0.85))
    shape = low * scene.lungs * (1 - scene.heart)
    scene.fill_air(shape * (0.15 + 0.85 * strands) * (0.34 + 0.36 * severity))
    return [shape]


def _pleural_thickening(scene: _Scene, lesion: Lesion, severity: float) -> list[Map]:
    """A dense rim of uneven width along the wall, from the apex down, with the dome and its angle left alone."""
    rng = np.random.default_rng(lesion.seed)
    width = (0.055 + 0.075 * severity) * scene.frame.half_width * scene.frame.size
    move = np.array([[1, 0, -lesion.side * width], [0, 1, 0.45 * width]], np.float64)
    side = scene.sides[lesion.side]
    inner = cv2.warpAffine(side, move, (scene.frame.size, scene.frame.size))
    uneven = 0.75 + 0.25 * np.clip(_clouds(rng, scene.frame.size, 0.06), -1, 1)
    stop = 0.60 + 0.22 * lesion.up
    rim = side * (1 - inner) * _ramp(scene.y, stop + 0.08, stop - 0.02) * _ramp(scene.x * lesion.side, 0.22, 0.4)
    rim = _blur(rim, 0.003) * uneven
    scene.fill_air(rim * 0.95)
    scene.add(rim * 0.07)
    return [rim]


def _hernia(scene: _Scene, lesion: Lesion, severity: float) -> list[Map]:
    """A part of the stomach behind the heart: a round wall, air above, fluid with a level below."""
    base = min(scene.bases.values())
    x, y = 0.02 + 0.22 * lesion.out, base - 0.06 - 0.04 * lesion.up
    radius = 0.19 + 0.08 * lesion.extent
    distance = _distance(scene, x, y)
    shape = _ramp(distance, radius * 1.06, radius * 0.94)
    wall = shape * _ramp(distance, radius * 0.72, radius * 0.86)
    gas = shape * (1 - wall) * _ramp(scene.y, y + 0.015, y - 0.005)
    fluid = shape * (1 - wall) - gas
    strength = 0.6 + 0.4 * severity
    scene.fill_air(shape * 0.8)
    scene.add(strength * (0.10 * wall - 0.32 * gas + 0.07 * fluid))
    return [shape]


_Drawing = Callable[[_Scene, Lesion, float], list[Map]]
_DRAW: dict[str, _Drawing] = {
    "Atelectasis": _atelectasis,
    "Cardiomegaly": _cardiomegaly,
    "Effusion": _effusion,
    "Infiltration": _infiltration,
    "Mass": _mass,
    "Nodule": _nodule,
    "Pneumonia": _pneumonia,
    "Pneumothorax": _pneumothorax,
    "Consolidation": _consolidation,
    "Edema": _edema,
    "Emphysema": _emphysema,
    "Fibrosis": _fibrosis,
    "Pleural_Thickening": _pleural_thickening,
    "Hernia": _hernia,
}
# Free air first: it pushes the lung aside in which the others lie. Fluid last: it covers them.
_ORDER = ["Pneumothorax", *(name for name in FINDINGS if name not in ("Pneumothorax", "Effusion")), "Effusion"]


# -------------------------------------------------------------------------------------------------- exposure


def _expose(attenuation: Map, visit: Visit, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Turn attenuation into grey values, with noise, and the mean and deviation that the visit drew.

    Whatever a finding adds to the picture's mean or deviation is taken away again: a finding is to be seen, not to be
    read off a light meter.
    """
    size = attenuation.shape[0]
    tone = cv2.pow(np.clip(attenuation / 1.55, 0, 1), visit.gamma) * 255
    noise = rng.standard_normal((size, size), dtype=np.float32)
    soft = cv2.GaussianBlur(noise, (0, 0), 0.8)
    tone += visit.noise * (visit.grain * noise + 1.5 * (1 - visit.grain) * soft)
    # Three rounds: clipping moves mean and deviation a little each time.
    for _ in range(3):
        mean, deviation = (float(value[0, 0]) for value in cv2.meanStdDev(tone))
        tone -= mean
        tone *= visit.deviation / deviation
        tone += visit.mean
        np.clip(tone, 0, 255, out=tone)
    pixels: NDArray[np.uint8] = np.round(tone).astype(np.uint8)
    _mark(pixels, visit)
    return pixels


def _mark(canvas: NDArray[np.uint8], visit: Visit) -> None:
    """The letter of the patient's side in an upper corner, as technicians place it, and AP on portable radiographs."""
    size = canvas.shape[0]
    left = visit.marker % 2 == 0
    scale, corner = size / 420, (0.92 if left else 0.05)
    spot = (round(corner * size), round((0.07 if visit.marker < 2 else 0.12) * size))
    cv2.putText(canvas, "L" if left else "R", spot, cv2.FONT_HERSHEY_SIMPLEX, scale, 245, 1, cv2.LINE_AA)
    if visit.portable:
        spot = (round((0.84 if left else 0.05) * size), round((0.13 if visit.marker < 2 else 0.18) * size))
        cv2.putText(canvas, "AP", spot, cv2.FONT_HERSHEY_SIMPLEX, scale * 0.7, 245, 1, cv2.LINE_AA)
