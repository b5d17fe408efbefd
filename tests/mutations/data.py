"""Faults in data sets, tables, images, partitions and strict reading, which tests must notice.

A mutation is (file, exact text that occurs once, what it becomes, tests that must then fail).
"""

from __future__ import annotations

MUTATIONS: list[tuple[str, str, str, str]] = [
    (  # a percentage is taken for its number
        "fedguard/data/written_numbers.py",
        "return number / 100 if cell.percent else number",
        "return number",
        "tests/field/test_table_files.py",
    ),
    (  # brackets around a number are no minus
        "fedguard/data/written_numbers.py",
        'bool(found["open"]) or signs in ("-", "−")',
        'signs in ("-", "−")',
        "tests/field/test_table_files.py",
    ),
    (  # missing numbers are filled in with the test rows' median too
        "fedguard/data/encoding.py",
        "known = values[rows][~absent[rows]]",
        "known = values[~absent] * 2",
        "tests/field/test_table_files.py",
    ),
    (  # a doubtful column becomes categories in silence
        "fedguard/data/columns.py",
        "    if share >= DOUBTFUL:\n        some",
        "    if share >= 2:\n        some",
        "tests/field/test_table_files.py",
    ),
    (  # the column that says whose a row is becomes a feature
        "fedguard/data/table.py",
        "set() if self.group_feature else {self.group}",
        "set()",
        "tests/field/test_table_files.py",
    ),
    (  # a class called NA is no class
        "fedguard/data/table.py",
        'labelled = (labels != "").to_numpy(dtype=np.bool_)',
        'labelled = (~labels.isin(["", "NA"])).to_numpy(dtype=np.bool_)',
        "tests/field/test_table_files.py",
    ),
    (  # sixteen bits are always divided by 65535
        "fedguard/data/image_pixels.py",
        "full = next((one for one in _FULL if one >= greatest), 2**31 - 1)",
        "full = 65535",
        "tests/field/test_image_folders.py",
    ),
    (  # what is transparent shows what lies under it
        "fedguard/data/image_pixels.py",
        "if image.has_transparency_data:",
        "if False:",
        "tests/field/test_image_folders.py",
    ),
    (  # photographs stay as the sensor lay
        "fedguard/data/image_pixels.py",
        "_squared(ImageOps.exif_transpose(opened), size)",
        "_squared(opened, size)",
        "tests/field/test_image_folders.py",
    ),
    (  # positions in the rows are taken for rows
        "fedguard/data/partitions/natural.py",
        "members = (dataset.groups or {})[name][rows]",
        "members = (dataset.groups or {})[name][: len(rows)]",
        "tests/data/test_natural.py",
    ),
    (  # labels from 1 are shifted although class 0 is only missing
        "fedguard/data/checking.py",
        "if (lowest >= 1) and (highest == classes):",
        "if lowest >= 1:",
        "tests/data/test_dataset.py",
    ),
    (  # a key that stands twice wins in silence
        "fedguard/config/strict_yaml.py",
        "if key.value in seen:",
        "if False:",
        "tests/field/test_yaml_files.py",
    ),
    (  # a truth value is a number
        "fedguard/config/settling.py",
        "if isinstance(value, bool) or (isinstance(value, str)",
        "if (isinstance(value, str)",
        "tests/field/test_yaml_files.py",
    ),
    (  # the trial of a network leaves its mark on running statistics
        "fedguard/models/trial.py",
        "value.copy_(before[key])",
        "pass",
        "tests/models/test_users_networks.py",
    ),
    (  # the item that is asked for is among those that a user has met
        "fedguard/data/histories.py",
        "own = [np.unique(items[:-1]) for items in sessions.items]",
        "own = [np.unique(items) for items in sessions.items]",
        "tests/tasks/test_recommendation.py",
    ),
    (  # events are taken in the order of the file
        "fedguard/data/clicks.py",
        'events.sort_values(["user", "time"], kind="stable")',
        'events.sort_values(["user"], kind="stable")',
        "tests/tasks/test_recommendation.py",
    ),
    (  # a linked pair may be drawn as an absent one
        "fedguard/data/graphs.py",
        "drawn[~np.isin(drawn, taken) & ~np.isin(drawn, found)]",
        "drawn[~np.isin(drawn, found)]",
        "tests/tasks/test_link_prediction.py",
    ),
]
