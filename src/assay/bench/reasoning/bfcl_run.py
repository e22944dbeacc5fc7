"""Runs inside bfcl-eval's environment, as a script: asks the functions of a task, has the library score them.

Usage: python bfcl_run.py TASK.json PARENT, PARENT being the process that starts it, with BFCL_PROJECT_ROOT, OPENAI_BASE_URL
and OPENAI_API_KEY set. The library knows models by the names of its registry, which imports the packages of a dozen vendors;
here the registry is one model of any name, with the library's own handler of OpenAI's chat completions: what is asked, and
how that is scored, is the library's. It leaves `asked.json` beside the task, and the library's results and scores.

The handler differs in three things: a reply's length is bounded, its thoughts are taken off (and kept), and how it ended is
kept.
"""

import argparse
import ctypes
import importlib
import json
import os
import sys
import threading
import types
from copy import deepcopy
from pathlib import Path
from typing import Any

HELD = threading.local()


def handler_of(task: dict[str, Any]) -> Any:
    base = importlib.import_module("bfcl_eval.model_handler.api_inference.openai_completion").OpenAICompletionsHandler

    class Handler(base):  # type: ignore[misc, valid-type]
        def _build_client_kwargs(self) -> dict[str, Any]:
            return {**super()._build_client_kwargs(), "max_retries": 4, "timeout": 3_600.0}

        def generate_with_backoff(self, **asked: Any) -> Any:
            asked.pop("store", None)
            reply = self.client.chat.completions.create(
                **asked, max_tokens=task["max_tokens"], seed=task["seed"]
            )  # fmt: skip
            choice = reply.choices[0]
            said = choice.message
            apart = getattr(said, "reasoning_content", None) or getattr(said, "reasoning", None) or ""
            thoughts, answer = parted(said.content)
            said.content = answer
            HELD.finish.append(choice.finish_reason)
            HELD.thoughts.append("\n".join(t for t in (apart, thoughts) if t))
            return reply, 0.0

        def inference(self, *asked: Any, **named: Any) -> tuple[Any, dict[str, Any]]:
            HELD.finish, HELD.thoughts = [], []
            result, told = super().inference(*asked, **named)
            return result, {**told, "finish": HELD.finish, "thoughts": HELD.thoughts}

    return Handler


def parted(content: str | None) -> tuple[str, str | None]:
    """(thoughts, answer) of a reply; a thought that does not end is no answer."""
    if content is None or ("<think>" not in content and "</think>" not in content):
        return "", content
    thoughts, ended, answer = content.rpartition("</think>")
    return (thoughts.replace("<think>", ""), answer.strip()) if ended else (answer.replace("<think>", ""), "")


def main() -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, 9)  # it ends with whoever started it: none may write here beside the next run
    if os.getppid() != int(sys.argv[2]):
        sys.exit(1)
    task = json.loads(Path(sys.argv[1]).read_text())
    work = Path(sys.argv[1]).parent
    name, fc = task["name"], task["mode"] == "fc"
    registry = types.ModuleType("bfcl_eval.constants.model_config")
    models: dict[str, Any] = {}
    registry.__dict__["MODEL_CONFIG_MAPPING"], sys.modules[registry.__name__] = models, registry
    models[name] = types.SimpleNamespace(
        model_name=task["model"], display_name=name, url="", org="", license="", model_handler=handler_of(task),
        input_price=None, output_price=None, is_fc_model=fc, underscore_to_dot=fc,
    )  # fmt: skip
    generation = importlib.import_module("bfcl_eval._llm_response_generation")
    scoring = importlib.import_module("bfcl_eval.eval_checker.eval_runner")
    utils = importlib.import_module("bfcl_eval.utils")
    entries, known = chosen(task, utils)
    (work / "asked.json").write_text(json.dumps(known))
    results, scores = work / "result", work / "score"
    args = argparse.Namespace(
        model=[name], temperature=task["temperature"], num_threads=task["at_once"], run_ids=False, result_dir=results,
        allow_overwrite=False, include_input_log=False, exclude_state_log=True,
    )  # fmt: skip
    cases = generation.collect_test_cases(args, name, list(known), deepcopy(entries))
    if cases:
        generation.generate_results(args, name, cases)
    handler = scoring.get_handler(name)
    for category in known:
        folder = results / name / utils.get_directory_structure_by_category(category)
        file = folder / utils.get_file_name_by_category(category, is_result_file=True)
        told = [r for r in utils.load_file(file, sort_by_id=True) if "finish" in r] if file.exists() else []
        told = [r for r in told if r["id"] in known[category]["asked"]]
        if told:
            scoring.evaluate_task(category, results, scores, told, name, handler, {}, allow_missing=True)


def chosen(task: dict[str, Any], utils: Any) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The entries that are asked, in turn one of each category up to the limit, and of each category how many there are and
    what is expected of those."""
    queues = {c: list(utils.load_dataset_entry(c)) for c in task["categories"]}
    expected = {c: {} if "relevance" in c else {e["id"]: e.get("ground_truth") for e in utils.load_ground_truth_entry(c)}
                for c in queues}  # fmt: skip
    known: dict[str, Any] = {c: {"of": len(q), "asked": {}} for c, q in queues.items()}
    entries, limit = list[dict[str, Any]](), task["limit"]
    while any(queues.values()) and (limit is None or len(entries) < limit):
        for category, queue in queues.items():
            if queue and (limit is None or len(entries) < limit):
                entry = queue.pop(0)
                entries.append(entry)
                known[category]["asked"][entry["id"]] = expected[category].get(entry["id"])
    return entries, {c: k for c, k in known.items() if k["asked"]}


if __name__ == "__main__":
    main()
