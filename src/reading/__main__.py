"""Read the digits in picture files: python -m src.reading FILE ... [--json] [--model M].

A picture that can't be read gets a sentence in its place; the exit status is then 1.
"""

import argparse
import glob
import json
import sys
from pathlib import Path

from src.reading.inference import Prediction, read_digits


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m src.reading", description="Read digits.")
    parser.add_argument("files", nargs="+", metavar="FILE", help="a picture")
    parser.add_argument("--json", action="store_true", help="a line of JSON per picture")
    parser.add_argument("--model", help="a .onnx, .tflite, .keras or .h5 file in place of ours")
    options, status = parser.parse_args(), 0
    files = [sorted(glob.glob(name)) or [name] for name in options.files]  # Windows leaves *.png
    for name in sum(files, []):
        try:
            digits, error = read_digits(name, options.model), ""
        except (OSError, ValueError) as caught:
            digits, error, status = [], str(caught), 1
        if options.json:
            found = {"error": error} if error else {"digits": [_as_dict(one) for one in digits]}
            print(json.dumps({"file": name} | found), flush=True)
        elif error:
            reason = error.removeprefix(f"{name}: ").removeprefix(f"{Path(name).name}: ")
            print(f"{name}: {reason}", file=sys.stderr, flush=True)
        else:
            answers = ", ".join(f"{one.digit} ({one.confidence:.0%})" for one in digits)
            print(f"{name}: {answers}", flush=True)
    return status


def _as_dict(one: Prediction) -> dict:
    confidence, *probabilities = [round(float(p), 6) for p in (one.confidence, *one.probabilities)]
    return dict(digit=one.digit, confidence=confidence, probabilities=probabilities, box=one.box)


if __name__ == "__main__":
    sys.exit(main())
