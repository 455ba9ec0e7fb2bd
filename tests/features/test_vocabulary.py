import numpy as np
import pytest

from kdlib import teachers
from kdlib.features.encoders import encode_captions
from kdlib.features.vocabulary import NO_WORD, Vocabulary, shuffled_words, token_ids

TEXTS = ["a large red star", "an unusual arrow-head above a red ring", "red"]


@pytest.fixture(scope="module", params=["clip", "blip"])
def teacher(request):
    return teachers.load(request.param, teachers.STANDIN, device="cpu")


def test_vocabulary__is_by_frequency_then_by_id_and_what_is_not_in_it_is_unknown():
    vocabulary = Vocabulary.of(np.array([7, 3, 9, 3, 7, 5]), np.array([3, 5]))
    assert vocabulary.tokens.tolist() == [3, 5, 7, 9] and vocabulary.size == 6
    ids = vocabulary.ids(np.array([[3, 5], [9, 7], [4, 400]]))
    assert ids.tolist() == [[2, 3], [5, 4], [1, 1]] and ids.dtype == np.int64


def test_token_ids__are_the_tokenizers_without_padding(teacher):
    read = token_ids(teacher, TEXTS)
    alone = [teacher.tokenizer(text)["input_ids"] for text in TEXTS]
    assert read["ids"].tolist() == [number for ids in alone for number in ids]
    stored = encode_captions(teacher, TEXTS, "float16", "text")
    assert stored["text_ids"].tolist() == read["ids"].tolist()
    assert stored["text_length"].tolist() == [len(ids) for ids in alone]


def test_token_ids__tokens_of_one_word_share_its_number(teacher):
    first = token_ids(teacher, TEXTS[:1])["words"]
    assert first[0] == first[-1] == NO_WORD and sorted(set(first[1:-1].tolist())) == [0, 1, 2, 3]
    unusual = token_ids(teacher, ["unusual"])["words"][1:-1]
    assert len(unusual) > 1 and set(unusual.tolist()) == {0}


def test_token_ids__a_tokenizer_that_knows_no_words_gives_none():
    class Own:
        max_tokens = 4

        @staticmethod
        def tokenizer(texts, **options):
            return {"input_ids": [[1]] * len(texts), "attention_mask": [[1]] * len(texts)}

    assert token_ids(Own(), ["a"]) == {}


def test_shuffled_words__keeps_the_words_and_the_ends_and_is_a_function_of_seed_and_text(teacher):
    ids, words = token_ids(teacher, TEXTS[1:2]).values()
    changed = [shuffled_words(ids, words, seed, text) for seed, text in ((0, 5), (0, 5), (0, 6), (1, 5))]
    assert all(sorted(one.tolist()) == sorted(ids.tolist()) for one in changed)
    assert all(one[0] == ids[0] and one[-1] == ids[-1] for one in changed)
    assert changed[0].tolist() == changed[1].tolist()
    assert len({tuple(one.tolist()) for one in [*changed, ids]}) == 4
    pieces = [tuple(ids[words == word].tolist()) for word in sorted(set(words.tolist()) - {NO_WORD})]
    text = " ".join(map(str, changed[0].tolist()))
    assert all(" ".join(map(str, piece)) in text for piece in pieces)  # the pieces of a word stay together


def test_shuffled_words__a_single_word_stays(teacher):
    ids, words = token_ids(teacher, ["red"]).values()
    assert shuffled_words(ids, words, 0, 0).tolist() == ids.tolist()
