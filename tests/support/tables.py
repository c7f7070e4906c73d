"""Tables without configurations, code and data."""


class Inputs:
    """Arguments are all that a result depends on, and one version of the code."""

    def __init__(self, code="1"):
        self.code = code

    def fit(self, args):
        return {"args": sorted(args), "code": self.code}

    def evaluate(self, args, fit):
        return {"args": sorted(args)}
