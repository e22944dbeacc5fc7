"""datatrove's MinHash deduplication over a JSON list of texts, for bench_clean.py: run by a Python that has datatrove.

    PYTHON benchmarks/peer_datatrove.py DOCUMENTS.json '{"shingle": 5, "bands": 16, "rows": 8}'

Its three steps (signatures, buckets, clusters) in one process, texts in memory, without logs; words are what spaces part,
and what it would normalise is switched off, for the texts are in their normal form. Prints CPU seconds and each text's
cluster.
"""

import json
import sys
import tempfile
import time
from pathlib import Path

from datatrove.data import Document
from datatrove.pipeline.dedup import MinhashDedupBuckets, MinhashDedupCluster, MinhashDedupSignature
from datatrove.pipeline.dedup.minhash import MinhashConfig
from datatrove.utils.logging import logger
from datatrove.utils.text import TextNormConfig
from datatrove.utils.word_tokenizers import WordTokenizer


class AtSpaces(WordTokenizer):
    """The fastest there can be; datatrove's own is spaCy's, which takes most of its time."""

    def word_tokenize(self, text: str) -> list[str]:
        return text.split()

    def sent_tokenize(self, text: str) -> list[str]:
        raise NotImplementedError

    def span_tokenize(self, text: str) -> list[tuple[int, int]]:
        raise NotImplementedError


def main() -> None:
    logger.remove()
    texts, how = json.loads(Path(sys.argv[1]).read_text()), json.loads(sys.argv[2])
    as_they_are = TextNormConfig(
        lowercase=False, norm_whitespace=False, remove_punctuation=False, norm_unicode_diacritics=False, norm_numbers=False
    )  # fmt: skip
    config = MinhashConfig(
        n_grams=how["shingle"], num_buckets=how["bands"], hashes_per_bucket=how["rows"], norm_config=as_they_are
    )
    documents = [Document(text=text, id=str(i)) for i, text in enumerate(texts)]
    with tempfile.TemporaryDirectory() as folder:
        start = time.process_time()
        signatures = MinhashDedupSignature(f"{folder}/signatures", config, language=AtSpaces())
        signatures.run(documents, 0, 1)
        for band in range(how["bands"]):
            MinhashDedupBuckets(f"{folder}/signatures", f"{folder}/buckets", config=config).run(
                None, band, how["bands"]
            )
        MinhashDedupCluster(f"{folder}/buckets", f"{folder}/clusters", config, save_cluster_id=True).run(None, 0, 1)
        cpu_s = time.process_time() - start
        found = Path(folder, "clusters", "000000.clusters")
        numbers = memoryview(found.read_bytes()).cast("I") if found.exists() else []
    print(json.dumps({"cpu_s": cpu_s, "clusters": list(zip(numbers[::2], numbers[1::2], strict=True))}))


if __name__ == "__main__":
    main()
