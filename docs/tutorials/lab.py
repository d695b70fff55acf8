# %% [markdown]
# # A tour of the lab
#
# The lab runs the same problem through cipherfleet and through other systems, in one process and without
# encryption, and lets you attack what an observer has seen. This tour takes half a minute.
#
# It needs the extra `[lab]`. Read it as a page, run it with `python docs/tutorials/lab.py`, or open
# `lab.ipynb`, which is made from it, in Jupyter.
#
# ## The problem
#
# Fifty motes of the Intel Berkeley lab hold 144 readings each. Together they fit humidity as a function of
# temperature and of the hour of the day: four parameters. Each mote exchanges messages with its four nearest.

# %%
import matplotlib.pyplot as plt
import numpy as np

from cipherfleet_lab.attacks.command import AttackOptions, attack_one
from cipherfleet_lab.baselines.descent import Dsgd
from cipherfleet_lab.cipherfleet import Cipherfleet
from cipherfleet_lab.measures import disagreement, relative_error
from cipherfleet_lab.problems import intel_lab
from cipherfleet_node.settings.sections import Algorithm, Stepsize

problem = intel_lab()
print(f"{problem.nodes} nodes, {len(problem.edges)} edges, {problem.dimension} parameters")
print("the centralised answer:", np.round(problem.optimum, 4))

# %% [markdown]
# ## The exact method beside plain descent
#
# A system is an object with `run(problem, rounds, seed)`. Its log has every estimate and everything that each
# observer received. `Cipherfleet` computes with the integers that ciphertexts would contain. DSGD sends its
# estimates in clear.

# %%
ROUNDS = 300
systems = {
    "exact method": Cipherfleet(algorithm=Algorithm(rounds=ROUNDS)),
    "DSGD": Dsgd(Stepsize(initial=0.5, decay=0.05)),
}
logs = {name: system.run(problem, ROUNDS, seed=1) for name, system in systems.items()}
errors = {name: relative_error(log, problem) for name, log in logs.items()}
for name, error in errors.items():
    print(f"{name:<14}", "  ".join(f"{k} rounds: {error[k]:.1e}" for k in (100, 200, 300)))

# %%
figure, axes = plt.subplots(figsize=(7, 4))
for name, error in errors.items():
    axes.semilogy(error, label=name)
axes.set(xlabel="round", ylabel="relative error", title="Fifty motes, least squares")
_ = axes.legend()
# %% [markdown]
# The exact method falls by the same factor in every round. Descent with falling stepsizes slows down.
#
# ## Do the nodes agree?
#
# The distance of the nodes from their mean, in the units of the parameters.

# %%
for name, log in logs.items():
    print(f"{name:<14} disagreement after {ROUNDS} rounds: {disagreement(log)[-1]:.1e}")

# %% [markdown]
# ## What a mote gains
#
# Mote 1 fits its own first six hours alone, and then predicts its whole three days. The fleet's answer predicts
# the same readings. The error is in per cent of relative humidity.

# %%
from cipherfleet_deploy.data_folders import example_folder
from cipherfleet_lab.problems import lab_readings

phi, targets = lab_readings(example_folder("intel_lab") / "intel_lab.csv")
alone, *_ = np.linalg.lstsq(phi[0, :12], targets[0, :12], rcond=None)
agreed = logs["exact method"].estimates[-1].mean(axis=0)
for name, parameters in (("alone", alone), ("the fleet", agreed)):
    wrong = 10 * (phi[0] @ parameters - targets[0])  # the target's scale is 10 % of humidity
    print(f"{name:<10} root mean square error {np.sqrt(np.mean(wrong**2)):.1f} %RH")

# %% [markdown]
# ## What an observer learns
#
# An eavesdropper hears everything that is sent. In DSGD each message is an estimate, and two of them in a row give
# a gradient. In cipherfleet the messages are ciphertexts, so this attack has nothing to start from. Neighbours see
# more: two of them compute the estimate of a node from the answers of the pairwise exchange, and not from the sums
# of the sealed one. All neighbours of a node together learn its gradient at the optimum (`telescoping`);
# `algorithm.shield: linear` is the answer to that.

# %%
for name, system in (
    ("observer", "dsgd"),
    ("triangulation-two", "pairwise"),
    ("triangulation-two", "sealed"),
    ("telescoping", "pairwise-exact"),
):
    options = AttackOptions(
        on=system, off=(), graph="chord", trials=3, seed=1, key_bits=512, quick=False, out=None
    )
    found = attack_one(name, options)
    print(f"{name:<18} on {system:<14} by {found.adversary:<16} {found.verdict}")

# %% [markdown]
# ## Where to go on
#
# `cipherfleet figures --out DIR` makes all figures of the [results](../results/README.md), and
# `cipherfleet attack all` the [table of attacks](attacks.md). A system of your own needs one method: see
# [lab/README.md](../../lab/README.md).
