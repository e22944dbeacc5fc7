"""Which answer a text gives, and whether it is right."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from assay.bench.policy.answers import correct, final_answer, normalised, same
from assay.bench.policy.equivalent import Judge
from assay.bench.policy.intervals import differently_named
from assay.bench.policy.letters import letter
from assay.bench.policy.quantities import quantity
from assay.bench.policy.words import digits_for_words
from assay.errors import AssayError
from assay.policy import hallucination
from assay.policy.rewards import HybridReward, RewardConfig
from assay.records import user
from assay.rollouts import AnswerKind, Prompt, Rollout
from assay.tuning import exam


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("<think>2</think><answer>3</answer>", "3"),
        ("<answer>1</answer> no, <answer> 2 </answer>", "2"),
        ("<think>maybe <answer>7</answer>?</think>I can not tell", None),
        ("<think>never closed <answer>7</answer>", None),
        ("<answer>never closed", None),
        ("<answer></answer>", None),
        (r"so \boxed{\frac{1}{2}} and", r"\frac{1}{2}"),
        (r"\boxed{1} then \boxed{2", "1"),
        (r"<answer>5</answer> \boxed{6}", None),
        ("The answer is 42.", "42"),
        ("Answer: **B**", "B"),
        ("I think it is 42", None),
        ("", None),
    ],
)
def test_final_answers(text: str, answer: str | None) -> None:
    assert final_answer(text) == answer


@pytest.mark.parametrize(
    ("one", "other", "kind", "equal"),
    [
        ("Red.", "red", "text", True),
        ("the red one", "red", "text", False),
        ("1/2", "0.5", "number", True),
        ("$1/2$", "0.5", "math", True),
        ("2 apples", "2.0", "number", True),
        ("12345678901", "12345678902", "number", False),
        ("none", "no number", "number", False),
        ("x + 1", "x+1", "math", True),
        ("option b", "(B)", "choice", True),
        ("neither", "neither of them", "choice", False),
    ],
)
def test_equal_answers_are_written_equally(one: str, other: str, kind: AnswerKind, equal: bool) -> None:
    assert (normalised(one, kind) == normalised(other, kind)) is equal
    assert same(one, other, kind) is equal


@pytest.mark.parametrize(
    ("given", "right", "kind", "expected"),
    [
        ("$1,234.50", "1234.5", "number", True),
        ("5.0", "5", "number", True),
        ("five", "5", "number", True),
        ("1/2", "0.5", "number", True),
        ("−3", "-3", "number", True),
        ("about 12 apples", "12", "number", False),
        ("12 or 13", "12", "number", False),
        ("1/0", "1", "number", False),
        ("none", "0", "number", False),
        ("(b)", "B", "choice", True),
        ("B) Paris", "b", "choice", True),
        ("option C.", "C", "choice", True),
        ("1000001", "1000000", "number", False),
        ("1000000.0", "1000000", "number", True),
        ("1,000,000", "1e6", "number", True),
        ("12345678901234567891", "12345678901234567890", "number", False),
        ("0.3333333", "1/3", "number", True),
        ("0.33", "1/3", "number", False),
        ("3.0000001", "3", "number", False),
        ("Because", "B", "choice", False),
        ("a dog", "A", "choice", False),
        ("A dog", "A", "choice", False),
        ("A dog, so B", "B", "choice", True),
        ("a", "A", "choice", True),
        ("a) dog", "A", "choice", True),
        ("A is right", "A", "choice", True),
        ("I think B", "B", "choice", True),
        ("I think B", "I", "choice", False),
        ("I", "I", "choice", True),
        ("B Paris", "B", "choice", True),
        ("B\nbecause it is", "B", "choice", True),
        ("B is right, A is not", "B", "choice", True),
        ("either A or B", "B", "choice", False),
        ("option b is right", "B", "choice", True),
        ("Yes.", "yes", "text", True),
        ("the red circle", "Red circle", "text", True),
        ("no", "yes", "text", False),
        ("-5", "5", "text", False),
        ("", "yes", "text", False),
    ],
)
def test_the_same_answer(given: str, right: str, kind: str, expected: bool) -> None:
    assert same(given, right, kind) is expected  # type: ignore[arg-type]


HERE = Path(__file__).parent
TABLES = {
    name: [
        json.loads(line)
        for file in (sorted((HERE / name).glob("*.jsonl")) or [HERE / f"{name}.jsonl"])
        for line in file.read_text().splitlines()
    ]
    for name in (
        "answer_pairs",
        "answer_pairs_held_out",
        "answer_pairs_second",
        "answer_pairs_third",
        "answer_pairs_fourth",
        "answer_pairs_fifth",
        "answer_pairs_sixth",
        "answer_pairs_seventh",
        "answer_pairs_eighth",
        "answer_pairs_ninth",
        "answer_pairs_tenth",
        "answer_pairs_eleventh",
        "answer_pairs_twelfth",
        "answer_pairs_thirteenth",
        "answer_pairs_fourteenth",
        "answer_pairs_fifteenth",
        "answer_pairs_sixteenth",
        "answer_pairs_seventeenth",
        "answer_pairs_guards",
    )
}
"""Verdicts: is the given answer (or that of the whole text) the right one? The first is by the author of the rules, the rest
by a reader who wrote each before the rules were read or changed again. The rules were then mended by all of them. The guards
are pairs that no table had, each for a branch that no other pair needs."""
UNMARKED = "a text that marks nothing is read by its last sentence, where that has a shape that is known"
KNOWN: dict[tuple[str, str], str] = {
    (
        "约12",
        "12",
    ): "about 12 is no exact count; the fifth table's reader refuses it, and one of them must be differed from",
    ("The answer is 12, or equivalently a dozen.", "12"): '"or" leads to another answer as a rule',
    ("Paris, France", "Paris"): 'so is "red, blue" written, which is not red',
    ("twice as much, 40", "40"): '"twice" makes another number of the one beside it as a rule',
    ("a score and two", "22"): "a score is a music sheet and a result as well",
    (r"k\pi, k\in\mathbb{Z}", r"n\pi, n\in\mathbb{Z}"): "which letters are bound is not worked out",
    ("none", "0"): "none may be no answer",
    ("The Nile river", "Nile"): "what a name is the name of is not known here",
    ("北京市", "北京"): "what a name is the name of is not known here",
    ("HTTP 404", "404"): "as a text it has a word more",
    ("a stack (LIFO)", "stack"): 'so is "Paris (London)" written',
    ("LXVII", "67"): "Roman numerals are letters of formulas as well",
    ("soixante-sept", "67"): "number words are English and Chinese",
    ("67 Eier", "67"): "plurals are those of English",
    ("$40 off", "40"): '"off" makes another number of the one beside it as a rule',
    ("up 8%", "8"): "up to what is not said",
    (r"\ln x^2", r"2 \ln x"): "they differ where x is negative",
    ("0,75", r"\frac34"): "in mathematics 0,75 is a pair as well",
    (r"So the number of pens left is \boxed{56-9}.", "47"): "arithmetic left undone is no number",
    ("Final answer: $18.50 cheaper than the other shop", "18.5"): '"18 more than Tom" is another number',
    ("15th floor", "15"): '"15th prime" is another number',
    ("18 bottles, i.e. three six-packs", "18"): "several numbers",
    ("Choose C over D", "C"): "two letters",
    ("The answer is C (B is only the second best).", "C"): "two letters",
    ("Answer: A (B and C are too large)", "A"): "two letters",
    ("Answer: D (as C is negative)", "D"): "two letters",
    ("Answer: B, for A is too small", "B"): "two letters",
    ("Final answer: B (False)", "B"): '"B (false)" says of an option that it is none',
    ("Answer: B) not enough information", "B"): '"B) not ..." as well',
    ("~12", "12"): "about 12 is no exact count; the tenth table's reader refuses ~7",
    ("Not 13 but 12 is the answer.", "12"): "several numbers",
    ("Answer: $x = 12$, $y = 12$", "12"): "several numbers",
    ("The answer is 30, for 5 times 6 is 30.", "30"): "several numbers",
    ("The answer is neither 11 nor 13; it is 12.", "12"): "several numbers",
    ("The answer is 12, and I am sure that it is not 13.", "12"): "several numbers",
    ("Twelve squared is 144.", "144"): "several numbers",
    ("所以小红比小明多18本书。", "18"): '"more than" makes another number of it, and is what may be asked',
    (
        r"Since $\sin x = \frac12$ and $x$ is acute, $x = \boxed{\frac{\pi}{6}}$, i.e. $30^\circ$.",
        r"\frac{\pi}{6}",
    ): "degrees behind a part of pi are not compared with it",
    ("Answer: 7:45 AM", "7:45"): "which half of the day is meant is not known",
    ("Answer: degrees Celsius", "Celsius"): "as a text it has a word more",
    ("The answer is oxygen (O2).", "oxygen"): 'so is "Paris (London)" written',
    ("The answer is water (H₂O).", "water"): 'so is "Paris (London)" written',
    ("Answer: Sodium chloride (table salt)", "sodium chloride"): 'so is "Paris (London)" written',
    (
        "Since two sides are equal, the triangle is isosceles.\n\nAnswer: isosceles triangle",
        "isosceles",
    ): "what a name is the name of is not known here",
    ("Answer :- 12", "12"): '"- 12" may be a minus sign',
    ("**17** students take neither subject.\n\n*Explanation:* 40 − (15 + 12 − 4) = 17.", "17"): UNMARKED,
    ("The ratio of the areas is **1 : 4**.", "\\frac{1}{4}"): "a ratio of two is compared as one: 3:1 is no 3",
    (
        "First, multiply the boxes by the pencils in each box: 7 × 6 = 42 pencils. Finally, we check: 42 ÷ 6 = 7. ✔️",
        "42",
    ): UNMARKED,
    ("The tip is 15% of $125, i.e. 0.15 × 125 = $18.75.", "18.75"): UNMARKED,
    ("The final price she paid for the dress, including tax, was $18.75.", "18.75"): UNMARKED,
    (
        "There are **3 different ways** to do this:\n\n1. red, red, blue\n2. red, blue, red\n3. blue, red, red",
        "3",
    ): UNMARKED,
    ("Counting the cubes that are not yellow, we get 3.", "3"): UNMARKED,
    ("Each of the 6 questions is true or false → 2^6 = 64 possible answer sheets.", "64"): UNMARKED,
    ("p = 5/100 = 0.05\n\nHence, the defect rate is 0.05 (or 5%).", "0.05"): UNMARKED,
    ("Por lo tanto, hay 12 manzanas en la canasta.", "12"): UNMARKED,
    ("Der Gesamtpreis beträgt 2.500 €.\n\n**Antwort:** 2.500 €", "2500"): "2.500 is 2.5 in English",
    ("The value of the expression when x = 4 is 16.", "16"): UNMARKED,
    ("The value of the integral is $\\ln(3) \\approx 1.0986$.", "\\ln 3"): UNMARKED,
    ("The capital of Australia is Canberra, not Sydney.", "Canberra"): UNMARKED,
    ("There are two zebras in the photo.", "two"): "as a text it has words more",
    ("The boys in the picture are playing **baseball**.", "baseball"): UNMARKED,
    ("图片中的城市是上海。", "上海"): UNMARKED,
    ("Oxygen (not carbon).", "oxygen"): "a text without marks that denies something",
    (
        "The train covers 60 km in half an hour, so its speed is\n\n"
        "$$v = \\frac{60\\text{ km}}{0.5\\text{ h}} = 120\\text{ km/h}$$",
        "120",
    ): UNMARKED,
    ("The traffic light in the picture is showing green.", "green"): UNMARKED,
}
"""Pairs of the tables on which the rules differ from the person, and why; none of them is paid for."""


@pytest.mark.parametrize("name", list(TABLES))
def test_the_tables_of_answer_pairs(name: str) -> None:
    pytest.importorskip("math_verify")
    wrong = []
    for row in TABLES[name]:
        ask = correct if "text" in row else same
        if ask(row.get("text", row.get("given")), row["right"], row["kind"]) != row["same"]:
            wrong.append(row)
    known = [r for r in wrong if (r.get("given", r.get("text")), r["right"]) in KNOWN]
    assert wrong == known
    assert all(r["same"] for r in known)
    least = 30 if name in ("answer_pairs_guards", "answer_pairs_seventeenth") else 40
    assert min(sum(r["same"] is told for r in TABLES[name]) for told in (True, False)) > least


@pytest.mark.parametrize(
    ("text", "right", "kind", "expected"),
    [
        ("**yes, no, yes**", "yes, no, yes", "text", True),
        ("**no, yes, yes**", "yes, no, yes", "text", False),
        ("**no, yes, yes**", "yes, no, yes", "math", False),
        ("The answer is no, yes.", "yes, no", "text", False),
        ("The answer is blue and red.", "red and blue", "text", True),
        (r"\boxed{1, 1, 2}", "1, 2, 2", "math", False),
        (r"\boxed{\{1, 1, 2\}}", r"\{1, 2\}", "math", True),
        ("Ten days after 5 May is **15 May**, 30 days after 4 June.", "30", "number", False),
        ("30 days after 13 February 2021 is **15 March 2021**.", "30", "number", False),
        ("Suppose that $x = 9$.", "9", "number", False),
        ("The answer to a similar problem was 14.", "14", "number", False),
        ("The answer to the problem is 14.", "14", "number", True),
        ("The correct answers are A, C and D.", "ACD", "choice", True),
        ("故选：DAC", "ACD", "choice", True),
        (r"\boxed{A} and \boxed{C}", "A, C", "choice", True),
        ("The correct answers are A and C.", "ACD", "choice", False),
        ("The correct answers are A or C.", "AC", "choice", False),
        ("The correct answers are not A, C.", "AC", "choice", False),
        ("A, C", "A", "choice", False),
        ("**Solution:**\n\nWe add.\n\nSo there are **16** of them.", "16", "number", True),
        ("It is at most\n\n$$\\boxed{12}$$", "12", "number", False),
        ("By the quadratic formula\n\n$$\\boxed{12}$$", "12", "number", True),
        (r"$\boxed{-\dfrac{35}{9}} \approx -3.889$", r"-\frac{35}{9}", "math", True),
        (r"$\boxed{12} \approx 14$", "12", "number", False),
        (r"\boxed{\textbf{(C)}\ 12}", r"\text{(C)}", "math", True),
        (r"\boxed{\textbf{(C)}\ 12}", r"\text{(D)}", "math", False),
        (r"\boxed{(C)?}", r"\text{(C)}", "math", False),
        ("Thus $x^2 = 4$ cannot hold for $x = 3$.", "3", "math", False),
        ("The value of $x$ is not $9$.", "9", "math", False),
        ("The points are $(1,2)$ and $(3,4)$.", "(1,2)", "math", False),
        ("The points are $(3,4)$ and $(1,2)$.", "(1,2), (3,4)", "math", True),
    ],
)
def test_kinds_of_answers_of_the_last_tables(text: str, right: str, kind: AnswerKind, expected: bool) -> None:
    pytest.importorskip("math_verify")
    assert correct(text, right, kind) is expected


HINGES = (
    " or ", ", or ", ". Or ", ". Alternatively, ", "; otherwise ", ", maybe ", ", but it could be ", ". It may also be ",
    ", possibly ", "/", " | ", "\nor\n", " else ", ", if not then ", ". Perhaps ",
)  # fmt: skip


@pytest.mark.parametrize(
    ("one", "other", "kind", "marks"),
    [
        ("A", "B", "choice", ("(%s)", "%s.", "option %s")),
        ("7", "8", "number", ("#### %s", "%s", "x = %s")),
    ],
)
def test_two_answers_one_of_which_shall_count(one: str, other: str, kind: AnswerKind, marks: tuple[str, ...]) -> None:
    """They are none, whatever marks each of the two; 1,703 of 2,592 such texts once paid for one of them."""
    every = ("\\boxed{%s}", "The answer is %s.", "Answer: %s", "**%s**", "<answer>%s</answer>", *marks)
    texts = [a % one + hinge + b % other for a in every for b in every for hinge in HINGES]
    assert [t for t in texts if correct(t, one, kind) or correct(t, other, kind)] == []
    joined = [a % one + " and " + b % other for a in every for b in every]
    assert not [t for t in joined if correct(t, one, kind) and correct(t, other, kind)]


@pytest.mark.parametrize(
    ("text", "right", "kind", "expected"),
    [
        (r"\boxed{2} and $\boxed{5}$", r"2 and 5", "math", True),
        (r"\boxed{2} and $\boxed{5}$", "5", "number", False),
        (r"The probability is $\boxed{\frac{3}{4}}$, or 75%.", "3/4", "number", True),
        (r"\boxed{12}. Perhaps this is surprising.", "12", "number", True),
        (r"Alternatively, we add 5 and 7, which gives \boxed{12}.", "12", "number", True),
        (r"\boxed{13} is wrong. The answer is 12.", "12", "number", True),
        ("The answer is 13. No wait, it is 12.", "13", "number", False),
        ("The answer is no, as there are none.", "no", "text", True),
    ],
)
def test_answers_taken_back_listed_or_told_again(text: str, right: str, kind: AnswerKind, expected: bool) -> None:
    pytest.importorskip("math_verify")
    assert correct(text, right, kind) is expected


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("十二", "12"), ("一千五百", "1500"), ("1.5万", "15000"), ("1万5千", "15000"), ("二十个", "20"),
        ("3亿", "300000000"),
        ("一亿二千万", "120000000"), ("三角形", "三角形"), ("第一", "第一"),
    ],
)  # fmt: skip
def test_chinese_numerals(text: str, value: str) -> None:
    assert digits_for_words(text).rstrip("个") == value


@pytest.mark.parametrize(
    ("given", "right", "expected"),
    [
        ("2 <= x < 5", "[2,5)", True),
        ("2 <= x < 5", "[2,5]", False),
        ("x < 3 or x > 5", r"(-\infty,3)\cup(5,\infty)", True),
        ("x > 1 and x > 2", r"(2,\infty)", True),
        ("x > 1 and y < 2", "(1,2)", False),
        ("x > 1 \\lor y < 2", "(1,2)", False),
        (r"x \ge \frac{1}{2}", r"[0.5,\infty)", True),
        (r"\{x : x > 2\}", r"]2;+\infty[", True),
        (r"\mathbb{R} \setminus \{0\}", r"x \ne 0", True),
        ("x > 2 cm", r"(2,\infty)", True),
        ("x > 3", r"(2,\infty)", False),
    ],
)
def test_conditions_and_intervals_that_name_one_set(given: str, right: str, expected: bool) -> None:
    pytest.importorskip("math_verify")
    assert same(given, right, "math") is expected
    assert same(right, given, "math") is expected


def test_which_formulas_name_a_set_in_different_ways() -> None:
    assert differently_named("2 <= x < 5", "[2,5)")
    assert not differently_named("[2,5)", "(2,5)")
    assert not differently_named("x > 1", "x > 2")
    assert not differently_named("x + 1", "(1,2)")


def test_no_answer_counts_as_right_for_two_references() -> None:
    """What hedges, lists all letters or all numbers is right for none."""
    hedges = [
        "A or B or C or D",
        "A B C D",
        "A/B/C/D",
        "A.B.C.D.",
        "(A)(B)(C)(D)",
        "A, B, C and D",
        "a/b/c/d",
        "A\nB\nC\nD",
    ]
    assert [letter(x) for x in hedges] == [None] * len(hedges)
    for text in (
        "1 2 3 4 5",
        "1, 2, 3, 4",
        "1=2=3=4",
        "1 or 2",
        "between 1 and 4",
        "1-4",
        "1+2",
        "not 1, not 2",
        "1;2;3",
    ):
        for right in ("1", "2", "3", "4", "5"):
            assert not same(text, right, "number")
            assert not same(text, right, "text")
            assert not (text != "1+2" and same(text, right, "math"))


FORMS = [
    "8000", "8,000", "8{,}000", r"8\,000", r"8\ 000", r"8\;000", "8~000", "8\u2009000", "8\u202f000", "8\u00a0000", "8'000",
    "８０００", "８，０００", "٨٠٠٠", "८०००", "𝟖𝟎𝟎𝟎", "8000.", "8000.0", "$8000$", r"\boxed{8{,}000}", "**8,000**",
    "8×10³", "8k",
    "8 thousand", "eight thousand",
]  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", ["number", "math", "text"])
def test_forms_of_one_number(form: str, kind: AnswerKind) -> None:
    assert same(form, "8000", kind)
    assert same("8000", form, kind)
    assert not same(form, "800", kind)
    assert not same(form, "8", kind)
    assert normalised(form, kind) == "8000"


@pytest.mark.parametrize(
    "answer", ["22/7", "355/113", "1000000/3", "1,2", "123456.78", "1.2345678", "$1,234,567.89", "1/3"]
)
def test_an_answer_equals_itself_in_the_reward_and_in_the_evaluation(answer: str) -> None:
    """The evaluation once compared a normalised answer, rounded to six digits, and found none of these right."""
    prompt = Prompt(messages=(user("?"),), answer=answer, kind="number")
    text = f"<think>so</think><answer>{answer}</answer>"
    rollout = Rollout(prompt_id=prompt.id, tokens=(1,), logprobs=(0.0,), text=text, ended=True, policy_step=0)
    reading = hallucination.read([prompt], lambda prompts, n: [[rollout] for _ in prompts], 0, exam._final, exam.right)
    assert reading.accuracy is not None
    assert reading.accuracy.value == HybridReward(RewardConfig())([(prompt, rollout)])[0].rule == 1.0


@pytest.mark.parametrize(
    ("given", "right", "expected"),
    [
        (r"\frac{1}{2}", "0.5", True),
        ("x+1", "1+x", True),
        (r"\sqrt{8}", r"2\sqrt{2}", True),
        ("x+1", "x-1", False),
        ("7" * 1000, "7", False),
        (r"\frac{", "1", False),
    ],
)
def test_mathematics_by_math_verify(given: str, right: str, expected: bool) -> None:
    pytest.importorskip("math_verify")
    assert same(given, right, "math") is expected


@given(st.text(alphabet="0123456789 ,./-+*=()%$or and not", max_size=24))
def test_a_text_is_one_number_at_most(text: str) -> None:
    """A percent sign alone lets a text stand for two: 50% is 50 and 0.5."""
    for kind in ("number", "text"):
        right = [n for n in range(60) if same(text, str(n), kind)]  # type: ignore[arg-type]
        assert len(right) <= 1 + ("%" in text)


@given(st.text(alphabet="ABCDabcd ().,/&:;-\n*or and not is", max_size=24))
def test_a_text_chooses_one_letter_at_most(text: str) -> None:
    assert sum(same(text, right, "choice") for right in "ABCD") <= 1
    assert sum(same(text, right, "text") for right in "ABCD") <= 1


@given(st.text(max_size=60), st.sampled_from(["number", "choice", "text"]))
def test_nothing_raises_and_an_answer_equals_itself(text: str, kind: str) -> None:
    final_answer(text)
    quantity(text)
    letter(text)
    equal = same(text, text, kind)  # type: ignore[arg-type]
    assert equal or kind != "text"


@settings(max_examples=20)
@given(st.text(alphabet="x+-*/^\\{}()0123456789 frac", max_size=30))
def test_mathematics_never_raises(text: str) -> None:
    pytest.importorskip("math_verify")
    same(text, "1", "math")


ENDLESS = [
    ("'1e999999999'", "number"),
    ("'1/1e-999999999'", "number"),
    ("'9' * 1_000_000", "number"),
    ("'9^{9^{9^{9}}}'", "math"),
    ("'9^9^9^9'", "math"),
    ("'9**9**9**9'", "math"),
    ("'10^{999999999}'", "math"),
    ("'(10^{9})!'", "math"),
    ("'99999999!'", "math"),
    (r"r'\binom{999999999}{99999999}'", "math"),
    (r"r'\sum_{i=1}^{999999999} i!'", "math"),
]


def test_an_answer_made_to_take_for_ever_is_wrong_at_once() -> None:
    pytest.importorskip("math_verify")
    asked = ", ".join(f"({text}, '7', {kind!r}), ('7', {text}, {kind!r})" for text, kind in ENDLESS)
    code = f"from assay.bench.policy.answers import same\nfor asked in [{asked}]: print(same(*asked), flush=True)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=900, check=True)
    assert done.stdout.split() == ["False"] * 2 * len(ENDLESS)


def test_after_an_endless_answer_the_next_ones_are_judged_as_before() -> None:
    pytest.importorskip("math_verify")
    assert same("x+1", "1+x", "math")
    assert not same("9^{9^{9^{9}}}", "7", "math")
    assert same("x+1", "1+x", "math")


def test_many_boxes_are_read_in_one_pass() -> None:
    """80,000 boxes that never close, and 20,000 that do: an answer of a model that repeats itself."""
    code = (
        "from assay.bench.policy.answers import final_answer as f;"
        "print(f(r'\\boxed{' * 80_000), f(r'\\boxed{3}' * 20_000), f(r'\\boxed{1} \\boxed{2'), f(r'\\boxed{\\frac{1}{2}}'))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=900, check=True)
    assert done.stdout.split() == ["None", "3", "1", r"\frac{1}{2}"]


def test_a_checker_that_does_not_start_is_an_error_and_not_a_wrong_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    judge = Judge()
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(AssayError, match="does not start"):
        judge("x", "y")


def test_an_interrupted_question_leaves_no_reply_for_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("math_verify")
    judge = Judge()
    assert judge("x+1", "1+x")
    ask = judge.ask

    def interrupted(line: str) -> str:
        assert judge.process is not None
        print(line, file=judge.process.stdin, flush=True)
        raise KeyboardInterrupt

    monkeypatch.setattr(judge, "ask", interrupted)
    with pytest.raises(KeyboardInterrupt):
        judge("x+1", "1+x")
    monkeypatch.setattr(judge, "ask", ask)
    assert not judge("x+1", "x-1")
    judge.stop()
