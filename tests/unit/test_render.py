"""Conversations to tokens: what templates refuse or leave out, what is cut and how, dates, encoders' own joined texts."""

import datetime
import re
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, pre_tokenizers, processors, trainers
from tokenizers import models as parts

import tiny_models
from assay import models, templates
from assay.errors import AssayError, CannotRead
from assay.records import Conversation, Message, assistant, user
from assay.render import Rendered, attempts, begun, render, render_prompt
from assay.reward.config import EngineConfig
from assay.reward.model import RewardModel
from assay.reward.scorer import LocalScorer, position_limit

SYSTEM = Message(role="system", content="be kind")
TURNS = (
    "{{ bos_token }}{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('turns must alternate') }}{% endif %}[{{ m['role'][0] }}]{{ m['content'] }}{% endfor %}"
)
SKIPS = (
    "{% for m in messages if m['role'] in ('user', 'assistant') %}[{{ m['role'][0] }}]{{ m['content'] }}{% endfor %}"
)
STRIPS = (
    "{% for m in messages %}[{{ m['role'][0] }}]{{ m['content'].split('</think>')[-1] }}{% endfor %}"
    "{% if add_generation_prompt %}[a]{% endif %}"
)
CALLS = (
    "{% for t in tools or [] %}({{ t['function']['name'] }}){% endfor %}{% for m in messages %}[{{ m['role'][0] }}]"
    "{{ m['content'] }}{% for c in m['tool_calls'] or [] %}<{{ c['function']['name'] }}{% for k, v in "
    "c['function']['arguments'].items() %} {{ k }}={{ v }}{% endfor %}>{% endfor %}{% endfor %}"
)


def tokenizer(template: str | None = None) -> Any:
    made = tiny_models.tokenizer()
    made.chat_template = template or made.chat_template
    made.bos_token = "<pad>"
    return made


def calling(arguments: str) -> Message:
    call = f'[{{"function":{{"arguments":{arguments},"name":"weather"}},"type":"function"}}]'
    return Message(role="assistant", content="", tool_calls=call)


def text(made: Any, one: Rendered | CannotRead) -> str:
    assert isinstance(one, Rendered)
    return str(made.decode(one.ids))


# What is refused


def test_what_a_template_refuses_is_a_reason_and_harms_no_neighbour() -> None:
    made = tokenizer(TURNS)
    good, bad = (user("q"), assistant("a")), (SYSTEM, user("q"), assistant("a"))
    found = attempts(made, [good, bad, (user("q"), assistant("\ud83d")), good], 100)
    assert [str(one) if isinstance(one, CannotRead) else "read" for one in found] == [
        "read", "the chat template refuses it: turns must alternate",
        "a text holds half of a surrogate pair, which is no character", "read",
    ]  # fmt: skip
    with pytest.raises(CannotRead, match="conversation 1: the chat template refuses it: turns must alternate"):
        render(made, [good, bad], 100)
    with pytest.raises(CannotRead, match="turns must alternate"):
        render_prompt(made, (SYSTEM, user("q")))
    made.chat_template = "{{ messages[0]['content'] + messages[9]['content'] }}"
    assert isinstance(attempts(made, [good], 100)[0], CannotRead)
    made.chat_template = "{% for m in messages %}"
    with pytest.raises(AssayError, match="broken") as told:
        render(made, [good], 100)
    assert not isinstance(told.value, CannotRead)


@pytest.mark.parametrize(
    ("template", "chat", "reason"),
    [
        (SKIPS, (SYSTEM, user("q"), assistant("a")), r"leaves out turn 1 \(system\)"),
        (SKIPS, (user("a"), assistant("b"), Message(role="tool", content="a"), assistant("a")),
         r"leaves out turn 3 \(tool\)"),
        ("{{ messages[-2]['content'] }}={{ messages[-1]['content'] }}",
         (user("q"), assistant("a"), user("q2"), assistant("a2")), r"leaves out turn 1 \(user\)"),
        (SKIPS, (user("q"), calling('{"city":"Oslo"}')), r"leaves out the tool call in turn 2 \(weather\)"),
        (CALLS.replace("{{ k }}={{ v }}", ""), (user("q"), calling('{"city":"Oslo"}')), "leaves out the tool call"),
        (SKIPS, (Message(role="user", content="q", tools='[{"function":{"name":"weather"}}]'), assistant("a")),
         "leaves out the tools"),
    ],
)  # fmt: skip
def test_what_a_template_would_leave_out_is_refused(template: str, chat: Conversation, reason: str) -> None:
    for _ in range(2):  # the second time it is remembered
        with pytest.raises(CannotRead, match=reason):
            render(tokenizer(template), [chat], 200)


def test_calls_and_tools_are_rendered_by_a_template_that_knows_them() -> None:
    made = tokenizer(CALLS)
    tools = '[{"function":{"name":"weather"},"type":"function"}]'
    for arguments in ('{"city":"Oslo"}', '"{\\"city\\": \\"Oslo\\"}"'):
        chat = (Message(role="user", content="q", tools=tools), calling(arguments))
        assert text(made, render(made, [chat], 200)[0]) == "(weather)[u]q[a]<weather city=Oslo>"
    glued = CALLS.replace("{% for k, v in c['function']['arguments'].items() %} {{ k }}={{ v }}{% endfor %}",
                          "{{ ' ' + c['function']['arguments'] }}")  # fmt: skip
    chat = (user("q"), calling('"{\\"city\\": \\"Oslo\\"}"'))
    assert "city" in text(made, render(tokenizer(glued), [chat], 200)[0]), (
        "a template that wants arguments as text gets text"
    )


def test_reasoning_is_rendered_by_the_template_or_put_before_the_answer() -> None:
    thought = (user("q"), Message(role="assistant", content="a", reasoning="hm"))
    plain = tokenizer()
    assert "<think>\nhm\n</think>\n\na" in text(plain, render(plain, [thought], 200)[0])
    knows = tokenizer("{% for m in messages %}({{ m['reasoning_content'] }}){{ m['content'] }}{% endfor %}")
    assert text(knows, render(knows, [thought], 200)[0]).endswith("(hm)a")
    strips = tokenizer(STRIPS)
    assert text(strips, render(strips, [(user("q"), assistant("<think>hm</think>a"))], 200)[0]) == "[u]q[a]a"


def test_a_base_model_is_told_what_to_do() -> None:
    made = tiny_models.tokenizer()
    made.chat_template = None
    with pytest.raises(
        AssayError, match=r"no chat template .a base model.*instruct version, or set tokenizer.chat_template"
    ):
        render(made, [(user("q"), assistant("a"))], 100)


# What is cut


def shown(made: Any, chats: list[Conversation], room: int) -> list[str]:
    found = render(made, chats, room)
    assert max(len(one.ids) for one in found) <= room
    return [text(made, one) for one in found]


def test_whole_exchanges_go_first_alike_for_all_answers_and_the_start_stays() -> None:
    made = tokenizer("{{ bos_token }}" + tiny_models.TEMPLATE)
    history = (SYSTEM, user("SECRET one " * 4), assistant("ok"), user("two " * 4), assistant("yes"), user("three?"))
    chats: list[Conversation] = [(*history, assistant("a")), (*history, assistant("b" * 90))]
    short, long = shown(made, chats, 200)
    assert short.startswith("<pad>[s]be kind[u]SECRET")
    assert long.endswith("b" * 90 + "<end>")
    for room, first in ((175, "two two two two "), (125, "three?")):
        both = shown(made, chats, room)
        for one in both:
            assert one.startswith(f"<pad>[s]be kind[u]{first}"), "the start, the system turn and whole turns"
            assert "SECRET" not in one
    cut = render(made, chats, 125)
    assert cut[0].cut == cut[1].cut > 0, "what is lost is told, of the short one as well"
    assert shown(made, chats[:1], 175)[0].startswith("<pad>[s]be kind[u]SECRET"), "alone it loses nothing"


def test_the_last_question_keeps_a_quarter_of_the_room_and_a_longer_answer_its_end() -> None:
    made = tokenizer()
    chats: list[Conversation] = [(user("x" * 60 + "y" * 60), assistant(a)) for a in ("end", "z" * 200 + "end")]
    both = shown(made, chats, 100)
    assert both[0] == "[u]" + "y" * 25 + "[a]end<end>"
    assert re.fullmatch(r"\[u\]y{25}\[a\]z+end<end>", both[1])
    assert len(both[1].replace("<end>", "e")) == 100
    alone = shown(made, chats[:1], 100)
    assert alone[0].startswith("[u]" + "x" * 30)


def test_a_long_system_turn_goes_before_the_question_does() -> None:
    made = tokenizer()
    chat = (Message(role="system", content="s" * 90), user("question"), assistant("answer"))
    assert shown(made, [chat], 100) == ["[u]question[a]answer<end>"]
    assert shown(made, [(SYSTEM, user("q" * 200), assistant("answer"))], 100)[0].startswith("[s]be kind[u]qqq")


def test_tools_are_not_lost_with_the_turn_that_names_them() -> None:
    made = tokenizer(CALLS)
    named = Message(role="user", content="long " * 30, tools='[{"function":{"name":"weather"},"type":"function"}]')
    chat = (named, assistant("ok"), user("and?"), calling('{"city":"Oslo"}'))
    assert shown(made, [chat], 100) == ["(weather)[u]and?[a]<weather city=Oslo>"]


@given(
    sizes=st.lists(st.integers(1, 40), min_size=1, max_size=5),
    answers=st.lists(st.integers(1, 120), min_size=1, max_size=4),
    room=st.integers(30, 150), system=st.booleans(), encoder=st.booleans(),
)  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_nothing_is_longer_than_the_room_and_histories_stay_alike(
    sizes: list[int], answers: list[int], room: int, system: bool, encoder: bool
) -> None:
    made = MINILM if encoder else tokenizer()
    history: list[Message] = [SYSTEM] if system else []
    for n, size in enumerate(sizes):
        history += [user(f"{n} " + "x " * size), assistant(f"said {n}")]
    chats: list[Conversation] = [(*history[:-1], assistant("w " * n)) for n in answers]
    found = render(made, chats, room)
    assert max(len(one.ids) for one in found) <= room
    mark = "[SEP]" if encoder else "[a]w "
    histories = {text(made, one).split(mark)[0] for one in found if mark in text(made, one)}
    assert len(histories) <= 1


MINILM = models.load_tokenizer("minilm")


# Dates


def test_templates_with_today_s_date_get_a_fixed_one_that_is_saved(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    llama = (
        "{%- if not date_string is defined %}{%- if strftime_now is defined %}{%- set date_string = "
        'strftime_now("%d %b %Y") %}{%- else %}{%- set date_string = "26 Jul 2024" %}{%- endif %}{%- endif %}'
        "{{ 'Today: ' + date_string }}" + tiny_models.TEMPLATE
    )
    other = "{{ strftime_now( '%Y-%m-%d' ) }}" + tiny_models.TEMPLATE
    odd = "{% set f = '%Y' %}{{ strftime_now(f) }}" + tiny_models.TEMPLATE
    for template, day in ((llama, "26 Jul 2024"), (other, "2024-07-26"), (odd, "2024-07-26")):
        folder = tmp_path / str(len(template))
        made = tiny_models.tokenizer()
        made.chat_template = template
        made.save_pretrained(folder / "as it came")
        loaded = models.load_tokenizer(str(folder / "as it came"))
        loaded.save_pretrained(folder / "trained")
        plain = transformers.AutoTokenizer.from_pretrained(folder / "trained")
        chat = [{"role": "user", "content": "q"}]
        texts = {t.apply_chat_template(chat, tokenize=False) for t in (loaded, plain)}
        assert texts == {plain.apply_chat_template(chat, tokenize=False)}
        assert day in texts.pop()
        assert str(datetime.date.today().year) not in str(plain.apply_chat_template(chat, tokenize=False)).replace(
            day, ""
        )
    assert datetime.date(2024, 7, 26) == templates.TODAY


# Encoders


def roberta() -> tuple[Any, Any]:
    """A random RoBERTa, with its tokenizer's own way to join two texts: <s> a </s></s> b </s>, one token type."""
    inner = Tokenizer(parts.BPE(unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    specials = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    inner.train_from_iterator(["why not say it again"] * 3, trainers.BpeTrainer(
        vocab_size=300, special_tokens=specials, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))  # fmt: skip
    inner.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=False)
    made = transformers.PreTrainedTokenizerFast(
        tokenizer_object=inner, bos_token="<s>", eos_token="</s>", cls_token="<s>", sep_token="</s>", pad_token="<pad>",
        unk_token="<unk>", mask_token="<mask>", model_input_names=["input_ids", "attention_mask"],
    )  # fmt: skip
    torch.manual_seed(0)
    config = transformers.RobertaConfig(
        vocab_size=len(made), hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, num_labels=1,
        type_vocab_size=1, pad_token_id=1, bos_token_id=0, eos_token_id=2, max_position_embeddings=66,
        initializer_range=0.3,
    )  # fmt: skip
    return transformers.RobertaForSequenceClassification(config).eval(), made


PAIRS = [("why?", "because"), ("say it", "no"), ("what <mask> é is", "ünïcode"), ("", "alone")]


def test_encoders_read_what_their_own_tokenizer_joins() -> None:
    model, own = roberta()
    for made in (own, MINILM):
        found = render(made, [(user(q), assistant(a)) for q, a in PAIRS], 100)
        for (q, a), one in zip(PAIRS, found, strict=True):
            expected = made(q, a)
            assert one.ids == expected["input_ids"]
            types = [int(bool(one.second) and i >= one.second) for i in range(len(one.ids))]
            assert types == expected.get("token_type_ids", [0] * len(one.ids))
    with torch.no_grad():
        plain = [model(**own(q, a, return_tensors="pt")).logits.item() for q, a in PAIRS]
    scorer = LocalScorer(model, own, 512)
    rewards = scorer([(user(q), assistant(a)) for q, a in PAIRS])
    np.testing.assert_allclose(rewards, plain, atol=1e-5)
    assert position_limit(model) == 64
    assert np.isfinite(scorer([(user("why " * 300), assistant("not " * 300))])).all()


def test_encoder_decoders_are_refused_in_a_line() -> None:
    config = transformers.BartConfig(
        vocab_size=90, d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2, decoder_attention_heads=2,
        encoder_ffn_dim=16, decoder_ffn_dim=16, num_labels=1,
    )  # fmt: skip
    with pytest.raises(AssayError, match=r"encoder-decoder \(bart\)"):
        RewardModel(transformers.BartForSequenceClassification(config), 1, EngineConfig())


def test_an_encoder_reads_calls_tools_and_thoughts_as_text() -> None:
    tools = '[{"function":{"name":"weather"}}]'
    chat = (Message(role="user", content="q", tools=tools), Message(role="assistant", content="a", reasoning="hm"))
    seen = text(MINILM, render(MINILM, [chat], 100)[0])
    assert "weather" in seen
    assert "hm" in seen
    assert "oslo" in text(MINILM, render(MINILM, [(user("q"), calling('{"city":"Oslo"}'))], 100)[0])


def test_pictures_are_refused_by_a_model_that_sees_none_and_its_neighbours_are_read() -> None:
    tokenizer = tiny_models.tokenizer()
    seen = (Message(role="user", content="what is it?", images=("ab",)), assistant("a fish"))
    plain = (user("hi"), assistant("ho"))
    found = attempts(tokenizer, [plain, seen, plain], 64)
    assert [isinstance(f, CannotRead) for f in found] == [False, True, False]
    assert "this model sees none" in str(found[1])
    paired = attempts(tokenizer, [seen, seen, plain, (*plain[:1], assistant("no"))], 64, None, [(0, 1), (2, 3)])
    assert [isinstance(f, CannotRead) for f in paired] == [True, True, False, False]


@pytest.mark.parametrize(
    ("asking", "expected"),
    [
        ("<think>\n", "<think>\n"), ("<think>", "<think>"), ("", ""),
        ("<think>\n\n</think>\n\n", "<think>\n\n</think>\n\n"), ("Let me see. ", ""),
    ],
)  # fmt: skip
def test_what_a_template_begins_of_the_answer_is_found_at_the_prompt_s_end(asking: str, expected: str) -> None:
    """QwQ and R1 distills open the thought; Qwen3 closes an empty one where it may not think."""
    made = tokenizer(
        "{% for m in messages %}[{{ m['role'] }}]{{ m['content'] }}{% endfor %}"
        "{% if add_generation_prompt %}[assistant]" + asking.replace("\n", "\\n") + "{% endif %}"
    )
    made.chat_template = made.chat_template.replace("\\n", "\n")
    chat = (user("why <think>?"),)
    assert begun(made, chat) == expected
    with_start = render_prompt(made, chat, None, "<answer>")
    assert with_start != render_prompt(made, chat)
    if expected == "<think>\n":
        with pytest.raises(AssayError, match="begins every answer with <think> itself"):
            render_prompt(made, chat, None, "<think>")
