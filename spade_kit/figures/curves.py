"""Plotly figures that are also pictures, for pages that do not run Plotly, such as an exported notebook."""

from __future__ import annotations

from base64 import b64encode

import plotly.graph_objects as go
from matplotlib.figure import Figure

from spade_kit.figures.style import WIDTH, as_png, open_up, small_print


class Curves(go.Figure):
    """Lines and marks in panels side by side; the last annotation is the small print."""

    def _ipython_display_(self) -> None:
        from IPython.display import display

        if bundle := self._repr_mimebundle_():
            display(bundle | {"image/png": b64encode(as_png(self.draw_still())).decode()}, raw=True)
        else:  # outside notebooks, where Plotly opens a browser
            super()._ipython_display_()

    def draw_still(self) -> Figure:
        """The same curves with Matplotlib."""
        *titles, said = self.layout.annotations
        still = Figure(figsize=(WIDTH, 4.2), layout="constrained")
        panels = still.subplots(1, len(titles))
        for trace in self.data:
            marks = trace.mode == "markers"
            style = {"marker": "o", "mfc": "white", "mew": 2, "ls": "none"} if marks else {}
            colour = trace.marker.line.color if marks else trace.line.color
            panels[int(trace.xaxis[1:] or 1) - 1].plot(trace.x, trace.y, color=colour, label=trace.name, **style)
        for number, (panel, title) in enumerate(zip(panels, titles), start=1):
            x, y = (self.layout[f"{axis}axis{number}"] for axis in "xy")
            panel.set_title(title.text, fontsize=10)
            panel.set(xlabel=x.title.text, ylabel=y.title.text, xlim=x.range, ylim=y.range)
            if panel.lines:
                panel.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), fontsize=8, frameon=False)
            open_up(panel)
        return small_print(still, said.text)
