"""Training recipes: which network, trained how, as recipes.toml lists them; without Keras."""

import copy
import json
import tomllib
from dataclasses import asdict, dataclass, field, fields, replace
from numbers import Real
from pathlib import Path

from src.config import as_json, expect, is_count, is_share

LOSSES = ("sparse_categorical_crossentropy", "categorical_crossentropy")
SCHEDULES = ("constant", "one_cycle")
PARTS = ("split", "held_back")
DICTS = ("network", "optimizer", "augmentation", "early_stopping", "reduce_lr")
OPTIONAL = ("augmentation", "early_stopping", "reduce_lr")  # None or False leaves them out
SHOWN = ("about", "system", "reported", "reported_on", "comparable")  # in tables
COUNT = (is_count, "a whole number, 1 or more")
RULES = {  # of a field: what holds for its values, and how that is said
    "loss": (LOSSES.__contains__, f"one of {', '.join(LOSSES)}"),
    "schedule": (SCHEDULES.__contains__, f"one of {', '.join(SCHEDULES)}"),
    **{"batch_size": COUNT, "epochs": COUNT},
    "images": (lambda value: value is None or is_count(value), f"{COUNT[1]}, or None for all"),
    **dict.fromkeys(DICTS, (lambda value: isinstance(value, dict), "a dict of arguments")),
    "optimizer": (
        lambda value: isinstance(value, dict) and isinstance(value.get("learning_rate", 0), Real),
        "a dict of Adam's arguments, such as {'learning_rate': 0.01}",
    ),
    "validation": (
        lambda value: value in PARTS or (isinstance(value, float) and 0 < value < 1),
        "a share, 'split' or 'held_back'",
    ),
    "label_smoothing": (is_share, "0 to below 1"),
    "weight_average": (lambda value: value is None or is_share(value), "0 to below 1, or None"),
}


@dataclass(frozen=True)
class Recipe:
    """What a training depends on besides data and seed; the first seven fields describe it."""

    name: str = ""
    about: str = ""
    system: str | None = None  # its letter among the five reference systems
    reported: str | None = None  # accuracy that the system's own description states
    reported_on: str = "test"  # or "validation"
    comparable: bool = False  # its description gives no sizes: ours are comparable, not the same
    ours: str = ""  # what its description leaves open
    network: dict = field(default_factory=dict)  # of build_cnn, or build_resnet (with `blocks`)
    loss: str = "sparse_categorical_crossentropy"  # "categorical_crossentropy": one-hot labels
    label_smoothing: float = 0.0
    optimizer: dict = field(default_factory=lambda: {"learning_rate": 1e-3})  # arguments of Adam
    schedule: str = "constant"  # or "one_cycle": learning_rate is then its peak
    batch_size: int = 64
    epochs: int = 20
    images: int | None = None  # how many of the training images are used, stratified; None: all
    # a share of the training images; or "split": the project's 5,000 validation images; or
    # "held_back": trained on those too, and scored on the 5,000 that are held back
    validation: float | str = 0.2
    augmentation: dict = field(default_factory=dict)  # arguments of augmentation.vary
    early_stopping: dict = field(default_factory=dict)  # of keras.callbacks.EarlyStopping
    reduce_lr: dict = field(default_factory=dict)  # of keras.callbacks.ReduceLROnPlateau
    weight_average: float | None = None  # momentum of a running average of the weights

    def __post_init__(self):
        for name, (holds, expected) in RULES.items():
            value = getattr(self, name)
            expect(holds(value), name, value, expected)
        if self.label_smoothing and self.loss != "categorical_crossentropy":
            raise ValueError("label_smoothing: needs loss='categorical_crossentropy'.")

    def change(self, **changes) -> "Recipe":
        """Copy the recipe with some fields changed; a dict changes the keys that it names."""
        known = [one.name for one in fields(self)]
        for name, value in changes.items():
            if name not in known:
                raise ValueError(f"no field named {name!r}; there are {', '.join(known)}.")
            if name in OPTIONAL and (value is None or value is False):
                changes[name] = {}
            elif name in DICTS and isinstance(value, dict):
                changes[name] = getattr(self, name) | value
        return replace(self, **changes)

    def settings(self) -> dict:
        """Collect what a training depends on, as JSON holds it."""
        content = json.loads(as_json(asdict(self)))
        return {k: v for k, v in content.items() if k not in ("name", "ours", *SHOWN)}


RECIPES: dict[str, dict] = tomllib.loads(Path(__file__).with_suffix(".toml").read_text("utf-8"))
MEMBERS, STUDENTS, LADDER = (RECIPES.pop(part) for part in ("members", "students", "ladder"))


def get_recipe(name: str, **changes) -> Recipe:
    """Copy a recipe by its name, with `changes` as Recipe.change takes them."""
    known = RECIPES | MEMBERS | STUDENTS
    if name not in known:
        raise ValueError(f"no recipe named {name!r}; there are {', '.join(known)}.")
    return _build(name, known[name]).change(**changes)


def ladder() -> list[Recipe]:
    """List the recipes of the ladder's steps, each named by its step, `about` its change."""
    return [_build(step, content) for step, content in LADDER.items()]


def _build(name: str, content: dict) -> Recipe:
    """Make a recipe of its table, which may change the recipe that `like` names."""
    changes = copy.deepcopy(content)
    like, replaced = changes.pop("like", None), changes.pop("replace", None)
    known = LADDER | MEMBERS | STUDENTS | RECIPES
    recipe = _build(like, known[like]) if like else Recipe()
    if replaced:
        recipe = replace(recipe, **{replaced: {}})
    return recipe.change(name=name, **changes)
