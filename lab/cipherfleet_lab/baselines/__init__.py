"""Baselines: other systems for the same problems, to measure the cost of encryption and hiding.

w_ij are Metropolis weights with w_ii = 1 - sum_j w_ij, g_i is a stochastic gradient of f_i at x_i,
lambda_k is the mean stepsize. Gradients have a random stream of their own, so that one seed gives
all systems the same stochastic gradients.
"""

from .adaptive import AdaGrad, PlainMetric, RmsProp
from .descent import Consensus, Dsgd
from .differential_privacy import DifferentialPrivacy
from .extra import Extra
from .nids import Nids
from .obfuscation import Obfuscation
from .push_sum import PushSum
from .ring import PaillierRing
from .ternary import Ternary
from .tracking import GradientTracking

__all__ = [
    "AdaGrad",
    "Consensus",
    "DifferentialPrivacy",
    "Dsgd",
    "Extra",
    "GradientTracking",
    "Nids",
    "Obfuscation",
    "PaillierRing",
    "PlainMetric",
    "PushSum",
    "RmsProp",
    "Ternary",
]
