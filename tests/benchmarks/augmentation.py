"""Images per second of three ways to augment the same batches, side by side in one run.

python tests/benchmarks/augmentation.py      writes models/augmentation_speed.json
"""

import statistics
import time

import keras
import numpy as np
import tensorflow as tf

from src import config, data

IMAGES, BATCH, ROUNDS = 20_000, 128, 5
STRENGTHS = {"rotation": 12.0, "scale": 0.1, "shear": 0.15, "shift": 2.0}


def pipelines(images: np.ndarray) -> dict[str, tf.data.Dataset]:
    """One matrix per image, on batches; Keras' four random layers on batches; the same layers
    image by image."""
    layers = keras.Sequential(
        [
            keras.layers.RandomRotation(12 / 360, fill_mode="constant"),
            keras.layers.RandomZoom(0.1, fill_mode="constant"),
            keras.layers.RandomShear(0.15, 0.0, fill_mode="constant"),
            keras.layers.RandomTranslation(2 / 28, 2 / 28, fill_mode="constant"),
        ]
    )
    labels = np.zeros(len(images), np.uint8)
    plain = tf.data.Dataset.from_tensor_slices(images)
    ours = data.make_dataset(images, labels, BATCH, augmentation=STRENGTHS)
    batched = plain.batch(BATCH).map(lambda x: layers(x, training=True), tf.data.AUTOTUNE)
    single = plain.map(lambda x: layers(x, training=True), tf.data.AUTOTUNE).batch(BATCH)
    return {"one matrix": ours, "keras layers": batched, "keras layers, single": single}


def main() -> None:
    rng = np.random.default_rng(0)
    images = rng.random((IMAGES, *config.IMAGE_SHAPE), dtype=np.float32)
    speeds = {}
    ways = pipelines(images)
    for turn in range(ROUNDS + 1):  # the first round traces and is not counted
        for name, batches in ways.items():
            started = time.perf_counter()
            for _ in batches:
                pass
            if turn:
                speeds.setdefault(name, []).append(IMAGES / (time.perf_counter() - started))
    medians = {name: round(statistics.median(values)) for name, values in speeds.items()}
    ratios = {name: round(medians["one matrix"] / value, 1) for name, value in medians.items()}
    result = {"images_per_second": medians, "ratio": ratios, "environment": config.environment()}
    print(config.write_json(config.ROOT / "models" / "augmentation_speed.json", result).name)
    print(medians, ratios)


if __name__ == "__main__":
    main()
