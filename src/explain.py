"""What needs the network's inside: its features, Grad-CAM, and attacks along its gradients.

Models are Keras models from images (n, 28, 28, 1) in [0, 1] to ten probabilities.
"""

import keras
import numpy as np
import tensorflow as tf

BATCH = 250


def logits_model(model: keras.Model) -> keras.Model:
    """The same network up to the values before its softmax.

    Gradients are taken there: where a probability is 1 in float32, its own gradient is 0.
    Raises ValueError unless the last layer is Dense with softmax.
    """
    last = model.layers[-1]
    if not isinstance(last, keras.layers.Dense) or last.activation is not keras.activations.softmax:
        raise ValueError(
            f"{model.name}: its last layer is {type(last).__name__}, expected Dense with softmax."
        )
    bare = keras.layers.Dense(last.units, name="logits")
    outputs = bare(last.input)
    bare.set_weights(last.get_weights())
    return keras.Model(model.inputs, outputs, name=f"{model.name}_logits")


def last_convolution(model: keras.Model) -> str:
    """The name of the last Conv2D layer. ValueError where there is none."""
    names = [layer.name for layer in model.layers if isinstance(layer, keras.layers.Conv2D)]
    if not names:
        raise ValueError(f"{model.name}: has no Conv2D layer to look into.")
    return names[-1]


def activations(model: keras.Model, images: np.ndarray, layer: str) -> np.ndarray:
    """What the named layer gives for the images."""
    part = keras.Model(model.inputs, model.get_layer(layer).output)
    return part.predict(images, batch_size=BATCH, verbose=0)


def penultimate(model: keras.Model, images: np.ndarray) -> np.ndarray:
    """The features (n, d) that the last layer decides by."""
    part = keras.Model(model.inputs, model.layers[-1].input)
    return part.predict(images, batch_size=BATCH, verbose=0)


def grad_cam(model: keras.Model, images: np.ndarray, digits: np.ndarray) -> np.ndarray:
    """Where the last convolution saw evidence for the given digits: (n, 28, 28) in [0, 1].

    Selvaraju et al., "Grad-CAM" (2017): feature maps weighted by the mean gradient of the
    digit's logit, their sum cut at 0, here scaled so that each image's largest value is 1.
    """
    logits = logits_model(model)
    layer = model.get_layer(last_convolution(model))
    part = keras.Model(model.inputs, [layer.output, logits.output])
    with tf.GradientTape() as tape:
        maps, scores = part(tf.constant(images))
        chosen = tf.reduce_sum(tf.gather(scores, digits, batch_dims=1))
    weights = tf.reduce_mean(tape.gradient(chosen, maps), axis=(1, 2), keepdims=True)
    heat = tf.nn.relu(tf.reduce_sum(weights * maps, axis=-1, keepdims=True))
    heat = tf.image.resize(heat, images.shape[1:3])[..., 0].numpy()
    return heat / np.maximum(heat.max(axis=(1, 2), keepdims=True), 1e-9)


def _gradient_sign(logits: keras.Model):
    """(images, labels) -> the sign of the cross-entropy's gradient.

    With L = logsumexp(other logits) - the true one, cross-entropy is log(1 + exp(L)): the
    gradient of L has the same sign, and does not vanish where the network is sure.
    """

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


def fgsm(model: keras.Model, images: np.ndarray, labels: np.ndarray, epsilon: float) -> np.ndarray:
    """Images moved by `epsilon` per pixel along the sign of the loss' gradient, kept in [0, 1].

    Goodfellow, Shlens and Szegedy, "Explaining and Harnessing Adversarial Examples" (2015).
    """
    sign = _gradient_sign(logits_model(model))
    return np.clip(images + epsilon * sign(tf.constant(images), labels).numpy(), 0, 1)


def pgd(
    model: keras.Model,
    images: np.ndarray,
    labels: np.ndarray,
    epsilon: float,
    steps: int = 20,
    seed: int = 0,
) -> np.ndarray:
    """The same in small steps from a random start, brought back to within `epsilon` of the
    images, and to [0, 1], after each.

    Madry et al., "Towards Deep Learning Models Resistant to Adversarial Attacks" (2018), with
    a step of 2.5 epsilon / steps.
    """
    sign = _gradient_sign(logits_model(model))
    low, high = np.maximum(images - epsilon, 0), np.minimum(images + epsilon, 1)
    start = np.random.default_rng(seed).uniform(-epsilon, epsilon, images.shape)
    moved = tf.constant(np.clip(images + start, low, high), tf.float32)
    for _ in range(steps):
        moved = tf.clip_by_value(moved + 2.5 * epsilon / steps * sign(moved, labels), low, high)
    return moved.numpy()
