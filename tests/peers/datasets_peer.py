"""Run by tests/formats/test_sessions.py and test_data_card.py where datasets is: load what is named, print its rows."""

import json
import os
import sys

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_DISABLE_PROGRESS_BARS"] = "1"

from datasets import get_dataset_config_names, load_dataset

directory, cache = sys.argv[1:]
for config in get_dataset_config_names(directory):
    for split, rows in load_dataset(directory, config, cache_dir=cache).items():
        for row in rows:
            print(json.dumps({"config": config, "split": split, "row": row}))
