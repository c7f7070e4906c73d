"""Is the minimiser of an objective the true score, and how far is a learned score from it?"""

from scorelight.certification.certify import Certificate, certify
from scorelight.certification.score_error import ScoreError, score_error

__all__ = ["Certificate", "ScoreError", "certify", "score_error"]
