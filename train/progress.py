"""How far a run has come."""

from torch import Tensor


class Progress:
    """Steps and seconds so far, the sums of losses that are not logged yet, and the lowest logged one: all that the
    loop itself keeps, saved with the state."""

    def __init__(self):
        self.step = 0
        self.seconds = 0.0
        self.totals: dict[str, Tensor] = {}
        self.count = 0
        self.lowest: float | None = None

    def add(self, losses: dict[str, Tensor]) -> None:
        self.count += 1
        for name, value in losses.items():
            self.totals[name] = self.totals.get(name, 0) + value

    def take_means(self) -> dict[str, float]:
        means = {name: float(total) / self.count for name, total in self.totals.items()}
        self.totals, self.count = {}, 0
        return means

    def state_dict(self) -> dict:
        totals = {name: total.cpu() for name, total in self.totals.items()}
        return {
            "step": self.step, "seconds": self.seconds,
            "totals": totals, "count": self.count, "lowest": self.lowest,
        }  # fmt: skip

    def load_state_dict(self, state: dict) -> None:
        self.step, self.seconds = state["step"], state["seconds"]
        # Older states end with a logged step.
        self.totals, self.count = state.get("totals", {}), state.get("count", 0)
        self.lowest = state.get("lowest")
