"""The network, its training, its package and its heat maps. The one place that imports torch when it is loaded."""

import os

# The OpenMP runtime in torch's wheel (GNU's) reads this once, when it is loaded, so it is set before torch can be. By
# default a thread that waits for the others spins, for milliseconds at a time; where other work holds a processor, the
# threads spin away the time that the last of them needs, and two take ten times as long as one. A thread that sleeps
# computes the same. What the caller has set stands.
if not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & os.environ.keys():
    os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
