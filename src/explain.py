"""Look inside a network: features, Grad-CAM, covered images, and attacks along its gradients.

Models are Keras models from images (n, 28, 28, 1) in [0, 1] to ten probabilities.
"""

from itertools import product

import keras
import numpy as np
import tensorflow as tf

from src.config import check_pairs

BATCH = 250


def activations(model: keras.Model, images: np.ndarray, layer: str) -> np.ndarray:
    """Compute what the named layer gives for images: (n, h, w, maps) or (n, d)."""
    inputs, outputs = _trace(model)
    return keras.Model(inputs, outputs[layer]).predict(images, batch_size=BATCH, verbose=0)


def penultimate(model: keras.Model, images: np.ndarray) -> np.ndarray:
    """Compute the features (n, d) that the last layer decides by."""
    return activations(model, images, model.layers[-2].name)


def _trace(model: keras.Model) -> tuple:
    """Return the input and {layer name: output}."""
    if not isinstance(model, keras.Sequential):
        return model.inputs, {layer.name: layer.output for layer in model.layers}
    x = inputs = keras.Input(model.input_shape[1:])
    outputs = {}
    for layer in model.layers:  # called once more: those outputs need not belong together
        x = outputs[layer.name] = layer(x)
    return inputs, outputs


def _logits(model: keras.Model, outputs: dict):
    """Return the values before the softmax, for gradients: that of a sure probability, 1, is 0."""
    last = model.layers[-1]
    if not isinstance(last, keras.layers.Dense) or last.activation is not keras.activations.softmax:
        kind = type(last).__name__
        raise ValueError(f"{model.name}: its last layer is {kind}, expected Dense with softmax.")
    values = keras.ops.matmul(outputs[model.layers[-2].name], last.kernel)
    return values if last.bias is None else values + last.bias


def last_feature_map(model: keras.Model) -> str:
    """Return the name of the last layer whose output still has rows and columns."""
    for layer in reversed(model.layers):
        if len(layer.output.shape) == 4 and not isinstance(layer, keras.layers.InputLayer):
            return layer.name
    raise ValueError(f"{model.name}: has no feature maps to look into.")


def grad_cam(model: keras.Model, images: np.ndarray, digits: np.ndarray) -> np.ndarray:
    """Show where the last maps speak for digits (n,): (n, 28, 28) in [0, 1].

    Grad-CAM in the form of Draelos and Carin, "HiResCAM" (2020): the maps times the gradient of
    the digit's logit above the mean logit, place by place. The mean gradient over all places,
    as in Selvaraju et al. (2017), points at paper where a network flattens.
    """
    check_pairs(images, digits)
    inputs, outputs = _trace(model)
    part = keras.Model(inputs, [outputs[last_feature_map(model)], _logits(model, outputs)])
    with tf.GradientTape() as tape:
        maps, scores = part(tf.constant(images))
        above = scores - tf.reduce_mean(scores, axis=1, keepdims=True)  # a softmax sees no more
        chosen = tf.reduce_sum(tf.gather(above, np.asarray(digits, np.int32), batch_dims=1))
    evidence = maps * tape.gradient(chosen, maps)
    heat = tf.nn.relu(tf.reduce_sum(evidence, axis=-1, keepdims=True))
    heat = tf.image.resize(heat, images.shape[1:3])[..., 0].numpy()
    return heat / np.maximum(heat.max(axis=(1, 2), keepdims=True), 1e-9)


def occlusion(model: keras.Model, image, digit: int, size: int = 6, step: int = 2) -> np.ndarray:
    """Measure how far the confidence in a digit falls where a square of paper covers the image.

    A value for each pixel (28, 28): the mean over the squares that cover it.
    """
    corners = [range(0, length - size + 1, step) for length in image.shape[:2]]
    squares = np.zeros((len(corners[0]) * len(corners[1]), *image.shape), bool)
    for square, (row, column) in zip(squares, product(*corners), strict=True):
        square[row : row + size, column : column + size] = True
    images = np.concatenate([image[np.newaxis], np.where(squares, 0, image)])
    confidence = model.predict(images, batch_size=BATCH, verbose=0)[:, digit]
    fallen = np.tensordot(confidence[0] - confidence[1:], squares, 1)
    return (fallen / np.maximum(squares.sum(axis=0), 1))[..., 0]


def accuracies(model: keras.Model, images: np.ndarray, labels: np.ndarray, epsilons) -> dict:
    """Measure accuracy under attack: name -> a value for each of `epsilons`."""
    found = {"FGSM, one step": [], "PGD, 20 steps": []}
    for values, attack in zip(found.values(), (fgsm, pgd), strict=True):
        for epsilon in epsilons:
            moved = attack(model, images, labels, epsilon) if epsilon else images
            answers = model.predict(moved, batch_size=BATCH, verbose=0).argmax(axis=1)
            values.append(float((answers == labels).mean()))
    return found


def fgsm(model: keras.Model, images: np.ndarray, labels: np.ndarray, epsilon: float) -> np.ndarray:
    """Move images by `epsilon` per pixel along the sign of the loss' gradient."""
    # Goodfellow, Shlens and Szegedy, "Explaining and Harnessing Adversarial Examples" (2015)
    sign = _gradient_sign(model)
    return np.clip(images + epsilon * sign(tf.constant(images), labels).numpy(), 0, 1)


def pgd(model, images, labels, epsilon: float, steps: int = 20, seed: int = 0) -> np.ndarray:
    """Move images in small steps from a random start, by `epsilon` per pixel at most."""
    # Madry et al., "Towards Deep Learning Models Resistant to Adversarial Attacks" (2018)
    sign = _gradient_sign(model)
    low, high = np.maximum(images - epsilon, 0), np.minimum(images + epsilon, 1)
    start = np.random.default_rng(seed).uniform(-epsilon, epsilon, images.shape)
    moved = tf.constant(np.clip(images + start, low, high), tf.float32)
    for _ in range(steps):
        moved = tf.clip_by_value(moved + 2.5 * epsilon / steps * sign(moved, labels), low, high)
    return moved.numpy()


def _gradient_sign(model: keras.Model):
    """Build the function (images, labels) -> sign of the cross-entropy's gradient."""
    inputs, outputs = _trace(model)
    logits = keras.Model(inputs, _logits(model, outputs))

    def sign(images, labels):
        check_pairs(images, labels)
        with tf.GradientTape() as tape:
            tape.watch(images)
            values = logits(images, training=False)
            # with L = logsumexp(others) - true logit, cross-entropy is log(1 + exp(L)): L has a
            # gradient of the same sign, which does not vanish where the network is sure
            true = tf.one_hot(labels, values.shape[-1], dtype=values.dtype)
            others = tf.reduce_logsumexp(values - 1e9 * true, axis=-1)
            loss = tf.reduce_sum(others - tf.reduce_sum(values * true, axis=-1))
        return tf.sign(tape.gradient(loss, images))

    return sign
