from tau_bench.envs.base import Env


class LibraryEnv(Env):
    pass
