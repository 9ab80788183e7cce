"""Draw the figure of the pipeline: two drawn faces from photo to verdict, with the models that are shipped."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from PIL import Image

from sfplus import Embedder
from sfplus.datasets.portraits import draw_portrait

FILE = Path(__file__).parent / "images" / "pipeline.png"
PEOPLE = ((0, 0), (0, 3))  # person and photo
INK, ACCENT = "#263238", "#00897b"


def main() -> None:
    """Draw the figure."""
    photos = [np.asarray(Image.open(BytesIO(draw_portrait(*person).jpeg()))) for person in PEOPLE]
    embedder = Embedder(device="cpu")
    figure, axes = plt.subplots(2, 4, figsize=(11, 4.2), width_ratios=(1.2, 1.2, 1, 1.4))
    features = []
    for row, photo in zip(axes, photos, strict=True):
        found = embedder.faces(photo)
        face, points = found.boxes[0], found.landmarks[0]
        features.append(found.features[0] / np.linalg.norm(found.features[0]))
        for axis in row:
            axis.set_xticks([])
            axis.set_yticks([])
            axis.spines[:].set_visible(False)
        row[0].imshow(photo)
        row[1].imshow(photo)
        row[1].add_patch(plt.Rectangle(face[:2], *(face[2:] - face[:2]), fill=False, color="#7cff6b", linewidth=2))
        row[1].plot(*points.T, "o", color="#7cff6b", markersize=3)
        row[2].imshow(np.asarray(found.crops[0]))
        values = features[-1][:48]
        row[3].bar(range(len(values)), values, color=ACCENT)
        row[3].set_ylim(-np.abs(features[-1]).max(), np.abs(features[-1]).max())
    titles = ("photo", "face: box, five landmarks", "crop, 112x96", "feature, a direction on the sphere")
    for axis, title in zip(axes[0], titles, strict=True):
        axis.set_title(title, fontsize=11, color=INK)
    verdict = f"cosine of the two features: {features[0] @ features[1]:.2f}"
    figure.text(0.5, 0.02, verdict, ha="center", fontsize=12, color=INK)
    figure.subplots_adjust(left=0.01, right=0.99, top=0.92, bottom=0.1, wspace=0.3)
    for left, right, text in ((0, 1, "detect"), (1, 2, "align"), (2, 3, "embed")):
        first, second = axes[0][left].get_position(), axes[0][right].get_position()
        x = (first.x1 + second.x0) / 2
        figure.text(x, 0.5, f"{text}\n\u2192", ha="center", va="center", fontsize=11, color=ACCENT, weight="bold")
    figure.savefig(FILE, dpi=100)
    Image.open(FILE).convert("P", palette=Image.Palette.ADAPTIVE).save(FILE, optimize=True)


if __name__ == "__main__":
    main()
