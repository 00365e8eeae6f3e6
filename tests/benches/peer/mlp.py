"""scikit-learn's MLPClassifier on the forge's digits: same samples, split, architecture, steps and rate, five seeds.

    python mlp.py DIGITS HIDDEN EPOCHS
"""

import json
import sys
import time
import warnings

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPClassifier


def main() -> None:
    path, hidden, epochs = sys.argv[1], tuple(int(width) for width in sys.argv[2].split(",")), int(sys.argv[3])
    lines = open(path, encoding="ascii").read().splitlines()
    y = np.array([int(line.split()[0]) for line in lines])
    x = np.array([[int(pixel, 17) / 16 for pixel in line.split()[1]] for line in lines], dtype=np.float32)
    held_out = np.arange(len(y)) % 4 == 3
    # It ends after the epochs asked for, and says so every time.
    warnings.simplefilter("ignore", ConvergenceWarning)
    for seed in range(1, 6):
        net = MLPClassifier(
            hidden, batch_size=64, learning_rate_init=1e-3, alpha=0.0, max_iter=epochs, tol=0.0, n_iter_no_change=epochs, random_state=seed
        )
        before = time.process_time()
        net.fit(x[~held_out], y[~held_out])
        seconds = time.process_time() - before
        error = 1 - float((net.predict(x[held_out]) == y[held_out]).mean())
        print(json.dumps({"seed": seed, "error": round(error, 5), "cpu_s": round(seconds, 2)}))


if __name__ == "__main__":
    main()
