"""What alternatives find when they go where outcomes still surprise (`eexp branch --add`), and when every state gets K.

    python benchmarks/allocation.py [--env house --env textcraft] [--from admissible] [-m MODEL] [-n 100]

For each K, `eexp branch -k K | eexp rollout` executes K alternatives in every state. The other way begins with one in
every state. Then `eexp branch --add | eexp rollout` adds as many as there are states, again and again, until as many
have been executed as with K. Counted are the different outcomes in each state, without refusals and without the
expert's own. Every row has the mean over seeds and, of the difference, its standard error.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from eexp.records.outcomes import same_as_expert
from eexp.records.record import expert_outcome


def eexp(*args: object) -> None:
    subprocess.run([sys.executable, "-m", "eexp", *map(str, args), "-q"], check=True)


def read(file: Path) -> list[dict]:
    return [json.loads(line) for line in file.read_bytes().splitlines()]


def found(trajectories: list[dict]) -> tuple[int, int]:
    """Return the number of executed alternatives, and of the different new outcomes that they led to."""
    executed = new = 0
    for trajectory in trajectories:
        for i, step in enumerate(trajectory["steps"]):
            expert = expert_outcome(trajectory, i)
            outcomes = [(a, a["outcome"]) for a in step.get("alternatives") or [] if a.get("outcome")]
            executed += len(outcomes)
            new += len(
                {
                    (outcome["observation"], outcome["done"])
                    for a, outcome in outcomes
                    if outcome["valid"] and not same_as_expert(step, expert, a)
                }
            )
    return executed, new


class Ways:
    """Alternatives of one environment from one source, by one seed."""

    def __init__(self, expert: Path, directory: Path, options: list[object], seed: int):
        self.expert, self.directory, self.options = expert, directory, [*options, "--seed", seed]

    def executed(self, file: Path, *options: object) -> list[dict]:
        """Branch `file` with the options, execute the result, and return it."""
        branched, out = self.directory / "branched", self.directory / "out"
        eexp("branch", *self.options, *options, file, "-o", branched)
        eexp("rollout", branched, "-o", out)
        return read(out)

    def uniform(self, k: int) -> tuple[int, int]:
        return found(self.executed(self.expert, "-k", k))

    def adaptive(self, costs: list[int], states: int) -> list[tuple[int, int]]:
        """Return (executed, found) where each of the costs is reached."""
        results = []
        trajectories = self.executed(self.expert, "-k", 1)
        for cost in costs:
            while (missing := cost - found(trajectories)[0]) > 0:
                file = self.directory / "known"
                file.write_text("".join(json.dumps(trajectory) + "\n" for trajectory in trajectories))
                before = found(trajectories)[0]
                trajectories = self.executed(file, "--add", min(missing, states))
                if found(trajectories)[0] == before:
                    break
            results.append(found(trajectories))
        return results


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--env", action="append")
    parser.add_argument("--from", dest="source", default="admissible")
    parser.add_argument("-m", dest="model")
    parser.add_argument("-n", dest="number", type=int, default=100)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("-k", dest="ks", type=int, nargs="+", default=[2, 4, 8])
    a = parser.parse_args()
    print("$ python benchmarks/allocation.py", *sys.argv[1:])
    print(f"{'':24}  K   executed   new outcomes: K each   by --add   difference")
    options: list[object] = [
        "--from",
        a.source,
        *(("-m", a.model, "--threads", 1, "--no-only-admissible") if a.model else ()),
    ]
    for env in a.env or ["house", "textcraft"]:
        rows: dict[int, list[tuple[int, int, int, int]]] = {k: [] for k in a.ks}
        with tempfile.TemporaryDirectory() as directory:
            expert = Path(directory) / "expert"
            eexp("expert", env, "-n", a.number, "--admissible", "all", "-o", expert)
            states = sum(len(trajectory["steps"]) for trajectory in read(expert))
            for seed in range(a.seeds):
                ways = Ways(expert, Path(directory), options, seed)
                uniform = [ways.uniform(k) for k in a.ks]
                adaptive = ways.adaptive([cost for cost, _ in uniform], states)
                for k, one, other in zip(a.ks, uniform, adaptive):
                    rows[k].append((*one, *other))
        for k, results in rows.items():
            cost, new, own_cost, own_new = (statistics.mean(column) for column in zip(*results))
            gains = [100 * (r[3] / r[1] - 1) for r in results]
            error = statistics.stdev(gains) / len(gains) ** 0.5 if len(gains) > 1 else float("nan")
            spent = f"{cost:.0f}" if own_cost == cost else f"{cost:.0f} ({own_cost:.0f})"
            print(
                f"{env:24} {k:2} {spent:>10} {new:22.0f} {own_new:10.0f}   "
                f"{statistics.mean(gains):+.1f} % (s.e. {error:.1f})",
                flush=True,
            )


if __name__ == "__main__":
    main()
