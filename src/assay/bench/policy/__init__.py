"""Reasoning benchmarks, and the answer checkers that RL shares with them.

How a text becomes right or wrong (`answers.correct`), and which file does which step:

1. text -> marked answer. `answers` takes the last of <answer> tags, \\boxed{}, "####", "the answer is" and the like;
   `conclusions` reads a text that marks nothing by its last sentence.
2. marked answer -> final answer. `around` says whether what stands before and behind it leaves it as it is: words that lead
   to it, its sentence, later sentences that take it back or put another beside it. What is not known to leave it takes it
   away: an allow-list, for a list of all words that deny, hedge or change an answer would never be whole.
3. final answer -> kind. The question says what is compared: number, choice, text or math.
4. kind -> value. A number: `quantities`, one number with its unit and what is counted, read by `arithmetic` (exact values),
   `words` (number words, units) and `beside` (which words may stand beside it: the vocabulary of all rules). A choice: one
   letter, `letters`. A text: its words in one spelling, `texts`. A formula: its lists, tuples, equations, `formulas`; sets
   of numbers, `intervals`. All of them see one writing of Unicode and LaTeX, `characters`.
5. value -> right or wrong. Whole numbers exactly, others to six digits; units where both have one; what is left of formulas
   by math-verify and sympy in a process of its own with a time limit, `equivalent`.

Each step may refuse: a text that can be read in two ways, that hedges, or that is not understood has no value, and is never
right. The tables of pairs with a person's verdict (tests/unit/answer_pairs*, benchmarks/answer_tables.py) say how often that
differs from a person.
"""
