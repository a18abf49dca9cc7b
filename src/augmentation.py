"""Random changes of training images, within tf.data: batches of tensors in, tensors out."""

import numpy as np

from src.config import CLASSES, IMAGE_SHAPE


def vary(images, labels, seed, outliers: float = 0.0, **changes):
    """A batch (images, labels) with `augment(images, seed, **changes)`; a share `outliers` of it
    becomes no digit at all: halves of two digits joined, or two laid over each other, one of
    them upside down. Their labels, which must be one-hot, are shared evenly by the ten digits.

    After Hendrycks, Mazeika and Dietterich, "Deep anomaly detection with outlier exposure"
    (2019).
    """
    import tensorflow as tf

    if outliers:
        if len(labels.shape) != 2:
            raise ValueError(f"labels: shape {labels.shape}, expected (n, {CLASSES}) for outliers.")
        own = tf.random.fold_in(seed, 1)  # `seed` itself would tie outliers to their rotation
        draws = tf.random.stateless_uniform((2, tf.shape(images)[0], 1, 1, 1), own)
        other = tf.roll(images, 1, 0)[:, ::-1]
        left = tf.cast(tf.range(IMAGE_SHAPE[1]) < IMAGE_SHAPE[1] // 2, images.dtype)
        left = left[tf.newaxis, tf.newaxis, :, tf.newaxis]
        joined = left * images + (1 - left) * other
        strange = tf.where(draws[1] < 0.5, joined, tf.maximum(images, other))
        chosen = draws[0] < outliers
        images = tf.where(chosen, strange, images)
        labels = tf.where(chosen[:, 0, 0], 1 / CLASSES, tf.cast(labels, images.dtype))
    return augment(images, seed, **changes), labels


def augment(
    images, seed, rotation=0.0, scale=0.0, shear=0.0, shift=0.0, elastic=0.0, thickness=0.0,
    erase=0.0, spoil=0.0,
):  # fmt: skip
    """Each image of a batch (n, 28, 28, 1) changed at random.

    The largest rotation in degrees, change of scale as a share, shear as a tangent and shift
    in pixels; each is drawn evenly from minus to plus that, per image. All four become one
    matrix, so pixels are interpolated (bilinearly) once. `elastic` bends the strokes besides:
    places move by smooth random steps whose sd is that many pixels. `thickness`, at most 1, is
    how far strokes may go towards what 3x3 dilation or erosion makes of them, and `erase` the
    largest side, in pixels, of a square of paper. `spoil` is the share of images with noise,
    blur, other backgrounds or things drawn over them: see `_spoil`. `seed`: two integers; the
    same seed, the same result. Tensor in, tensor out.
    """
    import keras
    import tensorflow as tf

    draws = tf.random.stateless_uniform((10, tf.shape(images)[0]), seed, -1, 1)
    angle, slant = draws[0] * rotation * np.pi / 180, draws[1] * shear
    wide, high = 1 + draws[2] * scale, 1 + draws[3] * scale
    right, down = draws[4] * shift, draws[5] * shift
    cos, sin = tf.cos(angle), tf.sin(angle)
    # from a place in the result to the place in the original that its value is taken from
    a, b = cos / wide, (cos * slant - sin) / wide
    c, d = sin / high, (sin * slant + cos) / high
    middle = (IMAGE_SHAPE[0] - 1) / 2
    x0 = middle - a * (middle + right) - b * (middle + down)
    y0 = middle - c * (middle + right) - d * (middle + down)
    zero = tf.zeros_like(a)
    matrices = tf.stack([a, b, x0, c, d, y0, zero, zero], axis=1)
    if elastic:
        images = _bend(images, matrices, seed, elastic)
    else:
        images = keras.ops.image.affine_transform(images, matrices, interpolation="bilinear")
    if thickness:
        images = _thicken(images, draws[6] * thickness)
    if erase:
        images = _erase(images, draws[7:10], erase)
    return _spoil(images, seed, spoil) if spoil else images


def _bend(images, matrices, seed, size):
    """Images transformed by matrices (n, 8), each place moved further by a smooth random field:
    normal draws of sd `size` pixels on a grid of 5x5, bicubic between them.

    After Simard, Steinkraus and Platt, "Best practices for convolutional neural networks"
    (2003), who smooth a draw per pixel.
    """
    import tensorflow as tf

    n, side = tf.shape(images)[0], IMAGE_SHAPE[0]
    wide = side + 4  # two pixels of paper on either side
    draws = tf.random.stateless_normal((n, 5, 5, 2), tf.random.fold_in(seed, 2)) * size
    moves = tf.image.resize(draws, (side, side), "bicubic")
    x, y = tf.meshgrid(*[tf.range(side, dtype=tf.float32)] * 2)
    a, b, x0, c, d, y0 = (matrices[:, i, tf.newaxis, tf.newaxis] for i in range(6))
    x, y = a * x + b * y + x0 + moves[..., 0], c * x + d * y + y0 + moves[..., 1]
    left, top = tf.floor(x), tf.floor(y)
    right, low = x - left, y - top  # shares of the next column and row
    padded = tf.reshape(tf.pad(images[..., 0], ((0, 0), (2, 2), (2, 2))), (n, wide * wide))
    column, row = (tf.clip_by_value(tf.cast(at, tf.int32), -2, side) + 2 for at in (left, top))
    corner = tf.reshape(row * wide + column, (n, side * side))

    def value(step):
        return tf.reshape(tf.gather(padded, corner + step, batch_dims=1), (n, side, side))

    upper = value(0) * (1 - right) + value(1) * right
    lower = value(wide) * (1 - right) + value(wide + 1) * right
    return (upper * (1 - low) + lower * low)[..., tf.newaxis]


def _thicken(images, amounts):
    """Strokes blended with their 3x3 dilation (amounts (n,) up to 1) or erosion (down to -1)."""
    import tensorflow as tf

    amounts = tf.reshape(amounts, (-1, 1, 1, 1))
    dilated = tf.nn.max_pool2d(images, 3, 1, "SAME")
    eroded = -tf.nn.max_pool2d(-images, 3, 1, "SAME")
    return images + tf.abs(amounts) * (tf.where(amounts > 0, dilated, eroded) - images)


def _erase(images, draws, largest):
    """A square of paper in each image, its side at most `largest` pixels."""
    import tensorflow as tf

    side = IMAGE_SHAPE[0]
    places = tf.range(side, dtype=tf.float32)
    middles = (draws[:2, :, tf.newaxis] + 1) / 2 * (side - 1)
    reach = tf.abs(draws[2, :, tf.newaxis]) * largest / 2
    rows, columns = tf.unstack(tf.cast(tf.abs(places - middles) < reach, images.dtype))
    return images * (1 - rows[:, :, tf.newaxis, tf.newaxis] * columns[:, tf.newaxis, :, tf.newaxis])


def _spoil(images, seed, share):
    """A `share` of the images (n, 28, 28, 1) spoilt by one to three of: a blur, a coarser grid,
    outlines alone, a paler ink, a grey or clouded background, an inverted band or image, things
    drawn over the digit, noise. Every kind and strength is drawn per image."""
    import tensorflow as tf

    n = tf.shape(images)[0]
    kinds = len(SPOILERS)
    seeds = tf.random.split(seed, kinds + 1)
    rank = tf.argsort(tf.argsort(tf.random.stateless_uniform((n, kinds), seeds[0]), axis=1), axis=1)
    draws = tf.random.stateless_uniform((n, 2), seeds[0] + 1)
    count = tf.where(draws[:, 0] < share, 1 + tf.cast(3 * draws[:, 1] ** 2, tf.int32), 0)
    for i, spoil in enumerate(SPOILERS):
        rows = tf.where(rank[:, i] < count)[:, 0]
        images = tf.cond(
            tf.size(rows) > 0,
            lambda images=images, rows=rows, i=i, spoil=spoil: tf.tensor_scatter_nd_update(
                images, rows[:, tf.newaxis], spoil(tf.gather(images, rows), seeds[i + 1])
            ),
            lambda images=images: images,
        )
    return images


def _uniform(images, seed, *shape, low=0.0, high=1.0):
    import tensorflow as tf

    return tf.random.stateless_uniform((tf.shape(images)[0], *shape), seed, low, high)


def _blur(images, seed):
    """Blurred along a line of up to 9 pixels, or evenly, by a kernel per image."""
    import tensorflow as tf

    draws = _uniform(images, seed, 3)
    angle, long, short = np.pi * draws[:, 0], 0.6 + 2 * draws[:, 1], 0.3 + 1.2 * draws[:, 2]
    long, short = tf.maximum(long, short), tf.minimum(long, short)
    places = tf.range(-4.0, 5.0)
    x, y = tf.meshgrid(places, places)
    cos, sin = (f(angle)[:, tf.newaxis, tf.newaxis] for f in (tf.cos, tf.sin))
    along = (x * cos + y * sin) / long[:, tf.newaxis, tf.newaxis]
    across = (y * cos - x * sin) / short[:, tf.newaxis, tf.newaxis]
    kernels = tf.exp(-0.5 * (along**2 + across**2))
    kernels /= tf.reduce_sum(kernels, axis=(1, 2), keepdims=True)
    side = IMAGE_SHAPE[0]
    as_channels = tf.transpose(images, (3, 1, 2, 0))
    kernels = tf.transpose(kernels, (1, 2, 0))[..., tf.newaxis]
    blurred = tf.nn.depthwise_conv2d(as_channels, kernels, (1, 1, 1, 1), "SAME")
    return tf.reshape(tf.transpose(blurred, (3, 1, 2, 0)), (-1, side, side, 1))


def _coarsen(images, seed):
    import tensorflow as tf

    side = IMAGE_SHAPE[0]
    small = tf.random.stateless_uniform((), seed, 9, 18, tf.int32)
    coarse = tf.image.resize(images, (small, small), "area")
    return tf.image.resize(coarse, (side, side), "nearest")


def _outline(images, seed):
    import tensorflow as tf

    inner = -tf.nn.max_pool2d(-images, 3, 1, "SAME")
    outer = tf.nn.max_pool2d(images, 3, 1, "SAME")
    strength = _uniform(images, seed, 2, 1, 1, 1)
    edge = tf.where(strength[:, 0] < 0.5, images - inner, outer - inner)
    return tf.clip_by_value(edge * (0.7 + 0.6 * strength[:, 1]), 0, 1)


def _fade(images, seed):
    return images * _uniform(images, seed, 1, 1, 1, low=0.15)


def _cloud(images, seed):
    """Behind the digit a grey, even or clouded."""
    import tensorflow as tf

    seeds = tf.random.split(seed, 2)
    draws = _uniform(images, seeds[0], 3, 1, 1, 1)
    n, side = tf.shape(images)[0], IMAGE_SHAPE[0]
    coarse = tf.random.stateless_normal((n, 5, 5, 1), seeds[1])
    field = tf.image.resize(coarse, (side, side), "bicubic") * 0.25 * draws[:, 1]
    back = tf.clip_by_value(0.85 * draws[:, 0] + tf.where(draws[:, 2] < 0.3, 0.0, field), 0, 1)
    return tf.where(draws[:, 2] < 0.6, back + (1 - back) * images, tf.maximum(back, images))


def _invert(images, seed):
    """Light and dark exchanged in the whole image, or in a band across it."""
    import tensorflow as tf

    draws = _uniform(images, seed, 4, 1, 1, 1)
    angle, middle = np.pi * draws[:, 0], 18 * (draws[:, 1] - 0.5)
    half = tf.where(draws[:, 3] < 0.4, 99.0, 2 + 6 * draws[:, 2])
    places = tf.range(IMAGE_SHAPE[0], dtype=tf.float32) - (IMAGE_SHAPE[0] - 1) / 2
    x, y = (
        places[tf.newaxis, tf.newaxis, :, tf.newaxis],
        places[tf.newaxis, :, tf.newaxis, tf.newaxis],
    )
    band = tf.abs(tf.cos(angle) * x + tf.sin(angle) * y - middle) < half
    return tf.where(band, 1 - images, images)


def _scrawl(images, seed, segments=4):
    """Straight strokes drawn over the digit, joined or apart, whole or dotted."""
    import tensorflow as tf

    seeds = tf.random.split(seed, 4)
    side = IMAGE_SHAPE[0]
    ends = _uniform(images, seeds[0], segments + 1, 2, high=side - 1.0)
    draws = _uniform(images, seeds[1], 5, 1)
    apart = _uniform(images, seeds[2], segments, 2, high=side - 1.0)
    start = tf.where(draws[:, 0, :, tf.newaxis] < 0.5, ends[:, :-1], apart)
    step = ends[:, 1:] - start
    places = tf.range(side, dtype=tf.float32)
    y, x = tf.meshgrid(places, places, indexing="ij")
    at = tf.stack([y, x], -1)[tf.newaxis, tf.newaxis] - start[:, :, tf.newaxis, tf.newaxis]
    length = tf.reduce_sum(step**2, -1) + 1e-3
    along = tf.einsum("nsyxc,nsc->nsyx", at, step) / length[..., tf.newaxis, tf.newaxis]
    along = tf.clip_by_value(along, 0, 1)
    away = tf.norm(at - along[..., tf.newaxis] * step[:, :, tf.newaxis, tf.newaxis], axis=-1)
    shape = (-1, 1, 1, 1)
    ink = tf.clip_by_value(1.2 + 0.8 * tf.reshape(draws[:, 1], shape) - away, 0, 1)
    phase = along * tf.sqrt(length)[..., tf.newaxis, tf.newaxis] * 2 * np.pi / 5
    dotted = tf.cast(tf.cos(phase) > 0, tf.float32)
    ink *= tf.where(tf.reshape(draws[:, 2], shape) < 0.4, dotted, 1.0)
    drawn = tf.range(float(segments)) < 1 + segments * draws[:, 3]
    ink = tf.reduce_max(ink * tf.cast(drawn, tf.float32)[..., tf.newaxis, tf.newaxis], 1)
    ink = ink[..., tf.newaxis] * (0.4 + 0.6 * _uniform(images, seeds[3], 1, 1, 1))
    paper = tf.reshape(draws[:, 4], shape) < 0.2  # strokes of paper instead of ink
    return tf.where(paper, images * (1 - ink), tf.maximum(images, ink))


def _spatter(images, seed):
    """Blots of ink or of paper over the digit."""
    import tensorflow as tf

    seeds = tf.random.split(seed, 2)
    draws = _uniform(images, seeds[0], 3, 1, 1, 1)
    n, side = tf.shape(images)[0], IMAGE_SHAPE[0]
    coarse = tf.random.stateless_normal((n, 10, 10, 1), seeds[1])
    blots = tf.clip_by_value(
        3 * (tf.image.resize(coarse, (side, side), "bicubic") - 0.7 - draws[:, 0]), 0, 1
    )
    blots *= 0.3 + 0.7 * draws[:, 1]
    return tf.where(draws[:, 2] < 0.3, images * (1 - blots), tf.maximum(images, blots))


def _noise(images, seed):
    """Normal noise, speckle, or pixels set to 0 or 1."""
    import tensorflow as tf

    seeds = tf.random.split(seed, 3)
    draws = _uniform(images, seeds[0], 3, 1, 1, 1)
    normal = tf.random.stateless_normal(tf.shape(images), seeds[1])
    flips = tf.random.stateless_uniform(tf.shape(images), seeds[2])
    size = 0.4 * draws[:, 1]
    added = images + normal * tf.where(draws[:, 2] < 0.3, 1.5 * size * images, size)
    share = 0.3 * draws[:, 1]
    peppered = tf.where(flips < share / 2, 0.0, tf.where(flips > 1 - share / 2, 1.0, images))
    return tf.clip_by_value(tf.where(draws[:, 0] < 0.4, peppered, added), 0, 1)


SPOILERS = (_outline, _fade, _coarsen, _cloud, _invert, _scrawl, _spatter, _blur, _noise)
