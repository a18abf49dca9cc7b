"""Corrupt training images, so that a network learns to read more than clean digits."""

import numpy as np
import tensorflow as tf

from src.config import IMAGE_SHAPE

SIDE = IMAGE_SHAPE[0]


def corrupt(images, seed, share):
    """Corrupt a `share` of the images by one to three of CHANGES each."""
    n, kinds = tf.shape(images)[0], len(CHANGES)
    seeds = tf.random.split(seed, kinds + 1)
    order = tf.argsort(tf.random.stateless_uniform((n, kinds), seeds[0]), axis=1)
    rank = tf.argsort(order, axis=1)  # an image gets the changes ranked below its count
    chance, several = tf.unstack(tf.random.stateless_uniform((n, 2), seeds[0] + 1), axis=1)
    count = tf.where(chance < share, 1 + tf.cast(3 * several**2, tf.int32), 0)
    for i, change in enumerate(CHANGES):
        rows = tf.where(rank[:, i] < count)
        changed = change(tf.gather_nd(images, rows), seeds[i + 1])
        images = tf.tensor_scatter_nd_update(images, rows, changed)
    return images


def _draw(images, seed, count):
    """Draw `count` tensors (n, 1, 1, 1), even from 0 to 1."""
    shape = (tf.shape(images)[0], count, 1, 1, 1)
    return tf.unstack(tf.random.stateless_uniform(shape, seed), axis=1)


def _smooth_field(images, seed, knots):
    """Draw standard normal values on a grid for each image, bicubic between: (n, 28, 28, 1)."""
    grid = tf.random.stateless_normal((tf.shape(images)[0], knots, knots, 1), seed)
    return tf.image.resize(grid, (SIDE, SIDE), "bicubic")


def outline(images, seed):
    """Leave the inner or the outer edges of strokes alone."""
    inside, strength = _draw(images, seed, 2)
    eroded = -tf.nn.max_pool2d(-images, 3, 1, "SAME")
    dilated = tf.nn.max_pool2d(images, 3, 1, "SAME")
    edge = tf.where(inside < 0.5, images, dilated) - eroded
    return tf.clip_by_value(edge * (0.7 + 0.6 * strength), 0, 1)


def fade(images, seed):
    """Make ink paler, down to 0.15 of its strength."""
    return images * (0.15 + 0.85 * _draw(images, seed, 1)[0])


def coarsen(images, seed):
    """Show a batch on a coarser grid of 9 to 17 pixels a side."""
    side = tf.random.stateless_uniform((), seed, 9, 18, tf.int32)
    coarse = tf.image.resize(images, (side, side), "area")
    return tf.image.resize(coarse, (SIDE, SIDE), "nearest")


def cloud(images, seed):
    """Put a grey, even or clouded, behind the digit."""
    seeds = tf.random.split(seed, 2)
    level, strength, kind = _draw(images, seeds[0], 3)
    clouds = _smooth_field(images, seeds[1], 5) * 0.25 * strength
    grey = tf.clip_by_value(0.85 * level + tf.where(kind < 0.3, 0.0, clouds), 0, 1)
    return tf.where(kind < 0.6, grey + (1 - grey) * images, tf.maximum(grey, images))


def invert(images, seed):
    """Exchange light and dark in the whole image, or in a band across it."""
    turn, place, width, whole = _draw(images, seed, 4)
    x = tf.range(SIDE, dtype=tf.float32)[:, tf.newaxis] - (SIDE - 1) / 2
    y = x[..., tf.newaxis]
    away = tf.cos(np.pi * turn) * x + tf.sin(np.pi * turn) * y - 18 * (place - 0.5)
    return tf.where((tf.abs(away) < 2 + 6 * width) | (whole < 0.4), 1 - images, images)


def scrawl(images, seed, segments=4):
    """Draw straight strokes over the digit: joined or apart, whole or dotted, ink or paper."""
    n, seeds = tf.shape(images)[0], tf.random.split(seed, 4)
    joined, width, dotted, many, paper = _draw(images, seeds[1], 5)
    ends = tf.random.stateless_uniform((n, segments + 1, 1, 1, 2), seeds[0], 0, SIDE - 1.0)
    apart = tf.random.stateless_uniform((n, segments, 1, 1, 2), seeds[2], 0, SIDE - 1.0)
    start = tf.where(joined[..., tf.newaxis] < 0.5, ends[:, :-1], apart)
    step = ends[:, 1:] - start
    places = tf.range(float(SIDE))
    from_start = tf.stack(tf.meshgrid(places, places, indexing="ij"), -1) - start
    length = tf.reduce_sum(step**2, -1) + 1e-3  # squared, and never 0
    along = tf.clip_by_value(tf.reduce_sum(from_start * step, -1) / length, 0, 1)
    away = tf.norm(from_start - along[..., tf.newaxis] * step, axis=-1)  # from the segment
    gap = tf.cos(along * tf.sqrt(length) * 2 * np.pi / 5) <= 0  # half of every 5 pixels
    left_out = tf.range(float(segments))[:, tf.newaxis, tf.newaxis] >= 1 + segments * many
    strokes = tf.clip_by_value(1.2 + 0.8 * width - away, 0, 1)
    strokes = tf.where(left_out | (gap & (dotted < 0.4)), 0.0, strokes)
    ink = tf.reduce_max(strokes, 1)[..., tf.newaxis] * (0.4 + 0.6 * _draw(images, seeds[3], 1)[0])
    return tf.where(paper < 0.2, images * (1 - ink), tf.maximum(images, ink))


def spatter(images, seed):
    """Drop blots of ink or of paper on the digit."""
    seeds = tf.random.split(seed, 2)
    fewer, strength, paper = _draw(images, seeds[0], 3)
    blots = tf.clip_by_value(3 * (_smooth_field(images, seeds[1], 10) - 0.7 - fewer), 0, 1)
    blots *= 0.3 + 0.7 * strength
    return tf.where(paper < 0.3, images * (1 - blots), tf.maximum(images, blots))


def blur(images, seed):
    """Blur along a line of up to 9 pixels, or evenly, by a Gaussian kernel for each image."""
    turn, one, other = _draw(images, seed, 3)
    cos, sin = tf.cos(np.pi * turn), tf.sin(np.pi * turn)
    sds = 0.6 + 2 * one, 0.3 + 1.2 * other
    x = tf.range(-4.0, 5.0)[:, tf.newaxis]
    y = x[..., tf.newaxis]
    along = (x * cos + y * sin) / tf.maximum(*sds)
    across = (y * cos - x * sin) / tf.minimum(*sds)
    kernels = tf.exp(-0.5 * (along**2 + across**2))
    kernels /= tf.reduce_sum(kernels, axis=(1, 2), keepdims=True)
    as_channels = tf.transpose(images, (3, 1, 2, 0))  # each image a channel with its own kernel
    kernels = tf.transpose(kernels, (1, 2, 0, 3))
    blurred = tf.nn.depthwise_conv2d(as_channels, kernels, (1, 1, 1, 1), "SAME")
    return tf.transpose(blurred, (3, 1, 2, 0))


def noise(images, seed):
    """Add normal noise or speckle, or set pixels to 0 or 1."""
    seeds = tf.random.split(seed, 3)
    kind, strength, speckle = _draw(images, seeds[0], 3)
    normal = tf.random.stateless_normal(tf.shape(images), seeds[1])
    chance = tf.random.stateless_uniform(tf.shape(images), seeds[2])
    sd, half = 0.4 * strength, 0.3 * strength / 2
    added = images + normal * tf.where(speckle < 0.3, 1.5 * sd * images, sd)
    peppered = tf.where(chance < half, 0.0, tf.where(chance > 1 - half, 1.0, images))
    return tf.clip_by_value(tf.where(kind < 0.4, peppered, added), 0, 1)


# Each takes a batch (n, 28, 28, 1) and a seed of two integers, and draws how strong it is for each
# image. How strong it may get, and how often, is a guess.
CHANGES = (outline, fade, coarsen, cloud, invert, scrawl, spatter, blur, noise)
