"""Values of params.yaml for a pipeline that runs in seconds."""

from pathlib import Path

import yaml

RATE_HZ = 8000
REPOSITORY = Path(__file__).parents[2]
FIT = {
    "epochs": 2,
    "steps_per_epoch": 4,
    "batch_size": 4,
    "crop_frames": 512,
    "learning_rate": 3e-3,
}
# The differences from params.yaml, by section.
SMALL = {
    "prepare": {
        "sample_rate_hz": RATE_HZ,
        "train_fraction": 0.6,
        "validation_fraction": 0.2,
        "test_fraction": 0.2,
        "guard_seconds": 0.05,
        "held_out": [],
        "on_damage": "warn",
    },
    "baselines": {
        "look_back": 8,
        "notebook": {
            "look_back": 3,
            "activation": "leaky_relu",
            "epochs": 1,
            "windows_per_epoch": 500,
        },
    },
    "continuation": {
        "holdout_seconds": 0.5,
        "cuts": 24,
        "epochs": 2,
        "steps_per_epoch": 2,
        "batch_size": 2,
    },
    "train": {
        **FIT,
        "exclude": [],
        "front_end": "cascade",
        "filter_bank": "cascade",
        "look_back": 8,
        "step_frames": 16,
        "units": 6,
        "layers": 1,
        "head_units": [8, 6],
        "negative_slope": 0.1,
    },
    "retrain": {
        **FIT,
        "parent": "models/train",
        "songs": ["new"],
        "replay_share": 0.5,
        "negative_slope": 0.25,
    },
    "evaluate": {"listening_seconds": 0.25},
}
PARAMS = {
    section: {**values, **SMALL[section]} if section in SMALL else values
    for section, values in yaml.safe_load((REPOSITORY / "params.yaml").read_text()).items()
}
