"""Start TensorFlow without its start-up messages, before Keras is imported.

TensorFlow writes about CUDA and the like from C++, straight to file descriptor 2, while it is
imported and at its first operation; no setting silences that. Here it goes into a file, which
is shown only if one of the two fails.
"""

import os
import sys
import tempfile


def start() -> None:
    """Import TensorFlow and run an operation, file descriptor 2 hidden; say what it runs on."""
    sys.stderr.flush()
    screen = os.dup(2)
    with tempfile.TemporaryFile() as said:
        os.dup2(said.fileno(), 2)
        try:
            import tensorflow as tf

            tf.zeros(1) + 1
            tf.get_logger().setLevel("ERROR")  # no advice on retracing, which no lesson needs
            gpus = len(tf.config.list_physical_devices("GPU"))
        except BaseException:
            said.seek(0)
            os.write(screen, said.read())
            raise
        finally:
            os.dup2(screen, 2)
            os.close(screen)
    where = f"with {gpus} GPU{'s' * (gpus > 1)}" if gpus else "on the CPU, which is enough here"
    print(f"TensorFlow {tf.__version__} {where}.")
