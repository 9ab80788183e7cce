"""One crop of a photo by scikit-image, by `warp` and by OpenCV's function alone, which is the floor of `warp`.

OpenCV is also timed on a photo that is in the processor's cache, where it waits for no memory: no Python around it
could be faster. Run on an otherwise idle machine: make bench
"""

from __future__ import annotations

import cv2
import numpy as np
from racing import race
from skimage.transform import SimilarityTransform
from skimage.transform import warp as skimage_warp

from sfplus.alignment import DEFAULT_TEMPLATE, TEMPLATES, fit_similarity, warp
from sfplus.datasets.portraits import draw_portrait

PHOTOS, ROUNDS = 48, 21


def main() -> None:
    cv2.setNumThreads(1)
    portraits = [draw_portrait(i // 4, i % 4) for i in range(PHOTOS)]
    photos, landmarks = [p.photo for p in portraits], np.stack([p.landmarks for p in portraits])
    matrices, template = fit_similarity(landmarks, DEFAULT_TEMPLATE), TEMPLATES[DEFAULT_TEMPLATE]
    inverses = [SimilarityTransform(np.vstack([matrix, [0, 0, 1]])).inverse for matrix in matrices]
    shape, size = (template.height, template.width), (template.width, template.height)

    def skimage() -> None:
        for photo, inverse in zip(photos, inverses, strict=True):
            skimage_warp(photo, inverse, output_shape=shape, preserve_range=True).astype(np.uint8)

    runs = {
        "scikit-image": skimage,
        "sfplus": lambda: [warp(photo, matrix) for photo, matrix in zip(photos, matrices, strict=True)],
        "cv2.warpAffine alone": lambda: [
            cv2.warpAffine(photo, matrix, size) for photo, matrix in zip(photos, matrices, strict=True)
        ],
        "cv2.warpAffine, one photo in the cache": lambda: [
            cv2.warpAffine(photos[0], matrices[0], size) for _ in photos
        ],
    }
    seconds = race(runs, ROUNDS)
    print(f"a thread; {PHOTOS} drawn photos {photos[0].shape}, crops of {template.size}; median of {ROUNDS} rounds")
    for name, duration in seconds.items():
        print(f"  {name:<40} {1e6 * duration / PHOTOS:7.1f} us  {seconds['scikit-image'] / duration:6.1f} x")
    print(f"  20 x scikit-image would be {1e6 * seconds['scikit-image'] / 20 / PHOTOS:.1f} us")


if __name__ == "__main__":
    main()
