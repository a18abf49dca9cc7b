"""How the published results were made: long runs that go on where they were stopped.

Each command names what is out of date, makes that and what is missing, and keeps the rest.
"""

import argparse
import sys

HELP = {
    "run": "all notebooks, or some, into build/notebooks",
    "publish": "notebooks in place, with models/, figures/ and README (needs MNIST)",
    "readme": "README's tables and numbers",
    "status": "which published results are missing or out of date",
    "runs": "every seed of the recipes, or of some: models/benchmarks/",
    "ladder": "one change at a time: models/ladder/",
    "models": "fast, strong, champion, robust: models/",
    "timing": "training times side by side: models/timing.json",
    "tune": "the searches, then their winner against fast: models/tuning/",
    "ensemble": "members, both tries, students: models/ensemble/",
    "export": "robust as ONNX and LiteRT: models/exports.json",
    "photos": "synthetic photos and corrupted images: models/photos.json",
    "audit": "suspicious labels: models/audit.json",
}
NAMED = ("run", "publish", "runs", "models", "tune")  # commands that take names


def main(arguments: list[str] | None = None) -> int:
    options = _parse(arguments)
    try:
        _do(options)
    except (OSError, ValueError, RuntimeError) as error:
        print(f"\n{error}", file=sys.stderr)
        return 1
    return 0


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m src.experiments", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, text in HELP.items():
        command = commands.add_parser(name, help=text, description=text)
        if name in NAMED:
            command.add_argument("names", nargs="*", metavar="NAME")
        if name == "tune":
            command.add_argument("--source", default="mnist")
            for option in ("workers", "trials"):
                command.add_argument(f"--{option}", type=int)
    return parser.parse_args(arguments)


def _do(options: argparse.Namespace) -> None:
    if options.command == "tune":  # first: each worker of a search comes this way
        from src.experiments import tuning

        chosen = {key: value for key, value in vars(options).items() if value is not None}
        chosen.pop("command")
        return tuning.run(kinds=chosen.pop("names"), **chosen)
    from src.experiments import notebooks  # here: TensorFlow takes seconds

    if options.command == "run":
        return notebooks.run(options.names)
    if options.command == "publish":
        notebooks.publish(options.names)
    from src.experiments import plan, readme, store

    if options.command in ("publish", "readme"):
        return readme.write_readme()
    if options.command == "status":
        for job in sum(plan.jobs().values(), []):
            if reason := store.problem(job):
                print(f"{job.path.name}: {reason}; `{job.command}` makes it.")
        return
    from src.data import load_mnist

    jobs = plan.jobs()[options.command]
    known = {job.path.stem.split("-")[0] for job in jobs}
    names = set(getattr(options, "names", ())) or known
    if unknown := ", ".join(names - known):
        there = ", ".join(sorted(known))
        raise ValueError(f"no {options.command} of {unknown}; there are {there}.")
    store.run_all([job for job in jobs if job.path.stem.split("-")[0] in names], load_mnist())


if __name__ == "__main__":
    sys.exit(main())
