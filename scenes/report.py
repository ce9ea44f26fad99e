"""How is a run shown to people? One self-contained HTML page: tables, curves (inline SVG) and pictures (inline JPEG)."""

import base64
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

import cv2
import numpy as np

from scenes.atomic import atomic_file
from scenes.errors import DataError

STYLE = """
body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:1180px;padding:0 1rem;color:#1c2430;background:#fbfbfa}
h1{font-size:1.8rem;margin-bottom:.2rem} h2{margin-top:2.4rem;border-bottom:1px solid #d9d9d4;padding-bottom:.2rem}
table{border-collapse:collapse;margin:1rem 0} th,td{padding:.3rem .9rem;border-bottom:1px solid #e3e3de;text-align:left}
td.number{text-align:right;font-variant-numeric:tabular-nums} th{background:#f0f0ec}
figure{margin:1.2rem 0} figure img,figure svg{max-width:100%;border-radius:6px} figcaption{color:#5b6470;font-size:.9rem}
code,pre{background:#f0f0ec;border-radius:4px;padding:.1rem .3rem} pre{padding:.8rem;overflow:auto}
"""
CURVE_COLOURS = ("#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e", "#17becf")


@dataclass
class Curve:
    """One line of a plot."""

    name: str
    x: Sequence[float]
    y: Sequence[float]


@dataclass
class Report:
    """A page that grows from top to bottom; `save` writes it as one file without any reference to another."""

    title: str
    parts: list[str | Callable[[], str]] = field(default_factory=list)
    """HTML, or what makes it when the page is written: pictures of a thousand clips never lie in memory together."""

    def heading(self, text: str) -> None:
        """A section's title."""
        self.parts.append(f"<h2>{escape(text)}</h2>")

    def text(self, text: str) -> None:
        """A paragraph."""
        self.parts.append(f"<p>{escape(text)}</p>")

    def commands(self, lines: Sequence[str]) -> None:
        """Command lines, to be copied."""
        self.parts.append(f"<pre>{escape(chr(10).join(lines))}</pre>")

    def table(self, header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
        """A table; numbers are set to the right."""
        head = "".join(f"<th>{escape(name)}</th>" for name in header)
        body = "".join("<tr>" + "".join(_cell(value) for value in row) + "</tr>" for row in rows)
        self.parts.append(f"<table><tr>{head}</tr>{body}</table>")

    def picture(self, image_rgb: np.ndarray, caption: str, quality: int = 82) -> None:
        """A picture (H, W, 3) uint8 RGB."""
        ok, data = cv2.imencode(".jpg", np.ascontiguousarray(image_rgb[:, :, ::-1]), [cv2.IMWRITE_JPEG_QUALITY, quality])
        if not ok:
            raise DataError(f"report: the picture {caption!r} could not be encoded; its shape is {image_rgb.shape}")
        self.jpeg(data.tobytes(), caption)

    def jpeg(self, data: bytes, caption: str) -> None:
        """A picture that is a JPEG already."""
        self.parts.append(_jpeg_figure(data, caption))

    def jpeg_file(self, path: Path, caption: str) -> None:
        """A picture in a JPEG file, read when the page is written; one that is gone by then is left out."""
        self.parts.append(lambda: _jpeg_figure(path.read_bytes(), caption) if path.is_file() else "")

    def curves(self, curves: Sequence[Curve], caption: str, x_name: str, y_name: str) -> None:
        """Lines over a common axis; points that are not finite are left out."""
        self.parts.append(_figure(curves_svg(curves, x_name, y_name), caption))

    def save(self, path: Path) -> Path:
        """Writes the page atomically; returns its path."""
        head = f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(self.title)}</title>'
        with atomic_file(Path(path)) as temporary, open(temporary, "w", encoding="utf-8") as page:
            page.write(f"{head}<style>{STYLE}</style></head><body><h1>{escape(self.title)}</h1>")
            for part in self.parts:
                page.write(part if isinstance(part, str) else part())
            page.write("</body></html>\n")
        return Path(path)


def _figure(inner: str, caption: str) -> str:
    return f"<figure>{inner}<figcaption>{escape(caption)}</figcaption></figure>"


def _jpeg_figure(data: bytes, caption: str) -> str:
    source = base64.b64encode(data).decode()
    return _figure(f'<img alt="{escape(caption)}" src="data:image/jpeg;base64,{source}">', caption)


def _cell(value: object) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return f"<td>{escape(str(value))}</td>"
    text = f"{value:.3f}" if isinstance(value, float) else str(value)
    return f'<td class="number">{text}</td>'


def curves_svg(curves: Sequence[Curve], x_name: str, y_name: str, width: int = 860, height: int = 300) -> str:
    """The lines as an SVG element with axes, ticks and a legend."""
    points = [_finite(curve) for curve in curves]
    filled = [p for p in points if len(p)]
    if not filled:
        return "<p>nothing recorded</p>"
    everything = np.concatenate(filled)
    (x_low, y_low), (x_high, y_high) = everything.min(axis=0), everything.max(axis=0)
    x_span, y_span = max(x_high - x_low, 1e-9), max(y_high - y_low, 1e-9)
    left, right, top, bottom = 64, 150, 12, 40

    def place(p: np.ndarray) -> np.ndarray:
        u = left + (p[:, 0] - x_low) / x_span * (width - left - right)
        v = height - bottom - (p[:, 1] - y_low) / y_span * (height - top - bottom)
        return np.stack([u, v], axis=1)

    parts = [f'<svg viewBox="0 0 {width} {height}" width="{width}" xmlns="http://www.w3.org/2000/svg" font-size="12">']
    for fraction in np.linspace(0, 1, 5):
        u = left + fraction * (width - left - right)
        v = height - bottom - fraction * (height - top - bottom)
        parts.append(f'<line x1="{left}" x2="{width - right}" y1="{v:.1f}" y2="{v:.1f}" stroke="#e3e3de"/>')
        parts.append(f'<text x="{left - 6}" y="{v + 4:.1f}" text-anchor="end">{y_low + fraction * y_span:.3g}</text>')
        parts.append(f'<text x="{u:.1f}" y="{height - bottom + 16}" text-anchor="middle">{x_low + fraction * x_span:.4g}</text>')
    for row, (curve, values) in enumerate(zip(curves, points, strict=True)):
        colour = CURVE_COLOURS[row % len(CURVE_COLOURS)]
        if len(values):
            line = " ".join(f"{u:.1f},{v:.1f}" for u, v in place(values))
            parts.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="1.8"/>')
        parts.append(f'<text x="{width - right + 10}" y="{top + 14 + 17 * row}" fill="{colour}">{escape(curve.name)}</text>')
    parts.append(f'<text x="{(left + width - right) / 2}" y="{height - 6}" text-anchor="middle">{escape(x_name)}</text>')
    parts.append(f'<text x="14" y="{height / 2}" transform="rotate(-90 14 {height / 2})" text-anchor="middle">{escape(y_name)}</text>')
    return "".join(parts) + "</svg>"


def _finite(curve: Curve) -> np.ndarray:
    points = np.stack([np.asarray(curve.x, dtype=np.float64), np.asarray(curve.y, dtype=np.float64)], axis=1)
    return points[np.isfinite(points).all(axis=1)]


def smooth(values: Sequence[float], window: int = 9) -> list[float]:
    """The running median of a noisy series, as long as the series."""
    data = np.asarray(values, dtype=np.float64)
    half = window // 2
    return [float(np.nanmedian(data[max(0, i - half) : i + half + 1])) for i in range(len(data))]
