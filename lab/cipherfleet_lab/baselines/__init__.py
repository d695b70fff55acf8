"""Plaintext systems that solve the same problems: what encryption and hiding cost is read off them.

w_ij are Metropolis weights with w_ii = 1 - sum_j w_ij, g_i is a stochastic gradient of f_i at x_i,
lambda_k the mean stepsize. One seed gives every system the same stochastic gradients' draws, from a
stream of their own.
"""

from .adaptive import AdaGrad, RmsProp
from .descent import Consensus, Dsgd
from .differential_privacy import DifferentialPrivacy
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
    "GradientTracking",
    "Obfuscation",
    "PaillierRing",
    "PushSum",
    "RmsProp",
    "Ternary",
]
