"""A loudness target (EBU R128), measured by libebur128 while the audio is made: the extra [loudness].

Shapes: N samples.
"""

from __future__ import annotations

import importlib
import math
from typing import Annotated, Any

from torch import Tensor

from common.errors import UserError
from common.schema import Range

Loudness = Annotated[float, Range(least=-70, most=-5)]  # LUFS; EBU R128 has -23, streaming services about -14 to -16
CEILING = -1.0  # dBTP: the highest true peak that EBU R128 allows


class LoudnessMeter:
    """Measures the integrated loudness and the true peak of audio (N) that arrives in parts, in little memory."""

    def __init__(self, sample_rate: int) -> None:
        try:
            self.ebur128: Any = importlib.import_module("pyebur128")
        except ImportError as error:
            raise UserError(
                "loudness=LUFS needs the package pyebur128; run in the repository: pip install -e '.[loudness]'"
            ) from error
        mode = self.ebur128.MeasurementMode
        self.state: Any = self.ebur128.R128State(1, sample_rate, mode.MODE_I | mode.MODE_TRUE_PEAK)

    def add(self, audio: Tensor) -> None:
        samples = audio.detach().float().cpu().contiguous().numpy()
        self.state.add_frames(samples, len(samples))

    @property
    def loudness(self) -> float:
        """LUFS; -inf for silence, and for audio of less than 0.4 s, which has no integrated loudness."""
        return float(self.ebur128.get_loudness_global(self.state))

    def gain(self, target: float) -> tuple[float, float]:
        """The factor for the samples, and the loudness that it gives.

        It is `target`, or less if the true peak would exceed CEILING: nothing is clipped or compressed. Audio without a
        loudness stays as it is.
        """
        peak, loudness = float(self.ebur128.get_true_peak(self.state, 0)), self.loudness
        if not math.isfinite(loudness) or peak <= 0:
            return 1.0, loudness
        decibels = min(target - loudness, CEILING - 20 * math.log10(peak))
        return float(10 ** (decibels / 20)), loudness + decibels
