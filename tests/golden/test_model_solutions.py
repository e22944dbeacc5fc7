"""GSM8K's four models' solutions, marked right or wrong by the set's authors: the answer rules agree with every mark."""

import json
import os
from collections import Counter
from pathlib import Path

import pytest

from assay.bench.policy.answers import correct

DATA = Path(os.environ.get("ASSAY_SHARED_DATA") or Path(__file__).parents[3] / "shared" / "data")
FILE = DATA / "reasoning" / "gsm8k" / "example_model_solutions.jsonl"


@pytest.mark.skipif(not FILE.is_file(), reason=f"{FILE} is not there (set ASSAY_SHARED_DATA to where the data is)")
def test_the_marks_of_gsm8k_solutions() -> None:
    agreed = Counter[tuple[bool, bool]]()
    for line in FILE.read_text().splitlines():
        row = json.loads(line)
        right = row["ground_truth"].split("A:")[-1].strip()
        for solution in (v for v in row.values() if isinstance(v, dict)):
            agreed[solution["is_correct"], correct(solution["solution"], right, "number")] += 1
    assert agreed == {(True, True): 2_001, (False, False): 3_275}
