"""The rules of `curate.settle` and `curate.keep_rule` as SQL for DuckDB, over the same Parquet files.

Votes are counted by (pair, rank of who spoke, response) first, then by (pair, rank), then by pair: three groupings and no
join, which is the fastest of the ways that were tried. A majority is more than half of the votes, ties counted.
"""

_COUNTED = """
 rows AS ({rows}),
 by_response AS (
  SELECT pair_id, rank, better, count(*) n,
   count(*) FILTER (problem = 'tie') ties, bool_or(problem = 'cannot decide') unsure,
   sum(confidence) sure, sum(strength) FILTER (strength <> 0) strength, count(*) FILTER (strength <> 0) told{names}
  FROM rows GROUP BY pair_id, rank, better),
 by_rank AS (
  SELECT pair_id, rank, arg_max(better, n) FILTER (better IS NOT NULL) best,
   coalesce(max(n) FILTER (better IS NOT NULL), 0) most, coalesce(sum(n) FILTER (better IS NOT NULL), 0) votes,
   sum(ties) ties, bool_or(unsure) unsure, coalesce(sum(sure) FILTER (better IS NOT NULL), 0) sure,
   arg_max(sure, n) FILTER (better IS NOT NULL) best_sure,
   coalesce(sum(strength) FILTER (better IS NOT NULL), 0) strength,
   coalesce(arg_max(coalesce(strength, 0), n) FILTER (better IS NOT NULL), 0) best_strength,
   coalesce(sum(told) FILTER (better IS NOT NULL), 0) told{lists}
  FROM by_response GROUP BY pair_id, rank),
 decided AS (
  SELECT *, CASE WHEN most > votes - most + ties AND NOT (unsure AND rank <= 1) THEN best END winner,
   (best_sure + (votes - most) - (sure - best_sure) + 0.5 * ties) / (votes + ties) share,
   2 * best_strength - strength signed FROM by_rank)"""

_RANKED = """SELECT pair_id, better, "by", problem, confidence, strength,
   CASE kind WHEN 'lead' THEN 0 WHEN 'human' THEN 1 WHEN 'oracle' THEN 1 WHEN 'llm' THEN 2 WHEN 'offline' THEN 2
    WHEN 'wild' THEN 3 ELSE 4 END rank
  FROM read_parquet(['{folder}/pool/votes/*.parquet', '{folder}/judgements/*.parquet'], union_by_name = true)"""

SETTLE = (
    "WITH"
    + _COUNTED.format(
        rows=_RANKED,
        names=""",
   list(DISTINCT "by") names, list(DISTINCT problem) FILTER (problem <> '') problems""",
        lists=""",
   list_sort(list_distinct(flatten(list(names)))) names, list_sort(list_distinct(flatten(list(problems)))) problems""",
    )
    + """,
 by_pair AS (
  SELECT pair_id, min(rank) top,
   arg_min({{'w': winner, 's': share, 'm': signed, 't': told, 'n': names, 'p': problems}}, rank) top_of,
   any_value(winner) FILTER (rank = 3) original,
   list({{'b': best, 'w': winner, 'm': signed, 't': told}}) ranks
  FROM decided GROUP BY pair_id),
 told AS (
  SELECT pair_id, top, original, top_of.w chosen, top_of.s share, top_of.n names, top_of.p problems,
   CASE WHEN top_of.t > 0 THEN greatest(0, top_of.m / top_of.t) ELSE 0 END own,
   list_sum(list_transform(ranks, lambda r: CASE WHEN r.b = top_of.w THEN r.m ELSE -r.m END))
    / nullif(list_sum(list_transform(ranks, lambda r: r.t)), 0) everyone
  FROM by_pair)
SELECT pair_id, chosen,
 CASE WHEN top <= 1 THEN 'gold' WHEN top = 2 THEN 'silver' ELSE 'wild' END tier,
 CASE WHEN chosen IS NULL THEN 'dropped' WHEN original IS NULL OR original = chosen THEN 'kept' ELSE 'relabelled' END fate,
 CASE WHEN chosen IS NULL THEN concat(who, ' did not decide: ',
   CASE WHEN len(problems) > 0 THEN list_aggregate(problems, 'string_agg', ', ') ELSE 'votes are tied' END)
  WHEN original IS NULL THEN concat(who, ' decide; the source has no label')
  WHEN top = 3 THEN 'the source''s own label, not checked'
  WHEN original = chosen THEN concat(who, ' confirm the original label')
  ELSE concat(who, ' prefer the other response') END reason,
 names "by", 'stage1' stage,
 CASE WHEN chosen IS NULL THEN 1.0 ELSE greatest(0.5, share) END certainty,
 CASE WHEN chosen IS NULL THEN 0.0 WHEN own > 0 THEN own ELSE greatest(0, coalesce(everyone, 0)) END margin
FROM (SELECT *, CASE top WHEN 0 THEN 'leads' WHEN 1 THEN 'people' WHEN 2 THEN 'judges' ELSE 'source votes' END who
 FROM told)"""
)

_WILD = """SELECT pair_id, better, problem, confidence, strength, 3 AS rank
  FROM read_parquet('{folder}/pool/votes/*.parquet')"""

STAGE2 = (
    "WITH"
    + _COUNTED.format(rows=_WILD, names="", lists="")
    + """,
 known AS (
  SELECT i.pair_id, d.winner original, CASE WHEN d.winner = i.first THEN i.second ELSE i.first END other,
   greatest(0.5, d.share) certainty, CASE WHEN d.told > 0 THEN d.signed / d.told ELSE 0 END strength,
   e.p_best, e.p_gold, e.judge, e.problem
  FROM read_parquet('{folder}/pool/index/*.parquet') i
  LEFT JOIN decided d USING (pair_id) LEFT JOIN read_parquet('{folder}/evidence/*.parquet') e USING (pair_id)),
 ruled AS (
  SELECT *, CASE
   WHEN original IS NULL THEN 7
   WHEN p_best IS NULL OR p_gold IS NULL THEN 8
   WHEN p_gold > 0.5 AND p_best > 0.5 + {band} THEN 0
   WHEN p_gold > 0.5 AND judge = original THEN 1
   WHEN p_gold < 0.5 AND p_best < 0.5 AND judge <> original THEN 2
   WHEN judge IS NULL AND coalesce(problem, '') NOT IN ('', 'tie', 'cannot decide') THEN 6
   WHEN p_gold < 0.5 AND p_best < 0.5 AND judge IS DISTINCT FROM original THEN 3
   WHEN NOT p_gold > 0.5 THEN 4 ELSE 5 END rule,
   (certainty + p_best + p_gold + CASE WHEN judge IS NULL THEN 0 WHEN judge = original THEN 1 ELSE 0 END)
    / CASE WHEN judge IS NULL THEN 3 ELSE 4 END mean
  FROM known)
SELECT pair_id, CASE WHEN rule IN (0, 1) THEN original WHEN rule IN (2, 3) THEN other END chosen, 'wild' tier,
 CASE WHEN rule IN (0, 1) THEN 'kept' WHEN rule IN (2, 3) THEN 'flipped' ELSE 'dropped' END fate,
 CASE rule WHEN 0 THEN 'gold RM and best RM agree with the original label'
  WHEN 1 THEN 'gold RM and judges agree with the original label'
  WHEN 2 THEN 'gold RM, best RM and judges prefer the other response'
  WHEN 3 THEN 'gold RM and best RM prefer the other response; judges did not decide'
  WHEN 4 THEN 'gold RM disagrees with the original label'
  WHEN 5 THEN 'neither best RM nor judges support the original label'
  WHEN 6 THEN 'the judges'' answers, on which it hung, could not be read'
  WHEN 7 THEN 'the source has no label, or its votes are tied'
  ELSE 'a reward model gave no number for it' END reason,
 CASE WHEN rule >= 7 THEN []::VARCHAR[] WHEN judge IS NULL THEN ['best-rm', 'gold-rm']
  ELSE ['best-rm', 'gold-rm', 'judges'] END "by", 'stage2' stage,
 CASE WHEN rule IN (0, 1) THEN greatest(0.5, mean) WHEN rule IN (2, 3) THEN greatest(0.5, 1 - mean) ELSE 1.0 END certainty,
 CASE WHEN rule IN (0, 1) THEN greatest(0, strength) WHEN rule IN (2, 3) THEN greatest(0, -strength) ELSE 0.0 END margin
FROM ruled"""
)
