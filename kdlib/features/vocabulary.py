"""Token ids for students with a text side of their own: from the teacher's tokenizer, in a smaller vocabulary."""

from dataclasses import dataclass

import numpy as np

from kdlib.seeding import derive

PADDING, UNKNOWN, FIRST = 0, 1, 2  # ids of a student's vocabulary; FIRST is the most frequent token
NO_WORD = -1  # the word of a token that starts or ends a text


def token_ids(teacher, texts: list[str]) -> dict[str, np.ndarray]:
    """The teacher's tokenizer on texts, concatenated without padding: ``ids`` int32 and ``words`` int16.

    ``words``: the index, within its text, of the word that each token belongs to; NO_WORD for tokens that start or end
    a text. An empty dict for a tokenizer of the user's own that has no ``word_ids``.
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

    The student's ids: 0 is padding, 1 a token that is not in ``tokens``, 2 + i the token ``tokens[i]``.
    """

    tokens: np.ndarray

    @classmethod
    def of(cls, *ids: np.ndarray) -> "Vocabulary":
        """The vocabulary of texts, given as arrays of the tokenizer's ids; of equal counts the lower id is first."""
        counts = np.bincount(np.concatenate([np.asarray(part) for part in ids]))
        present = np.flatnonzero(counts)
        return cls(present[np.argsort(-counts[present], kind="stable")])

    @property
    def size(self) -> int:
        """Rows of the student's embedding table: the tokens, padding and unknown."""
        return len(self.tokens) + FIRST

    def ids(self, of_tokenizer: np.ndarray) -> np.ndarray:
        """Ids of the teacher's tokenizer -> ids of a student, int64, of the same shape."""
        table = np.full(int(self.tokens.max()) + 2, UNKNOWN, dtype=np.int64)  # its last entry: above all that occur
        table[self.tokens] = np.arange(FIRST, self.size)
        return table[np.minimum(of_tokenizer, len(table) - 1)]


def shuffled_words(ids: np.ndarray, words: np.ndarray, seed: int, text: int) -> np.ndarray:
    """(L,) the ids of one text with its words in another order.

    The tokens of a word stay together; tokens that start or end the text stay in place. ``ids`` and ``words`` (L,) are
    those of :func:`token_ids`. The order is a function of ``seed`` and ``text``, the number of the text. A text of one
    word does not change.
    """
    spelled = words != NO_WORD
    names = np.unique(words[spelled])
    order = np.random.default_rng(derive(seed, "shuffled words", text)).permutation(names)
    result = ids.copy()
    result[spelled] = np.concatenate([ids[words == word] for word in order]) if len(order) else ids[spelled]
    return result
