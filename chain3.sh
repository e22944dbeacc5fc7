export CODE=/tmp/v/code; . /tmp/v/env.sh; cd /tmp/v; python -c "import assay; print(assay.__file__)"
date; echo "== torchrun, people answered beforehand"; rm -rf p5 p5.*; mkdir -p p5; cp p1/judgements.jsonl p5/; time (torchrun --standalone --nproc-per-node 2 -m assay run pool pool $POOLED --out p5 > p5.out 2> p5.err; echo rc $?); python compare.py p1 p5; python labels.py p1 p5
date; echo "== ray"; export RAY_ADDRESS=local;  rm -rf p4 p4.*; time until_done p4 --engine ray; python compare.py p1 p4
date; echo chain3 done
