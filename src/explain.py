"""Look inside a network: filters, features, Grad-CAM, and attacks along its gradients.

Models are Keras models from images (n, 28, 28, 1) in [0, 1] to ten probabilities.
"""

from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf

BATCH = 250


def first_filters(model: keras.Model) -> tuple[np.ndarray, str]:
    """Return the filters (n, h, w) of the first convolution, and its layer's name."""
    for layer in model.layers:
        if isinstance(layer, keras.layers.Conv2D):
            return np.moveaxis(layer.get_weights()[0][:, :, 0], -1, 0), layer.name
    raise ValueError(f"{model.name} has no convolution: go on below, at the map of the last layer.")


def activations(model: keras.Model, images: np.ndarray, layer: str) -> np.ndarray:
    """Compute what the named layer gives for images: (n, h, w, maps) or (n, d)."""
    inputs, outputs, _ = _trace(model)
    return keras.Model(inputs, outputs[layer]).predict(images, batch_size=BATCH, verbose=0)


def penultimate(model: keras.Model, images: np.ndarray) -> np.ndarray:
    """Compute the features (n, d) that the last layer decides by."""
    inputs, _, before = _trace(model)
    return keras.Model(inputs, before).predict(images, batch_size=BATCH, verbose=0)


def _trace(model: keras.Model) -> tuple:
    """Return input, {layer name: output} and what the last layer takes.

    A Sequential model makes new outputs with each layer added, which do not belong together:
    its layers are called once more.
    """
    if not isinstance(model, keras.Sequential):
        outputs = {layer.name: layer.output for layer in model.layers}
        return model.inputs, outputs, model.layers[-1].input
    x = inputs = keras.Input(model.input_shape[1:])
    outputs = {}
    for layer in model.layers:
        before, x = x, layer(x)
        outputs[layer.name] = x
    return inputs, outputs, before


def logits_model(model: keras.Model) -> keras.Model:
    """Return the same network up to the values before its softmax.

    Gradients are taken there: where a probability is 1 in float32, its own gradient is 0.
    """
    inputs, _, before = _trace(model)
    return keras.Model(inputs, _logits(model, before), name=f"{model.name}_logits")


def _logits(model: keras.Model, before):
    last = model.layers[-1]
    if not isinstance(last, keras.layers.Dense) or last.activation is not keras.activations.softmax:
        kind = type(last).__name__
        raise ValueError(f"{model.name}: its last layer is {kind}, expected Dense with softmax.")
    # with its own weights, not a copy: they may be trained on
    return keras.ops.matmul(before, last.kernel) + (0.0 if last.bias is None else last.bias)


def last_feature_map(model: keras.Model) -> str:
    """Return the name of the last layer whose output still has rows and columns."""
    layers = [one for one in model.layers if not isinstance(one, keras.layers.InputLayer)]
    names = [layer.name for layer in layers if len(layer.output.shape) == 4]
    if not names:
        raise ValueError(f"{model.name}: has no feature maps to look into.")
    return names[-1]


def grad_cam(model: keras.Model, images: np.ndarray, digits: np.ndarray) -> np.ndarray:
    """Show where the last maps speak for digits (n,): (n, 28, 28) in [0, 1].

    Grad-CAM (Selvaraju et al. 2017) in the form of Draelos and Carin, "HiResCAM" (2020): the
    maps times the gradient of the digit's logit above the mean logit, place by place, summed
    over the maps, cut at 0, over each image's largest value. Grad-CAM's mean of the gradient
    over all places is the same before average pooling alone; these networks flatten, or take
    the largest value, and there it points at paper.
    """
    inputs, outputs, before = _trace(model)
    logits = _logits(model, before)
    part = keras.Model(inputs, [outputs[last_feature_map(model)], logits])
    with tf.GradientTape() as tape:
        maps, scores = part(tf.constant(images))
        above = scores - tf.reduce_mean(scores, axis=1, keepdims=True)  # a softmax sees no more
        chosen = tf.reduce_sum(tf.gather(above, np.asarray(digits, np.int32), batch_dims=1))
    evidence = maps * tape.gradient(chosen, maps)
    heat = tf.nn.relu(tf.reduce_sum(evidence, axis=-1, keepdims=True))
    heat = tf.image.resize(heat, images.shape[1:3])[..., 0].numpy()
    return heat / np.maximum(heat.max(axis=(1, 2), keepdims=True), 1e-9)


def accuracies(model: keras.Model, images: np.ndarray, labels: np.ndarray, epsilons) -> dict:
    """Measure accuracy under attack: name -> a value for each of `epsilons`."""
    found = {}
    for name, attack in {"FGSM, one step": fgsm, "PGD, 20 steps": pgd}.items():
        found[name] = []
        for epsilon in epsilons:
            moved = attack(model, images, labels, epsilon) if epsilon else images
            answers = model.predict(moved, batch_size=BATCH, verbose=0).argmax(axis=1)
            found[name].append(float((answers == labels).mean()))
    return found


def fgsm(model: keras.Model, images: np.ndarray, labels: np.ndarray, epsilon: float) -> np.ndarray:
    """Move images by `epsilon` per pixel along the sign of the loss' gradient.

    Goodfellow, Shlens and Szegedy, "Explaining and Harnessing Adversarial Examples" (2015).
    """
    sign = _gradient_sign(model)
    return np.clip(images + epsilon * sign(tf.constant(images), labels).numpy(), 0, 1)


def pgd(model, images, labels, epsilon: float, steps: int = 20, seed: int = 0) -> np.ndarray:
    """Move images as fgsm does, in small steps from a random start nearby.

    After each step they are brought back to within `epsilon`, and to [0, 1]; float32. Madry et
    al., "Towards Deep Learning Models Resistant to Adversarial Attacks" (2018), with a step of
    2.5 epsilon / steps.
    """
    sign = _gradient_sign(model)
    low, high = np.maximum(images - epsilon, 0), np.minimum(images + epsilon, 1)
    start = np.random.default_rng(seed).uniform(-epsilon, epsilon, images.shape)
    moved = tf.constant(np.clip(images + start, low, high), tf.float32)
    for _ in range(steps):
        moved = tf.clip_by_value(moved + 2.5 * epsilon / steps * sign(moved, labels), low, high)
    return moved.numpy()


def _gradient_sign(model: keras.Model) -> Callable:
    """Build the function (images, labels) -> sign of the cross-entropy's gradient.

    With L = logsumexp(other logits) - the true one, cross-entropy is log(1 + exp(L)): the
    gradient of L has the same sign, and does not vanish where the network is sure.
    """
    logits = logits_model(model)

    @tf.function
    def sign(images, labels):
        with tf.GradientTape() as tape:
            tape.watch(images)
            values = logits(images, training=False)
            true = tf.one_hot(labels, values.shape[-1], dtype=values.dtype)
            others = tf.reduce_logsumexp(values - 1e9 * true, axis=-1)
            loss = tf.reduce_sum(others - tf.reduce_sum(values * true, axis=-1))
        return tf.sign(tape.gradient(loss, images))

    return sign
