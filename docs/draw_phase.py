"""Draw the figure of SphereNet's motivation: the phase of the 2-D Fourier transform holds the content of an image."""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from PIL import Image
from skimage.data import camera, coins
from skimage.transform import resize

first, second = (resize(image, (256, 256), anti_aliasing=True) for image in (camera(), coins()))
spectra = np.fft.fft2(first), np.fft.fft2(second)
swapped = [np.fft.ifft2(abs(a) * np.exp(1j * np.angle(b))).real for a, b in (spectra[::-1], spectra)]
titles = ("A", "B", "phase of A, magnitude of B", "phase of B, magnitude of A")
figure, axes = plt.subplots(1, 4, figsize=(11, 3.3), layout="constrained")
for axis, image, title in zip(axes, (first, second, *swapped), titles, strict=True):
    with_a, with_b = (np.corrcoef(image.ravel(), other.ravel())[0, 1] for other in (first, second))
    axis.imshow(image, cmap="gray", vmin=np.quantile(image, 0.01), vmax=np.quantile(image, 0.99))
    axis.set_title(title, fontsize=11)
    axis.set_xlabel(f"correlation with A {with_a:.2f}, with B {with_b:.2f}", fontsize=9)
    axis.set(xticks=[], yticks=[])
file = Path(__file__).parent / "images" / "phase.png"
figure.savefig(file, dpi=80)
Image.open(file).convert("L").quantize(32).save(file, optimize=True)
