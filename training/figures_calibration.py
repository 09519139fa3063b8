"""How far the scores can be taken as probabilities."""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt
import plotly.graph_objects as go

from training.calibration import calibration_bins, chance_error, expected_calibration_error
from training.evaluate import Evaluation
from training.figures import GREY, Chart, candidate_line, counted, percent, spoken, style, whole, wilson

LOWEST: Final = 1e-5  # shares beyond are drawn here
HIGHEST: Final = 0.999
TICKS: Final = (0.0001, 0.001, 0.01, 0.1, 0.5, 0.9, 0.99)

Floats = npt.NDArray[np.float64]
Labels = npt.NDArray[np.bool_]


def log_odds(share: Floats) -> Floats:
    """The log odds of shares, in the order given; those beyond ``LOWEST`` and ``HIGHEST`` lie there."""
    inside = np.clip(share, LOWEST, HIGHEST)
    return np.log(inside / (1 - inside))


PROBABILITIES: Final = {"tickvals": log_odds(np.array(TICKS)), "ticktext": [f"{tick:g}" for tick in TICKS]}


def calibration(evaluation: Evaluation) -> Chart:
    """Predicted probability against the observed share of frauds, both as log odds, with the champion's intervals."""
    figure = go.Figure()
    lowest = []
    for position, (name, score) in enumerate(evaluation.candidates.items()):
        predicted, rows, frauds = bins(score, evaluation.y)
        shares, ends = frauds / rows, np.array([wilson(*of_bin) for of_bin in zip(frauds, rows, strict=True)])
        error = expected_calibration_error(score, evaluation.y)
        line = candidate_line(position, f"{spoken(name)}, error {error:.5f}", log_odds(predicted), log_odds(shares))
        line.update(mode="lines+markers")
        if name == evaluation.champion:
            up, down = log_odds(ends[:, 1]) - line.y, line.y - log_odds(ends[:, 0])
            line.update(error_y={"type": "data", "symmetric": False, "array": up, "arrayminus": down, "thickness": 1.2})
            lowest.append(float(log_odds(ends[:, 0]).min()))
        detail = zip(predicted, shares, frauds, rows, strict=True)
        line.update(
            customdata=[
                f"predicted {p:.3g}, observed {o:.3g} ({whole(f)} of {counted(n, 'row')})" for p, o, f, n in detail
            ]
        )
        figure.add_trace(line.update(hovertemplate="%{customdata}"))
        lowest += [float(line.x.min()), float(line.y.min())]
    axis = [min(lowest) - 0.4, float(log_odds(np.array([HIGHEST]))[0]) + 0.4]
    ideal = {"x": axis, "y": axis, "mode": "lines", "line": {"color": GREY, "dash": "dot", "width": 1}}
    figure.add_scatter(**ideal, showlegend=False, hoverinfo="skip")
    style(figure, 460)
    ticks = {**PROBABILITIES, "range": axis}
    figure.update_xaxes(title_text="predicted probability (mean of the bin, log odds)", **ticks)
    figure.update_yaxes(title_text="observed share of frauds (log odds)", **ticks)
    score, y = evaluation.candidates[evaluation.champion], evaluation.y
    reading = (
        "A score is a probability when the points lie on the dotted line: of the transactions scored 0.8, four in five "
        f"are frauds. {spoken(evaluation.champion)} predicts {whole(score.sum())} frauds, and there are "
        f"{whole(y.sum())} ({percent(y.mean())}). Its expected calibration error, the distance from the line averaged "
        f"over all rows, is {expected_calibration_error(score, y):.5f}; scores that are exactly right would show about "
        f"{chance_error(score):.5f} by chance on as many rows. The Brier score is {np.mean((score - y) ** 2):.5f}. "
        "Every bin expects as many frauds as the others; bars are 95 % intervals, and what lies beyond an axis is "
        "drawn at its end."
    )
    return Chart("calibration", "Calibration", reading, figure)


def bins(score: Floats, y: Labels) -> tuple[Floats, Floats, Floats]:
    """Mean score, rows and frauds, [b] each, of the bins of ``calibration_bins`` that are not empty."""
    of_row = calibration_bins(score)
    rows = np.bincount(of_row)
    kept = rows > 0
    predicted = np.bincount(of_row, score)[kept] / rows[kept]
    return predicted, rows[kept].astype(np.float64), np.bincount(of_row, y)[kept].astype(np.float64)
