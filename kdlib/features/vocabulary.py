"""Texts as token ids, for students with a text side of their own: the ids, the words that they spell, a vocabulary."""

from dataclasses import dataclass

import numpy as np

from kdlib.seeding import derive

PADDING, UNKNOWN, FIRST = 0, 1, 2  # ids of a student's vocabulary; FIRST is the most frequent token
NO_WORD = -1  # the word of a token that starts or ends a text


def token_ids(teacher, texts: list[str]) -> dict[str, np.ndarray]:
    """What the teacher's tokenizer makes of texts, one after the other: ``ids`` int32, and ``words`` int16.

    ``words`` counts the words of a text that its tokens belong to. Nothing where the tokenizer, one of the user's own,
    does not say that.
    """
    read = teacher.tokenizer(texts, padding=True, truncation=True, max_length=teacher.max_tokens)
    if not hasattr(read, "word_ids"):
        return {}
    mask = np.array(read["attention_mask"], dtype=bool)
    words = [[NO_WORD if word is None else word for word in read.word_ids(row)] for row in range(len(texts))]
    return {
        "ids": np.array(read["input_ids"], dtype=np.int32)[mask],
        "words": np.array(words, dtype=np.int16)[mask],
    }


@dataclass(frozen=True)
class Vocabulary:
    """Tokens that occur in training texts, the most frequent first: ``tokens`` (V,) are ids of the teacher's tokenizer.

    A student reads 0 for padding, 1 for a token that does not occur, then 2 + the place in ``tokens``.
    """

    tokens: np.ndarray

    @classmethod
    def of(cls, *ids: np.ndarray) -> "Vocabulary":
        """The vocabulary of training texts, given as arrays of the tokenizer's ids; of equal counts the lower id."""
        counts = np.bincount(np.concatenate([np.asarray(part) for part in ids]))
        present = np.flatnonzero(counts)
        return cls(present[np.argsort(-counts[present], kind="stable")])

    @property
    def size(self) -> int:
        """Rows of a table of embeddings: the tokens, padding and unknown."""
        return len(self.tokens) + FIRST

    def ids(self, of_tokenizer: np.ndarray) -> np.ndarray:
        """Ids of the teacher's tokenizer -> ids of a student, int64, of the same shape."""
        table = np.full(int(self.tokens.max()) + 2, UNKNOWN, dtype=np.int64)  # its last entry: above all that occur
        table[self.tokens] = np.arange(FIRST, self.size)
        return table[np.minimum(of_tokenizer, len(table) - 1)]


def shuffled_words(ids: np.ndarray, words: np.ndarray, seed: int, text: int) -> np.ndarray:
    """One text with its words in another order: its ids, those of a word together, first and last token in place.

    ``ids`` and ``words`` (L,) as :func:`token_ids` gives them; the order is a function of ``seed`` and ``text``, the
    number of the text. A text of one word, or of equal words, stays as it is.
    """
    spelled = words != NO_WORD
    names = np.unique(words[spelled])
    order = np.random.default_rng(derive(seed, "shuffled words", text)).permutation(names)
    result = ids.copy()
    result[spelled] = np.concatenate([ids[words == word] for word in order]) if len(order) else ids[spelled]
    return result
