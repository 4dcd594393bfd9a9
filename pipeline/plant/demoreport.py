"""The demo's verdict: for people as a table, for machines as JSON."""

from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from pipeline.plant import demolivesview
from pipeline.plant.demo import Demo, Result
from pipeline.plant.demoscene import Finding, findings, quantiles_ms
from pipeline.plant.demoview import alert_text


def problems(result: Result) -> list[str]:
    """Return what went wrong, one line each; empty if the demo is a success."""
    found, false = findings(result.scene)
    out = [f"{f.fault.kind} on {f.fault.asset} was not found" for f in found if f.alert is None]
    out += [f"false alarm on {a.asset}: {a.why}" for a in false]
    lives = result.scene.lives
    out += [f"{asset} has no answer" for asset in lives.flights if asset not in lives.answers]
    if not result.law.holds:
        out.append("the conservation law does not hold: see its numbers")
    if result.worker_exit != 0:
        out.append(f"the worker ended with exit code {result.worker_exit}")
    return out


def print_verdict(console: Console, result: Result) -> None:
    """Print the faults, the turbofans' lives, the law and the verdict."""
    found, _ = findings(result.scene)
    console.print(_table(found))
    console.print()
    if result.scene.lives.flights:
        console.print(_lives_table(result))
        for line in error_lines(result):
            console.print(line, highlight=False, soft_wrap=True)
        console.print()
    for line in result.law.lines():
        console.print(line, highlight=False, soft_wrap=True)
    for what, seconds in (("score", result.scene.score_s), ("alert", result.scene.alert_s)):
        ms = quantiles_ms(seconds)
        if ms is not None:
            line = f"latency  frame to {what} p50 {ms[0]:.0f} ms, p99 {ms[1]:.0f} ms, over {len(seconds):,}"
            console.print(line, highlight=False, soft_wrap=True)
    console.print()
    wrong = problems(result)
    for line in wrong:
        console.print(Text(line, "red"), soft_wrap=True)
    for alert in findings(result.scene)[1]:
        console.print(alert_text(alert), soft_wrap=True)
    verdict = f"{len(wrong)} problems" if wrong else "every planted fault found, no false alarm, nothing lost"
    console.print(Text(f"{verdict} ({result.seconds:.0f} s)", "bold red" if wrong else "bold green"), soft_wrap=True)


def _table(found: list[Finding]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("planted fault", "asset"):
        table.add_column(name, no_wrap=True)
    for name in ("began", "raised", "delay"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("first channel named", no_wrap=True)
    for f in found:
        raised = "-" if f.raised_s is None else f"{f.raised_s:.1f} s"
        delay = "-" if f.delay_s is None else f"{f.delay_s:.1f} s"
        channel = Text(f.named or "-", "" if f.named == f.fault.first_channel else "yellow")
        table.add_row(f.fault.kind, f.fault.asset, f"{f.fault.onset_s:.1f} s", raised, delay, channel)
    return table


def _lives_table(result: Result) -> Table:
    lives = result.scene.lives
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("turbofan", no_wrap=True)
    table.add_column("flown", justify="right", no_wrap=True)
    table.add_column("cycles left (80 % interval)", no_wrap=True)
    table.add_column("in truth", justify="right", no_wrap=True)
    for asset in lives.flights:
        answer = lives.answers.get(asset)
        flown, truth = ("-", "-") if answer is None else (
            f"{answer.flight}", f"{lives.left_at(asset, result.left[asset]):.0f}")
        table.add_row(asset, flown, demolivesview.said(lives, asset), truth)
    return table


def error_lines(result: Result) -> list[str]:
    """Say how far off the fleet's answers were, by labels that nothing else has seen."""
    lives = result.scene.lives
    error = lives.error(result.left)
    if error is None:
        return ["no engine has an answer that counts"]
    of = f"{error.answered} of {len(lives.flights)}"
    return [
        f"error    {of} answered: RMSE {error.rmse:.1f} cycles, truth capped at {lives.cap:.0f} "
        f"({error.raw:.1f} uncapped)",
        f"interval {error.held} of {error.answered} hold the truth, 8 of 10 are meant to",
    ]


def report(demo: Demo, result: Result, broker: str) -> dict[str, Any]:
    """Return everything that the verdict rests on, as JSON's types. Times: seconds after the plant's start."""
    found, false = findings(result.scene)
    wrong, lives = problems(result), result.scene.lives
    error = lives.error(result.left)
    return {
        "ok": not wrong, "problems": wrong, "run": demo.run, "broker": broker, "seed": demo.plant.seed,
        "assets": demo.plant.assets, "seconds": round(result.seconds, 2), "worker_exit": result.worker_exit,
        "faults": [
            {
                "kind": f.fault.kind, "asset": f.fault.asset, "began_s": f.fault.onset_s, "raised_s": f.raised_s,
                "delay_s": f.delay_s, "channel_expected": f.fault.first_channel, "channel_named": f.named,
                "alert_id": f.alert.alert_id if f.alert else None, "why": f.alert.why if f.alert else None,
            }
            for f in found
        ],
        "engines": [
            {
                "asset": asset, "flown": a.flight, "unknown": a.unknown, "rul": a.life[0], "rul_lo": a.life[1],
                "rul_hi": a.life[3], "left": lives.left_at(asset, result.left[asset]),
            }
            for asset in lives.flights if (a := lives.answers.get(asset)) is not None
        ],
        "engines_error": None if error is None else {
            "answered": error.answered, "rmse_capped": error.rmse, "rmse_raw": error.raw, "held": error.held,
            "cap": lives.cap},
        "false_alarms": [{"asset": a.asset, "rule": a.rule, "why": a.why} for a in false],
        "law": {"holds": result.law.holds, "published": result.law.published, "at_end": result.law.at_end,
                **result.law.counts},
        "frame_to_score_ms": _quantiles(result.scene.score_s), "frame_to_alert_ms": _quantiles(result.scene.alert_s),
    }


def _quantiles(seconds: Any) -> dict[str, float | int] | None:
    found = quantiles_ms(seconds)
    return {"p50": round(found[0], 2), "p99": round(found[1], 2), "count": len(seconds)} if found else None
