from tau_bench.envs.base import Env as Env
