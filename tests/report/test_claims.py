"""The paper's claims, each driven to every judgement that it can come to by made studies."""

import pytest

from kdlib.report import claims
from kdlib.report.claims import CLAIMS
from kdlib.report.judging import CONTRADICTED, SUPPORTED, UNDECIDED, UNTESTABLE
from kdlib.report.paper import SAME
from kdlib.study.file import METHODS

RULES = {claim.name: claim.judge for claim in CLAIMS}
VERDICTS = {SUPPORTED, CONTRADICTED, UNDECIDED, UNTESTABLE}


def pair(teacher: str, first: dict, second: dict, methods=("projection", "bottleneck"), **both) -> list[dict]:
    """Two students of a teacher."""
    return [
        {"teacher": teacher, "method": method, **both, **own}
        for method, own in zip(methods, (first, second), strict=True)
    ]


def six(share: float, **own: dict) -> list[dict]:
    """BLIP's six students at 10 epochs, each with ``share`` but those named."""
    return [{"teacher": "blip", "method": name, "epochs": 10, "student": share} | own.get(name, {}) for name in METHODS]


def budgets(teacher: str, **shares: tuple) -> list[dict]:
    """method=(share at 5 epochs, share at 10); a third number is the luck at 10."""
    return [
        {"teacher": teacher, "method": method, "epochs": epochs, "student": share, "luck": luck}
        for method, (few, many, *other) in shares.items()
        for epochs, share, luck in ((5, few, 0), (10, many, other[0] if other else 0))
    ]


def heavy(attention: dict, times: float = 9.0) -> list[dict]:
    """A projection of 1 MB that has 0.8, and an attention student."""
    both = ("projection", "attention")
    return pair("clip", {}, {"student": 0.8, "student_mb": times} | attention, both)


def same(trained: float, untrained: float) -> dict:
    return {f"student {SAME}": trained, f"untrained {SAME}": untrained}


def timed(seconds: float) -> dict:
    """Four epochs of about so many seconds."""
    return {"epoch_seconds": " ".join(f"{seconds * share:.4f}" for share in (0.99, 1.0, 1.0, 1.01))}


def both(times: float) -> list[dict]:
    """A student of DINO and one of BEiT, whose calls take ``times`` as long."""
    parts = {"p10": 9.8, "p50": 10.0, "p90": 10.5}
    return [
        {"teacher": teacher} | {f"image_batch_32_{part}_ms": ms * slower for part, ms in parts.items()}
        for teacher, slower in (("dino", 1.0), ("beit", times))
    ]


NETS = {"resnet": (0.4, 0.8), "densenet": (0.5, 0.7)}
PIXELS = ("cbam", "resnet")
STUDIES = [
    ("simple methods suffice", SUPPORTED, pair("dino", {"student": 0.9}, {"student": 0.88})),
    ("simple methods suffice", CONTRADICTED, pair("dino", {"student": 0.9}, {"student": 0.4})),
    ("simple methods suffice", UNDECIDED, pair("dino", {"student": 0.86}, {"student": 0.9})),  # 0.956 of it, about
    ("simple methods suffice", UNDECIDED, pair("dino", {"student": 0.9}, {"student": 0.9}, untrained=0.9)),
    ("simple methods suffice", UNTESTABLE, pair("clip", {}, {})),
    ("simple methods suffice", UNTESTABLE, pair("dino", {}, {}, ("attention", "resnet"))),
    ("perfect accuracy", SUPPORTED, pair("dino", same(1.0, 0.1), same(1.0, 0.2))),
    ("perfect accuracy", CONTRADICTED, pair("dino", same(1.0, 1.0), same(1.0, 1.0))),  # the identity
    ("perfect accuracy", CONTRADICTED, pair("dino", same(1.0, 0.1), same(0.6, 0.1))),
    ("perfect accuracy", UNTESTABLE, pair("dino", same(None, None), same(None, None))),
    ("perfect accuracy", UNTESTABLE, [*pair("dino", same(None, None), same(None, None)), {"teacher": "clip"}]),
    ("CBAM best for BLIP", SUPPORTED, six(0.5, cbam={"student": 0.8})),
    ("CBAM best for BLIP", CONTRADICTED, six(0.5, cbam={"student": 0.8}, resnet={"student": 0.95})),
    ("CBAM best for BLIP", UNDECIDED, six(0.5, cbam={"student": 0.8}, resnet={"student": 0.8, "luck": 1})),
    ("CBAM best for BLIP", UNTESTABLE, [experiment for experiment in six(0.5) if experiment["method"] != "cbam"]),
    ("CBAM best for BLIP", UNTESTABLE, six(0.5, cbam={"student": 0.8})[1:]),  # not of the six, without a projection
    ("CBAM best for BLIP", UNTESTABLE, [one | {"teacher": "clip"} for one in six(0.5, cbam={"student": 0.8})]),
    ("CBAM best for BLIP", UNTESTABLE, [experiment | {"epochs": 5} for experiment in six(0.5, cbam={"student": 0.8})]),
    ("projection worst for BLIP", SUPPORTED, six(0.8, projection={"student": 0.5})),
    ("projection worst for BLIP", CONTRADICTED, six(0.8, projection={"student": 0.5}, cbam={"student": 0.2})),
    ("projection worst for BLIP", UNDECIDED, six(0.8, projection={"student": 0.5}, cbam={"student": 0.5, "luck": 1})),
    ("projection worst for BLIP", UNTESTABLE, six(0.8)[1:]),
    ("attention larger, no better", SUPPORTED, heavy({"student": 0.8})),
    ("attention larger, no better", SUPPORTED, heavy({"student": 0.4})),  # worse is no more accurate
    ("attention larger, no better", CONTRADICTED, heavy({"student": 0.95})),
    ("attention larger, no better", CONTRADICTED, heavy({"student": 0.8}, times=3.0)),
    ("attention larger, no better", UNDECIDED, heavy({"student": 0.8, "luck": 1})),
    ("attention larger, no better", UNTESTABLE, heavy({})[:1]),
    ("networks gain from epochs", SUPPORTED, budgets("clip", **NETS, cbam=(0.8, 0.8), projection=(0.8, 0.7))),
    ("networks gain from epochs", CONTRADICTED, budgets("clip", **NETS, cbam=(0.5, 0.8))),
    ("networks gain from epochs", CONTRADICTED, budgets("clip", **NETS | {"resnet": (0.8, 0.4)}, cbam=(0.8, 0.8))),
    ("networks gain from epochs", UNDECIDED, budgets("clip", **NETS | {"resnet": (0.8, 0.8)}, cbam=(0.8, 0.8))),
    ("networks gain from epochs", UNDECIDED, budgets("clip", **NETS, cbam=(0.8, 0.8, 1))),
    ("networks gain from epochs", UNTESTABLE, budgets("clip", resnet=(0.4, 0.8), cbam=(0.8, 0.8))),
    ("networks gain from epochs", UNTESTABLE, budgets("dino", **NETS, cbam=(0.8, 0.8))),
    ("networks gain from epochs", UNTESTABLE, [{"method": name, "epochs": 5} for name in METHODS]),
    ("attention peaks at 5", SUPPORTED, budgets("blip", attention=(0.8, 0.5))),
    ("attention peaks at 5", CONTRADICTED, budgets("blip", attention=(0.5, 0.8))),
    ("attention peaks at 5", UNDECIDED, budgets("blip", attention=(0.8, 0.8, 1))),
    ("attention peaks at 5", UNTESTABLE, budgets("blip", attention=(0.8, 0.5))[:1]),
    ("attention peaks at 5", UNTESTABLE, budgets("clip", attention=(0.8, 0.5))),
    ("pixels cost more", SUPPORTED, pair("clip", timed(1.0), timed(3.0), PIXELS)),
    ("pixels cost more", CONTRADICTED, pair("clip", timed(1.0), timed(0.5), PIXELS)),
    ("pixels cost more", CONTRADICTED, pair("clip", timed(1.58), timed(1.59), PIXELS)),  # not by a tenth
    ("pixels cost more", UNDECIDED, pair("clip", timed(1.0), {"epoch_seconds": "0.9 1.6 1.0 1.5"}, PIXELS)),
    ("pixels cost more", UNDECIDED, pair("clip", {"epoch_seconds": "1.0"}, {"epoch_seconds": "3.0"}, PIXELS)),
    ("pixels cost more", SUPPORTED, pair("clip", timed(1.0), timed(0.5) | {"train_images": 10}, PIXELS)),
    ("pixels cost more", UNTESTABLE, pair("clip", {}, {}, ("cbam", "projection"))),
    ("pixels cost more", UNTESTABLE, pair("clip", {}, {}, ("densenet", "resnet"))),
    ("DINO more efficient", SUPPORTED, both(2.0)),
    ("DINO more efficient", CONTRADICTED, both(0.5)),
    ("DINO more efficient", UNDECIDED, both(1.1)),
    ("DINO more efficient", UNTESTABLE, [{"teacher": "dino"}, {"teacher": "clip"}]),
    ("lightweight students deploy", SUPPORTED, pair("clip", {}, {"deployed_mb": 50.0}, ("projection", "resnet"))),
    ("lightweight students deploy", CONTRADICTED, pair("clip", {}, {"deployed_mb": 2.0}, ("projection", "resnet"))),
    ("lightweight students deploy", UNTESTABLE, pair("clip", {}, {}, ("attention", "resnet"))),
    ("lightweight students deploy", UNTESTABLE, pair("clip", {}, {})),
]  # fmt: skip
every_study = pytest.mark.parametrize(
    ("name", "verdict", "experiments"), STUDIES, ids=[f"{name}: {verdict}" for name, verdict, _ in STUDIES]
)


# ---------------------------------------------------------------- the list


def test_claims__are_at_least_nine_with_a_name_and_a_measurement_each():
    assert len(CLAIMS) >= 9 and len(RULES) == len(CLAIMS)
    assert len({claim.claim for claim in CLAIMS}) == len(CLAIMS)
    for claim in CLAIMS:
        assert claim.name and claim.claim and claim.where and claim.measure and callable(claim.judge)


def test_claims__each_can_be_supported_contradicted_and_untestable():
    """A rule with one answer is no test of a claim."""
    reached = {name: {verdict for claim, verdict, _ in STUDIES if claim == name} for name in RULES}
    assert all({SUPPORTED, CONTRADICTED, UNTESTABLE} <= verdicts for verdicts in reached.values()), reached


# ---------------------------------------------------------------- the rules


@every_study
def test_rule__comes_to_its_verdict(made_study, name, verdict, experiments):
    judgement = RULES[name](made_study(*experiments))
    assert judgement.judgement == verdict, judgement.found
    assert judgement.found and (verdict == UNTESTABLE or any(letter.isdigit() for letter in judgement.found))


@every_study
def test_rule__never_looks_at_variants(made_study, name, verdict, experiments):
    """Neither at variants beside, as bad, heavy and slow as can be, nor at variants alone."""
    other = {"student": 0.05, "untrained": 0.9, f"student {SAME}": 0.3, f"untrained {SAME}": 0.3, "student_mb": 99.0}
    cost = {"deployed_mb": 1.0, "epoch_seconds": "99 98", "image_batch_32_p50_ms": 99.0}
    variants = [experiment | other | cost | {"variant": "no_teacher"} for experiment in experiments]
    rule = RULES[name]
    assert rule(made_study(*experiments, *variants)) == rule(made_study(*experiments))
    assert rule(made_study(*variants)).judgement == UNTESTABLE


@every_study
def test_rule__missing_experiments_never_stop_it(made_study, name, verdict, experiments):
    """Each experiment in turn has run out of memory, and each but one."""
    for place in range(len(experiments)):
        for gone in ({place}, set(range(len(experiments))) - {place}):
            left = [
                experiment | ({"outcome": "out_of_memory"} if i in gone else {})
                for i, experiment in enumerate(experiments)
            ]
            assert RULES[name](made_study(*left)).judgement in VERDICTS


@every_study
def test_rule__experiments_on_other_images_never_stop_it(made_study, name, verdict, experiments):
    for place in range(len(experiments)):
        mixed = [
            experiment | ({"images_key": "other"} if i == place else {}) for i, experiment in enumerate(experiments)
        ]
        assert RULES[name](made_study(*mixed)).judgement in VERDICTS


def test_judge__nothing_finished_makes_every_claim_untestable(made_study):
    for outcome in ("absent", "error", "out_of_memory", "stale"):
        judged = claims.judge(made_study({"outcome": outcome}, {"teacher": "dino", "outcome": outcome}))
        assert set(judged.judgement) == {UNTESTABLE}, judged


def test_judge__has_a_line_a_claim_in_their_order(made_study):
    judged = claims.judge(made_study({}))
    assert judged.claim.tolist() == [claim.claim for claim in CLAIMS]
    assert list(judged) == ["claim", "in the paper", "what would show it", "found here", "judgement"]
    assert set(judged.judgement) <= VERDICTS and (judged["found here"] != "").all()


def test_judge__a_teacher_on_two_data_sets_is_judged_on_each_alone(made_study):
    """DINO's own results are the same whether or not it was run on captioned data too."""
    experiments = [{"teacher": teacher, "method": method, "epochs": epochs, "student": 0.9 - place / 20}
             for teacher in ("dino", "beit") for place, method in enumerate(METHODS) for epochs in (5, 10)]  # fmt: skip
    elsewhere = [
        experiment | {"dataset": "coco", "student": 0.2, "student_mb": 5.0, "store_seconds": 90.0}
        for experiment in experiments
    ]
    alone, both = made_study(*experiments), made_study(*experiments, *elsewhere)
    for name in ("simple methods suffice", "perfect accuracy", "DINO more efficient"):
        assert RULES[name](both) == RULES[name](alone), name
    assert claims.judge(both).judgement.isin(VERDICTS).all()


@pytest.mark.parametrize("name", ["CBAM best for BLIP", "attention peaks at 5"])
def test_judge__says_the_differences_it_judges_by(made_study, name):
    experiments = [*six(0.5, cbam={"student": 0.8}), *budgets("blip", attention=(0.7, 0.5))[:1]]
    found = RULES[name](made_study(*experiments)).found
    expected = {"CBAM best for BLIP": "cbam − projection = +0.300 [", "attention peaks at 5": "= -0.200 ["}[name]
    assert expected in found
