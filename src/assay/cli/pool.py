"""`assay pool near-duplicates`: what a pool holds nearly twice."""

from tyro.conf import Positional

from assay.errors import AssayError


def near_duplicates(pool: Positional[str], out: str, threshold: float = 0.8, shingle: int = 5) -> None:
    """Find pairs whose texts are nearly the same: MinHash over shingles of words, every find verified on the texts.

    `assay run ... --near-duplicates 0.8` leaves all but one of each cluster out; this only lists them.

    Args:
        pool: A pool folder made by `assay pool add`, or its URL.
        out: The Parquet file to write: pair_id, cluster, representative (the one to keep), jaccard with it.
        threshold: Jaccard coefficient of near-duplicates, at least.
        shingle: Words in a row that are compared.
    """
    from assay.curate.minhash import MinHash
    from assay.curate.near_duplicates import near_duplicates as find
    from assay.curate.near_pairs import Documents
    from assay.curate.shards import Pool
    from assay.store import Place
    from assay.tables import write_shard

    file = Place.of(out)
    if file.exists():
        raise AssayError(f"{out} is there already; choose another name, or remove it first")
    try:
        how = MinHash(threshold=threshold, shingle=shingle)
    except ValueError as error:
        raise AssayError(str(error)) from error
    found = find(Documents(Pool.open(pool)), how)
    write_shard(file, found.table)
    for line in found.lines():
        print(line)
    print(f"-> {out}")
