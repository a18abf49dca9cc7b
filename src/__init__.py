import os

os.environ["KERAS_BACKEND"] = "tensorflow"  # which batches and exports need, whatever is set
