"""Variants of a method's training beside its own, and their ranking: the parts of the notebook ablations."""

import pandas as pd

from kdlib.report import exhibits, style, tuning
from kdlib.report.scores import line_name, summary_of
from kdlib.report.study_page import verdict_table


def ranking(rows: pd.DataFrame) -> None:
    """The best variants, where the scores may choose: on dev."""
    try:
        frame = tuning.ranking(rows)
    except tuning.TuningError:
        print("Scored on test, to be reported: nothing may be chosen by these numbers, so there is no ranking.")
        return
    report = exhibits.report_of(rows)
    caption = "Share of the teacher's score on dev, best first: what the defaults follow"
    exhibits.table(frame, caption, report, "ranking", index=False)


def variants(rows: pd.DataFrame) -> None:
    """Each variant of a method's training beside the method's own, with the verdict; a table a teacher."""
    found = verdict_table(rows.study.iloc[0])
    good = rows[rows.outcome == "ok"]
    for (teacher, dataset), part in good.groupby(["teacher", "dataset"], sort=False):
        lines = []
        for (method, variant, epochs), group in part.groupby(["method", "variant", "epochs"], sort=False):
            own = part[(part.method == method) & (part.variant == "") & (part.epochs == epochs)]
            line = {
                "method": method,
                "training": variant.replace("_", " ") or "the method's own",
                "losses": group.objective.iloc[0],
                "epochs": epochs,
                "score": summary_of(group).text(3),
                "own − variant": "",
                "verdict on the own": "",
            }
            if variant and len(own) and found is not None:
                names = [line_name(method, name, epochs) for name in ("", variant)]
                match = found[(found.teacher == teacher) & (found.a == names[0]) & (found.b == names[1])]
                if len(match):
                    row = match.iloc[0]
                    line["own − variant"] = f"{row.difference:+.3f} [{row.low:+.3f}, {row.high:+.3f}]"
                    line["verdict on the own"] = row.verdict
            lines.append(line)
        name = style.score_name(part.headline.iloc[0])
        report = exhibits.report_of(rows)
        file = f"variants-{teacher}-{dataset}".replace(":", ".")
        exhibits.table(pd.DataFrame(lines), f"{teacher} on {dataset}, {name}", report, file, index=False, prose=True)
