"""Write keras_dit/data/digits.npz from scikit-learn's copy of the UCI handwritten digits.

    python scripts/make_digits.py        needs scikit-learn; takes a second

The file holds images (1797, 8, 8) uint8 with values 0..16 and labels (1797,) uint8.
"""

import pathlib

import numpy as np
from sklearn.datasets import load_digits

TARGET = pathlib.Path(__file__).parent.parent / "keras_dit" / "data" / "digits.npz"


def main():
    digits = load_digits()
    images = digits.images.astype("uint8")
    assert (images == digits.images).all(), "the values are whole numbers"
    TARGET.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(TARGET, images=images, labels=digits.target.astype("uint8"))
    print(f"{TARGET.name}: {images.shape[0]} digits, {TARGET.stat().st_size} bytes")


if __name__ == "__main__":
    main()
